//! The data plane through the public interface: it heals itself and outlives its daemon.

use std::collections::BTreeSet;

use tests::{CALL, Lab, eventually, field, holds, run};

/// Waits until every host's replica answers the shell, in both families.
fn web_answers(lab: &Lab) {
    for family in ["-4", "-6"] {
        eventually("web answers on every host", || {
            let close = ["-m", "2", "-H", "Connection: close", "http://web/[1-6]"];
            let said = lab.inside(
                "h1",
                "shell.1",
                &[&["curl", "-sS", family][..], &close].concat(),
            );
            let hosts = BTreeSet::from_iter(field(&said.out, "host")).len();
            holds(said.code == 0 && hosts == 3, said)
        });
    }
}

/// Waits until a host has nothing left to change.
fn settled(lab: &Lab, host: &str) {
    eventually("the host has nothing left to change", || {
        let plan = lab.ctl(host, "debug plan");
        holds(plan.code == 0 && plan.out.trim().is_empty(), (host, plan))
    });
}

/// What a careless operator does; `$NS` is the network's namespace, `$VX` its VXLAN device.
const BREAKAGES: [&str; 17] = [
    "ip -n $NS link del $VX",
    "ip -n $NS route del $(ip -n $NS route | grep -m1 via.inet6.*dev.vx | cut -d' ' -f1)",
    "ip -n $NS -6 route flush dev $VX",
    "bridge -n $NS fdb show dev $VX | while read mac rest; do bridge -n $NS fdb del $mac dev $VX; \
     done",
    "bridge -n $NS fdb show dev $VX | while read mac rest; do bridge -n $NS fdb replace $mac dev \
     $VX dst 192.0.2.9; done",
    "ip -n $NS neigh flush all nud permanent",
    "ip -n $NS neigh show dev $VX nud permanent | while read ll rest; do \
     ip -n $NS neigh replace $ll dev $VX lladdr 02:00:00:00:00:09 nud permanent; done",
    "nft flush ruleset",
    "ip link del nu-${VX#vx-}",
    "ip route del $(ip route | grep -m1 dev.nu-${VX#vx-} | cut -d' ' -f1); sysctl -qw \
     net.ipv4.ip_forward=0",
    // Of an earlier life: links, namespaces and rules that nobody asks for.
    "ip link add nu-0000ff type veth peer name vx-0000ff; ip netns add netd-0000000000001; \
     nft add chain inet netd stale '{ type filter hook forward priority 0; policy drop; }'",
    "ip netns exec $NS nft flush ruleset",
    "ip -n $NS link del $(ip -n $NS -o link | grep -m1 -o ' e[0-9a-z]*@' | tr -d ' @')",
    "ip netns exec $NS sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
    "ip -n $NS addr flush dev lo scope global",
    // netd may give the name back while it is being taken.
    "ip netns del $NS || true",
    "kill -9 $(cat /run/netd.pid); ip netns | grep -o '^netd-t-[0-9a-z]*' | xargs -n 1 ip netns \
     del || true",
];

/// Answers each datagram to port 9.
const DATAGRAMS: &str = r#"
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(("::", 9))
while True:
    server.sendto(*server.recvfrom(2048))
"#;

