//! Planned changes lose no request (promise P8): clients on every host call a service without a
//! pause while it is changed.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use tests::{Lab, binaries, eventually, holds, run};

/// A request that takes longer hangs: machines under load are slow, but not that slow.
const HANGS: u64 = 9_000;

/// Requests per second of all clients, on a machine that has nothing else to do and on one that
/// has.
const RATES: (u32, u32) = (2_000, 600);

/// Clients of `web` on h1, h2 and h3.
struct Load<'a>(&'a Lab);

impl<'a> Load<'a> {
    /// `web` and its clients on the network `net`; `flags` are those of `web`.
    fn begin(lab: &'a Lab, flags: &str) -> Self {
        lab.ctl(
            "h1",
            "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 net",
        )
        .ok();
        let check =
            "--health-cmd, curl -sf -m 5 -o /dev/null http://localhost/, --health-interval, 10s";
        let mut create = vec![
            "swarmctl",
            "service",
            "create",
            "--name",
            "web",
            "--network",
            "net",
        ];
        create.extend(check.split(", "));
        create.extend(flags.split(' '));
        lab.exec(
            "h1",
            &[&create[..], &["--", "netd", "whoami", "--port", "80"]].concat(),
        )
        .ok();
        lab.ctl("h1", "node update --availability pause h4").ok();
        ["h1", "h2", "h3"]
            .iter()
            .for_each(|host| lab.show(host, &binaries()));
        let create = "service create --name load --replicas 3 --network net --rootfs host";
        lab.ctl(
            "h1",
            &format!("{create} -- /mnt/load web {} 40", rate() / 3),
        )
        .ok();
        lab.ctl("h1", "node update --availability active h4").ok();
        Self(lab)
    }

    /// What all clients have seen, one object per host.
    fn end(self) -> Vec<Value> {
        let clients = ["load.1", "load.2", "load.3"];
        clients
            .iter()
            .for_each(|client| drop(self.0.inside("h1", client, &["touch", "/tmp/stop"])));
        let seen: Vec<Value> = clients
            .iter()
            .map(|client| {
                eventually("the clients have told what they saw", || {
                    let said = self.0.ctl("h1", &format!("service logs {client}"));
                    let text = said.out.find('{').map(|start| said.out[start..].to_owned());
                    text.and_then(|text| serde_json::from_str(text.trim()).ok())
                        .ok_or_else(|| format!("{said:?}"))
                })
            })
            .collect();
        let sum = |key: &str| {
            seen.iter()
                .map(|host| host[key].as_f64().unwrap_or(0.))
                .sum::<f64>()
        };
        let rate = sum("requests") / seen[0]["seconds"].as_f64().unwrap_or(1.);
        println!(
            "{} requests, {rate:.0} per second, {} failed, {} retried on a closed connection, \
             slowest {:?} ms",
            sum("requests"),
            sum("failed"),
            sum("retried"),
            seen.iter().map(|host| host["slowest"].as_u64()).max()
        );
        seen
    }

    /// All went well.
    fn end_without_loss(self) {
        for host in self.end() {
            assert_eq!(host["failed"], 0, "{:?}", host["failures"]);
            assert!(host["requests"].as_u64() > Some(0));
            assert!(host["slowest"].as_u64() < Some(HANGS), "{host}");
        }
    }
}

fn rate() -> u32 {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let busy: Option<f64> = average
        .split(' ')
        .next()
        .and_then(|last_minute| last_minute.parse().ok());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if busy.is_some_and(|busy| busy < processors as f64) {
        RATES.0
    } else {
        RATES.1
    }
}

fn updated(lab: &Lab, value: usize) {
    let tasks = lab.running("h1", "web");
    let value = value.to_string();
    let is_new = |task: &Value| task["spec"]["runtime"]["env"]["ROUND"] == value.as_str();
    assert!(!tasks.is_empty() && tasks.iter().all(is_new), "{tasks:?}");
}

