//! Connections to other members: mutual TLS, one per member, redialled automatically.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use model::NodeId;
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::pki;

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the TLS handshake may take; hosts lose their CPU for hundreds of milliseconds.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that nobody has asked for during this time is let go of when another is made: its
/// node may be gone for good.
const UNUSED: Duration = Duration::from_secs(600);
/// How often an open connection is probed, and how long an answer may take.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a member could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No TCP connection.
    #[error("{to} does not answer: {reason}")]
    Unreachable {
        /// The address dialled.
        to: SocketAddr,
        /// What the kernel said.
        reason: io::Error,
    },
    /// Its certificate was not made by this cluster's authority.
    #[error("{to} has a certificate of another cluster")]
    Foreign {
        /// The address dialled.
        to: SocketAddr,
    },
    /// Another member lives at this address now.
    #[error("{to} is not node {expected}: its certificate names another node")]
    Impostor {
        /// The address dialled.
        to: SocketAddr,
        /// The node that was meant.
        expected: String,
    },
    /// TLS failed otherwise.
    #[error("the TLS handshake with {to} failed: {reason}")]
    Tls {
        /// The address dialled.
        to: SocketAddr,
        /// What went wrong.
        reason: String,
    },
    /// The connection was refused after TLS.
    #[error("no session with {to}: {reason}")]
    Session {
        /// The address dialled.
        to: SocketAddr,
        /// What went wrong.
        reason: String,
    },
}

impl LinkError {
    /// The address dialled.
    pub fn to(&self) -> SocketAddr {
        match self {
            Self::Unreachable { to, .. }
            | Self::Foreign { to }
            | Self::Impostor { to, .. }
            | Self::Tls { to, .. }
            | Self::Session { to, .. } => *to,
        }
    }

    /// What to do about it. None where there is nothing that a person could do.
    pub fn next(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { to, .. } => format!(
                "check that netd runs there and that TCP port {} is open",
                to.port()
            ),
            Self::Foreign { .. } => {
                "check the address; a host joins one cluster at a time".to_owned()
            }
            Self::Impostor { .. } => {
                "`swarmctl node ls` shows which node has which address".to_owned()
            }
            Self::Tls { .. } | Self::Session { .. } => {
                "netd's log on that host says more; run the same version of netd on both".to_owned()
            }
        })
    }
}

/// Where a connection leads: the address, and the node that must be there, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub address: SocketAddr,
    pub node: Option<NodeId>,
}

/// The open connections of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Links {
    tls: Arc<ClientConfig>,
    open: Arc<Mutex<BTreeMap<Target, Open>>>,
}

struct Open {
    channel: Channel,
    used: Instant,
}

impl Links {
    pub(crate) fn new(tls: ClientConfig) -> Self {
        Self {
            tls: Arc::new(tls),
            open: Arc::default(),
        }
    }

    /// The channel there; it connects with the first request.
    pub(crate) fn channel(&self, target: Target) -> Channel {
        if let Some(channel) = self.known(target) {
            return channel;
        }
        let connector = connector(self.tls.clone(), target, Arc::default());
        self.keep(target, endpoint().connect_with_connector_lazy(connector))
    }

    /// The channel there, connected. Errors: it cannot be.
    pub(crate) async fn connected(&self, target: Target) -> Result<Channel, LinkError> {
        if let Some(channel) = self.known(target) {
            return Ok(channel);
        }
        let (channel, _) = connect(self.tls.clone(), target).await?;
        Ok(self.keep(target, channel))
    }

    /// Keeps this channel, unless another task has made one meanwhile.
    fn keep(&self, target: Target, channel: Channel) -> Channel {
        let used = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, open| used - open.used < UNUSED);
        let kept = open.entry(target).or_insert(Open { channel, used });
        kept.channel.clone()
    }

    /// Whether the node is there, by its certificate. Errors: it is not.
    pub(crate) async fn reaches(&self, target: Target) -> Result<(), LinkError> {
        connect(self.tls.clone(), target).await.map(drop)
    }

    fn known(&self, target: Target) -> Option<Channel> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.get_mut(&target)?;
        known.used = Instant::now();
        Some(known.channel.clone())
    }

    /// Lets go of all of them.
    pub(crate) fn close(&self) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A connected channel and the local address of its connection.
