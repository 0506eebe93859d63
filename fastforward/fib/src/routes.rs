//! The routes of one family in one VRF: every route by its exact prefix, and the structures that answer for addresses.
//!
//! ```text
//! address → hosts (cuckoo, /32 or /128 exactly) → trie (longest from /9 on) → short (longest of /0 to /8) → target
//! prefix  → exact (ordered) → target, generation of the snapshot that last renewed it
//! ```
//! The ordered table tells the parent of a removed route, is swept from a cursor, and is dumped from any prefix on.
//! No call's work grows with the number of routes: a prefix of up to 8 bits, which covers much of the table, paints
//! 256 slots of its own small trie, and nothing here is ever rebuilt or rehashed in one go.

use crate::cuckoo::Cuckoo;
use crate::key::Key;
use crate::trie::{Leaf, MAX_TARGETS, Trie};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A route's address, prefix length and target.
pub type Row<K> = (K, u8, u32);
/// A route's address and prefix length.
pub type Prefix<K> = (K, u8);

const TARGET: u32 = MAX_TARGETS - 1;
/// Prefixes up to this length stay out of the trie.
const SHORT: u8 = 8;

/// Numbers snapshots, modulo 2^32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generation(u32);

impl Generation {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
    /// Serial number arithmetic (RFC 1982): right while the two are less than 2^31 snapshots apart.
    pub fn is_before(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) > u32::MAX / 2
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    target: u32,
    renewed: Generation,
}

#[derive(Debug)]
pub struct Routes<K = u32> {
    hosts: Cuckoo<K>,
    trie: Trie,
    short: Trie,
    /// Routes in the trie.
    in_trie: usize,
    exact: BTreeMap<Prefix<K>, Entry>,
}

impl<K: Key> Default for Routes<K> {
    fn default() -> Self {
        Self { hosts: Cuckoo::default(), trie: Trie::default(), short: Trie::default(), in_trie: 0, exact: BTreeMap::new() }
    }
}

