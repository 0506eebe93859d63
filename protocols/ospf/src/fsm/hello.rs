//! Interfaces up and down, Hellos, and which neighbours there are (RFC 2328 §9.3, §9.5, §10.3 to §10.5).

use super::{InterfaceState, Neighbor, NeighborState};
use crate::engine::Ospf;
use crate::events::ALL_ROUTERS;
use crate::packet::{Hello, Message, OPTION_E, OPTION_NP};
use crate::{Network, Time};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Hellos that are not due follow each other at this distance at least.
const HELLO_GAP: Duration = Duration::from_millis(50);

impl Ospf {
    pub(crate) fn interface_up(&mut self, name: &Arc<str>) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        if interface.state != InterfaceState::Down || !interface.carrier {
            return;
        }
        self.dirty = true;
        if interface.config.passive {
            interface.state = InterfaceState::Passive;
            return;
        }
        // RFC 2328 §9.3, InterfaceUp
        interface.state = match interface.config.network {
            Network::PointToPoint => InterfaceState::PointToPoint,
            Network::Broadcast if interface.config.priority == 0 => InterfaceState::DrOther,
            Network::Broadcast => InterfaceState::Waiting,
        };
        if interface.state == InterfaceState::Waiting {
            interface.wait_until = Some(self.now + interface.dead());
        }
        // RFC 3623 §2.2: whoever may not have been told hears it before our Hello.
        self.announce_restart(name);
        self.send_hello(name);
    }

    pub(crate) fn interface_down(&mut self, name: &Arc<str>, reason: &str) {
        for address in self.neighbors_of(name) {
            self.neighbor_down(name, address, reason);
        }
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        if interface.is_designated() {
            self.out.push(crate::Action::LeaveDrRouters { interface: name.clone() });
        }
        self.sync_neighbors(name);
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        // RFC 2328 §9.3, InterfaceDown: everything of it is reset. What was counted stays.
        let mut fresh = super::Interface::new(interface.config.clone());
        fresh.refused = std::mem::take(&mut interface.refused);
        fresh.carrier = interface.carrier;
        fresh.max_cost = interface.max_cost;
        *interface = fresh;
        self.told.anew = true;
        self.forget_own(name);
        self.dirty = true;
    }

    pub(crate) fn neighbors_of(&self, name: &Arc<str>) -> Vec<Ipv4Addr> {
        self.interfaces.get(name).map(|i| i.neighbors.keys().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn send_hello(&mut self, name: &Arc<str>) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        if !interface.state.is_active() {
            return;
        }
        interface.hello_at = Some(self.now + interface.hello());
        interface.hello_sent = Some(self.now);
        let heard = interface.neighbors.values().filter(|n| n.state >= NeighborState::Init);
        let neighbors = heard.map(|n| n.router_id).collect();
        self.send_hello_with(name, neighbors);
    }

    pub(crate) fn send_hello_with(&mut self, name: &Arc<str>, neighbors: Vec<Ipv4Addr>) {
        let Some(interface) = self.interfaces.get(name) else { return };
        let hello = Message::Hello(Hello {
            mask: interface.config.address.netmask().into(),
            hello_interval: interface.config.hello_s,
            options: OPTION_E,
            priority: interface.config.priority,
            dead_interval: interface.config.dead_s,
            designated: interface.designated,
            backup: interface.backup,
            neighbors,
        });
        self.send(name, ALL_ROUTERS, &hello);
    }

    /// A Hello before its time, but not too many of them.
    pub(crate) fn hello_soon(&mut self, name: &Arc<str>) {
        let now = self.now;
        if let Some(interface) = self.interfaces.get_mut(name)
            && interface.state.is_active()
        {
            let earliest = interface.hello_sent.map_or(now, |sent| sent + HELLO_GAP).max(now);
            interface.hello_at = Some(interface.hello_at.unwrap_or(earliest).min(earliest));
        }
    }

    /// RFC 2328 §10.5.
    pub(crate) fn receive_hello(&mut self, name: &Arc<str>, source: Ipv4Addr, router_id: Ipv4Addr, sequence: Option<u32>, hello: &Hello) {
        let now = self.now;
        let limit = self.config.limits.neighbors;
        let own_id = self.config.router_id;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let config = &interface.config;
        let wrong = if interface.is_broadcast() && hello.mask != u32::from(config.address.netmask()) {
            Some("network mask")
        } else if hello.hello_interval != config.hello_s {
            Some("hello interval")
        } else if hello.dead_interval != config.dead_s {
            Some("dead interval")
        } else if hello.options & OPTION_E == 0 || hello.options & OPTION_NP != 0 {
            Some("area type")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            interface.refuse(wrong);
            return;
        }
        if interface.neighbors.get(&source).is_some_and(|n| n.state > NeighborState::Down && n.router_id != router_id) {
            self.neighbor_down(name, source, "another router has its address");
        }
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        if !interface.neighbors.contains_key(&source) && !make_room(interface, router_id, limit) {
            interface.refuse("too many neighbors");
            return;
        }
        let dead_at = now + interface.dead();
        let (state, own) = (interface.state, interface.address());
        let broadcast = interface.is_broadcast();
        let neighbor = interface.neighbors.entry(source).or_insert_with(|| Neighbor::new(router_id));
        let new = neighbor.state == NeighborState::Down;
        // HelloReceived
        neighbor.router_id = router_id;
        neighbor.dead_at = dead_at;
        if let Some(sequence) = sequence {
            neighbor.crypto_sequence = sequence;
        }
        let before = (neighbor.priority, neighbor.designated == source, neighbor.backup == source);
        neighbor.priority = hello.priority;
        neighbor.designated = hello.designated;
        neighbor.backup = hello.backup;
        let declared = (neighbor.priority, neighbor.designated == source, neighbor.backup == source) != before;
        if new {
            neighbor.state = NeighborState::Init;
        }
        let sees_us = hello.neighbors.contains(&own_id);
        if !sees_us {
            // It is told of us at once, whether it has just come or has forgotten us.
            self.hello_soon(name);
            self.one_way(name, source);
        } else {
            if new {
                self.hello_soon(name);
            }
            self.two_way(name, source);
        }
        if !broadcast {
            return;
        }
        if state == InterfaceState::Waiting {
            // RFC 3623 §2.3: on a segment that remembers us as its DR we are it at once; and so with its backup.
            if self.is_restarting() && sees_us && (hello.designated == own || hello.backup == own) {
                if let Some(interface) = self.interfaces.get_mut(name) {
                    interface.wait_until = None;
                }
                self.set_roles(name, hello.designated, hello.backup);
                return;
            }
            // BackupSeen
            let dr_alone = hello.designated == source && hello.backup.is_unspecified();
            if sees_us && (hello.backup == source || dr_alone) {
                self.end_waiting(name);
            }
        } else if declared && let Some(interface) = self.interfaces.get_mut(name) {
            // NeighborChange
            interface.elect = true;
        }
    }

    /// 1-WayReceived
    fn one_way(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        if self.neighbor(name, address).is_some_and(|n| n.state >= NeighborState::TwoWay) {
            self.set_state(name, address, NeighborState::Init, "it no longer lists us in its Hello");
        }
    }

    /// 2-WayReceived
    pub(crate) fn two_way(&mut self, name: &Arc<str>, address: Ipv4Addr) {
        if self.neighbor(name, address).is_some_and(|n| n.state == NeighborState::Init) {
            self.set_state(name, address, NeighborState::TwoWay, "");
            self.adjacency_ok(name, address);
        }
    }

    /// KillNbr, LLDown, InactivityTimer
    pub(crate) fn neighbor_down(&mut self, name: &Arc<str>, address: Ipv4Addr, reason: &str) {
        if let Some(neighbor) = self.neighbor_mut(name, address) {
            neighbor.helping = None;
            neighbor.crypto_sequence = 0;
            self.set_state(name, address, NeighborState::Down, reason);
        }
    }

    /// Every transition of a neighbour passes here.
    pub(crate) fn set_state(&mut self, name: &Arc<str>, address: Ipv4Addr, state: NeighborState, reason: &str) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let Some(neighbor) = interface.neighbors.get_mut(&address) else { return };
        let old = neighbor.state;
        if old == state {
            return;
        }
        neighbor.state = state;
        // RFC 2328 §9.2: bidirectional communication began or ended.
        if (old >= NeighborState::TwoWay) != (state >= NeighborState::TwoWay) {
            interface.elect = true;
        }
        if state < old {
            neighbor.clear_lists();
            if !reason.is_empty() {
                neighbor.last_error = Some(reason.to_owned());
            }
        }
        if old == NeighborState::Full {
            neighbor.resets += 1;
            neighbor.full_since = None;
        }
        let back = neighbor.helping.is_some_and(|h| h.back);
        if state == NeighborState::Full {
            neighbor.full_since = Some(now);
        }
        if old == NeighborState::Full || state == NeighborState::Full {
            self.dirty = true;
        }
        if state == NeighborState::Full && back {
            self.end_helping(name, address, "it is back");
        }
    }

    /// Hellos that are due, neighbours that have not been heard.
    pub(crate) fn hello_timers(&mut self, name: &Arc<str>, now: Time) {
        if self.interfaces.get(name).is_some_and(|i| i.hello_at.is_some_and(|at| at <= now)) {
            self.send_hello(name);
        }
        if self.wait_over(name, now) {
            self.end_waiting(name);
        }
        for address in self.neighbors_of(name) {
            let Some(neighbor) = self.neighbor(name, address) else { continue };
            match neighbor.helping {
                Some(helping) if helping.until <= now => self.end_helping(name, address, "its grace period is over"),
                None if neighbor.state > NeighborState::Down && neighbor.dead_at <= now => {
                    self.neighbor_down(name, address, "no Hello within the dead interval");
                }
                _ => {}
            }
        }
    }
}

/// Whether one more neighbour may be remembered; neighbours that are gone make place.
fn make_room(interface: &mut super::Interface, router_id: Ipv4Addr, limit: usize) -> bool {
    let limit = if interface.is_broadcast() { limit.max(1) } else { 1 };
    if interface.neighbors.len() >= limit {
        let gone = interface.neighbors.iter().find(|(_, n)| n.state == NeighborState::Down && n.helping.is_none() && !n.up);
        // The other end of a point-to-point link may have another address from now on (RFC 2328 §10.5: it goes by its router ID).
        let moved = interface
            .neighbors
            .iter()
            .find(|(_, n)| !interface.is_broadcast() && n.router_id == router_id && n.state <= NeighborState::Init && !n.up);
        if let Some(address) = gone.or(moved).map(|(address, _)| *address) {
            interface.neighbors.remove(&address);
        }
    }
    interface.neighbors.len() < limit
}
