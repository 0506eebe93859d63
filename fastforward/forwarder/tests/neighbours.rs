//! ARP and the life of an adjacency, as frames and time in, frames out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::*;
use edgeplex_ff_fib_api::{Adjacency, Reply, Request};
use edgeplex_forwarder::Port::{self, Core, Customer, Tap};
use edgeplex_types::MacAddr;

const MOVED: [u8; 6] = [2, 0, 0, 0, 0, 0xcf];

fn request_for_ce(to: [u8; 6]) -> (Port, Vec<u8>) {
    (Customer, arp(to, OURS, 1, OURS, OUR_IP, [0; 6], CE_IP))
}

fn from_core(i: u8) -> Ip {
    let mut p = udp(FAR, NEAR);
    p.payload[15] = i;
    p
}

fn labelled(p: &Ip) -> Vec<u8> {
    p.p_sends(&[lse(OWN_LABEL, 0, true, 64)])
}

fn reply(mac: [u8; 6]) -> Vec<u8> {
    arp(OURS, mac, 2, mac, CE_IP, OURS, OUR_IP)
}

#[test]
fn packets_wait_for_the_answer_and_the_oldest_gives_way() {
    let mut b = Bench::cold();
    let frames: Vec<_> = (0..4).map(|i| labelled(&from_core(i))).collect();
    assert_eq!(b.put(Core, &frames[0]), [request_for_ce(ALL)]);
    assert_eq!(b.put(Core, &frames[1]), []);
    assert_eq!(b.put(Core, &frames[2]), []);
    assert_eq!(b.dropped(Core, &frames[3], "neighbour-queue-full"), []);
    let out = b.put(Customer, &reply(CE));
    let want: Vec<_> = (1..4).map(|i| (Customer, from_core(i).ttl(63).to_ce())).chain([(Tap, reply(CE))]).collect();
    assert_eq!(out, want);
}

#[test]
fn three_requests_a_second_apart_then_host_unreachable() {
    let mut b = Bench::cold();
    let p = from_core(1);
    assert_eq!(b.put(Core, &labelled(&p)), [request_for_ce(ALL)]);
    assert_eq!(b.wait(999), []);
    assert_eq!(b.wait(1), [request_for_ce(ALL)]);
    assert_eq!(b.wait(1000), [request_for_ce(ALL)]);
    let told = icmp(3, 1, 0, 1, &p.ttl(63).bytes(), FAR).to_p(&[lse(16, 6, false, 64), lse(2002, 6, true, 64)]);
    assert_eq!(b.wait(1000), [(Core, told)]);
    assert_eq!(b.counters().drops, [("neighbour-unreachable".into(), 1)]);
    assert_eq!(b.wait(100_000), []);
    assert_eq!(b.f.next_deadline(), None);
    assert_eq!(b.put(Core, &labelled(&from_core(2))), [request_for_ce(ALL)], "the next packet asks anew");
}

#[test]
fn a_connected_destination_is_asked_for_from_the_address_on_its_subnet() {
    let mut b = Bench::cold();
    let want = arp(ALL, OURS, 1, OURS, "192.168.50.1", [0; 6], "192.168.50.77");
    assert_eq!(b.put(Core, &labelled(&udp(FAR, "192.168.50.77"))), [(Customer, want)]);
}

#[test]
fn a_live_adjacency_is_confirmed_by_unicast_and_never_blinks() {
    let mut b = Bench::warm();
    for _ in 0..20 {
        assert_eq!(b.put(Core, &labelled(&from_core(1))).len(), 1);
        assert_eq!(b.wait(30_000), [request_for_ce(CE)]);
        assert_eq!(b.put(Core, &labelled(&from_core(1))), [(Customer, from_core(1).ttl(63).to_ce())]);
        assert_eq!(b.put(Customer, &reply(CE)), [(Tap, reply(CE))]);
    }
}

