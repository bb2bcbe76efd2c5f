//! The overlay against the real kernel: hosts are network and mount namespaces with a private /run,
//! joined by a bridge. Each runs the data plane in a process of its own, this binary started again
//! with `OVERLAY_HOST` set. Needs root.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use dataplane::namespace;
use model::{
    Bandwidth, ContainerConfig, ContainerEndpoint, ContainerRuntime, DriverConfig, EndpointConfig,
    EndpointId, Mac, MacvlanMode, NetworkConfig, NetworkId, NodeConfig, NodeId, PeerConfig,
    Records, Role, Runtime, SandboxId, ServiceId, SubnetLease, TaskConfig, TaskId, TaskSpec,
    TaskState, ViewDelta, Vni, names::Namespace,
};
use tokio::sync::watch;

const NETWORK: NetworkId = NetworkId(77);
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const DIRECTORY: &str = "OVERLAY_HOST";

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

/// An Ethernet frame with an empty datagram to port 9 in it.
fn frame(to: Mac, from: Mac, source: &str, target: &str) -> Vec<u8> {
    datagram(&frame_head(to, from), source, target, 9, &[])
}

fn frame_head(to: Mac, from: Mac) -> Vec<u8> {
    [to.0, from.0].concat()
}

/// A datagram behind the two addresses of an Ethernet header.
fn datagram(head: &[u8], source: &str, target: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let udp = [[0, 9], port.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    let addresses: Vec<IpAddr> = [source, target]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let (ethertype, header) = match (addresses[0], addresses[1]) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let [high, low] = (20 + length).to_be_bytes();
            let start = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0];
            let mut header = [&start[..], &source.octets(), &target.octets()].concat();
            let sum: u32 = header
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum + (sum >> 16)) as u16);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ([8, 0], header)
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let [high, low] = length.to_be_bytes();
            let start = [0x60, 0, 0, 0, high, low, 17, 64];
            (
                [0x86, 0xdd],
                [&start[..], &source.octets(), &target.octets()].concat(),
            )
        }
        _ => panic!("one family: {source}, {target}"),
    };
    [head, &ethertype, &header, &udp, payload].concat()
}

/// A question for `asked` that claims that `claimed` is at this Ethernet address (RFC 826).
fn arp_claim(sender: Mac, claimed: &str, asked: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let question = [0, 1, 8, 0, 6, 4, 0, 1];
    let ethernet = [&[0xff; 6][..], &sender.0, &[8, 6]].concat();
    [
        &ethernet[..],
        &question,
        &sender.0,
        &octets(claimed),
        &[0; 6],
        &octets(asked),
    ]
    .concat()
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
fn a_namespace_that_loses_its_name_is_given_it_back() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let (mut near, mut far) = lab.connect();
    for name in [netd_network(), task(0)] {
        let identity = lab.hosts[0].run(&format!("stat -Lc %i /run/netns/{name}"));
        // `ip` takes the name away and then complains if it is back before its file is removed.
        lab.hosts[0].keeper.enter(&["ip", "netns", "del", &name]);
        let found = |host: &Host| {
            text(
                &host
                    .keeper
                    .enter(&["stat", "-Lc", "%i", &format!("/run/netns/{name}")]),
            )
        };
        lab.hosts[0].wait("the same namespace has its name again", |host| {
            found(host) == identity
        });
        lab.hosts[0].wait_settled(1);
        exchange(&mut near, &mut far);
    }
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

#[test]
fn whatever_is_deleted_or_changed_comes_back() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let network = netd_network();
    let peer = Mac::of_router(node(1));
    let via = peer.link_local();
    let (outer, sandbox) = (model::names::endpoint_link(endpoint(0)), task(0));
    let inside = format!("ip -n {network}");
    let damages = [
        format!("{inside} route del 10.77.9.12"),
        format!("{inside} -6 route del fd00:77:9::12"),
        format!("{inside} route replace 10.77.9.12/32 dev up0"),
        format!("{inside} route add 10.77.9.99/32 dev up0"),
        format!("{inside} route del default"),
        format!("{inside} route del unreachable 10.77.9.0/24"),
        format!("{inside} -6 neigh del {via} dev vx-00004d"),
        format!(
            "{inside} neigh replace 10.77.9.11 lladdr 02:00:00:00:00:01 nud permanent dev {outer}"
        ),
        format!("{inside} addr del 10.77.9.1/32 dev lo"),
        format!("{inside} addr add 10.77.9.77/32 dev lo"),
        format!("{inside} link set vx-00004d mtu 1300"),
        format!("{inside} link set vx-00004d down"),
        format!("{inside} link del vx-00004d"),
        format!("{inside} link del up0"),
        format!("{inside} link del {outer}"),
        format!("bridge -n {network} fdb del {peer} dev vx-00004d dst 192.0.2.2"),
        format!("bridge -n {network} fdb replace {peer} dev vx-00004d dst 192.0.2.9"),
        format!("ip netns exec {network} sysctl -w net.ipv4.ip_forward=0"),
        format!("ip netns exec {network} sysctl -w net.ipv4.conf.{outer}.proxy_arp=0"),
        format!("ip netns exec {network} sysctl -w net.ipv4.conf.all.accept_local=0"),
        format!("ip netns exec {network} sysctl -w net.ipv4.neigh.{outer}.proxy_delay=80"),
        format!("ip -n {sandbox} addr del 10.77.9.11/24 dev eth0"),
        format!("ip -n {sandbox} link set eth0 address 02:00:00:00:00:01"),
        format!("ip -n {sandbox} link set eth0 down"),
        format!("ip -n {sandbox} route del default"),
        format!("ip -n {sandbox} link set eth0 name eth5"),
        "ip link del nu-00004d".to_owned(),
        "ip route del 10.77.9.0/24".to_owned(),
        "ip link add vx-00004e type vxlan id 78 dstport 4789 dev eth0".to_owned(),
        format!("ip netns del {network}"),
        format!("ip netns del {sandbox}"),
    ];
    for damage in damages {
        lab.hosts[0].repairs(&damage);
        assert_answers(&lab.hosts[0].sandbox(), "10.77.9.12", 0);
        assert_answers(&lab.hosts[0].sandbox(), "fd00:77:9::12", 0);
    }
    lab.vanish();
}

