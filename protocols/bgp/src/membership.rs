//! What a peer wants to hear of (RFC 4684 §6): a filter on the VPN routes of its adj-RIB-out.

use edgeplex_bgp_wire::{Attributes, RtMembership};
use edgeplex_types::RouteTarget;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Memberships {
    /// With the path identifiers under which they came.
    wanted: BTreeSet<(RtMembership, u32)>,
    /// Those that name one target, and how many do.
    targets: BTreeMap<RouteTarget, usize>,
    /// Those that are prefixes: few.
    prefixes: BTreeSet<(RtMembership, u32)>,
}

impl Memberships {
    /// True if this changed anything.
    pub(crate) fn set(&mut self, membership: RtMembership, path_id: u32, wanted: bool) -> bool {
        let entry = (membership, path_id);
        let changed = if wanted { self.wanted.insert(entry) } else { self.wanted.remove(&entry) };
        match membership.target() {
            _ if !changed => {}
            Some(target) if wanted => *self.targets.entry(target).or_default() += 1,
            Some(target) => {
                if let Some(count) = self.targets.get_mut(&target) {
                    *count -= 1;
                }
                if self.targets.get(&target) == Some(&0) {
                    self.targets.remove(&target);
                }
            }
            None if wanted => drop(self.prefixes.insert(entry)),
            None => drop(self.prefixes.remove(&entry)),
        }
        changed
    }

    /// Whether some route target of the route is wanted.
    pub(crate) fn want(&self, attributes: &Attributes) -> bool {
        let everything = self.prefixes.first().is_some_and(|(m, _)| *m == RtMembership::DEFAULT);
        let wanted = |target| self.targets.contains_key(&target) || self.prefixes.iter().any(|(m, _)| m.wants(target));
        everything || attributes.route_targets().any(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_wanted_as_long_as_somebody_wants_it() {
        let target: RouteTarget = "65000:7".parse().unwrap();
        let route = Attributes { ext_communities: vec![target.0], ..Attributes::default() };
        let (a, b) = (RtMembership::new(65000, target), RtMembership::new(65001, target));
        let mut m = Memberships::default();
        assert!(!m.want(&route));
        assert!(m.set(a, 0, true) && m.set(b, 0, true) && !m.set(b, 0, true));
        m.set(a, 0, false);
        assert!(m.want(&route));
        m.set(b, 0, false);
        assert!(!m.want(&route) && !m.set(b, 0, false));
        m.set(RtMembership::DEFAULT, 3, true);
        assert!(m.want(&route) && m.want(&Attributes::default()));
        m.set(RtMembership::DEFAULT, 3, false);
        assert!(!m.want(&route));
    }
}
