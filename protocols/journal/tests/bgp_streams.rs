//! A session's streams say the same after they were shortened: decoded before and after, the tables are equal.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

use edgeplex_bgp_wire::{
    AddPath, Attributes, Capability, Context, Decoder, Family, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, NlriKey, Open, Reach,
    Refresh, RouteRefresh, compose, frame_within, keepalive,
};
use edgeplex_journal::{Opened, Progress, Protocol, Record, Session, SessionId, State, TcpOpened};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

const FAMILIES: [Family; 5] = Family::ALL;
const ID: SessionId = SessionId(7);

/// What the two sides agree on.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    add_path: bool,
    four_octet_as: bool,
    ibgp: bool,
    extended: bool,
    enhanced: bool,
    /// Whether IPv4 unicast is among the families.
    ipv4: bool,
}

impl Agreed {
    fn families(self) -> impl Iterator<Item = Family> {
        FAMILIES.into_iter().filter(move |f| self.ipv4 || *f != Family::Ipv4Unicast)
    }

    fn open(self, ours: bool) -> Open {
        let mut open = Open::new(if ours || self.ibgp { 65001 } else { 65002 }, 90, Ipv4Addr::new(192, 0, 2, if ours { 1 } else { 2 }));
        // The neighbour does not know of four octets.
        open.capabilities.retain(|_| ours || self.four_octet_as);
        let families: Vec<_> = self.families().map(Family::afi_safi).collect();
        open.capabilities.extend(families.iter().map(|(afi, safi)| Capability::MultiProtocol(*afi, *safi)));
        open.capabilities.extend([Capability::RouteRefresh]);
        open.capabilities.extend((ours || self.extended).then_some(Capability::ExtendedMessage));
        open.capabilities.extend((ours || self.enhanced).then_some(Capability::EnhancedRefresh));
        if self.add_path {
            let paths = families.iter().map(|(afi, safi)| AddPath { afi: *afi, safi: *safi, receive: ours, send: !ours });
            open.capabilities.push(Capability::AddPath(paths.collect()));
        }
        open
    }

    fn context(self, sent: bool) -> Context {
        let families = self.families().collect();
        Context {
            four_octet_as: self.four_octet_as,
            ibgp: self.ibgp,
            families,
            add_path: if self.add_path && !sent { families } else { Default::default() },
            ..Context::default()
        }
    }

    fn limit(self) -> usize {
        if self.extended { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE }
    }
}

#[derive(Debug, Clone)]
enum Said {
    Announce {
        family: Family,
        set: u8,
        routes: Vec<(u8, u8)>,
    },
    /// IPv4 in the NLRI field and another family, in one message.
    Both {
        family: Family,
        set: u8,
        routes: Vec<(u8, u8)>,
    },
    /// Wrong attributes: treated as withdrawn.
    Wrong {
        family: Family,
        routes: Vec<(u8, u8)>,
    },
    Withdraw {
        family: Family,
        routes: Vec<(u8, u8)>,
    },
    EndOfRib(Family),
    Keepalive,
    Refresh(Family, Refresh),
}

fn said() -> impl Strategy<Value = Said> {
    let family = || prop::sample::select(&FAMILIES[..]);
    let routes = || prop::collection::vec((0..3_u8, 0..12_u8), 1..6);
    let kind = prop::sample::select(&[Refresh::Request, Refresh::Begin, Refresh::End, Refresh::Other(9)][..]);
    prop_oneof![
        6 => (family(), 0..5_u8, routes()).prop_map(|(family, set, routes)| Said::Announce { family, set, routes }),
        2 => (family(), 0..5_u8, routes()).prop_map(|(family, set, routes)| Said::Both { family, set, routes }),
        1 => (family(), routes()).prop_map(|(family, routes)| Said::Wrong { family, routes }),
        4 => (family(), routes()).prop_map(|(family, routes)| Said::Withdraw { family, routes }),
        1 => family().prop_map(Said::EndOfRib),
        1 => Just(Said::Keepalive),
        2 => (family(), kind).prop_map(|(family, kind)| Said::Refresh(family, kind)),
    ]
}

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let [hi, lo] = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[flags | 0x10, code, hi, lo], value].concat()
}