#[test]
fn a_settled_host_rests_however_many_networks_it_has() {
    let mut lab = Lab::new(&["192.0.2.1"]);
    let mut config = lab.whole().remove(0);
    add_networks(&mut config, 30);
    lab.settle(&[config]);
    let passes = || lab.hosts[0].count("passes=");
    // What is promised is that nothing happens: there is no condition to wait for.
    let (before, start) = (passes(), Instant::now());
    thread::sleep(Duration::from_secs(5));
    let (made, seconds) = (passes() - before, start.elapsed().as_secs());
    assert!(made <= 2 * seconds, "{made} passes in {seconds} s");
    lab.vanish();
}

/// Networks with a task each.
fn add_networks(config: &mut NodeConfig, count: u32) {
    for number in 1..=count {
        let network = NetworkConfig {
            name: format!("n{number}"),
            vni: Vni::try_from(100 + number).unwrap(),
            ..network()
        };
        let network = NetworkConfig {
            subnets: Vec::new(),
            internal: true,
            ..network
        };
        let (id, task) = (
            NetworkId(200 + u64::from(number)),
            TaskId(200 + u64::from(number)),
        );
        let (own, mac) = (
            EndpointId(500 + u64::from(number)),
            Mac::of_endpoint([10, 0, 0, number as u8].into()),
        );
        let record = EndpointConfig {
            network: id,
            node: node(0),
            sandbox: task.into(),
            addresses: Vec::new(),
            mac,
        };
        config.networks.insert(id, network);
        config.endpoints.insert(own, record);
        config.tasks.insert(
            task,
            TaskConfig {
                endpoints: vec![own],
                ..task_config(0)
            },
        );
    }
}

#[test]
fn reads_for_one_endpoint_do_not_grow_with_the_networks() {
    for networks in [0, 30] {
        let mut lab = Lab::new(&["192.0.2.1"]);
        let mut config = lab.whole().remove(0);
        add_networks(&mut config, networks);
        lab.settle(std::slice::from_ref(&config));
        let reads = || ["dumps=", "tables="].map(|name| lab.hosts[0].count(name));
        // Devices that have just come up go on to tell of themselves.
        let mut before = reads();
        loop {
            thread::sleep(Duration::from_secs(2));
            let now = reads();
            if now == before {
                break;
            }
            before = now;
        }
        let (id, task) = (endpoint(7), TaskId(107));
        let addresses = vec![address(7, "10.77.9."), address(7, "fd00:77:9::")];
        let record = EndpointConfig {
            network: NETWORK,
            node: node(0),
            sandbox: task.into(),
            mac: Mac::of_endpoint(addresses[0]),
            addresses,
        };
        config.endpoints.insert(id, record);
        let joined = TaskConfig {
            endpoints: vec![id],
            ..task_config(0)
        };
        config.tasks.insert(task, joined);
        config.generation += 1;
        lab.hosts[0].configure(&config);
        lab.hosts[0].wait_settled(config.generation);
        let after = ["dumps=", "tables="].map(|name| lab.hosts[0].count(name));
        let [dumps, tables] = [after[0] - before[0], after[1] - before[1]];
        println!("{networks} networks more: {dumps} dumps, {tables} tables");
        // Of the new sandbox, and of the link to it.
        assert!((1..=30).contains(&dumps), "{dumps} dumps");
        assert_eq!(tables, 0);
        lab.vanish();
    }
}

