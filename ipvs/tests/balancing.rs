//! Balancing end to end: a router with the nftables engine and the guard between real sockets, both families.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Write},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipvs::{
    Balancer, Clients, Nftables, Op, Scheduler, Table, VirtualService, diff,
    guard::{Border, border, guard},
    nft::{self, Family, Ruleset, Socket, difference},
};
use support::{
    GATEWAYS, Lab, Namespace, addresses, ask_tcp, ask_udp, connect, exchange, in_fresh_namespace, line, mac, ping,
    serve, sources, udp,
};

const VIPS: [&str; 2] = ["10.0.9.250", "fd00:9::fa"];

fn vip(family: usize) -> IpAddr {
    VIPS[family].parse().unwrap()
}

/// One service with these endpoints behind it, by number and weight.
fn table(servers: &[(usize, u16)]) -> Table {
    let service = |family: usize| {
        let real_servers = servers.iter().map(|(index, weight)| (addresses(*index)[family], *weight)).collect();
        (vip(family), VirtualService { scheduler: Scheduler::RoundRobin, real_servers })
    };
    Table { services: (0..2).map(service).collect(), hairpins: BTreeMap::new() }
}

fn load(namespace: &Namespace, desired: &Ruleset) {
    let mut socket = namespace.within(|| Socket::open().unwrap());
    let observed = nft::observe(&mut socket, desired.family, &desired.name).unwrap();
    nft::apply(&mut socket, &difference(Some(desired), observed.as_ref()).unwrap()).unwrap();
}

/// A client (endpoint 0) and `servers` endpoints that serve; the guard stands.
fn lab(servers: usize) -> (Lab, Nftables) {
    let lab = Lab::new(servers + 1);
    load(&lab.router, &guard(&sources(servers + 1)));
    for index in 1..=servers {
        serve(&lab.endpoints[index], &format!("s{index}"));
    }
    let balancer = lab.router.within(|| Nftables::open(Clients::Routed).unwrap());
    (lab, balancer)
}

fn settle(balancer: &mut Nftables, desired: &Table) -> Vec<Op> {
    let ops = balancer.settle(desired).unwrap_or_else(|error| panic!("{error}"));
    let observed = balancer.observe().unwrap();
    assert_eq!((&observed.table, &observed.damage[..]), (desired, &[][..]));
    assert_eq!(diff(desired, &observed), []);
    ops
}

#[test]
fn replicas_answer_in_turn_and_see_the_client() {
    let (lab, mut balancer) = lab(3);
    settle(&mut balancer, &table(&[(1, 1), (2, 1), (3, 1)]));
    let client = &lab.endpoints[0];
    for family in 0..2 {
        let own = addresses(0)[family];
        let all: Vec<String> = (1..=3).map(|index| format!("s{index} {own}")).collect();
        let tcp: Vec<String> = (0..9).map(|_| ask_tcp(client, vip(family))).collect();
        assert_eq!(tcp, [&all[..], &all, &all].concat());
        let udp: BTreeSet<String> = (0..3).map(|_| ask_udp(client, vip(family)).unwrap()).collect();
        assert_eq!(udp, all.into_iter().collect());
    }
}

#[test]
fn datagrams_of_an_old_socket_leave_a_removed_server_at_once() {
    let (lab, mut balancer) = lab(2);
    for family in 0..2 {
        settle(&mut balancer, &table(&[(1, 1), (2, 1)]));
        let own = addresses(0)[family];
        let socket = udp(&lab.endpoints[0], vip(family));
        let first = exchange(&socket).unwrap();
        assert_eq!(exchange(&socket).unwrap(), first);
        let (here, other) = if first.starts_with("s1") { (1, 2) } else { (2, 1) };
        let bystander = udp(&lab.endpoints[0], addresses(here)[family]);
        exchange(&bystander).unwrap();
        settle(&mut balancer, &table(&[(other, 1)]));
        assert_eq!(exchange(&socket).unwrap(), format!("s{other} {own}"));
        assert_eq!(exchange(&bystander).unwrap(), first);
    }
}

#[test]
fn echo_requests_are_balanced_too() {
    let (lab, mut balancer) = lab(1);
    settle(&mut balancer, &table(&[(1, 1)]));
    assert!(ping(&lab.endpoints[0], vip(0)));
}

#[test]
fn weights_are_turns() {
    let (lab, mut balancer) = lab(2);
    settle(&mut balancer, &table(&[(1, 300), (2, 100)]));
    let own = addresses(0)[0];
    let answers: Vec<String> = (0..8).map(|_| ask_tcp(&lab.endpoints[0], vip(0))).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == format!("s1 {own}")).count(), 6);
}

