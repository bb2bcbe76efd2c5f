//! What is left to a manager that was removed, and to one that has lost its log.

use serde_json::Value;
use tests::{Lab, eventually, holds, run};

fn status_of(lab: &Lab, ask: &str, host: &str) -> Result<String, String> {
    let said = lab.ctl(ask, "node ls");
    let line = said.out.lines().find(|line| line.contains(host));
    line.map(str::to_owned).ok_or(said.err)
}

fn sh(lab: &Lab, host: &str, line: &str) {
    lab.exec(host, &["sh", "-c", line]).ok();
}

/// Does this while netd stands still, and ends that netd; the host's first process starts another.
fn between_two_netds(lab: &Lab, host: &str, line: &str) {
    let line = format!("pid=$(cat /run/netd.pid) && kill -STOP $pid && {line} && kill -KILL $pid");
    sh(lab, host, &line);
}

/// The cluster goes on with two managers, and writes what is asked of it.
fn writes(lab: &Lab, host: &str, name: &str) {
    lab.ctl(host, &format!("network create {name}")).ok();
}

#[test]
fn a_removed_manager_with_its_old_disk_is_nobody() {
    let lab = Lab::tour(4);
    // h1 to h3 are managers. Somebody keeps a copy of h3's disk, and of its join tokens.
    let tokens = ["worker", "manager"].map(|role| lab.ctl("h3", &format!("token {role} -q")).ok());
    sh(&lab, "h3", "cp -a /var/lib/netd /run/kept");
    let said = lab.ctl("h1", "node rm --force h3");
    assert!(
        said.err.contains("new join tokens are in force"),
        "{said:?}"
    );
    said.ok();
    lab.ctl("h3", "leave --force").ok();
    for (role, old) in ["worker", "manager"].into_iter().zip(&tokens) {
        let new = lab.ctl("h1", &format!("token {role} -q")).ok();
        assert_ne!(new, *old, "the {role} token was replaced");
        let join = format!("join --token {} 192.168.100.11:2377", old.trim());
        let refused = lab.ctl("h3", &join);
        assert!(
            refused.code != 0 && refused.err.contains("replaced"),
            "{refused:?}"
        );
    }
    let leader = |lab: &Lab| {
        let nodes = lab.json("h1", "node ls");
        let leader = nodes.into_iter().find(|node| node["leader"] == true);
        leader.map(|node| node["hostname"].clone())
    };
    let before = leader(&lab);
    between_two_netds(
        &lab,
        "h3",
        "rm -rf /var/lib/netd/* && cp -a /run/kept/. /var/lib/netd",
    );
    for number in 0..5 {
        writes(&lab, "h2", &format!("after-{number}"));
    }
    let refused = lab.ctl("h3", "network create forged");
    assert!(refused.code != 0, "{refused:?}");
    assert_eq!(leader(&lab), before, "nobody took the lead");
    let names = |node: &Value| node["hostname"].as_str().unwrap_or_default().to_owned();
    let nodes: Vec<String> = lab.json("h1", "node ls").iter().map(names).collect();
    assert!(!nodes.contains(&"h3".to_owned()), "{nodes:?}");
}

#[test]
fn a_manager_that_lost_its_log_says_so_and_comes_back() {
    let lab = Lab::tour(3);
    // Its log is remembered once it votes.
    eventually("the log is remembered", || {
        let said = lab.exec("h2", &["test", "-e", "/var/lib/netd/identity/log.json"]);
        holds(said.code == 0, said)
    });
    let task = lab
        .running("h1", "web")
        .into_iter()
        .find(|task| task["node"] == "h2");
    between_two_netds(&lab, "h2", "rm -rf /var/lib/netd/raft");
    eventually("node ls shows that h2 does not vote", || {
        let line = status_of(&lab, "h1", "h2")?;
        holds(line.contains("no vote"), line)
    });
    for (host, line) in [("h2", "status"), ("h1", "node inspect h2")] {
        eventually("it is said what to do", || {
            let said = lab.ctl(host, &format!("{line} -o json"));
            let told = said.out.contains("does not vote") && said.out.contains("node rm --force");
            holds(told, said)
        });
    }
    // Its task runs on, and names are answered there.
    let now = lab
        .running("h1", "web")
        .into_iter()
        .find(|task| task["node"] == "h2");
    let id = |task: &Option<Value>| task.as_ref().map(|task| task["id"].clone());
    assert_eq!(id(&now), id(&task), "the task was not replaced");
    writes(&lab, "h2", "by-h2");
    // With h3 gone there is no majority: nothing that was acknowledged can be lost.
    run(lab.verb("kill").arg("h3")).ok();
    let refused = lab.ctl("h1", "network create lonely");
    assert!(refused.code != 0, "{refused:?}");
    run(lab.verb("start").arg("h3")).ok();
    eventually("there is a majority again", || {
        let said = lab.ctl("h1", "network create again");
        holds(said.code == 0, said)
    });

    lab.ctl("h1", "node rm --force h2").ok();
    lab.ctl("h2", "leave --force").ok();
    let token = lab.ctl("h1", "token manager -q").ok();
    lab.ctl(
        "h2",
        &format!("join --token {} 192.168.100.11:2377", token.trim()),
    )
    .ok();
    eventually("h2 votes", || {
        let line = status_of(&lab, "h1", "h2")?;
        holds(line.contains("ready"), line)
    });
    let names = lab.json("h2", "network ls");
    assert!(
        names
            .iter()
            .any(|network| network["spec"]["name"] == "by-h2"),
        "{names:?}"
    );
}
