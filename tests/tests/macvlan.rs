//! Networks on a LAN through the public interface: the lab's switch is the LAN, its hosts are
//! machines on it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{CALL, Lab, eventually, field, holds, run};

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
const CREATE: &str = "network create --driver macvlan --opt parent=eth0 --subnet 192.168.100.0/24 \
                      --gateway 192.168.100.1 --ip-range 192.168.100.128/25 --subnet \
                      fd00:6c61:62::/64 --gateway fd00:6c61:62::1 --ip-range \
                      fd00:6c61:62::8000/120 lan";

fn address(task: &Value, index: usize) -> &str {
    task["addresses"][index].as_str().unwrap()
}

/// `http://ADDRESS/` is answered, asked of a host itself.
fn answers_host(lab: &Lab, host: &str, address: &str) {
    let url = if address.contains(':') {
        format!("http://[{address}]/")
    } else {
        format!("http://{address}/")
    };
    eventually("the host is answered", || {
        let said = lab.exec(host, &["curl", "-sS", "-m", "2", &url]);
        holds(said.out.contains("task: web."), (host, address, said))
    });
}

/// A task reaches the control plane's port of a host, be it closed.
fn reaches(lab: &Lab, task: &str, address: &str) {
    eventually("the task reaches the host", || {
        let said = lab.inside(
            "h1",
            task,
            &[
                "timeout",
                "2",
                "bash",
                "-c",
                &format!(": < /dev/tcp/{address}/2377"),
            ],
        );
        holds(
            said.code == 0 || said.err.contains("refused"),
            (task, address, said),
        )
    });
}

/// What a host has of networks and tasks.
fn traces(lab: &Lab, host: &str) -> String {
    let script = "ip netns; ip -o link | sed 's/^[0-9]*: //' | cut -d' ' -f1; \
                  ip -o addr | cut -d' ' -f2-4; ip route; ip -6 route | grep -v fe80; \
                  ip neigh show nud permanent; nft list ruleset";
    lab.exec(host, &["sh", "-c", script]).ok()
}

/// The Ethernet address that a host believes to belong to an IP address.
fn neighbour(lab: &Lab, host: &str, address: &str) -> String {
    let said = lab.exec(host, &["ip", "neigh", "show", "to", address, "dev", "eth0"]);
    said.out
        .split_whitespace()
        .skip_while(|word| *word != "lladdr")
        .nth(1)
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn tasks_on_a_lan_have_names_and_virtual_ips_and_reach_hosts() {
    let lab = Lab::up(3);
    let before = HOSTS.map(|host| traces(&lab, host));
    lab.ctl("h1", CREATE).ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 3 --network lan -- netd whoami --port 80",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name shell --network lan -- sleep infinity",
    )
    .ok();
    let (web, shell) = (
        lab.running("h1", "web"),
        lab.running("h1", "shell").remove(0),
    );
    for (family, index) in [("-4", 0), ("-6", 1)] {
        for (task, client) in web
            .iter()
            .chain([&shell])
            .map(|task| (task["name"].as_str().unwrap(), address(task, index)))
        {
            let close = [
                "curl",
                "-sS",
                family,
                "-m",
                "5",
                "-H",
                "Connection: close",
                "http://web/[1-12]",
            ];
            let said = lab.inside("h2", task, &close).ok();
            assert_eq!(
                BTreeSet::from_iter(field(&said, "task")),
                BTreeSet::from(["web.1", "web.2", "web.3"]),
                "{said}"
            );
            assert_eq!(
                BTreeSet::from_iter(field(&said, "client")),
                BTreeSet::from([client]),
                "{said}"
            );
        }
        let kind = ["A", "AAAA"][index];
        let said = lab
            .inside(
                "h1",
                "shell.1",
                &["dig", "+short", "+tries=1", "tasks.web", kind],
            )
            .ok();
        assert_eq!(
            BTreeSet::from_iter(said.lines()),
            web.iter().map(|task| address(task, index)).collect()
        );
        assert!(
            lab.inside("h1", "shell.1", &["dig", "+tcp", "web", kind])
                .ok()
                .contains("status: NOERROR")
        );
        for host in HOSTS {
            web.iter()
                .for_each(|task| answers_host(&lab, host, address(task, index)));
            let own = format!(
                "{}{}",
                ["192.168.100.1", "fd00:6c61:62::1"][index],
                &host[1..]
            );
            ["web.1", "web.2", "web.3", "shell.1"]
                .iter()
                .for_each(|task| reaches(&lab, task, &own));
        }
    }
    // Whoever is on the LAN knows a host by its own Ethernet address and by no other.
    for (host, other) in [("h1", 2), ("h2", 3), ("h3", 1)] {
        assert_eq!(
            neighbour(&lab, host, &format!("192.168.100.1{other}")),
            format!("02:6c:61:62:00:0{other}")
        );
    }
    lab.ctl("h1", "service scale --detach web=0").ok();
    eventually("a virtual IP with nobody behind it refuses", || {
        let said = lab.inside("h1", "shell.1", &["curl", "-sS", "-m", "5", "http://web/"]);
        holds(said.code == 7, said)
    });
    lab.ctl("h1", "service rm web shell").ok();
    lab.ctl("h1", "network rm lan").ok();
    for (host, before) in HOSTS.iter().zip(before) {
        eventually("the host is as before", || {
            let now = traces(&lab, host);
            holds(
                now == before,
                format!("{host} now:\n{now}\nbefore:\n{before}"),
            )
        });
    }
}

