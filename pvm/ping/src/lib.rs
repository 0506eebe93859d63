//! ICMP and ICMPv6 of a ping (RFC 792, RFC 4443), and the label stack in error messages (RFC 4884, RFC 4950).
//!
//! [`request`] makes an echo request, [`decode`] reads whatever a raw socket hears: total, and silent about what is not ours.

use edgeplex_types::Label;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an echo request after its header.
const PAYLOAD: [u8; 32] = *b"EdgePlex ping in a customer VRF.";
const ECHO_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;

/// Names one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    pub id: u16,
    pub sequence: u16,
}

/// What an ICMP message says about one of our requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Reply(Echo),
    /// It got as far as the sender of this.
    Error {
        kind: ErrorKind,
        echo: Echo,
        /// Where the request was going.
        to: IpAddr,
        /// The label stack it had when it came in there, outermost first.
        labels: Vec<Label>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    TtlExceeded,
    Unreachable,
}

/// Type numbers and shapes in which ICMP and ICMPv6 differ.
struct Protocol {
    request: u8,
    reply: u8,
    ttl_exceeded: u8,
    unreachable: u8,
    /// Where the length of the quoted packet stands, and its unit in bytes (RFC 4884 §4).
    length_at: usize,
    length_unit: usize,
}

const ICMP: Protocol = Protocol { request: 8, reply: 0, ttl_exceeded: 11, unreachable: 3, length_at: 5, length_unit: 4 };
const ICMPV6: Protocol = Protocol { request: 128, reply: 129, ttl_exceeded: 3, unreachable: 1, length_at: 4, length_unit: 8 };

fn protocol(ipv4: bool) -> &'static Protocol {
    if ipv4 { &ICMP } else { &ICMPV6 }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).copied().map_or(0, u32::from)).sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded >> 16) + (folded & 0xffff);
    }
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

/// An echo request. That of IPv6 is without its checksum, which the kernel fills in: it knows the source address.
pub fn request(ipv4: bool, echo: Echo) -> Vec<u8> {
    let mut out = vec![protocol(ipv4).request, 0, 0, 0];
    out.extend_from_slice(&echo.id.to_be_bytes());
    out.extend_from_slice(&echo.sequence.to_be_bytes());
    out.extend_from_slice(&PAYLOAD);
    if ipv4 {
        let sum = checksum(&out).to_be_bytes();
        out[2..4].copy_from_slice(&sum);
    }
    out
}

/// What a raw socket read: an IPv4 packet, or an ICMPv6 message. `None`: not about a ping, or damaged.
pub fn decode(ipv4: bool, bytes: &[u8]) -> Option<Heard> {
    let message = if ipv4 { ipv4_payload(bytes)?.2 } else { bytes };
    if ipv4 && checksum(message) != 0 {
        return None;
    }
    let p = protocol(ipv4);
    let kind = match *message.first()? {
        t if t == p.reply => return Some(Heard::Reply(echo(message)?)),
        t if t == p.ttl_exceeded => ErrorKind::TtlExceeded,
        t if t == p.unreachable => ErrorKind::Unreachable,
        _ => return None,
    };
    let body = message.get(ECHO_HEADER..)?;
    let (to, inner) = if ipv4 {
        let (protocol, to, inner) = ipv4_payload(body)?;
        (IpAddr::V4(to), (protocol == 1).then_some(inner)?)
    } else {
        let (to, inner) = ipv6_payload(body)?;
        (IpAddr::V6(to), inner)
    };
    if *inner.first()? != p.request {
        return None;
    }
    let length = usize::from(*message.get(p.length_at)?) * p.length_unit;
    Some(Heard::Error { kind, echo: echo(inner)?, to, labels: labels(body, length) })
}

fn echo(message: &[u8]) -> Option<Echo> {
    let [_, _, _, _, a, b, c, d] = *message.first_chunk::<ECHO_HEADER>()?;
    Some(Echo { id: u16::from_be_bytes([a, b]), sequence: u16::from_be_bytes([c, d]) })
}

/// Protocol, destination and payload of an IPv4 packet, which may be cut short.
fn ipv4_payload(packet: &[u8]) -> Option<(u8, Ipv4Addr, &[u8])> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    let destination: [u8; 4] = *packet.get(16..20)?.first_chunk()?;
    Some((*packet.get(9)?, destination.into(), packet.get(header..)?))
}

/// Destination and payload of an IPv6 packet that carries ICMPv6 and no extension headers, as ours do.
fn ipv6_payload(packet: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    if packet.first()? >> 4 != 6 || *packet.get(6)? != 58 {
        return None;
    }
    let destination: [u8; 16] = *packet.get(24..40)?.first_chunk()?;
    Some((destination.into(), packet.get(IPV6_HEADER..)?))
}

