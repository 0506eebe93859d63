//! The routes of one VRF: every route by its exact prefix, and the trie that answers for addresses.
//!
//! ```text
//! address → hosts (cuckoo, /32 exactly) → trie (longest of the others) → target
//! prefix  → one cuckoo table for each prefix length in use → target, mark
//! ```
//! The exact tables are what the trie is rebuilt from, what tells the parent of a removed route, and what a new
//! snapshot marks and sweeps.

use crate::cuckoo::Cuckoo;
use crate::trie::{Leaf, MAX_TARGETS, Trie};
use std::collections::BinaryHeap;

/// A route's address, prefix length and target.
pub type Row = (u32, u8, u32);

const MARK: u32 = 1 << 31;
const TARGET: u32 = MAX_TARGETS - 1;

#[derive(Debug, Default)]
pub struct Routes {
    hosts: Cuckoo,
    /// Lengths 0 to 31 that are in use, ascending.
    tables: Vec<(u8, Cuckoo)>,
    trie: Trie,
    /// Routes of the tables, hosts not counted.
    in_trie: usize,
    /// What the mark of a route that the running snapshot has renewed looks like.
    fresh: u32,
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}

impl Routes {
    pub fn len(&self) -> usize {
        self.in_trie + self.hosts.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn lookup(&self, address: u32) -> Option<Leaf> {
        if !self.hosts.is_empty()
            && let Some(v) = self.hosts.get(address)
        {
            return Some(Leaf { len: 32, target: v & TARGET });
        }
        self.trie.lookup(address)
    }

    /// [`Routes::lookup`] of each address; stops at the shorter of the two slices.
    pub fn lookup_burst(&self, addresses: &[u32], out: &mut [Option<Leaf>]) {
        self.trie.lookup_burst(addresses, out);
        if !self.hosts.is_empty() {
            for (a, o) in addresses.iter().zip(out) {
                if let Some(v) = self.hosts.get(*a) {
                    *o = Some(Leaf { len: 32, target: v & TARGET });
                }
            }
        }
    }

    pub fn get(&self, address: u32, len: u8) -> Option<u32> {
        self.table(len)?.get(address).map(|v| v & TARGET)
    }

    /// Sets the target of a prefix, marks it renewed, and returns the former target. Host bits are ignored.
    pub fn insert(&mut self, address: u32, len: u8, target: u32) -> Option<u32> {
        let (len, address) = (len.min(32), address & mask(len));
        let fresh = self.fresh;
        let old = self.table_mut(len).insert(address, target & TARGET | fresh).map(|v| v & TARGET);
        if len < 32 && old != Some(target) {
            self.in_trie += usize::from(old.is_none());
            if self.trie.wants_rebuild(self.in_trie) {
                self.rebuild();
            } else {
                self.trie.insert(address, Leaf { len, target });
            }
        }
        old
    }

    /// Takes the route of exactly this prefix out; returns its target.
    pub fn remove(&mut self, address: u32, len: u8) -> Option<u32> {
        let (len, address) = (len.min(32), address & mask(len));
        let position = self.tables.binary_search_by_key(&len, |t| t.0);
        if len == 32 {
            return self.hosts.remove(address).map(|v| v & TARGET);
        }
        let position = position.ok()?;
        let table = &mut self.tables.get_mut(position)?.1;
        let old = table.remove(address)? & TARGET;
        if table.is_empty() {
            self.tables.remove(position);
        }
        self.in_trie -= 1;
        if self.trie.wants_rebuild(self.in_trie) {
            self.rebuild();
        } else {
            self.trie.remove(address, len, self.parent(address, len));
        }
        Some(old)
    }

    /// Marks every route as not renewed.
    pub fn begin(&mut self) {
        let (mark, fresh) = (self.fresh, self.fresh ^ MARK);
        // An unfinished snapshot leaves both marks behind: first make them one.
        let even = |v: u32| v & !MARK | mark;
        self.hosts.update_all(even);
        self.tables.iter_mut().for_each(|t| t.1.update_all(even));
        self.fresh = fresh;
    }

    /// Removes what was not renewed since [`Routes::begin`] and hands the target of each to `gone`.
    pub fn sweep(&mut self, mut gone: impl FnMut(u32)) {
        let fresh = self.fresh;
        let hosts = (32, &self.hosts);
        let all = self.tables.iter().map(|t| (t.0, &t.1)).chain([hosts]);
        let stale: Vec<(u8, u32)> =
            all.flat_map(|(len, t)| t.iter().filter(|(_, v)| v & MARK != fresh).map(move |(a, _)| (len, a))).collect();
        for (len, address) in stale {
            if let Some(target) = self.remove(address, len) {
                gone(target);
            }
        }
    }

    /// At most `limit` routes in prefix order behind `after`, and whether there are more.
    pub fn page(&self, after: Option<(u32, u8)>, limit: usize) -> (Vec<Row>, bool) {
        let all = self.tables.iter().map(|t| (t.0, &t.1)).chain([(32, &self.hosts)]);
        let mut least: BinaryHeap<Row> = BinaryHeap::with_capacity(limit.saturating_add(2).min(4096));
        for (len, table) in all {
            for (address, v) in table.iter() {
                let row = (address, len, v & TARGET);
                let wanted = after.is_none_or(|a| (address, len) > a);
                if wanted && (least.len() <= limit || least.peek().is_some_and(|top| row < *top)) {
                    least.push(row);
                    if least.len() > limit + 1 {
                        least.pop();
                    }
                }
            }
        }
        let mut rows = least.into_sorted_vec();
        let more = rows.len() > limit;
        rows.truncate(limit);
        (rows, more)
    }

    /// Heap bytes of the structures that answer lookups, and of those that only updates need.
    pub fn bytes(&self) -> (usize, usize) {
        let lookup = self.trie.bytes() + self.hosts.bytes();
        let exact = self.tables.iter().map(|t| t.1.bytes()).sum::<usize>();
        (lookup, exact + self.tables.capacity() * size_of::<(u8, Cuckoo)>())
    }

    fn table(&self, len: u8) -> Option<&Cuckoo> {
        if len == 32 {
            return Some(&self.hosts);
        }
        self.tables.binary_search_by_key(&len, |t| t.0).ok().and_then(|i| self.tables.get(i)).map(|t| &t.1)
    }

    fn table_mut(&mut self, len: u8) -> &mut Cuckoo {
        if len >= 32 {
            return &mut self.hosts;
        }
        let i = match self.tables.binary_search_by_key(&len, |t| t.0) {
            Ok(i) => i,
            Err(i) => {
                self.tables.reserve_exact(1);
                self.tables.insert(i, (len, Cuckoo::default()));
                i
            }
        };
        &mut self.tables[i].1
    }

    /// The longest route shorter than `len` over `address`.
    fn parent(&self, address: u32, len: u8) -> Option<Leaf> {
        let shorter = self.tables.iter().rev().skip_while(|t| t.0 >= len);
        shorter.into_iter().find_map(|(l, t)| t.get(address & mask(*l)).map(|v| Leaf { len: *l, target: v & TARGET }))
    }

    fn rebuild(&mut self) {
        let mut trie = Trie::shaped_for(self.in_trie);
        // Ascending lengths: each route simply paints over those before it.
        for (len, table) in &self.tables {
            for (address, v) in table.iter() {
                trie.insert(address, Leaf { len: *len, target: v & TARGET });
            }
        }
        self.trie = trie;
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
            let over = self.0.iter().filter(|((p, l), _)| a & mask(*l) == *p);
            over.max_by_key(|((_, l), _)| *l).map(|((_, len), target)| Leaf { len: *len, target: *target })
        }
    }