#[test]
fn rules_that_are_deleted_or_changed_come_back() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let host = &lab.hosts[0];
    let inside = format!("ip netns exec {} nft", netd_network());
    let ours = || {
        let listing =
            host.run(&format!("{inside} -s list ruleset")) + &host.run("nft -s list ruleset");
        // Elements are listed in no order.
        let words = listing.split(|byte: char| byte.is_whitespace() || byte == ',');
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.sort();
        words
    };
    let before = ours();
    assert!(before.iter().any(|word| word == "netd"), "{before:?}");
    let damages = [
        format!("{inside} delete table inet netd"),
        format!("{inside} delete table netdev netd"),
        format!("{inside} delete table arp netd"),
        format!("{inside} flush table inet netd"),
        format!("{inside} add chain inet netd stray"),
        format!("{inside} flush ruleset"),
        "nft flush table inet netd".to_owned(),
        "nft delete table inet netd".to_owned(),
        "nft flush ruleset".to_owned(),
    ];
    for damage in damages {
        host.run(&damage);
        host.wait(&damage, |_| ours() == before);
    }
    lab.vanish();
}

#[test]
fn a_killed_data_plane_adopts_the_right_and_removes_the_rest() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    lab.settle(&lab.whole());
    let before = lab.hosts[0].picture();
    let (mut near, mut far) = lab.connect();
    lab.hosts[0].kill();
    exchange(&mut near, &mut far);
    let stale = "netd-t-0000000000abc";
    lab.hosts[0].run(&format!("ip netns add {stale}"));
    lab.hosts[0].run("ip netns add foreign");
    lab.hosts[0].run("ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0");
    let foreign = lab.hosts[0].run("ip -o link show flannel.1");
    lab.hosts[0].start();
    lab.hosts[0].wait("the stale sandbox is removed", |host| {
        !host.run("ip netns").contains(stale)
    });
    lab.hosts[0].wait_settled(1);
    exchange(&mut near, &mut far);
    assert_eq!(
        lab.hosts[0].picture(),
        before,
        "what was right has been touched"
    );
    assert_eq!(lab.hosts[0].run("ip -o link show flannel.1"), foreign);
    lab.hosts[0].run("ip netns del foreign");
    lab.vanish();
}

#[test]
fn a_changed_mtu_and_a_removed_task_leave_the_other_flows_alone() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    let mut configs = lab.whole();
    lab.settle(&configs);
    let (mut near, mut far) = lab.connect();
    for config in &mut configs {
        config.generation = 2;
        config.networks.get_mut(&NETWORK).unwrap().mtu = Some(1400);
    }
    let extra = TaskConfig {
        endpoints: Vec::new(),
        ..configs[0].tasks[&TaskId(100)].clone()
    };
    configs[0].tasks.insert(TaskId(500), extra);
    lab.settle(&configs);
    exchange(&mut near, &mut far);
    assert!(
        lab.hosts[0]
            .run(&format!("ip -n {} link show eth0", task(0)))
            .contains("mtu 1400")
    );
    let sandbox = model::names::sandbox_namespace(TaskId(500));
    assert!(lab.hosts[0].run("ip netns").contains(&sandbox));
    configs[0].tasks.remove(&TaskId(500));
    configs[0].generation = 3;
    lab.settle(&configs);
    assert!(!lab.hosts[0].run("ip netns").contains(&sandbox));
    exchange(&mut near, &mut far);
    lab.vanish();
}

/// Bits per second, and at once; the second is more than 32 bits of bytes.
const LIMITS: Bandwidth = Bandwidth {
    egress_rate: 20_000_000,
    egress_burst: 2_048_000,
    ingress_rate: 40_000_000_000,
    ingress_burst: 80_000_000,
};

