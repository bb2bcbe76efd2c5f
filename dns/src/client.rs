//! How one resolver is asked, by the clients of hickory-net, the transports under hickory-resolver:
//! over UDP and, where that answer is cut short, over TCP; or over TLS.
//!
//! hickory-resolver itself is not in between, because a forwarder has to hand on what was said. Its
//! pool of servers makes an error of every answer without records, and drops its flags, its CNAME
//! records, and the section behind REFUSED and SERVFAIL; asks nobody again without EDNS; and orders
//! servers by how fast they were, or asks the next one only once the time of all is over
//! (`order.rs` says which order we keep). It would also be a second cache.
//!
//! Names are not asked for in random case: what is handed on are the bytes of the answer, where
//! servers repeat it. A forger has to guess port and id, and the kernel takes packets of the asked
//! address only.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hickory_net::{
    DnsHandle, DnsMultiplexer, NetError,
    proto::{
        op::{DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, Query},
        rr::rdata::opt::EdnsOption,
        serialize::binary::{BinDecodable, BinDecoder},
    },
    runtime::{
        DnsUdpSocket, RuntimeProvider, Spawn, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd,
    },
    tcp::TcpClientStream,
    tls::tls_client_connect,
    udp::UdpClientStream,
    xfer::{DnsExchange, DnsRequestSender, FirstAnswer},
};
use model::{SandboxId, names::ASKS_ENGINE};
use tokio::{
    io::Interest,
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    answer::Transport,
    cache::{Key, Way},
    name_server::{NameServer, Trust},
    upstream::Enter,
    wire::{self, Flags, Foreign, code},
};

/// Number of UDP tries, and the time of each.
const TRIES: u8 = 2;
const TRY: Duration = Duration::from_secs(2);
/// The most time for one resolver.
const OVERALL: Duration = TRY.saturating_mul(TRIES as u32);
/// The most questions on their way over one TLS connection.
const MOST_OVER_TLS: usize = 1_024;

/// One question, for each of some resolvers.
pub(crate) struct Exchange<'a> {
    /// Name, type and class as the client sent them.
    pub question: Vec<u8>,
    pub key: &'a Key,
    /// How many of our resolvers will have forwarded it.
    pub hops: u8,
    /// How the client asked.
    pub transport: Transport,
    pub enter: Option<&'a Enter>,
    pub encrypted: &'a Encrypted,
}

impl Exchange<'_> {
    pub(crate) async fn run(&self, server: &NameServer) -> Result<Foreign, NetError> {
        let all = async {
            let mut edns = Some(self.hops);
            let mut answer = self.ask(server, edns).await?;
            // It may know no EDNS (RFC 6891 section 6.2.2).
            if matches!(answer.code, code::FORM_ERR | code::NOT_IMP) {
                edns = None;
                answer = self.ask(server, edns).await?;
            }
            if answer.truncated && self.transport == Transport::Tcp {
                answer = self.tcp(server.address, edns).await?;
            }
            Ok(answer)
        };
        timeout(OVERALL, all)
            .await
            .unwrap_or(Err(NetError::Timeout))
    }

    async fn ask(&self, server: &NameServer, edns: Option<u8>) -> Result<Foreign, NetError> {
        if server.tls.is_some() {
            let request = self.request(edns)?;
            return self.read(self.encrypted.ask(server, request).await?.as_buffer());
        }
        match self.udp(server.address, edns).await {
            // What cannot be read may be whole where length is no matter.
            Err(NetError::Proto(_)) => self.tcp(server.address, edns).await,
            answer => answer,
        }
    }

    async fn udp(&self, resolver: SocketAddr, edns: Option<u8>) -> Result<Foreign, NetError> {
        let mut client = UdpClientStream::builder(resolver, self.sockets())
            .with_timeout(Some(OVERALL))
            .with_bind_addr(self.source())
            // A port that a task listens at is not to be taken from it.
            .with_os_port_selection(true)
            .with_max_retries(TRIES)
            .build();
        let answer = client.send_message(self.request(edns)?).first_answer();
        self.read(answer.await?.as_buffer())
    }

    async fn tcp(&self, resolver: SocketAddr, edns: Option<u8>) -> Result<Foreign, NetError> {
        let (sockets, source) = (self.sockets(), self.source());
        let client =
            TcpClientStream::exchange(resolver, source, OVERALL, None, sockets.clone()).await?;
        let answer = client.send(self.request(edns)?).first_answer().await?;
        self.read(answer.as_buffer())
    }

    /// The question under an id of ours, so that nobody can guess it from the client's; `edns`
    /// unless the resolver does not know that.
    fn request(&self, edns: Option<u8>) -> Result<DnsRequest, NetError> {
        let mut message = Message::query();
        let query = Query::read(&mut BinDecoder::new(&self.question));
        message.add_query(query.map_err(|error| NetError::Msg(error.to_string()))?);
        let Flags {
            recursion_desired,
            checking_disabled,
            dnssec_ok,
        } = self.key.flags;
        message.metadata.recursion_desired = recursion_desired;
        message.metadata.checking_disabled = checking_disabled;
        message.edns = edns.map(|hops| {
            let mut edns = Edns::new();
            edns.set_max_payload(wire::MAX_UDP).set_dnssec_ok(dnssec_ok);
            let mark = EdnsOption::Unknown(wire::HOPS, vec![hops]);
            edns.options_mut().insert(mark);
            edns
        });
        let mut options = DnsRequestOptions::default();
        options.retry_interval = TRY;
        Ok(DnsRequest::new(message, options))
    }

    /// What hickory has read as an answer to the question.
    fn read(&self, answer: &[u8]) -> Result<Foreign, NetError> {
        Foreign::parse(answer, &self.question).ok_or(NetError::Message("not the answer"))
    }

    /// The address that a resolver is asked from, where that matters.
    fn source(&self) -> Option<SocketAddr> {
        let is_engine = matches!(self.key.way, Way::Engine(_));
        is_engine.then(|| (ASKS_ENGINE, 0).into())
    }

    fn sockets(&self) -> Sockets {
        let inside = self.key.way.sandbox().zip(self.enter.cloned());
        Sockets {
            inside,
            background: TokioHandle::default(),
        }
    }
}

