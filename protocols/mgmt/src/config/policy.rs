//! A customer's routing policy: a list of rules, of which the first that matches decides.

use edgeplex_types::{Community, LargeCommunity};
use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Longest regular expression over a path, bytes.
pub const MAX_AS_PATH: usize = 255;
/// Of a compiled expression, bytes: `(a{1000}){1000}` is not for a router.
const MAX_COMPILED: usize = 1 << 18;

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

/// The expression of [`PolicyMatch::as_path`], or why it is none. ASCII classes such as `\d` and `\b` count; time to match is
/// linear in the path's length.
pub fn as_path_regex(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() || pattern.len() > MAX_AS_PATH {
        return Err(format!("must be 1 to {MAX_AS_PATH} bytes"));
    }
    let compiled = RegexBuilder::new(pattern).unicode(false).size_limit(MAX_COMPILED).nest_limit(32).build();
    compiled.map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => "is too large when compiled; repeat less".to_owned(),
        // The cause is said last, after a picture of where it is.
        e => format!("must be a regular expression: {}", e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_as_they_are_written() {
        for (pattern, path, matches) in [
            ("^65101( |$)", "65101 65102", true),
            ("^65101( |$)", "65101", true),
            ("^65101( |$)", "651012", false),
            (r"\b65102\b", "65101 65102 {65103}", true),
            (r"\{.*\}", "65101", false),
            ("^$", "", true),
        ] {
            assert_eq!(as_path_regex(pattern).unwrap().is_match(path.as_bytes()), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_expression_or_too_much_is_refused() {
        let says = |p: &str| as_path_regex(p).unwrap_err();
        assert_eq!(says("65101("), "must be a regular expression: unclosed group");
        assert_eq!(says(&"1".repeat(256)), "must be 1 to 255 bytes");
        assert_eq!(says(""), "must be 1 to 255 bytes");
        assert_eq!(says("(1{1000}){1000}"), "is too large when compiled; repeat less");
        assert!(says(&"(".repeat(100)).starts_with("must be a regular expression"));
    }
}
