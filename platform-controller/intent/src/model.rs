//! The documents of the desired state. A value of these types is right in itself; how documents fit together is
//! checked by [`crate::validate`]. Serialized, they look as the operator wrote them.

use crate::IntentError;
use edgeplex_types::{AttachmentId, Label, LabelRange, Name, Rd, RouteTarget, VlanId};
use ipnet::Ipv4Net;
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// What is shown in place of a password.
pub(crate) const HIDDEN: &str = "(hidden)";

/// The PE itself: there is at most one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Platform {
    #[serde(skip)]
    pub name: Name,
    pub asn: u32,
    pub loopback: Ipv4Addr,
    pub core: Vec<Core>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub core_routes: Vec<CoreRoute>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route_reflectors: Vec<Reflector>,
    pub access: Vec<String>,
    pub labels: Labels,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    pub port: String,
    pub address: Ipv4Net,
    pub mtu: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoreRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Reflector {
    pub address: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Labels {
    #[serde(flatten)]
    pub range: LabelRange,
    /// Seconds that a released label rests.
    pub quarantine: u32,
}

/// A VPN and its attachments on this PE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Customer {
    #[serde(skip)]
    pub name: Name,
    pub vpn: Vpn,
    pub attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vpn {
    pub import: Vec<RouteTarget>,
    pub export: Vec<RouteTarget>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    pub name: Name,
    pub port: String,
    /// Untagged when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// Of the PE on the attachment's subnet.
    pub address: Ipv4Net,
    pub mtu: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rd: Option<Rd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<Bgp>,
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    pub static_routes: Vec<StaticRoute>,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bgp {
    pub neighbor: Ipv4Addr,
    pub remote_as: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Seconds; 90 by default (RFC 4271 §10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaticRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

// Passwords do not go into logs.
impl std::fmt::Debug for Reflector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reflector").field("address", &self.address).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Bgp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bgp").field("neighbor", &self.neighbor).field("remote_as", &self.remote_as).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Platform(Platform),
    Customer(Customer),
}

impl Document {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Platform(_) => "Platform",
            Self::Customer(_) => "Customer",
        }
    }

    pub fn name(&self) -> &Name {
        match self {
            Self::Platform(p) => &p.name,
            Self::Customer(c) => &c.name,
        }
    }

    /// Such as `Customer acme`.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// As the operator would write it, every default in place; [`crate::parse`] reads it back.
    pub fn to_value(&self) -> Value {
        // Plain structs with string keys always serialize.
        let spec = match self {
            Self::Platform(p) => serde_json::to_value(p),
            Self::Customer(c) => serde_json::to_value(c),
        };
        json!({
            "apiVersion": crate::API_VERSION,
            "kind": self.kind(),
            "metadata": {"name": self.name()},
            "spec": spec.unwrap_or(Value::Null),
        })
    }

    /// [`Self::to_value`] with passwords blanked, for showing.
    pub fn to_shown(&self) -> Value {
        fn blank(v: &mut Value) {
            match v {
                Value::Object(o) => o.iter_mut().for_each(|(k, v)| if k == "password" { *v = HIDDEN.into() } else { blank(v) }),
                Value::Array(a) => a.iter_mut().for_each(blank),
                _ => {}
            }
        }
        let mut v = self.to_value();
        blank(&mut v);
        v
    }
}

/// All that the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Intent {
    pub platform: Option<Platform>,
    pub customers: BTreeMap<Name, Customer>,
}

impl Intent {
    /// The same intent with `documents` put in place of those of the same kind and name. Not validated yet.
    pub fn apply(&self, documents: Vec<Document>) -> Result<Self, IntentError> {
        let mut new = self.clone();
        let mut seen = std::collections::BTreeSet::new();
        for d in documents {
            if !seen.insert(d.title()) {
                return Err(IntentError::new(d.title(), "metadata.name", d.name(), "is given twice; give each document once"));
            }
            match d {
                Document::Platform(p) => match &new.platform {
                    Some(old) if old.name != p.name => {
                        let right = format!("must be {}, the name of this controller's platform", old.name);
                        return Err(IntentError::new(format!("Platform {}", p.name), "metadata.name", &p.name, right));
                    }
                    _ => new.platform = Some(p),
                },
                Document::Customer(c) => {
                    new.customers.insert(c.name.clone(), c);
                }
            }
        }
        Ok(new)
    }

    pub fn documents(&self) -> Vec<Document> {
        let customers = self.customers.values().cloned().map(Document::Customer);
        self.platform.iter().cloned().map(Document::Platform).chain(customers).collect()
    }

    pub fn attachments(&self) -> impl Iterator<Item = (AttachmentId, &Customer, &Attachment)> {
        self.customers
            .values()
            .flat_map(|c| c.attachments.iter().map(move |a| (AttachmentId { customer: c.name.clone(), attachment: a.name.clone() }, c, a)))
    }
}
