//! BGP: OPEN and KEEPALIVE, then the table in as few UPDATEs as it takes, and End-of-RIBs. Attributes and NLRI stay the bytes they
//! were, so that nothing can be lost in between; only which of them still count is worked out.

use super::{Place, copy, sent_before};
use crate::state::Session;
use edgeplex_bgp_wire::{
    Capability, Context, Decoder, Family, FamilySet, HEADER_LEN, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, NlriKey, Open, Refresh,
    RouteRefresh, Severity, compose, frame, frame_within,
};
use std::collections::{BTreeMap, HashMap};

const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
const OPTIONAL: u8 = 0x80;
const EXTENDED: u8 = 0x10;
/// Message header, two lengths.
const EMPTY_UPDATE: usize = HEADER_LEN + 4;

pub(super) fn shorten(session: &Session) -> Option<Session> {
    let acked = session.sent.get(..session.acked_len())?;
    let (ours, sent_from) = opening(acked)?;
    let (theirs, received_from) = opening(&session.received)?;
    let both = |c| ours.has(&c) && theirs.has(&c);
    let agreed = Agreed {
        limit: if both(Capability::ExtendedMessage) { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE },
        enhanced_refresh: both(Capability::EnhancedRefresh),
    };
    let mut sent = Table::new(agreed, acked, context(&ours, &theirs));
    sent.read(sent_from, |_| true);
    let mut received = Table::new(agreed, &session.received, context(&theirs, &ours));
    // What asks for routes stays where it stood among those that were sent.
    received.read(received_from, |at| sent_before(&session.turns, at) <= sent.end);

    let mut new = Session::new(session.opened.clone());
    let opened = Place { received: received_from, sent: sent_from };
    copy(session, &mut new, Place::default(), opened);
    let begun: Vec<_> =
        received.begun.iter().map(|(family, at)| Cut { at: *at, sent: false, message: refresh(*family, Refresh::Begin) }).collect();
    received.write(&mut new, false, begun)?;
    let unanswered = received.requests.iter().filter_map(|(family, at)| {
        let cut = sent_before(&session.turns, *at);
        sent.owes(*family, cut).then(|| Cut { at: cut, sent: false, message: refresh(*family, Refresh::Request) })
    });
    let begun = sent.begun.iter().map(|(family, at)| Cut { at: *at, sent: true, message: refresh(*family, Refresh::Begin) });
    let cuts = unanswered.chain(begun).collect();
    sent.write(&mut new, true, cuts)?;
    let done = Place { received: received.end, sent: sent.end };
    copy(session, &mut new, done, Place { received: session.received.len(), sent: session.sent.len() });
    Some(new)
}

/// The OPEN, and where the KEEPALIVE that accepts the other side's ends.
fn opening(stream: &[u8]) -> Option<(Open, usize)> {
    let first = frame(stream).ok()??;
    let open = Open::decode(first.body).ok().filter(|_| first.kind == MessageType::Open)?;
    let second = frame(stream.get(first.wire_len()..)?).ok()??;
    (second.kind == MessageType::Keepalive).then(|| (open, first.wire_len() + second.wire_len()))
}

/// What matters for reading what `from` sends to `to`.
fn context(from: &Open, to: &Open) -> Context {
    let families = from.families().intersection(to.families());
    let paths = |open: &Open, send: bool| -> FamilySet {
        let able = open.add_path().filter(|a| if send { a.send } else { a.receive });
        able.filter_map(|a| Family::from_afi_safi(a.afi, a.safi)).collect()
    };
    Context {
        four_octet_as: from.four_octet_as().is_some() && to.four_octet_as().is_some(),
        ibgp: from.asn() == to.asn(),
        families,
        add_path: families.intersection(paths(from, true)).intersection(paths(to, false)),
        ..Context::default()
    }
}

fn refresh(family: Family, kind: Refresh) -> Vec<u8> {
    RouteRefresh::new(family, kind).encode()
}

