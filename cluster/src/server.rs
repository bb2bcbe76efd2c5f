//! The control plane's listener: TCP, TLS, and gRPC behind the gate. Members and strangers, which
//! show no certificate, are served apart: a stranger can only join, and gets little of memory, time
//! and places. Failed handshakes are logged with their peer.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use model::{NodeId, StateMachine};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

use crate::{
    ClusterError, Member, PeerIdentity,
    bounds::{Bounds, JOIN_BYTES},
    buckets::Origin,
    gate::GateLayer,
    link::{HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT},
    pki,
    places::Place,
    services,
    visitors::{Visit, Visitors},
};

const BACKLOG: u32 = 1024;
/// Connections that are ready but not yet taken by the server.
const READY: usize = 64;
/// Pause after the kernel could not accept (no more file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What every client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a stranger's connection may last; a join takes up to 16 s while there is no leader.
const LIFE: Duration = Duration::from_secs(30);
/// How long one call of a stranger may take.
const CALL: Duration = Duration::from_secs(20);
/// The most header fields of a stranger's call, in bytes.
const HEADERS: u32 = 4 << 10;
/// The least that HTTP/2 lets a connection's window be.
const WINDOW: u32 = 65_535;
/// How often lines that were left out are counted in the log.
const COUNTING: Duration = Duration::from_secs(10);

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
    let (to_members, members) = mpsc::channel(READY);
    let (to_strangers, strangers) = mpsc::channel(READY);
    let reception = Reception {
        tls: TlsAcceptor::from(Arc::new(tls)),
        bounds: member.bounds().clone(),
        visitors: member.visitors().clone(),
        members: to_members,
        strangers: to_strangers,
        stop: stop.clone(),
    };
    let serving_members = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(GateLayer(member.clone()))
        .add_routes(services::add(extra, &member))
        .serve_with_incoming_shutdown(incoming(members), stopped(stop.clone()));
    let serving_strangers = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADERS)
        .max_concurrent_streams(1)
        .initial_stream_window_size(JOIN_BYTES as u32)
        .initial_connection_window_size(WINDOW)
        .timeout(CALL)
        .layer(GateLayer(member.clone()))
        .add_routes(services::for_strangers(&member))
        .serve_with_incoming_shutdown(incoming(strangers), stopped(stop));
    tokio::select! {
        () = reception.accept(listener) => {}
        result = serving_members => failed(result),
        result = serving_strangers => failed(result),
    }
}

fn incoming(
    connections: mpsc::Receiver<Connection>,
) -> impl futures::Stream<Item = io::Result<Connection>> {
    futures::StreamExt::map(ReceiverStream::new(connections), Ok)
}

fn failed(result: Result<(), tonic::transport::Error>) {
    if let Err(error) = result {
        tracing::error!(%error, "the control plane's server has failed");
    }
}

/// Takes connections and hands each to the server of its kind.
#[derive(Clone)]
struct Reception {
    tls: TlsAcceptor,
    bounds: Arc<Bounds>,
    visitors: Arc<Visitors>,
    members: mpsc::Sender<Connection>,
    strangers: mpsc::Sender<Connection>,
    stop: watch::Receiver<bool>,
}

