//! Exact match: a cuckoo hash from 32-bit keys to 32-bit values in buckets of one cache line.
//!
//! ```text
//! bucket, 64 bytes: 7 keys | 7 values | which are used | how many keys of this bucket live in their other bucket
//! ```
//! A key has two buckets. While nothing overflowed from its first one, a lookup, hit or miss, touches one line.
//! Displacement is bounded; when it fails the table grows by a third under a new seed. Keys chosen by somebody who
//! knows the hash cannot make it grow for ever: when it is already sparse, the key goes to a small ordered map.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

const SLOTS: usize = 7;
/// Displacements tried for one key.
const MAX_KICKS: usize = 256;

#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    keys: [u32; SLOTS],
    values: [u32; SLOTS],
    used: u8,
    overflowed: u32,
}

impl Bucket {
    fn find(&self, key: u32) -> Option<usize> {
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
    fn put(&mut self, i: usize, key: u32, value: u32) {
        self.keys[i] = key;
        self.values[i] = value;
        self.used |= 1 << i;
    }
}

/// See the module. An empty table owns no memory.
#[derive(Debug, Clone)]
pub struct Cuckoo {
    buckets: Vec<Bucket>,
    len: usize,
    seed: u64,
    spill: BTreeMap<u32, u32>,
}

impl Default for Cuckoo {
    fn default() -> Self {
        Self { buckets: Vec::new(), len: 0, seed: RandomState::new().hash_one(0u8), spill: BTreeMap::new() }
    }
}

impl Cuckoo {
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        // A map node holds up to 11 pairs; 16 bytes a pair is its worst fill.
        self.buckets.capacity() * size_of::<Bucket>() + self.spill.len() * 16
    }

