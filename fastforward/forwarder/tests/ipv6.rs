//! IPv6 through the port VM's pipeline, as frames in and the exact frames out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::v6::*;
use common::*;
use edgeplex_ff_fib_api::*;
use edgeplex_forwarder::Port::{self, Core, Customer, Tap};
use edgeplex_types::MacAddr;

const MOVED: [u8; 6] = [2, 0, 0, 0, 0, 0xcf];

fn interface6(customer_mtu: u16, core_mtu: u16) -> FibOp {
    let addresses = ["192.168.1.1/30", "fe80::1/64", "2001:db8:f::1/64"].map(|a| a.parse().unwrap()).to_vec();
    FibOp::Interface(Interface { mac: MacAddr(OURS), addresses, customer_mtu, core_mtu })
}

/// A host behind the CE, one behind the far PE, and one whose next hop is the CE's link-local address.
fn cold() -> Bench {
    let mut b = Bench::cold();
    b.program(vec![
        interface6(1500, 1600),
        route("2001:db8:1::/48", Target::Customer { next_hop: CE6.parse().unwrap() }),
        route("2001:db8:2::/48", vpn(2002, 7)),
        route("2001:db8:3::/48", Target::Customer { next_hop: CE_LINK.parse().unwrap() }),
        route("2001:db8:4::/48", Target::Unreachable),
        route("2001:db8:f::/64", Target::Connected),
        route("2001:db8:f::1/128", Target::Local),
    ]);
    b
}

fn solicits(src: &str, target: &str, mac: [u8; 6]) -> Vec<u8> {
    let [.., a, b, c] = octets(target);
    let group = format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}");
    nd(135, 0, src, &group, target, mac).to_group(mac)
}

/// Both addresses of the CE have asked for us.
fn warm() -> Bench {
    let mut b = cold();
    for (ce, ours) in [(CE6, OUR6), (CE_LINK, OUR_LINK)] {
        let answer = nd(136, 0xe0, ours, ce, ours, OURS).to_ce();
        assert_eq!(b.put(Customer, &solicits(ce, ours, CE)), [(Customer, answer)]);
    }
    b
}

fn labelled(p: &Ip6) -> Vec<u8> {
    p.p_sends(&[lse(OWN_LABEL, 0, true, 64)])
}

#[test]
fn customer_to_core_and_back_with_hop_limit_and_traffic_class() {
    let mut b = warm();
    let p = udp6(NEAR6, FAR6).class(0xb8).flow(0x12345);
    let want = p.clone().hops(63).to_p(&[lse(16, 5, false, 63), lse(2002, 5, true, 63)]);
    assert_eq!(b.put(Customer, &p.ce_sends()), [(Core, want)]);
    for (label_ttl, hops, out) in [(200, 64, 63), (9, 64, 8), (2, 255, 1)] {
        let p = udp6(FAR6, NEAR6).hops(hops);
        // Explicit null of either version may stand in front.
        for null in [0, 2] {
            let frame = p.p_sends(&[lse(null, 0, false, 255), lse(OWN_LABEL, 0, true, label_ttl)]);
            assert_eq!(b.put(Core, &frame), [(Customer, p.clone().hops(out).to_ce())]);
        }
    }
    // Through a link-local next hop, and to a host on the subnet itself.
    let p = udp6(FAR6, "2001:db8:3::5");
    assert_eq!(b.put(Core, &labelled(&p)), [(Customer, p.hops(63).to_ce())]);
    let mut padded = udp6(NEAR6, FAR6).ce_sends();
    padded.resize(200, 0xee);
    assert_eq!(b.put(Customer, &padded)[0].1.len(), 14 + 8 + 56);
}

