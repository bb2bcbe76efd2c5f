//! Docker Engine on hosts of a lab (Debian package docker.io), with an image `busybox` of one
//! static binary: there is no registry. Engines are those of several releases of Debian.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use serde_json::Value;

use crate::{Lab, PATIENCE, Said, eventually, holds, within};

/// The command line of the package that the daemon is of, whatever else is installed.
pub const DOCKER: &str = "/usr/bin/docker";
/// What a container does that is only there.
pub const SLEEP: &str = "busybox /bin/busybox sleep 1000000";
/// Makes a network of the engine, to be completed.
pub const ATTACH: &str = "network create -d netd --ipam-driver netd";
/// Those of `my-net`.
pub const SUBNETS: &str = "--subnet 10.0.9.0/24 --subnet fd00:9::/64";
/// Everything of its own is on the host's disk and in its /run.
const START: &str = "exec dockerd --data-root /var/lib/netd/engine --exec-root /run/docker \
                     --pidfile /run/docker.pid -H unix:///run/docker.sock $DOCKERD_OPTIONS \
                     >>/run/dockerd.log 2>&1";
const IMAGE: &str = "docker image inspect busybox >/dev/null 2>&1 && exit; \
     d=$(mktemp -d); mkdir $d/bin; cp /bin/busybox $d/bin; tar -C $d -c . | docker import - \
     busybox; rm -r $d";

/// The variable that names the generation of a whole run of tests.
const ENGINE: &str = "ENGINE";

/// A release of Debian, and its engine with all that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// What is installed on this machine.
    Bookworm,
    /// In a root made by `tests/engines/root`.
    Trixie,
    /// As [`Self::Trixie`].
    Sid,
}

impl Generation {
    /// Every one, the oldest first.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Sid];

    /// The one that the variable `ENGINE` names, as targets of the Makefile set it.
    pub fn asked() -> Self {
        let Ok(name) = std::env::var(ENGINE) else {
            return Self::Bookworm;
        };
        let found = Self::ALL.into_iter().find(|known| known.suite() == name);
        found.unwrap_or_else(|| panic!("{ENGINE}={name}: give bookworm, trixie or sid"))
    }

    /// The name of the release.
    pub fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// The root that has it, where that is not this machine's; made if there is none yet.
    pub fn root(self) -> Option<PathBuf> {
        if self == Self::Bookworm {
            return None;
        }
        let root = crate::run(Command::new(script("root")).arg(self.suite())).ok();
        Some(PathBuf::from(root.trim_end()))
    }

    /// That root where it has been made.
    pub fn made(self) -> Option<PathBuf> {
        let made = crate::run(Command::new(script("root")).args(["--made", self.suite()]));
        (made.code == 0).then(|| PathBuf::from(made.out.trim_end()))
    }

    /// From now on, and until its power is off, the host's engine is of this generation, and its
    /// Podman, where the root has one.
    #[track_caller]
    pub fn lay(self, lab: &Lab, host: &str) {
        if let Some(root) = self.root() {
            let words = [script("lay"), root].map(|path| path.display().to_string());
            lab.exec(host, &[&words[0], &words[1]]).ok();
        }
    }
}

/// One of the scripts that make and enter roots.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("engines")
        .join(name)
}

/// A daemon; it ends when dropped, and what it started with the lab.
pub struct Docker(Child);

impl Docker {
    /// Whether there is a daemon to be started.
    pub fn is_installed() -> bool {
        Path::new("/usr/sbin/dockerd").exists()
    }

    /// Starts the daemon of a host, of the generation asked for, and waits until it answers;
    /// `before` are words in front of its command, such as `env DOCKERD_OPTIONS=--live-restore`.
    #[track_caller]
    pub fn start(lab: &Lab, host: &str, before: &[&str]) -> Self {
        let daemon = Self::spawn(lab, host, before);
        answers(lab, host);
        daemon
    }

    /// As [`Self::start`], of this generation.
    #[track_caller]
    pub fn of(generation: Generation, lab: &Lab, host: &str) -> Self {
        let daemon = Self::launch(generation, lab, host, &[]);
        answers(lab, host);
        daemon
    }

    /// As [`Self::start`], without waiting for anything.
    #[track_caller]
    pub fn spawn(lab: &Lab, host: &str, before: &[&str]) -> Self {
        Self::launch(Generation::asked(), lab, host, before)
    }

    #[track_caller]
    fn launch(generation: Generation, lab: &Lab, host: &str, before: &[&str]) -> Self {
        generation.lay(lab, host);
        let words: Vec<&str> = before.iter().copied().chain(["sh", "-c", START]).collect();
        Self(lab.command(host, &words).spawn().expect("dockerd starts"))
    }