#[test]
fn containers_of_others_are_attached_and_what_is_theirs_stays() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    let mut configs = lab.whole();
    configs[0].tasks.clear();
    let mut attach = |sandbox: u64, index: usize, path: &str, interface: Option<&str>| {
        let (id, interface) = (endpoint(index), interface.map(str::to_owned));
        let addresses = vec![address(index, "10.77.9."), address(index, "fd00:77:9::")];
        let mac = Mac::of_endpoint(addresses[0]);
        let record = EndpointConfig {
            network: NETWORK,
            node: node(0),
            sandbox: SandboxId(sandbox),
            addresses,
            mac,
        };
        configs
            .iter_mut()
            .for_each(|config| config.endpoints.insert(id, record.clone()));
        let container = ContainerConfig {
            runtime: ContainerRuntime::Cni,
            name: "db".to_owned(),
            path: format!("/run/netns/{path}"),
            identity: None,
            endpoints: vec![ContainerEndpoint {
                id,
                interface,
                bandwidth: LIMITS,
            }],
            leaves_elsewhere: false,
        };
        configs[0].containers.insert(SandboxId(sandbox), container);
    };
    attach(1, 0, "pod", Some("net1"));
    attach(2, 5, "docker", None);
    lab.hosts[0].run("ip netns add pod");
    lab.hosts[0].run("ip -n pod link add eth9 type veth peer name eth8");
    lab.hosts[0].run("ip -n pod link set eth8 up");
    lab.hosts[0].run("ip -n pod link set eth9 up");
    lab.hosts[0].run("ip -n pod addr add 198.51.100.7/24 dev eth9");
    lab.hosts[0].run("ip -n pod route add default dev eth9");
    let theirs = |host: &Host| {
        host.run("ip -n pod -4 -o addr show eth9") + &host.run("ip -n pod route show dev eth9")
    };
    let before = theirs(&lab.hosts[0]);
    lab.settle(&configs);
    // As Docker does it: the device is taken from the host, renamed, and given its addresses and
    // routes.
    let host = &lab.hosts[0];
    assert!(host.status().contains("ready=2"), "{}", host.status());
    host.run("ip netns add docker");
    host.run(&format!(
        "ip link set {} netns docker name eth0",
        model::names::handed_link(endpoint(5))
    ));
    for line in [
        "addr add 10.77.9.16/32 dev eth0",
        "addr add fd00:77:9::16/128 dev eth0 nodad",
        "link set eth0 up",
        "route add 10.77.9.1 dev eth0",
        "route add default via 10.77.9.1",
        "-6 route add fd00:77:9::1 dev eth0",
        "-6 route add default via fd00:77:9::1",
    ] {
        host.run(&format!("ip -n docker {line}"));
    }
    let inside = |name: &str| {
        let path = format!("/proc/{}/root/run/netns/{name}", lab.hosts[0].keeper.0.id());
        File::open(path).unwrap()
    };
    let all = || {
        for (from, targets) in [
            (
                "pod",
                ["10.77.9.12", "fd00:77:9::12", "10.77.9.16", "fd00:77:9::16"],
            ),
            (
                "docker",
                ["10.77.9.12", "fd00:77:9::12", "10.77.9.11", "fd00:77:9::11"],
            ),
        ] {
            targets
                .iter()
                .for_each(|target| assert_answers(&inside(from), target, 100));
        }
        assert_answers(&lab.hosts[1].sandbox(), "fd00:77:9::16", 100);
        assert_eq!(theirs(&lab.hosts[0]), before);
    };
    all();
    // `tc` writes the rates in bits.
    let limits = |host: &Host| {
        host.run("tc -n pod qdisc show dev net1")
            + &host.run(&format!("tc -n {} qdisc", netd_network()))
    };
    let limited = |host: &Host| {
        let found = limits(host);
        found.contains("rate 20Mbit burst 250Kb") && found.matches("rate 40Gbit").count() == 2
    };
    assert!(limited(host), "{}", limits(host));
    host.run("tc -n pod qdisc del dev net1 root");
    host.wait("it is limited again", limited);
    host.run("ip -n pod link del net1");
    host.wait("the interface is made anew", |host| {
        host.run("ip -n pod -o link").contains("net1")
    });
    host.run(&format!(
        "ip netns del {}",
        Namespace::Container(SandboxId(1)).name()
    ));
    host.wait("it has its name again", |host| {
        host.run("ip netns").contains("netd-c-0000000000001")
    });
    all();
    // A namespace that goes takes what is of it along, and one that is given up keeps what is not
    // ours.
    host.run("ip netns del docker");
    configs[0].containers.clear();
    configs[0].generation = 2;
    configs.iter_mut().for_each(|config| {
        config
            .endpoints
            .retain(|_, endpoint| endpoint.node != node(0))
    });
    lab.settle(&configs[..1]);
    let host = &lab.hosts[0];
    assert!(
        !host.run("ip -n pod -o link").contains("net1") && !host.run("ip netns").contains("netd-")
    );
    assert_eq!(theirs(host), before);
    host.run("ip netns del pod");
    lab.vanish();
}

