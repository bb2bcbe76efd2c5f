//! Attackers without a certificate, and what they cost the hosts that they attack.

use std::{
    fmt,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use crate::{Lab, Said, cni::ended, run};

/// The program; its head says what it can do.
const ATTACKER: &str = include_str!("attack.py");

/// An attack that is under way.
pub struct Attack {
    what: String,
    child: Child,
}

impl Attack {
    /// Begins on a host, against the control plane of these addresses. Words are split at spaces.
    pub fn begin(lab: &Lab, from: &str, what: &str, at: &[&str]) -> Self {
        let words: Vec<&str> = ["python3", "-c", ATTACKER]
            .into_iter()
            .chain(what.split_whitespace())
            .chain(at.iter().copied())
            .collect();
        let mut command = lab.command(from, &words);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self {
            what: what.to_owned(),
            child: command.spawn().expect("python3 runs"),
        }
    }

    /// Waits until it ends; what it says of itself.
    #[track_caller]
    pub fn end(self) -> String {
        let what = self.what;
        let said = ended(self.child).ok();
        format!("{what}: {}", said.trim())
    }
}

/// What a host's netd has taken of its host.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Bytes of its log.
    pub log: u64,
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            memory,
            descriptors,
            log,
        } = self;
        write!(
            out,
            "RSS {memory} KiB, {descriptors} descriptors, log {log} bytes"
        )
    }
}

/// What the netd of this host has taken.
#[track_caller]
pub fn cost(lab: &Lab, host: &str) -> Cost {
    let script = "pid=$(cat /run/netd.pid); awk '/^VmRSS/ {print $2}' /proc/$pid/status; \
                  ls /proc/$pid/fd | wc -l";
    let said = lab.exec(host, &["sh", "-c", script]).ok();
    let mut numbers = said.lines().map(|line| line.trim().parse());
    let mut number = || numbers.next().expect("a line").expect("a number");
    let log = run(lab.verb("logs").arg(host)).ok().len() as u64;
    Cost {
        memory: number(),
        descriptors: number(),
        log,
    }
}

/// How long a host takes to create a service whose task runs; it is removed again.
#[track_caller]
pub fn create(lab: &Lab, host: &str) -> Duration {
    let start = Instant::now();
    let said: Said = lab.ctl(host, "service create --name probe -- sleep infinity");
    let took = start.elapsed();
    said.ok();
    lab.ctl(host, "service rm probe").ok();
    took
}
