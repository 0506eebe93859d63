//! One of two engines dies, again and again and at any moment, and a successor goes on from what was written down: the other never
//! notices, and in the end each has what the other means it to have.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod network;

use edgeplex_bgp::{Event, GracefulRestart, PeerConfig, State};
use edgeplex_bgp_wire::*;
use edgeplex_types::RouteTarget;
use network::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, Clone)]
enum Op {
    Advertise(usize, u32, u32),
    Withdraw(usize, u32),
    Write(usize, usize),
    Step(usize),
    Refresh(usize, usize),
    Cut(usize),
    Wait,
    Succeed(Option<usize>, usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..2, 0u32..24, 0u32..4).prop_map(|(s, n, med)| Op::Advertise(s, n, med)),
        2 => (0usize..2, 0u32..24).prop_map(|(s, n)| Op::Withdraw(s, n)),
        4 => (0usize..2, 0usize..4).prop_map(|(s, n)| Op::Write(s, n)),
        20 => (0usize..1000).prop_map(Op::Step),
        1 => (0usize..2, 0usize..3).prop_map(|(s, f)| Op::Refresh(s, f)),
        1 => (0usize..4).prop_map(Op::Cut),
        2 => Just(Op::Wait),
        3 => (proptest::option::of(0usize..4), 0usize..1000).prop_map(|(torn, draw)| Op::Succeed(torn, draw)),
    ]
}

fn settings(gr: bool, add_path: bool) -> impl Fn(&mut PeerConfig) {
    move |c| {
        c.graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: false }).filter(|_| gr);
        c.add_path_receive = add_path;
        c.membership_wait = Duration::from_secs(5);
    }
}

/// Starts both sides, with everything released.
fn start(net: &mut Net) {
    for side in 0..2 {
        FAMILIES.iter().for_each(|f| net.peers[side].rib_out().release(*f));
        net.act(side, Event::Start, None);
    }
}

