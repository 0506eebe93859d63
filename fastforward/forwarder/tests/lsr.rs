//! The label-switching router: each behaviour as a frame in and the exact frames out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::switch::*;
use common::v6::*;
use common::{DF, Ip, MF, eth, icmp_labelled, label, legs, lse, udp};
use edgeplex_ff_fib_api::*;
use edgeplex_types::{Epoch, MacAddr};

const US: u8 = 1;
const NEXT: u8 = 2;
const BEFORE: u8 = 9;

/// Swaps 100 to 200 and 300 to two labels, pops 101 before router 2, knows 400 as its own; 500 leads nowhere yet.
fn lsr() -> Switch {
    let mut s = Switch::new(US, 1500);
    s.program(vec![
        legs(1, vec![towards(US, 1, &[200], NEXT, 0)]),
        legs(2, vec![towards(US, 1, &[], NEXT, 0)]),
        legs(3, vec![towards(US, 2, &[301, 302], NEXT, 1)]),
        switch(100, 1),
        switch(101, 2),
        switch(300, 3),
        pop(400),
        switch(500, 5),
    ]);
    s
}

/// As the router before us sends it to our port 0.
fn arrives(stack: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    eth(mac(US, 0), mac(BEFORE, 0), 0x8847, &[stack.concat(), packet.to_vec()].concat())
}

/// As we send it to the next one's port.
fn leaves(to: u8, from: u8, kind: u16, stack: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    eth(mac(NEXT, to), mac(US, from), kind, &[stack.concat(), packet.to_vec()].concat())
}

fn home(kind: u16, stack: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    eth(mac(US, 0), mac(US, 0), kind, &[stack.concat(), packet.to_vec()].concat())
}

fn punted(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&PUNT_MAC.0);
    frame[6..12].copy_from_slice(&mac(US, 0));
    frame
}

fn customers() -> [(u16, Vec<u8>); 2] {
    [(0x0800, udp("10.1.0.9", "10.2.0.9").bytes()), (0x86dd, udp6(NEAR6, FAR6).bytes())]
}

#[test]
fn a_label_is_swapped_with_its_traffic_class_and_the_ttl_less_one() {
    let mut s = lsr();
    for (_, p) in customers() {
        let inner = lse(2002, 3, true, 64);
        let want = leaves(0, 1, 0x8847, &[lse(200, 5, false, 63), inner], &p);
        assert_eq!(s.put(0, &arrives(&[lse(100, 5, false, 64), inner], &p)), [(1, want)]);
        let want = leaves(1, 2, 0x8847, &[lse(301, 0, false, 1), lse(302, 0, true, 1)], &p);
        assert_eq!(s.put(0, &arrives(&[lse(300, 0, true, 2)], &p)), [(2, want)]);
    }
    // What is below is nobody's business here.
    let garbage = [0xee; 40];
    let want = leaves(0, 1, 0x8847, &[lse(200, 0, true, 63)], &garbage);
    assert_eq!(s.put(0, &arrives(&[lse(100, 0, true, 64)], &garbage)), [(1, want)]);
}

#[test]
fn before_the_last_hop_it_is_popped_and_the_lower_ttl_goes_on() {
    let mut s = lsr();
    for (outer, inner, out) in [(64, 255, 63), (64, 9, 9), (2, 2, 1)] {
        let p = udp("10.1.0.9", "10.2.0.9").bytes();
        let want = leaves(0, 1, 0x8847, &[lse(2002, 1, true, out)], &p);
        assert_eq!(s.put(0, &arrives(&[lse(101, 0, false, outer), lse(2002, 1, true, inner)], &p)), [(1, want)]);
        let mut padded = arrives(&[lse(101, 0, true, outer)], &udp("10.1.0.9", "10.2.0.9").ttl(inner).bytes());
        padded.resize(80, 0xee);
        let want = leaves(0, 1, 0x0800, &[], &udp("10.1.0.9", "10.2.0.9").ttl(out).bytes());
        assert_eq!(s.put(0, &padded), [(1, want)]);
        let want = leaves(0, 1, 0x86dd, &[], &udp6(NEAR6, FAR6).hops(out).bytes());
        assert_eq!(s.put(0, &arrives(&[lse(101, 0, true, outer)], &udp6(NEAR6, FAR6).hops(inner).bytes())), [(1, want)]);
    }
    assert_eq!(s.dropped(0, &arrives(&[lse(101, 0, true, 64)], &[0x10; 40]), "payload-unknown"), []);
    let mut bad = udp("10.1.0.9", "10.2.0.9").bytes();
    bad[10] ^= 1;
    assert_eq!(s.dropped(0, &arrives(&[lse(101, 0, true, 64)], &bad), "ip-checksum"), []);
}