#[test]
fn a_dead_one_is_used_until_unicast_and_broadcast_both_failed() {
    let mut b = Bench::warm();
    assert_eq!(b.wait(32_000), vec![request_for_ce(CE); 3]);
    assert_eq!(b.wait(3_999), vec![request_for_ce(ALL); 3]);
    assert_eq!(b.put(Core, &labelled(&from_core(1))), [(Customer, from_core(1).ttl(63).to_ce())]);
    assert_eq!(b.wait(1), []);
    assert_eq!(b.put(Core, &labelled(&from_core(1))), [request_for_ce(ALL)]);
}

#[test]
fn one_that_nobody_uses_is_forgotten_without_a_word() {
    let mut b = Bench::warm();
    let mut asked = 0;
    for _ in 0..25 {
        let n = b.wait(30_000).len();
        asked += n;
        if n > 0 {
            b.put(Customer, &reply(CE));
        }
    }
    assert_eq!(asked, 19);
    assert_eq!(b.f.next_deadline(), None);
}

#[test]
fn gratuitous_arp_moves_what_is_known_and_makes_nothing_new() {
    let mut b = Bench::warm();
    let gratuitous = |ip| arp(ALL, MOVED, 1, MOVED, ip, [0; 6], ip);
    // The kernel is to hear of it, too.
    assert_eq!(b.put(Customer, &gratuitous(CE_IP)), [(Tap, gratuitous(CE_IP))]);
    let moved = eth(MOVED, OURS, 0x0800, &from_core(1).ttl(63).bytes());
    assert_eq!(b.put(Core, &labelled(&from_core(1))), [(Customer, moved)]);
    b.put(Customer, &gratuitous("192.168.50.9"));
    let Reply::Adjacencies { rows } = b.ask(Request::Adjacencies) else { panic!() };
    assert_eq!(rows, [Adjacency { address: CE_IP.parse().unwrap(), mac: Some(MacAddr(MOVED)), age_ms: 0 }]);
}

#[test]
fn arp_that_lies_or_concerns_others_changes_nothing() {
    let mut b = Bench::warm();
    for (frame, reason) in [
        (arp(ALL, MOVED, 1, MOVED, "10.7.7.7", [0; 6], OUR_IP), "arp-foreign"),
        (arp(ALL, MOVED, 1, MOVED, "192.168.1.3", [0; 6], OUR_IP), "arp-foreign"),
        (arp(ALL, MOVED, 1, MOVED, OUR_IP, [0; 6], OUR_IP), "arp-conflict"),
        (arp(ALL, MOVED, 1, OURS, CE_IP, [0; 6], OUR_IP), "arp-conflict"),
        (arp(ALL, MOVED, 1, ALL, CE_IP, [0; 6], OUR_IP), "arp-malformed"),
        (arp(ALL, MOVED, 1, MOVED, "192.168.50.7", [0; 6], "192.168.50.8"), "arp-not-for-us"),
        (arp(PE, MOVED, 2, MOVED, CE_IP, [0; 6], OUR_IP), "mac-not-ours"),
        (reply(CE)[..41].to_vec(), "arp-malformed"),
    ] {
        assert_eq!(b.dropped(Customer, &frame, reason), []);
    }
    assert_eq!(b.put(Core, &labelled(&from_core(1))), [(Customer, from_core(1).ttl(63).to_ce())]);
    // RFC 5227: a probe is answered and teaches nothing.
    let probe = arp(ALL, MOVED, 1, MOVED, "0.0.0.0", [0; 6], OUR_IP);
    assert_eq!(b.put(Customer, &probe), [(Customer, arp(MOVED, OURS, 2, OURS, OUR_IP, MOVED, "0.0.0.0"))]);
}

