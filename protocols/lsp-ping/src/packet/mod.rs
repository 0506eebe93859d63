//! Echo requests and replies (RFC 8029 §3).
//!
//! ```text
//!  |         Version Number        |         Global Flags          |
//!  |  Message Type |   Reply Mode  |  Return Code  | Return Subcode|
//!  |                        Sender's Handle                        |
//!  |                        Sequence Number                        |
//!  |           TimeStamp Sent (seconds, fraction: NTP)             |
//!  |           TimeStamp Received                                  |
//!  |                            TLVs ...                           |
//! ```

mod tlv;

pub use tlv::{DownstreamDetailedMapping, Fec, InterfaceAndLabelStack, LabelEntry, Tlv};

use ipnet::Ipv4Net;
use std::fmt;
use tlv::Reader;

pub(crate) const HEADER: usize = 32;
/// More TLVs than this in one message are refused.
pub(crate) const MAX_TLVS: usize = 32;

/// RFC 8029 §3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnCode(pub u8);

impl ReturnCode {
    pub const NONE: Self = Self(0);
    pub const MALFORMED: Self = Self(1);
    pub const TLV_NOT_UNDERSTOOD: Self = Self(2);
    pub const EGRESS: Self = Self(3);
    pub const NO_MAPPING: Self = Self(4);
    pub const LABEL_SWITCHED: Self = Self(8);
    pub const MAPPING_DIFFERS: Self = Self(10);
    pub const NO_LABEL_ENTRY: Self = Self(11);
}

impl fmt::Display for ReturnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "no return code",
            "malformed echo request received",
            "one or more of the TLVs was not understood",
            "replying router is an egress for the FEC",
            "replying router has no mapping for the FEC",
            "downstream mapping mismatch",
            "upstream interface index unknown",
            "reserved",
            "label switched",
            "label switched but no MPLS forwarding",
            "mapping for this FEC is not the given label",
            "no label entry",
            "protocol not associated with interface",
            "premature termination of ping: label stack shrank to a single label",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "return code {}", self.0),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Reply,
}

/// A request or a reply. Times are NTP timestamps, of the sender's and of the replier's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// The replier is to check that the label belongs to the FEC.
    pub validate_fec: bool,
    /// 1: no reply; 2: by IPv4 UDP; 3: the same with Router Alert.
    pub reply_mode: u8,
    pub return_code: ReturnCode,
    pub return_subcode: u8,
    pub handle: u32,
    pub sequence: u32,
    pub sent: u64,
    pub received: u64,
    /// Of the Target FEC Stack, outermost first; only LDP IPv4 prefixes are understood.
    pub fecs: Vec<Fec>,
    pub tlvs: Vec<Tlv>,
}

/// Why a message is not understood. Whether it is answered depends on how far it could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} at offset {offset}: {right}")]
pub struct DecodeError {
    pub field: &'static str,
    pub offset: usize,
    pub right: &'static str,
}

pub(crate) fn bad(field: &'static str, offset: usize, right: &'static str) -> DecodeError {
    DecodeError { field, offset, right }
}

impl Message {
    pub const REPLY_BY_UDP: u8 = 2;

