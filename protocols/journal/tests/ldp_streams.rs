//! LDP's streams lead to the same labels after they were shortened.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

use edgeplex_journal::{Opened, Protocol, Record, Session, SessionId, State, TcpOpened};
use edgeplex_ldp::packet::{
    Capabilities, Composer, FecElement, Initialization, LabelMessage, LdpId, MAX_PDU, Mapping, Message, Status, frame,
};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::{collections::BTreeMap, net::Ipv4Addr};

const ID: SessionId = SessionId(1);
type Key = (bool, Ipv4Net);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// By us or by the neighbour.
    Map {
        by: bool,
        fec: u8,
        label: u8,
    },
    Withdraw {
        by: bool,
        fec: u8,
    },
    /// Of what was taken back; or of what still stands.
    Release {
        by: bool,
        nth: usize,
        unasked: bool,
    },
    KeepAlive(bool),
    Address(bool),
    /// May mean any label: nothing before it may go.
    Request(bool),
    WithdrawAll(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 0..5_u8, 0..4_u8).prop_map(|(by, fec, label)| Step::Map { by, fec, label }),
        4 => (any::<bool>(), 0..5_u8).prop_map(|(by, fec)| Step::Withdraw { by, fec }),
        5 => (any::<bool>(), 0..6_usize, prop::bool::weighted(0.2)).prop_map(|(by, nth, unasked)| Step::Release { by, nth, unasked }),
        2 => any::<bool>().prop_map(Step::KeepAlive),
        1 => any::<bool>().prop_map(Step::Address),
        1 => prop_oneof![any::<bool>().prop_map(Step::Request), any::<bool>().prop_map(Step::WithdrawAll)],
    ]
}

fn fec(n: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 0, n, 0), 24).unwrap()
}

/// What both sides know of labels, as the engine keeps it.
#[derive(Debug, Default, Clone, PartialEq)]
struct Labels {
    /// By giver: what the other side may use.
    remote: BTreeMap<Key, Label>,
    /// What the giver believes is held, or released unasked.
    given: BTreeMap<Key, (Label, bool)>,
    /// Taken back, and not released yet: so often.
    withdrawn: BTreeMap<(Key, Label), u32>,
    others: Vec<(bool, Message)>,
}

impl Labels {
    fn hear(&mut self, by: bool, message: &Message) {
        let one = |fecs: &[FecElement]| if let [FecElement::Prefix(p)] = fecs { Some(*p) } else { None };
        match message {
            Message::KeepAlive => {}
            Message::LabelMapping(m) => {
                let key = (by, one(&m.fecs).unwrap());
                self.remote.insert(key, m.label);
                self.given.insert(key, (m.label, true));
            }
            Message::LabelWithdraw(m) => match one(&m.fecs) {
                Some(p) => {
                    let (key, label) = ((by, p), m.label.unwrap());
                    if self.remote.get(&key) == Some(&label) {
                        self.remote.remove(&key);
                    }
                    if self.given.get(&key).is_some_and(|(l, _)| *l == label) {
                        self.given.remove(&key);
                    }
                    *self.withdrawn.entry((key, label)).or_default() += 1;
                }
                None => {
                    self.remote.retain(|(giver, _), _| *giver != by);
                    let gone = self.given.iter().filter(|((giver, _), _)| *giver == by).map(|(key, (label, _))| (*key, *label));
                    gone.for_each(|gone| *self.withdrawn.entry(gone).or_default() += 1);
                    self.given.retain(|(giver, _), _| *giver != by);
                    self.others.push((by, message.clone()));
                }
            },
            Message::LabelRelease(m) => {
                let (key, label) = ((!by, one(&m.fecs).unwrap()), m.label.unwrap());
                if let Some(times) = self.withdrawn.get_mut(&(key, label)) {
                    *times -= 1;
                    self.withdrawn.retain(|_, times| *times > 0);
                } else if let Some(given) = self.given.get_mut(&key).filter(|(l, _)| *l == label) {
                    given.1 = false;
                }
            }
            other => self.others.push((by, other.clone())),
        }
    }

