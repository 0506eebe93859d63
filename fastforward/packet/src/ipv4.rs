//! IPv4 (RFC 791): a checked view, changes that keep the header checksum right, and fragmentation of headers.

use crate::{Fault, Malformed, array, be16, checksum};
use std::net::Ipv4Addr;

pub const MIN_HEADER_LEN: usize = 20;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

const FLAG_DF: u16 = 0x4000;
const FLAG_MF: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// A packet whose lengths, version and header checksum were found right; what follows its total length
/// (Ethernet padding) is not part of the view.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a>(&'a [u8]);

impl<'a> Packet<'a> {
    /// RFC 1812 §5.2.2: the five checks of a router before it looks at anything else.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let me = Self::trusted(bytes)?;
        if checksum::checksum(me.header()) == 0 { Ok(me) } else { Err(Malformed::new("IPv4", 10, Fault::Checksum)) }
    }

    /// Lengths and version alone: for whoever only looks at a packet in passing.
    #[inline]
    pub fn trusted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let bad = |offset, fault| Err(Malformed::new("IPv4", offset, fault));
        if bytes.len() < MIN_HEADER_LEN {
            return bad(bytes.len(), Fault::Truncated);
        }
        if bytes[0] >> 4 != 4 {
            return bad(0, Fault::Version);
        }
        let header = usize::from(bytes[0] & 0xf) * 4;
        if header < MIN_HEADER_LEN {
            return bad(0, Fault::HeaderLength);
        }
        let total = usize::from(be16(bytes, 2));
        if total < header {
            return bad(2, Fault::TotalLength);
        }
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
    pub fn header_len(&self) -> usize {
        usize::from(self.0[0] & 0xf) * 4
    }
    #[inline]
    pub fn header(&self) -> &'a [u8] {
        &self.0[..self.header_len()]
    }
    pub fn options(&self) -> &'a [u8] {
        &self.0[MIN_HEADER_LEN..self.header_len()]
    }
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[self.header_len()..]
    }
    /// DSCP and ECN.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.0[1]
    }
    #[inline]
    pub fn total_len(&self) -> usize {
        self.0.len()
    }
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        be16(self.0, 6) & FLAG_DF != 0
    }
    #[inline]
    pub fn more_fragments(&self) -> bool {
        be16(self.0, 6) & FLAG_MF != 0
    }
    /// Offset of this fragment, in units of 8 bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        be16(self.0, 6) & OFFSET
    }
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.0[8]
    }
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.0[9]
    }
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        array::<4>(self.0, 12).into()
    }
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        array::<4>(self.0, 16).into()
    }
    /// Source and destination port of an unfragmented TCP or UDP packet.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let whole = self.fragment_offset() == 0 && !self.more_fragments();
        let p = self.payload();
        (whole && matches!(self.protocol(), TCP | UDP) && p.len() >= 4).then(|| (be16(p, 0), be16(p, 2)))
    }
}

/// Sets the TTL of the header at the start of `packet` and updates its checksum (RFC 1624). Too few bytes: no change.
#[inline]
pub fn set_ttl(packet: &mut [u8], ttl: u8) {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER_LEN>() else { return };
    let old = be16(header, 8);
    header[8] = ttl;
    let sum = checksum::update(be16(header, 10), old, be16(header, 8));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A header without options to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tos: u8,
    pub total_len: u16,
    pub identification: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

impl Header {
    pub fn to_bytes(&self) -> [u8; MIN_HEADER_LEN] {
        let mut h = [0; MIN_HEADER_LEN];
        h[0] = 0x45;
        h[1] = self.tos;
        h[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        h[4..6].copy_from_slice(&self.identification.to_be_bytes());
        h[8] = self.ttl;
        h[9] = self.protocol;
        h[12..16].copy_from_slice(&self.source.octets());
        h[16..].copy_from_slice(&self.destination.octets());
        let sum = checksum::checksum(&h);
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        h
    }
}

/// One piece of a packet that is too long: its header, and which bytes of the payload it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    header: [u8; 60],
    header_len: usize,
    pub payload: std::ops::Range<usize>,
}

impl Fragment {
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }
}

/// Cuts `packet` into fragments of at most `mtu` bytes (RFC 791 §3.2, "An Example Fragmentation Procedure").
/// Ignores DF: that is the caller's decision. Ends early if `mtu` has no room for a header and 8 bytes.
pub fn fragments<'a>(packet: Packet<'a>, mtu: usize) -> impl Iterator<Item = Fragment> + use<'a> {
    let mut at = 0;
    let end = packet.payload().len();
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let mut header = [0u8; 60];
        let mut len = MIN_HEADER_LEN;
        header[..MIN_HEADER_LEN].copy_from_slice(&packet.0[..MIN_HEADER_LEN]);
        if at == 0 {
            len = packet.header_len();
            header[MIN_HEADER_LEN..len].copy_from_slice(packet.options());
        } else {
            len += copied_options(packet.options(), &mut header[MIN_HEADER_LEN..]);
        }
        let room = mtu.saturating_sub(len);
        let take = if end - at <= room { end - at } else { room & !7 };
        if take == 0 {
            return None;
        }
        let last = at + take == end;
        // The original's offset and 65,535 bytes of payload keep the sum within 13 bits for a packet that is
        // itself valid; for one that claims to reach beyond 65,535 the offset wraps as it would at its source.
        let offset = packet.fragment_offset().wrapping_add(u16::try_from(at / 8).unwrap_or(0)) & OFFSET;
        let more = if !last || packet.more_fragments() { FLAG_MF } else { 0 };
        let total = u16::try_from(len + take).unwrap_or(u16::MAX);
        header[0] = 0x40 | u8::try_from(len / 4).unwrap_or(5);
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::checksum(&header[..len]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        let payload = at..at + take;
        at += take;
        Some(Fragment { header, header_len: len, payload })
    })
}