/// NLRI of a family, each with its path identifier if those are used; withdrawn ones have no label of meaning.
fn nlri(agreed: Agreed, sent: bool, family: Family, routes: &[(u8, u8)], withdrawn: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, n) in routes {
        if agreed.context(sent).add_path.contains(family) {
            out.extend(u32::from(*path).to_be_bytes());
        }
        let label: &[u8] = if withdrawn { &[0x80, 0, 0] } else { &[0, *path, 0x11] };
        let rd = [0, 0, 0xfd, 0xe9, 0, 0, 0, *n % 3];
        match family {
            Family::Ipv4Unicast => out.extend([24, 10, 0, *n]),
            Family::Ipv6Unicast => out.extend([40, 0x20, 1, 0xd, 0xb8, *n]),
            Family::Vpnv4 => out.extend([&[24 + 64 + 24], label, &rd, &[10, 1, *n]].concat()),
            Family::Vpnv6 => out.extend([&[24 + 64 + 40], label, &rd, &[0x20, 1, 0xd, 0xb8, *n]].concat()),
            Family::RouteTarget => out.extend([96, 0, 0, 0xfd, 0xe9, 0, 2, 0xfd, 0xe9, 0, 0, 0, *n]),
        }
    }
    out
}

fn attributes(agreed: Agreed, set: u8) -> Vec<u8> {
    let path: &[u8] = if agreed.four_octet_as { &[2, 2, 0, 0, 0xfd, 0xea, 0, 1, 0, set] } else { &[2, 2, 0xfd, 0xea, 0x5b, 0xa0] };
    let mut out = [attribute(0x40, 1, &[set % 3]), attribute(0x40, 2, path)].concat();
    out.extend(attribute(0x80, 4, &[0, 0, 0, set]));
    if !agreed.four_octet_as {
        out.extend(attribute(0xc0, 17, &[2, 2, 0, 0, 0xfd, 0xea, 0, 1, 0, set]));
    }
    if agreed.ibgp {
        out.extend(attribute(0x40, 5, &[0, 0, 0, 100]));
    }
    if set == 4 && agreed.extended {
        // Longer than a message used to be.
        out.extend(attribute(0xc0, 8, &[7; 4800]));
    }
    out
}

fn mp_reach(agreed: Agreed, sent: bool, family: Family, set: u8, routes: &[(u8, u8)]) -> Vec<u8> {
    let (afi, safi) = family.afi_safi();
    let hop: Vec<u8> = match family {
        Family::Ipv4Unicast | Family::RouteTarget => vec![192, 0, 2, 9],
        Family::Ipv6Unicast => [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9]].concat(),
        Family::Vpnv4 => [&[0; 8][..], &[192, 0, 2, set]].concat(),
        Family::Vpnv6 => [&[0; 18][..], &[0xff, 0xff, 192, 0, 2, set]].concat(),
    };
    let head = [&afi.to_be_bytes()[..], &[safi, u8::try_from(hop.len()).unwrap()], &hop, &[0]].concat();
    attribute(0x80, 14, &[head, nlri(agreed, sent, family, routes, false)].concat())
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |b: &[u8]| u16::try_from(b.len()).unwrap().to_be_bytes();
    let body = [&length(withdrawn)[..], withdrawn, &length(attributes), attributes, nlri].concat();
    [&[0xff; 16][..], &u16::try_from(19 + body.len()).unwrap().to_be_bytes(), &[2], &body].concat()
}

