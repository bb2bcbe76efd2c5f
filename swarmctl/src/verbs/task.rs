//! `task …`, and lists of tasks.

use anyhow::Result;
use model::{Command, Kind, Question, TaskCommand, TaskInfo};

use super::each;
use crate::{
    arguments::{Listing, TaskVerb},
    daemon::Daemon,
    output::{self, List},
    values::{age, now},
    watching::follow,
};

/// `task …`.
pub(crate) async fn task(daemon: &Daemon, verb: TaskVerb) -> Result<u8> {
    match verb {
        TaskVerb::Rm {
            tasks,
            detach: true,
        } => each(&tasks, |name| rm(daemon, name)).await,
        TaskVerb::Rm {
            tasks,
            detach: false,
        } => each(&tasks, |name| rm_and_wait(daemon, name)).await,
    }
}

async fn rm(daemon: &Daemon, name: String) -> Result<()> {
    replace(daemon, &name).await?;
    output::print(&name)
}

async fn rm_and_wait(daemon: &Daemon, name: String) -> Result<()> {
    let found = replace(daemon, &name).await?;
    wait_until_ended(daemon, &found).await?;
    output::print(&name)
}

/// Lets another run take the place of a task. It is told by id: the name passes to the next run.
async fn replace(daemon: &Daemon, name: &str) -> Result<TaskInfo> {
    let found = daemon.ask(Question::task(name)).await?;
    let command = Command::Task(TaskCommand::Replace {
        task: found.id.to_string(),
    });
    daemon.propose(format!("task {name}"), command).await?;
    Ok(found)
}

async fn wait_until_ended(daemon: &Daemon, task: &TaskInfo) -> Result<()> {
    let mut followed = match follow(daemon, &task.service).await {
        // Its service is removed, and so is all of it.
        Err(failure) if failure.kind == Kind::NotFound => return Ok(()),
        followed => followed?,
    };
    let mut is_told = true;
    while is_told {
        let known = followed.tasks.get(&task.id);
        is_told = !followed.gone && known.is_some_and(|task| !task.state.is_terminal());
        if is_told {
            followed.change().await?;
        }
    }
    Ok(())
}

/// Prints tasks.
pub(crate) fn print(tasks: &[TaskInfo], listing: &Listing) -> Result<()> {
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
