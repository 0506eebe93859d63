//! What an operational neighbour tells: addresses, labels, and what it does with ours (RFC 5036 §A.1).

use crate::db::{Lib, downstream};
use crate::engine::Ldp;
use crate::fsm::notification;
use crate::neighbor::{Neighbor, Remote};
use crate::packet::{FecElement, LabelMessage, Mapping, Message, Status};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// Labels kept of one neighbour for FECs that are not in the routing table.
const MAX_UNROUTED: usize = 100_000;
/// Addresses kept of one neighbour.
const MAX_ADDRESSES: usize = 4096;
/// Requests of one neighbour that may wait for a label.
const MAX_REQUESTS: usize = 10_000;

/// Which FECs a message is about.
enum Scope {
    Prefixes(Vec<Ipv4Net>),
    All,
    /// FECs of kinds that we have none of.
    Nothing,
}

fn scope(fecs: &[FecElement]) -> Scope {
    match fecs {
        [FecElement::Wildcard] => Scope::All,
        [all] if *all == FecElement::all_ipv4() => Scope::All,
        [FecElement::TypedWildcard { .. }] => Scope::Nothing,
        _ => Scope::Prefixes(fecs.iter().filter_map(|f| if let FecElement::Prefix(p) = f { Some(*p) } else { None }).collect()),
    }
}

impl Ldp {
    /// `about`: identifier and type of the message.
    pub(crate) fn exchange(&mut self, lsr_id: Ipv4Addr, message: Message, about: (u32, u16)) {
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        match message {
            Message::Address(addresses) => {
                for address in addresses {
                    if neighbor.addresses.len() < MAX_ADDRESSES {
                        neighbor.addresses.insert(address);
                    }
                }
                self.lib.touch_all();
            }
            Message::AddressWithdraw(addresses) => {
                neighbor.addresses.retain(|a| !addresses.contains(a));
                self.lib.touch_all();
            }
            Message::LabelMapping(mapping) => mapped(&mut self.lib, neighbor, &mapping, about),
            Message::LabelWithdraw(m) => withdrawn(&mut self.lib, neighbor, m, about),
            Message::LabelRelease(m) => released(&mut self.lib, neighbor, &m),
            // Answered by the process that speaks, or unasked by whoever takes its place.
            Message::LabelRequest(_) if self.following.is_some() => {}
            Message::LabelRequest(fecs) => self.requested(lsr_id, &fecs, about),
            Message::LabelAbortRequest { fecs, request_id } => {
                let Scope::Prefixes(fecs) = scope(&fecs) else { return };
                for fec in fecs {
                    // RFC 5036 §3.5.9.1: too late if it was answered.
                    if neighbor.requests.get(&fec) == Some(&request_id) {
                        neighbor.requests.remove(&fec);
                        neighbor.send(&notification(Status::LABEL_REQUEST_ABORTED, about));
                    }
                }
            }
            Message::Capability(change) => {
                let Some(peer) = neighbor.session.as_mut().and_then(|s| s.peer.as_mut()) else { return };
                let c = &mut peer.capabilities;
                c.typed_wildcard = change.typed_wildcard.unwrap_or(c.typed_wildcard);
                c.unrecognized_notification = change.unrecognized_notification.unwrap_or(c.unrecognized_notification);
            }
            Message::Notification(n) if n.status == Status::END_OF_LIB && n.fec == Some(FecElement::all_ipv4()) => self.complete(lsr_id),
            // Advice: nothing here waits for an answer that could be missing.
            Message::Notification(_) | Message::Hello(_) | Message::Initialization(_) | Message::KeepAlive => {}
        }
    }

    /// All labels of the neighbour are here, as far as it has any yet: under ordered control more may follow, so what is stale stays
    /// until its time is over.
    pub(crate) fn complete(&mut self, lsr_id: Ipv4Addr) {
        if let Some(session) = self.neighbors.get_mut(&lsr_id).and_then(|n| n.session.as_mut()) {
            session.complete_at = None;
        }
    }

