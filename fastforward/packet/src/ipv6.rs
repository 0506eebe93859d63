//! IPv6 (RFC 8200): a checked view, and the way through extension headers to the upper layer.

use crate::{Fault, Malformed, array, be16, ipv4};
use std::net::Ipv6Addr;

pub const HEADER_LEN: usize = 40;
pub const ICMP: u8 = 58;
/// RFC 8200 §5: every link carries packets of this many bytes.
pub const MIN_MTU: usize = 1280;

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;
/// Extension headers looked behind, at most.
const MAX_EXTENSIONS: usize = 8;

/// A packet whose version and lengths were found right; what follows its payload (Ethernet padding) is not part of
/// the view. Extension headers are only looked at by [`Packet::upper`].
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a>(&'a [u8]);

/// What stands behind the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper<'a> {
    pub protocol: u8,
    pub payload: &'a [u8],
    /// The first fragment of a packet: the others do not show its ports.
    pub is_fragment: bool,
}

impl<'a> Packet<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let bad = |offset, fault| Err(Malformed::new("IPv6", offset, fault));
        if bytes.len() < HEADER_LEN {
            return bad(bytes.len(), Fault::Truncated);
        }
        if bytes[0] >> 4 != 6 {
            return bad(0, Fault::Version);
        }
        let total = HEADER_LEN + usize::from(be16(bytes, 4));
        if bytes.len() < total {
            return bad(bytes.len(), Fault::Truncated);
        }
        Ok(Self(&bytes[..total]))
    }
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
    #[inline]
    pub fn total_len(&self) -> usize {
        self.0.len()
    }
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..]
    }
    /// DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.0[0] << 4 | self.0[1] >> 4
    }
    /// 20 bits; 0 if the source gave none (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes(array(self.0, 0)) & 0xf_ffff
    }
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.0[6]
    }
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        array::<16>(self.0, 8).into()
    }
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        array::<16>(self.0, 24).into()
    }

    /// Steps over extension headers. `None` behind a fragment that is not the first, where the upper layer's header is
    /// in another packet, and for a chain that is cut or too long.
    pub fn upper(&self) -> Option<Upper<'a>> {
        let (mut protocol, mut rest, mut is_fragment) = (self.next_header(), self.payload(), false);
        for _ in 0..=MAX_EXTENSIONS {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => 8 * (usize::from(*rest.get(1)?) + 1),
                // RFC 4302 §2.2: its length is in words of 4 bytes, minus 2.
                AUTHENTICATION => 4 * (usize::from(*rest.get(1)?) + 2),
                FRAGMENT => {
                    let [_, _, high, low, ..] = rest else { return None };
                    let offset_and_more = u16::from_be_bytes([*high, *low]) & 0xfff9;
                    if offset_and_more & 0xfff8 != 0 {
                        return None;
                    }
                    // RFC 6946: an atomic fragment is whole.
                    is_fragment |= offset_and_more != 0;
                    8
                }
                _ => return Some(Upper { protocol, payload: rest, is_fragment }),
            };
            protocol = *rest.first()?;
            rest = rest.get(len..)?;
        }
        None
    }

    /// Source and destination port of an unfragmented TCP or UDP packet.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let u = self.upper().filter(|u| !u.is_fragment)?;
        (matches!(u.protocol, ipv4::TCP | ipv4::UDP) && u.payload.len() >= 4).then(|| (be16(u.payload, 0), be16(u.payload, 2)))
    }
}

/// Sets the hop limit of the header at the start of `packet`. Too few bytes: no change.
#[inline]
pub fn set_hop_limit(packet: &mut [u8], hop_limit: u8) {
    if let Some(b) = packet.get_mut(7) {
        *b = hop_limit;
    }
}

