//! The platform in itself: ports, addresses, protocols.

use crate::{IntentError, Ldp, Platform, read::usable};
use edgeplex_mgmt::config::Role;
use std::collections::BTreeSet;

fn error<T>(p: &Platform, field: impl Into<String>, given: &dyn ToString, right: impl Into<String>) -> Result<T, IntentError> {
    Err(IntentError::new(format!("Platform {}", p.name), field, given.to_string(), right))
}

pub(super) fn check(p: &Platform) -> Result<(), IntentError> {
    let wrong = |field: String, given: &dyn ToString, right: String| error(p, field, given, right);
    role(p)?;
    protocols(p)?;
    if let Some(ldp) = &p.ldp {
        check_ldp(p, ldp)?;
    }
    if p.core.is_empty() {
        return wrong("spec.core".into(), &"[]", "must name at least one core port".into());
    }
    for (i, c) in p.core.iter().enumerate() {
        for (j, other) in p.core.iter().enumerate().take(i) {
            if c.port == other.port {
                return wrong(
                    format!("spec.core[{i}].port"),
                    &c.port,
                    format!("is already spec.core[{j}].port; each core port is given once"),
                );
            }
            if c.address.contains(&other.address.network()) || other.address.contains(&c.address.network()) {
                return wrong(
                    format!("spec.core[{i}].address"),
                    &c.address,
                    format!("overlaps {} of spec.core[{j}]; core subnets must be distinct", other.address),
                );
            }
        }
        if c.address.contains(&p.loopback) {
            return wrong(
                "spec.loopback".into(),
                &p.loopback,
                format!("lies in the subnet of spec.core[{i}]; must be an address of its own"),
            );
        }
    }
    let mut access = BTreeSet::new();
    for (i, port) in p.access.iter().enumerate() {
        if p.core.iter().any(|c| c.port == *port) {
            return wrong(format!("spec.access[{i}]"), port, "is already a core port; a port is either core or access".into());
        }
        if !access.insert(port) {
            return wrong(format!("spec.access[{i}]"), port, "is given twice".into());
        }
    }
    hosts(p)?;
    let mut prefixes = BTreeSet::new();
    for (i, r) in p.core_routes.iter().enumerate() {
        if !prefixes.insert(r.prefix) {
            return wrong(format!("spec.coreRoutes[{i}].prefix"), &r.prefix, "is given twice".into());
        }
        let Some(c) = p.core.iter().find(|c| usable(c.address, r.via)) else {
            let subnets: Vec<_> = p.core.iter().map(|c| c.address.trunc().to_string()).collect();
            return wrong(
                format!("spec.coreRoutes[{i}].via"),
                &r.via,
                format!("must be a neighbour in a core subnet ({})", subnets.join(", ")),
            );
        };
        if c.address.addr() == r.via {
            return wrong(format!("spec.coreRoutes[{i}].via"), &r.via, "is this PE's own address; must be a neighbour's".into());
        }
    }
    let mut reflectors = BTreeSet::new();
    for (i, r) in p.route_reflectors.iter().enumerate() {
        let field = format!("spec.routeReflectors[{i}].address");
        if !reflectors.insert(r.address) {
            return wrong(field, &r.address, "is given twice".into());
        }
        if r.address == p.loopback || p.core.iter().any(|c| c.address.addr() == r.address) {
            return wrong(field, &r.address, "is this PE's own address; must be the route reflector's".into());
        }
    }
    Ok(())
}

