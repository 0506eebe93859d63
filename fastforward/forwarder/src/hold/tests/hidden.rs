//! Which frames are guarded: neither a way of writing a segment nor one of naming its flow leads past the hold.

use super::*;
use std::net::{Ipv6Addr, SocketAddrV6};

fn verdict(frame: &[u8]) -> Option<Drop> {
    let mut b = Bench::new();
    match b.holds.outgoing(frame, &mut b.counts) {
        Verdict::Pass => None,
        Verdict::Drop(reason) => Some(reason),
        // In these tests: held.
        Verdict::Hold(_) => Some(Drop::HoldFull),
    }
}

/// The same packet with these extension headers between IPv6 and TCP, `first` the type of the first.
fn extended(first: u8, headers: &[u8]) -> Vec<u8> {
    let mut f = CE6.out(ACK, 1, 1, 10);
    f.splice(54..54, headers.iter().copied());
    f[20] = first;
    let len = u16::try_from(f.len() - 54).unwrap();
    f[18..20].copy_from_slice(&len.to_be_bytes());
    f
}

#[test]
fn guarded_is_either_port_and_either_version_and_nothing_else() {
    let with = |local, remote| Peer { local: ("10.0.0.1", local), remote: ("10.0.0.2", remote) }.out(ACK, 1, 1, 1);
    for (frame, want) in [
        (with(179, 5), Some(Drop::HoldFull)),
        (with(5, 179), Some(Drop::HoldFull)),
        (with(646, 646), Some(Drop::HoldFull)),
        (with(22, 5), None),
        (CE6.out(ACK, 1, 1, 1), Some(Drop::HoldFull)),
    ] {
        assert_eq!(verdict(&frame), want);
    }
    let mut udp = with(646, 646);
    udp[14 + 9] = ipv4::UDP;
    assert_eq!(verdict(&udp), None, "LDP's hellos");
    assert_eq!(verdict(&ethernet::header(MacAddr::BROADCAST, MacAddr([2; 6]), ethernet::ARP)), None);
    assert_eq!(verdict(&[&ethernet::header(MacAddr::BROADCAST, MacAddr([2; 6]), ethernet::MPLS)[..], &[0; 40]].concat()), None);
    let mut ospf = with(179, 179);
    ospf[14 + 9] = 89;
    assert_eq!(verdict(&ospf), None);
    // Without ports everything passes, whatever it is.
    let mut off = Holds::<()>::new(vec![], 9);
    assert_eq!(off.outgoing(&with(179, 5), &mut Counts::default()), Verdict::Pass);
    assert_eq!(off.outgoing(&[1], &mut Counts::default()), Verdict::Pass);
    assert!(!off.is_on());
}

#[test]
fn what_cannot_be_looked_into_does_not_leave() {
    let good = CE.out(ACK, 1, 1, 10);
    for flags_and_offset in [0x2000u16, 1, 0x1fff] {
        let mut f = good.clone();
        f[20..22].copy_from_slice(&flags_and_offset.to_be_bytes());
        assert_eq!(verdict(&f), Some(Drop::HoldOpaque), "fragment {flags_and_offset:#x}");
        f[14 + 9] = ipv4::UDP;
        assert_eq!(verdict(&f), None, "of UDP");
    }
    for cut in 0..14 + 20 + 32 {
        assert_eq!(verdict(&good[..cut]), Some(Drop::HoldOpaque), "{cut}");
    }
    for offset in [0u8, 4, 13, 15] {
        let mut f = good.clone();
        f[14 + 20 + 12] = offset << 4;
        assert_eq!(verdict(&f), Some(Drop::HoldOpaque), "data offset {offset}");
    }
    // One tag is looked behind, two are not.
    let tagged = |f: &[u8]| [&f[..12], &[0x81, 0, 0, 5], &f[12..]].concat();
    assert_eq!(verdict(&tagged(&good)), Some(Drop::HoldFull));
    assert_eq!(verdict(&tagged(&tagged(&good))), Some(Drop::HoldOpaque));
    // Options in front, padding behind.
    let mut options = good.clone();
    options.splice(34..34, [1, 1, 1, 0]);
    options[14] = 0x46;
    options[17] += 4;
    assert_eq!(verdict(&options), Some(Drop::HoldFull));
    assert_eq!(verdict(&[&good[..], &[0; 30]].concat()), Some(Drop::HoldFull));
}

