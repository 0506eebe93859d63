//! A forwarder on a bench: frames in, frames out, and builders that share no code with what they test.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

pub(crate) mod switch;
pub(crate) mod v6;

use edgeplex_ff_fib_api::*;
use edgeplex_ff_phy::{PacketBuf, VecBuf};
use edgeplex_forwarder::{Forwarder, Holds, Port, Sink};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// PE towards the customer, and its address.
pub(crate) const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0x01];
pub(crate) const CE: [u8; 6] = [2, 0, 0, 0, 0, 0xce];
/// PE towards the core, and the next P router.
pub(crate) const PE: [u8; 6] = [2, 0, 0, 0, 1, 0x01];
pub(crate) const P: [u8; 6] = [2, 0, 0, 0, 1, 0x02];
pub(crate) const VRF: [u8; 6] = [2, 0, 0x5e, 0, 0, 0xfe];
pub(crate) const ALL: [u8; 6] = [0xff; 6];

/// A host behind the CE, one behind the far PE (tunnel 7, transport label 16), one behind a tunnel without transport.
pub(crate) const NEAR: &str = "10.1.0.9";
pub(crate) const FAR: &str = "10.2.0.9";
pub(crate) const FAR_PHP: &str = "10.3.0.9";
pub(crate) const CE_IP: &str = "192.168.1.2";
pub(crate) const OUR_IP: &str = "192.168.1.1";
pub(crate) const OWN_LABEL: u32 = 1001;

pub(crate) struct Out {
    pub(crate) sent: Vec<(Port, Vec<u8>)>,
    /// Buffers that can still be had.
    pub(crate) buffers: usize,
}

impl Sink<VecBuf> for Out {
    fn send(&mut self, port: Port, buf: VecBuf) {
        self.sent.push((port, buf.data().to_vec()));
    }
    fn alloc(&mut self) -> Option<VecBuf> {
        self.buffers = self.buffers.checked_sub(1)?;
        Some(VecBuf::with_room(2048))
    }
}

pub(crate) struct Bench {
    pub(crate) f: Forwarder<VecBuf>,
    pub(crate) now: Instant,
    pub(crate) out: Out,
}

pub(crate) fn label(n: u32) -> Label {
    n.try_into().unwrap()
}

pub(crate) fn tunnel(id: u32, transport: &[u32]) -> FibOp {
    legs(id, vec![leg(0, transport, PE, P)])
}

pub(crate) fn legs(id: u32, legs: Vec<Leg>) -> FibOp {
    FibOp::Tunnel(Tunnel { id: TunnelId(id), endpoint: Ipv4Addr::new(10, 255, 0, 2).into(), legs })
}

pub(crate) fn leg(port: u8, transport: &[u32], from: [u8; 6], to: [u8; 6]) -> Leg {
    let transport = transport.iter().map(|l| label(*l)).collect();
    Leg { port, transport, source_mac: MacAddr(from), destination_mac: MacAddr(to) }
}

pub(crate) fn own_label(n: u32) -> FibOp {
    FibOp::OwnLabel { label: label(n), next_hop: None }
}

pub(crate) fn route(prefix: &str, target: Target) -> FibOp {
    FibOp::Route { prefix: prefix.parse().unwrap(), target }
}

pub(crate) fn path(l: u32, tunnel: u32) -> VpnPath {
    VpnPath { label: label(l), tunnel: TunnelId(tunnel) }
}

pub(crate) fn vpn(l: u32, tunnel: u32) -> Target {
    Target::Vpn { paths: vec![path(l, tunnel)], backup: vec![] }
}

pub(crate) fn interface(customer_mtu: u16, core_mtu: u16) -> FibOp {
    let addresses = vec!["192.168.1.1/30".parse().unwrap(), "192.168.50.1/24".parse().unwrap()];
    FibOp::Interface(Interface { mac: MacAddr(OURS), addresses, customer_mtu, core_mtu })
}

impl Bench {
    /// Nothing programmed.
    pub(crate) fn empty() -> Self {
        let now = Instant::now();
        Self { f: Forwarder::new(now, 1, Holds::new(vec![], 0)), now, out: Out { sent: vec![], buffers: usize::MAX } }
    }

