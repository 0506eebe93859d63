//! Composing UPDATEs (RFC 4271 §4.3), filled with as many NLRI as fit one message.
//!
//! One UPDATE holds one kind of thing, and MP_REACH_NLRI and MP_UNREACH_NLRI stand first (RFC 7606 §5.1): whoever cannot
//! read an attribute of ours still finds the routes.

use crate::attributes::{Attributes, Origin, code, flag};
use crate::family::Family;
use crate::nlri::{self, MAX_NLRI, Nlri, NlriKey};
use crate::{HEADER_LEN, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, as_path::AS_TRANS, finish, start};
use std::net::{IpAddr, Ipv6Addr};

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
        // A longer value makes the attributes exceed any message: reach() refuses them.
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
    if let Some(asn) = a.only_to_customer {
        attribute(out, TRANSITIVE, code::ONLY_TO_CUSTOMER, |o| o.extend(asn.to_be_bytes()));
    }
    for u in &a.unknown {
        attribute(out, TRANSITIVE | flag::PARTIAL, u.code, |o| o.extend_from_slice(&u.value));
    }
}

/// Attributes encoded for one kind of peer, to be used for many UPDATEs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedAttributes {
    bytes: Vec<u8>,
    /// The longest message they may stand in.
    limit: usize,
}

impl EncodedAttributes {
    pub fn new(attributes: &Attributes, four_octet_as: bool) -> Self {
        let mut bytes = Vec::with_capacity(64);
        write_attributes(&mut bytes, attributes, four_octet_as);
        Self { bytes, limit: MAX_MESSAGE }
    }

    /// The peer takes messages of up to 65535 bytes (RFC 8654). They are used only for attributes that need them: all others
    /// stay fit for a peer's peers that do not.
    #[must_use]
    pub fn extended(mut self) -> Self {
        if self.bytes.len() > MAX_MESSAGE / 2 {
            self.limit = MAX_EXTENDED_MESSAGE;
        }
        self
    }
}

/// Where the routes of an UPDATE lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NextHop {
    pub address: IpAddr,
    /// Goes along with an IPv6 address to a peer on the same link (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
}

impl<T: Into<IpAddr>> From<T> for NextHop {
    fn from(address: T) -> Self {
        Self { address: address.into(), link_local: None }
    }
}

impl NextHop {
    /// The next hop field of MP_REACH_NLRI, its length in front; `None` if this family cannot have such a next hop.
    fn encode(&self, family: Family) -> Option<Vec<u8>> {
        let six = |a: Ipv6Addr| a.octets().to_vec();
        // RFC 4364 §4.3.2, RFC 4659 §3.2.1: addresses of the VPN's family with an RD of zero.
        let vpn = |a: &[u8]| [&[0; 8], a].concat();
        let bytes = match (family, self.address) {
            (Family::Ipv4Unicast | Family::RouteTarget, IpAddr::V4(a)) => a.octets().to_vec(),
            // RFC 8950 is not offered.
            (Family::Ipv4Unicast | Family::Vpnv4, IpAddr::V6(_)) | (Family::Ipv6Unicast, IpAddr::V4(_)) => return None,
            (Family::Ipv6Unicast, IpAddr::V6(a)) => [six(a), self.link_local.map(six).unwrap_or_default()].concat(),
            (Family::RouteTarget, IpAddr::V6(a)) => six(a),
            (Family::Vpnv4, IpAddr::V4(a)) => vpn(&a.octets()),
            // RFC 4659 §3.2.1.2: the core is IPv4.
            (Family::Vpnv6, IpAddr::V4(a)) => vpn(&a.to_ipv6_mapped().octets()),
            (Family::Vpnv6, IpAddr::V6(a)) => vpn(&a.octets()),
        };
        let len = u8::try_from(bytes.len()).ok()?;
        Some([&[len][..], &bytes].concat())
    }
}

/// Writes at `at` how many bytes stand from `from` on.
fn put_length(out: &mut [u8], at: usize, from: usize) {
    // Every length written here is bounded by that of the message.
    let bytes = u16::try_from(out.len() - from).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(slot) = out.get_mut(at..at + 2) {
        slot.copy_from_slice(&bytes);
    }
}

