//! Graceful restart (RFC 3623): ours, and help for neighbours in theirs.
//!
//! ```text
//!   ours:    PrepareRestart ─► grace-LSAs ─► (process replaced) ─► Start{restarting} ─► adjacencies back, our LSAs as they were
//!                                                               └► over: all back │ a neighbour did not help │ grace period
//!   theirs:  grace-LSA of a Full neighbour ─► its link stays announced ─► flushed: well │ period over, topology changed: its link goes
//! ```

use crate::Action;
use crate::engine::Ospf;
use crate::events::ALL_ROUTERS;
use crate::fsm::{Helping, NeighborState};
use crate::packet::{
    GRACE_ID, Grace, LinkKind, Lsa, LsaBody, LsaKey, MAX_AGE, Message, NETWORK, NSSA, OPAQUE_LINK, ROUTER, RouterLsa, Update,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Software restart (RFC 3623 appendix A).
const REASON: u8 = 1;

impl Ospf {
    /// Our LSAs of before the restart still stand for us.
    pub fn is_restarting(&self) -> bool {
        self.restart_until.is_some()
    }

    fn grace_lsa(&mut self, name: &Arc<str>) -> Option<Lsa> {
        let interface = self.interfaces.get(name)?;
        let grace =
            Grace { period: self.config.grace_s.into(), reason: REASON, address: interface.is_broadcast().then(|| interface.address()) };
        let key = LsaKey { kind: OPAQUE_LINK, id: GRACE_ID, advertising_router: self.config.router_id };
        self.originate_once(Some(name.clone()), key, LsaBody::Opaque(grace.encode()));
        Some(self.interfaces.get(name)?.db.get(&key)?.lsa.as_ref().clone())
    }

    /// RFC 3623 §2.1: neighbours are asked, before the process goes away.
    pub(crate) fn prepare_restart(&mut self) {
        let names: Vec<Arc<str>> = self.interfaces.iter().filter(|(_, i)| i.state.is_active()).map(|(n, _)| n.clone()).collect();
        for name in names {
            // Whoever waits for an acknowledgement of ours may not help (§3.1 (2)).
            self.acknowledge_now(&name);
            if self.config.grace_s > 0 {
                self.grace_lsa(&name);
            }
        }
        self.flush_floods();
        self.stopped = true;
    }

    /// Neighbours hear it (again) before our first Hello, in case they have not (RFC 3623 §2.2).
    pub(crate) fn announce_restart(&mut self, name: &Arc<str>) {
        if self.is_restarting()
            && let Some(lsa) = self.grace_lsa(name)
        {
            self.send(name, ALL_ROUTERS, &Message::Update(Update { lsas: vec![lsa], refused: vec![] }));
        }
    }

    /// RFC 3623 §2.2 and §2.3: whether our restart is over.
    pub(crate) fn check_restart(&mut self) {
        let Some(until) = self.restart_until else { return };
        let key = LsaKey { kind: ROUTER, id: self.config.router_id, advertising_router: self.config.router_id };
        let before = self.db.get(&key).and_then(|e| match &e.lsa.body {
            LsaBody::Router(router) => Some(router.clone()),
            _ => None,
        });
        let neighbors = || self.interfaces.values().flat_map(|i| i.neighbors.values());
        let someone_full = neighbors().any(|n| n.state == NeighborState::Full);
        let busy = neighbors().any(|n| (NeighborState::ExStart..NeighborState::Full).contains(&n.state));
        let reason = match before {
            _ if self.now >= until => "the grace period is over",
            // Whoever is Full has told us all that there is.
            None if someone_full && !busy => "nobody knew us",
            Some(before) if someone_full && self.disowned(&before) => "a neighbor has taken its link to us away",
            Some(before) if self.all_back(&before) => "all adjacencies are back",
            _ => return,
        };
        self.restart_until = None;
        self.log(format!("OSPF graceful restart ends: {reason}"));
        // §2.3: everything is announced anew, whatever it says; the reconciler flushes the grace-LSAs.
        self.own.values_mut().for_each(|own| own.owe());
        self.claimed(None, key);
        for interface in self.interfaces.values_mut() {
            interface.elect = true;
        }
        self.spf.request(self.now, &self.config.timing);
    }

    /// Every link of our router-LSA has its adjacency again.
    fn all_back(&self, before: &RouterLsa) -> bool {
        let full = |interface: &crate::fsm::Interface, id: Ipv4Addr| {
            interface.neighbors.values().any(|n| n.router_id == id && n.state == NeighborState::Full)
        };
        before.links.iter().all(|link| match link.kind {
            LinkKind::PointToPoint => self.interfaces.values().any(|i| !i.is_broadcast() && full(i, link.id)),
            LinkKind::Transit => self.interfaces.values().filter(|i| i.address() == link.data).any(|i| {
                if link.id != i.address() {
                    return i.neighbors.get(&link.id).is_some_and(|n| n.state == NeighborState::Full);
                }
                let key = LsaKey { kind: NETWORK, id: link.id, advertising_router: self.config.router_id };
                let others = |id: &&Ipv4Addr| **id != self.config.router_id;
                match self.db.get(&key).map(|e| &e.lsa.body) {
                    Some(LsaBody::Network(network)) => network.attached.iter().filter(others).all(|id| full(i, *id)),
                    _ => false,
                }
            }),
            LinkKind::Stub | LinkKind::Virtual => true,
        })
    }

    /// A neighbour of before no longer lists us: it does not help (RFC 3623 §2.2).
    fn disowned(&self, before: &RouterLsa) -> bool {
        let own = self.config.router_id;
        before.links.iter().filter(|l| l.kind == LinkKind::PointToPoint).any(|link| {
            let key = LsaKey { kind: ROUTER, id: link.id, advertising_router: link.id };
            match self.db.get(&key).map(|e| &e.lsa.body) {
                Some(LsaBody::Router(theirs)) => !theirs.links.iter().any(|l| l.kind == LinkKind::PointToPoint && l.id == own),
                _ => false,
            }
        })
    }

    /// A grace-LSA has been installed on this link (RFC 3623 §3.1).
    pub(crate) fn heard_grace(&mut self, name: &Arc<str>, lsa: &Lsa) {
        let header = lsa.header;
        if header.key.id != GRACE_ID || header.key.advertising_router == self.config.router_id {
            return;
        }
        let LsaBody::Opaque(contents) = &lsa.body else { return };
        let Some(interface) = self.interfaces.get(name) else { return };
        let sender = |n: &crate::fsm::Neighbor| n.router_id == header.key.advertising_router && n.state > NeighborState::Down;
        let Some(address) = interface
            .neighbors
            .iter()
            .find(|(_, n)| sender(n) || n.helping.is_some() && n.router_id == header.key.advertising_router)
            .map(|(a, _)| *a)
        else {
            return;
        };
        if header.age >= MAX_AGE {
            self.neighbor_is_back(name, address);
            return;
        }
        let Ok(grace) = Grace::decode(contents) else {
            self.refuse(name, "lsa", &format!("a grace-LSA of {address} makes no sense"));
            return;
        };
        let left = u64::from(grace.period).saturating_sub(header.age.into()).min(MAX_AGE.into());
        if left == 0 || !self.config.helper || self.is_restarting() {
            return;
        }
        let until = self.now + Duration::from_secs(left);
        // §3.1 (2): it must know all that has changed.
        let unaware =
            |n: &crate::fsm::Neighbor| n.retransmissions.keys().any(|k| k.kind < NSSA && self.db.get(k).is_some_and(|e| e.changed));
        let Some(neighbor) = self.neighbor(name, address) else { return };
        if !neighbor.is_adjacent() || (neighbor.helping.is_none() && unaware(neighbor)) {
            return;
        }
        let first = neighbor.helping.is_none();
        if let Some(neighbor) = self.neighbor_mut(name, address) {
            neighbor.helping = Some(Helping { until, back: false });
        }
        if first {
            self.log(format!("OSPF neighbor {address} on {name} restarts: its link is kept for {left} s"));
        }
    }

    /// It may be Full with us a little before we are with it; its link does not go for that.
    fn neighbor_is_back(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let soon = now + interface.retransmit() * 2;
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        match &mut neighbor.helping {
            Some(helping) if (NeighborState::ExStart..NeighborState::Full).contains(&neighbor.state) => {
                helping.back = true;
                helping.until = helping.until.min(soon);
            }
            _ => self.end_helping(name, address, "it is back"),
        }
    }

    /// RFC 3623 §3.2.
    pub(crate) fn end_helping(&mut self, name: &Arc<str>, address: Ipv4Addr, reason: &str) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let dead_at = now + interface.dead();
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        if neighbor.helping.take().is_none() {
            return;
        }
        neighbor.dead_at = neighbor.dead_at.max(now).min(dead_at);
        if neighbor.state != NeighborState::Full {
            neighbor.last_error = Some(format!("graceful restart: {reason}"));
        }
        interface.elect = true;
        self.dirty = true;
        self.log(format!("OSPF neighbor {address} on {name}: graceful restart ends: {reason}"));
    }

    /// RFC 3623 §3.2 (3): who restarts cannot follow a change of the network.
    pub(crate) fn topology_changed(&mut self, by: Ipv4Addr) {
        let mut helped = vec![];
        for (name, interface) in &self.interfaces {
            let others = interface.neighbors.iter().filter(|(_, n)| n.helping.is_some() && n.router_id != by);
            helped.extend(others.map(|(address, _)| (name.clone(), *address)));
        }
        for (name, address) in helped {
            self.end_helping(&name, address, "the network changed meanwhile");
        }
    }

    /// Says which adjacencies have come and gone.
    pub(crate) fn sync_neighbors(&mut self, name: &Arc<str>) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        for (address, neighbor) in &mut interface.neighbors {
            let adjacent = neighbor.is_adjacent();
            if adjacent == neighbor.up {
                continue;
            }
            neighbor.up = adjacent;
            let (interface, address, router_id) = (name.clone(), *address, neighbor.router_id);
            self.out.push(if adjacent {
                Action::NeighborUp { interface, address, router_id }
            } else {
                Action::NeighborDown { interface, address, router_id, reason: neighbor.last_error.clone().unwrap_or_default() }
            });
        }
    }

    /// The process ends for good: neighbours forget us at once.
    pub(crate) fn shut_down(&mut self) {
        let own: Vec<_> = self.own.keys().cloned().collect();
        for (scope, key) in own {
            self.flush(&scope, &key);
        }
        self.flush_floods();
        let names: Vec<Arc<str>> = self.interfaces.iter().filter(|(_, i)| i.state.is_active()).map(|(n, _)| n.clone()).collect();
        for name in names {
            if let Some(interface) = self.interfaces.get_mut(&name) {
                // Nobody's designated router any longer.
                let own = interface.address();
                interface.designated = if interface.designated == own { Ipv4Addr::UNSPECIFIED } else { interface.designated };
                interface.backup = if interface.backup == own { Ipv4Addr::UNSPECIFIED } else { interface.backup };
            }
            self.send_hello_with(&name, vec![]);
        }
        self.stopped = true;
    }
}
