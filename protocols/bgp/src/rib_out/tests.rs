//! A neighbour that reads what the adj-RIB-out sends has what is desired for it.

use super::table::SLACK;
use super::*;
use edgeplex_bgp_wire::{AsPath, Context, HEADER_LEN, MessageType, NlriKey, Refresh, RouteRefresh, frame_within, update};
use edgeplex_types::{Label, RouteTarget};
use std::collections::BTreeMap;

fn context() -> SendContext {
    SendContext { enhanced_refresh: true, ..SendContext::new(65000, 65000) }
}

const F: Family = Family::Ipv4Unicast;

fn nlri(n: u32) -> Nlri {
    Nlri::Unicast(ipnet::Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap().into())
}

fn attributes(med: u32) -> Arc<Attributes> {
    Arc::new(Attributes { med: Some(med), as_path: AsPath::sequence([1]), ..Attributes::default() })
}

fn target(n: u32) -> RouteTarget {
    format!("65000:{n}").parse().unwrap()
}

/// A VPN route with this route target.
fn vpn(n: u32) -> Nlri {
    let NlriKey::Unicast(prefix) = nlri(n).key() else { unreachable!() };
    Nlri::Vpn { rd: "65000:1".parse().unwrap(), prefix, label: Label::try_from(16 + n).unwrap() }
}

fn targeted(n: u32) -> Arc<Attributes> {
    Arc::new(Attributes { ext_communities: vec![target(n).0], ..Attributes::clone(&attributes(n)) })
}

fn hop() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}

/// What a neighbour holds after reading everything owed, how many UPDATEs it took, and whether End-of-RIB came.
#[derive(Default)]
struct Neighbour {
    table: BTreeMap<NlriKey, u32>,
    messages: usize,
    end_of_rib: bool,
    marks: Vec<Refresh>,
    longest: usize,
}

impl Neighbour {
    fn read(&mut self, rib: &mut AdjRibOut, limit: usize) {
        let families = Family::ALL.into_iter().collect();
        let context = Context { four_octet_as: true, ibgp: true, families, ..Context::default() };
        let mut out = vec![];
        for _ in 0..limit {
            out.clear();
            if !rib.next(&mut out) {
                break;
            }
            self.longest = self.longest.max(out.len());
            let message = frame_within(&out, 65535).unwrap().unwrap();
            assert_eq!(message.wire_len(), out.len());
            if message.kind == MessageType::RouteRefresh {
                self.marks.push(RouteRefresh::decode(message.body).unwrap().kind);
                continue;
            }
            let u = update::decode(context, &out[HEADER_LEN..]).unwrap();
            assert!(u.faults.is_empty());
            self.messages += 1;
            self.end_of_rib |= u.end_of_rib.is_some();
            u.unreach.iter().for_each(|k| assert!(self.table.remove(&k.key).is_some(), "withdrawn without need"));
            for n in u.announced.iter().flat_map(|r| &r.reach) {
                self.table.insert(n.nlri.key(), u.attributes.as_ref().unwrap().med.unwrap());
            }
        }
    }
}

fn up(rib: &mut AdjRibOut) {
    rib.session_up([F, Family::Vpnv4].into_iter().collect(), context());
}

#[test]
fn nothing_is_sent_before_release_then_full_updates_and_end_of_rib() {
    let mut rib = AdjRibOut::default();
    up(&mut rib);
    (0..3000).for_each(|n| rib.advertise(nlri(n), attributes(n % 2), hop()));
    assert!(!rib.next(&mut vec![]) && !rib.in_sync());
    rib.release(F);
    let mut peer = Neighbour::default();
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.table.len(), peer.end_of_rib, rib.sent()), (3000, true, 3000));
    // 4 bytes a prefix: about 1000 in each; equal attributes share whichever Arc they came in.
    assert!(peer.messages <= 5, "{}", peer.messages);
    assert!(!rib.in_sync());
    rib.release(Family::Vpnv4);
    peer.read(&mut rib, usize::MAX);
    assert!(rib.in_sync());
}

