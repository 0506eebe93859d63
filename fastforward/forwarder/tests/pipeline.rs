//! Each behaviour of the pipeline as a frame in and the exact frames out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::*;
use edgeplex_ff_fib_api::*;
use edgeplex_forwarder::Port::{Core, Customer, Tap};
use edgeplex_types::{Epoch, TunnelId};

#[test]
fn customer_to_core_pushes_vpn_and_transport_label_with_ttl_and_tc() {
    let mut b = Bench::warm();
    let p = udp(NEAR, FAR).tos(0xb8);
    let want = p.clone().ttl(63).to_p(&[lse(16, 5, false, 63), lse(2002, 5, true, 63)]);
    assert_eq!(b.put(Customer, &p.ce_sends()), [(Core, want)]);
    // RFC 3032 §3.16: after implicit null the VPN label travels alone.
    let p = udp(NEAR, FAR_PHP);
    assert_eq!(b.put(Customer, &p.ce_sends()), [(Core, p.ttl(63).to_p(&[lse(2003, 0, true, 63)]))]);
}

#[test]
fn ethernet_padding_is_not_carried_on() {
    let mut b = Bench::warm();
    let p = udp(NEAR, FAR_PHP);
    let mut frame = p.ce_sends();
    frame.resize(60, 0xee);
    assert_eq!(b.put(Customer, &frame), [(Core, p.ttl(63).to_p(&[lse(2003, 0, true, 63)]))]);
}

#[test]
fn core_to_customer_pops_and_takes_the_lower_ttl() {
    let mut b = Bench::warm();
    for (label_ttl, ip_ttl, out) in [(200, 64, 63), (9, 64, 8), (64, 64, 63), (2, 255, 1)] {
        let p = udp(FAR, NEAR).ttl(ip_ttl);
        let frame = p.p_sends(&[lse(OWN_LABEL, 0, true, label_ttl)]);
        assert_eq!(b.put(Core, &frame), [(Customer, p.ttl(out).to_ce())]);
    }
    // RFC 4182: explicit null in front is popped; its TTL counts too.
    let p = udp(FAR, NEAR);
    let frame = p.p_sends(&[lse(0, 0, false, 5), lse(OWN_LABEL, 0, true, 60)]);
    assert_eq!(b.put(Core, &frame), [(Customer, p.ttl(4).to_ce())]);
}

#[test]
fn only_our_label_at_the_bottom_is_taken() {
    let mut b = Bench::warm();
    let p = udp(FAR, NEAR);
    for (stack, reason) in [
        (vec![lse(1002, 0, true, 9)], "label-unknown"),
        (vec![lse(0, 0, true, 9)], "label-unknown"),
        (vec![lse(3, 0, false, 9), lse(OWN_LABEL, 0, true, 9)], "label-unknown"),
        (vec![lse(OWN_LABEL, 0, false, 9), lse(OWN_LABEL, 0, true, 9)], "label-not-bottom"),
        ([vec![lse(0, 0, false, 9); 16], vec![lse(OWN_LABEL, 0, true, 9)]].concat(), "label-stack-depth"),
    ] {
        assert_eq!(b.dropped(Core, &p.p_sends(&stack), reason), []);
    }
    let deep = [vec![lse(0, 0, false, 64); 15], vec![lse(OWN_LABEL, 0, true, 64)]].concat();
    assert_eq!(b.put(Core, &p.p_sends(&deep)).len(), 1);
    assert_eq!(b.dropped(Core, &p.p_sends(&[lse(0, 0, false, 9)])[..18], "mpls-malformed"), []);
    assert_eq!(b.dropped(Core, &eth(PE, P, 0x0800, &p.bytes()), "ethertype-unknown"), []);
}

#[test]
fn ttl_expires_on_both_sides_and_the_source_is_told() {
    let mut b = Bench::warm();
    for (i, ttl) in [(1, 1), (2, 0)] {
        let p = udp(NEAR, FAR).ttl(ttl);
        let want = icmp(11, 0, 0, i, &p.bytes(), NEAR).to_ce();
        assert_eq!(b.dropped(Customer, &p.ce_sends(), "ttl-expired"), [(Customer, want)]);
    }
    let p = udp(FAR, NEAR).ttl(64);
    // From the core the answer goes back into the tunnel, and says under what stack the packet came.
    let stack = [lse(0, 3, false, 7), lse(OWN_LABEL, 0, true, 1)];
    let told = icmp_labelled(11, 0, 0, 3, &p.bytes(), &stack, FAR).to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]);
    assert_eq!(b.dropped(Core, &p.p_sends(&stack), "ttl-expired"), [(Core, told)]);
}

