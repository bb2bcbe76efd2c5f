//! A host: its namespaces, its mounts, and its first process, which runs netd as systemd would.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use model::{Kind, Refusal};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, wait},
    unistd::{Pid, chdir, sethostname, setsid},
};

use super::{
    HostName, LabName, binary, cable, cgroup,
    place::{DISKS, Place},
    processes::{self, Part, Process},
};

/// Where the hosts' programs are looked for.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Inside a host: the process id of its netd.
pub(crate) const NETD_PID: &str = "run/netd.pid";
/// Where the lab's binaries show up.
const BINARIES: &str = "/usr/local/bin";
const STATE: &str = "/var/lib/netd";
/// Variables of the caller that netd gets to see.
const PASSED_ON: [&str; 2] = ["RUST_LOG", "RUST_BACKTRACE"];
/// Message of a part that is ready.
const READY: &[u8] = b"ready\n";
/// As systemd's RestartSec.
const RESTART_DELAY: Duration = Duration::from_millis(200);

/// Starts one of a lab's processes: this program again, detached from the caller, with its output
/// in `log`.
pub(crate) fn spawn(
    lab: &LabName,
    part: Part,
    log: &File,
    stdout: Stdio,
) -> Result<std::process::Child> {
    let passed_on = PASSED_ON
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut command = Command::new("/proc/self/exe");
    // The exact words by which `processes` finds it again.
    command
        .arg0("swarmctl")
        .args(processes::command_line(lab, part));
    command
        .env_clear()
        .env("PATH", PATH)
        .envs(passed_on)
        .current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(log.try_clone().context("opening a lab's log")?);
    command
        .spawn()
        .with_context(|| format!("starting {part:?} of lab {lab}"))
}

/// Starts a long-running part and waits for its ready message. Before that the part may not be
/// found by its command line, which the kernel sets some time after the fork.
pub(crate) fn spawn_ready(lab: &LabName, part: Part, log: &File) -> Result<()> {
    let mut stdout = spawn(lab, part, log, Stdio::piped())?
        .stdout
        .context("there is no pipe for its ready message")?;
    let mut word = vec![0; READY.len()];
    match stdout.read_exact(&mut word) {
        Ok(()) if word == READY => Ok(()),
        _ => bail!("{part:?} of lab {lab} does not start"),
    }
}

/// Tells that this part is there.
pub(crate) fn tell_ready() -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(READY)
        .and_then(|()| stdout.flush())
        .context("sending the ready message")
}

/// Builds a host around its first process, and leaves it to itself.
pub(crate) fn boot(lab: &LabName, host: HostName) -> Result<u8> {
    setsid().context("starting a session")?;
    let place = Place::of(lab.clone());
    let switch = processes::find(lab, Part::Switch)?
        .as_ref()
        .map(Process::network)
        .transpose()?
        .ok_or_else(|| {
            let next =
                format!("`swarmctl lab down --name {lab}`, then `swarmctl lab up --name {lab}`");
            Refusal::new(
                Kind::Precondition,
                format!("the switch of lab {lab} is gone"),
                next,
            )
        })?;
    let group = cgroup::create(lab, host);
    for group in [group.clone(), cgroup::create_counter(lab, host)]
        .into_iter()
        .flatten()
    {
        cgroup::enter(&group)?;
    }
    let own = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(own).context("making the host's namespaces")?;
    if let Some(group) = &group {
        settle(group)?;
    }
    cable::plug(&switch, &cable::current()?, host)?;
    sethostname(host.to_string()).context("setting the host's name")?;
    mounts(&place, host, group.as_deref())?;
    // Last, because a process that has done this can start no threads.
    unshare(CloneFlags::CLONE_NEWPID).context("making the host's PID namespace")?;
    let log = File::options()
        .append(true)
        .open("/proc/self/fd/2")
        .context("opening the host's log")?;
    spawn_ready(lab, Part::Host(host), &log)?;
    Ok(0)
}

