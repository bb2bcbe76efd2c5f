//! What every engine promises, with real sockets: each promise is a function of the engine. Where
//! engines differ, the promise says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use ipvs::{Balancer, Clients, IpVs, Nftables, Op, Table, VirtualService, diff};
use model::{Balance, Scheduler};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen};
use rules::guard::guard;

use super::{
    GATEWAYS, Lab, Namespace, PATIENCE, addresses, ask_tcp, ask_udp, connect, exchange,
    in_fresh_namespace, line, ping, run, serve, sources, udp,
};

/// One test for each promise, kept by the engine that `$engine` gives.
#[allow(unused_macros)]
macro_rules! promises {
    ($engine:expr) => {
        $crate::support::suite::promises! { @each $engine;
            replicas_answer_in_turn_and_see_the_client
            datagrams_of_an_old_socket_leave_a_removed_server_at_once
            echo_requests_are_answered
            weights_are_turns
            every_way_to_choose_reaches_every_server
            a_client_keeps_its_server_by_its_address
            affinity_holds_until_its_server_takes_no_more
            an_endpoint_balanced_to_itself_sees_the_gateway
            a_service_without_a_server_refuses_at_once
            established_connections_survive_every_change
            connections_to_a_removed_server_are_reset
            ports_used_again_stall_nobody
            thousands_of_questions_with_a_socket_each_are_answered
            flows_of_datagrams_outlive_keepalives
            idle_connections_live_for_hours
            hundreds_of_services_come_and_go
            traffic_is_counted
            sctp_is_balanced_where_there_is_any
        }
    };
    (@each $engine:expr; $($promise:ident)+) => {
        $(#[test]
        fn $promise() {
            $crate::support::suite::$promise($engine);
        })+
    };
}
#[allow(unused_imports)]
pub(crate) use promises;

pub const VIPS: [&str; 2] = ["10.0.9.250", "fd00:9::fa"];

/// Which engine is put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Nftables,
    IpVs,
}

impl Engine {
    /// In the calling thread's network namespace.
    pub fn open(self) -> Box<dyn Balancer> {
        match self {
            Engine::Nftables => Box::new(Nftables::open(Clients::Routed).unwrap()),
            Engine::IpVs => Box::new(IpVs::open().unwrap()),
        }
    }
}

pub fn vip(family: usize) -> IpAddr {
    VIPS[family].parse().unwrap()
}

pub fn balance(scheduler: Scheduler, affinity: Option<u32>) -> Balance {
    Balance {
        scheduler,
        affinity,
    }
}

/// One service with these endpoints behind it, by number and weight.
pub fn table(servers: &[(usize, u16)]) -> Table {
    chosen(Balance::default(), servers)
}

/// The same, chosen so.
pub fn chosen(balance: Balance, servers: &[(usize, u16)]) -> Table {
    let service = |family: usize| {
        let real_servers = servers
            .iter()
            .map(|(index, weight)| (addresses(*index)[family], *weight))
            .collect();
        (
            vip(family),
            VirtualService {
                balance,
                real_servers,
            },
        )
    };
    Table {
        services: (0..2).map(service).collect(),
        hairpins: BTreeMap::new(),
    }
}

pub fn load(namespace: &Namespace, desired: &nftables::Ruleset) {
    let mut socket = namespace.within(|| nftables::Socket::open().unwrap());
    let observed = nftables::observe(&mut socket, desired.family, &desired.name).unwrap();
    nftables::apply(
        &mut socket,
        &nftables::difference(Some(desired), observed.as_ref()).unwrap(),
    )
    .unwrap();
}

/// A client (endpoint 0), `servers` endpoints that serve, and `more` clients; the guard stands.
pub fn lab_of(engine: Engine, servers: usize, more: usize) -> (Lab, Box<dyn Balancer>) {
    let lab = Lab::new(servers + more + 1);
    load(&lab.router, &guard(&sources(servers + more + 1)));
    for index in 1..=servers {
        serve(&lab.endpoints[index], &format!("s{index}"));
    }
    let balancer = lab.router.within(|| engine.open());
    (lab, balancer)
}

