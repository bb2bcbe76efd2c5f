//! The Raft log on disk (redb): entries, vote and marks, each a record with its level. Acknowledged
//! means fsynced.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU16, Ordering},
    },
};

use model::{Level, RecordError, level};
use openraft::{
    Entry, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use super::{LogId, StorageError, Types};
use crate::ClusterError;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const MARKS: TableDefinition<&str, &[u8]> = TableDefinition::new("marks");
/// Bytes of one append request: it must arrive, be decoded and be written within one heartbeat.
const BATCH_BYTES: usize = 256 << 10;
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// The log. Clones share it; closing one closes all.
#[derive(Clone)]
pub struct Log {
    database: Arc<RwLock<Option<Database>>>,
    /// The newest level that this netd knows.
    known: Level,
    /// That of the newest entry: what Raft itself writes has no other.
    level: Arc<AtomicU16>,
}

impl Log {
    /// Opens or makes the log in this file. Errors: another netd has it open, it is damaged, or a
    /// later version wrote it.
    pub fn open(path: &Path, known: Level) -> Result<Self, ClusterError> {
        let open = || -> Result<Database, redb::Error> {
            let database = Database::create(path)?;
            let write = database.begin_write()?;
            write.open_table(ENTRIES)?;
            write.open_table(MARKS)?;
            write.commit()?;
            Ok(database)
        };
        let database = open().map_err(|error| match error {
            redb::Error::DatabaseAlreadyOpen => ClusterError::InUse(path.to_owned()),
            error => ClusterError::Corrupt {
                path: path.to_owned(),
                reason: error.to_string(),
            },
        })?;
        let corrupt = |reason: String| ClusterError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        let newest = newest_record(&database).map_err(|error| corrupt(error.to_string()))?;
        let what = path.display().to_string();
        let level = match level::open(&what, &newest, known) {
            Ok((level, _)) => level,
            Err(RecordError::TooNew(error)) => return Err(error.into()),
            Err(error) => return Err(corrupt(error.to_string())),
        };
        Ok(Self {
            database: Arc::new(RwLock::new(Some(database))),
            known,
            level: Arc::new(AtomicU16::new(level.0)),
        })
    }

    /// What is written from now on is of this level or a newer one.
    pub fn raise(&self, level: Level) {
        self.level.fetch_max(level.0, Ordering::Relaxed);
    }

    fn encode(&self, value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
        let level = Level(self.level.load(Ordering::Relaxed));
        Ok(level::seal(level, serde_json::to_vec(value)?))
    }

    /// Closes the file; whatever comes later fails.
    pub fn close(&self) {
        self.database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Runs a transaction away from the async workers: it waits for the disk.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> io::Result<T> {
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || {
            let database = database.read().unwrap_or_else(PoisonError::into_inner);
            let open = database
                .as_ref()
                .ok_or_else(|| io::Error::other("the log is closed"))?;
            work(open).map_err(io::Error::other)
        });
        task.await.map_err(io::Error::other)?
    }

    async fn mark<T: DeserializeOwned + Send + 'static>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, StorageError> {
        let known = self.known;
        self.run(move |database| read_mark(database, name, known))
            .await
            .map_err(|error| StorageIOError::read(&error).into())
    }

    async fn set_mark(
        &self,
        name: &'static str,
        value: &impl Serialize,
        durability: Durability,
    ) -> io::Result<()> {
        let value = self.encode(value)?;
        self.run(move |database| {
            let mut write = database.begin_write()?;
            write.set_durability(durability).map_err(io::Error::other)?;
            write.open_table(MARKS)?.insert(name, value.as_slice())?;
            Ok(write.commit()?)
        })
        .await
    }

    /// Removes the entries of a range, and sets the mark of what was purged in the same
    /// transaction.
    async fn cut(&self, range: (Bound<u64>, Bound<u64>), purged: Option<LogId>) -> io::Result<()> {
        let purged = purged.map(|purged| self.encode(&purged)).transpose()?;
        self.run(move |database| {
            let write = database.begin_write()?;
            write.open_table(ENTRIES)?.retain_in(range, |_, _| false)?;
            if let Some(purged) = purged {
                write.open_table(MARKS)?.insert(PURGED, purged.as_slice())?;
            }
            Ok(write.commit()?)
        })
        .await
    }
}