#[test]
fn what_is_ours_to_pop_goes_home_under_our_own_address() {
    let mut s = lsr();
    let inner = lse(2002, 0, true, 64);
    for (kind, p) in customers() {
        for top in [lse(400, 0, false, 64), lse(0, 0, false, 64), lse(2, 0, false, 64)] {
            assert_eq!(s.put(0, &arrives(&[top, inner], &p)), [(0, home(0x8847, &[inner], &p))]);
            // RFC 3443: who owns the next label counts the hop, from the TTL that came.
            let (mut low, mut less) = (top, inner);
            (low[3], less[3]) = (7, 7);
            assert_eq!(s.put(0, &arrives(&[low, inner], &p)), [(0, home(0x8847, &[less], &p))]);
        }
        for mut top in [lse(400, 0, true, 64), lse(0, 0, true, 64), lse(2, 0, true, 64)] {
            // A packet of ours counts the hop here: RFC 5082, with 255 it would pass for a neighbour's, sent without labels.
            for (label, own, out) in [(255, 255, 254), (255, 64, 63), (64, 255, 63), (255, 2, 1), (255, 1, 1), (1, 255, 1)] {
                top[3] = label;
                let of = |ttl| match kind {
                    0x0800 => udp("10.1.0.9", "10.2.0.9").ttl(ttl).bytes(),
                    _ => udp6(NEAR6, FAR6).hops(ttl).bytes(),
                };
                assert_eq!(s.put(0, &arrives(&[top], &of(own))), [(0, home(kind, &[], &of(out)))], "{label} {own}");
            }
        }
        // One that is ours to switch is switched at once, with the lower TTL less one.
        let want = leaves(0, 1, 0x8847, &[lse(200, 0, true, 4)], &p);
        assert_eq!(s.put(0, &arrives(&[lse(400, 0, false, 5), lse(100, 0, true, 64)], &p)), [(1, want)]);
    }
}

#[test]
fn what_no_router_switches() {
    let mut s = lsr();
    let p = udp("10.1.0.9", "10.2.0.9").bytes();
    let good = arrives(&[lse(100, 0, true, 64)], &p);
    let mut others = good.clone();
    others[5] ^= 7;
    let mut mine = good.clone();
    mine[6..12].copy_from_slice(&mac(US, 0));
    for (frame, reason) in [
        (arrives(&[lse(999, 0, true, 64)], &p), "label-unknown"),
        (arrives(&[lse(3, 0, true, 64)], &p), "label-unknown"),
        (arrives(&[lse(7, 0, false, 64), lse(100, 0, true, 0)], &p), "label-unknown"),
        (arrives(&[lse(400, 0, false, 64), lse(13, 0, true, 64)], &p), "label-unknown"),
        (arrives(&[lse(500, 0, true, 64)], &p), "tunnel-down"),
        (arrives(&[[lse(0, 0, false, 64)].repeat(16), vec![lse(100, 0, true, 64)]].concat(), &p), "label-stack-depth"),
        (good[..17].to_vec(), "mpls-malformed"),
        (arrives(&[lse(400, 0, false, 64)], &[]), "mpls-malformed"),
        (others, "mac-not-ours"),
        (mine, "source-mac"),
        (eth(mac(US, 0), mac(BEFORE, 0), 0x0800, &p), "ethertype-unknown"),
        (eth(mac(US, 0), mac(BEFORE, 0), 0x8100, &[&[0, 5, 0x88, 0x47][..], &p].concat()), "vlan-unexpected"),
        (good[..13].to_vec(), "ethernet-malformed"),
    ] {
        assert_eq!(s.dropped(0, &frame, reason), []);
    }
    assert_eq!(s.dropped(3, &good, "not-ready"), [], "there is no such port");
    s.program(vec![legs(1, vec![towards(US, 9, &[200], NEXT, 0)])]);
    assert_eq!(s.dropped(0, &good, "port-unknown"), []);
    s.program(vec![FibOp::SwitchGone { label: label(100) }]);
    assert_eq!(s.dropped(0, &good, "label-unknown"), []);
}

/// From our port 0.
fn from_us(mut p: Ip) -> Ip {
    p.src = "10.0.1.0".into();
    p
}

