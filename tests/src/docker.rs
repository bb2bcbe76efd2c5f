//! Docker Engine on hosts of a lab (Debian package docker.io), with an image `busybox` of one static binary: there is no
//! registry.

use std::{path::Path, process::Child};

use crate::{Lab, eventually, holds};

/// Everything of its own is on the host's disk and in its /run.
const START: &str = "exec dockerd --data-root /var/lib/netd/engine --exec-root /run/docker --pidfile /run/docker.pid \
                     -H unix:///run/docker.sock $DOCKERD_OPTIONS >>/run/dockerd.log 2>&1";
const IMAGE: &str =
    "d=$(mktemp -d); mkdir $d/bin; cp /bin/busybox $d/bin; tar -C $d -c . | docker import - busybox; rm -r $d";

/// A daemon; it ends when dropped, and what it started with the lab.
pub struct Docker(Child);

impl Docker {
    /// Whether there is a daemon to be started.
    pub fn is_installed() -> bool {
        Path::new("/usr/sbin/dockerd").exists()
    }

    /// Starts the daemon of a host and waits until it answers; `before` are words in front of its command, such as
    /// `env DOCKERD_OPTIONS=--live-restore`.
    #[track_caller]
    pub fn start(lab: &Lab, host: &str, before: &[&str]) -> Self {
        let words: Vec<&str> = before.iter().copied().chain(["sh", "-c", START]).collect();
        let daemon = Self(lab.command(host, &words).spawn().expect("dockerd starts"));
        eventually("dockerd answers", || {
            let said = lab.exec(host, &["docker", "version"]);
            let log = || lab.exec(host, &["tail", "-n", "3", "/run/dockerd.log"]).out;
            holds(said.code == 0, &said).map_err(|seen| seen + &log())
        });
        lab.exec(host, &["sh", "-ec", IMAGE]).ok();
        daemon
    }
}

/// Kills the daemon of a host, and nothing that it started.
#[track_caller]
pub fn kill(lab: &Lab, host: &str) {
    let kill = "pid=$(cat /run/docker.pid); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep .05; done; rm /run/docker.pid";
    lab.exec(host, &["sh", "-c", kill]).ok();
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
