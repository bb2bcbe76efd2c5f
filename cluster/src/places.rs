//! Places of connections, so many in all and so many for one holder. A newcomer always gets one:
//! where there is none left, the holder that has the most loses its oldest.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    pub in_all: usize,
    pub of_one: usize,
}

/// Places that holders of this kind take.
pub(crate) struct Places<K: Ord> {
    most: Most,
    taken: Arc<Mutex<Taken<K>>>,
}

struct Taken<K: Ord> {
    numbers: u64,
    count: usize,
    by: BTreeMap<K, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// A place, taken until it is dropped.
pub(crate) struct Place<K: Ord> {
    holder: K,
    number: u64,
    taken: Arc<Mutex<Taken<K>>>,
    loss: oneshot::Receiver<()>,
}

impl<K: Ord + Clone> Places<K> {
    pub(crate) fn new(most: Most) -> Self {
        let taken = Taken {
            numbers: 0,
            count: 0,
            by: BTreeMap::new(),
        };
        Self {
            most,
            taken: Arc::new(Mutex::new(taken)),
        }
    }

    /// A place for this holder.
    pub(crate) fn take(&self, holder: K) -> Place<K> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.by.get(&holder).map_or(0, BTreeMap::len) >= self.most.of_one {
            taken.clear_oldest(&holder);
        }
        if taken.count >= self.most.in_all
            && let Some(greediest) = taken.greediest()
        {
            taken.clear_oldest(&greediest);
        }
        taken.numbers += 1;
        let number = taken.numbers;
        let (keeps, loss) = oneshot::channel();
        let of_holder = taken.by.entry(holder.clone()).or_default();
        of_holder.insert(number, keeps);
        taken.count += 1;
        Place {
            holder,
            number,
            taken: self.taken.clone(),
            loss,
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.taken.lock().unwrap().count
    }
}

impl<K: Ord + Clone> Taken<K> {
    /// The holder with the most places; of equals the one whose oldest place is the oldest.
    fn greediest(&self) -> Option<K> {
        let mut found: Option<(&K, usize, u64)> = None;
        for (holder, places) in &self.by {
            let oldest = places.keys().next().copied().unwrap_or(u64::MAX);
            let is_more = |(_, most, first): (&K, usize, u64)| {
                places.len() > most || places.len() == most && oldest < first
            };
            if found.is_none_or(is_more) {
                found = Some((holder, places.len(), oldest));
            }
        }
        found.map(|(holder, _, _)| holder.clone())
    }
}

impl<K: Ord> Taken<K> {
    fn clear_oldest(&mut self, holder: &K) {
        let oldest = self.by.get(holder).and_then(|places| places.keys().next());
        if let Some(&number) = oldest {
            self.clear(holder, number);
        }
    }

    /// Whoever waits at [`Place::lost`] hears of it: the sender is dropped.
    fn clear(&mut self, holder: &K, number: u64) {
        let Some(places) = self.by.get_mut(holder) else {
            return;
        };
        if places.remove(&number).is_some() {
            self.count -= 1;
        }
        if places.is_empty() {
            self.by.remove(holder);
        }
    }
}

impl<K: Ord> Place<K> {
    /// Returns once a newcomer has this place.
    pub(crate) async fn lost(&mut self) {
        let _dropped = (&mut self.loss).await;
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.clear(&self.holder, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MOST: Most = Most {
        in_all: 5,
        of_one: 3,
    };

    fn is_lost(place: &mut Place<char>) -> bool {
        place.lost().now_or_never().is_some()
    }

    fn lost(places: &mut [Place<char>]) -> Vec<bool> {
        places.iter_mut().map(is_lost).collect()
    }

    #[test]
    fn one_holder_loses_its_own_oldest_place() {
        let places = Places::new(MOST);
        let mut other = places.take('o');
        let mut own: Vec<_> = (0..5).map(|_| places.take('a')).collect();
        assert_eq!(lost(&mut own), [true, true, false, false, false]);
        assert!(!is_lost(&mut other) && places.count() == 4);
    }

    #[test]
    fn when_all_are_taken_the_greediest_holder_makes_room() {
        let places = Places::new(MOST);
        let mut single = places.take('s');
        let mut greedy: Vec<_> = (0..3).map(|_| places.take('g')).collect();
        let mut others: Vec<_> = ['x', 'y', 'z'].map(|holder| places.take(holder)).into();
        assert_eq!(lost(&mut greedy), [true, true, false]);
        assert!(!is_lost(&mut single) && lost(&mut others) == [false; 3]);
        // Among equals the oldest.
        let mut last = places.take('l');
        assert!(is_lost(&mut single) && !is_lost(&mut last) && places.count() == 5);
    }

    #[test]
    fn a_dropped_place_is_free_again() {
        let places = Places::new(MOST);
        for _ in 0..10 {
            let mut own: Vec<_> = (0..3).map(|_| places.take('a')).collect();
            assert_eq!(lost(&mut own), [false; 3]);
            // Dropped after it was lost.
            let _newer = places.take('a');
            drop(own);
            assert_eq!(places.count(), 1);
        }
        let taken = places.taken.lock().unwrap();
        assert!(taken.by.is_empty() && taken.count == 0);
    }
}
