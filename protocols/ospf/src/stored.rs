//! What a successor needs, as values with names:
//!
//! ```text
//!   ospf/lsa/TYPE/ID/ADV            an LSA as it came, and when: it goes on growing old
//!   ospf/link-lsa/IF/TYPE/ID/ADV    one that does not leave its link (LS type 9)
//!   ospf/neighbor/IF/ADDRESS        one that is at least 2-Way
//!   ospf/unacked/IF/ADDRESS/TYPE/ID/ADV    an LSA that a Full neighbour has yet to acknowledge
//!   ospf/interface/IF               its state and who is designated router there
//!   ospf/router                     who we are, and whether we are restarting
//!   ospf/sequence                   cryptographic sequence numbers up to here may be in use
//! ```
//! Small values are JSON, to which fields may be added; LSAs are a byte for the format, eight for the time, and the LSA itself. Times
//! are seconds since 1970.

use crate::packet::{Lsa, LsaKey};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt::Display, net::Ipv4Addr, str::FromStr, sync::Arc};

/// Names of values begin with this.
pub const PREFIX: &str = "ospf/";
const FORMAT: u8 = 1;
/// Format and time, before an LSA.
const LSA_HEAD: usize = 9;

/// Why a value is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("{0:?} is not the name of an OSPF value")]
    Name(String),
    #[error("{name}: format {got}, this knows {FORMAT}")]
    Format { name: String, got: u8 },
    #[error("{name}: {cause}")]
    Json { name: String, cause: serde_json::Error },
    #[error("{name}: {cause}")]
    Lsa { name: String, cause: String },
}

/// What a value is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Lsa(Option<Arc<str>>, LsaKey),
    Neighbor(Arc<str>, Ipv4Addr),
    Unacked(Arc<str>, Ipv4Addr, LsaKey),
    Interface(Arc<str>),
    Router,
    Sequence,
}

impl Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lsa = |key: &LsaKey| format!("{}/{}/{}", key.kind, key.id, key.advertising_router);
        match self {
            Self::Lsa(None, key) => write!(f, "ospf/lsa/{}", lsa(key)),
            Self::Lsa(Some(interface), key) => write!(f, "ospf/link-lsa/{interface}/{}", lsa(key)),
            Self::Neighbor(interface, address) => write!(f, "ospf/neighbor/{interface}/{address}"),
            Self::Unacked(interface, address, key) => write!(f, "ospf/unacked/{interface}/{address}/{}", lsa(key)),
            Self::Interface(interface) => write!(f, "ospf/interface/{interface}"),
            Self::Router => f.write_str("ospf/router"),
            Self::Sequence => f.write_str("ospf/sequence"),
        }
    }
}

fn part<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn lsa_key(parts: &[&str]) -> Option<LsaKey> {
    match parts {
        [kind, id, router] => Some(LsaKey { kind: part(kind)?, id: part(id)?, advertising_router: part(router)? }),
        _ => None,
    }
}

fn parse(name: &str) -> Option<Name> {
    let parts: Vec<&str> = name.split('/').collect();
    Some(match parts.as_slice() {
        ["ospf", "lsa", key @ ..] => Name::Lsa(None, lsa_key(key)?),
        ["ospf", "link-lsa", interface, key @ ..] => Name::Lsa(Some(Arc::from(*interface)), lsa_key(key)?),
        ["ospf", "neighbor", interface, address] => Name::Neighbor(Arc::from(*interface), part(address)?),
        ["ospf", "unacked", interface, address, key @ ..] => Name::Unacked(Arc::from(*interface), part(address)?, lsa_key(key)?),
        ["ospf", "interface", interface] => Name::Interface(Arc::from(*interface)),
        ["ospf", "router"] => Name::Router,
        ["ospf", "sequence"] => Name::Sequence,
        _ => return None,
    })
}

impl FromStr for Name {
    type Err = ValueError;

