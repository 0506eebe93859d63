//! Events of the route reflectors' sessions.

use super::*;
use crate::reflector::{Session, Stale};
use edgeplex_bgp::Graceful;
use edgeplex_bgp_wire::{Family, FamilySet, Reach, Unreach};
use std::net::IpAddr;

/// A peer that sends no End-of-RIB has told everything when it has been quiet for this long.
const QUIET: Duration = Duration::from_secs(2);
/// After this long in a new session what it has not renewed goes, End-of-RIB or not.
const STALE_TIME: Duration = Duration::from_secs(360);
const FAMILIES: [Family; 2] = [Family::Vpnv4, Family::Vpnv6];

impl<P: Clone + Eq> Vpn<P> {
    pub(super) fn configure_reflectors(&mut self, reflectors: &BTreeSet<Ipv4Addr>) {
        let gone: Vec<_> = self.rib.reflectors.keys().filter(|rr| !reflectors.contains(rr)).copied().collect();
        for rr in gone {
            self.rib.reflectors.remove(&rr);
            self.next_walk.reflectors.insert(rr);
        }
        for rr in reflectors {
            if !self.rib.reflectors.contains_key(rr) {
                self.session += 1;
                self.rib.reflectors.insert(*rr, Reflector::new(self.session));
            }
        }
    }

    /// The session is established, with these families. `preserved`: what it sent of them before stays until it has said
    /// everything again. `sends_end_of_rib`: the peer said so (RFC 4724 §2).
    pub fn reflector_up(&mut self, now: Instant, rr: Ipv4Addr, families: &[Family], preserved: &[Family], sends_end_of_rib: bool) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        self.session += 1;
        r.number = self.session;
        let awaited: FamilySet = FAMILIES.into_iter().filter(|f| families.contains(f)).collect();
        r.session = Some(Session { last_update: now, sends_end_of_rib, awaited });
        if let Some(stale) = &mut r.stale {
            stale.until = now + STALE_TIME;
            stale.then = Duration::ZERO;
            // RFC 4724 §4.2: what is not agreed on again, or not preserved, goes.
            for family in FAMILIES.into_iter().filter(|f| !awaited.contains(*f) || !preserved.contains(f)) {
                r.forget_past(family);
                self.next_walk.reflectors.insert(rr);
            }
        }
    }

    /// The session ended. With `graceful` its routes stay: for a while as they are (RFC 4724 §4.2), then as the last
    /// resort (RFC 9494 §4.2).
    pub fn reflector_down(&mut self, now: Instant, rr: Ipv4Addr, graceful: Option<Graceful>) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        if r.session.take().is_none() {
            return;
        }
        let seconds = |s: u32| Duration::from_secs(s.into());
        match graceful.map(|g| (seconds(g.stale_s), seconds(g.llgr_stale_s))) {
            Some((stale, then)) => {
                if r.stale.is_some() {
                    // RFC 4724 §4.2: what was stale already is not kept for a second restart.
                    FAMILIES.into_iter().for_each(|f| r.forget_past(f));
                    self.next_walk.reflectors.insert(rr);
                }
                r.stale = Some(Stale { until: now + stale, then, long_lived: false });
            }
            None => self.forget(rr),
        }
    }

    /// Nothing that a reflector sent counts any more.
    fn forget(&mut self, rr: Ipv4Addr) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        self.session += 1;
        r.number = self.session;
        r.stale = None;
        FAMILIES.into_iter().for_each(|f| r.forget_past(f));
        self.next_walk.reflectors.insert(rr);
    }

    /// One UPDATE.
    pub fn update(
        &mut self,
        now: Instant,
        rr: Ipv4Addr,
        attributes: &Arc<Attributes>,
        next_hop: IpAddr,
        reach: &[Reach],
        unreach: &[Unreach],
    ) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        let Some(session) = &mut r.session else { return };
        session.last_update = now;
        let number = r.number;
        for gone in unreach {
            self.lose(rr, gone);
        }
        if reach.is_empty() {
            return;
        }
        // What would not fit a relay message cannot be used; 4-octet AS numbers may have made it longer. Nor can what leads
        // to an IPv6 address: the core is IPv4.
        let fits = attributes.to_bytes().len() <= MAX_ATTRIBUTES;
        for new in reach {
            let Nlri::Vpn { rd, prefix, label } = new.nlri else { continue };
            match next_hop {
                IpAddr::V4(next_hop) if fits => {
                    let path =
                        Received { attributes: attributes.clone(), reflector: rr, path_id: new.path_id, next_hop, label, session: number };
                    if self.rib.insert((rd, prefix), path) {
                        self.undecided.insert((rd, prefix));
                    }
                }
                _ => self.lose(rr, &new.unreach()),
            }
        }
    }

    fn lose(&mut self, rr: Ipv4Addr, gone: &Unreach) {
        if let NlriKey::Vpn { rd, prefix } = gone.key
            && self.rib.remove(&(rd, prefix), rr, gone.path_id)
        {
            self.undecided.insert((rd, prefix));
        }
    }

    /// The peer has sent all it has of one family.
    pub fn end_of_rib(&mut self, rr: Ipv4Addr, family: Family) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        let Some(session) = &mut r.session else { return };
        if session.awaited.contains(family) {
            session.awaited.remove(family);
            if r.stale.is_some() {
                r.forget_past(family);
                self.next_walk.reflectors.insert(rr);
            }
            if r.is_complete() {
                r.stale = None;
            }
        }
    }

    pub(super) fn tick_reflectors(&mut self, now: Instant) {
        for rr in self.rib.reflectors.keys().copied().collect::<Vec<_>>() {
            let Some(r) = self.rib.reflectors.get_mut(&rr) else { continue };
            let over = r.stale.is_some_and(|s| now >= s.until);
            match (r.session, &mut r.stale) {
                (Some(s), _) if over || !s.sends_end_of_rib && now >= s.last_update + QUIET => {
                    FAMILIES.into_iter().for_each(|f| self.end_of_rib(rr, f));
                }
                // RFC 9494 §4.2: the restart time is over, and a longer one begins.
                (None, Some(stale)) if over && !stale.then.is_zero() => {
                    *stale = Stale { until: now + stale.then, then: Duration::ZERO, long_lived: true };
                    self.next_walk.reflectors.insert(rr);
                }
                (None, Some(_)) if over => self.forget(rr),
                _ => {}
            }
        }
    }
}