#[test]
fn changes_before_they_are_sent_coalesce() {
    let mut rib = AdjRibOut::default();
    rib.release(F);
    up(&mut rib);
    let mut peer = Neighbour::default();
    rib.advertise(nlri(1), attributes(1), hop());
    rib.withdraw(nlri(1).key());
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.messages, peer.end_of_rib), (1, true));
    rib.advertise(nlri(1), attributes(1), hop());
    peer.read(&mut rib, usize::MAX);
    rib.advertise(nlri(1), attributes(1), hop());
    peer.read(&mut rib, usize::MAX);
    assert_eq!(peer.messages, 2, "the same again is nothing");
    rib.withdraw(nlri(1).key());
    rib.advertise(nlri(1), attributes(2), hop());
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.messages, peer.table.get(&nlri(1).key())), (3, Some(&2)));
}

#[test]
fn a_neighbour_that_does_not_read_costs_no_more_than_its_table() {
    let mut rib = AdjRibOut::default();
    rib.release(F);
    up(&mut rib);
    for round in 0..100_000u32 {
        rib.advertise(nlri(round % 10), attributes(round % 7), hop());
    }
    assert!(rib.table(F).unwrap().queues.len <= 2 * 10 + SLACK + 1);
}

#[test]
fn a_new_session_and_a_refresh_send_everything_again() {
    let mut rib = AdjRibOut::default();
    rib.release(F);
    rib.advertise(nlri(1), attributes(1), hop());
    for _ in 0..2 {
        up(&mut rib);
        let mut peer = Neighbour::default();
        peer.read(&mut rib, usize::MAX);
        assert_eq!((peer.table.len(), peer.end_of_rib), (1, true));
        peer.end_of_rib = false;
        rib.refresh(F);
        peer.read(&mut rib, usize::MAX);
        assert_eq!((peer.messages, peer.end_of_rib, &peer.marks[..]), (3, false, &[Refresh::Begin, Refresh::End][..]));
        rib.session_down();
        assert_eq!(rib.sent(), 0);
    }
}

#[test]
fn a_neighbour_that_does_not_know_the_marks_gets_none() {
    let mut rib = AdjRibOut::default();
    rib.release(F);
    rib.advertise(nlri(1), attributes(1), hop());
    rib.session_up([F].into_iter().collect(), SendContext::new(65000, 65000));
    let mut peer = Neighbour::default();
    peer.read(&mut rib, usize::MAX);
    rib.refresh(F);
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.messages, peer.marks.len()), (3, 0));
}

#[test]
fn what_the_session_forbids_is_taken_back_and_told_once_it_is_allowed() {
    let mut rib = AdjRibOut::default();
    rib.release(F);
    up(&mut rib);
    let mut peer = Neighbour::default();
    let secret = Arc::new(Attributes { communities: vec![0xffff_ff02], ..Attributes::clone(&attributes(3)) });
    rib.advertise(nlri(1), attributes(1), hop());
    peer.read(&mut rib, usize::MAX);
    rib.advertise(nlri(1), Arc::clone(&secret), hop());
    rib.advertise(nlri(2), secret, hop());
    peer.read(&mut rib, usize::MAX);
    assert!(peer.table.is_empty() && rib.sent() == 0);
    rib.advertise(nlri(2), attributes(2), hop());
    peer.read(&mut rib, usize::MAX);
    assert_eq!(peer.table.len(), 1);
    // No next hop of ours, no route.
    rib.advertise(nlri(2), attributes(2), None);
    peer.read(&mut rib, usize::MAX);
    assert!(peer.table.is_empty());
}

/// A session on which the neighbour says what it wants.
fn constrained(rib: &mut AdjRibOut) {
    Family::ALL.into_iter().for_each(|f| rib.release(f));
    rib.session_up([Family::Vpnv4, Family::RouteTarget].into_iter().collect(), context());
}