#[test]
fn a_crash_on_a_lan_costs_no_call_and_deletions_come_back() {
    let lab = Lab::up(2);
    lab.ctl("h1", CREATE).ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 2 --network lan -- netd whoami --port 80",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name shell --network lan -- sleep infinity",
    )
    .ok();
    let shell = lab.running("h1", "shell").remove(0);
    let host = shell["node"].as_str().unwrap();
    let vip = lab.json("h1", "service inspect web")[0]["status"]["virtual_ips"][0]
        .as_str()
        .unwrap()
        .to_owned();
    lab.inside(
        "h1",
        "shell.1",
        &[
            "sh",
            "-c",
            "nohup python3 -c \"$0\" $1 > /tmp/said 2>&1 &",
            CALL,
            &vip,
        ],
    )
    .ok();
    for host in ["h1", "h2"] {
        run(lab.verb("crash").arg(host)).ok();
        eventually("the host has nothing left to change", || {
            let plan = lab.ctl(host, "debug plan");
            holds(plan.code == 0 && plan.out.trim().is_empty(), plan)
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

    let sandbox = format!("netd-t-{}", shell["id"].as_str().unwrap());
    for breakage in [
        "ip -n $NS link del eth0",
        "ip -n $NS addr flush dev eth0 scope global",
        "ip -n $NS route flush proto 110",
        "ip -n $NS neigh flush all nud permanent",
        "ip netns exec $NS nft flush ruleset",
        "ip link del $(ip -o link | grep -o 'ns-[0-9a-f]*')",
        "ip route flush proto 110; ip neigh flush all nud permanent",
    ] {
        lab.exec(host, &["sh", "-c", &format!("NS={sandbox}; {breakage}")])
            .ok();
        for family in ["-4", "-6"] {
            eventually("web answers the shell again", || {
                let said = lab.inside(
                    "h1",
                    "shell.1",
                    &["curl", "-sS", family, "-m", "2", "http://web/"],
                );
                holds(said.code == 0, (breakage, said))
            });
        }
        let own = format!("192.168.100.1{}", &host[1..]);
        reaches(&lab, "shell.1", &own);
        lab.running("h1", "web")
            .iter()
            .for_each(|task| answers_host(&lab, host, address(task, 0)));
    }
}

#[test]
fn an_address_in_use_on_the_lan_waits_until_it_is_free() {
    let lab = Lab::up(2);
    lab.ctl("h1", CREATE).ok();
    lab.ctl("h1", "node update --availability drain h2").ok();
    let create = "service create --detach --name web --endpoint-mode dnsrr --replicas 0 --network \
                  lan -- netd whoami";
    lab.ctl("h1", create).ok();
    for (slot, taken, by) in [
        (1, "192.168.100.128/24", "192.168.100.128"),
        (2, "fd00:6c61:62::8001/64", "fd00:6c61:62::8001"),
    ] {
        lab.exec("h2", &["ip", "addr", "add", taken, "dev", "eth0", "nodad"])
            .ok();
        lab.ctl("h1", &format!("service scale --detach web={slot}"))
            .ok();
        let cause = format!("its address {by} is in use on the LAN by 02:6c:61:62:00:02");
        for line in ["service ps web -o json", "node inspect h1"] {
            eventually("the refusal names the address and who has it", || {
                let said = lab.ctl("h1", line);
                holds(said.out.contains(&cause), said)
            });
        }
        lab.exec("h2", &["ip", "addr", "del", taken, "dev", "eth0"])
            .ok();
        eventually("the task runs with its address", || {
            let tasks = lab.running("h1", "web");
            holds(
                tasks
                    .iter()
                    .any(|task| task["slot"] == slot && task["addresses"].to_string().contains(by)),
                tasks,
            )
        });
    }
}

#[test]
fn a_replica_that_moves_is_found_at_once_by_others_on_the_lan() {
    let lab = Lab::up(3);
    lab.ctl("h1", CREATE).ok();
    lab.ctl(
        "h1",
        "service create --name web --network lan -- netd whoami --port 80",
    )
    .ok();
    let web = lab.running("h1", "web").remove(0);
    let host = web["node"].as_str().unwrap();
    let observer = HOSTS.into_iter().find(|other| *other != host).unwrap();
    (0..2).for_each(|index| answers_host(&lab, observer, address(&web, index)));
    let mac = neighbour(&lab, observer, address(&web, 0));
    run(lab.verb("kill").arg(host)).ok();
    // A third machine that is wrong about the address is put right by nothing but the announcement.
    let third = HOSTS
        .into_iter()
        .find(|other| ![host, observer].contains(other))
        .unwrap();
    let again = eventually("the replica runs elsewhere", || {
        for (watcher, index) in [(observer, 0), (observer, 1), (third, 0), (third, 1)] {
            let wrong = [
                "ip",
                "neigh",
                "replace",
                address(&web, index),
                "lladdr",
                "02:00:00:00:00:99",
                "dev",
                "eth0",
            ];
            let wrong = [&wrong[..], &["nud", "stale"]].concat();
            if !lab
                .exec(
                    watcher,
                    &["ip", "neigh", "show", "to", address(&web, index)],
                )
                .out
                .contains("02:00:00:00:00:99")
                && lab
                    .running(observer, "web")
                    .iter()
                    .all(|task| task["id"] == web["id"])
            {
                lab.exec(watcher, &wrong).ok();
            }
        }
        let tasks = lab.running(observer, "web");
        tasks
            .iter()
            .find(|task| task["id"] != web["id"])
            .cloned()
            .ok_or_else(|| format!("{tasks:?}"))
    });
    assert_eq!(again["addresses"], web["addresses"]);
    let stranger = if again["node"] == observer {
        third
    } else {
        observer
    };
    for index in 0..2 {
        eventually("the neighbour's entry is right", || {
            let known = neighbour(&lab, stranger, address(&web, index));
            holds(known == mac, (known, &mac))
        });
        answers_host(&lab, stranger, address(&web, index));
        answers_host(&lab, again["node"].as_str().unwrap(), address(&web, index));
    }
}

#[test]
fn a_task_is_on_an_overlay_and_two_lans_of_one_parent() {
    let lab = Lab::up(2);
    lab.ctl("h1", CREATE).ok();
    lab.ctl(
        "h1",
        "network create --driver macvlan --opt parent=eth0 --internal --subnet 192.168.50.0/24 \
         second",
    )
    .ok();
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 over")
        .ok();
    for network in ["lan", "second", "over"] {
        let line = format!(
            "service create --name on-{network} --replicas 2 --network {network} -- netd whoami \
             --port 80"
        );
        lab.ctl("h1", &line).ok();
    }
    lab.ctl(
        "h1",
        "service create --name all --network over --network lan --network second -- sleep infinity",
    )
    .ok();
    for network in ["lan", "second", "over"] {
        let url = format!("http://on-{network}/[1-4]");
        let said = lab
            .inside(
                "h1",
                "all.1",
                &["curl", "-sS", "-m", "5", "-H", "Connection: close", &url],
            )
            .ok();
        assert_eq!(
            BTreeSet::from_iter(field(&said, "host")),
            BTreeSet::from(["h1", "h2"]),
            "{said}"
        );
    }
    let unseen = lab.inside(
        "h1",
        "on-lan.1",
        &["dig", "+short", "+tries=1", "on-second"],
    );
    assert_eq!(
        unseen.out.trim(),
        "",
        "a task sees no names of networks that it is not on: {unseen:?}"
    );
    let refusal = lab
        .ctl(
            "h1",
            "network create --driver macvlan --opt parent=eth0 --subnet 192.168.50.0/25 third",
        )
        .refused();
    assert!(refusal.contains("overlaps"), "{refusal}");
}

#[test]
fn a_host_without_the_parent_refuses_tasks_until_it_has_it() {
    let lab = Lab::up(2);
    let add =
        "ip link add lan0 type veth peer name lan0p && ip link set lan0 up && ip link set lan0p up";
    lab.exec("h1", &["sh", "-c", add]).ok();
    let refusal = lab
        .ctl(
            "h1",
            "network create --driver macvlan --opt parent=lan0 lan",
        )
        .refused();
    assert!(refusal.contains("--subnet"), "{refusal}");
    lab.ctl(
        "h1",
        "network create --driver macvlan --opt parent=lan0 --subnet 192.168.60.0/24 lan",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 2 --restart-delay 100ms --network lan -- sleep \
         infinity",
    )
    .ok();
    let cause = "this host has no link lan0, the parent of network \"lan\"; next: make it";
    let tasks = lab.json("h2", "service ps web");
    assert!(
        tasks
            .iter()
            .any(|task| task["node"] == "h2" && task["message"].as_str().unwrap().contains(cause)),
        "{tasks:?}"
    );
    assert!(
        lab.running("h2", "web")
            .iter()
            .all(|task| task["node"] == "h1")
    );

    lab.ctl("h1", "node update --availability drain h1").ok();
    eventually("the node says what it lacks", || {
        let node = lab.ctl("h1", "node inspect h2");
        holds(node.out.contains("no link lan0"), node)
    });
    lab.exec("h2", &["sh", "-c", add]).ok();
    eventually("the tasks run where the link has appeared", || {
        let tasks = lab.running("h2", "web");
        holds(
            tasks.len() == 2 && tasks.iter().all(|task| task["node"] == "h2"),
            tasks,
        )
    });
}
