//! Measures the pipelines without devices: `cargo run --release -p edgeplex-forwarder --example pipeline`.
//! Nanoseconds a packet of 64 bytes of IP, with 200 routes of each version: the best of 15 rounds of 10,240 packets, each in
//! a buffer that was just written.

#![allow(clippy::expect_used, reason = "what is programmed here is right")]

use edgeplex_ff_fib_api::{FibOp, Flow, HoldOp, Interface, Leg, Port as CorePort, Reply, Request, SwitchTarget, Target, Tunnel, VpnPath};
use edgeplex_ff_packet::{arp, ethernet, ipv4, ipv6, mpls, nd};
use edgeplex_ff_phy::VecBuf;
use edgeplex_forwarder::{Forwarder, Holds, Lsr, Port, Sink};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const CE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const CORE: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const NEXT: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
const BURST: u16 = 256;

/// Keeps what comes out until the clock has been read.
#[derive(Default)]
struct Out(Vec<VecBuf>);

impl<P> Sink<VecBuf, P> for Out {
    fn send(&mut self, _: P, buf: VecBuf) {
        self.0.push(buf);
    }
    fn alloc(&mut self) -> Option<VecBuf> {
        Some(VecBuf::with_room(2048))
    }
}

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap_or(Label::MAX)
}

fn tunnel(legs: u32) -> FibOp {
    let leg = |n| Leg { port: 0, transport: vec![label(16 + n)], source_mac: CORE, destination_mac: NEXT };
    FibOp::Tunnel(Tunnel { id: TunnelId(7), endpoint: [10, 255, 0, 2].into(), legs: (0..legs).map(leg).collect() })
}

fn port_vm(legs: u32) -> Vec<FibOp> {
    let route = |prefix: &str, target| FibOp::Route { prefix: prefix.parse().expect("a prefix"), target };
    let ce = |a: &str| Target::Customer { next_hop: a.parse().expect("an address") };
    let far = || Target::Vpn { paths: vec![VpnPath { label: label(2002), tunnel: TunnelId(7) }], backup: vec![] };
    let addresses = ["192.168.1.1/30", "2001:db8:f::1/64"].map(|a| a.parse().expect("an address")).to_vec();
    let mut ops = vec![
        FibOp::Interface(Interface { mac: OURS, addresses, customer_mtu: 1500, core_mtu: 1600 }),
        FibOp::OwnLabel { label: label(1001), next_hop: None },
        tunnel(legs),
        route("10.1.0.0/16", ce("192.168.1.2")),
        route("10.2.0.0/16", far()),
        route("2001:db8:1::/48", ce("2001:db8:f::2")),
        route("2001:db8:2::/48", far()),
    ];
    for i in 0..200 {
        ops.push(route(&format!("172.16.{i}.0/24"), Target::Unreachable));
        ops.push(route(&format!("2001:db8:{:x}::/48", 0x1000 + i), Target::Unreachable));
    }
    ops
}

fn snapshot(ops: Vec<FibOp>) -> [Request; 3] {
    [Request::Begin { epoch: Epoch(1) }, Request::Program { epoch: Epoch(1), ops }, Request::End { epoch: Epoch(1) }]
}

fn udp4(source: [u8; 4], destination: [u8; 4], port: u16) -> Vec<u8> {
    let (source, destination) = (source.into(), destination.into());
    let h = ipv4::Header { tos: 0, total_len: 64, identification: 1, ttl: 64, protocol: ipv4::UDP, source, destination };
    [&h.to_bytes()[..], &port.to_be_bytes(), &[0, 53, 0, 44, 0, 0], &[0; 36]].concat()
}

/// A segment from the first port that BGP's client might have.
fn tcp4([source, destination]: [[u8; 4]; 2], seq: u16) -> Vec<u8> {
    let (source, destination) = (source.into(), destination.into());
    let h = ipv4::Header { tos: 0, total_len: 64, identification: 1, ttl: 1, protocol: ipv4::TCP, source, destination };
    let segment = [&[4, 0, 0, 179, 0, 0][..], &seq.to_be_bytes(), &[0, 0, 0, 0, 5 << 4, 0x10, 1, 0, 0, 0, 0, 0], &[0; 24]].concat();
    [&h.to_bytes()[..], &segment].concat()
}

fn udp6(source: &str, destination: &str, port: u16) -> Vec<u8> {
    let [source, destination] = [source, destination].map(|a| a.parse().unwrap_or(Ipv6Addr::UNSPECIFIED));
    let h = ipv6::Header { traffic_class: 0, payload_len: 24, next_header: ipv4::UDP, hop_limit: 64, source, destination };
    [&h.to_bytes()[..], &port.to_be_bytes(), &[0, 53, 0, 24, 0, 0], &[0; 16]].concat()
}