#[derive(Debug, Clone, Copy)]
struct Agreed {
    limit: usize,
    enhanced_refresh: bool,
}

/// Attributes as they stood, without MP_*; with routes of MP_REACH_NLRI its family and next hop, length in front.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Set<'a> {
    attributes: Vec<u8>,
    mp: Option<(Family, &'a [u8])>,
}

#[derive(Debug, Clone, Copy)]
struct Route<'a> {
    set: usize,
    /// Where the message stands.
    at: usize,
    nlri: &'a [u8],
}

/// A message that must stand between what came before `at` and what came after.
struct Cut {
    at: usize,
    sent: bool,
    message: Vec<u8>,
}

/// The routes of one direction.
struct Table<'a> {
    agreed: Agreed,
    stream: &'a [u8],
    context: Context,
    decoder: Decoder,
    sets: Vec<Set<'a>>,
    known: HashMap<Set<'a>, usize>,
    routes: HashMap<(u32, NlriKey), Route<'a>>,
    /// The first End-of-RIB of each family.
    ends: BTreeMap<Family, usize>,
    /// Refreshes that have begun and not ended (RFC 7313).
    begun: BTreeMap<Family, usize>,
    /// The last request for each family.
    requests: BTreeMap<Family, usize>,
    /// Where what was not read begins.
    end: usize,
}

impl<'a> Table<'a> {
    fn new(agreed: Agreed, stream: &'a [u8], context: Context) -> Self {
        Self {
            agreed,
            stream,
            context,
            decoder: Decoder::new(context),
            sets: Vec::new(),
            known: HashMap::new(),
            routes: HashMap::new(),
            ends: BTreeMap::new(),
            begun: BTreeMap::new(),
            requests: BTreeMap::new(),
            end: 0,
        }
    }

    /// Reads messages up to the first that is not whole, or that ends a session, a family or our understanding.
    fn read(&mut self, from: usize, request: impl Fn(usize) -> bool) {
        self.end = from;
        while let Ok(Some(frame)) = frame_within(self.stream.get(self.end..).unwrap_or_default(), self.agreed.limit) {
            let understood = match frame.kind {
                MessageType::Keepalive => Some(()),
                MessageType::Update => self.update(frame.body),
                MessageType::RouteRefresh => self.refresh(frame.body, &request),
                MessageType::Open | MessageType::Notification => None,
            };
            if understood.is_none() {
                return;
            }
            self.end += frame.wire_len();
        }
    }

    fn update(&mut self, body: &'a [u8]) -> Option<()> {
        let update = self.decoder.decode(body).ok()?;
        if update.faults.iter().any(|f| matches!(f.severity, Severity::AfiSafiDisable(_) | Severity::SessionReset(_))) {
            return None;
        }
        let parts = Parts::of(body)?;
        // What the decoder has read, with its bytes: the NLRI field first.
        let mut slices = Vec::with_capacity(2);
        if self.context.families.contains(Family::Ipv4Unicast) {
            slices.push((None, nlri(parts.nlri, self.context.add_path.contains(Family::Ipv4Unicast))?));
        }
        if let Some((family, next_hop, bytes)) = parts.mp_reach.filter(|(f, ..)| self.context.families.contains(*f)) {
            slices.push((Some((family, next_hop)), nlri(bytes, self.context.add_path.contains(family))?));
        }
        slices.retain(|(_, slices)| !slices.is_empty());
        let same = |(announced, (_, slices)): (&edgeplex_bgp_wire::Announced, &(_, Vec<_>))| announced.reach.len() == slices.len();
        if !update.announced.is_empty() && (update.announced.len() != slices.len() || !update.announced.iter().zip(&slices).all(same)) {
            return None;
        }
        for gone in &update.unreach {
            self.routes.remove(&(gone.path_id, gone.key));
        }
        for (announced, (mp, slices)) in update.announced.iter().zip(slices) {
            let set = self.set(Set { attributes: parts.attributes.clone(), mp });
            for (reach, nlri) in announced.reach.iter().zip(slices) {
                self.routes.insert((reach.path_id, reach.nlri.key()), Route { set, at: self.end, nlri });
            }
        }
        if let Some(family) = update.end_of_rib {
            self.ends.entry(family).or_insert(self.end);
        }
        Some(())
    }