#[test]
fn a_scan_of_the_subnet_is_bounded_and_leaves_the_ce_alone() {
    let mut b = Bench::warm();
    b.program(vec![
        edgeplex_ff_fib_api::FibOp::Interface(edgeplex_ff_fib_api::Interface {
            mac: MacAddr(OURS),
            addresses: vec!["192.168.1.1/16".parse().unwrap()],
            customer_mtu: 1500,
            core_mtu: 1600,
        }),
        route("192.168.0.0/16", edgeplex_ff_fib_api::Target::Connected),
    ]);
    let mut asked = 0;
    for i in 0..5000u32 {
        let host = std::net::Ipv4Addr::from(0xc0a8_8000 + i).to_string();
        asked += b.put(Core, &labelled(&udp(FAR, &host))).len();
    }
    assert_eq!(asked, 56);
    assert_eq!(b.counters().drops, [("neighbour-table-full".into(), 5000 - 56)]);
    assert_eq!(b.put(Core, &labelled(&from_core(1))), [(Customer, from_core(1).ttl(63).to_ce())]);
    b.wait(3000);
    assert_eq!(b.put(Core, &labelled(&udp(FAR, "192.168.128.1"))).len(), 1, "room again when they did not answer");
}

#[test]
fn neighbours_leave_with_their_subnet() {
    let mut b = Bench::warm();
    b.put(Core, &labelled(&udp(FAR, "192.168.50.77")));
    let edgeplex_ff_fib_api::FibOp::Interface(mut i) = interface(1500, 1600) else { panic!() };
    i.addresses.truncate(1);
    b.program(vec![edgeplex_ff_fib_api::FibOp::Interface(i)]);
    let Reply::Adjacencies { rows } = b.ask(Request::Adjacencies) else { panic!() };
    assert_eq!(rows.len(), 1);
    assert_eq!(b.counters().drops, [("neighbour-unreachable".into(), 1)]);
}

fn seeds(rows: &[(&str, [u8; 6])]) -> Request {
    use edgeplex_ff_fib_api::Neighbor;
    Request::Neighbors(rows.iter().map(|(a, m)| Neighbor { address: a.parse().unwrap(), mac: MacAddr(*m) }).collect())
}

/// A standby speaks to nobody: what it is told once a second it never asks for, and when it is promoted it forwards at once.
#[test]
fn neighbours_of_another_instance_are_never_asked_for_while_they_are_told_again() {
    let mut b = Bench::cold();
    for _ in 0..1200 {
        assert_eq!(b.ask(seeds(&[(CE_IP, CE), ("192.168.50.7", MOVED)])), Reply::Done);
        assert_eq!(b.wait(1000), []);
    }
    assert_eq!(b.put(Core, &labelled(&from_core(1))), [(Customer, from_core(1).ttl(63).to_ce())]);
    // The last word was 1 s ago: from now on it is a neighbour like any.
    assert_eq!(b.wait(28_999), []);
    assert_eq!(b.wait(1).len(), 2, "asked by unicast");
}

#[test]
fn a_seed_frees_what_waits_moves_what_is_known_and_is_held_against_the_subnets() {
    let mut b = Bench::empty();
    assert!(matches!(b.ask(seeds(&[(CE_IP, CE)])), Reply::Refused { .. }), "no interface");
    let mut b = Bench::cold();
    assert_eq!(b.put(Core, &labelled(&from_core(1))).len(), 1, "asks");
    assert_eq!(b.ask(seeds(&[("10.7.7.7", CE), (OUR_IP, CE), (CE_IP, MOVED), ("192.168.50.9", OURS)])), Reply::Done);
    let sent = std::mem::take(&mut b.out.sent);
    assert_eq!(sent, [(Customer, eth(MOVED, OURS, 0x0800, &from_core(1).ttl(63).bytes()))]);
    assert_eq!(b.ask(seeds(&[(CE_IP, CE)])), Reply::Done);
    let Reply::Adjacencies { rows } = b.ask(Request::Adjacencies) else { panic!() };
    assert_eq!(rows, [Adjacency { address: CE_IP.parse().unwrap(), mac: Some(MacAddr(CE)), age_ms: 0 }]);
    assert!(matches!(b.ask(seeds(&[(CE_IP, ALL)])), Reply::Refused { .. }), "a group");
}
