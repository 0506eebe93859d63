//! Several instances of one attachment: who speaks, who is only told, and what a hostile one gains.

use super::*;

impl Bench {
    fn hello_as(&mut self, peer: u32, generation: u64, standby: bool) {
        let attachment = self.owner(peer);
        self.message(peer, ToCvm::Hello { attachment, incarnation: peer.into(), generation, standby });
    }
    /// A promoted instance: the same connection, another session.
    fn snapshot_as(&mut self, peer: u32, generation: u64, prefixes: &[&str]) {
        self.hello_as(peer, generation, false);
        let incarnation = peer.into();
        self.message(peer, ToCvm::Sync { incarnation, sync: Sync::Begin { epoch: Epoch(1) } });
        self.ops(peer, prefixes.iter().map(|p| route(p)).collect());
        self.message(peer, ToCvm::Sync { incarnation, sync: Sync::End { epoch: Epoch(1) } });
    }
    fn last(&self, peer: u32) -> Option<&ToPvm> {
        self.replies.iter().rev().find(|(p, _)| *p == peer).map(|(_, m)| m)
    }
    fn is_refused(&self, peer: u32, reason: Refusal) -> bool {
        self.last(peer) == Some(&ToPvm::Refused { incarnation: peer.into(), reason })
    }
    fn connected(&self, attachment: u32) -> usize {
        self.vpn.sessions.of(attachment).count()
    }
}

#[test]
fn a_standby_is_told_everything_and_its_takeover_withdraws_nothing() {
    let mut b = Bench::new();
    b.update(RR, 50, "10.9.0.0/16", &[100], REMOTE, |_| {});
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.hello_as(100, 2, true);
    b.live(4);
    assert_eq!(b.told(100), b.told(0));
    assert_eq!(b.pvms[&100].labels, b.pvms[&0].labels);
    assert!(b.pvms[&100].ended);
    b.update(RR, 51, "10.8.0.0/16", &[100], REMOTE, |_| {});
    assert_eq!(b.told(100), ["10.8.0.0/16 2051", "10.9.0.0/16 2050"]);
    let before = b.advertised.clone();
    // The first is dead and nobody knows yet; or it is fenced and alive: the successor speaks.
    b.hello_as(100, 3, false);
    assert_eq!(b.advertised, before);
    assert!(
        b.vpn.show_routes(Some(&id("acme/d1"))).iter().filter(|r| r.from == crate::Learned::Attachment(id("acme/d1"))).all(|r| r.stale)
    );
    b.live(10);
    assert_eq!(b.advertised, before);
    b.snapshot_as(200, 4, &["10.1.0.0/16", "10.3.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:1 10.3.0.0/16 1000"]);
    assert_eq!(b.advertised[&vpn_key(1, "10.1.0.0/16")], before[&vpn_key(1, "10.1.0.0/16")]);
}

#[test]
fn who_is_succeeded_hears_of_it_at_once_and_its_standby_goes_on() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.hello_as(300, 1, true);
    b.hello_as(100, 2, false);
    assert!(b.is_refused(0, Refusal::Superseded));
    assert_eq!(b.connected(0), 2);
    b.pass(0.2);
    b.snapshot_as(100, 2, &["10.1.0.0/16"]);
    b.withdraw(0, "10.1.0.0/16");
    assert!(b.is_refused(0, Refusal::Unknown));
    b.vpn.undeliverable(b.now, &300);
    b.pass(0.2);
    b.hello(0);
    assert!(b.is_refused(0, Refusal::Superseded));
    assert_eq!((b.connected(0), b.advertised()), (1, vec!["65000:1 10.1.0.0/16 1000".into()]));
    // The successor is gone for good: who is there may speak, from the start.
    b.pass(3.0);
    b.snapshot(0, &["10.2.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000"]);
}

#[test]
fn a_standby_that_comes_or_goes_changes_nothing_and_one_that_speaks_is_refused() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    // As a standby the highest of numbers means nothing.
    b.hello_as(100, u64::MAX, true);
    b.message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Begin { epoch: Epoch(1) } });
    assert!(b.is_refused(100, Refusal::Superseded));
    b.pass(0.2);
    b.hello_as(100, 1, true);
    assert_eq!(b.connected(0), 2, "not the same instance as the one that speaks, whatever its generation");
    b.live(40);
    b.vpn.undeliverable(b.now, &100);
    b.live(40);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    assert!(b.vpn.show_routes(Some(&id("acme/d1"))).iter().all(|r| !r.stale));
    // Alone, it is still none that speaks.
    b.vpn.undeliverable(b.now, &0);
    b.pass(0.2);
    b.hello_as(200, 5, true);
    b.message(200, ToCvm::Sync { incarnation: 200, sync: Sync::Begin { epoch: Epoch(1) } });
    assert!(b.is_refused(200, Refusal::Superseded));
}