#[test]
fn no_route_unreachable_and_tunnel_down() {
    let mut b = Bench::warm();
    let p = udp(NEAR, "10.99.0.1");
    let told = icmp(3, 0, 0, 1, &p.bytes(), NEAR).to_ce();
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "no-route"), [(Customer, told)]);
    let p = udp(NEAR, "10.4.0.1");
    let told = icmp(3, 0, 0, 2, &p.bytes(), NEAR).to_ce();
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "route-unreachable"), [(Customer, told)]);
    assert_eq!(b.dropped(Customer, &udp(NEAR, "10.5.0.1").ce_sends(), "tunnel-down"), []);
    b.program(vec![FibOp::TunnelGone { id: TunnelId(7) }]);
    assert_eq!(b.dropped(Customer, &udp(NEAR, FAR).ce_sends(), "tunnel-down"), []);
    b.program(vec![tunnel(7, &[17])]);
    let p = udp(NEAR, FAR);
    assert_eq!(b.put(Customer, &p.ce_sends()), [(Core, p.ttl(63).to_p(&[lse(17, 0, false, 63), lse(2002, 0, true, 63)]))]);
}

#[test]
fn rfc_1812_no_icmp_about_errors_fragments_and_strange_sources() {
    let mut b = Bench::warm();
    let mut error = udp(NEAR, "10.99.0.1");
    (error.proto, error.payload[0]) = (1, 11);
    assert_eq!(b.dropped(Customer, &error.ce_sends(), "no-route"), []);
    assert_eq!(b.dropped(Customer, &udp(NEAR, "10.99.0.1").frag(5).ce_sends(), "no-route"), []);
    assert_eq!(b.put(Customer, &udp(NEAR, "10.99.0.1").frag(MF).ce_sends()).len(), 1, "the first fragment is told");
    let mut ping = udp(NEAR, "10.99.0.1");
    (ping.proto, ping.payload[0]) = (1, 8);
    assert_eq!(b.put(Customer, &ping.ce_sends()).len(), 1);
}

#[test]
fn icmp_is_rate_limited_and_recovers() {
    let mut b = Bench::warm();
    let frame = udp(NEAR, "10.99.0.1").ce_sends();
    let told: usize = (0..1000).map(|_| b.put(Customer, &frame).len()).sum();
    assert_eq!(told, 256);
    assert_eq!(b.counters().drops, [("icmp-rate-limited".into(), 744), ("no-route".into(), 1000)]);
    b.wait(100);
    let told: usize = (0..1000).map(|_| b.put(Customer, &frame).len()).sum();
    assert_eq!(told, 100);
}

#[test]
fn dont_fragment_is_told_the_mtu_that_fits_behind_the_labels() {
    let mut b = Bench::warm();
    b.program(vec![interface(1500, 1500)]);
    let p = udp(NEAR, FAR).len(1492).frag(DF);
    assert_eq!(b.put(Customer, &p.ce_sends())[0].1.len(), 14 + 1500);
    let p = udp(NEAR, FAR).len(1493).frag(DF);
    let told = icmp(3, 4, 1492, 1, &p.bytes(), NEAR).to_ce();
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "mtu-exceeded"), [(Customer, told)]);
    // Towards the customer, from the core.
    b.program(vec![interface(1000, 1600)]);
    let p = udp(FAR, NEAR).len(1001).frag(DF);
    let stack = [lse(OWN_LABEL, 0, true, 60)];
    let told = icmp_labelled(3, 4, 1000, 2, &p.bytes(), &stack, FAR).to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]);
    assert_eq!(b.dropped(Core, &p.p_sends(&stack), "mtu-exceeded"), [(Core, told)]);
    // And our own TCP learns it too.
    b.program(vec![interface(1500, 1500)]);
    let p = udp(OUR_IP, FAR).len(1500).frag(DF);
    let told = icmp(3, 4, 1492, 3, &p.bytes(), OUR_IP).to_kernel();
    assert_eq!(b.dropped(Tap, &p.kernel_sends(), "mtu-exceeded"), [(Tap, told)]);
}

