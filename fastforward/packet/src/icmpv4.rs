//! ICMPv4 error messages a router sends (RFC 792, RFC 1191, RFC 1812 §4.3), with the label stack of what they are about
//! (RFC 4884, RFC 4950).

use crate::{checksum, extension, ipv4};
use std::net::Ipv4Addr;

pub const HEADER_LEN: usize = 8;
/// RFC 1812 §4.3.2.3: as much of the original as fits without the ICMP datagram exceeding this.
pub const MAX_DATAGRAM: usize = 576;
/// Bytes in front of the quoted packet.
pub const OVERHEAD: usize = ipv4::MIN_HEADER_LEN + HEADER_LEN;
/// RFC 1812 §4.3.2.5: errors carry IP precedence 6 (internetwork control).
const TOS: u8 = 0xc0;
const QUOTED_WORDS: u8 = 32;
const _: () = assert!(QUOTED_WORDS as usize * 4 == extension::QUOTE);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    TimeExceeded,
    NetUnreachable,
    HostUnreachable,
    /// With the MTU of the next hop (RFC 1191 §4).
    FragmentationNeeded {
        mtu: u16,
    },
}

impl Error {
    fn type_and_code(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [11, 0],
            Self::NetUnreachable => [3, 0],
            Self::HostUnreachable => [3, 1],
            Self::FragmentationNeeded { .. } => [3, 4],
        }
    }
}

/// Length of the datagram that [`write`] makes about `original` under a label stack of so many bytes, at most 576 bytes
/// without one.
pub fn datagram_len(original: ipv4::Packet, stack: usize) -> usize {
    match stack {
        0 => OVERHEAD + original.total_len().min(MAX_DATAGRAM - OVERHEAD),
        _ => OVERHEAD + extension::QUOTE + extension::len(stack),
    }
}

