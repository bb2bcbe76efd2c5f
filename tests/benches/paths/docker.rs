//! Docker's own overlay between two hosts of a lab: a daemon on each, in swarm mode, and a
//! container on each.

use tests::{Lab, docker::Docker, eventually};

use super::shell;

/// Two daemons and a container on each; all of it ends with the lab.
pub struct Overlay {
    _daemons: [Docker; 2],
    hosts: [&'static str; 2],
    /// The containers' first processes, as their hosts number them.
    containers: Vec<String>,
    /// The second container's address.
    pub address: String,
}

impl Overlay {
    /// `None` where there is no Docker.
    pub fn start(lab: &Lab, hosts: [&'static str; 2]) -> Option<Self> {
        if !Docker::is_installed() {
            return None;
        }
        let daemons = hosts.map(|host| Docker::start(lab, host, &[]));
        swarm(lab, hosts);
        let run = |index: usize| {
            let create = format!(
                "docker run -d --name c{index} --network bench busybox /bin/busybox sleep 1000000"
            );
            eventually("a container on the overlay starts", || {
                let said = lab.exec(
                    hosts[index],
                    &[
                        "sh",
                        "-ec",
                        &format!("docker rm -f c{index} 2>&1; {create}"),
                    ],
                );
                if said.code == 0 {
                    Ok(())
                } else {
                    Err(format!("{said:?}"))
                }
            });
            shell(
                lab,
                hosts[index],
                &format!("docker inspect -f '{{{{.State.Pid}}}}' c{index}"),
            )
        };
        let containers = vec![run(0), run(1)];
        let address = "docker inspect -f '{{.NetworkSettings.Networks.bench.IPAddress}}' c1";
        let address = shell(lab, hosts[1], address);
        Some(Self {
            _daemons: daemons,
            hosts,
            containers,
            address,
        })
    }

    /// Starts a service of one task on the second host, with a virtual IP.
    pub fn service(&self, lab: &Lab) -> Service {
        let options = "--no-resolve-image --constraint node.role==worker --network bench";
        let create = format!(
            "docker service create -q --name web {options} busybox /bin/busybox sleep 1000000"
        );
        shell(lab, self.hosts[0], &create);
        let vip = "docker service inspect -f '{{range .Endpoint.VirtualIPs}}{{.Addr}}{{end}}' web \
                   | cut -d/ -f1";
        let found = |format: &str| {
            let own = "$(docker ps -q --filter label=com.docker.swarm.service.name=web)";
            shell(
                lab,
                self.hosts[1],
                &format!("docker inspect -f '{{{{{format}}}}}' {own}"),
            )
        };
        let process = found(".State.Pid");
        Service {
            inside: inside(&process),
            task: found(".NetworkSettings.Networks.bench.IPAddress"),
            vip: shell(lab, self.hosts[0], vip),
        }
    }

    /// The words that take a program into a container's network namespace.
    pub fn inside(&self, index: usize) -> Vec<String> {
        inside(&self.containers[index])
    }
}

/// A service of one task.
pub struct Service {
    /// The words that take a program into the task's network namespace.
    pub inside: Vec<String>,
    /// The task's address.
    pub task: String,
    /// The service's.
    pub vip: String,
}

fn inside(process: &str) -> Vec<String> {
    vec![
        "nsenter".to_owned(),
        format!("--net=/proc/{process}/ns/net"),
    ]
}

/// On a port of its own: the hosts' netd has Swarm's.
fn swarm(lab: &Lab, hosts: [&str; 2]) {
    let own = "$(ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1)";
    let listen = format!("--listen-addr 0.0.0.0:2378 --advertise-addr {own}");
    shell(lab, hosts[0], &format!("docker swarm init {listen}:2378"));
    let token = shell(lab, hosts[0], "docker swarm join-token -q worker");
    let manager = shell(lab, hosts[0], &format!("echo {own}:2378"));
    shell(
        lab,
        hosts[1],
        &format!("docker swarm join {listen} --token {token} {manager}"),
    );
    shell(
        lab,
        hosts[0],
        "docker network create -d overlay --attachable bench",
    );
}
