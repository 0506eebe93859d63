use super::*;
use crate::{
    config::{AttachmentConfig, TunnelState},
    reflector::Reflector,
    rib::Received,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::Leg;
use edgeplex_types::{MacAddr, RouteTarget};

const RR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

fn prefix(n: u32) -> IpNet {
    IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + (n << 8)).into(), 24).unwrap()
}

fn state(mac: u8) -> TunnelState {
    let leg = Leg { transport: vec![], source_mac: MacAddr([2; 6]), destination_mac: MacAddr([2, 0, 0, 0, 0, mac]) };
    TunnelState { tunnel: Tunnel { id: tunnel_id(REMOTE), endpoint: REMOTE.into(), legs: vec![leg] }, cost: 1 }
}

/// A RIB with one attachment (slot 0) that has `count` routes over one tunnel in its VRF.
fn rib(count: u32, attributes: Attributes) -> Rib {
    let target: RouteTarget = "65000:1".parse().unwrap();
    let config = AttachmentConfig {
        id: "acme/d1".parse().unwrap(),
        rd: Rd([1; 8]),
        import: [target].into(),
        export: BTreeSet::new(),
        leaks: vec![],
        label: None,
        label_per_ce: false,
        max_paths: 1,
        max_routes: None,
    };
    let mut rib = Rib::new(65000, Ipv4Addr::new(10, 255, 0, 1));
    rib.reflectors.insert(RR, Reflector::new(1));
    let mut attachment = Attachment::new(std::time::Instant::now(), config, vec![]);
    attachment.label = Label::try_from(1000).ok();
    let attributes = Arc::new(Attributes { ext_communities: vec![target.0], ..attributes });
    for n in 0..count {
        let key = (Rd([7; 8]), prefix(n));
        let label = Label::try_from(2000).unwrap();
        rib.insert(key, Received { attributes: attributes.clone(), reflector: RR, path_id: 0, next_hop: REMOTE, label, session: 1 });
        attachment.vrf.insert((key.1, key.0));
    }
    rib.attachments.insert(0, attachment);
    rib.endpoints.set(REMOTE, Some(state(2)));
    rib
}

fn next(feed: &mut Feed, rib: &Rib, complete: bool) -> Option<Vec<VpnOp>> {
    match feed.next(rib, 0, complete, &mut 1000)? {
        Sync::Ops { ops, .. } => Some(ops),
        Sync::Begin { .. } | Sync::End { .. } => Some(vec![]),
    }
}

#[test]
fn nothing_but_the_beginning_is_said_without_credit_and_a_changed_leg_is_one_operation() {
    let mut rib = rib(200, Attributes::default());
    let mut feed = Feed::new(Epoch(7));
    assert_eq!(feed.next(&rib, 0, true, &mut 1000), Some(Sync::Begin { epoch: Epoch(7) }));
    assert_eq!(next(&mut feed, &rib, true), None);
    feed.grant(2);
    let ops = next(&mut feed, &rib, true).unwrap();
    assert_eq!(ops.len(), 202);
    assert!(matches!(ops[..2], [VpnOp::OwnLabel { .. }, VpnOp::Tunnel(_)]));
    assert_eq!(next(&mut feed, &rib, false), None);
    assert_eq!(feed.next(&rib, 0, true, &mut 1000), Some(Sync::End { epoch: Epoch(7) }));
    rib.endpoints.set(REMOTE, Some(state(3)));
    feed.tunnel_changed(REMOTE);
    assert_eq!(next(&mut feed, &rib, true), Some(vec![VpnOp::Tunnel(state(3).tunnel)]));
}

#[test]
fn a_look_that_finds_nothing_to_say_is_one_of_a_few() {
    let rib = rib(200, Attributes::default());
    let mut feed = Feed::new(Epoch(7));
    next(&mut feed, &rib, false);
    feed.grant(16);
    next(&mut feed, &rib, false);
    feed.all_changed();
    let mut looks = 150;
    assert_eq!(feed.next(&rib, 0, true, &mut looks), None);
    assert_eq!((looks, feed.is_busy()), (0, true));
    // Not at its end before everything has been looked at.
    assert_eq!(feed.next(&rib, 0, true, &mut 150), Some(Sync::End { epoch: Epoch(7) }));
    assert!(!feed.is_busy());
}

#[test]
fn messages_keep_their_limits_however_long_attributes_are() {
    let rib = rib(900, Attributes { communities: (0..900).collect(), ..Attributes::default() });
    let mut feed = Feed::new(Epoch(7));
    next(&mut feed, &rib, false);
    let mut told = 0;
    while told < 900 {
        feed.grant(1);
        let sync = feed.next(&rib, 0, false, &mut 1000).unwrap();
        let message = edgeplex_relay::ToPvm::Sync { incarnation: 1, sync };
        assert!(edgeplex_relay::encode(&message).unwrap().len() < 1 << 19);
        told = feed.told_routes();
    }
}

#[test]
fn a_prefix_that_goes_before_its_turn_is_not_spoken_of_and_one_that_was_told_is_withdrawn() {
    let mut rib = rib(3, Attributes::default());
    let mut feed = Feed::new(Epoch(7));
    next(&mut feed, &rib, false);
    let forget = |rib: &mut Rib, n: u32| {
        let attachment = rib.attachments.get_mut(&0).unwrap();
        attachment.vrf.remove(&(prefix(n), Rd([7; 8])));
    };
    forget(&mut rib, 2);
    feed.prefix_changed(prefix(2));
    feed.grant(16);
    assert_eq!(next(&mut feed, &rib, false).map(|ops| ops.len()), Some(4));
    feed.all_changed();
    forget(&mut rib, 1);
    feed.prefix_changed(prefix(1));
    assert_eq!(next(&mut feed, &rib, false), Some(vec![VpnOp::Withdraw { prefix: prefix(1) }]));
}
