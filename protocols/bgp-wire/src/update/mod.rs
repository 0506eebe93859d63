//! Reading UPDATEs (RFC 4271 §4.3, §6.3) with the error handling of RFC 7606.
//!
//! A message is walked once to find its parts. The attributes without MP_* are then looked up by their raw bytes;
//! only a set not met lately is parsed. So a table whose routes share attributes costs little more than its NLRI.

mod values;

use crate::attributes::{Attributes, code};
use crate::error::{Cause, DecodeError, Fatal, Fault, Severity};
use crate::nlri::{self, Family, FamilySet, Nlri, NlriKey};
use crate::{Code, HEADER_LEN, Notification};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use values::{Parsed, Tlv, Walk};

/// What the session agreed on, as far as it matters for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub four_octet_as: bool,
    pub ibgp: bool,
    /// AS the path of an eBGP route must start with (RFC 4271 §6.3), unless `None`.
    pub first_as: Option<u32>,
    pub families: FamilySet,
}

/// Routes of one family announced with one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub next_hop: IpAddr,
    pub nlri: Vec<Nlri>,
}

/// What an UPDATE says once RFC 7606 has been applied: routes treated as withdrawn stand in `unreach`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// There if `reach` is not empty.
    pub attributes: Option<Arc<Attributes>>,
    /// At most two: the NLRI field and MP_REACH_NLRI.
    pub reach: Vec<Reach>,
    pub unreach: Vec<NlriKey>,
    pub end_of_rib: Option<Family>,
    /// Attributes discarded, the reason of a treat-as-withdraw, families that cannot be read further.
    pub faults: Vec<Fault>,
}

/// Attribute sets remembered by one [`Decoder`], at most, and the bytes of their encodings.
const MAX_INTERNED: usize = 1 << 16;
const MAX_INTERNED_BYTES: usize = 4 << 20;

/// What the raw bytes of attributes without MP_* mean: the set, and NEXT_HOP.
type Interned = (Arc<Attributes>, Option<Ipv4Addr>);

/// Reads the UPDATEs of one session.
#[derive(Debug)]
pub struct Decoder {
    context: Context,
    interned: HashMap<Box<[u8]>, Interned>,
    interned_bytes: usize,
    scratch: Vec<u8>,
}

/// Reads one UPDATE by itself. See [`Decoder::decode`].
pub fn decode(context: Context, body: &[u8]) -> Result<Update, Fatal> {
    Decoder::new(context).decode(body)
}

/// The parts of an UPDATE, each with its offset in the message.
struct Parts<'a> {
    withdrawn: (usize, &'a [u8]),
    attributes: (usize, &'a [u8]),
    nlri: (usize, &'a [u8]),
}

/// RFC 4271 §6.3, RFC 7606 §4: if the two lengths do not fit the message, nothing in it can be trusted.
fn split(body: &[u8]) -> Result<Parts<'_>, Fatal> {
    let cut = |at: usize, field| {
        let rest = body.get(at..).unwrap_or_default();
        let inner = rest.split_first_chunk::<2>().and_then(|(len, rest)| rest.split_at_checked(u16::from_be_bytes(*len).into()));
        inner.ok_or_else(|| fatal(1, &[], DecodeError { offset: HEADER_LEN + at, field, cause: Cause::Malformed("runs past the end") }))
    };
    let (withdrawn, rest) = cut(0, "withdrawn routes length")?;
    let at = body.len() - rest.len();
    let (attributes, nlri) = cut(at, "total path attribute length")?;
    Ok(Parts {
        withdrawn: (HEADER_LEN + 2, withdrawn),
        attributes: (HEADER_LEN + at + 2, attributes),
        nlri: (HEADER_LEN + body.len() - nlri.len(), nlri),
    })
}

fn fatal(subcode: u8, data: &[u8], error: DecodeError) -> Fatal {
    Fatal { notification: Notification::new(Code::Update, subcode, data), error }
}

/// What MP_REACH_NLRI and MP_UNREACH_NLRI have in common: the family, if agreed on, and the rest.
fn mp_family<'a>(context: &Context, tlv: &Tlv<'a>) -> Result<(Option<Family>, usize, &'a [u8]), Fatal> {
    let Some(([hi, lo, safi], rest)) = tlv.value.split_first_chunk::<3>() else {
        // RFC 7606 §5.3: the family cannot even be told.
        let cause = Cause::Length { got: tlv.value.len(), want: "3 or more" };
        return Err(fatal(9, tlv.whole, tlv.error(cause)));
    };
    let family = Family::from_afi_safi(u16::from_be_bytes([*hi, *lo]), *safi).filter(|f| context.families.contains(*f));
    Ok((family, tlv.value_at + 3, rest))
}

impl Decoder {
    pub fn new(context: Context) -> Self {
        Self { context, interned: HashMap::new(), interned_bytes: 0, scratch: Vec::new() }
    }

