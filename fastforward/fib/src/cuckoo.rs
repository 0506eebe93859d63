//! Exact match: a cuckoo hash to 32-bit values, with 32-bit keys in buckets of one cache line, with 128-bit keys of three.
//!
//! ```text
//! bucket, 64 bytes: 7 keys | 7 values | which are used | how many keys of this bucket live in their other bucket
//! ```
//! A key has two buckets. While nothing overflowed from its first one, a lookup, hit or miss, touches one line.
//! Displacement is bounded; a key that finds no place goes to a small ordered map. A table that fills grows by a
//! third under a new seed, a few buckets at each change, so that no change takes long: first the new buckets are laid
//! out, then the old ones are emptied into them. Keys chosen by somebody who knows the hash cannot make it grow for
//! ever: it grows by how full it is, never because keys collide in a sparse table.

use crate::key::Key;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

const SLOTS: usize = 7;
/// Displacements tried for one key.
const MAX_KICKS: usize = 256;
/// Up to how many buckets a table is resized in one go.
const SMALL: usize = 64;
/// New buckets laid out, or old ones emptied, at one change. From 7/8 full on, the table is resized before it is full.
const LAID_OUT: usize = 8;
const EMPTIED: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket<K> {
    keys: [K; SLOTS],
    values: [u32; SLOTS],
    used: u8,
    overflowed: u32,
}

impl<K: Key> Bucket<K> {
    #[inline]
    fn find(&self, key: K) -> Option<usize> {
        let mut hits = 0u8;
        for (i, k) in self.keys.iter().enumerate() {
            hits |= u8::from(*k == key) << i;
        }
        let i = (hits & self.used).trailing_zeros() as usize;
        (i < SLOTS).then_some(i)
    }
    fn free(&self) -> Option<usize> {
        let i = self.used.trailing_ones() as usize;
        (i < SLOTS).then_some(i)
    }
    fn put(&mut self, i: usize, key: K, value: u32) {
        self.keys[i] = key;
        self.values[i] = value;
        self.used |= 1 << i;
    }
}

#[derive(Debug, Clone, Default)]
struct Table<K> {
    buckets: Vec<Bucket<K>>,
    seed: u64,
}

/// What a resize is at.
#[derive(Debug, Clone)]
enum Resize<K> {
    /// The table to come gets its buckets, so many.
    LayOut(Table<K>, usize),
    /// The former table is emptied from the back; it loses the buckets that are empty only with the last one, since
    /// places depend on their number.
    Empty(Table<K>, usize),
}

/// See the module. An empty table owns no memory.
#[derive(Debug, Clone)]
pub struct Cuckoo<K = u32> {
    table: Table<K>,
    resize: Option<Box<Resize<K>>>,
    spill: BTreeMap<K, u32>,
    len: usize,
}

impl<K: Key> Default for Cuckoo<K> {
    fn default() -> Self {
        let table = Table { buckets: Vec::new(), seed: RandomState::new().hash_one(0u8) };
        Self { table, resize: None, spill: BTreeMap::new(), len: 0 }
    }
}