#[test]
fn without_df_the_packet_leaves_in_fragments() {
    let mut b = Bench::warm();
    b.program(vec![interface(1500, 1000)]);
    let p = udp(NEAR, FAR_PHP).len(1500);
    // 996 bytes fit behind one label: 976 of payload, a multiple of 8.
    let stack = [lse(2003, 0, true, 63)];
    let piece = |from: usize, to: usize, frag: u16| {
        let mut f = p.clone().ttl(63).frag(frag);
        f.payload = p.payload[from..to].to_vec();
        (Core, f.to_p(&stack))
    };
    assert_eq!(b.put(Customer, &p.ce_sends()), [piece(0, 976, MF), piece(976, 1480, 976 / 8)]);
    assert_eq!(b.counters().to_core.packets, 2);
    b.out.buffers = 1;
    assert_eq!(b.dropped(Customer, &p.ce_sends(), "no-buffer"), [piece(0, 976, MF)]);
}

#[test]
fn own_addresses_are_punted_unchanged_and_policed() {
    let mut b = Bench::warm();
    for own in [OUR_IP, "192.168.50.1"] {
        let frame = udp(CE_IP, own).ttl(1).ce_sends();
        assert_eq!(b.put(Customer, &frame), [(Tap, frame)]);
    }
    // From the core under our gateway's name; the label's TTL went on into the packet.
    let p = udp(FAR, OUR_IP);
    assert_eq!(b.put(Core, &p.p_sends(&[lse(OWN_LABEL, 0, true, 1)])), [(Tap, p.ttl(1).to_kernel())]);
    let flood = udp(CE_IP, OUR_IP).ce_sends();
    let through: usize = (0..5000).map(|_| b.put(Customer, &flood).len()).sum();
    assert_eq!(through, 512 - 3);
    assert_eq!(b.counters().drops, [("punt-policed".into(), 5000 - 509)]);
    // BGP is not drowned by it.
    let mut bgp = udp(CE_IP, OUR_IP);
    (bgp.proto, bgp.payload[2], bgp.payload[3]) = (6, 0, 179);
    assert_eq!(b.put(Customer, &bgp.ce_sends()), [(Tap, bgp.ce_sends())]);
    assert_eq!(b.counters().punted.packets, 513);
    // Nor is ARP, nor a session by ARP.
    let arps: usize = (0..1000).map(|_| b.put(Customer, &arp(OURS, CE, 2, CE, CE_IP, OURS, OUR_IP)).len()).sum();
    assert_eq!(arps, 256);
    assert_eq!(b.put(Customer, &bgp.ce_sends()), [(Tap, bgp.ce_sends())]);
}

#[test]
fn only_what_comes_from_the_attachment_is_of_its_sessions() {
    let mut b = Bench::warm();
    let (bgp, bfd) = (|p: &mut Ip| (p.proto, p.payload[3]) = (6, 179), |p: &mut Ip| p.payload[2..4].copy_from_slice(&[0x0e, 0xc8]));
    let (mut far_bgp, mut far_bfd) = (udp(CE_IP, OUR_IP), udp(CE_IP, OUR_IP).ttl(255));
    bgp(&mut far_bgp);
    bfd(&mut far_bfd);
    // From the core they share the bucket of all others, whoever they say they are from.
    let stack = [lse(OWN_LABEL, 0, true, 255)];
    let through = |b: &mut Bench, p: &Ip| (0..400).map(|_| b.put(Core, &p.p_sends(&stack)).len()).sum::<usize>();
    assert_eq!((through(&mut b, &far_bgp), through(&mut b, &far_bfd)), (400, 112));
    // RFC 5881 §5: single-hop BFD that was forwarded is nobody's session.
    assert_eq!(b.dropped(Customer, &far_bfd.clone().ttl(254).ce_sends(), "punt-policed"), []);
    let flood: usize = (0..2000).map(|_| b.put(Customer, &far_bfd.ce_sends()).len()).sum();
    assert_eq!(flood, 1024, "its own, which the core has not emptied");
}

