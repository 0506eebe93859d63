//! What becomes of packets with a label of ours: the incoming label map of a label-switching router, the own labels
//! of a VRF.
//!
//! ```text
//! label → map (cuckoo) → VRF lookup │ pop │ tunnel slot │ target: the CE
//! label → exact (ordered) → the same, generation of the snapshot that last renewed it
//! ```

use crate::cuckoo::Cuckoo;
use crate::routes::Generation;
use edgeplex_types::Label;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The meaning of a label, in 32 bits: two special numbers, or a slot's, or, with the top bit, a target's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Vrf,
    Pop,
    Tunnel(u32),
    Target(u32),
}

const VRF: u32 = u32::MAX;
const POP: u32 = u32::MAX - 1;
const TARGET: u32 = 1 << 31;

impl From<Meaning> for u32 {
    fn from(m: Meaning) -> u32 {
        match m {
            Meaning::Vrf => VRF,
            Meaning::Pop => POP,
            Meaning::Tunnel(slot) => slot,
            // Targets are numbered below 2^23.
            Meaning::Target(n) => TARGET | n,
        }
    }
}

impl From<u32> for Meaning {
    fn from(v: u32) -> Self {
        match v {
            VRF => Self::Vrf,
            POP => Self::Pop,
            v if v & TARGET != 0 => Self::Target(v & !TARGET),
            slot => Self::Tunnel(slot),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Labels {
    map: Cuckoo,
    exact: BTreeMap<Label, (Meaning, Generation)>,
}

impl Labels {
    pub(crate) fn len(&self) -> usize {
        self.exact.len()
    }

    #[inline]
    pub(crate) fn get(&self, label: Label) -> Option<Meaning> {
        self.map.get(label.get()).map(Meaning::from)
    }

    /// Returns the former meaning.
    pub(crate) fn insert(&mut self, label: Label, meaning: Meaning, renewed: Generation) -> Option<Meaning> {
        self.map.insert(label.get(), meaning.into());
        self.exact.insert(label, (meaning, renewed)).map(|old| old.0)
    }

    pub(crate) fn remove(&mut self, label: Label) -> Option<Meaning> {
        self.map.remove(label.get());
        self.exact.remove(&label).map(|old| old.0)
    }

    /// Looks at no more than `limit` labels behind `after` and removes those last renewed before `since`. Returns their
    /// meanings, where to go on, or `None` at the end, and how many were looked at.
    pub(crate) fn sweep(&mut self, after: Option<Label>, limit: usize, since: Generation) -> (Vec<Meaning>, Option<Label>, usize) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut stale, mut last, mut seen) = (Vec::new(), after, 0);
        for (label, (_, renewed)) in self.exact.range((from, Bound::Unbounded)).take(limit) {
            (last, seen) = (Some(*label), seen + 1);
            if renewed.is_before(since) {
                stale.push(*label);
            }
        }
        let gone = stale.into_iter().filter_map(|l| self.remove(l)).collect();
        (gone, if seen < limit { None } else { last }, seen)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.map.bytes() + self.exact.len() * 2 * size_of::<(Label, (Meaning, Generation))>()
    }
}
