//! What a cluster withstands: power cuts of everything, lost majorities, partitions, and daemons
//! killed at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tests::{Lab, cable, eventually, field, holds, run};

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
const WEB: [&str; 6] = ["curl", "-sS", "-m", "3", "-H", "Connection: close"];

fn addresses(tasks: &[Value]) -> BTreeMap<String, Value> {
    tasks
        .iter()
        .map(|task| (task["name"].to_string(), task["addresses"].clone()))
        .collect()
}

/// Every slot of `web` and `shell` runs with these addresses.
fn runs_again(lab: &Lab, ask: &str, before: &BTreeMap<String, Value>) {
    eventually("all tasks run, each with its slot's addresses", || {
        let said = lab.ctl(ask, "service ps web -o json");
        let tasks: Vec<Value> = serde_json::from_str(&said.out).map_err(|_| said.err)?;
        let running: Vec<Value> = tasks
            .into_iter()
            .filter(|task| task["state"] == "running" && task["desired_state"] == "running")
            .collect();
        holds(addresses(&running) == *before, &running)
    });
}

/// `web` answers `shell.1`, asked of a host.
fn answers(lab: &Lab, ask: &str) {
    eventually("web is answered by name", || {
        let said = lab.inside(ask, "shell.1", &[&WEB[..], &["http://web/[1-30]"]].concat());
        holds(said.code == 0 && field(&said.out, "task").len() == 30, said)
    });
}