#[test]
fn a_label_of_a_ce_needs_no_route() {
    let mut b = warm();
    let own = |n, ce: &str| FibOp::OwnLabel { label: label(n), next_hop: Some(ce.parse().unwrap()) };
    b.program(vec![own(1002, CE6), own(1003, CE_IP)]);
    let p = udp6(FAR6, "2001:db8:99::1");
    assert_eq!(b.put(Core, &p.p_sends(&[lse(1002, 0, true, 9)])), [(Customer, p.clone().hops(8).to_ce())]);
    // IPv6 behind an IPv4 next hop (RFC 8950): asked for by ARP.
    let ask = arp(ALL, OURS, 1, OURS, OUR_IP, [0; 6], CE_IP);
    assert_eq!(b.put(Core, &p.p_sends(&[lse(1003, 0, true, 9)])), [(Customer, ask)]);
    let reply = arp(OURS, CE, 2, CE, CE_IP, OURS, OUR_IP);
    assert_eq!(b.put(Customer, &reply)[0], (Customer, p.clone().hops(8).to_ce()));
    let told = labelled6(OUR6, 3, 0, &p.bytes(), &[lse(1002, 0, true, 1)], FAR6).to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]);
    assert_eq!(b.dropped(Core, &p.p_sends(&[lse(1002, 0, true, 1)]), "ttl-expired"), [(Core, told)]);
    b.program(vec![FibOp::OwnLabelGone { label: label(1002) }]);
    assert_eq!(b.dropped(Core, &p.p_sends(&[lse(1002, 0, true, 9)]), "label-unknown"), []);
}

#[test]
fn errors_are_told_with_the_stack_if_there_was_one() {
    let mut b = warm();
    let p = udp6(NEAR6, FAR6).hops(1);
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "ttl-expired"), [(Customer, error6(3, 0, 0, &p.bytes(), NEAR6).to_ce())]);
    let p = udp6(NEAR6, "2001:db8:99::1");
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "no-route"), [(Customer, error6(1, 0, 0, &p.bytes(), NEAR6).to_ce())]);
    let p = udp6(NEAR6, "2001:db8:4::1");
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "route-unreachable"), [(Customer, error6(1, 0, 0, &p.bytes(), NEAR6).to_ce())]);
    let stack = [lse(OWN_LABEL, 2, true, 1)];
    let p = udp6(FAR6, NEAR6);
    let told = labelled6(OUR6, 3, 0, &p.bytes(), &stack, FAR6).to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]);
    assert_eq!(b.dropped(Core, &p.p_sends(&stack), "ttl-expired"), [(Core, told)]);
    // RFC 4443 §2.4 (e): nothing about errors, groups and nobody.
    let error = icmp6(NEAR6, "2001:db8:99::1", 64, 0, vec![1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(b.dropped(Customer, &error.ce_sends(), "no-route"), []);
    let flood: usize = (0..400).map(|_| b.put(Customer, &udp6(NEAR6, "2001:db8:99::1").ce_sends()).len()).sum();
    assert_eq!(flood, 256 - 4);
    assert!(b.counters().drops.contains(&("icmp-rate-limited".into(), 400 - 252)));
}

#[test]
fn too_big_is_told_and_never_cut() {
    let mut b = warm();
    b.program(vec![interface6(1500, 1500)]);
    assert_eq!(b.put(Customer, &udp6(NEAR6, FAR6).len(1492).ce_sends())[0].1.len(), 14 + 1500);
    let p = udp6(NEAR6, FAR6).len(1493);
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "mtu-exceeded"), [(Customer, error6(2, 0, 1492, &p.bytes(), NEAR6).to_ce())]);
    b.program(vec![interface6(1300, 1600)]);
    // RFC 4884 §4.6: packet too big carries no extension.
    let p = udp6(FAR6, NEAR6).len(1301);
    let told = error6(2, 0, 1300, &p.bytes(), FAR6).to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]);
    assert_eq!(b.dropped(Core, &labelled(&p), "mtu-exceeded"), [(Core, told)]);
}

