//! What happens to path attributes at the edge of the VRF: from the CE, to the CE, and for routes of our own.

use crate::config::Neighbor;
use edgeplex_bgp_wire::{AsPath, Attributes, Origin};
use edgeplex_pvm_policy::Prepared;
use edgeplex_types::{Community, SiteOfOrigin};
use ipnet::IpNet;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

/// Connected and static routes as the CVM gets them (RFC 4271 §5.1.1: learnt by some other means).
pub(crate) fn redistributed() -> Arc<Attributes> {
    static SHARED: LazyLock<Arc<Attributes>> =
        LazyLock::new(|| Arc::new(Attributes { origin: Origin::Incomplete, as_path: AsPath::default(), ..Attributes::default() }));
    SHARED.clone()
}

/// Attributes of a CE's routes, without what belongs to the provider, with its site, before its policy.
pub(crate) fn from_customer(a: &Arc<Attributes>, neighbor: &Neighbor) -> Arc<Attributes> {
    let clean =
        a.local_pref.is_none() && a.originator_id.is_none() && a.cluster_list.is_empty() && !a.ext_communities.iter().any(|c| provider(*c));
    if clean && neighbor.site_of_origin.is_none() {
        return a.clone();
    }
    let mut out = Attributes::clone(a);
    // RFC 4271 §5.1.5, RFC 7606 §7.9, §7.10: from an external peer these have no meaning.
    out.local_pref = None;
    out.originator_id = None;
    out.cluster_list.clear();
    // RFC 4364 §7: a CE must not choose the VPNs its routes go to, nor the site they come from.
    out.ext_communities.retain(|c| !provider(*c));
    out.ext_communities.extend(neighbor.site_of_origin.map(SiteOfOrigin::to_extended_community));
    Arc::new(out)
}

/// Whether a route may leave the provider's AS at all.
fn may_be_told(a: &Attributes, neighbor: &Neighbor) -> bool {
    // RFC 1997: not to external peers.
    let secret = [Community::NO_EXPORT, Community::NO_ADVERTISE, Community::NO_EXPORT_SUBCONFED];
    // RFC 4364 §7: what came from a site is not told to it again.
    let home = neighbor.site_of_origin.is_some_and(|site| a.ext_communities.contains(&site.to_extended_community()));
    !home && !secret.iter().any(|c| a.communities.contains(&c.0))
}

/// Extended communities that belong to the provider: route targets and sites of origin (RFC 4360 §4, §5), everything
/// non-transitive (RFC 4360 §2: bit T), and those by which PEs carry OSPF across (RFC 4577 §4.2.6).
fn provider(c: [u8; 8]) -> bool {
    let ospf = matches!((c[0], c[1]), (0..=2, 5) | (1, 7) | (3, 6));
    c[0] & 0x40 != 0 || ospf || (c[0] <= 2 && matches!(c[1], 2 | 3))
}

/// Makes what one CE is told. Attributes that routes share are worked on once and stay shared; the memory of that lasts
/// as long as this does.
#[derive(Debug)]
pub(crate) struct Export<'a> {
    neighbor: &'a Neighbor,
    local_as: u32,
    /// By the address of the RIB's attributes, which live as long as their routes do.
    prepared: HashMap<*const Attributes, Option<Prepared<'a>>>,
    /// By the address of what the policy made, which lives in `prepared`.
    finished: HashMap<*const Attributes, Arc<Attributes>>,
}

impl<'a> Export<'a> {
    pub(crate) fn new(neighbor: &'a Neighbor, local_as: u32) -> Self {
        Self { neighbor, local_as, prepared: HashMap::new(), finished: HashMap::new() }
    }

    /// The default route told whether or not there is one; no policy is asked.
    pub(crate) fn originated(&self) -> Arc<Attributes> {
        Arc::new(Attributes { origin: Origin::Igp, as_path: AsPath::sequence([self.local_as]), ..Attributes::default() })
    }

    /// A route of the RIB; `None` if it is not for this CE. `attributes` must outlive this value.
    pub(crate) fn route(&mut self, prefix: IpNet, attributes: &'a Arc<Attributes>) -> Option<Arc<Attributes>> {
        let (neighbor, local_as) = (self.neighbor, self.local_as);
        let prepared = self.prepared.entry(Arc::as_ptr(attributes)).or_insert_with(|| {
            may_be_told(attributes, neighbor).then(|| neighbor.export.prepare(&Arc::new(outside(attributes)), local_as))
        });
        let accepted = prepared.as_mut()?.decide(prefix)?;
        Some(self.finished.entry(Arc::as_ptr(&accepted)).or_insert_with(|| Arc::new(finish(&accepted, local_as))).clone())
    }
}

