//! Runs this host's tasks with the `exec` runtime. [`spawn`] is the reconciler inside the daemon;
//! [`stage`] holds the hidden subcommands that become a task: `task-launch` (makes the namespaces),
//! `task-init` (process 1 of the task) and `task-exec` (enters it). A task outlives the daemon: all
//! that is known of it is in its directory.

mod cgroup;
mod confine;
mod connections;
mod directory;
mod enter;
mod error;
mod exec;
mod health;
mod init;
mod launch;
mod log;
mod logs;
mod process;
mod reconcile;
mod root;
mod service;
mod spec;

use std::{ffi::OsString, fs::File, path::Path, process::ExitCode};

use directory::TaskDirectory;
use model::TaskId;

pub use error::TaskError;
pub use exec::exec;
pub use logs::logs;
pub use reconcile::{AgentConfig, PROGRAM, Sandboxes, spawn, spawn_with};
pub use service::{ExecStream, LogStream, find};

/// The network namespace that this task's processes are in, while it has any. `tasks` is the
/// directory of all tasks.
pub fn sandbox(tasks: &Path, task: TaskId) -> Option<File> {
    let init = TaskDirectory::of(tasks, task).init()?;
    let namespace = File::open(format!("/proc/{}/ns/net", init.pid())).ok()?;
    // Asked last: the pid may have passed to another process.
    init.is_alive().then_some(namespace)
}

/// Runs the hidden subcommand that these arguments (without the program's name) name; `None` if
/// they name none. To be called first thing in `main`, while the process has one thread.
pub fn stage(arguments: &[OsString]) -> Option<ExitCode> {
    let (stage, rest) = arguments.split_first()?;
    match stage.to_str()? {
        "task-launch" => Some(launch::main(rest)),
        "task-init" => Some(init::main(rest)),
        "task-exec" => Some(enter::main(rest)),
        _ => None,
    }
}
