//! Writes what is applied into the history, beside the way of commands.

use std::time::Duration;

use model::{Change, StateMachine};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{Gap, History, HistoryError, Page, table::Durability};
use crate::raft::{Machine, now};

/// The most changes of one transaction.
const AT_ONCE: usize = 4_000;
/// Changes within this time are written together. It is short in tests, where memory holds few.
const TOGETHER: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
/// How long what is written may wait for the disk to have it. A crash of the process loses none of
/// it: a restart applies again what no snapshot has, and snapshots wait for the history.
const FLUSH: Duration = Duration::from_secs(1);
/// How often what is too old or too much is forgotten.
const PRUNE: Duration = Duration::from_secs(60);
/// Pause after the disk has failed.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the history of this machine's state, until dropped.
pub(crate) async fn keep<S: StateMachine>(machine: Machine<S>, history: History) {
    let mut applied = machine.applied();
    let mut failed_before = false;
    loop {
        let ended = follow(&machine, &history, &mut applied).await;
        let Err(error) = ended else { return };
        // Snapshots of the state must not wait for a disk that has no room.
        machine.history_is_kept(u64::MAX);
        if !failed_before {
            tracing::warn!(%error, "the history of changes is not kept");
        }
        failed_before = true;
        sleep(RETRY).await;
    }
}

/// How far the history is.
struct Keeping<'a, S> {
    machine: &'a Machine<S>,
    history: &'a History,
    /// Up to which revision it is whole.
    told: u64,
    /// Up to which revision the disk has it.
    flushed: u64,
    flushed_at: Instant,
    /// Whether changes were written since.
    changed: bool,
}

/// Until the machine is gone.
async fn follow<S: StateMachine>(
    machine: &Machine<S>,
    history: &History,
    applied: &mut watch::Receiver<u64>,
) -> Result<(), HistoryError> {
    let told = at(history, |history| history.table.through()).await?;
    let mut keeping = Keeping {
        machine,
        history,
        told,
        flushed: told,
        flushed_at: Instant::now(),
        changed: false,
    };
    machine.history_is_kept(told);
    let mut pictured = machine.pictured();
    let mut pruned_at = None;
    loop {
        applied.borrow_and_update();
        keeping.catch_up().await?;
        let awaited = *pictured.borrow_and_update();
        keeping.flush(awaited).await?;
        if pruned_at.is_none_or(|at: Instant| at.elapsed() >= PRUNE) {
            let limits = history.limits;
            while at(history, move |history| history.table.prune(limits, now())).await? {}
            pruned_at = Some(Instant::now());
        }
        sleep(TOGETHER).await;
        let rest = if keeping.changed { FLUSH } else { PRUNE };
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return Ok(()) },
            _ = pictured.changed() => {}
            () = sleep(rest) => {}
        }
    }
}

impl<S: StateMachine> Keeping<'_, S> {
    /// Writes what was applied since the last time.
    async fn catch_up(&mut self) -> Result<(), HistoryError> {
        loop {
            match self.machine.changes_after(self.told, AT_ONCE) {
                // What changes nothing is noted with the next flush.
                Ok((through, changes)) if changes.is_empty() => {
                    self.told = through;
                    return Ok(());
                }
                Ok((through, changes)) => {
                    let changes = changes.iter().map(|change| Change::clone(change)).collect();
                    self.append(through, changes, Durability::None).await?;
                    (self.told, self.changed) = (through, true);
                }
                Err(forgotten) => {
                    let gap = Gap {
                        after: self.told,
                        through: forgotten,
                    };
                    at(self.history, move |history| history.table.note(gap)).await?;
                    self.told = forgotten;
                }
            }
        }
    }

    /// Has the disk keep what is written, if that is due or a snapshot of this revision waits.
    async fn flush(&mut self, awaited: u64) -> Result<(), HistoryError> {
        let is_due = self.changed && self.flushed_at.elapsed() >= FLUSH;
        if !is_due && awaited <= self.flushed {
            return Ok(());
        }
        self.append(self.told, Vec::new(), Durability::Immediate)
            .await?;
        (self.flushed, self.flushed_at, self.changed) = (self.told, Instant::now(), false);
        self.machine.history_is_kept(self.flushed);
        Ok(())
    }

    async fn append(
        &self,
        through: u64,
        changes: Vec<Change>,
        durability: Durability,
    ) -> Result<(), HistoryError> {
        let level = self.machine.read(StateMachine::level);
        let page = Page { through, changes };
        at(self.history, move |history| {
            history.table.append(level, &page, durability)
        })
        .await
    }
}

/// Runs away from the async workers: it waits for the disk.
async fn at<T: Send + 'static>(
    history: &History,
    work: impl FnOnce(&History) -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, HistoryError> {
    let history = history.clone();
    let done = tokio::task::spawn_blocking(move || work(&history)).await;
    done.map_err(|error| HistoryError::Disk(error.to_string()))?
}
