//! Three forwarders in a row, in memory: PE, label-switching routers, PE. Packets of both versions go from end to end
//! under two labels, and what is told on the way comes back to its source.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::switch::*;
use common::v6::*;
use common::*;
use edgeplex_ff_fib_api::*;
use edgeplex_forwarder::Port as Side;
use edgeplex_types::MacAddr;

/// The P routers between them, and what the PEs are called on the core.
const P1: u8 = 1;
const P2: u8 = 2;
const WEST: [u8; 6] = [2, 0, 0, 8, 0, 0];
const EAST: [u8; 6] = [2, 0, 0, 9, 0, 0];
const VPN_WEST: u32 = 1001;
const VPN_EAST: u32 = 1002;

/// ```text
/// CE ─ west ──── P1 ──── P2 ──── east ─ CE
///        push 100,1002   swap 100→200   pop   VRF
/// ```
struct Chain {
    west: Bench,
    p1: Switch,
    p2: Switch,
    east: Bench,
    /// Frames that passed between P1 and P2.
    middle: usize,
}

/// A PE of its own subnets, customers' prefixes on this side and on the other.
fn pe(n: u8, labels: [u32; 3], core: [[u8; 6]; 2], near: [&str; 2], far: [&str; 2]) -> Bench {
    let mut b = Bench::empty();
    assert_eq!(b.ask(Request::Begin { epoch: edgeplex_types::Epoch(1) }), Reply::Done);
    let (ours, ce) = (format!("192.168.{n}.1"), format!("192.168.{n}.2"));
    let (ours6, ce6) = (format!("2001:db8:f{n}::1"), format!("2001:db8:f{n}::2"));
    let addresses = [format!("{ours}/30"), format!("{ours6}/64"), "fe80::1/64".into()].map(|a| a.parse().unwrap()).to_vec();
    let customer = |ce: &str| Target::Customer { next_hop: ce.parse().unwrap() };
    let [own, remote, transport] = labels;
    b.program(vec![
        FibOp::Interface(Interface { mac: MacAddr(OURS), addresses, customer_mtu: 1500, core_mtu: 1600 }),
        own_label(own),
        legs(7, vec![leg(0, &[transport], core[0], core[1])]),
        route(near[0], customer(&ce)),
        route(near[1], customer(&ce6)),
        route(far[0], vpn(remote, 7)),
        route(far[1], vpn(remote, 7)),
    ]);
    // The CE makes itself known.
    b.put(Side::Customer, &arp(ALL, CE, 1, CE, &ce, [0; 6], &ours));
    b.put(Side::Customer, &nd(135, 0, &ce6, "ff02::1:ff00:1", &ours6, CE).to_group(CE));
    b
}

impl Chain {
    fn new(mtu: u16) -> Self {
        let (w, e) = (["10.1.0.0/16", "2001:db8:1::/48"], ["10.2.0.0/16", "2001:db8:2::/48"]);
        let (mut p1, mut p2) = (Switch::new(P1, mtu), Switch::new(P2, mtu));
        let to = |n, i, transport: &[u32], mac| leg(i, transport, common::switch::mac(n, i), mac);
        // Port 0 leads west, port 1 east. Eastward 100 → 200 → popped; westward 500 → 400 → popped.
        p1.program(vec![legs(1, vec![towards(P1, 1, &[200], P2, 0)]), legs(2, vec![to(P1, 0, &[], WEST)]), switch(100, 1), switch(400, 2)]);
        p2.program(vec![legs(1, vec![to(P2, 1, &[], EAST)]), legs(2, vec![towards(P2, 0, &[400], P1, 1)]), switch(200, 1), switch(500, 2)]);
        Self {
            west: pe(1, [VPN_WEST, VPN_EAST, 100], [WEST, mac(P1, 0)], w, e),
            p1,
            p2,
            east: pe(2, [VPN_EAST, VPN_WEST, 500], [EAST, mac(P2, 1)], e, w),
            middle: 0,
        }
    }

    /// Sends a customer's frame into the west; what comes out to the customers there and in the east.
    fn send(&mut self, frame: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut west, mut east) = (vec![], vec![]);
        let mut todo: Vec<(&str, u8, Vec<u8>)> = vec![("west", 0, frame.to_vec())];
        let mut hops = 0;
        while let Some((at, port, frame)) = todo.pop() {
            hops += 1;
            assert!(hops < 100, "it goes round");
            match at {
                "p1" | "p2" => {
                    let first = at == "p1";
                    let out = if first { self.p1.put(port, &frame) } else { self.p2.put(port, &frame) };
                    for (port, f) in out {
                        let next = match (first, port) {
                            (true, 0) => ("west", 1),
                            (true, _) => ("p2", 0),
                            (false, 0) => ("p1", 1),
                            (false, _) => ("east", 1),
                        };
                        self.middle += usize::from((first, port) == (true, 1) || (first, port) == (false, 0));
                        todo.push((next.0, next.1, f));
                    }
                }
                _ => {
                    let is_west = at == "west";
                    let side = if port == 0 { Side::Customer } else { Side::Core };
                    let out = if is_west { self.west.put(side, &frame) } else { self.east.put(side, &frame) };
                    for (side, f) in out {
                        match (side, is_west) {
                            (Side::Core, true) => todo.push(("p1", 0, f)),
                            (Side::Core, false) => todo.push(("p2", 1, f)),
                            (_, true) => west.push(f),
                            (_, false) => east.push(f),
                        }
                    }
                }
            }
        }
        (west, east)
    }
}

