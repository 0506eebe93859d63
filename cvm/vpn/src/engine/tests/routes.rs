//! Which routes go where.

use super::*;

#[test]
fn a_customer_route_is_advertised_with_rd_targets_and_label_and_imported_only_in_its_vpn() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16", "2001:db8:1::/48"]);
    b.snapshot(1, &[]);
    b.snapshot(2, &["10.1.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:1 2001:db8:1::/48 1000", "65000:3 10.1.0.0/16 1002"]);
    let (_, a) = &b.advertised[&vpn_key(1, "10.1.0.0/16")];
    assert_eq!((a.route_targets().collect::<BTreeSet<_>>(), a.local_pref), (rts(&[100]), Some(100)));
    // Never back to the attachment it came from, through our own tunnel to the other one, and not to beta.
    assert_eq!((b.told(0), b.told(2)), (vec![], vec![]));
    assert_eq!((b.paths(1, "10.1.0.0/16"), b.paths(1, "2001:db8:1::/48")), ("1000@1 |".into(), "1000@1 |".into()));
    b.withdraw(0, "10.1.0.0/16");
    assert_eq!((b.advertised().len(), b.told(1)), (2, vec!["2001:db8:1::/48 1000".to_owned()]));
}

#[test]
fn routes_of_the_reflector_follow_their_tunnel_and_our_own_are_ignored() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100, 300], REMOTE, |_| {});
    b.update(RR, 51, "2001:db8:2::/48", &[100], REMOTE, |_| {});
    b.update(RR, 51, "10.3.0.0/16", &[100], pe(3), |_| {});
    b.update(RR, 51, "10.4.0.0/16", &[300], REMOTE, |_| {});
    // Our own come back, a loop, a route that names us its originator.
    b.update(RR, 1, "10.5.0.0/16", &[100], pe(1), |_| {});
    b.update(RR, 51, "10.6.0.0/16", &[100], REMOTE, |a| a.as_path = AsPath::sequence(vec![65000; 11]));
    b.update(RR, 51, "10.7.0.0/16", &[100], REMOTE, |a| a.originator_id = Some(pe(1)));
    assert_eq!(b.told(0), ["10.2.0.0/16 2051", "2001:db8:2::/48 2051"]);
    assert_eq!(b.wanted, [pe(1), pe(2), pe(3)].into());
    b.way(3, Some(way(3, 10)));
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051", "10.3.0.0/16 2051", "2001:db8:2::/48 2051"]);
    b.way(2, None);
    b.settle();
    assert_eq!(b.told(0), ["10.3.0.0/16 2051"]);
    b.down(RR, None);
    assert_eq!((b.told(0), b.vpn.routes()), (vec![], 0));
    assert_eq!(b.wanted, [pe(1)].into());
}

#[test]
fn a_next_hop_of_ipv6_and_attributes_too_long_for_a_pvm_take_the_route_away() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    let send = |b: &mut Bench, attributes: Attributes, next_hop: IpAddr| {
        let nlri = Nlri::Vpn { rd: rd(51), prefix: net("2001:db8:2::/48"), label: label(2051) };
        b.vpn.update(b.now, RR, &Arc::new(attributes), next_hop, &[nlri.into()], &[]);
        b.settle();
        b.told(0).len()
    };
    let long = Attributes { communities: (0..2000).collect(), ..remote(&[100]) };
    assert_eq!(send(&mut b, remote(&[100]), REMOTE.into()), 1);
    assert_eq!(send(&mut b, long, REMOTE.into()), 0);
    assert_eq!(send(&mut b, remote(&[100]), REMOTE.into()), 1);
    assert_eq!(send(&mut b, remote(&[100]), "2001:db8::2".parse().unwrap()), 0);
}

#[test]
fn site_of_origin_and_communities_are_carried_both_ways() {
    let mut b = Bench::new();
    let soo = [0, 3, 0xfd, 0xe8, 0, 0, 0, 77];
    b.snapshot(1, &[]);
    let attributes = Attributes { ext_communities: vec![soo], communities: vec![7], large_communities: vec![[1, 2, 3]], ..customer() };
    b.snapshot_ops(0, vec![CustomerOp::Route { prefix: net("10.1.0.0/16"), next_hop: None, attributes: attributes.to_bytes() }]);
    let (_, a) = &b.advertised[&vpn_key(1, "10.1.0.0/16")];
    let carried = |a: &Attributes| a.ext_communities.contains(&soo) && a.communities == [7] && a.large_communities == [[1, 2, 3]];
    assert!(carried(a));
    let told = &b.pvms[&1].routes[&net("10.1.0.0/16")].0[0];
    assert!(carried(&Attributes::from_bytes(&told.attributes).unwrap()));
}

