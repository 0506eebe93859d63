//! What happens to path attributes at the edge of the VRF: from the CE, to the CE, and for routes of our own.

use edgeplex_bgp_wire::{AsPath, Attributes, Origin};
use std::sync::{Arc, LazyLock};

/// Connected and static routes as the CVM gets them (RFC 4271 §5.1.1: learnt by some other means).
pub(crate) fn redistributed() -> Arc<Attributes> {
    static SHARED: LazyLock<Arc<Attributes>> =
        LazyLock::new(|| Arc::new(Attributes { origin: Origin::Incomplete, as_path: AsPath::default(), ..Attributes::default() }));
    SHARED.clone()
}

/// A route of the CE as it is kept and exported.
pub(crate) fn from_customer(a: &Arc<Attributes>) -> Arc<Attributes> {
    let clean =
        a.local_pref.is_none() && a.originator_id.is_none() && a.cluster_list.is_empty() && !a.ext_communities.iter().any(|c| provider(*c));
    if clean {
        return a.clone();
    }
    let mut out = Attributes::clone(a);
    // RFC 4271 §5.1.5, RFC 7606 §7.9, §7.10: from an external peer these have no meaning.
    out.local_pref = None;
    out.originator_id = None;
    out.cluster_list.clear();
    // RFC 4364 §7: a CE must not choose the VPNs its routes go to.
    out.ext_communities.retain(|c| !provider(*c));
    Arc::new(out)
}

/// A VPN route as the CE gets it over eBGP.
pub(crate) fn to_customer(a: &Attributes, local_as: u32) -> Attributes {
    let mut out = a.clone();
    // RFC 4271 §5.1.2 b
    out.as_path.prepend(local_as);
    // RFC 4271 §5.1.4: a MED received from elsewhere is not passed to another AS.
    out.med = None;
    // RFC 4271 §5.1.5; RFC 4456 §8: nothing of the provider's inside leaves it.
    out.local_pref = None;
    out.originator_id = None;
    out.cluster_list.clear();
    out.ext_communities.retain(|c| !provider(*c));
    out
}

/// Extended communities that belong to the provider: route targets and sites of origin (RFC 4360 §4, §5), everything
/// non-transitive (RFC 4360 §2: bit T), and those by which PEs carry OSPF across (RFC 4577 §4.2.6).
fn provider(c: [u8; 8]) -> bool {
    let ospf = matches!((c[0], c[1]), (0..=2, 5) | (1, 7) | (3, 6));
    c[0] & 0x40 != 0 || ospf || (c[0] <= 2 && matches!(c[1], 2 | 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const RT: [u8; 8] = [0, 2, 0xfd, 0xe8, 0, 0, 0, 100];
    const SITE: [u8; 8] = [0, 3, 0xfd, 0xe8, 0, 0, 0, 1];
    const COLOR: [u8; 8] = [3, 0x0b, 0, 0, 0, 0, 0, 7];
    const LINK: [u8; 8] = [0x40, 4, 0xfd, 0xe8, 0, 0, 0, 0];

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
        assert_eq!(to_customer(&everything(), 65000), want);
    }

    #[test]
    fn a_ce_cannot_choose_route_targets_or_preference() {
        let got = from_customer(&Arc::new(everything()));
        assert_eq!(got.route_targets().count(), 0);
        assert_eq!((got.local_pref, got.originator_id, got.cluster_list.len()), (None, None, 0));
        assert_eq!((got.med, got.communities.clone(), got.ext_communities.clone()), (Some(5), vec![1], vec![COLOR]));
        let plain = Arc::new(Attributes { as_path: AsPath::sequence([1]), ..Attributes::default() });
        assert!(Arc::ptr_eq(&plain, &from_customer(&plain)));
    }
}