/// Twenty numbered datagrams a second until told to stop; says which were not answered.
const PINGS: &str = r#"
import os, socket, threading, time
target = socket.getaddrinfo("peer.1", 9, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(target)
sent, heard = 0, set()
def listen():
    while True:
        heard.add(int(client.recv(64)))
threading.Thread(target=listen, daemon=True).start()
while not os.path.exists("/tmp/stop"):
    client.send(b"%d" % sent)
    sent += 1
    time.sleep(0.05)
time.sleep(1)
print("sent", sent, "lost", sorted(set(range(sent)) - heard), flush=True)
"#;

#[test]
fn damage_by_hand_is_repaired_and_other_networks_lose_nothing() {
    let lab = Lab::tour(3);
    lab.ctl("h1", "network create other").ok();
    lab.exec(
        "h1",
        &[
            &[
                "swarmctl",
                "service",
                "create",
                "--name",
                "peer",
                "--replicas",
                "3",
                "--network",
                "other",
            ],
            &["--", "python3", "-c", DATAGRAMS][..],
        ]
        .concat(),
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name pinger --replicas 3 --network other -- sleep infinity",
    )
    .ok();
    for pinger in ["pinger.1", "pinger.2", "pinger.3"] {
        lab.inside("h1", pinger, &["sh", "-c", BACKGROUND, PINGS])
            .ok();
    }
    let network = lab.json("h1", "network inspect my-net").remove(0);
    let namespace = format!("netd-{}", network["id"].as_str().unwrap());
    let shell = lab.running("h1", "shell").remove(0);
    let host = shell["node"].as_str().unwrap();
    for breakage in BREAKAGES {
        let find = format!("NS={namespace}; VX=$(ip -n $NS -o link | grep -o -m1 'vx-[0-9a-f]*')");
        let said = lab.exec(host, &["sh", "-c", &format!("{find}; {breakage}")]);
        assert_eq!(said.code, 0, "{breakage}: {said:?}");
        web_answers(&lab);
        settled(&lab, host);
    }
    for pinger in ["pinger.1", "pinger.2", "pinger.3"] {
        lab.inside("h1", pinger, &["touch", "/tmp/stop"]).ok();
        let said = eventually("the pings are over", || {
            let said = lab.inside("h1", pinger, &["cat", "/tmp/said"]);
            if said.out.is_empty() {
                Err(format!("{said:?}"))
            } else {
                Ok(said.out)
            }
        });
        assert!(
            said.ends_with("lost []\n") && !said.starts_with("sent 0"),
            "{pinger}: {said}"
        );
    }
}

#[test]
fn verify_names_the_node_whose_kernel_differs() {
    let lab = Lab::tour(3);
    web_answers(&lab);
    let agree = || {
        eventually("all agree", || {
            let said = lab.ctl("h1", "network verify");
            holds(
                said.code == 0 && said.out == "3 nodes: ledger, views and kernels agree\n",
                said,
            )
        })
    };
    agree();
    // Of this value the kernel gives no notice: it is wrong for up to a second.
    let close = "NS=$(ip netns | grep -v netd-t- | grep -o -m1 '^netd-[0-9a-z]*'); \
                 ip netns exec $NS sysctl -qw net.ipv4.conf.all.send_redirects=1";
    eventually("the difference is seen before it is repaired", || {
        lab.exec("h2", &["sh", "-c", close]).ok();
        let said = lab.ctl("h1", "network verify my-net");
        let cause = "h2 network my-net\n  cause: the kernel differs from the view; \
                     to do: set net/ipv4/conf/all/send_redirects = 0\n";
        holds(
            said.code == 1 && said.out.contains(cause) && said.out.contains("\n  next: "),
            said,
        )
    });
    agree();
    run(lab.verb("kill").arg("h3")).ok();
    eventually("a node that cannot be seen is named", || {
        let said = lab.ctl("h1", "network verify");
        holds(
            said.code == 1 && said.out.contains("h3 node\n  cause: the node is down"),
            said,
        )
    });
    assert_eq!(
        lab.ctl("h1", "ipam check").ok(),
        "the ledger holds the addresses in use and no others\n"
    );
}

/// Runs a program of Python in the background of a task, for its first argument.
const BACKGROUND: &str = "nohup python3 -c \"$0\" $1 > /tmp/said 2>&1 &";

#[test]
fn a_crash_of_every_daemon_in_turn_costs_no_call_and_no_task() {
    let lab = Lab::tour(3);
    let services = lab.json("h1", "service ls");
    let web = services
        .iter()
        .find(|service| service["spec"]["name"] == "web")
        .unwrap();
    let vip = web["status"]["virtual_ips"][0].as_str().unwrap();
    let ids = |host: &str| -> BTreeSet<String> {
        ["web", "shell"]
            .iter()
            .flat_map(|name| lab.running(host, name))
            .map(|task| task["id"].to_string())
            .collect()
    };
    let before = ids("h1");
    // In the background: an `exec` session ends with the daemon that it runs on.
    lab.inside("h1", "shell.1", &["sh", "-c", BACKGROUND, CALL, vip])
        .ok();
    for host in ["h1", "h2", "h3"] {
        run(lab.verb("crash").arg(host)).ok();
        settled(&lab, host);
        eventually("all nodes are ready", || {
            let said = lab.ctl(host, "node ls -o json");
            holds(said.out.matches("\"ready\"").count() == 3, said)
        });
    }
    let calls = eventually("the caller has stopped", || {
        let said = lab.inside(
            "h1",
            "shell.1",
            &["sh", "-c", "touch /tmp/stop; cat /tmp/said"],
        );
        if said.out.contains("calls ") {
            Ok(said.out)
        } else {
            Err(format!("{said:?}"))
        }
    });
    assert_eq!(calls.lines().count(), 1, "{calls}");
    assert_eq!(ids("h2"), before, "a task was replaced");
}

/// Echoes on port 7 until its client goes.
const ECHO: &str = "import socket
c, _ = socket.create_server(('0.0.0.0', 7)).accept()
while (d := c.recv(99)): c.sendall(d)";

/// Talks on one connection until told to stop.
const TALK: &str = "import socket, sys, time, os
s = socket.create_connection((sys.argv[1], 7), 20)
open('/tmp/up', 'w')
while not os.path.exists('/tmp/stop'):
    s.sendall(b'x')
    assert s.recv(9) == b'x'
    time.sleep(.02)
print('whole', flush=True)";

#[test]
fn an_established_connection_survives_the_death_of_both_daemons() {
    let lab = Lab::up(2);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 my-net")
        .ok();
    lab.ctl(
        "h1",
        "service create --name pair --replicas 2 --network my-net -- sleep infinity",
    )
    .ok();
    let tasks = lab.running("h1", "pair");
    assert_ne!(tasks[0]["node"], tasks[1]["node"]);
    let name = |index: usize| tasks[index]["name"].as_str().unwrap();
    let address = tasks[1]["addresses"][0].as_str().unwrap();
    lab.inside("h1", name(1), &["sh", "-c", BACKGROUND, ECHO])
        .ok();
    eventually("the server listens", || {
        let said = lab.inside("h1", name(1), &["grep", "-q", ":0007 ", "/proc/net/tcp"]);
        holds(said.code == 0, said)
    });
    lab.inside("h1", name(0), &["sh", "-c", BACKGROUND, TALK, address])
        .ok();
    eventually("the connection is up", || {
        let said = lab.inside("h1", name(0), &["sh", "-c", "cat /tmp/said; ls /tmp/up"]);
        holds(said.code == 0, said)
    });
    for host in ["h1", "h2"] {
        run(lab.verb("crash").arg(host)).ok();
        settled(&lab, host);
    }
    let verdict = eventually("the client has finished", || {
        let said = lab.inside(
            "h1",
            name(0),
            &["sh", "-c", "touch /tmp/stop; cat /tmp/said"],
        );
        if said.out.is_empty() {
            Err(format!("{said:?}"))
        } else {
            Ok(said.out)
        }
    });
    assert_eq!(verdict.trim(), "whole");
}