#[test]
fn from_the_tap_through_the_vrf_or_straight_to_the_customer() {
    let mut b = Bench::warm();
    let p = udp(OUR_IP, FAR).ttl(1);
    let want = p.to_p(&[lse(16, 0, false, 1), lse(2002, 0, true, 1)]);
    assert_eq!(b.put(Tap, &p.kernel_sends()), [(Core, want)]);
    let p = udp(OUR_IP, NEAR);
    assert_eq!(b.put(Tap, &p.kernel_sends()), [(Customer, p.to_ce())]);
    for frame in [arp(ALL, OURS, 1, OURS, OUR_IP, [0; 6], CE_IP), udp(OUR_IP, CE_IP).to_ce(), eth(CE, OURS, 0x86dd, &[7; 40])] {
        assert_eq!(b.put(Tap, &frame), [(Customer, frame)]);
    }
    assert_eq!(b.dropped(Tap, &udp(OUR_IP, "192.168.50.1").kernel_sends(), "tap-loop"), []);
    assert_eq!(b.dropped(Tap, &udp(OUR_IP, "224.0.0.5").kernel_sends(), "not-unicast"), []);
}

#[test]
fn hairpins_on_either_side() {
    let mut b = Bench::warm();
    let p = udp("10.1.5.5", NEAR);
    assert_eq!(b.put(Customer, &p.ce_sends()), [(Customer, p.ttl(63).to_ce())]);
    let p = udp("10.9.5.5", FAR_PHP);
    let frame = p.p_sends(&[lse(OWN_LABEL, 0, true, 30)]);
    assert_eq!(b.put(Core, &frame), [(Core, p.ttl(29).to_p(&[lse(2003, 0, true, 29)]))]);
}

#[test]
fn what_no_router_forwards() {
    let mut b = Bench::warm();
    for (p, reason) in [
        (udp(OUR_IP, FAR), "source-own-address"),
        (udp("192.168.50.1", FAR), "source-own-address"),
        (udp("127.0.0.1", FAR), "martian-source"),
        (udp("0.0.0.0", FAR), "martian-source"),
        (udp("224.1.1.1", FAR), "martian-source"),
        (udp("192.168.1.3", FAR), "martian-source"),
        (udp(NEAR, "127.0.0.1"), "martian-destination"),
        (udp(NEAR, "224.0.0.5"), "not-unicast"),
        (udp(NEAR, "255.255.255.255"), "not-unicast"),
        (udp(NEAR, "192.168.1.3"), "not-unicast"),
        (udp(NEAR, "192.168.50.255"), "not-unicast"),
        (udp(NEAR, "192.168.50.0"), "not-unicast"),
    ] {
        assert_eq!(b.dropped(Customer, &p.ce_sends(), reason), [], "{} → {}", p.src, p.dst);
        assert_eq!(b.dropped(Core, &p.p_sends(&[lse(OWN_LABEL, 0, true, 9)]), reason), [], "{} → {}", p.src, p.dst);
    }
    let p = udp(NEAR, FAR).bytes();
    for (frame, reason) in [
        (eth(ALL, CE, 0x0800, &p), "not-unicast"),
        (eth(PE, CE, 0x0800, &p), "mac-not-ours"),
        (eth(OURS, OURS, 0x0800, &p), "source-mac"),
        (eth(OURS, ALL, 0x0800, &p), "source-mac"),
        (eth(OURS, CE, 0x86dd, &p), "ip-truncated"),
        (eth(OURS, CE, 0x8847, &p), "ethertype-unknown"),
        (eth(OURS, CE, 0x8100, &[&[0, 5, 8, 0][..], &p].concat()), "vlan-unexpected"),
        (vec![1; 13], "ethernet-malformed"),
    ] {
        assert_eq!(b.dropped(Customer, &frame, reason), []);
    }
}