pub(crate) async fn connect(
    tls: Arc<ClientConfig>,
    target: Target,
) -> Result<(Channel, SocketAddr), LinkError> {
    // The error of a connector reaches the caller only as text, so the first connection is dialled
    // here.
    let first = dial(tls.clone(), target).await?;
    let session = |reason: String| LinkError::Session {
        to: target.address,
        reason,
    };
    let local = first
        .get_ref()
        .0
        .local_addr()
        .map_err(|error| session(error.to_string()))?;
    let slot = OnceSlot::default();
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
    let channel = endpoint()
        .connect_with_connector(connector(tls, target, slot))
        .await;
    Ok((channel.map_err(|error| session(root_cause(&error)))?, local))
}

type Stream = TlsStream<TcpStream>;
type OnceSlot = Arc<Mutex<Option<Stream>>>;

type Dialling = std::pin::Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, LinkError>> + Send>>;

/// Hands out the connection in `first`, if there is one, and dials from then on.
fn connector(
    tls: Arc<ClientConfig>,
    target: Target,
    first: OnceSlot,
) -> impl tower::Service<
    tonic::transport::Uri,
    Response = TokioIo<Stream>,
    Error = LinkError,
    Future = Dialling,
> + Send
+ Clone
+ 'static {
    tower::service_fn(move |_| -> Dialling {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tls = tls.clone();
        Box::pin(async move {
            match ready {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => dial(tls, target).await.map(TokioIo::new),
            }
        })
    })
}

fn endpoint() -> Endpoint {
    // The address is not used: the connector knows where to go.
    Endpoint::from_static("http://member.netd")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

/// A plain connection to an address.
pub(crate) async fn reach(to: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT_TIMEOUT, TcpStream::connect(to))
        .await
        .map_err(late)
        .flatten()
}

fn late(_: tokio::time::error::Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
}

async fn dial(tls: Arc<ClientConfig>, target: Target) -> Result<Stream, LinkError> {
    let to = target.address;
    let tcp = reach(to)
        .await
        .map_err(|reason| LinkError::Unreachable { to, reason })?;
    let _ = tcp.set_nodelay(true);
    let name = target
        .node
        .map_or_else(|| pki::ANY_MEMBER.to_owned(), pki::name_of);
    let server = ServerName::try_from(name.clone()).map_err(|error| LinkError::Tls {
        to,
        reason: error.to_string(),
    })?;
    let handshake = TlsConnector::from(tls).connect(server, tcp);
    timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(late)
        .flatten()
        .map_err(|error| explain(target, &error))
}

fn explain(target: Target, error: &io::Error) -> LinkError {
    let to = target.address;
    let Some(rustls::Error::InvalidCertificate(reason)) =
        error.get_ref().and_then(|inner| inner.downcast_ref())
    else {
        return LinkError::Tls {
            to,
            reason: error.to_string(),
        };
    };
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            LinkError::Foreign { to }
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            LinkError::Impostor {
                to,
                expected: target
                    .node
                    .map_or_else(String::new, |node| node.to_string()),
            }
        }
        reason => LinkError::Tls {
            to,
            reason: reason.to_string(),
        },
    }
}

/// The innermost reason of an error.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use model::Role;

    use super::*;
    use crate::identity::Identity;

    #[tokio::test(start_paused = true)]
    async fn channels_of_nodes_that_are_gone_are_forgotten() {
        let authority = pki::new_authority().unwrap();
        let own = pki::new_request().unwrap();
        let (_, certificate) = pki::sign(&authority, &own.request, Role::Worker).unwrap();
        let root = authority.root_certificate;
        let identity = Identity::new(certificate, own.key, root, vec![], vec![]).unwrap();
        let links = Links::new(crate::tls::client(&identity).unwrap());
        let to = |node| Target {
            address: ([192, 0, 2, 1], 2377).into(),
            node: Some(NodeId(node)),
        };
        for node in 0..1000 {
            let _ = links.channel(to(0));
            let _ = links.channel(to(node));
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        let open = links.open.lock().unwrap();
        assert!(open.contains_key(&to(0)) && open.contains_key(&to(999)));
        assert_eq!(open.len(), 1 + (UNUSED.as_secs() / 60) as usize);
    }
}
