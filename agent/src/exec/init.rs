//! `task-init DIR PROGRAM`: process 1 of a task. Gives the task its root and host name, gives up
//! what a task may not do, starts the main process, then passes signals on, reaps, writes the log,
//! and at last says how the main process ended. Its own end takes all that is left of the task
//! along.

use std::{
    ffi::OsString,
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use model::Runtime;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, sethostname},
};

use super::{
    confine,
    directory::{Handle, TaskDirectory},
    error::{Doing, TaskError},
    log::{LogWriter, pump},
    root,
    spec::LaunchSpec,
};
use crate::executor::{End, Source};

/// Runs the stage. How it went is written into the task's directory.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let [path, program] = arguments else {
        return ExitCode::from(2);
    };
    let directory = TaskDirectory::at(Path::new(path));
    if io::stdin().read_exact(&mut [0]).is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(handle) = directory.handle().map(Arc::new) else {
        return ExitCode::FAILURE;
    };
    // Read now: the task's root hides the directory's path.
    let level = directory.level();
    let end = run(&directory, &handle, Path::new(program))
        .unwrap_or_else(|error| End::Rejected { why: error.into() });
    match handle.record_end(&end, level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(directory: &TaskDirectory, handle: &Arc<Handle>, program: &Path) -> Result<End, TaskError> {
    let spec = directory
        .spec()
        .doing(|| format!("read {}", directory.path().display()))?;
    sethostname(&spec.hostname).doing(|| format!("set the host name {:?}", spec.hostname))?;
    root::enter(directory.path(), &spec, program)?;
    confine::confine()?;
    // The handle leads out of the task's root: without this the task could open it by /proc/1/fd.
    prctl::set_dumpable(false).doing(|| "close /proc/1 to the task".to_owned())?;
    let child = match start(&spec) {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&spec, &error)),
    };
    supervise(child, handle)
}

fn start(spec: &LaunchSpec) -> io::Result<Child> {
    let (program, arguments) = spec.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&spec.env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Exit codes as a shell gives them: 127 where there is no such program, 126 where it cannot be
/// run.
fn not_started(spec: &LaunchSpec, error: &io::Error) -> End {
    let program = spec.argv.first().map_or("", String::as_str);
    let code = if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    let minimal = spec.rootfs.as_deref() == Some(Path::new(Runtime::MINIMAL_ROOT));
    let hint = match code {
        127 if minimal => ": it is not in the minimal root; `--rootfs host` shows the host's files",
        _ => "",
    };
    End::Exited {
        code,
        message: format!("cannot run {program:?}: {error}{hint}"),
    }
}

fn supervise(mut child: Child, handle: &Arc<Handle>) -> Result<End, TaskError> {
    let main = Pid::from_raw(child.id().cast_signed());
    // Blocked only now, because a child inherits the mask; before the threads, because they must.
    let signals = SigSet::all();
    signals
        .thread_block()
        .doing(|| "block signals".to_owned())?;
    let log = LogWriter::open(handle.clone()).doing(|| "open the task's log".to_owned())?;
    let log = Arc::new(Mutex::new(log));
    let pumps = [
        child
            .stdout
            .take()
            .map(|pipe| spawn_pump(pipe, Source::Stdout, &log)),
        child
            .stderr
            .take()
            .map(|pipe| spawn_pump(pipe, Source::Stderr, &log)),
    ];
    handle
        .record_started()
        .doing(|| "record the start".to_owned())?;
    let end = wait(main, &signals);
    // Kills the remaining processes, which hold the pipes open: the log ends when they are gone.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while !matches!(waitpid(None, None), Err(Errno::ECHILD)) {}
    for pump in pumps.into_iter().flatten() {
        let _ = pump.join();
    }
    Ok(end)
}

fn spawn_pump(
    pipe: impl Read + Send + 'static,
    source: Source,
    log: &Arc<Mutex<LogWriter>>,
) -> thread::JoinHandle<()> {
    let log = log.clone();
    thread::spawn(move || pump(pipe, source, &log))
}

/// Passes signals to the main process and reaps whatever ends, until it is the main process.
fn wait(main: Pid, signals: &SigSet) -> End {
    loop {
        if let Some(end) = reap(main) {
            return end;
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                let _ = kill(main, signal);
            }
        }
    }
}

fn reap(main: Pid) -> Option<End> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => {
                return Some(End::Exited {
                    code,
                    message: String::new(),
                });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => {
                let message = format!("killed by {signal}");
                return Some(End::Exited {
                    code: 128 + signal as i32,
                    message,
                });
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(_) | Err(_) => {}
        }
    }
}