#[test]
fn an_endpoint_balanced_to_itself_sees_the_gateway() {
    let (lab, mut balancer) = lab(1);
    let mut desired = table(&[(1, 1)]);
    let gateways = GATEWAYS.map(|gateway| gateway.parse::<IpAddr>().unwrap());
    desired.hairpins = addresses(1).into_iter().zip(gateways).collect();
    settle(&mut balancer, &desired);
    for (family, gateway) in GATEWAYS.into_iter().enumerate() {
        assert_eq!(ask_tcp(&lab.endpoints[1], vip(family)), format!("s1 {gateway}"));
        assert_eq!(ask_udp(&lab.endpoints[1], vip(family)).unwrap(), format!("s1 {gateway}"));
        assert_eq!(ask_tcp(&lab.endpoints[0], vip(family)), format!("s1 {}", addresses(0)[family]));
    }
}

#[test]
fn a_service_without_a_server_refuses_at_once() {
    let (lab, mut balancer) = lab(1);
    for servers in [&[][..], &[(1, 0)]] {
        settle(&mut balancer, &table(servers));
        for family in 0..2 {
            let start = Instant::now();
            let refused = connect(&lab.endpoints[0], vip(family)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            let refused = ask_udp(&lab.endpoints[0], vip(family)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert!(start.elapsed() < Duration::from_secs(3));
        }
    }
}

#[test]
fn established_connections_survive_every_change() {
    let (lab, mut balancer) = lab(2);
    for family in 0..2 {
        let own = addresses(0)[family];
        settle(&mut balancer, &table(&[(1, 1)]));
        let mut connection = connect(&lab.endpoints[0], vip(family)).unwrap();
        assert_eq!(line(&connection), format!("s1 {own}"));
        let flow = udp(&lab.endpoints[0], vip(family));
        assert_eq!(exchange(&flow).unwrap(), format!("s1 {own}"));
        let changes: [&[(usize, u16)]; 6] =
            [&[(1, 1), (2, 1)], &[(1, 0), (2, 1)], &[(1, 0)], &[(2, 5)], &[], &[(1, 1)]];
        for servers in changes {
            settle(&mut balancer, &table(servers));
            connection.write_all(b"still there\n").unwrap();
            assert_eq!(line(&connection), "still there", "{servers:?}");
            if servers.iter().any(|(server, _)| *server == 1) {
                assert_eq!(exchange(&flow).unwrap(), format!("s1 {own}"), "{servers:?}");
            }
            if servers == [(1, 0), (2, 1)] {
                assert_eq!(ask_tcp(&lab.endpoints[0], vip(family)), format!("s2 {own}"));
            }
        }
        // A new daemon on the same kernel finds all settled.
        let mut restarted = lab.router.within(|| Nftables::open(Clients::Routed).unwrap());
        assert_eq!(restarted.settle(&table(&[(1, 1)])).unwrap(), []);
        connection.write_all(b"after restart\n").unwrap();
        assert_eq!(line(&connection), "after restart");
    }
}

fn many(services: u16) -> Table {
    let vips = (0..services).flat_map(|index| {
        let [high, low] = index.to_be_bytes();
        [IpAddr::from([10, 1, high, low]), IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, index])]
    });
    let service = |vip: IpAddr| {
        let servers = (1..=3).map(|index| (addresses(index)[usize::from(vip.is_ipv6())], 1)).collect();
        (vip, VirtualService { scheduler: Scheduler::RoundRobin, real_servers: servers })
    };
    Table { services: vips.map(service).collect(), hairpins: BTreeMap::new() }
}

#[test]
fn hundreds_of_services_come_and_go_in_one_batch() {
    let mut balancer = in_fresh_namespace(|| Nftables::open(Clients::Routed).unwrap());
    let mut desired = many(400);
    settle(&mut balancer, &desired);
    let address = addresses(2)[0];
    let first = IpAddr::from([10, 1, 0, 0]);
    desired.services.get_mut(&first).unwrap().real_servers.insert(address, 0);
    assert_eq!(settle(&mut balancer, &desired), [Op::SetWeight { vip: first, address, weight: 0 }]);
    settle(&mut balancer, &many(1));
    settle(&mut balancer, &Table::default());
}

#[test]
fn what_others_break_is_seen_and_repaired() {
    let desired =
        Table { hairpins: [(addresses(1)[0], GATEWAYS[0].parse().unwrap())].into(), ..table(&[(1, 1), (2, 2)]) };
    let breaks = [
        "flush ruleset",
        "flush chain inet netd-lb balance",
        "flush chain inet netd-lb vip-10.0.9.250",
        "add rule inet netd-lb unreachable accept",
        "insert rule inet netd-lb refuse drop",
        "flush map inet netd-lb vips6",
        "flush map inet netd-lb weights4",
        "flush map inet netd-lb hairpins4",
        "add element inet netd-lb refused4 { 10.0.9.250 }",
        "add element inet netd-lb refused4 { 10.0.9.3 }",
        "add element inet netd-lb weights4 { 10.0.9.3 . 10.0.9.4 : 7 }",
        "add chain inet netd-lb vip-10.0.9.3",
    ];
    in_fresh_namespace(|| {
        let mut balancer = Nftables::open(Clients::Routed).unwrap();
        settle(&mut balancer, &desired);
        for script in breaks {
            support::nft(script);
            assert_ne!(settle(&mut balancer, &desired), [], "unseen: {script}");
        }
    });
}

