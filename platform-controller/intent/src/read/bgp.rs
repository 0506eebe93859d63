//! A customer's BGP neighbour, and the policy between.

use super::{at::At, values::MAX_PASSWORD};
use crate::{Bgp, IntentError, MaxPrefix, Rule, RuleMatch, RuleSet};
use edgeplex_mgmt::config::{BgpRole, PolicyAction, PrefixRange, as_path_regex};

/// RFC 9003 §2.
const MAX_SHUTDOWN: usize = 255;

pub(super) fn bgp(a: &At<'_>) -> Result<Bgp, IntentError> {
    let f = a.fields(&[
        "neighbor",
        "remoteAs",
        "maxPrefix",
        "password",
        "holdTime",
        "shutdown",
        "ttlSecurity",
        "role",
        "bfd",
        "asOverride",
        "allowAsIn",
        "removePrivateAs",
        "siteOfOrigin",
        "defaultOriginate",
        "import",
        "export",
    ])?;
    let roles = [
        ("provider", BgpRole::Provider),
        ("customer", BgpRole::Customer),
        ("peer", BgpRole::Peer),
        ("route-server", BgpRole::RouteServer),
        ("route-server-client", BgpRole::RouteServerClient),
    ];
    Ok(Bgp {
        neighbor: f.need("neighbor")?.address()?,
        remote_as: f.need("remoteAs")?.asn()?,
        max_prefix: f.may("maxPrefix", max_prefix)?,
        password: f.may("password", |a| a.password(MAX_PASSWORD))?,
        hold_time: f.may("holdTime", hold_time)?,
        shutdown: f.may("shutdown", shutdown)?,
        ttl_security: f.may("ttlSecurity", |a| a.number(1..=254, "must be 1 to 254 hops; 1 is a directly connected CE"))?,
        role: f.may("role", |a| a.choice(&roles))?,
        bfd: f.may("bfd", At::bfd)?,
        as_override: f.flag("asOverride", false)?,
        allow_as_in: f.number("allowAsIn", 0..=10, "", 0)?,
        remove_private_as: f.flag("removePrivateAs", false)?,
        site_of_origin: f.may("siteOfOrigin", At::parse)?,
        default_originate: f.flag("defaultOriginate", false)?,
        import: f.list("import", rule)?,
        export: f.list("export", rule)?,
    })
}

fn max_prefix(a: &At<'_>) -> Result<MaxPrefix, IntentError> {
    let limit = |a: &At<'_>| a.number::<u32>(1..=u64::from(u32::MAX), "must be 1 to 4294967295");
    if !a.value.is_object() {
        return limit(a).map(MaxPrefix::from);
    }
    let f = a.fields(&["limit", "warn", "warningOnly", "restart"])?;
    let usual = MaxPrefix::from(limit(&f.need("limit")?)?);
    Ok(MaxPrefix {
        warn: f.number("warn", 1..=100, " percent", usual.warn)?,
        warning_only: f.flag("warningOnly", usual.warning_only)?,
        restart: f.number("restart", 1..=86_400, " seconds", usual.restart)?,
        ..usual
    })
}

fn hold_time(a: &At<'_>) -> Result<u16, IntentError> {
    let right = "must be 0 or 3 to 65535 seconds";
    let t: u16 = a.number(0..=65_535, right)?;
    // RFC 4271 §4.2
    if t == 1 || t == 2 { Err(a.wrong(right)) } else { Ok(t) }
}

fn shutdown(a: &At<'_>) -> Result<String, IntentError> {
    let s = a.text()?;
    let ok = (1..=MAX_SHUTDOWN).contains(&s.len()) && !s.chars().any(char::is_control);
    if ok { Ok(s.to_owned()) } else { Err(a.wrong("must be 1 to 255 bytes of text for the neighbour's operator (RFC 9003)")) }
}

fn rule(a: &At<'_>) -> Result<Rule, IntentError> {
    let f = a.fields(&["match", "set", "action"])?;
    let rule = Rule {
        matches: f.may("match", rule_match)?.unwrap_or_default(),
        set: f.may("set", rule_set)?.unwrap_or_default(),
        action: f.need("action")?.choice(&[("accept", PolicyAction::Accept), ("reject", PolicyAction::Reject)])?,
    };
    match f.get("set") {
        Some(set) if rule.action == PolicyAction::Reject && rule.set != RuleSet::default() => {
            Err(IntentError::new(set.document, set.path, "(given)", "means nothing on a route that is rejected; leave it out"))
        }
        _ => Ok(rule),
    }
}

fn rule_match(a: &At<'_>) -> Result<RuleMatch, IntentError> {
    let f = a.fields(&["prefixes", "communities", "largeCommunities", "asPath"])?;
    Ok(RuleMatch {
        prefixes: f.list("prefixes", prefix_range)?,
        communities: f.may("communities", At::values)?.unwrap_or_default(),
        large_communities: f.may("largeCommunities", At::values)?.unwrap_or_default(),
        as_path: f.may("asPath", |a| {
            let pattern = a.text()?;
            as_path_regex(pattern).map_err(|right| a.wrong(right))?;
            Ok(pattern.to_owned())
        })?,
    })
}

/// `10.0.0.0/8`, `10.0.0.0/8 le 24`, `10.0.0.0/8 ge 16 le 24`.
fn prefix_range(a: &At<'_>) -> Result<PrefixRange, IntentError> {
    let wrong = || a.wrong("must be a prefix, then perhaps `ge` and `le` with a length each, such as 10.0.0.0/8 le 24");
    let mut words = a.text()?.split_whitespace();
    let prefix = a.prefix_of(words.next().ok_or_else(wrong)?)?;
    let mut range = PrefixRange { prefix, ge: None, le: None };
    while let Some(word) = words.next() {
        let length = words.next().and_then(|n| n.parse::<u8>().ok()).ok_or_else(wrong)?;
        let bound = match word {
            "ge" => &mut range.ge,
            "le" => &mut range.le,
            _ => return Err(wrong()),
        };
        if bound.replace(length).is_some() {
            return Err(wrong());
        }
    }
    let (shortest, longest) = (range.ge.unwrap_or(prefix.prefix_len()), range.le.unwrap_or(prefix.max_prefix_len()));
    if shortest < prefix.prefix_len() || longest > prefix.max_prefix_len() || shortest > longest {
        let (least, most) = (prefix.prefix_len(), prefix.max_prefix_len());
        return Err(a.wrong(format!("must have {least} <= ge <= le <= {most}, or no prefix would ever match")));
    }
    Ok(range)
}

fn rule_set(a: &At<'_>) -> Result<RuleSet, IntentError> {
    let f = a.fields(&["localPref", "med", "addCommunities", "removeCommunities", "addLargeCommunities", "prepend"])?;
    let number = |a: &At<'_>| a.number::<u32>(0..=u64::from(u32::MAX), "must be 0 to 4294967295");
    Ok(RuleSet {
        local_pref: f.may("localPref", number)?,
        med: f.may("med", number)?,
        add_communities: f.may("addCommunities", At::values)?.unwrap_or_default(),
        remove_communities: f.may("removeCommunities", At::values)?.unwrap_or_default(),
        add_large_communities: f.may("addLargeCommunities", At::values)?.unwrap_or_default(),
        prepend: f.number("prepend", 0..=16, "", 0)?,
    })
}
