//! Two engines over a network that delivers in any order, cuts messages anywhere and breaks connections: they come together,
//! and in the end each has what the other means it to have.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod network;

use edgeplex_bgp::{Event, GracefulRestart, State};
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
    Reset(usize),
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..2, 0u32..24, 0u32..4).prop_map(|(s, n, med)| Op::Advertise(s, n, med)),
        2 => (0usize..2, 0u32..24).prop_map(|(s, n)| Op::Withdraw(s, n)),
        4 => (0usize..2, 0usize..4).prop_map(|(s, n)| Op::Write(s, n)),
        20 => (0usize..1000).prop_map(Op::Step),
        1 => (0usize..2, 0usize..3).prop_map(|(s, f)| Op::Refresh(s, f)),
        1 => (0usize..4).prop_map(Op::Cut),
        1 => (0usize..2).prop_map(Op::Reset),
        4 => Just(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_side_ends_with_what_the_other_means_it_to_have(
        ops in proptest::collection::vec(op(), 50..400),
        gr: bool,
        add_path: bool,
    ) {
        let mut net = Net::new(|c| {
            c.graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: false }).filter(|_| gr);
            c.add_path_receive = add_path;
            c.membership_wait = Duration::from_secs(5);
        });
        let mut desired: [BTreeMap<NlriKey, u32>; 2] = Default::default();
        for side in 0..2 {
            FAMILIES.iter().for_each(|f| net.peers[side].rib_out().release(*f));
            net.act(side, Event::Start, None);
        }
        for op in ops {
            match op {
                Op::Advertise(side, n, med) => {
                    net.peers[side].rib_out().advertise(nlri(n), attributes(n, med), IpAddr::from([192, 0, 2, 1]));
                    desired[side].insert(nlri(n).key(), med);
                }
                Op::Withdraw(side, n) => {
                    net.peers[side].rib_out().withdraw(nlri(n).key());
                    desired[side].remove(&nlri(n).key());
                }
                Op::Write(side, limit) => net.write(side, limit),
                Op::Step(draw) => { net.step(draw); }
                Op::Refresh(side, at) => net.act(side, Event::Refresh(FAMILIES[at]), None),
                Op::Cut(draw) => net.cut(draw),
                Op::Reset(side) => net.act(side, Event::Reset, None),
                Op::Wait => { net.wait(); }
            }
        }
        net.calm_down();
        for side in 0..2 {
            let wanted: BTreeSet<RouteTarget> =
                desired[side].keys().filter_map(|k| if let NlriKey::RouteTarget(m) = k { m.target() } else { None }).collect();
            let mut meant = desired[1 - side].clone();
            meant.retain(|k, _| k.family() != Family::Vpnv4 || (0..24).any(|n| nlri(n).key() == *k && wanted.contains(&target(n / 3))));
            prop_assert_eq!(&net.daemons[side].routes, &meant, "side {}", side);
            prop_assert!(net.daemons[side].stale.is_empty());
            prop_assert_eq!(net.peers[side].prefixes_received(), meant.len());
            prop_assert_eq!(net.peers[1 - side].prefixes_sent(), meant.len());
            for reason in &net.daemons[side].downs {
                prop_assert!(!reason.contains("error"), "{}", reason);
            }
        }
    }

    /// However messages of two simultaneous connections interleave, one session comes up, the same on both sides,
    /// and within seconds.
    #[test]
    fn collisions_leave_one_session(draws in proptest::collection::vec(0usize..60, 60), first in 0usize..2, gr: bool) {
        let mut net = Net::new(|c| c.graceful_restart = Some(GracefulRestart { restart_time_s: 60, restarting: false }).filter(|_| gr));
        net.act(first, Event::Start, None);
        net.act(1 - first, Event::Start, None);
        let mut draws = draws.into_iter().cycle();
        for _ in 0..400 {
            if net.step(draws.next().unwrap()) {
                continue;
            }
            if net.peers.iter().all(|p| p.state() == State::Established) || !net.wait() {
                break;
            }
        }
        let alive: Vec<_> = net.wires.iter().filter(|w| w[0].0.is_some() || w[1].0.is_some()).collect();
        prop_assert_eq!(alive.len(), 1);
        prop_assert_eq!(alive[0][0].0, net.peers[0].established_connection());
        prop_assert_eq!(alive[0][1].0, net.peers[1].established_connection());
        prop_assert_eq!([net.daemons[0].ups, net.daemons[1].ups], [1, 1], "no session flapped");
        prop_assert!(net.now < Duration::from_secs(10));
    }
}
