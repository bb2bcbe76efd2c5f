//! Finds a task of this host by name or id; response streams of `Exec` and `Logs`.

use std::{fs, path::Path, pin::Pin};

use api::proto::{ExecOutput, LogLine};
use futures::Stream;
use model::{Refusal, TaskId};
use tonic::Status;

use super::directory::TaskDirectory;

/// What `Exec` answers.
pub type ExecStream = Pin<Box<dyn Stream<Item = Result<ExecOutput, Status>> + Send>>;
/// What `Logs` answers.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogLine, Status>> + Send>>;

/// The task of this name (`web.1`: its newest run) or id among those whose directories are here.
pub fn find(directory: &Path, name: &str) -> Result<TaskId, Refusal> {
    let unknown = || Refusal::not_found("task on this host called", name, "swarmctl service ps");
    if let Ok(task) = name.parse::<TaskId>() {
        return if TaskDirectory::of(directory, task).path().exists() {
            Ok(task)
        } else {
            Err(unknown())
        };
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let tasks = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<TaskId>().ok());
    let named = tasks.filter(|task| {
        TaskDirectory::of(directory, *task)
            .spec()
            .is_ok_and(|spec| spec.name == name)
    });
    let made = |task: &TaskId| {
        fs::metadata(TaskDirectory::of(directory, *task).path().join("spec.json"))?.modified()
    };
    named.max_by_key(|task| made(task).ok()).ok_or_else(unknown)
}
