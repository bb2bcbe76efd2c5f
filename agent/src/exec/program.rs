//! `netd` itself, by a way that nobody can write through: what is run of it in a task's sight shows
//! by /proc/PID/exe a mount that is read-only, so that neither the mode nor the owner nor the
//! content of the host's file can be changed by it (CVE-2019-5736).

use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use nix::{
    mount::MsFlags,
    sched::{CloneFlags, unshare},
};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{
    error::{Doing, TaskError},
    root,
};

/// A directory that every host has, covered in a mount namespace of our own.
const COVERED: &str = "/proc";
/// Where the program is mounted in that namespace.
const PLACE: &str = "/proc/netd";
/// What a process list says of a stage.
const NAME: &str = "netd";

/// The program that the stages run.
pub(super) struct Program {
    path: PathBuf,
    /// A mount of nothing but the program, read-only and in no namespace. It lives as long as this
    /// does, and as long as what was run by it.
    sealed: Mutex<Option<OwnedFd>>,
}

impl Program {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            sealed: Mutex::default(),
        }
    }

    /// A command that runs it, sealed. Needs this to live until it is started.
    pub(super) fn command(&self) -> Result<Command, TaskError> {
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let mount = match sealed.take() {
            Some(mount) => mount,
            None => seal(&self.path)?,
        };
        // The number is the same in the child, where it is closed only once the program is there.
        let path = format!("/proc/self/fd/{}", sealed.insert(mount).as_raw_fd());
        let mut command = Command::new(path);
        command.arg0(NAME);
        Ok(command)
    }

    /// Its file, where that is still in its place.
    pub(super) fn file(&self) -> PathBuf {
        // Its path, for the link itself leads into the mount namespace that netd was started in.
        fs::read_link(&self.path).unwrap_or_else(|_| self.path.clone())
    }
}

/// A read-only mount of a file: made in a mount namespace of its own, which ends with the thread,
/// for only there can a mount be made read-only before anybody sees it.
fn seal(program: &Path) -> Result<OwnedFd, TaskError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, program, flags).doing(|| format!("mount {}", program.display()))?;
    let made = thread::spawn(move || make_read_only(mount)).join();
    made.unwrap_or_else(|_| {
        Err(TaskError::refused(
            "a thread that makes a mount has panicked",
        ))
    })
}

fn make_read_only(mount: OwnedFd) -> Result<OwnedFd, TaskError> {
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace".to_owned())?;
    root::make_private()?;
    root::tmpfs(Path::new(COVERED), "mode=700,size=4k", MsFlags::empty())?;
    File::create_new(PLACE).doing(|| format!("make {PLACE}"))?;
    move_mount(
        &mount,
        "",
        CWD,
        PLACE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .doing(|| format!("mount netd on {PLACE}"))?;
    root::read_only(Path::new(PLACE))?;
    Ok(mount)
}
