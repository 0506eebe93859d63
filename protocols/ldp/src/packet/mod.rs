//! LDP on the wire (RFC 5036 §3): bytes ↔ PDUs ↔ messages. Decoding is total; an error says where, what and why, and its
//! [`Status`] says how bad it is.
//!
//! ```text
//!   version 1 │ PDU length │ LSR id │ label space │ message │ message │ …
//!                                                      └─ U type │ length │ message id │ TLV │ TLV │ …
//! ```

mod compose;
mod fec;
mod message;
mod reader;
mod status;

pub use compose::Composer;
pub use fec::FecElement;
pub use message::{Capabilities, CapabilityChange, FaultTolerance, Hello, Initialization, LabelMessage, Mapping, Message, Notification};
pub use status::Status;

use reader::Reader;
use std::net::Ipv4Addr;

/// RFC 5036 §3.1
pub const VERSION: u16 = 1;
/// Longest PDU before another length is agreed on, counted from the LDP identifier, bytes (RFC 5036 §3.1).
pub const MAX_PDU: u16 = 4096;
/// Version and PDU length, which the latter does not count.
const HEAD: usize = 4;
/// The LDP identifier.
const IDENTIFIER: usize = 6;

/// Why bytes are not LDP, and what to tell the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {offset}: {cause} ({status})")]
pub struct Error {
    pub status: Status,
    /// Within the PDU.
    pub offset: usize,
    pub field: &'static str,
    pub cause: &'static str,
}

impl Error {
    pub(crate) fn new(status: Status, offset: usize, field: &'static str, cause: &'static str) -> Self {
        Self { status, offset, field, cause }
    }
}

/// Names a label space of an LSR (RFC 5036 §2.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LdpId {
    pub lsr_id: Ipv4Addr,
    pub label_space: u16,
}

/// A PDU whose header is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pdu<'a> {
    pub sender: LdpId,
    messages: &'a [u8],
}

/// The first PDU of what a peer sent, if all of it is there; it is at most `max` long.
pub fn frame(bytes: &[u8], max: u16) -> Result<Option<Pdu<'_>>, Error> {
    let Some(version) = be16(bytes, 0) else { return Ok(None) };
    if version != VERSION {
        return Err(Error::new(Status::BAD_PROTOCOL_VERSION, 0, "version", "is not 1"));
    }
    let Some(length) = be16(bytes, 2) else { return Ok(None) };
    if length > max || usize::from(length) < IDENTIFIER {
        return Err(Error::new(Status::BAD_PDU_LENGTH, 2, "PDU length", "is below 6 or above what was agreed on"));
    }
    let Some(pdu) = bytes.get(HEAD..HEAD + usize::from(length)) else { return Ok(None) };
    let mut reader = Reader::new(pdu, HEAD);
    let sender = LdpId { lsr_id: reader.ipv4("LSR identifier")?, label_space: reader.u16("label space")? };
    Ok(Some(Pdu { sender, messages: reader.rest() }))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A message whose length is right; its parameters are not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// U: ignore it silently if its type is unknown.
    pub unknown_bit: bool,
    pub kind: u16,
    pub id: u32,
    parameters: Reader<'a>,
}

impl<'a> Pdu<'a> {
    pub fn wire_len(&self) -> usize {
        HEAD + IDENTIFIER + self.messages.len()
    }

    /// The messages in order; after an error, which is fatal, no more follow.
    pub fn messages(&self) -> impl Iterator<Item = Result<RawMessage<'a>, Error>> + use<'a> {
        let mut rest = Reader::new(self.messages, HEAD + IDENTIFIER);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let message = raw(&mut rest);
            if message.is_err() {
                rest = Reader::new(&[], 0);
            }
            Some(message)
        })
    }
}

fn raw<'a>(rest: &mut Reader<'a>) -> Result<RawMessage<'a>, Error> {
    let at = rest.offset();
    // RFC 5036 §3.5.1.2.1: too long for its PDU, or too short for its kind.
    let short = |_| Error::new(Status::BAD_MESSAGE_LENGTH, at, "message", "is cut off");
    let kind = rest.u16("message type").map_err(short)?;
    let length = rest.u16("message length").map_err(short)?;
    let mut parameters = rest.take(usize::from(length), "message").map_err(short)?;
    let id = parameters.u32("message identifier").map_err(short)?;
    Ok(RawMessage { unknown_bit: kind & 0x8000 != 0, kind: kind & 0x7fff, id, parameters })
}

#[cfg(test)]
mod tests;
