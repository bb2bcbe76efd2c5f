//! Which packets pass, and by which way.

use super::*;

#[test]
fn tasks_reach_each_other_their_hosts_and_nothing_unknown() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let sandbox = lab.hosts[0].sandbox();
    for target in [
        "10.77.9.12",
        "fd00:77:9::12",
        "10.77.9.1",
        "fd00:77:9::1",
        "192.0.2.1",
        "fd00:cafe::1",
    ] {
        assert_answers(&sandbox, target, 0);
    }
    // The largest datagram of 1450 bytes goes out with DF set.
    assert!(
        lab.hosts[0]
            .run(&format!("ip -n {} link show eth0", task(0)))
            .contains("mtu 1450")
    );
    assert_answers(&sandbox, "10.77.9.12", 1422);
    assert_answers(&sandbox, "fd00:77:9::12", 1402);
    for (host, target) in [(0, "10.77.9.11"), (1, "10.77.9.12"), (1, "fd00:77:9::12")] {
        assert_answers(&lab.hosts[host].own(), target, 0);
    }
    for unknown in ["10.77.9.200", "fd00:77:9::200"] {
        let to = SocketAddr::new(unknown.parse().unwrap(), 9);
        let refused =
            namespace::within_file(&sandbox, || TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let reason = refused.unwrap_err().kind();
        assert!(
            matches!(
                reason,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
            ),
            "{unknown}: {reason}"
        );
    }
    lab.vanish();
}

#[test]
fn foreign_and_forged_tunnel_packets_are_dropped_and_counted() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    assert_answers(&lab.hosts[0].sandbox(), "10.77.9.12", 0);
    assert_answers(&lab.hosts[0].sandbox(), "fd00:77:9::12", 0);
    lab.hosts[1].run("ip addr add 192.0.2.66/24 dev eth0");
    let counts = || {
        [
            lab.hosts[0].dropped("", "tunnel-source"),
            lab.hosts[0].dropped(&netd_network(), "from-tunnel"),
        ]
    };
    let (peer, third) = (Mac::of_router(node(1)), Mac::of_router(node(7)));
    let underlay = [0, 1].map(|host: usize| {
        let line = lab.hosts[host].run("ip -o link show eth0");
        line.split_whitespace()
            .skip_while(|word| *word != "link/ether")
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    });
    let mut expected = [0, 0];
    for (vtep, vni, router, source, drops) in [
        ("192.0.2.2", 77, peer, "10.77.9.12", [0, 0]),
        ("192.0.2.2", 77, peer, "fd00:77:9::12", [0, 0]),
        // Routers send errors in their own name, and nothing else.
        ("192.0.2.2", 77, peer, "10.77.9.1", [0, 1]),
        ("192.0.2.66", 77, peer, "10.77.9.12", [1, 0]),
        // No tunnel ends at that address.
        ("fd00:cafe::2", 77, peer, "10.77.9.12", [0, 0]),
        ("192.0.2.2", 77, third, "10.77.9.12", [1, 0]),
        // Another's tunnel on the same port is no affair of ours.
        ("192.0.2.66", 78, peer, "10.77.9.12", [0, 0]),
        // These live on the other host, nowhere, and outside.
        ("192.0.2.2", 77, peer, "10.77.9.11", [0, 1]),
        ("192.0.2.2", 77, peer, "fd00:77:9::11", [0, 1]),
        ("192.0.2.2", 77, peer, "10.77.9.200", [0, 1]),
        ("192.0.2.2", 77, peer, "192.0.2.9", [0, 1]),
    ] {
        let inner = frame(
            Mac::of_router(node(0)),
            router,
            source,
            if source.contains(':') {
                "fd00:77:9::11"
            } else {
                "10.77.9.11"
            },
        );
        let packet = [&[8, 0, 0, 0, 0, 0, vni, 0][..], &inner].concat();
        // Past the rules of the host that sends: a process there has to own a socket.
        let to = if vtep.contains(':') {
            "fd00:cafe::1"
        } else {
            "192.0.2.1"
        };
        let outer = datagram(
            &frame_head(underlay[0], underlay[1]),
            vtep,
            to,
            4789,
            &packet,
        );
        lab.hosts[1].send_frame("", "eth0", &outer);
        expected = [expected[0] + drops[0], expected[1] + drops[1]];
        let what = format!("{router} for {source} behind {vtep} is counted: {expected:?}");
        lab.hosts[0].wait(&what, |_| counts() == expected);
    }
    assert_answers(&lab.hosts[0].sandbox(), "10.77.9.12", 0);
    lab.vanish();
}

