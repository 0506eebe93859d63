//! Our own LSAs: what they should say, and when they may be said again (RFC 2328 §12.4).
//!
//! One reconciler: what we want to announce is composed afresh and compared with the database. What differs is originated, as often as
//! MinLSInterval allows; what is there in our name and not wanted is flushed. Where the difference comes from (a neighbour, the
//! operator, a past life, someone who speaks in our name) makes no difference.

use crate::Time;
use crate::engine::Ospf;
use crate::flood::Scope;
use crate::fsm::{Interface, InterfaceState, NeighborState, OwnLink};
use crate::packet::{
    INITIAL_SEQUENCE, LinkKind, Lsa, LsaBody, LsaKey, MAX_LINK_METRIC, MAX_SEQUENCE, NETWORK, NetworkLsa, OPTION_E, ROUTER, RouterLink,
    RouterLsa,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// LSRefreshTime (RFC 2328 appendix B).
const REFRESH: Duration = Duration::from_secs(1800);
/// After the start our router-LSA waits this long for the first adjacencies: whoever has got it just before would refuse
/// the next one for MinLSArrival.
const SETTLE: Duration = Duration::from_secs(1);

/// What is remembered of one LSA in our name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    last: Option<Time>,
    /// It is said again then even if nothing has changed.
    refresh: Option<Time>,
    /// Pause from `last` to the next instance.
    hold: Duration,
    /// It waits until then, be it for its turn or to be refreshed.
    at: Option<Time>,
    /// A new instance is owed even if it says the same: somebody floods another one in our name.
    owed: bool,
}

impl Own {
    pub(crate) fn owe(&mut self) {
        self.owed = true;
    }
}

type Wanted = BTreeMap<(Scope, LsaKey), LsaBody>;

impl Ospf {
    fn own_key(&self, kind: u8, id: Ipv4Addr) -> LsaKey {
        LsaKey { kind, id, advertising_router: self.config.router_id }
    }

    /// Someone floods an LSA in our name that is newer than ours (RFC 2328 §13.4).
    pub(crate) fn claimed(&mut self, scope: Scope, key: LsaKey) {
        let own = self.own_entry(scope, key);
        own.owed = true;
        self.dirty = true;
    }

    fn own_entry(&mut self, scope: Scope, key: LsaKey) -> &mut Own {
        let hold = self.config.timing.lsa_first;
        self.own.entry((scope, key)).or_insert(Own { last: None, refresh: None, hold, at: None, owed: false })
    }

    /// What a process before us has originated is ours.
    pub(crate) fn own_lsas_again(&mut self) {
        let (now, router_id) = (self.now, self.config.router_id);
        let dbs = std::iter::once((None, &self.db)).chain(self.interfaces.iter().map(|(name, i)| (Some(name.clone()), &i.db)));
        let own = dbs.flat_map(|(scope, db)| db.iter().map(move |(key, entry)| (scope.clone(), *key, entry.age(now))));
        let own: Vec<_> = own.filter(|(_, key, _)| key.advertising_router == router_id).collect();
        for (scope, key, age) in own {
            let age = Duration::from_secs(age.into());
            let own = self.own_entry(scope, key);
            own.last = now.checked_sub(age);
            own.refresh = Some(now + REFRESH.saturating_sub(age));
        }
    }

    pub(crate) fn forget_own(&mut self, name: &Arc<str>) {
        self.own.retain(|(scope, _), _| scope.as_ref() != Some(name));
    }

    pub(crate) fn own_deadline(&self) -> Option<Time> {
        if self.is_restarting() {
            return None;
        }
        self.own.values().filter_map(|own| own.at).min()
    }

    pub(crate) fn own_timers(&mut self, now: Time) {
        if self.own_deadline().is_some_and(|at| at <= now) {
            self.dirty = true;
        }
    }

    /// Brings the database to what we want to announce.
    pub(crate) fn originate(&mut self) {
        if self.is_restarting() {
            return;
        }
        let wanted = self.wanted();
        let now = self.now;
        let slots: Vec<_> = wanted.keys().cloned().collect();
        for slot in slots {
            self.own_entry(slot.0, slot.1);
        }
        let unwanted: Vec<_> = self.own.keys().filter(|slot| !wanted.contains_key(*slot)).cloned().collect();
        for (slot, body) in wanted {
            self.want(slot, body);
        }
        for slot in unwanted {
            let alive = self.db(&slot.0).and_then(|db| db.get(&slot.1)).is_some_and(|e| !e.is_dead(now));
            if alive {
                self.flush(&slot.0, &slot.1);
            }
            // While it is dying its pace is remembered.
            if self.db(&slot.0).is_none_or(|db| db.get(&slot.1).is_none()) {
                self.own.remove(&slot);
            } else if let Some(own) = self.own.get_mut(&slot) {
                (own.at, own.owed) = (None, false);
            }
        }
    }

