//! Runs this host's tasks. [`spawn`] is the reconciler inside the daemon, which decides; an
//! [`Executor`] does the rest. There is one: [`Exec`], for commands in namespaces of their own. A
//! task outlives the daemon: all that is known of it is its executor's to remember.

#![warn(unreachable_pub)]

mod connections;
mod exec;
mod executor;
mod health;
mod process;
mod reconcile;

pub use exec::{Exec, TaskError, stage};
pub use executor::{
    End, Executor, Input, LogLine, Output, Probed, Progress, Source, Start, Stats, Until,
};
pub use process::Process;
pub use reconcile::{Sandboxes, spawn};
