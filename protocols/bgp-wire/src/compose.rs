//! Composing UPDATEs (RFC 4271 §4.3), filled with as many NLRI as fit one message.

use crate::attributes::{Attributes, Origin, code, flag};
use crate::nlri::{self, Family, MAX_NLRI, Nlri, NlriKey};
use crate::{HEADER_LEN, MAX_MESSAGE, MessageType, as_path::AS_TRANS, finish, start};
use std::net::Ipv4Addr;

const WELL_KNOWN: u8 = flag::TRANSITIVE;
const TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
const NON_TRANSITIVE: u8 = flag::OPTIONAL;

/// Appends one attribute whose value `write` appends; the length takes two bytes if it must.
fn attribute(out: &mut Vec<u8>, flags: u8, code: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[flags, code, 0]);
    write(out);
    let len = out.len() - at - 3;
    if let Ok(short) = u8::try_from(len) {
        out[at + 2] = short;
    } else {
        out[at] |= flag::EXTENDED;
        // A value of ours never nears 64 KiB: compose() refuses what exceeds a message of 4096 bytes.
        let [hi, lo] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        out[at + 2] = hi;
        out.insert(at + 3, lo);
    }
}

/// Appends all attributes but NEXT_HOP and MP_*, in ascending order of type.
pub(crate) fn write_attributes(out: &mut Vec<u8>, a: &Attributes, four_octet_as: bool) {
    let origin = match a.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    attribute(out, WELL_KNOWN, code::ORIGIN, |o| o.push(origin));
    attribute(out, WELL_KNOWN, code::AS_PATH, |o| a.as_path.write(o, four_octet_as));
    if let Some(med) = a.med {
        attribute(out, NON_TRANSITIVE, code::MED, |o| o.extend(med.to_be_bytes()));
    }
    if let Some(pref) = a.local_pref {
        attribute(out, WELL_KNOWN, code::LOCAL_PREF, |o| o.extend(pref.to_be_bytes()));
    }
    if a.atomic_aggregate {
        attribute(out, WELL_KNOWN, code::ATOMIC_AGGREGATE, |_| {});
    }
    if let Some(g) = a.aggregator {
        attribute(out, TRANSITIVE, code::AGGREGATOR, |o| {
            if four_octet_as {
                o.extend(g.asn.to_be_bytes());
            } else {
                o.extend(u16::try_from(g.asn).unwrap_or(AS_TRANS).to_be_bytes());
            }
            o.extend(g.address.octets());
        });
    }
    if !a.communities.is_empty() {
        attribute(out, TRANSITIVE, code::COMMUNITY, |o| a.communities.iter().for_each(|c| o.extend(c.to_be_bytes())));
    }
    if let Some(id) = a.originator_id {
        attribute(out, NON_TRANSITIVE, code::ORIGINATOR_ID, |o| o.extend(id.octets()));
    }
    if !a.cluster_list.is_empty() {
        attribute(out, NON_TRANSITIVE, code::CLUSTER_LIST, |o| a.cluster_list.iter().for_each(|c| o.extend(c.octets())));
    }
    if !a.ext_communities.is_empty() {
        attribute(out, TRANSITIVE, code::EXT_COMMUNITIES, |o| a.ext_communities.iter().for_each(|c| o.extend(c)));
    }
    if !four_octet_as {
        // RFC 6793 §4.2.2
        if a.as_path.needs_four_octets() {
            attribute(out, TRANSITIVE, code::AS4_PATH, |o| a.as_path.write(o, true));
        }
        if let Some(g) = a.aggregator.filter(|g| g.asn > u32::from(u16::MAX)) {
            attribute(out, TRANSITIVE, code::AS4_AGGREGATOR, |o| {
                o.extend(g.asn.to_be_bytes());
                o.extend(g.address.octets());
            });
        }
    }
    if !a.large_communities.is_empty() {
        attribute(out, TRANSITIVE, code::LARGE_COMMUNITY, |o| {
            a.large_communities.iter().flatten().for_each(|c| o.extend(c.to_be_bytes()));
        });
    }
    for u in &a.unknown {
        attribute(out, TRANSITIVE | flag::PARTIAL, u.code, |o| o.extend_from_slice(&u.value));
    }
}

/// Attributes encoded for one kind of peer, to be used for many UPDATEs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedAttributes(Vec<u8>);

impl EncodedAttributes {
    pub fn new(attributes: &Attributes, four_octet_as: bool) -> Self {
        let mut out = Vec::with_capacity(64);
        write_attributes(&mut out, attributes, four_octet_as);
        Self(out)
    }
}

/// Room that must stay below the largest message once the attributes stand: any one NLRI.
const LIMIT: usize = MAX_MESSAGE - MAX_NLRI;

