//! What is kept is bounded, and what gives way is what matters least.

use super::*;

#[test]
fn a_flow_holds_so_many_segments_and_all_flows_so_many_together() {
    let mut b = Bench::with_room(MAX_OF_FLOW + 10);
    b.upto(CE, 0, 0);
    b.upto(CE6, 0, 0);
    let data = |n: usize| u32::try_from(n).unwrap() * 10;
    for peer in [CE, CE6] {
        for n in 0..MAX_OF_FLOW + 6 {
            assert!(!b.leaves(&peer.out(ACK, data(n), 0, 10)));
        }
    }
    let waiting: Vec<_> = b.holds.show().iter().map(|r| (r.waiting, r.dropped)).collect();
    assert_eq!(waiting, [(64, 6), (10, 60)]);
    assert_eq!(b.dropped(), drops(&[(Drop::HoldFull, 66)]));
    assert_eq!(b.upto(CE6, data(5), 0).len(), 5);
    assert!(!b.leaves(&CE6.out(ACK, 5000, 0, 10)), "there is room again");
    assert_eq!(b.holds.show()[1].waiting, 6);
}

#[test]
fn the_oldest_acknowledgement_waits_for_its_time_and_the_newest_is_kept_too() {
    let mut b = Bench::new();
    b.upto(CE, 100, 0);
    for ack in 1..=1000 {
        assert!(!b.leaves(&CE.out(ACK, 100, ack, 0)));
    }
    assert_eq!(b.holds.show()[0].waiting, 64);
    assert_eq!(b.upto(CE, 100, 1), [CE.out(ACK, 100, 1, 0)]);
    let rest = b.upto(CE, 100, 1000);
    assert_eq!((rest.len(), rest.last()), (63, Some(&CE.out(ACK, 100, 1000, 0))));
    assert_eq!(b.dropped(), drops(&[(Drop::HoldRepeated, 936)]));
}

#[test]
fn of_repetitions_one_is_held() {
    let mut b = Bench::new();
    b.upto(CE, 100, 50);
    let first = CE.out(ACK, 100, 50, 10);
    assert!(!b.leaves(&first) && !b.leaves(&CE.out(ACK, 100, 60, 10)) && !b.leaves(&first));
    // A window update says something new.
    let (small, mut large) = (CE.out(ACK, 110, 60, 0), CE.out(ACK, 110, 60, 0));
    large[14 + 20 + 14] = 0xff;
    assert!(!b.leaves(&small) && !b.leaves(&large));
    assert!(!b.leaves(&CE.out(ACK | FIN, 110, 60, 0)) && !b.leaves(&CE.out(ACK | FIN, 110, 60, 0)));
    assert_eq!(b.holds.show()[0].waiting, 3);
    assert_eq!(b.upto(CE, 110, 50), [first]);
    assert_eq!(b.upto(CE, 110, 60), [large]);
    assert_eq!(b.dropped(), drops(&[(Drop::HoldRepeated, 4)]));
}

#[test]
fn strangers_displace_no_guarded_session_and_a_fence_goes_last() {
    let mut b = Bench::new();
    let peer = |n: u16| Peer { remote: ("10.9.9.9", n), ..CE };
    b.tell(HoldOp::Fence { flow: peer(1).flow() });
    b.upto(CE, 100, 500);
    assert!(!b.leaves(&CE.out(ACK, 100, 500, 10)));
    // SYNs of a flood, which the kernel answers.
    for n in 2..20_000 {
        assert!(b.leaves(&peer(n).out(SYN | ACK, 1, 1, 0)));
        assert!(!b.leaves(&peer(n).out(ACK, 2, 9, 10)));
    }
    assert_eq!((b.holds.flows.len(), b.holds.show().len()), (MAX_FLOWS, 2));
    assert_eq!(b.holds.waiting, b.holds.flows.values().map(|e| e.queue.len()).sum::<usize>());
    assert_eq!(b.upto(CE, 110, 500).len(), 1);
    b.tell(HoldOp::Known);
    // More sessions than there is room for: the one heard of longest ago is unknown again, and stands still.
    for n in 2..1000 {
        b.upto(peer(n), 1, 1);
    }
    assert!(b.holds.show().iter().any(|r| r.fenced) && !b.leaves(&peer(1).out(SYN, 1, 0, 0)));
    assert!(!b.leaves(&CE.out(ACK, 110, 500, 0)) && !b.leaves(&CE.out(RST, 110, 0, 0)));
    assert!(b.leaves(&peer(999).out(ACK, 1, 1, 0)));
}

#[test]
fn times_are_of_what_left() {
    let mut b = Bench::new();
    b.upto(CE, 0, 0);
    assert!(!b.leaves(&CE.out(ACK, 0, 0, 10)));
    b.now += Duration::from_micros(350);
    assert!(!b.leaves(&CE.out(ACK, 10, 0, 10)));
    b.now += Duration::from_micros(650);
    b.upto(CE, 20, 0);
    assert_eq!((b.holds.show()[0].longest_us, b.holds.show()[0].held), (1000, 2));
}
