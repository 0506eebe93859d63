//! IPv4 and IPv6 as one: what the pipeline asks of a packet whatever its version.

use super::{Drop, flow};
use edgeplex_ff_fib::api::Interface;
use edgeplex_ff_packet::{ethernet, ipv4, ipv6};
use edgeplex_ff_phy::PacketBuf;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet that was found well formed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ip<'a> {
    V4(ipv4::Packet<'a>),
    V6(ipv6::Packet<'a>),
}

/// What forwarding needs to know of a packet, read once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) destination: IpAddr,
    pub(super) tos: u8,
    /// The TTL it arrived with, label stack considered.
    pub(super) ttl: u8,
    pub(super) header_ttl: u8,
    /// IPv4 without DF.
    pub(super) may_fragment: bool,
    pub(super) len: usize,
    pub(super) flow: u64,
    /// Bytes of the label stack it came under, which were pulled off in front of it.
    pub(super) stack: usize,
}

impl<'a> Ip<'a> {
    /// By the version field: what is below a label stack, and in a buffer of ours.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Drop> {
        if version(bytes) == 6 { Self::v6(bytes) } else { Self::v4(bytes) }
    }
    pub(super) fn v4(bytes: &'a [u8]) -> Result<Self, Drop> {
        ipv4::Packet::new(bytes).map(Self::V4).map_err(|e| Drop::ip(e.fault))
    }
    pub(super) fn v6(bytes: &'a [u8]) -> Result<Self, Drop> {
        ipv6::Packet::new(bytes).map(Self::V6).map_err(|e| Drop::ip(e.fault))
    }
    pub(super) fn total_len(&self) -> usize {
        match self {
            Self::V4(p) => p.total_len(),
            Self::V6(p) => p.total_len(),
        }
    }
    pub(super) fn ttl(&self) -> u8 {
        match self {
            Self::V4(p) => p.ttl(),
            Self::V6(p) => p.hop_limit(),
        }
    }
    pub(super) fn destination(&self) -> IpAddr {
        match self {
            Self::V4(p) => p.destination().into(),
            Self::V6(p) => p.destination().into(),
        }
    }

    /// What keeps a routing session alive, as it comes from the attachment itself: BGP, and BFD (RFC 5881 §4, RFC 5883 §5).
    pub(super) fn is_routing(&self) -> bool {
        const BGP: u16 = 179;
        const BFD: u16 = 3784;
        const BFD_OTHERS: [u16; 2] = [3785, 4784];
        let (protocol, ports) = match self {
            Self::V4(p) => (p.protocol(), p.ports()),
            Self::V6(p) => (p.next_header(), p.ports()),
        };
        match (protocol, ports) {
            (ipv4::TCP, Some((s, d))) => s == BGP || d == BGP,
            // RFC 5881 §5: on one hop it has not been forwarded, or is dropped by the session in any case.
            (ipv4::UDP, Some((_, BFD))) => self.ttl() == u8::MAX,
            (ipv4::UDP, Some((_, d))) => BFD_OTHERS.contains(&d),
            _ => false,
        }
    }

    /// `ttl`: the one it arrived with, label stack considered.
    pub(super) fn facts(&self, seed: u64, ttl: u8, stack: usize) -> Packet {
        match self {
            Self::V4(p) => Packet {
                destination: p.destination().into(),
                tos: p.tos(),
                ttl,
                header_ttl: p.ttl(),
                may_fragment: !p.dont_fragment(),
                len: p.total_len(),
                flow: flow::of_ipv4(seed, *p),
                stack,
            },
            Self::V6(p) => Packet {
                destination: p.destination().into(),
                tos: p.traffic_class(),
                ttl,
                header_ttl: p.hop_limit(),
                may_fragment: false,
                len: p.total_len(),
                flow: flow::of_ipv6(seed, *p),
                stack,
            },
        }
    }

    /// Addresses a packet from outside must not have.
    pub(super) fn check(&self, interface: &Interface) -> Result<(), Drop> {
        match self {
            Self::V4(p) => check4(interface, p.source(), p.destination()),
            Self::V6(p) => check6(interface, p.source(), p.destination()),
        }
    }
}

fn version(bytes: &[u8]) -> u8 {
    bytes.first().map_or(0, |b| b >> 4)
}

