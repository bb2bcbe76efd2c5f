//! `task-launch DIR PROGRAM`: one thread that claims the task's only start, makes its namespaces,
//! starts process 1 in them, writes down who that is, and ends.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::SigSet,
        stat::{Mode, umask},
    },
    unistd::setsid,
};

use super::{
    PROGRAM, cgroup,
    directory::TaskDirectory,
    error::{Doing, TaskError},
    spec::LaunchSpec,
};
use crate::{executor::End, process::Process};

/// Runs the stage. A failure is written into the task's directory.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let [path, program] = arguments else {
        return ExitCode::from(2);
    };
    let directory = TaskDirectory::at(Path::new(path));
    let Ok(spec) = directory.spec() else {
        return ExitCode::FAILURE;
    };
    if directory.claim().is_err() {
        return ExitCode::FAILURE;
    }
    let Err(error) = launch(&directory, &spec, Path::new(program)) else {
        return ExitCode::SUCCESS;
    };
    let end = End::Rejected { why: error.into() };
    // With a disk that takes no word of it, the daemon sees a task that vanished.
    let _ = directory
        .handle()
        .and_then(|handle| handle.record_end(&end, directory.level()));
    ExitCode::FAILURE
}

fn launch(directory: &TaskDirectory, spec: &LaunchSpec, program: &Path) -> Result<(), TaskError> {
    leave_the_daemon(directory, spec)?;
    enter_namespaces(&spec.namespace)?;
    let mut init = Command::new(PROGRAM)
        .arg("task-init")
        .arg(directory.path())
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| "start the task's process 1".to_owned())?;
    let process = Process::of(init.id()).doing(|| "find the task's process 1".to_owned())?;
    directory
        .record_init(&process)
        .doing(|| format!("write to {}", directory.path().display()))?;
    // Process 1 waits for this byte, and gives up when the pipe closes without it.
    let go = init
        .stdin
        .take()
        .ok_or_else(|| io::Error::other("no pipe"))
        .and_then(|mut pipe| pipe.write_all(b"g"));
    go.doing(|| "release the task's process 1".to_owned())
}

/// Detaches the task from the daemon's session, cgroup and limits.
fn leave_the_daemon(directory: &TaskDirectory, spec: &LaunchSpec) -> Result<(), TaskError> {
    // Fails only for a leader of a process group, which is as good.
    let _ = setsid();
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    SigSet::empty()
        .thread_set_mask()
        .doing(|| "unblock signals".to_owned())?;
    // systemd may protect the daemon from the OOM killer; a task is not worth that. Lowering
    // protection never fails.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    let cgroups = [spec.cgroup.clone(), cgroup::counter(&directory.name())];
    for cgroup in cgroups.into_iter().flatten() {
        cgroup::enter(&cgroup).doing(|| format!("enter the cgroup {}", cgroup.display()))?;
    }
    Ok(())
}

fn enter_namespaces(sandbox: &Path) -> Result<(), TaskError> {
    let namespace = File::open(sandbox)
        .doing(|| format!("open the task's network namespace {}", sandbox.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).doing(|| format!("enter {}", sandbox.display()))?;
    let fresh = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(fresh).doing(|| "make the task's namespaces (is CAP_SYS_ADMIN missing?)".to_owned())
}
