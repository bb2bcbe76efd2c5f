//! Services on a kernel with IPVS, from the command line to the tasks.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use tests::{Lab, eventually, field, holds, run, vm};

const CLOSE: &str = "Connection: close";

/// What IPVS has in the network's namespace of a host.
fn listed(lab: &Lab, host: &str) -> String {
    let namespace = lab
        .exec(host, &["sh", "-c", "ls /run/netns | grep -v ^netd-t-"])
        .ok();
    lab.exec(
        host,
        &["ip", "netns", "exec", namespace.trim(), "ipvsadm", "-Ln"],
    )
    .ok()
}

#[test]
fn a_cluster_balances_by_ipvs_until_told_otherwise() {
    vm::required();
    run(std::process::Command::new("modprobe").arg("ip_vs")).ok();
    let lab = Lab::up(2);
    for host in ["h1", "h2"] {
        eventually("the node has said what its kernel has", || {
            let node = lab.json("h1", &format!("node inspect {host}")).remove(0);
            holds(
                node["balancer"] == "auto" && node["balancer_used"] == "ipvs",
                node,
            )
        });
    }
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name web --replicas 2 --network my-net --lb lc -- netd whoami --port 80",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name shell --replicas 2 --network my-net -- sleep infinity",
    )
    .ok();
    for (family, index) in [("-4", 0), ("-6", 1)] {
        for shell in lab.running("h1", "shell") {
            let name = shell["name"].as_str().unwrap();
            let text = lab
                .inside(
                    "h1",
                    name,
                    &[
                        "curl",
                        "-sS",
                        family,
                        "-m",
                        "5",
                        "-H",
                        CLOSE,
                        "http://web/[1-6]",
                    ],
                )
                .ok();
            assert_eq!(
                BTreeSet::from_iter(field(&text, "task")),
                BTreeSet::from(["web.1", "web.2"])
            );
            let clients = BTreeSet::from_iter(field(&text, "client"));
            assert_eq!(
                clients,
                BTreeSet::from([shell["addresses"][index].as_str().unwrap()])
            );
        }
        // To oneself, too.
        let text = lab
            .inside(
                "h1",
                "web.1",
                &[
                    "curl",
                    "-sS",
                    family,
                    "-m",
                    "5",
                    "-H",
                    CLOSE,
                    "http://web/[1-4]",
                ],
            )
            .ok();
        assert_eq!(
            BTreeSet::from_iter(field(&text, "task")),
            BTreeSet::from(["web.1", "web.2"])
        );
    }
    let text = listed(&lab, "h1");
    assert!(text.contains(" lc") && text.contains("10.0.9."), "{text}");

    lab.ctl("h1", "node update --balancer nftables h1").ok();
    eventually("nftables takes over", || {
        let text = listed(&lab, "h1");
        holds(!text.contains("FWM"), text)
    });
    assert!(listed(&lab, "h2").contains("FWM"));
    let web = lab.json("h1", "service inspect web").remove(0);
    assert!(
        web["status"]["notes"][0]
            .as_str()
            .unwrap()
            .starts_with("clients on h1 are balanced by rr"),
        "{web}"
    );
    let task = lab
        .running("h1", "shell")
        .into_iter()
        .find(|task| task["node"] == "h1")
        .unwrap();
    let ask = ["curl", "-sS", "-m", "5", "-H", CLOSE, "http://web/[1-4]"];
    let text = lab.inside("h1", task["name"].as_str().unwrap(), &ask).ok();
    assert_eq!(
        BTreeSet::from_iter(field(&text, "task")),
        BTreeSet::from(["web.1", "web.2"])
    );
}
