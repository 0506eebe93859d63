//! Each rule of the hold by itself; what holds in any order of things is in [`any_order`].

mod any_order;
mod bounds;
mod hidden;

use super::segment::{ACK, FIN, RST, SYN};
use super::*;
use edgeplex_ff_packet::{ethernet, ipv4, ipv6};
use edgeplex_types::MacAddr;

/// One end of a connection with us as the other.
#[derive(Debug, Clone, Copy)]
struct Peer {
    local: (&'static str, u16),
    remote: (&'static str, u16),
}

const CE: Peer = Peer { local: ("192.168.1.1", 179), remote: ("192.168.1.2", 40000) };
const CE6: Peer = Peer { local: ("2001:db8::1", 40001), remote: ("2001:db8::2", 179) };

impl Peer {
    fn flow(self) -> api::Flow {
        let at = |(a, p): (&str, u16)| SocketAddr::new(a.parse().unwrap(), p);
        api::Flow { local: at(self.local), remote: at(self.remote) }
    }

    /// A frame of ours to it.
    fn out(self, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
        ip_frame(self.local.0, self.remote.0, &tcp(self.local.1, self.remote.1, flags, seq, ack, len))
    }

    /// A frame of its to us.
    fn back(self, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
        Self { local: self.remote, remote: self.local }.out(flags, seq, ack, len)
    }
}

fn tcp(source: u16, destination: u16, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
    let mut b = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    b.extend(seq.to_be_bytes());
    b.extend(ack.to_be_bytes());
    // With 12 bytes of options, as timestamps take.
    b.extend([8 << 4, flags, 1, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    b.resize(b.len() + len, 7);
    b
}

fn ip_frame(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let (kind, header) = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total_len = u16::try_from(20 + payload.len()).unwrap();
            let h = ipv4::Header { tos: 0xc0, total_len, identification: 1, ttl: 1, protocol: ipv4::TCP, source, destination };
            (ethernet::IPV4, h.to_bytes().to_vec())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let payload_len = payload.len().try_into().unwrap();
            let h = ipv6::Header { traffic_class: 0xc0, payload_len, next_header: ipv4::TCP, hop_limit: 1, source, destination };
            (ethernet::IPV6, h.to_bytes().to_vec())
        }
        _ => panic!("addresses of two kinds"),
    };
    [&ethernet::header(MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 1]), kind)[..], &header, payload].concat()
}

/// The hold with what its owner would do.
struct Bench {
    holds: Holds<Vec<u8>>,
    counts: Counts,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with_room(1000)
    }

    fn with_room(room: usize) -> Self {
        Self { holds: Holds::new(vec![646, 179], room), counts: Counts::default(), now: Instant::now() }
    }

    /// `Some` if it leaves at once; `None` if it is held or dropped.
    fn put(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        match self.holds.outgoing(frame, &mut self.counts) {
            Verdict::Pass => Some(frame.to_vec()),
            Verdict::Hold(s) => {
                self.holds.keep(self.now, s, frame.to_vec(), &mut self.counts);
                None
            }
            Verdict::Drop(reason) => {
                self.counts.drop(reason);
                None
            }
        }
    }

    fn leaves(&mut self, frame: &[u8]) -> bool {
        self.put(frame).is_some()
    }

    fn take(&mut self, frame: &[u8]) -> bool {
        self.holds.incoming(frame).is_ok()
    }

    fn tell(&mut self, op: HoldOp) -> Vec<Vec<u8>> {
        let mut out = vec![];
        self.holds.apply(self.now, &op, &mut out, &mut self.counts);
        out
    }

    fn upto(&mut self, peer: Peer, seq: u32, ack: u32) -> Vec<Vec<u8>> {
        self.tell(HoldOp::Upto { flow: peer.flow(), seq, ack })
    }

    fn dropped(&self) -> Vec<(String, u64)> {
        self.counts.show().drops
    }
}

