//! Watching at the leader: what is there, then every change after it, in order. Each watch is a
//! place in the one sequence of changes and keeps none of them: who is slow reads the history.

use std::{sync::Arc, time::Duration};

use model::{
    Begin, Change, Kind, Level, Millis, ObjectRef, Progress, Refusal, StateMachine, Watch, Watched,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, interval, sleep},
};

use crate::{
    history::{Gap, HistoryError},
    raft::{Consensus, Retry, confirmed, now},
};

/// The most changes, or objects, of one message.
const AT_ONCE: usize = 500;
/// Messages that wait for a slow reader; then its watch stands still.
const QUEUE: usize = 4;
/// Interval at which a watch checks that this manager still leads and that it has not ended.
const CHECK: Duration = Duration::from_millis(500);
/// Interval at which one that sees no change is told how far it is.
const BOOKMARK: Duration = Duration::from_secs(10);
/// How far a service is, is told at most this often.
const STATUS: Duration = Duration::from_millis(50);
/// Pause while the history catches up.
const PAUSE: Duration = Duration::from_millis(100);

/// What a watch is told, or why it ends.
pub type Told = Result<Watched, Refusal>;

/// Begins a watch at this manager, which must lead. It ends with its reader, or with the
/// leadership. Errors: too many watch already, or there is nothing to watch.
pub(crate) async fn open<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    watch: Watch,
) -> Result<Result<mpsc::Receiver<Told>, Refusal>, Retry> {
    let Ok(place) = consensus.watchers.clone().try_acquire_owned() else {
        return Ok(Err(too_many()));
    };
    // What the caller has seen of the cluster is in what it is told.
    confirmed(consensus.raft.ensure_linearizable()).await?;
    consensus.catch_up().await?;
    let status = match &watch.status_of {
        None => None,
        Some(name) => match consensus.machine.read(|state| state.progress(name)) {
            Ok(progress) => Some(progress),
            Err(refusal) => return Ok(Err(refusal)),
        },
    };
    let status_of = status.map(|progress| progress.service.id.to_string());
    Ok(Ok(begin(consensus, watch, status_of, place)))
}

/// Begins a watch that is told of the status of the service of this id, too.
pub(crate) fn begin<S: StateMachine>(
    consensus: Arc<Consensus<S>>,
    watch: Watch,
    status_of: Option<String>,
    place: OwnedSemaphorePermit,
) -> mpsc::Receiver<Told> {
    let (down, receiver) = mpsc::channel(QUEUE);
    let watching = Watching {
        consensus,
        down,
        seen: 0,
        pages: Vec::new(),
        skips: matches!(watch.begin, Begin::At(_)),
        status_of,
        status: None,
        watch,
    };
    tokio::spawn(watching.run(place));
    receiver
}

struct Watching<S> {
    consensus: Arc<Consensus<S>>,
    watch: Watch,
    down: mpsc::Sender<Told>,
    /// All changes up to this revision have been told.
    seen: u64,
    /// Of a snapshot: the last object of each page, and the revision at which it was read.
    pages: Vec<(ObjectRef, u64)>,
    /// Whether changes that are not kept are left out, and the watch told so.
    skips: bool,
    /// By id: another service may take the name.
    status_of: Option<String>,
    /// As told last.
    status: Option<Progress>,
}

/// Why a watch ends.
enum End {
    /// Nobody reads it, or this manager no longer leads.
    Gone,
    /// With this last word.
    Said(Told),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Said(Err(refusal))
    }
}

impl<S: StateMachine> Watching<S> {
    async fn run(mut self, _place: OwnedSemaphorePermit) {
        let down = self.down.clone();
        let ended = match self.begin().await {
            Ok(()) => self.follow().await,
            Err(end) => end,
        };
        if let End::Said(last) = ended {
            let _gone = down.send(last).await;
        }
    }

    async fn say(&self, watched: Watched) -> Result<(), End> {
        self.down.send(Ok(watched)).await.map_err(|_| End::Gone)
    }

    async fn begin(&mut self) -> Result<(), End> {
        let revision = self.consensus.machine.read(StateMachine::revision);
        self.seen = match self.watch.begin {
            Begin::Snapshot => self.tell_what_is_there().await?,
            Begin::Now => revision,
            Begin::After(revision) => revision,
            Begin::At(moment) => self.before(moment).await?,
        };
        let revision = self.seen;
        self.say(Watched::Begins { revision }).await
    }

    /// Reads what is there in pages, so that commands need not wait for all of it. Returns the
    /// revision of the first one: what changes meanwhile is told afterwards.
    async fn tell_what_is_there(&mut self) -> Result<u64, End> {
        let (mut first, mut last) = (None, None);
        loop {
            let (revision, page) = self
                .consensus
                .machine
                .read(|state| (state.revision(), state.present(last, AT_ONCE)));
            let first = *first.get_or_insert(revision);
            let Some(newest) = page.last() else {
                return Ok(first);
            };
            last = Some(newest.object);
            self.pages.push((newest.object, revision));
            let wanted = page.into_iter().filter(|it| self.watch.filter.takes(it));
            let wanted: Vec<Change> = wanted.collect();
            if !wanted.is_empty() {
                self.say(Watched::Present(wanted)).await?;
            }
        }
    }

