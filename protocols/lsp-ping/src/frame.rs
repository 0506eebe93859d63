//! The frames that requests travel in: labels, then IPv4 with Router Alert to 127.0.0.1, then UDP (RFC 8029 §4.3).

use crate::{PORT, packet::LabelEntry};
use edgeplex_types::{Label, MacAddr};
use std::net::Ipv4Addr;

pub const ETH_TYPE_IPV4: u16 = 0x0800;
pub const ETH_TYPE_MPLS: u16 = 0x8847;
const UDP: u8 = 17;
/// RFC 2113.
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
/// Deepest label stack that is read.
const MAX_LABELS: usize = 16;

/// Where a request is sent from, and how it gets there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub source_mac: MacAddr,
    pub destination_mac: MacAddr,
    /// Outermost first; none where the next hop is the egress.
    pub labels: Vec<Label>,
}

/// An Ethernet frame with an echo request. `ttl` stands in every label: 255 to reach the end, less to stop on the way.
/// The IPv4 TTL is 1, so that the packet goes nowhere once its labels are gone.
pub fn request(way: &Way, source: Ipv4Addr, source_port: u16, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + payload.len());
    out.extend(way.destination_mac.0);
    out.extend(way.source_mac.0);
    let ether_type = if way.labels.is_empty() { ETH_TYPE_IPV4 } else { ETH_TYPE_MPLS };
    out.extend(ether_type.to_be_bytes());
    for (n, label) in way.labels.iter().enumerate() {
        out.extend(LabelEntry { label: *label, traffic_class: 0, bottom: n + 1 == way.labels.len(), ttl }.encode());
    }
    let length = |headers: usize| u16::try_from(headers + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let destination = Ipv4Addr::LOCALHOST;

    let mut ip = vec![0x46, 0xc0];
    ip.extend(length(24 + 8));
    ip.extend([0, 0, 0x40, 0, 1, UDP, 0, 0]);
    ip.extend(source.octets());
    ip.extend(destination.octets());
    ip.extend(ROUTER_ALERT);
    let sum = checksum(&[&ip]).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);

    let mut udp = vec![];
    udp.extend(source_port.to_be_bytes());
    udp.extend(PORT.to_be_bytes());
    udp.extend(length(8));
    udp.extend([0, 0]);
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, UDP], &length(8)].concat();
    // RFC 768: a sum of zero is sent as all ones.
    let sum = match checksum(&[&pseudo, &udp, payload]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    out.extend(ip);
    out.extend(udp);
    out.extend(payload);
    out
}

/// Internet checksum (RFC 1071) over pieces of even length, but for the last.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|p| p.chunks(2)).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// An echo request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<'a> {
    pub labels: Vec<LabelEntry>,
    /// Who asks, and where the answer goes.
    pub source: Ipv4Addr,
    pub source_port: u16,
    pub payload: &'a [u8],
}

/// Finds an echo request in an Ethernet frame; `None` is a frame that holds none, or a damaged one.
pub fn parse(frame: &[u8]) -> Option<Received<'_>> {
    let (header, mut rest) = frame.split_first_chunk::<14>()?;
    let mut labels = vec![];
    match u16::from_be_bytes([header[12], header[13]]) {
        ETH_TYPE_IPV4 => {}
        ETH_TYPE_MPLS => loop {
            let (entry, below) = rest.split_first_chunk::<4>()?;
            rest = below;
            let entry = LabelEntry::decode(*entry);
            labels.push(entry);
            if entry.bottom {
                break;
            }
            if labels.len() == MAX_LABELS {
                return None;
            }
        },
        _ => return None,
    }
    let fixed = rest.first_chunk::<20>()?;
    let header = usize::from(fixed[0] & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff;
    if fixed[0] >> 4 != 4 || header < 20 || fixed[9] != UDP || fragment != 0 || fixed[16] != 127 {
        return None;
    }
    let ip = rest.get(..header)?;
    if checksum(&[ip]) != 0 {
        return None;
    }
    let segment = rest.get(header..total)?;
    let ([s0, s1, d0, d1, l0, l1, c0, c1], _) = segment.split_first_chunk::<8>()?;
    let segment = segment.get(..usize::from(u16::from_be_bytes([*l0, *l1])))?;
    let payload = segment.get(8..)?;
    if u16::from_be_bytes([*d0, *d1]) != PORT {
        return None;
    }
    let pseudo = [&fixed[12..20], &[0, UDP, *l0, *l1]].concat();
    if [*c0, *c1] != [0, 0] && checksum(&[&pseudo, segment]) != 0 {
        return None;
    }
    let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let good = !source.is_unspecified() && !source.is_multicast() && !source.is_broadcast() && !source.is_loopback();
    good.then_some(Received { labels, source, source_port: u16::from_be_bytes([*s0, *s1]), payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn way(labels: &[u32]) -> Way {
        Way {
            source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            labels: labels.iter().map(|l| Label::try_from(*l).unwrap()).collect(),
        }
    }

    #[test]
    fn a_request_is_found_again_whatever_its_stack() {
        for labels in [&[][..], &[500_001], &[500_001, 1001]] {
            for payload in [&b"odd"[..], b"even"] {
                let frame = request(&way(labels), [10, 255, 0, 1].into(), 40000, 7, payload);
                let got = parse(&frame).unwrap();
                assert_eq!((got.source, got.source_port, got.payload), ([10, 255, 0, 1].into(), 40000, payload));
                let stack: Vec<(u32, u8, bool)> = got.labels.iter().map(|e| (e.label.get(), e.ttl, e.bottom)).collect();
                let want: Vec<(u32, u8, bool)> = labels.iter().enumerate().map(|(n, l)| (*l, 7, n + 1 == labels.len())).collect();
                assert_eq!(stack, want);
            }
        }
    }

    #[test]
    fn a_damaged_one_is_not() {
        let good = request(&way(&[500_001]), [10, 255, 0, 1].into(), 40000, 7, b"payload");
        for at in 18..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(parse(&bad), None, "byte {at}");
        }
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..128), mpls: bool) {
            let mut frame = bytes;
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(&(if mpls { ETH_TYPE_MPLS } else { ETH_TYPE_IPV4 }).to_be_bytes());
            }
            let _ = parse(&frame);
        }
    }
}
