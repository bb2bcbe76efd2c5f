//! The resolver on real sockets, asked by `dig`.

#![allow(clippy::unwrap_used)]

#[path = "../fixture/mod.rs"]
mod fixture;
mod resolver;
mod upstream;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dns::{Limits, Table, Upstream};
use fixture::{Host, MY_NET, VAULT};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};
use proptest::prelude::*;
use resolver::{FakeUpstream, Resolver, known};
use rustix::process::{Resource, Rlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn unknown(reply: &mut Message) {
    reply.metadata.response_code = ResponseCode::NXDomain;
    let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 86400);
    reply.add_authority(Record::from_rdata(Name::root(), 86400, RData::SOA(soa)));
}

fn broken(reply: &mut Message) {
    reply.metadata.response_code = ResponseCode::ServFail;
}

fn cut_short(reply: &mut Message) {
    known(reply);
    reply.metadata.truncation = true;
}

/// Takes questions and never answers.
async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Nobody listens there.
async fn closed() -> SocketAddr {
    silent().await.1
}

async fn alone() -> Resolver {
    Resolver::start(MY_NET, &Host::new(), Upstream::fixed(Vec::new())).await
}

#[tokio::test]
async fn names_of_ours_are_answered_in_both_families() {
    let resolver = alone().await;
    assert_eq!(resolver.short("web A").await, ["10.0.9.2"]);
    assert_eq!(resolver.short("web AAAA").await, ["fd00:9::2"]);
    assert_eq!(
        resolver.short("tasks.web.my-net AAAA").await,
        ["fd00:9::3", "fd00:9::4"]
    );
    assert_eq!(resolver.short("-x 10.0.9.3").await, ["web.1.my-net."]);
    assert_eq!(resolver.short("-x fd00:9::3").await, ["web.1.my-net."]);
}

