//! All forwarders whole, of a port VM, of a label-switching router and on a CVM's wires: a programmed FIB, then any frames on any
//! port at any time, and what a daemon says of sessions in between. The input is a list of (port and time step, kind and length,
//! bytes). Port 3 is the router's, and the top of the length says which. What is of the TAP goes through the wires too. The kind puts an Ethernet header that will be taken in front, and makes the checksum of IPv4 right: without
//! that, no mutation would get far.
#![no_main]
use edgeplex_ff_fib_api::{FibOp, Flow, HoldOp, Interface, Leg, Neighbor, Port as CorePort, Reply, Request, SwitchTarget, Target, Tunnel, VRF_MAC, VpnPath};
use edgeplex_ff_packet::{checksum, ethernet, mpls};
use edgeplex_ff_phy::{PacketBuf, VecBuf};
use edgeplex_forwarder::{Forwarder, Holds, Lsr, Port, Side, Sink, Wires};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use std::time::{Duration, Instant};

const FRAME: usize = 2048;

struct Out(usize);

impl<P> Sink<VecBuf, P> for Out {
    fn send(&mut self, _: P, buf: VecBuf) {
        // What passes as it is may be as long as what was put in: a length of 11 bits and a header.
        assert!((14..FRAME + ethernet::HEADER_LEN).contains(&buf.len()), "a frame of {} bytes", buf.len());
        self.0 += 1;
    }

    fn alloc(&mut self) -> Option<VecBuf> {
        Some(VecBuf::with_room(FRAME))
    }
}

fn label(n: u32) -> Label {
    Label::try_from(n).expect("a label")
}

fn tunnel(id: u32, ways: &[(u8, &[u32])]) -> FibOp {
    let leg = |(port, transport): &(u8, &[u32])| Leg {
        port: *port,
        transport: transport.iter().map(|l| label(*l)).collect(),
        source_mac: MacAddr([2, 0, 0, 0, 1, *port]),
        destination_mac: MacAddr([2, 0, 0, 0, 2, *port]),
    };
    FibOp::Tunnel(Tunnel { id: TunnelId(id), endpoint: [10, 255, 0, 2].into(), legs: ways.iter().map(leg).collect() })
}

fn programme() -> Vec<FibOp> {
    let route = |prefix: &str, target| FibOp::Route { prefix: prefix.parse().expect("a prefix"), target };
    let path = |l, t| VpnPath { label: label(l), tunnel: TunnelId(t) };
    let own = |l, next_hop: Option<&str>| FibOp::OwnLabel { label: label(l), next_hop: next_hop.map(|a| a.parse().expect("an address")) };
    let far = || Target::Vpn { paths: vec![path(2000, 1), path(2001, 2)], backup: vec![path(2002, 1)] };
    vec![
        FibOp::Interface(Interface {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            addresses: ["192.168.1.1/30", "2001:db8:f::1/64", "fe80::1/64"].map(|a| a.parse().expect("an address")).to_vec(),
            customer_mtu: 1500,
            core_mtu: 1600,
        }),
        own(1000, None),
        own(1001, Some("192.168.1.2")),
        own(1002, Some("fe80::2")),
        tunnel(1, &[(0, &[20]), (0, &[])]),
        tunnel(2, &[]),
        route("192.168.1.0/30", Target::Connected),
        route("192.168.1.1/32", Target::Local),
        route("172.16.1.0/24", Target::Customer { next_hop: [192, 168, 1, 2].into() }),
        route("172.16.0.0/16", far()),
        route("10.0.0.0/8", Target::Unreachable),
        route("2001:db8:f::/64", Target::Connected),
        route("2001:db8:1::/48", Target::Customer { next_hop: "fe80::2".parse().expect("an address") }),
        route("2001:db8::/32", far()),
    ]
}

fn switching() -> Vec<FibOp> {
    let port = |i: u8| CorePort { mac: MacAddr([2, 0, 0, 0, 1, i]), address: [10, 0, 0, i].into(), mtu: 1500 };
    let switch = |l, target| FibOp::Switch { label: label(l), target };
    vec![
        FibOp::Ports((0..3).map(port).collect()),
        tunnel(1, &[(1, &[200]), (2, &[300, 301])]),
        tunnel(2, &[(1, &[])]),
        switch(16, SwitchTarget::Tunnel(TunnelId(1))),
        switch(17, SwitchTarget::Tunnel(TunnelId(2))),
        switch(18, SwitchTarget::Pop),
        switch(19, SwitchTarget::Tunnel(TunnelId(9))),
    ]
}

fn snapshot(ops: Vec<FibOp>) -> [Request; 3] {
    [Request::Begin { epoch: Epoch(1) }, Request::Program { epoch: Epoch(1), ops }, Request::End { epoch: Epoch(1) }]
}