/// The bytes of the last entry or, while there is none, of a mark.
fn newest_record(database: &Database) -> Result<Vec<u8>, redb::Error> {
    let read = database.begin_read()?;
    if let Some((_, value)) = read.open_table(ENTRIES)?.last()? {
        return Ok(value.value().to_vec());
    }
    let marks = read.open_table(MARKS)?;
    for name in [PURGED, VOTE] {
        if let Some(value) = marks.get(name)? {
            return Ok(value.value().to_vec());
        }
    }
    Ok(Vec::new())
}

fn decode<T: DeserializeOwned>(record: &[u8], known: Level) -> io::Result<T> {
    let opened = level::open("a record of the log", record, known);
    let (_, body) = opened.map_err(io::Error::other)?;
    Ok(serde_json::from_slice(body)?)
}

fn read_mark<T: DeserializeOwned>(
    database: &Database,
    name: &str,
    known: Level,
) -> Result<Option<T>, redb::Error> {
    let marks = database.begin_read()?.open_table(MARKS)?;
    let Some(value) = marks.get(name)? else {
        return Ok(None);
    };
    Ok(Some(decode(value.value(), known)?))
}

/// The entries of a range, as far as they fit into `limit` bytes; the first one always.
fn read_entries(
    database: &Database,
    range: (Bound<u64>, Bound<u64>),
    limit: usize,
    known: Level,
) -> Result<Vec<Entry<Types>>, redb::Error> {
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    let (mut found, mut size) = (Vec::new(), 0);
    for record in entries.range::<u64>(range)? {
        let (_, value) = record?;
        size += value.value().len();
        if size > limit && !found.is_empty() {
            break;
        }
        found.push(decode(value.value(), known)?);
    }
    Ok(found)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let known = self.known;
        let entries = self
            .run(move |database| read_entries(database, range, usize::MAX, known))
            .await;
        entries.map_err(|error| StorageIOError::read_logs(&error).into())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<Types>>, StorageError> {
        let range = (Bound::Included(start), Bound::Excluded(end));
        let known = self.known;
        let entries = self
            .run(move |database| read_entries(database, range, BATCH_BYTES, known))
            .await;
        entries.map_err(|error| StorageIOError::read_logs(&error).into())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last_purged_log_id: Option<LogId> = self.mark(PURGED).await?;
        let known = self.known;
        let last = self
            .run(move |database| {
                let entries = database.begin_read()?.open_table(ENTRIES)?;
                let Some((_, value)) = entries.last()? else {
                    return Ok(None);
                };
                let entry: Entry<Types> = decode(value.value(), known)?;
                Ok(Some(entry.log_id))
            })
            .await
            .map_err(|error| StorageIOError::read_logs(&error))?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last.or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let saved = self.set_mark(VOTE, vote, Durability::Immediate).await;
        saved.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.mark(VOTE).await
    }

    /// Written to disk with the next append: losing it only costs a replay from an older mark.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.set_mark(COMMITTED, &committed, Durability::None).await;
        saved.map_err(|error| StorageIOError::write(&error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.mark::<Option<LogId>>(COMMITTED).await?.flatten())
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
        let encode = |entry: Entry<Types>| {
            if let EntryPayload::Normal(batch) = &entry.payload {
                self.raise(batch.level);
            }
            Ok((entry.log_id.index, self.encode(&entry)?))
        };
        let batch: Result<Vec<(u64, Vec<u8>)>, serde_json::Error> =
            entries.into_iter().map(encode).collect();
        let batch = batch.map_err(|error| StorageIOError::write_logs(&error))?;
        let written = self
            .run(move |database| {
                let write = database.begin_write()?;
                let mut table = write.open_table(ENTRIES)?;
                for (index, entry) in &batch {
                    table.insert(index, entry.as_slice())?;
                }
                drop(table);
                Ok(write.commit()?)
            })
            .await;
        let failed = written
            .as_ref()
            .err()
            .map(|error| StorageIOError::write_logs(error).into());
        callback.log_io_completed(written);
        failed.map_or(Ok(()), Err)
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let range = (Bound::Included(from.index), Bound::Unbounded);
        self.cut(range, None)
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let range = (Bound::Unbounded, Bound::Included(upto.index));
        self.cut(range, Some(upto))
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }
}