/// Writes a whole IPv4 datagram about `original`, which came under the label stack `stack` (or none), to `out`, whose
/// length must be [`datagram_len`]; false if it is not.
pub fn write(out: &mut [u8], error: Error, source: Ipv4Addr, identification: u16, original: ipv4::Packet, stack: &[u8]) -> bool {
    let len = datagram_len(original, stack.len());
    let (Some((head, body)), Ok(total_len)) = (out.split_at_mut_checked(OVERHEAD), u16::try_from(len)) else { return false };
    if OVERHEAD + body.len() != len {
        return false;
    }
    let icmp = &mut head[ipv4::MIN_HEADER_LEN..];
    icmp.fill(0);
    icmp[..2].copy_from_slice(&error.type_and_code());
    if let Error::FragmentationNeeded { mtu } = error {
        icmp[6..].copy_from_slice(&mtu.to_be_bytes());
    }
    let quote = if stack.is_empty() {
        body
    } else {
        let (quote, to_extension) = body.split_at_mut(extension::QUOTE);
        if !extension::write(to_extension, stack) {
            return false;
        }
        // RFC 4884 §4.1: the length of what is quoted, in words of 4 bytes.
        icmp[5] = QUOTED_WORDS;
        quote
    };
    let quoted = original.as_bytes();
    let (to_quoted, padding) = quote.split_at_mut(quoted.len().min(quote.len()));
    to_quoted.copy_from_slice(&quoted[..to_quoted.len()]);
    padding.fill(0);
    let ip = ipv4::Header { tos: TOS, total_len, identification, ttl: 64, protocol: ipv4::ICMP, source, destination: original.source() };
    head[..ipv4::MIN_HEADER_LEN].copy_from_slice(&ip.to_bytes());
    let sum = checksum::checksum(&out[ipv4::MIN_HEADER_LEN..]);
    out[ipv4::MIN_HEADER_LEN + 2..ipv4::MIN_HEADER_LEN + 4].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Whether an ICMP error may be sent about `packet` at all (RFC 1812 §4.3.2.7, RFC 1122 §3.2.2), as far as the
/// packet itself tells; link-layer broadcasts are the caller's to know.
pub fn may_be_told(packet: ipv4::Packet) -> bool {
    let (source, destination) = (packet.source(), packet.destination());
    let unicast = |a: Ipv4Addr| {
        let first = a.octets()[0];
        first != 0 && first != 127 && first < 224
    };
    // Only the queries are known not to be errors: echo, timestamp, information, address mask, router discovery.
    let query = |kind: &u8| matches!(kind, 0 | 8 | 9 | 10 | 13..=18);
    packet.fragment_offset() == 0
        && unicast(source)
        && destination.octets()[0] < 224
        && (packet.protocol() != ipv4::ICMP || packet.payload().first().is_some_and(query))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let h = ipv4::Header {
            tos: 0,
            total_len: u16::try_from(20 + payload.len()).unwrap(),
            identification: 7,
            ttl: 1,
            protocol,
            source: source.into(),
            destination: [10, 2, 0, 9].into(),
        };
        [&h.to_bytes()[..], payload].concat()
    }

    #[test]
    fn time_exceeded_byte_by_byte() {
        let original = packet(ipv4::UDP, [10, 1, 0, 9], &[1, 2, 3, 4, 0, 8, 0, 0]);
        let p = ipv4::Packet::new(&original).unwrap();
        let mut out = vec![0xee; datagram_len(p, 0)];
        assert!(write(&mut out, Error::TimeExceeded, [192, 168, 1, 1].into(), 0x55, p, &[]));
        let told = ipv4::Packet::new(&out).unwrap();
        assert_eq!((told.tos(), told.ttl(), told.destination()), (0xc0, 64, Ipv4Addr::new(10, 1, 0, 9)));
        assert_eq!(out[20..22], [11, 0]);
        assert_eq!(out[24..28], [0; 4]);
        assert_eq!(out[28..], original);
        assert_eq!(checksum::checksum(&out[20..]), 0);
    }

    #[test]
    fn a_long_original_is_quoted_up_to_576_bytes_and_the_mtu_is_told() {
        let original = packet(ipv4::UDP, [10, 1, 0, 9], &[9; 1480]);
        let p = ipv4::Packet::new(&original).unwrap();
        let mut out = vec![0; datagram_len(p, 0)];
        assert!(write(&mut out, Error::FragmentationNeeded { mtu: 1492 }, [192, 168, 1, 1].into(), 0, p, &[]));
        assert_eq!(out.len(), MAX_DATAGRAM);
        assert_eq!(out[20..22], [3, 4]);
        assert_eq!(out[24..28], [0, 0, 5, 0xd4]);
        assert_eq!(out[28..], original[..548]);
        assert!(!write(&mut out[..575], Error::NetUnreachable, [192, 168, 1, 1].into(), 0, p, &[]));
    }

    #[test]
    fn under_labels_the_quote_is_128_bytes_and_the_stack_follows() {
        let stack = [0x00, 0x3e, 0x90, 1, 0x00, 0x3e, 0xa1, 1];
        for len in [8, 1480] {
            let original = packet(ipv4::UDP, [10, 1, 0, 9], &vec![9; len]);
            let p = ipv4::Packet::new(&original).unwrap();
            let mut out = vec![0xee; datagram_len(p, 8)];
            assert!(write(&mut out, Error::FragmentationNeeded { mtu: 1492 }, [192, 168, 1, 1].into(), 0, p, &stack));
            assert_eq!((ipv4::Packet::new(&out).unwrap().total_len(), out.len()), (172, 172));
            assert_eq!(out[24..28], [0, 32, 5, 0xd4]);
            let quoted = original.len().min(128);
            assert_eq!(out[28..28 + quoted], original[..quoted]);
            assert!(out[28 + quoted..156].iter().all(|b| *b == 0));
            assert_eq!(out[164..], stack);
            assert_eq!((checksum::checksum(&out[156..]), checksum::checksum(&out[20..])), (0, 0));
        }
    }

    #[test]
    fn rfc_1812_about_what_no_error_is_sent() {
        let told = |b: &[u8]| may_be_told(ipv4::Packet::new(b).unwrap());
        assert!(told(&packet(ipv4::UDP, [10, 1, 0, 9], &[])));
        assert!(told(&packet(ipv4::ICMP, [10, 1, 0, 9], &[8, 0])));
        for error in [3, 4, 5, 11, 12, 200] {
            assert!(!told(&packet(ipv4::ICMP, [10, 1, 0, 9], &[error, 0])), "{error}");
        }
        assert!(!told(&packet(ipv4::ICMP, [10, 1, 0, 9], &[])));
        for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255, 255, 255, 255]] {
            assert!(!told(&packet(ipv4::UDP, source, &[])), "{source:?}");
        }
        let mut fragment = packet(ipv4::UDP, [10, 1, 0, 9], &[1; 8]);
        fragment[7] = 1;
        fragment[10..12].fill(0);
        let sum = checksum::checksum(&fragment[..20]);
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(!told(&fragment));
    }
}
