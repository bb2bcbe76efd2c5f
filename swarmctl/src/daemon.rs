//! The local daemon: requests, and patience while it restarts.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use api::{
    InitRequest, JoinRequest, LeaveRequest, LocalError, Proposal, Standing,
    proto::{Json, agent_client::AgentClient, control_client::ControlClient, local_client::LocalClient},
};
use model::{
    Answer, Command, Kind, NetworkInfo, NodeInfo, Outcome, Query, Refusal, RequestId, Role, ServiceInfo, TaskInfo,
    TokenInfo,
};
use serde::de::DeserializeOwned;
use tonic::{Code, Response, Status, transport::Channel};

/// How long one request may take, the daemon's own search for a leader included.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a daemon that went away may take to come back.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon that has left its socket behind may take to listen again.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// The local daemon.
#[derive(Clone)]
pub struct Daemon {
    socket: PathBuf,
    channel: Channel,
}

impl Daemon {
    /// The daemon at this socket. Waits a little where there is a socket that nobody listens on: it may be restarting.
    pub async fn connect(socket: &Path) -> Result<Self, LocalError> {
        let start = Instant::now();
        loop {
            match api::connect(socket).await {
                Ok(channel) => return Ok(Self { socket: socket.to_owned(), channel }),
                Err(error) if start.elapsed() > LISTEN_LIMIT || !socket.exists() => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Changes the cluster. Asked again under the same request id while the daemon restarts: nothing is done twice.
    pub async fn propose(&self, command: Command) -> Result<Outcome> {
        let payload = api::encode(&Proposal { request: RequestId(rand::random()), command });
        let call = |channel, payload| async move { ControlClient::new(channel).propose(payload).await };
        self.insist::<model::Response, _>(payload, call).await?.map_err(Into::into)
    }

    /// Every node, or one: `Query::Nodes`, `Query::Node`.
    pub async fn nodes(&self, query: Query) -> Result<Vec<NodeInfo>> {
        match self.ask(query).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            other => Err(unexpected(&other)),
        }
    }

    /// Every network, or one: `Query::Networks`, `Query::Network`.
    pub async fn networks(&self, query: Query) -> Result<Vec<NetworkInfo>> {
        match self.ask(query).await? {
            Answer::Networks(networks) => Ok(networks),
            other => Err(unexpected(&other)),
        }
    }

    /// Every service, or one: `Query::Services`, `Query::Service`.
    pub async fn services(&self, query: Query) -> Result<Vec<ServiceInfo>> {
        match self.ask(query).await? {
            Answer::Services(services) => Ok(services),
            other => Err(unexpected(&other)),
        }
    }

    /// Tasks: `Query::Tasks`, `Query::Task`.
    pub async fn tasks(&self, query: Query) -> Result<Vec<TaskInfo>> {
        match self.ask(query).await? {
            Answer::Tasks(tasks) => Ok(tasks),
            other => Err(unexpected(&other)),
        }
    }

    /// A role's join token.
    pub async fn token(&self, role: Role) -> Result<TokenInfo> {
        match self.ask(Query::Token(role)).await? {
            Answer::Token(token) => Ok(token),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a cluster of this host.
    pub async fn init(&self, request: &InitRequest) -> Result<Standing> {
        let answer = self.once(self.local().init(api::encode(request))).await?;
        api::decode::<Result<Standing, Refusal>>(&answer)?.map_err(Into::into)
    }

    /// Joins this host to a cluster.
    pub async fn join(&self, request: &JoinRequest) -> Result<Standing> {
        let answer = self.once(self.local().join(api::encode(request))).await?;
        api::decode::<Result<Standing, Refusal>>(&answer)?.map_err(Into::into)
    }

    /// Takes this host out of its cluster.
    pub async fn leave(&self, request: &LeaveRequest) -> Result<()> {
        let answer = self.once(self.local().leave(api::encode(request))).await?;
        api::decode::<Result<(), Refusal>>(&answer)?.map_err(Into::into)
    }

    /// Where this host stands.
    pub async fn status(&self) -> Result<Standing> {
        self.insist(api::encode(&()), |channel, payload| async move { LocalClient::new(channel).status(payload).await }).await
    }

    /// The inside of this host.
    pub async fn debug(&self, what: api::Debug) -> Result<String> {
        let answer = self.once(self.local().debug(api::encode(&what))).await?;
        api::decode::<Result<String, Refusal>>(&answer)?.map_err(Into::into)
    }

    /// Streams to and from tasks.
    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    /// What a broken stream or call means, for people.
    pub fn broken(&self, status: &Status) -> anyhow::Error {
        let path = self.socket.display();
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented => Refusal::new(
                Kind::Invalid,
                format!("netd at {path} does not understand the request: {}", status.message()),
                "give swarmctl and netd the same version",
            ),
            _ => Refusal::new(
                Kind::Unavailable,
                format!("netd at {path} broke off the request: {}", status.message()),
                "see netd's log, start it again, and look whether the change was made before you repeat the command",
            ),
        }
        .into()
    }

    fn local(&self) -> &'static LocalCalls {
        unimplemented!()
    }
}