impl<K: Key> Table<K> {
    /// First and second bucket; the same only while there is one bucket.
    #[inline]
    fn places(&self, key: K) -> (usize, usize) {
        let n = self.buckets.len() as u64;
        let h = key.fold(self.seed);
        let h = (h ^ h >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        // Multiply-shift maps 32 bits onto 0..n without a division.
        let scale = |x: u64| usize::try_from(((x & 0xffff_ffff) * n) >> 32).unwrap_or(0);
        let (a, b) = (scale(h >> 32), scale(h));
        if a != b { (a, b) } else { (a, if a + 1 < self.buckets.len() { a + 1 } else { 0 }) }
    }

    #[inline]
    fn get(&self, key: K) -> Option<u32> {
        let (a, b) = self.places(key);
        let first = self.buckets.get(a)?;
        if let Some(i) = first.find(key) {
            return Some(first.values[i]);
        }
        if first.overflowed == 0 {
            return None;
        }
        let second = self.buckets.get(b)?;
        second.find(key).map(|i| second.values[i])
    }

    /// The bucket and the slot of a key.
    fn find(&self, key: K) -> Option<(usize, usize)> {
        let (a, b) = self.places(key);
        [a, b].into_iter().find_map(|at| Some((at, self.buckets.get(at)?.find(key)?)))
    }

    fn replace(&mut self, key: K, value: u32) -> Option<u32> {
        let (at, i) = self.find(key)?;
        Some(std::mem::replace(&mut self.buckets[at].values[i], value))
    }

    fn remove(&mut self, key: K) -> Option<u32> {
        let (at, i) = self.find(key)?;
        let first = self.places(key).0;
        if at != first {
            self.buckets[first].overflowed -= 1;
        }
        self.buckets[at].used &= !(1 << i);
        Some(self.buckets[at].values[i])
    }

    /// Puts a key that is not in the table; gives back the pair left without a place, which need not be the same.
    fn place(&mut self, mut key: K, mut value: u32) -> Result<(), (K, u32)> {
        for kick in 0..MAX_KICKS {
            let (a, b) = self.places(key);
            for at in [a, b] {
                if let Some(bucket) = self.buckets.get_mut(at)
                    && let Some(i) = bucket.free()
                {
                    bucket.put(i, key, value);
                    if at != a {
                        self.buckets[a].overflowed += 1;
                    }
                    return Ok(());
                }
            }
            // Both full: take the place of another key, which then looks for its other bucket.
            let at = if kick % 2 == 0 { a } else { b };
            let i = (kick / 2 + kick) % SLOTS;
            let Some(bucket) = self.buckets.get_mut(at) else { break };
            let (k, v) = (bucket.keys[i], bucket.values[i]);
            bucket.put(i, key, value);
            if at != a {
                self.buckets[a].overflowed += 1;
            }
            let first = self.places(k).0;
            if first != at {
                self.buckets[first].overflowed -= 1;
            }
            (key, value) = (k, v);
        }
        Err((key, value))
    }
}

impl<K: Key> Cuckoo<K> {
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        let other = match self.resize.as_deref() {
            Some(Resize::LayOut(t, _) | Resize::Empty(t, _)) => t.buckets.capacity() * size_of::<Bucket<K>>() + size_of::<Resize<K>>(),
            None => 0,
        };
        // A map node holds up to 11 pairs; at its worst it is half full.
        self.table.buckets.capacity() * size_of::<Bucket<K>>() + other + self.spill.len() * 2 * size_of::<(K, u32)>()
    }

    fn former(&self) -> Option<&Table<K>> {
        if let Some(Resize::Empty(t, _)) = self.resize.as_deref() { Some(t) } else { None }
    }
    fn former_mut(&mut self) -> Option<&mut Table<K>> {
        if let Some(Resize::Empty(t, _)) = self.resize.as_deref_mut() { Some(t) } else { None }
    }

    #[inline]
    pub fn get(&self, key: K) -> Option<u32> {
        if let Some(v) = self.table.get(key) {
            return Some(v);
        }
        if let Some(v) = self.former().and_then(|t| t.get(key)) {
            return Some(v);
        }
        if self.spill.is_empty() { None } else { self.spill.get(&key).copied() }
    }

    /// Sets the value of `key`; returns the former one.
    pub fn insert(&mut self, key: K, value: u32) -> Option<u32> {
        self.step();
        if let Some(old) = self.table.replace(key, value) {
            return Some(old);
        }
        if let Some(old) = self.former_mut().and_then(|t| t.replace(key, value)) {
            return Some(old);
        }
        if let Some(v) = self.spill.get_mut(&key) {
            return Some(std::mem::replace(v, value));
        }
        self.len += 1;
        let n = self.table.buckets.len();
        if self.len > n * SLOTS * 7 / 8 {
            self.begin_resize(n + (n / 3).max(1));
        }
        self.put(key, value);
        None
    }

    pub fn remove(&mut self, key: K) -> Option<u32> {
        self.step();
        let in_tables = self.table.remove(key).or_else(|| self.former_mut()?.remove(key));
        let old = in_tables.or_else(|| self.spill.remove(&key))?;
        self.len -= 1;
        let n = self.table.buckets.len();
        if self.len == 0 {
            // Gives all memory back.
            (self.table.buckets, self.resize) = (Vec::new(), None);
        } else if n > 8 && self.len < n * SLOTS / 4 {
            self.begin_resize(n / 2);
        }
        Some(old)
    }

    fn put(&mut self, key: K, value: u32) {
        if let Err((k, v)) = self.table.place(key, value) {
            self.spill.insert(k, v);
        }
    }

