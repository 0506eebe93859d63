//! An attachment in itself: subnets, neighbours, static routes, policy.

use super::Place;
use crate::{
    Attachment, Bgp, IntentError, Platform, Rule,
    read::{usable, usable6},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

pub(super) fn check(p: &Platform, a: &Attachment, at: &Place<'_>) -> Result<(), IntentError> {
    if !p.access.contains(&a.port) {
        let ports = if p.access.is_empty() { "(there are none)".into() } else { p.access.join(", ") };
        return at.wrong("port", &a.port, format!("is not an access port of Platform {}; must be one of {ports}", p.name));
    }
    let mut neighbors = BTreeSet::new();
    for (i, b) in a.bgp.iter().enumerate() {
        // As it is written: one neighbour needs no list.
        let bgp = if a.bgp.len() == 1 { "bgp".to_owned() } else { format!("bgp[{i}]") };
        if !neighbors.insert(b.neighbor) {
            return at.wrong(&format!("{bgp}.neighbor"), &b.neighbor, "is given twice".into());
        }
        check_bgp(p, a, b, &bgp, at)?;
    }
    let mut prefixes = BTreeSet::new();
    for (i, r) in a.static_routes.iter().enumerate() {
        let via = format!("static[{i}].via");
        on_subnet(a, r.via, &via, at)?;
        if r.prefix.addr().is_ipv4() != r.via.is_ipv4() {
            return at.wrong(&via, &r.via, format!("must be of the same family as the prefix {}", r.prefix));
        }
        if !prefixes.insert(r.prefix) {
            return at.wrong(&format!("static[{i}].prefix"), &r.prefix, "is given twice".into());
        }
    }
    Ok(())
}

fn check_bgp(p: &Platform, a: &Attachment, b: &Bgp, bgp: &str, at: &Place<'_>) -> Result<(), IntentError> {
    on_subnet(a, b.neighbor, &format!("{bgp}.neighbor"), at)?;
    if Some(b.remote_as) == p.asn {
        return at.wrong(
            &format!("{bgp}.remoteAs"),
            &b.remote_as,
            "is the platform's own AS; the customer's must differ (the session is eBGP)".into(),
        );
    }
    policy(&b.import, b.neighbor, &format!("{bgp}.import"), at)?;
    policy(&b.export, b.neighbor, &format!("{bgp}.export"), at)
}

/// A router of the customer is a neighbour of the PE on the subnet of its family.
fn on_subnet(a: &Attachment, router: IpAddr, field: &str, at: &Place<'_>) -> Result<(), IntentError> {
    let Some(own) = a.address_like(router) else {
        let missing = if router.is_ipv4() { "address" } else { "address6" };
        return at.wrong(field, &router, format!("is of a family that the attachment has no address of; give it {missing}"));
    };
    if own.addr() == router {
        return at.wrong(field, &router, "is the PE's own address; must be the customer's".into());
    }
    let fits = match (own, router) {
        (IpNet::V4(net), IpAddr::V4(r)) => usable(net, r),
        (IpNet::V6(net), IpAddr::V6(r)) => usable6(net, r),
        _ => false,
    };
    if fits { Ok(()) } else { at.wrong(field, &router, format!("must be a host address in the attachment's subnet {}", own.trunc())) }
}

/// A session carries one family; prefixes of the other would never match.
fn policy(rules: &[Rule], neighbor: IpAddr, field: &str, at: &Place<'_>) -> Result<(), IntentError> {
    let foreign = |r: &Rule| r.matches.prefixes.iter().position(|p| p.prefix.addr().is_ipv4() != neighbor.is_ipv4());
    match rules.iter().enumerate().find_map(|(i, r)| Some((i, foreign(r)?))) {
        None => Ok(()),
        Some((i, n)) => {
            let family = if neighbor.is_ipv4() { "IPv4" } else { "IPv6" };
            let given = rules[i].matches.prefixes[n].prefix;
            let right = format!("would never match; the session with {neighbor} carries {family} routes");
            at.wrong(&format!("{field}[{i}].match.prefixes[{n}]"), &given, right)
        }
    }
}
