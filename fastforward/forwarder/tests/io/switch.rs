//! `fastforward --lsr` between two wires.

use crate::vm::*;
use edgeplex_ff_fib_api::{FibOp, Leg, PUNT_MAC, Port, Reply, Request, SwitchTarget, Tunnel};
use edgeplex_ff_packet::{ethernet, ipv4, mpls};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use std::time::{Duration, Instant};

/// Of our two ports, and of the routers before them.
const OURS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 3, 0]), MacAddr([2, 0, 0, 0, 3, 1])];
const WEST: MacAddr = MacAddr([2, 0, 0, 0, 4, 0]);
const EAST: MacAddr = MacAddr([2, 0, 0, 0, 4, 1]);

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

fn programme() -> Vec<FibOp> {
    let port = |i: usize| Port { mac: OURS[i], address: [10, 0, 0, u8::try_from(i).unwrap()].into(), mtu: 1600 };
    let tunnel = |id, transport: Vec<Label>, port: u8, to| {
        let legs = vec![Leg { port, transport, source_mac: OURS[usize::from(port)], destination_mac: to }];
        FibOp::Tunnel(Tunnel { id: TunnelId(id), endpoint: [10, 255, 0, 2].into(), legs })
    };
    let switch = |from, target| FibOp::Switch { label: label(from), target };
    vec![
        FibOp::Ports(vec![port(0), port(1)]),
        tunnel(1, vec![label(200)], 1, EAST),
        tunnel(2, vec![], 0, WEST),
        switch(100, SwitchTarget::Tunnel(TunnelId(1))),
        switch(101, SwitchTarget::Tunnel(TunnelId(2))),
        switch(102, SwitchTarget::Pop),
    ]
}

fn start() -> Vm {
    let mut vm = Vm::switch();
    let mut client = vm.connect();
    let epoch = Epoch(1);
    client.done(&Request::Begin { epoch });
    client.done(&Request::Program { epoch, ops: programme() });
    client.done(&Request::End { epoch });
    vm
}

/// A packet under these labels and TTLs.
fn frame(to: MacAddr, from: MacAddr, stack: &[(u32, u8)], id: u16) -> Vec<u8> {
    let h = ipv4::Header {
        tos: 0,
        total_len: 84,
        identification: id,
        ttl: 60,
        protocol: ipv4::UDP,
        source: [10, 1, 0, 9].into(),
        destination: [10, 2, 0, 9].into(),
    };
    let mut out = ethernet::header(to, from, ethernet::MPLS).to_vec();
    for (i, (l, ttl)) in stack.iter().enumerate() {
        out.extend(mpls::Entry { label: label(*l), tc: 0, bottom: i + 1 == stack.len(), ttl: *ttl }.to_bytes());
    }
    [&out[..], &h.to_bytes(), &[7; 64]].concat()
}

/// A frame to this MAC address: type and what is behind the header.
fn to(mac: MacAddr, frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    let f = ethernet::Frame::new(frame).ok()?;
    (f.destination() == mac).then(|| (f.ether_type(), f.payload().to_vec()))
}

fn entry(bytes: &[u8]) -> (u32, bool, u8) {
    let e = mpls::Entry::parse(bytes).unwrap();
    (e.label.get(), e.bottom, e.ttl)
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn labels_are_switched_between_two_wires() {
    let mut vm = start();
    send(&mut vm.ce, &frame(OURS[0], WEST, &[(100, 64), (2002, 64)], 1));
    let (kind, bytes) = receive(&mut vm.p, "the label swapped", |f| to(EAST, f));
    assert_eq!((kind, entry(&bytes), entry(&bytes[4..])), (ethernet::MPLS, (200, false, 63), (2002, true, 64)));
    // Westward, popped before the last hop.
    send(&mut vm.p, &frame(OURS[1], EAST, &[(101, 50)], 2));
    let (kind, bytes) = receive(&mut vm.ce, "the label popped", |f| to(WEST, f));
    assert_eq!((kind, ipv4::Packet::new(&bytes).unwrap().ttl()), (ethernet::IPV4, 49));
    // Ours to pop: back with our own address. Router alert: to the control plane, as it came.
    send(&mut vm.ce, &frame(OURS[0], WEST, &[(102, 64), (2002, 64)], 3));
    let (kind, bytes) = receive(&mut vm.ce, "what is another's here", |f| to(OURS[0], f));
    assert_eq!((kind, entry(&bytes)), (ethernet::MPLS, (2002, true, 64)));
    let alert = frame(OURS[0], WEST, &[(1, 64), (100, 64)], 4);
    send(&mut vm.ce, &alert);
    assert_eq!(receive(&mut vm.ce, "the packet with an alert", |f| to(PUNT_MAC, f)).1, alert[14..]);
    // A TTL that expires is told along the LSP.
    send(&mut vm.ce, &frame(OURS[0], WEST, &[(100, 1)], 5));
    let (_, bytes) = receive(&mut vm.p, "time exceeded", |f| to(EAST, f));
    let ip = ipv4::Packet::new(&bytes[4..]).unwrap();
    assert_eq!((entry(&bytes).0, ip.destination(), ip.protocol(), ip.payload()[0]), (200, [10, 1, 0, 9].into(), ipv4::ICMP, 11));
    let Reply::Counters(c) = vm.connect().ask(&Request::Counters) else { panic!("no counters") };
    assert_eq!((c.from_core.packets, c.to_core.packets, c.punted.packets), (5, 4, 1), "{c:?}");
    assert_eq!(c.drops, [("ttl-expired".to_owned(), 1)]);
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn an_idle_switch_sleeps_and_forwards_bursts_without_loss() {
    let mut vm = start();
    let idle = vm.load(Duration::from_secs(1));
    let (mut sent, mut got, began) = (0u16, 0, Instant::now());
    let mut seen = vec![];
    while sent < 20_000 || got < usize::from(sent) {
        assert!(began.elapsed() < Duration::from_secs(60), "{got} of {sent} came through");
        for _ in 0..32 {
            if sent < 20_000 {
                send(&mut vm.ce, &frame(OURS[0], WEST, &[(100, 64), (2002, 64)], sent));
                sent += 1;
            }
        }
        vm.p.wait(1);
        edgeplex_ff_phy::Phy::receive(&mut vm.p, &mut seen, 1000);
        got += seen.drain(..).filter(|b| to(EAST, edgeplex_ff_phy::PacketBuf::data(b)).is_some()).count();
    }
    println!("idle {:.4} % of a core, RSS {} kB; {sent} frames through in {:?}", idle * 100.0, vm.rss_kb(), began.elapsed());
    assert!(idle < 0.02, "idle load {idle}");
}
