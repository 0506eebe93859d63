//! LDP: KeepAlives go, and so do labels that were given, taken back and released. Everything else stays in its order, as what a
//! neighbour said is understood by what it had been told.

use super::{Place, copy};
use crate::state::Session;
use edgeplex_ldp::packet::{FecElement, LabelMessage, Mapping, Message, frame};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Version, length, LDP identifier.
const PDU_HEAD: usize = 10;
/// Of the head, what the PDU's length does not count.
const UNCOUNTED: usize = 4;

pub(super) fn shorten(session: &Session) -> Option<Session> {
    let acked = session.sent.get(..session.acked_len())?;
    let (mut ours, sent) = messages(acked, true);
    let (mut theirs, received) = messages(&session.received, false);
    let opened = |messages: &[Told]| messages.iter().find(|m| m.what == What::KeepAlive).map(|m| m.end);
    let opening = Place { received: opened(&theirs)?, sent: opened(&ours)? };
    // What comes after the first byte that stays as it is, stays too: the order counts, between the two as well.
    let turns = turns(session);
    let last = turns.sent_number(sent + 1).min(turns.received_number(received + 1));
    ours.retain(|m| turns.number(m) <= last);
    theirs.retain(|m| turns.number(m) <= last);
    let end = |messages: &[Told], opening: usize| messages.last().map_or(opening, |m| m.end.max(opening));
    let done = Place { received: end(&theirs, opening.received), sent: end(&ours, opening.sent) };

    let mut all: Vec<Told> = ours.into_iter().filter(|m| m.end > opening.sent).collect();
    all.extend(theirs.into_iter().filter(|m| m.end > opening.received));
    // Within a turn only one side speaks.
    all.sort_by_key(|m| (turns.number(m), m.end));
    let keep = what_counts(&all);

    let mut new = Session::new(session.opened.clone());
    copy(session, &mut new, Place::default(), opening);
    let kept: Vec<&Told> = all.iter().zip(keep).filter_map(|(m, keep)| keep.then_some(m)).collect();
    for run in kept.chunk_by(|a, b| a.sent == b.sent && a.head.get(UNCOUNTED..) == b.head.get(UNCOUNTED..)) {
        write(&mut new, run)?;
    }
    copy(session, &mut new, done, Place { received: session.received.len(), sent: session.sent.len() });
    Some(new)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    KeepAlive,
    Mapping(Ipv4Net, Label),
    Withdraw(Ipv4Net, Label),
    Release(Ipv4Net, Label),
    /// Stays, and changes nothing about labels.
    Other,
    /// May concern any label: nothing before it goes but KeepAlives.
    Barrier,
}

/// A message and who said it.
struct Told<'a> {
    sent: bool,
    /// Where its PDU ends in its stream.
    end: usize,
    head: &'a [u8],
    /// Length of its PDU: what the receiver can take.
    max: usize,
    bytes: &'a [u8],
    what: What,
}

/// All messages of whole PDUs, and where those end.
fn messages(stream: &[u8], sent: bool) -> (Vec<Told<'_>>, usize) {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = stream.get(at..) {
        let Ok(Some(pdu)) = frame(rest, u16::MAX) else { break };
        let end = at + pdu.wire_len();
        let Some(mut bytes) = stream.get(at + PDU_HEAD..end) else { break };
        let Some(head) = stream.get(at..at + PDU_HEAD) else { break };
        let before = found.len();
        for raw in pdu.messages() {
            let length = bytes.get(2..4).and_then(|l| l.first_chunk()).map_or(0, |l| usize::from(u16::from_be_bytes(*l)) + 4);
            // An error ends the session: what is here stays as it is.
            let (Ok(raw), Some((one, rest))) = (raw, bytes.split_at_checked(length)) else {
                found.truncate(before);
                return (found, at);
            };
            let Ok(message) = Message::decode(&raw) else {
                found.truncate(before);
                return (found, at);
            };
            found.push(Told { sent, end, head, max: pdu.wire_len(), bytes: one, what: message.as_ref().map_or(What::Other, what) });
            bytes = rest;
        }
        at = end;
    }
    (found, at)
}

fn what(message: &Message) -> What {
    let one = |fecs: &[FecElement]| if let [FecElement::Prefix(fec)] = fecs { Some(*fec) } else { None };
    let labelled = |m: &LabelMessage| Some((one(&m.fecs)?, m.label?));
    match message {
        Message::KeepAlive => What::KeepAlive,
        Message::LabelMapping(Mapping { fecs, label, request_id: None }) => {
            one(fecs).map_or(What::Barrier, |fec| What::Mapping(fec, *label))
        }
        Message::LabelWithdraw(m) => labelled(m).map_or(What::Barrier, |(fec, label)| What::Withdraw(fec, label)),
        Message::LabelRelease(m) => labelled(m).map_or(What::Barrier, |(fec, label)| What::Release(fec, label)),
        Message::LabelMapping(_) | Message::LabelRequest(_) | Message::LabelAbortRequest { .. } => What::Barrier,
        Message::Notification(_) | Message::Hello(_) | Message::Initialization(_) | Message::Capability(_) => What::Other,
        Message::Address(_) | Message::AddressWithdraw(_) => What::Other,
    }
}

