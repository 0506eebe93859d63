//! The values of path attributes, each with the severity that RFC 7606 §7 gives to its faults.

use super::{Context, fatal};
use crate::as_path::{AS_TRANS, AsPath};
use crate::attributes::{Aggregator, Attributes, Origin, UnknownAttribute, code, flag};
use crate::error::{Cause, DecodeError, Fatal, Fault, Severity};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

pub(super) const OVERRUN: Cause = Cause::Malformed("attribute runs past the end of the attributes");

/// One attribute as it stands.
#[derive(Clone, Copy)]
pub(super) struct Tlv<'a> {
    pub(super) flags: u8,
    pub(super) code: u8,
    pub(super) value: &'a [u8],
    /// Header and value.
    pub(super) whole: &'a [u8],
    /// Where the value starts in the message.
    pub(super) value_at: usize,
}

impl Tlv<'_> {
    pub(super) fn error(&self, cause: Cause) -> DecodeError {
        DecodeError { offset: self.value_at + self.value.len() - self.whole.len(), field: code::name(self.code), cause }
    }

    /// RFC 7606 §3 (c): Optional and Transitive must be as the type says.
    pub(super) fn flags_fault(&self) -> Option<Fault> {
        let want = match self.code {
            code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => flag::TRANSITIVE,
            code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::MP_REACH | code::MP_UNREACH | code::AIGP => flag::OPTIONAL,
            known if code::is_known(known) => flag::OPTIONAL | flag::TRANSITIVE,
            _ => return None,
        };
        let cause = Cause::Flags { got: self.flags };
        (self.flags & (flag::OPTIONAL | flag::TRANSITIVE) != want).then(|| match self.code {
            // RFC 7311 §3.2, RFC 8669 §6: malformed in any way, they are as if they were not there.
            code::AIGP | code::PREFIX_SID => self.discard(cause),
            _ => self.withdraw(cause),
        })
    }

    fn withdraw(&self, cause: Cause) -> Fault {
        Fault { severity: Severity::TreatAsWithdraw, error: self.error(cause) }
    }

    fn discard(&self, cause: Cause) -> Fault {
        Fault { severity: Severity::AttributeDiscard, error: self.error(cause) }
    }

    fn length(&self, want: &'static str) -> Cause {
        Cause::Length { got: self.value.len(), want }
    }

    fn four(&self) -> Result<[u8; 4], Cause> {
        <[u8; 4]>::try_from(self.value).map_err(|_| self.length("4"))
    }

    /// A list of entries of `N` bytes, at least one.
    fn list<const N: usize, T>(&self, want: &'static str, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Cause> {
        let entries = self.value.chunks_exact(N);
        if self.value.is_empty() || !entries.remainder().is_empty() {
            return Err(self.length(want));
        }
        Ok(entries.filter_map(|c| <[u8; N]>::try_from(c).ok()).map(read).collect())
    }
}

/// Attributes one after the other, until the end or the first whose length does not fit.
pub(super) struct Walk<'a> {
    rest: &'a [u8],
    at: usize,
    overrun: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { rest: bytes, at, overrun: false }
    }

    /// RFC 7606 §4: the attributes do not fill their length exactly.
    pub(super) fn overrun(&self) -> Option<Fault> {
        let error = DecodeError { offset: self.at, field: "path attributes", cause: OVERRUN };
        self.overrun.then_some(Fault { severity: Severity::TreatAsWithdraw, error })
    }

    fn cut(&self) -> Option<(Tlv<'a>, &'a [u8])> {
        let ([flags, code, len], rest) = self.rest.split_first_chunk::<3>()?;
        let (head, len, rest) = if flags & flag::EXTENDED == 0 {
            (3, usize::from(*len), rest)
        } else {
            let (low, rest) = rest.split_first()?;
            (4, usize::from(u16::from_be_bytes([*len, *low])), rest)
        };
        let (value, rest) = rest.split_at_checked(len)?;
        let whole = self.rest.get(..head + len)?;
        Some((Tlv { flags: *flags, code: *code, value, whole, value_at: self.at + head }, rest))
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        if self.rest.is_empty() || self.overrun {
            return None;
        }
        match self.cut() {
            Some((tlv, rest)) => {
                self.at += tlv.whole.len();
                self.rest = rest;
                Some(tlv)
            }
            None => {
                self.overrun = true;
                None
            }
        }
    }
}