#[test]
fn packets_of_both_versions_cross_the_core_and_count_each_router() {
    let mut c = Chain::new(1600);
    let p = udp("10.1.0.9", "10.2.0.9").tos(0xb8);
    assert_eq!(c.send(&p.ce_sends()), (vec![], vec![p.ttl(60).to_ce()]));
    let p = udp6(NEAR6, FAR6).class(0xb8).flow(77);
    assert_eq!(c.send(&p.ce_sends()), (vec![], vec![p.hops(60).to_ce()]));
    for b in [&mut c.west, &mut c.east] {
        assert_eq!(b.counters().drops, []);
    }
    assert_eq!((c.p1.counters().drops, c.p2.counters().to_core.packets, c.middle), (vec![], 2, 2));
}

/// The answer of each router on the way, as traceroute asks for it: type, source, and the label stack it tells.
fn told(frame: &[u8]) -> (u8, Vec<u8>, Vec<u8>) {
    assert_eq!(frame[..6], CE);
    let v4 = frame[12..14] == [8, 0];
    let (header, source) = if v4 { (34, &frame[26..30]) } else { (54, &frame[22..38]) };
    // Behind the ICMP header and 128 bytes quoted: the extension's and the object's headers.
    let stack = frame.get(header + 8 + 128 + 8..).unwrap_or_default();
    (frame[header], source.to_vec(), stack.to_vec())
}

#[test]
fn traceroute_sees_every_router_and_the_labels_inside() {
    let mut c = Chain::new(1600);
    let at = |label: u32, vpn_ttl: u8, inner: u8| [lse(label, 0, false, vpn_ttl), lse(VPN_EAST, 0, true, inner)].concat();
    let v6 = |a: &str| octets(a).to_vec();
    for (ttl, source, source6, stack) in [
        (1, vec![192, 168, 1, 1], v6("2001:db8:f1::1"), vec![]),
        (2, vec![10, 0, P1, 0], v6("64:ff9b:1::a00:100"), at(100, 1, 1)),
        (3, vec![10, 0, P2, 0], v6("64:ff9b:1::a00:200"), at(200, 1, 2)),
        (4, vec![192, 168, 2, 1], v6("2001:db8:f2::1"), lse(VPN_EAST, 0, true, 1).to_vec()),
    ] {
        let (west, east) = c.send(&udp("10.1.0.9", "10.2.0.9").ttl(ttl).ce_sends());
        assert_eq!((west.len(), east.len()), (1, 0), "ttl {ttl}");
        assert_eq!(told(&west[0]), (11, source, stack.clone()), "ttl {ttl}");
        let (west, east) = c.send(&udp6(NEAR6, FAR6).hops(ttl).ce_sends());
        assert_eq!((west.len(), east.len()), (1, 0), "hop limit {ttl}");
        assert_eq!(told(&west[0]), (3, source6, stack), "hop limit {ttl}");
    }
    assert_eq!(c.send(&udp("10.1.0.9", "10.2.0.9").ttl(5).ce_sends()).1.len(), 1);
}

#[test]
fn the_mtu_of_a_link_inside_the_core_is_told_or_its_packets_cut() {
    let mut c = Chain::new(1400);
    let (west, east) = c.send(&udp("10.1.0.9", "10.2.0.9").len(1400).frag(DF).ce_sends());
    assert_eq!((west.len(), east.len(), west[0][34..36].to_vec()), (1, 0, vec![3, 4]));
    assert_eq!(west[0][40..42], 1392u16.to_be_bytes());
    let (west, east) = c.send(&udp6(NEAR6, FAR6).len(1400).ce_sends());
    assert_eq!(
        (west.len(), east.len(), west[0][54..62].to_vec()),
        (1, 0, [&[2, 0][..], &west[0][56..58], &1392u32.to_be_bytes()].concat())
    );
    // A packet of that size passes, and without DF a longer one does in pieces.
    assert_eq!(c.send(&udp("10.1.0.9", "10.2.0.9").len(1392).frag(DF).ce_sends()).1.len(), 1);
    assert_eq!(c.send(&udp6(NEAR6, FAR6).len(1392).ce_sends()).1.len(), 1);
    let p = udp("10.1.0.9", "10.2.0.9").len(1400);
    let (_, east) = c.send(&p.ce_sends());
    let mut together: Vec<_> = east.iter().map(|f| (f[20..22].to_vec(), f[34..].to_vec())).collect();
    together.sort_by_key(|f| f.0[1]);
    assert_eq!(together.len(), 2);
    assert_eq!(together.into_iter().rev().flat_map(|f| f.1).collect::<Vec<_>>().len(), p.payload.len());
}
