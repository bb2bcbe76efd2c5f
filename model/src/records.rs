//! Records by key, in order, in chunks that copies share for as long as they are the same in both.
//! A copy costs one reference, a change one chunk, and a comparison what is not shared: whoever
//! holds an earlier copy finds the difference without looking at the rest.

use std::{
    cmp::Ordering,
    fmt,
    ops::{Bound, Index, RangeBounds},
    slice,
    sync::Arc,
};

/// The most records of a chunk: a change copies as many references.
const FULL: usize = 64;
/// A chunk with fewer records joins a neighbour that has room.
const SPARSE: usize = 16;

type Entry<K, V> = Arc<(K, V)>;
/// In order, never empty.
type Chunk<K, V> = Arc<Vec<Entry<K, V>>>;
/// A chunk's number, and a record's in it.
type Place = (usize, usize);

/// A sorted map whose copies share what has not changed since.
pub struct Records<K, V> {
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K: Ord, V> Records<K, V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The record of this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        Some(self.get_key_value(key)?.1)
    }

    /// The record of this key, with the key that lives as long.
    pub fn get_key_value(&self, key: &K) -> Option<(&K, &V)> {
        let (chunk, at) = self.find(key).ok()?;
        self.chunk(chunk).get(at).map(pair)
    }

    /// Whether there is a record of this key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.between((0, 0), (self.chunks.len(), 0))
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The records in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Those whose keys are in the range.
    pub fn range(&self, range: impl RangeBounds<K>) -> Iter<'_, K, V> {
        let begin = match range.start_bound() {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => self.not_before(key),
            Bound::Excluded(key) => self.behind(key),
        };
        let end = match range.end_bound() {
            Bound::Unbounded => (self.chunks.len(), 0),
            Bound::Included(key) => self.behind(key),
            Bound::Excluded(key) => self.not_before(key),
        };
        self.between(begin, end)
    }

    fn chunk(&self, number: usize) -> &[Entry<K, V>] {
        self.chunks.get(number).map_or(&[], |chunk| chunk)
    }

    /// Where a key is, or would be.
    fn find(&self, key: &K) -> Result<Place, Place> {
        let begins_by = |chunk: &Chunk<K, V>| chunk.first().is_some_and(|first| first.0 <= *key);
        let Some(chunk) = self.chunks.partition_point(begins_by).checked_sub(1) else {
            return Err((0, 0));
        };
        let found = (self.chunk(chunk)).binary_search_by(|entry| entry.0.cmp(key));
        found.map(|at| (chunk, at)).map_err(|at| (chunk, at))
    }

    fn not_before(&self, key: &K) -> Place {
        self.find(key).unwrap_or_else(|place| place)
    }

    fn behind(&self, key: &K) -> Place {
        match self.find(key) {
            Ok((chunk, at)) => (chunk, at + 1),
            Err(place) => place,
        }
    }

    fn between(&self, begin: Place, end: Place) -> Iter<'_, K, V> {
        let part = |number: usize, from: usize, to: usize| {
            let chunk = self.chunk(number);
            chunk.get(from..to.min(chunk.len())).unwrap_or_default()
        };
        let (first, last) = if begin.0 < end.0 {
            (part(begin.0, begin.1, FULL), part(end.0, 0, end.1))
        } else {
            (part(begin.0, begin.1, end.1), &[][..])
        };
        let whole = self.chunks.get(begin.0 + 1..end.0).unwrap_or_default();
        Iter {
            first: first.iter(),
            chunks: whole.iter(),
            last: last.iter(),
        }
    }
}

impl<K: Ord, V: PartialEq> Records<K, V> {
    /// The keys whose records differ in another copy, in order, with the records of both.
    pub fn differences<'a>(&'a self, later: &'a Self) -> Differences<'a, K, V> {
        let [old, new] = [self, later].map(|records| Walk {
            chunks: &records.chunks,
            at: 0,
        });
        Differences { old, new }
    }

    /// Puts a record in its place. One that is there already stays shared with other copies.
    pub fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(place) => self.replace(place, key, value),
            Err(place) => self.add(place, key, value),
        }
    }

    fn replace(&mut self, (chunk, at): Place, key: K, value: V) {
        if self.chunk(chunk).get(at).is_some_and(|old| old.1 == value) {
            return;
        }
        if let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(chunk)
            && let Some(entry) = Arc::make_mut(chunk).get_mut(at)
        {
            *entry = Arc::new((key, value));
        }
    }

    fn add(&mut self, (number, at): Place, key: K, value: V) {
        let entry = Arc::new((key, value));
        let chunks = Arc::make_mut(&mut self.chunks);
        self.len += 1;
        let Some(chunk) = chunks.get_mut(number) else {
            return chunks.push(Arc::new(vec![entry]));
        };
        let chunk = Arc::make_mut(chunk);
        // What comes in the order of keys fills chunks up.
        let kept = if at == FULL { FULL } else { FULL / 2 };
        chunk.insert(at, entry);
        if chunk.len() > FULL {
            let rest = chunk.split_off(kept);
            chunks.insert(number + 1, Arc::new(rest));
        }
    }

    /// Puts each of these in its place.
    pub fn extend(&mut self, records: impl IntoIterator<Item = (K, V)>) {
        let records = records.into_iter();
        records.for_each(|(key, value)| self.insert(key, value));
    }
}