#[test]
fn a_hostile_generation_holds_as_long_as_its_connection_and_harms_nobody_else() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(2, &["10.7.0.0/16"]);
    b.hello_as(100, u64::MAX, false);
    b.snapshot_as(200, 2, &["10.2.0.0/16"]);
    assert!(b.replies.contains(&(200, ToPvm::Refused { incarnation: 200, reason: Refusal::Superseded })));
    assert!(b.advertised().contains(&"65000:3 10.7.0.0/16 1002".to_owned()));
    b.pass(3.0);
    b.snapshot_as(200, 2, &["10.2.0.0/16"]);
    assert_eq!(b.advertised()[0], "65000:1 10.2.0.0/16 1000");
}

#[test]
fn an_attachment_has_so_many_instances_and_those_that_speak_come_first() {
    let mut b = Bench::new();
    for n in 0..4 {
        b.hello_as(n * 100, u64::from(n) + 10, true);
    }
    assert_eq!(b.connected(0), 4);
    b.hello_as(400, 9, true);
    assert!(!b.replies.iter().any(|(peer, _)| *peer == 400), "too many at once are not heard");
    b.pass(1.0);
    b.hello_as(400, 9, true);
    assert!(b.is_refused(400, Refusal::Limit));
    b.hello_as(500, 1, false);
    assert!(b.is_refused(0, Refusal::Limit));
    assert_eq!((b.connected(0), b.connected(1)), (4, 0));
    assert!(b.vpn.show_attachments()[0].session_up);
    // The table of an attachment that is removed is that of nobody.
    b.configure(&acme_and_beta()[1..]);
    assert_eq!(b.connected(0), 0);
    assert!(b.is_refused(500, Refusal::NotYours) && b.is_refused(100, Refusal::NotYours));
}

#[test]
fn who_takes_over_from_another_control_vm_gives_the_same_labels_and_waits_for_the_pvms() {
    let mut per_ce = acme_and_beta();
    per_ce[1].label_per_ce = true;
    let mut first = Bench::with(config(per_ce.clone()), false);
    first.snapshot(2, &["10.7.0.0/16"]);
    first.snapshot_ops(1, vec![route_via("10.1.0.0/16", "192.168.1.1"), route_via("10.2.0.0/16", "192.168.1.2")]);
    first.live(1);
    let advertised = first.advertised();
    let values = first.vpn.labels().values().unwrap();
    assert_eq!(values.len(), 5);

    // The follower has labels of its own making, other ones, which nobody has heard of.
    let mut all = per_ce.clone();
    all.reverse();
    let mut b = Bench::with(config(per_ce), true);
    b.vpn.configure(b.now, config(vec![all[0].clone()]));
    b.settle();
    b.end_of_rib(RR);
    b.end_of_rib(RR2);
    b.live(40);
    b.vpn.configure(b.now, config(all));
    b.settle();
    let mut labels = LabelSpace::new(b.vpn.config.labels, b.vpn.config.quarantine);
    values.values().for_each(|value| labels.load_value(b.now, value).unwrap());
    b.vpn.take_over(b.now, labels);
    b.settle();
    assert_eq!(b.vpn.labels().values().unwrap(), values);
    assert_eq!(b.advertised(), [""; 0]);
    b.snapshot(2, &["10.7.0.0/16"]);
    b.live(20);
    assert!(!b.pvms[&2].ended, "other PVMs are still to come");
    b.snapshot_ops(1, vec![route_via("10.1.0.0/16", "192.168.1.1"), route_via("10.2.0.0/16", "192.168.1.2")]);
    b.snapshot(0, &[]);
    b.live(1);
    assert_eq!(b.advertised(), advertised);
    assert!((0..3).all(|peer| b.pvms[&peer].ended));
}

#[test]
fn a_relay_that_goes_takes_nothing_with_it() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(2, &["10.1.0.0/16"]);
    b.hello_as(100, 2, true);
    b.hello_as(300, 2, true);
    b.vpn_message(2, ToCvm::Keepalive { incarnation: 5 });
    b.vpn.disconnect(b.now);
    assert_eq!((b.vpn.next_message(), b.connected(0), b.connected(2)), (None, 0, 0));
    b.pass(20.0);
    assert_eq!(b.advertised().len(), 2);
    b.snapshot(0, &["10.1.0.0/16"]);
    b.pass(11.0);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
}

#[test]
fn a_value_that_is_damaged_is_an_error() {
    let mut space = LabelSpace::new(config(vec![]).labels, Duration::ZERO);
    for bytes in [&[][..], &[9], &[3, 0xff, 0xff, 0xff, 0xff, 0xff], &[3, 16, 1]] {
        assert!(space.load_value(Instant::now(), bytes).is_err(), "{bytes:?}");
    }
}