pub fn lab(engine: Engine, servers: usize) -> (Lab, Box<dyn Balancer>) {
    lab_of(engine, servers, 0)
}

pub fn reconcile(balancer: &mut dyn Balancer, desired: &Table) -> Vec<Op> {
    let ops = balancer
        .reconcile(desired)
        .unwrap_or_else(|error| panic!("{error}"));
    let observed = balancer.observe().unwrap();
    assert_eq!((&*observed.table, &observed.damage[..]), (desired, &[][..]));
    assert_eq!(diff(desired, &observed), []);
    ops
}

fn server_of(answer: &str) -> usize {
    answer
        .split(' ')
        .next()
        .and_then(|name| name.strip_prefix('s'))
        .unwrap()
        .parse()
        .unwrap()
}

pub fn replicas_answer_in_turn_and_see_the_client(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 3);
    reconcile(&mut *balancer, &table(&[(1, 1), (2, 1), (3, 1)]));
    let client = &lab.endpoints[0];
    for family in 0..2 {
        let own = addresses(0)[family];
        let all: BTreeSet<String> = (1..=3).map(|index| format!("s{index} {own}")).collect();
        for _ in 0..3 {
            let tcp: BTreeSet<String> = (0..3).map(|_| ask_tcp(client, vip(family))).collect();
            assert_eq!(tcp, all);
        }
        let udp: BTreeSet<String> = (0..3)
            .map(|_| ask_udp(client, vip(family)).unwrap())
            .collect();
        assert_eq!(udp, all);
    }
}

pub fn datagrams_of_an_old_socket_leave_a_removed_server_at_once(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    for family in 0..2 {
        reconcile(&mut *balancer, &table(&[(1, 1), (2, 1)]));
        let own = addresses(0)[family];
        let socket = udp(&lab.endpoints[0], vip(family));
        let first = exchange(&socket).unwrap();
        assert_eq!(exchange(&socket).unwrap(), first);
        let here = server_of(&first);
        let other = 3 - here;
        let bystander = udp(&lab.endpoints[0], addresses(here)[family]);
        exchange(&bystander).unwrap();
        // What takes no new ones answers the old until it is removed.
        reconcile(&mut *balancer, &table(&[(here, 0), (other, 1)]));
        assert_eq!(exchange(&socket).unwrap(), first);
        reconcile(&mut *balancer, &table(&[(other, 1)]));
        assert_eq!(exchange(&socket).unwrap(), format!("s{other} {own}"));
        assert_eq!(exchange(&bystander).unwrap(), first);
    }
}

/// And with them whatever protocol the engine does not know.
pub fn echo_requests_are_answered(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 1);
    reconcile(&mut *balancer, &table(&[(1, 1)]));
    assert!(ping(&lab.endpoints[0], vip(0)));
}

pub fn weights_are_turns(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    for (scheduler, share) in [(Scheduler::Wrr, 6), (Scheduler::Rr, 4)] {
        reconcile(
            &mut *balancer,
            &chosen(balance(scheduler, None), &[(1, 300), (2, 100)]),
        );
        let own = addresses(0)[0];
        let answers: Vec<String> = (0..8).map(|_| ask_tcp(&lab.endpoints[0], vip(0))).collect();
        assert_eq!(
            answers
                .iter()
                .filter(|answer| **answer == format!("s1 {own}"))
                .count(),
            share,
            "{scheduler}"
        );
    }
}

/// nftables cannot count connections: `lc` is `rr` there, `wlc` is `wrr`.
pub fn every_way_to_choose_reaches_every_server(engine: Engine) {
    let (lab, mut balancer) = lab_of(engine, 2, 6);
    let clients: Vec<&Namespace> = [&lab.endpoints[0]]
        .into_iter()
        .chain(&lab.endpoints[3..])
        .collect();
    for scheduler in Scheduler::ALL {
        reconcile(
            &mut *balancer,
            &chosen(balance(scheduler, None), &[(1, 1), (2, 1)]),
        );
        for family in 0..2 {
            let held: Vec<TcpStream> = clients
                .iter()
                .map(|client| connect(client, vip(family)).unwrap())
                .collect();
            let servers: BTreeSet<usize> = held
                .iter()
                .map(|connection| server_of(&line(connection)))
                .collect();
            assert_eq!(servers, BTreeSet::from([1, 2]), "{scheduler}");
        }
    }
}