#[test]
fn own_addresses_are_punted_and_the_kernel_is_routed() {
    let mut b = warm();
    for own in [OUR6, OUR_LINK] {
        let frame = udp6(CE_LINK, own).hops(1).ce_sends();
        assert_eq!(b.put(Customer, &frame), [(Tap, frame)], "{own}");
    }
    let p = udp6(FAR6, OUR6);
    assert_eq!(b.put(Core, &p.p_sends(&[lse(OWN_LABEL, 0, true, 9)])), [(Tap, p.hops(9).to_kernel())]);
    // BGP and BFD have a policer of their own.
    (0..600).for_each(|_| drop(b.put(Customer, &udp6(CE6, OUR6).ce_sends())));
    let (mut bgp, mut bfd) = (udp6(CE_LINK, OUR_LINK), udp6(CE_LINK, OUR_LINK).hops(255));
    (bgp.next, bgp.payload[3]) = (6, 179);
    (bfd.payload[2], bfd.payload[3]) = (0x0e, 0xc8);
    for frame in [bgp.ce_sends(), bfd.ce_sends()] {
        assert_eq!(b.put(Customer, &frame), [(Tap, frame)]);
    }
    let p = udp6(OUR6, FAR6).hops(7);
    assert_eq!(b.put(Tap, &p.kernel_sends()), [(Core, p.to_p(&[lse(16, 0, false, 7), lse(2002, 0, true, 7)]))]);
    let to_group = nd(135, 0, OUR_LINK, "ff02::1:ff00:2", CE_LINK, OURS).to_group(OURS);
    assert_eq!(b.put(Tap, &to_group), [(Customer, to_group)]);
    assert_eq!(b.dropped(Tap, &udp6(OUR6, "ff02::5").kernel_sends(), "not-unicast"), []);
    assert_eq!(b.dropped(Tap, &udp6(OUR_LINK, CE_LINK).kernel_sends(), "link-local"), []);
    assert_eq!(b.dropped(Tap, &udp6(OUR6, OUR6).kernel_sends(), "tap-loop"), []);
}

#[test]
fn what_no_router_forwards() {
    let mut b = warm();
    for (p, reason) in [
        (udp6(OUR6, FAR6), "source-own-address"),
        (udp6(OUR_LINK, FAR6), "source-own-address"),
        (udp6("::", FAR6), "martian-source"),
        (udp6("::1", FAR6), "martian-source"),
        (udp6("ff02::1", FAR6), "martian-source"),
        (udp6("::ffff:10.1.0.9", FAR6), "martian-source"),
        (udp6(NEAR6, "::1"), "martian-destination"),
        (udp6(NEAR6, "::ffff:10.1.0.9"), "martian-destination"),
        (udp6(NEAR6, "ff0e::1"), "not-unicast"),
        // RFC 4291 §2.5.6.
        (udp6(CE_LINK, FAR6), "link-local"),
        (udp6(NEAR6, "fe80::99"), "link-local"),
    ] {
        assert_eq!(b.dropped(Customer, &p.ce_sends(), reason), [], "{} → {}", p.src, p.dst);
        assert_eq!(b.dropped(Core, &labelled(&p), reason), [], "{} → {}", p.src, p.dst);
    }
    let group = udp6(CE_LINK, "ff02::5").to_group(CE);
    assert_eq!(b.dropped(Customer, &group, "not-unicast"), []);
    assert_eq!(b.dropped(Customer, &eth(PE, CE, 0x86dd, &udp6(NEAR6, FAR6).bytes()), "mac-not-ours"), []);
    let p = udp6(NEAR6, FAR6).bytes();
    let version4 = [&[0x45][..], &p[1..]].concat();
    assert_eq!(b.dropped(Customer, &eth(OURS, CE, 0x86dd, &version4), "ip-version"), []);
    assert_eq!(b.dropped(Customer, &eth(OURS, CE, 0x86dd, &p[..50]), "ip-truncated"), []);
    // RFC 4659: what a P router without IPv6 addresses says comes from the prefix of RFC 8215.
    let p = udp6("64:ff9b:1::a00:101", NEAR6);
    assert_eq!(b.put(Core, &labelled(&p)), [(Customer, p.hops(63).to_ce())]);
}

fn asks(to: &str, unicast: bool) -> (Port, Vec<u8>) {
    let from = if to.starts_with("fe80") { OUR_LINK } else { OUR6 };
    let frame = if unicast { nd(135, 0, from, to, to, OURS).to_ce() } else { solicits(from, to, OURS) };
    (Customer, frame)
}

fn advertises(flags: u8, mac: [u8; 6]) -> Vec<u8> {
    eth(OURS, mac, 0x86dd, &nd(136, flags, CE6, OUR6, CE6, mac).bytes())
}

