//! What a call by a virtual IP costs against a call to the task itself, of another host: ours by
//! either engine, and Docker's. Needs a kernel with IPVS; in the virtual machine of `make test-vm`
//! time is counted in instructions, so few rounds tell.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, eventually, holds, vm};

use super::{OURS, PLAIN, Servers, address, docker, in_turn, path, sandbox, shell};

const ROUNDS: usize = 2;

/// Measures and prints, each pair by itself.
pub fn compare() -> Result<()> {
    vm::required();
    // Docker's balancers are namespaces that take this from the machine, where Docker would have
    // switched it on.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    let lab = Lab::up(4);
    let mut servers = Servers {
        lab: &lab,
        running: Vec::new(),
    };
    let (near, far, vip) = ours(&lab)?;
    servers.start(OURS[1], &sandbox(&far))?;
    let inside = sandbox(&near);
    for (engine, balanced) in [
        ("ipvs", "ours, virtual IP by IPVS"),
        ("nftables", "ours, virtual IP by nftables"),
    ] {
        balance(&lab, engine);
        let direct = path("ours, the task itself", OURS[0], &inside, address(&far, 0));
        in_turn(
            &lab,
            &[direct, path(balanced, OURS[0], &inside, &vip)],
            ROUNDS,
        )?;
    }
    let Some(docker) = docker::Overlay::start(&lab, PLAIN) else {
        println!("Docker is left out: there is no dockerd (Debian package docker.io)");
        return Ok(());
    };
    let service = docker.service(&lab);
    servers.start(PLAIN[1], &service.inside)?;
    let paths = [
        path(
            "Docker, the task itself",
            PLAIN[0],
            &docker.inside(0),
            &service.task,
        ),
        path(
            "Docker, virtual IP",
            PLAIN[0],
            &docker.inside(0),
            &service.vip,
        ),
    ];
    in_turn(&lab, &paths, ROUNDS)
}

/// A task on the first host, one of a service on the second, and its virtual IP.
fn ours(lab: &Lab) -> Result<(Value, Value, String)> {
    let only = |open: &str| {
        for host in OURS.iter().chain(&PLAIN) {
            let availability = if *host == open { "active" } else { "pause" };
            lab.ctl(
                "h1",
                &format!("node update --availability {availability} {host}"),
            )
            .ok();
        }
    };
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    for (service, host) in [("near", OURS[0]), ("far", OURS[1])] {
        only(host);
        lab.ctl(
            "h1",
            &format!("service create --name {service} --network my-net -- sleep infinity"),
        )
        .ok();
    }
    let task = |service| {
        lab.running("h1", service)
            .into_iter()
            .next()
            .context("a task")
    };
    let inspected = lab.json("h1", "service inspect far").remove(0);
    let vip = inspected["status"]["virtual_ips"][0]
        .as_str()
        .context("a virtual IP")?
        .to_owned();
    Ok((task("near")?, task("far")?, vip))
}

/// Has the first host balance with an engine.
fn balance(lab: &Lab, engine: &str) {
    lab.ctl(
        "h1",
        &format!("node update --balancer {engine} {}", OURS[0]),
    )
    .ok();
    let list =
        "ip netns exec $(ls /run/netns | grep -v ^netd-t-) nft list table inet netd-lb || true";
    let map = if engine == "ipvs" {
        "map marks4"
    } else {
        "map slots4"
    };
    eventually("the engine takes over", || {
        let said = shell(lab, OURS[0], list);
        holds(said.contains(map), said)
    });
}