fn drops(rows: &[(Drop, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|(d, n)| (d.name().to_owned(), *n)).collect()
}

#[test]
fn the_handshake_of_a_connection_to_us_passes_and_nothing_more() {
    for peer in [CE, CE6] {
        let mut b = Bench::new();
        assert!(b.take(&peer.back(SYN, 5000, 0, 0)));
        assert!(b.leaves(&peer.out(SYN | ACK, 100, 5001, 0)));
        assert!(b.leaves(&peer.out(SYN | ACK, 100, 5001, 0)), "repeated");
        assert!(b.leaves(&peer.out(ACK, 101, 5001, 0)));
        // Its OPEN came in, and is acknowledged before the daemon has read it.
        assert!(!b.leaves(&peer.out(ACK, 101, 5030, 0)));
        // Ours, before anybody has said how far it may go.
        assert!(!b.leaves(&peer.out(ACK, 101, 5001, 29)));
        let open = peer.out(ACK, 101, 5001, 29);
        assert_eq!(b.upto(peer, 130, 5001), [open]);
        assert_eq!(b.upto(peer, 130, 5030), [peer.out(ACK, 101, 5030, 0)]);
    }
}

#[test]
fn the_handshake_of_a_connection_from_us_passes_when_it_was_answered() {
    let mut b = Bench::new();
    assert!(b.leaves(&CE6.out(SYN, u32::MAX, 0, 0)));
    assert!(!b.leaves(&CE6.out(ACK, 0, 78, 0)), "nobody has said 77");
    assert!(b.take(&CE6.back(SYN | ACK, 77, 0, 0)));
    assert!(b.leaves(&CE6.out(ACK, 0, 78, 0)));
    assert!(!b.leaves(&CE6.out(ACK, 0, 79, 0)));
    assert!(!b.leaves(&CE6.out(ACK, 0, 78, 1)));
}

#[test]
fn segments_leave_within_the_bounds_over_the_turn_of_numbers_too() {
    let base = [1000u32, u32::MAX - 20];
    for (seq, ack) in base.iter().flat_map(|s| base.map(|a| (*s, a))) {
        let at = |by: i64, of: u32| u32::try_from((i64::from(of) + by).rem_euclid(1 << 32)).unwrap();
        // seq, ack, length, flags, whether it leaves
        let table = [
            (0, 0, 0, ACK, true),
            (-1, 0, 1, ACK, true),
            (-100, -100, 100, ACK, true),
            (-100, 0, 101, ACK, false),
            (0, 0, 1, ACK, false),
            (1, 0, 0, ACK, false),
            (0, 1, 0, ACK, false),
            (-100, 1, 100, ACK, false),
            (-1, 0, 0, ACK, true),
            (-0x7fff_ffff, 0, 0, ACK, true),
            (-0x8000_0000, 0, 0, ACK, false),
            (-10, 0, 10, ACK | FIN, false),
            (-100, 0, 0, ACK | FIN, false),
            (0, 0, 0, RST, false),
            (-1, 0, 0, RST | ACK, false),
            (-10, 0, 5, 0, true),
            (0, 0, 0, SYN | FIN, false),
        ];
        for (s, a, len, flags, leaves) in table {
            let mut b = Bench::new();
            assert!(b.upto(CE, seq, ack).is_empty());
            assert_eq!(b.leaves(&CE.out(flags, at(s, seq), at(a, ack), len)), leaves, "{seq} {ack}: {s} {a} {len} {flags:#x}");
        }
    }
}

#[test]
fn bounds_only_grow_and_what_becomes_free_leaves_in_its_order() {
    let mut b = Bench::new();
    b.upto(CE, 100, 500);
    let [one, two, three] = [(100, 500, 50), (150, 510, 50), (200, 510, 50)].map(|(seq, ack, len)| CE.out(ACK, seq, ack, len));
    assert!(![&three, &one, &two].map(|f| b.leaves(f)).contains(&true));
    assert!(b.upto(CE, 90, 600).is_empty(), "the acknowledgement grows, the sequence number does not shrink");
    assert_eq!(b.upto(CE, 200, 100), [one, two]);
    assert!(b.leaves(&CE.out(ACK, 200, 600, 0)));
    assert_eq!(b.upto(CE, 250, 600), [three]);
    let row = &b.holds.show()[0];
    assert_eq!((row.seq, row.ack, row.fenced, row.waiting, row.held, row.dropped), (250, 600, false, 0, 3, 0));
    assert_eq!(b.dropped(), []);
}

#[test]
fn fin_waits_and_rst_goes_until_it_is_over() {
    let mut b = Bench::new();
    b.upto(CE, 100, 500);
    let fin = CE.out(ACK | FIN, 90, 500, 10);
    assert!(!b.leaves(&fin) && !b.leaves(&CE.out(RST | ACK, 101, 500, 0)) && !b.leaves(&CE.out(RST, 0, 0, 0)));
    assert!(!b.leaves(&CE.out(RST | ACK, 0, 500, 0)), "no answer to a SYN: the connection is there");
    assert_eq!(b.dropped(), drops(&[(Drop::HoldEnd, 3)]));
    assert_eq!(b.tell(HoldOp::Over { flow: CE.flow() }), std::slice::from_ref(&fin));
    assert!(b.leaves(&fin) && b.leaves(&CE.out(RST, 999, 0, 0)) && b.leaves(&CE.out(ACK, 999, 9999, 100)));
    assert!(b.holds.show().is_empty(), "guarded no more");
    // The same ports again.
    assert!(b.leaves(&CE.out(SYN | ACK, 7, 70, 0)) && !b.leaves(&CE.out(ACK, 8, 70, 10)) && !b.leaves(&CE.out(ACK | FIN, 8, 70, 0)));
    assert_eq!(b.upto(CE, 18, 70).len(), 1);
    assert_eq!(b.holds.show()[0].seq, 18, "nothing is left of the former bounds");
}

#[test]
fn a_fin_of_a_process_that_died_is_overtaken_by_its_successors_data() {
    let mut b = Bench::new();
    b.upto(CE, 100, 500);
    assert!(!b.leaves(&CE.out(ACK | FIN, 100, 500, 0)));
    assert!(!b.leaves(&CE.out(ACK, 100, 500, 19)), "data of the successor in its place");
    assert_eq!(b.upto(CE, 119, 500), [CE.out(ACK, 100, 500, 19)]);
    assert_eq!(b.dropped(), drops(&[(Drop::HoldEnd, 1)]));
    assert_eq!(b.tell(HoldOp::Over { flow: CE.flow() }), Vec::<Vec<u8>>::new());
}

#[test]
fn of_what_is_unknown_only_the_refusal_of_a_syn_passes_besides() {
    let mut b = Bench::new();
    assert!(b.leaves(&CE.out(RST | ACK, 0, 5001, 0)));
    assert!(!b.leaves(&CE.out(RST, 5001, 0, 0)), "it would end a session that a successor goes on with");
    assert!(!b.leaves(&CE.out(RST | ACK, 5001, 1, 0)));
    assert!(!b.leaves(&CE.out(ACK, 1, 1, 0)) && !b.leaves(&CE.out(ACK | FIN, 1, 1, 0)) && !b.leaves(&CE.out(ACK, 1, 1, 10)));
    assert!(b.take(&CE.back(ACK, 1, 1, 10)));
    assert_eq!(b.tell(HoldOp::Over { flow: CE.flow() }).len(), 3, "also of what was never known otherwise");
}

#[test]
fn a_fence_stops_both_ways_and_ends_with_new_bounds() {
    let mut b = Bench::new();
    b.upto(CE, 100, 500);
    b.upto(CE6, 100, 500);
    assert!(!b.leaves(&CE.out(ACK, 100, 500, 10)));
    assert!(b.tell(HoldOp::Fence { flow: CE.flow() }).is_empty());
    for flags in [ACK, SYN, SYN | ACK, RST, RST | ACK, ACK | FIN] {
        assert!(!b.leaves(&CE.out(flags, 0, 500, 0)), "{flags:#x}");
        assert!(!b.take(&CE.back(flags, 500, 100, 0)), "{flags:#x}");
    }
    assert!(b.leaves(&CE6.out(ACK, 100, 500, 0)) && b.take(&CE6.back(ACK, 500, 100, 9)), "another goes on");
    let row = &b.holds.show()[0];
    assert_eq!((row.fenced, row.seq, row.waiting, row.dropped), (true, 100, 0, 13));
    assert!(b.upto(CE, 90, 510).is_empty(), "what was held is gone: the kernel repeats it");
    assert!(b.leaves(&CE.out(ACK, 90, 510, 10)) && !b.leaves(&CE.out(ACK, 100, 510, 10)) && b.take(&CE.back(ACK, 510, 100, 9)));
    // One that nobody has met.
    b.tell(HoldOp::Fence { flow: api::Flow { local: "10.0.0.1:179".parse().unwrap(), remote: "10.0.0.2:5".parse().unwrap() } });
    assert!(!b.leaves(&Peer { local: ("10.0.0.1", 179), remote: ("10.0.0.2", 5) }.out(SYN | ACK, 1, 1, 0)));
}

#[test]
fn a_new_connection_between_the_same_ports_begins_anew() {
    let mut b = Bench::new();
    b.upto(CE, 100, 500);
    assert!(!b.leaves(&CE.out(ACK, 100, 500, 10)));
    // The daemon could not take the session over, and the neighbour has begun another.
    assert!(b.leaves(&CE.out(SYN | ACK, 3_000_000_000, 9, 0)));
    assert!(!b.leaves(&CE.out(ACK, 3_000_000_001, 20, 0)));
    assert_eq!(b.upto(CE, 3_000_000_001, 20).len(), 1);
    assert_eq!(b.dropped(), drops(&[(Drop::HoldEnd, 1)]));
}

#[test]
fn what_the_kernel_forwards_for_others_passes_and_its_own_does_not() {
    let mut b = Bench::new();
    let (own, other) = ("192.168.1.1", "192.168.7.7");
    b.holds = std::mem::replace(&mut b.holds, Holds::new(vec![], 0)).of(vec![own.parse().unwrap()]);
    let data = tcp(179, 40000, ACK, 100, 200, 5);
    assert!(b.leaves(&ip_frame(other, "192.168.1.2", &data)));
    assert!(!b.leaves(&ip_frame(own, "192.168.1.2", &data)));
    // A frame that cannot be looked into may be ours.
    let mut short = ip_frame(other, "192.168.1.2", &data);
    short.truncate(30);
    assert!(!b.leaves(&short));
}

#[test]
fn a_session_that_nobody_knows_is_refused_once_all_are_known() {
    let mut b = Bench::new();
    let (known, gone) = (CE, CE6);
    b.upto(known, 100, 100);
    assert!(!b.leaves(&gone.out(RST, 7, 0, 0)) && !b.leaves(&known.out(RST, 7, 0, 0)));
    b.tell(HoldOp::Known);
    assert!(b.leaves(&gone.out(RST, 7, 0, 0)));
    assert!(!b.leaves(&known.out(RST, 7, 0, 0)), "a process that died must not end what its successor goes on with");
    assert!(!b.leaves(&gone.out(ACK, 7, 9, 3)), "nothing else of it may leave");
}

#[test]
fn what_a_new_programmer_does_not_know_is_over_once_all_are_known() {
    let mut b = Bench::new();
    let (kept, lost) = (CE, CE6);
    b.upto(kept, 100, 100);
    b.upto(lost, 100, 100);
    b.tell(HoldOp::Known);
    let fin = lost.out(ACK | FIN, 100, 100, 0);
    assert!(!b.leaves(&fin) && !b.leaves(&kept.out(RST, 7, 0, 0)));
    b.tell(HoldOp::Anew);
    b.upto(kept, 90, 90);
    assert!(!b.leaves(&lost.out(RST, 100, 0, 0)), "it may yet be told");
    assert_eq!(b.tell(HoldOp::Known), [fin]);
    assert!(b.leaves(&lost.out(RST, 100, 0, 0)) && !b.leaves(&kept.out(RST, 100, 0, 0)));
    assert_eq!(b.holds.show().len(), 1);
}
