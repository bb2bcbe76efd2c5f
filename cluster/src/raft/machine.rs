//! The state machine behind the log: state in memory, snapshots in one file.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use model::{
    Change, Level, RecordError, Response, RestoreError, StateMachine, Touched, hex, level,
};
use openraft::{
    BasicNode, Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageIOError, StoredMembership, storage::RaftStateMachine,
};
use sha2::{Digest, Sha256};
use tokio::{sync::watch, time::timeout};

use super::{
    LogId, StorageError, Types,
    digests::{Digests, EVERY, StateDigest},
    feed::{Feed, Place},
    log::Voters,
};
use crate::{ClusterError, files};

/// How long a snapshot waits for the history that it holds.
const HISTORY_PATIENCE: Duration = Duration::from_secs(10);

type Meta = SnapshotMeta<u64, BasicNode>;
type Membership = StoredMembership<u64, BasicNode>;

/// The state and where it stands. Clones share it.
pub(crate) struct Machine<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    inner: RwLock<Inner<S>>,
    applied: watch::Sender<u64>,
    /// The revision up to which the history is on the disk.
    kept: watch::Sender<u64>,
    /// The revision of the snapshot that is being written.
    pictured: watch::Sender<u64>,
    path: PathBuf,
    /// The newest level that this netd knows.
    known: Level,
    /// Last log id of the snapshot on disk. Locked while it is written.
    stored: Mutex<Option<LogId>>,
    voters: Voters,
    digests: Mutex<Digests>,
    /// A state is being digested.
    digesting: AtomicBool,
}

struct Inner<S> {
    state: S,
    applied: Option<LogId>,
    membership: Membership,
    feed: Feed,
}

impl<S> Clone for Machine<S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<S: StateMachine> Machine<S> {
    /// The state of the snapshot in this file, or the first state of all. Errors: the file is
    /// damaged, or a later version wrote it.
    pub(crate) fn open(path: &Path, known: Level) -> Result<Self, ClusterError> {
        let inner = match files::read(path)? {
            None => Inner {
                state: S::default(),
                applied: None,
                membership: Membership::default(),
                feed: Feed::default(),
            },
            Some(bytes) => parse(path, &bytes, known)
                .and_then(|(meta, state)| Inner::restored(&meta, state, known))
                .map_err(|error| unreadable(path, error))?,
        };
        let (applied, stored) = (
            watch::Sender::new(index_of(&inner.applied)),
            Mutex::new(inner.applied),
        );
        let shared = Shared {
            inner: RwLock::new(inner),
            applied,
            // Until there is a history, nothing waits for it.
            kept: watch::Sender::new(u64::MAX),
            pictured: watch::Sender::new(0),
            path: path.to_owned(),
            known,
            stored,
            voters: Voters::default(),
            digests: Mutex::default(),
            digesting: AtomicBool::new(false),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Whether a state can be read from these bytes.
    pub(super) fn can_restore(
        &self,
        meta: &SnapshotMeta<u64, BasicNode>,
        state: &[u8],
    ) -> Result<(), RestoreError> {
        Inner::<S>::restored(meta, state, self.shared.known).map(drop)
    }

    /// Reads the state. Keep it short: nothing is applied meanwhile.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(
            &self
                .shared
                .inner
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .state,
        )
    }

    /// Looks at the state and at what has changed since a log index: `None` where that is not
    /// remembered. Returns the log index last applied, too.
    pub(crate) fn read_since<T>(
        &self,
        seen: Option<u64>,
        look: impl FnOnce(&S, Option<&Touched>) -> T,
    ) -> (u64, T) {
        let inner = self
            .shared
            .inner
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let touched = seen.and_then(|seen| inner.feed.touched(seen));
        let found = look(&inner.state, touched.as_ref());
        (index_of(&inner.applied), found)
    }

    /// Some changes after a revision: see [`Feed::after`]. Errors: the revision up to which they
    /// are forgotten.
    pub(crate) fn changes_after(
        &self,
        revision: u64,
        most: usize,
    ) -> Result<(u64, Vec<Arc<Change>>), u64> {
        let inner = self
            .shared
            .inner
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let found = inner.feed.after(revision, most);
        found.ok_or_else(|| inner.feed.forgotten())
    }

    /// The revision of the newest snapshot, which waits for the history.
    pub(crate) fn pictured(&self) -> watch::Receiver<u64> {
        self.shared.pictured.subscribe()
    }