#[test]
fn on_a_lan_a_device_that_a_runtime_has_taken_is_not_made_again() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    let mut configs = lab.whole();
    let lan = NetworkId(78);
    let driver = DriverConfig::Macvlan {
        parent: "eth0".parse().unwrap(),
        mode: MacvlanMode::Bridge,
    };
    let lease = |subnet: &str, gateway: &str| SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    let subnets = vec![
        lease("198.18.0.0/24", "198.18.0.1"),
        lease("fd00:78::/64", "fd00:78::1"),
    ];
    let record = NetworkConfig {
        driver,
        subnets,
        vni: Vni::try_from(78).unwrap(),
        ..network()
    };
    for (index, config) in configs.iter_mut().enumerate() {
        config.tasks.clear();
        config.networks = [(lan, record.clone())].into();
        config.endpoints = (0..2)
            .map(|index| {
                let (addresses, sandbox) = (
                    vec![address(index, "198.18.0."), address(index, "fd00:78::")],
                    SandboxId(1),
                );
                let mac = Mac::of_endpoint(addresses[0]);
                (
                    endpoint(index),
                    EndpointConfig {
                        network: lan,
                        node: node(index),
                        sandbox,
                        addresses,
                        mac,
                    },
                )
            })
            .collect();
        // The engine of the first host takes the device by itself.
        let interface = (index == 1).then(|| "net1".to_owned());
        let container = ContainerConfig {
            runtime: if index == 0 {
                ContainerRuntime::Docker
            } else {
                ContainerRuntime::Cni
            },
            name: "db".to_owned(),
            path: "/run/netns/pod".to_owned(),
            identity: None,
            endpoints: vec![ContainerEndpoint {
                id: endpoint(index),
                interface,
                bandwidth: Bandwidth::default(),
            }],
            leaves_elsewhere: false,
        };
        config.containers.insert(SandboxId(1), container);
    }
    lab.hosts[1].run("ip netns add pod");
    lab.settle(&configs);
    let handed = model::names::handed_link(endpoint(0));
    let host = &lab.hosts[0];
    host.wait("the device is there", |host| {
        host.status().contains("ready=1") && host.run("ip -o link").contains(handed.as_str())
    });
    host.run("ip netns add pod");
    host.run(&format!("ip link set {handed} netns pod name eth0"));
    for line in [
        "addr add 198.18.0.11/24 dev eth0",
        "addr add fd00:78::11/64 dev eth0 nodad",
        "link set eth0 up",
    ] {
        host.run(&format!("ip -n pod {line}"));
    }
    lab.hosts[1].wait_settled(1);
    let inside = |host: &Host| {
        File::open(format!("/proc/{}/root/run/netns/pod", host.keeper.0.id())).unwrap()
    };
    let all = |lab: &Lab| {
        for (from, to) in [(0, 12), (1, 11)] {
            assert_answers(&inside(&lab.hosts[from]), &format!("198.18.0.{to}"), 100);
            assert_answers(&inside(&lab.hosts[from]), &format!("fd00:78::{to}"), 100);
        }
        assert!(
            !lab.hosts[0].run("ip -o link").contains(handed.as_str()),
            "it was made a second time"
        );
    };
    all(&lab);
    // A new daemon finds it where it is.
    lab.hosts[0].kill();
    lab.hosts[0].start();
    lab.hosts[0].wait_settled(1);
    all(&lab);
    for (index, config) in configs.iter_mut().enumerate() {
        (config.generation, config.containers) = (2, Records::default());
        config
            .endpoints
            .retain(|_, endpoint| endpoint.node != node(index));
    }
    lab.settle(&configs);
    assert!(
        !lab.hosts[1].run("ip -n pod -o link").contains("net1"),
        "ours goes"
    );
    assert!(
        lab.hosts[0].run("ip -n pod -o link").contains("eth0"),
        "what the engine has is the engine's"
    );
    lab.hosts
        .iter()
        .for_each(|host| drop(host.run("ip netns del pod")));
    lab.vanish();
}