#[test]
fn rfc_3032_2_3_2_an_expired_ttl_is_told_along_the_lsp() {
    let mut s = lsr();
    let p = udp("10.1.0.9", "10.2.0.9").ttl(1).bytes();
    for ttl in [1, 0] {
        let stack = [lse(100, 2, false, ttl), lse(2002, 2, true, 1)];
        let told = from_us(icmp_labelled(11, 0, 0, 2 - u16::from(ttl), &p, &stack, "10.1.0.9")).bytes();
        let want = leaves(0, 1, 0x8847, &[lse(200, 6, false, 64), lse(2002, 6, true, 64)], &told);
        assert_eq!(s.dropped(0, &arrives(&stack, &p), "ttl-expired"), [(1, want)]);
    }
    // We have no IPv6 address: it says ours under the prefix of RFC 8215.
    let p = udp6(NEAR6, FAR6).hops(1).bytes();
    let stack = [lse(100, 0, false, 1), lse(2002, 0, true, 1)];
    let told = labelled6("64:ff9b:1::a00:100", 3, 0, &p, &stack, NEAR6).bytes();
    let want = leaves(0, 1, 0x8847, &[lse(200, 6, false, 64), lse(2002, 6, true, 64)], &told);
    assert_eq!(s.dropped(0, &arrives(&stack, &p), "ttl-expired"), [(1, want)]);
    // Before the last hop the answer goes on without the label, too.
    let p = udp("10.1.0.9", "10.2.0.9").ttl(1).bytes();
    let stack = [lse(101, 0, true, 1)];
    let told = from_us(icmp_labelled(11, 0, 0, 3 + 1, &p, &stack, "10.1.0.9")).bytes();
    assert_eq!(s.dropped(0, &arrives(&stack, &p), "ttl-expired"), [(1, leaves(0, 1, 0x0800, &[], &told))]);
    // RFC 6790: an entropy label keeps its TTL of 0.
    let stack = [lse(100, 0, false, 1), lse(7, 0, false, 1), lse(5000, 0, false, 0), lse(2002, 0, true, 1)];
    let told = from_us(icmp_labelled(11, 0, 0, 5, &p, &stack, "10.1.0.9")).bytes();
    let fresh = [lse(200, 6, false, 64), lse(7, 6, false, 64), lse(5000, 6, false, 0), lse(2002, 6, true, 64)];
    assert_eq!(s.dropped(0, &arrives(&stack, &p), "ttl-expired"), [(1, leaves(0, 1, 0x8847, &fresh, &told))]);
}

#[test]
fn nobody_is_told_about_errors_or_by_nobody_and_not_without_end() {
    let mut s = lsr();
    let stack = [lse(100, 0, false, 1), lse(2002, 0, true, 1)];
    let mut error = udp("10.1.0.9", "10.2.0.9");
    (error.proto, error.payload[0]) = (1, 11);
    for p in [error.bytes(), udp("224.0.0.5", "10.2.0.9").bytes(), vec![0x10; 40], vec![0x45; 12]] {
        assert_eq!(s.dropped(0, &arrives(&stack, &p), "ttl-expired"), []);
    }
    let frame = arrives(&stack, &udp("10.1.0.9", "10.2.0.9").bytes());
    assert_eq!((0..1000).map(|_| s.put(0, &frame).len()).sum::<usize>(), 256);
    assert!(s.counters().drops.contains(&("icmp-rate-limited".into(), 1000 - 256)));
    let mut silent = lsr();
    let mut nobody = port(US, 0, 1500);
    nobody.address = [0, 0, 0, 0].into();
    silent.program(vec![FibOp::Ports(vec![nobody, port(US, 1, 1500), port(US, 2, 1500)])]);
    assert_eq!(silent.dropped(0, &frame, "ttl-expired"), []);
}

fn echo_request(destination: &str) -> Ip {
    let mut p = udp("10.255.0.1", destination);
    (p.payload[2], p.payload[3], p.options) = (0x0d, 0xaf, vec![0x94, 4, 0, 0]);
    p
}