/// All attributes but MP_*.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) attributes: Attributes,
    pub(super) next_hop: Option<Ipv4Addr>,
    /// A well-known mandatory attribute that did not appear.
    pub(super) missing: Option<&'static str>,
    pub(super) faults: Vec<Fault>,
}

/// What needs a second look when all attributes are known (RFC 6793 §4.2.3).
#[derive(Default)]
struct As4 {
    path: Option<AsPath>,
    aggregator: Option<Aggregator>,
}

pub(super) fn parse(walk: Walk<'_>, context: &Context) -> Result<Parsed, Fatal> {
    let mut parsed = Parsed::default();
    let mut as4 = As4::default();
    let mut seen = [0u64; 4];
    for tlv in walk {
        if matches!(tlv.code, code::MP_REACH | code::MP_UNREACH) {
            continue;
        }
        let (word, bit) = (&mut seen[usize::from(tlv.code >> 6)], 1u64 << (tlv.code & 63));
        // RFC 7606 §3 (g): the first counts.
        if *word & bit != 0 {
            parsed.faults.push(tlv.discard(Cause::Duplicate));
            continue;
        }
        *word |= bit;
        // RFC 6793 §4.1: a 4-octet speaker does not send these; if it does, they are not looked at.
        if context.four_octet_as && matches!(tlv.code, code::AS4_PATH | code::AS4_AGGREGATOR) {
            continue;
        }
        // RFC 4271 §6.3: unrecognized well-known attribute.
        if tlv.flags & flag::OPTIONAL == 0 && !code::is_known(tlv.code) {
            return Err(fatal(2, tlv.whole, tlv.error(Cause::Value(tlv.code.into()))));
        }
        let fault = tlv.flags_fault().map_or_else(|| value(&tlv, context, &mut parsed, &mut as4).err(), Some);
        parsed.faults.extend(fault);
    }
    let absent = |code: u8| seen[0] & (1 << code) == 0;
    // RFC 7606 §3 (d)
    parsed.missing = [code::ORIGIN, code::AS_PATH].into_iter().find(|c| absent(*c)).map(code::name);
    merge(&mut parsed.attributes, as4);
    // RFC 9234 §5
    parsed.attributes.only_to_customer = parsed.attributes.only_to_customer.or(context.only_to_customer);
    if let Some(first) = context.first_as.filter(|_| !context.ibgp && !absent(code::AS_PATH)) {
        // RFC 4271 §6.3: an external peer must stand first in the path.
        if parsed.attributes.as_path.first() != Some(first) {
            let error = DecodeError { offset: 0, field: "AS_PATH", cause: Cause::Malformed("does not start with the peer's AS") };
            parsed.faults.push(Fault { severity: Severity::TreatAsWithdraw, error });
        }
    }
    Ok(parsed)
}

/// RFC 6793 §4.2.3
fn merge(attributes: &mut Attributes, as4: As4) {
    let foreign = attributes.aggregator.is_some_and(|a| a.asn != u32::from(AS_TRANS));
    if as4.aggregator.is_some() && foreign {
        // An old speaker has aggregated since: both AS4 attributes are stale.
        return;
    }
    if let (Some(aggregator), Some(_)) = (as4.aggregator, attributes.aggregator) {
        attributes.aggregator = Some(aggregator);
    }
    if let Some(path) = as4.path {
        attributes.as_path = std::mem::take(&mut attributes.as_path).merge_as4(path);
    }
}