/// Not a test by itself: a host's process, started by the others. Ends when its standard input
/// does.
#[test]
fn host() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let read = || -> Option<NodeConfig> {
        let delta: ViewDelta =
            serde_json::from_slice(&fs::read(directory.join("config")).ok()?).ok()?;
        NodeConfig::empty(delta.node).apply(&delta).ok()
    };
    let first = Arc::new(read().expect("a configuration"));
    let (sender, receiver) = watch::channel(first);
    let desired = receiver.clone();
    let inhabited =
        move |sandbox| File::open(&desired.borrow().containers.get(&sandbox)?.path).ok();
    let (status, inside) = dataplane::spawn(receiver, &directory, inhabited).expect("a data plane");
    loop {
        if let Some(config) = read().filter(|config| config.generation > sender.borrow().generation)
        {
            sender.send_replace(Arc::new(config));
        }
        let seen = status.borrow().clone();
        let line = format!(
            "{} {} ready={} passes={} dumps={} tables={}\n{:?}\n{}",
            seen.generation,
            seen.settled,
            seen.ready.len(),
            inside.passes(),
            inside.reads().dumps,
            inside.reads().tables,
            seen.failures,
            inside.plan()
        );
        write_whole(&directory.join("status"), line.as_bytes());
        thread::sleep(POLL);
    }
}

struct Lab {
    hosts: Vec<Host>,
    _fabric: Keeper,
}

impl Lab {
    fn new(vteps: &[&str]) -> Self {
        let fabric = Keeper::new(&["unshare", "--net", "cat"]);
        fabric.run("ip link add br0 type bridge mcast_snooping 0");
        fabric.run("ip link set br0 up");
        let hosts = vteps
            .iter()
            .enumerate()
            .map(|(index, vtep)| Host::new(index, vtep, &fabric))
            .collect();
        Self {
            hosts,
            _fabric: fabric,
        }
    }

    /// One task on each host, all on one network of both families.
    fn whole(&self) -> Vec<NodeConfig> {
        let peers: Records<NodeId, PeerConfig> = (self.hosts.iter())
            .map(|host| {
                let address = SocketAddr::new(host.vtep, 2377);
                let hostname = format!("h{}", host.index);
                (
                    node(host.index),
                    PeerConfig {
                        hostname,
                        role: Role::Worker,
                        address,
                        vtep: host.vtep,
                        balancer: Default::default(),
                    },
                )
            })
            .collect();
        let endpoints: Records<EndpointId, EndpointConfig> = (0..self.hosts.len())
            .map(|index| {
                let addresses = vec![address(index, "10.77.9."), address(index, "fd00:77:9::")];
                let mac = Mac::of_endpoint(addresses[0]);
                let task = TaskId(100 + index as u64);
                (
                    endpoint(index),
                    EndpointConfig {
                        network: NETWORK,
                        node: node(index),
                        sandbox: task.into(),
                        addresses,
                        mac,
                    },
                )
            })
            .collect();
        let of = |index: usize| NodeConfig {
            generation: 1,
            peers: peers.clone(),
            networks: [(NETWORK, network())].into(),
            endpoints: endpoints.clone(),
            tasks: [(TaskId(100 + index as u64), task_config(index))].into(),
            ..NodeConfig::empty(node(index))
        };
        (0..self.hosts.len()).map(of).collect()
    }

    fn settle(&mut self, configs: &[NodeConfig]) {
        for (host, config) in self.hosts.iter_mut().zip(configs) {
            host.configure(config);
        }
        for (host, config) in self.hosts.iter().zip(configs) {
            host.wait_settled(config.generation);
        }
    }

    /// After an empty configuration nothing of ours is left.
    fn vanish(&mut self) {
        for host in &mut self.hosts {
            host.configure(&NodeConfig {
                generation: 99,
                ..NodeConfig::empty(node(host.index))
            });
        }
        for host in &self.hosts {
            host.wait_settled(99);
            let left = host.run("ip netns")
                + &host.run("ip -o link")
                + &host.run("ip route")
                + &host.run("ip -6 route");
            for ours in ["netd-", "nu-", "vx-", "10.77.9", "fd00:77:9"] {
                assert!(!left.contains(ours), "{ours} is left: {left}");
            }
        }
    }

    /// A TCP connection from the first host's task to the second's.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(address(1, "fd00:77:9::"), 7);
        let listener = namespace::within_file(&self.hosts[1].sandbox(), || TcpListener::bind(to))
            .unwrap()
            .unwrap();
        let near = namespace::within_file(&self.hosts[0].sandbox(), || {
            TcpStream::connect_timeout(&to, PATIENCE)
        });
        let (far, _) = listener.accept().unwrap();
        let near = near.unwrap().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        (near, far)
    }
}

fn exchange(near: &mut TcpStream, far: &mut TcpStream) {
    for _ in 0..10 {
        near.write_all(b"ping").unwrap();
        far.read_exact(&mut [0; 4]).unwrap();
        far.write_all(b"pong").unwrap();
        near.read_exact(&mut [0; 4]).unwrap();
    }
}

