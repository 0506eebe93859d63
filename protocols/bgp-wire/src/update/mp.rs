//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3, §4): families, next hops, NLRI.

use super::values::{self, Tlv};
use super::{Announced, Context, Update, fatal};
use crate::error::{Cause, Fatal, Fault, Severity};
use crate::nlri::{self, Nlri, NlriKey, Reach, Run, Unreach};
use crate::{DecodeError, Family};
use edgeplex_types::Label;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What both attributes have in common: the family, if agreed on, and the rest.
fn family<'a>(context: &Context, tlv: &Tlv<'a>) -> Result<(Option<Family>, usize, &'a [u8]), Fatal> {
    let Some(([hi, lo, safi], rest)) = tlv.value.split_first_chunk::<3>() else {
        // RFC 7606 §5.3: the family cannot even be told.
        let cause = Cause::Length { got: tlv.value.len(), want: "3 or more" };
        return Err(fatal(9, tlv.whole, tlv.error(cause)));
    };
    let family = Family::from_afi_safi(u16::from_be_bytes([*hi, *lo]), *safi).filter(|f| context.families.contains(*f));
    Ok((family, tlv.value_at + 3, rest))
}

/// `alone`: nothing else stands in the UPDATE, so that an empty attribute is End-of-RIB.
pub(super) fn read_unreach(context: &Context, tlv: &Tlv, alone: bool, update: &mut Update) -> Result<(), Fatal> {
    let (family, offset, bytes) = family(context, tlv)?;
    // RFC 4760 §7 leaves families that were not agreed on aside.
    let Some(family) = family else { return Ok(()) };
    if bytes.is_empty() && alone {
        update.end_of_rib = Some(family);
    }
    let run = Run { field: "MP_UNREACH_NLRI", family, add_path: context.add_path.contains(family), bytes, offset };
    if let Err(error) = nlri::read(run, |e| update.unreach.push(Unreach { path_id: e.path_id, key: e.key })) {
        // RFC 7606 §5.3
        update.faults.push(Fault { severity: Severity::AfiSafiDisable(family), error });
    }
    Ok(())
}

pub(super) fn read_reach(context: &Context, tlv: &Tlv, update: &mut Update) -> Result<Option<Announced>, Fatal> {
    let (family, at, bytes) = family(context, tlv)?;
    let Some(family) = family else { return Ok(None) };
    let disable = |error| Fault { severity: Severity::AfiSafiDisable(family), error };
    let field = "MP_REACH_NLRI";
    // Length, next hop, one reserved byte.
    let cut = bytes.split_first().and_then(|(len, rest)| rest.split_at_checked(usize::from(*len)));
    let found = cut.and_then(|(hop, rest)| Some((read_next_hop(family, hop)?, rest.split_first()?.1)));
    let Some((next_hop, rest)) = found else {
        // RFC 7606 §7.11
        update.faults.push(disable(tlv.error(Cause::Malformed("next hop length does not fit the family"))));
        return Ok(None);
    };
    update.faults.extend(values::next_hop_fault(field, at + 1, next_hop));
    let offset = at + bytes.len() - rest.len();
    let mut reach = Vec::with_capacity(rest.len() / if family.is_vpn() { 14 } else { 4 });
    let mut stack = false;
    let run = Run { field, family, add_path: context.add_path.contains(family), bytes: rest, offset };
    let read = nlri::read(run, |e| {
        let nlri = match e.key {
            NlriKey::Unicast(prefix) => Nlri::Unicast(prefix),
            NlriKey::Vpn { rd, prefix } => {
                stack |= e.label.is_none();
                Nlri::Vpn { rd, prefix, label: e.label.unwrap_or(Label::IMPLICIT_NULL) }
            }
            NlriKey::RouteTarget(membership) => Nlri::RouteTarget(membership),
        };
        reach.push(Reach { path_id: e.path_id, nlri });
    });
    if stack {
        // Several labels were not agreed on (RFC 8277 §2.1); the routes can be named but not used.
        let error = DecodeError { offset, field, cause: Cause::Malformed("a stack of labels") };
        update.faults.push(Fault { severity: Severity::TreatAsWithdraw, error });
    }
    update.faults.extend(read.err().map(disable));
    Ok(Some(Announced { next_hop, reach }))
}

/// `None`: no next hop of this family is so long.
fn read_next_hop(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    let four = |b: &[u8]| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(b).ok()?)));
    let six = |b: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(b).ok()?));
    // The RD before a VPN's next hop is zero; whatever it is, it says nothing (RFC 4364 §4.3.2).
    let (hop, other) = match (family, bytes.len()) {
        // RFC 8950 next hops are not offered.
        (Family::Ipv4Unicast, 4) | (Family::RouteTarget, 4) => return four(bytes),
        (Family::Vpnv4, 12) => return four(bytes.get(8..)?),
        (Family::RouteTarget | Family::Ipv6Unicast, 16) => (six(bytes)?, None),
        // RFC 2545 §3: a global address, and one of the link.
        (Family::Ipv6Unicast, 32) => (six(bytes.get(..16)?)?, six(bytes.get(16..)?)),
        (Family::Vpnv6, 24) => (six(bytes.get(8..)?)?, None),
        // RFC 4659 §3.2.1.1
        (Family::Vpnv6, 48) => (six(bytes.get(8..24)?)?, six(bytes.get(32..)?)),
        _ => return None,
    };
    // Some send :: for the global address they do not have.
    let hop = if hop.is_unspecified() { other.unwrap_or(hop) } else { hop };
    // RFC 4659 §3.2.1.2
    let mapped = hop.to_ipv4_mapped().filter(|_| family == Family::Vpnv6);
    Some(mapped.map_or(hop.into(), IpAddr::from))
}
