//! What is known of one route reflector: its sessions, and how long their routes count.

use crate::rib::{Key, Received};
use edgeplex_bgp_wire::{Family, FamilySet};
use ipnet::IpNet;
use std::time::{Duration, Instant};

/// RFC 9494 §4.6: this route is not to be kept long-lived.
const NO_LLGR: u32 = 0xffff_0007;

#[derive(Debug, Clone)]
pub(crate) struct Reflector {
    /// Number of its session, or of the last one; no two sessions of any reflectors have the same.
    pub(crate) number: u32,
    pub(crate) session: Option<Session>,
    /// Paths of earlier sessions are dead: VPN-IPv4, VPN-IPv6.
    alive_from: [u32; 2],
    /// Paths of past sessions are kept for a while.
    pub(crate) stale: Option<Stale>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) last_update: Instant,
    pub(crate) sends_end_of_rib: bool,
    /// Families agreed on whose End-of-RIB is awaited.
    pub(crate) awaited: FamilySet,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stale {
    pub(crate) until: Instant,
    /// For that long after it they are kept as the last resort (RFC 9494).
    pub(crate) then: Duration,
    /// That time has begun.
    pub(crate) long_lived: bool,
}

fn index(prefix: &IpNet) -> usize {
    usize::from(matches!(prefix, IpNet::V6(_)))
}

impl Reflector {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, session: None, alive_from: [number; 2], stale: None }
    }

    pub(crate) fn is_alive(&self, key: &Key, path: &Received) -> bool {
        let alive_from = self.alive_from.get(index(&key.1)).copied().unwrap_or(u32::MAX);
        path.session >= alive_from && !(self.is_long_lived(path) && path.attributes.communities.contains(&NO_LLGR))
    }

    /// Kept from a past session, or from one that has ended.
    pub(crate) fn is_stale(&self, path: &Received) -> bool {
        path.session != self.number || self.session.is_none()
    }

    /// Stale for so long that anything else is better (RFC 9494 §4.3).
    pub(crate) fn is_long_lived(&self, path: &Received) -> bool {
        self.stale.is_some_and(|s| s.long_lived) && self.is_stale(path)
    }

    /// Nothing of a past session counts any more, in this family.
    pub(crate) fn forget_past(&mut self, family: Family) {
        match family {
            Family::Vpnv4 => self.alive_from[0] = self.number,
            Family::Vpnv6 => self.alive_from[1] = self.number,
            Family::Ipv4Unicast | Family::Ipv6Unicast | Family::RouteTarget => {}
        }
    }

    /// Everything has been told.
    pub(crate) fn is_complete(&self) -> bool {
        self.session.is_some_and(|s| s.awaited.is_empty())
    }
}
