//! `task-exec DIR [NAME=VALUE …] -- ARGV`: runs a command inside a running task, with the task's
//! own namespaces, cgroup, environment and limits. Its exit code is the command's, 128 + the
//! signal's number where one ended it.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::Path,
    process::{Command, ExitCode, ExitStatus},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::prctl,
};

use super::{
    cgroup, confine,
    directory::TaskDirectory,
    error::{Doing, TaskError},
    spec::LaunchSpec,
};
use crate::executor::Progress;

/// Every namespace that a task has of its own; the mount namespace last, because it takes away the
/// host's /proc.
const NAMESPACES: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Runs the stage.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let parts = arguments.split_first().and_then(|(path, rest)| {
        let end = rest.iter().position(|word| word == "--")?;
        Some((path, &rest[..end], rest[end + 1..].split_first()?))
    });
    let Some((path, env, (program, argv))) = parts else {
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(argv).env_clear().current_dir("/");
    match enter(Path::new(path)) {
        Ok(spec) => command
            .envs(spec.env)
            .envs(env.iter().filter_map(|pair| split(pair))),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(125);
        }
    };
    match command.status() {
        Ok(status) => ExitCode::from(code(status)),
        Err(error) => {
            eprintln!("cannot run {program:?} in the task: {error}");
            ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            })
        }
    }
}

fn enter(path: &Path) -> Result<LaunchSpec, TaskError> {
    let directory = TaskDirectory::at(path);
    let spec = directory
        .spec()
        .doing(|| format!("read {}", path.display()))?;
    let init = directory
        .init()
        .filter(|_| directory.progress() == Progress::Running);
    let Some(init) = init else {
        return Err(TaskError::refused(format!("{} does not run", spec.name)));
    };
    let counter = cgroup::counter_of(&init.pid().to_string());
    for cgroup in [spec.cgroup.clone(), counter].into_iter().flatten() {
        cgroup::enter(&cgroup).doing(|| format!("enter the cgroup {}", cgroup.display()))?;
    }
    let open = |(name, kind): &(&str, CloneFlags)| {
        let path = format!("/proc/{}/ns/{name}", init.pid());
        File::open(&path)
            .doing(|| format!("open {path}"))
            .map(|file| (path, file, *kind))
    };
    let namespaces = NAMESPACES.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    if !init.is_alive() {
        return Err(TaskError::refused(format!("{} has just ended", spec.name)));
    }
    // This process, and the one that becomes the command, are about to be seen by the task, which
    // could open the host's netd by /proc/PID/exe otherwise, and change its mode (CVE-2019-5736).
    prctl::set_dumpable(false).doing(|| "close /proc/PID to the task".to_owned())?;
    for (path, file, kind) in namespaces {
        setns(file, kind).doing(|| format!("enter {path}"))?;
    }
    confine::confine()?;
    Ok(spec)
}

fn split(pair: &OsString) -> Option<(&std::ffi::OsStr, &std::ffi::OsStr)> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    Some((
        std::ffi::OsStr::from_bytes(&bytes[..at]),
        std::ffi::OsStr::from_bytes(&bytes[at + 1..]),
    ))
}

fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}
