//! Published ports as callers outside of the cluster, hosts and tasks see them.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Stdio},
};

use tests::{Lab, Said, beside, eventually, field, holds, run};

/// Somebody on the hosts' LAN who is no host.
const OUTSIDE: [&str; 2] = ["192.168.100.200", "fd00:6c61:62::200"];

fn own(host: usize) -> [String; 2] {
    [
        format!("192.168.100.1{host}"),
        format!("fd00:6c61:62::1{host}"),
    ]
}

fn url(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("http://[{address}]:{port}/")
    } else {
        format!("http://{address}:{port}/")
    }
}

/// A lab and a machine beside it.
fn lab(hosts: u32) -> Lab {
    let lab = Lab::up(hosts);
    let address = format!(
        "ip address add {}/24 dev br0; ip address add {}/64 dev br0 nodad",
        OUTSIDE[0], OUTSIDE[1]
    );
    run(beside(&lab).args(["sh", "-c", &address])).ok();
    lab
}

/// One call from outside.
fn call(lab: &Lab, address: &str, port: u16) -> Said {
    run(beside(lab).args(["curl", "-sSg", "-m", "3", &url(address, port)]))
}

/// Calls from outside until it is answered: what was said.
#[track_caller]
fn answered(lab: &Lab, address: &str, port: u16) -> String {
    eventually(&format!("{address}:{port} answers"), || {
        let said = call(lab, address, port);
        if said.code == 0 {
            Ok(said.out)
        } else {
            Err(format!("{said:?}"))
        }
    })
}

/// Calls from outside until it is refused at once, with a reset rather than with silence.
#[track_caller]
fn refused(lab: &Lab, address: &str, port: u16) {
    eventually(&format!("{address}:{port} refuses"), || {
        let said = call(lab, address, port);
        holds(said.code == 7, said)
    });
}

/// Calls from a host until it is answered.
#[track_caller]
fn answered_on(lab: &Lab, host: &str, address: &str, port: u16) -> String {
    eventually(&format!("{host} reaches {address}:{port}"), || {
        let said = lab.exec(host, &["curl", "-sSg", "-m", "3", &url(address, port)]);
        if said.code == 0 {
            Ok(said.out)
        } else {
            Err(format!("{said:?}"))
        }
    })
}

/// All that published ports change on a host.
fn traces(lab: &Lab, host: &str) -> String {
    let look = "ip rule; ip -6 rule; ip route show table all | grep -vE 'anycast|fe80'; \
                nft list ruleset; ss -Hlntu; ip -br link | grep -v eth0; ip netns";
    lab.exec(host, &["sh", "-c", look]).ok()
}

/// Answers each datagram with its port and its sender's address, at the ports that it is told.
const DATAGRAMS: &str = r#"
import selectors, socket, sys
ready = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    ready.register(server, selectors.EVENT_READ, port)
while True:
    for key, _ in ready.select():
        _, client = key.fileobj.recvfrom(2048)
        key.fileobj.sendto(f"{key.data} {client[0].removeprefix('::ffff:')}".encode(), client)
"#;

/// Sends a datagram and prints the answer.
const ASK: &str = r#"
import socket, sys
client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(2)
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(b"?")
print(client.recv(2048).decode())
"#;

/// Asks once more on the same connection for each line that it reads.
const HOLD: &str = r#"
import http.client, sys
held = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=5)
held.connect()
known = held.sock
for line in sys.stdin:
    held.request("GET", "/")
    held.getresponse().read()
    assert held.sock is known
    print("answered", flush=True)
"#;

/// Asks once more by two sockets, one after the other, for each line that it reads; says whether
/// both were answered.
const HOLD_DATAGRAMS: &str = r#"
import socket, sys
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for held in sockets:
    held.settimeout(2)
    held.connect((sys.argv[1], int(sys.argv[2])))
def ask(held):
    try:
        held.send(b"?")
        return held.recv(99)
    except OSError:
        return None