    /// The message of a step, if it makes sense now.
    fn message(&self, step: Step) -> Option<(bool, Message)> {
        let prefix = |p| vec![FecElement::Prefix(p)];
        Some(match step {
            Step::Map { by, fec: n, label } => {
                let label = Label::try_from(100 + u32::from(label)).unwrap();
                (by, Message::LabelMapping(Mapping { fecs: prefix(fec(n)), label, request_id: None }))
            }
            Step::Withdraw { by, fec: n } => {
                let (label, _) = self.given.get(&(by, fec(n)))?;
                (by, Message::LabelWithdraw(LabelMessage { fecs: prefix(fec(n)), label: Some(*label) }))
            }
            Step::Release { by, nth, unasked } => {
                let theirs = |(giver, _): &Key| *giver != by;
                let ((_, p), label) = if unasked {
                    self.given.iter().filter(|(key, _)| theirs(key)).map(|(key, (label, _))| (*key, *label)).nth(nth)?
                } else {
                    self.withdrawn.keys().filter(|(key, _)| theirs(key)).copied().nth(nth)?
                };
                (by, Message::LabelRelease(LabelMessage { fecs: prefix(p), label: Some(label) }))
            }
            Step::KeepAlive(by) => (by, Message::KeepAlive),
            Step::Address(by) => (by, Message::Address(vec![Ipv4Addr::new(192, 0, 2, 7)])),
            Step::Request(by) => (by, Message::LabelRequest(prefix(fec(1)))),
            Step::WithdrawAll(by) => (by, Message::LabelWithdraw(LabelMessage { fecs: vec![FecElement::Wildcard], label: None })),
        })
    }
}

fn lsr(by: bool) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, if by { 1 } else { 2 })
}

fn initialization(by: bool) -> Message {
    Message::Initialization(Initialization {
        version: 1,
        keepalive_s: 30,
        downstream_on_demand: false,
        loop_detection: false,
        path_vector_limit: 0,
        max_pdu: MAX_PDU,
        receiver: LdpId { lsr_id: lsr(!by), label_space: 0 },
        fault_tolerance: None,
        capabilities: Capabilities::default(),
    })
}

fn pdu(by: bool, messages: &[Message]) -> Vec<u8> {
    let mut composer = Composer::new(lsr(by), MAX_PDU);
    messages.iter().zip(1..).for_each(|(m, id)| composer.push(id, m));
    composer.take()
}

/// What a session's records say, in their order, and what is left of a PDU on either side.
fn heard(state: &State) -> (Labels, BTreeMap<bool, Vec<u8>>) {
    let (mut labels, mut rest) = (Labels::default(), BTreeMap::<bool, Vec<u8>>::new());
    for record in state.records() {
        let (by, bytes) = match &record {
            Record::Sent(_, b) => (true, b),
            Record::Received(_, b) => (false, b),
            _ => continue,
        };
        let stream = rest.entry(by).or_default();
        stream.extend_from_slice(bytes);
        while let Some(pdu) = frame(stream, MAX_PDU).unwrap() {
            for raw in pdu.messages() {
                labels.hear(by, &Message::decode(&raw.unwrap()).unwrap().unwrap());
            }
            let length = pdu.wire_len();
            stream.drain(..length);
        }
    }
    (labels, rest)
}

fn session(state: &State) -> &Session {
    &state.sessions()[&ID]
}

fn opened() -> Record {
    let (local, remote) = ("192.0.2.1:646".parse().unwrap(), "192.0.2.2:9000".parse().unwrap());
    Record::Open(ID, Box::new(Opened { protocol: Protocol::Ldp, local, remote, passive: true, tcp: TcpOpened::default() }))
}

fn acked(sent: u64) -> Record {
    Record::Acked { session: ID, sent, window: vec![], timestamp: 0, at_ms: 0 }
}

fn opening() -> Vec<(bool, Vec<u8>)> {
    [true, false].map(|by| (by, [pdu(by, &[initialization(by)]), pdu(by, &[Message::KeepAlive])].concat())).to_vec()
}