/// Copies the options that RFC 791 §3.1 marks "copied" (top bit of the type), padded to 4 bytes; the length written.
fn copied_options(mut options: &[u8], out: &mut [u8]) -> usize {
    let mut len = 0;
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let n = usize::from(rest.first().copied().unwrap_or(0));
                let Some(option) = options.get(..n).filter(|o| o.len() >= 2) else { break };
                if kind & 0x80 != 0 {
                    out[len..len + n].copy_from_slice(option);
                    len += n;
                }
                options = &options[n..];
            }
        }
    }
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// The header of RFC 1071 folklore: 192.168.0.1 → 192.168.0.199, UDP, checksum b861.
    const VECTOR: [u8; 20] =
        [0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7];

    fn vector() -> Vec<u8> {
        let mut v = VECTOR.to_vec();
        v.resize(0x73, 0xab);
        v
    }

    #[test]
    fn fields_of_a_known_header() {
        let mut bytes = vector();
        bytes.extend([0; 6]); // Ethernet padding
        let p = Packet::new(&bytes).unwrap();
        assert_eq!((p.total_len(), p.header_len(), p.ttl(), p.protocol()), (0x73, 20, 64, UDP));
        assert!(p.dont_fragment() && !p.more_fragments() && p.fragment_offset() == 0);
        assert_eq!(p.ports(), Some((0xabab, 0xabab)));
        assert_eq!(p.destination(), Ipv4Addr::new(192, 168, 0, 199));
        let h =
            Header { tos: 0, total_len: 0x73, identification: 0, ttl: 64, protocol: UDP, source: p.source(), destination: p.destination() };
        // DF is the only difference: 0x4000 less in the sum.
        assert_eq!(be16(&h.to_bytes(), 10), 0xf861);
    }

    #[test]
    fn every_truncation_and_each_wrong_field_is_refused() {
        let good = vector();
        for n in 0..good.len() {
            assert_eq!(Packet::new(&good[..n]).unwrap_err().fault, Fault::Truncated, "{n}");
        }
        for (at, value, fault) in [
            (0, 0x65, Fault::Version),
            (0, 0x44, Fault::HeaderLength),
            (0, 0x46, Fault::Checksum),
            (3, 19, Fault::TotalLength),
            (3, 0x74, Fault::Truncated),
            (8, 63, Fault::Checksum),
        ] {
            let mut v = good.clone();
            v[at] = value;
            assert_eq!(Packet::new(&v).unwrap_err().fault, fault, "byte {at}");
        }
    }

    #[test]
    fn only_copied_options_follow_into_later_fragments() {
        // NOP, record route (7, not copied, 3 bytes), router alert (0x94, copied, 4 bytes): 8 bytes.
        let mut v = vec![0x47, 0, 0, 0, 0x12, 0x34, 0, 0, 9, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        v.extend([1, 7, 3, 4, 0x94, 4, 0, 0]);
        v.extend((0..100u8).collect::<Vec<_>>());
        v[3] = 128;
        let sum = checksum::checksum(&v[..28]);
        v[10..12].copy_from_slice(&sum.to_be_bytes());
        let p = Packet::new(&v).unwrap();
        let got: Vec<_> = fragments(p, 68).map(|f| (f.header().to_vec(), f.payload)).collect();
        assert_eq!(got.iter().map(|g| g.1.clone()).collect::<Vec<_>>(), [0..40, 40..80, 80..100]);
        assert_eq!(got[0].0[20..], [1, 7, 3, 4, 0x94, 4, 0, 0]);
        assert_eq!(got[1].0[20..], [0x94, 4, 0, 0]);
        assert_eq!(got.iter().map(|g| be16(&g.0, 6)).collect::<Vec<_>>(), [0x2000, 0x2005, 0x000a]);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            if let Ok(p) = Packet::new(&bytes) {
                let _ = (p.ports(), p.options(), p.payload());
            }
        }

        #[test]
        fn ttl_change_keeps_the_checksum(ttl: u8, head: [u8; 8]) {
            let mut v = vector();
            v[1] = head[0];
            v[4..6].copy_from_slice(&head[1..3]);
            v[8] = head[3];
            v[10..12].fill(0);
            let sum = checksum::checksum(&v[..20]);
            v[10..12].copy_from_slice(&sum.to_be_bytes());
            set_ttl(&mut v, ttl);
            prop_assert_eq!(Packet::new(&v).unwrap().ttl(), ttl);
        }

        #[test]
        fn fragments_put_together_are_the_payload(payload in vec(any::<u8>(), 1..5000), options in vec(any::<u8>(), 0..10), mtu in 68usize..3000) {
            let mut header = vec![0x40, 0, 0, 0, 1, 2, 0, 0, 5, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            header.extend(options.iter().flat_map(|&o| [0x80 | o, 4, o, o]));
            header[0] |= u8::try_from(header.len() / 4).unwrap();
            let total = u16::try_from(header.len() + payload.len()).unwrap();
            header[2..4].copy_from_slice(&total.to_be_bytes());
            let sum = checksum::checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let packet = [header, payload.clone()].concat();
            let packet = Packet::new(&packet).unwrap();
            let mut seen = vec![];
            for f in fragments(packet, mtu) {
                let piece = [f.header(), &payload[f.payload.clone()]].concat();
                prop_assert!(piece.len() <= mtu);
                let piece = Packet::new(&piece).unwrap();
                prop_assert_eq!(usize::from(piece.fragment_offset()) * 8, seen.len());
                seen.extend_from_slice(piece.payload());
                prop_assert_eq!(piece.more_fragments(), seen.len() < payload.len());
            }
            prop_assert_eq!(seen, payload);
        }
    }
}
