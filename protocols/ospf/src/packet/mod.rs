//! OSPFv2 packets: bytes ↔ values (RFC 2328 appendix A).
//!
//! ```text
//!   bytes ─► Header ─► authentic? (auth.rs) ─► Message: hello, database description, request, update, acknowledgement
//!                                                 LSA header │ LSA: header + body + its bytes
//! ```
//! Every decoder is total. An LSA that cannot be used is left out of its update; anything else wrong refuses the packet.

mod auth;
mod body;
mod lsa;
mod messages;
mod reader;
#[cfg(test)]
mod tests;

pub use auth::{AuthError, Sealed};
pub use body::{
    External, GRACE_ID, Grace, LS_INFINITY, LinkKind, LsaBody, MAX_LINK_METRIC, NetworkLsa, ROUTER_FLAG_BORDER, ROUTER_FLAG_EXTERNAL,
    RouterLink, RouterLsa, Summary,
};
pub use lsa::{
    ASBR_SUMMARY, EXTERNAL, INITIAL_SEQUENCE, LSA_HEADER, Lsa, LsaHeader, LsaKey, MAX_AGE, MAX_SEQUENCE, NETWORK, NSSA, OPAQUE_AREA,
    OPAQUE_AS, OPAQUE_LINK, ROUTER, SUMMARY,
};
pub use messages::{DD_INIT, DD_MASTER, DD_MORE, DatabaseDescription, Hello, Message, OPTION_E, OPTION_NP, OPTION_O, Update};
pub use reader::{Cause, DecodeError};

use reader::Reader;
use std::net::Ipv4Addr;

/// RFC 2328 §A.3.1.
pub const HEADER: usize = 24;

/// Every packet's head, after its length and version were found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub router_id: Ipv4Addr,
    pub area: Ipv4Addr,
    checksum: u16,
    auth_kind: u16,
    auth: [u8; 8],
}

/// A packet whose head has been read; nothing is believed before [`Packet::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    pub header: Header,
    /// Head and contents, without what authentication put behind.
    bytes: &'a [u8],
    trailer: &'a [u8],
}

impl<'a> Packet<'a> {
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(packet, 0);
        let version = from.u8("version")?;
        if version != 2 {
            return Err(DecodeError { offset: 0, field: "version", cause: Cause::Value(version.into()) });
        }
        let kind = from.u8("packet type")?;
        let length = from.u16("packet length")?;
        let router_id = from.address("router ID")?;
        let area = from.address("area ID")?;
        let checksum = from.u16("checksum")?;
        let auth_kind = from.u16("authentication type")?;
        let mut auth = [0; 8];
        auth.copy_from_slice(from.take("authentication", 8)?);
        let wrong = DecodeError { offset: 2, field: "packet length", cause: Cause::Length { got: packet.len(), want: length.into() } };
        if usize::from(length) < HEADER {
            return Err(wrong);
        }
        let (bytes, trailer) = packet.split_at_checked(length.into()).ok_or(wrong)?;
        Ok(Self { header: Header { kind, router_id, area, checksum, auth_kind, auth }, bytes, trailer })
    }

    /// What it says. To be called after [`Packet::open`].
    pub fn message(&self) -> Result<Message, DecodeError> {
        Message::read(self.header.kind, &mut Reader::new(&self.bytes[HEADER..], HEADER))
    }
}
