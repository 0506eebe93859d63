//! BGP next hops that routes need, and how the core reaches them.

use crate::config::TunnelState;
use edgeplex_relay::Tunnel;
use edgeplex_types::TunnelId;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// The identifier of the tunnel to an endpoint is its address as a number: the same before and after a restart, so that
/// paths of the old epoch never meet a tunnel that means another PE.
pub fn tunnel_id(endpoint: Ipv4Addr) -> TunnelId {
    TunnelId(endpoint.to_bits())
}

#[derive(Debug, Clone, Default)]
struct Endpoint {
    /// Paths that name it. With none it is wanted until the core is told so: what the core has said of it stays true.
    uses: u64,
    state: Option<TunnelState>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Endpoints {
    map: BTreeMap<Ipv4Addr, Endpoint>,
    /// The set of them is perhaps another one than the core was told.
    changed: bool,
}

impl Endpoints {
    /// One more path needs it.
    pub(crate) fn take(&mut self, endpoint: Ipv4Addr) {
        self.changed |= !self.map.contains_key(&endpoint);
        self.map.entry(endpoint).or_default().uses += 1;
    }

    /// One path less needs it.
    pub(crate) fn release(&mut self, endpoint: Ipv4Addr) {
        if let Some(entry) = self.map.get_mut(&endpoint) {
            entry.uses -= 1;
            self.changed |= entry.uses == 0;
        }
    }

    /// Forgets those that nobody needs; true if the core has to be told which are wanted.
    pub(crate) fn settle(&mut self) -> bool {
        let changed = std::mem::take(&mut self.changed);
        if changed {
            self.map.retain(|_, e| e.uses > 0);
        }
        changed
    }

    /// Stores what the core says; gives back what it said before, or nothing if nobody wants this endpoint.
    pub(crate) fn set(&mut self, endpoint: Ipv4Addr, state: Option<TunnelState>) -> Option<Option<TunnelState>> {
        Some(std::mem::replace(&mut self.map.get_mut(&endpoint)?.state, state))
    }

    /// What paths over it cost; nothing while there is no way to it.
    pub(crate) fn cost(&self, endpoint: Ipv4Addr) -> Option<u32> {
        cost(self.map.get(&endpoint)?.state.as_ref())
    }

    /// As a PVM is told: without legs while there is no way to it.
    pub(crate) fn tunnel(&self, endpoint: Ipv4Addr) -> Tunnel {
        match self.map.get(&endpoint).and_then(|e| e.state.as_ref()) {
            Some(state) => state.tunnel.clone(),
            None => Tunnel { id: tunnel_id(endpoint), endpoint: endpoint.into(), legs: vec![] },
        }
    }

    pub(crate) fn wanted(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.map.keys().copied()
    }

    /// Every endpoint, the paths that name it, and its state.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, u64, Option<&TunnelState>)> {
        self.map.iter().map(|(endpoint, e)| (*endpoint, e.uses, e.state.as_ref()))
    }
}

/// RFC 4271 §9.1.2.1: a next hop without a way to it makes a path unusable.
pub(crate) fn cost(state: Option<&TunnelState>) -> Option<u32> {
    state.filter(|s| !s.tunnel.legs.is_empty()).map(|s| s.cost)
}
