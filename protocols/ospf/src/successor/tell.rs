//! What is new, for a successor.

use super::{Change, Clock, Told};
use crate::Authentication;
use crate::engine::Ospf;
use crate::flood::Scope;
use crate::fsm::{Interface, InterfaceState, Neighbor, NeighborState};
use crate::packet::LsaKey;
use crate::stored::{self, Name, StoredInterface, StoredInterfaceState, StoredNeighbor, StoredNeighborState, StoredRouter, StoredSequence};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Cryptographic sequence numbers are reserved so far ahead, and again when half of that is left.
const RESERVE: u32 = 60;

/// Puts first, in the order in which they must be safe; then what is gone.
#[derive(Default)]
struct Changes {
    puts: Vec<Change>,
    deletes: Vec<Change>,
}

impl Changes {
    fn put(&mut self, name: &Name, value: Vec<u8>) {
        self.puts.push((name.to_string(), Some(value)));
    }

    fn delete(&mut self, name: &Name) {
        self.deletes.push((name.to_string(), None));
    }
}

impl Ospf {
    /// What is new since this was last asked. Packets of the same event may leave when these are safe.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut out = Changes::default();
        if self.following {
            return vec![];
        }
        let mut told = std::mem::take(&mut self.told);
        if self.stopped {
            // Good-bye was said: nobody goes on with this.
            return told.everything().iter().map(|name| (name.to_string(), None)).collect();
        }
        self.tell_neighbors(&mut told, &mut out);
        self.tell_lsas(&mut told, &mut out);
        self.tell_rest(&mut told, &mut out);
        self.told = told;
        out.puts.append(&mut out.deletes);
        out.puts
    }

    fn tell_lsas(&mut self, told: &mut Told, out: &mut Changes) {
        let scopes: Vec<Scope> = std::iter::once(None).chain(self.interfaces.keys().cloned().map(Some)).collect();
        for scope in scopes {
            let (clock, Some(db)) = (self.clock, self.db_mut(&scope)) else { continue };
            for key in db.take_touched() {
                let (name, slot) = (Name::Lsa(scope.clone(), key), (scope.clone(), key));
                match db.get(&key) {
                    Some(entry) => {
                        out.put(&name, stored::encode_lsa(&entry.lsa, clock.date(entry.installed)));
                        told.lsas.insert(slot);
                    }
                    None if told.lsas.remove(&slot) => out.delete(&name),
                    None => {}
                }
            }
        }
        if std::mem::take(&mut told.anew) {
            let gone = |(scope, key): &(Scope, LsaKey)| self.db(scope).is_none_or(|db| db.get(key).is_none());
            for (scope, key) in told.lsas.extract_if(.., |slot| gone(slot)) {
                out.delete(&Name::Lsa(scope, key));
            }
        }
    }

    fn tell_neighbors(&mut self, told: &mut Told, out: &mut Changes) {
        let mut puts = vec![];
        let mut known = BTreeSet::new();
        let clock = self.clock;
        for (name, interface) in &mut self.interfaces {
            for (address, neighbor) in &mut interface.neighbors {
                let touched = neighbor.retransmissions.take_touched();
                let Some(stored) = stored_neighbor(neighbor, clock) else { continue };
                let slot = (name.clone(), *address);
                known.insert(slot.clone());
                let was_full = told.neighbors.get(&slot).is_some_and(|n| n.state == StoredNeighborState::Full);
                if stored.state == StoredNeighborState::Full {
                    let unacked = told.unacked.entry(slot.clone()).or_default();
                    let keys = if was_full { touched } else { neighbor.retransmissions.keys().copied().collect() };
                    for key in keys {
                        let value = Name::Unacked(slot.0.clone(), slot.1, key);
                        if neighbor.retransmissions.contains_key(&key) {
                            if unacked.insert(key) {
                                out.put(&value, vec![]);
                            }
                        } else if unacked.remove(&key) {
                            out.delete(&value);
                        }
                    }
                } else {
                    forget_unacked(told, &slot, out);
                }
                if told.neighbors.get(&slot) != Some(&stored) {
                    puts.push((Name::Neighbor(slot.0.clone(), slot.1).to_string(), Some(stored::encode(&stored))));
                    told.neighbors.insert(slot, stored);
                }
            }
        }
        out.puts.append(&mut puts);
        let gone: Vec<_> = told.neighbors.keys().filter(|slot| !known.contains(slot)).cloned().collect();
        for slot in gone {
            forget_unacked(told, &slot, out);
            told.neighbors.remove(&slot);
            out.delete(&Name::Neighbor(slot.0, slot.1));
        }
    }

    fn tell_rest(&mut self, told: &mut Told, out: &mut Changes) {
        for (name, interface) in &self.interfaces {
            let stored = stored_interface(interface);
            if told.interfaces.get(name) != stored.as_ref() {
                let value = Name::Interface(name.clone());
                match stored {
                    Some(stored) => {
                        out.put(&value, stored::encode(&stored));
                        told.interfaces.insert(name.clone(), stored);
                    }
                    None => {
                        out.delete(&value);
                        told.interfaces.remove(name);
                    }
                }
            }
        }
        for (name, _) in told.interfaces.extract_if(.., |name, _| !self.interfaces.contains_key(name)) {
            out.delete(&Name::Interface(name));
        }
        let router = StoredRouter::new(self.config.router_id, self.config.area, self.restart_until.map(|at| self.clock.date(at)));
        if told.router.as_ref() != Some(&router) {
            out.put(&Name::Router, stored::encode(&router));
            told.router = Some(router);
        }
        // The highest number in use is at most this: whoever comes after us begins above.
        let cryptographic = |i: &Interface| matches!(i.config.authentication, Authentication::Cryptographic { .. });
        let enough = told.sequence.is_some_and(|reserved| reserved >= self.crypto_now().saturating_add(RESERVE / 2));
        if !enough && self.interfaces.values().any(cryptographic) {
            let reserved = self.crypto_now().saturating_add(RESERVE);
            out.put(&Name::Sequence, stored::encode(&StoredSequence::new(reserved)));
            told.sequence = Some(reserved);
        }
    }
}