fn labelled(to: MacAddr, stack: &[u32], packet: &[u8]) -> Vec<u8> {
    let mut out = ethernet::header(to, NEXT, ethernet::MPLS).to_vec();
    for (i, l) in stack.iter().enumerate() {
        out.extend(mpls::Entry { label: label(*l), tc: 0, bottom: i + 1 == stack.len(), ttl: 64 }.to_bytes());
    }
    [out, packet.to_vec()].concat()
}

fn measure(name: &str, frame: impl Fn(u16) -> Vec<u8>, mut process: impl FnMut(VecBuf, &mut Out)) {
    let mut best = f64::MAX;
    for _ in 0..15 {
        let (mut seconds, mut packets) = (0.0, 0u32);
        for round in 0..40 {
            let buffers: Vec<_> = (0..BURST).map(|i| VecBuf::from_bytes(&frame(i + round))).collect();
            let mut out = Out(Vec::with_capacity(BURST.into()));
            let began = Instant::now();
            buffers.into_iter().for_each(|b| process(b, &mut out));
            seconds += began.elapsed().as_secs_f64();
            packets += u32::from(BURST);
            assert_eq!(out.0.len(), usize::from(BURST), "{name}: each packet comes out");
        }
        best = best.min(seconds / f64::from(packets));
    }
    println!("{name:<44} {:>6.1} ns", best * 1e9);
}

fn main() {
    let now = Instant::now();
    for legs in [1, 4] {
        let mut f = Forwarder::new(now, 1, Holds::new(vec![179], 128));
        snapshot(port_vm(legs)).into_iter().for_each(|r| assert_eq!(f.control(now, r, &mut Out::default()), Reply::Done));
        let (ce, ours) = (Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(192, 168, 1, 1));
        let request = arp::Arp { operation: arp::REQUEST, sender_mac: CE, sender: ce, target_mac: MacAddr([0; 6]), target: ours };
        let [ce6, ours6] = ["2001:db8:f::2", "2001:db8:f::1"].map(|a| a.parse().unwrap_or(Ipv6Addr::UNSPECIFIED));
        let solicitation = nd::Nd { source: ce6, destination: ours6, target: ours6, mac: Some(CE), kind: nd::Kind::Solicitation };
        for (kind, body) in [(ethernet::ARP, &request.to_bytes()[..]), (ethernet::IPV6, &solicitation.to_bytes())] {
            f.process(now, Port::Customer, VecBuf::from_bytes(&[&ethernet::header(OURS, CE, kind), body].concat()), &mut Out::default());
        }
        let out4 = |i| [&ethernet::header(OURS, CE, ethernet::IPV4)[..], &udp4([10, 1, 0, 9], [10, 2, 0, 9], i)].concat();
        let out6 = |i| [&ethernet::header(OURS, CE, ethernet::IPV6)[..], &udp6("2001:db8:1::9", "2001:db8:2::9", i)].concat();
        measure(&format!("IPv4, customer to core, {legs} leg(s)"), out4, |b, out| f.process(now, Port::Customer, b, out));
        measure(&format!("IPv6, customer to core, {legs} leg(s)"), out6, |b, out| f.process(now, Port::Customer, b, out));
        if legs == 1 {
            let in4 = |i| labelled(CORE, &[1001], &udp4([10, 2, 0, 9], [10, 1, 0, 9], i));
            let in6 = |i| labelled(CORE, &[1001], &udp6("2001:db8:2::9", "2001:db8:1::9", i));
            measure("IPv4, core to customer", in4, |b, out| f.process(now, Port::Core, b, out));
            measure("IPv6, core to customer", in6, |b, out| f.process(now, Port::Core, b, out));
        }
        if legs == 1 {
            let ends = [[192, 168, 1, 1], [192, 168, 1, 2]];
            let flow = Flow { local: (ends[0], 1024).into(), remote: (ends[1], 179).into() };
            let bounds = Request::Hold(vec![HoldOp::Upto { flow, seq: 1 << 20, ack: 0 }]);
            assert_eq!(f.control(now, bounds, &mut Out::default()), Reply::Done);
            let bgp = |i| [&ethernet::header(CE, OURS, ethernet::IPV4)[..], &tcp4(ends, i)].concat();
            measure("BGP segment of the kernel, within its bounds", bgp, |b, out| f.process(now, Port::Tap, b, out));
        }
        let mut lsr = Lsr::new(now, 1, 1);
        let ports = FibOp::Ports(vec![CorePort { mac: CORE, address: [10, 0, 0, 1].into(), mtu: 1600 }]);
        let mut ops = vec![ports, tunnel(legs)];
        ops.extend((0..500).map(|i| FibOp::Switch { label: label(100 + i), target: SwitchTarget::Tunnel(TunnelId(7)) }));
        snapshot(ops).into_iter().for_each(|r| assert_eq!(lsr.control(now, r), Reply::Done));
        let swapped = |i| labelled(CORE, &[100 + u32::from(i % 500), 2002], &udp4([10, 1, 0, 9], [10, 2, 0, 9], i));
        measure(&format!("label swapped, {legs} leg(s)"), swapped, |b, out| lsr.process(now, 0, b, out));
    }
}
