//! The history: what the cluster's objects became, on each manager's disk (redb). It outlives the
//! compaction of the log and is bounded by age and size.

mod keep;
mod table;

use std::{path::Path, sync::Arc, time::Duration};

use model::{Change, Level, Millis, ObjectRef};

pub(crate) use keep::keep;
use table::Table;

use crate::ClusterError;

/// How much history a manager keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Changes older than this are forgotten.
    pub age: Duration,
    /// The oldest changes are forgotten once all take more bytes than this.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(30 * 24 * 60 * 60),
            bytes: 1 << 30,
        }
    }
}

/// Some changes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// These are all changes up to this revision.
    pub through: u64,
    /// The changes.
    pub changes: Vec<Change>,
}

/// Changes that this manager does not have: it was not told of them, or has forgotten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// They come after this revision.
    pub after: u64,
    /// The last of them.
    pub through: u64,
}

/// Why changes cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// They are not here.
    #[error("the changes after revision {} up to {} are not kept here", .0.after, .0.through)]
    Gap(Gap),
    /// The disk, or what is on it.
    #[error("the history cannot be read: {0}")]
    Disk(String),
}

/// The history of a manager. Clones share it.
#[derive(Clone)]
pub(crate) struct History {
    table: Arc<Table>,
    limits: Limits,
}

impl History {
    /// Opens or makes the history in this file. One that is damaged is set aside, and another one
    /// begins: the cluster does not need it. Errors: the disk's, or another netd has it open.
    pub(crate) fn open(path: &Path, known: Level, limits: Limits) -> Result<Self, ClusterError> {
        let table = match Table::open(path, known) {
            Err(ClusterError::Corrupt { reason, .. }) => {
                let aside = path.with_extension("damaged");
                tracing::warn!(path = %path.display(), aside = %aside.display(), reason,
                    "the history of changes is damaged; it is set aside, and another one begins");
                std::fs::rename(path, &aside).map_err(|source| ClusterError::Disk {
                    operation: "set aside",
                    path: path.to_owned(),
                    source,
                })?;
                Table::open(path, known)?
            }
            opened => opened?,
        };
        Ok(Self {
            table: Arc::new(table),
            limits,
        })
    }

    /// Closes the file; whatever comes later fails.
    pub(crate) fn close(&self) {
        self.table.close();
    }

    /// Some changes after this revision: at least `most`, and the rest of the last one's revision,
    /// where there are as many. Waits for the disk.
    pub(crate) fn after(&self, revision: u64, most: usize) -> Result<Page, HistoryError> {
        self.table.after(revision, most)
    }

    /// As [`History::after`], of one object only.
    pub(crate) fn of(
        &self,
        object: ObjectRef,
        after: u64,
        most: usize,
    ) -> Result<Page, HistoryError> {
        self.table.of(object, after, most)
    }

    /// The revision before the first change at this moment or later. Waits for the disk.
    pub(crate) fn before(&self, moment: Millis) -> Result<u64, HistoryError> {
        self.table.before(moment)
    }
}

#[cfg(test)]
mod tests {
    use model::{Facts, Fate, NodeId};

    use super::{table::Durability, *};

    fn change(revision: u64, number: u64) -> Change {
        Change {
            revision,
            at: revision * 1_000,
            object: ObjectRef::Node(NodeId(number)),
            fate: Fate::Changed,
            facts: Facts::Cluster {
                level: Level::FIRST,
            },
        }
    }

    fn open(home: &tempfile::TempDir) -> Table {
        Table::open(&home.path().join("history.redb"), Level::NEWEST).unwrap()
    }

    fn append(table: &Table, after: u64, changes: &[Change]) {
        let page = Page {
            through: changes.last().map_or(after, |change| change.revision),
            changes: changes.to_vec(),
        };
        table
            .append(Level::NEWEST, &page, Durability::Immediate)
            .unwrap();
    }

    fn revisions(page: Page) -> Vec<u64> {
        page.changes.iter().map(|change| change.revision).collect()
    }