pub fn a_client_keeps_its_server_by_its_address(engine: Engine) {
    let (lab, mut balancer) = lab_of(engine, 3, 3);
    let clients: Vec<&Namespace> = [&lab.endpoints[0]]
        .into_iter()
        .chain(&lab.endpoints[4..])
        .collect();
    for scheduler in [Scheduler::Sh, Scheduler::Mh] {
        reconcile(
            &mut *balancer,
            &chosen(balance(scheduler, None), &[(1, 1), (2, 1), (3, 1)]),
        );
        for family in 0..2 {
            for client in &clients {
                let servers: BTreeSet<String> =
                    (0..4).map(|_| ask_tcp(client, vip(family))).collect();
                assert_eq!(servers.len(), 1, "{scheduler}: {servers:?}");
            }
        }
    }
}

pub fn affinity_holds_until_its_server_takes_no_more(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 3);
    let with =
        |seconds, servers: &[(usize, u16)]| chosen(balance(Scheduler::Rr, Some(seconds)), servers);
    for family in 0..2 {
        let ask = || server_of(&ask_tcp(&lab.endpoints[0], vip(family)));
        reconcile(&mut *balancer, &with(600, &[(1, 1), (2, 1), (3, 1)]));
        let first = ask();
        assert_eq!((0..5).map(|_| ask()).collect::<Vec<_>>(), [first; 5]);
        let udp = server_of(&ask_udp(&lab.endpoints[0], vip(family)).unwrap());
        assert_eq!(udp, first, "one affinity for every protocol");
        let rest: Vec<(usize, u16)> = [(1, 1), (2, 1), (3, 1)]
            .map(|(server, _)| (server, u16::from(server != first)))
            .to_vec();
        reconcile(&mut *balancer, &with(600, &rest));
        let second = ask();
        assert_ne!(second, first);
        assert_eq!((0..3).map(|_| ask()).collect::<Vec<_>>(), [second; 3]);
        let last = 6 - first - second;
        reconcile(&mut *balancer, &with(600, &[(last, 1)]));
        assert_eq!(ask(), last);
        reconcile(&mut *balancer, &Table::default());
    }
    // IPVS remembers a client at least for as long as it knows connections of it, ended ones for
    // two minutes.
    if engine == Engine::Nftables {
        reconcile(&mut *balancer, &with(1, &[(1, 1), (2, 1)]));
        let ask = || server_of(&ask_tcp(&lab.endpoints[0], vip(0)));
        let (first, start) = (ask(), Instant::now());
        std::thread::sleep(Duration::from_millis(1200));
        assert_ne!(ask(), first, "after {:?}", start.elapsed());
    }
}

pub fn an_endpoint_balanced_to_itself_sees_the_gateway(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 1);
    let mut desired = table(&[(1, 1)]);
    let gateways = GATEWAYS.map(|gateway| gateway.parse::<IpAddr>().unwrap());
    desired.hairpins = addresses(1).into_iter().zip(gateways).collect();
    reconcile(&mut *balancer, &desired);
    for (family, gateway) in GATEWAYS.into_iter().enumerate() {
        assert_eq!(
            ask_tcp(&lab.endpoints[1], vip(family)),
            format!("s1 {gateway}")
        );
        assert_eq!(
            ask_udp(&lab.endpoints[1], vip(family)).unwrap(),
            format!("s1 {gateway}")
        );
        assert_eq!(
            ask_tcp(&lab.endpoints[0], vip(family)),
            format!("s1 {}", addresses(0)[family])
        );
    }
}

