//! The history's tables in redb: changes by revision, by object, and what is missing.

use std::{
    path::Path,
    sync::{PoisonError, RwLock},
};

use model::{Change, Level, Millis, ObjectRef, level};
pub(super) use redb::Durability;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};

use super::{Gap, HistoryError, Limits, Page};
use crate::ClusterError;

/// A revision, and the place among its changes.
type Place = (u64, u32);
/// By object: its kind, its number, and the place of its change.
type Trace = (u8, u64, u64, u32);

/// Records with their level, in JSON.
const CHANGES: TableDefinition<Place, &[u8]> = TableDefinition::new("changes");
const TRACES: TableDefinition<Trace, ()> = TableDefinition::new("traces");
/// What is missing: after which revision, and through which.
const GAPS: TableDefinition<u64, u64> = TableDefinition::new("gaps");
const MARKS: TableDefinition<&str, u64> = TableDefinition::new("marks");
/// All up to this revision has been told.
const THROUGH: &str = "through";
/// Bytes of all records.
const BYTES: &str = "bytes";
/// The most changes that are forgotten at once.
const AT_ONCE: usize = 1_000;
/// What a record costs beside its bytes: its keys, and its trace.
const OVERHEAD: u64 = 64;

pub(super) struct Table {
    database: RwLock<Option<Database>>,
    known: Level,
}

fn trace(object: ObjectRef, place: Place) -> Trace {
    (object.kind() as u8, object.number(), place.0, place.1)
}

fn cost(record: &[u8]) -> u64 {
    record.len() as u64 + OVERHEAD
}

impl Table {
    pub(super) fn open(path: &Path, known: Level) -> Result<Self, ClusterError> {
        let open = || -> Result<Database, redb::Error> {
            let database = Database::create(path)?;
            let write = database.begin_write()?;
            write.open_table(CHANGES)?;
            write.open_table(TRACES)?;
            write.open_table(GAPS)?;
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
        Ok(Self {
            database: RwLock::new(Some(database)),
            known,
        })
    }

    pub(super) fn close(&self) {
        self.database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, HistoryError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let open = database.as_ref().ok_or_else(closed)?;
        let read = open.begin_read().map_err(failed)?;
        look(&read).map_err(failed)
    }

    fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, HistoryError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let open = database.as_ref().ok_or_else(closed)?;
        let mut write = open.begin_write().map_err(failed)?;
        write.set_durability(durability).map_err(failed)?;
        let result = work(&write).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(result)
    }

    /// All up to this revision has been told.
    pub(super) fn through(&self) -> Result<u64, HistoryError> {
        self.read(|read| mark(read, THROUGH))
    }