impl<K: Ord, V> Records<K, V> {
    /// Removes the record of this key; whether there was one.
    pub fn remove(&mut self, key: &K) -> bool {
        let Ok((number, at)) = self.find(key) else {
            return false;
        };
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(number).map(Arc::make_mut) else {
            return false;
        };
        chunk.remove(at);
        self.len -= 1;
        match chunk.len() {
            0 => drop(chunks.remove(number)),
            1..SPARSE => join(chunks, number),
            _ => {}
        }
        true
    }

    /// Keeps the records that are wanted.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&K, &V) -> bool) {
        let mut kept = Vec::new();
        for chunk in self.chunks.iter() {
            let wanted = chunk.iter().filter(|entry| is_wanted(&entry.0, &entry.1));
            let wanted: Vec<Entry<K, V>> = wanted.cloned().collect();
            if wanted.len() == chunk.len() {
                kept.push(chunk.clone());
            } else if !wanted.is_empty() {
                kept.push(Arc::new(wanted));
            }
        }
        self.len = kept.iter().map(|chunk| chunk.len()).sum();
        self.chunks = Arc::new(kept);
    }

    /// Removes all records.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Joins a chunk with the one beside it, if one chunk has room for both.
fn join<K, V>(chunks: &mut Vec<Chunk<K, V>>, number: usize) {
    let first = number.saturating_sub(usize::from(number + 1 == chunks.len()));
    let Some([one, other]) = chunks.get_mut(first..first + 2) else {
        return;
    };
    if one.len() + other.len() <= FULL {
        Arc::make_mut(one).extend(other.iter().cloned());
        chunks.remove(first + 1);
    }
}

impl<K: Ord + Clone, V: Clone> Records<K, V> {
    /// The record of this key, to be changed: it is shared with no other copy any more.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (chunk, at) = self.find(key).ok()?;
        let chunk = Arc::make_mut(&mut self.chunks).get_mut(chunk)?;
        let entry = Arc::make_mut(chunk).get_mut(at)?;
        Some(&mut Arc::make_mut(entry).1)
    }

    /// All of them, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let chunks = Arc::make_mut(&mut self.chunks).iter_mut();
        let entries = chunks.flat_map(|chunk| Arc::make_mut(chunk).iter_mut());
        entries.map(|entry| &mut Arc::make_mut(entry).1)
    }
}

fn pair<K, V>(entry: &Entry<K, V>) -> (&K, &V) {
    (&entry.0, &entry.1)
}

impl<K, V> Clone for Records<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            len: self.len,
        }
    }
}

impl<K, V> Default for Records<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Records<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for Records<K, V> {}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Records<K, V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self).finish()
    }
}

impl<K: Ord, V> Index<&K> for Records<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        #[allow(clippy::expect_used)]
        self.get(key).expect("no record of this key")
    }
}

impl<K: Ord, V: PartialEq> FromIterator<(K, V)> for Records<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(records: I) -> Self {
        let mut made = Self::default();
        made.extend(records);
        made
    }
}

impl<K: Ord, V: PartialEq, const N: usize> From<[(K, V); N]> for Records<K, V> {
    fn from(records: [(K, V); N]) -> Self {
        records.into_iter().collect()
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Records<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// Records in the order of their keys.
pub struct Iter<'a, K, V> {
    first: slice::Iter<'a, Entry<K, V>>,
    chunks: slice::Iter<'a, Chunk<K, V>>,
    last: slice::Iter<'a, Entry<K, V>>,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self {
            first: self.first.clone(),
            chunks: self.chunks.clone(),
            last: self.last.clone(),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.first.next() {
                return Some(pair(entry));
            }
            match self.chunks.next() {
                Some(chunk) => self.first = chunk.iter(),
                None => return self.last.next().map(pair),
            }
        }
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.last.next_back() {
                return Some(pair(entry));
            }
            match self.chunks.next_back() {
                Some(chunk) => self.last = chunk.iter(),
                None => return self.first.next_back().map(pair),
            }
        }
    }
}

/// Where two copies differ.
pub struct Differences<'a, K, V> {
    old: Walk<'a, K, V>,
    new: Walk<'a, K, V>,
}

