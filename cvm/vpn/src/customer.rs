//! What a customer may say about its routes. Everything here comes from a PVM and is taken for hostile.

use crate::rib;
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::MAX_ATTRIBUTES;
use edgeplex_types::RouteTarget;
use std::collections::BTreeSet;

/// Routes of one attachment, at most.
pub const MAX_ROUTES: usize = 1_000_000;
/// Path attributes of all routes of one attachment, at most, bytes.
pub const MAX_ATTRIBUTE_BYTES: usize = 256 << 20;

/// Local preference of what we export.
const LOCAL_PREF: u32 = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    #[error("attributes: {0}")]
    Attributes(String),
    #[error("attributes of {0} bytes with the route targets: at most {MAX_ATTRIBUTES} fit an UPDATE")]
    TooLong(usize),
    #[error("the AS path holds the provider's AS {0} too often: a loop")]
    Loop(u32),
    #[error("more than the {0} routes this attachment may export")]
    Limit(u32),
    #[error("more than {MAX_ROUTES} routes or {MAX_ATTRIBUTE_BYTES} bytes of attributes")]
    Full,
}

/// Attributes that mean something to the provider's core and must not come from a customer: PMSI tunnel (RFC 6514),
/// tunnel encapsulation (RFC 9012 §11), IPv6 extended communities with their route targets (RFC 5701), BGP-LS
/// (RFC 9552), prefix SID (RFC 8669 §5) and ATTR_SET (RFC 6368).
const CORE_ONLY: [u8; 6] = [22, 23, 25, 29, 40, 128];

/// The part of a customer's attributes that the VPN carries for it.
pub(crate) fn sanitize(asn: u32, bytes: &[u8]) -> Result<Attributes, ExportError> {
    let mut a = Attributes::from_bytes(bytes).map_err(|e| ExportError::Attributes(e.to_string()))?;
    if rib::loops(&a, asn) {
        return Err(ExportError::Loop(asn));
    }
    // RFC 4271 §5.1.5: the provider's policy, which the PVM applies, may have set one; the PVM takes off what a CE sends. It weighs
    // within the customer's own VPNs alone.
    a.local_pref = a.local_pref.or(Some(LOCAL_PREF));
    // RFC 4456 §8: these are the provider's to set.
    a.originator_id = None;
    a.cluster_list.clear();
    // RFC 4364 §4.3.1: which VPNs a route belongs to is the provider's word alone.
    a.ext_communities.retain(|c| !is_route_target(*c) && is_transitive(*c));
    a.unknown.retain(|u| !CORE_ONLY.contains(&u.code));
    Ok(a)
}

/// RFC 4360 §4: two-octet AS, IPv4 and four-octet AS specific, in either transitivity, subtype 2.
fn is_route_target(c: [u8; 8]) -> bool {
    c[0] & 0x3f <= 2 && c[1] == 2
}

/// RFC 4360 §2: bit T clear.
fn is_transitive(c: [u8; 8]) -> bool {
    c[0] & 0x40 == 0
}

/// The attributes as advertised: with the route targets of the attachment (RFC 4364 §4.3.1).
pub(crate) fn export(customer: &Attributes, targets: &BTreeSet<RouteTarget>) -> Result<Attributes, ExportError> {
    let mut a = customer.clone();
    a.ext_communities.extend(targets.iter().map(|t| t.0));
    let length = a.to_bytes().len();
    if length > MAX_ATTRIBUTES { Err(ExportError::TooLong(length)) } else { Ok(a) }
}

#[cfg(test)]
#[path = "customer_tests.rs"]
mod tests;
