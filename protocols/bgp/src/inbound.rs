//! What one session has received: UPDATEs into routes, loops and leaks left out, prefixes counted, stale ones swept.

use crate::config::{MaxPrefix, PeerConfig};
use crate::events::{Action, Time};
use crate::session::{Local, Negotiated};
use edgeplex_bgp_wire::{
    Announced, Attributes, Cease, Code, Decoder, Family, FamilySet, Fault, Notification, Reach, Refresh, Role, Severity, Unreach,
};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

/// How long a refresh may take until what it did not renew is swept without its end (RFC 7313 §4.2).
const REFRESH_LIMIT: Duration = Duration::from_secs(600);

/// RFC 7606 outcomes, over all sessions of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) treated_as_withdraw: u64,
    pub(crate) attributes_discarded: u64,
    pub(crate) last_fault: Option<String>,
}

/// A refresh on its way: what carries an older generation is stale.
#[derive(Debug)]
struct Refreshing {
    family: Family,
    generation: u32,
    until: Time,
}

/// The receiving half of an established session.
#[derive(Debug)]
pub(crate) struct Inbound {
    decoder: Decoder,
    local: Local,
    remote_as: u32,
    role: Option<Role>,
    allow_own_as: u8,
    own_address: IpAddr,
    families: FamilySet,
    /// Not understood any more (RFC 7606 §2): what comes of them is ignored.
    disabled: FamilySet,
    max_prefix: Option<MaxPrefix>,
    warned: bool,
    /// With the generation in which each was announced last.
    received: HashMap<Unreach, u32>,
    generation: u32,
    refreshing: Vec<Refreshing>,
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
    pub(crate) fn new(config: &PeerConfig, local: Local, negotiated: &Negotiated, own_address: IpAddr) -> Self {
        Self {
            decoder: Decoder::new(negotiated.decode_context(config, &local)),
            local,
            remote_as: config.remote_as,
            role: config.role.filter(|_| config.remote_as != local.asn),
            allow_own_as: config.allow_own_as,
            own_address,
            families: negotiated.families,
            disabled: FamilySet::EMPTY,
            max_prefix: config.max_prefix,
            warned: false,
            received: HashMap::new(),
            generation: 0,
            refreshing: Vec::new(),
        }
    }

    pub(crate) fn prefixes(&self) -> usize {
        self.received.len()
    }

    pub(crate) fn disabled(&self) -> FamilySet {
        self.disabled
    }

    /// What the session is judged by from now on. Whether its routes have to be asked for again, as some were left out, or in,
    /// by another rule.
    pub(crate) fn promote(&mut self, now: Time, config: &PeerConfig) -> bool {
        self.set_max_prefix(config.max_prefix);
        self.refreshing.iter_mut().for_each(|r| r.until = now + REFRESH_LIMIT);
        std::mem::replace(&mut self.allow_own_as, config.allow_own_as) != config.allow_own_as
    }

    pub(crate) fn set_max_prefix(&mut self, limit: Option<MaxPrefix>) {
        self.max_prefix = limit;
        self.warned = false;
    }

    /// RFC 4271 §9.1.2: a path through ourselves. RFC 4456 §8: a route of ours that was reflected.
    fn is_loop(&self, attributes: &Attributes) -> bool {
        attributes.as_path.count(self.local.asn) > self.allow_own_as.into()
            || attributes.originator_id == Some(self.local.router_id)
            || attributes.cluster_list.contains(&self.local.router_id)
    }

