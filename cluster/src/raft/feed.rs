//! The newest changes in memory, for those who watch and for the history.

use std::{collections::VecDeque, sync::Arc};

use model::Change;

/// How many changes are remembered. Few in tests, which then read the history.
const REMEMBERED: usize = if cfg!(test) { 64 } else { 16_384 };

/// Changes in their order, without a gap.
#[derive(Debug, Default)]
pub struct Feed {
    /// All changes up to this revision are forgotten, or were never told here.
    forgotten: u64,
    /// The revision of the state.
    newest: u64,
    changes: VecDeque<Arc<Change>>,
}

impl Feed {
    /// Nothing is known of how the state came to this revision.
    pub fn since(revision: u64) -> Self {
        Self {
            forgotten: revision,
            newest: revision,
            changes: VecDeque::new(),
        }
    }

    /// The revision up to which nothing is remembered.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Takes in what came of one command. The changes of one revision are forgotten together.
    pub fn push(&mut self, revision: u64, changes: Vec<Change>) {
        self.newest = self.newest.max(revision);
        self.changes.extend(changes.into_iter().map(Arc::new));
        while self.changes.len() > REMEMBERED
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.revision;
        }
        while self
            .changes
            .front()
            .is_some_and(|oldest| oldest.revision <= self.forgotten)
        {
            self.changes.pop_front();
        }
    }

    /// Some changes after this revision, and the revision up to which these are all. At least
    /// `most` of them, and then the rest of the last one's revision, where there are as many.
    /// `None` where they are forgotten.
    pub fn after(&self, revision: u64, most: usize) -> Option<(u64, Vec<Arc<Change>>)> {
        if revision < self.forgotten {
            return None;
        }
        let start = self
            .changes
            .partition_point(|change| change.revision <= revision);
        let mut found: Vec<Arc<Change>> = Vec::new();
        for change in self.changes.range(start..) {
            if let Some(last) = found.last()
                && found.len() >= most
                && last.revision != change.revision
            {
                return Some((last.revision, found));
            }
            found.push(change.clone());
        }
        Some((self.newest.max(revision), found))
    }
}

#[cfg(test)]
mod tests {
    use model::{Facts, Fate, Level, ObjectRef};

    use super::*;

    fn changes(revision: u64, number: usize) -> Vec<Change> {
        let change = Change {
            revision,
            at: 0,
            object: ObjectRef::Cluster,
            fate: Fate::Changed,
            facts: Facts::Cluster {
                level: Level::FIRST,
            },
        };
        vec![change; number]
    }

    #[test]
    fn changes_of_a_revision_are_told_together() {
        let mut feed = Feed::since(5);
        feed.push(6, changes(6, 3));
        feed.push(7, Vec::new());
        feed.push(8, changes(8, 2));
        feed.push(9, Vec::new());
        let revisions = |after, most| {
            let (through, changes) = feed.after(after, most)?;
            Some((through, changes.len()))
        };
        assert_eq!(revisions(4, 9), None);
        assert_eq!(revisions(5, 1), Some((6, 3)));
        assert_eq!(revisions(5, 4), Some((9, 5)));
        assert_eq!(revisions(6, 1), Some((9, 2)));
        assert_eq!(revisions(8, 1), Some((9, 0)));
        assert_eq!(revisions(20, 1), Some((20, 0)));
    }

    #[test]
    fn a_feed_is_bounded_and_forgets_whole_revisions() {
        let mut feed = Feed::default();
        feed.push(1, changes(1, REMEMBERED - 1));
        feed.push(2, changes(2, 1));
        assert!(feed.after(0, 1).is_some());
        feed.push(3, changes(3, 1));
        assert_eq!(feed.forgotten(), 1);
        assert!(feed.after(0, 1).is_none());
        assert_eq!(feed.after(1, 9).map(|(_, found)| found.len()), Some(2));
    }
}
