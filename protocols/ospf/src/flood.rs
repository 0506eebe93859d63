//! Flooding: what arrives in updates, who must have it, who has acknowledged it (RFC 2328 §13).

use crate::Time;
use crate::db::Db;
use crate::engine::Ospf;
use crate::events::{ALL_ROUTERS, DESIGNATED_ROUTERS};
use crate::fsm::{Interface, InterfaceState, Neighbor, NeighborState};
use crate::packet::{
    LSA_HEADER, Lsa, LsaBody, LsaHeader, LsaKey, MAX_AGE, MAX_SEQUENCE, Message, NETWORK, NSSA, OPAQUE_LINK, OPTION_O, Update,
};
use std::cmp::Ordering;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// MinLSArrival (RFC 2328 appendix B).
const MIN_LS_ARRIVAL: Duration = Duration::from_secs(1);
/// InfTransDelay, seconds: what an LSA grows older on each link.
const TRANSMIT_DELAY: u16 = 1;
/// LSAs sent again to one neighbour at once.
const RETRANSMIT_BATCH: usize = 128;
/// Between two such batches.
const RETRANSMIT_PACE: Duration = Duration::from_millis(20);

/// The interface that an LSA stays on (LS type 9), or the whole area.
pub(crate) type Scope = Option<Arc<str>>;

pub(crate) fn scope_of(kind: u8, name: &Arc<str>) -> Scope {
    (kind == OPAQUE_LINK).then(|| name.clone())
}

impl Ospf {
    pub(crate) fn db(&self, scope: &Scope) -> Option<&Db> {
        match scope {
            None => Some(&self.db),
            Some(name) => self.interfaces.get(name).map(|i| &i.db),
        }
    }

    pub(crate) fn db_mut(&mut self, scope: &Scope) -> Option<&mut Db> {
        match scope {
            None => Some(&mut self.db),
            Some(name) => self.interfaces.get_mut(name).map(|i| &mut i.db),
        }
    }

    pub(crate) fn receive_update(&mut self, name: &Arc<str>, source: Ipv4Addr, update: Update) {
        if self.neighbor(name, source).is_none_or(|n| n.state < NeighborState::Exchange) {
            return;
        }
        for error in &update.refused {
            self.refuse(name, "lsa", &format!("an LSA of {source}: {error}"));
        }
        let mut acknowledge = vec![];
        for lsa in update.lsas {
            self.receive_lsa(name, source, lsa, &mut acknowledge);
            // It may have begun anew.
            if self.neighbor(name, source).is_none_or(|n| n.state < NeighborState::Exchange) {
                break;
            }
        }
        self.send_acknowledgements(name, self.unicast(name, source), &acknowledge);
        self.request_more(name, source);
    }

    /// RFC 2328 §13, steps 2 to 8.
    fn receive_lsa(&mut self, name: &Arc<str>, source: Ipv4Addr, lsa: Lsa, direct: &mut Vec<LsaHeader>) {
        let (now, header) = (self.now, lsa.header);
        let key = header.key;
        // (2), and (3) for type 7, which no area of ours has.
        if !LsaBody::is_known(key.kind) || key.kind == NSSA {
            self.refuse(name, "lsa type", &format!("an LSA of type {} from {source}", key.kind));
            return;
        }
        let scope = scope_of(key.kind, name);
        let Some(db) = self.db(&scope) else { return };
        let have = db.get(&key).map(|e| (e.header(now), e.flooded && now - e.installed < MIN_LS_ARRIVAL, e.sent_back));
        // (4)
        if header.age >= MAX_AGE && have.is_none() && !self.anyone_exchanging(&scope) {
            direct.push(header);
            return;
        }
        let order = have.as_ref().map_or(Ordering::Greater, |(have, ..)| header.compare(have));
        match (order, have) {
            (Ordering::Greater, have) => {
                // (5a)
                if have.is_some_and(|(_, too_soon, _)| too_soon) {
                    return;
                }
                if have.is_none() && self.is_full(&scope) {
                    self.refuse(name, "database full", &format!("LSAs beyond the limit, from {source}"));
                    // Asking again would not end before there is room.
                    if let Some(neighbor) = self.neighbor_mut(name, source) {
                        neighbor.requests.remove(&key);
                        neighbor.asked.remove(&key);
                    }
                    return;
                }
                self.take_newer(name, source, lsa);
            }
            // (6)
            (_, Some(_)) if self.neighbor(name, source).is_some_and(|n| n.requests.contains_key(&key)) => self.bad_request(name, source),
            // (7)
            (Ordering::Equal, Some(_)) => {
                let implied = self.neighbor_mut(name, source).is_some_and(|n| n.retransmissions.remove(&key));
                if !implied {
                    direct.push(header);
                } else if self.interfaces.get(name).is_some_and(|i| i.state == InterfaceState::Backup && i.designated == source) {
                    self.acknowledge_later(name, header);
                }
            }
            // (8)
            (_, Some((have, _, sent_back))) => {
                let wrapping = have.age >= MAX_AGE && have.sequence == MAX_SEQUENCE;
                if wrapping || sent_back.is_some_and(|at| now - at < MIN_LS_ARRIVAL) {
                    return;
                }
                self.send_updates(name, source, &[key]);
                if let Some(entry) = self.db_mut(&scope).and_then(|db| db.get_mut(&key)) {
                    entry.sent_back = Some(now);
                }
            }
            (_, None) => {}
        }
    }

