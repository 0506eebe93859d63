//! A frame as the hold sees it: a TCP segment, something that may hide one, or something else.

use edgeplex_ff_packet::{ethernet, ipv4, ipv6};
use std::net::IpAddr;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;
/// RFC 9293 §3.1.
const HEADER: usize = 20;
/// IPv6 extension headers looked behind, at most.
const MAX_EXTENSIONS: usize = 8;

/// Source and destination of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
}

/// What of a segment tells the neighbour something that a successor must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub(super) ends: Ends,
    pub(super) seq: u32,
    /// Behind its last byte; SYN and FIN count (RFC 9293 §3.4).
    pub(super) end: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) len: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Tcp(Segment),
    /// A part of a TCP segment, or what may be one.
    Opaque,
    Other,
}

impl Segment {
    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    pub(super) fn is_pure_ack(&self) -> bool {
        self.len == 0 && self.flags & (FIN | SYN | RST | ACK) == ACK
    }
}

/// Who sends it, of an IP packet.
pub(super) fn source(frame: &[u8]) -> Option<IpAddr> {
    let frame = ethernet::Frame::new(frame).ok()?;
    match frame.ether_type() {
        ethernet::IPV4 => ipv4::Packet::trusted(frame.payload()).ok().map(|ip| ip.source().into()),
        ethernet::IPV6 => ipv6::Packet::new(frame.payload()).ok().map(|ip| ip.source().into()),
        _ => None,
    }
}

pub(super) fn parse(frame: &[u8]) -> Seen {
    let Ok(frame) = ethernet::Frame::new(frame) else { return Seen::Opaque };
    match frame.ether_type() {
        ethernet::IPV4 => v4(frame.payload()),
        ethernet::IPV6 => v6(frame.payload()),
        // A second tag: our kernel sends none.
        ethernet::VLAN => Seen::Opaque,
        _ => Seen::Other,
    }
}

fn v4(bytes: &[u8]) -> Seen {
    let Ok(ip) = ipv4::Packet::trusted(bytes) else { return Seen::Opaque };
    match ip.protocol() {
        ipv4::TCP if ip.more_fragments() || ip.fragment_offset() != 0 => Seen::Opaque,
        ipv4::TCP => tcp(ip.source().into(), ip.destination().into(), ip.payload()),
        _ => Seen::Other,
    }
}

fn v6(bytes: &[u8]) -> Seen {
    let Ok(ip) = ipv6::Packet::new(bytes) else { return Seen::Opaque };
    let (mut protocol, mut rest) = (ip.next_header(), ip.payload());
    for _ in 0..=MAX_EXTENSIONS {
        let (next, len) = match (protocol, rest) {
            (ipv4::TCP, _) => return tcp(ip.source().into(), ip.destination().into(), rest),
            (ipv6::FRAGMENT, [next, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) & 0xfff9 == 0 => (*next, 8),
            // RFC 8200 §4.5: the header says of each fragment what the first one begins with.
            (ipv6::FRAGMENT, [ipv4::UDP | ipv6::ICMP, ..]) => return Seen::Other,
            (ipv6::FRAGMENT, _) => return Seen::Opaque,
            (ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS, [next, words, ..]) => (*next, 8 * (usize::from(*words) + 1)),
            (ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS, _) => return Seen::Opaque,
            _ => return Seen::Other,
        };
        let Some(behind) = rest.get(len..) else { return Seen::Opaque };
        (protocol, rest) = (next, behind);
    }
    Seen::Opaque
}

fn tcp(source: IpAddr, destination: IpAddr, bytes: &[u8]) -> Seen {
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, ..] = *bytes else { return Seen::Opaque };
    let header = usize::from(offset >> 4) * 4;
    if header < HEADER || header > bytes.len() {
        return Seen::Opaque;
    }
    let Ok(len) = u32::try_from(bytes.len() - header) else { return Seen::Opaque };
    let seq = u32::from_be_bytes([q0, q1, q2, q3]);
    let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    Seen::Tcp(Segment {
        ends: Ends { source: (source, u16::from_be_bytes([s0, s1])), destination: (destination, u16::from_be_bytes([d0, d1])) },
        seq,
        end: seq.wrapping_add(len).wrapping_add(counted),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        flags,
        len,
    })
}
