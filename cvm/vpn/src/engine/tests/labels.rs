//! Labels of attachments and of CEs: stored before they are used, and told to whom they concern.

use super::*;
use crate::labels::Claim;

fn in_use(b: &Bench) -> Vec<String> {
    b.vpn.labels_in_use().into_iter().map(|(l, id)| format!("{l} {id}")).collect()
}

#[test]
fn a_label_that_cannot_be_stored_is_not_used_and_the_others_are() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.disk_full = true;
    let mut more = acme_and_beta();
    more.push(attachment("gamma/g1", 4, &[100], &[400]));
    // A label that moves is not used either, neither the old one nor the new.
    more[2].label = Some(label(1050));
    b.configure(&more);
    b.snapshot(2, &["10.3.0.0/16"]);
    b.snapshot(3, &["10.9.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    assert_eq!(in_use(&b), ["1000 acme/d1", "1001 acme/d2"]);
    // Told once, tried again.
    b.pass(2.0);
    assert!(matches!(&b.missing[..], [beta, gamma] if beta.contains("1050") && gamma.contains("gamma/g1")), "{:?}", b.missing);
    b.disk_full = false;
    b.pass(0.5);
    assert_eq!(b.advertised().len(), 1);
    b.pass(0.6);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:3 10.3.0.0/16 1050", "65000:4 10.9.0.0/16 1003"]);
    assert_eq!(in_use(&b), ["1000 acme/d1", "1001 acme/d2", "1003 gamma/g1", "1050 beta/d1"]);
}

#[test]
fn labels_of_a_past_process_are_used_though_nothing_can_be_stored() {
    let mut past = LabelSpace::new(config(vec![]).labels, Duration::from_secs(60));
    let owner = Owner { attachment: id("acme/d1"), next_hop: None };
    past.assign(Instant::now(), &[Claim { owner, rd: rd(1), fixed: None }]);
    let now = Instant::now();
    let mut vpn: Vpn<u32> = Vpn::new(now, Start { epoch: Epoch(1), restarting: true }, config(acme_and_beta()), past);
    vpn.labels_stored(now, false);
    assert_eq!(vpn.labels_in_use().into_values().collect::<Vec<_>>(), [&id("acme/d1")]);
}

/// acme/d1 has a label for each CE.
fn per_ce() -> Vec<AttachmentConfig> {
    let mut all = acme_and_beta();
    all[0].label_per_ce = true;
    all
}

#[test]
fn each_ce_has_a_label_and_its_routes_lead_there() {
    let mut b = Bench::with(config(per_ce()), false);
    b.snapshot_ops(0, vec![route("192.168.1.0/30"), route_via("10.1.0.0/16", "192.168.1.1"), route_via("10.2.0.0/16", "192.168.1.2")]);
    b.snapshot_ops(1, vec![route_via("10.9.0.0/16", "192.168.9.1")]);
    let generation = b.vpn.generation();
    // Until CEs have labels the VRF's serves.
    assert_eq!(b.advertised().len(), 4);
    b.pass(0.1);
    assert_ne!(b.vpn.generation(), generation);
    let expected = ["65000:1 10.1.0.0/16 1003", "65000:1 10.2.0.0/16 1004", "65000:1 192.168.1.0/30 1000", "65000:2 10.9.0.0/16 1001"];
    assert_eq!(b.advertised(), expected);
    let ce = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let labels = [(label(1000), None), (label(1003), ce("192.168.1.1")), (label(1004), ce("192.168.1.2"))];
    assert_eq!(b.pvms[&0].labels, labels.into());
    assert_eq!(in_use(&b), ["1000 acme/d1", "1001 acme/d2", "1002 beta/d1", "1003 acme/d1", "1004 acme/d1"]);
    assert_eq!(b.paths(1, "10.2.0.0/16"), "1004@1 |");
    assert!(b.vpn.show_labels().iter().any(|l| l.next_hop == ce("192.168.1.2") && l.label == label(1004)));
    // Another CE for a prefix.
    b.ops(0, vec![route_via("10.2.0.0/16", "192.168.1.1")]);
    b.pass(0.1);
    assert_eq!(b.advertised()[1], "65000:1 10.2.0.0/16 1003");
    assert_eq!(b.pvms[&0].labels.len(), 2);
    assert!(b.take_ops(0).contains(&VpnOp::OwnLabelGone { label: label(1004) }));
    // A CE that goes with its last route takes its label along though nothing else happens.
    let generation = b.vpn.generation();
    b.ops(0, vec![CustomerOp::Withdraw { prefix: net("10.1.0.0/16") }, CustomerOp::Withdraw { prefix: net("10.2.0.0/16") }]);
    b.pass(0.1);
    assert_eq!(b.take_ops(0), [VpnOp::OwnLabelGone { label: label(1003) }]);
    assert_ne!(b.vpn.generation(), generation);
    b.ops(0, vec![route_via("10.1.0.0/16", "192.168.1.1"), route_via("10.2.0.0/16", "192.168.1.1")]);
    b.pass(0.1);
    // Its label rests, and is its own again when it is back.
    b.ops(0, vec![route_via("10.3.0.0/16", "192.168.1.7"), route_via("10.2.0.0/16", "192.168.1.2")]);
    b.pass(0.1);
    assert_eq!(b.advertised()[1..3], ["65000:1 10.2.0.0/16 1004", "65000:1 10.3.0.0/16 1005"]);
    // The mode is changed, twice.
    b.configure(&acme_and_beta());
    assert!(b.advertised()[..3].iter().all(|r| r.ends_with(" 1000")), "{:?}", b.advertised());
    assert_eq!(b.pvms[&0].labels.len(), 1);
    b.configure(&per_ce());
    assert_eq!(b.advertised()[..3], ["65000:1 10.1.0.0/16 1003", "65000:1 10.2.0.0/16 1004", "65000:1 10.3.0.0/16 1005"]);
}

#[test]
fn labels_of_ces_outlive_the_process_until_the_pvm_has_said_what_there_is() {
    let mut b = Bench::with(config(per_ce()), false);
    b.snapshot_ops(0, vec![route_via("10.1.0.0/16", "192.168.1.1"), route_via("10.2.0.0/16", "192.168.1.2")]);
    b.pass(0.1);
    let mut labels = LabelSpace::new(config(vec![]).labels, Duration::from_secs(60));
    labels.load(b.now, &b.vpn.labels().save().unwrap()).unwrap();
    let mut b = Bench::with_labels(config(per_ce()), true, labels);
    b.pass(0.1);
    assert_eq!(in_use(&b).len(), 5, "the switch keeps its rules");
    b.hello(0);
    assert_eq!(b.pvms[&0].labels.len(), 3);
    b.message(0, ToCvm::Sync { incarnation: 0, sync: Sync::Begin { epoch: Epoch(1) } });
    b.ops(0, vec![route_via("10.2.0.0/16", "192.168.1.2")]);
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1004"], "at once with its label");
    b.message(0, ToCvm::Sync { incarnation: 0, sync: Sync::End { epoch: Epoch(1) } });
    b.pass(0.1);
    assert_eq!(in_use(&b), ["1000 acme/d1", "1001 acme/d2", "1002 beta/d1", "1004 acme/d1"]);
}

#[test]
fn a_pvm_that_names_many_ces_uses_up_no_labels_of_others() {
    let mut b = Bench::with(config(per_ce()), false);
    let range = LabelRange::new(label(1000), label(5000)).unwrap();
    b.vpn.configure(b.now, Config { labels: range, ..config(per_ce()) });
    let route =
        |n: u32, ce: u32| route_via(&format!("10.{}.{}.0/24", n >> 8, n & 0xff), &Ipv4Addr::from_bits(0xc000_0000 + ce).to_string());
    b.snapshot_ops(0, (0..300).map(|n| route(n, n)).collect());
    b.pass(0.1);
    assert_eq!(b.vpn.rib.attachments[&0].wanted_ces().count(), crate::MAX_CES);
    // Others again and again.
    for round in 1..20 {
        b.ops(0, (0..300).map(|n| route(n, n + 1000 * round)).collect());
        b.pass(0.1);
    }
    assert!(b.vpn.show_labels().len() < 200, "{}", b.vpn.show_labels().len());
    assert_eq!(b.advertised().len(), 300);
    assert!(b.missing.len() < 20 * 64 && b.missing.iter().all(|m| m.contains("128")), "{:?}", b.missing.first());
}
