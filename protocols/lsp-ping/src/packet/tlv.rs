//! TLVs of echo requests and replies (RFC 8029 §3.2 to §3.9): type, length without padding, value padded to four bytes.

use super::{DecodeError, bad};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

pub(super) const TARGET_FEC_STACK: u16 = 1;
const PAD: u16 = 3;
const INTERFACE_AND_LABEL_STACK: u16 = 7;
const NOT_UNDERSTOOD: u16 = 9;
const DOWNSTREAM_DETAILED_MAPPING: u16 = 20;
/// Sub-TLV of the target FEC stack (RFC 8029 §3.2.1).
const LDP_IPV4_PREFIX: u16 = 1;
/// Types from here on may be passed over in silence (RFC 8029 §3).
const OPTIONAL: u16 = 32768;
/// Deepest FEC or label stack that is read.
const MAX_DEPTH: usize = 16;

/// Sub-TLV of the target FEC stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fec {
    Ldp(Ipv4Net),
    /// Of a type that is not known here.
    Other(u16, Vec<u8>),
}

impl Fec {
    /// As for [TLVs](Tlv::is_mandatory_unknown).
    pub fn is_mandatory_unknown(&self) -> bool {
        matches!(self, Self::Other(code, _) if *code < OPTIONAL)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tlv {
    DownstreamDetailedMapping(DownstreamDetailedMapping),
    InterfaceAndLabelStack(InterfaceAndLabelStack),
    /// TLVs of the request that were not understood, whole (RFC 8029 §3.8).
    NotUnderstood(Vec<u8>),
    Pad(Vec<u8>),
    /// Of a type that is not known here.
    Other(u16, Vec<u8>),
}

/// RFC 8029 §3.4. Only what asks for the label stack is used of it; the rest is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamDetailedMapping {
    pub mtu: u16,
    /// 1: numbered IPv4; 2: unnumbered.
    pub address_type: u8,
    /// 2: the replier is to add its interface and label stack.
    pub flags: u8,
    /// Addresses, return code and sub-TLVs as they stand.
    pub rest: Vec<u8>,
}

impl DownstreamDetailedMapping {
    /// RFC 8029 §3.4: unnumbered, 127.0.0.1 and interface 0 stand for any downstream router.
    pub(super) fn any() -> Self {
        Self { mtu: 1500, address_type: 2, flags: 2, rest: vec![127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    pub fn asks_for_stack(&self) -> bool {
        self.flags & 2 != 0
    }
}

/// RFC 8029 §3.6: where a request came in, and with which labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAndLabelStack {
    pub address: Ipv4Addr,
    /// Interface index.
    pub interface: u32,
    pub stack: Vec<LabelEntry>,
}

/// RFC 3032 §2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelEntry {
    pub label: Label,
    pub traffic_class: u8,
    pub bottom: bool,
    pub ttl: u8,
}

impl LabelEntry {
    pub(crate) fn encode(self) -> [u8; 4] {
        let word = self.label.get() << 12 | u32::from(self.traffic_class & 7) << 9 | u32::from(self.bottom) << 8 | u32::from(self.ttl);
        word.to_be_bytes()
    }

    pub(crate) fn decode(bytes: [u8; 4]) -> Self {
        let word = u32::from_be_bytes(bytes);
        let [_, _, middle, ttl] = bytes;
        Self { label: Label::try_from(word >> 12).unwrap_or(Label::MAX), traffic_class: middle >> 1 & 7, bottom: middle & 1 != 0, ttl }
    }
}

impl Tlv {
    /// Whether a replier that does not know it must say so (RFC 8029 §3: types below 32768).
    pub fn is_mandatory_unknown(&self) -> bool {
        matches!(self, Self::Other(code, _) if *code < OPTIONAL)
    }