    /// The history is on the disk up to this revision: snapshots of the state may be.
    pub(crate) fn history_is_kept(&self, revision: u64) {
        self.shared.kept.send_replace(revision);
    }

    /// How many vote, to be kept by the log and by what is installed.
    pub(crate) fn voters(&self) -> Voters {
        self.shared.voters.clone()
    }

    /// The digest of the state as it stands.
    pub(crate) fn digest(&self) -> StateDigest {
        let inner = self
            .shared
            .inner
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let digest = Sha256::digest(inner.state.snapshot());
        StateDigest {
            index: index_of(&inner.applied),
            level: inner.state.level(),
            sha256: hex::encode(&digest),
        }
    }

    /// What this manager's state was at some log indexes, at which others have digests, too.
    pub(crate) fn digests(&self) -> Vec<StateDigest> {
        let digests = &self.shared.digests;
        digests.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// Digests a copy of the state, one at a time: where another is under way, this one is left
    /// out.
    fn digest_later(&self, index: u64, state: S) {
        let shared = self.shared.clone();
        if shared.digesting.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::task::spawn_blocking(move || {
            let digest = StateDigest {
                index,
                level: state.level(),
                sha256: hex::encode(&Sha256::digest(state.snapshot())),
            };
            let mut digests = shared
                .digests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            digests.note(digest);
            shared.digesting.store(false, Ordering::Release);
        });
    }

    /// Makes this manager's state another one.
    #[cfg(test)]
    pub(crate) fn spoil(&self, work: impl FnOnce(&mut S)) {
        self.change(|inner| work(&mut inner.state));
    }

    /// The log index last applied; wakes with each change.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    fn change<T>(&self, work: impl FnOnce(&mut Inner<S>) -> T) -> T {
        let mut inner = self
            .shared
            .inner
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut inner);
        let applied = index_of(&inner.applied);
        drop(inner);
        self.shared.applied.send_replace(applied);
        result
    }

    /// Writes a snapshot, unless a newer one was installed while it was made: its entries may be
    /// gone from the log.
    async fn store(&self, meta: Meta, state: Vec<u8>) -> Result<(), ClusterError> {
        let shared = self.shared.clone();
        let failed = |reason: String| ClusterError::Raft {
            operation: "write a snapshot",
            reason,
        };
        let task = tokio::task::spawn_blocking(move || {
            let mut stored = shared.stored.lock().unwrap_or_else(PoisonError::into_inner);
            if *stored > meta.last_log_id {
                return Ok(());
            }
            let meta_line = serde_json::to_vec(&meta).map_err(|error| failed(error.to_string()))?;
            let (level, _) = level::open("the snapshot", &state, shared.known)
                .map_err(|error| failed(error.to_string()))?;
            let bytes = content(level, &meta_line, &state);
            files::write(&shared.path, &level::seal(level, bytes))?;
            *stored = meta.last_log_id;
            Ok(())
        });
        task.await.map_err(|error| failed(error.to_string()))?
    }
}

impl<S: StateMachine> Inner<S> {
    fn restored(meta: &Meta, state: &[u8], known: Level) -> Result<Self, RestoreError> {
        let state = S::restore(state, known)?;
        Ok(Self {
            feed: Feed::since(Place {
                index: index_of(&meta.last_log_id),
                revision: state.revision(),
            }),
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        })
    }

    fn apply(&mut self, entry: Entry<Types>) -> Result<Vec<Response>, serde_json::Error> {
        self.applied = Some(entry.log_id);
        Ok(match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(payload) => {
                let batch = payload.take()?;
                let index = entry.log_id.index;
                let mut responses = Vec::with_capacity(batch.entries.len());
                for command in batch.entries {
                    let applied = self.state.apply(index, command);
                    let revision = self.state.revision();
                    let place = Place { index, revision };
                    self.feed.push(place, applied.changes, applied.concern);
                    responses.push(applied.response);
                }
                responses
            }
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                Vec::new()
            }
        })
    }
}

