//! A label-switching router on a bench.

use super::{Out, label, leg};
use edgeplex_ff_fib_api::*;
use edgeplex_ff_phy::VecBuf;
use edgeplex_forwarder::{Lsr, Sink};
use edgeplex_types::{Epoch, MacAddr, TunnelId};
use std::net::Ipv4Addr;
use std::time::Instant;

/// Frames out, by number of the port.
pub(crate) type Frames = Vec<(u8, Vec<u8>)>;

/// MAC address of port `i` of router `n`.
pub(crate) fn mac(n: u8, i: u8) -> [u8; 6] {
    [2, 0, 0, n, 0, i]
}

pub(crate) fn port(n: u8, i: u8, mtu: u16) -> Port {
    Port { mac: MacAddr(mac(n, i)), address: Ipv4Addr::new(10, 0, n, i), mtu }
}

pub(crate) fn switch(from: u32, tunnel: u32) -> FibOp {
    FibOp::Switch { label: label(from), target: SwitchTarget::Tunnel(TunnelId(tunnel)) }
}

pub(crate) fn pop(from: u32) -> FibOp {
    FibOp::Switch { label: label(from), target: SwitchTarget::Pop }
}

struct Sent<'a>(&'a mut Frames, &'a mut Out);

impl Sink<VecBuf, u8> for Sent<'_> {
    fn send(&mut self, port: u8, buf: VecBuf) {
        self.0.push((port, edgeplex_ff_phy::PacketBuf::data(&buf).to_vec()));
    }
    fn alloc(&mut self) -> Option<VecBuf> {
        Sink::<VecBuf>::alloc(self.1)
    }
}

pub(crate) struct Switch {
    pub(crate) lsr: Lsr<VecBuf>,
    pub(crate) now: Instant,
    pub(crate) out: Out,
}

impl Switch {
    /// Router `n` with three ports of this MTU and nothing to switch.
    pub(crate) fn new(n: u8, mtu: u16) -> Self {
        let now = Instant::now();
        let mut s = Self { lsr: Lsr::new(now, u64::from(n), 3), now, out: Out { sent: vec![], buffers: usize::MAX } };
        assert_eq!(s.lsr.control(now, Request::Begin { epoch: Epoch(1) }), Reply::Done);
        s.program(vec![FibOp::Ports((0..3).map(|i| port(n, i, mtu)).collect())]);
        assert_eq!(s.lsr.control(now, Request::End { epoch: Epoch(1) }), Reply::Done);
        s
    }

    pub(crate) fn program(&mut self, ops: Vec<FibOp>) {
        assert_eq!(self.lsr.control(self.now, Request::Program { epoch: Epoch(1), ops }), Reply::Done);
    }

    pub(crate) fn put(&mut self, port: u8, frame: &[u8]) -> Frames {
        let mut sent = vec![];
        self.lsr.process(self.now, port, VecBuf::from_bytes(frame), &mut Sent(&mut sent, &mut self.out));
        sent
    }

    pub(crate) fn counters(&mut self) -> Counters {
        let Reply::Counters(c) = self.lsr.control(self.now, Request::Counters) else { panic!() };
        c
    }

    /// Asserts that the frame is dropped for exactly this reason; what came out nevertheless.
    #[track_caller]
    pub(crate) fn dropped(&mut self, port: u8, frame: &[u8], reason: &str) -> Frames {
        let before = self.counters().drops;
        let out = self.put(port, frame);
        let after = self.counters().drops;
        let count = |d: &[(String, u64)], r: &str| d.iter().find(|x| x.0 == r).map_or(0, |x| x.1);
        assert_eq!(count(&after, reason), count(&before, reason) + 1, "{reason}: {before:?} → {after:?}");
        let total = |d: &[(String, u64)]| d.iter().map(|x| x.1).sum::<u64>();
        assert_eq!(total(&after), total(&before) + 1, "one reason only: {after:?}");
        out
    }
}

/// A leg of router `n` over its port `i` to port `j` of router `m`.
pub(crate) fn towards(n: u8, i: u8, transport: &[u32], m: u8, j: u8) -> Leg {
    leg(i, transport, mac(n, i), mac(m, j))
}
