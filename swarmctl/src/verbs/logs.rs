//! `service logs`: the output of tasks on any host, and new lines as they are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};

use anyhow::Result;
use api::proto::{LogLine, LogsRequest};
use model::{Failure, Kind, Question, TaskId, TaskInfo};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{daemon::Daemon, values::timestamp};

/// Interval at which new tasks of a service are looked up.
const LOOK: Duration = Duration::from_secs(1);
const QUEUE: usize = 256;

/// How to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Goes on as lines are written.
    pub follow: bool,
    /// Only the last lines of each task; 0 is all.
    pub tail: u32,
    /// Shows when each line was written.
    pub timestamps: bool,
}

/// Prints the logs of a service or a task.
pub(crate) async fn logs(daemon: &Daemon, target: &str, reading: Reading) -> Result<u8> {
    let (found, tasks) = find(daemon, target).await?;
    let (lines, mut arrived) = mpsc::channel(QUEUE);
    let mut printer = Printer {
        prefixed: matches!(found, Found::Service),
        timestamps: reading.timestamps,
        ..Printer::default()
    };
    read(daemon, printer.learn(&tasks), reading, &lines);
    if !reading.follow {
        drop(lines);
        while let Some(line) = arrived.recv().await {
            printer.print(&line.map_err(|status| daemon.broken(&status))?)?;
        }
        return Ok(0);
    }
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(line) = arrived.recv() => {
                let line = line.map_err(|status| daemon.broken(&status))?;
                printer.print(&line)?;
            }
            _ = look.tick() => match (found, found.tasks(daemon, target).await) {
                (Found::Service, Ok(tasks)) => {
                    let later = Reading { tail: 0, ..reading };
                    read(daemon, printer.learn(&tasks), later, &lines);
                }
                (_, Err(failure)) if failure.kind == Kind::NotFound => return Ok(0),
                (_, Err(failure)) => return Err(failure.into()),
                (Found::Task, Ok(_)) => {}
            },
        }
    }
}

/// What the target names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Service,
    Task,
}

impl Found {
    async fn tasks(self, daemon: &Daemon, target: &str) -> Result<Vec<TaskInfo>, Failure> {
        match self {
            Found::Service => daemon.ask(Question::tasks_of(target)).await,
            Found::Task => Ok(vec![daemon.ask(Question::task(target)).await?]),
        }
    }
}

/// A service of this name, else a task.
async fn find(daemon: &Daemon, target: &str) -> Result<(Found, Vec<TaskInfo>), Failure> {
    for found in [Found::Service, Found::Task] {
        match found.tasks(daemon, target).await {
            Err(failure) if failure.kind == Kind::NotFound => {}
            tasks => return Ok((found, tasks?)),
        }
    }
    let list = "swarmctl service ls";
    Err(Failure::not_found("service or task", target, list).about(format!("logs of {target}")))
}

/// Reads the logs of these tasks into the queue.
fn read(
    daemon: &Daemon,
    tasks: Vec<String>,
    reading: Reading,
    lines: &mpsc::Sender<Result<LogLine, Status>>,
) {
    if tasks.is_empty() {
        return;
    }
    let (mut agent, lines) = (daemon.agent(), lines.clone());
    let request = LogsRequest {
        tasks,
        follow: reading.follow,
        tail: reading.tail,
    };
    tokio::spawn(async move {
        let mut stream = match agent.logs(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return drop(lines.send(Err(status)).await),
        };
        while let Some(line) = stream.message().await.transpose() {
            let broken = line.is_err();
            if lines.send(line).await.is_err() || broken {
                return;
            }
        }
    });
}

/// The last lines that a task has written, as far as they can be had.
pub(crate) async fn last_lines(daemon: &Daemon, task: TaskId, lines: u32) -> Vec<String> {
    let request = LogsRequest {
        tasks: vec![task.to_string()],
        follow: false,
        tail: lines,
    };
    let mut found = Vec::new();
    let Ok(answer) = daemon.agent().logs(request).await else {
        return found;
    };
    let mut stream = answer.into_inner();
    while let Ok(Some(line)) = stream.message().await {
        found.push(String::from_utf8_lossy(&line.line).into_owned());
    }
    found
}

/// Puts the task's name before each line.
#[derive(Default)]
struct Printer {
    prefixed: bool,
    timestamps: bool,
    known: BTreeSet<String>,
    names: BTreeMap<String, String>,
}

impl Printer {
    /// The ids of those tasks that are new.
    fn learn(&mut self, tasks: &[TaskInfo]) -> Vec<String> {
        // A task without a node has written nothing yet.
        let new = tasks
            .iter()
            .filter(|task| task.node_id.is_some() && self.known.insert(task.id.to_string()));
        let names = new.map(|task| (task.id.to_string(), format!("{}@{}", task.name, task.node)));
        let names: BTreeMap<_, _> = names.collect();
        self.names.extend(names.clone());
        names.into_keys().collect()
    }

    fn print(&self, line: &LogLine) -> Result<()> {
        let text = self.format(line);
        let written = if line.stderr {
            std::io::stderr().write_all(&text)
        } else {
            std::io::stdout().write_all(&text)
        };
        Ok(written?)
    }

    fn format(&self, line: &LogLine) -> Vec<u8> {
        let mut text = Vec::new();
        if self.timestamps {
            text.extend(timestamp(line.time).bytes().chain([b' ']));
        }
        if self.prefixed {
            let name = self.names.get(&line.task).unwrap_or(&line.task);
            text.extend(format!("{name} | ").bytes());
        }
        text.extend(line.line.strip_suffix(b"\n").unwrap_or(&line.line));
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is_and_when_it_was_written() {
        let mut printer = Printer {
            prefixed: true,
            timestamps: true,
            ..Printer::default()
        };
        printer.names.insert("1".into(), "web.1@h2".into());
        let line = LogLine {
            task: "1".into(),
            time: 0,
            stderr: false,
            line: b"hello\n".to_vec(),
        };
        assert_eq!(
            printer.format(&line),
            b"1970-01-01T00:00:00.000Z web.1@h2 | hello\n"
        );
        assert_eq!(Printer::default().format(&line), b"hello\n");
    }
}
