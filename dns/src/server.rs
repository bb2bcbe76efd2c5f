//! The DNS server of one network's sockets: answers names of the cluster from the table, and
//! forwards all others. Names of the cluster are answered at once by the task that reads the
//! socket; a forwarded query waits in a task of its own, so it never delays them.
//!
//! Why not hickory-server (0.26), which the benchmark `names` and the tests run. UDP: an answer of
//! ours costs 3.7 µs of processor time and none of the heap; one of hickory's costs 5.4 µs with a
//! handler that does nothing but look up a record, and a processor gives half as many of them
//! (`cargo bench -p tests --bench names -- hickory`). TCP: it accepts every connection, with no
//! place for a limit in front, neither in all nor per client; where files run out it tries again
//! without a pause (400 idle clients, 300 files: 59 % of a processor). It answers the questions of
//! a connection one after the other, so one that is forwarded holds up all behind it. Its handlers
//! give records, not messages, so what a resolver outside has said would be put together anew, and
//! could differ. Ours is bounded by the shares of `limit.rs` and by the constants below, and reads
//! questions by one parser for both.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use model::{NetworkId, SandboxId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    answer::{self, INTERNAL, NO_REACHABLE_AUTHORITY, Outcome, Transport},
    cache::{Key, Way},
    limit::{Clients, Limits, Share},
    table::{Client, Table},
    upstream::{Unanswered, Upstream},
    wire::{Foreign, Query, Response, code},
};

/// Time limit for a silent TCP connection, and for a client that does not read its responses.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Limits per TCP connection: responses that wait for a slow reader, and forwarded queries in
/// flight.
const TCP_ANSWERS: usize = 64;
const TCP_FORWARDED: usize = 32;
/// Most open TCP connections of a resolver.
const MAX_CONNECTIONS: usize = 512;
/// Most forwarded queries of one network in flight, so that no network uses up the host's limit.
const MAX_FORWARDED: usize = 256;
/// Datagrams answered in a row before the task yields.
const BATCH: usize = 64;
/// Longest UDP query in bytes; a longer one is truncated, hence malformed.
const LONGEST_QUERY: usize = 4_096;
/// Pause after an error of a listening socket, such as too many open files.
const BREATH: Duration = Duration::from_millis(50);

/// The clients of a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// All endpoints of a network.
    Network(NetworkId),
    /// One sandbox.
    Sandbox(SandboxId),
    /// The host's own programs.
    Host,
}

impl Audience {
    fn client(self, address: IpAddr) -> Client {
        match self {
            Audience::Network(network) => Client::Of {
                network,
                address: address.to_canonical(),
            },
            Audience::Sandbox(task) => Client::Sandbox(task),
            Audience::Host => Client::Host,
        }
    }
}

/// The sockets of one resolver, made inside the namespace that it serves.
#[derive(Debug)]
pub struct Listener {
    /// The clients of these sockets.
    pub audience: Audience,
    /// One per address.
    pub udp: Vec<UdpSocket>,
    /// One per address.
    pub tcp: Vec<TcpListener>,
}

/// A running resolver. Dropping it closes its sockets and drops pending queries.
pub struct ServerHandle(JoinSet<()>);

impl ServerHandle {
    /// Whether all of its sockets are served.
    pub fn is_whole(&mut self) -> bool {
        self.0.try_join_next().is_none()
    }

    /// Returns when one of the resolver's sockets is no longer served. Cancel-safe.
    pub async fn stopped(&mut self) {
        if let Some(Err(error)) = self.0.join_next().await {
            tracing::warn!(%error, "a resolver has stopped");
        }
    }
}

/// Answers on these sockets until the handle is dropped; every question sees the table's latest
/// value. Whoever changes the table in place holds up questions meanwhile.
pub fn serve(
    listener: Listener,
    table: watch::Receiver<Table>,
    upstream: Arc<Upstream>,
    limits: Limits,
) -> ServerHandle {
    let resolver = Arc::new(Resolver {
        audience: listener.audience,
        table,
        upstream,
        clients: Mutex::new(Clients::new(limits)),
        forwarded: Semaphore::new(MAX_FORWARDED),
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    });
    let mut loops = JoinSet::new();
    for socket in listener.udp {
        loops.spawn(datagrams(resolver.clone(), socket));
    }
    for socket in listener.tcp {
        loops.spawn(connections(resolver.clone(), socket));
    }
    ServerHandle(loops)
}

struct Resolver {
    audience: Audience,
    table: watch::Receiver<Table>,
    upstream: Arc<Upstream>,
    clients: Mutex<Clients>,
    forwarded: Semaphore,
    connections: Arc<Semaphore>,
}