/// Writes at `at` how many bytes stand from `from` on.
fn put_length(out: &mut [u8], at: usize, from: usize) {
    // Every length written here is bounded by MAX_MESSAGE, or the message is dropped.
    let bytes = u16::try_from(out.len() - from).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(slot) = out.get_mut(at..at + 2) {
        slot.copy_from_slice(&bytes);
    }
}

/// Appends one UPDATE announcing as many of `nlri` as fit, all of one family, and says how many that were;
/// the next entry of another family ends the message. 0 means that the attributes leave no room for any:
/// such a route cannot be advertised (RFC 4271 §9.2), and nothing is appended.
pub fn reach(out: &mut Vec<u8>, attributes: &EncodedAttributes, next_hop: Ipv4Addr, nlri: &[Nlri]) -> usize {
    let Some(family) = nlri.first().map(Nlri::family) else { return 0 };
    let base = out.len();
    start(out, MessageType::Update);
    out.extend_from_slice(&[0, 0, 0, 0]);
    let attributes_at = base + HEADER_LEN + 4;
    let mut mp_at = None;
    match family {
        Family::Ipv4Unicast => {
            out.extend_from_slice(&attributes.0);
            attribute(out, WELL_KNOWN, code::NEXT_HOP, |o| o.extend(next_hop.octets()));
            put_length(out, attributes_at - 2, attributes_at);
        }
        Family::Vpnv4 => {
            out.extend_from_slice(&attributes.0);
            mp_at = Some(out.len());
            let (afi, safi) = family.afi_safi();
            out.extend_from_slice(&[NON_TRANSITIVE | flag::EXTENDED, code::MP_REACH, 0, 0]);
            out.extend_from_slice(&afi.to_be_bytes());
            // RFC 4364 §4.3.2: the next hop is a VPN-IPv4 address with an RD of zero.
            out.extend_from_slice(&[safi, 12, 0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&next_hop.octets());
            out.push(0);
        }
    }
    let mut taken = 0;
    for n in nlri.iter().take_while(|n| n.family() == family) {
        if out.len() - base > LIMIT {
            break;
        }
        nlri::write(out, n);
        taken += 1;
    }
    if taken == 0 {
        out.truncate(base);
        return 0;
    }
    if let Some(at) = mp_at {
        put_length(out, at + 2, at + 4);
        put_length(out, attributes_at - 2, attributes_at);
    }
    finish(out, base);
    taken
}

/// Appends one UPDATE withdrawing as many of `keys` as fit, all of one family, and says how many.
pub fn unreach(out: &mut Vec<u8>, keys: &[NlriKey]) -> usize {
    let Some(family) = keys.first().map(NlriKey::family) else { return 0 };
    let base = out.len();
    start(out, MessageType::Update);
    let body = out.len();
    let nlri_at = match family {
        Family::Ipv4Unicast => {
            out.extend_from_slice(&[0, 0]);
            body + 2
        }
        Family::Vpnv4 => {
            open_mp_unreach(out, family);
            out.len()
        }
    };
    let mut taken = 0;
    for key in keys.iter().take_while(|k| k.family() == family) {
        // Two bytes are still to come for IPv4: the attributes' length.
        if out.len() - base + 2 > LIMIT {
            break;
        }
        nlri::write_key(out, key);
        taken += 1;
    }
    match family {
        Family::Ipv4Unicast => {
            put_length(out, body, nlri_at);
            out.extend_from_slice(&[0, 0]);
        }
        Family::Vpnv4 => close_mp_unreach(out, body),
    }
    finish(out, base);
    taken
}

/// Appends no withdrawn routes, and an MP_UNREACH_NLRI still without NLRI.
fn open_mp_unreach(out: &mut Vec<u8>, family: Family) {
    let (afi, safi) = family.afi_safi();
    let [hi, lo] = afi.to_be_bytes();
    out.extend_from_slice(&[0, 0, 0, 0, NON_TRANSITIVE | flag::EXTENDED, code::MP_UNREACH, 0, 0, hi, lo, safi]);
}

fn close_mp_unreach(out: &mut [u8], body: usize) {
    put_length(out, body + 2, body + 4);
    put_length(out, body + 6, body + 8);
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn end_of_rib(out: &mut Vec<u8>, family: Family) {
    let base = out.len();
    start(out, MessageType::Update);
    let body = out.len();
    match family {
        Family::Ipv4Unicast => out.extend_from_slice(&[0, 0, 0, 0]),
        Family::Vpnv4 => {
            open_mp_unreach(out, family);
            close_mp_unreach(out, body);
        }
    }
    finish(out, base);
}
