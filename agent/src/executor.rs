//! The seam between policy and execution. The agent decides what becomes of a task (states, health,
//! grace, drain); an [`Executor`] makes it so. Every verb is idempotent, is keyed by the task's id
//! and only begins something: what became of it is read from [`Executor::progress`], also by a
//! daemon that was started since.

use std::{
    fs::File,
    io,
    process::ExitStatus,
    time::{Duration, SystemTime},
};

use futures::{future::BoxFuture, stream::BoxStream};
use model::{Failure, NodeConfig, Refusal, Runtime, TaskConfig, TaskId};
use nix::sys::signal::Signal;

use crate::process::Process;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It never ran: it could not be prepared.
    Rejected {
        /// Why.
        why: Failure,
    },
    /// Its main process has ended.
    Exited {
        /// Exit code, or 128 + the signal's number.
        code: i32,
        /// Why, where the code does not say it all.
        message: String,
    },
}

/// How far a task has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is known of it.
    Absent,
    /// All that it needs is there; nobody has started it.
    Prepared,
    /// It is being prepared or started.
    Launching,
    /// Its main process has been started.
    Running,
    /// No process is left.
    Ended(End),
    /// No process is left and none could say why: killed, or the host went down.
    Vanished {
        /// The host has been restarted since.
        rebooted: bool,
    },
}

/// A command to run inside a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What the user called the task; for refusals.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `NAME=VALUE`, on top of the task's own environment.
    pub env: Vec<String>,
}

/// What a client says to the command that it runs inside a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for its standard input.
    Bytes(Vec<u8>),
    /// Nothing more comes.
    Closed,
    /// The client is gone: the command is killed.
    Lost,
}

/// What a command inside a task says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has ended: its exit code, or 128 + the signal's number. The last part.
    Exited(i32),
    /// It was not started. The last part.
    Refused(Refusal),
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Whose.
    pub task: TaskId,
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    /// Where it came from.
    pub source: Source,
    /// Without the line's end.
    pub line: Vec<u8>,
}

/// When a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// With the last line that is there now.
    Now,
    /// When the task is removed.
    Removed,
}

/// What a task has used and uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time since its start.
    pub cpu: Duration,
    /// Bytes of memory.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// What a health check's command came to: how it ended, and the end of what it wrote.
pub type Probed = io::Result<(ExitStatus, Vec<u8>)>;

/// Runs the tasks of one kind of runtime on this host.
pub trait Executor: Send + Sync {
    /// The tasks that anything is left of: those of an earlier life of the daemon included, which
    /// are adopted that way.
    fn present(&self) -> Vec<TaskId>;

    /// How far a task has come.
    fn progress(&self, task: TaskId) -> Progress;

    /// Whether this host can run such a task at all, before anything is made for it. Errors: why
    /// not, with the next step.
    fn check(&self, runtime: &Runtime) -> Result<(), Failure>;

    /// Gets all that the task needs, so that it can be started. Its sandbox is complete. Errors:
    /// why it cannot be prepared.
    fn prepare(&self, task: TaskId, spec: &TaskConfig, host: &NodeConfig) -> Result<(), Failure>;

    /// Starts a prepared task, once: a second call changes nothing. Errors: why it cannot start.
    fn start(&self, task: TaskId) -> Result<(), Failure>;

    /// When its main process was started.
    fn started(&self, task: TaskId) -> Option<SystemTime>;

    /// Sends a signal to its main process, if that runs.
    fn signal(&self, task: TaskId, signal: Signal);

    /// Kills all of its processes.
    fn kill(&self, task: TaskId);

    /// Removes all that is left of a task that does not run. Errors: not all could be removed yet.
    fn remove(&self, task: TaskId) -> io::Result<()>;

    /// Remembers, until the task is removed, why it is being ended.
    fn condemn(&self, task: TaskId, reason: &str) -> io::Result<()>;

    /// Why it is being ended, if it is.
    fn condemned(&self, task: TaskId) -> Option<String>;

    /// A process in the task's network namespace.
    fn process(&self, task: TaskId) -> Option<Process>;

    /// What it uses; `None` where that is not counted.
    fn stats(&self, task: TaskId) -> Option<Stats>;

    /// Runs a health check's command inside a task. To drop the future kills the command.
    fn probe(&self, task: TaskId, argv: &[String]) -> BoxFuture<'static, Probed>;

    /// Runs a command inside a task. When the stream is dropped, or the client is
    /// [lost](Input::Lost), the command is killed.
    fn exec(
        &self,
        task: TaskId,
        start: Start,
        input: BoxStream<'static, Input>,
    ) -> BoxStream<'static, Output>;

    /// The logs of these tasks; a task that is not there has no lines. `tail`: only the last lines
    /// of each task; 0 is all.
    fn logs(&self, tasks: &[TaskId], until: Until, tail: u32) -> BoxStream<'static, LogLine>;

    /// The task of this name (`web.1`: its newest run) or id.
    fn find(&self, name: &str) -> Result<TaskId, Refusal>;

    /// The network namespace that the task's processes are in, while it has any.
    fn sandbox(&self, task: TaskId) -> Option<File> {
        let process = self.process(task)?;
        let namespace = File::open(format!("/proc/{}/ns/net", process.pid())).ok()?;
        // Asked last: the pid may have passed to another process.
        process.is_alive().then_some(namespace)
    }
}