    /// Programmed, CE not yet resolved.
    pub(crate) fn cold() -> Self {
        let mut b = Self::empty();
        assert_eq!(b.ask(Request::Begin { epoch: Epoch(1) }), Reply::Done);
        b.program(vec![
            interface(1500, 1600),
            own_label(OWN_LABEL),
            tunnel(7, &[16]),
            tunnel(8, &[]),
            route("10.1.0.0/16", Target::Customer { next_hop: CE_IP.parse().unwrap() }),
            route("10.2.0.0/16", vpn(2002, 7)),
            route("10.3.0.0/16", vpn(2003, 8)),
            route("10.4.0.0/16", Target::Unreachable),
            route("10.5.0.0/16", vpn(2005, 99)),
            route("192.168.1.0/30", Target::Connected),
            route("192.168.50.0/24", Target::Connected),
            route("192.168.1.1/32", Target::Local),
        ]);
        assert_eq!(b.ask(Request::End { epoch: Epoch(1) }), Reply::Done);
        b
    }

    /// Programmed, and the CE has asked for us.
    pub(crate) fn warm() -> Self {
        let mut b = Self::cold();
        let sent = b.put(Port::Customer, &arp(ALL, CE, 1, CE, CE_IP, [0; 6], OUR_IP));
        assert_eq!(sent, [(Port::Customer, arp(CE, OURS, 2, OURS, OUR_IP, CE, CE_IP))]);
        b
    }

    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.f.control(self.now, request, &mut self.out)
    }

    pub(crate) fn program(&mut self, ops: Vec<FibOp>) {
        assert_eq!(self.ask(Request::Program { epoch: Epoch(1), ops }), Reply::Done);
    }

    /// What comes out when this frame goes in.
    pub(crate) fn put(&mut self, port: Port, frame: &[u8]) -> Vec<(Port, Vec<u8>)> {
        self.f.process(self.now, port, VecBuf::from_bytes(frame), &mut self.out);
        std::mem::take(&mut self.out.sent)
    }

    /// What comes out in the next so many milliseconds, each deadline kept to the instant.
    pub(crate) fn wait(&mut self, ms: u64) -> Vec<(Port, Vec<u8>)> {
        let end = self.now + Duration::from_millis(ms);
        while let Some(due) = self.f.next_deadline().filter(|d| *d <= end) {
            self.now = self.now.max(due);
            self.f.tick(self.now, &mut self.out);
            assert!(self.f.next_deadline().is_none_or(|d| d > self.now), "tick leaves nothing due");
        }
        self.now = end;
        std::mem::take(&mut self.out.sent)
    }

    pub(crate) fn counters(&mut self) -> Counters {
        let Reply::Counters(c) = self.ask(Request::Counters) else { panic!() };
        c
    }

    /// Asserts that the frame brings nothing out but these, and is dropped for exactly this reason.
    #[track_caller]
    pub(crate) fn dropped(&mut self, port: Port, frame: &[u8], reason: &str) -> Vec<(Port, Vec<u8>)> {
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

pub(crate) fn eth(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

pub(crate) fn arp(to: [u8; 6], from: [u8; 6], op: u16, sha: [u8; 6], spa: &str, tha: [u8; 6], tpa: &str) -> Vec<u8> {
    let ip = |s: &str| s.parse::<Ipv4Addr>().unwrap().octets();
    let body = [&[0, 1, 8, 0, 6, 4][..], &op.to_be_bytes(), &sha, &ip(spa), &tha, &ip(tpa)].concat();
    eth(to, from, 0x0806, &body)
}

/// Ones' complement sum, the slow way.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for (i, b) in bytes.iter().enumerate() {
        sum += if i % 2 == 0 { u32::from(*b) << 8 } else { u32::from(*b) };
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, a, b] = (!sum).to_be_bytes();
    [a, b]
}