#[test]
fn updates_scaling_drains_and_a_leader_change_lose_no_request() {
    let lab = Lab::up(4);
    let flags = "--replicas 10 --drain 200ms --update-parallelism 5";
    let load = Load::begin(&lab, flags);
    let ctl = |line: &str| lab.ctl("h2", line).ok();
    for round in 0..20 {
        let order = ["start-first", "stop-first"][round % 2];
        ctl(&format!(
            "service update --env ROUND={round} --update-order {order} web"
        ));
        updated(&lab, round);
    }
    ctl("service scale web=4");
    ctl("service scale web=12");
    ctl("node update --availability drain h4");
    eventually("h4 is empty", || {
        let tasks = lab.running("h1", "web");
        holds(
            tasks.len() == 12 && tasks.iter().all(|task| task["node"] != "h4"),
            tasks,
        )
    });
    ctl("node update --availability active h4");
    ctl("service update --detach --env ROUND=20 web");
    let nodes = lab.json("h1", "node ls");
    let leader = nodes.iter().find(|node| node["leader"] == true).unwrap()["hostname"]
        .as_str()
        .unwrap();
    run(lab.verb("crash").arg(leader)).ok();
    eventually("the update goes on under another leader", || {
        let services = lab.json("h2", "service ls");
        let web = services
            .iter()
            .find(|service| service["spec"]["name"] == "web")
            .unwrap();
        let is_done = web["status"]["update"].is_null()
            && web["status"]["settled"] == 12
            && web["status"]["running"] == 12;
        holds(is_done, web)
    });
    updated(&lab, 20);
    ctl("task rm web.3");
    load.end_without_loss();
}

#[test]
fn a_dead_host_fails_only_requests_begun_before_it_was_known() {
    let lab = Lab::up(4);
    let load = Load::begin(&lab, "--replicas 8");
    assert!(
        lab.running("h1", "web")
            .iter()
            .any(|task| task["node"] == "h4")
    );
    run(lab.verb("kill").arg("h4")).ok();
    eventually("web runs on the other hosts, and all of them know", || {
        let tasks = lab.running("h1", "web");
        let services = lab.json("h1", "service ls");
        let web = services
            .iter()
            .find(|service| service["spec"]["name"] == "web")
            .unwrap();
        let moved = tasks.len() == 8 && tasks.iter().all(|task| task["node"] != "h4");
        holds(moved && web["status"]["settled"] == 8, (web, tasks))
    });
    let known = UNIX_EPOCH.elapsed().unwrap();
    // Whoever waits for the dead host now is told so in time for this to be seen.
    std::thread::sleep(Duration::from_secs(2));
    for host in load.end() {
        for failure in host["failures"].as_array().unwrap() {
            assert!(
                u128::from(failure[0].as_u64().unwrap()) <= known.as_millis(),
                "{failure} after {known:?}"
            );
        }
    }
}

/// Answers each datagram with itself.
const ECHO: &str = "
import socket
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(('::', 53))
while True:
    data, client = server.recvfrom(2048)
    server.sendto(data, client)
";

/// Sends numbers from one socket, 50 a second and each until it is answered, until there is a file
/// /tmp/stop; tells how many were sent twice, and the longest wait for an answer.
const ASK: &str = "
import os, socket, sys, time
far = socket.getaddrinfo('echo', 53, type=socket.SOCK_DGRAM)[0]
near = socket.socket(far[0], socket.SOCK_DGRAM)
near.settimeout(0.5)
near.connect(far[4])
sent = again = 0
longest = 0
while not os.path.exists('/tmp/stop'):
    sent += 1
    begun = time.monotonic()
    while True:
        near.send(b'%d' % sent)
        try:
            if near.recv(64) == b'%d' % sent:
                break
        except OSError:
            again += 1
    longest = max(longest, time.monotonic() - begun)
    time.sleep(0.02)
print('sent', sent, 'again', again, 'longest', longest, flush=True)
time.sleep(600)
";

#[test]
fn a_udp_client_of_one_socket_is_served_through_an_update() {
    let lab = Lab::up(3);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 net")
        .ok();
    let create = "swarmctl service create --network net --replicas";
    for (rest, program) in [
        ("2 --drain 7s --update-parallelism 2 --name echo", ECHO),
        ("3 --name ask", ASK),
    ] {
        let words = create.split(' ').chain(rest.split(' '));
        let words: Vec<&str> = words.chain(["--", "python3", "-c", program]).collect();
        lab.exec("h1", &words).ok();
    }
    lab.ctl(
        "h2",
        "service update --update-order start-first --env ROUND=1 echo",
    )
    .ok();
    lab.ctl("h2", "service scale echo=1").ok();
    for client in ["ask.1", "ask.2", "ask.3"] {
        lab.inside("h1", client, &["touch", "/tmp/stop"]).ok();
        let said = eventually("the client tells what it saw", || {
            let said = lab.ctl("h1", &format!("service logs {client}"));
            let line = said.out.split("sent ").nth(1);
            line.map(str::to_owned).ok_or_else(|| format!("{said:?}"))
        });
        println!("{client}: sent {said}");
        // Its datagrams go to another server at each of the two changes: what is on its way in that
        // moment may be lost, and nothing else.
        let again = said.split_whitespace().nth(2);
        let again: u32 = again.and_then(|again| again.parse().ok()).unwrap();
        assert!(again <= 2, "{client}: {said}");
    }
}