/// A host's first process: runs netd, starts it again when it ends, and reaps whatever is orphaned.
pub(crate) fn host() -> Result<u8> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context("mounting /proc")?;
    chdir("/").context("changing to /")?;
    tell_ready()?;
    loop {
        let log = std::io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .context("opening the host's log")?;
        let mut command = Command::new(binary::NETD);
        command.stdin(Stdio::null()).stdout(log);
        match binary::lay().and_then(|()| Ok(command.spawn()?)) {
            Ok(netd) => {
                fs::write(Path::new("/").join(NETD_PID), netd.id().to_string())
                    .context("writing netd's process id")?;
                let end = wait_for(Pid::from_raw(netd.id().cast_signed()))?;
                eprintln!("lab: netd has ended, {end:?}: starting it again");
            }
            Err(error) => eprintln!("lab: netd does not start: {error:#}"),
        }
        std::thread::sleep(RESTART_DELAY);
    }
}

/// Reaps every child until this one.
fn wait_for(netd: Pid) -> Result<WaitStatus> {
    loop {
        let status = wait().context("waiting for processes")?;
        if status.pid() == Some(netd) {
            return Ok(status);
        }
    }
}

/// A group that delegates has no processes of its own: they live in `init`, as under systemd.
fn settle(group: &Path) -> Result<()> {
    let init = group.join("init");
    fs::create_dir_all(&init)
        .with_context(|| format!("making control group {}", init.display()))?;
    cgroup::enter(&init)?;
    group
        .parent()
        .into_iter()
        .chain([group])
        .for_each(cgroup::delegate);
    Ok(())
}

/// Mounts the directories that the host has for itself; it shares the rest with the machine.
fn mounts(place: &Place, host: HostName, group: Option<&Path>) -> Result<()> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("keeping the host's mounts to itself")?;
    let layers = format!("lowerdir={}:{BINARIES}", place.binaries().display());
    mount(
        Some("overlay"),
        BINARIES,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(layers.as_str()),
    )
    .with_context(|| format!("laying the lab's binaries over {BINARIES}"))?;
    // Opened while it can be reached: the lab's disks are covered by the host's.
    let own = place.own_binaries(host);
    let own = File::open(&own).with_context(|| format!("opening {}", own.display()))?;
    fs::create_dir_all(STATE).with_context(|| format!("making {STATE}"))?;
    bind(&place.disk(host), Path::new(STATE))?;
    bind(&place.inner_disks(host), Path::new(DISKS))?;
    sysfs(place, host, group)?;
    run()?;
    fs::create_dir(binary::OWN).with_context(|| format!("making {}", binary::OWN))?;
    bind(&descriptor(&own), Path::new(binary::OWN))
}

/// A path to what a descriptor is open for.
fn descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// /sys shows the interfaces of the namespace that it was mounted in; the control groups below it
/// stay where they were.
fn sysfs(place: &Place, host: HostName, group: Option<&Path>) -> Result<()> {
    let (groups, stash) = (
        Path::new("/sys/fs/cgroup"),
        place.runtime().join(host.to_string()).join("cgroup"),
    );
    let point = cgroup::mount_point();
    fs::create_dir_all(&stash).with_context(|| format!("making {}", stash.display()))?;
    bind(groups, &stash)?;
    mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mounting /sys")?;
    mount(
        Some(&stash),
        groups,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )
    .context("moving the control groups")?;
    if let Some(point) = point.filter(|_| group.is_some()) {
        // The kernel does not mount a file system right over itself.
        umount2(&point, MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {}", point.display()))?;
        mount(
            Some("cgroup2"),
            &point,
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting the host's control groups at {}", point.display()))?;
    }
    Ok(())
}

/// An empty /run; /etc/resolv.conf, which may lead there, is kept.
fn run() -> Result<()> {
    let resolver = fs::canonicalize("/etc/resolv.conf")
        .ok()
        .filter(|path| path.starts_with("/run"));
    let resolver: Option<(PathBuf, Vec<u8>)> =
        resolver.and_then(|path| fs::read(&path).ok().map(|text| (path, text)));
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .context("mounting /run")?;
    fs::create_dir_all("/run/lock").context("making /run/lock")?;
    if let Some((path, text)) = resolver {
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .with_context(|| format!("making the way to {}", path.display()))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .with_context(|| format!("binding {} to {}", from.display(), to.display()))
}