/// Reads one attribute into its place.
fn value(tlv: &Tlv, context: &Context, parsed: &mut Parsed, as4: &mut As4) -> Result<(), Fault> {
    let a = &mut parsed.attributes;
    let withdraw = |cause| tlv.withdraw(cause);
    let four = || tlv.four().map_err(withdraw);
    let internal_only = tlv.discard(Cause::Malformed("belongs to internal sessions only"));
    match tlv.code {
        // RFC 7606 §7.1
        code::ORIGIN => {
            a.origin = match tlv.value {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                [2] => Origin::Incomplete,
                [other] => return Err(withdraw(Cause::Value((*other).into()))),
                _ => return Err(withdraw(tlv.length("1"))),
            }
        }
        // RFC 7606 §7.2
        code::AS_PATH => a.as_path = AsPath::read(tlv.value, context.four_octet_as).map_err(withdraw)?,
        // RFC 7606 §7.3
        code::NEXT_HOP => {
            let address = Ipv4Addr::from(four()?);
            parsed.next_hop = Some(address);
            next_hop_fault("NEXT_HOP", tlv.value_at, address.into()).map_or(Ok(()), Err)?;
        }
        // RFC 7606 §7.4
        code::MED => a.med = Some(u32::from_be_bytes(four()?)),
        // RFC 7606 §7.5, §7.9, §7.10: from an external peer these are discarded unread.
        code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST if !context.ibgp => return Err(internal_only),
        code::LOCAL_PREF => a.local_pref = Some(u32::from_be_bytes(four()?)),
        code::ORIGINATOR_ID => a.originator_id = Some(Ipv4Addr::from(four()?)),
        code::CLUSTER_LIST => {
            a.cluster_list = tlv.list("a multiple of 4", |c: [u8; 4]| Ipv4Addr::from(c)).map_err(withdraw)?;
        }
        // RFC 7606 §7.6
        code::ATOMIC_AGGREGATE => {
            if !tlv.value.is_empty() {
                return Err(tlv.discard(tlv.length("0")));
            }
            a.atomic_aggregate = true;
        }
        // RFC 7606 §7.7
        code::AGGREGATOR => {
            let discard = || tlv.discard(tlv.length(if context.four_octet_as { "8, no AS 0" } else { "6, no AS 0" }));
            a.aggregator = Some(aggregator(tlv.value, context.four_octet_as).ok_or_else(discard)?);
        }
        // RFC 7606 §7.8
        code::COMMUNITY => a.communities = tlv.list("a multiple of 4", u32::from_be_bytes).map_err(withdraw)?,
        // RFC 7606 §7.14
        code::EXT_COMMUNITIES => a.ext_communities = tlv.list("a multiple of 8", |c: [u8; 8]| c).map_err(withdraw)?,
        // RFC 8092 §6
        code::LARGE_COMMUNITY => {
            let triple = |[a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]| {
                [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]), u32::from_be_bytes([i, j, k, l])]
            };
            a.large_communities = tlv.list("a multiple of 12", triple).map_err(withdraw)?;
            // RFC 8092 §3: one of each.
            let mut seen = BTreeSet::new();
            a.large_communities.retain(|c| seen.insert(*c));
        }
        // RFC 6793 §6: malformed ones are discarded.
        code::AS4_PATH => as4.path = Some(AsPath::read(tlv.value, true).map_err(|c| tlv.discard(c))?),
        code::AS4_AGGREGATOR => {
            as4.aggregator = Some(aggregator(tlv.value, true).ok_or_else(|| tlv.discard(tlv.length("8")))?);
        }
        // RFC 9234 §5
        code::ONLY_TO_CUSTOMER => a.only_to_customer = Some(u32::from_be_bytes(four()?)),
        // RFC 7311 §3.2
        code::AIGP if !tlvs(tlv.value, |head: [u8; 3]| usize::from(u16::from_be_bytes([head[1], head[2]])).checked_sub(3)) => {
            return Err(tlv.discard(Cause::Malformed("TLVs do not fill it")));
        }
        // RFC 7311 §3.1: no session of ours has it enabled, so it is ignored and not passed on.
        code::AIGP => {}
        // RFC 8669 §5: from outside of the segment routing domain it is discarded.
        code::PREFIX_SID if !context.ibgp => return Err(internal_only),
        code::PREFIX_SID => {
            if !tlvs(tlv.value, |head: [u8; 3]| Some(u16::from_be_bytes([head[1], head[2]]).into())) {
                // RFC 8669 §6
                return Err(tlv.discard(Cause::Malformed("TLVs do not fill it")));
            }
            a.unknown.push(opaque(tlv));
        }
        // What we do not act upon but PEs behind us may, is passed on, unless it is malformed: RFC 6514 §5,
        code::PMSI_TUNNEL if tlv.value.len() < 5 => return Err(withdraw(tlv.length("5 or more"))),
        // RFC 9012 §13,
        code::TUNNEL_ENCAPSULATION if !tlvs(tlv.value, |head: [u8; 4]| Some(u16::from_be_bytes([head[2], head[3]]).into())) => {
            return Err(withdraw(Cause::Malformed("TLVs do not fill it")));
        }
        // RFC 7606 §7.15,
        code::IPV6_EXT_COMMUNITIES if tlv.value.is_empty() || !tlv.value.len().is_multiple_of(20) => {
            return Err(withdraw(tlv.length("a multiple of 20")));
        }
        // RFC 7606 §7.16: an AS number, then whole attributes.
        code::ATTR_SET => match tlv.value.split_first_chunk::<4>() {
            Some((_, inner)) if walks_to_the_end(inner) => a.unknown.push(opaque(tlv)),
            _ => return Err(withdraw(Cause::Malformed("attributes do not fill it"))),
        },
        // RFC 4271 §5: passed on, marked as such when sent.
        _ if tlv.flags & flag::OPTIONAL != 0 && tlv.flags & flag::TRANSITIVE != 0 => a.unknown.push(opaque(tlv)),
        // RFC 4271 §9: not known and not transitive: ignored.
        _ => {}
    }
    Ok(())
}

