//! The platform: its place in the provider's core.

use super::{Bfd, is_default};
use edgeplex_mgmt::config::{OspfNetwork, Role};
use edgeplex_types::{LabelRange, Name};
use ipnet::Ipv4Net;
use serde::Serialize;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

/// The PE or P router itself: there is at most one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Platform {
    #[serde(skip)]
    pub name: Name,
    #[serde(skip_serializing_if = "is_default")]
    pub role: Role,
    /// Every PE has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    pub loopback: Ipv4Addr,
    pub core: Vec<Core>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub core_routes: Vec<CoreRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ospf: Option<Ospf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ldp: Option<Ldp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route_reflectors: Vec<Reflector>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<String>,
    /// For VPNs; LDP has its own.
    pub labels: Labels,
    /// Hosts beside the controller's own on which VMs may run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
    /// Of every customer that does not say otherwise.
    #[serde(skip_serializing_if = "is_default")]
    pub protection: Protection,
    #[serde(skip_serializing_if = "is_default")]
    pub control_plane: ControlPlane,
}

/// Name of the controller's own host, which no other may have.
pub const OWN_HOST: &str = "local";

/// A host with an `edgeplex-agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    pub name: Name,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The fabric's port to it. Frames on it carry a tag for each vNIC; no other host is behind it.
    pub port: String,
    /// SHA-256 of the agent's certificate, 64 lower-case hexadecimal digits.
    pub key: String,
    /// Milliseconds of it after which the host counts as lost.
    pub silence: u16,
}

/// What keeps a customer's sessions when its VM dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Its daemon is started again and takes over from its own journal; a VM that dies whole is made anew.
    #[default]
    Restart,
    /// As well, another instance follows it, on another host where there is one.
    Standby,
}

/// What keeps the core's sessions when the control VM dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ControlPlane {
    /// Another control VM follows the one that is active.
    #[serde(skip_serializing_if = "is_default")]
    pub standby: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    pub port: String,
    pub address: Ipv4Net,
    pub mtu: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ospf: Option<OspfPort>,
    #[serde(skip_serializing_if = "is_default")]
    pub ldp: bool,
    /// With each OSPF neighbour of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoreRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

/// OSPFv2 (RFC 2328).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ospf {
    pub area: Ipv4Addr,
    /// RFC 6987: drained.
    #[serde(skip_serializing_if = "is_default")]
    pub stub_router: bool,
    /// Seconds (RFC 3623); 0 for none.
    pub grace: u16,
    pub loop_free_alternates: bool,
}

/// Times are seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OspfPort {
    pub network: OspfNetwork,
    pub cost: u16,
    pub priority: u8,
    pub hello: u16,
    pub dead: u32,
    pub retransmit: u16,
    #[serde(skip_serializing_if = "is_default")]
    pub passive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    #[serde(rename = "type")]
    pub kind: AuthenticationType,
    /// Of all but the simple type.
    #[serde(skip_serializing_if = "is_default")]
    pub key_id: u8,
    pub password: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthenticationType {
    Simple,
    Md5,
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// LDP (RFC 5036). Times are seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ldp {
    pub labels: LabelRange,
    pub hello: u16,
    pub hold: u16,
    pub keepalive: u16,
    #[serde(skip_serializing_if = "is_default")]
    pub explicit_null: bool,
    /// RFC 3478; 0 for none.
    pub reconnect: u16,
    /// RFC 5443; means something with OSPF only.
    pub igp_sync: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passwords: Vec<LdpPassword>,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct LdpPassword {
    pub neighbor: Ipv4Addr,
    pub password: String,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Reflector {
    pub address: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Multihop (RFC 5883).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Labels {
    #[serde(flatten)]
    pub range: LabelRange,
    /// Seconds that a released label rests.
    pub quarantine: u32,
}

// Passwords do not go into logs.
impl fmt::Debug for Reflector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reflector").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Debug for LdpPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdpPassword").field("neighbor", &self.neighbor).finish_non_exhaustive()
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").field("kind", &self.kind).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