fn forget_unacked(told: &mut Told, slot: &(Arc<str>, Ipv4Addr), out: &mut Changes) {
    for key in told.unacked.remove(slot).unwrap_or_default() {
        out.delete(&Name::Unacked(slot.0.clone(), slot.1, key));
    }
}

fn stored_neighbor(neighbor: &Neighbor, clock: Clock) -> Option<StoredNeighbor> {
    let state = match neighbor.state {
        NeighborState::Full => StoredNeighborState::Full,
        state if state >= NeighborState::TwoWay => StoredNeighborState::TwoWay,
        _ if neighbor.helping.is_some() => StoredNeighborState::Silent,
        _ => return None,
    };
    Some(StoredNeighbor {
        format: StoredNeighbor::FORMAT,
        router_id: neighbor.router_id,
        state,
        priority: neighbor.priority,
        designated: neighbor.designated,
        backup: neighbor.backup,
        options: neighbor.options,
        since: neighbor.full_since.map(|at| clock.date(at)),
        helping_until: neighbor.helping.map(|h| clock.date(h.until)),
        back: neighbor.helping.is_some_and(|h| h.back),
    })
}

fn stored_interface(interface: &Interface) -> Option<StoredInterface> {
    let state = match interface.state {
        InterfaceState::Down => return None,
        InterfaceState::Passive => StoredInterfaceState::Passive,
        InterfaceState::PointToPoint => StoredInterfaceState::PointToPoint,
        InterfaceState::Waiting => StoredInterfaceState::Waiting,
        InterfaceState::DrOther | InterfaceState::Backup | InterfaceState::Dr => StoredInterfaceState::Broadcast,
    };
    Some(StoredInterface::new(state, interface.config.address, (interface.designated, interface.backup), interface.max_cost))
}