    fn set(&mut self, set: Set<'a>) -> usize {
        let next = self.sets.len();
        let index = *self.known.entry(set.clone()).or_insert(next);
        if index == next {
            self.sets.push(set);
        }
        index
    }

    fn refresh(&mut self, body: &[u8], request: impl Fn(usize) -> bool) -> Option<()> {
        let message = RouteRefresh::decode(body).ok()?;
        let Some(family) = message.family().filter(|f| self.context.families.contains(*f)) else { return Some(()) };
        match message.kind {
            Refresh::Request => {
                request(self.end).then_some(())?;
                self.requests.insert(family, self.end);
            }
            Refresh::Begin if self.agreed.enhanced_refresh => {
                self.begun.insert(family, self.end);
            }
            // RFC 7313 §4: what has not come again is gone.
            Refresh::End if self.agreed.enhanced_refresh => {
                if let Some(begun) = self.begun.remove(&family) {
                    self.routes.retain(|(_, key), route| key.family() != family || route.at >= begun);
                }
            }
            Refresh::Begin | Refresh::End | Refresh::Other(_) => {}
        }
        Some(())
    }

    /// There are routes of the family that have not been told since `cut`.
    fn owes(&self, family: Family, cut: usize) -> bool {
        self.routes.iter().any(|((_, key), route)| route.at < cut && key.family() == family)
    }

    /// Appends the table to one direction of `to`, the messages of `cuts` where they belong.
    fn write(&self, to: &mut Session, sent: bool, mut cuts: Vec<Cut>) -> Option<()> {
        cuts.sort_by_key(|c| c.at);
        let part = |at: usize| cuts.partition_point(|c| c.at <= at);
        let mut routes: Vec<_> = self.routes.values().map(|r| (part(r.at), *r)).collect();
        // The bytes' addresses are their order in the stream: an order for routes of one message.
        routes.sort_by_key(|(part, r)| (*part, r.set, r.at, r.nlri.as_ptr()));
        for number in 0..=cuts.len() {
            let mut out = Vec::new();
            let first = routes.partition_point(|(part, _)| *part < number);
            let last = routes.partition_point(|(part, _)| *part <= number);
            for run in routes.get(first..last)?.chunk_by(|(_, a), (_, b)| a.set == b.set) {
                self.updates(&mut out, run)?;
            }
            for (family, _) in self.ends.iter().filter(|(_, at)| part(**at) == number) {
                compose::end_of_rib(&mut out, *family);
            }
            to.push(sent, &out);
            if let Some(cut) = cuts.get(number) {
                to.push(cut.sent, &cut.message);
            }
        }
        Some(())
    }