fn message(agreed: Agreed, sent: bool, said: &Said) -> Vec<u8> {
    let hop = attribute(0x40, 3, &[192, 0, 2, 9]);
    match said {
        Said::Announce { family: family @ Family::Ipv4Unicast, set, routes } => {
            update(&[], &[attributes(agreed, *set), hop].concat(), &nlri(agreed, sent, *family, routes, false))
        }
        Said::Announce { family, set, routes } => {
            update(&[], &[mp_reach(agreed, sent, *family, *set, routes), attributes(agreed, *set)].concat(), &[])
        }
        Said::Both { family, set, routes } => {
            let attributes = [attributes(agreed, *set), hop, mp_reach(agreed, sent, *family, *set, routes)].concat();
            update(&[], &attributes, &nlri(agreed, sent, Family::Ipv4Unicast, routes, false))
        }
        Said::Wrong { family: family @ Family::Ipv4Unicast, routes } => {
            update(&[], &[attributes(agreed, 1), hop, attribute(0xc0, 8, &[1])].concat(), &nlri(agreed, sent, *family, routes, false))
        }
        Said::Wrong { family, routes } => {
            update(&[], &[mp_reach(agreed, sent, *family, 1, routes), attributes(agreed, 1), attribute(0xc0, 8, &[1])].concat(), &[])
        }
        Said::Withdraw { family: family @ Family::Ipv4Unicast, routes } => update(&nlri(agreed, sent, *family, routes, true), &[], &[]),
        Said::Withdraw { family, routes } => {
            let (afi, safi) = family.afi_safi();
            let value = [&afi.to_be_bytes()[..], &[safi], &nlri(agreed, sent, *family, routes, true)].concat();
            update(&[], &attribute(0x80, 15, &value), &[])
        }
        Said::EndOfRib(family) => {
            let mut out = Vec::new();
            compose::end_of_rib(&mut out, *family);
            out
        }
        Said::Keepalive => keepalive(),
        Said::Refresh(family, kind) => RouteRefresh::new(*family, *kind).encode(),
    }
}

/// A route and whether a refresh has yet to confirm it.
type Route = (Arc<Attributes>, IpAddr, Reach, bool);

/// Everything a stream means to who reads it.
#[derive(Debug, Default, PartialEq)]
struct Meant {
    routes: BTreeMap<(u32, NlriKey), Route>,
    ends: BTreeSet<Family>,
    /// Refreshes under way: routes that have not come again are marked.
    begun: BTreeSet<Family>,
    tail: Vec<u8>,
}

fn meant(agreed: Agreed, sent: bool, stream: &[u8]) -> Meant {
    let mut m = Meant::default();
    let mut decoder = Decoder::new(agreed.context(sent));
    let mut rest = stream;
    while let Some(frame) = frame_within(rest, agreed.limit()).unwrap() {
        match frame.kind {
            MessageType::Update => {
                let update = decoder.decode(frame.body).unwrap();
                for gone in &update.unreach {
                    m.routes.remove(&(gone.path_id, gone.key));
                }
                for announced in &update.announced {
                    for reach in &announced.reach {
                        let route = (update.attributes.clone().unwrap(), announced.next_hop, *reach, false);
                        m.routes.insert((reach.path_id, reach.nlri.key()), route);
                    }
                }
                m.ends.extend(update.end_of_rib);
            }
            MessageType::RouteRefresh if agreed.enhanced => {
                let refresh = RouteRefresh::decode(frame.body).unwrap();
                let family = refresh.family().unwrap();
                match refresh.kind {
                    _ if !agreed.families().any(|f| f == family) => {}
                    Refresh::Begin => {
                        m.begun.insert(family);
                        m.routes.iter_mut().filter(|((_, key), _)| key.family() == family).for_each(|(_, r)| r.3 = true);
                    }
                    Refresh::End if m.begun.remove(&family) => m.routes.retain(|(_, key), r| key.family() != family || !r.3),
                    _ => {}
                }
            }
            _ => {}
        }
        rest = &rest[frame.wire_len()..];
    }
    m.tail = rest.to_vec();
    m
}

fn open() -> Opened {
    Opened {
        protocol: Protocol::Bgp,
        local: "192.0.2.1:179".parse().unwrap(),
        remote: "192.0.2.2:1024".parse().unwrap(),
        passive: false,
        tcp: TcpOpened { sent_base: u32::MAX - 50, received_base: 5, ..TcpOpened::default() },
    }
}

fn acked(sent: u64) -> Record {
    Record::Acked { session: ID, sent, window: vec![1], timestamp: 9, at_ms: 10 }
}

fn session_of(state: &State) -> &Session {
    &state.sessions()[&ID]
}