/// Waits until the port that nobody listens on is refused by the target itself.
fn assert_answers(from: &File, target: &str, length: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = probe(from, target, length);
        if error.kind() == ErrorKind::ConnectionRefused {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{target} does not answer {length} bytes: {error}"
        );
        thread::sleep(POLL);
    }
}

/// What a datagram to a closed port comes to; silence is `WouldBlock`.
fn probe(from: &File, target: &str, length: usize) -> std::io::Error {
    let target: IpAddr = target.parse().unwrap();
    let any: IpAddr = if target.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let result = namespace::within_file(from, || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect((target, 9))?;
        socket.send(&vec![0; length])?;
        socket.recv(&mut [0])
    });
    result.unwrap().expect_err("nothing is sent from port 9")
}

struct Host {
    index: usize,
    vtep: IpAddr,
    directory: tempfile::TempDir,
    daemon: Option<Child>,
    keeper: Keeper,
}

impl Host {
    fn new(index: usize, vtep: &str, fabric: &Keeper) -> Self {
        let shell = "mount -t tmpfs none /run && echo ok && exec cat";
        let keeper = Keeper::new(&[
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            shell,
        ]);
        keeper.run("ip link set lo up");
        fabric.run(&format!(
            "ip link add port{index} master br0 type veth peer name eth0 netns {}",
            keeper.0.id()
        ));
        fabric.run(&format!("ip link set port{index} up"));
        keeper.run("ip link set eth0 up");
        keeper.run(&format!("ip addr add 192.0.2.{}/24 dev eth0", index + 1));
        keeper.run(&format!(
            "ip addr add fd00:cafe::{}/64 dev eth0 nodad",
            index + 1
        ));
        let directory = tempfile::tempdir().unwrap();
        Self {
            index,
            vtep: vtep.parse().unwrap(),
            directory,
            daemon: None,
            keeper,
        }
    }

    fn configure(&mut self, config: &NodeConfig) {
        write_whole(
            &self.directory.path().join("config"),
            &serde_json::to_vec(&config.snapshot()).unwrap(),
        );
        if self.daemon.is_none() {
            self.start();
        }
    }

