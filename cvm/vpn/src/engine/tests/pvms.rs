//! PVMs: what they say, what they may not, and what of it holds when they are gone.

use super::*;

#[test]
fn a_lost_pvms_routes_stay_for_a_while_and_a_snapshot_sweeps_what_it_does_not_renew() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.pass(3.0);
    assert!(!b.vpn.show_attachments()[0].session_up);
    assert!(b.vpn.show_routes(Some(&id("acme/d1"))).iter().all(|r| r.stale));
    b.pass(20.0);
    assert_eq!(b.advertised().len(), 2);
    // Another process of the PVM, by chance with the same epoch.
    b.snapshot(100, &["10.1.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    b.pass(3.0);
    b.pass(30.0);
    assert_eq!(b.advertised(), [""; 0]);
}

#[test]
fn a_session_that_begins_no_snapshot_does_not_keep_stale_routes_alive() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.pass(1.0);
    let alive = |b: &mut Bench, seconds: u32| {
        for _ in 0..seconds {
            b.message(100, ToCvm::Keepalive { incarnation: 100 });
            b.pass(1.0);
        }
    };
    b.hello(100);
    alive(&mut b, 29);
    assert_eq!(b.advertised().len(), 1);
    alive(&mut b, 1);
    assert_eq!(b.advertised(), [""; 0]);
    // Late is not never.
    b.snapshot(200, &["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(b.advertised().len(), 2);
    // Nor does one that is begun and never ended; what it has renewed stays.
    b.message(200, ToCvm::Sync { incarnation: 200, sync: Sync::Begin { epoch: Epoch(1) } });
    b.ops(200, vec![route("10.2.0.0/16")]);
    for _ in 0..30 {
        b.message(200, ToCvm::Keepalive { incarnation: 200 });
        b.pass(1.0);
    }
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000"]);
}

/// acme/d1 may export two routes.
fn limited(most: Option<u32>) -> Vec<AttachmentConfig> {
    let mut all = acme_and_beta();
    all[0].max_routes = most;
    all
}

#[test]
fn routes_beyond_the_limit_are_left_out_counted_and_told_once() {
    let mut b = Bench::with(config(limited(Some(2))), false);
    let withdraw = |prefix: &str| CustomerOp::Withdraw { prefix: prefix.parse().unwrap() };
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]);
    b.snapshot(2, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    let acme = |b: &Bench| b.advertised().into_iter().filter(|r| r.starts_with("65000:1 ")).collect::<Vec<_>>();
    assert_eq!(acme(&b), ["65000:1 10.1.0.0/16 1000", "65000:1 10.2.0.0/16 1000"]);
    assert_eq!(b.advertised().len(), 5);
    // What is there may change; what is not has to wait for room.
    let other = Attributes { med: Some(7), ..customer() };
    b.ops(0, vec![route("10.5.0.0/16"), CustomerOp::Route { prefix: net("10.1.0.0/16"), next_hop: None, attributes: other.to_bytes() }]);
    assert_eq!(b.advertised[&vpn_key(1, "10.1.0.0/16")].1.med, Some(7));
    assert_eq!((b.vpn.show_attachments()[0].over_limit, b.vpn.show_attachments()[2].over_limit), (3, 0));
    assert!(matches!(&b.refused[..], [why] if why.starts_with("more than the 2 routes")), "{:?}", b.refused);
    assert!(b.vpn.sessions.speaker(0).is_some());
    b.ops(0, vec![withdraw("10.1.0.0/16"), route("10.5.0.0/16"), route("10.6.0.0/16")]);
    assert_eq!(acme(&b), ["65000:1 10.2.0.0/16 1000", "65000:1 10.5.0.0/16 1000"]);
    assert_eq!(b.refused.len(), 2);
}

#[test]
fn what_was_left_out_is_asked_for_again_when_there_is_room() {
    let mut b = Bench::with(config(limited(Some(2))), false);
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    let again = |b: &Bench| b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::Unknown }));
    let alive = |b: &mut Bench, seconds: u32| {
        for _ in 0..seconds {
            b.message(0, ToCvm::Keepalive { incarnation: 0 });
            b.pass(1.0);
        }
    };
    alive(&mut b, 10);
    assert!(!again(&b), "there is no room");
    b.ops(0, vec![CustomerOp::Withdraw { prefix: "10.1.0.0/16".parse().unwrap() }]);
    b.pass(0.1);
    assert!(again(&b));
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000"]);
    b.snapshot(100, &["10.2.0.0/16", "10.3.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000", "65000:1 10.3.0.0/16 1000"]);
    // Not again and again: a session lasts a while.
    b.ops(100, vec![route("10.4.0.0/16"), CustomerOp::Withdraw { prefix: "10.2.0.0/16".parse().unwrap() }]);
    b.pass(1.0);
    assert!(b.vpn.sessions.speaker(0).is_some());
}

