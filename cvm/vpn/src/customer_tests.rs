use super::*;
use edgeplex_bgp_wire::{AsPath, UnknownAttribute};
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn hostile() -> Attributes {
    Attributes {
        as_path: AsPath::sequence([65101]),
        med: Some(7),
        local_pref: Some(4_000_000_000),
        originator_id: Some(Ipv4Addr::new(10, 255, 0, 9)),
        cluster_list: vec![Ipv4Addr::new(1, 1, 1, 1)],
        communities: vec![0xfde8_0001],
        ext_communities: vec![
            [0, 2, 0xfd, 0xe8, 0, 0, 0, 200],
            [1, 2, 10, 255, 0, 1, 0, 1],
            [2, 2, 0, 1, 0, 0, 0, 1],
            [0x40, 2, 0xfd, 0xe8, 0, 0, 0, 200],
            [0, 3, 0xfd, 0xe8, 0, 0, 0, 5],
            [0x43, 1, 0, 0, 0, 0, 0, 0],
        ],
        unknown: vec![UnknownAttribute { code: 25, value: vec![0; 20] }, UnknownAttribute { code: 99, value: vec![1] }],
        ..Attributes::default()
    }
}

#[test]
fn a_customer_cannot_name_a_vpn_or_play_the_provider() {
    let a = sanitize(65000, &hostile().to_bytes()).unwrap();
    assert_eq!(a.route_targets().count(), 0);
    assert_eq!(a.ext_communities, vec![[0, 3, 0xfd, 0xe8, 0, 0, 0, 5]]);
    assert_eq!((a.originator_id, a.cluster_list.len()), (None, 0));
    assert_eq!((a.med, &a.communities[..]), (Some(7), &[0xfde8_0001][..]));
    assert_eq!(a.unknown.iter().map(|u| u.code).collect::<Vec<_>>(), vec![99]);
    let ours: BTreeSet<RouteTarget> = ["65000:100".parse().unwrap()].into();
    assert_eq!(export(&a, &ours).unwrap().route_targets().collect::<BTreeSet<_>>(), ours);
}

#[test]
fn the_preference_of_the_policy_at_the_pvm_is_kept() {
    assert_eq!(sanitize(65000, &hostile().to_bytes()).unwrap().local_pref, Some(4_000_000_000));
    let plain = Attributes { local_pref: None, ..hostile() };
    assert_eq!(sanitize(65000, &plain.to_bytes()).unwrap().local_pref, Some(100));
}

#[test]
fn loops_and_what_does_not_fit_are_refused() {
    let a = Attributes { as_path: AsPath::sequence(vec![65000; 11]), ..hostile() };
    assert_eq!(sanitize(65000, &a.to_bytes()), Err(ExportError::Loop(65000)));
    // What a PVM lets through by allowas-in has to get through here.
    let a = Attributes { as_path: AsPath::sequence([65101, 65000]), ..hostile() };
    assert!(sanitize(65000, &a.to_bytes()).is_ok());
    let targets = (0..600).map(|n| format!("65000:{n}").parse().unwrap()).collect();
    assert!(matches!(export(&hostile(), &targets), Err(ExportError::TooLong(_))));
}

proptest! {
    #[test]
    fn garbage_never_panics_and_never_carries_a_route_target(bytes: Vec<u8>) {
        if let Ok(a) = sanitize(65000, &bytes) {
            prop_assert_eq!(a.route_targets().count(), 0);
        }
    }

    #[test]
    fn no_extended_community_smuggles_a_route_target(communities: Vec<[u8; 8]>) {
        let a = Attributes { ext_communities: communities, ..Attributes::default() };
        if let Ok(a) = sanitize(65000, &a.to_bytes()) {
            prop_assert!(a.ext_communities.iter().all(|c| RouteTarget::from_extended_community(*c).is_none() && c[0] & 0x40 == 0));
        }
    }
}