pub fn a_service_without_a_server_refuses_at_once(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 1);
    for servers in [&[][..], &[(1, 0)]] {
        reconcile(&mut *balancer, &table(servers));
        for family in 0..2 {
            let refused = connect(&lab.endpoints[0], vip(family)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let refused = ask_udp(&lab.endpoints[0], vip(family)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
    }
}

pub fn established_connections_survive_every_change(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    for family in 0..2 {
        let own = addresses(0)[family];
        reconcile(&mut *balancer, &table(&[(1, 1)]));
        let mut connection = connect(&lab.endpoints[0], vip(family)).unwrap();
        assert_eq!(line(&connection), format!("s1 {own}"));
        let flow = udp(&lab.endpoints[0], vip(family));
        assert_eq!(exchange(&flow).unwrap(), format!("s1 {own}"));
        let changes: [&[(usize, u16)]; 5] = [
            &[(1, 1), (2, 1)],
            &[(1, 0), (2, 1)],
            &[(1, 0)],
            &[(1, 3), (2, 5)],
            &[(1, 1)],
        ];
        for servers in changes {
            reconcile(&mut *balancer, &table(servers));
            connection.write_all(b"still there\n").unwrap();
            assert_eq!(line(&connection), "still there", "{servers:?}");
            assert_eq!(exchange(&flow).unwrap(), format!("s1 {own}"), "{servers:?}");
            if servers == [(1, 0), (2, 1)] {
                assert_eq!(ask_tcp(&lab.endpoints[0], vip(family)), format!("s2 {own}"));
            }
        }
        for scheduler in Scheduler::ALL {
            reconcile(
                &mut *balancer,
                &chosen(balance(scheduler, Some(60)), &[(1, 1)]),
            );
            connection.write_all(b"whatever chooses\n").unwrap();
            assert_eq!(line(&connection), "whatever chooses", "{scheduler}");
        }
        reconcile(&mut *balancer, &table(&[(1, 1)]));
        // A new daemon on the same kernel finds all settled.
        let mut restarted = lab.router.within(|| engine.open());
        assert_eq!(restarted.reconcile(&table(&[(1, 1)])).unwrap(), []);
        connection.write_all(b"after restart\n").unwrap();
        assert_eq!(line(&connection), "after restart");
    }
}

pub fn connections_to_a_removed_server_are_reset(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    for family in 0..2 {
        for left in [&[(2, 1)][..], &[(2, 0)], &[]] {
            reconcile(&mut *balancer, &table(&[(1, 1), (2, 0)]));
            let mut connection = connect(&lab.endpoints[0], vip(family)).unwrap();
            line(&connection);
            reconcile(&mut *balancer, &table(left));
            // A black hole would be another error, much later.
            let outcome = connection
                .write_all(b"anybody?\n")
                .and_then(|()| connection.read_exact(&mut [0]));
            assert_eq!(
                outcome.unwrap_err().kind(),
                ErrorKind::ConnectionReset,
                "{left:?}"
            );
        }
    }
    // One that was cut off between the two steps of a removal finds what it left.
    reconcile(&mut *balancer, &table(&[(1, 1)]));
    let mut connection = connect(&lab.endpoints[0], vip(0)).unwrap();
    line(&connection);
    reconcile(&mut *balancer, &table(&[(1, 1), (2, 1)]));
    drop(balancer);
    let mut restarted = lab.router.within(|| engine.open());
    reconcile(&mut *restarted, &table(&[(2, 1)]));
    let outcome = connection
        .write_all(b"anybody?\n")
        .and_then(|()| connection.read_exact(&mut [0]));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// As `ab` does without keep-alive: the server ends each connection, and the client's few ports
/// come round again at once.
pub fn ports_used_again_stall_nobody(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    reconcile(&mut *balancer, &table(&[(1, 1), (2, 1)]));
    let client = &lab.endpoints[0];
    client.within(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40015").unwrap());
    for family in 0..2 {
        for _ in 0..300 {
            let mut connection = client.within(|| TcpStream::connect((vip(family), 81)).unwrap());
            connection.read_to_string(&mut String::new()).unwrap();
        }
    }
    // A server that takes a SYN for one of the connection before answers with what that knew: the
    // client refuses it and asks again at once. Only what nobody answers is asked again a second
    // later.
    let (repeated, refused) = (
        counter(client, "netstat", "TCPSynRetrans"),
        counter(client, "snmp", "OutRsts"),
    );
    assert!(
        repeated <= refused,
        "{repeated} SYNs were repeated, {refused} of them at once"
    );
}

/// As resolvers, RADIUS clients and the like ask: more sockets than a client and a server have
/// ports between them, in less time than the kernel remembers silent ones.
pub fn thousands_of_questions_with_a_socket_each_are_answered(engine: Engine) {
    const QUESTIONS: usize = 20_000;
    let (lab, mut balancer) = lab(engine, 1);
    reconcile(&mut *balancer, &table(&[(1, 1)]));
    let answered = |family: usize| {
        let start = Instant::now();
        let mut lost = 0;
        for asked in 0..QUESTIONS as u32 {
            let socket = udp(&lab.endpoints[0], vip(family));
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            lost += u32::from(exchange(&socket).is_err());
            assert!(lost < 10, "{lost} of {asked} questions had no answer");
            // No more than 4000 a second.
            let due = start + Duration::from_micros(250) * asked;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        println!("{QUESTIONS} questions in {:?}", start.elapsed());
        lost
    };
    // Where CPU time is taken away an answer may come late.
    assert!(answered(0) < 3);
}

/// A few packets at once, and then one each 25 s, as WireGuard does.
pub fn flows_of_datagrams_outlive_keepalives(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    reconcile(&mut *balancer, &table(&[(1, 1), (2, 1)]));
    let sockets = [0, 1].map(|family| udp(&lab.endpoints[0], vip(family)));
    for socket in &sockets {
        exchange(socket).unwrap();
        exchange(socket).unwrap();
    }
    let remembered = |least: u64| {
        let listed = lab.router.within(|| run("conntrack -L -p udp -o extended"));
        let lasts = |line: &str| line.split_whitespace().nth(4)?.parse::<u64>().ok();
        let flows = listed.lines().filter(|line| line.contains("dport=80"));
        let flows: Vec<_> = flows.filter_map(lasts).collect();
        assert_eq!(flows.len(), 2, "{listed}");
        assert!(flows.iter().all(|left| *left >= least), "{listed}");
    };
    remembered(25);
    std::thread::sleep(Duration::from_millis(2100));
    sockets
        .iter()
        .for_each(|socket| drop(exchange(socket).unwrap()));
    remembered(115);
}

/// One of the kernel's counters for TCP in a namespace.
fn counter(namespace: &Namespace, file: &str, name: &str) -> u64 {
    let text =
        namespace.within(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
    let mut lines = text
        .lines()
        .filter(|line| line.starts_with("Tcp"))
        .map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names
        .zip(values)
        .find(|(known, _)| *known == name)
        .unwrap()
        .1
        .parse()
        .unwrap()
}

pub fn idle_connections_live_for_hours(engine: Engine) {
    const HOURS: u32 = 2 * 3600;
    let (lab, mut balancer) = lab(engine, 1);
    reconcile(&mut *balancer, &table(&[(1, 1)]));
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    let read = || {
        lab.router.within(|| {
            fs::read_to_string(path)
                .unwrap()
                .trim()
                .parse::<u32>()
                .unwrap()
        })
    };
    assert!(read() > HOURS);
    // Somebody knows better.
    lab.router.within(|| fs::write(path, "60").unwrap());
    assert_eq!(reconcile(&mut *balancer, &table(&[(1, 1)])), [Op::Repair]);
    assert!(read() > HOURS);
    let liberal = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
    assert_eq!(
        lab.router
            .within(|| fs::read_to_string(liberal).unwrap().trim().to_owned()),
        "1"
    );
}

pub fn many(services: u16) -> Table {
    let vips = (0..services).flat_map(|index| {
        let [high, low] = index.to_be_bytes();
        [
            IpAddr::from([10, 1, high, low]),
            IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, index]),
        ]
    });
    let service = |vip: IpAddr| {
        let servers = (1..=3)
            .map(|index| (addresses(index)[usize::from(vip.is_ipv6())], 1))
            .collect();
        (
            vip,
            VirtualService {
                balance: Balance::default(),
                real_servers: servers,
            },
        )
    };
    Table {
        services: vips.map(service).collect(),
        hairpins: BTreeMap::new(),
    }
}

pub fn hundreds_of_services_come_and_go(engine: Engine) {
    let mut balancer = in_fresh_namespace(|| engine.open());
    let mut desired = many(400);
    reconcile(&mut *balancer, &desired);
    let address = addresses(2)[0];
    let first = IpAddr::from([10, 1, 0, 0]);
    desired
        .services
        .get_mut(&first)
        .unwrap()
        .real_servers
        .insert(address, 0);
    assert_eq!(
        reconcile(&mut *balancer, &desired),
        [Op::SetWeight {
            vip: first,
            address,
            weight: 0
        }]
    );
    reconcile(&mut *balancer, &many(1));
    reconcile(&mut *balancer, &Table::default());
}

/// Connections of each real server by both engines; packets and bytes by IPVS only.
pub fn traffic_is_counted(engine: Engine) {
    let (lab, mut balancer) = lab(engine, 2);
    reconcile(&mut *balancer, &table(&[(1, 1), (2, 1)]));
    for family in 0..2 {
        (0..6).for_each(|_| drop(ask_tcp(&lab.endpoints[0], vip(family))));
        let expected: BTreeMap<IpAddr, u64> =
            [1, 2].map(|server| (addresses(server)[family], 3)).into();
        // IPVS adds up every two seconds.
        let start = Instant::now();
        let traffic = loop {
            let traffic = balancer.traffic(vip(family)).unwrap();
            if traffic.connections == expected {
                break traffic;
            }
            assert!(start.elapsed() < PATIENCE, "{traffic:?}");
            std::thread::sleep(Duration::from_millis(100));
        };
        match traffic.passed {
            Some(passed) => assert!(
                passed.packets_in >= 12 && passed.bytes_out >= 60,
                "{passed:?}"
            ),
            None => assert_eq!(engine, Engine::Nftables),
        }
    }
    // A real server that is changed is counted anew with nftables, the others go on.
    reconcile(&mut *balancer, &table(&[(1, 1), (2, 0)]));
    assert_eq!(
        balancer.traffic(vip(0)).unwrap().connections[&addresses(1)[0]],
        3
    );
}

/// SCTP (RFC 9260) as a stream; kernels may lack it.
pub fn sctp_is_balanced_where_there_is_any(engine: Engine) {
    let socket = |namespace: &Namespace| {
        let sctp = nix::sys::socket::SockProtocol::Sctp;
        namespace.within(|| {
            nix::sys::socket::socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::empty(),
                sctp,
            )
            .ok()
        })
    };
    let (lab, mut balancer) = lab(engine, 1);
    reconcile(&mut *balancer, &table(&[(1, 1)]));
    let (Some(server), Some(client)) = (socket(&lab.endpoints[1]), socket(&lab.endpoints[0]))
    else {
        return;
    };
    let any: SocketAddrV4 = "0.0.0.0:90".parse().unwrap();
    bind(server.as_raw_fd(), &SockaddrIn::from(any)).unwrap();
    listen(&server, Backlog::new(5).unwrap()).unwrap();
    let listener = TcpListener::from(server);
    let answer = std::thread::spawn(move || {
        let (mut connection, from) = listener.accept().unwrap();
        connection
            .write_all(format!("{}\n", from.ip()).as_bytes())
            .unwrap();
    });
    let IpAddr::V4(to) = vip(0) else { return };
    nix::sys::socket::connect(
        client.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(to, 90)),
    )
    .unwrap();
    assert_eq!(line(&TcpStream::from(client)), addresses(0)[0].to_string());
    answer.join().unwrap();
}
