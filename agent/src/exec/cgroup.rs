//! Cgroups of tasks: `<netd's own cgroup>/netd-tasks/<task id>`. Under systemd the unit has
//! `Delegate=yes` and `KillMode=process`, so what is below its cgroup outlives the daemon. Each
//! task's own path in the version 2 hierarchy is kept in its directory: a daemon that starts in
//! another cgroup still finds it. Where version 1 has the controller that limits the number of
//! processes, as on hybrid hosts, the task has a cgroup of that name there, too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::executor::Stats;

const ALL_TASKS: &str = "netd-tasks";
/// The controller that limits the number of processes and threads.
const PIDS: &str = "pids";
/// How many of these a task may have: more than most need, and not enough to use up the host's
/// (32,768 process ids by default).
const PROCESSES: &str = "4096";

/// The cgroup of all tasks, made where missing; `None` without a version 2 hierarchy that can be
/// written.
pub(crate) fn of_all_tasks() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let netd = below(&mount_point(&mounts)?, &own, "0::")?;
    let all = netd.join(ALL_TASKS);
    fs::create_dir_all(&all).ok()?;
    for cgroup in [&netd, &all] {
        // Refused where version 1 has it, or where the host did not delegate it.
        let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{PIDS}"));
    }
    Some(all)
}

/// The cgroup of version 1 that counts the processes of a task which the calling process starts or
/// has started, if the host has such.
pub(crate) fn counter(task: &str) -> Option<PathBuf> {
    Some(counter_of("self")?.join(ALL_TASKS).join(task))
}

/// Where a process (its id, or `self`) is counted by version 1.
pub(crate) fn counter_of(process: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    counter_in(&mounts, &own)
}

fn counter_in(mounts: &str, own: &str) -> Option<PathBuf> {
    let is_counter = |line: &&str| {
        line.split_once(" - ").is_some_and(|(_, rest)| {
            let options = rest.rsplit(' ').next().unwrap_or_default();
            rest.starts_with("cgroup ") && options.split(',').any(|option| option == PIDS)
        })
    };
    let mount = root_of(mounts.lines().find(is_counter)?)?;
    let prefix = own.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, _) = rest.split_once(':')?;
        let counts = controllers.split(',').any(|controller| controller == PIDS);
        counts.then(|| format!("{number}:{controllers}:"))
    })?;
    below(&mount, own, &prefix)
}

/// Puts the calling process into the cgroup, made where missing, with its limit where it can have
/// one.
pub(crate) fn enter(cgroup: &Path) -> io::Result<()> {
    fs::create_dir_all(cgroup)?;
    let limit = cgroup.join("pids.max");
    if limit.exists() {
        fs::write(limit, PROCESSES)?;
    }
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Sends SIGKILL to all inside (`cgroup.kill`, Linux 5.14). Where that is missing, the end of the
/// PID namespace's process 1 does the same.
pub(crate) fn kill(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
}

/// What is used inside (cgroup-v2.rst of the kernel). `None` where the controllers are not enabled.
pub(crate) fn stats(cgroup: &Path) -> Option<Stats> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse().ok();
    let usage = read("cpu.stat")?;
    let microseconds = usage
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Stats {
        cpu: Duration::from_micros(microseconds.parse().ok()?),
        memory: number("memory.current")?,
        processes: number("pids.current")?,
    })
}

/// Removes the cgroup and those that the task made below. Not there is fine. Errors: something
/// still runs in it.
pub(crate) fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Where the version 2 hierarchy is mounted, from mountinfo (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| {
        line.split_once(" - ")
            .is_some_and(|(_, rest)| rest.starts_with("cgroup2 "))
    })?;
    root_of(line)
}

/// The mount point of this line of mountinfo. Only a mount of the hierarchy's root makes the paths
/// of /proc/self/cgroup mean what they say.
fn root_of(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(' ').skip(3);
    (fields.next()? == "/").then(|| fields.next().map(PathBuf::from))?
}

/// The cgroup that the line of `own` (proc_pid_cgroup(5)) with this prefix names.
fn below(mount: &Path, own: &str, prefix: &str) -> Option<PathBuf> {
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix(prefix)?.strip_prefix('/'))?;
    Some(if path.starts_with("..") {
        mount.to_owned()
    } else {
        mount.join(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_version_1() {
        let mounts = "38 31 0:35 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 \
                      cgroup2 rw\n";
        let mount = mount_point(mounts).unwrap();
        assert_eq!(mount, Path::new("/sys/fs/cgroup/unified"));
        let own = "8:pids:/x\n0::/system.slice/netd.service\n";
        assert_eq!(
            below(&mount, own, "0::"),
            Some(mount.join("system.slice/netd.service"))
        );
        assert_eq!(
            mount_point("38 31 0:35 / /sys/fs/cgroup rw - cgroup cgroup rw,pids\n"),
            None
        );
    }

    #[test]
    fn the_counter_of_version_1_is_found_beside_others() {
        let mounts = "38 31 0:35 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,misc,pids\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/s\n8:misc,pids:/system.slice/netd.service\n1:cpu:/c\n0::/u\n";
        let expected = "/sys/fs/cgroup/pids/system.slice/netd.service";
        assert_eq!(counter_in(mounts, own), Some(expected.into()));
        assert_eq!(counter_in(mounts, "0::/u\n"), None);
    }
}
