//! A task's directory: the one place where anything about a task is kept, read by every life of the
//! daemon.
//!
//! `spec.json` (written before anything starts), `launcher` (made once: who claims the start),
//! `init` (process 1 of the task), `started`, `unhealthy` (why it is being ended), `end`, `log`,
//! `log.1`; `etc/`, `root/` and the overlay's `upper/` and `work/` for its mounts.

use std::{
    borrow::Cow,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use model::{Failure, Level, TaskId, level};
use nix::{
    fcntl::{OFlag, openat, renameat},
    sys::stat::Mode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::spec::LaunchSpec;
use crate::{
    executor::{End, Progress},
    process::Process,
};

const SPEC: &str = "spec.json";
const LAUNCHER: &str = "launcher";
const INIT: &str = "init";
const STARTED: &str = "started";
const UNHEALTHY: &str = "unhealthy";
const END: &str = "end";

/// The directory of one task.
#[derive(Clone, Debug)]
pub(crate) struct TaskDirectory(PathBuf);

impl TaskDirectory {
    /// The directory of this task among `tasks`, existing or not.
    pub(crate) fn of(tasks: &Path, task: TaskId) -> Self {
        Self(tasks.join(task.to_string()))
    }

    /// The directory of this path.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Its last part, the task's id.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        self.0.file_name().unwrap_or_default().to_string_lossy()
    }

    /// Creates the directory with the task's spec, in a cluster of this level. Only root may read
    /// it: environments hold secrets.
    pub(crate) fn create(&self, spec: &LaunchSpec, level: Level) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        self.handle()?.replace_at(record_level(level), SPEC, spec)
    }

    /// The level of the cluster that the spec was written in, as far as its records tell: that of
    /// what is written beside it.
    pub(crate) fn level(&self) -> Level {
        let record = fs::read(self.0.join(SPEC)).unwrap_or_default();
        level::open(SPEC, &record, Level::NEWEST).map_or(Level::FIRST, |(level, _)| level)
    }

    /// What is to run.
    pub(crate) fn spec(&self) -> io::Result<LaunchSpec> {
        read(&self.0.join(SPEC))
    }

    /// Claims the one start that a task gets, for the calling process. Errors: `AlreadyExists` if
    /// another has it.
    pub(crate) fn claim(&self) -> io::Result<()> {
        let draft = format!("{LAUNCHER}.{}", std::process::id());
        self.handle()?
            .replace(&draft, &Process::of(std::process::id())?)?;
        // A hard link appears whole or not at all, and never replaces.
        let claimed = fs::hard_link(self.0.join(&draft), self.0.join(LAUNCHER));
        fs::remove_file(self.0.join(&draft))?;
        claimed
    }

    /// Process 1 of the task, dead or alive.
    pub(crate) fn init(&self) -> Option<Process> {
        read(&self.0.join(INIT)).ok()
    }

    /// Records process 1.
    pub(crate) fn record_init(&self, init: &Process) -> io::Result<()> {
        self.handle()?.replace(INIT, init)
    }

    /// The process that made or makes its namespaces.
    pub(crate) fn launcher(&self) -> Option<Process> {
        read(&self.0.join(LAUNCHER)).ok()
    }

    /// When its main process was started.
    pub(crate) fn started(&self) -> Option<SystemTime> {
        fs::metadata(self.0.join(STARTED))
            .and_then(|file| file.modified())
            .ok()
    }

    /// Why it is being ended, if its health check has failed for good.
    pub(crate) fn unhealthy(&self) -> Option<String> {
        read(&self.0.join(UNHEALTHY)).ok()
    }

    /// How far the task has come.
    pub(crate) fn progress(&self) -> Progress {
        if !self.0.join(SPEC).exists() {
            return Progress::Absent;
        }
        let Some(launcher) = self.launcher() else {
            return Progress::Prepared;
        };
        let init = self.init();
        let process = init.as_ref().unwrap_or(&launcher);
        if process.is_alive() {
            let started = self.0.join(STARTED).exists();
            return if started {
                Progress::Running
            } else {
                Progress::Launching
            };
        }
        if init.is_none() && self.init().is_some() {
            return Progress::Launching;
        }
        // Read after the process was seen dead: whatever it had to say is written by now.
        match read::<StoredEnd>(&self.0.join(END)) {
            Ok(end) => Progress::Ended(end.into()),
            Err(_) => Progress::Vanished {
                rebooted: !process.of_this_boot(),
            },
        }
    }

    /// A handle that stays valid when the directory's path is out of sight.
    pub(crate) fn handle(&self) -> io::Result<Handle> {
        File::open(&self.0).map(|directory| Handle(directory.into()))
    }

    /// Removes it and all inside. Not there is fine.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// An open task directory, usable after the task has its own root.
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// Records that the main process has been started.
    pub(crate) fn record_started(&self) -> io::Result<()> {
        self.replace(STARTED, &())
    }

    /// Records why it is being ended.
    pub(crate) fn record_unhealthy(&self, reason: &str) -> io::Result<()> {
        self.replace(UNHEALTHY, &reason)
    }

    /// Records how the task ended, for a reader of this level.
    pub(crate) fn record_end(&self, end: &End, level: Level) -> io::Result<()> {
        let level = record_level(level);
        self.replace_at(level, END, &StoredEnd::of(end, level))
    }

    /// Opens a file of it for appending, made where missing.
    pub(crate) fn append(&self, name: &str) -> io::Result<File> {
        self.open(name, OFlag::O_APPEND)
    }

    /// Gives a file of it another name, in one step.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    fn replace<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        self.replace_at(Level::FIRST, name, value)
    }

    fn replace_at<T: Serialize>(&self, level: Level, name: &str, value: &T) -> io::Result<()> {
        let draft = format!("{name}.new");
        let mut file = self.open(&draft, OFlag::O_TRUNC)?;
        file.write_all(&level::seal(level, serde_json::to_vec(value)?))?;
        self.rename(&draft, name)
    }

    fn open(&self, name: &str, how: OFlag) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | how;
        Ok(openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }
}