impl Reception {
    async fn accept(self, listener: TcpListener) {
        let mut stopping = Box::pin(stopped(self.stop.clone()));
        let mut counting = interval(COUNTING);
        counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = counting.tick() => {
                    count_lines(&self.bounds);
                    continue;
                }
                () = &mut stopping => return,
            };
            match accepted {
                Ok((stream, address)) => self.clone().receive(stream, address),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn receive(self, stream: TcpStream, address: SocketAddr) {
        let mut place = self.bounds.handshakes.take(address.ip().into());
        tokio::spawn(async move {
            let handed = tokio::select! {
                handed = self.greet(stream, address) => handed,
                () = place.lost() => None,
            };
            drop(place);
            if let Some((connection, server)) = handed {
                let _stopped = server.send(connection).await;
            }
        });
    }

    /// Finds out who is there, and that they speak HTTP/2.
    async fn greet(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(Connection, mpsc::Sender<Connection>)> {
        let descriptor = stream.as_raw_fd();
        let _ = stream.set_nodelay(true);
        let greeting = timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream));
        let mut stream = match greeting.await.map_err(late).flatten() {
            Ok(stream) => stream,
            // A mere connection check, as the leader makes at a joining host.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => {
                let reason = explain(&error);
                if let Some(left_out) = self.bounds.may_log(address) {
                    tracing::warn!(peer = %address, %error, reason, left_out,
                        "a connection was refused: the TLS handshake failed");
                }
                return None;
            }
        };
        let mut preface = [0; PREFACE.len()];
        let reading = timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut preface));
        if reading.await.map_err(late).flatten().is_err() || preface != *PREFACE {
            return None;
        }
        let leaf = stream.get_ref().1.peer_certificates();
        let identity = leaf
            .and_then(|chain| chain.first())
            .and_then(pki::identity_of);
        if identity.is_none() && self.bounds.is_reserved(descriptor) {
            return None;
        }
        let (end, server): (Ending, _) = match identity {
            Some(identity) => {
                let place = self.bounds.members.take(identity.node);
                let visit = self.visitors.enter(identity);
                (Box::pin(left(place, visit)), &self.members)
            }
            None => {
                let place = self.bounds.strangers.take(address.ip().into());
                (Box::pin(lived(place)), &self.strangers)
            }
        };
        let stop = stopped(self.stop.clone());
        let ends = async move {
            tokio::select! {
                () = stop => {}
                () = end => {}
            }
        };
        let connection = Connection {
            stream,
            preface: PREFACE,
            caller: Caller { address, identity },
            ends: Box::pin(ends),
        };
        Some((connection, server.clone()))
    }
}

fn late(_: tokio::time::error::Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
}

/// What was left out of the log when nobody has said so meanwhile.
fn count_lines(bounds: &Bounds) {
    let left_out = bounds.lines_left_out();
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "warnings about connections and requests were left out: there were too many"
        );
    }
}

/// Returns when a member's connection has lost its place, or the node is no member any more.
async fn left(mut place: Place<NodeId>, visit: Visit) {
    tokio::select! {
        () = place.lost() => {}
        () = visit.ended() => {}
    }
}

/// Returns when a stranger's time is over, or its place has been given to another.
async fn lived(mut place: Place<Origin>) {
    tokio::select! {
        () = place.lost() => {}
        () = sleep(LIFE) => {}
    }
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

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A TLS connection that breaks when it has to end: when the member stops, as if its process had
/// died, or when the peer's time or place is gone.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    /// The part of the preface that is to be read once more, by the server.
    preface: &'static [u8],
    caller: Caller,
    ends: Ending,
}

impl Connection {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.ends.poll_unpin(cx).is_pending() {
            return Ok(());
        }
        self.ends = Box::pin(std::future::ready(()));
        Err(io::ErrorKind::ConnectionAborted.into())
    }
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
        self.poll_end(cx)?;
        if !self.preface.is_empty() {
            let count = self.preface.len().min(buffer.remaining());
            let (first, rest) = self.preface.split_at(count);
            buffer.put_slice(first);
            self.preface = rest;
            return Poll::Ready(Ok(()));
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
        // A peer that takes nothing is not read from either.
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::Instant;

    use super::*;

    fn place(bounds: &Bounds) -> Place<Origin> {
        let address: IpAddr = ([192, 0, 2, 1]).into();
        bounds.strangers.take(address.into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_lives_as_long_as_a_join_may_take_or_shorter() {
        let (bounds, start) = (Bounds::new(), Instant::now());
        lived(place(&bounds)).await;
        assert_eq!(start.elapsed(), LIFE);
        let first = lived(place(&bounds));
        let _newer: Vec<_> = (0..8).map(|_| place(&bounds)).collect();
        first.await;
        assert_eq!(start.elapsed(), LIFE);
        assert!(LIFE > HANDSHAKE_TIMEOUT * 2 + CALL && CALL > crate::joining::JOIN_TIMEOUT);
    }
}
