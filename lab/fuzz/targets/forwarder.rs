//! The whole forwarder: a programmed FIB, then any frames on any port at any time.
//! The input is a list of (port and time step, length, frame).
#![no_main]
use edgeplex_ff_fib_api::{FibOp, Interface, Reply, Request, Target, Tunnel, VpnPath};
use edgeplex_ff_phy::{PacketBuf, VecBuf};
use edgeplex_forwarder::{Forwarder, Port, Sink};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use std::time::{Duration, Instant};

const FRAME: usize = 2048;

struct Out(usize);

impl Sink<VecBuf> for Out {
    fn send(&mut self, _: Port, buf: VecBuf) {
        assert!((14..=FRAME).contains(&buf.len()), "a frame of {} bytes", buf.len());
        self.0 += 1;
    }

    fn alloc(&mut self) -> Option<VecBuf> {
        Some(VecBuf::with_room(FRAME))
    }
}

fn label(n: u32) -> Label {
    Label::try_from(n).expect("a label")
}

fn programme() -> Vec<FibOp> {
    let route = |prefix: &str, target| FibOp::Route { prefix: prefix.parse().expect("a prefix"), target };
    let path = |l| VpnPath { label: label(l), tunnel: TunnelId(1) };
    vec![
        FibOp::Interface(Interface {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            addresses: vec!["192.168.1.1/30".parse().expect("an address")],
            customer_mtu: 1500,
            core_mtu: 1600,
        }),
        FibOp::OwnLabel { label: label(1000) },
        FibOp::Tunnel(Tunnel {
            id: TunnelId(1),
            endpoint: [10, 255, 0, 2].into(),
            transport: vec![label(20)],
            source_mac: MacAddr([2, 0, 0, 0, 1, 1]),
            destination_mac: MacAddr([2, 0, 0, 0, 1, 2]),
        }),
        route("192.168.1.0/30", Target::Connected),
        route("192.168.1.1/32", Target::Local),
        route("172.16.1.0/24", Target::Customer { next_hop: [192, 168, 1, 2].into() }),
        route("172.16.0.0/16", Target::Vpn { paths: vec![path(2000), path(2001)] }),
        route("10.0.0.0/8", Target::Unreachable),
    ]
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut forwarder = Forwarder::new(now);
    for request in
        [Request::Begin { epoch: Epoch(1) }, Request::Program { epoch: Epoch(1), ops: programme() }, Request::End { epoch: Epoch(1) }]
    {
        assert_eq!(forwarder.control(now, request), Reply::Done);
    }
    let mut out = Out(0);
    let mut rest = input;
    while let Some(([what, high, low], tail)) = rest.split_first_chunk::<3>() {
        let length = (usize::from(high & 7) << 8 | usize::from(*low)).min(tail.len());
        let (frame, tail) = tail.split_at(length);
        rest = tail;
        now += Duration::from_millis(u64::from(what >> 2) * 50);
        forwarder.tick(now, &mut out);
        let port = [Port::Customer, Port::Core, Port::Tap][usize::from(what & 3) % 3];
        let before = out.0;
        forwarder.process(now, port, VecBuf::from_bytes(frame), &mut out);
        // One frame may free a queue of waiting ones or be cut into fragments, but never multiply without bound.
        assert!(out.0 - before <= 64, "{} frames out of one", out.0 - before);
    }
    now += Duration::from_secs(60);
    forwarder.tick(now, &mut out);
    for request in [Request::Counters, Request::Adjacencies, Request::Tunnels, Request::Status] {
        forwarder.control(now, request);
    }
});