    /// What ends when it does.
    pub fn process(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// Waits until the daemon of a host answers, and gives it its image.
#[track_caller]
pub fn answers(lab: &Lab, host: &str) {
    eventually("dockerd answers", || {
        let said = lab.exec(host, &["docker", "version"]);
        let log = || lab.exec(host, &["tail", "-n", "3", "/run/dockerd.log"]).out;
        holds(said.code == 0, &said).map_err(|seen| seen + &log())
    });
    lab.exec(host, &["sh", "-ec", IMAGE]).ok();
}

/// Kills the daemon of a host, and nothing that it started.
#[track_caller]
pub fn kill(lab: &Lab, host: &str) {
    let kill = "pid=$(cat /run/docker.pid); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep \
                .05; done; rm /run/docker.pid";
    lab.exec(host, &["sh", "-c", kill]).ok();
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The words that start a container on `my-net` that answers HTTP with its name.
pub fn serving(name: &str, options: &[&str]) -> Vec<String> {
    // The image has a shell only as one of busybox's words, and health checks want `/bin/sh`.
    let serve = format!(
        "cd /bin; ln -s busybox sh; mkdir /www; echo {name} >/www/index.html; exec httpd -f -p 80 \
         -h /www"
    );
    let words = [DOCKER, "run", "-d", "--name", name, "--network", "my-net"];
    let program = ["busybox", "/bin/busybox", "sh", "-c", serve.as_str()];
    [&words[..], options, &program]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// A lab with an engine on every host.
pub struct Engines {
    // They end before their hosts do.
    _daemons: Vec<Docker>,
    /// The lab.
    pub lab: Lab,
}

impl Engines {
    /// Engines on this many hosts, of the generation asked for.
    pub fn up(hosts: u32) -> Self {
        Self::of(&(0..hosts).map(|_| Generation::asked()).collect::<Vec<_>>())
    }

    /// One engine of each of these generations, the first on `h1`.
    pub fn of(generations: &[Generation]) -> Self {
        let lab = Lab::up(u32::try_from(generations.len()).expect("a few"));
        let daemons = generations.iter().zip(1..);
        let _daemons = daemons
            .map(|(&generation, number)| Docker::of(generation, &lab, &format!("h{number}")))
            .collect();
        Self { _daemons, lab }
    }

    /// One with the network `my-net` of the cluster on every engine.
    pub fn on_my_net(hosts: u32) -> Self {
        let engines = Self::up(hosts);
        engines
            .lab
            .ctl(
                "h1",
                &format!("network create --attachable {SUBNETS} my-net"),
            )
            .ok();
        for host in 1..=hosts {
            let line = format!("{ATTACH} -o netd.network=my-net --ipv6 {SUBNETS} my-net");
            engines.docker(&format!("h{host}"), &line).ok();
        }
        engines
    }

    /// Runs `docker` on a host; words are split at spaces.
    pub fn docker(&self, host: &str, line: &str) -> Said {
        let words: Vec<&str> = std::iter::once(DOCKER)
            .chain(line.split_whitespace())
            .collect();
        self.lab.exec(host, &words)
    }

    /// Runs a command of busybox inside a container.
    pub fn inside(&self, host: &str, container: &str, line: &str) -> Said {
        self.docker(host, &format!("exec {container} /bin/busybox {line}"))
    }

    /// A container on `my-net` that answers HTTP with its name.
    pub fn serve(&self, host: &str, name: &str, options: &[&str]) -> Said {
        let words = serving(name, options);
        self.lab
            .exec(host, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A container reaches somebody, at once.
    #[track_caller]
    pub fn reaches(&self, host: &str, container: &str, whom: &str) {
        self.inside(host, container, &format!("ping -c 1 -W 5 {whom}"))
            .ok();
    }

    /// Once the cluster knows of what has just been said or started.
    #[track_caller]
    pub fn reaches_soon(&self, host: &str, container: &str, whom: &str) {
        eventually(&format!("{container} reaches {whom}"), || {
            let said = self.inside(host, container, &format!("ping -c 1 -W 2 {whom}"));
            holds(said.code == 0, said)
        });
    }

    /// Whom a host, its engine and its containers from now on ask for names.
    #[track_caller]
    pub fn asks(&self, host: &str, resolver: &str) {
        let line = format!(
            "echo nameserver {resolver} >/run/asked; mount --bind /run/asked /etc/resolv.conf"
        );
        self.lab.exec(host, &["sh", "-ec", &line]).ok();
    }

    /// The endpoints of a network, as the cluster tells.
    pub fn endpoints(&self, network: &str) -> Vec<Value> {
        let networks = self.lab.json("h1", &format!("network inspect {network}"));
        networks[0]["status"]["endpoints"]
            .as_array()
            .expect("endpoints")
            .clone()
    }

    /// The addresses of a container on a network, as the engine tells.
    pub fn addresses(&self, host: &str, container: &str, network: &str) -> Vec<String> {
        let text = self.docker(host, &format!("inspect {container}")).ok();
        let inspected: Value = serde_json::from_str(&text).expect("JSON");
        let endpoint = &inspected[0]["NetworkSettings"]["Networks"][network];
        let text = |key: &str| endpoint[key].as_str().expect("an address").to_owned();
        [text("IPAddress"), text("GlobalIPv6Address")]
            .into_iter()
            .filter(|address| !address.is_empty())
            .collect()
    }

    /// The ledger and the cluster's idea of a network are what the engines have: these containers
    /// and no others.
    #[track_caller]
    pub fn is_clean(&self, network: &str, containers: &[(&str, &str)]) {
        let known: BTreeSet<String> = containers
            .iter()
            .map(|(host, name)| format!("{name} on {host}"))
            .collect();
        // What an engine has forgotten to give back, because one of the two died, is believed lost
        // after a minute.
        within(
            3 * PATIENCE,
            "the cluster has what the engines have",
            || {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let endpoints = self.endpoints(network);
                let docker = endpoints
                    .iter()
                    .filter(|endpoint| endpoint["kind"] == "docker");
                let found: Vec<String> = docker
                    .map(|found| format!("{} on {}", text(&found["name"]), text(&found["node"])))
                    .collect();
                holds(
                    found.len() == known.len()
                        && found.iter().cloned().collect::<BTreeSet<_>>() == known,
                    &found,
                )
            },
        );
        self.lab.ctl("h1", "ipam check").ok();
    }
}