/// Which turn each byte of the streams came with.
struct Turns {
    /// Ends of turns and their numbers.
    received: BTreeMap<usize, usize>,
    sent: BTreeMap<usize, usize>,
}

fn turns(session: &Session) -> Turns {
    let mut turns = Turns { received: BTreeMap::new(), sent: BTreeMap::new() };
    let mut at = Place::default();
    for (number, turn) in session.turns.iter().enumerate() {
        let (ends, at) = if turn.sent { (&mut turns.sent, &mut at.sent) } else { (&mut turns.received, &mut at.received) };
        *at += turn.bytes;
        ends.insert(*at, number);
    }
    turns
}

impl Turns {
    fn number(&self, m: &Told) -> usize {
        if m.sent { self.sent_number(m.end) } else { self.received_number(m.end) }
    }

    /// Which turn brought the byte before `end`.
    fn sent_number(&self, end: usize) -> usize {
        self.sent.range(end..).next().map_or(usize::MAX, |(_, number)| *number)
    }

    fn received_number(&self, end: usize) -> usize {
        self.received.range(end..).next().map_or(usize::MAX, |(_, number)| *number)
    }
}

/// One label given to one FEC by one side: messages about it, and whether each takes it back.
type Chain = Vec<(usize, bool)>;

/// Which messages a successor must see.
fn what_counts(all: &[Told]) -> Vec<bool> {
    let mut keep = vec![true; all.len()];
    let mut drop = |numbers: &[(usize, bool)]| numbers.iter().for_each(|(n, _)| keep.get_mut(*n).into_iter().for_each(|k| *k = false));
    let mut chains: HashMap<(bool, Ipv4Net, Label), Chain> = HashMap::new();
    let mut latest: HashMap<(bool, Ipv4Net), Label> = HashMap::new();
    // Labels of which something stands before a barrier: all about them stays.
    let mut fixed: HashSet<(bool, Ipv4Net, Label)> = HashSet::new();
    for (number, m) in all.iter().enumerate() {
        match m.what {
            What::KeepAlive => drop(&[(number, false)]),
            What::Mapping(fec, label) => {
                let key = (m.sent, fec, label);
                // Another label that it takes the place of without a withdrawal.
                if let Some(prior) = latest.insert((m.sent, fec), label).filter(|prior| *prior != label) {
                    let prior = (m.sent, fec, prior);
                    if fixed.contains(&prior) {
                        fixed.insert(key);
                    } else if let Some(chain) = chains.get_mut(&prior) {
                        let standing = chain.iter().rposition(|(_, withdraw)| *withdraw).map_or(0, |at| at + 1);
                        drop(&chain.split_off(standing));
                    }
                }
                if !fixed.contains(&key) {
                    let chain = chains.entry(key).or_default();
                    if !chain.iter().any(|(_, withdraw)| *withdraw) {
                        drop(chain);
                        chain.clear();
                    }
                    chain.push((number, false));
                }
            }
            What::Withdraw(fec, label) => {
                if let Some(chain) = chains.get_mut(&(m.sent, fec, label)) {
                    chain.push((number, true));
                }
            }
            What::Release(fec, label) => {
                let giver = !m.sent;
                let Some(chain) = chains.get_mut(&(giver, fec, label)) else { continue };
                if let Some(withdraw) = chain.iter().position(|(_, withdraw)| *withdraw) {
                    drop(&chain[..=withdraw]);
                    drop(&[(number, false)]);
                    chain.drain(..=withdraw);
                } else if latest.get(&(giver, fec)).is_some_and(|l| *l != label) {
                    // Of one whose place was taken.
                    drop(&[(number, false)]);
                } else {
                    chain.push((number, false));
                }
                if chain.is_empty() {
                    chains.remove(&(giver, fec, label));
                }
            }
            What::Other => {}
            What::Barrier => {
                fixed.extend(chains.drain().map(|(key, _)| key));
            }
        }
    }
    keep
}

/// Appends messages of one side in as few PDUs as their lengths before allow.
fn write(to: &mut Session, mut run: &[&Told]) -> Option<()> {
    let max = run.iter().map(|m| m.max).max()?;
    while let Some(first) = run.first() {
        let (mut taken, mut bytes) = (0, first.head.to_vec());
        while let Some(next) = run.get(taken).filter(|m| bytes.len() + m.bytes.len() <= max) {
            bytes.extend_from_slice(next.bytes);
            taken += 1;
        }
        let length = u16::try_from(bytes.len() - UNCOUNTED).ok()?;
        bytes.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
        to.push(first.sent, &bytes);
        run = run.get(taken.max(1)..)?;
    }
    Some(())
}