/// A frame of this kind to the MAC address that ends in `to`, or the bytes as they are.
fn dressed(bytes: &[u8], kind: u8, to: [u8; 2]) -> Vec<u8> {
    let kind = match kind {
        1 | 2 => ethernet::IPV4,
        3 | 4 => ethernet::IPV6,
        5 | 6 => ethernet::MPLS,
        7 => ethernet::ARP,
        _ => return bytes.to_vec(),
    };
    let to = if to == [0, 0] { VRF_MAC } else { MacAddr([2, 0, 0, 0, to[0], to[1]]) };
    let mut frame = [&ethernet::header(to, MacAddr([2, 0, 0, 0, 9, 9]), kind)[..], bytes].concat();
    let stack = if kind == ethernet::MPLS { mpls::depth(bytes, 16).unwrap_or(0) } else { 0 };
    if let Some(ip) = frame.get_mut(ethernet::HEADER_LEN + stack * mpls::LEN..)
        && let Some(header) = ip.get_mut(..20)
        && header[0] == 0x45
    {
        header[10..12].fill(0);
        let sum = checksum::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// What a daemon may say of a session, or of neighbours; the ports are those that the corpus has.
fn told(bytes: &[u8; 10]) -> Request {
    let [what, ends, seq @ .., a0, a1, a2, a3] = *bytes;
    let ports = [(179, 1024), (1024, 179), (646, 646), (179, 0)][usize::from(ends & 3)];
    let flow = if ends & 4 == 0 {
        Flow { local: ([192, 168, 1, 1], ports.0).into(), remote: ([192, 168, 1, 2], ports.1).into() }
    } else {
        let at = |a: &str| a.parse::<std::net::Ipv6Addr>().expect("an address");
        Flow { local: (at("2001:db8:f::1"), ports.0).into(), remote: (at("2001:db8:f::2"), ports.1).into() }
    };
    let (seq, ack) = (u32::from_be_bytes(seq), u32::from_be_bytes([a0, a1, a2, a3]));
    let mac = MacAddr([2, 0, 0, a0 & 3, a1, a2]);
    match what & 7 {
        0..=3 => Request::Hold(vec![HoldOp::Upto { flow, seq, ack }]),
        4 => Request::Hold(vec![HoldOp::Fence { flow }]),
        5 => Request::Hold(vec![HoldOp::Over { flow }, HoldOp::Known]),
        6 => Request::Neighbors(vec![Neighbor { address: [192, 168, 1, a3].into(), mac }]),
        _ => Request::Hold(vec![HoldOp::Known]),
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let guarded = || vec![179, 646];
    let (mut forwarder, mut lsr) = (Forwarder::new(now, 1, Holds::new(guarded(), 8)), Lsr::new(now, 2, 3));
    let mut wires = Wires::new(now, Holds::new(guarded(), 8));
    let mut out = Out(0);
    for (a, b) in snapshot(programme()).into_iter().zip(snapshot(switching())) {
        assert_eq!((forwarder.control(now, a, &mut out), lsr.control(now, b)), (Reply::Done, Reply::Done));
    }
    let mut rest = input;
    while let Some(([what, high, low], tail)) = rest.split_first_chunk::<3>() {
        let length = (usize::from(high & 7) << 8 | usize::from(*low)).min(tail.len());
        let (frame, tail) = tail.split_at(length);
        rest = tail;
        now += Duration::from_millis(u64::from(what >> 2) * 50);
        forwarder.tick(now, &mut out);
        let at = high >> 6;
        // Ten bytes of no kind on the TAP: a daemon speaks.
        if what & 3 == 2 && high & 0x3f == 0 && *low == 10 {
            if let Some(bytes) = frame.first_chunk() {
                let before = out.0;
                forwarder.control(now, told(bytes), &mut out);
                wires.control(now, told(bytes), &mut out);
                assert!(out.0 - before <= 64, "{} frames at once", out.0 - before);
            }
            continue;
        }
        let frame = dressed(frame, high >> 3 & 7, [[0, 1], [1, 1], [0, 0], [1, at]][usize::from(what & 3)]);
        let (before, buf) = (out.0, VecBuf::from_bytes(&frame));
        match what & 3 {
            0 => forwarder.process(now, Port::Customer, buf, &mut out),
            1 => forwarder.process(now, Port::Core, buf, &mut out),
            2 => {
                wires.process(now, if at == 3 { Side::Wire(0) } else { Side::Tap(at) }, buf.clone(), &mut out);
                forwarder.process(now, Port::Tap, buf, &mut out);
            }
            _ => lsr.process(now, at, buf, &mut out),
        }
        // One frame may free a queue of waiting ones or be cut into fragments, but never multiply without bound.
        assert!(out.0 - before <= 64, "{} frames out of one", out.0 - before);
    }
    now += Duration::from_secs(60);
    forwarder.tick(now, &mut out);
    for request in
        [Request::Counters, Request::Adjacencies, Request::Tunnels, Request::TunnelCounts, Request::Status, Request::Holds]
    {
        forwarder.control(now, request.clone(), &mut out);
        wires.control(now, request.clone(), &mut out);
        lsr.control(now, request);
    }
});
