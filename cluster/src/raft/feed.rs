//! What the newest commands changed, in memory: for views, for those who watch, and for the
//! history.

use std::{collections::VecDeque, sync::Arc};

use model::{Change, Concern, Touched};

/// How many changes are remembered; a command that made none counts as one. Few in tests, whose
/// readers then have to do without.
const REMEMBERED: usize = if cfg!(test) { 64 } else { 16_384 };

/// What commands changed, in their order, without a gap.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// Nothing up to these places is remembered.
    forgotten: Place,
    /// The revision of the state.
    newest: u64,
    /// What changed nothing is left out.
    told: VecDeque<Told>,
    /// The sum of [`Told::weight`].
    weight: usize,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The log index of its entry, which has others, too.
    pub index: u64,
    /// The revision that it led to.
    pub revision: u64,
}

/// What one command changed, and whose view shows it.
#[derive(Debug)]
struct Told {
    place: Place,
    changes: Vec<Arc<Change>>,
    concern: Concern,
}

impl Told {
    fn weight(&self) -> usize {
        self.changes.len().max(1)
    }
}

impl Feed {
    /// Nothing is known of how the state came to this place.
    pub(super) fn since(place: Place) -> Self {
        Self {
            forgotten: place,
            newest: place.revision,
            ..Self::default()
        }
    }

    /// The revision up to which nothing is remembered.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.revision
    }

    /// Takes in what came of one command.
    pub(super) fn push(&mut self, place: Place, changes: Vec<Change>, concern: Concern) {
        self.newest = self.newest.max(place.revision);
        if changes.is_empty() && concern.is_nobodys() {
            return;
        }
        let changes = changes.into_iter().map(Arc::new).collect();
        let told = Told {
            place,
            changes,
            concern,
        };
        self.weight += told.weight();
        self.told.push_back(told);
        while self.weight > REMEMBERED
            && let Some(oldest) = self.told.pop_front()
        {
            self.weight -= oldest.weight();
            self.forgotten = oldest.place;
        }
    }

    /// Some changes after this revision, and the revision up to which these are all. At least
    /// `most` of them, and then the rest of the last one's revision, where there are as many.
    /// `None` where they are forgotten.
    pub(super) fn after(&self, revision: u64, most: usize) -> Option<(u64, Vec<Arc<Change>>)> {
        if revision < self.forgotten.revision {
            return None;
        }
        let is_seen = |told: &Told| told.place.revision <= revision;
        let start = self.told.partition_point(is_seen);
        let mut found: Vec<Arc<Change>> = Vec::new();
        let mut through = revision;
        for told in self.told.range(start..) {
            if found.len() >= most && !told.changes.is_empty() {
                return Some((through, found));
            }
            found.extend(told.changes.iter().cloned());
            through = told.place.revision;
        }
        Some((self.newest.max(revision), found))
    }

    /// What was touched after this log index; `None` if it is not remembered.
    pub(super) fn touched(&self, index: u64) -> Option<Touched> {
        if index < self.forgotten.index {
            return None;
        }
        let mut all = Touched::default();
        let newest_first = self.told.iter().rev();
        for told in newest_first.take_while(|told| told.place.index > index) {
            all.objects
                .extend(told.changes.iter().map(|change| change.object));
            all.concern.merge(&told.concern);
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use model::{Facts, Fate, Level, NodeId, ObjectRef};

    use super::*;

    fn place(revision: u64) -> Place {
        let index = revision / 2;
        Place { index, revision }
    }

    /// A command changes the cluster this many times.
    fn push(feed: &mut Feed, revision: u64, number: usize) {
        let changes = changes(revision, number);
        feed.push(place(revision), changes, Concern::default());
    }

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
        let mut feed = Feed::since(place(5));
        push(&mut feed, 6, 3);
        push(&mut feed, 7, 0);
        push(&mut feed, 8, 2);
        push(&mut feed, 9, 0);
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
        push(&mut feed, 1, REMEMBERED - 1);
        push(&mut feed, 2, 1);
        assert!(feed.after(0, 1).is_some());
        push(&mut feed, 3, 1);
        assert_eq!(feed.forgotten(), 1);
        assert!(feed.after(0, 1).is_none());
        assert_eq!(feed.after(1, 9).map(|(_, found)| found.len()), Some(2));
    }

    #[test]
    fn objects_and_concerns_of_entries_are_told_together() {
        let mut feed = Feed::since(place(5));
        push(&mut feed, 6, 1);
        let nodes = [1, 2].map(|node| Concern {
            nodes: [NodeId(node)].into(),
            ..Concern::default()
        });
        // One that changes no object, and two of one entry.
        for (revision, concern) in (8..).zip(nodes) {
            feed.push(place(revision), Vec::new(), concern);
        }
        let found = |index| {
            let touched: Touched = feed.touched(index)?;
            Some((touched.objects.len(), touched.concern.nodes.len()))
        };
        assert_eq!(found(1), None);
        assert_eq!(found(2), Some((1, 2)));
        assert_eq!(found(3), Some((0, 2)));
        assert_eq!(found(4), Some((0, 0)));
        assert_eq!(feed.after(6, 9), Some((9, Vec::new())));
        for revision in 10..10 + REMEMBERED as u64 {
            push(&mut feed, revision, 1);
        }
        assert!(feed.touched(4).is_some() && feed.touched(3).is_none());
    }
}