    /// Appends UPDATEs with all these routes, which share a set.
    fn updates(&self, out: &mut Vec<u8>, mut routes: &[(usize, Route<'a>)]) -> Option<()> {
        let set = self.sets.get(routes.first()?.1.set)?;
        // Family, next hop, reserved byte.
        let mp_head = set.mp.map_or(0, |(_, hop)| 3 + hop.len() + 1);
        let fixed = EMPTY_UPDATE + set.attributes.len() + if set.mp.is_some() { 4 + mp_head } else { 0 };
        while let Some((_, first)) = routes.first() {
            // Attributes of a long message need one again.
            let limit = if fixed + first.nlri.len() > MAX_MESSAGE { self.agreed.limit } else { MAX_MESSAGE };
            let (mut taken, mut bytes) = (1, first.nlri.len());
            while let Some((_, next)) = routes.get(taken).filter(|(_, r)| fixed + bytes + r.nlri.len() <= limit) {
                bytes += next.nlri.len();
                taken += 1;
            }
            let (now, later) = routes.split_at(taken);
            message(out, set, mp_head + bytes, now)?;
            routes = later;
        }
        Some(())
    }
}

/// Appends one UPDATE. `mp`: the length of MP_REACH_NLRI, if that is where the routes go.
fn message(out: &mut Vec<u8>, set: &Set, mp: usize, routes: &[(usize, Route)]) -> Option<()> {
    let base = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0]);
    if let Some((family, hop)) = set.mp {
        // RFC 7606 §5.1: first.
        match u8::try_from(mp) {
            Ok(short) => out.extend_from_slice(&[OPTIONAL, MP_REACH, short]),
            Err(_) => {
                out.extend_from_slice(&[OPTIONAL | EXTENDED, MP_REACH]);
                out.extend_from_slice(&u16::try_from(mp).ok()?.to_be_bytes());
            }
        }
        let (afi, safi) = family.afi_safi();
        out.extend_from_slice(&afi.to_be_bytes());
        out.push(safi);
        out.extend_from_slice(hop);
        out.push(0);
        routes.iter().for_each(|(_, r)| out.extend_from_slice(r.nlri));
    }
    out.extend_from_slice(&set.attributes);
    let attributes = u16::try_from(out.len() - base - EMPTY_UPDATE).ok()?;
    out.get_mut(base + EMPTY_UPDATE - 2..base + EMPTY_UPDATE)?.copy_from_slice(&attributes.to_be_bytes());
    if set.mp.is_none() {
        routes.iter().for_each(|(_, r)| out.extend_from_slice(r.nlri));
    }
    let length = u16::try_from(out.len() - base).ok()?;
    out.get_mut(base + 16..base + 18)?.copy_from_slice(&length.to_be_bytes());
    Some(())
}

/// An UPDATE's bytes where they matter here.
struct Parts<'a> {
    /// Without MP_*.
    attributes: Vec<u8>,
    mp_reach: Option<(Family, &'a [u8], &'a [u8])>,
    nlri: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let counted = |bytes: &'a [u8]| {
            let (length, rest) = bytes.split_first_chunk::<2>()?;
            rest.split_at_checked(u16::from_be_bytes(*length).into())
        };
        let (_, rest) = counted(body)?;
        let (mut attributes, nlri) = counted(rest)?;
        let mut parts = Self { attributes: Vec::with_capacity(attributes.len()), mp_reach: None, nlri };
        while let [flags, code, rest @ ..] = attributes {
            let (length, head) =
                if flags & EXTENDED == 0 { (usize::from(*rest.first()?), 3) } else { (u16::from_be_bytes(*rest.first_chunk()?).into(), 4) };
            let Some((whole, next)) = attributes.split_at_checked(head + length) else { break };
            match *code {
                MP_REACH => {
                    let ([hi, lo, safi], value) = whole.get(head..)?.split_first_chunk::<3>()?;
                    if let Some(family) = Family::from_afi_safi(u16::from_be_bytes([*hi, *lo]), *safi) {
                        let (hop, rest) = value.split_at_checked(usize::from(*value.first()?) + 1)?;
                        parts.mp_reach = Some((family, hop, rest.get(1..)?));
                    }
                }
                MP_UNREACH => {}
                _ => parts.attributes.extend_from_slice(whole),
            }
            attributes = next;
        }
        Some(parts)
    }
}

/// The bytes of each NLRI: path identifier, length in bits, as many bytes as that takes.
fn nlri(mut bytes: &[u8], add_path: bool) -> Option<Vec<&[u8]>> {
    let head = if add_path { 4 } else { 0 };
    let mut found = Vec::with_capacity(bytes.len() / 4);
    while !bytes.is_empty() {
        let length = head + 1 + usize::from(*bytes.get(head)?).div_ceil(8);
        let (one, rest) = bytes.split_at_checked(length)?;
        found.push(one);
        bytes = rest;
    }
    Some(found)
}
