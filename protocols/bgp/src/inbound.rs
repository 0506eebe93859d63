//! What one session has received: UPDATEs into routes, loops left out, prefixes counted.

use crate::events::Action;
use crate::{config::MaxPrefix, config::PeerConfig, session::Local, session::Negotiated};
use edgeplex_bgp_wire::{Attributes, Cease, Code, Decoder, Notification, Reach, Severity, Unreach};
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// RFC 7606 outcomes, over all sessions of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) treated_as_withdraw: u64,
    pub(crate) attributes_discarded: u64,
    pub(crate) last_fault: Option<String>,
}

/// The receiving half of an established session.
#[derive(Debug)]
pub(crate) struct Inbound {
    decoder: Decoder,
    local: Local,
    local_address: Option<IpAddr>,
    max_prefix: Option<MaxPrefix>,
    received: HashSet<Unreach>,
}

/// Why a session must end: what to tell the peer, and the log.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) notification: Notification,
    pub(crate) reason: String,
    /// The peer exceeded its prefixes.
    pub(crate) max_prefix: bool,
}

impl Inbound {
    pub(crate) fn new(config: &PeerConfig, local: Local, negotiated: &Negotiated) -> Self {
        Self {
            decoder: Decoder::new(negotiated.decode_context(config, &local)),
            local,
            local_address: config.local_address,
            max_prefix: config.max_prefix,
            received: HashSet::new(),
        }
    }

    pub(crate) fn prefixes(&self) -> usize {
        self.received.len()
    }

    pub(crate) fn set_max_prefix(&mut self, limit: Option<MaxPrefix>) {
        self.max_prefix = limit;
    }

    /// RFC 4271 §9.1.2: a path through ourselves. RFC 4456 §8: a route of ours that was reflected.
    fn is_loop(&self, attributes: &Attributes) -> bool {
        attributes.as_path.contains(self.local.asn)
            || attributes.originator_id == Some(self.local.router_id)
            || attributes.cluster_list.contains(&self.local.router_id)
    }

    pub(crate) fn update(&mut self, body: &[u8], outcomes: &mut Outcomes, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let mut update =
            self.decoder.decode(body).map_err(|f| Refusal { reason: f.to_string(), notification: f.notification, max_prefix: false })?;
        for fault in &update.faults {
            match &fault.severity {
                Severity::AttributeDiscard => outcomes.attributes_discarded += 1,
                Severity::TreatAsWithdraw => outcomes.treated_as_withdraw += 1,
                // RFC 7606 §2 lets a speaker reset the session in place of disabling one family of it.
                Severity::AfiSafiDisable(_) | Severity::SessionReset(_) => {
                    let notification = Notification::new(Code::Update, 9, &[]);
                    return Err(Refusal { reason: format!("{notification}: {}", fault.error), notification, max_prefix: false });
                }
            }
            outcomes.last_fault = Some(fault.error.to_string());
        }
        let looped = update.attributes.as_deref().is_some_and(|a| self.is_loop(a));
        update.announced.retain(|r| {
            // RFC 4271 §6.3: our own address is no next hop.
            let usable = !looped && Some(r.next_hop) != self.local_address;
            if !usable {
                update.unreach.extend(r.reach.iter().map(Reach::unreach));
            }
            usable
        });
        for key in &update.unreach {
            self.received.remove(key);
        }
        for reach in update.announced.iter().flat_map(|r| &r.reach) {
            self.received.insert(reach.unreach());
        }
        self.check_limit()?;
        let attributes = update.attributes.unwrap_or_default();
        let mut unreach = update.unreach;
        for reach in update.announced {
            actions.push(Action::Update {
                attributes: Arc::clone(&attributes),
                next_hop: reach.next_hop,
                reach: reach.reach,
                unreach: std::mem::take(&mut unreach),
            });
        }
        if !unreach.is_empty() {
            let next_hop = Ipv4Addr::UNSPECIFIED.into();
            actions.push(Action::Update { attributes, next_hop, reach: Vec::new(), unreach });
        }
        actions.extend(update.end_of_rib.map(Action::EndOfRib));
        Ok(())
    }

    /// RFC 4486 §4: the data names the family and the limit.
    fn check_limit(&self) -> Result<(), Refusal> {
        let Some(limit) = self.max_prefix.map(|m| m.limit).filter(|m| usize::try_from(*m).is_ok_and(|m| self.received.len() > m)) else {
            return Ok(());
        };
        let (afi, safi) = self.received.iter().next().map_or((1, 1), |u| u.key.family().afi_safi());
        let ([hi, lo], [a, b, c, d]) = (afi.to_be_bytes(), limit.to_be_bytes());
        let notification = Notification::new(Code::Cease, Cease::MaximumPrefixes.number(), &[hi, lo, safi, a, b, c, d]);
        Err(Refusal { reason: format!("{notification}: limit {limit}"), notification, max_prefix: true })
    }
}