    /// RFC 2328 §13 (5).
    fn take_newer(&mut self, name: &Arc<str>, source: Ipv4Addr, lsa: Lsa) {
        let header = lsa.header;
        let scope = scope_of(header.key.kind, name);
        let exchanged = self.neighbor(name, source).is_some_and(|n| n.requests.contains_key(&header.key));
        self.install(&scope, Arc::new(lsa), !exchanged);
        let back = self.flood(&scope, &header, Some((name, source)));
        if !back {
            // (5e), table 19
            let quiet = self.interfaces.get(name).is_some_and(|i| i.state == InterfaceState::Backup && i.designated != source);
            if !quiet {
                self.acknowledge_later(name, header);
            }
        }
        // (5f), §13.4
        let ours = self.interfaces.values().any(|i| i.state.is_active() && i.address() == header.key.id);
        if header.key.advertising_router == self.config.router_id {
            self.claimed(scope, header.key);
        } else if header.key.kind == NETWORK && ours {
            // Of a past life of ours, under another identifier.
            self.flush(&scope, &header.key);
        }
    }

    /// Into the database; nobody needs to acknowledge what was there (RFC 2328 §13 (5c), (5d)).
    pub(crate) fn install(&mut self, scope: &Scope, lsa: Arc<Lsa>, flooded: bool) {
        let (now, key) = (self.now, lsa.header.key);
        let Some(db) = self.db_mut(scope) else { return };
        let changed = db.install(now, lsa.clone(), flooded);
        for interface in self.interfaces_in_mut(scope) {
            for neighbor in interface.neighbors.values_mut() {
                neighbor.retransmissions.remove(&key);
            }
        }
        if changed && key.kind < NSSA {
            self.spf.request(now, &self.config.timing);
            self.dirty |= self.is_restarting();
            self.topology_changed(key.advertising_router);
        }
        if let Some(name) = scope {
            self.heard_grace(name, &lsa);
        }
    }

    /// RFC 2328 §13.3. `from`: where it came from. Tells whether it goes back out of that interface.
    pub(crate) fn flood(&mut self, scope: &Scope, header: &LsaHeader, from: Option<(&Arc<str>, Ipv4Addr)>) -> bool {
        let (now, key) = (self.now, header.key);
        let mut back = false;
        for (name, interface) in &mut self.interfaces {
            if !interface.state.is_active() || scope.as_ref().is_some_and(|s| s != name) {
                continue;
            }
            let again = now + interface.retransmit();
            let source = from.filter(|(n, _)| *n == name).map(|(_, source)| source);
            let mut someone = false;
            for (address, neighbor) in &mut interface.neighbors {
                // (1a)
                if neighbor.state < NeighborState::Exchange {
                    continue;
                }
                // (1b)
                if let Some(wanted) = neighbor.requests.get(&key) {
                    let order = header.compare(wanted);
                    if order.is_lt() {
                        continue;
                    }
                    neighbor.requests.remove(&key);
                    neighbor.asked.remove(&key);
                    if order.is_eq() {
                        continue;
                    }
                }
                // (1c); RFC 5250 §3: opaque LSAs go to those who know them.
                if source == Some(*address) || (key.kind >= OPAQUE_LINK && neighbor.options & OPTION_O == 0) {
                    continue;
                }
                // (1d)
                neighbor.retransmissions.insert(key, now);
                neighbor.retransmit_at.get_or_insert(again);
                someone = true;
            }
            // (2), (3), (4)
            let told_by = source.is_some_and(|s| s == interface.designated || s == interface.backup);
            let others_will = source.is_some() && interface.is_broadcast() && (told_by || interface.state == InterfaceState::Backup);
            if someone && !others_will {
                interface.flood.insert(key);
                back |= source.is_some();
            }
        }
        back
    }