fn state_of(said: &[(bool, Vec<u8>)], unacked: u64) -> State {
    let mut state = State::new(1 << 30);
    state.apply(&opened()).unwrap();
    let mut sent = 0;
    for (by, bytes) in said {
        sent += if *by { bytes.len() as u64 } else { 0 };
        state.apply(&if *by { Record::Sent(ID, bytes.clone()) } else { Record::Received(ID, bytes.clone()) }).unwrap();
    }
    state.apply(&acked(sent.saturating_sub(unacked).max(opening()[0].1.len() as u64))).unwrap();
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_same_labels_stand_after_shortening(
        steps in prop::collection::vec((step(), prop::bool::weighted(0.6)), 0..80),
        cut in 0..30_usize,
        unacked in 0..100_u64,
    ) {
        let mut labels = Labels::default();
        let mut said = opening();
        let mut packed: (bool, Vec<Message>) = (true, vec![]);
        for (step, own) in steps {
            let Some((by, message)) = labels.message(step) else { continue };
            labels.hear(by, &message);
            if (own || by != packed.0) && !packed.1.is_empty() {
                said.push((packed.0, pdu(packed.0, &std::mem::take(&mut packed.1))));
            }
            packed.0 = by;
            packed.1.push(message);
        }
        said.push((packed.0, pdu(packed.0, &packed.1)));
        let partial = pdu(false, &[Message::Address(vec![Ipv4Addr::LOCALHOST; 4])]);
        said.push((false, partial[..cut].to_vec()));

        let mut state = state_of(&said, unacked);
        let before = heard(&state);
        let old = session(&state).clone();
        state.shorten();
        prop_assert_eq!(&heard(&state), &before);
        let new = session(&state);
        prop_assert!(new.sent.len() <= old.sent.len() && new.received.len() <= old.received.len());
        prop_assert_eq!(new.opened.tcp.sent_skipped, (old.sent.len() - new.sent.len()) as u64);
        prop_assert_eq!(new.opened.tcp.received_skipped, (old.received.len() - new.received.len()) as u64);
        let tail = usize::try_from(unacked).unwrap().min(old.sent.len() - opening()[0].1.len());
        prop_assert!(new.sent.ends_with(&old.sent[old.sent.len() - tail..]));
        state.shorten();
        prop_assert_eq!(heard(&state), before);
    }
}

#[test]
fn a_year_of_churn_costs_nothing() {
    let mut said = opening();
    let label = Label::try_from(16).unwrap();
    let fecs = vec![FecElement::Prefix(fec(1))];
    for _ in 0..5000 {
        said.push((true, pdu(true, &[Message::LabelMapping(Mapping { fecs: fecs.clone(), label, request_id: None })])));
        said.push((true, pdu(true, &[Message::LabelWithdraw(LabelMessage { fecs: fecs.clone(), label: Some(label) })])));
        said.push((false, pdu(false, &[Message::LabelRelease(LabelMessage { fecs: fecs.clone(), label: Some(label) })])));
        said.push((false, pdu(false, &[Message::KeepAlive])));
        said.push((true, pdu(true, &[Message::KeepAlive])));
    }
    let mut state = state_of(&said, 0);
    state.shorten();
    let opening: usize = opening().iter().map(|(_, b)| b.len()).sum();
    assert_eq!(session(&state).sent.len() + session(&state).received.len(), opening);
}

#[test]
fn what_ends_a_session_stays() {
    let bad = pdu(
        false,
        &[Message::Notification(edgeplex_ldp::packet::Notification {
            status: Status::SHUTDOWN,
            message_id: 0,
            message_kind: 0,
            fec: None,
        })],
    );
    let mut said = opening();
    said.push((false, bad.clone()));
    said.push((false, b"no LDP at all, but it came".to_vec()));
    let mut state = state_of(&said, 0);
    state.shorten();
    assert!(session(&state).received.ends_with(b"no LDP at all, but it came"));
}
