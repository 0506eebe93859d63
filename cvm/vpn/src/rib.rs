//! Adj-RIB-in per route reflector, and the best path of each (RD, prefix).

use crate::core_net::CoreNet;
use edgeplex_bgp::decision::{self, Candidate};
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::EpochMap;
use edgeplex_types::{AttachmentId, Epoch, Label, Rd};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Instant,
};

/// A VPN-IPv4 prefix.
pub type Key = (Rd, Ipv4Net);

/// Who told us of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    Reflector(Ipv4Addr),
    Attachment(AttachmentId),
}

/// The best path of a VPN-IPv4 prefix, as it is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub rd: Rd,
    pub from: Learned,
    /// BGP next hop: our own loopback for a path of our own attachments.
    pub endpoint: Ipv4Addr,
    pub label: Label,
    pub attributes: Arc<Attributes>,
}

impl Path {
    /// As the decision process sees it. A customer route of another attachment here was learnt by eBGP, and costs nothing to reach.
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        let (origin, igp_metric, peer) = match self.from {
            Learned::Attachment(_) => (decision::Origin::Ebgp, 0, self.endpoint),
            Learned::Reflector(rr) => (decision::Origin::Ibgp, 1, rr),
        };
        Candidate { attributes: &self.attributes, origin, igp_metric, peer_id: peer, peer_address: peer.into() }
    }
}

/// One route of an adj-RIB-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) next_hop: Ipv4Addr,
    pub(crate) label: Label,
}

/// One route reflector.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reflector {
    pub(crate) routes: EpochMap<Key, Received>,
    /// Counts its sessions.
    pub(crate) epoch: Epoch,
    pub(crate) session: Option<Session>,
    /// Routes of a past session are kept until then (RFC 4724 §4.2).
    pub(crate) stale_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) last_update: Instant,
    pub(crate) sends_end_of_rib: bool,
    pub(crate) complete: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Rib {
    pub(crate) reflectors: BTreeMap<Ipv4Addr, Reflector>,
    pub(crate) best: BTreeMap<Key, Arc<Path>>,
    /// Which prefixes some reflector sends with this next hop.
    by_endpoint: BTreeMap<Ipv4Addr, BTreeSet<Key>>,
}

impl Rib {
    /// Stores a route; true if it is new or different.
    pub(crate) fn insert(&mut self, core: &mut CoreNet, rr: Ipv4Addr, key: Key, route: Received) -> bool {
        let Some(reflector) = self.reflectors.get_mut(&rr) else { return false };
        let old = reflector.routes.get(&key).map(|r| r.next_hop);
        let new = route.next_hop;
        if !reflector.routes.insert(reflector.epoch, key, route) {
            return false;
        }
        if old != Some(new) {
            core.want(new);
            self.by_endpoint.entry(new).or_default().insert(key);
            if let Some(old) = old {
                self.unlink(core, key, old);
            }
        }
        true
    }

    /// Drops a route; true if there was one.
    pub(crate) fn remove(&mut self, core: &mut CoreNet, rr: Ipv4Addr, key: &Key) -> bool {
        let Some(old) = self.reflectors.get_mut(&rr).and_then(|r| r.routes.remove(key)) else { return false };
        self.unlink(core, *key, old.next_hop);
        true
    }

    /// Drops what the reflector did not renew in its current session, or everything; returns what is gone.
    pub(crate) fn sweep(&mut self, core: &mut CoreNet, rr: Ipv4Addr, everything: bool) -> Vec<Key> {
        let Some(reflector) = self.reflectors.get_mut(&rr) else { return vec![] };
        if everything {
            reflector.epoch.0 += 1;
        }
        reflector.stale_until = None;
        let gone = reflector.routes.sweep(reflector.epoch);
        gone.iter().for_each(|(key, route)| self.unlink(core, *key, route.next_hop));
        gone.into_iter().map(|(key, _)| key).collect()
    }

    /// `key` is no longer sent with this next hop by one reflector; perhaps by none.
    fn unlink(&mut self, core: &mut CoreNet, key: Key, endpoint: Ipv4Addr) {
        if self.reflectors.values().any(|r| r.routes.get(&key).is_some_and(|route| route.next_hop == endpoint)) {
            return;
        }
        if let Some(keys) = self.by_endpoint.get_mut(&endpoint) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_endpoint.remove(&endpoint);
                core.unwant(endpoint);
            }
        }
    }

    pub(crate) fn sent_with(&self, endpoint: Ipv4Addr) -> impl Iterator<Item = Key> {
        self.by_endpoint.get(&endpoint).into_iter().flatten().copied()
    }

    pub(crate) fn paths_over(&self, endpoint: Ipv4Addr) -> u64 {
        self.by_endpoint.get(&endpoint).map_or(0, |keys| keys.len() as u64)
    }

    /// The best of `local` and what the reflectors sent for `key`, of those that can be used.
    pub(crate) fn decide(&self, core: &CoreNet, asn: u32, loopback: Ipv4Addr, key: &Key, local: Option<Path>) -> Option<Path> {
        let mut paths: Vec<Path> = local.into_iter().collect();
        for (rr, reflector) in &self.reflectors {
            if let Some(route) = reflector.routes.get(key)
                && usable(core, asn, loopback, route)
            {
                paths.push(Path {
                    rd: key.0,
                    from: Learned::Reflector(*rr),
                    endpoint: route.next_hop,
                    label: route.label,
                    attributes: route.attributes.clone(),
                });
            }
        }
        let candidates: Vec<_> = paths.iter().map(Path::candidate).collect();
        let best = decision::best(&candidates)?;
        Some(paths.swap_remove(best))
    }
}

fn usable(core: &CoreNet, asn: u32, loopback: Ipv4Addr, route: &Received) -> bool {
    // Our own route come back, or one that passed through us (RFC 4456 §8).
    route.next_hop != loopback
        && route.attributes.originator_id != Some(loopback)
        // RFC 4271 §9.1.2: an AS loop
        && !route.attributes.as_path.contains(asn)
        // A reserved label is no VRF's label (RFC 3032 §2.1).
        && !route.label.is_reserved()
        // RFC 4271 §9.1.2.1: the next hop must be resolvable
        && core.tunnel(route.next_hop).is_some()
}