/// Without what stays inside the provider's AS.
fn outside(a: &Attributes) -> Attributes {
    let mut out = a.clone();
    // RFC 4271 §5.1.4: a MED received from elsewhere is not passed to another AS.
    out.med = None;
    // RFC 4271 §5.1.5; RFC 4456 §8.
    out.local_pref = None;
    out.originator_id = None;
    out.cluster_list.clear();
    out.ext_communities.retain(|c| !provider(*c));
    out
}

/// As the session gets it; AS numbers are overridden or taken out there, if the operator wants that.
fn finish(a: &Attributes, local_as: u32) -> Attributes {
    let mut out = a.clone();
    // A local preference that the policy set has no meaning beyond our AS (RFC 4271 §5.1.5).
    out.local_pref = None;
    // RFC 4271 §5.1.2 b. With it in front, the session lets pass a MED that the policy set.
    out.as_path.prepend(local_as);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const RT: [u8; 8] = [0, 2, 0xfd, 0xe8, 0, 0, 0, 100];
    const SITE: [u8; 8] = [0, 3, 0xfd, 0xe8, 0, 0, 0, 1];
    const COLOR: [u8; 8] = [3, 0x0b, 0, 0, 0, 0, 0, 7];
    const LINK: [u8; 8] = [0x40, 4, 0xfd, 0xe8, 0, 0, 0, 0];

    fn neighbor() -> Neighbor {
        Neighbor::new([192, 168, 1, 2], 65101)
    }

    fn to_customer(a: &Attributes, neighbor: &Neighbor) -> Option<Attributes> {
        let a = Arc::new(a.clone());
        Export::new(neighbor, 65000).route("10.0.0.0/8".parse().unwrap(), &a).map(Arc::unwrap_or_clone)
    }

    fn everything() -> Attributes {
        Attributes {
            as_path: AsPath::sequence([65102, 7]),
            med: Some(5),
            local_pref: Some(200),
            communities: vec![1],
            originator_id: Some(Ipv4Addr::LOCALHOST),
            cluster_list: vec![Ipv4Addr::LOCALHOST],
            ext_communities: vec![RT, COLOR, SITE, LINK],
            ..Attributes::default()
        }
    }

    #[test]
    fn the_ce_gets_the_providers_as_in_front_and_nothing_internal() {
        let want = Attributes {
            as_path: AsPath::sequence([65000, 65102, 7]),
            communities: vec![1],
            ext_communities: vec![COLOR],
            ..Attributes::default()
        };
        assert_eq!(to_customer(&everything(), &neighbor()), Some(want));
    }

    #[test]
    fn a_ce_cannot_choose_route_targets_site_or_preference() {
        let got = from_customer(&Arc::new(everything()), &neighbor());
        assert_eq!(got.route_targets().count(), 0);
        assert_eq!((got.local_pref, got.originator_id, got.cluster_list.len()), (None, None, 0));
        assert_eq!((got.med, got.communities.clone(), got.ext_communities.clone()), (Some(5), vec![1], vec![COLOR]));
        let plain = Arc::new(Attributes { as_path: AsPath::sequence([1]), ..Attributes::default() });
        assert!(Arc::ptr_eq(&plain, &from_customer(&plain, &neighbor())));
    }

    #[test]
    fn a_site_is_marked_on_the_way_in_and_hears_nothing_of_itself() {
        let site = Neighbor { site_of_origin: Some("65000:1".parse().unwrap()), ..neighbor() };
        let other = Neighbor { site_of_origin: Some("65000:2".parse().unwrap()), ..neighbor() };
        let marked = from_customer(&Arc::new(everything()), &site);
        assert_eq!(marked.ext_communities, [COLOR, SITE]);
        assert_eq!(to_customer(&marked, &site), None);
        assert_eq!(to_customer(&marked, &other).unwrap().ext_communities, [COLOR]);
        assert_eq!(to_customer(&marked, &neighbor()).unwrap().ext_communities, [COLOR]);
    }

    #[test]
    fn what_is_not_to_be_exported_is_not() {
        for c in [Community::NO_EXPORT, Community::NO_ADVERTISE, Community::NO_EXPORT_SUBCONFED] {
            assert_eq!(to_customer(&Attributes { communities: vec![7, c.0], ..everything() }, &neighbor()), None);
        }
    }
}
