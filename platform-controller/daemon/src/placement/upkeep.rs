//! What a unit that is not moving should have beside its active instance: a standby, or none. Pure.

use super::{Instance, Placement, State};
use edgeplex_intent::OWN_HOST;
use edgeplex_types::VlanId;
use std::collections::{BTreeMap, BTreeSet};

/// What is wanted of a unit's protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish<'a> {
    pub standby: bool,
    /// Hosts that take VMs of this kind, the own one first. Drained and lost ones are not among them.
    pub hosts: &'a [String],
    /// vNICs of one of its VMs.
    pub nics: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    Keep,
    /// The standby is not wanted, or not as it is.
    Drop,
    /// One is to be made there.
    Make {
        host: String,
        tags: Vec<VlanId>,
    },
}

/// Tags that vNICs of all units have, by host.
pub fn tags_in_use(state: &State) -> BTreeMap<String, BTreeSet<VlanId>> {
    let mut out: BTreeMap<String, BTreeSet<VlanId>> = BTreeMap::new();
    for instance in state.units.values().flat_map(|p| p.instances()) {
        out.entry(instance.host.clone()).or_default().extend(&instance.tags);
    }
    out
}

/// The lowest tags that nothing uses on the link to `host`; none where there is no such link, `None` where they have run out.
pub fn free_tags(used: &BTreeMap<String, BTreeSet<VlanId>>, host: &str, count: usize) -> Option<Vec<VlanId>> {
    if host == OWN_HOST {
        return Some(vec![]);
    }
    let taken = used.get(host);
    let free = (1..=4094u16).filter_map(|n| VlanId::try_from(n).ok()).filter(|t| !taken.is_some_and(|u| u.contains(t)));
    let tags: Vec<VlanId> = free.take(count).collect();
    (tags.len() == count).then_some(tags)
}

/// A host other than the active one's where there is one; of those, the one with the fewest vNICs.
fn best_host<'a>(active: &Instance, hosts: &'a [String], used: &BTreeMap<String, BTreeSet<VlanId>>) -> Option<&'a String> {
    let load = |h: &&String| (**h == active.host, used.get(h.as_str()).map_or(0, BTreeSet::len));
    hosts.iter().min_by_key(load)
}

pub fn upkeep(p: &Placement, wish: Wish<'_>, used: &BTreeMap<String, BTreeSet<VlanId>>) -> Upkeep {
    if p.unfinished.is_some() {
        return Upkeep::Keep;
    }
    let better = |s: &Instance| s.host == p.active.host && wish.hosts.iter().any(|h| *h != p.active.host);
    match &p.standby {
        Some(s) if !wish.standby || !wish.hosts.contains(&s.host) || s.image != p.active.image || better(s) => Upkeep::Drop,
        None if wish.standby => match best_host(&p.active, wish.hosts, used) {
            Some(host) => free_tags(used, host, wish.nics).map_or(Upkeep::Keep, |tags| Upkeep::Make { host: host.clone(), tags }),
            None => Upkeep::Keep,
        },
        _ => Upkeep::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Unit;
    use std::sync::Arc;

    #[test]
    fn a_standby_is_elsewhere_where_it_can_be_and_never_of_other_software() {
        let mut p = Placement::first(None);
        let used = BTreeMap::new();
        let hosts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (one, two) = (hosts(&["local"]), hosts(&["local", "west"]));
        let wish = |hosts| Wish { standby: true, hosts, nics: 2 };
        assert_eq!(upkeep(&p, wish(&one), &used), Upkeep::Make { host: "local".into(), tags: vec![] });
        let tags: Vec<VlanId> = [1, 2].map(|t| VlanId::try_from(t).unwrap()).into();
        assert_eq!(upkeep(&p, wish(&two), &used), Upkeep::Make { host: "west".into(), tags: tags.clone() });
        assert_eq!(upkeep(&p, Wish { standby: false, ..wish(&two) }, &used), Upkeep::Keep);
        p.standby = Some(p.newcomer("west", None, tags));
        assert_eq!(upkeep(&p, wish(&two), &used), Upkeep::Keep);
        assert_eq!(upkeep(&p, wish(&one), &used), Upkeep::Drop, "its host is gone");
        assert_eq!(upkeep(&p, Wish { standby: false, ..wish(&two) }, &used), Upkeep::Drop);
        p.active.image = Some("new".into());
        assert_eq!(upkeep(&p, wish(&two), &used), Upkeep::Drop);
        p.active.image = None;
        p.standby = Some(p.newcomer("local", None, vec![]));
        assert_eq!(upkeep(&p, wish(&two), &used), Upkeep::Drop, "there is a better place");
    }

    #[test]
    fn no_tag_is_given_twice() {
        let mut p = Placement::first(None);
        p.standby = Some(p.newcomer("west", None, free_tags(&BTreeMap::new(), "west", 2).unwrap()));
        let state = State { units: BTreeMap::from([(Unit::Cvm, Arc::new(p))]), ..State::default() };
        let used = tags_in_use(&state);
        let next: Vec<u16> = free_tags(&used, "west", 2).unwrap().into_iter().map(u16::from).collect();
        assert_eq!(next, [3, 4]);
        assert_eq!(free_tags(&used, "east", 1).unwrap().len(), 1);
        assert_eq!(free_tags(&used, "west", 4093), None);
    }
}
