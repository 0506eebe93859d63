//! Basic types of a BGP/MPLS VPN provider edge.
//!
//! Each type is parsed once, at the edge, into a value that cannot be wrong; nothing deeper checks it again.
//! The names are those of RFC 4364 (RD, RT), RFC 3032 (label) and RFC 4271 (AS number).

mod community;
mod label;
mod mac;
mod name;
mod rd;
pub mod wire;

pub use community::{Community, LargeCommunity, SiteOfOrigin};
pub use label::{Label, LabelRange};
pub use mac::MacAddr;
pub use name::{AttachmentId, Name};
pub use rd::{Rd, RouteTarget};

use serde::{Deserialize, Serialize};

/// Why a text or number is not a valid value: what was given and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}`: {right}")]
pub struct InvalidValue {
    pub what: &'static str,
    pub given: String,
    pub right: &'static str,
}

impl InvalidValue {
    pub fn new(what: &'static str, given: impl ToString, right: &'static str) -> Self {
        Self { what, given: given.to_string(), right }
    }
}

/// A generation of a snapshot. Everything sent between two processes carries the epoch it belongs to;
/// after a reconnect the receiver keeps what it had, marks it with the old epoch, takes the new snapshot
/// and sweeps what the snapshot did not renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Identifies a tunnel to a remote PE; chosen by the CVM, unique within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelId(pub u32);

/// A router on a segment of the core, as routing names it: the interface towards it and its address there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// Name of our interface.
    pub interface: std::sync::Arc<str>,
    pub address: std::net::Ipv4Addr,
}

impl std::fmt::Display for NextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.address, self.interface)
    }
}

/// An IEEE 802.1Q VLAN identifier, 1..=4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = InvalidValue;
    fn try_from(v: u16) -> Result<Self, InvalidValue> {
        if (1..=4094).contains(&v) { Ok(Self(v)) } else { Err(InvalidValue::new("VLAN", v, "must be 1 to 4094")) }
    }
}

impl From<VlanId> for u16 {
    fn from(v: VlanId) -> u16 {
        v.0
    }
}

impl std::fmt::Display for VlanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