/// Opens an MP_* attribute up to its SAFI; [`put_length`] completes it at the place returned.
fn open_mp(out: &mut Vec<u8>, code: u8, family: Family) -> usize {
    let (afi, safi) = family.afi_safi();
    let [hi, lo] = afi.to_be_bytes();
    out.extend_from_slice(&[NON_TRANSITIVE | flag::EXTENDED, code, 0, 0, hi, lo, safi]);
    out.len() - 5
}

/// Appends one UPDATE announcing as many of `nlri` as fit, all of one family, and says how many that were;
/// the next entry of another family ends the message. 0 means that the attributes leave no room for any, or that the next
/// hop is none for the family: such a route cannot be advertised (RFC 4271 §9.2), and nothing is appended.
pub fn reach(out: &mut Vec<u8>, attributes: &EncodedAttributes, next_hop: impl Into<NextHop>, nlri: &[Nlri]) -> usize {
    let Some(family) = nlri.first().map(Nlri::family) else { return 0 };
    let next_hop = next_hop.into();
    let Some(encoded_next_hop) = next_hop.encode(family) else { return 0 };
    let base = out.len();
    start(out, MessageType::Update);
    out.extend_from_slice(&[0, 0, 0, 0]);
    let attributes_at = out.len();
    // What still comes behind the NLRI.
    let mut behind = 0;
    let mut mp_at = None;
    if let (Family::Ipv4Unicast, IpAddr::V4(address)) = (family, next_hop.address) {
        out.extend_from_slice(&attributes.bytes);
        attribute(out, WELL_KNOWN, code::NEXT_HOP, |o| o.extend(address.octets()));
        put_length(out, attributes_at - 2, attributes_at);
    } else {
        behind = attributes.bytes.len();
        mp_at = Some(open_mp(out, code::MP_REACH, family));
        out.extend_from_slice(&encoded_next_hop);
        out.push(0);
    }
    let mut taken = 0;
    for n in nlri.iter().take_while(|n| n.family() == family) {
        if out.len() - base + behind + MAX_NLRI > attributes.limit {
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
        put_length(out, at, at + 2);
        out.extend_from_slice(&attributes.bytes);
        put_length(out, attributes_at - 2, attributes_at);
    }
    finish(out, base);
    taken
}

/// Appends one UPDATE withdrawing as many of `keys` as fit, all of one family, and says how many.
pub fn unreach(out: &mut Vec<u8>, keys: &[NlriKey]) -> usize {
    let Some(family) = keys.first().map(NlriKey::family) else { return 0 };
    let base = out.len();
    let open = open_withdrawal(out, family);
    let mut taken = 0;
    for key in keys.iter().take_while(|k| k.family() == family) {
        // Two bytes are still to come for IPv4: the attributes' length.
        if out.len() - base + 2 + MAX_NLRI > MAX_MESSAGE {
            break;
        }
        nlri::write_key(out, key);
        taken += 1;
    }
    close_withdrawal(out, base, open);
    taken
}

/// Appends the End-of-RIB marker of a family (RFC 4724 §2).
pub fn end_of_rib(out: &mut Vec<u8>, family: Family) {
    let base = out.len();
    let open = open_withdrawal(out, family);
    close_withdrawal(out, base, open);
}

/// Appends an UPDATE up to the withdrawn NLRI; gives the place of MP_UNREACH_NLRI's length, if there is one.
fn open_withdrawal(out: &mut Vec<u8>, family: Family) -> Option<usize> {
    start(out, MessageType::Update);
    out.extend_from_slice(&[0, 0]);
    if family == Family::Ipv4Unicast {
        return None;
    }
    out.extend_from_slice(&[0, 0]);
    Some(open_mp(out, code::MP_UNREACH, family))
}

fn close_withdrawal(out: &mut Vec<u8>, base: usize, mp_at: Option<usize>) {
    let body = base + HEADER_LEN;
    match mp_at {
        Some(at) => {
            put_length(out, at, at + 2);
            put_length(out, body + 2, body + 4);
        }
        None => {
            put_length(out, body, body + 2);
            out.extend_from_slice(&[0, 0]);
        }
    }
    finish(out, base);
}
