//! The control groups (v2) of a lab's hosts: `netd-lab-<lab>/<host>`. Without a writable v2
//! hierarchy there are none. Where v1 counts processes, a host has a group of that name there, too.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{HostName, LabName};

/// How long a group of killed processes may stay busy.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Where the v2 hierarchy is mounted.
pub(crate) fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let found = mounts.lines().find(|line| {
        line.split_once(" - ")
            .is_some_and(|(_, kind)| kind.starts_with("cgroup2 "))
    });
    found
        .and_then(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
}

/// Makes a host's group.
pub(crate) fn create(lab: &LabName, host: HostName) -> Option<PathBuf> {
    let group = below(mount_point()?, lab).join(host.to_string());
    fs::create_dir_all(&group).ok()?;
    Some(group)
}

/// Makes a host's group in the hierarchy of v1 that counts processes.
pub(crate) fn create_counter(lab: &LabName, host: HostName) -> Option<PathBuf> {
    let group = below(counter()?, lab).join(host.to_string());
    fs::create_dir_all(&group).ok()?;
    Some(group)
}

/// Where v1 counts processes.
fn counter() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let counts = |kind: &str| {
        let options = kind.rsplit(' ').next().unwrap_or_default();
        kind.starts_with("cgroup ") && options.split(',').any(|option| option == "pids")
    };
    let found = mounts
        .lines()
        .find(|line| line.split_once(" - ").is_some_and(|(_, kind)| counts(kind)));
    found
        .and_then(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
}

/// Moves this process into a group.
pub(crate) fn enter(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
        .with_context(|| format!("entering control group {}", group.display()))
}

/// Enables this group's controllers for the groups below; the kernel may refuse some.
pub(crate) fn delegate(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// Kills what is in a host's groups, or in all of a lab's, and removes them.
pub(crate) fn remove(lab: &LabName, host: Option<HostName>) -> Result<()> {
    let hierarchies = [mount_point(), counter()];
    for lab in hierarchies
        .into_iter()
        .flatten()
        .map(|root| below(root, lab))
    {
        let group = host.map_or(lab.clone(), |host| lab.join(host.to_string()));
        if !group.exists() {
            continue;
        }
        // Kernels before 5.14 have no such file; the processes are gone with their PID namespace
        // anyway.
        let _ = fs::write(group.join("cgroup.kill"), "1");
        remove_below(&group, Instant::now() + BUSY_LIMIT)
            .with_context(|| format!("removing control group {}", group.display()))?;
    }
    Ok(())
}

fn below(hierarchy: PathBuf, lab: &LabName) -> PathBuf {
    hierarchy.join(format!("netd-lab-{lab}"))
}

fn remove_below(group: &Path, deadline: Instant) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path(), deadline)?;
        }
    }
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(PAUSE)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}