for line in sys.stdin:
    print("answered" if all([ask(held) for held in sockets]) else "silence", flush=True)
"#;

/// Fifty calls a second, each on a connection of its own, until its input ends; says which failed.
const CALLS: &str = r#"
import select, socket, sys, time
calls = 0
while not select.select([sys.stdin], [], [], .02)[0]:
    calls += 1
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as called:
            called.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            assert b"task: web." in b"".join(iter(lambda: called.recv(9999), b""))
    except Exception as error:
        print("failed", calls, error, flush=True)
print("called" if calls else "never called")
"#;

/// A connection from outside.
struct Held(Child, BufReader<ChildStdout>);

impl Held {
    fn open(lab: &Lab, program: &str, address: &str, port: u16) -> Self {
        let mut command = beside(lab);
        command.args(["python3", "-c", program, address, &port.to_string()]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self(child, answers)
    }

    fn answers(&mut self) -> bool {
        let mut line = String::new();
        writeln!(self.0.stdin.as_mut().unwrap(), "?").unwrap();
        self.1.read_line(&mut line).unwrap();
        line == "answered\n"
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Every task of `web` is replaced, and no call from outside is lost, whichever host it is made at.
fn updates_lose_no_call(lab: &Lab) {
    let callers = [own(1)[0].clone(), own(2)[1].clone(), own(3)[0].clone()].map(|address| {
        let mut command = beside(lab);
        command
            .args(["python3", "-c", CALLS, &address, "8080"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    });
    lab.ctl("h2", "service update --force --drain 500ms web")
        .ok();
    let said =
        callers.map(|caller| String::from_utf8(caller.wait_with_output().unwrap().stdout).unwrap());
    assert_eq!(said, ["called\n"; 3]);
}

/// The tasks of `web` that answer six calls at a host.
fn who_answers(lab: &Lab, host: usize, port: u16) -> BTreeSet<String> {
    let calls = (0..6).map(|_| call(lab, &own(host)[0], port).ok());
    calls
        .map(|said| field(&said, "task")[0].to_owned())
        .collect()
}

/// Ports and balancing change for tasks that run on: once the command is back, on every host.
fn ports_and_balancing_change(lab: &Lab) {
    let tasks = lab.running("h1", "web");
    let mut held = Held::open(lab, HOLD, &own(1)[0], 8080);
    assert!(held.answers());
    lab.ctl(
        "h1",
        "service update --publish-add 8090:80 --publish-add 8091:81 web",
    )
    .ok();
    for host in 1..=3 {
        for (address, client) in own(host).iter().zip(OUTSIDE) {
            assert_eq!(
                field(&call(lab, address, 8090).ok(), "client"),
                [client],
                "{address}"
            );
        }
    }
    let both = BTreeSet::from(["web.1".to_owned(), "web.2".to_owned()]);
    assert_eq!(who_answers(lab, 1, 8090), both, "in turn");
    lab.ctl(
        "h1",
        "service update --publish-rm 8090:80 --publish-rm 81 --lb sh web",
    )
    .ok();
    (1..=3).for_each(|host| {
        own(host)
            .iter()
            .for_each(|address| refused(lab, address, 8090))
    });
    let one = who_answers(lab, 1, 8080);
    assert_eq!(one.len(), 1, "by the caller's address: {one:?}");
    assert!(
        (2..=3).all(|host| who_answers(lab, host, 8080) == one),
        "whichever host it calls"
    );
    lab.ctl("h1", "service update --lb rr --affinity 10m web")
        .ok();
    (1..=3)
        .for_each(|host| assert_eq!(who_answers(lab, host, 8080).len(), 1, "the one that it had"));
    lab.ctl("h1", "service update --affinity 0 web").ok();
    assert_eq!(who_answers(lab, 2, 8080), both);
    for (change, cause) in [
        (
            "--publish-add 6001:80/udp",
            "is published by service \"echo\"",
        ),
        ("--publish-add 8095:80,mode=host", "cannot be changed"),
        ("--publish-rm 8090:80", "has no published port 8090:80"),
    ] {
        let said = lab
            .ctl("h1", &format!("service update {change} web"))
            .refused();
        assert!(said.contains(cause) && said.contains("next: "), "{said}");
    }
    assert!(held.answers());
    let ids = |tasks: Vec<serde_json::Value>| {
        tasks
            .iter()
            .map(|task| task["id"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids(lab.running("h1", "web")),
        ids(tasks),
        "no task is replaced"
    );
}

#[test]
fn every_host_answers_and_tasks_see_who_calls() {
    let lab = lab(3);
    let before: Vec<String> = ["h1", "h2", "h3"]
        .iter()
        .map(|host| traces(&lab, host))
        .collect();
    lab.ctl(
        "h1",
        "service create --name web --replicas 2 --publish 8080:80 -- netd whoami --port 80",
    )
    .ok();
    let echo = [
        "swarmctl",
        "service",
        "create",
        "--name",
        "echo",
        "--publish",
        "6001-6002:5001-5002/udp",
        "--",
    ];
    let datagrams = ["python3", "-c", DATAGRAMS, "5001", "5002"];
    lab.exec("h1", &[&echo[..], &datagrams].concat()).ok();
    let listed = lab.ctl("h1", "service ls").ok();
    assert!(
        listed.contains("*:8080->80/tcp") && listed.contains("*:6001-6002->5001-5002/udp"),
        "{listed}"
    );

    for host in 1..=3 {
        for (address, client) in own(host).iter().zip(OUTSIDE) {
            assert_eq!(
                field(&answered(&lab, address, 8080), "client"),
                [client],
                "{address}"
            );
            for (port, target) in [("6001", 5001), ("6002", 5002)] {
                let ask = ["python3", "-c", ASK, address, port];
                eventually("a datagram is answered", || {
                    let said = run(beside(&lab).args(ask));
                    holds(said.out.trim() == format!("{target} {client}"), said)
                });
            }
        }
        // The host itself is the caller, whichever of its addresses it calls.
        let (name, [v4, v6]) = (format!("h{host}"), own(host));
        for (address, client) in [("127.0.0.1", &v4), ("::1", &v6), (&v4, &v4), (&v6, &v6)] {
            for _ in 0..2 {
                let said = answered_on(&lab, &name, address, 8080);
                assert_eq!(field(&said, "client"), [client], "{address} on {name}");
            }
        }
    }
    // A task is seen as the host that it calls from, be it balanced to itself.
    let web = lab.running("h1", "web").remove(0);
    let (task, host) = (web["name"].as_str().unwrap(), web["node"].as_str().unwrap());
    for address in own(host[1..].parse().unwrap()) {
        for _ in 0..4 {
            eventually("a task reaches its own host's port", || {
                let said = lab.inside(
                    "h1",
                    task,
                    &["curl", "-sSg", "-m", "3", &url(&address, 8080)],
                );
                holds(
                    said.code == 0 && field(&said.out, "client") == [&address],
                    said,
                )
            });
        }
    }

    ports_and_balancing_change(&lab);
    updates_lose_no_call(&lab);
    // Datagrams of sockets whose task has gone are led to another one.
    lab.ctl("h1", "service scale echo=2").ok();
    let mut held = Held::open(&lab, HOLD_DATAGRAMS, &own(3)[0], 6001);
    eventually("both tasks answer", || holds(held.answers(), "silence"));
    lab.ctl("h1", "service scale echo=1").ok();
    eventually("the one that is left answers both", || {
        holds(held.answers(), "silence")
    });

    // Rules, routes and marks outlive the daemon.
    for host in ["h1", "h2", "h3"] {
        lab.exec(host, &["sh", "-c", "kill -STOP $(cat /run/netd.pid)"])
            .ok();
    }
    for host in 1..=3 {
        own(host)
            .iter()
            .for_each(|address| drop(call(&lab, address, 8080).ok()));
    }
    for host in ["h1", "h2", "h3"] {
        lab.exec(host, &["sh", "-c", "kill -9 $(cat /run/netd.pid)"])
            .ok();
    }
    for host in 1..=3 {
        own(host)
            .iter()
            .for_each(|address| drop(answered(&lab, address, 8080)));
    }

    // A host that is cut off takes its own address along, and nobody else's.
    let lost = if host == "h1" { "h2" } else { host };
    run(lab.verb("kill").arg(lost)).ok();
    for host in (1..=3).filter(|host| format!("h{host}") != lost) {
        own(host)
            .iter()
            .for_each(|address| drop(answered(&lab, address, 8080)));
    }
    run(lab.verb("start").arg(lost)).ok();
    own(lost[1..].parse().unwrap())
        .iter()
        .for_each(|address| drop(answered(&lab, address, 8080)));

    lab.ctl("h1", "service scale web=0").ok();
    (1..=3).for_each(|host| {
        own(host)
            .iter()
            .for_each(|address| refused(&lab, address, 8080))
    });
    lab.ctl("h1", "service rm web echo").ok();
    lab.ctl("h1", "network rm ingress").ok();
    for (host, before) in ["h1", "h2", "h3"].iter().zip(before) {
        eventually("nothing is left", || {
            let left = traces(&lab, host);
            holds(left == before, format!("{before}\n--- left:\n{left}"))
        });
    }
}

/// What a careless operator or other software does; `$NS` is the network's namespace, `$NU` the
/// host's end of its uplink, `$T` the routing table that leads there, `$M` the mark. `|| :` where
/// netd may have repaired it already.
const BREAKAGES: [&str; 10] = [
    "ip rule del pref 0 lookup $T; ip -6 rule del pref 0 lookup $T",
    "for v in -4 -6; do ip $v rule del pref 0 lookup $T; ip $v rule add pref 0 fwmark \
     $M/0xfff00000 lookup $T || :; done",
    "for v in -4 -6; do ip $v rule add pref 0 lookup local proto static; ip $v rule del pref 0 \
     lookup local proto kernel; ip $v rule del pref 0 fwmark $M/0xfff00000; done",
    "for v in -4 -6; do while ip $v rule del pref 0 2>/dev/null; do :; done; done",
    "ip -4 route flush table $T; ip -6 route flush table $T",
    "ip address flush dev $NU",
    "sysctl -qw net.ipv4.conf.$NU.accept_local=0 net.ipv4.conf.$NU.route_localnet=0",
    "for v in -4 -6; do ip -n $NS $v rule flush; ip -n $NS $v rule add pref 32766 lookup main \
     || :; done",
    "ip netns exec $NS nft flush ruleset",
    "nft flush ruleset",
];

#[test]
fn damaged_ports_work_again_beside_strict_firewalls() {
    let lab = lab(2);
    // UFW does this by iptables, firewalld by a table of its own, which checks the way of IPv6
    // sources, too.
    let firewalls = "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP; iptables -P INPUT DROP; \
        iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -m conntrack --ctstate \
        ESTABLISHED,RELATED -j ACCEPT; \
        iptables -A INPUT -p tcp --dport 2377 -j ACCEPT; iptables -A INPUT -p udp --dport 4789 -j \
        ACCEPT; \
        nft 'table inet firewalld { \
          chain filter_PREROUTING { type filter hook prerouting priority 10; \
            icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; \
            meta nfproto ipv6 fib saddr . mark . iif oif missing drop; }; \
          chain filter_FORWARD { type filter hook forward priority 10; \
            ct state { established, related } accept; reject with icmpx admin-prohibited; }; }'; \
        sysctl -qw net.ipv4.conf.all.rp_filter=1";
    for host in ["h1", "h2"] {
        lab.exec(host, &["sh", "-c", firewalls]).ok();
    }
    lab.ctl(
        "h1",
        "service create --name web --publish 8080:80 -- netd whoami --port 80",
    )
    .ok();
    let network = lab.json("h1", "network inspect ingress").remove(0);
    let (namespace, vni) = (
        network["id"].as_str().unwrap(),
        network["status"]["vni"].as_u64().unwrap(),
    );
    let works = |port: u16| {
        for host in 1..=2 {
            for (address, client) in own(host).iter().zip(OUTSIDE) {
                assert_eq!(
                    field(&answered(&lab, address, port), "client"),
                    [client],
                    "{address}"
                );
            }
            for address in ["127.0.0.1", "::1"] {
                answered_on(&lab, &format!("h{host}"), address, port);
            }
        }
    };
    works(8080);
    for breakage in BREAKAGES {
        for host in ["h1", "h2"] {
            let (table, mark) = (0x6e00_0000 | vni, 0x8000_0000 | (vni & 0x7ff) << 20);
            let line =
                format!("NS=netd-{namespace}; NU=nu-{vni:06x}; T={table}; M={mark:#x}; {breakage}");
            let said = lab.exec(host, &["sh", "-c", &line]);
            assert_eq!(said.code, 0, "{breakage}: {said:?}");
        }
        // What netd has not repaired yet may still be refused; what stays is that it works.
        works(8080);
        for host in ["h1", "h2"] {
            eventually("nothing is left to change", || {
                let plan = lab.ctl(host, "debug plan");
                holds(
                    plan.code == 0 && plan.out.trim().is_empty(),
                    (breakage, plan),
                )
            });
        }
    }
    assert_eq!(
        lab.ctl("h1", "network verify").ok(),
        "2 nodes: ledger, views and kernels agree\n"
    );
}

/// Telephony and TURN servers have thousands of ports; hosts lead them by one element and reserve
/// none.
#[test]
fn a_range_of_ten_thousand_ports_is_led_as_one() {
    let lab = lab(2);
    let before = ["h1", "h2"].map(|host| traces(&lab, host));
    let binds = |host: &str, address: &str, port: u16| {
        let family = if address == "::" {
            "AF_INET6"
        } else {
            "AF_INET"
        };
        let program = format!(
            "import socket, time; s = socket.socket(socket.{family}, socket.SOCK_DGRAM); \
             s.bind((\\\"{address}\\\", {port})); time.sleep(600)"
        );
        let line = format!("python3 -c \"{program}\" >/dev/null 2>&1 & echo $! >/run/binds.pid");
        lab.exec(host, &["sh", "-c", &line]).ok();
        eventually("the program is there", || {
            let said = lab.exec(host, &["sh", "-c", &format!("ss -Hlun sport = {port}")]);
            holds(!said.out.is_empty(), said)
        });
    };
    let ends = |host: &str| {
        drop(
            lab.exec(host, &["sh", "-c", "kill $(cat /run/binds.pid)"])
                .ok(),
        )
    };
    // A program of the one host is there first.
    binds("h2", "0.0.0.0", 12_345);
    let create = "swarmctl service create --detach --name voice --publish \
                  10000-20000:10000-20000/udp -- python3 -c";
    let create = create
        .split_whitespace()
        .chain([DATAGRAMS, "10000", "15000", "20000"]);
    lab.exec("h1", &create.collect::<Vec<_>>()).ok();
    let answers = |host: usize| {
        for (address, client) in own(host).iter().zip(OUTSIDE) {
            for port in ["10000", "15000", "20000"] {
                eventually("a datagram is answered", || {
                    let said = run(beside(&lab).args(["python3", "-c", ASK, address, port]));
                    holds(said.out.trim() == format!("{port} {client}"), said)
                });
            }
        }
    };
    answers(1);
    eventually("h2 names the program's port", || {
        let said = lab.ctl("h1", "node inspect h2").ok();
        holds(said.contains("port 12345/udp of host h2 is in use"), said)
    });
    ends("h2");
    answers(2);
    let count = |look: &str| lab.exec("h1", &["sh", "-c", look]).ok().trim().to_owned();
    let rules = count("nft list chain inet netd lead | grep -c ranges");
    let elements = count("nft list map inet netd everywhere-ranges | grep -c 10000-20000");
    assert_eq!((&*rules, &*elements), ("3", "1"));
    let sockets = count("ss -Hlun | grep -cE ':1[0-9]{4}|:20000' || true");
    assert_eq!(sockets, "0");
    // Whoever comes later is named, and the range goes on.
    binds("h1", "::", 15_000);
    eventually("h1 names the program's port", || {
        let said = lab.ctl("h1", "node inspect h1").ok();
        holds(said.contains("port 15000/udp of host h1 is in use"), said)
    });
    answers(1);
    ends("h1");
    lab.ctl("h1", "service rm voice").ok();
    lab.ctl("h1", "network rm ingress").ok();
    for (host, before) in ["h1", "h2"].iter().zip(before) {
        eventually("nothing is left", || {
            let left = traces(&lab, host);
            holds(left == before, format!("{before}\n--- left:\n{left}"))
        });
    }
}

#[test]
fn ports_are_where_they_were_asked_for_and_for_whom() {
    let lab = lab(2);
    let tasks = "-- netd whoami --port 80";
    lab.ctl(
        "h1",
        &format!("service create --name host --publish 8081:80,mode=host {tasks}"),
    )
    .ok();
    let here = lab.running("h1", "host").remove(0)["node"]
        .as_str()
        .unwrap()[1..]
        .parse::<usize>()
        .unwrap();
    for (address, client) in own(here).iter().zip(OUTSIDE) {
        assert_eq!(field(&answered(&lab, address, 8081), "client"), [client]);
    }
    own(3 - here)
        .iter()
        .for_each(|address| refused(&lab, address, 8081));
    lab.ctl("h1", "service scale host=2").ok();
    for host in 1..=2 {
        let said = answered(&lab, &own(host)[0], 8081);
        assert_eq!(field(&said, "host"), [format!("h{host}")]);
    }

    let at = format!(
        "--publish 192.168.100.12:8082:80 --publish eth0:8083:80 --publish 127.0.0.1:8084:80 \
         {tasks}"
    );
    lab.ctl("h1", &format!("service create --name at {at}"))
        .ok();
    answered(&lab, &own(2)[0], 8082);
    refused(&lab, &own(1)[0], 8082);
    refused(&lab, &own(2)[1], 8082);
    (1..=2).for_each(|host| {
        own(host)
            .iter()
            .for_each(|address| drop(answered(&lab, address, 8083)))
    });
    assert_eq!(
        lab.exec("h1", &["curl", "-sS", "-m", "3", "http://127.0.0.1:8083/"])
            .code,
        7
    );
    answered_on(&lab, "h1", "127.0.0.1", 8084);
    refused(&lab, &own(1)[0], 8084);

    // An address of no host is all of one family; without an address it is both.
    let of_one = format!("--publish 0.0.0.0:8095:80 --publish [::]:8096:80 {tasks}");
    lab.ctl("h1", &format!("service create --name of-one {of_one}"))
        .ok();
    for host in 1..=2 {
        let [four, six] = own(host);
        answered(&lab, &four, 8095);
        refused(&lab, &six, 8095);
        answered(&lab, &six, 8096);
        refused(&lab, &four, 8096);
    }
    answered_on(&lab, "h1", "127.0.0.1", 8095);
    answered_on(&lab, "h1", "::1", 8096);

    // Dropped and counted, not refused; the host itself may always call.
    let allow = format!(
        "--publish 8085:80 --publish-allow {}/32 --publish-allow fd00:dead::/64 {tasks}",
        OUTSIDE[0]
    );
    lab.ctl("h1", &format!("service create --name allow {allow}"))
        .ok();
    answered(&lab, &own(1)[0], 8085);
    assert_eq!(call(&lab, &own(1)[1], 8085).code, 28);
    answered_on(&lab, "h1", "::1", 8085);
    let rules = lab
        .exec("h1", &["nft", "list", "table", "inet", "netd"])
        .ok();
    assert!(
        rules
            .lines()
            .any(|line| line.contains("@allow6-") && !line.contains("packets 0 ")),
        "{rules}"
    );

    // Who claims to be a task is not believed.
    let network = lab.json("h1", "network inspect ingress").remove(0);
    let task = lab.json("h1", "service ps allow").remove(0)["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let spoof = format!(
        "ip address add {task}/32 dev br0; curl -sS -m 2 --interface {task} \
         http://192.168.100.11:8085/; ip address del {task}/32 dev br0"
    );
    lab.exec(
        "h1",
        &[
            "sysctl",
            "-qw",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.eth0.rp_filter=0",
        ],
    )
    .ok();
    run(beside(&lab).args(["sh", "-c", &spoof]));
    let rules = lab
        .exec(
            "h1",
            &["nft", "list", "chain", "inet", "netd", "from-outside"],
        )
        .ok();
    assert!(
        rules
            .lines()
            .any(|line| line.contains("@subnets4") && !line.contains("packets 0 ")),
        "{network}: {rules}"
    );

    // A port that another program has stays its own, and the node says so.
    lab.exec(
        "h2",
        &[
            "sh",
            "-c",
            "nohup netd whoami --port 8086 > /dev/null 2>&1 &",
        ],
    )
    .ok();
    eventually("the program listens", || {
        let said = lab.exec("h2", &["curl", "-sS", "-m", "3", "http://127.0.0.1:8086/"]);
        holds(said.code == 0, said)
    });
    lab.ctl(
        "h1",
        &format!("service create --name late --publish 8086:80 {tasks}"),
    )
    .ok();
    assert_eq!(field(&answered(&lab, &own(1)[0], 8086), "task").len(), 1);
    eventually("the failure names the port", || {
        let said = lab.ctl("h1", "node inspect h2 -o json");
        holds(
            said.out
                .contains("port 8086/tcp of host h2 is in use by another program"),
            said,
        )
    });
    assert_eq!(field(&answered(&lab, &own(2)[0], 8086), "task"), [""]);

    let said = lab
        .ctl(
            "h1",
            &format!("service create --name twice --publish 8080-8090:80-90 {tasks}"),
        )
        .refused();
    assert!(
        said.contains("is published by service") && said.contains("next: "),
        "{said}"
    );
}

/// Makes and removes networks, four at a time.
const STORM: &str = "for client in 1 2 3 4; do ( \
    for round in $(seq 500); do \
        swarmctl network create --driver overlay storm-$client > /dev/null && \
        swarmctl network rm storm-$client > /dev/null || exit 1; \
    done ) & done; wait";

#[test]
fn ports_stay_where_they_are_however_many_networks_there_were() {
    let lab = lab(2);
    let published = |name: &str, network: &str, port: u16| {
        format!(
            "service create --name {name} --network {network} --publish {port}:80 -- netd whoami \
             --port 80"
        )
    };
    let vni = |name: &str| {
        let network = lab.json("h1", &format!("network inspect {name}"));
        network[0]["status"]["vni"].as_u64().unwrap()
    };
    lab.ctl("h1", "network create --driver overlay first").ok();
    lab.ctl("h1", &published("first", "first", 8500)).ok();
    answered(&lab, &own(1)[0], 8500);
    lab.exec("h1", &["sh", "-c", STORM]).ok();
    // Eleven bits of a network's identifier fit into a packet's mark.
    let (first, mut last) = (vni("first"), 0);
    while last < first + 2047 {
        lab.ctl("h1", "network create --driver overlay t").ok();
        last = vni("t");
        lab.ctl("h1", "network rm t").ok();
    }
    lab.ctl("h1", "network create --driver overlay second").ok();
    assert!(vni("second") > first + 2048, "{} {first}", vni("second"));
    lab.ctl("h1", &published("second", "second", 8501)).ok();
    for host in 1..=2 {
        for address in own(host) {
            answered(&lab, &address, 8500);
            answered(&lab, &address, 8501);
        }
    }
    let said = lab.json("h1", "node inspect h2");
    assert_eq!(said[0]["causes"], serde_json::json!([]), "{said:?}");
}

/// Writes tunnel packets as a host would: outer target, VNI, inner Ethernet addresses, inner
/// target; then source, port and word of each.
const FORGE: &str = r#"
import socket, struct, sys
host, vni, to, router, target = sys.argv[1:6]
mac = lambda text: bytes.fromhex(text.replace(":", ""))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for source, port, word in zip(*[iter(sys.argv[6:])] * 3):
    udp = struct.pack("!HHHH", 7, int(port), 8 + len(word), 0) + word.encode()
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0,
        socket.inet_aton(source), socket.inet_aton(target))
    total = sum(struct.unpack("!10H", ip))
    total = (total >> 16) + (total & 0xffff)
    ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + ip[12:]
    frame = mac(to) + mac(router) + b"\x08\x00" + ip + udp
    out.sendto(b"\x08\0\0\0" + struct.pack("!I", int(vni, 16) << 8) + frame, (host, 4789))
"#;

/// Writes down each datagram to ports 9 and 10, a line each.
const HEAR: &str = r#"
import selectors, socket
ready = selectors.DefaultSelector()
for port in 9, 10:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", port))
    ready.register(server, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        open("/tmp/heard", "ab").write(key.fileobj.recv(2048) + b"\n")
"#;

#[test]
fn callers_from_a_tunnel_reach_published_targets_only() {
    let lab = lab(2);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 net")
        .ok();
    let create = [
        "swarmctl",
        "service",
        "create",
        "--name",
        "ear",
        "--replicas",
        "2",
        "--network",
        "net",
    ];
    lab.exec(
        "h1",
        &[
            &create[..],
            &["--publish", "9000:9/udp", "--", "python3", "-c", HEAR],
        ]
        .concat(),
    )
    .ok();
    let tasks = lab.running("h1", "ear");
    let far = tasks.iter().find(|task| task["node"] == "h2").unwrap();
    let (name, target) = (
        far["name"].as_str().unwrap(),
        far["addresses"][0].as_str().unwrap(),
    );
    let network = lab.json("h1", "network inspect net").remove(0);
    let vni = format!("{:x}", network["status"]["vni"].as_u64().unwrap());
    let (to, from) = (lab.router("h2", &network), lab.router("h1", &network));
    // A host that obeys nobody any more.
    lab.exec(
        "h1",
        &[
            "sh",
            "-c",
            "kill -STOP $(cat /run/netd.pid); nft flush ruleset",
        ],
    )
    .ok();
    // By turns a port that is not published, a source inside the network, and the gateway's, which
    // has errors to send and nothing else.
    let (port, inside) = (["203.0.113.5", "10", "port"], ["10.0.9.99", "9", "inside"]);
    let forged = [
        port,
        inside,
        ["10.0.9.1", "9", "gateway"],
        ["203.0.113.5", "9", "good"],
    ]
    .concat();
    eventually("a caller at the published target is heard", || {
        lab.exec(
            "h1",
            &[
                &[
                    "python3",
                    "-c",
                    FORGE,
                    "192.168.100.12",
                    &vni,
                    &to,
                    &from,
                    target,
                ],
                &forged[..],
            ]
            .concat(),
        )
        .ok();
        let heard = lab.inside("h2", name, &["cat", "/tmp/heard"]);
        holds(heard.out.contains("good"), heard)
    });
    let heard = lab.inside("h2", name, &["sort", "-u", "/tmp/heard"]).ok();
    lab.exec("h1", &["sh", "-c", "kill -CONT $(cat /run/netd.pid)"])
        .ok();
    assert_eq!(heard, "good\n");
}
