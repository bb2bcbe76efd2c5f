//! A lab's own processes, found by their command lines: whatever happened to the command that
//! started them.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{HostName, LabName};

/// How long killed processes may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Builds a host around its first process, and ends.
    Boot(HostName),
    /// A host's first process.
    Host(HostName),
    /// Holds the switch's network namespace.
    Switch,
}

/// One of a lab's own processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub pid: i32,
    /// The lab.
    pub lab: LabName,
    /// What it is for.
    pub part: Part,
    /// Clock ticks between the machine's start and its own: tells it from a later process with the
    /// same id.
    started: u64,
}

impl Process {
    /// A file of its /proc directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Its network namespace.
    pub(crate) fn network(&self) -> Result<File> {
        let path = self.file("ns/net");
        File::open(&path).with_context(|| format!("opening {}", path.display()))
    }

    /// Whether it lives. A first process ends after all others of its host have.
    pub(crate) fn is_alive(&self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }
}

/// Every lab's processes.
pub(crate) fn all() -> Result<Vec<Process>> {
    let depth = namespaced_pids("self")
        .context("reading /proc/self/status")?
        .len();
    let listing = fs::read_dir("/proc").context("reading /proc")?;
    let pids = listing
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(|pid| recognise(pid, depth)).collect())
}

/// This lab's processes.
pub(crate) fn of(lab: &LabName) -> Result<Vec<Process>> {
    Ok(all()?
        .into_iter()
        .filter(|process| process.lab == *lab)
        .collect())
}

/// The process of a part, if it runs.
pub(crate) fn find(lab: &LabName, part: Part) -> Result<Option<Process>> {
    Ok(of(lab)?.into_iter().find(|process| process.part == part))
}

/// Kills processes and waits until they are gone, with all that ran under them.
pub(crate) fn end(processes: &[Process]) -> Result<()> {
    for process in processes.iter().filter(|process| process.is_alive()) {
        match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("killing process {}", process.pid));
            }
        }
    }
    let start = Instant::now();
    while let Some(left) = processes.iter().find(|process| process.is_alive()) {
        if start.elapsed() > GONE_LIMIT {
            bail!(
                "process {} has not ended within {} s of SIGKILL",
                left.pid,
                GONE_LIMIT.as_secs()
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A lab's process has the exact command line that the lab gives it, and lies as deep in PID
/// namespaces as it should: those of a lab inside a lab's host, or inside a container, lie deeper
/// and are another one's. A child of a host's first process has its command line, too, until it has
/// loaded its own program.
fn recognise(pid: i32, depth: usize) -> Option<Process> {
    let (lab, part) = parse(&fs::read(format!("/proc/{pid}/cmdline")).ok()?)?;
    let (_, started) = stat(pid)?;
    let pids = namespaced_pids(&pid.to_string())?;
    let fits = match part {
        Part::Host(_) => pids.len() == depth + 1 && pids.last() == Some(&1),
        Part::Boot(_) | Part::Switch => pids.len() == depth,
    };
    fits.then_some(Process {
        pid,
        lab,
        part,
        started,
    })
}

fn parse(command_line: &[u8]) -> Option<(LabName, Part)> {
    let text = std::str::from_utf8(command_line).ok()?;
    let words: Vec<&str> = text.strip_suffix('\0')?.split('\0').collect();
    match words.as_slice() {
        ["swarmctl", "lab-switch", "--lab", lab] => Some((lab.parse().ok()?, Part::Switch)),
        ["swarmctl", "lab-boot", "--lab", lab, "--host", host] => {
            Some((lab.parse().ok()?, Part::Boot(host.parse().ok()?)))
        }
        ["swarmctl", "lab-host", "--lab", lab, "--host", host] => {
            Some((lab.parse().ok()?, Part::Host(host.parse().ok()?)))
        }
        _ => None,
    }
}

/// The command line of a part.
pub(crate) fn command_line(lab: &LabName, part: Part) -> Vec<String> {
    let words = |verb: &str| vec![verb.to_owned(), "--lab".to_owned(), lab.to_string()];
    let with_host = |verb: &str, host: HostName| {
        [words(verb), vec!["--host".to_owned(), host.to_string()]].concat()
    };
    match part {
        Part::Switch => words("lab-switch"),
        Part::Boot(host) => with_host("lab-boot", host),
        Part::Host(host) => with_host("lab-host", host),
    }
}

/// A process's ids, from our PID namespace down to its own.
pub(crate) fn namespaced_pids(pid: &str) -> Option<Vec<i32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace()
        .map(|pid| pid.parse().ok())
        .collect()
}

/// State and start time (proc(5): fields 3 and 22).
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may itself hold blanks and parentheses.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
    Some((
        fields.first()?.chars().next()?,
        fields.get(19)?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_labs_own_command_lines_are_recognised() {
        let lab: LabName = "lab".parse().unwrap();
        for part in [
            Part::Switch,
            Part::Boot(HostName::FIRST),
            Part::Host(HostName::FIRST),
        ] {
            let words = [vec!["swarmctl".to_owned()], command_line(&lab, part)]
                .concat()
                .join("\0")
                + "\0";
            assert_eq!(parse(words.as_bytes()), Some((lab.clone(), part)));
        }
        for other in [
            "grep\0swarmctl\0lab-host\0--lab\0lab\0--host\0h1\0",
            "swarmctl\0lab\0down\0--name\0lab\0",
            "swarmctl\0lab-host\0--lab\0lab\0--host\0h1\0more\0",
            "sh\0-c\0swarmctl lab-switch --lab lab\0",
            "",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_process_id_used_again_is_another_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let (_, started) = stat(pid).unwrap();
        let process = |started| Process {
            pid,
            lab: "lab".parse().unwrap(),
            part: Part::Switch,
            started,
        };
        assert!(process(started).is_alive());
        assert!(!process(started + 1).is_alive());
    }
}