/// Records of a task bear no level before [`Level::TYPED_FAILURES`].
fn record_level(level: Level) -> Level {
    if level < Level::TYPED_FAILURES {
        Level::FIRST
    } else {
        level
    }
}

/// How a task ended, on disk. Before [`Level::TYPED_FAILURES`] a failure is one line of text.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoredEnd {
    Rejected {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Failure>,
    },
    Exited {
        code: i32,
        message: String,
    },
}

impl StoredEnd {
    fn of(end: &End, level: Level) -> Self {
        match end {
            End::Rejected { why } if level < Level::TYPED_FAILURES => Self::Rejected {
                reason: Some(why.in_one_line()),
                why: None,
            },
            End::Rejected { why } => Self::Rejected {
                reason: None,
                why: Some(why.clone()),
            },
            End::Exited { code, message } => Self::Exited {
                code: *code,
                message: message.clone(),
            },
        }
    }
}

impl From<StoredEnd> for End {
    fn from(stored: StoredEnd) -> Self {
        match stored {
            StoredEnd::Rejected { reason, why } => Self::Rejected {
                why: why.unwrap_or_else(|| Failure::untyped(reason.unwrap_or_default())),
            },
            StoredEnd::Exited { code, message } => Self::Exited { code, message },
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(level::read(path, &fs::read(path)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use model::Kind;

    use super::*;

    /// `tests/records/LEVEL` holds the directory of a task that a netd of that level wrote.
    #[test]
    fn a_directory_of_the_first_level_is_read() {
        let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records/0");
        let directory = TaskDirectory::at(&records);
        let spec = directory.spec().unwrap();
        assert_eq!(
            (spec.name.as_str(), &spec.argv[..]),
            ("bad.1", &["false".to_owned()][..])
        );
        let written = fs::read_to_string(records.join(SPEC)).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), written);
        assert!(directory.launcher().is_some() && directory.init().is_some());
        assert!(directory.started().is_some());
        let end = End::Exited {
            code: 1,
            message: String::new(),
        };
        assert_eq!(directory.progress(), Progress::Ended(end));
    }

    fn stored(level: Level) -> String {
        let why = Failure::new(Kind::Unavailable, "cannot mount /proc", "run as root");
        let end = End::Rejected { why };
        serde_json::to_string(&StoredEnd::of(&end, level)).unwrap()
    }

    #[test]
    fn an_end_on_disk_is_text_before_failures_had_types() {
        let line = Failure::new(Kind::Unavailable, "cannot mount /proc", "run as root");
        let line = line.in_one_line();
        let text = format!("{{\"kind\":\"rejected\",\"reason\":\"{line}\"}}");
        assert_eq!(stored(Level::SHARED_VIEWS), text);
        let read: StoredEnd = serde_json::from_str(&text).unwrap();
        let why = Failure::untyped(line);
        assert_eq!(End::from(read), End::Rejected { why });
    }

    #[test]
    fn an_end_on_disk_keeps_the_next_step() {
        let text = stored(Level::TYPED_FAILURES);
        let read: StoredEnd = serde_json::from_str(&text).unwrap();
        let why = Failure::new(Kind::Unavailable, "cannot mount /proc", "run as root");
        assert_eq!(End::from(read), End::Rejected { why });
    }
}
