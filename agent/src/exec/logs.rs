//! Reads tasks' logs, from the beginning or the last lines, and goes on as lines are written.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::Stream;
use model::TaskId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    directory::TaskDirectory,
    ended::Ended,
    log::{CURRENT, PREVIOUS, Record},
};
use crate::executor::{LogLine, Until};

/// How soon a new line is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Lines read ahead of a slow client.
const AHEAD: usize = 256;

/// The logs of these tasks of this host. `directory` is that of all tasks, `ended` has the logs of
/// those that are there no more; one that is in neither has no lines. With `follow` it goes on
/// until the task's directory is removed. `tail`: only the last lines of each task; 0 is all. Takes
/// a thread for each task that is there, whatever is asked for.
pub(crate) fn logs(
    directory: &Path,
    ended: &Ended,
    tasks: &[TaskId],
    until: Until,
    tail: u32,
) -> impl Stream<Item = LogLine> + Send + 'static + use<> {
    let (lines, stream) = mpsc::channel(AHEAD);
    for task in tasks.iter().copied().collect::<BTreeSet<TaskId>>() {
        let directory = TaskDirectory::of(directory, task).path().to_owned();
        let ended = ended.of(task);
        if !directory.exists() && !ended.exists() {
            continue;
        }
        let reader = Follow {
            task,
            directory,
            ended,
            tail: tail as usize,
            until,
            lines: lines.clone(),
        };
        std::thread::spawn(move || reader.run());
    }
    ReceiverStream::new(stream)
}

struct Follow {
    task: TaskId,
    directory: PathBuf,
    /// Where its logs are once that is gone.
    ended: PathBuf,
    tail: usize,
    until: Until,
    lines: mpsc::Sender<LogLine>,
}

impl Follow {
    fn run(self) {
        let Ok(mut log) = self.open() else { return };
        let mut last = VecDeque::new();
        while let Some(record) = log.next() {
            last.push_back(record);
            // Without a limit nothing is held back.
            if (self.tail == 0 || last.len() > self.tail)
                && let Some(record) = last.pop_front()
                && self.tail == 0
                && !self.send(record)
            {
                return;
            }
        }
        if last.into_iter().all(|record| self.send(record)) && self.until == Until::Removed {
            self.go_on(log);
        }
    }

    fn go_on(&self, mut log: LogReader) {
        loop {
            let gone = !self.directory.exists();
            while let Some(record) = log.next() {
                if !self.send(record) {
                    return;
                }
            }
            if gone || self.lines.is_closed() {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// A task that has not written yet has no log yet.
    fn open(&self) -> io::Result<LogReader> {
        loop {
            match LogReader::open(&self.directory) {
                Err(_)
                    if self.until == Until::Removed
                        && self.directory.exists()
                        && !self.lines.is_closed() =>
                {
                    std::thread::sleep(POLL)
                }
                Err(_) => return LogReader::open(&self.ended),
                Ok(log) => return Ok(log),
            }
        }
    }

    fn send(&self, record: Record) -> bool {
        let line = LogLine {
            task: self.task,
            time: record.time,
            source: record.source,
            line: record.line,
        };
        self.lines.blocking_send(line).is_ok()
    }
}

/// Reads `log.1`, then `log`, then what replaces it.
struct LogReader {
    directory: PathBuf,
    files: VecDeque<Opened>,
}

struct Opened {
    file: BufReader<File>,
    inode: u64,
    /// A record whose end has not been written yet.
    partial: Vec<u8>,
}

impl LogReader {
    fn open(directory: &Path) -> io::Result<Self> {
        loop {
            let current = Opened::open(&directory.join(CURRENT))?;
            let mut files: VecDeque<_> = Opened::open(&directory.join(PREVIOUS))
                .into_iter()
                .collect();
            // Rotated between the two: look again.
            if files.iter().all(|previous| previous.inode != current.inode) {
                files.push_back(current);
                return Ok(Self {
                    directory: directory.to_owned(),
                    files,
                });
            }
        }
    }

    /// The next whole record; `None` if there is none for now.
    fn next(&mut self) -> Option<Record> {
        loop {
            let newer = if self.files.len() > 1 {
                None
            } else {
                self.newer()
            };
            let opened = self.files.front_mut()?;
            // The newer file was seen first, so the older one is complete by now.
            if let Some(line) = opened.line() {
                self.files.extend(newer);
                match Record::parse(&line) {
                    Some(record) => return Some(record),
                    None => continue,
                }
            }
            self.files.extend(newer);
            if self.files.len() == 1 {
                return None;
            }
            self.files.pop_front();
        }
    }

    fn newer(&self) -> Option<Opened> {
        let opened = Opened::open(&self.directory.join(CURRENT)).ok()?;
        (self.files.front()?.inode != opened.inode).then_some(opened)
    }
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            file: BufReader::new(file),
            inode,
            partial: Vec::new(),
        })
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        self.file.read_until(b'\n', &mut self.partial).ok()?;
        if self.partial.last() != Some(&b'\n') {
            return None;
        }
        self.partial.pop();
        Some(std::mem::take(&mut self.partial))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn threads() -> usize {
        std::fs::read_dir("/proc/self/task").unwrap().count()
    }

    #[tokio::test]
    async fn logs_of_tasks_that_are_nowhere_take_no_threads() {
        let home = tempfile::tempdir().unwrap();
        let tasks = home.path().join("tasks");
        let known = TaskDirectory::of(&tasks, TaskId(7));
        std::fs::create_dir_all(known.path()).unwrap();
        let asked: Vec<TaskId> = (0..20_000).map(|id| TaskId(id % 10_000)).collect();
        let before = threads();
        let follows = logs(&tasks, &Ended::beside(&tasks), &asked, Until::Removed, 0);
        // One for the task that is there, and what runs beside this test.
        assert!(threads() < before + 20, "{}", threads());
        std::fs::remove_dir_all(known.path()).unwrap();
        assert_eq!(follows.count().await, 0);
    }
}
