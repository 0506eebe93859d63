//! Adjacencies: database description, requests, and what ends them (RFC 2328 §10.3, §10.4, §10.6 to §10.9).

use super::NeighborState;
use crate::engine::Ospf;
use crate::packet::{
    DD_INIT, DD_MASTER, DD_MORE, DatabaseDescription, LSA_HEADER, LsaBody, LsaHeader, LsaKey, Message, NSSA, OPAQUE_LINK, OPTION_E,
    OPTION_O,
};
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Ospf {
    /// AdjOK?: whether there should be an adjacency (RFC 2328 §10.4), and begins or ends it.
    pub(crate) fn adjacency_ok(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        let Some(interface) = self.interfaces.get(name) else { return };
        let Some(neighbor) = interface.neighbors.get(&address) else { return };
        let wanted =
            !interface.is_broadcast() || interface.is_designated() || address == interface.designated || address == interface.backup;
        match neighbor.state {
            NeighborState::TwoWay if wanted => self.start_exchange(name, address, ""),
            state if state > NeighborState::TwoWay && !wanted => {
                self.set_state(name, address, NeighborState::TwoWay, "neither of us is designated router any longer");
            }
            _ => {}
        }
    }

    /// To ExStart: who is master is negotiated anew.
    pub(crate) fn start_exchange(&mut self, name: &Arc<str>, address: Ipv4Addr, reason: &str) {
        self.set_state(name, address, NeighborState::ExStart, reason);
        self.dd_counter = self.dd_counter.wrapping_add(1);
        let sequence = self.dd_counter;
        let Some(neighbor) = self.neighbor_mut(name, address) else { return };
        neighbor.clear_lists();
        neighbor.master = true;
        neighbor.dd_sequence = sequence;
        self.send_dd(name, address, DD_INIT | DD_MORE | DD_MASTER, vec![]);
    }

    /// SeqNumberMismatch and BadLSReq
    fn restart_exchange(&mut self, name: &Arc<str>, address: Ipv4Addr, reason: &str) {
        if let Some(neighbor) = self.neighbor_mut(name, address) {
            neighbor.last_error = Some(reason.to_owned());
        }
        self.start_exchange(name, address, reason);
    }

    fn send_dd(&mut self, name: &Arc<str>, address: Ipv4Addr, flags: u8, headers: Vec<LsaHeader>) {
        let Some(interface) = self.interfaces.get(name) else { return };
        let mtu = interface.config.mtu;
        let Some(neighbor) = self.neighbor_mut(name, address) else { return };
        let dd = DatabaseDescription { mtu, options: OPTION_E | OPTION_O, flags, sequence: neighbor.dd_sequence, headers };
        neighbor.dd_sent = Some(dd);
        self.repeat_dd(name, address);
    }

    /// Sends the last description (again).
    fn repeat_dd(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let again = now + interface.retransmit();
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        let Some(dd) = neighbor.dd_sent.clone() else { return };
        // A slave speaks only when spoken to.
        neighbor.dd_at = neighbor.master.then_some(again);
        self.send_to(name, address, &Message::DatabaseDescription(dd));
    }

    /// Sends the next part of what we have.
    fn describe(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let fit = (interface.room().saturating_sub(8) / LSA_HEADER).max(1);
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        let headers: Vec<_> = neighbor.summary.drain(..fit.min(neighbor.summary.len())).collect();
        let more = if neighbor.summary.is_empty() { 0 } else { DD_MORE };
        let role = if neighbor.master { DD_MASTER } else { 0 };
        self.send_dd(name, address, more | role, headers);
    }

    /// RFC 2328 §10.6.
    pub(crate) fn receive_dd(&mut self, name: &Arc<str>, address: Ipv4Addr, dd: &DatabaseDescription) {
        let own_id = self.config.router_id;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        if dd.mtu > interface.config.mtu {
            let reason = format!("its MTU {} is above our {}", dd.mtu, interface.config.mtu);
            self.refuse(name, "mtu", &format!("a database description of {address}: {reason}"));
            if let Some(neighbor) = self.neighbor_mut(name, address) {
                neighbor.last_error = Some(reason);
            }
            return;
        }
        self.two_way(name, address);
        let Some(neighbor) = self.neighbor_mut(name, address) else { return };
        let received = (dd.flags, dd.options, dd.sequence);
        match neighbor.state {
            NeighborState::Down | NeighborState::Init | NeighborState::TwoWay => {}
            NeighborState::ExStart => {
                let all = DD_INIT | DD_MORE | DD_MASTER;
                let slave = dd.flags & all == all && dd.headers.is_empty() && neighbor.router_id > own_id;
                let master = dd.flags & (DD_INIT | DD_MASTER) == 0 && dd.sequence == neighbor.dd_sequence && neighbor.router_id < own_id;
                if !slave && !master {
                    return;
                }
                // NegotiationDone
                neighbor.master = master;
                neighbor.options = dd.options;
                neighbor.dd_received = Some(received);
                if slave {
                    neighbor.dd_sequence = dd.sequence;
                }
                self.begin_describing(name, address);
                self.take_dd(name, address, dd);
            }
            NeighborState::Exchange => {
                if neighbor.dd_received == Some(received) {
                    if !neighbor.master {
                        self.repeat_dd(name, address);
                    }
                    return;
                }
                let expected = if neighbor.master { neighbor.dd_sequence } else { neighbor.dd_sequence.wrapping_add(1) };
                let role_right = (dd.flags & DD_MASTER != 0) != neighbor.master;
                if !role_right || dd.flags & DD_INIT != 0 || dd.options != neighbor.options || dd.sequence != expected {
                    self.restart_exchange(name, address, "a database description out of order");
                    return;
                }
                neighbor.dd_received = Some(received);
                self.take_dd(name, address, dd);
            }
            NeighborState::Loading | NeighborState::Full => {
                if neighbor.dd_received == Some(received) {
                    if !neighbor.master {
                        self.repeat_dd(name, address);
                    }
                } else {
                    self.restart_exchange(name, address, "it began a new database exchange");
                }
            }
        }
    }

    /// The list of what we have; what has reached MaxAge is sent instead (RFC 2328 §10.3, NegotiationDone).
    fn begin_describing(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        self.set_state(name, address, NeighborState::Exchange, "");
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let again = now + interface.retransmit();
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        for (key, entry) in self.db.iter().chain(interface.db.iter()) {
            if key.kind >= OPAQUE_LINK && neighbor.options & OPTION_O == 0 {
                // RFC 5250 §3: only for those who can.
            } else if entry.is_dead(now) {
                neighbor.retransmissions.insert(*key, now);
                neighbor.retransmit_at = Some(again);
            } else {
                neighbor.summary.push_back(entry.header(now));
            }
        }
    }

    /// What it has and we lack is noted to be requested; then the next description goes out.
    fn take_dd(&mut self, name: &Arc<str>, address: Ipv4Addr, dd: &DatabaseDescription) {
        let (now, limit) = (self.now, self.config.limits.lsas);
        if let Some(unknown) = dd.headers.iter().find(|h| !LsaBody::is_known(h.key.kind)) {
            let reason = format!("it described an LSA of unknown type {}", unknown.key.kind);
            self.restart_exchange(name, address, &reason);
            return;
        }
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        for header in dd.headers.iter().filter(|h| h.key.kind != NSSA) {
            let db = if header.key.kind == OPAQUE_LINK { &interface.db } else { &self.db };
            let older = db.get(&header.key).is_none_or(|have| have.header(now).compare(header).is_lt());
            if older && neighbor.requests.len() < limit {
                neighbor.requests.insert(header.key, *header);
            }
        }
        let more_to_come = dd.flags & DD_MORE != 0;
        if neighbor.master {
            let all_described = neighbor.dd_sent.as_ref().is_some_and(|sent| sent.flags & (DD_MORE | DD_INIT) == 0);
            neighbor.dd_sequence = neighbor.dd_sequence.wrapping_add(1);
            if all_described && !more_to_come {
                self.exchange_done(name, address);
                return;
            }
            self.describe(name, address);
        } else {
            neighbor.dd_sequence = dd.sequence;
            self.describe(name, address);
            let all_described =
                self.neighbor(name, address).is_some_and(|n| n.dd_sent.as_ref().is_some_and(|sent| sent.flags & DD_MORE == 0));
            if all_described && !more_to_come {
                self.exchange_done(name, address);
                return;
            }
        }
        self.request_more(name, address);
    }

    fn exchange_done(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        let Some(neighbor) = self.neighbor_mut(name, address) else { return };
        neighbor.dd_at = None;
        self.set_state(name, address, NeighborState::Loading, "");
        self.request_more(name, address);
    }

    /// Asks for the next LSAs when the last have come (RFC 2328 §10.9), or ends Loading.
    pub(crate) fn request_more(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let again = now + interface.retransmit();
        let fit = (interface.room() / 12).max(1);
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        if !neighbor.is_exchanging() || !neighbor.asked.is_empty() {
            return;
        }
        if neighbor.requests.is_empty() {
            neighbor.request_at = None;
            if neighbor.state == NeighborState::Loading {
                self.set_state(name, address, NeighborState::Full, "");
            }
            return;
        }
        let keys: Vec<LsaKey> = neighbor.requests.keys().take(fit).copied().collect();
        neighbor.asked = keys.iter().copied().collect();
        neighbor.request_at = Some(again);
        self.send_to(name, address, &Message::Request(keys));
    }

    /// RFC 2328 §10.7.
    pub(crate) fn receive_request(&mut self, name: &Arc<str>, address: Ipv4Addr, keys: &[LsaKey]) {
        let Some(interface) = self.interfaces.get(name) else { return };
        if interface.neighbors.get(&address).is_none_or(|n| n.state < NeighborState::Exchange) {
            return;
        }
        let has = |key: &LsaKey| if key.kind == OPAQUE_LINK { interface.db.get(key) } else { self.db.get(key) };
        if let Some(missing) = keys.iter().find(|key| has(key).is_none()) {
            let reason = format!("it asked for an LSA that we do not have (type {}, {})", missing.kind, missing.id);
            self.restart_exchange(name, address, &reason);
            return;
        }
        self.send_updates(name, address, keys);
    }

    pub(crate) fn bad_request(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        self.restart_exchange(name, address, "it sent an older LSA than it had described");
    }

    /// Descriptions and requests that were not answered.
    pub(crate) fn exchange_timers(&mut self, name: &Arc<str>) {
        let now = self.now;
        for address in self.neighbors_of(name) {
            let Some(neighbor) = self.neighbor_mut(name, address) else { continue };
            if neighbor.dd_at.is_some_and(|at| at <= now) {
                self.repeat_dd(name, address);
            }
            let Some(neighbor) = self.neighbor_mut(name, address) else { continue };
            if neighbor.request_at.is_some_and(|at| at <= now) {
                neighbor.asked.clear();
            }
            // Also where the last that was asked for came from someone else.
            self.request_more(name, address);
        }
    }
}