    #[test]
    fn changes_are_read_back_by_index_by_object_and_by_time() {
        let home = tempfile::tempdir().unwrap();
        let changes = [change(1, 7), change(3, 8), change(3, 7), change(9, 7)];
        append(&open(&home), 0, &changes);
        let table = open(&home);
        assert_eq!(table.through().unwrap(), 9);
        let all = table.after(0, 100).unwrap();
        assert_eq!((all.through, all.changes.as_slice()), (9, &changes[..]));
        let page = table.after(1, 1).unwrap();
        assert_eq!((page.through, revisions(page)), (3, vec![3, 3]));
        let of = |after| {
            let found = table.of(ObjectRef::Node(NodeId(7)), after, 100).unwrap();
            assert_eq!(found.through, 9);
            found
                .changes
                .iter()
                .map(|change| change.revision)
                .collect::<Vec<_>>()
        };
        assert_eq!((of(0), of(1)), (vec![1, 3, 9], vec![3, 9]));
        for (moment, before) in [(0, 0), (1_000, 0), (1_001, 1), (3_000, 1), (4_000, 3)] {
            assert_eq!(table.before(moment).unwrap(), before, "{moment}");
        }
        assert_eq!(table.before(10_000).unwrap(), 9);
    }

    #[test]
    fn changes_told_twice_after_a_restart_are_kept_once() {
        let home = tempfile::tempdir().unwrap();
        let table = open(&home);
        append(&table, 0, &[change(1, 7), change(2, 7)]);
        append(&table, 0, &[change(1, 7), change(2, 7), change(3, 7)]);
        assert_eq!(revisions(table.after(0, 100).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn a_gap_is_told_and_never_read_over() {
        let home = tempfile::tempdir().unwrap();
        let table = open(&home);
        append(&table, 0, &[change(1, 7), change(2, 7)]);
        let gap = Gap {
            after: 2,
            through: 5,
        };
        table.note(gap).unwrap();
        append(&table, 5, &[change(6, 7)]);
        let page = table.after(0, 100).unwrap();
        assert_eq!((page.through, revisions(page)), (2, vec![1, 2]));
        for revision in [2, 4] {
            let refused = table.after(revision, 100).unwrap_err();
            assert!(matches!(refused, HistoryError::Gap(found) if found == gap));
        }
        assert_eq!(revisions(table.after(5, 100).unwrap()), [6]);
    }

    #[test]
    fn changes_too_old_or_too_many_are_forgotten_and_said_to_be() {
        let home = tempfile::tempdir().unwrap();
        let table = open(&home);
        let changes: Vec<Change> = (1..=100).map(|revision| change(revision, 7)).collect();
        append(&table, 0, &changes);
        let limits = Limits {
            age: Duration::from_secs(50),
            bytes: u64::MAX,
        };
        while table.prune(limits, 100_000).unwrap() {}
        let gap = Gap {
            after: 0,
            through: 49,
        };
        let refused = table.after(0, 100).unwrap_err();
        assert!(
            matches!(refused, HistoryError::Gap(found) if found == gap),
            "{refused}"
        );
        assert_eq!(table.after(49, 100).unwrap().changes.len(), 51);
        let bytes = table.bytes().unwrap();
        let limits = Limits {
            age: Duration::MAX,
            bytes: bytes / 51 * 11,
        };
        while table.prune(limits, 100_000).unwrap() {}
        assert_eq!(table.after(90, 100).unwrap().changes.len(), 10);
        let object = ObjectRef::Node(NodeId(7));
        let refused = table.of(object, 0, 100).unwrap_err();
        assert!(matches!(refused, HistoryError::Gap(_)), "{refused}");
        let page = table.of(object, 90, 4).unwrap();
        assert_eq!((page.through, revisions(page)), (94, vec![91, 92, 93, 94]));
        assert!(table.bytes().unwrap() <= limits.bytes);
    }

    #[test]
    fn a_damaged_history_is_set_aside_and_another_one_begins() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("history.redb");
        std::fs::write(&path, [7; 9_000]).unwrap();
        let history = History::open(&path, Level::NEWEST, Limits::default()).unwrap();
        assert_eq!(history.after(0, 9).unwrap(), Page::default());
        assert!(path.with_extension("damaged").exists());
    }
}