fn no_panics(lab: &Lab) {
    for host in HOSTS {
        let log = run(lab.verb("logs").arg(host)).ok();
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn a_cluster_returns_by_itself_after_a_power_cut_of_all() {
    let lab = Lab::tour(3);
    let before = addresses(&lab.running("h1", "web"));
    for host in HOSTS {
        run(lab.verb("kill").arg(host)).ok();
    }
    for host in HOSTS {
        run(lab.verb("start").arg(host)).ok();
    }
    runs_again(&lab, "h2", &before);
    answers(&lab, "h3");
    no_panics(&lab);
}

#[test]
fn without_a_majority_writes_are_refused_and_what_runs_goes_on() {
    let lab = Lab::tour(3);
    let shell = lab.running("h1", "shell").remove(0)["node"]
        .as_str()
        .unwrap()
        .to_owned();
    let before = addresses(&lab.running("h1", "web"));
    let others: Vec<&str> = HOSTS.into_iter().filter(|host| *host != shell).collect();
    for host in &others {
        run(lab.verb("kill").arg(host)).ok();
    }
    let refusal = lab.ctl(&shell, "network create more").refused();
    assert!(
        refusal.contains("2 of 3 managers do not answer") && refusal.contains("next:"),
        "{refusal}"
    );

    // Even a daemon that starts now serves names, and what runs is not touched.
    let ask = |words: &[&str]| lab.inside(&shell, "shell.1", words);
    let boots = ask(&["cat", "/proc/1/stat"]).ok();
    run(lab.verb("crash").arg(&shell)).ok();
    eventually("names are served from the disk's view", || {
        let said = ask(&["dig", "+short", "+tries=1", "+time=1", "web"]);
        holds(said.code == 0 && said.out.starts_with("10.0.9."), said)
    });
    let started = |stat: &str| stat.split_whitespace().nth(21).map(str::to_owned);
    assert_eq!(
        started(&ask(&["cat", "/proc/1/stat"]).ok()),
        started(&boots)
    );

    run(lab.verb("start").arg(others[0])).ok();
    runs_again(&lab, &shell, &before);
    // What was refused may have been in the log of the last leader, and be made now: it says so.
    assert!(
        refusal.contains("be made once there is a majority"),
        "{refusal}"
    );
    lab.ctl(others[0], "network create another").ok();
    answers(&lab, &shell);
}

#[test]
fn a_host_cut_off_stops_its_replaced_tasks_on_return() {
    let lab = Lab::tour(3);
    let before = addresses(&lab.running("h1", "web"));
    let own = |host: &str| {
        lab.exec(host, &["sh", "-c", "ls /var/lib/netd/tasks | wc -l"])
            .ok()
            .trim()
            .to_owned()
    };
    cable(&lab, "h3", "down");
    eventually("its tasks run elsewhere", || {
        let tasks = lab.running("h1", "web");
        holds(
            tasks.len() == 3 && tasks.iter().all(|task| task["node"] != "h3"),
            tasks,
        )
    });
    assert_ne!(own("h3"), "0", "a host that is alone stops nothing");
    cable(&lab, "h3", "up");
    eventually("what was replaced is gone", || {
        holds(own("h3") == "0", own("h3"))
    });
    runs_again(&lab, "h3", &before);
    answers(&lab, "h1");
    let tasks = lab.running("h1", "web");
    assert!(
        tasks.iter().all(|task| task["node"] != "h3"),
        "tasks do not move back: {tasks:?}"
    );
    // What changed meanwhile is known there, too.
    lab.ctl("h1", "service scale shell=3").ok();
    let shell = lab
        .running("h1", "shell")
        .into_iter()
        .find(|task| task["node"] == "h3")
        .unwrap();
    let ask = |words: &[&str]| {
        lab.inside("h1", shell["name"].as_str().unwrap(), words)
            .ok()
    };
    let known: BTreeSet<String> = ask(&["dig", "+short", "tasks.web"])
        .lines()
        .map(str::to_owned)
        .collect();
    let wanted = tasks
        .iter()
        .map(|task| task["addresses"][0].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(known, wanted);
    ask(&[
        "curl",
        "-sSf",
        "-m",
        "2",
        "-o",
        "/dev/null",
        "-H",
        "Connection: close",
        "http://web/[1-30]",
    ]);
    no_panics(&lab);
}

#[test]
fn daemons_killed_under_load_lose_and_double_nothing() {
    let lab = Lab::up(3);
    let commands: Vec<_> = (0..20)
        .map(|number| {
            let name = format!("net-{number}");
            let words = ["swarmctl", "network", "create", &name];
            let mut command = lab.command(HOSTS[number % 3], &words);
            (
                name,
                command
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();
    for host in HOSTS {
        run(lab.verb("crash").arg(host)).ok();
    }
    for (name, command) in commands {
        let output = command.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let networks = lab.json("h2", "network ls");
    let count = |name: String| {
        networks
            .iter()
            .filter(|network| network["spec"]["name"] == name)
            .count()
    };
    assert!(
        (0..20).all(|number| count(format!("net-{number}")) == 1) && networks.len() == 20,
        "{networks:?}"
    );
    no_panics(&lab);
}

#[test]
fn a_daemon_with_nothing_to_do_rests() {
    let lab = Lab::up(3);
    let ticks = |host: &str| -> u64 {
        let stat = lab
            .exec(host, &["sh", "-c", "cat /proc/$(cat /run/netd.pid)/stat"])
            .ok();
        stat.split_whitespace()
            .skip(13)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum()
    };
    // What a new cluster still has to do may take a while; a loop that never sleeps never gets
    // there.
    eventually("no daemon uses a tenth of a processor", || {
        let before = HOSTS.map(ticks);
        std::thread::sleep(Duration::from_secs(2));
        let used: Vec<u64> = std::iter::zip(before, HOSTS.map(ticks))
            .map(|(before, after)| after - before)
            .collect();
        holds(used.iter().all(|&ticks| ticks < 20), used)
    });
}

/// Puts a host's directory on a small file system of its own. netd confirms nothing while it is
/// copied, and the host's first process starts it again on the copy.
fn on_a_small_disk(lab: &Lab, host: &str) {
    let moved = "pid=$(cat /run/netd.pid) && kill -STOP $pid && mkdir -p /run/disk \
                 && mount -t tmpfs -o size=64m disk /run/disk \
                 && cp -a /var/lib/netd/. /run/disk && mount --bind /run/disk /var/lib/netd \
                 && kill -KILL $pid";
    lab.exec(host, &["sh", "-c", moved]).ok();
}

/// What a host says of itself, or what another one says of it, names Raft as a cause.
fn names_raft(lab: &Lab, host: &str, line: &str) -> Result<bool, String> {
    let said = lab.ctl(host, &format!("{line} -o json"));
    let found: Vec<Value> = serde_json::from_str(&said.out).map_err(|_| said.err)?;
    let causes = found.iter().filter_map(|one| one["causes"].as_array());
    Ok(causes.flatten().any(|cause| cause["object"] == "Raft"))
}

#[test]
fn a_manager_whose_disk_was_full_votes_again_by_itself() {
    let lab = Lab::tour(3);
    on_a_small_disk(&lab, "h3");
    eventually("all are ready again", || {
        let nodes = lab.json("h1", "node ls");
        let ready = nodes.iter().filter(|node| node["status"] == "ready");
        holds(ready.count() == 3, &nodes)
    });
    let before = addresses(&lab.running("h1", "web"));
    let fill = "dd if=/dev/zero of=/var/lib/netd/fill bs=64k 2>/dev/null; sync; true";
    lab.exec("h3", &["sh", "-c", fill]).ok();
    // What a segment of the log has room for is written before the disk is found full.
    let text = "x".repeat(100_000);
    let word = format!("BALLAST={text}");
    for number in 0..220 {
        let name = format!("ballast-{number}");
        let words = ["swarmctl", "service", "create", "--detach", "--name", &name];
        let rest = [
            "--replicas",
            "0",
            "--runtime",
            "exec",
            "--env",
            &word,
            "--",
            "true",
        ];
        run(&mut lab.command("h1", &[&words[..], &rest[..]].concat())).ok();
        if names_raft(&lab, "h3", "status") == Ok(true) {
            break;
        }
    }
    let says = |host, line, is| {
        let what = format!("{line} at {host} names Raft: {is}");
        eventually(&what, || {
            let found = names_raft(&lab, host, line)?;
            holds(found == is, found)
        });
    };
    says("h3", "status", true);
    says("h1", "node inspect h3", true);
    let verified = lab.ctl("h1", "network verify");
    assert!(
        verified.out.contains("votes no more") && verified.code != 0,
        "{verified:?}"
    );

    lab.exec("h3", &["rm", "/var/lib/netd/fill"]).ok();
    says("h3", "status", false);
    says("h1", "node inspect h3", false);
    // With one of the others gone, a majority needs it.
    run(lab.verb("kill").arg("h2")).ok();
    eventually("the two others have a leader", || {
        let said = lab.ctl("h1", "node update --availability active h1");
        holds(said.code == 0, said)
    });
    run(lab.verb("start").arg("h2")).ok();
    runs_again(&lab, "h1", &before);
    no_panics(&lab);
}
