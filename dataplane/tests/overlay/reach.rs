//! Hosts that call tasks of other hosts, and a machine that is no member.

use super::*;

/// A forged caller's address, which no host has.
const FORGED: &str = "203.0.113.7";
const OUTSIDE: &str = "192.0.2.50";

/// The first host has no task on the network.
fn opened(lab: &Lab, reach: model::Reach) -> Vec<NodeConfig> {
    let mut configs = lab.whole();
    configs[0].tasks.clear();
    for config in &mut configs {
        config.endpoints.remove(&endpoint(0));
        let open = NetworkConfig {
            reach: reach.clone(),
            ..network()
        };
        config.networks.insert(NETWORK, open);
    }
    configs
}

/// Who calls, as the second host's task sees it.
fn caller_seen(lab: &Lab, from: &File, prefix: &str) -> IpAddr {
    let to = SocketAddr::new(address(1, prefix), 7);
    let task = lab.hosts[1].sandbox();
    let listener = namespace::within_file(&task, || TcpListener::bind(to));
    let listener = listener.unwrap().unwrap();
    let near = namespace::within_file(from, || TcpStream::connect_timeout(&to, PATIENCE));
    let mut near = near.unwrap().unwrap();
    let (mut far, from) = listener.accept().unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(&mut near, &mut far);
    from.ip()
}

#[test]
fn hosts_call_tasks_of_other_hosts_as_themselves_only() {
    let mut lab = Lab::new(&["192.0.2.1", "192.0.2.2"]);
    let everybody = model::Reach {
        hosts: true,
        exposed: ["192.0.2.48/28".parse().unwrap()].into(),
    };
    let configs = opened(&lab, everybody);
    lab.settle(&configs);
    let host = lab.hosts[0].own();
    for (prefix, own) in [
        ("10.77.9.", "192.0.2.1"),
        ("fd00:77:9::", "fd6e:6574:6401::a"),
    ] {
        assert_eq!(
            caller_seen(&lab, &host, prefix),
            own.parse::<IpAddr>().unwrap()
        );
        let target = address(1, prefix).to_string();
        for length in [1, 3000] {
            assert_answers(&host, &target, length);
        }
        // Its own host calls it as others do.
        let near = lab.hosts[1].own();
        assert_answers(&near, &target, 1);
    }
    // No other address than the host's own: the task's host would not know whose it is.
    lab.hosts[0].run(&format!("ip addr add {FORGED}/32 dev lo"));
    let from_forged = namespace::within_file(&host, || {
        let socket = UdpSocket::bind((FORGED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect((address(1, "10.77.9."), 9))?;
        socket.send(b"?")?;
        socket.recv(&mut [0])
    });
    let silence = from_forged.unwrap().unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock, "{silence}");
    // A machine that is no member, with a route to a host that has no task.
    let outside = Keeper::new(&["unshare", "--net", "cat"]);
    lab._fabric.run(&format!(
        "ip link add outside master br0 type veth peer name eth0 netns {}",
        outside.0.id()
    ));
    lab._fabric.run("ip link set outside up");
    outside.run("ip link set eth0 up");
    outside.run(&format!("ip addr add {OUTSIDE}/24 dev eth0"));
    outside.run("ip route add 10.77.9.0/24 via 192.0.2.1");
    let machine = File::open(format!("/proc/{}/ns/net", outside.0.id())).unwrap();
    let seen = caller_seen(&lab, &machine, "10.77.9.");
    assert_eq!(seen, OUTSIDE.parse::<IpAddr>().unwrap());
    // Another one, which the network is not exposed to.
    outside.run(&format!("ip addr del {OUTSIDE}/24 dev eth0"));
    outside.run("ip addr add 192.0.2.70/24 dev eth0");
    outside.run("ip route add 10.77.9.0/24 via 192.0.2.1");
    let refused = probe(&machine, "10.77.9.12", 1);
    assert_ne!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    // Closed again, nothing leads there from a host without a task.
    let mut closed = opened(&lab, model::Reach::default());
    closed.iter_mut().for_each(|config| config.generation = 2);
    lab.settle(&closed);
    assert!(!lab.hosts[0].run("ip route").contains("10.77.9"));
    lab.vanish();
}
