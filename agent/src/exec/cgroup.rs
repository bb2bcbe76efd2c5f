//! Cgroups of tasks, version 2 only: `<netd's own cgroup>/netd-tasks/<task id>`. Under systemd the
//! unit has `Delegate=yes` and `KillMode=process`, so what is below its cgroup outlives the daemon.
//! Each task's own path is kept in its directory: a daemon that starts in another cgroup still
//! finds it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::executor::Stats;

const ALL_TASKS: &str = "netd-tasks";

/// The cgroup of all tasks, made where missing; `None` without a version 2 hierarchy that can be
/// written.
pub(crate) fn of_all_tasks() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let all = below(&mount_point(&mounts)?, &own)?.join(ALL_TASKS);
    fs::create_dir_all(&all).ok()?;
    Some(all)
}

/// Puts the calling process into the cgroup, made where missing.
pub(crate) fn enter(cgroup: &Path) -> io::Result<()> {
    fs::create_dir_all(cgroup)?;
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
    let mut fields = line.split(' ').skip(3);
    // Only a mount of the hierarchy's root makes the paths of /proc/self/cgroup mean what they say.
    (fields.next()? == "/").then(|| fields.next().map(PathBuf::from))?
}

fn below(mount: &Path, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
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
            below(&mount, own),
            Some(mount.join("system.slice/netd.service"))
        );
        assert_eq!(
            mount_point("38 31 0:35 / /sys/fs/cgroup rw - cgroup cgroup rw,pids\n"),
            None
        );
    }
}