    fn requested(&mut self, lsr_id: Ipv4Addr, fecs: &[FecElement], about: (u32, u16)) {
        let fecs = match scope(fecs) {
            Scope::Prefixes(fecs) => fecs,
            // RFC 5918 §4: all that there are. An untyped wildcard cannot be requested.
            Scope::All if *fecs != [FecElement::Wildcard] => {
                let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
                let local: Vec<_> = self.lib.local.iter().map(|(fec, label)| (*fec, *label)).collect();
                local.into_iter().for_each(|(fec, label)| self.lib.map(neighbor, fec, label, Some(about.0)));
                return;
            }
            Scope::All | Scope::Nothing => {
                return self.answer(lsr_id, Status::UNKNOWN_FEC, about);
            }
        };
        for fec in fecs {
            let hops = self.lib.hops(&self.config, &fec);
            // Every next hop is the one that asks.
            let back =
                |hops: &Vec<_>| !hops.is_empty() && hops.iter().all(|h| downstream(&self.neighbors, h).is_some_and(|n| n.lsr_id == lsr_id));
            let local = self.lib.local.get(&fec).copied();
            let refusal = match hops {
                // RFC 5036 §A.1.1 LRq.3
                Some(hops) if back(hops) => Some(Status::LOOP_DETECTED),
                None if local.is_none() => Some(Status::NO_ROUTE),
                _ => None,
            };
            let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
            match (refusal, local) {
                (Some(status), _) => neighbor.send(&notification(status, about)),
                (None, Some(label)) => self.lib.map(neighbor, fec, label, Some(about.0)),
                // Ordered control: it waits for a label from downstream, which comes unasked.
                (None, None) if neighbor.requests.len() < MAX_REQUESTS => drop(neighbor.requests.insert(fec, about.0)),
                (None, None) => neighbor.send(&notification(Status::NO_LABEL_RESOURCES, about)),
            }
        }
    }

    fn answer(&mut self, lsr_id: Ipv4Addr, status: Status, about: (u32, u16)) {
        if let Some(neighbor) = self.neighbors.get_mut(&lsr_id) {
            neighbor.send(&notification(status, about));
        }
    }
}

fn release(neighbor: &mut Neighbor, fecs: Vec<FecElement>, label: Option<Label>) {
    neighbor.send(&Message::LabelRelease(LabelMessage { fecs, label }));
}

/// RFC 5036 §A.1.2
fn mapped(lib: &mut Lib, neighbor: &mut Neighbor, mapping: &Mapping, about: (u32, u16)) {
    let Scope::Prefixes(fecs) = scope(&mapping.fecs) else {
        // RFC 5036 §3.4.1: wildcards are for withdrawing and releasing.
        return neighbor.send(&notification(Status::UNKNOWN_FEC, about));
    };
    for fec in fecs {
        let prior = neighbor.remote.get(&fec).copied();
        if prior.is_none() && neighbor.remote.len() >= MAX_UNROUTED && !lib.routes.contains_key(&fec) {
            neighbor.refused += 1;
            release(neighbor, vec![FecElement::Prefix(fec)], Some(mapping.label));
            continue;
        }
        neighbor.remote.insert(fec, Remote { label: mapping.label, stale: false });
        // A stale label was given by a neighbour that no longer knows of it.
        if let Some(prior) = prior.filter(|p| p.label != mapping.label && !p.stale) {
            release(neighbor, vec![FecElement::Prefix(fec)], Some(prior.label));
        }
        lib.touch([fec]);
    }
}

/// RFC 5036 §A.1.5: released in any case, known or not.
fn withdrawn(lib: &mut Lib, neighbor: &mut Neighbor, m: LabelMessage, about: (u32, u16)) {
    let meant = |r: &Remote| m.label.is_none_or(|label| label == r.label);
    match scope(&m.fecs) {
        Scope::Prefixes(fecs) => {
            for fec in fecs {
                if neighbor.remote.get(&fec).is_some_and(meant) {
                    neighbor.remote.remove(&fec);
                    lib.touch([fec]);
                }
            }
        }
        Scope::All => {
            let gone: Vec<_> = neighbor.remote.iter().filter(|(_, r)| meant(r)).map(|(fec, _)| *fec).collect();
            neighbor.remote.retain(|_, r| !meant(r));
            lib.touch(gone);
        }
        Scope::Nothing => return neighbor.send(&notification(Status::UNKNOWN_FEC, about)),
    }
    release(neighbor, m.fecs, m.label);
}

/// RFC 5036 §A.1.4
fn released(lib: &mut Lib, neighbor: &mut Neighbor, m: &LabelMessage) {
    let fecs = match scope(&m.fecs) {
        Scope::Prefixes(fecs) => fecs,
        Scope::All => neighbor.withdrawn.iter().map(|(fec, _)| *fec).chain(neighbor.sent.keys().copied()).collect(),
        Scope::Nothing => return,
    };
    let meant = |label: Label| m.label.is_none_or(|l| l == label);
    // Without a label it answers what we withdrew; what we have mapped since then it cannot mean.
    let mut answered = false;
    for fec in &fecs {
        let all = (*fec, Label::IPV4_EXPLICIT_NULL)..=(*fec, Label::MAX);
        let done: Vec<_> = neighbor.withdrawn.range(all).filter(|(_, label)| meant(*label)).copied().collect();
        for entry in done {
            answered = true;
            neighbor.withdrawn.remove(&entry);
            lib.released(entry.0, entry.1, None);
        }
    }
    if answered && m.label.is_none() {
        return;
    }
    for fec in &fecs {
        if let Some(sent) = neighbor.sent.get_mut(fec).filter(|sent| sent.held && meant(sent.label)) {
            sent.held = false;
            lib.released(*fec, sent.label, None);
        }
    }
}
