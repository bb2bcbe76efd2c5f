//! Services through the public interface: names, virtual IPs, scaling, restarts, logs.

use std::collections::BTreeSet;

use tests::{Lab, eventually, field, holds, run};

const REQUESTS: usize = 300;

/// Asks `http://web/` many times, each on a connection of its own, in one run of curl.
fn answers(lab: &Lab, family: &str) -> String {
    let url = format!("http://web/[1-{REQUESTS}]");
    lab.inside(
        "h2",
        "shell.1",
        &["curl", "-sS", family, "-H", "Connection: close", &url],
    )
    .ok()
}

#[test]
fn every_replica_answers_by_name_and_sees_its_client() {
    let lab = Lab::tour(3);
    let shell = lab.running("h1", "shell").remove(0);
    for (family, index) in [("-4", 0), ("-6", 1)] {
        let text = answers(&lab, family);
        let by = field(&text, "task");
        assert_eq!(by.len(), REQUESTS, "{text}");
        assert_eq!(
            BTreeSet::from_iter(by),
            BTreeSet::from(["web.1", "web.2", "web.3"])
        );
        assert_eq!(
            BTreeSet::from_iter(field(&text, "host")),
            BTreeSet::from(["h1", "h2", "h3"])
        );
        let clients = BTreeSet::from_iter(field(&text, "client"));
        assert_eq!(
            clients,
            BTreeSet::from([shell["addresses"][index].as_str().unwrap()])
        );
    }
    // The client's host has balanced them, and knows whom to.
    for row in lab.json("h1", "service inspect --traffic web") {
        let counts = row["connections"]
            .as_object()
            .unwrap()
            .values()
            .map(|count| count.as_u64().unwrap() as usize);
        let expected = if row["node"] == shell["node"] {
            (3, REQUESTS)
        } else {
            (0, 0)
        };
        let counts: Vec<usize> = counts.filter(|count| *count > 0).collect();
        assert_eq!(
            (counts.len(), counts.iter().sum::<usize>()),
            expected,
            "{row}"
        );
    }
    // How they are balanced changes for tasks that run on.
    let before = lab.running("h1", "web");
    for (change, servers) in [
        ("--lb mh", 1),
        ("--lb rr --affinity 10m", 1),
        ("--affinity 0", 3),
    ] {
        lab.ctl("h3", &format!("service update {change} web")).ok();
        assert_eq!(
            BTreeSet::from_iter(field(&answers(&lab, "-4"), "task")).len(),
            servers,
            "{change}"
        );
    }
    let ids = |tasks: &[serde_json::Value]| {
        tasks
            .iter()
            .map(|task| task["id"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&lab.running("h1", "web")), ids(&before));
}

#[test]
fn a_task_reaches_its_own_service_even_at_itself() {
    let lab = Lab::up(1);
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 1 --network my-net -- netd whoami --port 80",
    )
    .ok();
    for family in ["-4", "-6"] {
        let text = lab
            .inside(
                "h1",
                "web.1",
                &["curl", "-sS", family, "-m", "5", "http://web/"],
            )
            .ok();
        assert_eq!(field(&text, "task"), ["web.1"]);
    }
}

