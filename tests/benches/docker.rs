//! What Docker's users wait for: `docker network connect`, and `docker run` until the first packet
//! is answered; on ours, on Docker's bridge and on its swarm overlay. One engine, in turn and eight
//! at once, medians.

use tests::{Lab, docker::Docker};

/// Asks the engine's API without a program per question, which would cost more than what is
/// measured.
const MEASURE: &str = include_str!("docker.py");
const ROUNDS: &str = "100";

fn main() {
    if !Docker::is_installed() {
        println!("there is no dockerd: `make setup` installs it");
        return;
    }
    let lab = Lab::up(3);
    let _daemon = Docker::start(&lab, "h1", &[]);
    let shell = |script: &str| lab.exec("h1", &["sh", "-ec", script]).ok();
    lab.ctl(
        "h1",
        "network create --attachable --subnet 10.0.9.0/24 ours",
    )
    .ok();
    // On ports of its own: the host's netd has Swarm's.
    shell(
        "docker swarm init --data-path-port 5789 --listen-addr 127.0.0.1:2378 --advertise-addr \
         127.0.0.1:2378",
    );
    shell("docker network create -d overlay --attachable swarm");
    shell("docker network create -d netd --ipam-driver netd -o netd.network=ours ours");
    shell("docker network create -d bridge bridged");
    print!(
        "{}",
        lab.exec(
            "h1",
            &["python3", "-c", MEASURE, ROUNDS, "ours", "bridged", "swarm"]
        )
        .ok()
    );
}
