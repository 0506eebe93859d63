//! The hold where it stands: in a port VM's pipeline, behind the TAP and in front of the routes, and on a CVM's wires.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use edgeplex_ff_fib_api::*;
use edgeplex_ff_phy::{PacketBuf, VecBuf};
use edgeplex_forwarder::Port::{self, Core, Customer, Tap};
use edgeplex_forwarder::{Forwarder, Holds, Side, Sink, Wires};
use std::time::{Duration, Instant};

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;

/// A BGP segment from `source` to `destination`, whose port is 179.
fn segment(source: &str, destination: &str, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Ip {
    let head = [&[0x9c, 0x40, 0, 179][..], &seq.to_be_bytes(), &ack.to_be_bytes(), &[5 << 4, flags, 1, 0, 0, 0, 0, 0]].concat();
    Ip { proto: 6, payload: [head, data.to_vec()].concat(), ..udp(source, destination) }
}

fn flow(remote: &str) -> Flow {
    Flow { local: format!("{OUR_IP}:40000").parse().unwrap(), remote: format!("{remote}:179").parse().unwrap() }
}

/// A warm port VM that guards BGP.
fn guarded() -> Bench {
    let mut b = Bench::warm();
    // Programmed anew: what a Bench has guards nothing.
    b.f = Forwarder::new(b.now, 1, Holds::new(vec![179], 16));
    assert_eq!(b.ask(Request::Begin { epoch: edgeplex_types::Epoch(1) }), Reply::Done);
    b.program(vec![
        interface(1500, 1600),
        tunnel(7, &[16]),
        route("10.2.0.0/16", vpn(2002, 7)),
        route("192.168.1.0/30", Target::Connected),
    ]);
    b
}

fn hold(b: &mut Bench, op: HoldOp) -> Vec<(Port, Vec<u8>)> {
    assert_eq!(b.ask(Request::Hold(vec![op])), Reply::Done);
    std::mem::take(&mut b.out.sent)
}

#[test]
fn a_held_segment_takes_its_way_when_its_time_has_come() {
    let mut b = guarded();
    // To the CE on the link, and to one behind the core: through the VRF.
    let near = segment(OUR_IP, CE_IP, ACK, 100, 50, b"open");
    let far = segment(OUR_IP, FAR, ACK, 100, 50, b"open");
    for remote in [CE_IP, FAR] {
        hold(&mut b, HoldOp::Upto { flow: flow(remote), seq: 100, ack: 50 });
    }
    assert_eq!((b.put(Tap, &near.to_ce()), b.put(Tap, &far.kernel_sends())), (vec![], vec![]));
    b.now += Duration::from_micros(700);
    assert_eq!(hold(&mut b, HoldOp::Upto { flow: flow(CE_IP), seq: 104, ack: 50 }), [(Customer, near.to_ce())]);
    let labelled = far.to_p(&[lse(16, 0, false, 64), lse(2002, 0, true, 64)]);
    assert_eq!(hold(&mut b, HoldOp::Upto { flow: flow(FAR), seq: 104, ack: 50 }), [(Core, labelled)]);
    let Reply::Holds { rows } = b.ask(Request::Holds) else { panic!() };
    let row = |remote| Hold { flow: flow(remote), seq: 104, ack: 50, fenced: false, waiting: 0, held: 1, dropped: 0, longest_us: 700 };
    assert_eq!(rows, [row(FAR), row(CE_IP)]);
    assert_eq!(b.counters().drops, []);
    assert_eq!(b.f.next_deadline(), None, "holding needs no time");
}

#[test]
fn a_fence_stops_what_comes_from_the_customer_and_from_the_core() {
    let mut b = guarded();
    b.program(vec![own_label(OWN_LABEL)]);
    // Sessions that the neighbours have opened.
    let theirs =
        |remote: &str| Flow { local: format!("{OUR_IP}:179").parse().unwrap(), remote: format!("{remote}:40000").parse().unwrap() };
    let [near, far] = [CE_IP, FAR].map(|from| segment(from, OUR_IP, ACK, 1, 1, b"update"));
    let from_far = far.p_sends(&[lse(OWN_LABEL, 0, true, 64)]);
    assert_eq!(b.put(Customer, &near.ce_sends()), [(Tap, near.ce_sends())]);
    assert_eq!(b.put(Core, &from_far), [(Tap, far.to_kernel())]);
    for remote in [CE_IP, FAR] {
        hold(&mut b, HoldOp::Fence { flow: theirs(remote) });
    }
    assert_eq!(b.dropped(Customer, &near.ce_sends(), "hold-fenced"), []);
    assert_eq!(b.dropped(Core, &from_far, "hold-fenced"), []);
    hold(&mut b, HoldOp::Upto { flow: theirs(CE_IP), seq: 1, ack: 1 });
    assert_eq!(b.put(Customer, &near.ce_sends()), [(Tap, near.ce_sends())]);
}

#[test]
fn refused_is_what_makes_no_sense() {
    let mut b = Bench::warm();
    let op = HoldOp::Fence { flow: flow(CE_IP) };
    assert!(matches!(b.ask(Request::Hold(vec![op])), Reply::Refused { reason } if reason.contains("--hold")));
    assert!(matches!(b.ask(Request::Hold(vec![op; MAX_OPS + 1])), Reply::Refused { .. }));
    assert_eq!(b.ask(Request::Holds), Reply::Holds { rows: vec![] });
    let mut lsr = edgeplex_forwarder::Lsr::<VecBuf>::new(b.now, 1, 1);
    for request in [Request::Hold(vec![op]), Request::Holds, Request::Neighbors(vec![])] {
        assert!(matches!(lsr.control(b.now, request), Reply::Refused { .. }));
    }
}

/// Pairs of a CVM.
struct Cvm {
    wires: Wires<VecBuf>,
    now: Instant,
    out: Sent,
}

#[derive(Default)]
struct Sent(Vec<(Side, Vec<u8>)>);

impl Sink<VecBuf, Side> for Sent {
    fn send(&mut self, side: Side, buf: VecBuf) {
        self.0.push((side, buf.data().to_vec()));
    }
    fn alloc(&mut self) -> Option<VecBuf> {
        None
    }
}

impl Cvm {
    fn new(ports: &[u16]) -> Self {
        let now = Instant::now();
        Self { wires: Wires::new(now, Holds::new(ports.to_vec(), 16)), now, out: Sent::default() }
    }

    fn put(&mut self, side: Side, frame: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.wires.process(self.now, side, VecBuf::from_bytes(frame), &mut self.out);
        std::mem::take(&mut self.out.0)
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.wires.control(self.now, request, &mut self.out)
    }
}

#[test]
fn wires_pass_every_frame_as_it_is_both_ways() {
    let mut c = Cvm::new(&[179, 646]);
    let to = |mac, kind, payload: &[u8]| eth(mac, PE, kind, payload);
    let group = [1, 0, 0x5e, 0, 0, 5];
    let frames = [
        to(group, 0x0800, &Ip { proto: 89, ..udp("10.0.1.1", "224.0.0.5") }.ttl(1).bytes()),
        to(group, 0x0800, &Ip { proto: 89, ..udp("10.0.1.1", "224.0.0.5") }.len(9216).frag(DF).bytes()),
        to(P, 0x0800, &udp("10.0.1.1", "10.0.1.2").ttl(255).bytes()),
        to(P, 0x0800, &udp("10.0.1.1", "10.0.1.2").frag(MF).bytes()),
        to(ALL, 0x0806, &[7; 46]),
        to(P, 0x8847, &[lse(16, 0, true, 255).to_vec(), udp(FAR, NEAR).bytes()].concat()),
        to(P, 0x86dd, &[0x60; 60][..]),
        to(P, 0x88cc, &[]),
    ];
    for (n, frame) in frames.iter().enumerate() {
        let pair = u8::try_from(n % 3).unwrap();
        // One that only says that it is IPv6.
        let is_broken = frame[12..14] == [0x86, 0xdd];
        let out = if is_broken { vec![] } else { vec![(Side::Wire(pair), frame.clone())] };
        assert_eq!(c.put(Side::Tap(pair), frame), out);
        assert_eq!(c.put(Side::Wire(pair), frame), [(Side::Tap(pair), frame.clone())]);
    }
    let Reply::Counters(counts) = c.ask(Request::Counters) else { panic!() };
    let packets = [counts.injected, counts.to_core, counts.from_core, counts.punted].map(|c| c.packets);
    assert_eq!((packets, counts.drops), ([8, 7, 8, 8], vec![("hold-opaque".to_owned(), 1)]));
}

#[test]
fn what_a_cvms_session_says_waits_and_leaves_by_the_wire_it_was_meant_for() {
    let mut c = Cvm::new(&[179]);
    let frame = |flags, seq, data: &[u8]| eth(P, PE, 0x0800, &segment(OUR_IP, FAR, flags, seq, 50, data).bytes());
    assert_eq!(c.put(Side::Tap(2), &frame(SYN, 99, &[])).len(), 1);
    assert_eq!(c.put(Side::Tap(2), &frame(ACK, 100, b"open")), []);
    // The core reroutes: the next segment takes another port.
    assert_eq!(c.put(Side::Tap(0), &frame(ACK, 104, b"keep")), []);
    assert_eq!(c.ask(Request::Hold(vec![HoldOp::Upto { flow: flow(FAR), seq: 108, ack: 50 }])), Reply::Done);
    let out = std::mem::take(&mut c.out.0);
    assert_eq!(out, [(Side::Wire(2), frame(ACK, 100, b"open")), (Side::Wire(0), frame(ACK, 104, b"keep"))]);
    let Reply::Holds { rows } = c.ask(Request::Holds) else { panic!() };
    assert_eq!((rows.len(), rows[0].held), (1, 2));
    // A process that was killed.
    assert_eq!(c.put(Side::Tap(0), &frame(FIN | ACK, 108, &[])), []);
    assert!(matches!(c.ask(Request::Status), Reply::Status(Status { epoch: None, .. })));
    for request in [Request::Adjacencies, Request::Tunnels, Request::Neighbors(vec![])] {
        assert!(matches!(c.ask(request), Reply::Refused { .. }));
    }
}