#[test]
fn names_do_not_lie() {
    let lab = Lab::tour(3);
    let dig = |words: &[&str]| {
        let words: Vec<&str> = ["dig", "+tries=1", "+time=5"]
            .iter()
            .chain(words)
            .copied()
            .collect();
        lab.inside("h1", "shell.1", &words).ok()
    };
    let short = |words: &[&str]| -> BTreeSet<String> {
        let words: Vec<&str> = ["+short"].iter().chain(words).copied().collect();
        dig(&words).lines().map(str::to_owned).collect()
    };
    let addresses = |index: usize| -> BTreeSet<String> {
        let tasks = lab.running("h1", "web");
        tasks
            .iter()
            .map(|task| task["addresses"][index].as_str().unwrap().to_owned())
            .collect()
    };
    let vip = |index: usize| {
        let services = lab.json("h1", "service ls");
        let web = services
            .iter()
            .find(|service| service["spec"]["name"] == "web")
            .unwrap();
        BTreeSet::from([web["status"]["virtual_ips"][index]
            .as_str()
            .unwrap()
            .to_owned()])
    };
    assert_eq!(short(&["web"]), vip(0));
    assert_eq!(short(&["web", "AAAA"]), vip(1));
    assert_eq!(short(&["WEB.my-net"]), vip(0));
    assert_eq!(short(&["tasks.web"]), addresses(0));
    assert_eq!(short(&["tasks.web", "AAAA"]), addresses(1));
    let first = short(&["web.1"]);
    assert!(
        first.len() == 1 && first.is_subset(&addresses(0)),
        "{first:?}"
    );
    assert_eq!(
        short(&["-x", first.first().unwrap()]),
        BTreeSet::from(["web.1.my-net.".to_owned()])
    );
    assert_eq!(
        short(&["-x", vip(1).first().unwrap()]),
        BTreeSet::from(["web.my-net.".to_owned()])
    );
    assert!(dig(&["web", "MX"]).contains("status: NOERROR, "));
    assert!(dig(&["+tcp", "web"]).contains("status: NOERROR, "));

    lab.ctl("h1", "service rm web").ok();
    eventually("a removed service's name is gone", || {
        let seen = short(&["web"]);
        holds(seen.is_empty(), seen)
    });
}

/// All that a host has of networks and tasks: namespaces, links, addresses, routes, rules,
/// processes, directories.
fn traces(lab: &Lab, host: &str) -> String {
    let script = "ip netns; ip -o link | sed 's/^[0-9]*: //' | cut -d' ' -f1; \
                  ip -o addr | cut -d' ' -f2-4; ip route; ip -6 route | grep -v fe80; \
                  nft list ruleset; ls /var/lib/netd/tasks 2>/dev/null; \
                  ps -eo args= | grep -E 'netd (task|whoami)' | grep -v grep";
    lab.exec(host, &["sh", "-c", &format!("{script}; true")])
        .ok()
}

#[test]
fn nothing_is_left_of_what_was_removed() {
    let hosts = ["h1", "h2", "h3"];
    let lab = Lab::up(3);
    let before = hosts.map(|host| traces(&lab, host));
    let as_before = |host: &str| {
        let index = hosts.iter().position(|known| *known == host).unwrap();
        eventually("the host is as before", || {
            let now = traces(&lab, host);
            holds(
                now == before[index],
                format!("{host} now:\n{now}\nbefore:\n{}", before[index]),
            )
        });
    };
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 3 --network my-net -- netd whoami --port 80",
    )
    .ok();
    lab.ctl("h2", "service scale web=10").ok();
    assert_eq!(lab.running("h3", "web").len(), 10);

    lab.ctl("h2", "service scale web=1").ok();
    let last = eventually("one task remains", || {
        let tasks = lab.json("h1", "service ps web");
        let living: Vec<_> = tasks
            .iter()
            .filter(|task| task["state"] == "running")
            .collect();
        if living.len() == 1 {
            Ok(living[0].clone())
        } else {
            Err(format!("{tasks:?}"))
        }
    });
    hosts
        .iter()
        .filter(|host| last["node"] != **host)
        .for_each(|host| as_before(host));

    lab.ctl("h3", "service rm web").ok();
    hosts.iter().for_each(|host| as_before(host));
    lab.ctl("h1", "network rm my-net").ok();
    assert!(lab.json("h2", "network ls").is_empty());
}

