//! A customer's routing policy: rules, of which the first that matches decides; what matches nothing is accepted as it is.
//! A function of (prefix, attributes).
//!
//! ```text
//!   import:  CE ─► adj-RIB-in ─► provider's attributes off ─► Policy ─► RIB      prepends the neighbour's AS
//!   export:  RIB ─► provider's attributes off ─► Policy ─► our AS in front ─► CE      prepends our own
//! ```
//!
//! Many prefixes share attributes, so a rule is split in two: what it asks of attributes is judged once for all of them
//! ([`Policy::prepare`]), what it asks of the prefix for each ([`Prepared::decide`]); and what one rule makes of shared
//! attributes is shared again.

use edgeplex_bgp_wire::Attributes;
use edgeplex_mgmt::config::{PolicyAction, PolicyRule, PolicySet, PrefixRange, as_path_regex};
use ipnet::IpNet;
use regex::bytes::Regex;
use std::sync::Arc;

/// Rules of one policy, at most.
pub const MAX_RULES: usize = 1000;
/// Prefix ranges, communities, or large communities of one rule, at most.
pub const MAX_ITEMS: usize = 1000;
/// How often an AS number is put in front, at most.
pub const MAX_PREPEND: u8 = 16;

/// What is wrong with a policy, and where: `rules[2].match.as_path: must be …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[{rule}].{field}: {why}")]
pub struct PolicyError {
    pub rule: usize,
    pub field: String,
    pub why: String,
}

/// A policy, ready for use. Equal if the rules are.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Arc<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    text: PolicyRule,
    as_path: Option<Regex>,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.rules.len() == other.rules.len() && self.rules.iter().zip(&*other.rules).all(|(a, b)| a.text == b.text)
    }
}

impl Eq for Policy {}

impl Policy {
    /// Checks the rules and compiles their expressions.
    pub fn new(rules: &[PolicyRule]) -> Result<Self, PolicyError> {
        if rules.len() > MAX_RULES {
            return Err(PolicyError { rule: MAX_RULES, field: "match".into(), why: format!("at most {MAX_RULES} rules are allowed") });
        }
        let rules: Result<Vec<Rule>, _> = rules.iter().enumerate().map(|(i, r)| Rule::new(i, r)).collect();
        Ok(Self { rules: rules?.into() })
    }

    /// Judges attributes once for all prefixes that share them. `asn` is what the rules prepend.
    pub fn prepare(&self, attributes: &Arc<Attributes>, asn: u32) -> Prepared<'_> {
        let mut path = None;
        let mut rules = vec![];
        for rule in &*self.rules {
            if rule.matches_attributes(attributes, &mut path) {
                rules.push(Candidate { rule, made: None });
                if rule.text.r#match.prefixes.is_empty() {
                    // It decides whatever comes to it.
                    break;
                }
            }
        }
        Prepared { attributes: attributes.clone(), asn, rules }
    }
}

#[derive(Debug)]
struct Candidate<'a> {
    rule: &'a Rule,
    /// What the rule makes of the attributes, once it was asked for.
    made: Option<Arc<Attributes>>,
}

/// A policy together with attributes.
#[derive(Debug)]
pub struct Prepared<'a> {
    attributes: Arc<Attributes>,
    asn: u32,
    /// Those that the attributes match, in order.
    rules: Vec<Candidate<'a>>,
}

impl Prepared<'_> {
    /// The attributes with which the route is accepted; `None` if it is rejected.
    pub fn decide(&mut self, prefix: IpNet) -> Option<Arc<Attributes>> {
        let Some(first) = self.rules.iter_mut().find(|c| c.rule.matches_prefix(prefix)) else { return Some(self.attributes.clone()) };
        let rule = &first.rule.text;
        match rule.action {
            PolicyAction::Reject => None,
            PolicyAction::Accept => Some(first.made.get_or_insert_with(|| apply(&rule.set, &self.attributes, self.asn)).clone()),
        }
    }
}