    fn start(&mut self) {
        let _ = fs::remove_file(self.directory.path().join("status"));
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.keeper.0.id().to_string(), "--net", "--mount"]);
        command
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "host", "--nocapture"]);
        command
            .env(DIRECTORY, self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    fn status(&self) -> String {
        fs::read_to_string(self.directory.path().join("status")).unwrap_or_default()
    }

    /// A number of its status.
    fn count(&self, name: &str) -> u64 {
        let status = self.status();
        let (_, rest) = status.split_once(name).unwrap();
        let number = rest.split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    fn wait_settled(&self, generation: u64) {
        let settled = format!("{generation} true");
        self.wait("it is settled", |host| host.status().starts_with(&settled));
    }

    fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "host {} waited until {what}: {}",
                self.index,
                self.status()
            );
            thread::sleep(POLL);
        }
    }

    /// Damages the host and waits until it looks as before.
    fn repairs(&self, damage: &str) {
        let before = self.shape();
        self.run(damage);
        let start = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        while self.shape() != before {
            assert!(
                Instant::now() < deadline,
                "{damage}: {}\nbefore:\n{before}\nnow:\n{}",
                self.status(),
                self.shape()
            );
            thread::sleep(POLL);
        }
        println!("{:>5} ms {damage}", start.elapsed().as_millis());
        self.wait_settled(1);
    }

    /// What is there, numbers of links left out.
    fn shape(&self) -> String {
        let picture = self.picture();
        let lines = picture.lines().map(|line| match line.split_once(": ") {
            Some((number, rest)) if number.trim().parse::<u32>().is_ok() => strip_peer(rest),
            _ => line.to_owned(),
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines.join("\n")
    }

    /// All links, addresses, routes and neighbours of ours, and a sysctl or two.
    fn picture(&self) -> String {
        let mut shell = String::from("ip -o link | grep -e nu- -e vx-; ip route; ip -6 route;");
        for namespace in [netd_network(), task(self.index)] {
            for show in [
                "-o link",
                "-o addr",
                "route",
                "-6 route",
                "neigh show nud permanent",
                "-6 neigh show nud permanent",
            ] {
                shell += &format!("ip -n {namespace} {show};");
            }
        }
        shell += &format!("bridge -n {} fdb;", netd_network());
        let sysctls =
            "sysctl -a --pattern 'proxy_(arp|delay)$|all.accept_local$|^net.ipv4.ip_forward$'";
        shell += &format!("ip netns exec {} {sysctls} 2>&1", netd_network());
        let output = self.keeper.enter(&["sh", "-c", &shell]);
        text(&output)
            .lines()
            .map(without_states)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Packets that a guard's chain has dropped, in one of our namespaces or (empty) the host's.
    fn dropped(&self, namespace: &str, chain: &str) -> u64 {
        let inside = if namespace.is_empty() {
            String::new()
        } else {
            format!("ip netns exec {namespace} ")
        };
        let listing = self.run(&format!("{inside}nft list chain inet netd {chain}"));
        let (_, rest) = listing.split_once("counter packets ").unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// From inside a namespace of ours, or (empty) the host's.
    fn send_frame(&self, namespace: &str, link: &str, frame: &[u8]) {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let send = "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
                    s.bind((sys.argv[1], 0)); s.send(bytes.fromhex(sys.argv[2]))";
        let inside = ["ip", "netns", "exec", namespace];
        let inside = if namespace.is_empty() {
            &[][..]
        } else {
            &inside
        };
        let output = self
            .keeper
            .enter(&[inside, &["python3", "-c", send, link, &hex]].concat());
        assert!(output.status.success(), "{}", text(&output));
    }

    fn sandbox(&self) -> File {
        File::open(format!(
            "/proc/{}/root/run/netns/{}",
            self.keeper.0.id(),
            task(self.index)
        ))
        .unwrap()
    }

    fn own(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.keeper.0.id())).unwrap()
    }

    fn run(&self, command: &str) -> String {
        self.keeper.run(command)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process that holds namespaces for as long as it is not dropped; it ends with this one, too.
struct Keeper(Child);

impl Keeper {
    fn new(command: &[&str]) -> Self {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The echo says that the namespaces are there.
        let line = if command.contains(&"sh") { 3 } else { 4 };
        if line == 4 {
            child.stdin.as_mut().unwrap().write_all(b"ok\n\n").unwrap();
        }
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut vec![0; line])
            .unwrap();
        Self(child)
    }

    fn enter(&self, command: &[&str]) -> Output {
        let id = self.0.id().to_string();
        Command::new("nsenter")
            .args(["-t", &id, "--net", "--mount"])
            .args(command)
            .output()
            .unwrap()
    }

    fn run(&self, command: &str) -> String {
        let output = self.enter(&command.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{command}: {}", text(&output));
        text(&output)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn network() -> NetworkConfig {
    let lease = |subnet: &str, gateway: &str| SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    NetworkConfig {
        name: "my-net".to_owned(),
        vni: Vni::try_from(77).unwrap(),
        driver: DriverConfig::Overlay {
            port: 4789,
            encrypted: false,
        },
        subnets: vec![
            lease("10.77.9.0/24", "10.77.9.1"),
            lease("fd00:77:9::/64", "fd00:77:9::1"),
        ],
        internal: false,
        mtu: None,
    }
}

fn task_config(index: usize) -> TaskConfig {
    let runtime = Runtime::Exec {
        argv: vec!["true".to_owned()],
        env: BTreeMap::new(),
        rootfs: None,
    };
    TaskConfig {
        service: ServiceId(1),
        service_name: "web".to_owned(),
        slot: index as u32 + 1,
        spec: TaskSpec {
            stop_grace: 1000,
            ..TaskSpec::new(runtime)
        },
        stack: None,
        desired: TaskState::Running,
        state: TaskState::Assigned,
        draining: false,
        endpoints: vec![endpoint(index)],
    }
}

fn node(index: usize) -> NodeId {
    NodeId(10 + index as u64)
}

fn endpoint(index: usize) -> EndpointId {
    EndpointId(200 + index as u64)
}

fn address(index: usize, prefix: &str) -> IpAddr {
    format!("{prefix}{}", 11 + index).parse().unwrap()
}

fn task(index: usize) -> String {
    model::names::sandbox_namespace(TaskId(100 + index as u64))
}

fn netd_network() -> String {
    model::names::network_namespace(NETWORK)
}

fn strip_peer(line: &str) -> String {
    let (name, rest) = line.split_once(": ").unwrap_or((line, ""));
    format!("{}: {rest}", name.split('@').next().unwrap_or(name))
}

/// What the kernel numbers by itself, or works out some time later, says nothing of the shape.
fn without_states(line: &str) -> String {
    let mut kept = Vec::new();
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "state" | "link-netnsid" | "link-netns" => drop(words.next()),
            word => kept.push(word),
        }
    }
    kept.join(" ")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn write_whole(path: &Path, bytes: &[u8]) {
    let part = path.with_extension("part");
    fs::write(&part, bytes).unwrap();
    fs::rename(part, path).unwrap();
}