#[test]
fn a_task_that_ends_is_started_again_with_its_address() {
    let lab = Lab::up(1);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 my-net")
        .ok();
    lab.ctl(
        "h1",
        "service create --name nap --replicas 2 --network my-net --restart-delay 100ms -- sleep \
         infinity",
    )
    .ok();
    let victim = lab
        .running("h1", "nap")
        .into_iter()
        .find(|task| task["slot"] == 2)
        .unwrap();
    // The task's end may take the killer with it.
    let killer = lab.inside("h1", "nap.2", &["pkill", "-9", "-x", "sleep"]);
    assert!([0, 137].contains(&killer.code), "{killer:?}");
    let again = eventually("the slot runs again", || {
        let tasks = lab.running("h1", "nap");
        let again = tasks
            .iter()
            .find(|task| task["slot"] == 2 && task["id"] != victim["id"])
            .cloned();
        again.ok_or_else(|| format!("{tasks:?}"))
    });
    assert_eq!(again["addresses"], victim["addresses"]);
    let ended = lab
        .json("h1", "service ps nap")
        .into_iter()
        .find(|task| task["id"] == victim["id"])
        .unwrap();
    assert_eq!(
        (&ended["state"], &ended["exit_code"]),
        (&"failed".into(), &137.into())
    );
}

#[test]
fn logs_environment_and_exit_codes_reach_the_user_from_any_host() {
    let lab = Lab::up(2);
    let script = "echo hello $GREETING from $NETD_TASK; echo trouble >&2; sleep infinity";
    let create = [
        "swarmctl",
        "service",
        "create",
        "--name",
        "talk",
        "--replicas",
        "2",
        "--env",
        "GREETING=world",
        "--",
    ];
    lab.exec("h1", &[&create[..], &["sh", "-c", script]].concat())
        .ok();
    eventually("both tasks have spoken", || {
        let logs = lab.ctl("h2", "service logs talk");
        let spoke = ["hello world from talk.1", "hello world from talk.2"]
            .iter()
            .all(|line| logs.out.contains(line));
        holds(spoke, logs)
    });
    for task in ["talk.1", "talk.2"] {
        assert_eq!(lab.inside("h1", task, &["sh", "-c", "exit 7"]).code, 7);
        assert_eq!(
            lab.inside("h2", task, &["hostname"]).ok().trim(),
            task.replace('.', "-")
        );
        assert_ne!(
            lab.inside("h2", task, &["touch", "/etc/owned"]).code,
            0,
            "the host's root is read-only"
        );
    }
    let refusal = lab.inside("h1", "talk.9", &["true"]).refused();
    assert!(refusal.contains("talk.9"), "{refusal}");
}

#[test]
fn output_of_an_ended_task_is_there_with_its_failure() {
    let lab = Lab::up(2);
    let create = |words: &[&str], script: &str| {
        let begin = ["swarmctl", "service", "create", "--runtime", "exec"];
        let command = ["--", "sh", "-c", script];
        run(&mut lab.command("h1", &[&begin, words, &command].concat()))
    };
    // It ends before it is healthy: one that had run for a moment would have converged.
    let never = ["--restart-condition", "none", "--health-cmd", "false"];
    let once = [&["--name", "once"], &never[..]].concat();
    let refusal = create(&once, "echo boom; sleep 1; echo bye; exit 3").refused();
    assert!(
        refusal.contains("exit code 3); the last output of once.1: boom | bye"),
        "{refusal}"
    );
    let reads = |target: &str, lines: usize| {
        eventually("each line is there once", || {
            let said = lab.ctl("h2", &format!("service logs {target}"));
            let found = said
                .out
                .lines()
                .filter(|line| line.ends_with("bye"))
                .count();
            holds(said.code == 0 && found >= lines, said)
        });
    };
    reads("once", 1);
    reads("once.1", 1);
    create(
        &["--detach", "--name", "loop", "--restart-delay", "1s"],
        "echo bye; exit 3",
    )
    .ok();
    reads("loop", 3);
    // Where the hosts' netds have been restarted since, too.
    for host in ["h1", "h2"] {
        run(lab.verb("crash").arg(host)).ok();
        run(lab.verb("start").arg(host)).ok();
    }
    reads("once.1", 1);
    reads("loop", 4);
}