#[tokio::test]
async fn both_families_and_both_transports_carry_answers() {
    let resolver = alone().await;
    for (way, server) in [("@127.0.0.1", "127.0.0.1#"), ("@::1", "::1#")] {
        for transport in ["UDP", "TCP"] {
            let flag = if transport == "TCP" { "+tcp" } else { "+notcp" };
            let answer = resolver.dig(&format!("{way} {flag} web.1 A")).await;
            let asked = answer
                .lines()
                .find(|line| line.starts_with(";; SERVER: "))
                .unwrap();
            assert!(
                asked.contains(server) && asked.contains(transport),
                "{answer}"
            );
            assert!(answer.contains("A\t10.0.9.3\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn one_connection_carries_many_questions() {
    let resolver = alone().await;
    assert_eq!(
        resolver
            .short("+tcp +keepopen web A web.1 A web AAAA")
            .await,
        ["10.0.9.2", "10.0.9.3", "fd00:9::2"]
    );
}

#[tokio::test]
async fn an_answer_is_authoritative_and_kept_for_seconds_only() {
    let answer = alone().await.dig("web A").await;
    assert!(answer.contains("flags: qr aa rd ra"), "{answer}");
    assert!(answer.contains("web.\t\t\t2\tIN\tA\t10.0.9.2"), "{answer}");
}

#[tokio::test]
async fn the_case_of_a_question_is_kept() {
    let answer = alone().await.dig("wEb.mY-nEt A").await;
    assert!(
        answer.contains(";wEb.mY-nEt.") && answer.contains("\nwEb.mY-nEt."),
        "{answer}"
    );
}

#[tokio::test]
async fn a_missing_type_is_no_data_that_nobody_keeps() {
    let answer = alone().await.dig("web MX").await;
    assert!(
        answer.contains("status: NOERROR") && answer.contains("ANSWER: 0, AUTHORITY: 1"),
        "{answer}"
    );
    assert!(
        answer.contains("web.\t\t\t0\tIN\tSOA\t_dns.my-net. . 42 1 1 1 0"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_address_without_a_name_is_no_such_name() {
    let answer = alone().await.dig("-x 10.0.9.77").await;
    assert!(
        answer.contains("status: NXDOMAIN") && answer.contains("9.0.10.in-addr.arpa.\t0\tIN\tSOA"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_cut_and_whole_over_tcp() {
    let mut host = Host::new();
    let addresses: Vec<String> = (0..300).map(|n| format!("10.0.9.{}", n % 250)).collect();
    host.name(
        MY_NET,
        "many",
        &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
        false,
    );
    let resolver = Resolver::start(MY_NET, &host, Upstream::fixed(Vec::new())).await;
    for size in ["+noedns", "+bufsize=512", "+bufsize=65535"] {
        let cut = resolver.dig(&format!("{size} +ignore +notcp many A")).await;
        assert!(
            cut.contains("flags: qr aa tc") && !cut.contains("malformed"),
            "{size}: {cut}"
        );
    }
    assert_eq!(resolver.short("many A").await.len(), 300);
}

#[tokio::test]
async fn malformed_questions_are_refused_with_the_right_code() {
    let resolver = alone().await;
    for (arguments, status) in [
        ("web CH TXT", "REFUSED"),
        ("+opcode=status web A", "NOTIMP"),
        ("+edns=1 +noednsneg web A", "BADVERS"),
        ("+header-only", "FORMERR"),
    ] {
        let answer = resolver.dig(arguments).await;
        assert!(
            answer.contains(&format!("status: {status}")),
            "{arguments}: {answer}"
        );
    }
}

#[tokio::test]
async fn the_rest_is_forwarded_whatever_its_type() {
    let mut live = FakeUpstream::start(known).await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![live.address])).await;
    let answer = resolver.dig("eXample.com A").await;
    assert!(
        answer.contains("eXample.com.\t\t300\tIN\tA\t192.0.2.1"),
        "{answer}"
    );
    resolver.dig("example.com TYPE65280").await;
    resolver.dig("single-label A").await;
    resolver.dig("web A").await;
    assert_eq!(
        live.questions(),
        [
            "udp eXample.com. IN A",
            "udp example.com. IN Unknown",
            "udp single-label. IN A"
        ]
    );
}

#[tokio::test]
async fn one_live_resolver_among_dead_and_broken_ones_is_enough() {
    let (_silent, dead) = silent().await;
    let (live, broken) = (
        FakeUpstream::start(known).await,
        FakeUpstream::start(broken).await,
    );
    let upstream = Upstream::fixed(vec![dead, broken.address, live.address]);
    let resolver = Resolver::start(MY_NET, &Host::new(), upstream).await;
    assert_eq!(
        resolver.short("+timeout=1 example.com A").await,
        ["192.0.2.1"]
    );
}

/// As [`known`], though later than another resolver would answer.
fn known_after_a_while(reply: &mut Message) {
    std::thread::sleep(Duration::from_millis(30));
    known(reply);
}

fn refused(reply: &mut Message) {
    reply.metadata.response_code = ResponseCode::Refused;
}

#[tokio::test(flavor = "multi_thread")]
async fn resolvers_are_asked_in_their_order() {
    let first = FakeUpstream::start(known_after_a_while).await;
    for other in [unknown, nothing, refused, broken] {
        let mut other = FakeUpstream::start(other).await;
        let upstream = Upstream::fixed(vec![first.address, other.address]);
        let resolver = Resolver::start(MY_NET, &Host::new(), upstream).await;
        assert_eq!(resolver.short("db1.corp A").await, ["192.0.2.1"]);
        assert!(other.questions().is_empty(), "the first one was in time");

        let upstream = Upstream::fixed(vec![other.address, first.address]);
        let resolver = Resolver::start(MY_NET, &Host::new(), upstream).await;
        let answer = resolver.dig("db1.corp A").await;
        let knows = answer.contains("192.0.2.1");
        let asks = other.questions().len();
        assert_eq!((knows, asks), (!is_an_answer(&answer), 1), "{answer}");
    }
}

fn nothing(reply: &mut Message) {
    unknown(reply);
    reply.metadata.response_code = ResponseCode::NoError;
}

/// Whether it says that there is nothing.
fn is_an_answer(answer: &str) -> bool {
    answer.contains("status: NXDOMAIN") || answer.contains("ANSWER: 0")
}

#[tokio::test]
async fn a_failure_names_the_resolvers_that_did_not_answer() {
    let dead = closed().await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![dead])).await;
    let answer = resolver.dig("example.com A").await;
    assert!(
        answer.contains("status: SERVFAIL") && answer.contains(&dead.to_string()),
        "{answer}"
    );
}

#[tokio::test]
async fn a_silent_resolver_does_not_delay_our_own_names() {
    let (socket, dead) = silent().await;
    let resolver =
        Arc::new(Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![dead])).await);
    let waiting = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.dig("example.com A").await }
    });
    socket.recv(&mut [0; 512]).await.unwrap();
    assert_eq!(resolver.short("web A").await, ["10.0.9.2"]);
    assert!(!waiting.is_finished());
    let answer = waiting.await.unwrap();
    assert!(
        answer.contains("status: SERVFAIL") && answer.contains("EDE: 22"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_flood_of_forwarded_questions_leaves_our_names_alone() {
    let (_silent, dead) = silent().await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![dead])).await;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut buffer = [0; 512];
    let length = loop {
        client
            .send_to(
                &question("example.com."),
                (Ipv4Addr::LOCALHOST, resolver.port),
            )
            .await
            .unwrap();
        tokio::task::yield_now().await;
        if let Ok(length) = client.try_recv(&mut buffer) {
            break length;
        }
    };
    assert_eq!(
        Message::from_vec(&buffer[..length])
            .unwrap()
            .metadata
            .response_code,
        ResponseCode::ServFail
    );
    assert_eq!(resolver.short("web A").await, ["10.0.9.2"]);
    let answer = resolver.dig("example.com A").await;
    assert!(
        answer.contains("too many forwarded queries of this client"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_answer_cut_short_is_fetched_over_tcp() {
    let mut live = FakeUpstream::start(cut_short).await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![live.address])).await;
    assert_eq!(resolver.short("example.com A").await, ["192.0.2.1"]);
    assert_eq!(
        live.questions(),
        [
            "udp example.com. IN A",
            "udp example.com. IN A",
            "tcp example.com. IN A"
        ]
    );
}

#[tokio::test]
async fn nobody_keeps_that_a_name_does_not_exist_elsewhere() {
    let live = FakeUpstream::start(unknown).await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![live.address])).await;
    let answer = resolver.dig("soon-a-service A").await;
    assert!(
        answer.contains("status: NXDOMAIN") && answer.contains(".\t\t\t0\tIN\tSOA"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_internal_network_forwards_nothing() {
    let mut live = FakeUpstream::start(known).await;
    let resolver = Resolver::start(VAULT, &Host::new(), Upstream::fixed(vec![live.address])).await;
    let answer = resolver.dig("example.com A").await;
    assert!(
        answer.contains("status: NXDOMAIN") && answer.contains("the network is internal"),
        "{answer}"
    );
    assert_eq!(resolver.short("safe A").await, ["10.0.11.2"]);
    assert_eq!(live.questions(), [""; 0]);
}

#[tokio::test]
async fn our_own_gateways_are_never_asked() {
    let live = FakeUpstream::start(known).await;
    let mut host = Host::new();
    let network = host.0.networks.get_mut(&MY_NET).unwrap();
    network.subnets[0].gateway = live.address.ip();
    let resolver = Resolver::start(MY_NET, &host, Upstream::fixed(vec![live.address])).await;
    let answer = resolver.dig("example.com A").await;
    assert!(
        answer.contains("status: SERVFAIL") && answer.contains("no resolver to forward to"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_sees_the_names_of_its_own_networks() {
    let mut host = Host::new();
    host.task(&[(MY_NET, "127.0.0.5"), (VAULT, "10.0.11.5")]);
    let resolver = Resolver::start(MY_NET, &host, Upstream::fixed(Vec::new())).await;
    assert_eq!(resolver.short("-b 127.0.0.5 safe A").await, ["10.0.11.2"]);
    assert_eq!(resolver.short("-b 127.0.0.6 safe A").await, [""; 0]);
    assert_eq!(resolver.short("-b 127.0.0.6 web A").await, ["10.0.9.2"]);
}

#[tokio::test]
async fn a_change_of_the_table_is_seen_by_the_next_question() {
    let mut host = Host::new();
    let resolver = Resolver::start(MY_NET, &host, Upstream::fixed(Vec::new())).await;
    assert_eq!(resolver.short("web A").await, ["10.0.9.2"]);
    host.name(MY_NET, "web", &["10.0.9.42"], true);
    resolver.table.send_replace(Table::of(&host.0));
    assert_eq!(resolver.short("web A").await, ["10.0.9.42"]);
}

#[tokio::test]
async fn a_dropped_resolver_gives_its_sockets_back() {
    let resolver = alone().await;
    let port = resolver.port;
    drop(resolver);
    let both = || async {
        tokio::try_join!(
            UdpSocket::bind(("::1", port)),
            TcpListener::bind(("::1", port))
        )
    };
    let freed = async {
        while both().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), freed)
        .await
        .expect("the sockets are closed");
}

/// Takes its time for names that begin with `slow`, answers others at once.
async fn moody() -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let mut reply = Message::from_vec(&buffer[..length])
                .unwrap()
                .into_response();
            known(&mut reply);
            let (socket, slow) = (
                socket.clone(),
                reply.queries[0].name().to_string().starts_with("slow"),
            );
            tokio::spawn(async move {
                if slow {
                    tokio::time::sleep(Duration::from_millis(700)).await;
                }
                socket
                    .send_to(&reply.to_vec().unwrap(), client)
                    .await
                    .unwrap();
            });
        }
    });
    address
}

async fn write_question(stream: &mut tokio::net::TcpStream, name: &str) {
    let bytes = question(name);
    stream
        .write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat())
        .await
        .unwrap();
}

async fn read_answer(stream: &mut tokio::net::TcpStream) -> Message {
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn pipelined_questions_are_answered_as_answers_come() {
    let upstream = Upstream::fixed(vec![moody().await]);
    let resolver = Resolver::start(MY_NET, &Host::new(), upstream).await;
    let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, resolver.port))
        .await
        .unwrap();
    for name in ["slow.example.", "quick.example.", "web."] {
        write_question(&mut stream, name).await;
    }
    // The client says that it has no more to ask, and still gets all.
    stream.shutdown().await.unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(read_answer(&mut stream).await.queries[0].name().to_string());
    }
    assert_eq!(
        order.pop().unwrap(),
        "slow.example.",
        "nobody waits for it: {order:?}"
    );
    assert_eq!(
        stream.read(&mut [0]).await.unwrap(),
        0,
        "then the connection ends"
    );
}