    /// Sends what the event at hand has made ready for flooding, packed.
    pub(crate) fn flush_floods(&mut self) {
        let names: Vec<Arc<str>> = self.interfaces.iter().filter(|(_, i)| !i.flood.is_empty()).map(|(n, _)| n.clone()).collect();
        for name in names {
            let Some(interface) = self.interfaces.get_mut(&name) else { continue };
            let keys: Vec<LsaKey> = std::mem::take(&mut interface.flood).into_iter().collect();
            let destination = self.multicast(&name);
            self.send_lsas(&name, destination, &keys);
        }
    }

    /// Where flooded LSAs and delayed acknowledgements go (RFC 2328 §13.3 (5)).
    fn multicast(&self, name: &Arc<str>) -> Ipv4Addr {
        match self.interfaces.get(name) {
            Some(i) if i.is_broadcast() && !i.is_designated() => DESIGNATED_ROUTERS,
            _ => ALL_ROUTERS,
        }
    }

    pub(crate) fn send_updates(&mut self, name: &Arc<str>, neighbor: Ipv4Addr, keys: &[LsaKey]) {
        self.send_lsas(name, self.unicast(name, neighbor), keys);
    }

    /// LSAs as they are in the database now, in as few packets as they fit.
    fn send_lsas(&mut self, name: &Arc<str>, destination: Ipv4Addr, keys: &[LsaKey]) {
        let now = self.now;
        let Some(interface) = self.interfaces.get(name) else { return };
        let room = interface.room().saturating_sub(4);
        let mut packets: Vec<Vec<Lsa>> = vec![];
        let mut left = 0;
        for key in keys {
            let db = if key.kind == OPAQUE_LINK { &interface.db } else { &self.db };
            let Some(entry) = db.get(key) else { continue };
            let lsa = entry.lsa.at_age(entry.age(now).saturating_add(TRANSMIT_DELAY).min(MAX_AGE));
            // One that is too long for the link goes alone, in fragments.
            match packets.last_mut().filter(|_| lsa.length() <= left) {
                Some(packet) => {
                    left -= lsa.length();
                    packet.push(lsa);
                }
                None => {
                    left = room.saturating_sub(lsa.length());
                    packets.push(vec![lsa]);
                }
            }
        }
        for lsas in packets {
            self.send(name, destination, &Message::Update(Update { lsas, refused: vec![] }));
        }
    }

    fn acknowledge_later(&mut self, name: &Arc<str>, header: LsaHeader) {
        let at = self.now + self.config.timing.acknowledge;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        interface.acknowledge.push(header);
        interface.acknowledge_at.get_or_insert(at);
        if interface.acknowledge.len() >= interface.room() / LSA_HEADER {
            self.acknowledge_now(name);
        }
    }

