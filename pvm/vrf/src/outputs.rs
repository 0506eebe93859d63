//! The three readers of the RIB, and what each was last told. An output is the set of prefixes that differ; the
//! operation itself is made when it is taken, from what is best then.

use edgeplex_bgp_wire::Attributes;
use edgeplex_types::TunnelId;
use ipnet::Ipv4Net;
use std::{collections::BTreeSet, sync::Arc};

/// One change to the routes that the CE should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CeOp {
    /// The next hop is the PE's own address.
    Advertise {
        prefix: Ipv4Net,
        attributes: Arc<Attributes>,
    },
    Withdraw {
        prefix: Ipv4Net,
    },
}

/// One reader's view of the prefixes.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// To be told again.
    pub(crate) dirty: BTreeSet<Ipv4Net>,
    /// Prefixes the reader has from this session. A withdraw of any other is never sent: after a restart the
    /// reader may still hold it as stale, and only its End may sweep that.
    told: BTreeSet<Ipv4Net>,
}

impl Output {
    /// The reader starts from nothing: tell it all of `prefixes`.
    pub(crate) fn restart(&mut self, prefixes: impl Iterator<Item = Ipv4Net>) {
        self.told.clear();
        self.dirty = prefixes.collect();
    }

    pub(crate) fn told(&self) -> usize {
        self.told.len()
    }

    /// Takes the next change: `present` makes the operation for a prefix that the reader should have, `absent` for
    /// one that it should no longer have.
    pub(crate) fn take<Op>(&mut self, present: impl Fn(Ipv4Net) -> Option<Op>, absent: impl Fn(Ipv4Net) -> Op) -> Option<Op> {
        while let Some(prefix) = self.dirty.pop_first() {
            if let Some(op) = present(prefix) {
                self.told.insert(prefix);
                return Some(op);
            }
            if self.told.remove(&prefix) {
                return Some(absent(prefix));
            }
        }
        None
    }
}

/// What FastForward is told besides routes.
#[derive(Debug, Default)]
pub(crate) struct FibState {
    pub(crate) interface: bool,
    pub(crate) own_label: bool,
    pub(crate) tunnels: BTreeSet<TunnelId>,
    /// Tunnels FastForward has from this session.
    pub(crate) told: BTreeSet<TunnelId>,
    /// Tunnels to be taken back, once no route that was told uses them.
    pub(crate) gone: BTreeSet<TunnelId>,
}