#[test]
fn packets_wait_for_the_advertisement_and_unreachable_is_told() {
    let mut b = cold();
    let p = udp6(FAR6, NEAR6);
    assert_eq!(b.put(Core, &labelled(&p)), [asks(CE6, false)]);
    assert_eq!(b.put(Core, &labelled(&p)), []);
    let advertisement = advertises(0x60, CE);
    let sent = (Customer, p.clone().hops(63).to_ce());
    assert_eq!(b.put(Customer, &advertisement), [sent.clone(), sent, (Tap, advertisement)]);
    // It is confirmed by unicast, from the address of its own scope.
    assert_eq!(b.wait(30_000), [asks(CE6, true)]);
    assert_eq!(b.put(Core, &labelled(&udp6(FAR6, "2001:db8:3::1"))), [asks(CE_LINK, false)]);
    let told = error6(1, 3, 0, &udp6(FAR6, "2001:db8:3::1").hops(63).bytes(), FAR6);
    let out = b.wait(3000);
    assert!(out.contains(&(Core, told.to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]))));
    assert_eq!(b.counters().drops, [("neighbour-unreachable".into(), 1)]);
}

#[test]
fn an_advertisement_without_override_displaces_nobody() {
    let mut b = warm();
    let to = |mac: [u8; 6]| (Customer, eth(mac, OURS, 0x86dd, &udp6(FAR6, NEAR6).hops(63).bytes()));
    b.put(Customer, &advertises(0x40, MOVED));
    assert_eq!(b.put(Core, &labelled(&udp6(FAR6, NEAR6))), [to(CE)]);
    // RFC 4861 §7.2.6: unsolicited, to all, with override: it has moved, and the kernel is to hear of it.
    let moved = nd(136, 0x20, CE6, "ff02::1", CE6, MOVED).to_group(MOVED);
    assert_eq!(b.put(Customer, &moved), [(Tap, moved)]);
    assert_eq!(b.put(Core, &labelled(&udp6(FAR6, NEAR6))), [to(MOVED)]);
}

#[test]
fn discovery_that_lies_or_concerns_others_changes_nothing() {
    let mut b = warm();
    let mut far = nd(135, 0, CE6, OUR6, OUR6, MOVED);
    far.hops = 254;
    let router = icmp6(CE_LINK, "ff02::2", 255, 0, vec![133, 0, 0, 0, 0, 0, 0, 0]);
    let advertised = icmp6(CE_LINK, "ff02::1", 255, 0, [&[134][..], &[0; 23]].concat());
    for (frame, reason) in [
        (solicits("2001:db8:bad::1", OUR6, MOVED), "nd-foreign"),
        (solicits(OUR6, OUR6, MOVED), "nd-conflict"),
        (solicits(CE6, OUR6, OURS), "source-mac"),
        (eth(OURS, MOVED, 0x86dd, &nd(135, 0, CE6, OUR6, OUR6, OURS).bytes()), "nd-conflict"),
        (eth(OURS, MOVED, 0x86dd, &nd(136, 0x60, CE6, OUR6, OUR6, MOVED).bytes()), "nd-conflict"),
        (eth(OURS, MOVED, 0x86dd, &nd(135, 0, CE6, OUR6, OUR6, [0xff; 6]).bytes()), "nd-malformed"),
        (eth(OURS, MOVED, 0x86dd, &far.bytes()), "nd-malformed"),
        (solicits(CE6, "2001:db8:f::77", CE), "nd-not-for-us"),
        (router.to_group(CE), "nd-not-for-us"),
        (advertised.to_group(CE), "nd-not-for-us"),
    ] {
        assert_eq!(b.dropped(Customer, &frame, reason), []);
    }
    assert_eq!(b.put(Core, &labelled(&udp6(FAR6, NEAR6))), [(Customer, udp6(FAR6, NEAR6).hops(63).to_ce())]);
    // RFC 4861 §7.2.4: who tries our address is told before all, and teaches nothing.
    let probe = icmp6("::", "ff02::1:ff00:1", 255, 0, [&[135, 0, 0, 0, 0, 0, 0, 0][..], &octets(OUR6)].concat());
    let answer = nd(136, 0xa0, OUR6, "ff02::1", OUR6, OURS).to_group(OURS);
    assert_eq!(b.put(Customer, &probe.to_group(MOVED)), [(Customer, answer)]);
}