/// What is left of one copy.
struct Walk<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    /// The next record of the first chunk.
    at: usize,
}

impl<'a, K, V> Walk<'a, K, V> {
    fn peek(&self) -> Option<&'a Entry<K, V>> {
        self.chunks.first()?.get(self.at)
    }

    fn step(&mut self) {
        self.at += 1;
        if self
            .chunks
            .first()
            .is_some_and(|chunk| self.at == chunk.len())
        {
            self.skip();
        }
    }

    fn skip(&mut self) {
        (self.chunks, self.at) = (self.chunks.get(1..).unwrap_or_default(), 0);
    }
}

impl<K, V> Differences<'_, K, V> {
    fn skip_shared(&mut self) {
        while self.old.at == 0
            && self.new.at == 0
            && let (Some(old), Some(new)) = (self.old.chunks.first(), self.new.chunks.first())
            && Arc::ptr_eq(old, new)
        {
            self.old.skip();
            self.new.skip();
        }
    }
}

impl<'a, K: Ord, V: PartialEq> Iterator for Differences<'a, K, V> {
    type Item = (&'a K, [Option<&'a V>; 2]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.skip_shared();
            let (old, new) = (self.old.peek(), self.new.peek());
            let order = match (old, new) {
                (Some(old), Some(new)) if Arc::ptr_eq(old, new) => Ordering::Equal,
                (Some(old), Some(new)) => old.0.cmp(&new.0),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let old = old.filter(|_| order.is_le());
            let new = new.filter(|_| order.is_ge());
            if old.is_some() {
                self.old.step();
            }
            if new.is_some() {
                self.new.step();
            }
            let is_same = old
                .zip(new)
                .is_some_and(|(old, new)| Arc::ptr_eq(old, new) || old.1 == new.1);
            if !is_same {
                let key = &old.or(new)?.0;
                return Some((key, [old, new].map(|entry| Some(&entry?.1))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Pseudo-random numbers, the same in each run.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (self.0 >> 33) % limit
        }
    }

    fn check(records: &Records<u64, u64>, expected: &BTreeMap<u64, u64>) {
        assert!(records.iter().eq(expected));
        assert!(records.iter().rev().eq(expected.iter().rev()));
        assert_eq!(records.len(), expected.len());
        let is_sound = |chunk: &Chunk<u64, u64>| (1..=FULL).contains(&chunk.len());
        assert!(records.chunks.iter().all(is_sound));
    }

    #[test]
    fn records_are_a_sorted_map_and_differences_are_exact() {
        let mut chance = Chance(7);
        let (mut records, mut expected) = (Records::default(), BTreeMap::new());
        for round in 0..200 {
            let (earlier, before) = (records.clone(), expected.clone());
            // Grows, shrinks, and grows again.
            let removes = if (round / 50) % 2 == 0 { 1 } else { 3 };
            for _ in 0..chance.below(60) {
                let (key, value) = (chance.below(3_000), chance.below(5));
                if chance.below(4) < removes {
                    assert_eq!(records.remove(&key), expected.remove(&key).is_some());
                } else {
                    records.insert(key, value);
                    expected.insert(key, value);
                }
                assert_eq!(records.get(&key), expected.get(&key));
            }
            check(&records, &expected);
            check(&earlier, &before);
            let found = earlier.differences(&records).map(|(key, _)| *key);
            let keys = before.keys().chain(expected.keys());
            let differ = |key: &u64| before.get(key) != expected.get(key);
            let keys: std::collections::BTreeSet<u64> = keys.copied().filter(differ).collect();
            assert!(found.eq(keys));
            assert_eq!(earlier == records, before == expected);
            let (from, to) = (chance.below(3_000), chance.below(3_000));
            let (from, to) = (from.min(to), from.max(to));
            assert!(records.range(from..to).eq(expected.range(from..to)));
            assert!(
                records
                    .range(from..=to)
                    .rev()
                    .eq(expected.range(from..=to).rev())
            );
            assert!(records.range(..from).eq(expected.range(..from)));
        }
        records.retain(|key, _| key % 3 == 0);
        expected.retain(|key, _| key % 3 == 0);
        check(&records, &expected);
    }

    #[test]
    fn a_change_shares_all_but_its_chunk() {
        let records: Records<u64, u64> = (0..10_000).map(|key| (key, 0)).collect();
        let mut changed = records.clone();
        changed.insert(5_000, 1);
        changed.insert(5_001, 0);
        let pairs = records.chunks.iter().zip(changed.chunks.iter());
        assert_eq!(pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
        assert!(
            records
                .differences(&changed)
                .eq([(&5_000, [Some(&0), Some(&1)])])
        );
        *changed.get_mut(&5_000).unwrap() = 0;
        assert_eq!(records, changed);
    }
}