    async fn before(&self, moment: Millis) -> Result<u64, End> {
        let history = self.consensus.history.clone();
        let found = tokio::task::spawn_blocking(move || history.before(moment)).await;
        match found {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(error)) => Err(unreadable(&error).into()),
            Err(_) => Err(End::Gone),
        }
    }

    async fn follow(&mut self) -> End {
        let mut applied = self.consensus.machine.applied();
        let mut check = interval(CHECK);
        let mut told_at = Instant::now();
        loop {
            applied.borrow_and_update();
            let seen = self.seen;
            let told = match self.tell().await {
                Ok(told) => told,
                Err(end) => return end,
            };
            let revision = self.seen;
            if told {
                told_at = Instant::now();
            } else if told_at.elapsed() >= BOOKMARK && seen < revision {
                told_at = Instant::now();
                let changes = Vec::new();
                let bookmark = Watched::Changes { revision, changes };
                if let Err(end) = self.say(bookmark).await {
                    return end;
                }
            }
            if self.watch.until.is_some_and(|until| now() > until) {
                return End::Said(Ok(Watched::Ends));
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return End::Gone },
                _ = check.tick() => if !self.consensus.standing.leads() { return End::Gone },
                () = self.down.closed() => return End::Gone,
            }
            if self.status_of.is_some() {
                sleep(STATUS).await;
            }
        }
    }

    /// Tells all that is new. Whether that was anything.
    async fn tell(&mut self) -> Result<bool, End> {
        let mut told = false;
        loop {
            let (revision, changes) = match self.consensus.machine.changes_after(self.seen, AT_ONCE)
            {
                Ok(found) => found,
                Err(_) => self.read_history().await?,
            };
            if revision == self.seen {
                break;
            }
            told |= self.tell_some(revision, &changes).await?;
        }
        self.tell_status().await?;
        Ok(told)
    }

    async fn tell_some(&mut self, revision: u64, changes: &[Arc<Change>]) -> Result<bool, End> {
        let mut wanted = Vec::new();
        for change in changes {
            if self.watch.until.is_some_and(|until| change.at > until) {
                self.say_some(revision, wanted).await?;
                return Err(End::Said(Ok(Watched::Ends)));
            }
            if self.watch.filter.takes(change) && !self.has_been_read(change) {
                wanted.push(Change::clone(change));
            }
        }
        self.seen = revision;
        if self.pages.iter().all(|(_, read)| *read <= revision) {
            self.pages.clear();
        }
        self.say_some(revision, wanted).await
    }

    async fn say_some(&self, revision: u64, changes: Vec<Change>) -> Result<bool, End> {
        if changes.is_empty() {
            return Ok(false);
        }
        self.say(Watched::Changes { revision, changes }).await?;
        Ok(true)
    }

    /// Whether the page of the snapshot that has its object was read after the change.
    fn has_been_read(&self, change: &Change) -> bool {
        let page = self.pages.iter().find(|(last, _)| *last >= change.object);
        page.is_some_and(|(_, read)| *read >= change.revision)
    }

    /// The next changes, which memory has forgotten.
    async fn read_history(&mut self) -> Result<(u64, Vec<Arc<Change>>), End> {
        loop {
            let (history, seen) = (self.consensus.history.clone(), self.seen);
            let object = self.watch.filter.object;
            let read = tokio::task::spawn_blocking(move || match object {
                Some(object) => history.of(object, seen, AT_ONCE),
                None => history.after(seen, AT_ONCE),
            });
            match read.await.map_err(|_| End::Gone)? {
                Ok(page) if page.through > seen => {
                    let changes = page.changes.into_iter().map(Arc::new).collect();
                    return Ok((page.through, changes));
                }
                // It is being written.
                Ok(_) => sleep(PAUSE).await,
                Err(HistoryError::Gap(gap)) if self.skips => {
                    let (after, through) = (gap.after.max(seen), gap.through);
                    self.say(Watched::Lost { after, through }).await?;
                    return Ok((gap.through, Vec::new()));
                }
                Err(HistoryError::Gap(gap)) => return Err(lost(gap).into()),
                Err(error) => return Err(unreadable(&error).into()),
            }
            if self.down.is_closed() || !self.consensus.standing.leads() {
                return Err(End::Gone);
            }
        }
    }

    async fn tell_status(&mut self) -> Result<(), End> {
        let Some(service) = &self.status_of else {
            return Ok(());
        };
        let progress = self.consensus.machine.read(|state| state.progress(service));
        match progress {
            // It was removed before the snapshot was read: no change will tell of that.
            Err(refusal) if self.status.is_none() => return Err(refusal.into()),
            // Its removal is a change.
            Err(_) => self.status_of = None,
            Ok(progress) if self.status.as_ref() == Some(&progress) => {}
            Ok(progress) => {
                self.status = Some(progress.clone());
                self.say(Watched::Status(Box::new(progress))).await?;
            }
        }
        Ok(())
    }
}

fn too_many() -> Refusal {
    Refusal::new(
        Kind::Exhausted,
        "the leader is watched by as many as it can tell of changes",
        "end some of those that watch (`swarmctl events`, commands that wait), then try again",
    )
}

fn lost(gap: Gap) -> Refusal {
    let Gap { after, through } = gap;
    Refusal::new(
        Kind::NotFound,
        format!("the leader does not have the changes after revision {after} up to {through}"),
        format!(
            "begin at a time, or after revision {through}; who follows objects reads them anew"
        ),
    )
}

fn unreadable(error: &HistoryError) -> Refusal {
    Refusal::new(
        Kind::Unavailable,
        format!("the leader's disk does not give earlier changes: {error}"),
        "read netd's log on the leader (`swarmctl node ls` shows it)",
    )
}

/// A later leader may be of a version that cannot be watched.
pub(crate) fn unwatchable() -> Refusal {
    Refusal::new(
        Kind::Precondition,
        format!(
            "the leader's netd is of a version before level {}, which cannot be watched",
            Level::SHARED_VIEWS
        ),
        "finish the upgrade: `swarmctl node ls` shows each node's level",
    )
}