    fn from_str(name: &str) -> Result<Self, ValueError> {
        parse(name).ok_or_else(|| ValueError::Name(name.to_owned()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRouter {
    pub(crate) format: u8,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) area: Ipv4Addr,
    /// Our graceful restart (RFC 3623) may go on until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restarting_until: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredSequence {
    pub(crate) format: u8,
    pub(crate) reserved: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredInterfaceState {
    Passive,
    PointToPoint,
    /// Of a broadcast network, whose designated router is not known yet.
    Waiting,
    Broadcast,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredInterface {
    pub(crate) format: u8,
    pub(crate) state: StoredInterfaceState,
    pub(crate) address: Ipv4Net,
    #[serde(default = "nobody")]
    pub(crate) designated: Ipv4Addr,
    #[serde(default = "nobody")]
    pub(crate) backup: Ipv4Addr,
    /// Announced at the highest cost (RFC 5443).
    #[serde(default)]
    pub(crate) max_cost: bool,
}

fn nobody() -> Ipv4Addr {
    Ipv4Addr::UNSPECIFIED
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StoredNeighborState {
    /// It restarts, and its link is kept meanwhile.
    Silent,
    /// The same, and it is heard again; or there is no adjacency, or only half of one: that part begins anew.
    TwoWay,
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredNeighbor {
    pub(crate) format: u8,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) state: StoredNeighborState,
    pub(crate) priority: u8,
    #[serde(default = "nobody")]
    pub(crate) designated: Ipv4Addr,
    #[serde(default = "nobody")]
    pub(crate) backup: Ipv4Addr,
    pub(crate) options: u8,
    /// Full since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<u32>,
    /// We help it to restart (RFC 3623) until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) helping_until: Option<u32>,
    /// It has said that it is back.
    #[serde(default)]
    pub(crate) back: bool,
}

/// Every value says its format first.
#[derive(Deserialize)]
struct Versioned {
    format: u8,
}

impl StoredRouter {
    pub(crate) fn new(router_id: Ipv4Addr, area: Ipv4Addr, restarting_until: Option<u32>) -> Self {
        Self { format: FORMAT, router_id, area, restarting_until }
    }
}

impl StoredSequence {
    pub(crate) fn new(reserved: u32) -> Self {
        Self { format: FORMAT, reserved }
    }
}

impl StoredInterface {
    pub(crate) fn new(state: StoredInterfaceState, address: Ipv4Net, roles: (Ipv4Addr, Ipv4Addr), max_cost: bool) -> Self {
        Self { format: FORMAT, state, address, designated: roles.0, backup: roles.1, max_cost }
    }
}

impl StoredNeighbor {
    pub(crate) const FORMAT: u8 = FORMAT;
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Structs of numbers, addresses and flags: nothing in them can fail.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(crate) fn decode<T: DeserializeOwned>(name: &Name, value: &[u8]) -> Result<T, ValueError> {
    let json = |cause| ValueError::Json { name: name.to_string(), cause };
    match serde_json::from_slice(value).map_err(json)? {
        Versioned { format: FORMAT } => serde_json::from_slice(value).map_err(json),
        Versioned { format: got } => Err(ValueError::Format { name: name.to_string(), got }),
    }
}

/// `at`: when the LSA was of the age that it tells.
pub(crate) fn encode_lsa(lsa: &Lsa, at: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(LSA_HEAD + lsa.length());
    out.push(FORMAT);
    out.extend(u64::from(at).to_be_bytes());
    lsa.write(lsa.header.age, &mut out);
    out
}

pub(crate) fn decode_lsa(name: &Name, key: &LsaKey, value: &[u8]) -> Result<(Lsa, u64), ValueError> {
    let error = |cause: String| ValueError::Lsa { name: name.to_string(), cause };
    match value.first() {
        Some(&FORMAT) => {}
        Some(&got) => return Err(ValueError::Format { name: name.to_string(), got }),
        None => return Err(error("it is empty".into())),
    }
    let at = value.get(1..LSA_HEAD).and_then(|b| b.try_into().ok()).ok_or_else(|| error("it is cut off".into()))?;
    let lsa = Lsa::decode(value.get(LSA_HEAD..).unwrap_or_default()).map_err(|e| error(e.to_string()))?;
    if lsa.header.key != *key {
        return Err(error("it is another LSA".into()));
    }
    Ok((lsa, u64::from_be_bytes(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let texts = [
            "ospf/lsa/1/10.255.0.1/10.255.0.1",
            "ospf/link-lsa/core0/9/3.0.0.0/10.255.0.1",
            "ospf/neighbor/core0/10.0.0.2",
            "ospf/unacked/core0/10.0.0.2/1/10.255.0.1/10.255.0.1",
            "ospf/interface/core0",
            "ospf/router",
            "ospf/sequence",
        ];
        for text in texts {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
        for bad in ["ospf", "ospf/lsa/256/1.1.1.1/1.1.1.1", "ospf/lsa/1/1.1.1.1", "ospf/neighbor/core0", "bfd/1.1.1.1/2.2.2.2"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
