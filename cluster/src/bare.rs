//! A node's session without the rest of a member: no log, no view on disk, no server. Thousands of
//! them fit into one process, for load tests and simulations.

use std::pin::Pin;

use api::{
    MESSAGE_LIMIT, encode,
    proto::{Json, dispatcher_client::DispatcherClient},
};
use futures::{Stream, StreamExt};
use model::{Level, NodeId};
use tokio::net::TcpListener;

use crate::{
    ClusterError, JoinOptions, LinkError, Token, Upward,
    identity::Identity,
    joining,
    link::{Links, Target},
    pki, server, tls,
};

/// What a leader sends.
type Messages = Pin<Box<dyn Stream<Item = Json> + Send>>;

/// A node that has joined a cluster and only listens.
pub struct Bare {
    node: NodeId,
    links: Links,
    leader: Target,
    /// Keeps the address that it has told the cluster.
    _listener: TcpListener,
}

impl Bare {
    /// Joins the cluster of the token, at the manager that leads.
    ///
    /// # Errors
    /// The token, the address, or the cluster's refusal.
    pub async fn join(options: JoinOptions, known: Level) -> Result<Self, ClusterError> {
        let token: Token = options.token.parse()?;
        let listener = server::listen(([127, 0, 0, 1], 0).into())?;
        let own = pki::new_request()?;
        let answer = joining::ask_to_join(&token, &options, &listener, own.request, known).await?;
        let identity = Identity::joined(answer, own.key)?;
        Ok(Self {
            node: identity.node,
            links: Links::new(tls::client(&identity)?),
            leader: Target {
                address: options.manager,
                node: None,
            },
            _listener: listener,
        })
    }

    /// Its id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Opens a session. What is sent begins with [`Upward::Hello`]; what comes is
    /// [`crate::Downward`] as it travels.
    ///
    /// # Errors
    /// The leader does not answer or refuses.
    pub async fn session(
        &self,
        upward: impl Stream<Item = Upward> + Send + 'static,
    ) -> Result<Messages, LinkError> {
        let channel = self.links.connected(self.leader).await?;
        let mut client = DispatcherClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        let opened = client.session(upward.map(|message| encode(&message))).await;
        let opened = opened.map_err(|status| LinkError::Session {
            to: self.leader.address,
            reason: status.message().to_owned(),
        })?;
        let messages = opened.into_inner();
        let whole = messages.take_while(|message| std::future::ready(message.is_ok()));
        Ok(Box::pin(whole.filter_map(async |message| message.ok())))
    }
}
