//! Events of the route reflectors' sessions.

use super::*;

/// A peer that sends no End-of-RIB has told everything when it has been quiet for this long.
const QUIET: Duration = Duration::from_secs(2);
/// Routes of a session that ended gracefully are kept this long for the next one.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// After this long in a new session what it has not renewed goes, End-of-RIB or not.
const STALE_TIME: Duration = Duration::from_secs(360);

impl<P: Clone + Eq> Vpn<P> {
    pub(super) fn rib_configure(&mut self, reflectors: &BTreeSet<Ipv4Addr>) {
        let gone: Vec<_> = self.rib.reflectors.keys().filter(|rr| !reflectors.contains(rr)).copied().collect();
        for rr in gone {
            let keys = self.rib.sweep(&mut self.core, rr, true);
            self.undecided.extend(keys);
            self.rib.reflectors.remove(&rr);
        }
        for rr in reflectors {
            self.rib.reflectors.entry(*rr).or_default();
        }
    }

    /// The session is established. `graceful`: the peer said it sends End-of-RIB (RFC 4724).
    pub fn reflector_up(&mut self, now: Instant, rr: Ipv4Addr, graceful: bool) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        r.epoch.0 += 1;
        r.session = Some(Session { last_update: now, sends_end_of_rib: graceful, complete: false });
        r.stale_until = r.stale_until.map(|_| now + STALE_TIME);
    }

    /// The session ended. `graceful`: the peer keeps forwarding, so its routes stay for now (RFC 4724 §4.2).
    pub fn reflector_down(&mut self, now: Instant, rr: Ipv4Addr, graceful: bool) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        r.session = None;
        if graceful {
            r.stale_until.get_or_insert(now + RESTART_TIME);
        } else {
            let gone = self.rib.sweep(&mut self.core, rr, true);
            self.undecided.extend(gone);
        }
    }

    /// One UPDATE.
    pub fn update(
        &mut self,
        now: Instant,
        rr: Ipv4Addr,
        attributes: &Arc<Attributes>,
        next_hop: Ipv4Addr,
        reach: &[Nlri],
        unreach: &[NlriKey],
    ) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        if let Some(session) = &mut r.session {
            session.last_update = now;
        }
        for key in unreach {
            if let NlriKey::Vpnv4 { rd, prefix } = *key {
                self.lose(rr, (rd, prefix));
            }
        }
        if reach.is_empty() {
            return;
        }
        // What would not fit a relay message cannot be used; 4-octet AS numbers may have made it longer.
        let fits = attributes.to_bytes().len() <= MAX_ATTRIBUTES;
        let known = self.core.is_wanted(next_hop);
        for nlri in reach {
            let Nlri::Vpnv4 { rd, prefix, label } = *nlri else { continue };
            if fits {
                let route = Received { attributes: attributes.clone(), next_hop, label };
                if self.rib.insert(&mut self.core, rr, (rd, prefix), route) {
                    self.undecided.insert((rd, prefix));
                }
            } else {
                self.lose(rr, (rd, prefix));
            }
        }
        if !known {
            // There may be a new neighbour to resolve.
            self.actions.push_back(Action::FabricChanged);
        }
    }

    /// The peer has sent all it has.
    pub fn end_of_rib(&mut self, rr: Ipv4Addr) {
        let Some(r) = self.rib.reflectors.get_mut(&rr) else { return };
        let Some(session) = &mut r.session else { return };
        if !session.complete {
            session.complete = true;
            let gone = self.rib.sweep(&mut self.core, rr, false);
            self.undecided.extend(gone);
        }
    }

    pub(super) fn tick_reflectors(&mut self, now: Instant) {
        let due = |r: &Reflector| match r.session {
            Some(s) => !s.complete && !s.sends_end_of_rib && now >= s.last_update + QUIET || r.stale_until.is_some_and(|t| now >= t),
            None => r.stale_until.is_some_and(|t| now >= t),
        };
        let reflectors: Vec<_> = self.rib.reflectors.iter().filter(|(_, r)| due(r)).map(|(rr, r)| (*rr, r.session.is_some())).collect();
        for (rr, up) in reflectors {
            if up {
                self.end_of_rib(rr);
            } else {
                let gone = self.rib.sweep(&mut self.core, rr, true);
                self.undecided.extend(gone);
            }
        }
    }

    fn lose(&mut self, rr: Ipv4Addr, key: Key) {
        if self.rib.remove(&mut self.core, rr, &key) {
            self.undecided.insert(key);
        }
    }
}
