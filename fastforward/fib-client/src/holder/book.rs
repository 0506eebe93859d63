//! What was said of each flow, and what of that FastForward is owed.

use edgeplex_ff_fib_api::{Flow, HoldOp};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy)]
struct Entry {
    bounds: Option<(u32, u32)>,
    state: State,
    /// What was said last of it: the number of that. FastForward is owed it while it is above `told`.
    said: u64,
    told: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Fenced,
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    flows: BTreeMap<Flow, Entry>,
    /// Flows that something may be owed of, each once.
    owed: Vec<Flow>,
    said: u64,
    /// All up to this one were taken.
    taken: u64,
    /// All living flows are here; and whether that was told.
    known: Option<bool>,
    /// The next batch is the first that this FastForward, or this connection, hears.
    anew: bool,
}

/// Operations to send, and the last thing said that is among them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) ops: Vec<HoldOp>,
    pub(super) said: u64,
}

/// RFC 1982 §3.2, for numbers less than 2^31 apart.
fn later(a: u32, b: u32) -> u32 {
    if b.wrapping_sub(a).cast_signed() > 0 { b } else { a }
}

impl Book {
    pub(super) fn upto(&mut self, flow: Flow, seq: u32, ack: u32) {
        self.change(flow, |e| {
            e.bounds = match e.bounds {
                // Another connection between the same ports.
                _ if e.state == State::Over => Some((seq, ack)),
                Some((s, a)) => Some((later(s, seq), later(a, ack))),
                None => Some((seq, ack)),
            };
            e.state = State::Open;
        });
    }

    pub(super) fn fence(&mut self, flow: Flow) {
        self.change(flow, |e| e.state = State::Fenced);
    }

    pub(super) fn over(&mut self, flow: Flow) {
        self.change(flow, |e| e.state = State::Over);
    }

    pub(super) fn known(&mut self) {
        self.said += 1;
        self.known = Some(false);
    }

    fn change(&mut self, flow: Flow, how: impl FnOnce(&mut Entry)) {
        self.said += 1;
        let e = self.flows.entry(flow).or_insert(Entry { bounds: None, state: State::Open, said: 0, told: 0 });
        how(e);
        if e.said <= e.told {
            self.owed.push(flow);
        }
        e.said = self.said;
    }

    pub(super) fn said(&self) -> u64 {
        self.said
    }

    /// FastForward knows nothing: everything is owed again.
    pub(super) fn owe_all(&mut self) {
        self.flows.values_mut().for_each(|e| e.told = 0);
        self.owed = self.flows.keys().copied().collect();
        self.known = self.known.map(|_| false);
        self.anew = true;
    }

    /// The next operations owed, at most `max`.
    pub(super) fn take(&mut self, max: usize) -> Option<Batch> {
        // Two at most of each flow, and two more.
        let from = self.owed.len().saturating_sub((max.saturating_sub(2) / 2).max(1));
        let flows = self.owed.split_off(from);
        let mut ops = Vec::with_capacity(flows.len());
        for flow in flows {
            let Some(e) = self.flows.get_mut(&flow) else { continue };
            e.told = e.said;
            let upto = e.bounds.map(|(seq, ack)| HoldOp::Upto { flow, seq, ack });
            match e.state {
                State::Open => ops.extend(upto),
                State::Fenced => ops.push(HoldOp::Fence { flow }),
                // What was said before it counts: a FIN that a former process left behind is known by it.
                State::Over => ops.extend(upto.into_iter().chain([HoldOp::Over { flow }])),
            }
        }
        if self.owed.is_empty() && self.known == Some(false) {
            self.known = Some(true);
            ops.push(HoldOp::Known);
        }
        // Only with the last of them everything before was told.
        let said = if self.owed.is_empty() { self.said } else { self.taken };
        if !ops.is_empty() && std::mem::take(&mut self.anew) {
            ops.insert(0, HoldOp::Anew);
        }
        (!ops.is_empty()).then_some(Batch { ops, said })
    }

    /// A batch was taken: returns up to where everything is. Connections that are over, and nothing said since, are forgotten.
    pub(super) fn taken(&mut self, said: u64) -> u64 {
        self.taken = self.taken.max(said);
        let taken = self.taken;
        self.flows.retain(|_, e| e.state != State::Over || e.said > e.told || e.said > taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u16) -> Flow {
        Flow { local: ([10, 0, 0, 1], 179).into(), remote: ([10, 0, 0, 2], n).into() }
    }

    fn upto(n: u16, seq: u32, ack: u32) -> HoldOp {
        HoldOp::Upto { flow: flow(n), seq, ack }
    }

    #[test]
    fn the_newest_of_each_flow_is_owed_once() {
        let mut b = Book::default();
        b.upto(flow(1), u32::MAX, 7);
        b.upto(flow(1), 5, 3);
        b.upto(flow(2), 1, 1);
        b.fence(flow(2));
        let batch = b.take(512).unwrap();
        assert_eq!((batch.ops, batch.said), (vec![upto(1, 5, 7), HoldOp::Fence { flow: flow(2) }], 4));
        assert_eq!((b.take(512), b.taken(batch.said)), (None, 4));
        b.upto(flow(2), 2, 2);
        assert_eq!(b.take(512).unwrap().ops, [upto(2, 2, 2)], "the fence has ended");
    }

    #[test]
    fn that_all_are_known_is_said_after_the_last_of_them_and_again_after_a_reconnect() {
        let mut b = Book::default();
        (0..3).for_each(|n| b.upto(flow(n), 1, 1));
        b.known();
        for _ in 0..2 {
            b.owe_all();
            let ops: Vec<HoldOp> = std::iter::from_fn(|| b.take(4)).flat_map(|batch| batch.ops).collect();
            assert_eq!((ops.len(), ops.first(), ops.last()), (5, Some(&HoldOp::Anew), Some(&HoldOp::Known)));
        }
        assert_eq!(b.said(), 4);
    }

    #[test]
    fn everything_is_owed_again_after_a_reconnect_and_only_the_last_batch_settles() {
        let mut b = Book::default();
        (0..10).for_each(|n| b.upto(flow(n), 1, 1));
        let said = b.said();
        while let Some(batch) = b.take(4) {
            let before = b.owed.len();
            assert_eq!(b.taken(batch.said), if before == 0 { said } else { 0 });
        }
        b.owe_all();
        assert_eq!(b.take(512).unwrap().ops.len(), 11);
    }

    #[test]
    fn a_connection_that_is_over_is_forgotten_when_that_was_taken_and_not_before() {
        let mut b = Book::default();
        b.upto(flow(1), 9, 9);
        b.over(flow(1));
        let batch = b.take(512).unwrap();
        assert_eq!(batch.ops, [upto(1, 9, 9), HoldOp::Over { flow: flow(1) }]);
        b.owe_all();
        let batch = b.take(512).unwrap();
        assert_eq!(batch.ops.len(), 3, "it was not taken");
        // The ports are used again while that is on its way.
        b.upto(flow(1), 4, 4);
        b.taken(batch.said);
        assert_eq!(b.take(512).unwrap().ops, [upto(1, 4, 4)]);
        b.over(flow(1));
        let batch = b.take(512).unwrap();
        b.taken(batch.said);
        assert!(b.flows.is_empty());
    }
}