    /// RFC 9234 §5, ingress 1 and 2: it has gone downwards or sidewards before, and comes up or from the side.
    fn is_leak(&self, attributes: &Attributes) -> bool {
        match (self.role, attributes.only_to_customer) {
            (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
            (Some(Role::Peer), Some(asn)) => asn != self.remote_as,
            _ => false,
        }
    }

    fn usable(&self, announced: &Announced, attributes: &Attributes) -> bool {
        let unicast = announced.reach.first().is_some_and(|r| r.nlri.family().is_unicast());
        let leak = unicast && self.is_leak(attributes);
        // RFC 4271 §6.3: our own address is no next hop.
        !leak && !self.is_loop(attributes) && announced.next_hop != self.own_address
    }

    pub(crate) fn update(&mut self, body: &[u8], outcomes: &mut Outcomes, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let mut update =
            self.decoder.decode(body).map_err(|f| Refusal { reason: f.to_string(), notification: f.notification, max_prefix: false })?;
        for fault in &update.faults {
            outcomes.last_fault = Some(fault.error.to_string());
            match fault.severity {
                Severity::AttributeDiscard => outcomes.attributes_discarded += 1,
                Severity::TreatAsWithdraw => outcomes.treated_as_withdraw += 1,
                Severity::AfiSafiDisable(family) => self.disable(family, fault, actions)?,
                Severity::SessionReset(_) => return Err(reset(fault)),
            }
        }
        if !self.disabled.is_empty() {
            update.unreach.retain(|u| !self.disabled.contains(u.key.family()));
            update.announced.retain(|a| !a.reach.iter().any(|r| self.disabled.contains(r.nlri.family())));
        }
        let attributes = update.attributes.unwrap_or_default();
        let mut unreach = update.unreach;
        update.announced.retain(|announced| {
            let usable = self.usable(announced, &attributes);
            if !usable {
                unreach.extend(announced.reach.iter().map(Reach::unreach));
            }
            usable
        });
        for gone in &unreach {
            self.received.remove(gone);
        }
        for reach in update.announced.iter().flat_map(|r| &r.reach) {
            self.received.insert(reach.unreach(), self.generation);
        }
        self.check_limit(actions)?;
        for Announced { next_hop, reach } in update.announced {
            actions.push(Action::Update { attributes: Arc::clone(&attributes), next_hop, reach, unreach: std::mem::take(&mut unreach) });
        }
        report_gone(unreach, actions);
        actions.extend(update.end_of_rib.filter(|f| !self.disabled.contains(*f)).map(Action::EndOfRib));
        Ok(())
    }

    /// RFC 7606 §2: nothing more of the family is believed, and what was heard goes. Where nothing else would be left, or where
    /// it says what we are to send, the session is reset: that at least may mend it.
    fn disable(&mut self, family: Family, fault: &Fault, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let mut left = self.families;
        left.remove(family);
        left.remove(Family::RouteTarget);
        self.disabled.iter().for_each(|f| left.remove(f));
        if family == Family::RouteTarget || left.is_empty() {
            return Err(reset(fault));
        }
        self.disabled.insert(family);
        actions.push(Action::Warn(format!("{family} is ignored until the session is reset: {}", fault.error)));
        self.forget(|u, _| u.key.family() == family, actions);
        Ok(())
    }

    /// Drops routes received and reports them as gone.
    fn forget(&mut self, which: impl Fn(&Unreach, u32) -> bool, actions: &mut Vec<Action>) {
        report_gone(self.received.extract_if(|u, generation| which(u, *generation)).map(|(u, _)| u).collect(), actions);
    }

    /// The session has ended and these families stay: what else there was is gone.
    pub(crate) fn keep_only(&mut self, kept: FamilySet, actions: &mut Vec<Action>) {
        self.forget(|u, _| !kept.contains(u.key.family()), actions);
    }

    /// RFC 7313 §4: the peer tells begin or end of a refresh.
    pub(crate) fn refresh(&mut self, now: Time, family: Family, kind: Refresh, actions: &mut Vec<Action>) {
        match kind {
            Refresh::Begin => {
                self.refreshing.retain(|r| r.family != family);
                self.generation = self.generation.wrapping_add(1);
                self.refreshing.push(Refreshing { family, generation: self.generation, until: now + REFRESH_LIMIT });
            }
            Refresh::End => {
                if let Some(at) = self.refreshing.iter().position(|r| r.family == family) {
                    let refreshing = self.refreshing.swap_remove(at);
                    self.sweep(&refreshing, actions);
                }
            }
            Refresh::Request | Refresh::Other(_) => {}
        }
    }

    fn sweep(&mut self, refreshing: &Refreshing, actions: &mut Vec<Action>) {
        self.forget(|u, generation| generation < refreshing.generation && u.key.family() == refreshing.family, actions);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.refreshing.iter().map(|r| r.until).min()
    }

    /// Refreshes that have not come to their end in time.
    pub(crate) fn timer(&mut self, now: Time, actions: &mut Vec<Action>) {
        for late in self.refreshing.extract_if(.., |r| r.until <= now).collect::<Vec<_>>() {
            actions.push(Action::Warn(format!("the refresh of {} did not end; what it did not renew is gone", late.family)));
            self.sweep(&late, actions);
        }
    }

    fn check_limit(&mut self, actions: &mut Vec<Action>) -> Result<(), Refusal> {
        let Some(max) = self.max_prefix else { return Ok(()) };
        let have = u64::try_from(self.received.len()).unwrap_or(u64::MAX);
        let (limit, warn) = (u64::from(max.limit), u64::from(max.limit) * u64::from(max.warn_percent) / 100);
        if have > limit && !max.warning_only {
            // RFC 4486 §4: the data names the family and the limit.
            let (afi, safi) = self.received.keys().next().map_or((1, 1), |u| u.key.family().afi_safi());
            let ([hi, lo], [a, b, c, d]) = (afi.to_be_bytes(), max.limit.to_be_bytes());
            let notification = Notification::new(Code::Cease, Cease::MaximumPrefixes.number(), &[hi, lo, safi, a, b, c, d]);
            return Err(Refusal { reason: format!("{notification}: limit {limit}"), notification, max_prefix: true });
        }
        if have < warn {
            self.warned = false;
        } else if have > 0 && !std::mem::replace(&mut self.warned, true) {
            actions.push(Action::Warn(format!("{have} prefixes received, the limit is {limit}")));
        }
        Ok(())
    }
}

fn reset(fault: &Fault) -> Refusal {
    // RFC 7606 §2 lets a speaker reset the session in place of disabling one family of it.
    let notification = match &fault.severity {
        Severity::SessionReset(notification) => notification.clone(),
        _ => Notification::new(Code::Update, 9, &[]),
    };
    Refusal { reason: format!("{notification}: {}", fault.error), notification, max_prefix: false }
}

fn report_gone(unreach: Vec<Unreach>, actions: &mut Vec<Action>) {
    if !unreach.is_empty() {
        let next_hop = Ipv4Addr::UNSPECIFIED.into();
        actions.push(Action::Update { attributes: Arc::default(), next_hop, reach: Vec::new(), unreach });
    }
}