    /// Reads the bytes behind the header. `Err` ends the session; what is milder stands in [`Update::faults`].
    pub fn decode(&mut self, body: &[u8]) -> Result<Update, Fatal> {
        let parts = split(body)?;
        let mut update = Update::default();
        let ipv4 = self.context.families.contains(Family::Ipv4Unicast);

        let (at, bytes) = parts.withdrawn;
        // RFC 7606 §5.3: the field cannot be parsed, so no milder way is left. Data as RFC 4271 §6.3 has it.
        nlri::read_ipv4("withdrawn routes", bytes, at, |p| update.unreach.push(NlriKey::Ipv4(p))).map_err(|e| fatal(10, &[], e))?;
        if !ipv4 {
            update.unreach.clear();
        }

        // First walk: where everything is.
        let (attributes_at, attributes) = parts.attributes;
        let mut walk = Walk::new(attributes, attributes_at);
        let (mut mp_reach, mut mp_unreach, mut others) = (None, None, false);
        self.scratch.clear();
        for tlv in walk.by_ref() {
            let slot = match tlv.code {
                code::MP_REACH => &mut mp_reach,
                code::MP_UNREACH => &mut mp_unreach,
                _ => {
                    others = true;
                    self.scratch.extend_from_slice(tlv.whole);
                    continue;
                }
            };
            // RFC 7606 §3 (g)
            if slot.is_some() {
                return Err(fatal(1, &[], tlv.error(Cause::Duplicate)));
            }
            // RFC 7606 §3 (c)
            update.faults.extend(tlv.flags_fault());
            *slot = Some(tlv);
        }
        update.faults.extend(walk.overrun());
        let empty = bytes.is_empty() && parts.nlri.1.is_empty() && !others && mp_reach.is_none();

        if let Some(tlv) = &mp_unreach {
            self.read_mp_unreach(tlv, empty, &mut update)?;
        } else if empty && attributes.is_empty() && ipv4 {
            // RFC 4724 §2
            update.end_of_rib = Some(Family::Ipv4Unicast);
        }
        let mp = match &mp_reach {
            Some(tlv) => self.read_mp_reach(tlv, &mut update)?,
            None => None,
        };
        let (at, bytes) = parts.nlri;
        let mut body_nlri = Vec::with_capacity(bytes.len() / 4);
        nlri::read_ipv4("NLRI", bytes, at, |p| body_nlri.push(Nlri::Ipv4(p))).map_err(|e| fatal(10, &[], e))?;
        let reachable = !body_nlri.is_empty() || mp_reach.is_some();
        if !ipv4 {
            body_nlri.clear();
        }
        if !others && !reachable {
            return self.settle(update, false, reachable);
        }

        // Second walk, only for attributes not met lately.
        let known = self.interned.get(self.scratch.as_slice()).cloned();
        let (set, next_hop) = match known {
            Some(known) => known,
            None => {
                let parsed = values::parse(Walk::new(attributes, attributes_at), &self.context)?;
                let clean = parsed.faults.is_empty() && parsed.missing.is_none();
                if let Some(name) = parsed.missing.filter(|_| reachable) {
                    update.faults.push(missing(name, attributes_at));
                }
                let Parsed { attributes, next_hop, faults, .. } = parsed;
                update.faults.extend(faults);
                let set = Arc::new(attributes);
                if clean {
                    self.intern(&set, next_hop);
                }
                (set, next_hop)
            }
        };
        if !body_nlri.is_empty() {
            // RFC 7606 §3 (d)
            if next_hop.is_none() {
                update.faults.push(missing("NEXT_HOP", attributes_at));
            }
            let next_hop = next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED).into();
            update.reach.push(Reach { next_hop, nlri: body_nlri });
        }
        if let Some((next_hop, nlri)) = mp.filter(|(_, nlri)| !nlri.is_empty()) {
            update.reach.push(Reach { next_hop: next_hop.into(), nlri });
        }
        update.attributes = Some(set);
        self.settle(update, others || mp_reach.is_some(), reachable)
    }

    /// Applies the severest fault to the whole UPDATE.
    fn settle(&self, mut update: Update, attributes: bool, reachable: bool) -> Result<Update, Fatal> {
        let withdraw = update.faults.iter().find(|f| f.severity.rank() >= Severity::TreatAsWithdraw.rank());
        if let Some(fault) = withdraw {
            // RFC 7606 §5.2: no reachable NLRI was found beside attributes that are wrong, so perhaps it was missed.
            if !reachable && (attributes || fault.error.cause == values::OVERRUN) {
                return Err(fatal(1, &[], fault.error));
            }
            let reach = std::mem::take(&mut update.reach);
            update.unreach.extend(reach.iter().flat_map(|r| &r.nlri).map(Nlri::key));
        }
        if update.reach.is_empty() {
            update.attributes = None;
        }
        Ok(update)
    }

    fn read_mp_unreach(&self, tlv: &Tlv, alone: bool, update: &mut Update) -> Result<(), Fatal> {
        let (family, at, bytes) = mp_family(&self.context, tlv)?;
        // RFC 4760 §7 leaves families that were not agreed on aside.
        let Some(family) = family else { return Ok(()) };
        if bytes.is_empty() && alone {
            update.end_of_rib = Some(family);
        }
        let unreach = &mut update.unreach;
        let read = match family {
            Family::Ipv4Unicast => nlri::read_ipv4("MP_UNREACH_NLRI", bytes, at, |p| unreach.push(NlriKey::Ipv4(p))),
            Family::Vpnv4 => {
                nlri::read_vpnv4("MP_UNREACH_NLRI", bytes, at, |e| unreach.push(NlriKey::Vpnv4 { rd: e.rd, prefix: e.prefix }))
            }
        };
        if let Err(error) = read {
            // RFC 7606 §5.3
            update.faults.push(Fault { severity: Severity::AfiSafiDisable(family), error });
        }
        Ok(())
    }

    fn read_mp_reach(&self, tlv: &Tlv, update: &mut Update) -> Result<Option<(Ipv4Addr, Vec<Nlri>)>, Fatal> {
        let (family, at, bytes) = mp_family(&self.context, tlv)?;
        let Some(family) = family else { return Ok(None) };
        let disable = |error| Fault { severity: Severity::AfiSafiDisable(family), error };
        let found = match family {
            Family::Ipv4Unicast => bytes.split_first_chunk::<6>().and_then(|([len, a, b, c, d, _], rest)| {
                let next_hop = Ipv4Addr::new(*a, *b, *c, *d);
                (*len == 4).then_some((next_hop, rest))
            }),
            // RFC 4364 §4.3.2: RD (of zero) and address. RFC 8950 next hops are not offered.
            Family::Vpnv4 => bytes.split_first_chunk::<14>().and_then(|([len, _, _, _, _, _, _, _, _, a, b, c, d, _], rest)| {
                let next_hop = Ipv4Addr::new(*a, *b, *c, *d);
                (*len == 12).then_some((next_hop, rest))
            }),
        };
        let Some((next_hop, rest)) = found else {
            // RFC 7606 §7.11
            update.faults.push(disable(tlv.error(Cause::Malformed("next hop length does not fit the family"))));
            return Ok(None);
        };
        if let Some(fault) = values::next_hop_fault("MP_REACH_NLRI", at + 1, next_hop) {
            update.faults.push(fault);
        }
        let at = at + bytes.len() - rest.len();
        let mut nlri = Vec::with_capacity(rest.len() / if family == Family::Vpnv4 { 14 } else { 4 });
        let faults = &mut update.faults;
        let read = match family {
            Family::Ipv4Unicast => nlri::read_ipv4("MP_REACH_NLRI", rest, at, |p| nlri.push(Nlri::Ipv4(p))),
            Family::Vpnv4 => {
                let mut stack = false;
                let read = nlri::read_vpnv4("MP_REACH_NLRI", rest, at, |e| {
                    stack |= e.label.is_none();
                    nlri.push(Nlri::Vpnv4 { rd: e.rd, prefix: e.prefix, label: e.label.unwrap_or(edgeplex_types::Label::IMPLICIT_NULL) });
                });
                if stack {
                    // Several labels were not agreed on (RFC 8277 §2.1); the routes can be named but not used.
                    let error = DecodeError { offset: at, field: "MP_REACH_NLRI", cause: Cause::Malformed("a stack of labels") };
                    faults.push(Fault { severity: Severity::TreatAsWithdraw, error });
                }
                read
            }
        };
        if let Err(error) = read {
            faults.push(disable(error));
        }
        Ok(Some((next_hop, nlri)))
    }

    fn intern(&mut self, set: &Arc<Attributes>, next_hop: Option<Ipv4Addr>) {
        if self.interned.len() >= MAX_INTERNED || self.interned_bytes + self.scratch.len() > MAX_INTERNED_BYTES {
            self.interned.clear();
            self.interned_bytes = 0;
        }
        self.interned_bytes += self.scratch.len();
        self.interned.insert(self.scratch.as_slice().into(), (Arc::clone(set), next_hop));
    }
}

