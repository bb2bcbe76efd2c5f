//! `netd whoami`: a small HTTP/1.1 server for demos and tests. It prints which task answers and the
//! client's address.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead, BufReader, PipeReader, Read, Write},
    net::{
        IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream,
    },
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use model::{Failure, Kind};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike,
            SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
        },
    },
    unistd::gethostname,
};

/// Connections answered at a time; further ones wait.
const CONNECTIONS: usize = 512;
/// Timeout of a silent connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of one request's head.
const HEAD: u64 = 16 << 10;
const BACKLOG: i32 = 1024;
/// After SIGTERM, time in which an open connection may send one more request; the response has
/// `Connection: close`.
const FAREWELL: Duration = Duration::from_secs(1);
/// After that, time limit for responses in progress.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The responder cannot run.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on TCP port {port}: {reason}")]
pub struct WhoamiError {
    port: u16,
    reason: io::Error,
}

impl From<WhoamiError> for Failure {
    fn from(error: WhoamiError) -> Self {
        let next = "free the port, or choose another one by --port";
        Failure::new(Kind::Conflict, error.to_string(), next)
            .about(format!("TCP port {}", error.port))
            .with_errno(error.reason.raw_os_error())
    }
}

/// Answers HTTP requests on this TCP port, IPv6 and IPv4, until SIGTERM; then takes leave of those
/// who are connected.
pub fn run(port: u16) -> Result<(), WhoamiError> {
    let failed = |reason| WhoamiError { port, reason };
    let listener = open(port)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(failed)?;
    let guests = Arc::new(Guests::default());
    let end = end_of_service(guests.clone()).map_err(failed)?;
    for number in 0.. {
        if guests.wait_for_fewer_than(CONNECTIONS, Duration::MAX) {
            match listener.accept() {
                Ok((stream, _)) => receive(number, stream, &guests),
                // Whoever was waiting has been let in: from now on nobody is.
                Err(_) if guests.are_leaving() => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&listener, &end),
                // Errors here belong to one connection, or to a lack of descriptors that passes.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    drop(listener);
    if !guests.wait_for_fewer_than(1, FAREWELL) {
        guests.stop_listening();
        guests.wait_for_fewer_than(1, LAST_WORDS);
    }
    Ok(())
}

/// A pipe that ends with SIGTERM. To be called while the process has one thread: the others inherit
/// the mask.
fn end_of_service(guests: Arc<Guests>) -> io::Result<PipeReader> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let (reader, writer) = io::pipe()?;
    thread::spawn(move || {
        let _ = signals.wait();
        guests.leaving.store(true, Ordering::SeqCst);
        drop(writer);
    });
    Ok(reader)
}

/// Until somebody calls, or the service ends.
fn wait(listener: &TcpListener, end: &PipeReader) {
    let watched = [listener.as_fd(), end.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let _ = poll(&mut { watched }, PollTimeout::NONE);
}

fn receive(number: u64, stream: TcpStream, guests: &Arc<Guests>) {
    let stream = Arc::new(stream);
    guests.list().insert(number, stream.clone());
    let guests = guests.clone();
    thread::spawn(move || {
        let _ = converse(&stream, &guests);
        guests.list().remove(&number);
        guests.changed.notify_all();
    });
}

/// Who is connected.
#[derive(Default)]
struct Guests {
    streams: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
    changed: Condvar,
    leaving: AtomicBool,
}

impl Guests {
    fn list(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<TcpStream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn are_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// Whether there are fewer within this time.
    fn wait_for_fewer_than(&self, count: usize, time: Duration) -> bool {
        let crowded = |list: &mut BTreeMap<_, _>| list.len() >= count;
        let waited = self.changed.wait_timeout_while(self.list(), time, crowded);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Whoever says nothing is taken to have nothing more to say.
    fn stop_listening(&self) {
        self.list()
            .values()
            .for_each(|stream| drop(stream.shutdown(Shutdown::Read)));
    }
}

/// Both families on one socket, whatever net.ipv6.bindv6only says; IPv4 alone on a host without
/// IPv6.
fn open(port: u16) -> io::Result<TcpListener> {
    let both = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
    match listen_at(AddressFamily::Inet6, &both) {
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            let v4 = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
            Ok(listen_at(AddressFamily::Inet, &v4)?.into())
        }
        result => Ok(result?.into()),
    }
}

fn listen_at(family: AddressFamily, address: &dyn SockaddrLike) -> nix::Result<OwnedFd> {
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    bind(fd.as_raw_fd(), address)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// One connection: requests one after the other until either side has had enough.
fn converse(mut stream: &TcpStream, guests: &Guests) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?.ip().to_canonical();
    let mut reader = BufReader::new(stream);
    while let Some(mut asked) = Asked::read(&mut reader)? {
        asked.close |= guests.are_leaving();
        stream.write_all(&answer(&asked, client))?;
        if asked.close {
            return Ok(());
        }
    }
    Ok(())
}

/// What matters of a request.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    /// Only the head of the answer is wanted.
    head_only: bool,
    close: bool,
}

impl Asked {
    /// The next request, its body skipped; `None` if there is none.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = reader.by_ref().take(HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next())
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let (head_only, path) = (method == "HEAD", path.to_owned());
        let mut close = version != "HTTP/1.1";
        let mut length = 0;
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("connection", value) => {
                    close = !value.eq_ignore_ascii_case("keep-alive") && (close || has_close(value))
                }
                ("content-length", value) => length = value.parse().map_err(io::Error::other)?,
                // Bodies of unknown length are not read: the connection ends with the answer.
                ("transfer-encoding", _) => close = true,
                _ => {}
            }
        }
        io::copy(&mut reader.take(length), &mut io::sink())?;
        Ok(Some(Self {
            path,
            head_only,
            close,
        }))
    }
}

