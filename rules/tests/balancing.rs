//! Balancing end to end: a router with the nftables engine and the guard between real sockets, both
//! families.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{ErrorKind, Write},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipvs::{Balancer, Clients, Nftables, Op, Table};
use model::Scheduler;
use nftables::{Family, Socket};
use rules::guard::{Border, border};
use support::{
    GATEWAYS, Lab, Namespace, addresses, ask_tcp, ask_udp, connect, in_fresh_namespace, mac, serve,
    suite::{Engine, balance, chosen, lab, load, reconcile, table, vip},
};

support::suite::promises!(Engine::Nftables);

#[test]
fn changes_by_others_are_seen_and_repaired() {
    let desired = Table {
        hairpins: [(addresses(1)[0], GATEWAYS[0].parse().unwrap())].into(),
        ..chosen(balance(Scheduler::Wrr, Some(9)), &[(1, 1), (2, 2)])
    };
    let breaks = [
        "flush ruleset",
        "flush chain inet netd-lb balance",
        "flush chain inet netd-lb vip-10.0.9.250",
        "add rule inet netd-lb unreachable accept",
        "insert rule inet netd-lb balance drop",
        "flush map inet netd-lb vips6",
        "flush map inet netd-lb weights4",
        "flush map inet netd-lb hairpins4",
        "flush map inet netd-lb slots4",
        "flush map inet netd-lb modes6",
        "delete element inet netd-lb services4 { 10.0.9.250 }",
        "add element inet netd-lb services4 { 10.0.9.3 }",
        "add element inet netd-lb weights4 { 10.0.9.3 . 10.0.9.4 : 7 }",
        "add chain inet netd-lb vip-10.0.9.3",
    ];
    in_fresh_namespace(|| {
        let mut balancer = Nftables::open(Clients::Routed).unwrap();
        reconcile(&mut balancer, &desired);
        for script in breaks {
            support::nft(script);
            assert_ne!(reconcile(&mut balancer, &desired), [], "unseen: {script}");
        }
    });
}

#[test]
fn changes_of_our_other_tables_cause_no_new_read() {
    in_fresh_namespace(|| {
        let mut balancer = Engine::Nftables.open();
        reconcile(&mut *balancer, &table(&[(1, 1)]));
        let before = nftables::generation(&mut nftables::Socket::open().unwrap()).unwrap();
        support::nft("flush chain inet netd-lb balance");
        // A lie: who looks sees the damage.
        balancer.overlook(before);
        assert_eq!(balancer.plan(&table(&[(1, 1)])).unwrap(), []);
        support::nft("add table inet other");
        balancer.overlook(before);
        assert_eq!(reconcile(&mut *balancer, &table(&[(1, 1)])), [Op::Repair]);
    });
}

/// A socket that is used for ever moves before its server stops, though nothing has ended.
#[test]
fn flows_of_datagrams_leave_a_server_that_takes_no_more() {
    let (lab, mut balancer) = lab(Engine::Nftables, 2);
    for family in 0..2 {
        reconcile(&mut *balancer, &table(&[(1, 1)]));
        let socket = support::udp(&lab.endpoints[0], vip(family));
        let own = addresses(0)[family];
        let of_first = format!("s1 {own}");
        assert_eq!(support::exchange(&socket).unwrap(), of_first);
        let mut connection = connect(&lab.endpoints[0], vip(family)).unwrap();
        assert_eq!(support::line(&connection), of_first);
        let closing = table(&[(1, 0), (2, 1)]);
        reconcile(&mut *balancer, &closing);
        let start = Instant::now();
        while support::exchange(&socket).unwrap() == of_first {
            assert!(start.elapsed() < Duration::from_secs(15), "it stays");
            std::thread::sleep(Duration::from_millis(100));
            if balancer.is_due() {
                assert_eq!(reconcile(&mut *balancer, &closing), [Op::Repair]);
            }
        }
        assert!(
            start.elapsed() > Duration::from_secs(4),
            "answers may be under way"
        );
        assert_eq!(support::exchange(&socket).unwrap(), format!("s2 {own}"));
        assert!(!balancer.is_due());
        connection.write_all(b"on\n").unwrap();
        assert_eq!(support::line(&connection), "on");
    }
}

/// Rules and maps change in one moment, but a packet may be among them just then.
#[test]
fn a_connection_whose_turn_was_just_removed_goes_elsewhere() {
    for affinity in [None, Some(60)] {
        let (lab, mut balancer) = lab(Engine::Nftables, 2);
        reconcile(
            &mut *balancer,
            &chosen(balance(Scheduler::Rr, affinity), &[(1, 1), (2, 1)]),
        );
        lab.router
            .within(|| support::nft("delete element inet netd-lb slots4 { 10.0.9.250 . 1 }"));
        let first = format!("s1 {}", addresses(0)[0]);
        (0..4).for_each(|_| assert_eq!(ask_tcp(&lab.endpoints[0], vip(0)), first));
    }
}

