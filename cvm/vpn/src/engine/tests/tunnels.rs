//! Tunnels: what the core says of them, and what each PVM hears of that.

use super::*;

/// acme/d1 with 300 routes over one tunnel, and another over PE 3; beta/d1 with none.
fn many() -> Bench {
    let mut b = Bench::new();
    b.way(3, Some(way(3, 20)));
    b.snapshot(0, &[]);
    b.snapshot(2, &[]);
    for n in 0..300 {
        let prefix = format!("10.2.{}.{}/30", n / 64, n % 64 * 4);
        b.update(RR, 51, &prefix, &[100], REMOTE, |_| {});
        b.update(RR2, 52, &prefix, &[100], pe(3), |_| {});
    }
    assert_eq!(b.told(0).len(), 300);
    b.take_ops(0);
    b.take_ops(2);
    b
}

fn with_legs(state: &TunnelState, change: impl FnOnce(&mut Vec<Leg>)) -> TunnelState {
    let mut state = state.clone();
    change(&mut state.tunnel.legs);
    state
}

#[test]
fn another_leg_is_one_operation_to_each_pvm_that_uses_the_tunnel_and_no_other() {
    let mut b = many();
    let other = with_legs(&way(2, 10), |legs| legs.push(Leg { destination_mac: MacAddr([2, 0, 0, 0, 9, 9]), ..legs[0].clone() }));
    b.way(2, Some(other.clone()));
    b.settle();
    assert_eq!((b.take_ops(0), b.take_ops(2)), (vec![VpnOp::Tunnel(other.tunnel.clone())], vec![]));
    // Nothing new is nothing said.
    b.way(2, Some(other));
    b.settle();
    assert_eq!(b.take_ops(0), []);
}

#[test]
fn a_tunnel_lost_is_one_operation_before_anything_else_and_the_backups_are_already_there() {
    for lost in [None, Some(with_legs(&way(2, 10), Vec::clear))] {
        let mut b = many();
        assert_eq!(b.paths(0, "10.2.0.0/30"), "2051@2 | 2052@3");
        b.way(2, lost);
        b.messages();
        let gone = Tunnel { id: tunnel_id(REMOTE), endpoint: REMOTE.into(), legs: vec![] };
        assert_eq!((b.take_ops(0), b.take_ops(2)), (vec![VpnOp::Tunnel(gone)], vec![]));
        // Then, in slices, what is there without it.
        b.settle();
        let ops = b.take_ops(0);
        assert_eq!(ops.len(), 301);
        assert_eq!(ops.last(), Some(&VpnOp::TunnelGone { id: tunnel_id(REMOTE) }));
        assert_eq!(b.paths(0, "10.2.0.0/30"), "2052@3 |");
    }
}

#[test]
fn a_tunnel_that_is_back_before_anything_was_decided_is_two_operations() {
    let mut b = many();
    b.way(2, None);
    b.messages();
    b.way(2, Some(way(2, 10)));
    b.settle();
    let ops = b.take_ops(0);
    assert!(matches!(&ops[..], [VpnOp::Tunnel(down), VpnOp::Tunnel(up)] if down.legs.is_empty() && !up.legs.is_empty()), "{ops:?}");
}

#[test]
fn the_nearer_next_hop_wins_and_a_cost_that_changes_nothing_says_nothing() {
    let mut b = many();
    b.way(2, Some(way(2, 19)));
    b.settle();
    assert_eq!(b.take_ops(0), []);
    // RFC 4271 §9.1.2.2 e
    b.way(2, Some(way(2, 21)));
    b.settle();
    assert_eq!(b.take_ops(0).len(), 300);
    assert_eq!(b.paths(0, "10.2.0.0/30"), "2052@3 | 2051@2");
}

#[test]
fn an_endpoint_that_is_left_and_taken_up_in_one_breath_keeps_its_tunnel() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    let nlri = Nlri::Vpn { rd: rd(51), prefix: net("10.2.0.0/16"), label: label(2051) };
    b.vpn.update(b.now, RR, &Arc::default(), RR.into(), &[], &[Reach::from(nlri).unreach()]);
    b.vpn.update(b.now, RR, &Arc::new(remote(&[100])), REMOTE.into(), &[nlri.into()], &[]);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
    b.unreach(RR, 0, 51, "10.2.0.0/16");
    assert_eq!(b.wanted, [pe(1)].into());
    assert!(b.pvms[&0].tunnels.is_empty());
}

#[test]
fn our_own_tunnel_carries_what_our_attachments_say_to_each_other() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(1, &[]);
    b.way(1, None);
    b.settle();
    assert_eq!(b.told(1), [""; 0]);
    b.way(1, Some(way(1, 0)));
    b.settle();
    assert_eq!(b.paths(1, "10.1.0.0/16"), "1000@1 |");
    assert_eq!(b.vpn.show_tunnels()[0].paths, 1);
}