/// Why a query was not answered from elsewhere. Clients read it in the response.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    /// As many of this client's, or of this network's, wait already.
    #[error("too many forwarded queries of this {0} are in flight: ask again")]
    Busy(&'static str),
    /// The client's network was removed meanwhile.
    #[error("this host does not know the network any more")]
    NoNetwork,
    /// No server answered.
    #[error(transparent)]
    Unanswered(#[from] Arc<Unanswered>),
}

/// A client's share of a limited resource, given back when dropped.
struct Held {
    resolver: Arc<Resolver>,
    key: IpAddr,
    share: Share,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.resolver
            .with_clients(|clients| clients.give_back(self.key, self.share));
    }
}

impl Resolver {
    fn with_clients<T>(&self, work: impl FnOnce(&mut Clients) -> T) -> T {
        work(&mut self.clients.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn may_ask(&self, client: IpAddr) -> bool {
        self.with_clients(|clients| clients.may_ask(client, Instant::now()))
    }

    fn hold(self: &Arc<Self>, client: IpAddr, share: Share) -> Option<Held> {
        let key = self.with_clients(|clients| clients.take(client, share, Instant::now()))?;
        Some(Held {
            resolver: self.clone(),
            key,
            share,
        })
    }

    /// Answers from the table or the cache, without waiting.
    fn at_once(
        &self,
        client: IpAddr,
        transport: Transport,
        query: &[u8],
        out: &mut Vec<u8>,
    ) -> Outcome {
        let table = self.table.borrow();
        let client = self.audience.client(client);
        let outcome = answer::reply(&table, client, transport, query, rand::random(), out);
        if outcome != Outcome::Elsewhere {
            return outcome;
        }
        let Ok(query) = Query::parse(query) else {
            return Outcome::Ignored;
        };
        let Some(way) = way(&table, client) else {
            return Outcome::Ignored;
        };
        match self.upstream.known(&Key::of(way, &query)) {
            Some((answer, age)) => {
                answer.respond(&query, answer::limit(&query, transport), age, out);
                Outcome::Answered
            }
            None => Outcome::Elsewhere,
        }
    }

    /// Answers by forwarding the query.
    async fn forward(
        self: &Arc<Self>,
        client: IpAddr,
        transport: Transport,
        query: &[u8],
        out: &mut Vec<u8>,
    ) {
        let Ok(query) = Query::parse(query) else {
            return;
        };
        let limit = answer::limit(&query, transport);
        let found = self.elsewhere(client, transport, &query).await;
        let is_unknown = match &found {
            Ok(answer) => answer.code == code::SERV_FAIL,
            Err(error) => matches!(error, ForwardError::Unanswered(_)),
        };
        if is_unknown && self.is_inside(client) {
            // The engine has no such name of its own, and nobody else may be asked.
            let mut response = Response::new(&query, limit, out);
            response.set_code(code::NX_DOMAIN);
            response.finish(Some(INTERNAL));
            return;
        }
        match found {
            Ok(answer) => answer.respond(&query, limit, 0, out),
            Err(cause) => {
                let mut response = Response::new(&query, limit, out);
                response.set_code(code::SERV_FAIL);
                response.finish(Some((NO_REACHABLE_AUTHORITY, &cause.to_string())));
            }
        }
    }

    fn is_inside(&self, client: IpAddr) -> bool {
        let table = self.table.borrow();
        let viewer = table.viewer(self.audience.client(client));
        viewer.is_some_and(|viewer| table.is_inside(viewer))
    }

    async fn elsewhere(
        self: &Arc<Self>,
        client: IpAddr,
        transport: Transport,
        query: &Query<'_>,
    ) -> Result<Arc<Foreign>, ForwardError> {
        let _held = self
            .hold(client, Share::Forwarded)
            .ok_or(ForwardError::Busy("client"))?;
        let _permit = self
            .forwarded
            .try_acquire()
            .map_err(|_| ForwardError::Busy("network"))?;
        let (way, gateways) = {
            let table = self.table.borrow();
            let way = way(&table, self.audience.client(client));
            (way, table.gateways().clone())
        };
        let way = way.ok_or(ForwardError::NoNetwork)?;
        let answered = self.upstream.ask(query, way, transport, &gateways).await;
        Ok(answered?)
    }
}

fn way(table: &Table, client: Client) -> Option<Way> {
    Some(table.viewer(client)?.way.clone())
}

/// Serves a UDP socket.
async fn datagrams(resolver: Arc<Resolver>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let (mut query, mut out) = (vec![0; LONGEST_QUERY], Vec::with_capacity(LONGEST_QUERY));
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, "cannot read a UDP socket of a resolver");
            return;
        }
        let mut answered = 0;
        while answered < BATCH {
            match socket.try_recv_from(&mut query) {
                Ok((length, client)) => {
                    datagram(
                        &resolver,
                        &socket,
                        &mut waiting,
                        (&query[..length], client),
                        &mut out,
                    );
                    answered += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot read a DNS query");
                    break;
                }
            }
        }
        while waiting.try_join_next().is_some() {}
        if answered == BATCH {
            tokio::task::yield_now().await;
        }
    }
}