impl Rule {
    fn new(index: usize, text: &PolicyRule) -> Result<Self, PolicyError> {
        let wrong = |field: &str, why: String| PolicyError { rule: index, field: field.into(), why };
        let (m, set) = (&text.r#match, &text.set);
        let counts = [
            ("match.prefixes", m.prefixes.len()),
            ("match.communities", m.communities.len()),
            ("match.large_communities", m.large_communities.len()),
            ("set.add_communities", set.add_communities.len()),
            ("set.remove_communities", set.remove_communities.len()),
            ("set.add_large_communities", set.add_large_communities.len()),
        ];
        if let Some((field, n)) = counts.iter().find(|(_, n)| *n > MAX_ITEMS) {
            return Err(wrong(field, format!("{n} items: at most {MAX_ITEMS} are allowed")));
        }
        for (i, range) in m.prefixes.iter().enumerate() {
            if let Err(why) = check_range(range) {
                return Err(wrong(&format!("match.prefixes[{i}]"), why));
            }
        }
        if set.prepend > MAX_PREPEND {
            return Err(wrong("set.prepend", format!("is {}: must be 0 to {MAX_PREPEND}", set.prepend)));
        }
        let as_path = m.as_path.as_deref().map(as_path_regex).transpose().map_err(|why| wrong("match.as_path", why))?;
        Ok(Self { text: text.clone(), as_path })
    }

    /// `path`: the AS path as text, once it was needed.
    fn matches_attributes(&self, a: &Attributes, path: &mut Option<String>) -> bool {
        let m = &self.text.r#match;
        m.communities.iter().all(|c| a.communities.contains(&c.0))
            && m.large_communities.iter().all(|c| a.large_communities.contains(&c.0))
            && self.as_path.as_ref().is_none_or(|regex| regex.is_match(path.get_or_insert_with(|| a.as_path.to_string()).as_bytes()))
    }

    fn matches_prefix(&self, prefix: IpNet) -> bool {
        let ranges = &self.text.r#match.prefixes;
        ranges.is_empty() || ranges.iter().any(|r| within(r, prefix))
    }
}

fn check_range(r: &PrefixRange) -> Result<(), String> {
    let (own, most) = (r.prefix.prefix_len(), r.prefix.max_prefix_len());
    let (ge, le) = (r.ge.unwrap_or(own), r.le.unwrap_or(most));
    if r.prefix.trunc() != r.prefix {
        Err(format!("{} has host bits", r.prefix))
    } else if !(own <= ge && ge <= le && le <= most) {
        Err(format!("must be {own} ≤ ge ≤ le ≤ {most}"))
    } else {
        Ok(())
    }
}

fn within(r: &PrefixRange, prefix: IpNet) -> bool {
    let own = r.prefix.prefix_len();
    let (ge, le) = match (r.ge, r.le) {
        (None, None) => (own, own),
        (ge, le) => (ge.unwrap_or(own), le.unwrap_or(r.prefix.max_prefix_len())),
    };
    (ge..=le).contains(&prefix.prefix_len()) && r.prefix.contains(&prefix)
}

fn apply(set: &PolicySet, attributes: &Arc<Attributes>, asn: u32) -> Arc<Attributes> {
    if *set == PolicySet::default() {
        return attributes.clone();
    }
    let mut out = Attributes::clone(attributes);
    out.local_pref = set.local_pref.or(out.local_pref);
    out.med = set.med.or(out.med);
    out.communities.retain(|c| !set.remove_communities.iter().any(|r| r.0 == *c));
    for c in &set.add_communities {
        if !out.communities.contains(&c.0) {
            out.communities.push(c.0);
        }
    }
    for c in &set.add_large_communities {
        if !out.large_communities.contains(&c.0) {
            out.large_communities.push(c.0);
        }
    }
    for _ in 0..set.prepend {
        out.as_path.prepend(asn);
    }
    Arc::new(out)
}
