//! The documents of the desired state. A value of these types is right in itself; how documents fit together is
//! checked by [`crate::validate`]. Serialized, they look as the operator wrote them.

mod bgp;
mod customer;
mod platform;

pub use bgp::{Bgp, MaxPrefix, Rule, RuleMatch, RuleSet};
pub use customer::{Attachment, Customer, Leak, LeakFrom, StaticRoute, Vpn, VpnOverride};
pub use platform::{
    Authentication, AuthenticationType, ControlPlane, Core, CoreRoute, Host, Labels, Ldp, LdpPassword, OWN_HOST, Ospf, OspfPort, Platform,
    Protection, Reflector,
};

use crate::IntentError;
use edgeplex_mgmt::config as mgmt;
use edgeplex_types::{AttachmentId, Name, RouteTarget};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is shown in place of a password.
pub(crate) const HIDDEN: &str = "(hidden)";

fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}

/// Bidirectional forwarding detection (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bfd {
    /// Milliseconds.
    pub interval: u32,
    pub multiplier: u8,
}

impl From<Bfd> for mgmt::Bfd {
    fn from(b: Bfd) -> Self {
        Self { interval_ms: b.interval, multiplier: b.multiplier }
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

    /// How a customer's attachments are protected.
    pub fn protection_of(&self, c: &Customer) -> Protection {
        c.protection.or(self.platform.as_ref().map(|p| p.protection)).unwrap_or_default()
    }

    /// What a VPN brings in of another: the route targets that it has to ask for.
    pub fn leaked(&self, from: &LeakFrom) -> Vec<RouteTarget> {
        match from {
            LeakFrom::RouteTargets(targets) => targets.clone(),
            LeakFrom::From(name) => {
                let of = |c: &Customer| c.vpn.export.iter().chain(c.attachments.iter().flat_map(|a| c.export_of(a))).copied().collect();
                let targets: BTreeSet<RouteTarget> = self.customers.get(name).map(of).unwrap_or_default();
                targets.into_iter().collect()
            }
        }
    }
}
