//! VPNs of several shapes, made of nothing but route targets.

use super::*;

#[test]
fn spokes_reach_each_other_through_the_hub_only() {
    // RFC 4364 §4.3.5: the hub imports what spokes export, and exports what they import.
    let mut b = Bench::with(
        config(vec![
            attachment("acme/hub-in", 1, &[10], &[11]),
            attachment("acme/hub-out", 2, &[], &[12]),
            attachment("acme/spoke1", 3, &[12], &[10]),
            attachment("acme/spoke2", 4, &[12], &[10]),
        ]),
        false,
    );
    b.snapshot(0, &[]);
    b.snapshot(2, &["10.3.0.0/16"]);
    b.snapshot(3, &["10.4.0.0/16"]);
    b.update(RR, 51, "10.5.0.0/16", &[10], REMOTE, |_| {});
    assert_eq!(b.told(0), ["10.3.0.0/16 1002", "10.4.0.0/16 1003", "10.5.0.0/16 2051"]);
    assert_eq!((b.told(2), b.told(3)), (vec![], vec![]));
    // The hub's CE says what it heard on the other attachment: our AS number stands in it (allowas-in at the PVM).
    let returned = Attributes { as_path: AsPath::sequence([65101, 65000, 65103]), ..customer() };
    let back = |prefix: &str| CustomerOp::Route { prefix: net(prefix), next_hop: None, attributes: returned.to_bytes() };
    b.snapshot_ops(1, vec![back("10.3.0.0/16"), back("10.4.0.0/16"), route("0.0.0.0/0")]);
    assert_eq!(b.refused, [""; 0]);
    assert_eq!(b.told(2), ["0.0.0.0/0 1001", "10.3.0.0/16 1001", "10.4.0.0/16 1001"]);
    // So it does in what a hub elsewhere says.
    b.update(RR, 52, "10.6.0.0/16", &[12], REMOTE, |a| a.as_path = returned.as_path.clone());
    assert_eq!(b.told(3).len(), 4);
}

#[test]
fn an_extranet_shares_what_carries_its_target() {
    let mut b = Bench::with(
        config(vec![
            attachment("acme/d1", 1, &[100, 900], &[100]),
            attachment("beta/d1", 2, &[200, 900], &[200]),
            attachment("shop/d1", 3, &[100, 200], &[300, 900]),
        ]),
        false,
    );
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(1, &["10.2.0.0/16"]);
    b.snapshot(2, &["10.3.0.0/16"]);
    assert_eq!((b.told(0), b.told(1)), (vec!["10.3.0.0/16 1002".to_owned()], vec!["10.3.0.0/16 1002".to_owned()]));
    assert_eq!(b.told(2), ["10.1.0.0/16 1000", "10.2.0.0/16 1001"]);
}

#[test]
fn a_leak_takes_over_exactly_its_prefixes() {
    let mut attachments = acme_and_beta();
    let leak = |targets: &[u32], prefixes: &[&str]| Leak { import: rts(targets), prefixes: prefixes.iter().map(|p| net(p)).collect() };
    attachments[0].leaks = vec![leak(&[900], &["0.0.0.0/0", "::/0"])];
    let mut b = Bench::with(config(attachments.clone()), false);
    b.snapshot(0, &[]);
    b.snapshot(1, &[]);
    for prefix in ["0.0.0.0/0", "::/0", "8.8.8.0/24"] {
        b.update(RR, 51, prefix, &[900], REMOTE, |_| {});
    }
    b.update(RR, 52, "0.0.0.0/0", &[901], REMOTE, |_| {});
    assert_eq!((b.told(0), b.told(1)), (vec!["0.0.0.0/0 2051".to_owned(), "::/0 2051".to_owned()], vec![]));
    // The VPN's own default comes along if it is as good or better.
    b.update(RR2, 53, "0.0.0.0/0", &[100], REMOTE, |a| a.local_pref = Some(200));
    assert_eq!(b.told(0), ["0.0.0.0/0 2053", "::/0 2051"]);
    // A leak of other prefixes from the same targets.
    attachments[0].leaks = vec![leak(&[900], &["8.8.8.0/24"]), leak(&[901, 902], &["0.0.0.0/0"])];
    b.configure(&attachments);
    b.unreach(RR2, 0, 53, "0.0.0.0/0");
    assert_eq!(b.told(0), ["0.0.0.0/0 2052", "8.8.8.0/24 2051"]);
    attachments[0].leaks = vec![];
    b.configure(&attachments);
    assert_eq!(b.told(0), [""; 0]);
}
