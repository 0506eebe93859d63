//! Basic discovery (RFC 5036 §2.4.1): Hellos on each interface, adjacencies from what is heard.

use crate::engine::Ldp;
use crate::fsm::End;
use crate::neighbor::{Adjacency, Neighbor};
use crate::packet::{Composer, Hello, MAX_PDU, Message, Status, frame};
use crate::{Action, Time};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

/// Neighbours on one interface, and all together.
const MAX_ON_INTERFACE: usize = 64;
const MAX_NEIGHBORS: usize = 512;
/// Hellos out of turn keep this distance.
const HELLO_PACE: Duration = Duration::from_millis(100);
/// RFC 5036 §3.5.2: what hold time 0 means on a link.
const DEFAULT_HOLD_S: u16 = 15;
const FOR_EVER: u16 = u16::MAX;

/// One of our interfaces that is up.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) address: Ipv4Addr,
    /// When the next Hello is due; `None`: no discovery here.
    pub(crate) hello_at: Option<Time>,
    last_hello: Option<Time>,
}

impl Interface {
    /// Hellos begin at once, or there are none.
    pub(crate) fn new(now: Time, address: Ipv4Addr, discovery: bool) -> Self {
        Self { address, hello_at: discovery.then_some(now), last_hello: None }
    }

    pub(crate) fn hello_soon(&mut self, now: Time) {
        let soon = self.last_hello.map_or(now, |last| now.max(last + HELLO_PACE));
        self.hello_at = self.hello_at.map(|at| at.min(soon));
    }
}

impl Ldp {
    /// What is wrong with a Hello is nobody's business but its sender's: it is ignored.
    pub(crate) fn hello_received(&mut self, now: Time, interface: &Arc<str>, source: Ipv4Addr, packet: &[u8]) {
        let discovering = self.interfaces.get(interface).is_some_and(|i| i.hello_at.is_some());
        let Ok(Some(pdu)) = frame(packet, MAX_PDU) else { return };
        let lsr_id = pdu.sender.lsr_id;
        let unicast = |a: Ipv4Addr| !(a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback());
        if !discovering || pdu.sender.label_space != 0 || !unicast(lsr_id) || !unicast(source) || lsr_id == self.config.lsr_id {
            return;
        }
        let messages = pdu.messages().map_while(Result::ok).filter_map(|raw| Message::decode(&raw).ok().flatten());
        for message in messages {
            if let Message::Hello(hello) = message {
                let transport = hello.transport_address.unwrap_or(source);
                // A targeted Hello has no business here.
                if !hello.targeted && unicast(transport) && transport != self.config.lsr_id {
                    self.heard(now, lsr_id, interface, source, transport, hello);
                }
                return;
            }
        }
    }

    fn heard(&mut self, now: Time, lsr_id: Ipv4Addr, interface: &Arc<str>, source: Ipv4Addr, transport: Ipv4Addr, hello: Hello) {
        if !self.neighbors.contains_key(&lsr_id) && !self.make_room(lsr_id, interface, transport) {
            return;
        }
        let Some(known) = self.neighbors.get(&lsr_id) else { return };
        if known.transport != transport {
            // RFC 5036 §3.5.2.1: all Hellos of a label space tell the same address.
            if known.adjacencies.keys().any(|i| i != interface) {
                return self.log(
                    now,
                    Some(lsr_id),
                    format!("tells {transport} on {interface} but {} elsewhere: Hello ignored", known.transport),
                );
            }
            self.end_session(now, lsr_id, End::ours(Status::SHUTDOWN, "its transport address changed"));
        }
        let agreed = match (hello.hold_s, self.config.hold_s()) {
            (FOR_EVER, ours) => ours,
            (0, ours) => ours.min(DEFAULT_HOLD_S),
            (theirs, ours) => ours.min(theirs),
        };
        let hold = Duration::from_secs(agreed.into());
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        let rekey = std::mem::replace(&mut neighbor.transport, transport) != transport;
        neighbor.gtsm = hello.gtsm && self.config.gtsm;
        let former = neighbor.adjacencies.get(interface);
        let moved = former.is_none_or(|a| a.source != source);
        // RFC 5036 §2.5.3: a neighbour that was configured anew may accept now what it refused.
        let renewed = former.is_none_or(|a| a.sequence != hello.configuration_sequence);
        let greet = former.is_none_or(|a| !a.greeted) && neighbor.session.is_none();
        let greeted = greet || former.is_some_and(|a| a.greeted);
        let adjacency = Adjacency { source, hold: Some(hold), expires: Some(now + hold), sequence: hello.configuration_sequence, greeted };
        neighbor.adjacencies.insert(Arc::clone(interface), adjacency);
        if renewed {
            neighbor.forgive();
        }
        if rekey {
            self.settle_keys();
        }
        if moved {
            self.lib.touch_all();
        }
        // A neighbour that has just come need not wait for our next turn.
        if greet && let Some(interface) = self.interfaces.get_mut(interface) {
            interface.hello_soon(now);
        }
        if moved || greet {
            self.match_pending(now);
        }
    }

