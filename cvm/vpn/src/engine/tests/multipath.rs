//! Several paths of one prefix: used together, standing by, or neither.

use super::*;

/// acme/d1 uses two paths together; PE 2, 3 and 4 are equally far.
fn bench(max_paths: u8) -> Bench {
    let mut attachments = acme_and_beta();
    attachments.iter_mut().for_each(|a| a.max_paths = max_paths);
    let mut b = Bench::with(config(attachments), false);
    (3..5).for_each(|n| b.way(n, Some(way(n, 10))));
    b.snapshot(0, &[]);
    b
}

const P: &str = "10.2.0.0/16";

#[test]
fn equal_paths_of_different_rds_are_used_together_and_the_next_stands_by() {
    let mut b = bench(2);
    b.update(RR, 51, P, &[100], REMOTE, |_| {});
    assert_eq!(b.paths(0, P), "2051@2 |");
    b.update(RR, 52, P, &[100], pe(3), |_| {});
    assert_eq!(b.paths(0, P), "2051@2 2052@3 |");
    b.update(RR, 53, P, &[100], pe(4), |_| {});
    assert_eq!(b.paths(0, P), "2051@2 2052@3 | 2053@4");
    // No longer as near: a backup.
    b.way(2, Some(way(2, 11)));
    b.settle();
    assert_eq!(b.paths(0, P), "2052@3 2053@4 | 2051@2");
    b.update(RR, 53, P, &[100], pe(4), |a| a.local_pref = Some(90));
    assert_eq!(b.paths(0, P), "2052@3 | 2051@2");
    b.update(RR, 53, P, &[100], pe(4), |a| a.local_pref = Some(110));
    assert_eq!(b.paths(0, P), "2053@4 | 2052@3");
}

#[test]
fn one_path_is_told_where_one_is_wanted_and_a_change_of_that_holds_at_once() {
    let mut b = bench(1);
    b.update(RR, 51, P, &[100], REMOTE, |_| {});
    b.update(RR, 52, P, &[100], pe(3), |_| {});
    assert_eq!(b.paths(0, P), "2051@2 | 2052@3");
    let mut attachments = acme_and_beta();
    attachments[0].max_paths = 2;
    b.configure(&attachments);
    assert_eq!(b.paths(0, P), "2051@2 2052@3 |");
    attachments[0].max_paths = 0;
    b.configure(&attachments);
    assert_eq!(b.paths(0, P), "2051@2 | 2052@3");
}

#[test]
fn what_two_reflectors_say_alike_is_one_path() {
    let mut b = bench(4);
    for rr in [RR, RR2] {
        b.update(rr, 51, P, &[100], REMOTE, |a| a.cluster_list = vec![rr]);
    }
    assert_eq!(b.paths(0, P), "2051@2 |");
    b.take_ops(0);
    b.unreach(RR, 0, 51, P);
    assert_eq!(b.paths(0, P), "2051@2 |");
    b.unreach(RR2, 0, 51, P);
    assert_eq!(b.paths(0, P), "");
}

#[test]
fn a_backup_never_shares_the_tunnel_of_what_it_stands_by_for() {
    let mut b = bench(1);
    // Two VRFs of one PE: two labels behind one tunnel.
    b.update(RR, 51, P, &[100], REMOTE, |_| {});
    b.update(RR, 52, P, &[100], REMOTE, |a| a.local_pref = Some(90));
    assert_eq!(b.paths(0, P), "2051@2 |");
    b.update(RR, 53, P, &[100], pe(3), |a| a.local_pref = Some(80));
    assert_eq!(b.paths(0, P), "2051@2 | 2053@3");
}

#[test]
fn paths_with_identifiers_of_one_reflector_stand_beside_each_other() {
    let mut b = bench(2);
    b.update_path(RR, 7, 51, P, &[100], REMOTE, |_| {});
    b.update_path(RR, 3, 51, P, &[100], pe(3), |_| {});
    b.update_path(RR, 9, 51, P, &[100], pe(4), |a| a.local_pref = Some(90));
    assert_eq!(b.paths(0, P), "2051@3 2051@2 | 2051@4");
    // The same identifier replaces.
    b.update_path(RR, 3, 51, P, &[100], pe(4), |_| {});
    assert_eq!(b.paths(0, P), "2051@4 2051@2 |");
    b.unreach(RR, 7, 51, P);
    b.unreach(RR, 8, 51, P);
    assert_eq!(b.paths(0, P), "2051@4 |");
    assert_eq!(b.vpn.routes(), 1);
}

#[test]
fn two_sites_here_share_the_load_and_a_route_learnt_here_comes_before_a_remote_one() {
    let mut attachments = acme_and_beta();
    attachments.push(attachment("acme/d3", 4, &[100], &[100]));
    attachments[0].max_paths = 4;
    let mut b = Bench::with(config(attachments), false);
    b.snapshot(0, &[]);
    b.snapshot(1, &[P]);
    b.snapshot(3, &[P]);
    b.update(RR, 51, P, &[100], REMOTE, |_| {});
    // RFC 4271 §9.1.2.2 d: the remote one stands by, our own loopback being one tunnel.
    assert_eq!(b.paths(0, P), "1001@1 1002@1 | 2051@2");
    b.way(1, None);
    b.settle();
    assert_eq!(b.paths(0, P), "2051@2 |");
}

#[test]
fn a_route_of_ours_is_advertised_though_a_remote_one_is_better() {
    // Best external: the other PE of a dual-homed site learns that there is a second way.
    let mut b = bench(1);
    b.update(RR, 51, P, &[100], REMOTE, |a| a.local_pref = Some(200));
    b.snapshot(1, &[P]);
    assert_eq!(b.paths(0, P), "2051@2 | 1001@1");
    assert_eq!(b.advertised(), ["65000:2 10.2.0.0/16 1001"]);
    b.update(RR, 2, P, &[100], REMOTE, |a| a.local_pref = Some(300));
    assert_eq!(b.advertised(), ["65000:2 10.2.0.0/16 1001"]);
}

#[test]
fn a_route_that_someone_keeps_through_a_long_outage_is_the_last_resort() {
    let mut b = bench(2);
    b.update(RR, 51, P, &[100], REMOTE, |a| {
        a.local_pref = Some(900);
        a.communities = vec![0xffff_0006];
    });
    assert_eq!(b.paths(0, P), "2051@2 |");
    b.update(RR, 52, P, &[100], pe(3), |_| {});
    assert_eq!(b.paths(0, P), "2052@3 | 2051@2");
}

#[test]
fn the_views_say_what_is_used_and_what_stands_by() {
    let mut b = bench(2);
    b.update(RR, 51, P, &[100], REMOTE, |_| {});
    b.update(RR, 52, P, &[100], pe(3), |_| {});
    b.update(RR2, 53, P, &[100], pe(4), |a| a.local_pref = Some(1));
    b.update(RR2, 54, P, &[100], pe(7), |_| {});
    let flags: Vec<_> = b
        .vpn
        .show_routes(Some(&id("acme/d1")))
        .iter()
        .map(|r| (r.label.get(), r.best, r.multipath, r.backup, r.tunnel.is_some()))
        .collect();
    let expected = [
        (2051, true, false, false, true),
        (2052, false, true, false, true),
        (2053, false, false, true, true),
        (2054, false, false, false, false),
    ];
    assert_eq!(flags, expected);
    assert!(b.vpn.show_routes(None).iter().all(|r| r.best == r.tunnel.is_some()));
}