#[test]
fn a_new_attachment_gets_what_is_already_there_and_a_deleted_one_takes_its_routes_along() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    for n in 0..20 {
        b.update(RR, 51, &format!("10.2.{n}.0/24"), &[200], REMOTE, |_| {});
    }
    let generation = b.vpn.generation();
    let mut more = acme_and_beta();
    more.push(attachment("gamma/g1", 4, &[100, 200], &[400]));
    b.configure(&more);
    assert_ne!(b.vpn.generation(), generation);
    b.snapshot(3, &["10.9.0.0/16"]);
    assert_eq!(b.told(3).len(), 21);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:4 10.9.0.0/16 1003"]);

    more.remove(0);
    b.configure(&more);
    assert_eq!(b.advertised(), ["65000:4 10.9.0.0/16 1003"]);
    assert_eq!(b.told(3).len(), 20);
    assert!(b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::NotYours })));
    assert!(matches!(b.vpn.show_labels()[0].state, crate::LabelState::Quarantine(_)));
}

#[test]
fn changed_targets_and_rds_move_routes_and_nothing_else() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(2, &["10.3.0.0/16"]);
    b.advertised.retain(|k, _| *k != vpn_key(3, "10.3.0.0/16"));
    let mut changed = acme_and_beta();
    changed[0] = attachment("acme/d1", 1, &[200], &[200]);
    b.configure(&changed);
    // beta was not advertised again: nothing about it changed.
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    assert_eq!((b.told(0), b.told(2)), (vec!["10.3.0.0/16 1002".to_owned()], vec!["10.1.0.0/16 1000".to_owned()]));
    changed[0].rd = rd(77);
    b.configure(&changed);
    assert_eq!(b.advertised(), ["65000:77 10.1.0.0/16 1000"]);
    assert_eq!(b.told(2), ["10.1.0.0/16 1000"]);
}

#[test]
fn two_attachments_may_swap_their_route_distinguishers() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.snapshot(1, &["10.1.0.0/16"]);
    let mut swapped = acme_and_beta();
    (swapped[0].rd, swapped[1].rd) = (rd(2), rd(1));
    b.configure(&swapped);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1001", "65000:2 10.1.0.0/16 1000", "65000:2 10.2.0.0/16 1000"]);
    assert_eq!(b.told(1), ["10.1.0.0/16 1000", "10.2.0.0/16 1000"]);
}

#[test]
fn a_route_said_anew_while_what_was_said_before_is_leaving_stays() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.snapshot(1, &[]);
    let mut moved = acme_and_beta();
    moved[0].rd = rd(77);
    b.vpn.configure(b.now, config(moved));
    b.vpn.configure(b.now, config(acme_and_beta()));
    let other = Attributes { med: Some(7), ..customer() };
    let change = CustomerOp::Route { prefix: net("10.1.0.0/16"), next_hop: None, attributes: other.to_bytes() };
    b.ops(0, vec![change, CustomerOp::Withdraw { prefix: net("10.2.0.0/16") }]);
    assert_eq!((b.advertised(), b.told(1)), (vec!["65000:1 10.1.0.0/16 1000".to_owned()], vec!["10.1.0.0/16 1000".to_owned()]));
}

#[test]
fn a_path_that_goes_while_targets_change_is_not_left_behind() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(1, &[]);
    let mut changed = acme_and_beta();
    changed[1] = attachment("acme/d2", 2, &[], &[100]);
    b.vpn.configure(b.now, config(changed));
    b.withdraw(0, "10.1.0.0/16");
    assert_eq!(b.told(1), [""; 0]);
}

#[test]
fn a_target_taken_away_holds_before_the_table_has_been_gone_through() {
    let mut b = Bench::new();
    b.snapshot(1, &[]);
    (0..50).for_each(|n| b.update(RR, 51, &format!("10.2.{n}.0/24"), &[100], REMOTE, |_| {}));
    assert_eq!(b.told(1).len(), 50);
    let mut changed = acme_and_beta();
    changed[1] = attachment("acme/d2", 2, &[], &[100]);
    b.vpn.configure(b.now, config(changed));
    b.messages();
    assert_eq!(b.told(1), [""; 0]);
}

#[test]
fn what_is_imported_is_what_the_reflectors_are_told_to_send() {
    let mut b = Bench::new();
    let targets = |b: &Bench| {
        let membership = |k: &NlriKey| if let NlriKey::RouteTarget(m) = k { Some(m.to_string()) } else { None };
        b.advertised.keys().filter_map(membership).collect::<Vec<_>>()
    };
    assert_eq!(targets(&b), ["65000:65000:100", "65000:65000:200"]);
    let mut changed = acme_and_beta();
    changed[2].import = rts(&[100]);
    changed[1].leaks = vec![Leak { import: rts(&[900, 901]), prefixes: [net("0.0.0.0/0")].into() }];
    b.configure(&changed);
    assert_eq!(targets(&b), ["65000:65000:100", "65000:65000:900", "65000:65000:901"]);
    // A reflector that is new hears of them first.
    b.snapshot(0, &["10.1.0.0/16"]);
    let all: Vec<bool> = b.vpn.exports().map(|(nlri, _)| matches!(nlri, Nlri::RouteTarget(_))).collect();
    assert_eq!(all, [true, true, true, false]);
}
