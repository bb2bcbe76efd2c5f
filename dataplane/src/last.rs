//! The last result of a pure function, for passes that find nothing new: most of them.

use std::sync::Arc;

/// What was asked last, and the answer.
pub struct Last<K, V>(Option<(K, Arc<V>)>);

impl<K, V> Default for Last<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq, V> Last<K, V> {
    /// What `make` makes of `key`.
    pub fn of(&mut self, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        match &self.0 {
            Some((last, made)) if *last == key => made.clone(),
            _ => {
                let made = Arc::new(make(&key));
                self.0 = Some((key, made.clone()));
                made
            }
        }
    }
}