#[tokio::test]
async fn many_thousand_pipelined_questions_are_all_answered() {
    let resolver = alone().await;
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, resolver.port))
        .await
        .unwrap();
    let (mut read, mut write) = stream.into_split();
    let all = 20_000_u16;
    tokio::spawn(async move {
        for id in 0..all {
            let mut bytes = question("web.");
            bytes[..2].copy_from_slice(&id.to_be_bytes());
            write
                .write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat())
                .await
                .unwrap();
        }
        std::future::pending::<()>().await;
    });
    for id in 0..all {
        let mut answer = vec![0; usize::from(read.read_u16().await.unwrap())];
        read.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..2], id.to_be_bytes());
    }
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_others_have_theirs() {
    let resolver = alone().await;
    let connect = || tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, resolver.port));
    let mut open = Vec::new();
    for _ in 0..Limits::default().connections {
        let mut stream = connect().await.unwrap();
        write_question(&mut stream, "web.").await;
        read_answer(&mut stream).await;
        open.push(stream);
    }
    let mut refused = connect().await.unwrap();
    assert!(
        matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)),
        "closed at once"
    );
    let mut other = tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, resolver.port))
        .await
        .unwrap();
    write_question(&mut other, "web.").await;
    assert_eq!(read_answer(&mut other).await.answers.len(), 1);
}

