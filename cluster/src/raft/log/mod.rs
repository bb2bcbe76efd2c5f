//! The Raft log on disk: entries, vote and marks, each a record with its level. Acknowledged means
//! fsynced.
//!
//! From [`Level::SHARED_VIEWS`] on it is a directory of files that are appended to, and before it
//! the database of the versions of that time. It moves from one to the other with the first entry
//! of that level.

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
    Entry, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{LogId, StorageError, Types};
use crate::{ClusterError, files};
use moving::{DATABASE, FILES};
use redb::Old;
use replay::Marks;
use store::{SEGMENT_BYTES, Store};

/// Bytes of one append request: it must arrive, be decoded and be written within one heartbeat.
const BATCH_BYTES: usize = 256 << 10;

/// The log. Clones share it; closing one closes all.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    disk: RwLock<Option<Disk>>,
    /// The newest level that this netd knows.
    known: Level,
    /// That of the newest entry: what Raft itself writes has no other.
    level: AtomicU16,
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
    pub fn open(directory: &Path, known: Level, level: Level) -> Result<Self, ClusterError> {
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
            }),
        })
    }

    /// Closes the files; whatever comes later fails.
    pub fn close(&self) {
        let mut disk = self
            .shared
            .disk
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Disk {
            form: Form::Files(store),
            ..
        }) = disk.take()
            && let Err(error) = store.close(self.shared.level())
        {
            tracing::warn!(%error, "the log was not closed cleanly");
        }
    }

    /// Whether nothing was ever written.
    pub async fn is_new(&self) -> Result<bool, ClusterError> {
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
        let vote = *vote;
        let saved = self.run(move |shared| {
            shared.read(|form| match form {
                Form::Database(old) => old.save_vote(shared.level(), &vote),
                Form::Files(store) => store.save_vote(shared.level(), &vote),
            })
        });
        let saved = saved.await;
        saved.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        Ok(self.marks().await?.vote)
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
        let written = self.run(|shared| shared.append(encoded)).await;
        let failed = written
            .as_ref()
            .err()
            .map(|error| StorageIOError::write_logs(error).into());
        callback.log_io_completed(written);
        failed.map_or(Ok(()), Err)
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let cut = self.run(move |shared| {
            shared.read(|form| match form {
                Form::Database(old) => old.truncate(from.index),
                Form::Files(store) => store.truncate(shared.level(), from.index),
            })
        });
        let cut = cut.await;
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

impl Log {
    /// What is written from now on is of this level or a newer one.
    fn raise(&self, level: Level) {
        self.shared.level.fetch_max(level.0, Ordering::Relaxed);
    }
}