/// A header to be written; its flow label is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub traffic_class: u8,
    pub payload_len: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Header {
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut h = [0; HEADER_LEN];
        h[0] = 0x60 | self.traffic_class >> 4;
        h[1] = self.traffic_class << 4;
        h[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        h[6] = self.next_header;
        h[7] = self.hop_limit;
        h[8..24].copy_from_slice(&self.source.octets());
        h[24..].copy_from_slice(&self.destination.octets());
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let h = Header {
            traffic_class: 0xb8,
            payload_len: payload.len().try_into().unwrap(),
            next_header,
            hop_limit: 64,
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8:2::9".parse().unwrap(),
        };
        [&h.to_bytes()[..], payload].concat()
    }

    const UDP: [u8; 8] = [0x30, 0x39, 0, 53, 0, 8, 0, 0];

    #[test]
    fn fields_of_a_header() {
        let mut bytes = packet(ipv4::UDP, &UDP);
        (bytes[1], bytes[2], bytes[3]) = (bytes[1] | 0x0a, 0xbc, 0xde);
        bytes.extend([0; 6]);
        let p = Packet::new(&bytes).unwrap();
        assert_eq!((p.traffic_class(), p.flow_label(), p.hop_limit(), p.total_len()), (0xb8, 0xabcde, 64, 48));
        assert_eq!((p.source(), p.destination()), ("2001:db8::1".parse().unwrap(), "2001:db8:2::9".parse().unwrap()));
        assert_eq!(p.ports(), Some((12345, 53)));
        set_hop_limit(&mut bytes, 7);
        assert_eq!(Packet::new(&bytes).unwrap().hop_limit(), 7);
    }

    #[test]
    fn every_truncation_is_refused() {
        let good = packet(ipv4::UDP, &UDP);
        for n in 0..good.len() {
            assert_eq!(Packet::new(&good[..n]).unwrap_err().fault, Fault::Truncated, "{n}");
        }
        let mut v = good;
        v[0] = 0x45;
        assert_eq!(Packet::new(&v).unwrap_err().fault, Fault::Version);
    }

    #[test]
    fn extension_headers_are_stepped_over_and_fragments_known() {
        let hop = [ROUTING, 0, 5, 2, 0, 0, 1, 0];
        let routing = [AUTHENTICATION, 1, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let ah = [&[DESTINATION_OPTIONS, 4, 0, 0][..], &[7; 20]].concat();
        let options = [ipv4::UDP, 0, 1, 4, 0, 0, 0, 0];
        let chain = [&hop[..], &routing, &ah, &options, &UDP].concat();
        let p = packet(HOP_BY_HOP, &chain);
        let view = Packet::new(&p).unwrap();
        assert_eq!(view.upper(), Some(Upper { protocol: ipv4::UDP, payload: &UDP, is_fragment: false }));
        assert_eq!(view.ports(), Some((12345, 53)));
        for cut in 1..chain.len() {
            let p = packet(HOP_BY_HOP, &chain[..cut]);
            assert!(Packet::new(&p).unwrap().upper().is_none_or(|u| u.payload.len() < UDP.len()), "{cut}");
        }
        for (offset_and_more, upper, ports) in [(0u16, true, true), (1, true, false), (8, false, false), (0x4001, false, false)] {
            let [a, b] = offset_and_more.to_be_bytes();
            let p = packet(FRAGMENT, &[&[ipv4::UDP, 0, a, b, 0, 0, 0, 9][..], &UDP].concat());
            let view = Packet::new(&p).unwrap();
            assert_eq!((view.upper().is_some(), view.ports().is_some()), (upper, ports), "{offset_and_more}");
        }
        let endless = packet(DESTINATION_OPTIONS, &[[DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0]; 100].concat());
        assert_eq!(Packet::new(&endless).unwrap().upper(), None);
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in vec(any::<u8>(), 0..200), fix: bool) {
            if fix && bytes.len() >= HEADER_LEN {
                bytes[0] = 0x60 | bytes[0] & 15;
                bytes[4] = 0;
                bytes[5] = (bytes.len() - HEADER_LEN).try_into().unwrap();
                bytes[6] = [0, 43, 44, 51, 60, 17][usize::from(bytes[6]) % 6];
            }
            if let Ok(p) = Packet::new(&bytes) {
                let _ = (p.ports(), p.upper(), p.payload());
            }
        }
    }
}
