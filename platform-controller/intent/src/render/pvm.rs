//! What a PVM is told.

use super::{Keys, RELAY_ENDPOINT, VERSION, core_mtu, pe_mac};
use crate::{Attachment, Bgp, Customer, MaxPrefix, Platform, Rule};
use edgeplex_mgmt::config::{self as mgmt, CustomerBgp, Instance, PolicyMatch, PolicyRule, PolicySet, PvmConfig, RelayClient};
use edgeplex_types::AttachmentId;

/// RFC 4271 §10 suggests it.
const HOLD_TIME_S: u16 = 90;

pub fn pvm_config(
    p: &Platform,
    c: &Customer,
    id: &AttachmentId,
    a: &Attachment,
    cvm_public_key: &str,
    keys: &Keys,
    instance: Instance,
) -> PvmConfig {
    let route = |r: &crate::StaticRoute| mgmt::StaticRoute { prefix: r.prefix, via: r.via, bfd: r.bfd.map(Into::into) };
    PvmConfig {
        version: VERSION,
        attachment: id.clone(),
        // Every PE has one.
        asn: p.asn.unwrap_or(0),
        router_id: p.loopback,
        mac: pe_mac(p, id),
        addresses: a.addresses().collect(),
        customer_mtu: a.mtu,
        core_mtu: core_mtu(p),
        bgp: a.bgp.iter().map(customer_bgp).collect(),
        static_routes: a.static_routes.iter().map(route).collect(),
        max_paths: c.max_paths_of(a),
        relay: RelayClient {
            endpoint: RELAY_ENDPOINT.into(),
            server_key: cvm_public_key.to_owned(),
            public_key: keys.public.clone(),
            secret_key: keys.secret.clone(),
        },
        instance,
    }
}

fn customer_bgp(b: &Bgp) -> CustomerBgp {
    let max_prefix =
        |m: MaxPrefix| mgmt::MaxPrefix { limit: m.limit, warn_percent: m.warn, warning_only: m.warning_only, restart_s: m.restart };
    CustomerBgp {
        neighbor: b.neighbor,
        remote_as: b.remote_as,
        password: b.password.clone(),
        max_prefix: b.max_prefix.map(max_prefix),
        hold_time_s: b.hold_time.unwrap_or(HOLD_TIME_S),
        shutdown: b.shutdown.clone(),
        ttl_security_hops: b.ttl_security,
        role: b.role,
        bfd: b.bfd.map(Into::into),
        as_override: b.as_override,
        allow_as_in: b.allow_as_in,
        remove_private_as: b.remove_private_as,
        site_of_origin: b.site_of_origin,
        default_originate: b.default_originate,
        import: b.import.iter().map(rule).collect(),
        export: b.export.iter().map(rule).collect(),
    }
}

fn rule(r: &Rule) -> PolicyRule {
    PolicyRule {
        r#match: PolicyMatch {
            prefixes: r.matches.prefixes.clone(),
            communities: r.matches.communities.clone(),
            large_communities: r.matches.large_communities.clone(),
            as_path: r.matches.as_path.clone(),
        },
        set: PolicySet {
            local_pref: r.set.local_pref,
            med: r.set.med,
            add_communities: r.set.add_communities.clone(),
            remove_communities: r.set.remove_communities.clone(),
            add_large_communities: r.set.add_large_communities.clone(),
            prepend: r.set.prepend,
        },
        action: r.action,
    }
}
