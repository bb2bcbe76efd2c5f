//! The Raft log on disk: entries, vote and marks, each a record with its level. Acknowledged means
//! fsynced.
//!
//! From [`Level::SHARED_VIEWS`] on it is a directory of files that are appended to, and before it
//! the database of the versions of that time. It moves from one to the other with the first entry
//! of that level.

mod ahead;
mod moving;
mod record;
mod redb;
mod replay;
mod segment;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt::Debug,
    fs::{File, OpenOptions, TryLockError},
    io,
    ops::{Bound, Range, RangeBounds},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU16, Ordering},
    },
};

use model::{Level, level};
use openraft::{
    BasicNode, Entry, EntryPayload, LogState, Membership, OptionalSend, RaftLogReader,
    StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{LogId, StorageError, Types};
use crate::{ClusterError, files};
use ahead::Ahead;
pub(super) use ahead::Voters;
use moving::{DATABASE, FILES};
use redb::Old;
use replay::Marks;
pub(crate) use store::SEGMENT_BYTES;
use store::Store;

/// Bytes of one append request: it must arrive, be decoded and be written within one heartbeat.
const BATCH_BYTES: usize = 256 << 10;

/// The log. Clones share it; closing one closes all.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    disk: RwLock<Option<Disk>>,
    /// The newest level that this netd knows.
    known: Level,
    /// That of the newest entry: what Raft itself writes has no other.
    level: AtomicU16,
    ahead: Ahead,
}

struct Disk {
    form: Form,
    _lock: File,
}

enum Form {
    Database(Old),
    Files(Box<Store>),
}

/// An entry and its record.
struct Encoded {
    index: u64,
    bytes: Vec<u8>,
    entry: Entry<Types>,
}

impl Log {
    /// Opens or makes the log in Raft's directory, for a state of this level. Errors: another netd
    /// has it open, it is damaged, or a later version wrote it.
    pub(crate) fn open(directory: &Path, known: Level, level: Level) -> Result<Self, ClusterError> {
        let lock = lock(directory)?;
        let place = directory.join(FILES);
        let (form, level) = if place.exists() {
            let store = Store::open(&place, known, SEGMENT_BYTES)?;
            moving::leave_word(directory)?;
            let level = level.max(store.level());
            (Form::Files(Box::new(store)), level)
        } else {
            let path = directory.join(DATABASE);
            let (old, newest) = Old::open(&path, known)?;
            let synced = segment::sync_directory(directory);
            let moved = synced.and_then(|()| old.has_moved());
            if moved.map_err(|source| files::failed("read", &path, source))? {
                return Err(ClusterError::Damaged {
                    path: place,
                    offset: 0,
                    reason: "this directory of the log is missing".to_owned(),
                });
            }
            let level = level.max(newest);
            (settled(directory, old, known, level)?, level)
        };
        let disk = Disk { form, _lock: lock };
        Ok(Self {
            shared: Arc::new(Shared {
                directory: directory.to_owned(),
                disk: RwLock::new(Some(disk)),
                known,
                level: AtomicU16::new(level.0),
                ahead: Ahead::new(),
            }),
        })
    }

    /// Says whose log this is, and who votes. From then on a leader's entries are sent to other
    /// managers while they are written.
    pub(super) async fn belongs_to(&self, me: u64, voters: Voters) -> Result<(), ClusterError> {
        let ahead = &self.shared.ahead;
        ahead.belongs_to(me, voters);
        let own = |error| files::failed("write", &self.shared.directory, error);
        let marks = self.run(|shared| shared.read(Form::marks)).await;
        match marks.map_err(own)?.vote {
            Some(vote) if ahead.is_own(&vote) => self.keep_vote(vote).await.map_err(own),
            _ => Ok(()),
        }
    }

    /// Waits until entries up to this one are on the disk. Errors: they will not be.
    pub(super) async fn written(&self, last: u64) -> io::Result<()> {
        self.shared.ahead.written(last).await
    }

    /// Waits for a disk that has not taken an entry within a heartbeat.
    pub(super) async fn prompt(&self) -> io::Result<()> {
        self.shared.ahead.prompt().await
    }

    async fn keep_vote(&self, vote: Vote<u64>) -> io::Result<()> {
        self.shared.ahead.written(u64::MAX).await?;
        self.run(move |shared| shared.keep_vote(vote)).await
    }

