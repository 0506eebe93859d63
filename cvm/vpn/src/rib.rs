//! The table: for each VPN prefix the paths that the reflectors sent, and the attachments that have them in their VRFs.
//!
//! A path is dead once its reflector's session that sent it no longer counts. Dead paths are used by nobody from that
//! moment on; they are cleared away when the table is gone through next.

use crate::{
    attachment::Attachment,
    endpoints::Endpoints,
    engine::Slot,
    paths::{Path, Source},
    reflector::Reflector,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_types::{Label, Rd};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// A VPN prefix.
pub type Key = (Rd, IpNet);

/// How often our own AS number may stand in a path; for the reflectors' sessions as well. Where a route enters this AS, at a
/// PVM or another PE, the limit is the neighbour's `allowas-in` (none by default); hub-and-spoke needs what that lets through
/// to reach every PE.
pub const MAX_OWN_AS: u8 = 10;

/// RFC 4271 §9.1.2
pub(crate) fn loops(attributes: &Attributes, asn: u32) -> bool {
    attributes.as_path.count(asn) > MAX_OWN_AS.into()
}

/// One path of an adj-RIB-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) reflector: Ipv4Addr,
    /// RFC 7911; 0 where one path only is sent.
    pub(crate) path_id: u32,
    pub(crate) next_hop: Ipv4Addr,
    pub(crate) label: Label,
    /// Number of the session that sent it last.
    pub(crate) session: u32,
}

impl Received {
    fn name(&self) -> (Ipv4Addr, u32) {
        (self.reflector, self.path_id)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    /// In order of reflector and path identifier.
    pub(crate) paths: Vec<Received>,
    /// Attachments that have the prefix in their VRF, in order.
    pub(crate) importers: Arc<[Slot]>,
}

#[derive(Debug, Clone)]
pub(crate) struct Rib {
    pub(crate) asn: u32,
    pub(crate) loopback: Ipv4Addr,
    pub(crate) table: BTreeMap<Key, Entry>,
    pub(crate) reflectors: BTreeMap<Ipv4Addr, Reflector>,
    pub(crate) endpoints: Endpoints,
    pub(crate) attachments: BTreeMap<Slot, Attachment>,
    pub(crate) by_rd: BTreeMap<Rd, Slot>,
    /// Attachments that look at routes with this target.
    pub(crate) importers: BTreeMap<edgeplex_types::RouteTarget, BTreeSet<Slot>>,
    /// The last set of importers: routes of one VPN come one after the other, and share it.
    recent: Arc<[Slot]>,
}

impl Rib {
    pub(crate) fn new(asn: u32, loopback: Ipv4Addr) -> Self {
        let mut endpoints = Endpoints::default();
        // Our own attachments among each other: wanted as long as we live.
        endpoints.take(loopback);
        Self {
            asn,
            loopback,
            table: BTreeMap::new(),
            reflectors: BTreeMap::new(),
            endpoints,
            attachments: BTreeMap::new(),
            by_rd: BTreeMap::new(),
            importers: BTreeMap::new(),
            recent: Arc::default(),
        }
    }

    /// Stores a path; true if something about it is new.
    pub(crate) fn insert(&mut self, key: Key, new: Received) -> bool {
        let name = new.name();
        let entry = self.table.entry(key).or_default();
        match entry.paths.binary_search_by_key(&name, Received::name) {
            Ok(at) => {
                let Some(old) = entry.paths.get_mut(at) else { return false };
                // A path that waited for the end of its days counts fully again.
                let revived = self.reflectors.get(&name.0).is_none_or(|r| !r.is_alive(&key, old) || r.is_long_lived(old));
                let changed = revived || (&old.attributes, old.next_hop, old.label) != (&new.attributes, new.next_hop, new.label);
                if old.next_hop != new.next_hop {
                    self.endpoints.take(new.next_hop);
                    self.endpoints.release(old.next_hop);
                }
                *old = new;
                changed
            }
            Err(at) => {
                self.endpoints.take(new.next_hop);
                // Most prefixes have as many paths as there are reflectors: no room to spare for more.
                entry.paths.reserve_exact(1);
                entry.paths.insert(at, new);
                true
            }
        }
    }