/// A question that comes byte by byte, for as long as one likes.
#[tokio::test]
async fn a_client_that_takes_its_time_to_ask_is_disconnected() {
    let resolver = alone().await;
    let (start, longest) = (Instant::now(), Duration::from_secs(12));
    let place = (Ipv4Addr::LOCALHOST, resolver.port);
    let mut stream = tokio::net::TcpStream::connect(place).await.unwrap();
    stream.write_all(&[0, 200]).await.unwrap();
    while start.elapsed() < longest {
        if stream.write_all(&[0]).await.is_err() {
            break;
        }
        let read = timeout(Duration::from_millis(250), stream.read(&mut [0])).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    assert!(start.elapsed() < longest, "still connected");
    assert_eq!(resolver.short("+tcp web A").await, ["10.0.9.2"]);
}

/// As many connections as a resolver has in all, and thousands more, of as many clients as it
/// takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_are_refused_beyond_the_bound() {
    const ALL: usize = 10_000;
    const OPEN: usize = 512;
    let files = rustix::process::getrlimit(Resource::Nofile);
    let files = Rlimit {
        current: files.maximum,
        ..files
    };
    rustix::process::setrlimit(Resource::Nofile, files).unwrap();
    let resolver = alone().await;
    let place = (Ipv4Addr::LOCALHOST, resolver.port).into();
    let connect = async |number: usize| {
        let [low, high] = [number % 250 + 1, number / 250 % 250].map(|part| part as u8);
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let client = Ipv4Addr::new(127, 9, high, low);
        socket.bind((client, 0).into()).unwrap();
        socket.connect(place).await.unwrap()
    };
    let (start, mut open) = (Instant::now(), Vec::new());
    for number in 0..OPEN {
        let mut stream = connect(number).await;
        write_question(&mut stream, "web.").await;
        read_answer(&mut stream).await;
        open.push(stream);
    }
    for number in OPEN..ALL {
        let mut refused = connect(number).await;
        let read = timeout(PATIENCE, refused.read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "connection {number}");
    }
    // A silent one ends after ten seconds.
    let is_young = start.elapsed() < Duration::from_secs(8);
    for stream in open.iter_mut().filter(|_| is_young) {
        assert!(
            timeout(Duration::ZERO, stream.read(&mut [0]))
                .await
                .is_err()
        );
    }
    assert_eq!(resolver.short("web A").await, ["10.0.9.2"]);
    open.truncate(OPEN / 2);
    let answered = async { while resolver.short("+tcp web A").await != ["10.0.9.2"] {} };
    timeout(PATIENCE, answered)
        .await
        .expect("there is room again");
}