    fn begin_resize(&mut self, buckets: usize) {
        if self.resize.is_some() {
            return;
        }
        let seed = self.table.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.resize = Some(Box::new(Resize::LayOut(Table { buckets: Vec::with_capacity(buckets), seed }, buckets)));
        while self.table.buckets.len() <= SMALL && self.resize.is_some() {
            self.step();
        }
    }

    /// Goes on with a resize.
    fn step(&mut self) {
        match self.resize.as_deref_mut() {
            None => {}
            Some(Resize::LayOut(next, n)) => {
                let n = *n;
                next.buckets.resize((next.buckets.len() + LAID_OUT).min(n), Bucket::default());
                if next.buckets.len() == n {
                    let former = std::mem::replace(&mut self.table, std::mem::take(next));
                    let left = former.buckets.len();
                    self.resize = Some(Box::new(Resize::Empty(former, left)));
                }
            }
            Some(Resize::Empty(former, left)) => {
                let mut moved = Vec::with_capacity(EMPTIED * SLOTS);
                for _ in 0..EMPTIED {
                    let Some(at) = left.checked_sub(1) else { break };
                    *left = at;
                    let bucket = &mut former.buckets[at];
                    moved.extend((0..SLOTS).filter(|i| bucket.used >> i & 1 == 1).map(|i| (bucket.keys[i], bucket.values[i])));
                    // The counts of overflowed keys stay, and may be too high now: never too low is what matters.
                    bucket.used = 0;
                }
                if *left == 0 {
                    self.resize = None;
                }
                // What found no place may find one now.
                moved.extend(self.spill.pop_first());
                moved.into_iter().for_each(|(k, v)| self.put(k, v));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::HashMap;
    use std::hash::Hash;

    #[test]
    fn a_bucket_is_one_cache_line_and_nothing_costs_nothing() {
        assert_eq!((size_of::<Bucket<u32>>(), size_of::<Bucket<u128>>()), (64, 192));
        assert_eq!(Cuckoo::<u32>::default().bytes(), 0);
    }

    fn pairs<K: Key + Hash>(c: &Cuckoo<K>) -> HashMap<K, u32> {
        let tables = [Some(&c.table), c.former()];
        let buckets = tables.into_iter().flatten().flat_map(|t| &t.buckets);
        let placed = buckets.flat_map(|b| (0..SLOTS).filter(|i| b.used >> i & 1 == 1).map(|i| (b.keys[i], b.values[i])));
        placed.chain(c.spill.iter().map(|(k, v)| (*k, *v))).collect()
    }

    /// Every key lies in one of its buckets, and every bucket's counter of overflow is right: in a table that is
    /// being emptied not too low.
    fn sound<K: Key + Hash>(c: &Cuckoo<K>) -> bool {
        for (t, exact) in [(Some(&c.table), true), (c.former(), false)] {
            let Some(t) = t else { continue };
            let mut overflowed = vec![0u32; t.buckets.len()];
            for (at, b) in t.buckets.iter().enumerate() {
                for i in (0..SLOTS).filter(|i| b.used >> i & 1 == 1) {
                    let (first, second) = t.places(b.keys[i]);
                    if at != first {
                        assert_eq!(at, second);
                        overflowed[first] += 1;
                    }
                }
            }
            assert!(t.buckets.iter().zip(overflowed).all(|(b, n)| b.overflowed == n || !exact && b.overflowed > n));
        }
        pairs(c).len() == c.len()
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(before in 0u32..2000, ops in vec((0u8..8, 0u32..2400, any::<u32>()), 1..2000)) {
            let (mut c, mut m) = (Cuckoo::<u32>::default(), HashMap::new());
            // Enough that some cases begin in the middle of a resize.
            for key in (0..before).map(|k| k.wrapping_mul(0x0100_0101)) {
                c.insert(key, key);
                m.insert(key, key);
            }
            for (op, key, value) in ops {
                let key = key.wrapping_mul(0x0100_0101);
                match op {
                    0..5 => prop_assert_eq!(c.insert(key, value), m.insert(key, value)),
                    5..7 => prop_assert_eq!(c.remove(key), m.remove(&key)),
                    _ => prop_assert_eq!(c.get(key), m.get(&key).copied()),
                }
                prop_assert_eq!(c.len(), m.len());
            }
            prop_assert!(sound(&c));
            prop_assert_eq!(pairs(&c), m);
        }

        /// The same with 128 bits, in which the keys differ in either half.
        #[test]
        fn behaves_as_a_map_of_long_keys(ops in vec((0u8..8, 0u128..600, any::<bool>(), any::<u32>()), 1..1500)) {
            let (mut c, mut m) = (Cuckoo::default(), HashMap::new());
            for (op, key, high, value) in ops {
                let key = if high { key << 64 } else { key };
                match op {
                    0..6 => prop_assert_eq!(c.insert(key, value), m.insert(key, value)),
                    6 => prop_assert_eq!(c.remove(key), m.remove(&key)),
                    _ => prop_assert_eq!(c.get(key), m.get(&key).copied()),
                }
            }
            prop_assert!(sound(&c));
            prop_assert_eq!(pairs(&c), m);
        }
    }

    /// Buckets whose keys a change has moved, and buckets it has laid out.
    #[test]
    fn no_change_rehashes_more_than_a_few_buckets_and_all_keys_are_found_meanwhile() {
        let mut c = Cuckoo::<u32>::default();
        let progress = |c: &Cuckoo<u32>| match c.resize.as_deref() {
            Some(Resize::LayOut(t, _)) => (c.table.seed, t.buckets.len(), usize::MAX),
            Some(Resize::Empty(t, left)) => (t.seed, c.table.buckets.len(), *left),
            None => (c.table.seed, 0, 0),
        };
        let (mut resizes, mut fullest, mut before) = (0, 0, progress(&c));
        let mut follow = |c: &Cuckoo<u32>| {
            let now = progress(c);
            if c.table.buckets.len() > 2 * SMALL {
                assert!(now.1.saturating_sub(before.1) <= LAID_OUT || now.0 != before.0);
                assert!(before.2 == usize::MAX || before.2.saturating_sub(now.2) <= EMPTIED);
                fullest = fullest.max(c.len * 100 / (c.table.buckets.len() * SLOTS));
            }
            resizes += usize::from(now.0 != before.0);
            before = now;
        };
        for i in 0..100_000u32 {
            c.insert(i << 3, i);
            follow(&c);
            if i % 9_973 == 0 {
                assert!((0..=i).all(|k| c.get(k << 3) == Some(k)));
            }
        }
        assert!(sound(&c) && c.spill.is_empty());
        for i in 0..100_000u32 {
            assert_eq!(c.remove(i << 3), Some(i));
            follow(&c);
            if i % 9_973 == 0 {
                assert!((0..100_000).all(|k| c.get(k << 3) == (k > i).then_some(k)));
            }
        }
        assert_eq!((c.len(), c.bytes()), (0, 0));
        assert!(resizes > 20 && fullest <= 95, "{resizes} resizes, {fullest} % full");
    }

    #[test]
    fn a_hundred_thousand_hosts_fill_most_of_the_table() {
        let mut c = Cuckoo::<u32>::default();
        for i in 0..100_000u32 {
            c.insert(i << 3, i);
        }
        while c.resize.is_some() {
            c.step();
        }
        assert!((0..100_000u32).all(|i| c.get(i << 3) == Some(i) && c.get(i << 3 | 1).is_none()));
        assert!(sound(&c));
        assert!(c.bytes() < 100_000 * 14, "{}", c.bytes());
    }

    /// Keys that share both buckets, as somebody could choose them who knew the seed, cost memory in
    /// proportion to their number and are all found.
    #[test]
    fn colliding_keys_spill_and_stay_right() {
        let mut c = Cuckoo::<u32>::default();
        c.table.buckets = vec![Bucket::default(); 1000];
        let want = c.table.places(1);
        let keys: Vec<u32> = (0..u32::MAX).filter(|k| c.table.places(*k) == want).take(30).collect();
        for k in &keys {
            c.insert(*k, !*k);
        }
        assert!(!c.spill.is_empty() && c.table.buckets.len() == 1000);
        assert!(keys.iter().all(|k| c.get(*k) == Some(!*k)));
        assert!(sound(&c));
        for k in &keys {
            assert_eq!(c.remove(*k), Some(!*k));
        }
        assert!(c.is_empty() && c.spill.is_empty());
    }
}