    fn want(&mut self, slot: (Scope, LsaKey), body: LsaBody) {
        let (now, timing) = (self.now, self.config.timing);
        let have = self.db(&slot.0).and_then(|db| db.get(&slot.1)).map(|e| (e.lsa.clone(), e.is_dead(now)));
        let settling = slot.1.kind == ROUTER && self.is_settling();
        let settled = self.started + SETTLE;
        let Some(own) = self.own.get_mut(&slot) else { return };
        let refresh = own.refresh;
        let same = have.as_ref().is_some_and(|(lsa, dead)| !dead && lsa.body == body);
        if same && refresh.is_some_and(|at| now < at) && !own.owed {
            own.at = refresh;
            return;
        }
        let earliest = match own.last {
            None if settling => settled,
            None => now,
            Some(last) => last + own.hold,
        };
        if now < earliest {
            own.at = Some(earliest);
            return;
        }
        own.at = None;
        let sequence = match have {
            None => INITIAL_SEQUENCE,
            Some((lsa, dead)) if lsa.header.sequence == MAX_SEQUENCE => {
                // RFC 2328 §12.1.6: the last one is flushed first; sweep() brings us back here.
                if !dead {
                    self.flush(&slot.0, &slot.1);
                }
                return;
            }
            Some((lsa, _)) => lsa.header.sequence + 1,
        };
        // The pause doubles while instances follow one another, and is short again after a while without.
        own.hold = match own.last {
            Some(last) if now < last + own.hold * 2 => (own.hold * 2).min(timing.lsa_last),
            _ => timing.lsa_first,
        };
        own.last = Some(now);
        own.refresh = Some(now + REFRESH);
        own.at = own.refresh;
        own.owed = false;
        let Some(lsa) = Lsa::new(slot.1, OPTION_E, sequence, body) else {
            self.log("OSPF: our router-LSA has more links than an LSA can hold".into());
            return;
        };
        let header = lsa.header;
        self.install(&slot.0, Arc::new(lsa), false);
        self.flood(&slot.0, &header, None);
    }

    /// An LSA that is not part of what the reconciler wants: goes out as it is.
    pub(crate) fn originate_once(&mut self, scope: Scope, key: LsaKey, body: LsaBody) {
        let now = self.now;
        let sequence = match self.db(&scope).and_then(|db| db.get(&key)) {
            Some(entry) => entry.lsa.header.sequence.saturating_add(1),
            None => INITIAL_SEQUENCE,
        };
        let Some(lsa) = Lsa::new(key, OPTION_E, sequence, body) else { return };
        self.own_entry(scope.clone(), key).last = Some(now);
        let header = lsa.header;
        self.install(&scope, Arc::new(lsa), false);
        self.flood(&scope, &header, None);
    }

    /// Just started, and the first adjacencies are about to be Full.
    fn is_settling(&self) -> bool {
        let neighbors = || self.interfaces.values().flat_map(|i| i.neighbors.values());
        let full = neighbors().any(|n| n.state == NeighborState::Full);
        let soon = neighbors().any(|n| (NeighborState::ExStart..NeighborState::Full).contains(&n.state));
        self.now < self.started + SETTLE && (!full || soon)
    }

    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::new();
        let router = RouterLsa { flags: 0, links: self.own_links().into_iter().map(|l| l.link).collect() };
        wanted.insert((None, self.own_key(ROUTER, self.config.router_id)), LsaBody::Router(router));
        for interface in self.interfaces.values().filter(|i| i.state == InterfaceState::Dr) {
            // RFC 2328 §12.4.2
            let adjacent: Vec<Ipv4Addr> = interface.neighbors.values().filter(|n| n.is_adjacent()).map(|n| n.router_id).collect();
            if !adjacent.is_empty() {
                let attached = std::iter::once(self.config.router_id).chain(adjacent).collect();
                let network = NetworkLsa { prefix_length: interface.config.address.prefix_len(), attached };
                wanted.insert((None, self.own_key(NETWORK, interface.address())), LsaBody::Network(network));
            }
        }
        wanted
    }

    /// RFC 6987 §2, RFC 5443 §2: transit links only; what is behind us stays reachable.
    pub(crate) fn transit_cost(&self, interface: &Interface) -> u16 {
        if self.config.stub_router || interface.max_cost { MAX_LINK_METRIC } else { interface.config.cost.max(1) }
    }

    /// The links of our router-LSA (RFC 2328 §12.4.1), and where each leads.
    pub(crate) fn own_links(&self) -> Vec<OwnLink> {
        let mut links = vec![];
        for (name, interface) in self.interfaces.iter().filter(|(_, i)| i.state != InterfaceState::Down) {
            let (cost, transit) = (interface.config.cost.max(1), self.transit_cost(interface));
            let own = interface.address();
            let net = interface.config.address;
            let link = |kind, id, data, metric| RouterLink { kind, id, data, metric };
            let mut push = |link, neighbor| links.push(OwnLink { link, interface: name.clone(), neighbor });
            let mut stub = true;
            if interface.is_broadcast() {
                let dr = interface.designated;
                let with_dr = interface.neighbors.get(&dr).is_some_and(|n| n.is_adjacent());
                let as_dr = interface.state == InterfaceState::Dr && interface.neighbors.values().any(|n| n.is_adjacent());
                if with_dr || as_dr {
                    push(link(LinkKind::Transit, dr, own, transit), None);
                    stub = false;
                }
            } else {
                for (address, neighbor) in interface.neighbors.iter().filter(|(_, n)| n.is_adjacent()) {
                    push(link(LinkKind::PointToPoint, neighbor.router_id, own, transit), Some(*address));
                }
            }
            if stub {
                push(link(LinkKind::Stub, net.network(), net.netmask(), cost), None);
            }
        }
        for host in &self.config.hosts {
            let link = RouterLink { kind: LinkKind::Stub, id: *host, data: Ipv4Addr::BROADCAST, metric: 0 };
            links.push(OwnLink { link, interface: Arc::from(""), neighbor: None });
        }
        links
    }
}
