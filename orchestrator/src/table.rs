//! One kind of the state's records, which notes what becomes of them, so that `apply` can say what
//! it changed.

use std::{collections::BTreeMap, ops::Deref};

use model::Fate;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Records by id. Reads like a map; each way to write notes the record that it is given.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    records: BTreeMap<K, V>,
    /// What has become of records since [`Table::take_changes`]. No part of the state.
    changes: BTreeMap<K, Note<V>>,
}

/// What has become of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note<V> {
    pub(crate) fate: Fate,
    /// What it was last, if it is gone.
    pub(crate) last: Option<V>,
}

impl<V> Note<V> {
    fn new(fate: Fate) -> Self {
        Self { fate, last: None }
    }
}

impl<K: Copy + Ord, V: Clone> Table<K, V> {
    /// A record to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let record = self.records.get_mut(key)?;
        self.changes.entry(*key).or_insert(Note::new(Fate::Changed));
        Some(record)
    }

    /// A record to be changed in what no view shows and nobody watches.
    pub(crate) fn get_mut_unnoticed(&mut self, key: &K) -> Option<&mut V> {
        self.records.get_mut(key)
    }

    /// Puts a record in place of what may be there.
    pub(crate) fn insert(&mut self, key: K, record: V) {
        let fate = match self.records.insert(key, record) {
            Some(_) => Fate::Changed,
            None => Fate::Made,
        };
        self.note(key, Note::new(fate));
    }

    /// Takes a record away.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let record = self.records.remove(key)?;
        let last = Some(record.clone());
        let fate = Fate::Removed;
        self.note(*key, Note { fate, last });
        Some(record)
    }

    /// The records of which something has become since [`Table::take_changes`].
    pub(crate) fn changed(&self) -> impl Iterator<Item = &K> {
        self.changes.keys()
    }

    /// What has become of records since this was asked last.
    pub(crate) fn take_changes(&mut self) -> BTreeMap<K, Note<V>> {
        std::mem::take(&mut self.changes)
    }

    /// A record that was made and then changed was made; one that was removed and then made again
    /// has changed; one that was made and then removed is not worth a word.
    fn note(&mut self, key: K, mut note: Note<V>) {
        let before = self.changes.remove(&key).map(|note| note.fate);
        note.fate = match (before, note.fate) {
            (Some(Fate::Made), Fate::Removed) => return,
            (Some(Fate::Made), Fate::Changed) => Fate::Made,
            (Some(Fate::Removed), Fate::Made) => Fate::Changed,
            (_, fate) => fate,
        };
        self.changes.insert(key, note);
    }
}

impl<K, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.records
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            changes: BTreeMap::new(),
        }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.records == other.records
    }
}

impl<K: Ord, V: Eq> Eq for Table<K, V> {}

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.records.serialize(to)
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self {
            records: BTreeMap::deserialize(from)?,
            changes: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_say_what_became_of_each_record() {
        let mut table: Table<u64, &str> = Table::default();
        table.insert(1, "made");
        table.insert(2, "made and removed");
        table.insert(3, "made and changed");
        table.remove(&2);
        table.get_mut(&3);
        let made = Note::new(Fate::Made);
        let changed = Note::new(Fate::Changed);
        let expected = BTreeMap::from([(1, made.clone()), (3, made.clone())]);
        assert_eq!(table.take_changes(), expected);
        table.get_mut(&1);
        table.get_mut(&9);
        table.remove(&3);
        let removed = Note {
            fate: Fate::Removed,
            last: Some("made and changed"),
        };
        let expected = BTreeMap::from([(1, changed.clone()), (3, removed)]);
        assert_eq!(table.take_changes(), expected);
        table.remove(&1);
        table.insert(1, "made again");
        table.insert(4, "made");
        table.get_mut(&1);
        let expected = BTreeMap::from([(1, changed), (4, made)]);
        assert_eq!(table.take_changes(), expected);
    }
}