    /// Closes the files; whatever comes later fails.
    pub(super) fn close(&self) {
        let mut disk = self
            .shared
            .disk
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Disk {
            form: Form::Files(store),
            ..
        }) = disk.take()
            && let Err(error) = self.shared.end(&store)
        {
            tracing::warn!(%error, "the log was not closed cleanly");
        }
    }

    /// Whether nothing was ever written.
    pub(super) async fn is_new(&self) -> Result<bool, ClusterError> {
        let marks = self.run(|shared| shared.read(Form::marks)).await;
        let marks =
            marks.map_err(|source| files::failed("read", &self.shared.directory, source))?;
        Ok(marks == Marks::default())
    }

    /// Works away from the async workers: it waits for the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shared = self.shared.clone();
        let task = tokio::task::spawn_blocking(move || work(&shared));
        task.await.map_err(io::Error::other)?
    }

    async fn entries(
        &self,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        let unwritten = self.shared.ahead.find(range.clone());
        let stored = match unwritten.first() {
            Some((first, _)) => range.start..first.log_id.index.max(range.start),
            None => range,
        };
        let mut entries = self.stored(stored, limit).await?;
        // What is on the disk is enough for a request to another manager.
        let mut room = match limit {
            usize::MAX => limit,
            _ if entries.is_empty() => limit,
            _ => 0,
        };
        for (entry, bytes) in unwritten {
            if bytes > room && !entries.is_empty() {
                break;
            }
            room = room.saturating_sub(bytes);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The id of an entry that the log has.
    pub(super) async fn id_at(&self, index: u64) -> Option<LogId> {
        let found = self.entries(index..index.saturating_add(1), 1).await;
        found.ok()?.first().map(|entry| entry.log_id)
    }

    async fn stored(
        &self,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let cached = range.clone();
        if let Ok(Some(entries)) = self.shared.read(|form| Ok(form.read_cached(cached, limit))) {
            return Ok(entries);
        }
        let entries = self.run(move |shared| shared.read(|form| form.read(range, limit)));
        let entries = entries.await;
        entries.map_err(|error| StorageIOError::read_logs(&error).into())
    }

    async fn marks(&self) -> Result<Marks, StorageError> {
        let marks = self.run(|shared| shared.read(Form::marks)).await;
        marks.map_err(|error| StorageIOError::read(&error).into())
    }
}

impl Shared {
    fn level(&self) -> Level {
        Level(self.level.load(Ordering::Relaxed))
    }

    fn read<T>(&self, work: impl FnOnce(&Form) -> io::Result<T>) -> io::Result<T> {
        let disk = self.disk.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || io::Error::other("the log is closed");
        work(&disk.as_ref().ok_or_else(closed)?.form)
    }

    fn append(&self, entries: Vec<Encoded>) -> io::Result<()> {
        let level = self.level();
        if level >= Level::SHARED_VIEWS && self.read(|form| Ok(form.is_database()))? {
            self.move_over(level)?;
        }
        self.read(|form| match form {
            Form::Database(old) => old.append(&entries),
            Form::Files(store) => store.append(level, entries),
        })
    }

    /// Writes a vote. That of this manager as leader is a candidate's on the disk.
    fn keep_vote(&self, vote: Vote<u64>) -> io::Result<()> {
        let level = self.level();
        self.read(|form| match form {
            Form::Database(old) => {
                self.ahead.leads_by(None);
                old.save_vote(level, &vote)
            }
            Form::Files(store) if self.ahead.is_own(&vote) => {
                let candidate = Vote {
                    committed: false,
                    ..vote
                };
                if store.marks().vote != Some(candidate) {
                    store.save_vote(level, &candidate)?;
                }
                self.ahead.leads_by(Some(vote));
                Ok(())
            }
            Form::Files(store) => {
                self.ahead.leads_by(None);
                store.save_vote(level, &vote)
            }
        })
    }

    /// Writes what waits until nothing does.
    fn write_ahead(&self) {
        loop {
            // What is taken is written before the log can be closed.
            let written = self.read(|form| {
                let Some(entries) = self.ahead.take() else {
                    return Ok(false);
                };
                let last = entries.last().map_or(0, |entry| entry.index);
                match form {
                    Form::Database(old) => old.append(&entries)?,
                    Form::Files(store) => store.append(self.level(), entries)?,
                }
                self.ahead.is_written(last);
                Ok(true)
            });
            match written {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.ahead.fail(&error);
                    return;
                }
            }
        }
    }

    /// Writes the last. Whoever opens this log finds a leader that has all of its entries.
    fn end(&self, store: &Store) -> io::Result<()> {
        let level = self.level();
        if let Some(entries) = self.ahead.take() {
            store.append(level, entries)?;
        }
        if let Some(vote) = self.ahead.leads() {
            store.save_vote(level, &vote)?;
        }
        store.close(level)
    }

    fn move_over(&self, level: Level) -> io::Result<()> {
        let mut disk = self.disk.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Disk {
            form: Form::Database(old),
            _lock,
        }) = disk.take()
        else {
            return Err(io::Error::other("the log is closed"));
        };
        let form = settled(&self.directory, old, self.known, level).map_err(io::Error::other)?;
        *disk = Some(Disk { form, _lock });
        Ok(())
    }
}

/// The form that the log has in a cluster of this level.
fn settled(directory: &Path, old: Old, known: Level, level: Level) -> Result<Form, ClusterError> {
    if level < Level::SHARED_VIEWS {
        return Ok(Form::Database(old));
    }
    let store = moving::move_over(directory, &old, known, level)?;
    Ok(Form::Files(Box::new(store)))
}