/// What a flood costs others is time; how much is told by `cargo bench -p tests --bench names`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_client_is_cut_short_and_others_are_answered() {
    let limits = Limits {
        queries: 100,
        ..Limits::default()
    };
    let resolver =
        Resolver::limited(MY_NET, &Host::new(), Upstream::fixed(Vec::new()), limits).await;
    let port = resolver.port;
    let flooding = Arc::new(AtomicBool::new(true));
    let flood = tokio::task::spawn_blocking({
        let (flooding, bytes) = (flooding.clone(), question("tasks.web."));
        move || {
            let socket = std::net::UdpSocket::bind("127.0.0.66:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let (start, mut sent, mut answered) = (Instant::now(), 0_u64, 0_u64);
            while flooding.load(Ordering::Relaxed) || sent < 10_000 {
                sent += u64::from(socket.send_to(&bytes, ("127.0.0.1", port)).is_ok());
                answered += u64::from(socket.recv(&mut [0; 512]).is_ok());
            }
            (sent, answered, start.elapsed())
        }
    });
    let client = UdpSocket::bind("127.0.0.67:0").await.unwrap();
    for _ in 0..20 {
        let answered = async {
            // A question may be lost where it arrives, as on any way: resolvers of clients repeat
            // theirs.
            while {
                client
                    .send_to(&question("web."), (Ipv4Addr::LOCALHOST, port))
                    .await
                    .unwrap();
                timeout(Duration::from_millis(500), client.recv(&mut [0; 512]))
                    .await
                    .is_err()
            } {}
        };
        timeout(PATIENCE, answered)
            .await
            .expect("an answer beside the flood");
    }
    flooding.store(false, Ordering::Relaxed);
    let (sent, answered, time) = flood.await.unwrap();
    let allowed = u64::from(limits.queries) * (2 + time.as_secs());
    assert!(
        answered <= allowed,
        "{answered} of {sent} were answered in {time:?}"
    );
}

