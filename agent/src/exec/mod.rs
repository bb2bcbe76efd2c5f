//! The `exec` runtime: a task is a command in namespaces of its own, made by the hidden subcommands
//! of `netd`: `task-launch` (makes the namespaces), `task-init` (process 1 of the task) and
//! `task-exec` (enters it). All that is known of a task is in its directory.

mod cgroup;
mod command;
mod confine;
mod directory;
mod ended;
mod enter;
mod error;
mod init;
mod launch;
mod log;
mod logs;
mod probe;
mod program;
mod root;
mod seccomp;
mod spec;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use futures::{future::BoxFuture, stream::BoxStream};
use model::{Failure, Kind, NodeConfig, Refusal, Runtime, TaskConfig, TaskId};
use nix::sys::{prctl, signal::Signal};

use crate::{
    executor::{Executor, Input, LogLine, Output, Probed, Progress, Start, Stats, Until},
    process::Process,
};
use directory::TaskDirectory;
use ended::Ended;
use error::Doing;
use program::Program;
use spec::{LaunchSpec, Place};

pub use error::TaskError;

/// How the host resolves names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The program that the calling process runs, even if its file has been replaced since.
const PROGRAM: &str = "/proc/self/exe";

/// The first descriptor behind standard input, output and errors.
const FIRST_INHERITED: RawFd = 3;

/// The executor of commands.
pub struct Exec {
    /// The directory of all tasks, on a disk; `/var/lib/netd/tasks`. Tasks on the host's root do
    /// not see its parent.
    directory: PathBuf,
    /// The host's name.
    hostname: String,
    /// `netd` itself, whose hidden subcommands become the tasks.
    program: Arc<Program>,
    /// What was started here and has not been reaped.
    launchers: Mutex<BTreeMap<TaskId, Child>>,
}

impl Exec {
    /// Of the calling `netd`.
    pub fn new(directory: PathBuf, hostname: String) -> Self {
        Self::with_program(directory, hostname, PathBuf::from(PROGRAM))
    }

    /// With the `netd` of this path.
    pub fn with_program(directory: PathBuf, hostname: String, program: PathBuf) -> Self {
        Self {
            directory,
            hostname,
            program: Arc::new(Program::new(program)),
            launchers: Mutex::default(),
        }
    }

    fn of(&self, task: TaskId) -> TaskDirectory {
        TaskDirectory::of(&self.directory, task)
    }

    fn ended(&self) -> Ended {
        Ended::beside(&self.directory)
    }

    fn launchers(&self) -> MutexGuard<'_, BTreeMap<TaskId, Child>> {
        self.launchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a launcher of ours is at work; one that has ended is reaped.
    fn is_launching(&self, task: TaskId) -> bool {
        let mut launchers = self.launchers();
        let Some(child) = launchers.get_mut(&task) else {
            return false;
        };
        let running = matches!(child.try_wait(), Ok(None));
        if !running {
            launchers.remove(&task);
        }
        running
    }
}

impl Executor for Exec {
    fn present(&self) -> Vec<TaskId> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn progress(&self, task: TaskId) -> Progress {
        // Asked first: a launcher that ends meanwhile has said in the directory what it did.
        let is_launching = self.is_launching(task);
        match self.of(task).progress() {
            // It is about to claim the start: only then is there something to see or to stop.
            Progress::Prepared if is_launching => Progress::Launching,
            progress => progress,
        }
    }

    fn check(&self, runtime: &Runtime) -> Result<(), Failure> {
        let (argv, rootfs) = match runtime {
            Runtime::Exec { argv, rootfs, .. } => (argv, rootfs),
        };
        if argv.is_empty() {
            let cause = "there is no command to run";
            return Err(Failure::new(Kind::Invalid, cause, "give one after `--`"));
        }
        let wrong = |rootfs: &&Path| {
            !Runtime::is_word(rootfs) && (!rootfs.is_absolute() || !rootfs.is_dir())
        };
        match rootfs.as_deref().filter(wrong) {
            Some(rootfs) => {
                let cause = format!(
                    "rootfs {} is not a directory of this host",
                    rootfs.display()
                );
                let next = "make it on every host that may run the service";
                Err(Failure::new(Kind::Precondition, cause, next))
            }
            None => Ok(()),
        }
    }

