//! ICMPv6 error messages a router sends (RFC 4443), with the label stack of what they are about (RFC 4884, RFC 4950).

use crate::{checksum, extension, ipv6};
use std::net::Ipv6Addr;

pub const HEADER_LEN: usize = 8;
/// Bytes in front of the quoted packet.
pub const OVERHEAD: usize = ipv6::HEADER_LEN + HEADER_LEN;
/// Internetwork control, as for ICMPv4.
const TRAFFIC_CLASS: u8 = 0xc0;
/// RFC 4884 §4.4: the length of what is quoted, in words of 8 bytes.
const QUOTED_WORDS: u8 = 16;
const _: () = assert!(QUOTED_WORDS as usize * 8 == extension::QUOTE);
const REDIRECT: u8 = 137;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    TimeExceeded,
    NoRoute,
    AddressUnreachable,
    PacketTooBig { mtu: u32 },
}

impl Error {
    fn type_and_code(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [1, 0],
            Self::AddressUnreachable => [1, 3],
            Self::PacketTooBig { .. } => [2, 0],
            Self::TimeExceeded => [3, 0],
        }
    }

    /// RFC 4884 §4.6: packet too big has no room to tell where the quote ends.
    fn carries(self, stack: usize) -> usize {
        if matches!(self, Self::PacketTooBig { .. }) { 0 } else { stack }
    }
}

/// The checksum to write into a message whose own is zero (RFC 4443 §2.3); over a right one it is 0.
pub fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut pseudo = [0; 40];
    pseudo[..16].copy_from_slice(&source.octets());
    pseudo[16..32].copy_from_slice(&destination.octets());
    // No message is longer than 65,535 bytes.
    pseudo[32..36].copy_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    pseudo[39] = ipv6::ICMP;
    let (a, b) = (checksum::sum(&pseudo), checksum::sum(message));
    let (sum, carry) = a.overflowing_add(b);
    !(sum + u16::from(carry))
}

/// Length of the datagram that [`write`] makes about `original` under a label stack of so many bytes, at most 1280 bytes.
pub fn datagram_len(error: Error, original: ipv6::Packet, stack: usize) -> usize {
    match error.carries(stack) {
        // RFC 4443 §2.4 (c).
        0 => OVERHEAD + original.total_len().min(ipv6::MIN_MTU - OVERHEAD),
        stack => OVERHEAD + extension::QUOTE + extension::len(stack),
    }
}