    pub(super) fn decode(code: u16, value: &[u8], at: usize) -> Result<Self, DecodeError> {
        match code {
            DOWNSTREAM_DETAILED_MAPPING => match value.split_first_chunk::<4>() {
                Some(([high, low, address_type, flags], rest)) if rest.len() >= 12 => {
                    let mtu = u16::from_be_bytes([*high, *low]);
                    Ok(Self::DownstreamDetailedMapping(DownstreamDetailedMapping {
                        mtu,
                        address_type: *address_type,
                        flags: *flags,
                        rest: rest.to_vec(),
                    }))
                }
                _ => Err(bad("downstream detailed mapping", at, "must have at least 16 bytes")),
            },
            INTERFACE_AND_LABEL_STACK => match value.split_first_chunk::<12>() {
                Some(([1 | 2, 0, 0, 0, a, b, c, d, e, f, g, h], rest)) if rest.len() % 4 == 0 && rest.len() <= 4 * MAX_DEPTH => {
                    Ok(Self::InterfaceAndLabelStack(InterfaceAndLabelStack {
                        address: Ipv4Addr::new(*a, *b, *c, *d),
                        interface: u32::from_be_bytes([*e, *f, *g, *h]),
                        stack: rest.as_chunks::<4>().0.iter().copied().map(LabelEntry::decode).collect(),
                    }))
                }
                _ => Err(bad("interface and label stack", at, "must be of IPv4 and hold at most 16 whole labels")),
            },
            NOT_UNDERSTOOD => Ok(Self::NotUnderstood(value.to_vec())),
            PAD => Ok(Self::Pad(value.to_vec())),
            _ => Ok(Self::Other(code, value.to_vec())),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::DownstreamDetailedMapping(d) => {
                let [high, low] = d.mtu.to_be_bytes();
                let value = [&[high, low, d.address_type, d.flags][..], &d.rest].concat();
                write(out, DOWNSTREAM_DETAILED_MAPPING, &value);
            }
            Self::InterfaceAndLabelStack(i) => {
                let mut value = vec![1, 0, 0, 0];
                value.extend(i.address.octets());
                value.extend(i.interface.to_be_bytes());
                i.stack.iter().for_each(|e| value.extend(e.encode()));
                write(out, INTERFACE_AND_LABEL_STACK, &value);
            }
            Self::NotUnderstood(value) => write(out, NOT_UNDERSTOOD, value),
            Self::Pad(value) => write(out, PAD, value),
            Self::Other(code, value) => write(out, *code, value),
        }
    }

    /// As it stands in a message.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![];
        self.encode(&mut out);
        out
    }
}

fn write(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Everything that is written was read from a message or made here: far below 64 KiB.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

pub(super) fn write_fecs(out: &mut Vec<u8>, fecs: &[Fec]) {
    let mut value = vec![];
    for fec in fecs {
        match fec {
            Fec::Ldp(fec) => {
                let mut prefix = fec.network().octets().to_vec();
                prefix.push(fec.prefix_len());
                write(&mut value, LDP_IPV4_PREFIX, &prefix);
            }
            Fec::Other(code, fec) => write(&mut value, *code, fec),
        }
    }
    write(out, TARGET_FEC_STACK, &value);
}

pub(super) fn read_fecs(value: &[u8], at: usize) -> Result<Vec<Fec>, DecodeError> {
    let mut reader = Reader { sub: true, ..Reader::new(value, at + 4) };
    let mut out = vec![];
    while let Some((code, value, at)) = reader.next()? {
        if out.len() >= MAX_DEPTH {
            return Err(bad("target FEC stack", at, "at most 16 deep"));
        }
        if code != LDP_IPV4_PREFIX {
            out.push(Fec::Other(code, value.to_vec()));
            continue;
        }
        let (address, length) = match value {
            [a, b, c, d, length] => (Ipv4Addr::new(*a, *b, *c, *d), *length),
            _ => return Err(bad("sub-TLV length", at, "must be 5 for an LDP IPv4 prefix")),
        };
        let fec = Ipv4Net::new(address, length).map_err(|_| bad("prefix length", at + 8, "must be at most 32"))?;
        out.push(Fec::Ldp(fec.trunc()));
    }
    if out.is_empty() { Err(bad("target FEC stack", at, "must not be empty")) } else { Ok(out) }
}

/// Type, value, and offset in the message.
type RawTlv<'a> = (u16, &'a [u8], usize);

/// Walks over TLVs; each comes with its offset in the message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
    sub: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8], at: usize) -> Self {
        Self { rest, at, sub: false }
    }

    pub(super) fn next(&mut self) -> Result<Option<RawTlv<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let field = if self.sub { "sub-TLV length" } else { "TLV length" };
        let short = bad(field, at, "must be within the message");
        let ([a, b, c, d], body) = self.rest.split_first_chunk::<4>().ok_or(short)?;
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let value = body.get(..length).ok_or(short)?;
        let padded = length.next_multiple_of(4);
        self.rest = body.get(padded..).ok_or(short)?;
        self.at += 4 + padded;
        Ok(Some((u16::from_be_bytes([*a, *b]), value, at)))
    }
}