/// The labels in the extensions after the quoted packet; none where there are no extensions or they are damaged.
fn labels(body: &[u8], length: usize) -> Vec<Label> {
    // RFC 4884 §5.5: who does not tell the length has padded the packet to 128 bytes.
    let at = if length == 0 { 128 } else { length };
    let Some(extensions) = body.get(at..) else { return vec![] };
    let Some(&[version, _, c0, c1]) = extensions.first_chunk::<4>() else { return vec![] };
    let summed = (c0, c1) == (0, 0) || checksum(extensions) == 0;
    // RFC 4884 §7
    if version >> 4 != 2 || !summed {
        return vec![];
    }
    let mut rest = extensions.get(4..).unwrap_or_default();
    while let Some(&[l0, l1, class, kind]) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let Some((object, next)) = rest.split_at_checked(length).filter(|_| length >= 4) else { return vec![] };
        // RFC 4950 §3: class 1, type 1 is the incoming stack.
        if (class, kind) == (1, 1) {
            let entries = object.get(4..).unwrap_or_default().chunks_exact(4);
            return entries.filter_map(|e| Label::try_from(u32::from_be_bytes([0, e[0], e[1], e[2]]) >> 4).ok()).collect();
        }
        rest = next;
    }
    vec![]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Echo = Echo { id: 0x1234, sequence: 7 };

    fn ipv4(protocol: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1];
        out.extend(to);
        out.extend(payload);
        out
    }

    fn ipv6(to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
        out.extend([0; 16]);
        out.extend(to.octets());
        out.extend(payload);
        out
    }

    fn sealed(mut message: Vec<u8>) -> Vec<u8> {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        message
    }

    /// Labels 16001 and 24, as RFC 4950 carries them, after an object of another class.
    fn extensions() -> Vec<u8> {
        let mut out = vec![0x20, 0, 0, 0, 0, 8, 2, 15, 1, 2, 3, 4, 0, 12, 1, 1];
        out.extend([0x03, 0xe8, 0x10, 1, 0x00, 0x01, 0x81, 1]);
        let sum = checksum(&out).to_be_bytes();
        out[2..4].copy_from_slice(&sum);
        out
    }

    fn error_v4(length: u8, padding: usize) -> Vec<u8> {
        let mut message = vec![11, 0, 0, 0, 0, length, 0, 0];
        message.extend(ipv4(1, [10, 2, 0, 1], &request(true, ECHO)));
        message.resize(8 + padding, 0);
        message.extend(extensions());
        ipv4(1, [10, 0, 0, 1], &sealed(message))
    }

    fn want(labels: &[u32]) -> Option<Heard> {
        let labels = labels.iter().map(|l| Label::try_from(*l).unwrap()).collect();
        Some(Heard::Error { kind: ErrorKind::TtlExceeded, echo: ECHO, to: IpAddr::from([10, 2, 0, 1]), labels })
    }

    #[test]
    fn a_reply_is_told_by_its_identifiers() {
        let mut reply = request(true, ECHO);
        assert_eq!(decode(true, &ipv4(1, [1, 2, 3, 4], &reply)), None);
        reply[0] = 0;
        reply[2..4].fill(0);
        let reply = ipv4(1, [1, 2, 3, 4], &sealed(reply));
        assert_eq!(decode(true, &reply), Some(Heard::Reply(ECHO)));
        let mut damaged = reply;
        damaged[30] ^= 1;
        assert_eq!(decode(true, &damaged), None);
        let mut reply = request(false, ECHO);
        reply[0] = 129;
        assert_eq!(decode(false, &reply), Some(Heard::Reply(ECHO)));
    }

    #[test]
    fn an_error_gives_the_label_stack_with_and_without_a_length() {
        assert_eq!(decode(true, &error_v4(32, 128)), want(&[16001, 24]));
        assert_eq!(decode(true, &error_v4(0, 128)), want(&[16001, 24]));
        assert_eq!(decode(true, &error_v4(17, 68)), want(&[16001, 24]));
        // No length and not 128 bytes: no extensions.
        assert_eq!(decode(true, &error_v4(0, 68)), want(&[]));

        let to: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let mut message = vec![3, 0, 0, 0, 16, 0, 0, 0];
        message.extend(ipv6(to, &request(false, ECHO)));
        message.resize(8 + 128, 0);
        message.extend(extensions());
        let labels = [16001, 24].map(|l| Label::try_from(l).unwrap()).to_vec();
        assert_eq!(decode(false, &message), Some(Heard::Error { kind: ErrorKind::TtlExceeded, echo: ECHO, to: to.into(), labels }));
    }

    #[test]
    fn damaged_extensions_cost_the_labels_and_not_the_answer() {
        let mut message = error_v4(32, 128);
        let at = 20 + 8 + 128;
        for damage in [0, 2, 4 + 8] {
            let mut m = message.clone();
            m[at + damage] ^= 0x40;
            let body = sealed({
                let mut b = m[20..].to_vec();
                b[2..4].fill(0);
                b
            });
            m.truncate(20);
            m.extend(body);
            assert_eq!(decode(true, &m), want(&[]), "{damage}");
        }
        message.truncate(at + 10);
        assert_eq!(decode(true, &message), None); // the ICMP checksum
    }

    #[test]
    fn errors_about_what_is_not_a_ping_are_not_ours() {
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.extend(ipv4(17, [10, 2, 0, 1], &[0; 8]));
        assert_eq!(decode(true, &ipv4(1, [10, 0, 0, 1], &sealed(message))), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_to_something_or_nothing(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), v4: bool, cut in 0usize..200, flip in 0usize..200) {
            let _ = decode(v4, &bytes);
            let mut message = error_v4(32, 128);
            let at = flip.min(message.len() - 1);
            message[at] ^= 0x11;
            message.truncate(cut);
            let _ = decode(v4, &message);
        }
    }
}