fn datagram(
    resolver: &Arc<Resolver>,
    socket: &Arc<UdpSocket>,
    waiting: &mut JoinSet<()>,
    (query, client): (&[u8], SocketAddr),
    out: &mut Vec<u8>,
) {
    // Port 0 cannot be sent to.
    if client.port() == 0 || !resolver.may_ask(client.ip()) {
        return;
    }
    match resolver.at_once(client.ip(), Transport::Udp, query, out) {
        Outcome::Answered => send(socket, out, client),
        Outcome::Ignored => {}
        Outcome::Elsewhere => {
            let (resolver, socket, query) = (resolver.clone(), socket.clone(), query.to_vec());
            waiting.spawn(async move {
                let mut out = Vec::new();
                resolver
                    .forward(client.ip(), Transport::Udp, &query, &mut out)
                    .await;
                send(&socket, &out, client);
            });
        }
    }
}

/// Sends a response. If the socket buffer is full the response is lost; the client asks again.
fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, client) {
        tracing::debug!(%error, %client, "cannot send a DNS response");
    }
}

/// Serves a listening TCP socket.
async fn connections(resolver: Arc<Resolver>, listener: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a DNS connection");
                sleep(BREATH).await;
                continue;
            }
        };
        // A client with too many connections, or one that finds all taken, is disconnected at once.
        let Some(held) = resolver.hold(client.ip(), Share::Connection) else {
            continue;
        };
        let Ok(permit) = resolver.connections.clone().try_acquire_owned() else {
            continue;
        };
        let resolver = resolver.clone();
        open.spawn(async move {
            let _taken = (held, permit);
            converse(resolver, stream, client.ip()).await;
        });
    }
}

/// Serves one connection, with responses in any order (RFC 7766 section 6.2.1.1), until both sides
/// are done.
async fn converse(resolver: Arc<Resolver>, stream: TcpStream, client: IpAddr) {
    let (read, write) = stream.into_split();
    let (answers, waiting) = mpsc::channel(TCP_ANSWERS);
    tokio::join!(
        listen(resolver, read, client, answers),
        speak(write, waiting)
    );
}

async fn listen(
    resolver: Arc<Resolver>,
    read: OwnedReadHalf,
    client: IpAddr,
    answers: mpsc::Sender<Vec<u8>>,
) {
    let mut read = BufReader::new(read);
    let mut waiting = JoinSet::new();
    while let Ok(Ok(query)) = timeout(TCP_IDLE, next(&mut read)).await {
        while !resolver.may_ask(client) {
            sleep(BREATH).await;
        }
        let mut out = Vec::new();
        match resolver.at_once(client, Transport::Tcp, &query, &mut out) {
            Outcome::Answered if answers.send(out).await.is_err() => return,
            Outcome::Answered => {}
            Outcome::Ignored => return,
            Outcome::Elsewhere => {
                while waiting.len() >= TCP_FORWARDED && waiting.join_next().await.is_some() {}
                let (resolver, answers) = (resolver.clone(), answers.clone());
                waiting.spawn(async move {
                    let mut out = Vec::new();
                    resolver
                        .forward(client, Transport::Tcp, &query, &mut out)
                        .await;
                    let _gone = answers.send(out).await;
                });
            }
        }
    }
    // A client may close its sending side and still wait for responses.
    while waiting.join_next().await.is_some() {}
}

async fn next(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let mut query = vec![0; read.read_u16().await?.into()];
    read.read_exact(&mut query).await?;
    Ok(query)
}

/// Writes all waiting responses in one system call.
async fn speak(mut write: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    let mut answers = Vec::new();
    while waiting.recv_many(&mut answers, TCP_ANSWERS).await > 0 {
        let mut bytes = Vec::new();
        for answer in answers.drain(..) {
            bytes.extend_from_slice(&(answer.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&answer);
        }
        if !matches!(timeout(TCP_IDLE, write.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}