/// RFC 7606 §3 (d)
fn missing(field: &'static str, offset: usize) -> Fault {
    Fault { severity: Severity::TreatAsWithdraw, error: DecodeError { offset, field, cause: Cause::Missing } }
}

/// See [`Attributes::from_bytes`].
pub(crate) fn attributes_from_bytes(bytes: &[u8]) -> Result<Attributes, Fatal> {
    let context = Context { four_octet_as: true, ibgp: true, first_as: None, families: FamilySet::EMPTY };
    let error = |error| fatal(1, &[], error);
    let mut walk = Walk::new(bytes, 0);
    for tlv in walk.by_ref() {
        if matches!(tlv.code, code::NEXT_HOP | code::MP_REACH | code::MP_UNREACH) {
            return Err(error(tlv.error(Cause::Malformed("does not belong here"))));
        }
    }
    if let Some(fault) = walk.overrun() {
        return Err(error(fault.error));
    }
    let parsed = values::parse(Walk::new(bytes, 0), &context)?;
    if let Some(fault) = parsed.faults.first() {
        return Err(error(fault.error));
    }
    match parsed.missing {
        Some(field) => Err(error(DecodeError { offset: bytes.len(), field, cause: Cause::Missing })),
        None => Ok(parsed.attributes),
    }
}