fn lock(directory: &Path) -> Result<File, ClusterError> {
    let path = directory.join("lock");
    let failed = |source| files::failed("lock", &path, source);
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = open.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ClusterError::InUse(directory.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

impl Form {
    fn is_database(&self) -> bool {
        matches!(self, Self::Database(_))
    }

    fn marks(&self) -> io::Result<Marks> {
        match self {
            Self::Database(old) => old.marks(),
            Self::Files(store) => Ok(store.marks()),
        }
    }

    fn last(&self) -> io::Result<Option<Entry<Types>>> {
        match self {
            Self::Database(old) => old.last(),
            Self::Files(store) => store.last(),
        }
    }

    fn read(&self, range: Range<u64>, limit: usize) -> io::Result<Vec<Entry<Types>>> {
        match self {
            Self::Database(old) => old.read(range, limit),
            Self::Files(store) => store.read(range, limit),
        }
    }

    fn read_cached(&self, range: Range<u64>, limit: usize) -> Option<Vec<Entry<Types>>> {
        match self {
            Self::Database(_) => None,
            Self::Files(store) => store.read_cached(range, limit),
        }
    }
}

fn encode(level: Level, value: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(level::seal(level, serde_json::to_vec(value)?))
}

fn decode<T: DeserializeOwned>(record: &[u8], known: Level) -> io::Result<T> {
    let opened = level::open("a record of the log", record, known);
    let (_, body) = opened.map_err(io::Error::other)?;
    Ok(serde_json::from_slice(body)?)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start..end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        self.entries(start..end, BATCH_BYTES).await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last_purged_log_id = self.marks().await?.purged;
        let last = self.run(|shared| shared.read(Form::last)).await;
        let last = last.map_err(|error| StorageIOError::read_logs(&error))?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.map(|entry| entry.log_id).or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let saved = self.keep_vote(*vote).await;
        saved.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        let leads = self.shared.ahead.leads();
        Ok(leads.or(self.marks().await?.vote))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let shared = &self.shared;
        let saved = shared.read(|form| match form {
            Form::Database(old) => old.save_committed(shared.level(), committed),
            Form::Files(store) => {
                store.save_committed(committed);
                Ok(())
            }
        });
        saved.map_err(|error| StorageIOError::write(&error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.marks().await?.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            if let EntryPayload::Normal(payload) = &entry.payload {
                self.raise(payload.level());
            }
            let bytes = encode(self.shared.level(), &entry);
            encoded.push(Encoded {
                index: entry.log_id.index,
                bytes: bytes.map_err(|error| StorageIOError::write_logs(&error))?,
                entry,
            });
        }
        let ahead = &self.shared.ahead;
        if ahead.takes(&encoded) {
            if ahead.put(encoded) {
                let shared = self.shared.clone();
                tokio::task::spawn_blocking(move || shared.write_ahead());
            }
            callback.log_io_completed(Ok(()));
            return Ok(());
        }
        let memberships = memberships_of(&encoded);
        let written = match ahead.written(u64::MAX).await {
            Ok(()) => self.run(|shared| shared.append(encoded)).await,
            Err(error) => Err(error),
        };
        if written.is_ok() {
            for (said, membership) in &memberships {
                ahead.voters().are(Some(*said), membership);
            }
        }
        let failed = written
            .as_ref()
            .err()
            .map(|error| StorageIOError::write_logs(error).into());
        callback.log_io_completed(written);
        failed.map_or(Ok(()), Err)
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let cut = match self.shared.ahead.written(u64::MAX).await {
            Ok(()) => {
                let cut = move |form: &Form, level| match form {
                    Form::Database(old) => old.truncate(from.index),
                    Form::Files(store) => store.truncate(level, from.index),
                };
                self.run(move |shared| shared.read(|form| cut(form, shared.level())))
                    .await
            }
            Err(error) => Err(error),
        };
        self.shared.ahead.voters().forget(from.index);
        cut.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let cut = self.run(move |shared| {
            shared.read(|form| match form {
                Form::Database(old) => old.purge(shared.level(), upto),
                Form::Files(store) => store.purge(shared.level(), upto),
            })
        });
        let cut = cut.await;
        cut.map_err(|error| StorageIOError::write_logs(&error).into())
    }
}

/// Who votes, of the entries that say so.
fn memberships_of(entries: &[Encoded]) -> Vec<(LogId, Membership<u64, BasicNode>)> {
    let mut found = Vec::new();
    for one in entries {
        if let EntryPayload::Membership(membership) = &one.entry.payload {
            found.push((one.entry.log_id, membership.clone()));
        }
    }
    found
}

impl Log {
    /// What is written from now on is of this level or a newer one.
    fn raise(&self, level: Level) {
        self.shared.level.fetch_max(level.0, Ordering::Relaxed);
    }
}
