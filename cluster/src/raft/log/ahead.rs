//! Entries of a leader that the other managers write to their disks while it writes them to its
//! own.
//!
//! openraft has a leader's entries sent to the other managers once its log says that it has them,
//! so a log that flushed first would add its flush to theirs. A log that leads says so at once and
//! flushes meanwhile, as etcd does; what waits for one flush shares the next. Three things make
//! that safe:
//!
//! - An entry counts as confirmed by another manager only when it is on this disk, too
//!   ([`Ahead::written`], which the way to a manager waits for). A majority of two or more voters
//!   has another manager, so nothing is committed that is not on the disks of a majority. An entry
//!   of a leader that votes alone, or that changes who votes, is on the disk before it counts.
//! - A leader that has lost entries in a crash must not lead on in the same term: it would give
//!   their places to others. On the disk its vote is that of a candidate. After a crash it stands
//!   for election again, in a later term; only a log that was closed says that its leader leads.
//! - A disk that hangs silences its leader ([`Ahead::prompt`]), so that another one is elected.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{BasicNode, Entry, EntryPayload, Membership, Vote};
use tokio::{sync::watch, time::Instant};

use super::{Encoded, LogId, Types};
use crate::timing::HEARTBEAT;

/// How many vote, by the newest entry that says so, committed or not. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Voters(Arc<Mutex<Option<Count>>>);

struct Count {
    /// The entry; none of a cluster that is yet to be made.
    said: Option<LogId>,
    voters: usize,
}

impl Voters {
    fn lock(&self) -> MutexGuard<'_, Option<Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry says who votes. An older one than is known changes nothing.
    pub(crate) fn are(&self, said: Option<LogId>, membership: &Membership<u64, BasicNode>) {
        let mut known = self.lock();
        if known.as_ref().is_none_or(|known| known.said <= said) {
            let voters = membership.voter_ids().count();
            *known = Some(Count { said, voters });
        }
    }

    /// Entries from this index on are gone. Who votes is not known where one of them said so.
    pub(crate) fn forget(&self, from: u64) {
        let is_gone = |said: LogId| said.index >= from;
        self.lock().take_if(|known| known.said.is_some_and(is_gone));
    }

    fn are_several(&self) -> bool {
        self.lock().as_ref().is_some_and(|known| known.voters > 1)
    }
}

/// What a leader's log has yet to write.
pub(super) struct Ahead {
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Inner {
    /// This manager; none where nobody said.
    me: Option<u64>,
    /// The vote of this manager while it leads.
    leads: Option<Vote<u64>>,
    voters: Voters,
    /// Nobody has taken them to the disk yet.
    waiting: Vec<Encoded>,
    /// What waits and what is being written, with bytes on disk.
    unwritten: BTreeMap<u64, (Entry<Types>, usize)>,
    is_writing: bool,
}

#[derive(Clone, Default)]
struct Progress {
    /// The first entry that is not on the disk, and since when it waits.
    first: Option<(u64, Instant)>,
    failed: Option<String>,
}

impl Progress {
    fn outcome(&self) -> io::Result<()> {
        match &self.failed {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None => Ok(()),
        }
    }
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose log this is, and who votes.
    pub(super) fn belongs_to(&self, me: u64, voters: Voters) {
        let mut inner = self.lock();
        (inner.me, inner.voters) = (Some(me), voters);
    }

    /// Who votes.
    pub(super) fn voters(&self) -> Voters {
        self.lock().voters.clone()
    }

    /// Whether this is the vote of a manager that leads, and this one.
    pub(super) fn is_own(&self, vote: &Vote<u64>) -> bool {
        vote.committed && self.lock().me == Some(vote.leader_id.node_id)
    }

    /// This manager leads by this vote, or does not.
    pub(super) fn leads_by(&self, vote: Option<Vote<u64>>) {
        self.lock().leads = vote;
    }

    /// The vote by which this manager leads.
    pub(super) fn leads(&self) -> Option<Vote<u64>> {
        self.lock().leads
    }

    /// Whether these entries may be sent to other managers before they are on the disk.
    pub(super) fn takes(&self, entries: &[Encoded]) -> bool {
        if self.progress.borrow().failed.is_some() {
            return false;
        }
        let inner = self.lock();
        let Some(vote) = inner.leads else {
            return false;
        };
        let is_plain = |one: &Encoded| {
            one.entry.log_id.leader_id == vote.leader_id
                && !matches!(one.entry.payload, EntryPayload::Membership(_))
        };
        inner.voters.are_several() && entries.iter().all(is_plain)
    }

    /// Takes entries to be written. Whether somebody has to begin to.
    pub(super) fn put(&self, entries: Vec<Encoded>) -> bool {
        let mut inner = self.lock();
        for one in &entries {
            let held = (one.entry.clone(), one.bytes.len());
            inner.unwritten.insert(one.index, held);
        }
        inner.waiting.extend(entries);
        let begins = !std::mem::replace(&mut inner.is_writing, true);
        self.tell(&inner);
        begins
    }

    /// The entries to write next; none ends the writing.
    pub(super) fn take(&self) -> Option<Vec<Encoded>> {
        let mut inner = self.lock();
        let waiting = std::mem::take(&mut inner.waiting);
        inner.is_writing = !waiting.is_empty();
        inner.is_writing.then_some(waiting)
    }

    /// Entries up to this one are on the disk.
    pub(super) fn is_written(&self, last: u64) {
        let mut inner = self.lock();
        inner.unwritten = inner.unwritten.split_off(&(last + 1));
        self.tell(&inner);
    }

    /// The disk has failed: nothing that waits will be written.
    pub(super) fn fail(&self, error: &io::Error) {
        let reason = error.to_string();
        self.progress
            .send_modify(|progress| progress.failed = Some(reason));
    }

    fn tell(&self, inner: &Inner) {
        let first = inner.unwritten.first_key_value().map(|(index, _)| *index);
        self.progress.send_if_modified(|progress| {
            if progress.first.map(|(index, _)| index) == first {
                return false;
            }
            progress.first = first.map(|index| (index, Instant::now()));
            true
        });
    }

    /// Those of a range that are not on the disk yet, with their bytes there.
    pub(super) fn find(&self, range: Range<u64>) -> Vec<(Entry<Types>, usize)> {
        if range.is_empty() {
            return Vec::new();
        }
        let inner = self.lock();
        let found = inner.unwritten.range(range);
        found.map(|(_, held)| held.clone()).collect()
    }

    /// Waits until the entries up to this one are on the disk. Errors: they will not be.
    pub(super) async fn written(&self, last: u64) -> io::Result<()> {
        let is_over = |progress: &Progress| {
            let waits = progress.first.is_some_and(|(first, _)| first <= last);
            !waits || progress.failed.is_some()
        };
        self.wait(is_over).await
    }

    /// Waits for a disk that takes longer than it may.
    pub(super) async fn prompt(&self) -> io::Result<()> {
        let is_prompt = |progress: &Progress| {
            let waits = progress.first.map(|(_, since)| since.elapsed());
            waits.is_none_or(|age| age < HEARTBEAT) || progress.failed.is_some()
        };
        self.wait(is_prompt).await
    }

    async fn wait(&self, is_over: impl Fn(&Progress) -> bool) -> io::Result<()> {
        {
            let progress = self.progress.borrow();
            if is_over(&progress) {
                return progress.outcome();
            }
        }
        let mut progress = self.progress.subscribe();
        let over = progress.wait_for(is_over).await;
        over.map_err(io::Error::other)?.outcome()
    }
}