    fn prepare(&self, task: TaskId, spec: &TaskConfig, host: &NodeConfig) -> Result<(), Failure> {
        let cgroup = cgroup::of_all_tasks();
        let resolver = dns::ResolvConf::parse(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        let place = Place {
            tasks: &self.directory,
            node: &self.hostname,
            cgroup: cgroup.as_deref(),
            resolver: &resolver,
        };
        let directory = self.of(task);
        directory
            .create(&LaunchSpec::new(task, spec, host, &place), host.level)
            .doing(|| format!("write to {}", directory.path().display()))
            .map_err(Failure::from)
    }

    fn start(&self, task: TaskId) -> Result<(), Failure> {
        let launcher = self
            .program
            .command()?
            .arg("task-launch")
            .arg(self.of(task).path())
            .arg(self.program.file())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = launcher.doing(|| "start task-launch".to_owned())?;
        self.launchers().insert(task, child);
        Ok(())
    }

    fn started(&self, task: TaskId) -> Option<SystemTime> {
        self.of(task).started()
    }

    fn signal(&self, task: TaskId, signal: Signal) {
        if let Some(init) = self.of(task).init() {
            init.signal(signal);
        }
    }

    /// Its cgroup, and process 1, whose end takes the PID namespace along.
    fn kill(&self, task: TaskId) {
        let directory = self.of(task);
        if let Some(cgroup) = directory.spec().ok().and_then(|spec| spec.cgroup) {
            cgroup::kill(&cgroup);
        }
        for process in [directory.launcher(), directory.init()]
            .into_iter()
            .flatten()
        {
            process.signal(Signal::SIGKILL);
        }
    }

    /// The cgroup, then the directory that names it. The logs stay.
    fn remove(&self, task: TaskId) -> io::Result<()> {
        let directory = self.of(task);
        let cgroup = directory.spec().ok().and_then(|spec| spec.cgroup);
        for cgroup in [cgroup, cgroup::counter(&directory.name())]
            .into_iter()
            .flatten()
        {
            cgroup::remove(&cgroup)?;
        }
        if let Err(error) = self.ended().keep(task, directory.path()) {
            tracing::warn!(%task, %error, "the logs of an ended task are not kept");
        }
        directory.remove()
    }

    fn condemn(&self, task: TaskId, reason: &str) -> io::Result<()> {
        self.of(task).handle()?.record_unhealthy(reason)
    }

    fn condemned(&self, task: TaskId) -> Option<String> {
        self.of(task).unhealthy()
    }

    fn process(&self, task: TaskId) -> Option<Process> {
        self.of(task).init()
    }

    fn stats(&self, task: TaskId) -> Option<Stats> {
        cgroup::stats(&self.of(task).spec().ok()?.cgroup?)
    }

    fn probe(&self, task: TaskId, argv: &[String]) -> BoxFuture<'static, Probed> {
        let (program, place, argv) = (self.program.clone(), self.of(task), argv.to_owned());
        Box::pin(async move { probe::probe(&program, &place, &argv).await })
    }

    fn exec(
        &self,
        task: TaskId,
        start: Start,
        input: BoxStream<'static, Input>,
    ) -> BoxStream<'static, Output> {
        command::exec(&self.program, &self.of(task), &start, input)
    }

    fn logs(&self, tasks: &[TaskId], until: Until, tail: u32) -> BoxStream<'static, LogLine> {
        Box::pin(logs::logs(
            &self.directory,
            &self.ended(),
            tasks,
            until,
            tail,
        ))
    }

    fn find(&self, name: &str) -> Result<TaskId, Refusal> {
        let unknown =
            || Refusal::not_found("task on this host called", name, "swarmctl service ps");
        if let Ok(task) = name.parse::<TaskId>() {
            return match self.of(task).path().exists() {
                true => Ok(task),
                false => Err(unknown()),
            };
        }
        let is_named = |task: &TaskId| self.of(*task).spec().is_ok_and(|spec| spec.name == name);
        let made =
            |task: &TaskId| fs::metadata(self.of(*task).path().join("spec.json"))?.modified();
        let named = self.present().into_iter().filter(is_named);
        named.max_by_key(|task| made(task).ok()).ok_or_else(unknown)
    }
}

/// Runs the hidden subcommand that these arguments (without the program's name) name; `None` if
/// they name none. To be called first thing in `main`, while the process has one thread.
pub fn stage(arguments: &[OsString]) -> Option<ExitCode> {
    let (stage, rest) = arguments.split_first()?;
    let (name, main): (_, fn(&[OsString]) -> ExitCode) = match stage.to_str()? {
        "task-launch" => (c"netd-launch", launch::main),
        "task-init" => (c"netd-init", init::main),
        "task-exec" => (c"netd-exec", enter::main),
        _ => return None,
    };
    // Started by a link: every process list would say its last part.
    let _ = prctl::set_name(name);
    // What systemd has passed to the daemon, or a shell has left open, is for no task: with the
    // socket that Docker Engine calls at, it could answer in the daemon's place.
    close_fds::set_fds_cloexec(FIRST_INHERITED, &[]);
    Some(main(rest))
}
