//! Mark and sweep by epoch: the receiver's side of every resync.

use edgeplex_types::Epoch;
use std::{collections::BTreeMap, ops::Bound};

/// A table learnt from a peer that may come back and tell it all again.
#[derive(Debug, Clone)]
pub struct EpochMap<K, V> {
    entries: BTreeMap<K, (Epoch, V)>,
}

impl<K, V> Default for EpochMap<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq> EpochMap<K, V> {
    /// Stores or renews an entry; true if its value is new or different.
    pub fn insert(&mut self, epoch: Epoch, key: K, value: V) -> bool {
        match self.entries.get_mut(&key) {
            Some((mark, old)) => {
                *mark = epoch;
                let changed = *old != value;
                if changed {
                    *old = value;
                }
                changed
            }
            None => {
                self.entries.insert(key, (epoch, value));
                true
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, v)| v)
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, v)| v)
    }

    /// Removes every entry that does not carry `epoch`, and returns them in key order.
    pub fn sweep(&mut self, epoch: Epoch) -> Vec<(K, V)> {
        self.entries.extract_if(.., |_, (mark, _)| *mark != epoch).map(|(k, (_, v))| (k, v)).collect()
    }

    /// Whether the entry was last renewed in another epoch than `current`.
    pub fn is_stale(&self, key: &K, current: Epoch) -> bool {
        self.entries.get(key).is_some_and(|(mark, _)| *mark != current)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(k, (_, v))| (k, v))
    }

    /// The keys that follow `after`, or all of them, in order.
    pub fn keys_after(&self, after: Option<&K>) -> impl Iterator<Item = &K> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded)).map(|(k, _)| k)
    }

    /// Values to be changed in place, which renews nothing.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(k, (_, v))| (k, v))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_snapshot_changes_only_what_differs() {
        let mut m = EpochMap::default();
        for (k, v) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            assert!(m.insert(Epoch(1), k, v));
        }
        assert!(!m.insert(Epoch(2), 1, 'a'));
        assert!(m.insert(Epoch(2), 2, 'x'));
        assert!(m.is_stale(&3, Epoch(2)));
        assert_eq!(m.sweep(Epoch(2)), vec![(3, 'c')]);
        assert_eq!((m.keys_after(None).count(), m.keys_after(Some(&1)).collect::<Vec<_>>()), (2, vec![&2]));
        assert_eq!(m.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), vec![(1, 'a'), (2, 'x')]);
    }
}