impl<K: Key> Routes<K> {
    pub fn len(&self) -> usize {
        self.exact.len()
    }
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty()
    }

    pub fn lookup(&self, address: K) -> Option<Leaf> {
        if !self.hosts.is_empty()
            && let Some(target) = self.hosts.get(address)
        {
            return Some(Leaf { len: K::BITS, target });
        }
        self.trie.lookup(address).or_else(|| self.short.lookup(address))
    }

    /// [`Routes::lookup`] of each address; stops at the shorter of the two slices.
    pub fn lookup_burst(&self, addresses: &[K], out: &mut [Option<Leaf>]) {
        self.trie.lookup_burst(addresses, out);
        for (a, o) in addresses.iter().zip(out) {
            if !self.hosts.is_empty()
                && let Some(target) = self.hosts.get(*a)
            {
                *o = Some(Leaf { len: K::BITS, target });
            } else if o.is_none() {
                *o = self.short.lookup(*a);
            }
        }
    }

    pub fn get(&self, address: K, len: u8) -> Option<u32> {
        self.exact.get(&(address, len)).map(|e| e.target)
    }

    /// Sets the target of a prefix, as renewed in this generation, and returns the former target. Host bits are ignored.
    pub fn insert(&mut self, address: K, len: u8, target: u32, renewed: Generation) -> Option<u32> {
        let (len, target) = (len.min(K::BITS), target & TARGET);
        let address = address & K::mask(len);
        let old = self.exact.insert((address, len), Entry { target, renewed }).map(|e| e.target);
        if old == Some(target) {
            return old;
        }
        let leaf = Leaf { len, target };
        match len {
            0..=SHORT => self.short.insert(address, leaf),
            _ if len == K::BITS => {
                self.hosts.insert(address, target);
            }
            _ => {
                self.in_trie += usize::from(old.is_none());
                self.trie.insert(address, leaf);
                self.trie.reshape(self.in_trie);
            }
        }
        old
    }

    /// Takes the route of exactly this prefix out; returns its target.
    pub fn remove(&mut self, address: K, len: u8) -> Option<u32> {
        let len = len.min(K::BITS);
        let address = address & K::mask(len);
        let old = self.exact.remove(&(address, len))?.target;
        match len {
            0..=SHORT => self.short.remove(address, len, self.parent(address, len)),
            _ if len == K::BITS => {
                self.hosts.remove(address);
            }
            _ => {
                self.in_trie -= 1;
                self.trie.remove(address, len, self.parent(address, len).filter(|l| l.len > SHORT));
                self.trie.reshape(self.in_trie);
            }
        }
        Some(old)
    }

    /// Looks at no more than `limit` routes behind `after`, removes those last renewed before `since` and hands the
    /// target of each to `gone`. Returns where to go on, or `None` at the end, and how many were looked at.
    pub fn sweep(
        &mut self,
        after: Option<Prefix<K>>,
        limit: usize,
        since: Generation,
        mut gone: impl FnMut(u32),
    ) -> (Option<Prefix<K>>, usize) {
        let mut stale = Vec::new();
        let (mut last, mut seen) = (None, 0);
        for (key, entry) in self.behind(after).take(limit) {
            (last, seen) = (Some(*key), seen + 1);
            if entry.renewed.is_before(since) {
                stale.push(*key);
            }
        }
        for (address, len) in stale {
            if let Some(target) = self.remove(address, len) {
                gone(target);
            }
        }
        (if seen < limit { None } else { last.or(after) }, seen)
    }

    /// At most `limit` routes in prefix order behind `after`, and whether there are more.
    pub fn page(&self, after: Option<Prefix<K>>, limit: usize) -> (Vec<Row<K>>, bool) {
        let mut behind = self.behind(after);
        let rows = behind.by_ref().take(limit).map(|(k, e)| (k.0, k.1, e.target)).collect();
        (rows, behind.next().is_some())
    }

    fn behind(&self, after: Option<Prefix<K>>) -> impl Iterator<Item = (&Prefix<K>, &Entry)> {
        self.exact.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
    }

    /// Heap bytes of the structures that answer lookups, and of those that only updates need.
    pub fn bytes(&self) -> (usize, usize) {
        let lookup = self.trie.bytes() + self.short.bytes() + self.hosts.bytes();
        // Nodes of a B-tree are half full at worst.
        (lookup, self.exact.len() * 2 * size_of::<(Prefix<K>, Entry)>())
    }

    /// The longest route shorter than `len` over `address`.
    fn parent(&self, address: K, len: u8) -> Option<Leaf> {
        // Every route over `address` comes before it in the order. The one just before either is over it, or tells
        // by the bits they share how long a route over both can be: none in between is longer.
        let mut longest = len.checked_sub(1)?;
        loop {
            let (&(a, l), e) = self.exact.range(..=(address & K::mask(longest), longest)).next_back()?;
            if a == address & K::mask(l) {
                return Some(Leaf { len: l, target: e.target });
            }
            longest = a.shared(address).min(longest.checked_sub(1)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use std::collections::BTreeMap;

    /// The naive model: all prefixes, longest match by looking at each.
    #[derive(Default)]
    struct Model(BTreeMap<(u32, u8), u32>);

    impl Model {
        fn lookup(&self, a: u32) -> Option<Leaf> {
            let over = self.0.iter().filter(|((p, l), _)| a & u32::mask(*l) == *p);
            over.max_by_key(|((_, l), _)| *l).map(|((_, len), target)| Leaf { len: *len, target: *target })
        }
    }

    /// Few distinct bits, so that prefixes nest, meet at stride borders and are removed again.
    fn address() -> impl Strategy<Value = u32> {
        (0u32..4, 0u32..4, 0u32..4, 0u32..8).prop_map(|(a, b, c, d)| a << 30 | b << 23 | c << 15 | d.reverse_bits() >> 24 | c << 8 | d)
    }

    const G: Generation = Generation(0);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn agrees_with_the_naive_model(
            ops in vec((0u8..16, address(), 0u8..=32, 0u32..50), 1..150),
            probes in vec(address(), 40),
        ) {
            let (mut r, mut m) = (Routes::default(), Model::default());
            let mut wide = 0;
            for (op, a, len, target) in ops {
                let a = a & u32::mask(len);
                if op == 0 {
                    // As if many others came or went: the root changes its shape, and back with the next one.
                    (r.in_trie, wide) = if wide == 0 { (r.in_trie + (1 << 20), 1 << 20) } else { (r.in_trie - wide, 0) };
                    r.trie.reshape(r.in_trie);
                } else if op < 6 {
                    prop_assert_eq!(r.remove(a, len), m.0.remove(&(a, len)));
                } else {
                    prop_assert_eq!(r.insert(a, len, target, G), m.0.insert((a, len), target));
                }
                for probe in [a, a | !u32::mask(len), a.wrapping_sub(1), (a | !u32::mask(len)).wrapping_add(1)] {
                    prop_assert_eq!(r.lookup(probe), m.lookup(probe));
                }
            }
            let mut burst = vec![None; probes.len()];
            r.lookup_burst(&probes, &mut burst);
            for (p, b) in probes.iter().zip(burst) {
                prop_assert_eq!(b, m.lookup(*p));
                prop_assert_eq!(r.lookup(*p), b);
            }
            let (rows, more) = r.page(None, 1000);
            prop_assert!(!more);
            prop_assert_eq!(rows, m.0.iter().map(|((a, l), t)| (*a, *l, *t)).collect::<Vec<_>>());
            // Emptied in any order, nothing is left.
            let all: Vec<_> = m.0.keys().copied().collect();
            for (a, len) in all {
                prop_assert!(r.remove(a, len).is_some());
            }
            prop_assert_eq!(r.lookup(probes[0]), None);
            prop_assert_eq!((r.len(), r.in_trie), (0, wide));
        }

        /// Snapshots that are renewed in part, left unfinished, and swept in slices with changes in between: at every
        /// moment every lookup is right for what is there, nothing renewed is swept, and in the end nothing else is left.
        #[test]
        fn a_sliced_sweep_takes_what_is_stale_and_never_a_right_answer(
            old in vec((address(), 0u8..=32, 0u8..3), 1..200),
            changes in vec((any::<bool>(), address(), 0u8..=32), 0..60),
            slice in 1usize..20,
        ) {
            let (mut r, mut m) = (Routes::default(), Model::default());
            let mut renewed = BTreeMap::new();
            let mut put = |r: &mut Routes, m: &mut Model, a: u32, len: u8, g: u32| {
                r.insert(a, len, g, Generation(g.wrapping_sub(1)));
                m.0.insert((a & u32::mask(len), len), g);
                renewed.insert((a & u32::mask(len), len), g);
            };
            // Generation u32::MAX was left unfinished, 0 before the one that ends: 1.
            for g in 0..3 {
                old.iter().filter(|o| o.2 == u8::try_from(g).unwrap()).for_each(|(a, len, _)| put(&mut r, &mut m, *a, *len, g));
            }
            let (mut after, mut gone, mut swept) = (None, vec![], 0);
            let mut changes = changes.into_iter();
            loop {
                let before = r.len();
                let (next, seen) = r.sweep(after, slice, Generation(1), |t| gone.push(t));
                prop_assert!(seen <= slice && before - r.len() <= seen);
                swept += before - r.len();
                let to = next.unwrap_or((u32::MAX, 33));
                m.0.retain(|k, g| *g >= 2 || *k > to);
                for (a, len, _) in &old {
                    for probe in [*a, *a | !u32::mask(*len), (*a & u32::mask(*len)).wrapping_sub(1)] {
                        prop_assert_eq!(r.lookup(probe), m.lookup(probe));
                    }
                }
                let Some(next) = next else { break };
                after = Some(next);
                // Deltas of the snapshot that ended, or of one begun since.
                for (add, a, len) in changes.by_ref().take(2) {
                    if add {
                        put(&mut r, &mut m, a, len, 2 + u32::from(len & 1));
                    } else {
                        prop_assert_eq!(r.remove(a, len), m.0.remove(&(a & u32::mask(len), len)));
                    }
                }
            }
            prop_assert_eq!(gone.len(), swept);
            prop_assert!(gone.iter().all(|t| *t < 2), "only what was stale went");
            prop_assert_eq!(r.page(None, 1000).0, m.0.iter().map(|((a, l), t)| (*a, *l, *t)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_page_begins_anywhere_and_pages_follow_each_other_without_gap_or_repetition() {
        let mut r = Routes::default();
        for i in 0..1000u32 {
            r.insert(i.wrapping_mul(0x9e37_79b9), 9 + u8::try_from(i % 24).unwrap(), i % 7, G);
        }
        let (whole, _) = r.page(None, 5000);
        let (mut paged, mut after) = (vec![], None);
        loop {
            let (rows, more) = r.page(after, 37);
            after = rows.last().map(|r| (r.0, r.1));
            paged.extend(rows);
            if !more {
                break;
            }
        }
        assert_eq!(paged, whole);
        assert!(whole.is_sorted());
        // Behind a prefix that is not there, and behind the last.
        let from = whole.iter().position(|r| r.0 >= 1 << 31).unwrap();
        assert_eq!(r.page(Some((0x7fff_ffff, 32)), 3).0, whole[from..from + 3]);
        assert_eq!(r.page(Some((u32::MAX, 32)), 3), (vec![], false));
    }

    #[test]
    fn the_root_widens_and_narrows_with_the_number_of_routes_and_answers_stay() {
        let mut r = Routes::default();
        r.insert(0, 0, 99_999, G);
        for i in 0..40_000u32 {
            r.insert(i << 8, 24, i, G);
        }
        for i in (0..40_000u32).step_by(97) {
            assert_eq!(r.lookup(i << 8 | 5), Some(Leaf { len: 24, target: i }));
        }
        for i in 100..40_000u32 {
            r.remove(i << 8, 24);
        }
        assert_eq!(r.lookup(99 << 8), Some(Leaf { len: 24, target: 99 }));
        assert_eq!(r.lookup(100 << 8), Some(Leaf { len: 0, target: 99_999 }));
        let (lookup, exact) = r.bytes();
        assert!(lookup + exact < 24_576, "{lookup} + {exact}");
        for i in 0..100u32 {
            r.remove(i << 8, 24);
        }
        assert_eq!(r.remove(0, 0), Some(99_999));
        assert_eq!(r.lookup(100 << 8), None);
    }

    #[test]
    fn ten_routes_cost_less_than_two_kilobytes() {
        let mut r = Routes::default();
        r.insert(0, 0, 0, G);
        for i in 0..9u32 {
            r.insert(0x0a00_0000 | i << 16 | i << 8, 24, i, G);
        }
        let (lookup, exact) = r.bytes();
        assert!(lookup + exact < 2048, "{lookup} + {exact}");
    }
}
