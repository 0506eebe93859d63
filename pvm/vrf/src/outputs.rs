//! The readers of the RIB, and what each was last told. An output is the set of keys that differ; the operation itself is
//! made when it is taken, from what is true then.

use edgeplex_bgp_wire::Attributes;
use edgeplex_types::{Label, TunnelId};
use ipnet::IpNet;
use std::{collections::BTreeSet, sync::Arc};

/// One change to the routes that a CE should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CeOp {
    /// The next hop is the PE's own address.
    Advertise {
        prefix: IpNet,
        attributes: Arc<Attributes>,
    },
    Withdraw {
        prefix: IpNet,
    },
}

/// One reader's view of keys: prefixes, or labels.
#[derive(Debug)]
pub(crate) struct Output<K> {
    /// To be told again.
    pub(crate) dirty: BTreeSet<K>,
    /// What the reader has from this session. A withdraw of anything else is never sent: after a restart the
    /// reader may still hold it as stale, and only its End may sweep that.
    told: BTreeSet<K>,
}

impl<K> Default for Output<K> {
    fn default() -> Self {
        Self { dirty: BTreeSet::new(), told: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Output<K> {
    /// The reader starts from nothing: tell it all of `keys`.
    pub(crate) fn restart(&mut self, keys: impl Iterator<Item = K>) {
        self.told.clear();
        self.dirty = keys.collect();
    }

    pub(crate) fn told(&self) -> usize {
        self.told.len()
    }

    /// Everything the reader has is to be looked at again.
    pub(crate) fn review(&mut self, keys: impl Iterator<Item = K>) {
        self.dirty.extend(keys);
        self.dirty.extend(&self.told);
    }

    /// Takes the next change: `present` makes the operation for a key that the reader should have, `absent` for
    /// one that it should no longer have.
    pub(crate) fn take<Op>(&mut self, mut present: impl FnMut(K) -> Option<Op>, absent: impl Fn(K) -> Op) -> Option<Op> {
        while let Some(key) = self.dirty.pop_first() {
            if let Some(op) = present(key) {
                self.told.insert(key);
                return Some(op);
            }
            if self.told.remove(&key) {
                return Some(absent(key));
            }
        }
        None
    }
}

/// What FastForward is told besides routes.
#[derive(Debug, Default)]
pub(crate) struct FibState {
    pub(crate) interface: bool,
    pub(crate) labels: Output<Label>,
    pub(crate) tunnels: BTreeSet<TunnelId>,
    /// Tunnels FastForward has from this session.
    pub(crate) told: BTreeSet<TunnelId>,
    /// Tunnels to be taken back, once no route that was told uses them.
    pub(crate) gone: BTreeSet<TunnelId>,
}