#[derive(Clone)]
pub(crate) struct Ip {
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// Flags and offset.
    pub(crate) frag: u16,
    pub(crate) ttl: u8,
    pub(crate) proto: u8,
    pub(crate) src: String,
    pub(crate) dst: String,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;

/// A UDP packet with TTL 64 and 16 bytes behind the header.
pub(crate) fn udp(src: &str, dst: &str) -> Ip {
    let payload = vec![0x30, 0x39, 0, 9, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    Ip { tos: 0, id: 0x1234, frag: 0, ttl: 64, proto: 17, src: src.into(), dst: dst.into(), options: vec![], payload }
}

impl Ip {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut b = vec![0x40 | u8::try_from(header / 4).unwrap(), self.tos];
        b.extend(u16::try_from(header + self.payload.len()).unwrap().to_be_bytes());
        b.extend(self.id.to_be_bytes());
        b.extend(self.frag.to_be_bytes());
        b.extend([self.ttl, self.proto, 0, 0]);
        b.extend(self.src.parse::<Ipv4Addr>().unwrap().octets());
        b.extend(self.dst.parse::<Ipv4Addr>().unwrap().octets());
        b.extend(&self.options);
        let sum = checksum(&b);
        b[10..12].copy_from_slice(&sum);
        [b, self.payload.clone()].concat()
    }
    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }
    pub(crate) fn len(mut self, total: usize) -> Self {
        self.payload = (0..total - 20 - self.options.len()).map(|i| u8::try_from(i % 251).unwrap()).collect();
        self
    }
    pub(crate) fn frag(mut self, frag: u16) -> Self {
        self.frag = frag;
        self
    }
    pub(crate) fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }
    /// As the CE sends it to us.
    pub(crate) fn ce_sends(&self) -> Vec<u8> {
        eth(OURS, CE, 0x0800, &self.bytes())
    }
    /// As we send it to the CE.
    pub(crate) fn to_ce(&self) -> Vec<u8> {
        eth(CE, OURS, 0x0800, &self.bytes())
    }
    /// As the VM's kernel sends it to its gateway, and as it gets it from there.
    pub(crate) fn kernel_sends(&self) -> Vec<u8> {
        eth(VRF, OURS, 0x0800, &self.bytes())
    }
    pub(crate) fn to_kernel(&self) -> Vec<u8> {
        eth(OURS, VRF, 0x0800, &self.bytes())
    }
    /// Under these stack entries, as the P router sends it and as we send it to the P router.
    pub(crate) fn p_sends(&self, stack: &[[u8; 4]]) -> Vec<u8> {
        eth(PE, P, 0x8847, &[stack.concat(), self.bytes()].concat())
    }
    pub(crate) fn to_p(&self, stack: &[[u8; 4]]) -> Vec<u8> {
        eth(P, PE, 0x8847, &[stack.concat(), self.bytes()].concat())
    }
}

/// A label stack entry.
pub(crate) fn lse(label: u32, tc: u8, bottom: bool, ttl: u8) -> [u8; 4] {
    (label << 12 | u32::from(tc) << 9 | u32::from(bottom) << 8 | u32::from(ttl)).to_be_bytes()
}

/// The ICMP error of type, code and second word about a packet, from our first address.
pub(crate) fn icmp(kind: u8, code: u8, word: u32, id: u16, about: &[u8], to: &str) -> Ip {
    let quote = &about[..about.len().min(548)];
    icmp_of([&[kind, code, 0, 0][..], &word.to_be_bytes(), quote].concat(), id, to)
}

/// The same about a packet that came under labels: RFC 4884 and RFC 4950, by hand.
pub(crate) fn icmp_labelled(kind: u8, code: u8, word: u32, id: u16, about: &[u8], stack: &[[u8; 4]], to: &str) -> Ip {
    let word = word | (128 / 4) << 16;
    icmp_of([&[kind, code, 0, 0][..], &word.to_be_bytes(), &quote_and_stack(about, stack)].concat(), id, to)
}

/// 128 bytes of a packet and the extension with its label stack.
pub(crate) fn quote_and_stack(about: &[u8], stack: &[[u8; 4]]) -> Vec<u8> {
    let mut quote = about.to_vec();
    quote.resize(128, 0);
    let object = u16::try_from(4 + 4 * stack.len()).unwrap();
    let mut extension = [&[0x20, 0, 0, 0][..], &object.to_be_bytes(), &[1, 1], &stack.concat()].concat();
    let sum = checksum(&extension);
    extension[2..4].copy_from_slice(&sum);
    [quote, extension].concat()
}

fn icmp_of(mut payload: Vec<u8>, id: u16, to: &str) -> Ip {
    let sum = checksum(&payload);
    payload[2..4].copy_from_slice(&sum);
    Ip { tos: 0xc0, id, frag: 0, ttl: 64, proto: 1, src: OUR_IP.into(), dst: to.into(), options: vec![], payload }
}
