//! BGP with a customer's routers, and the policy between.

use super::{Bfd, is_default};
use edgeplex_mgmt::config::{BgpRole, PolicyAction, PrefixRange};
use edgeplex_types::{Community, LargeCommunity, SiteOfOrigin};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::{fmt, net::IpAddr};

#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bgp {
    pub neighbor: IpAddr,
    pub remote_as: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<MaxPrefix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Seconds; 90 by default (RFC 4271 §10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_time: Option<u16>,
    /// RFC 9003.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<String>,
    /// Hops (RFC 5082).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Ours (RFC 9234).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<BgpRole>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    #[serde(skip_serializing_if = "is_default")]
    pub as_override: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_as_in: u8,
    #[serde(skip_serializing_if = "is_default")]
    pub remove_private_as: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_of_origin: Option<SiteOfOrigin>,
    #[serde(skip_serializing_if = "is_default")]
    pub default_originate: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub import: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export: Vec<Rule>,
}

// Passwords do not go into logs.
impl fmt::Debug for Bgp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bgp").field("neighbor", &self.neighbor).field("remote_as", &self.remote_as).finish_non_exhaustive()
    }
}

/// Written as a number where nothing but the limit differs from the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPrefix {
    pub limit: u32,
    /// Percent.
    pub warn: u8,
    pub warning_only: bool,
    /// Seconds.
    pub restart: u32,
}

impl From<u32> for MaxPrefix {
    fn from(limit: u32) -> Self {
        Self { limit, warn: 80, warning_only: false, restart: 60 }
    }
}

impl Serialize for MaxPrefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if *self == Self::from(self.limit) {
            return s.serialize_u32(self.limit);
        }
        let mut map = s.serialize_map(Some(4))?;
        map.serialize_entry("limit", &self.limit)?;
        map.serialize_entry("warn", &self.warn)?;
        map.serialize_entry("warningOnly", &self.warning_only)?;
        map.serialize_entry("restart", &self.restart)?;
        map.end()
    }
}

/// The first rule that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    pub matches: RuleMatch,
    #[serde(skip_serializing_if = "is_default")]
    pub set: RuleSet,
    pub action: PolicyAction,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleMatch {
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "prefix_ranges")]
    pub prefixes: Vec<PrefixRange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSet {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_communities: Vec<Community>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_communities: Vec<Community>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_large_communities: Vec<LargeCommunity>,
    #[serde(skip_serializing_if = "is_default")]
    pub prepend: u8,
}

/// Such as `10.0.0.0/8 ge 16 le 24`.
fn prefix_ranges<S: Serializer>(ranges: &[PrefixRange], s: S) -> Result<S::Ok, S::Error> {
    let text = |r: &PrefixRange| {
        let bound = |word, n: Option<u8>| n.map(|n| format!(" {word} {n}")).unwrap_or_default();
        format!("{}{}{}", r.prefix, bound("ge", r.ge), bound("le", r.le))
    };
    s.collect_seq(ranges.iter().map(text))
}
