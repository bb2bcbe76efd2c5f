//! The host's own resolvers. A question goes to all of them at once, as it came; the first useful answer wins. Nothing is
//! kept: the host's resolvers have the cache.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

/// How many of the host's resolvers are asked: as many as glibc does (MAXNS in resolv.h).
const MAX_RESOLVERS: usize = 3;
/// How many questions may be on their way on this host.
const MAX_IN_FLIGHT: usize = 1024;
/// How often a question is sent over UDP, and how long each is waited for.
const TRIES: u32 = 2;
const TRY: Duration = Duration::from_secs(2);
const OVERALL: Duration = TRY.saturating_mul(TRIES);
const DNS_PORT: u16 = 53;

/// The resolvers of the host.
#[derive(Debug)]
pub struct Upstream {
    resolvers: Resolvers,
    in_flight: Semaphore,
}

#[derive(Debug)]
enum Resolvers {
    Fixed(Vec<SocketAddr>),
    File(PathBuf),
}

/// How a client asked, and so how long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A question that no resolver of the host has answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Too many are on their way.
    #[error("{MAX_IN_FLIGHT} questions to this host's resolvers are on their way already: ask again")]
    Busy,
    /// There is no resolver other than ourselves.
    #[error("this host has no resolver to forward to: add a nameserver to {0}")]
    NoResolver(String),
    /// None answered in time.
    #[error("none of this host's resolvers answered: {0:?}; see {1}")]
    Silent(Vec<SocketAddr>, String),
}

impl Upstream {
    /// What `/etc/resolv.conf` says at the time of each question.
    pub fn system() -> Self {
        Self::resolv_conf("/etc/resolv.conf")
    }

    /// What a file in the form of resolv.conf(5) says at the time of each question.
    pub fn resolv_conf(path: impl Into<PathBuf>) -> Self {
        Self::over(Resolvers::File(path.into()))
    }

    /// Always these.
    pub fn fixed(resolvers: Vec<SocketAddr>) -> Self {
        Self::over(Resolvers::Fixed(resolvers))
    }

    fn over(resolvers: Resolvers) -> Self {
        Self { resolvers, in_flight: Semaphore::new(MAX_IN_FLIGHT) }
    }

    /// Asks all resolvers but `ourselves`, at most 4 seconds long. An answer cut short is asked for again over TCP if that
    /// is how the client asked. Where none has a useful answer, one resolver's refusal is the answer.
    pub(crate) async fn ask(
        &self,
        query: &[u8],
        question: &Query,
        transport: Transport,
        ourselves: &BTreeSet<IpAddr>,
    ) -> Result<Message, Unanswered> {
        let _permit = self.in_flight.try_acquire().map_err(|_| Unanswered::Busy)?;
        let mut resolvers = self.resolvers().await;
        resolvers.retain(|resolver| !ourselves.contains(&resolver.ip()));
        resolvers.truncate(MAX_RESOLVERS);
        if resolvers.is_empty() {
            return Err(Unanswered::NoResolver(self.source()));
        }
        let asked = resolvers.iter().map(|&resolver| Exchange { resolver, query, question }.run(transport));
        let mut race: FuturesUnordered<_> = asked.collect();
        let mut refusal = None;
        while let Some(answer) = race.next().await {
            match answer {
                Ok(answer) if is_useful(&answer) => return Ok(answer),
                Ok(answer) => refusal = Some(answer),
                Err(error) => tracing::debug!(%error, "a resolver of the host did not answer"),
            }
        }
        refusal.ok_or_else(|| Unanswered::Silent(resolvers, self.source()))
    }

    async fn resolvers(&self) -> Vec<SocketAddr> {
        match &self.resolvers {
            Resolvers::Fixed(resolvers) => resolvers.clone(),
            Resolvers::File(path) => parse(&tokio::fs::read_to_string(path).await.unwrap_or_default()),
        }
    }

    fn source(&self) -> String {
        match &self.resolvers {
            Resolvers::Fixed(_) => "its configuration".to_owned(),
            Resolvers::File(path) => path.display().to_string(),
        }
    }
}

/// The name servers of a resolv.conf(5); this very host where there are none, as that page says.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next().and_then(server)).flatten()
    });
    let mut servers: Vec<SocketAddr> = servers.collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, DNS_PORT).into());
    }
    servers
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, DNS_PORT).into());
    }
    // `fe80::1%eth0`: the C library turns the interface's name into its index, without asking anyone.
    let (address, _interface) = text.split_once('%')?;
    address.parse::<Ipv6Addr>().ok()?;
    (text, DNS_PORT).to_socket_addrs().ok()?.next()
}

fn is_useful(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// One question to one resolver.
struct Exchange<'a> {
    resolver: SocketAddr,
    query: &'a [u8],
    question: &'a Query,
}

impl Exchange<'_> {
    async fn run(self, transport: Transport) -> io::Result<Message> {
        let both = async {
            let answer = self.udp().await?;
            let cut_short = answer.metadata.truncation && transport == Transport::Tcp;
            if cut_short { self.tcp().await } else { Ok(answer) }
        };
        timeout(OVERALL, both).await?
    }

    async fn udp(&self) -> io::Result<Message> {
        let any: IpAddr =
            if self.resolver.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.resolver).await?;
        let id: u16 = rand::random();
        for _ in 0..TRIES {
            socket.send(&self.numbered(id)).await?;
            if let Ok(answer) = timeout(TRY, self.answer(&socket, id)).await {
                return answer;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The first datagram that is the answer; anything else may be forged and is passed over.
    async fn answer(&self, socket: &UdpSocket, id: u16) -> io::Result<Message> {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if let Some(answer) = self.accept(&buffer[..length], id) {
                return Ok(answer);
            }
        }
    }

    async fn tcp(&self) -> io::Result<Message> {
        let mut stream = TcpStream::connect(self.resolver).await?;
        let id: u16 = rand::random();
        let query = self.numbered(id);
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), query.as_slice()].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        self.accept(&answer, id).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The client's own bytes under an id of ours, so that nobody can guess it from the client's.
    fn numbered(&self, id: u16) -> Vec<u8> {
        let body = self.query.get(2..).unwrap_or_default();
        [&id.to_be_bytes(), body].concat()
    }

    fn accept(&self, bytes: &[u8], id: u16) -> Option<Message> {
        let answer = Message::from_vec(bytes).ok()?;
        let ours = answer.metadata.id == id && answer.queries.as_slice() == [self.question.clone()];
        ours.then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_names_the_servers_in_order_and_defaults_to_this_host() {
        let text =
            "# nameserver 9.9.9.9\nsearch example.org\nnameserver 10.0.0.1\nnameserver\t fd00::1 \nnameserver x\n";
        let expected: Vec<SocketAddr> = vec!["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), vec!["127.0.0.1:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_changed_resolv_conf_counts_from_the_next_question() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let upstream = Upstream::resolv_conf(file.path());
        for server in ["10.0.0.1", "10.0.0.2"] {
            std::fs::write(file.path(), format!("nameserver {server}\n")).unwrap();
            assert_eq!(upstream.resolvers().await, vec![format!("{server}:53").parse().unwrap()]);
        }
    }

    #[test]
    fn a_link_local_server_keeps_its_interface() {
        assert_eq!(parse("nameserver fe80::1%lo\n"), vec!["[fe80::1%1]:53".parse().unwrap()]);
    }
}