    /// Bytes of all records.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> Result<u64, HistoryError> {
        self.read(|read| mark(read, BYTES))
    }

    /// Adds changes; those that are there already stay as they are.
    pub(super) fn append(
        &self,
        level: Level,
        page: &Page,
        durability: Durability,
    ) -> Result<(), HistoryError> {
        let mut records = Vec::with_capacity(page.changes.len());
        let mut place = (0, 0);
        for change in &page.changes {
            place = match place {
                (revision, before) if revision == change.revision => (revision, before + 1),
                _ => (change.revision, 0),
            };
            let body = serde_json::to_vec(change).map_err(failed)?;
            let record = level::seal(level, body);
            records.push((place, change.object, record));
        }
        self.write(durability, |write| {
            let mut changes = write.open_table(CHANGES)?;
            let mut traces = write.open_table(TRACES)?;
            let mut marks = write.open_table(MARKS)?;
            let mut bytes = value(marks.get(BYTES)?);
            for (place, object, record) in &records {
                let replaced = changes.insert(place, record.as_slice())?;
                let before = replaced.map_or(0, |record| cost(record.value()));
                bytes = (bytes + cost(record)).saturating_sub(before);
                traces.insert(trace(*object, *place), ())?;
            }
            let through = value(marks.get(THROUGH)?).max(page.through);
            marks.insert(THROUGH, through)?;
            marks.insert(BYTES, bytes)?;
            Ok(())
        })
    }

    /// Notes that changes are missing.
    pub(super) fn note(&self, gap: Gap) -> Result<(), HistoryError> {
        self.write(Durability::Immediate, |write| {
            write.open_table(GAPS)?.insert(gap.after, gap.through)?;
            let mut marks = write.open_table(MARKS)?;
            let through = value(marks.get(THROUGH)?).max(gap.through);
            marks.insert(THROUGH, through)?;
            Ok(())
        })
    }

    pub(super) fn after(&self, revision: u64, most: usize) -> Result<Page, HistoryError> {
        let (gap, through, records) = self.read(|read| {
            let gap = gap_after(read, revision)?;
            if gap.is_some_and(|gap| gap.after <= revision) {
                return Ok((gap, 0, Vec::new()));
            }
            let end = gap.map_or(u64::MAX, |gap| gap.after);
            let changes = read.open_table(CHANGES)?;
            let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
            for found in changes.range((revision + 1, 0)..=(end, u32::MAX))? {
                let (place, record) = found?;
                let (revision, _) = place.value();
                if let Some((last, _)) = records.last()
                    && records.len() >= most
                    && *last != revision
                {
                    return Ok((gap, *last, records));
                }
                records.push((revision, record.value().to_vec()));
            }
            let through = mark(read, THROUGH)?.max(revision).min(end);
            Ok((gap, through, records))
        })?;
        if let Some(gap) = gap.filter(|gap| gap.after <= revision) {
            return Err(HistoryError::Gap(gap));
        }
        let records = records.iter().map(|(_, record)| self.change(record));
        Ok(Page {
            through,
            changes: records.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn of(
        &self,
        object: ObjectRef,
        after: u64,
        most: usize,
    ) -> Result<Page, HistoryError> {
        let (gap, through, records) = self.read(|read| {
            let gap = gap_after(read, after)?;
            if gap.is_some_and(|gap| gap.after <= after) {
                return Ok((gap, 0, Vec::new()));
            }
            let end = gap.map_or(u64::MAX, |gap| gap.after);
            let (changes, traces) = (read.open_table(CHANGES)?, read.open_table(TRACES)?);
            let range = trace(object, (after + 1, 0))..=trace(object, (end, u32::MAX));
            let mut records = Vec::new();
            for found in traces.range(range)? {
                let (_, _, revision, number) = found?.0.value();
                let Some(record) = changes.get((revision, number))? else {
                    continue;
                };
                records.push(record.value().to_vec());
                // An object changes once in a revision.
                if records.len() == most {
                    return Ok((gap, revision, records));
                }
            }
            let through = mark(read, THROUGH)?.max(after).min(end);
            Ok((gap, through, records))
        })?;
        if let Some(gap) = gap.filter(|gap| gap.after <= after) {
            return Err(HistoryError::Gap(gap));
        }
        let records = records.iter().map(|record| self.change(record));
        Ok(Page {
            through,
            changes: records.collect::<Result<_, _>>()?,
        })
    }

    /// Looks for the moment by halving: the clocks of leaders may differ a little, so changes
    /// around a change of leader may be of an earlier moment than one before them.
    pub(super) fn before(&self, moment: Millis) -> Result<u64, HistoryError> {
        let (mut low, mut high) = (0, self.through()?);
        while low < high {
            let middle = low + (high - low) / 2;
            let next = self.read(|read| {
                let changes = read.open_table(CHANGES)?;
                let found = changes.range((middle + 1, 0)..)?.next().transpose()?;
                Ok(found.map(|(_, record)| record.value().to_vec()))
            })?;
            let next = next.map(|record| self.change(&record)).transpose()?;
            match next {
                Some(change) if change.at < moment => low = change.revision,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Forgets some of what is too old or too much, oldest first. Whether there may be more.
    pub(super) fn prune(&self, limits: Limits, now: Millis) -> Result<bool, HistoryError> {
        let age = u64::try_from(limits.age.as_millis()).unwrap_or(u64::MAX);
        let horizon = now.saturating_sub(age);
        let (bytes, records) = self.read(|read| {
            let changes = read.open_table(CHANGES)?;
            let mut records = Vec::new();
            for found in changes.iter()?.take(AT_ONCE) {
                let (place, record) = found?;
                records.push((place.value(), record.value().to_vec()));
            }
            Ok((mark(read, BYTES)?, records))
        })?;
        let mut left = bytes;
        let mut doomed = Vec::new();
        for (place, record) in &records {
            let change = self.change(record)?;
            if left <= limits.bytes && change.at >= horizon {
                break;
            }
            left = left.saturating_sub(cost(record));
            doomed.push((*place, change.object));
        }
        let Some(((through, _), _)) = doomed.last().copied() else {
            return Ok(false);
        };
        self.write(Durability::None, |write| {
            let mut changes = write.open_table(CHANGES)?;
            let mut traces = write.open_table(TRACES)?;
            let mut gaps = write.open_table(GAPS)?;
            for (place, object) in &doomed {
                changes.remove(place)?;
                traces.remove(trace(*object, *place))?;
            }
            // One gap stands for all that are older.
            gaps.retain(|_, known| known > through)?;
            gaps.insert(0, through)?;
            write.open_table(MARKS)?.insert(BYTES, left)?;
            Ok(())
        })?;
        Ok(doomed.len() == AT_ONCE)
    }

    fn change(&self, record: &[u8]) -> Result<Change, HistoryError> {
        let (_, body) = level::open("a change", record, self.known).map_err(failed)?;
        serde_json::from_slice(body).map_err(failed)
    }
}

fn value(found: Option<redb::AccessGuard<'_, u64>>) -> u64 {
    found.map_or(0, |value| value.value())
}

fn mark(read: &ReadTransaction, name: &str) -> Result<u64, redb::Error> {
    Ok(value(read.open_table(MARKS)?.get(name)?))
}

/// The first gap that ends after a revision.
fn gap_after(read: &ReadTransaction, revision: u64) -> Result<Option<Gap>, redb::Error> {
    let gaps = read.open_table(GAPS)?;
    if gaps.is_empty()? {
        return Ok(None);
    }
    for found in gaps.iter()? {
        let (after, through) = found?;
        let (after, through) = (after.value(), through.value());
        if through > revision {
            return Ok(Some(Gap { after, through }));
        }
    }
    Ok(None)
}

fn closed() -> HistoryError {
    HistoryError::Disk("it is closed".to_owned())
}

fn failed(error: impl std::fmt::Display) -> HistoryError {
    HistoryError::Disk(error.to_string())
}