#[test]
fn spoofed_sources_are_dropped_and_counted() {
    let (lab, mut balancer) = lab(2);
    settle(&mut balancer, &table(&[(2, 1)]));
    let client = &lab.endpoints[0];
    for family in 0..2 {
        let (own, stolen) = (addresses(0)[family], addresses(1)[family]);
        let honest = format!("s2 {own}");
        assert_eq!(ask_tcp(client, vip(family)), honest);
        let (prefix, nodad) = if family == 0 { (32, "") } else { (128, "nodad") };
        client.ip(&format!("addr add {stolen}/{prefix} dev eth0 {nodad}"));
        assert_dropped(&lab, || send_from(client, stolen, addresses(2)[family]));
        client.ip(&format!("addr del {stolen}/{prefix} dev eth0"));
        assert_eq!(ask_tcp(client, vip(family)), honest);
    }
    // The honest address under another's Ethernet address: nothing but what a link itself says gets through.
    client.ip(&format!("link set eth0 address {}", mac(1)));
    assert_dropped(&lab, || send_from(client, addresses(0)[0], addresses(2)[0]));
    client.ip(&format!("link set eth0 address {}", mac(0)));
    assert_eq!(ask_tcp(client, vip(0)), format!("s2 {}", addresses(0)[0]));
}

/// Sends a datagram, which must have no answer.
fn send_from(client: &Namespace, source: IpAddr, to: IpAddr) {
    let socket = client.within(|| std::net::UdpSocket::bind((source, 0)).unwrap());
    socket.send_to(b"?", (to, 80)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(socket.recv(&mut [0; 8]).is_err(), "an answer to a spoofed packet");
}

fn assert_dropped(lab: &Lab, send: impl Fn()) {
    let before = dropped(&lab.router);
    let start = Instant::now();
    while dropped(&lab.router) == before {
        send();
        assert!(start.elapsed() < support::PATIENCE, "the packet was not counted");
    }
}

/// Packets that the guard has counted.
fn dropped(router: &Namespace) -> u64 {
    let listing = router.within(|| support::nft("list chain inet netd from-endpoint"));
    let (_, rest) = listing.split_once("counter packets ").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_way_out_is_masqueraded_and_only_the_host_reaches_in() {
    let (lab, _balancer) = lab(1);
    let (host, outside) = (Namespace::new("host"), Namespace::new("outside"));
    host.route_packets();
    host.ip(&format!("link add nu-000001 type veth peer name up0 netns {}", lab.router.0));
    host.ip(&format!("link add wan0 type veth peer name eth0 netns {}", outside.0));
    for (namespace, link, v4, v6) in [
        (&host, "nu-000001", "169.254.7.1/30", "fd07::1/64"),
        (&lab.router, "up0", "169.254.7.2/30", "fd07::2/64"),
        (&host, "wan0", "192.0.2.1/24", "2001:db8::1/64"),
        (&outside, "eth0", "192.0.2.2/24", "2001:db8::2/64"),
    ] {
        namespace.ip(&format!("addr add {v4} dev {link}"));
        namespace.ip(&format!("addr add {v6} dev {link} nodad"));
        namespace.ip(&format!("link set {link} up"));
    }
    lab.router.ip("route add default via 169.254.7.1");
    lab.router.ip("-6 route add default via fd07::1");
    host.ip("route add 10.0.9.0/24 via 169.254.7.2");
    host.ip("-6 route add fd00:9::/64 via fd07::2");
    let subnets = ["10.0.9.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()];
    load(&host, &border(&Border { subnets: subnets.to_vec(), ..Border::default() }));
    outside.ip("route add 10.0.9.0/24 via 192.0.2.1");
    outside.ip("-6 route add fd00:9::/64 via 2001:db8::1");
    serve(&outside, "outside");
    let client = &lab.endpoints[0];
    for (family, there, host_address, uplink) in
        [(0, "192.0.2.2", "192.0.2.1", "169.254.7.1"), (1, "2001:db8::2", "2001:db8::1", "fd07::1")]
    {
        let there: IpAddr = there.parse().unwrap();
        assert_eq!(ask_tcp(client, there), format!("outside {host_address}"));
        assert_eq!(ask_udp(client, there).unwrap(), format!("outside {host_address}"));
        assert_eq!(ask_tcp(&host, addresses(1)[family]), format!("s1 {uplink}"));
        let refused = connect(&outside, addresses(1)[family]).unwrap_err().kind();
        assert!(matches!(refused, ErrorKind::HostUnreachable | ErrorKind::PermissionDenied), "{refused}");
    }
}

#[test]
fn an_unreadable_kernel_is_no_settled_one() {
    // A table of the same name in another family is none of ours.
    in_fresh_namespace(|| {
        support::nft("add table ip netd-lb");
        let mut balancer = Nftables::open(Clients::Routed).unwrap();
        assert_ne!(balancer.observe().unwrap().damage, Vec::<String>::new());
        let mut socket = Socket::open().unwrap();
        settle(&mut balancer, &Table::default());
        assert!(nft::observe(&mut socket, Family::Ip, "netd-lb").unwrap().is_some());
    });
}
