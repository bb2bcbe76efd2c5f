//! A process's identity: a pid alone is used again, a pid with its start time and boot is not.

use std::{fs, io, sync::OnceLock};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// One process of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    boot: String,
    pid: i32,
    start: u64,
}

impl Process {
    /// The living process of this pid.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let start =
            start_time(pid).ok_or_else(|| io::Error::other(format!("process {pid} is gone")))?;
        Ok(Self {
            boot: boot().to_owned(),
            pid,
            start,
        })
    }

    /// Its pid, as this process sees it.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.pid)
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        self.of_this_boot() && start_time(self.pid) == Some(self.start)
    }

    /// Whether the host has not been restarted since it began.
    pub fn of_this_boot(&self) -> bool {
        self.boot == boot()
    }

    /// Sends a signal, if it is still there.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end at any time: that it is gone is no failure.
            let _ = kill(self.pid(), signal);
        }
    }
}

fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)), in clock ticks since boot; `None` for zombies and
/// no process.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold anything, even `)`.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_used_again_is_another_process() {
        let this = Process::of(std::process::id()).unwrap();
        let earlier = Process {
            start: this.start - 1,
            ..this.clone()
        };
        let other_boot = Process {
            boot: "x".to_owned(),
            ..this.clone()
        };
        assert!(this.is_alive() && !earlier.is_alive() && !other_boot.is_alive());
    }
}