    pub(crate) fn acknowledge_now(&mut self, name: &Arc<str>) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        interface.acknowledge_at = None;
        let headers = std::mem::take(&mut interface.acknowledge);
        self.send_acknowledgements(name, self.multicast(name), &headers);
    }

    fn send_acknowledgements(&mut self, name: &Arc<str>, destination: Ipv4Addr, headers: &[LsaHeader]) {
        let Some(interface) = self.interfaces.get(name) else { return };
        let fit = (interface.room() / LSA_HEADER).max(1);
        for part in headers.chunks(fit) {
            self.send(name, destination, &Message::Acknowledge(part.to_vec()));
        }
    }

    /// RFC 2328 §13.7.
    pub(crate) fn receive_acknowledgement(&mut self, name: &Arc<str>, source: Ipv4Addr, headers: &[LsaHeader]) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let Some(neighbor) = interface.neighbors.get_mut(&source).filter(|n| n.state >= NeighborState::Exchange) else { return };
        for header in headers {
            let db = if header.key.kind == OPAQUE_LINK { &interface.db } else { &self.db };
            if db.get(&header.key).is_some_and(|have| have.header(now).compare(header).is_eq()) {
                neighbor.retransmissions.remove(&header.key);
            }
        }
        if neighbor.retransmissions.is_empty() {
            neighbor.retransmit_at = None;
        }
    }

    /// Acknowledgements that have waited, LSAs that were not acknowledged (RFC 2328 §13.5, §13.6).
    pub(crate) fn flood_timers(&mut self, name: &Arc<str>, now: Time) {
        if self.interfaces.get(name).is_some_and(|i| i.acknowledge_at.is_some_and(|at| at <= now)) {
            self.acknowledge_now(name);
        }
        for address in self.neighbors_of(name) {
            let Some(interface) = self.interfaces.get_mut(name) else { return };
            let pause = interface.retransmit();
            let Some(neighbor) = interface.neighbors.get_mut(&address) else { continue };
            if neighbor.retransmit_at.is_none_or(|at| at > now) {
                continue;
            }
            let due = neighbor.retransmissions.iter().filter(|(_, sent)| **sent + pause <= now);
            let keys: Vec<LsaKey> = due.map(|(key, _)| *key).take(RETRANSMIT_BATCH).collect();
            for key in &keys {
                neighbor.retransmissions.insert(*key, now);
            }
            let next = neighbor.retransmissions.values().min().map(|sent| *sent + pause);
            neighbor.retransmit_at = next.map(|at| at.max(now + RETRANSMIT_PACE));
            self.send_updates(name, address, &keys);
        }
    }

    /// LSAs that have grown old, everybody must forget (RFC 2328 §14).
    pub(crate) fn age_timers(&mut self, now: Time) {
        let scopes: Vec<Scope> = std::iter::once(None).chain(self.interfaces.keys().cloned().map(Some)).collect();
        for scope in scopes {
            let expired = self.db(&scope).map(|db| db.expired(now)).unwrap_or_default();
            for key in expired {
                self.flush(&scope, &key);
            }
        }
    }

    /// Ends an LSA's life everywhere: MaxAge is flooded.
    pub(crate) fn flush(&mut self, scope: &Scope, key: &LsaKey) {
        let Some(entry) = self.db(scope).and_then(|db| db.get(key)) else { return };
        let lsa = Arc::new(entry.lsa.at_age(MAX_AGE));
        let header = lsa.header;
        self.install(scope, lsa, false);
        self.flood(scope, &header, None);
    }

    /// Removes dead LSAs that everybody knows to be dead (RFC 2328 §14). Tells whether one was ours.
    pub(crate) fn sweep(&mut self) -> bool {
        let scopes: Vec<Scope> = std::iter::once(None).chain(self.interfaces.keys().cloned().map(Some)).collect();
        let mut ours = false;
        for scope in scopes {
            if self.db(&scope).is_none_or(|db| db.dead().next().is_none()) || self.anyone_exchanging(&scope) {
                continue;
            }
            let known = |key: &LsaKey| !self.neighbors_in(&scope).any(|n| n.retransmissions.contains_key(key));
            let gone: Vec<LsaKey> = self.db(&scope).map(|db| db.dead().copied().filter(known).collect()).unwrap_or_default();
            for key in gone {
                if let Some(db) = self.db_mut(&scope) {
                    db.remove(&key);
                }
                // What was to be flooded when there was nobody to hear it.
                self.interfaces_in_mut(&scope).for_each(|i| i.flood.retain(|k| *k != key));
                ours |= key.advertising_router == self.config.router_id;
            }
        }
        ours
    }

    fn interfaces_in_mut(&mut self, scope: &Scope) -> impl Iterator<Item = &mut Interface> {
        self.interfaces.iter_mut().filter(move |(name, _)| scope.as_ref().is_none_or(|s| s == *name)).map(|(_, i)| i)
    }

    fn neighbors_in(&self, scope: &Scope) -> impl Iterator<Item = &Neighbor> {
        let of = self.interfaces.iter().filter(move |(name, _)| scope.as_ref().is_none_or(|s| s == *name));
        of.flat_map(|(_, i)| i.neighbors.values())
    }

    fn anyone_exchanging(&self, scope: &Scope) -> bool {
        self.neighbors_in(scope).any(|n| n.is_exchanging())
    }

    fn is_full(&self, scope: &Scope) -> bool {
        let limits = &self.config.limits;
        self.db(scope).is_none_or(|db| db.len() >= limits.lsas || db.bytes() >= limits.bytes)
    }
}
