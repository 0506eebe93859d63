//! Whatever the kernel sends and the daemon says, in any order: nothing leaves that a successor would not know.

use super::*;
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Out { peer: usize, flags: u8, seq: u32, ack: u32, len: usize },
    In { peer: usize, flags: u8, seq: u32 },
    Upto { peer: usize, seq: u32, ack: u32 },
    Fence(usize),
    Over(usize),
    Known,
}

const PEERS: [Peer; 2] = [CE, CE6];

/// Near to each other, and near to where the numbers turn.
fn number() -> impl Strategy<Value = u32> {
    (0u32..200).prop_map(|n| n.wrapping_sub(100))
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        12 => Just(ACK),
        1 => Just(ACK | FIN),
        1 => Just(RST),
        1 => Just(RST | ACK),
        1 => Just(SYN),
        1 => Just(SYN | ACK),
        1 => any::<u8>()
    ];
    let peer = 0..PEERS.len();
    prop_oneof![
        10 => (peer.clone(), flags.clone(), number(), number(), 0usize..50)
            .prop_map(|(peer, flags, seq, ack, len)| Step::Out { peer, flags, seq, ack, len: if flags & SYN != 0 { 0 } else { len } }),
        3 => (peer.clone(), flags, number()).prop_map(|(peer, flags, seq)| Step::In { peer, flags, seq }),
        8 => (peer.clone(), number(), number()).prop_map(|(peer, seq, ack)| Step::Upto { peer, seq, ack }),
        1 => peer.clone().prop_map(Step::Fence),
        1 => peer.prop_map(Step::Over),
        1 => Just(Step::Known),
    ]
}

/// What the test remembers of a flow, by the promises alone.
#[derive(Debug, Default, Clone, Copy)]
struct Promise {
    bounds: Option<(u32, u32)>,
    fenced: bool,
    over: bool,
    /// Acknowledgements that complete a handshake.
    complete: Option<u32>,
}

impl Promise {
    /// `known`: all living sessions were told.
    fn allows(&self, frame: &[u8], known: bool) -> bool {
        let Seen::Tcp(s) = parse(frame) else { return false };
        if self.fenced {
            return false;
        }
        if self.over || s.has(SYN) && s.flags & (FIN | RST) == 0 {
            return true;
        }
        match self.bounds {
            Some((seq, ack)) => {
                s.flags & (FIN | RST) == 0 && seq.wrapping_sub(s.end) < 1 << 31 && (!s.has(ACK) || ack.wrapping_sub(s.ack) < 1 << 31)
            }
            None => s.has(RST) && known || s.has(RST | ACK) && s.seq == 0 && s.len == 0 || s.is_pure_ack() && Some(s.ack) == self.complete,
        }
    }
}

fn later(old: u32, new: u32) -> u32 {
    if new.wrapping_sub(old) < 1 << 31 { new } else { old }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn nothing_leaves_before_its_time(steps in vec(step(), 0..120), room in 0usize..40) {
        let mut b = Bench::with_room(room);
        let mut promises = [Promise::default(); 2];
        let mut known = false;
        // Frames put in by flow; none comes out twice.
        let mut inside: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for s in steps {
            match s {
                Step::Out { peer, flags, seq, ack, len } => {
                    let (frame, p) = (PEERS[peer].out(flags, seq, ack, len), &mut promises[peer]);
                    let begins = flags & (SYN | FIN | RST) == SYN && !p.fenced;
                    if begins {
                        *p = Promise { complete: (flags & ACK != 0).then_some(ack), ..Promise::default() };
                    }
                    let left = b.leaves(&frame);
                    prop_assert_eq!(left, p.allows(&frame, known), "{:?} {:?}", p, s);
                    if !left {
                        *inside.entry(frame).or_default() += 1;
                    }
                }
                Step::In { peer, flags, seq } => {
                    let p = &mut promises[peer];
                    prop_assert_eq!(b.take(&PEERS[peer].back(flags, seq, 0, 0)), !p.fenced);
                    // Only an attempt of ours waits for an answer.
                    let met = b.holds.flows.contains_key(&Key::from(&PEERS[peer].flow()));
                    if flags & (SYN | ACK) == SYN | ACK && p.bounds.is_none() && !p.over && !p.fenced && met {
                        p.complete = Some(seq.wrapping_add(1));
                    }
                }
                Step::Upto { peer, seq, ack } => {
                    let p = &mut promises[peer];
                    let bounds = p.bounds.map_or((seq, ack), |(s, a)| (later(s, seq), later(a, ack)));
                    *p = Promise { bounds: Some(bounds), ..Promise::default() };
                    for frame in b.upto(PEERS[peer], seq, ack) {
                        prop_assert!(p.allows(&frame, known), "{:?} {:?}", p, frame);
                        let n = inside.get_mut(&frame).filter(|n| **n > 0);
                        prop_assert!(n.is_some(), "it was not inside");
                        n.into_iter().for_each(|n| *n -= 1);
                    }
                }
                Step::Fence(peer) => {
                    promises[peer].fenced = true;
                    promises[peer].over = false;
                    promises[peer].complete = None;
                    let left = b.tell(HoldOp::Fence { flow: PEERS[peer].flow() });
                    prop_assert!(left.is_empty());
                }
                Step::Known => {
                    known = true;
                    let left = b.tell(HoldOp::Known);
                    prop_assert!(left.is_empty());
                }
                Step::Over(peer) => {
                    promises[peer] = Promise { over: true, ..Promise::default() };
                    b.tell(HoldOp::Over { flow: PEERS[peer].flow() });
                }
            }
            let queued: usize = b.holds.flows.values().map(|e| e.queue.len()).sum();
            prop_assert_eq!(b.holds.waiting, queued);
            prop_assert!(queued <= room);
            // What is held is held for a reason.
            for (peer, p) in PEERS.iter().zip(&promises) {
                let held = b.holds.flows.get(&Key::from(&peer.flow()));
                prop_assert!(held.is_none_or(|e| e.queue.iter().all(|w| !p.allows(&w.item, known) || p.bounds.is_none())));
            }
        }
    }

    #[test]
    fn any_bytes_are_something(bytes in vec(any::<u8>(), 0..120)) {
        let mut b = Bench::new();
        b.put(&bytes);
        b.take(&bytes);
    }
}
