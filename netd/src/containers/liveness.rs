//! Releases containers that CNI runtimes attached here and forgot: their network namespace is gone,
//! or of another boot. Living containers are never touched; without a leader the release is
//! retried.

use std::{sync::Arc, time::Duration};

use model::Failure;
use tokio::{sync::OwnedMutexGuard, time::sleep};

use super::{cni, is_gone};
use crate::daemon::{Daemon, Member};

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);
/// The most that are given up at once.
const BATCH: usize = 256;

/// Looks until the daemon ends.
pub(crate) async fn run(daemon: Arc<Daemon>) -> Result<(), Failure> {
    loop {
        let member = daemon.member.borrow().clone();
        if let Some(member) = member
            && cni::load(&daemon, &member).await.is_ok()
        {
            sweep(&daemon, &member).await;
        }
        sleep(PERIOD).await;
    }
}

async fn sweep(daemon: &Daemon, member: &Member) {
    let mut turns: Vec<OwnedMutexGuard<()>> = Vec::new();
    let mut ended = Vec::new();
    for id in daemon.roster.ended(is_gone).into_iter().take(BATCH) {
        // Somebody is at work on a busy one.
        if let Some(turn) = daemon.roster.turn_if_free(&id) {
            turns.push(turn);
            ended.push(id);
        }
    }
    // Before their turn they may have been attached anew.
    let still = daemon.roster.ended(is_gone);
    ended.retain(|id| still.contains(id));
    if !ended.is_empty() && cni::detach(daemon, member, &ended).await {
        tracing::info!(
            containers = ended.join(" "),
            "released interfaces of CNI containers whose network namespace is gone"
        );
    }
}