/// Writes a whole IPv6 datagram about `original`, which came under the label stack `stack` (or none), to `out`, whose
/// length must be [`datagram_len`]; false if it is not.
pub fn write(out: &mut [u8], error: Error, source: Ipv6Addr, original: ipv6::Packet, stack: &[u8]) -> bool {
    let stack = stack.get(..error.carries(stack.len())).unwrap_or_default();
    let len = datagram_len(error, original, stack.len());
    let (Some((head, body)), Ok(payload_len)) = (out.split_at_mut_checked(OVERHEAD), u16::try_from(len - ipv6::HEADER_LEN)) else {
        return false;
    };
    if OVERHEAD + body.len() != len {
        return false;
    }
    let icmp = &mut head[ipv6::HEADER_LEN..];
    icmp.fill(0);
    icmp[..2].copy_from_slice(&error.type_and_code());
    if let Error::PacketTooBig { mtu } = error {
        icmp[4..].copy_from_slice(&mtu.to_be_bytes());
    }
    let quote = if stack.is_empty() {
        body
    } else {
        let (quote, to_extension) = body.split_at_mut(extension::QUOTE);
        if !extension::write(to_extension, stack) {
            return false;
        }
        icmp[4] = QUOTED_WORDS;
        quote
    };
    let quoted = original.as_bytes();
    let (to_quoted, padding) = quote.split_at_mut(quoted.len().min(quote.len()));
    to_quoted.copy_from_slice(&quoted[..to_quoted.len()]);
    padding.fill(0);
    let destination = original.source();
    let ip = ipv6::Header { traffic_class: TRAFFIC_CLASS, payload_len, next_header: ipv6::ICMP, hop_limit: 64, source, destination };
    head[..ipv6::HEADER_LEN].copy_from_slice(&ip.to_bytes());
    let sum = checksum(source, destination, &out[ipv6::HEADER_LEN..]);
    out[ipv6::HEADER_LEN + 2..ipv6::HEADER_LEN + 4].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Whether an ICMP error may be sent about `packet` at all (RFC 4443 §2.4 (e)), as far as the packet itself tells;
/// link-layer multicasts are the caller's to know.
pub fn may_be_told(packet: ipv6::Packet) -> bool {
    let source = packet.source();
    let unicast = !source.is_multicast() && !source.is_unspecified() && !source.is_loopback();
    // Behind a fragment header that is not the first's nobody knows whether this is an error.
    let upper = packet.upper();
    let error = |u: ipv6::Upper| u.protocol == ipv6::ICMP && u.payload.first().is_none_or(|kind| *kind < 128 || *kind == REDIRECT);
    unicast && !packet.destination().is_multicast() && upper.is_some_and(|u| !error(u))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4;

    const SOURCE: &str = "2001:db8:1::9";

    fn packet(next_header: u8, source: &str, payload: &[u8]) -> Vec<u8> {
        let h = ipv6::Header {
            traffic_class: 0,
            payload_len: payload.len().try_into().unwrap(),
            next_header,
            hop_limit: 1,
            source: source.parse().unwrap(),
            destination: "2001:db8:2::9".parse().unwrap(),
        };
        [&h.to_bytes()[..], payload].concat()
    }

    fn made(error: Error, original: &[u8], stack: &[u8]) -> Vec<u8> {
        let p = ipv6::Packet::new(original).unwrap();
        let mut out = vec![0xee; datagram_len(error, p, stack.len())];
        assert!(write(&mut out, error, "2001:db8::fe".parse().unwrap(), p, stack));
        assert!(!write(&mut [0; 60], error, "2001:db8::fe".parse().unwrap(), p, stack));
        let told = ipv6::Packet::new(&out).unwrap();
        assert_eq!((told.total_len(), told.destination()), (out.len(), SOURCE.parse().unwrap()));
        assert_eq!(checksum(told.source(), told.destination(), told.payload()), 0);
        out
    }

    #[test]
    fn errors_byte_by_byte() {
        let original = packet(ipv4::UDP, SOURCE, &[1; 8]);
        let out = made(Error::TimeExceeded, &original, &[]);
        assert_eq!((&out[40..42], &out[44..48], &out[48..]), (&[3, 0][..], &[0; 4][..], &original[..]));
        let long = packet(ipv4::UDP, SOURCE, &[1; 2000]);
        let out = made(Error::PacketTooBig { mtu: 1492 }, &long, &[0, 1, 0x11, 1]);
        assert_eq!((out.len(), &out[40..42], &out[44..48], &out[48..]), (1280, &[2, 0][..], &[0, 0, 5, 0xd4][..], &long[..1232]));
        assert_eq!(made(Error::NoRoute, &original, &[])[40..42], [1, 0]);
        assert_eq!(made(Error::AddressUnreachable, &original, &[])[40..42], [1, 3]);
    }

    #[test]
    fn under_labels_the_quote_is_128_bytes_and_the_stack_follows() {
        let stack = [0x00, 0x3e, 0x90, 1, 0x00, 0x3e, 0xa1, 1];
        let out = made(Error::TimeExceeded, &packet(ipv4::UDP, SOURCE, &[1; 8]), &stack);
        assert_eq!((out.len(), &out[44..48]), (48 + 128 + 16, &[16, 0, 0, 0][..]));
        assert_eq!((&out[176..178], &out[184..]), (&[0x20, 0][..], &stack[..]));
    }

    #[test]
    fn rfc_4443_about_what_no_error_is_sent() {
        let told = |b: &[u8]| may_be_told(ipv6::Packet::new(b).unwrap());
        assert!(told(&packet(ipv4::UDP, SOURCE, &[])));
        assert!(told(&packet(ipv6::ICMP, SOURCE, &[128, 0])));
        for error in [1, 2, 3, 4, 100, 127, 137] {
            assert!(!told(&packet(ipv6::ICMP, SOURCE, &[error, 0])), "{error}");
            // Nor behind an extension header.
            assert!(!told(&packet(60, SOURCE, &[58, 0, 0, 0, 0, 0, 0, 0, error, 0])), "{error}");
        }
        for source in ["::", "ff02::1", "::1"] {
            assert!(!told(&packet(ipv4::UDP, source, &[])), "{source}");
        }
        assert!(!told(&packet(44, SOURCE, &[17, 0, 0, 8, 0, 0, 0, 1])));
        let mut multicast = packet(ipv4::UDP, SOURCE, &[]);
        multicast[24] = 0xff;
        assert!(!told(&multicast));
    }
}