/// The TLS connections to resolvers; each is kept as long as it works. As many as resolvers are
/// configured.
pub(crate) struct Encrypted {
    trust: Option<Trust>,
    open: Mutex<HashMap<NameServer, Place>>,
}

/// Where a connection is. Who makes one holds it, and those who ask meanwhile wait.
type Place = Arc<tokio::sync::Mutex<Option<Arc<Open>>>>;

/// A connection. What serves it ends with the sockets.
struct Open {
    client: DnsExchange<Sockets>,
    _sockets: Sockets,
}

impl Encrypted {
    pub(crate) fn new(trust: Option<Trust>) -> Self {
        let open = Mutex::default();
        Self { trust, open }
    }

    /// Asks over the connection that is open, and over a new one where that has ended.
    async fn ask(&self, server: &NameServer, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let place = hold(&self.open).entry(server.clone()).or_default().clone();
        let known = place.lock().await.clone();
        if let Some(known) = &known {
            // `Busy` is also what hickory says where a connection has ended.
            match known.client.send(request.clone()).first_answer().await {
                Ok(answer) => return Ok(answer),
                Err(error) => tracing::debug!(%error, %server, "a TLS connection has ended"),
            }
        }
        let open = {
            let mut place = place.lock().await;
            let newer = place.take().filter(|open| {
                let is_known = known.as_ref().is_some_and(|known| Arc::ptr_eq(known, open));
                !is_known
            });
            let open = match newer {
                Some(open) => open,
                None => Arc::new(self.connect(server).await?),
            };
            place.insert(open).clone()
        };
        open.client.send(request).first_answer().await
    }

    async fn connect(&self, server: &NameServer) -> Result<Open, NetError> {
        let (Some(name), Some(trust)) = (&server.tls, &self.trust) else {
            return Err(NetError::NoConnections);
        };
        let sockets = Sockets {
            inside: None,
            background: TokioHandle::default(),
        };
        let (stream, sender) = tls_client_connect(
            server.address,
            name.clone(),
            trust.0.clone(),
            sockets.clone(),
        );
        // Less than the time of one who asks, which one who finds it dead has left for another.
        let connections = DnsMultiplexer::new(stream.await?, sender)
            .with_timeout(TRY)
            .with_max_active_requests(MOST_OVER_TLS);
        let (client, background) = DnsExchange::from_stream(connections);
        sockets.create_handle().spawn_bg(background);
        Ok(Open {
            client,
            _sockets: sockets,
        })
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes sockets where they are to be: in the namespace of a sandbox, or in the host's. What runs
/// in the background for one ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Sockets {
    inside: Option<(SandboxId, Enter)>,
    background: TokioHandle,
}

type Making<S> = Pin<Box<dyn Send + Future<Output = io::Result<S>>>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Datagrams;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.background.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        source: Option<SocketAddr>,
        longest: Option<Duration>,
    ) -> Making<Self::Tcp> {
        let made = made(self.inside.clone(), move || {
            let socket = match server {
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
            };
            source.map_or(Ok(()), |source| socket.bind(source))?;
            socket.set_nodelay(true).map(|()| socket)
        });
        Box::pin(async move {
            let connected = made.await?.connect(server);
            let stream = timeout(longest.unwrap_or(OVERALL), connected).await??;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    /// Connected, so that a port that nobody listens at is known at once, and packets of others are
    /// not seen.
    fn bind_udp(&self, source: SocketAddr, server: SocketAddr) -> Making<Datagrams> {
        let made = made(self.inside.clone(), move || {
            let socket = std::net::UdpSocket::bind(source)?;
            socket.set_nonblocking(true).map(|()| socket)
        });
        Box::pin(async move {
            let socket = UdpSocket::from_std(made.await?)?;
            socket.connect(server).await?;
            Ok(Datagrams(socket))
        })
    }
}

/// A connected socket, which tells whoever waits for a datagram that nobody listens there. Tokio's
/// does not: it waits until there is something to read.
pub(crate) struct Datagrams(UdpSocket);

#[async_trait::async_trait]
impl DnsUdpSocket for Datagrams {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.0, context, buffer)
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let ready = self.0.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                if let Some(error) = self.0.take_error()? {
                    return Err(error);
                }
                let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _forgotten = self.0.try_io(Interest::ERROR, seen);
            }
            match self.0.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(context, bytes, to)
    }
}

async fn made<S: Send + 'static>(
    inside: Option<(SandboxId, Enter)>,
    make: impl Fn() -> io::Result<S> + Send + Sync + 'static,
) -> io::Result<S> {
    let Some((sandbox, enter)) = inside else {
        return make();
    };
    let inside = move || {
        let mut made = None;
        enter(sandbox, &mut || {
            made = Some(make()?);
            Ok(())
        })?;
        made.ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    tokio::task::spawn_blocking(inside)
        .await
        .map_err(io::Error::other)?
}
