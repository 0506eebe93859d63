//! A customer's routing policy: a list of rules, of which the first that matches decides.

use edgeplex_types::{Community, LargeCommunity};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All that is given must match; nothing given matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    #[serde(default)]
    pub r#match: PolicyMatch,
    #[serde(default)]
    pub set: PolicySet,
    pub action: PolicyAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyAction {
    Accept,
    Reject,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyMatch {
    /// One of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<PrefixRange>,
    /// All of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
    /// Regular expression over the path as a person writes it, `65101 65102 {65103}`; at most 255 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_path: Option<String>,
}

/// Prefixes within `prefix` that are `ge` to `le` bits long; the prefix itself where neither is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixRange {
    pub prefix: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ge: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub le: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySet {
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
    /// How often the neighbour's AS (import) or ours (export) is put in front once more, 0 to 16.
    pub prepend: u8,
}
