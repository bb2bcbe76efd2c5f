//! Maps that drop what is empty, so that two with the same content are equal.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    iter::Flatten,
    option,
};

/// The values of a key, in order.
pub(crate) type Values<'a, V> = Flatten<option::IntoIter<&'a BTreeSet<V>>>;

/// Values by key, both in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Groups<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K: Ord, V: Ord> Groups<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q, value: &V)
    where
        K: Borrow<Q>,
    {
        let Some(values) = self.0.get_mut(key) else {
            return;
        };
        values.remove(value);
        if values.is_empty() {
            self.0.remove(key);
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// The values of a key.
    pub(crate) fn of<'a, Q: Ord + ?Sized>(&'a self, key: &Q) -> Values<'a, V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K, V> Default for Groups<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// How often each key is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bag<K>(BTreeMap<K, usize>);

impl<K: Ord> Bag<K> {
    /// Puts one in; whether it is the first.
    pub(crate) fn add(&mut self, key: K) -> bool {
        let count = self.0.entry(key).or_default();
        *count += 1;
        *count == 1
    }

    /// Takes one out; whether it was the last.
    pub(crate) fn take(&mut self, key: &K) -> bool {
        let Some(count) = self.0.get_mut(key) else {
            return false;
        };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.0.remove(key);
        }
        is_last
    }

    pub(crate) fn count(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub(crate) fn least(&self) -> Option<&K> {
        self.0.keys().next()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K> Default for Bag<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_group_is_dropped() {
        let mut groups: Groups<String, u64> = Groups::default();
        groups.insert("one".to_owned(), 1);
        groups.remove("one", &2);
        groups.remove("two", &1);
        assert_eq!(groups.of("one").collect::<Vec<_>>(), [&1]);
        groups.remove("one", &1);
        assert_eq!(groups, Groups::default());

        let mut bag = Bag::default();
        assert!(bag.add(7) && !bag.add(7) && bag.add(9));
        assert_eq!((bag.count(&7), bag.least()), (2, Some(&7)));
        assert!(!bag.take(&7) && bag.take(&7) && !bag.take(&7));
        assert_eq!(bag.keys().collect::<Vec<_>>(), [&9]);
        assert!(bag.take(&9) && bag.is_empty());
    }
}
