//! When a core that is being learnt again after a restart is known: the neighbours are back, their labels too, and nothing
//! new has come for a while; or there was time enough.

use super::Timing;
use edgeplex_mgmt::config::CvmConfig;
use edgeplex_types::NextHop;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

#[derive(Debug)]
pub(crate) struct Settling {
    timing: Timing,
    started: Instant,
    last_news: Instant,
    /// Interfaces where OSPF looks for neighbours, and where LDP does.
    ospf: BTreeSet<Arc<str>>,
    ldp: BTreeSet<Arc<str>>,
    up: BTreeMap<Arc<str>, bool>,
    adjacent: BTreeSet<NextHop>,
    synced: BTreeSet<Arc<str>>,
}

impl Settling {
    pub(crate) fn new(now: Instant, timing: Timing) -> Self {
        Self {
            timing,
            started: now,
            last_news: now,
            ospf: BTreeSet::new(),
            ldp: BTreeSet::new(),
            up: BTreeMap::new(),
            adjacent: BTreeSet::new(),
            synced: BTreeSet::new(),
        }
    }

    pub(crate) fn configure(&mut self, config: &CvmConfig) {
        let names = |wanted: fn(&edgeplex_mgmt::config::CoreInterface) -> bool| {
            config.core.iter().filter(move |i| wanted(i)).map(|i| Arc::from(&i.name[..]))
        };
        self.ospf = names(|i| i.ospf.as_ref().is_some_and(|o| !o.passive)).filter(|_| config.ospf.is_some()).collect();
        self.ldp = names(|i| i.ldp).filter(|_| config.ldp.is_some()).collect();
    }

    /// Routes or labels have changed.
    pub(crate) fn news(&mut self, now: Instant) {
        self.last_news = now;
    }

    pub(crate) fn link(&mut self, now: Instant, interface: Arc<str>, up: bool) {
        self.news(now);
        self.up.insert(interface, up);
    }

    pub(crate) fn adjacency(&mut self, now: Instant, hop: NextHop, full: bool) {
        self.news(now);
        if full {
            self.adjacent.insert(hop)
        } else {
            self.adjacent.remove(&hop)
        };
    }

    pub(crate) fn synced(&mut self, now: Instant, interface: Arc<str>, synced: bool) {
        self.news(now);
        if synced {
            self.synced.insert(interface)
        } else {
            self.synced.remove(&interface)
        };
    }

    pub(crate) fn adjacent(&self) -> impl Iterator<Item = &NextHop> {
        self.adjacent.iter()
    }

    /// LDP has all labels of the neighbours there.
    pub(crate) fn is_synced(&self, interface: &str) -> bool {
        self.synced.contains(interface)
    }

    /// `resolved`: all neighbours that are wanted have a MAC address. One that does not answer holds up as long as the first
    /// word to the switch does.
    pub(crate) fn is_settled(&self, now: Instant, resolved: bool) -> bool {
        // Without a carrier there is nobody to wait for.
        let up = |name: &&Arc<str>| self.up.get(*name).copied().unwrap_or(true);
        let routed = self.ospf.iter().filter(up).all(|name| self.adjacent.iter().any(|hop| hop.interface == *name));
        let labelled = self.ldp.iter().filter(up).all(|name| self.synced.contains(name));
        let quiet = (self.ospf.is_empty() && self.ldp.is_empty()) || now >= self.last_news + self.timing.settle_quiet;
        let resolved = resolved || now >= self.started + self.timing.fabric_wait;
        now >= self.started + self.timing.settle_limit || (routed && labelled && quiet && resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn everybody_is_waited_for_but_not_for_ever() {
        let start = Instant::now();
        let timing = Timing::default();
        let mut settling = Settling::new(start, timing);
        settling.ospf = ["core0".into(), "core1".into()].into();
        settling.ldp = ["core0".into()].into();
        let at = |s: f32| start + Duration::from_secs_f32(s);
        let hop = |interface: &str| NextHop { interface: interface.into(), address: [10, 0, 0, 2].into() };
        assert!(!settling.is_settled(at(20.0), true));
        settling.adjacency(at(20.0), hop("core0"), true);
        settling.synced(at(20.0), "core0".into(), true);
        assert!(!settling.is_settled(at(25.0), true));
        // Nobody is there without a carrier.
        settling.link(at(25.0), "core1".into(), false);
        assert!(!settling.is_settled(at(25.0), true));
        assert!(settling.is_settled(at(25.0) + timing.settle_quiet, true));
        settling.link(at(26.0), "core1".into(), true);
        settling.adjacency(at(26.5), hop("core1"), true);
        assert!(!settling.is_settled(at(26.6), true));
        settling.synced(at(27.0), "core0".into(), false);
        assert!(!settling.is_settled(at(29.9), true));
        assert!(settling.is_settled(start + timing.settle_limit, false));
    }

    #[test]
    fn a_core_of_static_routes_waits_for_its_neighbors_only() {
        let start = Instant::now();
        let settling = Settling::new(start, Timing::default());
        assert!(settling.is_settled(start, true));
        assert!(!settling.is_settled(start, false));
        assert!(settling.is_settled(start + Timing::default().fabric_wait, false));
    }
}
