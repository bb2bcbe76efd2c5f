//! Network namespaces for tests: one per test, or a small lab of them, gone afterwards.

#![allow(dead_code)]

#[path = "../../../nftables/tests/support/mod.rs"]
mod namespace;
pub mod suite;

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use model::{Mac, names::LinkName};
use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};
use rules::guard::Sources;

#[allow(unused_imports)]
pub use namespace::{in_fresh_namespace, nft, run};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A named network namespace.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new(role: &str) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ipvs-{}-{number}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self(name)
    }

    /// Runs on a thread inside.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(
                    File::open(format!("/run/netns/{}", self.0)).unwrap(),
                    CloneFlags::CLONE_NEWNET,
                )
                .unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.0))
    }

    pub fn route_packets(&self) {
        self.within(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "0").unwrap();
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// A router and endpoints behind it, each with one address per family, as on a host of an overlay
/// network.
pub struct Lab {
    pub router: Namespace,
    pub endpoints: Vec<Namespace>,
}

pub const GATEWAYS: [&str; 2] = ["10.0.9.1", "fd00:9::1"];

/// IPv4 and IPv6 address of endpoint number `index`.
pub fn addresses(index: usize) -> [IpAddr; 2] {
    [
        format!("10.0.9.{}", 10 + index).parse().unwrap(),
        format!("fd00:9::{}", 10 + index).parse().unwrap(),
    ]
}

/// Ethernet address of endpoint number `index`.
pub fn mac(index: usize) -> Mac {
    Mac::of_endpoint(addresses(index)[0])
}

/// What so many endpoints may send.
pub fn sources(endpoints: usize) -> Sources {
    let of = |index: usize| {
        let link = LinkName::parse(&format!("e{index}")).unwrap();
        addresses(index).map(|address| (link.clone(), mac(index), address))
    };
    Sources {
        endpoints: (0..endpoints).flat_map(of).collect(),
        ..Sources::default()
    }
}

impl Lab {
    pub fn new(endpoints: usize) -> Self {
        let router = Namespace::new("router");
        router.route_packets();
        router.ip("addr add fd00:9::1/128 dev lo nodad");
        let endpoints = (0..endpoints)
            .map(|index| endpoint(&router, index))
            .collect();
        Self { router, endpoints }
    }
}

fn endpoint(router: &Namespace, index: usize) -> Namespace {
    let inside = Namespace::new("endpoint");
    let link = format!("e{index}");
    let [v4, v6] = addresses(index);
    router.ip(&format!(
        "link add {link} type veth peer name eth0 netns {}",
        inside.0
    ));
    router.ip(&format!("link set {link} up"));
    inside.ip(&format!("link set eth0 address {} up", mac(index)));
    router.ip(&format!("addr add 10.0.9.1/32 dev {link}"));
    router.ip(&format!("addr add fe80::1/64 dev {link} nodad"));
    router.ip(&format!("route add {v4} dev {link}"));
    router.ip(&format!("-6 route add {v6} dev {link}"));
    inside.ip(&format!("addr add {v4}/32 dev eth0"));
    inside.ip(&format!("addr add {v6}/128 dev eth0 nodad"));
    inside.ip("route add 10.0.9.1 dev eth0");
    inside.ip("route add default via 10.0.9.1");
    inside.ip("-6 route add default via fe80::1 dev eth0");
    inside
}

/// Answers on TCP and UDP port 80, both families, with `NAME CLIENT`; TCP then echoes, or ends the
/// connection at port 81.
pub fn serve(namespace: &Namespace, name: &str) {
    let short = namespace.within(|| TcpListener::bind("[::]:81").unwrap());
    let greeting = name.to_owned();
    thread::spawn(move || {
        for mut connection in short.incoming().flatten() {
            let _ = connection.write_all(greeting.as_bytes());
        }
    });
    let (tcp, udp) = namespace.within(|| {
        (
            TcpListener::bind("[::]:80").unwrap(),
            UdpSocket::bind("[::]:80").unwrap(),
        )
    });
    let greeting = name.to_owned();
    thread::spawn(move || {
        for connection in tcp.incoming().flatten() {
            let greeting = greeting.clone();
            thread::spawn(move || greet(connection, &greeting));
        }
    });
    let greeting = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(
                format!("{greeting} {}", from.ip().to_canonical()).as_bytes(),
                from,
            );
        }
    });
}

fn greet(mut connection: TcpStream, name: &str) -> Option<()> {
    let client = connection.peer_addr().ok()?.ip().to_canonical();
    connection
        .write_all(format!("{name} {client}\n").as_bytes())
        .ok()?;
    let mut buffer = [0; 64];
    loop {
        let length = connection
            .read(&mut buffer)
            .ok()
            .filter(|length| *length > 0)?;
        connection.write_all(&buffer[..length]).ok()?;
    }
}

pub const PATIENCE: Duration = Duration::from_secs(10);

/// An open connection to port 80.
pub fn connect(namespace: &Namespace, to: IpAddr) -> std::io::Result<TcpStream> {
    let connection =
        namespace.within(|| TcpStream::connect_timeout(&SocketAddr::new(to, 80), PATIENCE))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Reads a line.
pub fn line(mut connection: &TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while connection.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// `NAME CLIENT`, as one connection was answered.
pub fn ask_tcp(namespace: &Namespace, to: IpAddr) -> String {
    line(&connect(namespace, to).unwrap())
}

/// A socket of its own that talks to port 80.
pub fn udp(namespace: &Namespace, to: IpAddr) -> UdpSocket {
    namespace.within(|| {
        let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
        socket.connect((to, 80)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

/// `NAME CLIENT`, as one datagram was answered.
pub fn ask_udp(namespace: &Namespace, to: IpAddr) -> std::io::Result<String> {
    exchange(&udp(namespace, to))
}

/// The same on a socket that is there.
pub fn exchange(socket: &UdpSocket) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    socket.send(b"?")?;
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether an ICMP echo request (RFC 792) is answered.
pub fn ping(namespace: &Namespace, to: IpAddr) -> bool {
    let socket = namespace.within(|| {
        let (family, protocol) = (AddressFamily::Inet, SockProtocol::Icmp);
        UdpSocket::from(socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap())
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Type 8, code 0, checksum, identifier, sequence number.
    socket
        .send_to(&[8, 0, 0xf7, 0xfd, 0, 1, 0, 1], (to, 0))
        .unwrap();
    let mut buffer = [0; 64];
    const IP_HEADER: usize = 20;
    socket.recv(&mut buffer).is_ok() && buffer[IP_HEADER] == 0
}