#[test]
fn each_wrong_field_of_the_ip_header_has_its_name() {
    let mut b = Bench::warm();
    for (at, value, reason) in [
        (0, 0x55, "ip-version"),
        (0, 0x44, "ip-header-length"),
        (3, 19, "ip-total-length"),
        (3, 37, "ip-truncated"),
        (10, 0, "ip-checksum"),
    ] {
        let mut p = udp(NEAR, FAR).bytes();
        p[at] = value;
        assert_eq!(b.dropped(Customer, &eth(OURS, CE, 0x0800, &p), reason), []);
        let labelled = [&lse(OWN_LABEL, 0, true, 9)[..], &p].concat();
        assert_eq!(b.dropped(Core, &eth(PE, P, 0x8847, &labelled), reason), []);
    }
}

#[test]
fn ip_options_are_forwarded_as_they_are() {
    let mut b = Bench::warm();
    let mut p = udp(NEAR, FAR_PHP);
    p.options = vec![7, 7, 4, 0, 0, 0, 0, 1];
    assert_eq!(b.put(Customer, &p.ce_sends()), [(Core, p.ttl(63).to_p(&[lse(2003, 0, true, 63)]))]);
}

#[test]
fn nothing_passes_before_there_is_an_interface_and_the_kernel_may_speak() {
    let mut b = Bench::empty();
    assert_eq!(b.dropped(Customer, &udp(NEAR, FAR).ce_sends(), "not-ready"), []);
    assert_eq!(b.dropped(Core, &udp(FAR, NEAR).p_sends(&[lse(OWN_LABEL, 0, true, 9)]), "not-ready"), []);
    assert_eq!(b.dropped(Tap, &udp(OUR_IP, NEAR).kernel_sends(), "not-ready"), []);
}

#[test]
fn counters_are_exact() {
    let mut b = Bench::warm();
    let p = udp(NEAR, FAR);
    b.put(Customer, &p.ce_sends());
    b.put(Core, &udp(FAR, NEAR).p_sends(&[lse(OWN_LABEL, 0, true, 9)]));
    b.put(Tap, &udp(OUR_IP, NEAR).kernel_sends());
    b.put(Customer, &udp(CE_IP, OUR_IP).ce_sends());
    b.put(Customer, &[0; 5]);
    let c = |packets, bytes| Count { packets, bytes };
    let want = Counters {
        // The ARP request and its answer are 42 bytes each; a packet is 36 behind 14.
        from_customer: c(4, 42 + 50 + 50 + 5),
        to_customer: c(3, 42 + 50 + 50),
        from_core: c(1, 54),
        to_core: c(1, 58),
        punted: c(1, 50),
        injected: c(1, 50),
        drops: vec![("ethernet-malformed".into(), 1)],
    };
    assert_eq!(b.counters(), want);
}

#[test]
fn questions_are_answered_and_a_refusal_changes_nothing() {
    let mut b = Bench::warm();
    let ask = |b: &mut Bench, r| b.ask(r);
    let Reply::Status(s) = ask(&mut b, Request::Status) else { panic!() };
    assert_eq!((s.epoch, s.routes, s.tunnels, s.labels), (Some(Epoch(1)), 8, 2, 1));
    assert!(s.fib_bytes > 0 && s.fib_bytes < 10_000, "{}", s.fib_bytes);
    let found = Some(("10.2.0.0/16".parse().unwrap(), vpn(2002, 7)));
    assert_eq!(ask(&mut b, Request::Lookup { address: FAR.parse().unwrap() }), Reply::Lookup { found });
    assert_eq!(ask(&mut b, Request::Lookup { address: "2001:db8::1".parse().unwrap() }), Reply::Lookup { found: None });
    let Reply::Routes { rows, more } = ask(&mut b, Request::Routes { after: None, limit: 3 }) else { panic!() };
    assert_eq!((rows.len(), more), (3, true));
    assert!(matches!(ask(&mut b, Request::Routes { after: None, limit: 0 }), Reply::Refused { .. }));
    let ops = vec![route("10.2.0.0/16", Target::Local), FibOp::Switch { label: label(99), target: SwitchTarget::Pop }];
    let refused = ask(&mut b, Request::Program { epoch: Epoch(1), ops });
    assert_eq!(refused, Reply::Refused { reason: "a port VM switches no labels".into() });
    assert_eq!(b.put(Customer, &udp(NEAR, FAR).ce_sends())[0].0, Core);
}
