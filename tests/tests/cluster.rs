//! Clusters through the public interface: membership, tokens, losing managers and hosts.

use std::process::Stdio;

use tests::{Lab, binaries, eventually, field, holds, run, swarmctl};

fn token(lab: &Lab, role: &str) -> String {
    lab.ctl("h1", &format!("token {role} -q"))
        .ok()
        .trim()
        .to_owned()
}

fn node(lab: &Lab, ask: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let nodes = lab.json(ask, "node ls");
    nodes
        .iter()
        .find(|node| wanted(node))
        .unwrap_or_else(|| panic!("no such node in {nodes:?}"))
        .clone()
}

fn all_ready(lab: &Lab, ask: &str, count: usize) {
    eventually("every node is ready", || {
        let said = lab.ctl(ask, "node ls -o json");
        holds(said.out.matches("\"ready\"").count() == count, said)
    });
}

#[test]
fn wrong_and_stale_tokens_are_refused_on_both_sides() {
    let (lab, other) = (Lab::up(2), Lab::up(1));
    let stale = token(&lab, "worker");
    let manager = node(&lab, "h1", |node| node["hostname"] == "h1")["address"]
        .as_str()
        .unwrap()
        .to_owned();
    lab.ctl("h1", "token worker --rotate").ok();
    lab.ctl("h2", "leave").ok();
    let join = |token: &str| lab.ctl("h2", &format!("join --token {token} {manager}"));

    assert!(join("nonsense").refused().contains("SWMTKN-1-"));
    let refusal = join(&stale).refused();
    assert!(refusal.contains("token"), "{refusal}");
    let foreign = join(&token(&other, "worker")).refused();
    assert!(foreign.contains("another cluster"), "{foreign}");
    let log = eventually("the manager says why as well", || {
        let log = run(lab.verb("logs").arg("h1")).ok();
        if log.contains("token") {
            Ok(log)
        } else {
            Err("no word of a token in the log of h1".to_owned())
        }
    });
    assert!(
        !log.contains(stale.rsplit('-').next().unwrap()),
        "a secret was logged"
    );

    join(&token(&lab, "worker")).ok();
    all_ready(&lab, "h2", 2);
    assert_eq!(
        node(&lab, "h2", |node| node["hostname"] == "h2")["role"],
        "worker"
    );
}

#[test]
fn the_printed_join_command_makes_a_cluster_of_separate_hosts() {
    let lab = Lab::up(2);
    for host in ["h2", "h1"] {
        lab.ctl(host, "leave --force").ok();
    }
    assert!(lab.ctl("h1", "node ls").refused().contains("swarmctl init"));
    lab.ctl("h1", "init --advertise-addr 192.168.100.11").ok();
    let printed = lab.ctl("h1", "token manager").ok();
    let join = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("swarmctl "))
        .expect("a join command");
    assert!(
        join.starts_with("join --token SWMTKN-1-") && join.ends_with(" 192.168.100.11:2377"),
        "{join}"
    );
    lab.ctl("h2", join).ok();
    all_ready(&lab, "h2", 2);
    assert_eq!(
        node(&lab, "h1", |node| node["hostname"] == "h2")["role"],
        "manager"
    );
}