/// What a snapshot file holds, which is a record: one line of JSON, the metadata, and the state's
/// own record; from [`Level::KEYS`] on before both a line with their SHA-256 in hexadecimal.
fn content(level: Level, meta: &[u8], state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(meta.len() + state.len() + 66);
    if level >= Level::KEYS {
        bytes.extend_from_slice(checksum(&[meta, b"\n", state]).as_bytes());
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(meta);
    bytes.push(b'\n');
    bytes.extend_from_slice(state);
    bytes
}

fn parse<'a>(path: &Path, bytes: &'a [u8], known: Level) -> Result<(Meta, &'a [u8]), RestoreError> {
    let (level, mut bytes) = level::open(&path.display().to_string(), bytes, known)?;
    let content = |reason: &str| RestoreError::Content(reason.to_owned());
    if level >= Level::KEYS {
        let (sum, rest) = line(bytes).ok_or_else(|| content("it has no checksum"))?;
        if sum != checksum(&[rest]).as_bytes() {
            return Err(content(
                "it is not what was written: its checksum is another one",
            ));
        }
        bytes = rest;
    }
    let (meta, state) = line(bytes).ok_or_else(|| content("it has no line of metadata"))?;
    let meta = serde_json::from_slice(meta).map_err(|error| content(&error.to_string()))?;
    Ok((meta, state))
}

/// The first line, and what follows it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn checksum(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    hex::encode(&digest.finalize())
}

fn unreadable(path: &Path, error: RestoreError) -> ClusterError {
    match error {
        RestoreError::Record(RecordError::TooNew(error)) => error.into(),
        error => ClusterError::Corrupt {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

fn index_of(id: &Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

/// A copy of the state, to be written.
pub(crate) struct Picture<S> {
    machine: Machine<S>,
    meta: Meta,
    revision: u64,
    state: Arc<S>,
}

impl<S: StateMachine> RaftSnapshotBuilder<Types> for Picture<S> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        // What a snapshot holds is not applied again after a restart: its changes would be lost.
        let mut kept = self.machine.shared.kept.subscribe();
        self.machine.shared.pictured.send_replace(self.revision);
        let history = kept.wait_for(|revision| *revision >= self.revision);
        if timeout(HISTORY_PATIENCE, history).await.is_err() {
            tracing::warn!("the history of changes is late; a snapshot is written without it");
        }
        let frozen = self.state.clone();
        let signature = || Some(self.meta.signature());
        let state = tokio::task::spawn_blocking(move || frozen.snapshot())
            .await
            .map_err(|error| StorageIOError::write_snapshot(signature(), &error))?;
        let stored = self.machine.store(self.meta.clone(), state.clone()).await;
        stored.map_err(|error| StorageIOError::write_snapshot(signature(), &error))?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: Box::new(Cursor::new(state)),
        })
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Machine<S> {
    type SnapshotBuilder = Picture<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let inner = self
            .shared
            .inner
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Response>>, StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut due = None;
        let applied: Result<_, serde_json::Error> = self.change(|inner| {
            let mut responses = Vec::new();
            for entry in entries {
                let index = entry.log_id.index;
                let begins = matches!(entry.payload, EntryPayload::Blank);
                responses.push(inner.apply(entry)?);
                if begins || index.is_multiple_of(EVERY) {
                    due = Some((index, inner.state.freeze()));
                }
            }
            Ok(responses)
        });
        if let Some((index, state)) = due {
            self.digest_later(index, state);
        }
        applied.map_err(|error| StorageIOError::read_logs(&error).into())
    }

    async fn get_snapshot_builder(&mut self) -> Picture<S> {
        let inner = self
            .shared
            .inner
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let snapshot_id = format!(
            "{}-{:016x}",
            index_of(&inner.applied),
            rand::random::<u64>()
        );
        let meta = Meta {
            last_log_id: inner.applied,
            last_membership: inner.membership.clone(),
            snapshot_id,
        };
        Picture {
            machine: self.clone(),
            meta,
            revision: inner.state.revision(),
            state: Arc::new(inner.state.freeze()),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let state = snapshot.into_inner();
        let restored = Inner::restored(meta, &state, self.shared.known);
        let restored = restored.map_err(std::io::Error::other);
        let restored = restored
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), &error))?;
        let stored = self.store(meta.clone(), state).await;
        stored.map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error))?;
        let membership = &meta.last_membership;
        let voters = &self.shared.voters;
        voters.are(*membership.log_id(), membership.membership());
        self.change(|inner| *inner = restored);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let path = self.shared.path.clone();
        let content = tokio::task::spawn_blocking(move || files::read(&path)).await;
        let content = content.map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        let Some(bytes) = content.map_err(|error| StorageIOError::read_snapshot(None, &error))?
        else {
            return Ok(None);
        };
        let (meta, state) = parse(&self.shared.path, &bytes, self.shared.known)
            .map_err(|error| StorageIOError::read_snapshot(None, &std::io::Error::other(error)))?;
        Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(state.to_vec())),
        }))
    }
}
