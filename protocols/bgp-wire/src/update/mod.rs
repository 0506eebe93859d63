//! Reading UPDATEs (RFC 4271 §4.3, §6.3) with the error handling of RFC 7606.
//!
//! A message is walked once to find its parts. The attributes without MP_* are then looked up by their raw bytes;
//! only a set not met lately is parsed. So a table whose routes share attributes costs little more than its NLRI.

mod mp;
mod values;

use crate::attributes::{Attributes, code};
use crate::error::{Cause, DecodeError, Fatal, Fault, Severity};
use crate::nlri::{self, Nlri, NlriKey, Reach, Run, Unreach};
use crate::{Code, Family, FamilySet, HEADER_LEN, Notification};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use values::{Parsed, Walk};

/// What the session agreed on, as far as it matters for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    pub four_octet_as: bool,
    pub ibgp: bool,
    /// AS the path of an eBGP route must start with (RFC 4271 §6.3), unless `None`.
    pub first_as: Option<u32>,
    pub families: FamilySet,
    /// Families of which the peer sends several paths of a destination (RFC 7911).
    pub add_path: FamilySet,
    /// Unicast routes without OTC get it with this AS: the peer is above or beside us (RFC 9234 §5).
    pub only_to_customer: Option<u32>,
}

/// Routes of one family announced with one next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Of 6VPE the IPv4 address that is mapped (RFC 4659 §3.2.1.2); of IPv6 unicast the global address if there is one.
    pub next_hop: IpAddr,
    pub reach: Vec<Reach>,
}

/// What an UPDATE says once RFC 7606 has been applied: routes treated as withdrawn stand in `unreach`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// There if `announced` is not empty.
    pub attributes: Option<Arc<Attributes>>,
    /// At most two: the NLRI field and MP_REACH_NLRI.
    pub announced: Vec<Announced>,
    pub unreach: Vec<Unreach>,
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
        let run = |field, bytes, offset| {
            let family = Family::Ipv4Unicast;
            Run { field, family, add_path: self.context.add_path.contains(family), bytes, offset }
        };
        let withdrawn = &mut update.unreach;
        nlri::read(run("withdrawn routes", bytes, at), |e| withdrawn.push(Unreach { path_id: e.path_id, key: e.key }))
            .map_err(|e| fatal(10, &[], e))?;
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
            mp::read_unreach(&self.context, tlv, empty, &mut update)?;
        } else if empty && attributes.is_empty() && ipv4 {
            // RFC 4724 §2
            update.end_of_rib = Some(Family::Ipv4Unicast);
        }
        let mp = match &mp_reach {
            Some(tlv) => mp::read_reach(&self.context, tlv, &mut update)?,
            None => None,
        };
        let (at, bytes) = parts.nlri;
        let mut body_nlri = Vec::with_capacity(bytes.len() / 4);
        nlri::read(run("NLRI", bytes, at), |e| {
            if let NlriKey::Unicast(prefix) = e.key {
                body_nlri.push(Reach { path_id: e.path_id, nlri: Nlri::Unicast(prefix) });
            }
        })
        .map_err(|e| fatal(10, &[], e))?;
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
            update.announced.push(Announced { next_hop, reach: body_nlri });
        }
        update.announced.extend(mp.filter(|a| !a.reach.is_empty()));
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
            let announced = std::mem::take(&mut update.announced);
            update.unreach.extend(announced.iter().flat_map(|a| &a.reach).map(Reach::unreach));
        }
        if update.announced.is_empty() {
            update.attributes = None;
        }
        Ok(update)
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
    let context = Context { four_octet_as: true, ibgp: true, ..Context::default() };
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