    /// Whether there is a place for a new neighbour; then it is made.
    fn make_room(&mut self, lsr_id: Ipv4Addr, interface: &Arc<str>, transport: Ipv4Addr) -> bool {
        let here = self.neighbors.values().filter(|n| n.adjacencies.contains_key(interface)).count();
        if here >= MAX_ON_INTERFACE || self.neighbors.len() >= MAX_NEIGHBORS {
            return false;
        }
        self.neighbors.insert(lsr_id, Neighbor::new(lsr_id, transport));
        self.settle_keys();
        true
    }

    /// Sends the Hellos that are due.
    pub(crate) fn send_hellos(&mut self, now: Time) {
        for (name, interface) in &mut self.interfaces {
            if interface.hello_at.is_none_or(|at| at > now) {
                continue;
            }
            // RFC 5036 §2.4.1: at least three within the time that a neighbour here waits.
            let holds = self.neighbors.values().filter_map(|n| n.adjacencies.get(name)?.hold);
            let interval = holds.map(|hold| hold / 3).chain([self.config.hello, self.config.hold / 3]).min().unwrap_or(self.config.hello);
            let hello = Hello {
                hold_s: self.config.hold_s(),
                targeted: false,
                request_targeted: false,
                gtsm: self.config.gtsm,
                transport_address: Some(self.config.lsr_id),
                configuration_sequence: Some(self.sequence),
            };
            self.hello_id = self.hello_id.wrapping_add(1);
            let mut composer = Composer::new(self.config.lsr_id, MAX_PDU);
            composer.push(self.hello_id, &Message::Hello(hello));
            self.actions.push(Action::SendHello { interface: Arc::clone(name), packet: composer.take() });
            interface.last_hello = Some(now);
            interface.hello_at = Some(now + interval.max(HELLO_PACE));
        }
    }

    /// Neighbours are no longer heard on these interfaces; with the last one a session ends. `keep`: they may be restarting.
    pub(crate) fn lose_adjacencies(&mut self, now: Time, lost: impl Fn(&Arc<str>, &Adjacency) -> bool, why: &str, keep: bool) {
        let heard = self.neighbors.values().filter(|n| !n.adjacencies.is_empty());
        let alone: Vec<_> = heard.filter(|n| n.adjacencies.iter().all(|(i, a)| lost(i, a))).map(|n| n.lsr_id).collect();
        for lsr_id in alone {
            self.end_session(now, lsr_id, End { keep, ..End::ours(Status::HOLD_TIMER_EXPIRED, why) });
        }
        for neighbor in self.neighbors.values_mut() {
            let before = neighbor.adjacencies.len();
            neighbor.adjacencies.retain(|interface, adjacency| !lost(interface, adjacency));
            if neighbor.adjacencies.len() < before {
                self.lib.touch_all();
            }
        }
    }
}