fn has_close(value: &str) -> bool {
    value
        .split(',')
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn answer(asked: &Asked, client: IpAddr) -> Vec<u8> {
    let variable = |name| env::var(name).unwrap_or_default();
    let hostname = gethostname().unwrap_or_default();
    let addresses: Vec<_> = addresses().iter().map(IpAddr::to_string).collect();
    let body = format!(
        "task: {}\nhost: {}\nhostname: {}\naddresses: {}\nclient: {client}\npath: {}\n",
        variable("NETD_TASK"),
        variable("NETD_NODE"),
        hostname.display(),
        addresses.join(" "),
        asked.path,
    );
    let connection = if asked.close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: {connection}\r\n\r\n",
        body.len()
    );
    if asked.head_only {
        head.into_bytes()
    } else {
        (head + &body).into_bytes()
    }
}

/// The addresses that others can reach, IPv4 first.
fn addresses() -> Vec<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let outward =
        interfaces.filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let mut found: Vec<_> = outward
        .filter_map(|interface| address(&interface.address?))
        .collect();
    found.sort();
    found
}

fn address(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(v4.ip().into());
    }
    let v6 = address.as_sockaddr_in6()?.ip();
    (!v6.is_unicast_link_local()).then_some(v6.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Asked {
        Asked::read(&mut text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn connections_are_kept_as_http_says() {
        assert!(!read("GET /x HTTP/1.1\r\nHost: web\r\n\r\n").close);
        assert!(read("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").close);
        assert!(read("GET / HTTP/1.0\r\n\r\n").close);
        assert!(!read("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").close);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_of_a_client_bring_the_responder_down(
            bytes in "(GET|[A-Z]{0,3})? ?/?[ -~]{0,9}\
                      (\r?\n[a-zA-Z-]{0,12}:? ?[0-9a-z]{0,21}){0,3}\r\n\r\n.{0,40}",
        ) {
            let mut reader = bytes.as_bytes();
            while let Ok(Some(asked)) = Asked::read(&mut reader) {
                answer(&asked, IpAddr::from([192, 0, 2, 1]));
            }
        }
    }

    #[test]
    fn a_body_does_not_become_the_next_request() {
        let mut reader =
            "POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\n\r\n".as_bytes();
        let paths = [Asked::read(&mut reader), Asked::read(&mut reader)]
            .map(|asked| asked.unwrap().unwrap().path);
        assert_eq!(paths, ["/a", "/b"]);
        assert_eq!(Asked::read(&mut reader).unwrap(), None);
    }
}