#[test]
fn extension_headers_hide_nothing() {
    let tcp = ipv4::TCP;
    let fragment = |next: u8, offset_and_more: u16| {
        let [a, b] = offset_and_more.to_be_bytes();
        [next, 0, a, b, 0, 0, 0, 9]
    };
    let padding = [tcp, 0, 1, 4, 0, 0, 0, 0];
    let chain = [[ipv6::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0], [ipv6::ROUTING, 0, 1, 4, 0, 0, 0, 0], padding].concat();
    for (frame, want) in [
        (extended(ipv6::HOP_BY_HOP, &padding), Some(Drop::HoldFull)),
        (extended(ipv6::HOP_BY_HOP, &chain), Some(Drop::HoldFull)),
        (extended(ipv6::FRAGMENT, &fragment(tcp, 0)), Some(Drop::HoldFull)),
        (extended(ipv6::FRAGMENT, &fragment(tcp, 1)), Some(Drop::HoldOpaque)),
        (extended(ipv6::FRAGMENT, &fragment(tcp, 0x88)), Some(Drop::HoldOpaque)),
        (extended(ipv6::FRAGMENT, &fragment(ipv6::DESTINATION_OPTIONS, 0x89)), Some(Drop::HoldOpaque)),
        (extended(ipv6::FRAGMENT, &fragment(ipv6::ICMP, 0x89)), None),
        (extended(ipv6::FRAGMENT, &fragment(ipv4::UDP, 1)), None),
        (extended(ipv6::HOP_BY_HOP, &[[ipv6::HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0]; 20].concat()), Some(Drop::HoldOpaque)),
        (extended(ipv6::HOP_BY_HOP, &[tcp, 200]), Some(Drop::HoldOpaque)),
    ] {
        assert_eq!(verdict(&frame), want, "{frame:?}");
    }
}

#[test]
fn a_flow_has_one_name() {
    let mut b = Bench::new();
    let mapped = |a: &str, p| SocketAddr::new(IpAddr::V6(a.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped()), p);
    let flow = api::Flow { local: mapped("192.168.1.1", 179), remote: mapped("192.168.1.2", 40000) };
    b.tell(HoldOp::Upto { flow, seq: 50, ack: 50 });
    assert!(b.leaves(&CE.out(ACK, 50, 50, 0)));
    // As a socket names the ends of a session on the link.
    let on_link = Peer { local: ("fe80::1", 179), remote: ("fe80::2", 7) };
    let scoped = |a: &str, p| SocketAddr::V6(SocketAddrV6::new(a.parse::<Ipv6Addr>().unwrap(), p, 3, 12));
    b.tell(HoldOp::Upto { flow: api::Flow { local: scoped("fe80::1", 179), remote: scoped("fe80::2", 7) }, seq: 50, ack: 50 });
    assert!(b.leaves(&on_link.out(ACK, 50, 50, 0)));
    assert_eq!(b.holds.show().iter().map(|r| r.flow).collect::<Vec<_>>(), [CE.flow(), on_link.flow()]);
}

#[test]
fn a_fragment_may_be_of_a_flow_that_stands_still() {
    let mut b = Bench::new();
    let mut fragment = CE.back(ACK, 1, 1, 10);
    fragment[20] = 0x20;
    assert!(b.take(&fragment));
    b.tell(HoldOp::Fence { flow: CE.flow() });
    assert!(!b.take(&fragment));
    b.upto(CE, 1, 1);
    assert!(b.take(&fragment));
}