    /// Drops a path; true if there was one.
    pub(crate) fn remove(&mut self, key: &Key, reflector: Ipv4Addr, path_id: u32) -> bool {
        let Some(entry) = self.table.get_mut(key) else { return false };
        let Ok(at) = entry.paths.binary_search_by_key(&(reflector, path_id), Received::name) else { return false };
        let old = entry.paths.remove(at);
        self.endpoints.release(old.next_hop);
        true
    }

    fn is_alive(&self, key: &Key, path: &Received) -> bool {
        self.reflectors.get(&path.reflector).is_some_and(|r| r.is_alive(key, path))
    }

    pub(crate) fn has_dead(&self, key: &Key, entry: &Entry) -> bool {
        entry.paths.iter().any(|p| !self.is_alive(key, p))
    }

    /// Clears dead paths away.
    pub(crate) fn bury(&mut self, key: &Key) {
        let Self { table, reflectors, endpoints, .. } = self;
        let Some(entry) = table.get_mut(key) else { return };
        entry.paths.retain(|path| {
            let alive = reflectors.get(&path.reflector).is_some_and(|r| r.is_alive(key, path));
            if !alive {
                endpoints.release(path.next_hop);
            }
            alive
        });
    }

    /// The route of an attachment of our own under this key.
    pub(crate) fn own(&self, key: &Key) -> Option<Path<'_>> {
        let slot = self.by_rd.get(&key.0)?;
        let exported = self.attachments.get(slot)?.exported.get(&key.1)?;
        Some(Path {
            rd: key.0,
            source: Source::Attachment(*slot),
            endpoint: self.loopback,
            label: exported.label,
            attributes: &exported.attributes,
            cost: self.endpoints.cost(self.loopback),
            long_lived: false,
        })
    }

    /// Feasible paths, whether or not there is a way to their next hops: own, then by reflector and path identifier.
    pub(crate) fn paths(&self, key: Key) -> impl Iterator<Item = Path<'_>> {
        let received = self.table.get(&key).into_iter().flat_map(|e| &e.paths).filter_map(move |p| {
            let reflector = self.reflectors.get(&p.reflector)?;
            (reflector.is_alive(&key, p) && self.is_feasible(p)).then(|| Path {
                rd: key.0,
                source: Source::Reflector(p.reflector, p.path_id),
                endpoint: p.next_hop,
                label: p.label,
                attributes: &p.attributes,
                cost: self.endpoints.cost(p.next_hop),
                long_lived: reflector.is_long_lived(p),
            })
        });
        self.own(&key).into_iter().chain(received)
    }

    fn is_feasible(&self, path: &Received) -> bool {
        // Our own route come back, or one that passed through us (RFC 4456 §8).
        path.next_hop != self.loopback
            && path.attributes.originator_id != Some(self.loopback)
            && !loops(&path.attributes, self.asn)
            // A reserved label is no VRF's label (RFC 3032 §2.1).
            && !path.label.is_reserved()
    }

    /// RFC 4364 §4.3.1: attachments that import one of the paths; never the one it is from.
    pub(crate) fn importers_of(&mut self, key: Key) -> Arc<[Slot]> {
        let mut slots = BTreeSet::new();
        for path in self.paths(key) {
            let candidates = path.attributes.route_targets().filter_map(|rt| self.importers.get(&rt)).flatten();
            for slot in candidates {
                if path.source != Source::Attachment(*slot)
                    && !slots.contains(slot)
                    && self.attachments.get(slot).is_some_and(|a| a.imports(&key.1, path.attributes))
                {
                    slots.insert(*slot);
                }
            }
        }
        if !self.recent.iter().eq(&slots) {
            self.recent = slots.into_iter().collect();
        }
        self.recent.clone()
    }

    /// Paths that an attachment has for a prefix, in the order of their route distinguishers, usable or not.
    pub(crate) fn candidates(&self, slot: Slot, prefix: IpNet) -> Vec<Path<'_>> {
        let Some(attachment) = self.attachments.get(&slot) else { return vec![] };
        let rds = attachment.vrf.range((prefix, Rd([0; 8]))..=(prefix, Rd([0xff; 8])));
        rds.flat_map(|(_, rd)| self.paths((*rd, prefix)))
            .filter(|p| p.source != Source::Attachment(slot) && attachment.imports(&prefix, p.attributes))
            .collect()
    }
}
