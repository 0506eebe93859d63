//! From the database to routes (RFC 2328 §16).
//!
//! ```text
//!   Schedule ─► Topology: living router- and network-LSAs ─► tree: distances and next hops of all vertices
//!                 └► distances of each neighbour ─► alternates        └► table: intra-area, inter-area, external routes
//! ```

mod alternates;
mod table;
mod tree;

use crate::engine::Ospf;
use crate::{Action, Time, Timing};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tree::Topology;

/// When routes are computed: at once after a quiet time, then less and less often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Schedule {
    at: Option<Time>,
    last: Option<Time>,
    hold: Duration,
}

impl Schedule {
    pub(crate) fn request(&mut self, now: Time, timing: &Timing) {
        if self.at.is_some() {
            return;
        }
        let soon = now + timing.spf_first;
        self.at = match self.last {
            Some(last) if now < last + self.hold * 2 => {
                let at = soon.max(last + self.hold);
                self.hold = (self.hold * 2).min(timing.spf_last);
                Some(at)
            }
            _ => {
                self.hold = timing.spf_first * 4;
                Some(soon)
            }
        };
    }

    pub(crate) fn at_once(&mut self, now: Time) {
        self.at = Some(now);
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.at
    }

    fn is_due(&mut self, now: Time) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        self.at = None;
        self.last = Some(now);
        true
    }
}

impl Ospf {
    pub(crate) fn compute_routes(&mut self) {
        // RFC 3623 §2: what is forwarded stays as it was until we are back.
        if self.is_restarting() || !self.spf.is_due(self.now) {
            return;
        }
        let links = self.own_links();
        let topology = Topology::new(&self.db, self.now, self.config.router_id, &links);
        let own = self.own_prefixes();
        let table = table::compute(&self.db, self.now, &topology, &links, &own, self.config.area);
        let mut routes = table.routes();
        if self.config.loop_free_alternates {
            alternates::add(&mut routes, &table, &topology, &links);
        }
        if routes != self.routes {
            self.routes = routes;
            self.out.push(Action::RoutesChanged);
        }
    }

    /// Subnets of our interfaces that are up, and our hosts: with nothing before them, whatever a way around would cost.
    fn own_prefixes(&self) -> BTreeMap<Ipv4Net, (u32, Option<Arc<str>>)> {
        let up = self.interfaces.iter().filter(|(_, i)| i.state != crate::fsm::InterfaceState::Down);
        let subnets = up.map(|(name, i)| (i.config.address.trunc(), (i.config.cost.into(), Some(name.clone()))));
        subnets.chain(self.config.hosts.iter().map(|host| (Ipv4Net::from(*host), (0, None)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_run_is_at_once_and_a_storm_of_changes_is_not_followed() {
        let (timing, ms) = (Timing::default(), Duration::from_millis);
        let mut schedule = Schedule::default();
        schedule.request(ms(1000), &timing);
        assert_eq!(schedule.deadline(), Some(ms(1002)));
        let (mut now, mut runs) = (ms(1000), 0);
        while now < ms(11_000) {
            runs += u32::from(schedule.is_due(now));
            schedule.request(now, &timing);
            now += ms(1);
        }
        assert!((15..25).contains(&runs), "{runs} in ten seconds");
        // Quiet for two pauses: at once again.
        schedule.is_due(now + ms(1000));
        schedule.request(now + ms(4000), &timing);
        assert_eq!(schedule.deadline(), Some(now + ms(4002)));
    }
}