#[test]
fn lsp_ping_is_the_control_planes() {
    let mut s = lsr();
    let ping = echo_request("127.0.0.1").bytes();
    let frame = arrives(&[lse(100, 6, false, 1), lse(2002, 0, true, 255)], &ping);
    assert_eq!(s.put(0, &frame), [(0, punted(frame))]);
    let mut ping6 = udp6(NEAR6, "::ffff:127.0.0.1");
    (ping6.payload[2], ping6.payload[3]) = (0x0d, 0xaf);
    let frame = arrives(&[lse(100, 6, true, 1)], &ping6.bytes());
    assert_eq!(s.put(0, &frame), [(0, punted(frame))]);
    // At its end it comes unchanged, with the TTL of RFC 8029 §4.3.
    let last = echo_request("127.0.0.1").ttl(1).bytes();
    assert_eq!(s.put(0, &arrives(&[lse(400, 6, true, 255)], &last)), [(0, home(0x0800, &[], &last))]);
    // On its way it is a packet like any other.
    assert_eq!(s.put(0, &arrives(&[lse(100, 6, true, 2)], &ping))[0].0, 1);
    // To another address or port it is none.
    let told = s.dropped(0, &arrives(&[lse(100, 6, true, 1)], &echo_request("10.2.0.9").bytes()), "ttl-expired");
    assert_eq!(told[0].0, 1);
    s.dropped(0, &arrives(&[lse(100, 6, true, 1)], &udp("10.1.0.9", "127.0.0.1").bytes()), "ttl-expired");
    // RFC 3032 §2.1: router alert, on top or below what we pop, whatever the TTL and the payload.
    for stack in [vec![lse(1, 0, false, 9), lse(100, 0, true, 9)], vec![lse(0, 0, false, 9), lse(1, 0, false, 0), lse(100, 0, true, 9)]] {
        let frame = arrives(&stack, &[0xee; 30]);
        assert_eq!(s.put(0, &frame), [(0, punted(frame))]);
    }
    assert_eq!(s.counters().punted.packets, 4);
    let frame = arrives(&[lse(1, 0, false, 9), lse(100, 0, true, 9)], &ping);
    assert_eq!((0..1000).map(|_| s.put(0, &frame).len()).sum::<usize>(), 512 - 4);
    assert!(s.counters().drops.contains(&("punt-policed".into(), 1000 - 508)));
}

#[test]
fn a_packet_too_long_is_cut_or_its_source_told() {
    let mut s = lsr();
    let inner = lse(2002, 0, true, 64);
    // 1500 bytes behind Ethernet hold two labels and 1492 of IP.
    let p = udp("10.1.0.9", "10.2.0.9").len(1492);
    assert_eq!(s.put(0, &arrives(&[lse(100, 0, false, 64), inner], &p.bytes()))[0].1.len(), 14 + 1500);
    let stack = [lse(300, 0, false, 64), inner];
    let p = udp("10.1.0.9", "10.2.0.9").len(1492).frag(DF);
    let told = from_us(icmp_labelled(3, 4, 1488, 1, &p.bytes(), &stack, "10.1.0.9")).bytes();
    let want = leaves(1, 2, 0x8847, &[lse(301, 6, false, 64), lse(302, 6, false, 64), lse(2002, 6, true, 64)], &told);
    assert_eq!(s.dropped(0, &arrives(&stack, &p.bytes()), "mtu-exceeded"), [(2, want)]);
    let p = udp6(NEAR6, FAR6).len(1492);
    let quote = &p.bytes()[..1232];
    let told = icmp6("64:ff9b:1::a00:100", NEAR6, 64, 0xc0, [&[2, 0, 0, 0, 0, 0, 5, 0xd0][..], quote].concat()).bytes();
    let want = leaves(1, 2, 0x8847, &[lse(301, 6, false, 64), lse(302, 6, false, 64), lse(2002, 6, true, 64)], &told);
    assert_eq!(s.dropped(0, &arrives(&stack, &p.bytes()), "mtu-exceeded"), [(2, want)]);
    // Without DF, in pieces under all labels.
    let p = udp("10.1.0.9", "10.2.0.9").len(1492);
    let piece = |from: usize, to: usize, frag: u16| {
        let mut f = p.clone().frag(frag);
        f.payload = p.payload[from..to].to_vec();
        (2, leaves(1, 2, 0x8847, &[lse(301, 0, false, 63), lse(302, 0, false, 63), inner], &f.bytes()))
    };
    assert_eq!(s.put(0, &arrives(&stack, &p.bytes())), [piece(0, 1464, MF), piece(1464, 1472, 1464 / 8)]);
    // Before the last hop the pieces have the lower TTL.
    s.program(vec![FibOp::Ports(vec![port(US, 0, 1500), port(US, 1, 1000), port(US, 2, 1500)])]);
    let out = s.put(0, &arrives(&[lse(101, 0, true, 9)], &p.bytes()));
    assert!(out.len() == 2 && out.iter().all(|f| f.1.len() <= 1014 && f.1[12..14] == [8, 0] && f.1[22] == 8));
    assert_eq!(s.dropped(0, &arrives(&[lse(100, 0, true, 9)], &[0x10; 1200]), "mtu-exceeded"), []);
    s.out.buffers = 1;
    assert_eq!(s.dropped(0, &arrives(&[lse(101, 0, true, 9)], &p.bytes()), "no-buffer").len(), 1);
}

