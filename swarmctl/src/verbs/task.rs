//! Lists of tasks.

use anyhow::Result;
use model::TaskInfo;

use crate::{
    arguments::Listing,
    output::{self, List},
    values::{age, now},
};

/// Prints tasks.
pub fn print(tasks: &[TaskInfo], listing: &Listing) -> Result<()> {
    if listing.quiet {
        return tasks.iter().try_for_each(|task| output::print(&task.id.to_string()));
    }
    let now = now();
    List::of(tasks)
        .column("ID", |task| task.id.to_string())
        .column("NAME", |task| task.name.clone())
        .column("NODE", |task| task.node.clone())
        .column("DESIRED", |task| task.desired_state.to_string())
        .column("STATE", |task| format!("{} {}", task.state, age(now, task.since)))
        .column("ADDRESSES", |task| output::join(&task.addresses))
        .column("ERROR", |task| task.message.clone())
        .print(listing.output)
}
