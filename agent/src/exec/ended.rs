//! The logs of tasks whose directories are gone: what a task wrote is asked for once it has failed.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use model::TaskId;

use super::log::{CURRENT, PREVIOUS};

/// How many tasks' logs a host keeps, the newest, and for how long.
const MOST: usize = 1_000;
const AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many bytes they may have together.
const BYTES: u64 = 512 << 20;

/// Where they are.
#[derive(Clone, Debug)]
pub(crate) struct Ended(PathBuf);

/// The logs of one task.
struct Kept {
    path: PathBuf,
    since: SystemTime,
    bytes: u64,
}

impl Ended {
    /// Beside the directory of all tasks.
    pub(crate) fn beside(tasks: &Path) -> Self {
        Self(tasks.with_file_name("logs"))
    }

    /// Where the logs of a task are, if any.
    pub(crate) fn of(&self, task: TaskId) -> PathBuf {
        self.0.join(task.to_string())
    }

    /// Takes the logs out of the directory of a task that has ended, and lets go of those that are
    /// too old or too many.
    pub(crate) fn keep(&self, task: TaskId, from: &Path) -> io::Result<()> {
        if !from.join(CURRENT).exists() {
            return Ok(());
        }
        let to = self.of(task);
        DirBuilder::new().recursive(true).mode(0o700).create(&to)?;
        // The older file first: who reads meanwhile finds one or both.
        for name in [PREVIOUS, CURRENT] {
            match fs::rename(from.join(name), to.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.prune(SystemTime::now())
    }

    fn prune(&self, now: SystemTime) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            kept.push(Kept::at(entry?.path())?);
        }
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.since));
        let mut bytes = 0;
        for (number, kept) in kept.iter().enumerate() {
            bytes += kept.bytes;
            let age = now.duration_since(kept.since).unwrap_or_default();
            if number >= MOST || age > AGE || (bytes > BYTES && number > 0) {
                fs::remove_dir_all(&kept.path)?;
            }
        }
        Ok(())
    }
}

impl Kept {
    fn at(path: PathBuf) -> io::Result<Self> {
        let since = fs::metadata(&path)?.modified()?;
        let mut bytes = 0;
        for entry in fs::read_dir(&path)? {
            bytes += entry?.metadata()?.len();
        }
        Ok(Self { path, since, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrote(tasks: &Path, task: u64, text: &str) -> PathBuf {
        let directory = tasks.join(TaskId(task).to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(CURRENT), text).unwrap();
        directory
    }

    #[test]
    fn logs_outlive_the_directory_of_their_task() {
        let home = tempfile::tempdir().unwrap();
        let tasks = home.path().join("tasks");
        let ended = Ended::beside(&tasks);
        let directory = wrote(&tasks, 7, "1 O boom\n");
        ended.keep(TaskId(7), &directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let kept = fs::read_to_string(ended.of(TaskId(7)).join(CURRENT));
        assert_eq!(kept.unwrap(), "1 O boom\n");
        // One that has written nothing leaves nothing.
        fs::create_dir_all(tasks.join("silent")).unwrap();
        ended.keep(TaskId(8), &tasks.join("silent")).unwrap();
        assert!(!ended.of(TaskId(8)).exists());
    }

    #[test]
    fn logs_of_long_ago_are_let_go_of() {
        let home = tempfile::tempdir().unwrap();
        let tasks = home.path().join("tasks");
        let ended = Ended::beside(&tasks);
        ended.keep(TaskId(7), &wrote(&tasks, 7, "1 O a\n")).unwrap();
        ended.prune(SystemTime::now() + AGE / 2).unwrap();
        assert!(ended.of(TaskId(7)).exists());
        ended.prune(SystemTime::now() + AGE * 2).unwrap();
        assert!(!ended.of(TaskId(7)).exists());
    }
}