/// EtherType of the packet that a buffer of ours begins with.
pub(super) fn ether_type(packet: &[u8]) -> u16 {
    if version(packet) == 6 { ethernet::IPV6 } else { ethernet::IPV4 }
}

/// Sets the TTL or hop limit of the packet that a buffer of ours begins with.
pub(super) fn set_ttl(packet: &mut [u8], ttl: u8) {
    if version(packet) == 6 { ipv6::set_hop_limit(packet, ttl) } else { ipv4::set_ttl(packet, ttl) }
}

/// Leaves the bytes from `front` to `len`: the packet without what stood around it.
pub(super) fn strip(buf: &mut impl PacketBuf, front: usize, len: usize) -> Result<(), Drop> {
    // The views have seen these bytes; a buffer that refuses is broken.
    if buf.set_len(len) && buf.pull_front(front) { Ok(()) } else { Err(Drop::NoBuffer) }
}

pub(super) fn is_own(i: &Interface, a: IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => is_own4(i, a),
        IpAddr::V6(a) => is_own6(i, a),
    }
}

// Each packet is held against them: they compare numbers of one version, not addresses of either.

fn subnets4(i: &Interface) -> impl Iterator<Item = &Ipv4Net> {
    i.addresses.iter().filter_map(|n| if let IpNet::V4(n) = n { Some(n) } else { None })
}

fn subnets6(i: &Interface) -> impl Iterator<Item = &Ipv6Net> {
    i.addresses.iter().filter_map(|n| if let IpNet::V6(n) = n { Some(n) } else { None })
}

fn is_own4(i: &Interface, a: Ipv4Addr) -> bool {
    subnets4(i).any(|n| n.addr() == a)
}

fn is_own6(i: &Interface, a: Ipv6Addr) -> bool {
    subnets6(i).any(|n| n.addr() == a)
}

/// Whether a neighbour may have this address: one of a subnet of ours, or of the link.
pub(super) fn is_on_link(i: &Interface, a: IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => subnets4(i).any(|n| n.contains(&a)) && !is_subnet_broadcast(i, a),
        IpAddr::V6(a) => a.is_unicast_link_local() || subnets6(i).any(|n| n.contains(&a)),
    }
}

/// Network or broadcast address of one of the attachment's subnets; /31 and /32 have none (RFC 3021).
pub(super) fn is_subnet_broadcast(i: &Interface, a: Ipv4Addr) -> bool {
    subnets4(i).any(|n| n.prefix_len() < 31 && (n.broadcast() == a || n.network() == a))
}

/// RFC 1812 §5.3.7: addresses that no packet to be forwarded may have.
fn is_martian(a: Ipv4Addr) -> bool {
    matches!(a.octets()[0], 0 | 127)
}

fn check4(interface: &Interface, source: Ipv4Addr, destination: Ipv4Addr) -> Result<(), Drop> {
    if is_own4(interface, source) {
        return Err(Drop::SourceOwnAddress);
    }
    if is_martian(source) || source.octets()[0] >= 224 || is_subnet_broadcast(interface, source) {
        return Err(Drop::MartianSource);
    }
    // RFC 1812 §5.3.4, §5.3.5: no multicast routing here, and broadcasts, directed ones too, end at the router.
    if destination.octets()[0] >= 224 || is_subnet_broadcast(interface, destination) {
        return Err(Drop::NotUnicast);
    }
    if is_martian(destination) {
        return Err(Drop::MartianDestination);
    }
    Ok(())
}

/// RFC 4291 §2.5.2, §2.5.3, §2.5.5.2: unspecified, loopback, and IPv4 addresses that stand in no packet.
fn is_martian6(a: Ipv6Addr) -> bool {
    a.is_unspecified() || a.is_loopback() || a.to_ipv4_mapped().is_some()
}

fn check6(interface: &Interface, source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), Drop> {
    if is_own6(interface, source) {
        return Err(Drop::SourceOwnAddress);
    }
    if is_martian6(source) || source.is_multicast() {
        return Err(Drop::MartianSource);
    }
    if destination.is_multicast() {
        return Err(Drop::NotUnicast);
    }
    if is_martian6(destination) {
        return Err(Drop::MartianDestination);
    }
    // RFC 4291 §2.5.6: what is of the link stays on it.
    if (source.is_unicast_link_local() || destination.is_unicast_link_local()) && !is_own6(interface, destination) {
        return Err(Drop::LinkLocal);
    }
    Ok(())
}