/// Each host has a port of its own: a tag on it names one vNIC.
fn hosts(p: &Platform) -> Result<(), IntentError> {
    for (i, h) in p.hosts.iter().enumerate() {
        let at = |field| format!("spec.hosts[{i}].{field}");
        let before = &p.hosts[..i];
        if before.iter().any(|b| b.name == h.name) {
            return error(p, at("name"), &h.name, "is given twice; each host needs its own name");
        }
        if before.iter().any(|b| b.address == h.address) {
            return error(p, at("address"), &h.address, "is given twice; an agent serves one host");
        }
        if before.iter().any(|b| b.port == h.port) {
            return error(p, at("port"), &h.port, "leads to another host already; each host needs its own port");
        }
        if p.core.iter().any(|c| c.port == h.port) || p.access.contains(&h.port) {
            return error(p, at("port"), &h.port, "is a core or access port; the link to a host is for its vNICs alone");
        }
        if before.iter().any(|b| b.key == h.key) {
            return error(p, at("key"), &h.key, "is given twice; each agent has a key of its own");
        }
    }
    Ok(())
}

/// A P router knows neither customers nor BGP.
fn role(p: &Platform) -> Result<(), IntentError> {
    if p.role == Role::Pe {
        return Ok(());
    }
    if let Some(port) = p.access.first() {
        return error(p, "spec.access[0]", port, "a P router (role: p) has no access ports; leave them out, or make it a PE (role: pe)");
    }
    if let Some(r) = p.route_reflectors.first() {
        return error(p, "spec.routeReflectors[0].address", &r.address, "a P router (role: p) speaks no BGP; leave it out");
    }
    if p.ldp.is_none() {
        return error(p, "spec.ldp", &"(missing)", "a P router (role: p) switches labels; it needs ldp");
    }
    Ok(())
}

/// What a port says of a protocol and what the platform says of it belong together.
fn protocols(p: &Platform) -> Result<(), IntentError> {
    for (i, c) in p.core.iter().enumerate() {
        let at = |field| format!("spec.core[{i}].{field}");
        if c.ospf.is_some() && p.ospf.is_none() {
            return error(p, at("ospf"), &"(given)", "needs OSPF on the platform: give spec.ospf, {} is enough");
        }
        if c.ldp && p.ldp.is_none() {
            return error(p, at("ldp"), &c.ldp, "needs LDP on the platform: give spec.ldp, {} is enough");
        }
        if c.bfd.is_some() && c.ospf.as_ref().is_none_or(|o| o.passive) {
            return error(p, at("bfd"), &"(given)", "watches OSPF neighbours; the port must have ospf, and not be passive");
        }
    }
    if p.ospf.is_some() && p.core.iter().all(|c| c.ospf.is_none()) {
        return error(p, "spec.ospf", &"(given)", "runs on no port; give at least one core port ospf, {} is enough");
    }
    Ok(())
}

fn check_ldp(p: &Platform, ldp: &Ldp) -> Result<(), IntentError> {
    if p.ospf.is_none() && p.core_routes.is_empty() {
        return error(p, "spec.ldp", &"(given)", "has no routes to give labels to; add ospf or coreRoutes");
    }
    if p.core.iter().all(|c| !c.ldp) {
        return error(p, "spec.ldp", &"(given)", "runs on no port; give at least one core port `ldp: true`");
    }
    // On a P router nobody gives VPN labels.
    let (own, vpn) = (ldp.labels, p.labels.range);
    if p.role == Role::Pe && own.first() <= vpn.last() && vpn.first() <= own.last() {
        let given = format!("{}-{}", own.first(), own.last());
        let right = format!("overlaps spec.labels, {} to {}; LDP and VPN labels must be distinct ranges", vpn.first(), vpn.last());
        return error(p, "spec.ldp.labels", &given, right);
    }
    let mut neighbors = BTreeSet::new();
    for (i, n) in ldp.passwords.iter().enumerate() {
        let field = format!("spec.ldp.passwords[{i}].neighbor");
        if !neighbors.insert(n.neighbor) {
            return error(p, field, &n.neighbor, "is given twice");
        }
        if n.neighbor == p.loopback {
            return error(p, field, &n.neighbor, "is the platform's own loopback; must be the neighbour's LSR identifier");
        }
    }
    Ok(())
}