#[test]
fn routes_that_wait_for_being_swept_keep_no_new_ones_out_and_do_not_pile_up() {
    let mut b = Bench::with(config(limited(Some(2))), false);
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.pass(1.0);
    b.snapshot(100, &["10.3.0.0/16", "10.4.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.3.0.0/16 1000", "65000:1 10.4.0.0/16 1000"]);
    assert_eq!(b.refused, [""; 0]);
    // Snapshots begun again and again.
    for n in 10..20 {
        b.message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Begin { epoch: Epoch(1) } });
        b.ops(100, vec![route(&format!("10.{n}.0.0/16")), route(&format!("10.{n}.1.0/24")), route(&format!("10.{n}.2.0/24"))]);
        assert!(b.advertised().len() <= 4, "{:?}", b.advertised());
    }
    b.message(100, ToCvm::Sync { incarnation: 100, sync: Sync::End { epoch: Epoch(1) } });
    assert_eq!(b.advertised(), ["65000:1 10.19.0.0/16 1000", "65000:1 10.19.1.0/24 1000"]);
}

#[test]
fn another_limit_holds_at_once_and_what_was_left_out_is_asked_for_again() {
    let mut b = Bench::with(config(limited(None)), false);
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    b.vpn.configure(b.now, config(limited(Some(3))));
    b.settle();
    assert!(b.vpn.sessions.speaker(0).is_some(), "nothing is left out");
    b.vpn.configure(b.now, config(limited(Some(2))));
    b.settle();
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:1 10.2.0.0/16 1000"]);
    assert!(b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::Unknown })));
    b.snapshot(100, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    b.vpn.configure(b.now, config(limited(Some(9))));
    b.settle();
    assert!(b.replies.contains(&(100, ToPvm::Refused { incarnation: 100, reason: Refusal::Unknown })));
    assert_eq!(b.advertised().len(), 2, "what is there stays meanwhile");
    b.snapshot(200, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    assert_eq!(b.advertised().len(), 3);
}

#[test]
fn a_pvm_that_breaks_the_rules_is_refused_and_harms_nobody() {
    let mut b = Bench::new();
    b.snapshot(2, &["10.3.0.0/16"]);
    b.message(0, ToCvm::Keepalive { incarnation: 5 });
    assert_eq!(b.replies.pop(), Some((0, ToPvm::Refused { incarnation: 5, reason: Refusal::Unknown })));
    b.snapshot(0, &[]);
    // Bad routes are left out, the good one among them counts.
    let bad = |prefix: &str, attributes| CustomerOp::Route { prefix: net(prefix), next_hop: None, attributes };
    b.ops(0, vec![bad("10.1.0.0/16", vec![0xff; 9]), bad("2001:db8::/32", vec![0; 5000]), route("10.2.3.4/16")]);
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000", "65000:3 10.3.0.0/16 1002"]);
    assert!(b.refused[0].starts_with("2 routes"), "{:?}", b.refused);
    // Seventeen messages in a row are one more than was granted.
    for _ in 0..40 {
        b.vpn_message(0, ToCvm::Sync { incarnation: 0, sync: Sync::Ops { epoch: Epoch(2), ops: vec![] } });
    }
    b.settle();
    assert!(b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::Unknown })));
    b.pass(0.2);
    b.hello(100);
    b.vpn_message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Begin { epoch: Epoch(1) } });
    b.vpn.sessions.of_mut(0).for_each(|(_, s)| _ = s.grant_due());
    let flood = |b: &mut Bench| b.vpn_message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Ops { epoch: Epoch(1), ops: vec![] } });
    // Grants come back as it is worked off; without them the window ends.
    (0..1000).for_each(|_| flood(&mut b));
    b.settle();
    assert!(b.vpn.sessions.speaker(2).is_some());
    assert_eq!(b.told(2), [""; 0]);
}

#[test]
fn a_second_hello_of_the_same_incarnation_gives_no_second_window() {
    let mut b = Bench::new();
    b.hello(0);
    b.hello(0);
    let grants = b.replies.iter().filter(|(_, m)| matches!(m, ToPvm::Grant { .. })).count();
    let welcomes = b.replies.iter().filter(|(_, m)| matches!(m, ToPvm::Welcome { .. })).count();
    assert_eq!((grants, welcomes), (1, 2));
}