#[test]
fn vpn_routes_wait_for_the_neighbours_memberships_and_follow_them() {
    let mut rib = AdjRibOut::default();
    constrained(&mut rib);
    let mut peer = Neighbour::default();
    rib.advertise(Nlri::RouteTarget(RtMembership::new(65000, target(1))), attributes(0), hop());
    (0..3000).for_each(|n| rib.advertise(vpn(n), targeted(n % 3), hop()));
    rib.membership(RtMembership::new(65001, target(1)), 0, true);
    peer.read(&mut rib, usize::MAX);
    // Ours goes at once: somebody has to begin.
    assert_eq!((peer.table.len(), rib.in_sync()), (1, false));
    rib.memberships_known();
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.table.len(), rib.in_sync()), (1001, true));
    rib.membership(RtMembership::DEFAULT, 0, true);
    // Changes its mind in the middle.
    peer.read(&mut rib, 3);
    rib.membership(RtMembership::DEFAULT, 0, false);
    peer.read(&mut rib, 1);
    rib.membership(RtMembership::new(65001, target(2)), 0, true);
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.table.len(), peer.table.values().filter(|med| **med == 2).count()), (2001, 1000));
    // In the middle of what it no longer wants, and of what it wants now.
    rib.membership(RtMembership::DEFAULT, 0, true);
    peer.read(&mut rib, 1);
    rib.membership(RtMembership::DEFAULT, 0, false);
    peer.read(&mut rib, usize::MAX);
    assert_eq!(peer.table.len(), 2001);
    rib.membership(RtMembership::new(65001, target(1)), 0, false);
    peer.read(&mut rib, usize::MAX);
    assert_eq!((peer.table.len(), rib.sent()), (1001, 1001));
}

#[test]
fn attributes_too_long_for_a_message_are_not_sent_and_take_back_what_was() {
    let mut rib = AdjRibOut::default();
    rib.release(F);
    up(&mut rib);
    let mut peer = Neighbour::default();
    rib.advertise(nlri(1), attributes(1), hop());
    peer.read(&mut rib, usize::MAX);
    let huge = Arc::new(Attributes { communities: vec![7; 1100], ..Attributes::default() });
    rib.advertise(nlri(1), Arc::clone(&huge), hop());
    rib.advertise(nlri(2), huge, hop());
    peer.read(&mut rib, usize::MAX);
    assert!(peer.table.is_empty());
    assert_eq!(rib.sent(), 0);
}

proptest::proptest! {
    /// Whatever is done in whatever order, a neighbour that reads to the end has exactly what is desired.
    #[test]
    fn the_neighbour_ends_with_what_is_desired(ops in proptest::collection::vec((0u32..12, 0u32..5, 0u8..8), 1..200)) {
        let mut rib = AdjRibOut::default();
        rib.release(F);
        up(&mut rib);
        let mut desired = BTreeMap::new();
        let mut peer = Neighbour::default();
        for (n, med, op) in ops {
            match op {
                0..=2 => { rib.advertise(nlri(n), attributes(med), hop()); desired.insert(nlri(n).key(), med); }
                3..=4 => { rib.withdraw(nlri(n).key()); desired.remove(&nlri(n).key()); }
                5 => peer.read(&mut rib, 1),
                6 => rib.refresh(F),
                _ => { peer = Neighbour::default(); up(&mut rib); }
            }
        }
        peer.read(&mut rib, usize::MAX);
        proptest::prop_assert_eq!(&peer.table, &desired);
        proptest::prop_assert_eq!(rib.sent(), desired.len());
        proptest::prop_assert_eq!(rib.table(F).unwrap().queues.len, 0);
    }

    #[test]
    fn the_neighbour_ends_with_what_it_wants(ops in proptest::collection::vec((0u32..12, 0u32..4, 0u8..9), 1..200)) {
        let mut rib = AdjRibOut::default();
        constrained(&mut rib);
        rib.memberships_known();
        let (mut desired, mut wanted) = (BTreeMap::new(), std::collections::BTreeSet::new());
        let mut peer = Neighbour::default();
        for (n, rt, op) in ops {
            match op {
                0..=2 => { rib.advertise(vpn(n), targeted(rt), hop()); desired.insert(vpn(n).key(), rt); }
                3 => { rib.withdraw(vpn(n).key()); desired.remove(&vpn(n).key()); }
                4 => peer.read(&mut rib, 1),
                5 => rib.refresh(Family::Vpnv4),
                6 => { rib.membership(RtMembership::new(1, target(rt)), 0, false); wanted.remove(&rt); }
                _ => { rib.membership(RtMembership::new(1, target(rt)), 0, true); wanted.insert(rt); }
            }
        }
        peer.read(&mut rib, usize::MAX);
        desired.retain(|_, rt| wanted.contains(rt));
        proptest::prop_assert_eq!(&peer.table, &desired);
        proptest::prop_assert_eq!(rib.sent(), desired.len());
        proptest::prop_assert_eq!(rib.table(Family::Vpnv4).unwrap().queues.len, 0);
    }
}
