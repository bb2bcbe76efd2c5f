//! Joining: the host listens, and exchanges a token for a certificate with a manager.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::{decode, encode, proto::membership_client::MembershipClient};
use model::{Level, Refusal};
use tokio::net::TcpListener;
use tonic::{Request, Status};

use crate::{
    ClusterError, JoinAnswer, JoinCall, Limits, LinkError, Token, files,
    identity::Identity,
    link::{self, Target},
    pki, server, tls, token,
    view::View,
};

/// Timeout of a join: longer than managers look for a leader.
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(16);

/// Where a member keeps its state and listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its directory, for instance /var/lib/netd.
    pub directory: PathBuf,
    /// The control plane's address.
    pub listen: SocketAddr,
    /// The newest level that this netd takes part in.
    pub known: Level,
    /// How much history a manager keeps.
    pub history: Limits,
}

/// How the first host of a cluster presents itself.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its host name.
    pub hostname: String,
    /// Where others reach its control plane; port 0 stands for the one it listens on.
    pub advertise: SocketAddr,
    /// Where its tunnels end.
    pub vtep: IpAddr,
}

/// How a host joins. Not to be printed: it holds a secret.
#[derive(Clone)]
pub struct JoinOptions {
    /// `SWMTKN-1-<digest>-<secret>`.
    pub token: String,
    /// A manager of the cluster.
    pub manager: SocketAddr,
    /// Its host name.
    pub hostname: String,
    /// Where others reach its control plane; otherwise the local address of the way to the manager.
    pub advertise: Option<SocketAddr>,
    /// Where its tunnels end; otherwise the advertised address.
    pub vtep: Option<IpAddr>,
}

/// Sends a token to a manager and returns the certificate.
pub(crate) async fn ask_to_join(
    token: &Token,
    options: &JoinOptions,
    listener: &TcpListener,
    request: String,
    level: Level,
) -> Result<JoinAnswer, ClusterError> {
    let manager = options.manager;
    let tls = Arc::new(tls::pinned(token.digest.clone())?);
    let connected = link::connect(
        tls,
        Target {
            address: manager,
            node: None,
        },
    )
    .await;
    let (channel, local) = connected.map_err(|error| match error {
        LinkError::Foreign { .. } => ClusterError::OtherCluster { manager },
        error => ClusterError::Link(error),
    })?;
    let address = reachable(
        options.advertise.unwrap_or(SocketAddr::new(local.ip(), 0)),
        listener,
    )?;
    let join = JoinCall {
        secret: token.secret.clone(),
        request,
        hostname: options.hostname.clone(),
        address,
        vtep: options.vtep.unwrap_or(address.ip()),
        level,
    };
    let mut request = Request::new(encode(&join));
    request.set_timeout(JOIN_TIMEOUT);
    let session = |status: Status| LinkError::Session {
        to: manager,
        reason: status.message().to_owned(),
    };
    let answer = MembershipClient::new(channel)
        .join(request)
        .await
        .map_err(session)?;
    let answer: Result<JoinAnswer, Refusal> =
        decode(answer.get_ref()).map_err(|error| LinkError::Session {
            to: manager,
            reason: error.to_string(),
        })?;
    let answer = answer?;
    if token::digest(&pki::root(&answer.root)?) != token.digest {
        return Err(ClusterError::OtherCluster { manager });
    }
    Ok(answer)
}

/// Opens the listener of a host that is not a member yet, and removes leftovers of an interrupted
/// attempt.
pub(crate) fn prepare(config: &Config) -> Result<TcpListener, ClusterError> {
    if Identity::exists(&config.directory) {
        return Err(ClusterError::AlreadyMember(
            config.directory.join("identity"),
        ));
    }
    forget_state(config)?;
    server::listen(config.listen)
}

/// Removes the log and the view.
pub(crate) fn forget_state(config: &Config) -> Result<(), ClusterError> {
    files::remove(&config.directory.join("raft"))?;
    View::remove(&config.directory)
}

/// The address given to others: never a wildcard; port 0 stands for the one that is listened on.
pub(crate) fn reachable(
    mut address: SocketAddr,
    listener: &TcpListener,
) -> Result<SocketAddr, ClusterError> {
    if address.ip().is_unspecified() {
        return Err(ClusterError::Advertise(address));
    }
    if address.port() == 0 {
        let own = listener
            .local_addr()
            .map_err(|source| ClusterError::Listen { address, source })?;
        address.set_port(own.port());
    }
    Ok(address)
}
