//! The core side of a CVM: interfaces, OSPF, LDP, static routes, route reflectors.

use super::Bfd;
use edgeplex_types::{LabelRange, MacAddr};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr};

/// One core-facing interface of the CVM; the vNIC of that name is already in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreInterface {
    pub name: String,
    pub mac: MacAddr,
    pub address: Ipv4Net,
    pub mtu: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ospf: Option<OspfInterface>,
    /// LDP discovery runs here.
    #[serde(default)]
    pub ldp: bool,
    /// With each OSPF neighbour of this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

/// OSPFv2 (RFC 2328).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ospf {
    /// All core interfaces and the loopback are in it.
    pub area: Ipv4Addr,
    /// Drained: our links are announced at the highest cost (RFC 6987).
    #[serde(default)]
    pub stub_router: bool,
    /// How long neighbours are asked to keep us through a restart (RFC 3623), seconds; 0 for not at all.
    #[serde(default)]
    pub grace_s: u16,
    /// The second-best ways that cannot loop are kept ready (RFC 5286).
    #[serde(default)]
    pub loop_free_alternates: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OspfInterface {
    pub network: OspfNetwork,
    /// 1 to 65535.
    pub cost: u16,
    /// For the election of the designated router; 0 never is one.
    pub priority: u8,
    pub hello_s: u16,
    pub dead_s: u32,
    pub retransmit_s: u16,
    /// Announced, but no adjacency is made there.
    #[serde(default)]
    pub passive: bool,
    #[serde(default)]
    pub authentication: OspfAuthentication,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OspfNetwork {
    PointToPoint,
    Broadcast,
}

/// RFC 2328 appendix D, RFC 5709.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type", deny_unknown_fields)]
pub enum OspfAuthentication {
    #[default]
    Null,
    /// At most 8 bytes.
    Simple {
        password: String,
    },
    Md5 {
        key_id: u8,
        password: String,
    },
    HmacSha256 {
        key_id: u8,
        password: String,
    },
    HmacSha384 {
        key_id: u8,
        password: String,
    },
    HmacSha512 {
        key_id: u8,
        password: String,
    },
}

/// Without the password.
impl fmt::Debug for OspfAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Simple { .. } => "Simple",
            Self::Md5 { .. } => "Md5",
            Self::HmacSha256 { .. } => "HmacSha256",
            Self::HmacSha384 { .. } => "HmacSha384",
            Self::HmacSha512 { .. } => "HmacSha512",
        })
    }
}

/// LDP (RFC 5036).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ldp {
    /// Labels for the core's FECs, apart from the VPN labels.
    pub labels: LabelRange,
    pub hello_s: u16,
    pub hold_s: u16,
    /// KeepAlive time, seconds.
    pub keepalive_s: u16,
    /// Our loopback is announced with label 0 instead of 3: the last hop keeps its EXP bits (RFC 3032 §2.1).
    #[serde(default)]
    pub explicit_null: bool,
    /// How long neighbours are asked to keep our labels through a restart (RFC 3478), seconds; 0 for not at all.
    #[serde(default)]
    pub reconnect_s: u16,
    /// Links whose LDP session is not up are announced at the highest cost (RFC 5443).
    #[serde(default)]
    pub igp_sync: bool,
    /// TCP MD5 by LSR identifier (RFC 5036 §2.9).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passwords: Vec<LdpPassword>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LdpPassword {
    pub neighbor: Ipv4Addr,
    pub password: String,
}

/// Without the password.
impl fmt::Debug for LdpPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdpPassword").field("neighbor", &self.neighbor).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreNeighbor {
    pub address: Ipv4Addr,
    /// TCP MD5 (RFC 2385) password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Multihop (RFC 5883).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}
