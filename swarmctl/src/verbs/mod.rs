//! One module per verb: sends requests to netd and prints the answers.

mod address;
mod convergence;
mod events;
mod everywhere;
mod exec;
mod logs;
mod membership;
mod network;
mod node;
mod peers;
mod reach;
mod service;
mod task;
mod traffic;
mod update;
mod verify;

pub(crate) use events::events;
pub(crate) use exec::exec;
pub(crate) use membership::{Printed, debug, init, join, leave, rotate_token, status, token};
pub(crate) use network::network;
pub(crate) use node::node;
pub(crate) use service::service;
pub(crate) use task::task;
pub(crate) use verify::check_ledger;

use anyhow::Result;
use model::Failure;

use crate::{arguments::WaitFlags, failure};

/// Whether a command returns before what it has begun is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It waits and shows progress.
    Shown,
    /// It waits and shows nothing.
    Silent,
    /// It returns at once.
    Detached,
}

impl Wait {
    /// As the flags of the command line say.
    fn of(flags: &WaitFlags) -> Self {
        match (flags.detach, flags.quiet) {
            (true, _) => Self::Detached,
            (false, true) => Self::Silent,
            (false, false) => Self::Shown,
        }
    }
}

/// Does the same for several objects and goes on after errors. The exit code is that of the last.
async fn each<F: Future<Output = Result<()>>>(
    names: &[String],
    act: impl Fn(String) -> F,
) -> Result<u8> {
    let mut code = 0;
    for name in names {
        if let Err(error) = act(name.clone()).await {
            code = failure::tell(&error);
        }
    }
    Ok(code)
}

/// Asks for several objects one by one; those that are there, and the exit code of those that are
/// not. Errors: none is.
async fn collect<T, F: Future<Output = Result<T, Failure>>>(
    names: &[String],
    ask: impl Fn(String) -> F,
) -> Result<(Vec<T>, u8)> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match ask(name.clone()).await {
            Ok(items) => found.push(items),
            Err(failure) => missing.push(failure.into()),
        }
    }
    let last = if found.is_empty() {
        missing.pop()
    } else {
        None
    };
    let mut code = 0;
    for error in &missing {
        code = failure::tell(error);
    }
    last.map_or(Ok((found, code)), Err)
}
