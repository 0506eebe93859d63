//! A customer: a VPN and its attachments on this PE.

use super::{Bfd, Bgp, Protection, is_default};
use edgeplex_mgmt::config::LabelMode;
use edgeplex_types::{Label, Name, Rd, RouteTarget, VlanId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Customer {
    #[serde(skip)]
    pub name: Name,
    pub vpn: Vpn,
    /// Where it is not the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    pub attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Vpn {
    pub import: Vec<RouteTarget>,
    pub export: Vec<RouteTarget>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leak: Vec<Leak>,
    /// Of all attachments that do not say otherwise; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_paths: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_mode: Option<LabelMode>,
}

/// Prefixes of another VPN that are taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leak {
    #[serde(flatten)]
    pub from: LeakFrom,
    pub prefixes: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LeakFrom {
    /// A customer of this platform.
    From(Name),
    RouteTargets(Vec<RouteTarget>),
}

/// What an attachment has instead of its VPN's, as the hub of a hub and spoke.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VpnOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import: Option<Vec<RouteTarget>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export: Option<Vec<RouteTarget>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub name: Name,
    pub port: String,
    /// Untagged when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// Of the PE on the attachment's subnet; at least one of the two families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Net>,
    pub mtu: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rd: Option<Rd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    #[serde(skip_serializing_if = "is_default")]
    pub vpn: VpnOverride,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_mode: Option<LabelMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_paths: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "one_or_list")]
    pub bgp: Vec<Bgp>,
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    pub static_routes: Vec<StaticRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaticRoute {
    pub prefix: IpNet,
    pub via: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

/// Most attachments have one neighbour, and are written without a list.
fn one_or_list<S: Serializer>(neighbors: &[Bgp], s: S) -> Result<S::Ok, S::Error> {
    match neighbors {
        [one] => one.serialize(s),
        all => all.serialize(s),
    }
}

impl Customer {
    pub fn import_of<'a>(&'a self, a: &'a Attachment) -> &'a [RouteTarget] {
        a.vpn.import.as_deref().unwrap_or(&self.vpn.import)
    }

    pub fn export_of<'a>(&'a self, a: &'a Attachment) -> &'a [RouteTarget] {
        a.vpn.export.as_deref().unwrap_or(&self.vpn.export)
    }

    pub fn label_mode_of(&self, a: &Attachment) -> LabelMode {
        a.label_mode.or(self.vpn.label_mode).unwrap_or_default()
    }

    pub fn max_paths_of(&self, a: &Attachment) -> u8 {
        a.max_paths.or(self.vpn.max_paths).unwrap_or(1)
    }
}

impl Attachment {
    /// The PE's addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.address.map(IpNet::V4).into_iter().chain(self.address6.map(IpNet::V6))
    }

    /// The PE's address in the family of `other`.
    pub fn address_like(&self, other: IpAddr) -> Option<IpNet> {
        self.addresses().find(|a| a.addr().is_ipv4() == other.is_ipv4())
    }
}