#[tokio::test]
async fn forwarded_answers_are_kept_and_grow_old() {
    let mut live = FakeUpstream::start(known).await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![live.address])).await;
    for name in ["example.com", "EXAMPLE.com", "example.COM"] {
        assert!(
            resolver
                .dig(&format!("{name} A"))
                .await
                .contains(&format!("\n{name}.\t\t")),
            "each gets its own case"
        );
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let old = resolver.dig("+tcp example.com A").await;
    assert!(
        old.contains("\t299\tIN") || old.contains("\t298\tIN"),
        "{old}"
    );
    assert_eq!(live.questions(), ["udp example.com. IN A"], "asked once");
}

#[tokio::test]
async fn a_name_that_becomes_ours_is_not_answered_from_the_cache() {
    let live = FakeUpstream::start(known).await;
    let mut host = Host::new();
    let resolver = Resolver::start(MY_NET, &host, Upstream::fixed(vec![live.address])).await;
    assert_eq!(resolver.short("later A").await, ["192.0.2.1"]);
    host.name(MY_NET, "later", &["10.0.9.77"], true);
    resolver.table.send_replace(Table::of(&host.0));
    assert_eq!(resolver.short("later A").await, ["10.0.9.77"]);
}

#[tokio::test]
async fn the_same_question_is_forwarded_once_even_in_a_loop() {
    let (socket, loops) = silent().await;
    let resolver =
        Arc::new(Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![loops])).await);
    let port = resolver.port;
    let asking = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.dig("example.com A").await }
    });
    // What arrives there is sent back to us without our mark, as a resolver in between would.
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
    let mut plain = Message::from_vec(&buffer[..length]).unwrap();
    plain.edns = None;
    for _ in 0..50 {
        socket
            .send_to(&plain.to_vec().unwrap(), (Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
    }
    let answer = asking.await.unwrap();
    assert!(answer.contains("status: SERVFAIL"), "{answer}");
    let mut again = 0;
    while let Ok((length, _)) = socket.try_recv_from(&mut buffer) {
        again += u32::from(
            Message::from_vec(&buffer[..length]).is_ok_and(|message| message.edns.is_some()),
        );
    }
    assert!(
        again <= 1,
        "asked {again} more times, where one repetition is due"
    );
}

#[tokio::test]
async fn a_resolver_that_knows_no_edns_is_asked_without() {
    let old = FakeUpstream::start(|reply| {
        if reply.edns.is_some() {
            reply.metadata.response_code = ResponseCode::FormErr;
        } else {
            known(reply);
        }
    })
    .await;
    let resolver = Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![old.address])).await;
    assert_eq!(resolver.short("example.com A").await, ["192.0.2.1"]);
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// Noise, and questions with a few bytes changed.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..600);
    let damaged = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
        .prop_map(|changes| {
            let mut bytes = question("tasks.web.my-net.");
            changes
                .iter()
                .for_each(|(index, value)| *index.get_mut(&mut bytes) = *value);
            bytes
        });
    prop_oneof![noise, damaged]
}

async fn still_answers(address: IpAddr, datagrams: Vec<Vec<u8>>) -> bool {
    let resolver = alone().await;
    let sender = UdpSocket::bind((address, 0)).await.unwrap();
    for datagram in &datagrams {
        sender
            .send_to(datagram, (address, resolver.port))
            .await
            .unwrap();
    }
    let client = UdpSocket::bind((address, 0)).await.unwrap();
    client
        .send_to(&question("web."), (address, resolver.port))
        .await
        .unwrap();
    let mut buffer = [0; 512];
    let length = tokio::time::timeout(Duration::from_secs(5), client.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buffer[..length]).unwrap().answers.len() == 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_datagram_stops_the_resolver(datagrams in prop::collection::vec(datagram(), 1..30),
        v6: bool) {
        let (one, other) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let address: IpAddr = if v6 { other } else { one };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        prop_assert!(runtime.block_on(still_answers(address, datagrams)));
    }
}