#[test]
fn spoofed_sources_are_dropped_and_counted() {
    let (lab, mut balancer) = lab(Engine::Nftables, 2);
    reconcile(&mut *balancer, &table(&[(2, 1)]));
    let client = &lab.endpoints[0];
    for family in 0..2 {
        let (own, stolen) = (addresses(0)[family], addresses(1)[family]);
        let honest = format!("s2 {own}");
        assert_eq!(ask_tcp(client, vip(family)), honest);
        let (prefix, nodad) = if family == 0 {
            (32, "")
        } else {
            (128, "nodad")
        };
        client.ip(&format!("addr add {stolen}/{prefix} dev eth0 {nodad}"));
        assert_dropped(&lab, || send_from(client, stolen, addresses(2)[family]));
        client.ip(&format!("addr del {stolen}/{prefix} dev eth0"));
        assert_eq!(ask_tcp(client, vip(family)), honest);
    }
    // The honest address under another's Ethernet address: nothing but what a link itself says gets
    // through.
    client.ip(&format!("link set eth0 address {}", mac(1)));
    assert_dropped(&lab, || send_from(client, addresses(0)[0], addresses(2)[0]));
    client.ip(&format!("link set eth0 address {}", mac(0)));
    assert_eq!(ask_tcp(client, vip(0)), format!("s2 {}", addresses(0)[0]));
}

/// Sends a datagram, which must have no answer.
fn send_from(client: &Namespace, source: IpAddr, to: IpAddr) {
    let socket = client.within(|| std::net::UdpSocket::bind((source, 0)).unwrap());
    socket.send_to(b"?", (to, 80)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(
        socket.recv(&mut [0; 8]).is_err(),
        "an answer to a spoofed packet"
    );
}

fn assert_dropped(lab: &Lab, send: impl Fn()) {
    let before = dropped(&lab.router);
    let start = Instant::now();
    while dropped(&lab.router) == before {
        send();
        assert!(
            start.elapsed() < support::PATIENCE,
            "the packet was not counted"
        );
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
    let (lab, _balancer) = lab(Engine::Nftables, 1);
    let (host, outside) = (Namespace::new("host"), Namespace::new("outside"));
    host.route_packets();
    host.ip(&format!(
        "link add nu-000001 type veth peer name up0 netns {}",
        lab.router.0
    ));
    host.ip(&format!(
        "link add wan0 type veth peer name eth0 netns {}",
        outside.0
    ));
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
    let subnets = [
        "10.0.9.0/24".parse().unwrap(),
        "fd00:9::/64".parse().unwrap(),
    ];
    load(
        &host,
        &border(&Border {
            subnets: subnets.to_vec(),
            ..Border::default()
        }),
    );
    outside.ip("route add 10.0.9.0/24 via 192.0.2.1");
    outside.ip("-6 route add fd00:9::/64 via 2001:db8::1");
    serve(&outside, "outside");
    let client = &lab.endpoints[0];
    for (family, there, host_address, uplink) in [
        (0, "192.0.2.2", "192.0.2.1", "169.254.7.1"),
        (1, "2001:db8::2", "2001:db8::1", "fd07::1"),
    ] {
        let there: IpAddr = there.parse().unwrap();
        assert_eq!(ask_tcp(client, there), format!("outside {host_address}"));
        assert_eq!(
            ask_udp(client, there).unwrap(),
            format!("outside {host_address}")
        );
        assert_eq!(ask_tcp(&host, addresses(1)[family]), format!("s1 {uplink}"));
        let refused = connect(&outside, addresses(1)[family]).unwrap_err().kind();
        assert!(
            matches!(
                refused,
                ErrorKind::HostUnreachable | ErrorKind::PermissionDenied
            ),
            "{refused}"
        );
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
        reconcile(&mut balancer, &Table::default());
        assert!(
            nftables::observe(&mut socket, Family::Ip, "netd-lb")
                .unwrap()
                .is_some()
        );
    });
}

#[test]
fn operators_can_list_what_there_is() {
    in_fresh_namespace(|| {
        let mut balancer = Nftables::open(Clients::Routed).unwrap();
        for scheduler in Scheduler::ALL {
            reconcile(
                &mut balancer,
                &chosen(balance(scheduler, None), &[(1, 1), (2, 2)]),
            );
            assert!(support::run("nft list table inet netd-lb").contains("10.0.9.250"));
        }
    });
}
