//! Sessions of route reflectors: what holds while one is away.

use super::*;

#[test]
fn a_snapshot_to_a_pvm_stays_open_until_reflectors_and_pvms_have_told_all() {
    let mut b = Bench::with(config(acme_and_beta()[..2].to_vec()), true);
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.end_of_rib(RR2);
    b.vpn.end_of_rib(RR, Family::Vpnv4);
    b.snapshot(1, &["10.1.0.0/16"]);
    b.pass(0.5);
    assert!(!b.pvms[&0].ended);
    b.vpn.end_of_rib(RR, Family::Vpnv6);
    b.pass(0.1);
    assert!(b.pvms[&0].ended && b.pvms[&1].ended);
    assert_eq!(b.told(0), ["10.1.0.0/16 1001", "10.2.0.0/16 2051"]);
    // Nobody is waited for beyond measure.
    let mut b = Bench::with(config(acme_and_beta()), true);
    b.snapshot(0, &[]);
    b.live(29);
    assert!(!b.pvms[&0].ended);
    b.live(2);
    assert!(b.pvms[&0].ended);
}

#[test]
fn a_reflector_that_comes_back_gracefully_disturbs_nothing_it_renews() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    for prefix in ["10.2.0.0/16", "10.3.0.0/16", "2001:db8:2::/48"] {
        b.update(RR, 51, prefix, &[100], REMOTE, |_| {});
    }
    b.down(RR, Some((120, 0)));
    assert!(b.vpn.show_routes(Some(&id("acme/d1"))).iter().all(|r| r.stale));
    b.take_ops(0);
    b.up(RR);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    assert_eq!((b.told(0).len(), b.take_ops(0)), (3, vec![]));
    // Each family has its own end.
    b.vpn.end_of_rib(RR, Family::Vpnv4);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051", "2001:db8:2::/48 2051"]);
    b.end_of_rib(RR);
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
    b.down(RR, Some((120, 0)));
    b.live(119);
    assert_eq!(b.vpn.routes(), 1);
    b.live(2);
    assert_eq!((b.vpn.routes(), b.told(0)), (0, vec![]));
}

#[test]
fn what_is_not_preserved_or_not_agreed_on_again_goes_when_the_session_is_back() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    let both = |b: &mut Bench| ["10.2.0.0/16", "2001:db8:2::/48"].iter().for_each(|p| b.update(RR, 51, p, &[100], REMOTE, |_| {}));
    both(&mut b);
    b.down(RR, Some((120, 0)));
    b.vpn.reflector_up(b.now, RR, &VPN, &[Family::Vpnv6], true);
    b.settle();
    assert_eq!(b.told(0), ["2001:db8:2::/48 2051"]);
    both(&mut b);
    b.end_of_rib(RR);
    b.down(RR, Some((120, 0)));
    b.vpn.reflector_up(b.now, RR, &[Family::Vpnv4], &VPN, true);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
}

#[test]
fn stale_routes_are_not_kept_for_a_second_restart() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.update(RR, 51, "10.3.0.0/16", &[100], REMOTE, |_| {});
    b.down(RR, Some((120, 0)));
    b.up(RR);
    b.update(RR, 51, "10.3.0.0/16", &[100], REMOTE, |_| {});
    b.down(RR, Some((120, 0)));
    assert_eq!(b.told(0), ["10.3.0.0/16 2051"]);
}

#[test]
fn a_long_outage_makes_routes_the_last_resort_and_those_that_forbid_it_go() {
    let mut b = Bench::new();
    b.way(3, Some(way(3, 10)));
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |a| a.local_pref = Some(500));
    b.update(RR2, 52, "10.2.0.0/16", &[100], pe(3), |_| {});
    b.update(RR, 51, "10.3.0.0/16", &[100], REMOTE, |_| {});
    b.update(RR, 51, "10.4.0.0/16", &[100], REMOTE, |a| a.communities = vec![0xffff_0007]);
    b.down(RR, Some((10, 1000)));
    b.live(9);
    assert_eq!(b.told(0), ["10.2.0.0/16 2051", "10.3.0.0/16 2051", "10.4.0.0/16 2051"]);
    b.live(2);
    assert_eq!(b.told(0), ["10.2.0.0/16 2052", "10.3.0.0/16 2051"]);
    assert_eq!(b.paths(0, "10.2.0.0/16"), "2052@3 | 2051@2");
    let told = |b: &Bench| Attributes::from_bytes(&b.pvms[&0].routes[&net("10.3.0.0/16")].0[0].attributes).unwrap().communities;
    assert_eq!(told(&b), [0xffff_0006]);
    // Renewed, a route is as good as ever, and the others wait for the end as they are.
    b.up(RR);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |a| a.local_pref = Some(500));
    assert_eq!((b.paths(0, "10.2.0.0/16"), told(&b).len()), ("2051@2 | 2052@3".into(), 1));
    b.end_of_rib(RR);
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
    b.down(RR, Some((10, 100)));
    b.live(109);
    assert_eq!(b.paths(0, "10.2.0.0/16"), "2052@3 | 2051@2");
    b.live(3);
    assert_eq!(b.paths(0, "10.2.0.0/16"), "2052@3 |");
}

#[test]
fn a_reflector_taken_away_takes_its_routes_along_and_comes_back_as_a_stranger() {
    let mut b = Bench::new();
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.update(RR2, 51, "10.3.0.0/16", &[100], REMOTE, |_| {});
    let without = Config { reflectors: [RR2].into(), ..config(acme_and_beta()) };
    b.vpn.configure(b.now, without);
    // Before anything was cleared away it is there again.
    b.vpn.configure(b.now, config(acme_and_beta()));
    b.up(RR);
    b.settle();
    assert_eq!(b.told(0), ["10.3.0.0/16 2051"]);
}

#[test]
fn a_reflector_without_end_of_rib_has_told_all_when_it_is_quiet() {
    let mut b = Bench::with(config(acme_and_beta()[..1].to_vec()), true);
    b.snapshot(0, &[]);
    b.end_of_rib(RR2);
    b.down(RR, None);
    b.vpn.reflector_up(b.now, RR, &VPN, &VPN, false);
    b.live(1);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.live(1);
    assert!(!b.pvms[&0].ended);
    b.live(2);
    assert!(b.pvms[&0].ended);
}
