//! `task …`, and lists of tasks.

use std::time::Duration;

use anyhow::Result;
use model::{Command, Query, TaskCommand, TaskInfo};

use super::{each, is_not_found};
use crate::{
    arguments::{Listing, TaskVerb},
    daemon::Daemon,
    output::{self, List},
    values::{age, now},
};

const PAUSE: Duration = Duration::from_millis(100);

/// `task …`.
pub async fn task(daemon: &Daemon, verb: TaskVerb) -> Result<u8> {
    match verb {
        TaskVerb::Rm { tasks, detach } => each(&tasks, |name| rm(daemon, name, detach)).await,
    }
}

async fn rm(daemon: &Daemon, name: String, detach: bool) -> Result<()> {
    // By id: the name passes to the next run.
    for found in daemon.tasks(Query::Task(name.clone())).await? {
        daemon
            .propose(Command::Task(TaskCommand::Replace {
                task: found.id.to_string(),
            }))
            .await?;
        while !detach && !has_ended(daemon, &found).await? {
            tokio::time::sleep(PAUSE).await;
        }
    }
    output::print(&name)
}

async fn has_ended(daemon: &Daemon, task: &TaskInfo) -> Result<bool> {
    match daemon.tasks(Query::Task(task.id.to_string())).await {
        Ok(tasks) => Ok(tasks.iter().all(|task| task.state.is_terminal())),
        Err(error) if is_not_found(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Prints tasks.
pub fn print(tasks: &[TaskInfo], listing: &Listing) -> Result<()> {
    if listing.quiet {
        return tasks
            .iter()
            .try_for_each(|task| output::print(&task.id.to_string()));
    }
    let now = now();
    List::of(tasks)
        .column("ID", |task| task.id.to_string())
        .column("NAME", |task| task.name.clone())
        .column("NODE", |task| task.node.clone())
        .column("DESIRED", |task| task.desired_state.to_string())
        .column("STATE", |task| {
            format!("{} {}", task.state, age(now, task.since))
        })
        .column("ADDRESSES", |task| output::join(&task.addresses))
        .column("ERROR", |task| task.message.clone())
        .print(listing.output)
}
