//! Power on, power cut, and the death of netd alone.

use std::{
    fs,
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use model::{Kind, Refusal};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};

use super::{
    HostName,
    binary::{self, Binary},
    cable, cgroup,
    host::{self, NETD_PID},
    place::Place,
    processes::{self, Part, Process},
    roster,
};
use crate::daemon::Daemon;

/// How long a host's netd may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed netd may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// How long a netd that has ended may take to be started again.
const RESTART_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Cuts a host's power. The cable goes first, because a machine without power sends no FIN or RST.
pub(crate) fn kill(place: &Place, host: HostName) -> Result<()> {
    let _lock = place.lock()?;
    place.expect(host)?;
    let Some(process) = processes::find(&place.lab, Part::Host(host))? else {
        return crate::output::print(&format!("{host} is off already"));
    };
    if let Some(switch) = processes::find(&place.lab, Part::Switch)? {
        cable::unplug(&switch.network()?, host)?;
    }
    processes::end(&[process])?;
    cgroup::remove(&place.lab, Some(host))?;
    crate::output::print(&format!("{host} is off"))
}

/// Powers a host on and waits until its netd answers.
pub(crate) fn start(place: &Place, host: HostName) -> Result<()> {
    let _lock = place.lock()?;
    place.expect(host)?;
    if processes::find(&place.lab, Part::Host(host))?.is_some() {
        return crate::output::print(&format!("{host} is on already"));
    }
    boot(place, host)?;
    answer(place, host)?;
    crate::output::print(&format!("{host} is on: {}", host.v4()))
}

/// Waits until a host's netd answers.
fn answer(place: &Place, host: HostName) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(daemon(place, host)).map(|_| ())
}

/// Kill -9 of a host's netd. The host's first process starts it again.
pub(crate) fn crash(place: &Place, host: HostName) -> Result<()> {
    let process = running(place, host)?;
    let start = Instant::now();
    let netd = loop {
        match netd(&process) {
            // It may be starting again after another crash.
            Err(_) if start.elapsed() < RESTART_LIMIT => std::thread::sleep(PAUSE),
            found => break found?,
        }
    };
    end(&process, host, netd, Signal::SIGKILL)?;
    crate::output::print(&format!("netd of {host} has been killed; it starts again"))
}

/// Gives a host another netd, as an upgrade of its package does, and starts that in place of the
/// running one as `systemctl restart` does. A host that is off runs it once it is on.
pub(crate) fn upgrade(place: &Place, host: HostName, netd: &Path) -> Result<()> {
    let binary = Binary::at(netd)?;
    let _lock = place.lock()?;
    place.expect(host)?;
    let path = binary.path().display();
    let Some(process) = processes::find(&place.lab, Part::Host(host))? else {
        binary::give(place, host, &binary)?;
        return crate::output::print(&format!("{host} is off: it runs {path} once it is on"));
    };
    // None where the one that it has now does not stay up.
    let before = self::netd(&process).ok();
    binary::give(place, host, &binary)?;
    if let Some(before) = before {
        end(&process, host, before, Signal::SIGTERM)?;
    }
    until_it_runs(place, host, &process)?;
    answer(place, host)?;
    crate::output::print(&format!("{host} runs {path}"))
}

/// Ends a host's netd and waits until it is gone. The host's first process starts it again.
fn end(process: &Process, host: HostName, pid: i32, signal: Signal) -> Result<()> {
    match send(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).with_context(|| format!("ending netd of {host}")),
    }
    let start = Instant::now();
    // Its id inside the host is new once it has been started again.
    while netd(process).is_ok_and(|now| now == pid) {
        if start.elapsed() > GONE_LIMIT {
            bail!(
                "netd of {host} has not ended within {} s of {signal}",
                GONE_LIMIT.as_secs()
            );
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Waits until a host runs the netd that was given to it. The first process may just have started
/// the one before once more: that one is ended, too.
fn until_it_runs(place: &Place, host: HostName, process: &Process) -> Result<()> {
    let start = Instant::now();
    loop {
        if let Ok(pid) = netd(process) {
            if binary::is_run_by(place, host, pid) {
                return Ok(());
            }
            end(process, host, pid, Signal::SIGTERM)?;
        }
        if start.elapsed() > RESTART_LIMIT {
            bail!(
                "the new netd of {host} does not run\n{}",
                roster::tail(place, host)
            );
        }
        std::thread::sleep(PAUSE);
    }
}

/// Boots a host; its netd may not answer yet.
pub(crate) fn boot(place: &Place, host: HostName) -> Result<()> {
    let path = place.log(host);
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .with_context(|| format!("making the way to {}", path.display()))?;
    for disk in [
        place.disk(host),
        place.inner_disks(host),
        place.own_binaries(host),
    ] {
        fs::create_dir_all(&disk).with_context(|| format!("making {}", disk.display()))?;
    }
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let status =
        host::spawn(&place.lab, Part::Boot(host), &log, log.try_clone()?.into())?.wait()?;
    if status.success() {
        Ok(())
    } else {
        bail!(
            "{host} does not boot ({status})\n{}",
            roster::tail(place, host)
        )
    }
}

/// A host's netd, once it answers.
pub(crate) async fn daemon(place: &Place, host: HostName) -> Result<Daemon> {
    let process = running(place, host)?;
    // The way through its root leads to its own /run, whatever namespaces this process is in.
    let socket = process
        .file("root")
        .join(api::SOCKET.trim_start_matches('/'));
    let start = Instant::now();
    loop {
        if let Ok(daemon) = Daemon::connect(&socket).await
            && daemon.status().await.is_ok()
        {
            return Ok(daemon);
        }
        if start.elapsed() > ANSWER_LIMIT || !process.is_alive() {
            bail!(
                "netd of {host} does not answer\n{}",
                roster::tail(place, host)
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The first process of a host that is on.
pub(crate) fn running(place: &Place, host: HostName) -> Result<Process> {
    place.expect(host)?;
    processes::find(&place.lab, Part::Host(host))?.ok_or_else(|| {
        let next = format!("`swarmctl lab start --name {} {host}`", place.lab);
        Refusal::new(Kind::Precondition, format!("{host} is off"), next).into()
    })
}

/// The process id of a host's netd as seen from here: the child of its first process that has the
/// inner id which the host wrote down. Tasks that were orphaned are its children too, and may be as
/// deep or deeper.
fn netd(process: &Process) -> Result<i32> {
    let path = process.file("root").join(NETD_PID);
    let inner: i32 = fs::read_to_string(&path)
        .with_context(|| format!("reading {}", path.display()))?
        .trim()
        .parse()?;
    let children = process.file(&format!("task/{}/children", process.pid));
    let children =
        fs::read_to_string(&children).with_context(|| format!("reading {}", children.display()))?;
    let depth = processes::namespaced_pids(&process.pid.to_string()).map_or(0, |pids| pids.len());
    let is_netd = |pid: &&str| {
        processes::namespaced_pids(pid)
            .is_some_and(|pids| pids.len() == depth && pids.last() == Some(&inner))
    };
    let found = children
        .split_whitespace()
        .find(is_netd)
        .and_then(|pid| pid.parse().ok());
    found.context("netd does not run: `swarmctl lab logs` says why")
}
