//! How many of something each one has at a time: connections per address, associations per caller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts per key, each up to the same limit.
#[derive(Debug)]
pub(super) struct Tally<K: Ord + Clone> {
    limit: usize,
    counts: Mutex<BTreeMap<K, usize>>,
}

/// One of a key's places, given back when dropped.
#[derive(Debug)]
pub(super) struct Place<K: Ord + Clone> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Ord + Clone> Tally<K> {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// A place for the key, or `None` when it has all of its own.
    pub(super) fn take(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut counts = self.lock();
        let count = counts.entry(key.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { tally: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.lock();
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_places_and_none_is_remembered_without_need() {
        let tally = Tally::new(2);
        let first = tally.take("a").unwrap();
        let second = tally.take("a").unwrap();
        assert!(tally.take("a").is_none());
        assert!(tally.take("b").is_some());
        drop(first);
        assert!(tally.take("a").is_some());
        drop(second);
        assert!(tally.lock().is_empty());
    }
}
