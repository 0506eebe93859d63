//! Link-state advertisements: header, identity, which of two is newer, checksum (RFC 2328 §12, §A.4.1).

use super::body::LsaBody;
use super::reader::{Cause, DecodeError, Reader};
use std::net::Ipv4Addr;

pub const LSA_HEADER: usize = 20;
/// Seconds (RFC 2328 appendix B).
pub const MAX_AGE: u16 = 3600;
const MAX_AGE_DIFF: u16 = 900;
/// RFC 2328 §12.1.6; signed.
pub const INITIAL_SEQUENCE: i32 = i32::MIN + 1;
pub const MAX_SEQUENCE: i32 = i32::MAX;

pub const ROUTER: u8 = 1;
pub const NETWORK: u8 = 2;
pub const SUMMARY: u8 = 3;
pub const ASBR_SUMMARY: u8 = 4;
pub const EXTERNAL: u8 = 5;
pub const NSSA: u8 = 7;
pub const OPAQUE_LINK: u8 = 9;
pub const OPAQUE_AREA: u8 = 10;
pub const OPAQUE_AS: u8 = 11;

/// Which LSA it is, whatever its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LsaKey {
    /// LS type.
    pub kind: u8,
    /// Link State ID.
    pub id: Ipv4Addr,
    pub advertising_router: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LsaHeader {
    /// Seconds, at most [`MAX_AGE`].
    pub age: u16,
    pub options: u8,
    pub key: LsaKey,
    pub sequence: i32,
    pub checksum: u16,
    /// With the header.
    pub length: u16,
}

impl LsaHeader {
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let age = from.u16("LS age")?.min(MAX_AGE);
        let options = from.u8("LS options")?;
        let kind = from.u8("LS type")?;
        let id = from.address("link state ID")?;
        let advertising_router = from.address("advertising router")?;
        // The bit pattern of a signed number (RFC 2328 §12.1.6).
        let sequence = from.u32("LS sequence number")?.cast_signed();
        let checksum = from.u16("LS checksum")?;
        let at = from.clone();
        let length = from.u16("LS length")?;
        if usize::from(length) < LSA_HEADER {
            return Err(at.error("LS length", Cause::Length { got: length.into(), want: LSA_HEADER }));
        }
        Ok(Self { age, options, key: LsaKey { kind, id, advertising_router }, sequence, checksum, length })
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.age.to_be_bytes());
        out.extend_from_slice(&[self.options, self.key.kind]);
        out.extend_from_slice(&self.key.id.octets());
        out.extend_from_slice(&self.key.advertising_router.octets());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.checksum.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }

    /// RFC 2328 §13.1: `Greater` if `self` is the newer instance, `Equal` if they are the same one.
    pub fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let old = |h: &Self| h.age >= MAX_AGE;
        self.sequence
            .cmp(&other.sequence)
            .then(self.checksum.cmp(&other.checksum))
            .then(old(self).cmp(&old(other)))
            .then_with(|| if self.age.abs_diff(other.age) > MAX_AGE_DIFF { other.age.cmp(&self.age) } else { std::cmp::Ordering::Equal })
    }
}

/// One instance of an LSA. Its bytes are kept as they came, for they are what is flooded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lsa {
    /// Its age is that on arrival.
    pub header: LsaHeader,
    pub body: LsaBody,
    bytes: Vec<u8>,
}

impl Lsa {
    /// One whole LSA from the front of `from`; checksum and contents checked.
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = from.clone();
        let header = LsaHeader::read(&mut from.clone())?;
        let bytes = from.take("LSA", header.length.into())?;
        if !fletcher_is_right(&bytes[2..]) {
            return Err(at.error("LSA", Cause::Checksum));
        }
        let mut body = Reader::new(&bytes[LSA_HEADER..], at.offset() + LSA_HEADER);
        let body = LsaBody::read(header.key.kind, &mut body)?;
        // An age beyond MaxAge is MaxAge.
        let mut bytes = bytes.to_vec();
        bytes[..2].copy_from_slice(&header.age.to_be_bytes());
        Ok(Self { header, body, bytes })
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, 0);
        let lsa = Self::read(&mut reader)?;
        if reader.is_empty() { Ok(lsa) } else { Err(reader.error("LSA", Cause::Length { got: bytes.len(), want: lsa.bytes.len() })) }
    }

    /// `None` if it would be longer than an LSA can be.
    pub fn new(key: LsaKey, options: u8, sequence: i32, body: LsaBody) -> Option<Self> {
        let mut bytes = vec![0; LSA_HEADER];
        body.write(&mut bytes);
        let length = u16::try_from(bytes.len()).ok()?;
        let mut header = LsaHeader { age: 0, options, key, sequence, checksum: 0, length };
        let mut head = Vec::with_capacity(LSA_HEADER);
        header.write(&mut head);
        bytes[..LSA_HEADER].copy_from_slice(&head);
        header.checksum = fletcher(&bytes[2..], 14);
        bytes[16..18].copy_from_slice(&header.checksum.to_be_bytes());
        Some(Self { header, body, bytes })
    }

    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// What follows the header.
    pub fn contents(&self) -> &[u8] {
        &self.bytes[LSA_HEADER..]
    }

    /// As it goes out at this age.
    pub fn write(&self, age: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&age.to_be_bytes());
        out.extend_from_slice(&self.bytes[2..]);
    }

    /// The same instance at another age.
    pub fn at_age(&self, age: u16) -> Self {
        let mut lsa = self.clone();
        lsa.header.age = age;
        lsa.bytes[..2].copy_from_slice(&age.to_be_bytes());
        lsa
    }
}