#[test]
fn legs_share_flows_and_each_counts_its_own() {
    let mut s = lsr();
    let two = vec![towards(US, 1, &[200], NEXT, 0), towards(US, 2, &[], NEXT, 1)];
    s.program(vec![legs(1, two.clone())]);
    let mut seen = [0u64; 3];
    for i in 0..2000u16 {
        let mut p = udp("10.1.0.9", "10.2.0.9");
        p.payload[..2].copy_from_slice(&i.to_be_bytes());
        let out = s.put(0, &arrives(&[lse(100, 0, true, 64)], &p.bytes()));
        seen[usize::from(out[0].0)] += 1;
        let again = s.put(0, &arrives(&[lse(100, 0, true, 64)], &p.ttl(9).bytes()));
        assert_eq!(again[0].0, out[0].0, "a flow stays where it is");
    }
    assert!(seen[0] == 0 && (900..1100).contains(&seen[1]), "{seen:?}");
    let counts = |s: &mut Switch| {
        let Reply::TunnelCounts { rows } = s.lsr.control(s.now, Request::TunnelCounts) else { panic!() };
        rows[0].legs.iter().map(|c| c.packets).collect::<Vec<_>>()
    };
    assert_eq!(counts(&mut s), [2 * seen[1], 2 * seen[2]]);
    // A leg that stays goes on counting; one that changed begins anew.
    s.program(vec![legs(1, vec![towards(US, 1, &[201], NEXT, 0), two[1].clone()])]);
    assert_eq!(counts(&mut s), [0, 2 * seen[2]]);
}

#[test]
fn a_snapshot_that_does_not_renew_takes_labels_ports_and_tunnels_away() {
    let mut s = lsr();
    let frame = arrives(&[lse(100, 0, true, 64)], &udp("10.1.0.9", "10.2.0.9").bytes());
    let ask = |s: &mut Switch, r| s.lsr.control(s.now, r);
    let Reply::Status(status) = ask(&mut s, Request::Status) else { panic!() };
    assert_eq!((status.labels, status.tunnels, status.routes), (5, 3, 0));
    assert_eq!(ask(&mut s, Request::Begin { epoch: Epoch(2) }), Reply::Done);
    let ops =
        vec![FibOp::Ports((0..3).map(|i| port(US, i, 1500)).collect()), legs(1, vec![towards(US, 1, &[200], NEXT, 0)]), switch(100, 1)];
    assert_eq!(ask(&mut s, Request::Program { epoch: Epoch(2), ops }), Reply::Done);
    assert_eq!(s.put(0, &arrives(&[lse(300, 0, true, 64)], &[1; 40])).len(), 1, "until the end all is as it was");
    assert_eq!(ask(&mut s, Request::End { epoch: Epoch(2) }), Reply::Done);
    while s.lsr.has_work() {
        s.lsr.work();
    }
    let Reply::Status(status) = ask(&mut s, Request::Status) else { panic!() };
    assert_eq!((status.epoch, status.labels, status.tunnels), (Some(Epoch(2)), 1, 1));
    assert_eq!(s.put(0, &frame).len(), 1);
    s.dropped(0, &arrives(&[lse(300, 0, true, 64)], &[1; 40]), "label-unknown");
    // What is no router's is refused, and changes nothing.
    let refused = |s: &mut Switch, op| ask(s, Request::Program { epoch: Epoch(2), ops: vec![op] });
    let vrf = Reply::Refused { reason: "a label-switching router has no VRF".into() };
    assert_eq!(refused(&mut s, common::own_label(900)), vrf);
    assert_eq!(refused(&mut s, common::interface(1500, 1500)), vrf);
    let ports = (0..4).map(|i| port(US, i, 1500)).collect();
    assert_eq!(refused(&mut s, FibOp::Ports(ports)), Reply::Refused { reason: "there are only 3 ports".into() });
    assert_eq!(s.put(0, &frame)[0].1[6..12], MacAddr(mac(US, 1)).0);
}
