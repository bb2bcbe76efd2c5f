//! Overlay networks as a user makes and uses them: prefixes, MTU, the way out, other software on
//! the host, the underlay.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{Lab, eventually, field, holds};

/// The addresses of a service's tasks.
fn addresses(lab: &Lab, service: &str) -> Vec<String> {
    let addresses = |task: &Value| task["addresses"].as_array().unwrap().clone();
    let found = lab
        .running("h1", service)
        .iter()
        .flat_map(addresses)
        .collect::<Vec<_>>();
    found
        .iter()
        .map(|address| address.as_str().unwrap().to_owned())
        .collect()
}

/// The URL of a port at an address.
fn url(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("http://[{address}]:{port}/")
    } else {
        format!("http://{address}:{port}/")
    }
}

/// Asks with patience for a page, from inside a task; what it said.
#[track_caller]
fn fetched(lab: &Lab, task: &str, url: &str) -> String {
    eventually(&format!("{task} gets {url}"), || {
        let said = lab.inside("h1", task, &["curl", "-sSg", "-m", "2", url]);
        if said.code == 0 {
            Ok(said.out)
        } else {
            Err(format!("{said:?}"))
        }
    })
}

#[test]
fn a_network_keeps_several_subnets_of_both_families() {
    let lab = Lab::up(2);
    lab.ctl(
        "h1",
        "network create --attachable --label tier=front --opt mtu=1400 --subnet 10.20.0.0/29 \
         --gateway 10.20.0.6 --subnet 10.21.0.0/24 --subnet fd00:20::/64 --gateway fd00:20::ff \
         wide",
    )
    .ok();
    let network = lab.json("h1", "network inspect wide").remove(0);
    let kept = (
        &network["spec"]["attachable"],
        &network["spec"]["labels"]["tier"],
        &network["spec"]["options"]["mtu"],
    );
    assert_eq!(
        kept,
        (
            &Value::from(true),
            &Value::from("front"),
            &Value::from("1400")
        )
    );
    let gateways: Vec<_> = network["status"]["subnets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| &lease["gateway"])
        .collect();
    assert_eq!(gateways, ["10.20.0.6", "10.21.0.1", "fd00:20::ff"]);

    // The first prefix has room for the virtual IP and four of the eight.
    lab.ctl(
        "h1",
        "service create --name web --replicas 8 --network wide -- netd whoami --port 80",
    )
    .ok();
    let all = addresses(&lab, "web");
    let inside = |prefix: &str| {
        all.iter()
            .filter(|address| address.starts_with(prefix))
            .count()
    };
    assert_eq!(
        (inside("10.20.0."), inside("10.21.0."), inside("fd00:20::")),
        (4, 4, 8),
        "{all:?}"
    );
    for address in &all {
        fetched(&lab, "web.1", &url(address, 80));
        fetched(&lab, "web.8", &url(address, 80));
    }
    let link = lab
        .inside("h1", "web.1", &["cat", "/sys/class/net/eth0/mtu"])
        .ok();
    assert_eq!(link.trim(), "1400");
    for family in ["-4", "-6"] {
        eventually("every replica answers by name", || {
            let close = ["-m", "2", "-H", "Connection: close", "http://web/[1-24]"];
            let said = lab.inside(
                "h1",
                "web.8",
                &[&["curl", "-sS", family][..], &close].concat(),
            );
            let tasks = BTreeSet::from_iter(field(&said.out, "task")).len();
            holds(said.code == 0 && tasks == 8, said)
        });
    }
}

/// Sends datagrams of growing size that must not be cut, says the largest that the kernel takes for
/// good, headers included.
const LARGEST: &str = r#"
import socket, sys, time
target = sys.argv[1]
six = ":" in target
client = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DO = 10, 23, 2
client.setsockopt(41 if six else 0, IPV6_MTU_DISCOVER if six else IP_MTU_DISCOVER, DO)
client.connect((target, 9))
largest = 0
for size in range(1330, 1510):
    try:
        for _ in range(3):
            client.send(bytes(size - (48 if six else 28)))
            time.sleep(0.002)
        largest = size
    except OSError as error:
        if error.errno not in (90, 111):
            raise
        if error.errno == 111:
            largest = size
print(largest)
"#;

#[test]
fn the_mtu_is_exact_for_each_host_and_follows_the_uplink() {
    narrows("", None);
}

#[test]
fn a_requested_mtu_above_the_uplinks_is_limited_by_icmp() {
    narrows("--opt mtu=9000", Some(H2));
}

/// What gets through is the same however large the links of a network are.
fn narrows(options: &str, outside: Option<[&str; 2]>) {
    let lab = Lab::up(2);
    serve(&lab, "h2");
    lab.ctl(
        "h1",
        &format!("network create --subnet 10.22.0.0/24 --subnet fd00:22::/64 {options} net"),
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name a --replicas 2 --network net -- netd whoami --port 80",
    )
    .ok();
    let tasks = lab.running("h1", "a");
    let on = |host: &str| tasks.iter().find(|task| task["node"] == host).unwrap();
    let task = on("h1")["name"].as_str().unwrap();
    let far = [0, 1].map(|family| on("h2")["addresses"][family].as_str().unwrap());
    let largest_to = |targets: [&str; 2], expected: u32| {
        for target in targets {
            eventually("the largest packet is what gets through", || {
                let said = lab.inside("h1", task, &["python3", "-c", LARGEST, target]);
                holds(
                    said.out.trim() == expected.to_string(),
                    (target, expected, said),
                )
            });
        }
    };
    let largest = |expected: u32| largest_to(far, expected);
    if let Some(outside) = outside {
        largest_to(outside, 1500);
    }
    largest(1450);
    // A narrower way to this one host, as a tunnel or a VLAN in between makes it.
    lab.exec(
        "h1",
        &[
            "ip",
            "route",
            "add",
            "192.168.100.12",
            "dev",
            "eth0",
            "mtu",
            "1420",
        ],
    )
    .ok();
    largest(1370);
    // Senders remember the narrow way for ten minutes (`mtu_expires`), so a wider one is not seen
    // at once.
    lab.exec("h1", &["ip", "route", "del", "192.168.100.12"])
        .ok();
    lab.exec("h1", &["ip", "link", "set", "eth0", "mtu", "1400"])
        .ok();
    largest(1350);
    // As narrow as tunnels of other software are: outer packets are cut, but nothing is lost.
    lab.exec("h1", &["ip", "link", "set", "eth0", "mtu", "1280"])
        .ok();
    eventually("the link has what IPv6 asks for", || {
        let said = lab.inside("h1", task, &["cat", "/sys/class/net/eth0/mtu"]);
        let least = if options.is_empty() { "1280" } else { "9000" };
        holds(said.out.trim() == least, said)
    });
    for target in far {
        fetched(&lab, task, &url(target, 80));
    }
}

/// Serves `netd whoami` on a host itself.
fn serve(lab: &Lab, host: &str) {
    lab.exec(
        host,
        &[
            "sh",
            "-c",
            "nohup netd whoami --port 8080 > /dev/null 2>&1 &",
        ],
    )
    .ok();
}

/// A host's own addresses.
const H2: [&str; 2] = ["192.168.100.12", "fd00:6c61:62::12"];

#[test]
fn forward_drops_of_docker_and_firewalls_cut_nothing_off() {
    let lab = Lab::up(2);
    let docker = "nohup dockerd --data-root /run/docker-data --exec-root /run/docker-exec -H \
                  unix:///run/docker.sock --pidfile /run/docker.pid --storage-driver vfs > \
                  /run/dockerd.log 2>&1 &";
    lab.exec("h1", &["sh", "-c", docker]).ok();
    // It does so where it finds a host that does not forward yet.
    eventually("Docker drops what it does not know", || {
        let said = lab.exec("h1", &["iptables", "-S", "FORWARD"]);
        let log = lab.exec("h1", &["tail", "-n", "3", "/run/dockerd.log"]);
        holds(
            said.out.contains("-P FORWARD DROP") && said.out.contains("DOCKER-USER"),
            (said, log),
        )
    });
    lab.exec("h1", &["sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1"])
        .ok();
    lab.ctl("h1", "network create open").ok();
    lab.ctl(
        "h1",
        "service create --name a --replicas 2 --network open -- netd whoami --port 80",
    )
    .ok();
    let tasks = lab.running("h1", "a");
    let task = tasks.iter().find(|task| task["node"] == "h1").unwrap();
    let name = task["name"].as_str().unwrap();
    ["h1", "h2"].iter().for_each(|host| serve(&lab, host));
    let reaches = || {
        for (address, own) in H2.iter().zip(["192.168.100.11", "fd00:6c61:62::11"]) {
            // Outside it is seen as its host.
            assert_eq!(
                field(&fetched(&lab, name, &url(address, 8080)), "client"),
                [own]
            );
            fetched(&lab, name, &url(own, 8080));
        }
        for address in task["addresses"].as_array().unwrap() {
            let address = address.as_str().unwrap();
            let said = lab
                .exec("h1", &["curl", "-sSg", "-m", "5", &url(address, 80)])
                .ok();
            assert_eq!(field(&said, "host"), ["h1"]);
        }
    };
    reaches();
    // A host that forwards listens to router advertisements only if it is told to (2).
    assert_eq!(
        lab.exec("h1", &["sysctl", "-n", "net.ipv6.conf.eth0.accept_ra"])
            .ok()
            .trim(),
        "2"
    );

    // UFW does this by iptables, firewalld by a table of its own.
    let ufw =
        "ip6tables -P FORWARD DROP; iptables -I FORWARD 1 -j LOG; iptables -A FORWARD -j DROP";
    let firewalld = "nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward \
                     priority 10; ct state { established, related } accept; \
                     reject with icmpx admin-prohibited; }; }'";
    lab.exec("h1", &["sh", "-c", &format!("{ufw}; {firewalld}")])
        .ok();
    reaches();
    assert!(
        lab.exec("h1", &["iptables", "-S", "FORWARD"])
            .ok()
            .contains("-i nu-+ -m comment --comment netd -j ACCEPT")
    );

    lab.ctl("h1", "service rm a").ok();
    lab.ctl("h1", "network rm open").ok();
    eventually("nothing of ours is left in their chains", || {
        let said = lab.exec("h1", &["nft", "list", "ruleset"]);
        holds(!said.out.contains("nu-"), said)
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_its_names_go_nowhere() {
    let lab = Lab::up(2);
    lab.ctl(
        "h1",
        "network create --internal --subnet 10.23.0.0/24 --subnet fd00:23::/64 vault",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name safe --replicas 2 --network vault -- netd whoami --port 80",
    )
    .ok();
    serve(&lab, "h2");
    fetched(&lab, "safe.1", "http://safe/");
    fetched(&lab, "safe.1", "http://safe.2/");
    for address in H2 {
        let said = lab.inside(
            "h1",
            "safe.1",
            &["curl", "-sSg", "-m", "2", &url(address, 8080)],
        );
        assert_ne!(said.code, 0, "{said:?}");
    }
    let said = lab
        .inside(
            "h1",
            "safe.1",
            &["dig", "+tries=1", "+time=2", "@10.23.0.1", "example.com"],
        )
        .ok();
    assert!(
        said.contains("status: REFUSED") || said.contains("status: NXDOMAIN"),
        "{said}"
    );
    assert!(!lab.exec("h1", &["ip", "link"]).ok().contains("nu-"));
}

#[test]
fn networks_do_not_reach_each_other_on_one_host_or_across_hosts() {
    let lab = Lab::up(2);
    for name in ["red", "blue"] {
        lab.ctl("h1", &format!("network create {name}")).ok();
        let port = format!("--network {name} -- netd whoami --port 80");
        lab.ctl(
            "h1",
            &format!("service create --name {name} --replicas 2 {port}"),
        )
        .ok();
    }
    for address in addresses(&lab, "blue") {
        let to = url(&address, 80);
        fetched(&lab, "blue.1", &to);
        for task in ["red.1", "red.2"] {
            let said = lab.inside("h1", task, &["curl", "-sSg", "-m", "2", &to]);
            assert_ne!(said.code, 0, "{task} reached {to}: {said:?}");
        }
    }
    let said = lab.inside("h1", "red.1", &["curl", "-sS", "-m", "2", "http://blue/"]);
    assert_eq!(
        said.code, 6,
        "a name of another network was answered: {said:?}"
    );
}

/// Writes a tunnel packet: outer target, VNI, inner Ethernet addresses, inner source and target.
const FORGE: &str = r#"
import socket, struct, sys
host, vni, to, source, inner, target = sys.argv[1:]
mac = lambda text: bytes.fromhex(text.replace(":", ""))
payload = b"forged"
udp = struct.pack("!HHHH", 9, 9, 8 + len(payload), 0) + payload
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(inner),
    socket.inet_aton(target))
total = sum(struct.unpack("!10H", ip))
total = (total >> 16) + (total & 0xffff)
ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + ip[12:]
frame = mac(to) + mac(source) + b"\x08\x00" + ip + udp
packet = b"\x08\0\0\0" + struct.pack("!I", int(vni, 16) << 8) + frame
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(packet, (host, 4789))
"#;

/// Writes down each datagram to port 9, a line each.
const HEAR: &str = r#"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 9))
while True:
    open("/tmp/heard", "ab").write(server.recv(2048) + b"\n")
"#;

#[test]
fn tunnel_packets_of_tasks_and_host_processes_are_dropped() {
    let lab = Lab::up(2);
    for name in ["red", "blue"] {
        lab.ctl("h1", &format!("network create {name}")).ok();
        let create = [
            "swarmctl",
            "service",
            "create",
            "--name",
            name,
            "--replicas",
            "2",
            "--network",
            name,
            "--",
        ];
        lab.exec("h1", &[&create[..], &["python3", "-c", HEAR]].concat())
            .ok();
    }
    let on = |service: &str, host: &str| {
        let tasks = lab.running("h1", service);
        let task = tasks.iter().find(|task| task["node"] == host).unwrap();
        (
            task["name"].as_str().unwrap().to_owned(),
            task["addresses"][0].as_str().unwrap().to_owned(),
        )
    };
    let ((near, source), (far, target)) = (on("red", "h1"), on("red", "h2"));
    let network = lab.json("h1", "network inspect red").remove(0);
    let vni = format!("{:x}", network["status"]["vni"].as_u64().unwrap());
    let (to, from) = (lab.router("h2", &network), lab.router("h1", &network));
    let forge = [
        "python3", "-c", FORGE, H2[0], &vni, &to, &from, &source, &target,
    ];
    let nobody = [
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "--bounding-set",
        "-all",
    ];

    // Refused at once, or lost on the way: what counts is that it does not arrive.
    lab.exec("h1", &[&nobody[..], &forge].concat());
    lab.exec("h1", &forge);
    lab.inside("h1", &on("blue", "h1").0, &forge);
    lab.inside("h1", &near, &forge);
    let word = format!("import socket; socket.socket(2, 2).sendto(b'true', ('{target}', 9))");
    let heard = eventually("an honest datagram arrives", || {
        lab.inside("h1", &near, &["python3", "-c", &word]).ok();
        let heard = lab.inside("h1", &far, &["cat", "/tmp/heard"]);
        if heard.out.contains("true") {
            Ok(heard.out)
        } else {
            Err(format!("{heard:?}"))
        }
    });
    assert!(!heard.contains("forged"), "{heard}");

    // The packet is a good one: where nobody keeps it out, it arrives.
    for host in ["h1", "h2"] {
        lab.exec(
            host,
            &[
                "sh",
                "-c",
                "kill -STOP $(cat /run/netd.pid); nft flush ruleset",
            ],
        )
        .ok();
    }
    lab.exec("h1", &forge).ok();
    for host in ["h1", "h2"] {
        lab.exec(host, &["sh", "-c", "kill -CONT $(cat /run/netd.pid)"])
            .ok();
    }
    eventually("the packet arrives where there are no rules", || {
        let heard = lab.inside("h1", &far, &["cat", "/tmp/heard"]);
        holds(heard.out.contains("forged"), heard)
    });
}

/// Takes all hosts out of the lab's cluster and makes another: what `init` is told, what a host is
/// told to advertise.
fn refound(lab: &Lab, init: &str, advertise: impl Fn(&str) -> String) {
    for host in ["h2", "h1"] {
        lab.ctl(host, "leave --force").ok();
    }
    lab.ctl("h1", &format!("init {} {init}", advertise("h1")))
        .ok();
    let token = lab.ctl("h1", "token worker -q").ok();
    let manager = advertise("h1")
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned();
    let manager = if manager.contains(':') {
        format!("[{manager}]:2377")
    } else {
        manager
    };
    lab.ctl(
        "h2",
        &format!(
            "join --token {} {} {manager}",
            token.trim(),
            advertise("h2")
        ),
    )
    .ok();
    lab.ctl(
        "h1",
        "network create --subnet 10.24.0.0/24 --subnet fd00:24::/64 net",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 2 --network net -- netd whoami --port 80",
    )
    .ok();
    for address in addresses(lab, "web") {
        fetched(lab, "web.1", &url(&address, 80));
        fetched(lab, "web.2", &url(&address, 80));
    }
}

#[test]
fn a_cluster_runs_without_ipv4_on_its_own_tunnel_port() {
    let lab = Lab::up(2);
    for host in ["h1", "h2"] {
        lab.exec(host, &["ip", "-4", "address", "flush", "dev", "eth0"])
            .ok();
    }
    let six = |host: &str| {
        format!(
            "--advertise-addr fd00:6c61:62::{}",
            if host == "h1" { 11 } else { 12 }
        )
    };
    refound(&lab, "--data-path-port 7789", six);
    let mtu = lab
        .inside("h1", "web.1", &["cat", "/sys/class/net/eth0/mtu"])
        .ok();
    assert_eq!(mtu.trim(), "1430");
    let tunnel = "ip -n $(ip netns | grep -v netd-t- | grep -o -m1 '^netd-[0-9a-z]*') -d link show \
                  type vxlan";
    assert!(
        lab.exec("h1", &["sh", "-c", tunnel])
            .ok()
            .contains("dstport 7789")
    );
    for port in ["1023", "49151"] {
        let said = lab
            .ctl("h1", &format!("init --data-path-port {port}"))
            .refused();
        assert!(said.contains("next: "), "{said}");
    }
}

#[test]
fn tunnels_end_at_the_address_that_was_named_for_them() {
    let lab = Lab::up(2);
    let number = |host: &str| if host == "h1" { 1 } else { 2 };
    for host in ["h1", "h2"] {
        let address = format!("192.168.100.11{}/24", number(host));
        lab.exec(host, &["ip", "address", "add", &address, "dev", "eth0"])
            .ok();
    }
    refound(&lab, "", |host| {
        let number = number(host);
        format!("--advertise-addr 192.168.100.1{number} --data-path-addr 192.168.100.11{number}")
    });
    let tunnel = "NS=$(ip netns | grep -v netd-t- | grep -o -m1 '^netd-[0-9a-z]*'); \
                  ip -n $NS -d link show type vxlan; bridge -n $NS fdb show";
    let said = lab.exec("h1", &["sh", "-c", tunnel]).ok();
    assert!(
        said.contains("local 192.168.100.111") && said.contains("dst 192.168.100.112"),
        "{said}"
    );
}
