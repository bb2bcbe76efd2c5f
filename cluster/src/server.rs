//! The control plane's listener: TCP, TLS, and gRPC behind the gate. Failed handshakes are logged
//! with their peer.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use model::StateMachine;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

use crate::{
    ClusterError, Member, PeerIdentity,
    gate::GateLayer,
    link::{HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT},
    pki, services,
};

const BACKLOG: u32 = 1024;
/// Connections that are ready but not yet taken by the server.
const READY: usize = 64;
/// Pause after the kernel could not accept (no more file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub address: SocketAddr,
    /// `None` without a client certificate.
    pub identity: Option<PeerIdentity>,
}

/// Opens the listener, even while connections of an earlier daemon are in TIME_WAIT.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, ClusterError> {
    let listen = || {
        let socket = if address.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| ClusterError::Listen { address, source })
}

/// Serves until `stop`.
pub(crate) async fn serve<S: StateMachine>(
    member: Member<S>,
    listener: TcpListener,
    tls: ServerConfig,
    extra: Routes,
    stop: watch::Receiver<bool>,
) {
    let (ready, connections) = mpsc::channel(READY);
    let accepting = accept(
        listener,
        TlsAcceptor::from(Arc::new(tls)),
        ready,
        stop.clone(),
    );
    let incoming = futures::StreamExt::map(ReceiverStream::new(connections), Ok::<_, io::Error>);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(GateLayer(member.clone()))
        .add_routes(services::add(extra, &member))
        .serve_with_incoming_shutdown(incoming, stopped(stop));
    tokio::select! {
        () = accepting => {}
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "the control plane's server has failed");
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<Connection>,
    stop: watch::Receiver<bool>,
) {
    let mut stopping = Box::pin(stopped(stop.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopping => return,
        };
        match accepted {
            Ok((stream, address)) => {
                tokio::spawn(greet(
                    stream,
                    address,
                    tls.clone(),
                    ready.clone(),
                    stop.clone(),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    ready: mpsc::Sender<Connection>,
    stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream))
        .await
        .map_err(late)
        .flatten()
    {
        Ok(stream) => stream,
        // A mere connection check, as the leader makes at a joining host.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Err(error) => {
            let reason = explain(&error);
            tracing::warn!(peer = %address, %error, reason,
                "a connection was refused: the TLS handshake failed");
            return;
        }
    };
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let caller = Caller {
        address,
        identity: leaf.and_then(pki::identity_of),
    };
    let _closed = ready
        .send(Connection {
            stream,
            caller,
            stop: Box::pin(stopped(stop)),
        })
        .await;
}

/// Explains a failed handshake to an operator.
fn explain(error: &io::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::DecryptError,
        )) => {
            "the peer does not trust this cluster's root: its token or certificate is another \
             cluster's"
        }
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => "the peer has a certificate of another cluster",
        Some(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "the peer's certificate has expired",
        _ => "",
    }
}

/// Waits for the stop signal, or for its sender to be gone.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    let _gone = stop.wait_for(|&stop| stop).await;
}

/// A TLS connection that breaks when the member stops, as if its process had died.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stop.poll_unpin(cx).is_ready() {
            self.stop = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