/// RFC 905 annex B, over everything but the age.
fn fletcher_sums(bytes: &[u8]) -> (u32, u32) {
    let (mut c0, mut c1) = (0u32, 0u32);
    // 4096 bytes fit into the sums before they must be reduced.
    for chunk in bytes.chunks(4096) {
        for &byte in chunk {
            c0 += u32::from(byte);
            c1 += c0;
        }
        c0 %= 255;
        c1 %= 255;
    }
    (c0, c1)
}

fn fletcher_is_right(bytes: &[u8]) -> bool {
    fletcher_sums(bytes) == (0, 0)
}

/// The two bytes that make the sums zero when put at `at`, where there are zeros now.
fn fletcher(bytes: &[u8], at: usize) -> u16 {
    let (c0, c1) = fletcher_sums(bytes);
    let after = u32::try_from((bytes.len() - at - 1) % 255).unwrap_or(0);
    let x = (after * c0 + 255 - c1) % 255;
    let y = (2 * 255 - x + 255 - c0) % 255;
    // 0 and 255 are the same in this arithmetic; 0 would mean that there is no checksum.
    let byte = |v: u32| u8::try_from(if v == 0 { 255 } else { v }).unwrap_or(255);
    u16::from_be_bytes([byte(x), byte(y)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering::{Equal, Greater, Less};

    fn header(sequence: i32, checksum: u16, age: u16) -> LsaHeader {
        let key = LsaKey { kind: 1, id: Ipv4Addr::LOCALHOST, advertising_router: Ipv4Addr::LOCALHOST };
        LsaHeader { age, options: 0, key, sequence, checksum, length: 20 }
    }

    #[test]
    fn the_newer_instance_is_found_as_the_rfc_says() {
        let base = header(5, 7, 100);
        assert_eq!(header(6, 0, 3600).compare(&base), Greater, "sequence first");
        assert_eq!(header(INITIAL_SEQUENCE, 9, 0).compare(&base), Less, "sequence numbers are signed");
        assert_eq!(header(5, 8, 3000).compare(&base), Greater, "then the checksum");
        assert_eq!(header(5, 7, MAX_AGE).compare(&base), Greater, "then MaxAge");
        assert_eq!(header(5, 7, 100 + MAX_AGE_DIFF).compare(&base), Equal);
        assert_eq!(header(5, 7, 101 + MAX_AGE_DIFF).compare(&base), Less, "then the much younger");
        assert_eq!(base.compare(&header(5, 7, 101 + MAX_AGE_DIFF)), Greater);
    }

    #[test]
    fn checksums_of_every_length_are_right_and_notice_a_change() {
        for length in 0..600usize {
            let contents: Vec<u8> = (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
            let key = LsaKey { kind: OPAQUE_AREA, id: Ipv4Addr::new(1, 0, 0, 0), advertising_router: Ipv4Addr::LOCALHOST };
            let lsa = Lsa::new(key, 2, INITIAL_SEQUENCE, LsaBody::Opaque(contents)).unwrap();
            let mut bytes = vec![];
            lsa.write(17, &mut bytes);
            assert_eq!(Lsa::decode(&bytes).unwrap().header.checksum, lsa.header.checksum, "of {length} bytes");
            let at = 2 + length * 5 % (bytes.len() - 2);
            bytes[at] ^= 0x55;
            assert!(Lsa::decode(&bytes).is_err(), "of {length} bytes, changed at {at}");
        }
    }
}
