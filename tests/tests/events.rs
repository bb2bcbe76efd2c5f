//! `swarmctl events`: every change once and in order, across leaders, from any node.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::Value;
use tests::{Lab, Said, eventually, holds, run};

/// `swarmctl events -o json` on a host, as it goes on.
struct Events {
    process: Child,
    lines: Receiver<Value>,
}

impl Events {
    fn follow(lab: &Lab, host: &str, options: &str) -> Self {
        let mut words = vec!["swarmctl", "events", "-o", "json"];
        words.extend(options.split_whitespace());
        let mut command = lab.command(host, &words);
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("swarmctl starts");
        let output = BufReader::new(process.stdout.take().expect("its output is a pipe"));
        let (line, lines) = channel();
        thread::spawn(move || {
            for read in output.lines().map_while(Result::ok) {
                let _over = line.send(serde_json::from_str(&read).expect("a line is JSON"));
            }
        });
        Self { process, lines }
    }

    /// The changes until one of this kind and fate.
    fn until(&self, kind: &str, fate: &str) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let wait = Duration::from_secs(60);
            let Ok(change) = self.lines.recv_timeout(wait) else {
                panic!("no {kind} was {fate}: {seen:?}")
            };
            let is_it = change["object"]["kind"] == kind && change["fate"] == fate;
            seen.push(change);
            if is_it {
                return seen;
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

fn revision(change: &Value) -> u64 {
    change["revision"]
        .as_u64()
        .expect("a change has a revision")
}

fn create(name: &str) -> String {
    format!("service create --detach --name {name} --network net --runtime exec -- sleep infinity")
}

#[test]
fn events_go_on_through_the_loss_of_the_leader() {
    let lab = Lab::up(4);
    let events = Events::follow(&lab, "h4", "");
    let mut number = 0;
    eventually("events are followed", || {
        number += 1;
        let name = format!("probe{number}");
        lab.ctl("h4", &format!("network create --driver overlay {name}"))
            .ok();
        let told = events.lines.recv_timeout(Duration::from_millis(300));
        holds(told.is_ok(), "nothing was told")
    });
    lab.ctl("h4", "network create --driver overlay net").ok();
    lab.ctl("h4", &create("one")).ok();
    let before = events.until("service", "made");
    let nodes = lab.json("h4", "node ls");
    let leader = nodes.iter().find(|node| node["leader"] == true).unwrap();
    run(lab.verb("kill").arg(leader["hostname"].as_str().unwrap())).ok();
    lab.ctl("h4", &create("two")).ok();
    let after = events.until("service", "made");
    assert_eq!(after.last().unwrap()["facts"]["name"], "two");

    let told: Vec<u64> = before.iter().chain(&after).map(revision).collect();
    assert!(told.is_sorted(), "{told:?}");
    let since = format!("--since {}", revision(before.last().unwrap()));
    let again = Events::follow(&lab, "h4", &since);
    assert_eq!(again.until("service", "made"), after);

    let id = after.last().unwrap()["object"]["id"].as_str().unwrap();
    let filter = format!("--since 1h --filter type=service --filter id={id}");
    let only = Events::follow(&lab, "h4", &filter).until("service", "made");
    assert_eq!(only, [after.last().unwrap().clone()]);
}

#[test]
fn events_between_two_moments_end() {
    let lab = Lab::up(1);
    lab.ctl("h1", "network create --driver overlay net").ok();
    let words = "events --since 1h --until 0s --filter type=network";
    let said = lab.ctl("h1", words).ok();
    assert_eq!(said.lines().count(), 1, "{said}");
    let line = said.contains(" network net made: overlay (revision ");
    assert!(line, "{said}");
    let refused = lab.ctl("h1", "events --filter type=pod").refused();
    let cause = refused.contains("type is one of cluster, keys, node");
    assert!(cause, "{refused}");
}

/// A command of `swarmctl` that goes on beside the test.
fn begin(lab: &Lab, host: &str, line: &str) -> Child {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = lab.command(host, &words);
    let started = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    started.expect("swarmctl starts")
}

#[test]
fn a_waiting_command_outlives_its_netd_and_the_leader() {
    let lab = Lab::up(4);
    let gate = tempfile::tempdir().expect("a directory");
    for host in ["h1", "h2", "h3", "h4"] {
        lab.show(host, gate.path());
    }
    let checked = "--health-interval 1s --health-start-period 10m --health-cmd";
    let mut create = lab.command("h4", &["swarmctl", "service", "create", "--name", "slow"]);
    create
        .args(["--replicas", "2", "--rootfs", "host"])
        .args(checked.split(' '));
    create.args(["test -e /mnt/open", "--", "sleep", "infinity"]);
    let created = create.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let created = created.expect("swarmctl starts");
    eventually("its tasks run", || {
        // There may be no service yet.
        let said = lab.ctl("h4", "service ps slow -o json");
        holds(said.out.matches("\"starting\"").count() == 2, said)
    });

    run(lab.verb("crash").arg("h4")).ok();
    eventually("the host's netd answers again", || {
        let said = lab.ctl("h4", "node ls");
        holds(said.code == 0, said)
    });
    let nodes = lab.json("h4", "node ls");
    let leader = nodes.iter().find(|node| node["leader"] == true).unwrap();
    let in_flight: Vec<Child> = (0..8)
        .map(|number| begin(&lab, "h4", &format!("swarmctl network create net{number}")))
        .collect();
    run(lab.verb("kill").arg(leader["hostname"].as_str().unwrap())).ok();
    for command in in_flight {
        Said::of(command.wait_with_output().unwrap()).ok();
    }
    std::fs::write(gate.path().join("open"), "").expect("a file");
    let said = Said::of(created.wait_with_output().unwrap()).ok();
    assert_eq!(lab.running("h4", "slow").len(), 2, "{said}");
}
