//! The last result of a pure function, for passes that find nothing new: most of them.

use std::sync::Arc;

/// What was asked last, and the answer.
pub(crate) struct Last<K, V>(Option<(K, Arc<V>)>);

impl<K, V> Default for Last<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq, V> Last<K, V> {
    /// What `make` makes of `key`, and of the last key and answer if there are any.
    pub(crate) fn of(&mut self, key: K, make: impl FnOnce(&K, Option<(&K, &V)>) -> V) -> Arc<V> {
        match &self.0 {
            Some((last, made)) if *last == key => made.clone(),
            last => {
                let last = last.as_ref().map(|(key, made)| (key, &**made));
                let made = Arc::new(make(&key, last));
                self.0 = Some((key, made.clone()));
                made
            }
        }
    }
}