/// What side `1 - side` means `side` to have.
fn meant(desired: &[Desired; 2], side: usize) -> BTreeMap<NlriKey, u32> {
    let wanted: BTreeSet<RouteTarget> =
        desired[side].keys().filter_map(|k| if let NlriKey::RouteTarget(m) = k { m.target() } else { None }).collect();
    let heard = |n: u32| nlri(n).family() != Family::Vpnv4 || wanted.contains(&target(n / 3));
    desired[1 - side].iter().filter(|(_, (n, _))| heard(*n)).map(|(key, (_, med))| (*key, *med)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nobody_notices_successions(
        ops in proptest::collection::vec(op(), 50..400),
        gr: bool,
        add_path: bool,
        cuts: bool,
    ) {
        let mut net = Net::new(settings(gr, add_path));
        let mut desired: [Desired; 2] = Default::default();
        start(&mut net);
        for op in ops {
            match op {
                Op::Advertise(side, n, med) => {
                    net.peers[side].rib_out().advertise(nlri(n), attributes(n, med), IpAddr::from([192, 0, 2, 1]));
                    desired[side].insert(nlri(n).key(), (n, med));
                }
                Op::Withdraw(side, n) => {
                    net.peers[side].rib_out().withdraw(nlri(n).key());
                    desired[side].remove(&nlri(n).key());
                }
                Op::Write(side, limit) => net.write(side, limit),
                Op::Step(draw) => { net.step(draw); }
                Op::Refresh(side, at) => net.act(side, Event::Refresh(FAMILIES[at]), None),
                Op::Cut(draw) => if cuts { net.cut(draw) },
                // Nobody is so late that a hold timer has to expire.
                Op::Wait => if !net.step(1) { net.wait(); }
                Op::Succeed(torn, draw) => net.succeed(torn, draw, &desired[0]),
            }
        }
        net.calm_down();
        // The last word is a successor's.
        net.succeed(None, 0, &desired[0]);
        net.updates = 0;
        net.calm_down();
        prop_assert_eq!(net.updates, 0, "a neighbour that has everything is sent nothing");
        for side in 0..2 {
            let meant = meant(&desired, side);
            prop_assert_eq!(&net.daemons[side].routes, &meant, "side {}", side);
            prop_assert!(net.daemons[side].stale.is_empty());
            prop_assert_eq!(net.peers[side].prefixes_received(), meant.len());
            prop_assert_eq!(net.peers[1 - side].prefixes_sent(), meant.len());
            // Of two connections one is told to go.
            prop_assert!(net.notifications[side].iter().all(|n| *n == (6, 7)), "{:?}", net.notifications[side]);
            if !cuts {
                prop_assert_eq!(&net.daemons[side].downs, &Vec::<String>::new(), "side {}", side);
            }
        }
    }
}

/// A session with routes on both sides, all of them told.
fn standing() -> (Net, [Desired; 2]) {
    let mut net = Net::new(settings(true, false));
    let desired: [Desired; 2] = [1, 2].map(|med| (0..24).map(|n| (nlri(n).key(), (n, med))).collect());
    start(&mut net);
    for (side, routes) in desired.iter().enumerate() {
        for (n, med) in routes.values() {
            net.peers[side].rib_out().advertise(nlri(*n), attributes(*n, *med), IpAddr::from([192, 0, 2, 1]));
        }
    }
    net.calm_down();
    (net, desired)
}

#[test]
fn a_session_that_the_configuration_no_longer_wants_ends_in_order() {
    for change in [
        (|c: &mut PeerConfig| c.hold_time = 30) as fn(&mut PeerConfig),
        |c| c.families = vec![Family::Ipv4Unicast],
        |c| c.remote_as = 65009,
        |c| c.shutdown = Some("moving house".into()),
    ] {
        let (mut net, desired) = standing();
        net.succeed_with(None, 0, &desired[0], change);
        assert_eq!(net.notifications[0].last().map(|n| n.0), Some(6));
        while net.step(1) {}
        assert_eq!(net.daemons[1].downs.len(), 1);
        assert_ne!(net.peers[0].state(), State::Established);
    }
}

#[test]
fn what_offers_more_or_sends_otherwise_is_no_reason_to_end_a_session() {
    let (mut net, desired) = standing();
    net.succeed_with(None, 0, &desired[0], |c| {
        c.max_prefix = Some(edgeplex_bgp::MaxPrefix::new(3));
        c.allow_own_as = 1;
        c.backoff.first = Duration::from_secs(3);
    });
    // The limit as it is now does not keep a successor from learning what there is.
    net.succeed(None, 0, &desired[0]);
    assert_eq!(net.peers[0].state(), State::Established);
    // Other rules for what is heard: it is asked for again, and then the limit counts.
    while net.step(1) {}
    net.write(1, 100);
    while net.step(1) {}
    assert_eq!(net.notifications[0].last(), Some(&(6, 9)), "a hard reset: too many prefixes");
}

#[test]
fn a_refresh_that_was_wanted_meanwhile_is_asked_for_and_one_that_was_answered_by_half_is_ended() {
    let (mut net, desired) = standing();
    // The neighbour asks us, and we die after our first words of the answer.
    net.act(1, Event::Refresh(Family::Ipv4Unicast), None);
    while net.step(1) {}
    net.write(0, 1);
    net.updates = 0;
    net.succeed(None, 0, &desired[0]);
    net.calm_down();
    // 8 routes with two sets of attributes each to four targets, and the mark of the end.
    assert!(net.updates > 4, "{}", net.updates);
    assert_eq!(net.daemons[1].routes, meant(&desired, 1));

    let (mut next, ..) = net.replay();
    assert_eq!(next.state(), State::Established);
    next.handle(net.now, Event::Refresh(Family::Vpnv4));
    let asked = RouteRefresh::new(Family::Vpnv4, Refresh::Request).encode();
    let said = next.handle(net.now, Event::Promoted);
    assert!(said.iter().any(|a| matches!(a, edgeplex_bgp::Action::Send(_, bytes) if *bytes == asked)), "{said:?}");
}