#[test]
fn a_dead_host_is_replaced_and_comes_back_as_a_member() {
    let lab = Lab::tour(3);
    run(lab.verb("kill").arg("h3")).ok();
    eventually("everything runs on the other hosts", || {
        let tasks = [lab.running("h1", "web"), lab.running("h1", "shell")].concat();
        holds(
            tasks.len() == 4 && tasks.iter().all(|task| task["node"] != "h3"),
            tasks,
        )
    });
    let calls = || {
        lab.inside(
            "h1",
            "shell.1",
            &[
                "curl",
                "-sS",
                "-m",
                "2",
                "-H",
                "Connection: close",
                "http://web/[1-60]",
            ],
        )
    };
    let text = eventually("web is answered without errors", || {
        let said = calls();
        if said.code == 0 && field(&said.out, "task").len() == 60 {
            Ok(said.out)
        } else {
            Err(format!("{said:?}"))
        }
    });
    assert!(!field(&text, "host").contains(&"h3"));

    run(lab.verb("start").arg("h3")).ok();
    all_ready(&lab, "h1", 3);
    lab.ctl("h1", "service scale web=6").ok();
    assert!(
        lab.running("h3", "web")
            .iter()
            .any(|task| task["node"] == "h3")
    );
    let text = calls().ok();
    assert!(field(&text, "host").contains(&"h3"), "{text}");

    // A name that the host got meanwhile comes with it.
    lab.exec("h3", &["hostname", "db-prod-3"]).ok();
    lab.upgrade("h3", &binaries().join("netd")).ok();
    eventually("the host is known by its new name", || {
        let said = lab.ctl("h1", "node inspect db-prod-3 -o json");
        holds(said.code == 0 && said.out.contains("\"ready\""), said)
    });
    let said = lab.ctl("h1", "node inspect h3").refused();
    assert!(said.contains("there is no node \"h3\""), "{said}");
    let said = lab.ctl("h2", "node ls").ok();
    let is_old = |word: &str| word == "h3";
    assert!(
        said.contains("db-prod-3") && !said.split_whitespace().any(is_old),
        "{said}"
    );
}

#[test]
fn a_service_is_created_once_though_the_leader_dies() {
    let lab = Lab::up(3);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 my-net")
        .ok();
    for round in ["one", "two", "three"] {
        let leader = node(&lab, "h1", |node| node["leader"] == true)["hostname"]
            .as_str()
            .unwrap()
            .to_owned();
        let other = if leader == "h2" { "h3" } else { "h2" };
        let create = [
            "swarmctl",
            "service",
            "create",
            "--name",
            round,
            "--replicas",
            "2",
            "--network",
            "my-net",
            "--",
        ];
        let mut create = lab.command(other, &[&create[..], &["sleep", "infinity"]].concat());
        let child = create
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        run(lab.verb("crash").arg(&leader)).ok();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let services = lab.json(other, "service ls");
        assert_eq!(
            services
                .iter()
                .filter(|service| service["spec"]["name"] == round)
                .count(),
            1,
            "{services:?}"
        );
        assert_eq!(lab.running(other, round).len(), 2);
        all_ready(&lab, "h1", 3);
    }
}

#[test]
fn any_one_of_three_managers_can_die_and_resume() {
    let lab = Lab::up(3);
    for victim in ["h1", "h2", "h3"] {
        let other = if victim == "h1" { "h2" } else { "h1" };
        run(lab.verb("kill").arg(victim)).ok();
        lab.ctl(other, &format!("network create net-{victim}")).ok();
        run(lab.verb("start").arg(victim)).ok();
        all_ready(&lab, victim, 3);
        let networks = lab.json(victim, "network ls");
        assert!(
            networks
                .iter()
                .any(|network| network["spec"]["name"] == format!("net-{victim}")),
            "{networks:?}"
        );
    }
}

#[test]
fn labs_run_side_by_side_and_orphaned_ones_can_be_removed() {
    let (first, second) = (Lab::up(1), Lab::planned());
    let mut up = second.verb("up");
    let mut creator = up
        .args(["--hosts", "2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the second lab has begun", || {
        let list = run(swarmctl().args(["lab", "ls"])).ok();
        holds(list.contains(second.name()), list)
    });
    creator.kill().unwrap();
    creator.wait().unwrap();
    run(&mut second.verb("down")).ok();
    let list = run(swarmctl().args(["lab", "ls"])).ok();
    assert!(
        !list.contains(second.name()) && list.contains(first.name()),
        "{list}"
    );
    assert_eq!(first.json("h1", "node ls").len(), 1);
    let processes = run(std::process::Command::new("ps").args(["-eo", "args="])).ok();
    let left: Vec<&str> = processes
        .lines()
        .filter(|line| line.contains(second.name()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