#[test]
fn a_scan_of_the_subnet_leaves_ipv4_alone() {
    let mut b = cold();
    let asked: usize = (0..3000u32).map(|i| b.put(Core, &labelled(&udp6(FAR6, &format!("2001:db8:f::{:x}", i + 100)))).len()).sum();
    assert_eq!(asked, 56);
    assert_eq!(b.put(Core, &udp(FAR, NEAR).p_sends(&[lse(OWN_LABEL, 0, true, 9)])).len(), 1, "the CE is asked for");
    let Reply::Adjacencies { rows } = b.ask(Request::Adjacencies) else { panic!() };
    assert_eq!((rows.len(), rows[0].address.is_ipv4(), rows[1].address.is_ipv6()), (57, true, true));
    assert_eq!(b.wait(3000).iter().filter(|f| f.1[12] == 0x86).count(), 2 * 56, "asked three times each");
}

#[test]
fn flows_spread_over_paths_and_legs_and_stay_together() {
    let mut b = warm();
    let far = |n: u8| [2, 0, 0, 0, 9, n];
    let two = |id: u32, n: u8| legs(id, vec![leg(0, &[16], PE, far(n)), leg(0, &[17], PE, far(n + 1))]);
    let target = Target::Vpn { paths: vec![path(3001, 20), path(3002, 21)], backup: vec![] };
    b.program(vec![two(20, 0), two(21, 2), route("2001:db8:2::/48", target)]);
    let mut seen = std::collections::BTreeMap::<u8, usize>::new();
    for flow in 1..=1000u32 {
        let first = b.put(Customer, &udp6(NEAR6, FAR6).flow(flow).ce_sends());
        // RFC 6438: other ports, the same flow label.
        let mut other = udp6(NEAR6, FAR6).flow(flow);
        other.payload[1] ^= 0x55;
        assert_eq!(b.put(Customer, &other.ce_sends())[0].1[..18], first[0].1[..18]);
        *seen.entry(first[0].1[5]).or_default() += 1;
    }
    assert!(seen.len() == 4 && seen.values().all(|n| (190..310).contains(n)), "{seen:?}");
    let Reply::TunnelCounts { rows } = b.ask(Request::TunnelCounts) else { panic!() };
    let counted = rows.iter().find(|r| r.id.0 == 20).unwrap().legs.iter().map(|c| c.packets).sum::<u64>();
    assert_eq!(usize::try_from(counted).unwrap(), 2 * (seen[&0] + seen[&1]));
}

#[test]
fn backups_take_over_while_no_path_has_a_leg() {
    let mut b = warm();
    let target = Target::Vpn { paths: vec![path(3001, 20), path(3002, 21)], backup: vec![path(3003, 7)] };
    let frame = udp6(NEAR6, FAR6).ce_sends();
    let label_of = |out: Vec<(Port, Vec<u8>)>| out.first().map(|f| u32::from_be_bytes([0, f.1[18], f.1[19], f.1[20]]) >> 4);
    b.program(vec![route("2001:db8:2::/48", target.clone())]);
    assert_eq!(label_of(b.put(Customer, &frame)), Some(3003), "neither tunnel has come");
    b.program(vec![tunnel(21, &[99])]);
    assert_eq!(label_of(b.put(Customer, &frame)), Some(3002));
    // Out of reach: there, and without a leg.
    b.program(vec![legs(21, vec![])]);
    assert_eq!(label_of(b.put(Customer, &frame)), Some(3003));
    let found = Some(("2001:db8:2::/48".parse().unwrap(), target));
    assert_eq!(b.ask(Request::Lookup { address: FAR6.parse().unwrap() }), Reply::Lookup { found });
    b.program(vec![legs(7, vec![])]);
    assert_eq!(b.dropped(Customer, &frame, "tunnel-down"), []);
}
