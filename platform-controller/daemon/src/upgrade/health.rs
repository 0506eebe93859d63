//! Whether a unit is as well after a move as it was before.

use crate::{
    placement::Unit,
    show::Viewer,
    vmlink::{self, PATIENCE},
};
use edgeplex_mgmt::show::{BgpNeighbor, CvmQuery, LdpNeighborRow, OspfNeighborRow, PvmQuery, Route};
use std::collections::{BTreeMap, BTreeSet};

/// Packets a second that may be dropped more than before: what strangers send is not the software's fault.
const DROPS: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    /// Seconds; `None`: it is down.
    up: Option<u64>,
    resets: u64,
    /// Messages in which something was wrong.
    faults: u64,
}

/// One reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Health {
    sessions: BTreeMap<String, Session>,
    /// Best routes, as prefix and next hop.
    routes: BTreeSet<String>,
    /// Packets dropped since the unit came into being.
    drops: u64,
}

impl Health {
    pub(super) async fn of(viewer: &Viewer, unit: &Unit) -> anyhow::Result<Self> {
        let at = viewer.speaker(unit)?;
        let mut out = Self::default();
        let bgp: Vec<BgpNeighbor> = match unit {
            Unit::Cvm => vmlink::ask(&at, &CvmQuery::Bgp, PATIENCE).await?,
            Unit::Pvm(_) => vmlink::ask(&at, &PvmQuery::Bgp, PATIENCE).await?,
        };
        for n in bgp {
            let faults = n.treated_as_withdraw + n.attributes_discarded;
            out.sessions.insert(format!("BGP {}", n.address), Session { up: n.established_s, resets: n.resets, faults });
        }
        if *unit == Unit::Cvm {
            // Empty where there is no OSPF or LDP.
            let ospf: Vec<OspfNeighborRow> = vmlink::ask(&at, &CvmQuery::OspfNeighbors, PATIENCE).await.unwrap_or_default();
            out.sessions
                .extend(ospf.into_iter().map(|n| (format!("OSPF {}", n.router_id), Session { up: n.full_s, resets: n.resets, faults: 0 })));
            let ldp: Vec<LdpNeighborRow> = vmlink::ask(&at, &CvmQuery::LdpNeighbors, PATIENCE).await.unwrap_or_default();
            out.sessions
                .extend(ldp.into_iter().map(|n| (format!("LDP {}", n.lsr_id), Session { up: n.up_s, resets: n.resets, faults: 0 })));
            return Ok(out);
        }
        let routes: Vec<Route> = vmlink::ask(&at, &PvmQuery::Routes, PATIENCE).await?;
        let best = routes.into_iter().filter(|r| r.best);
        out.routes = best.map(|r| format!("{} via {}", r.prefix, r.next_hop.map(|h| h.to_string()).unwrap_or_default())).collect();
        out.drops = viewer.meter.total(unit).await?.drops.iter().map(|(_, n)| n).sum();
        Ok(out)
    }

    /// What is worse than `before`, if anything, `seconds` after the move; `rate` is how many packets a second were dropped before.
    pub(super) fn worse_than(&self, before: &Self, seconds: u64, rate: u64) -> Option<String> {
        for (name, was) in before.sessions.iter().filter(|(_, s)| s.up.is_some()) {
            let Some(is) = self.sessions.get(name) else { return Some(format!("the session {name} is not there any more")) };
            match is.up {
                None => return Some(format!("the session {name} is down")),
                // A successor counts from when it began to follow, which was before it took over.
                Some(up) if Some(up) < was.up && up + 1 < seconds => return Some(format!("the session {name} was reset")),
                Some(_) if is.resets > was.resets => return Some(format!("the session {name} was reset")),
                Some(_) if is.faults > was.faults => return Some(format!("the session {name} had faulty messages")),
                Some(_) => {}
            }
        }
        let lost = before.routes.difference(&self.routes).count();
        // Routes come and go by themselves too: one in a hundred.
        if lost > before.routes.len() / 100 {
            return Some(format!("{lost} of {} routes are gone", before.routes.len()));
        }
        let dropped = self.drops.saturating_sub(before.drops);
        (dropped > (2 * rate + DROPS) * seconds.max(1)).then(|| format!("{dropped} packets were dropped within {seconds} s"))
    }

    /// Packets dropped since an earlier reading.
    pub(super) fn drops_since(&self, earlier: &Self) -> u64 {
        self.drops.saturating_sub(earlier.drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(up: Option<u64>, routes: usize, drops: u64) -> Health {
        Health {
            sessions: BTreeMap::from([("BGP a".into(), Session { up, resets: 1, faults: 0 })]),
            routes: (0..routes).map(|n| n.to_string()).collect(),
            drops,
        }
    }

    #[test]
    fn what_got_worse_is_named() {
        let before = health(Some(100), 3, 5);
        let says = |after: Health| after.worse_than(&before, 10, 1).unwrap_or_default();
        assert_eq!(says(health(Some(110), 3, 30)), "");
        assert_eq!(says(health(None, 3, 5)), "the session BGP a is down");
        assert_eq!(says(health(Some(7), 3, 5)), "the session BGP a was reset");
        assert_eq!(says(health(Some(9), 3, 5)), "", "it counts from when the successor began to follow");
        assert_eq!(says(health(Some(110), 2, 5)), "1 of 3 routes are gone");
        assert_eq!(says(health(Some(110), 3, 500)), "495 packets were dropped within 10 s");
        let mut faulty = health(Some(110), 3, 5);
        faulty.sessions.get_mut("BGP a").unwrap().faults = 1;
        assert!(says(faulty).contains("faulty"));
        assert_eq!(says(Health::default()), "the session BGP a is not there any more");
        assert_eq!(health(None, 0, 0).worse_than(&health(None, 0, 0), 1, 0), None, "what was down may stay down");
        assert_eq!(health(Some(1), 995, 0).worse_than(&health(Some(1), 1000, 0), 1, 0), None, "five of a thousand");
    }
}