#[test]
fn spoofed_packets_of_an_endpoint_are_dropped_and_counted() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let host = &lab.hosts[0];
    assert_answers(&host.sandbox(), "10.77.9.12", 0);
    let router = Mac([0x0e, 0x6e, 0x65, 0x74, 0x64, 0x01]);
    let own = Mac::of_endpoint(address(0, "10.77.9."));
    let before = host.picture();
    let start = host.dropped(&netd_network(), "from-endpoint");
    let mut expected = start;
    for (mac, source, target, drops) in [
        (own, "10.77.9.11", "10.77.9.12", 0),
        (own, "10.77.9.12", "10.77.9.1", 1),
        (own, "10.77.9.1", "10.77.9.12", 1),
        (own, "fd00:77:9::12", "fd00:77:9::1", 1),
        (own, "fe80::1", "fd00:77:9::1", 1),
        (own, "192.0.2.1", "10.77.9.12", 1),
        (Mac([2; 6]), "10.77.9.11", "10.77.9.12", 1),
        (Mac([2; 6]), "fd00:77:9::11", "fd00:77:9::12", 1),
    ] {
        host.send_frame(&task(0), "eth0", &frame(router, mac, source, target));
        expected += drops;
        host.wait("exactly the forged packets are counted", |host| {
            host.dropped(&netd_network(), "from-endpoint") == expected
        });
    }
    // Whatever it claims by ARP, nobody's neighbour moves, and nobody learns of one.
    for (sender, claimed) in [
        (Mac([2; 6]), "10.77.9.11"),
        (own, "10.77.9.12"),
        (own, "10.77.9.1"),
    ] {
        host.send_frame(&task(0), "eth0", &arp_claim(sender, claimed, "10.77.9.1"));
    }
    let claims = format!(
        "ip netns exec {} nft list chain arp netd claims",
        netd_network()
    );
    host.wait("every false claim is counted", |host| {
        host.run(&claims)
            .contains(r#"iifname "e*" counter packets 3 "#)
    });
    assert_answers(&host.sandbox(), "10.77.9.12", 0);
    assert_answers(&host.own(), "10.77.9.11", 0);
    assert_eq!(host.picture(), before);
    lab.vanish();
}

#[test]
fn plain_packets_take_the_short_way_and_all_others_the_long_one() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let tracked = |host: &Host| {
        let table = host.run(&format!(
            "ip netns exec {} cat /proc/net/nf_conntrack",
            netd_network()
        ));
        table
            .lines()
            .filter(|line| line.contains("port=7 "))
            .count()
    };
    for prefix in ["10.77.9.", "fd00:77:9::"] {
        let to = SocketAddr::new(address(1, prefix), 7);
        let (near, far) = (lab.hosts[0].sandbox(), lab.hosts[1].sandbox());
        let server = namespace::within_file(&far, || UdpSocket::bind(to))
            .unwrap()
            .unwrap();
        let ask = |port: u16, length: usize| {
            let client =
                namespace::within_file(&near, || UdpSocket::bind((address(0, prefix), port)))
                    .unwrap()
                    .unwrap();
            for socket in [&client, &server] {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            client.send_to(&vec![7; length], to).unwrap();
            let (received, from) = server.recv_from(&mut [0; 9000]).unwrap();
            assert_eq!((received, from), (length, client.local_addr().unwrap()));
            server.send_to(&vec![7; length], from).unwrap();
            assert_eq!(client.recv(&mut [0; 9000]).unwrap(), length);
        };
        let before = [tracked(&lab.hosts[0]), tracked(&lab.hosts[1])];
        ask(40_000, 9);
        assert_eq!(
            [tracked(&lab.hosts[0]), tracked(&lab.hosts[1])],
            before,
            "the short way leaves no trace"
        );
        // What might be a balanced connection, and what is in pieces, is looked at by its host.
        ask(20_000, 9);
        assert_eq!(tracked(&lab.hosts[0]), before[0] + 1);
        ask(40_001, 8000);
        assert!(tracked(&lab.hosts[1]) > before[1]);
    }
    lab.vanish();
}

#[test]
fn an_encrypted_network_needs_a_kernel_that_can_encrypt() {
    let mut lab = Lab::new(&["192.0.2.1"]);
    let mut config = lab.whole().remove(0);
    for network in config.networks.values_mut() {
        network.driver = DriverConfig::Overlay {
            port: 4790,
            encrypted: true,
        };
    }
    lab.hosts[0].configure(&config);
    lab.hosts[0].wait(
        "it is up behind its barrier, or refused and nothing of it there",
        |host| {
            let is_up = host.run("ip netns").contains(&netd_network());
            if host.status().contains("this kernel lacks ESP") {
                !is_up && host.status().contains("ready=0")
            } else {
                is_up && host.run("ip xfrm policy").matches("action block").count() == 4
            }
        },
    );
    lab.vanish();
}

#[test]
fn a_tunnel_over_ipv6_carries_a_network_of_one_family() {
    let mut lab = Lab::new(&["fd00:cafe::1", "fd00:cafe::2"]);
    let mut configs = lab.whole();
    for config in &mut configs {
        for network in config.networks.values_mut() {
            network.subnets.truncate(1);
            network.internal = true;
        }
        for endpoint in config.endpoints.values_mut() {
            endpoint.addresses.truncate(1);
        }
    }
    lab.settle(&configs);
    assert_answers(&lab.hosts[0].sandbox(), "10.77.9.12", 1402);
    lab.vanish();
}