fn opaque(tlv: &Tlv) -> UnknownAttribute {
    UnknownAttribute { code: tlv.code, value: tlv.value.to_vec() }
}

/// Whether TLVs with a head of `N` bytes, from which `length` tells the bytes that follow, fill the value. None is malformed, too.
fn tlvs<const N: usize>(value: &[u8], length: impl Fn([u8; N]) -> Option<usize>) -> bool {
    let mut rest = value;
    while !rest.is_empty() {
        let next = rest.split_first_chunk::<N>().and_then(|(head, tail)| tail.split_at_checked(length(*head)?));
        let Some((_, tail)) = next else { return false };
        rest = tail;
    }
    !value.is_empty()
}

fn walks_to_the_end(attributes: &[u8]) -> bool {
    let mut walk = Walk::new(attributes, 0);
    walk.by_ref().for_each(drop);
    walk.overrun().is_none()
}

/// `None` for a wrong length and, by RFC 7607 §2, for AS 0.
fn aggregator(value: &[u8], four_octet: bool) -> Option<Aggregator> {
    let (asn, address) = value.split_at_checked(if four_octet { 4 } else { 2 })?;
    let asn = asn.iter().fold(0, |asn, byte| asn << 8 | u32::from(*byte));
    if asn == 0 {
        return None;
    }
    Some(Aggregator { asn, address: Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?) })
}

/// RFC 4271 §6.3: it must be the address of a host. The routes are unusable, so they count as withdrawn.
pub(super) fn next_hop_fault(field: &'static str, offset: usize, address: IpAddr) -> Option<Fault> {
    let host = match address {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_loopback() && !a.is_multicast(),
    };
    let error = DecodeError { offset, field, cause: Cause::Malformed("not the address of a host") };
    (!host).then_some(Fault { severity: Severity::TreatAsWithdraw, error })
}
