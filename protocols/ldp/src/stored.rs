//! What a successor needs beside the streams of the sessions, as values with names:
//!
//! ```text
//!   ldp/speaker                    who we are, and the configuration sequence number of our Hellos
//!   ldp/interface/IF               our address there
//!   ldp/adjacency/LSR/IF           a neighbour that is heard there
//!   ldp/binding/ADDRESS/LENGTH     the label of a FEC that neighbours may use
//! ```
//! JSON, to which fields may be added.

use edgeplex_types::Label;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, net::Ipv4Addr, sync::Arc};

/// Names of values begin with this.
pub const PREFIX: &str = "ldp/";
const FORMAT: u8 = 1;

/// Why a value is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("{0:?} is not the name of an LDP value")]
    Name(String),
    #[error("{name}: format {got}, this knows {FORMAT}")]
    Format { name: String, got: u8 },
    #[error("{name}: {cause}")]
    Json { name: String, cause: serde_json::Error },
}

/// What a value is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Speaker,
    Interface(Arc<str>),
    Adjacency(Ipv4Addr, Arc<str>),
    Binding(Ipv4Net),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Speaker => f.write_str("ldp/speaker"),
            Self::Interface(interface) => write!(f, "ldp/interface/{interface}"),
            Self::Adjacency(lsr_id, interface) => write!(f, "ldp/adjacency/{lsr_id}/{interface}"),
            Self::Binding(fec) => write!(f, "ldp/binding/{fec}"),
        }
    }
}

impl Name {
    pub(crate) fn parse(name: &str) -> Result<Self, ValueError> {
        let parts: Vec<&str> = name.split('/').collect();
        let parsed = match parts.as_slice() {
            ["ldp", "speaker"] => Some(Self::Speaker),
            ["ldp", "interface", interface] => Some(Self::Interface(Arc::from(*interface))),
            ["ldp", "adjacency", lsr_id, interface] => lsr_id.parse().ok().map(|id| Self::Adjacency(id, Arc::from(*interface))),
            ["ldp", "binding", address, length] => {
                let net = address.parse().ok().zip(length.parse().ok());
                net.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map(Self::Binding)
            }
            _ => None,
        };
        parsed.ok_or_else(|| ValueError::Name(name.to_owned()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredSpeaker {
    format: u8,
    pub(crate) lsr_id: Ipv4Addr,
    pub(crate) sequence: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredInterface {
    format: u8,
    pub(crate) address: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredAdjacency {
    format: u8,
    pub(crate) source: Ipv4Addr,
    pub(crate) transport: Ipv4Addr,
    /// Agreed on, seconds; none: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold_s: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<u32>,
    /// RFC 6720
    #[serde(default)]
    pub(crate) gtsm: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredBinding {
    format: u8,
    pub(crate) label: Label,
}

impl StoredSpeaker {
    pub(crate) fn new(lsr_id: Ipv4Addr, sequence: u32) -> Self {
        Self { format: FORMAT, lsr_id, sequence }
    }
}

impl StoredInterface {
    pub(crate) fn new(address: Ipv4Addr) -> Self {
        Self { format: FORMAT, address }
    }
}

impl StoredAdjacency {
    pub(crate) fn new(source: Ipv4Addr, transport: Ipv4Addr, hold_s: Option<u16>, sequence: Option<u32>, gtsm: bool) -> Self {
        Self { format: FORMAT, source, transport, hold_s, sequence, gtsm }
    }
}

impl StoredBinding {
    pub(crate) fn new(label: Label) -> Self {
        Self { format: FORMAT, label }
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Structs of numbers, addresses and flags: nothing in them can fail.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(crate) fn decode<T: DeserializeOwned>(name: &Name, value: &[u8]) -> Result<T, ValueError> {
    /// Every value says its format.
    #[derive(Deserialize)]
    struct Versioned {
        format: u8,
    }
    let json = |cause| ValueError::Json { name: name.to_string(), cause };
    match serde_json::from_slice(value).map_err(json)? {
        Versioned { format: FORMAT } => serde_json::from_slice(value).map_err(json),
        Versioned { format: got } => Err(ValueError::Format { name: name.to_string(), got }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["ldp/speaker", "ldp/interface/core0", "ldp/adjacency/10.255.0.2/core0", "ldp/binding/10.0.0.0/24"] {
            assert_eq!(Name::parse(text).unwrap().to_string(), text);
        }
        for bad in ["ldp", "ldp/binding/10.0.0.0", "ldp/binding/10.0.0.0/33", "ldp/adjacency/core0/core0", "ospf/router"] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}
