//! Runs a command as if on a host.

use std::{
    fs::File,
    io::ErrorKind,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::ExitStatus,
};

use anyhow::{Context, Result};
use model::{Kind, Refusal};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::{Pid, chdir},
};
use tokio::{
    process::{Child, Command},
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use super::{HostName, host::PATH, place::Place, power, processes::Process};

/// What shells answer for a command that is not there.
const NOT_FOUND: u8 = 127;

/// Runs the command with our streams; its exit code is ours, 128 + the signal's number where a
/// signal ended it.
pub(crate) fn exec(place: &Place, host: HostName, argv: &[String]) -> Result<u8> {
    enter(&power::running(place, host)?).with_context(|| format!("entering {host}"))?;
    let (program, arguments) = argv.split_first().context("there is no command to run")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut command = Command::new(program);
        // The caller's socket is not this host's.
        command
            .args(arguments)
            .env("PATH", PATH)
            .env_remove("NETD_SOCKET");
        match command.spawn() {
            Ok(child) => Ok(code(attend(child).await?)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let next = format!("it is looked for in {PATH}");
                eprintln!(
                    "Error: {}",
                    Refusal::new(
                        Kind::NotFound,
                        format!("there is no command {program:?} on {host}"),
                        next
                    )
                );
                Ok(NOT_FOUND)
            }
            Err(error) => Err(error).with_context(|| format!("running {program:?} on {host}")),
        }
    })
}

/// Takes this process, and the ones it starts, into a host's namespaces. It must have no other
/// threads.
fn enter(process: &Process) -> Result<()> {
    // All are opened before the first is entered: afterwards /proc may be another one.
    let names = ["cgroup", "ipc", "uts", "net", "pid", "mnt"];
    let open = |name| {
        File::open(process.file(&format!("ns/{name}")))
            .with_context(|| format!("opening its {name} namespace"))
    };
    let namespaces = names.iter().map(open).collect::<Result<Vec<_>>>()?;
    for (namespace, name) in namespaces.iter().zip(names) {
        setns(namespace.as_fd(), CloneFlags::empty())
            .with_context(|| format!("entering its {name} namespace"))?;
    }
    chdir("/").context("changing to /")
}

/// Waits for the command's end. Requests to end are passed on; what a terminal sends has reached
/// the command already.
async fn attend(mut child: Child) -> Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    loop {
        let passed_on = tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = terminate.recv() => Some(Signal::SIGTERM),
            _ = hang_up.recv() => Some(Signal::SIGHUP),
            _ = interrupt.recv() => None,
            _ = quit.recv() => None,
        };
        if let (Some(signal), Some(pid)) = (passed_on, child.id()) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}