    /// First and second bucket; the same only while there is one bucket.
    fn places(&self, key: u32) -> (usize, usize) {
        let n = self.buckets.len() as u64;
        let h = (u64::from(key) ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let h = (h ^ h >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        // Multiply-shift maps 32 bits onto 0..n without a division.
        let scale = |x: u64| usize::try_from(((x & 0xffff_ffff) * n) >> 32).unwrap_or(0);
        let (a, b) = (scale(h >> 32), scale(h));
        if a != b { (a, b) } else { (a, if a + 1 < self.buckets.len() { a + 1 } else { 0 }) }
    }

    pub fn get(&self, key: u32) -> Option<u32> {
        let (a, b) = self.places(key);
        let first = self.buckets.get(a)?;
        if let Some(i) = first.find(key) {
            return Some(first.values[i]);
        }
        if first.overflowed > 0
            && let Some(second) = self.buckets.get(b)
            && let Some(i) = second.find(key)
        {
            return Some(second.values[i]);
        }
        if self.spill.is_empty() { None } else { self.spill.get(&key).copied() }
    }

    pub fn get_mut(&mut self, key: u32) -> Option<&mut u32> {
        let (a, b) = self.places(key);
        for at in [a, b] {
            if let Some(i) = self.buckets.get(at)?.find(key) {
                return self.buckets.get_mut(at).map(|x| &mut x.values[i]);
            }
        }
        self.spill.get_mut(&key)
    }

    /// Sets the value of `key`; returns the former one.
    pub fn insert(&mut self, key: u32, value: u32) -> Option<u32> {
        if let Some(v) = self.get_mut(key) {
            return Some(std::mem::replace(v, value));
        }
        self.len += 1;
        if self.len > self.buckets.len() * SLOTS * 15 / 16 {
            self.grow();
        }
        if let Err((key, value)) = self.place(key, value) {
            if self.len > self.buckets.len() * SLOTS / 2 {
                self.grow();
                if self.place(key, value).is_ok() {
                    return None;
                }
            }
            self.spill.insert(key, value);
        }
        None
    }

    pub fn remove(&mut self, key: u32) -> Option<u32> {
        let (a, b) = self.places(key);
        for at in [a, b] {
            let bucket = self.buckets.get_mut(at)?;
            if let Some(i) = bucket.find(key) {
                bucket.used &= !(1 << i);
                let value = bucket.values[i];
                if at != a {
                    self.buckets[a].overflowed -= 1;
                }
                self.len -= 1;
                self.shrink();
                return Some(value);
            }
        }
        let value = self.spill.remove(&key)?;
        self.len -= 1;
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let in_buckets = self.buckets.iter().flat_map(|b| (0..SLOTS).filter(|i| b.used >> i & 1 == 1).map(|i| (b.keys[i], b.values[i])));
        in_buckets.chain(self.spill.iter().map(|(k, v)| (*k, *v)))
    }

    /// Changes every value in place.
    pub fn update_all(&mut self, mut f: impl FnMut(u32) -> u32) {
        for b in &mut self.buckets {
            for i in 0..SLOTS {
                if b.used >> i & 1 == 1 {
                    b.values[i] = f(b.values[i]);
                }
            }
        }
        for v in self.spill.values_mut() {
            *v = f(*v);
        }
    }

    /// Puts a key that is not in the table; gives back the pair left without a place, which need not be the same.
    fn place(&mut self, mut key: u32, mut value: u32) -> Result<(), (u32, u32)> {
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

    fn grow(&mut self) {
        let n = self.buckets.len();
        self.rebuild(n + (n / 3).max(1));
    }

    /// Gives memory back when under a quarter is in use.
    fn shrink(&mut self) {
        let n = self.buckets.len();
        if self.len == 0 {
            self.buckets = Vec::new();
        } else if n > 8 && self.len < n * SLOTS / 4 {
            self.rebuild(n / 2);
        }
    }

    fn rebuild(&mut self, n: usize) {
        let pairs: Vec<_> = self.iter().collect();
        self.buckets = vec![Bucket::default(); n];
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.spill.clear();
        for (k, v) in pairs {
            if let Err((k, v)) = self.place(k, v) {
                self.spill.insert(k, v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::HashMap;

    #[test]
    fn a_bucket_is_one_cache_line_and_nothing_costs_nothing() {
        assert_eq!(size_of::<Bucket>(), 64);
        assert_eq!(Cuckoo::default().bytes(), 0);
    }

    /// Every key's counter of overflow is what the table says.
    fn sound(c: &Cuckoo) -> bool {
        let mut overflowed = vec![0u32; c.buckets.len()];
        for (at, b) in c.buckets.iter().enumerate() {
            for i in (0..SLOTS).filter(|i| b.used >> i & 1 == 1) {
                let (first, second) = c.places(b.keys[i]);
                if at != first {
                    assert_eq!(at, second);
                    overflowed[first] += 1;
                }
            }
        }
        c.buckets.iter().zip(overflowed).all(|(b, n)| b.overflowed == n) && c.iter().count() == c.len()
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in vec((0u8..8, 0u32..400, any::<u32>()), 1..2000)) {
            let (mut c, mut m) = (Cuckoo::default(), HashMap::new());
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
            prop_assert_eq!(c.iter().collect::<HashMap<_, _>>(), m);
        }
    }

    #[test]
    fn a_hundred_thousand_hosts_fill_most_of_the_table_and_it_empties_again() {
        let mut c = Cuckoo::default();
        for i in 0..100_000u32 {
            c.insert(i << 3, i);
        }
        assert!((0..100_000u32).all(|i| c.get(i << 3) == Some(i) && c.get(i << 3 | 1).is_none()));
        assert!(sound(&c));
        assert!(c.bytes() < 100_000 * 14, "{}", c.bytes());
        for i in 0..100_000u32 {
            assert_eq!(c.remove(i << 3), Some(i));
        }
        assert_eq!((c.len(), c.bytes()), (0, 0));
    }

    /// Keys that share both buckets, as somebody could choose them who knew the seed, cost memory in
    /// proportion to their number and are all found.
    #[test]
    fn colliding_keys_spill_and_stay_right() {
        let mut c = Cuckoo { buckets: vec![Bucket::default(); 1000], ..Cuckoo::default() };
        let want = c.places(1);
        let keys: Vec<u32> = (0..u32::MAX).filter(|k| c.places(*k) == want).take(30).collect();
        for k in &keys {
            c.insert(*k, !*k);
        }
        assert!(!c.spill.is_empty() && c.buckets.len() == 1000);
        assert!(keys.iter().all(|k| c.get(*k) == Some(!*k)));
        assert!(sound(&c));
        for k in &keys {
            assert_eq!(c.remove(*k), Some(!*k));
        }
        assert!(c.is_empty() && c.spill.is_empty());
    }
}
