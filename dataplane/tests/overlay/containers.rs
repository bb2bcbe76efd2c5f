//! Containers that others run.

use super::*;

/// Bits per second, and at once; the second is more than 32 bits of bytes.
pub const LIMITS: Bandwidth = Bandwidth {
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