    /// A request for an LDP FEC, to be answered by UDP. `trace` asks the replier for the label stack that it saw.
    pub fn request(fec: Ipv4Net, handle: u32, sequence: u32, sent: u64, trace: bool) -> Self {
        Self {
            kind: Kind::Request,
            validate_fec: true,
            reply_mode: Self::REPLY_BY_UDP,
            return_code: ReturnCode::NONE,
            return_subcode: 0,
            handle,
            sequence,
            sent,
            received: 0,
            fecs: vec![Fec::Ldp(fec)],
            tlvs: if trace { vec![Tlv::DownstreamDetailedMapping(DownstreamDetailedMapping::any())] } else { vec![] },
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend([0, 1, 0, u8::from(self.validate_fec)]);
        let kind = if self.kind == Kind::Request { 1 } else { 2 };
        out.extend([kind, self.reply_mode, self.return_code.0, self.return_subcode]);
        out.extend(self.handle.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.sent.to_be_bytes());
        out.extend(self.received.to_be_bytes());
        if !self.fecs.is_empty() {
            tlv::write_fecs(&mut out, &self.fecs);
        }
        self.tlvs.iter().for_each(|t| t.encode(&mut out));
        out
    }

    /// The target FEC stack, as it stands in a message.
    pub(crate) fn fec_stack(&self) -> Vec<u8> {
        let mut out = vec![];
        tlv::write_fecs(&mut out, &self.fecs);
        out
    }

    /// Reads a UDP payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(bad("header", bytes.len(), "must have 32 bytes"));
        };
        let word = |at: usize| header[at..].first_chunk().map_or(0, |w| u32::from_be_bytes(*w));
        let long = |at: usize| header[at..].first_chunk().map_or(0, |w| u64::from_be_bytes(*w));
        if header[..2] != [0, 1] {
            return Err(bad("version number", 0, "must be 1"));
        }
        let kind = match header[4] {
            1 => Kind::Request,
            2 => Kind::Reply,
            _ => return Err(bad("message type", 4, "must be 1 or 2")),
        };
        let mut message = Self {
            kind,
            validate_fec: header[3] & 1 != 0,
            reply_mode: header[5],
            return_code: ReturnCode(header[6]),
            return_subcode: header[7],
            handle: word(8),
            sequence: word(12),
            sent: long(16),
            received: long(24),
            fecs: vec![],
            tlvs: vec![],
        };
        let mut reader = Reader::new(rest, HEADER);
        while let Some((code, value, at)) = reader.next()? {
            if message.tlvs.len() >= MAX_TLVS {
                return Err(bad("TLVs", at, "at most 32 are read"));
            }
            match code {
                tlv::TARGET_FEC_STACK if message.fecs.is_empty() => message.fecs = tlv::read_fecs(value, at)?,
                tlv::TARGET_FEC_STACK => return Err(bad("target FEC stack", at, "must be there once")),
                _ => message.tlvs.push(Tlv::decode(code, value, at)?),
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_types::Label;
    use proptest::prelude::*;

    fn request() -> Message {
        Message::request("10.255.0.2/32".parse().unwrap(), 7, 3, 0x1234_5678_9abc_def0, true)
    }

    /// RFC 8029 §3, §3.2.1: by hand.
    #[test]
    fn a_request_on_the_wire() {
        let bytes = Message { tlvs: vec![], ..request() }.encode();
        let mut want = vec![0, 1, 0, 1, 1, 2, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0];
        want.extend([0; 8]);
        want.extend([0, 1, 0, 12, 0, 1, 0, 5, 10, 255, 0, 2, 32, 0, 0, 0]);
        assert_eq!(bytes, want);
    }

    #[test]
    fn requests_and_replies_survive() {
        let entry = |label: u32, ttl| LabelEntry { label: Label::try_from(label).unwrap(), traffic_class: 3, bottom: ttl == 1, ttl };
        let mut reply = Message { kind: Kind::Reply, return_code: ReturnCode::LABEL_SWITCHED, return_subcode: 1, ..request() };
        reply.tlvs = vec![
            Tlv::InterfaceAndLabelStack(InterfaceAndLabelStack {
                address: [10, 0, 0, 1].into(),
                interface: 4,
                stack: vec![entry(500_000, 1)],
            }),
            Tlv::NotUnderstood(vec![0, 99, 0, 0]),
            Tlv::Other(32800, vec![1, 2, 3]),
        ];
        let strange = Message { fecs: vec![Fec::Other(3, vec![0; 20]), request().fecs[0].clone()], ..request() };
        for message in [request(), reply, strange] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fault = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = request().encode();
            change(&mut bytes);
            let error = Message::decode(&bytes).unwrap_err();
            (error.field, error.offset)
        };
        assert_eq!(fault(&|b| b.truncate(31)), ("header", 31));
        assert_eq!(fault(&|b| b[1] = 2), ("version number", 0));
        assert_eq!(fault(&|b| b[4] = 3), ("message type", 4));
        assert_eq!(fault(&|b| b[35] = 200), ("TLV length", 32));
        assert_eq!(fault(&|b| b[39] = 9), ("sub-TLV length", 36));
        assert_eq!(fault(&|b| b[44] = 33), ("prefix length", 44));
        assert_eq!(fault(&|b| b.truncate(b.len() - 1)), ("TLV length", 48));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }

        #[test]
        fn bytes_behind_a_good_header_are_read_or_refused(tail in proptest::collection::vec(0u8..24, 0..120)) {
            let mut bytes = request().encode();
            bytes.truncate(HEADER);
            bytes.extend(tail);
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