    /// Few distinct bits, so that prefixes nest, meet at stride borders and are removed again.
    fn address() -> impl Strategy<Value = u32> {
        (0u32..4, 0u32..4, 0u32..4, 0u32..8).prop_map(|(a, b, c, d)| a << 30 | b << 23 | c << 15 | d.reverse_bits() >> 24 | c << 8 | d)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn agrees_with_the_naive_model(
            wide: bool,
            ops in vec((0u8..3, address(), 0u8..=32, 0u32..50), 1..150),
            probes in vec(address(), 40),
        ) {
            let (mut r, mut m) = (Routes::default(), Model::default());
            if wide {
                r.trie = Trie::shaped_for(1 << 20);
                r.in_trie = 1 << 20; // keeps its shape; taken off again below
            }
            for (op, a, len, target) in ops {
                let a = a & mask(len);
                if op == 0 {
                    prop_assert_eq!(r.remove(a, len), m.0.remove(&(a, len)));
                } else {
                    prop_assert_eq!(r.insert(a, len, target), m.0.insert((a, len), target));
                }
                for probe in [a, a | !mask(len), a.wrapping_sub(1), (a | !mask(len)).wrapping_add(1)] {
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
            // Emptied in any order, nothing is left, not even memory of the nodes' values.
            let all: Vec<_> = m.0.keys().copied().collect();
            for (a, len) in all {
                prop_assert!(r.remove(a, len).is_some());
            }
            prop_assert_eq!(r.lookup(probes[0]), None);
            prop_assert_eq!(r.len(), if wide { 1 << 20 } else { 0 });
        }
    }

    #[test]
    fn a_snapshot_sweeps_what_it_did_not_renew_even_after_one_that_never_ended() {
        let mut r = Routes::default();
        for i in 0..10u32 {
            r.insert(i << 24, 8 + u8::try_from(i).unwrap() % 3 * 12, i);
        }
        r.begin();
        r.insert(3 << 24, 8, 33);
        assert_eq!(r.lookup(3 << 24).unwrap().target, 33, "new at once");
        assert_eq!(r.lookup(4 << 24).unwrap().target, 4, "old until the end");
        r.begin();
        r.insert(5 << 24, 8 + 24, 5);
        let mut gone = vec![];
        r.sweep(|t| gone.push(t));
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 2, 4, 6, 7, 8, 9, 33]);
        assert_eq!(r.len(), 1);
        assert_eq!(r.page(None, 10).0, [(5 << 24, 32, 5)]);
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let mut r = Routes::default();
        for i in 0..1000u32 {
            r.insert(i.wrapping_mul(0x9e37_79b9), 9 + u8::try_from(i % 24).unwrap(), i % 7);
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
    }

    #[test]
    fn the_root_widens_and_narrows_with_the_number_of_routes_and_answers_stay() {
        let mut r = Routes::default();
        for i in 0..40_000u32 {
            r.insert(i << 8, 24, i);
        }
        for i in (0..40_000u32).step_by(97) {
            assert_eq!(r.lookup(i << 8 | 5), Some(Leaf { len: 24, target: i }));
        }
        for i in 100..40_000u32 {
            r.remove(i << 8, 24);
        }
        assert_eq!(r.lookup(99 << 8), Some(Leaf { len: 24, target: 99 }));
        assert_eq!(r.lookup(100 << 8), None);
        let (lookup, exact) = r.bytes();
        assert!(lookup + exact < 16_384, "{lookup} + {exact}");
    }

    #[test]
    fn ten_routes_cost_less_than_two_kilobytes() {
        let mut r = Routes::default();
        r.insert(0, 0, 0);
        for i in 0..9u32 {
            r.insert(0x0a00_0000 | i << 16 | i << 8, 24, i);
        }
        let (lookup, exact) = r.bytes();
        assert!(lookup + exact < 2048, "{lookup} + {exact}");
    }
}
