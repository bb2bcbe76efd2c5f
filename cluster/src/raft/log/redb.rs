//! The log as it was before [`Level::SHARED_VIEWS`]: a redb database, which the versions of that
//! time open after a rollback. Later it only says that the log has moved.

use std::{
    io,
    ops::{Bound, Range},
    path::Path,
};

use model::{Level, RecordError, level};
use openraft::{Entry, Vote};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;

use super::{Encoded, LogId, Types, decode, encode, replay::Marks};
use crate::ClusterError;

const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const MARKS: TableDefinition<&str, &[u8]> = TableDefinition::new("marks");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const MOVED: &str = "moved";

/// An open database.
pub(super) struct Old {
    database: Database,
    known: Level,
}

type Cut = (Bound<u64>, Bound<u64>);

impl Old {
    /// Opens or makes the database in this file. Errors: another netd has it open, it is damaged,
    /// or a later version wrote it.
    pub(super) fn open(path: &Path, known: Level) -> Result<(Self, Level), ClusterError> {
        let corrupt = |reason: String| ClusterError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        let database = open(path).map_err(|error| match error {
            redb::Error::DatabaseAlreadyOpen => ClusterError::InUse(path.to_owned()),
            error => corrupt(error.to_string()),
        })?;
        let newest = newest_record(&database).map_err(|error| corrupt(error.to_string()))?;
        match level::open(&path.display().to_string(), &newest, known) {
            Ok((level, _)) => Ok((Self { database, known }, level)),
            Err(RecordError::TooNew(error)) => Err(error.into()),
            Err(error) => Err(corrupt(error.to_string())),
        }
    }

    /// Whether it only says that the log has moved.
    pub(super) fn has_moved(&self) -> io::Result<bool> {
        Ok(self.mark::<bool>(MOVED)?.is_some())
    }

    /// Makes a database that says that the log has moved, and that versions before
    /// [`Level::SHARED_VIEWS`] refuse as they refuse every newer log.
    pub(super) fn write_moved(path: &Path) -> io::Result<()> {
        let moved = encode(Level::SHARED_VIEWS, &true)?;
        let write = || -> Result<(), redb::Error> {
            let write = open(path)?.begin_write()?;
            let mut marks = write.open_table(MARKS)?;
            for mark in [MOVED, VOTE] {
                marks.insert(mark, moved.as_slice())?;
            }
            drop(marks);
            Ok(write.commit()?)
        };
        write().map_err(io::Error::other)
    }

    pub(super) fn marks(&self) -> io::Result<Marks> {
        Ok(Marks {
            vote: self.mark(VOTE)?,
            committed: self.mark(COMMITTED)?.flatten(),
            purged: self.mark(PURGED)?,
        })
    }

    pub(super) fn last(&self) -> io::Result<Option<Entry<Types>>> {
        let look = || -> Result<Option<Vec<u8>>, redb::Error> {
            let entries = self.database.begin_read()?.open_table(ENTRIES)?;
            Ok(entries.last()?.map(|(_, value)| value.value().to_vec()))
        };
        let last = look().map_err(io::Error::other)?;
        last.map(|record| decode(&record, self.known)).transpose()
    }

    /// The entries of a range, as far as they fit into `limit` bytes; the first one always.
    pub(super) fn read(&self, range: Range<u64>, limit: usize) -> io::Result<Vec<Entry<Types>>> {
        let found = self.records(range, limit)?;
        let entries = found.iter().map(|(_, record)| decode(record, self.known));
        entries.collect()
    }

    /// As [`Self::read`]: indexes, and records as they are stored.
    pub(super) fn records(
        &self,
        range: Range<u64>,
        limit: usize,
    ) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let look = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
            let entries = self.database.begin_read()?.open_table(ENTRIES)?;
            let (mut found, mut size) = (Vec::new(), 0);
            for record in entries.range(range.clone())? {
                let (index, value) = record?;
                size += value.value().len();
                if size > limit && !found.is_empty() {
                    break;
                }
                found.push((index.value(), value.value().to_vec()));
            }
            Ok(found)
        };
        look().map_err(io::Error::other)
    }

    pub(super) fn append(&self, entries: &[Encoded]) -> io::Result<()> {
        let write = || -> Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            let mut table = write.open_table(ENTRIES)?;
            for Encoded { index, bytes, .. } in entries {
                table.insert(index, bytes.as_slice())?;
            }
            drop(table);
            Ok(write.commit()?)
        };
        write().map_err(io::Error::other)
    }

    pub(super) fn save_vote(&self, level: Level, vote: &Vote<u64>) -> io::Result<()> {
        let vote = encode(level, vote)?;
        self.set(VOTE, &vote, Durability::Immediate)
            .map_err(io::Error::other)
    }

    /// Written to disk with the next append: losing it only costs a replay from an older mark.
    pub(super) fn save_committed(&self, level: Level, committed: Option<LogId>) -> io::Result<()> {
        let committed = encode(level, &committed)?;
        self.set(COMMITTED, &committed, Durability::None)
            .map_err(io::Error::other)
    }

    pub(super) fn truncate(&self, from: u64) -> io::Result<()> {
        let range = (Bound::Included(from), Bound::Unbounded);
        self.cut(range, None).map_err(io::Error::other)
    }

    pub(super) fn purge(&self, level: Level, upto: LogId) -> io::Result<()> {
        let range = (Bound::Unbounded, Bound::Included(upto.index));
        let purged = encode(level, &upto)?;
        self.cut(range, Some(&purged)).map_err(io::Error::other)
    }

    fn mark<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let look = || -> Result<Option<Vec<u8>>, redb::Error> {
            let marks = self.database.begin_read()?.open_table(MARKS)?;
            Ok(marks.get(name)?.map(|value| value.value().to_vec()))
        };
        let found = look().map_err(io::Error::other)?;
        found.map(|record| decode(&record, self.known)).transpose()
    }

    fn set(&self, name: &str, value: &[u8], durability: Durability) -> Result<(), redb::Error> {
        let mut write = self.database.begin_write()?;
        write.set_durability(durability).map_err(io::Error::other)?;
        write.open_table(MARKS)?.insert(name, value)?;
        Ok(write.commit()?)
    }

    /// Removes the entries of a range, and sets the mark of what was purged in the same
    /// transaction.
    fn cut(&self, range: Cut, purged: Option<&[u8]>) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(ENTRIES)?.retain_in(range, |_, _| false)?;
        if let Some(purged) = purged {
            write.open_table(MARKS)?.insert(PURGED, purged)?;
        }
        Ok(write.commit()?)
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let write = database.begin_write()?;
    write.open_table(ENTRIES)?;
    write.open_table(MARKS)?;
    write.commit()?;
    Ok(database)
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