fn shortened(records: &[Record]) -> (Session, State) {
    let mut state = State::new(1 << 30);
    records.iter().for_each(|r| state.apply(r).unwrap());
    let before = session_of(&state).clone();
    let mut again = State::new(1 << 30);
    state.records().for_each(|r| again.apply(&r).unwrap());
    assert_eq!(again, state, "records lead to the same state");
    state.shorten();
    let mut again = State::new(1 << 30);
    state.records().for_each(|r| again.apply(&r).unwrap());
    assert_eq!(again, state);
    (before, state)
}

fn agreed() -> impl Strategy<Value = Agreed> {
    any::<[bool; 6]>().prop_map(|[add_path, four_octet_as, ibgp, extended, enhanced, ipv4]| Agreed {
        add_path,
        four_octet_as,
        ibgp,
        extended,
        enhanced,
        ipv4,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_same_is_said_in_fewer_bytes(
        agreed in agreed(),
        said in prop::collection::vec((any::<bool>(), said()), 0..60),
        cut in 0..40_usize,
        unacked in 0..300_u64,
        chunk in 1..200_usize,
    ) {
        let mut records = vec![Record::Open(ID, Box::new(open()))];
        let mut say = |sent: bool, bytes: &[u8]| {
            // Received as TCP cuts it; sent as whole messages.
            if sent {
                records.push(Record::Sent(ID, bytes.to_vec()));
            } else {
                records.extend(bytes.chunks(chunk).map(|c| Record::Received(ID, c.to_vec())));
            }
        };
        for sent in [true, false] {
            say(sent, &agreed.open(sent).encode());
        }
        for sent in [false, true] {
            say(sent, &keepalive());
        }
        for (sent, s) in &said {
            // A family that was not agreed on ends nothing, and nobody says it.
            say(*sent, &message(agreed, *sent, s));
        }
        let partial = message(agreed, false, &Said::Announce { family: Family::Vpnv4, set: 0, routes: vec![(0, 1); 4] });
        say(false, &partial[..cut.min(partial.len() - 1)]);
        let total: u64 = records.iter().map(|r| if let Record::Sent(_, b) = r { b.len() as u64 } else { 0 }).sum();
        let least = (agreed.open(true).encode().len() + 19) as u64;
        records.push(acked(total.saturating_sub(unacked).max(least)));

        let (before, mut state) = shortened(&records);
        let after = session_of(&state).clone();
        for sent in [true, false] {
            let (a, b) = if sent { (&before.sent, &after.sent) } else { (&before.received, &after.received) };
            prop_assert_eq!(meant(agreed, sent, a), meant(agreed, sent, b));
            prop_assert!(b.len() <= a.len());
        }
        // Counts and what would be sent again are as before.
        let progress = |s: &Session, state: Option<&State>| {
            let mut progress = Progress::new(&s.opened);
            match state {
                Some(state) => state.records().for_each(|r| progress.apply(&r).unwrap()),
                None => records.iter().for_each(|r| progress.apply(r).unwrap()),
            }
            progress.opened = open();
            progress
        };
        prop_assert_eq!(progress(&before, None), progress(&after, Some(&state)));
        // A second time changes no meaning.
        state.shorten();
        let twice = session_of(&state).clone();
        prop_assert_eq!(meant(agreed, false, &after.received), meant(agreed, false, &twice.received));
        prop_assert_eq!(meant(agreed, true, &after.sent), meant(agreed, true, &twice.sent));
    }
}

fn plain() -> Agreed {
    Agreed { add_path: false, four_octet_as: true, ibgp: false, extended: false, enhanced: false, ipv4: true }
}

/// A session that said this, in this order: `true` is ours.
fn conversation(agreed: Agreed, said: &[(bool, Said)]) -> Vec<Record> {
    let mut records = vec![Record::Open(ID, Box::new(open()))];
    let mut total = 0;
    let opening = [true, false].map(|sent| (sent, [agreed.open(sent).encode(), keepalive()].concat()));
    for (sent, bytes) in opening.into_iter().chain(said.iter().map(|(sent, s)| (*sent, message(agreed, *sent, s)))) {
        total += if sent { bytes.len() as u64 } else { 0 };
        records.push(if sent { Record::Sent(ID, bytes) } else { Record::Received(ID, bytes) });
    }
    records.push(acked(total));
    records
}

fn announce(routes: &[u8], set: u8) -> Said {
    Said::Announce { family: Family::Ipv4Unicast, set, routes: routes.iter().map(|n| (0, *n)).collect() }
}

fn requests(session: &Session) -> usize {
    session.received.windows(4).filter(|w| *w == [5, 0, 1, 0]).count()
}

#[test]
fn a_request_stays_until_all_it_asked_for_was_told_again() {
    let request = (false, Said::Refresh(Family::Ipv4Unicast, Refresh::Request));
    let asked = [(true, announce(&[1, 2], 1)), (true, announce(&[3], 2)), request];
    let (_, state) = shortened(&conversation(plain(), &asked));
    assert_eq!(requests(session_of(&state)), 1);
    let half = [&asked[..], &[(true, announce(&[1, 2], 1))]].concat();
    let (_, state) = shortened(&conversation(plain(), &half));
    assert_eq!(requests(session_of(&state)), 1);
    // Where it stands: 3 was told before, 1 and 2 since.
    let parts: Vec<_> = state.records().filter(|r| matches!(r, Record::Sent(..) | Record::Received(..))).collect();
    let at = parts.iter().position(|r| matches!(r, Record::Received(_, b) if b.windows(4).any(|w| w == [5, 0, 1, 0]))).unwrap();
    let routes = |parts: &[Record]| {
        let mut stream: Vec<u8> = parts.iter().flat_map(|r| if let Record::Sent(_, b) = r { b.clone() } else { vec![] }).collect();
        if !stream.starts_with(&[0xff]) {
            stream.clear();
        }
        meant(plain(), true, &stream).routes.len()
    };
    assert_eq!((routes(&parts[..at]), routes(&parts[at..])), (1, 2));
    let answered = [&half[..], &[(true, announce(&[3], 2))]].concat();
    let (_, state) = shortened(&conversation(plain(), &answered));
    assert_eq!(requests(session_of(&state)), 0);
}

#[test]
fn what_is_not_acknowledged_stays_byte_by_byte() {
    let mut records = conversation(plain(), &[(true, announce(&[1], 1)), (true, announce(&[1], 2)), (true, announce(&[1], 3))]);
    let total = if let Some(Record::Acked { sent, .. }) = records.last() { *sent } else { 0 };
    *records.last_mut().unwrap() = acked(total - 5);
    let (before, state) = shortened(&records);
    let after = session_of(&state);
    let last = message(plain(), true, &announce(&[1], 3)).len();
    assert_eq!(after.sent[after.sent.len() - last..], before.sent[before.sent.len() - last..]);
    assert!(after.sent.len() < before.sent.len());
}

#[test]
fn a_stream_that_is_not_understood_stays_as_it_is() {
    for bytes in [&[0; 30][..], &keepalive()[..], &[]] {
        let records = [Record::Open(ID, Box::new(open())), Record::Received(ID, bytes.to_vec()), Record::Sent(ID, bytes.to_vec())];
        let (before, state) = shortened(&records);
        assert_eq!(*session_of(&state), before);
    }
    // Nothing behind a NOTIFICATION is looked at.
    let mut records = conversation(plain(), &[(false, announce(&[1], 1)), (false, announce(&[1], 2))]);
    let notification = [&[0xff; 16][..], &[0, 21, 3, 6, 2]].concat();
    records.push(Record::Received(ID, notification.clone()));
    records.push(Record::Received(ID, b"and nonsense".to_vec()));
    let (_, state) = shortened(&records);
    assert!(session_of(&state).received.ends_with(&[&notification[..], b"and nonsense"].concat()));
}

#[test]
fn a_large_table_is_packed_as_tightly_as_it_goes() {
    let mut said = Vec::new();
    for round in 0..50_u8 {
        said.extend((0..250_u8).map(|n| (false, announce(&[n], round % 2))));
    }
    let (before, state) = shortened(&conversation(plain(), &said));
    let after = session_of(&state);
    // 250 routes of four bytes, and one message's worth of everything else.
    assert!(before.received.len() > 500_000 && after.received.len() < 1300, "{}", after.received.len());
    assert_eq!(meant(plain(), false, &before.received), meant(plain(), false, &after.received));
}
