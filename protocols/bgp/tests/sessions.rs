//! The session engine step by step: what goes in at which time, what must come out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp::{Action, ConnId, Event, GracefulRestart, Local, MaxPrefix, Peer, PeerConfig, State, Time};
use edgeplex_bgp_wire::compose::{self, EncodedAttributes};
use edgeplex_bgp_wire::*;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const WE: Local = Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 1) };
const THEY: Local = Local { asn: 65101, router_id: Ipv4Addr::new(10, 0, 0, 2) };

/// Our address on every connection.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn s(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

fn config() -> PeerConfig {
    let graceful_restart = Some(GracefulRestart { restart_time_s: 60, restarting: false });
    PeerConfig { graceful_restart, ..PeerConfig::new(THEY.router_id, THEY.asn) }
}

/// A peer under test, and the neighbour's lines written by hand.
struct Stage {
    peer: Peer,
    now: Time,
}

fn their_open(gr: bool) -> Vec<u8> {
    let mut open = Open::new(THEY.asn, 90, THEY.router_id);
    open.capabilities.push(Capability::RouteRefresh);
    if gr {
        let families = vec![(1, 1, true)];
        open.capabilities.push(Capability::GracefulRestart(edgeplex_bgp_wire::GracefulRestart {
            families,
            restart_time: 120,
            ..Default::default()
        }));
    }
    open.encode()
}

fn route(prefix: &str, path: &[u32]) -> Vec<u8> {
    let a = Attributes { as_path: AsPath::sequence(path), ..Attributes::default() };
    let mut out = vec![];
    compose::reach(&mut out, &EncodedAttributes::new(&a, true), THEY.router_id, &[Nlri::Unicast(prefix.parse().unwrap())]);
    out
}

/// Code and subcode of the NOTIFICATION among the actions.
fn notification(actions: &[Action]) -> Option<(u8, u8)> {
    actions.iter().find_map(|a| match a {
        Action::Send(_, bytes) if bytes[18] == 3 => Some((bytes[19], bytes[20])),
        _ => None,
    })
}

fn down(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|a| if let Action::Down { graceful, .. } = a { Some(graceful.is_some()) } else { None })
}

fn adopted(actions: &[Action]) -> Option<ConnId> {
    actions.iter().find_map(|a| if let Action::Adopt(id) = a { Some(*id) } else { None })
}

fn connect(actions: &[Action]) -> Option<ConnId> {
    actions.iter().find_map(|a| if let Action::Connect(id) = a { Some(*id) } else { None })
}

impl Stage {
    fn new(config: PeerConfig) -> Self {
        Self { peer: Peer::new(config, WE), now: s(1000) }
    }

    fn feed(&mut self, event: Event<'_>) -> Vec<Action> {
        self.peer.handle(self.now, event)
    }

    /// Lets time pass to `at` through every deadline before it.
    fn wait(&mut self, at: Time) -> Vec<Action> {
        let mut actions = vec![];
        while let Some(due) = self.peer.deadline().filter(|d| *d <= at) {
            self.now = self.now.max(due);
            actions.extend(self.peer.handle(self.now, Event::Timer));
        }
        self.now = at;
        actions
    }

    fn established(config: PeerConfig, gr: bool) -> (Self, ConnId) {
        let mut stage = Self::new(config);
        let id = connect(&stage.feed(Event::Start)).expect("it connects at once");
        let actions = stage.feed(Event::Connected(id, OWN));
        assert!(matches!(&actions[..], [Action::Send(_, open)] if open[18] == 1));
        let actions = stage.feed(Event::Received(id, &their_open(gr)));
        assert!(matches!(&actions[..], [Action::Send(_, keepalive)] if keepalive[18] == 4));
        let actions = stage.feed(Event::Received(id, &keepalive()));
        assert!(matches!(&actions[..], [Action::Up { peer_has_gr, .. }] if *peer_has_gr == gr));
        (stage, id)
    }
}

#[test]
fn hold_timer_expiry_and_keepalives() {
    let (mut stage, id) = Stage::established(config(), true);
    let start = stage.now;
    // A third of 90 s.
    let sent = stage.wait(start + s(89)).iter().filter(|a| matches!(a, Action::Send(_, m) if m[18] == 4)).count();
    assert_eq!(sent, 2);
    stage.feed(Event::Received(id, &keepalive()));
    assert_eq!(notification(&stage.wait(start + s(178))), None);
    let actions = stage.wait(start + s(179));
    // RFC 4724 §4.2: a NOTIFICATION, so the routes go.
    assert_eq!((notification(&actions), down(&actions)), (Some((4, 0)), Some(false)));
    assert!(connect(&stage.wait(start + s(181))).is_some(), "it tries again");
}

#[test]
fn silence_does_not_count_while_we_do_not_listen() {
    let (mut stage, _) = Stage::established(config(), true);
    let start = stage.now;
    stage.peer.set_paused(start, true);
    assert_eq!(notification(&stage.wait(start + s(500))), None);
    stage.peer.set_paused(stage.now, false);
    assert_eq!(notification(&stage.wait(start + s(589))), None);
    assert_eq!(notification(&stage.wait(start + s(591))), Some((4, 0)));
}

#[test]
fn messages_cut_anywhere_are_read_and_wrong_ones_answered() {
    let (mut stage, id) = Stage::established(config(), true);
    let updates = [route("10.1.0.0/16", &[65101]), route("10.2.0.0/16", &[65101])].concat();
    let mut seen = 0;
    for byte in updates.chunks(7) {
        seen += stage.feed(Event::Received(id, byte)).iter().filter(|a| matches!(a, Action::Update { .. })).count();
    }
    assert_eq!((seen, stage.peer.prefixes_received()), (2, 2));

    for (bytes, want) in [
        (vec![0; 19], (1, 1)),
        ([&[0xff; 16][..], &[0x10, 1, 2]].concat(), (1, 2)),
        ([&[0xff; 16][..], &[0, 23, 2, 0, 9, 0, 0]].concat(), (3, 1)),
        (their_open(true), (5, 3)),
    ] {
        let (mut stage, id) = Stage::established(config(), true);
        let actions = stage.feed(Event::Received(id, &bytes));
        assert_eq!((notification(&actions), down(&actions)), (Some(want), Some(false)));
        assert!(actions.contains(&Action::Close(id)));
        // It may not come back at once to try the next.
        assert_eq!(adopted(&stage.feed(Event::Accepted(OWN))), None);
        stage.wait(stage.now + s(1));
        assert!(adopted(&stage.feed(Event::Accepted(OWN))).is_some());
    }
}

#[test]
fn unexpected_messages_before_the_session_stands() {
    let mut stage = Stage::new(config());
    let id = connect(&stage.feed(Event::Start)).unwrap();
    stage.feed(Event::Connected(id, OWN));
    assert_eq!(notification(&stage.feed(Event::Received(id, &keepalive()))), Some((5, 1)));

    let mut stage = Stage::new(config());
    let id = connect(&stage.feed(Event::Start)).unwrap();
    stage.feed(Event::Connected(id, OWN));
    stage.feed(Event::Received(id, &their_open(true)));
    let actions = stage.feed(Event::Received(id, &route("10.0.0.0/8", &[65101])));
    assert_eq!((notification(&actions), down(&actions)), (Some((5, 2)), None));
}

#[test]
fn an_open_of_another_as_is_refused() {
    let mut stage = Stage::new(config());
    let id = connect(&stage.feed(Event::Start)).unwrap();
    stage.feed(Event::Connected(id, OWN));
    let open = Open::new(65102, 90, THEY.router_id).encode();
    assert_eq!(notification(&stage.feed(Event::Received(id, &open))), Some((2, 2)));
    assert!(stage.peer.counters().last_error.unwrap().contains("bad peer AS"));
}

#[test]
fn too_many_prefixes_end_the_session_and_pause_it() {
    let pause = s(30);
    let (mut stage, id) =
        Stage::established(PeerConfig { max_prefix: Some(MaxPrefix { restart: pause, ..MaxPrefix::new(2) }), ..config() }, true);
    for prefix in ["10.1.0.0/16", "10.2.0.0/16", "10.2.0.0/16"] {
        assert_eq!(notification(&stage.feed(Event::Received(id, &route(prefix, &[65101])))), None);
    }
    let actions = stage.feed(Event::Received(id, &route("10.3.0.0/16", &[65101])));
    assert_eq!((notification(&actions), down(&actions)), (Some((6, 1)), Some(false)));
    // RFC 4486 §4: family and limit.
    assert!(actions.iter().any(|a| matches!(a, Action::Send(_, m) if m[21..] == [0, 1, 1, 0, 0, 0, 2])));
    let from = stage.now;
    assert_eq!(connect(&stage.wait(from + s(29))), None);
    assert_eq!(adopted(&stage.feed(Event::Accepted(OWN))), None);
    assert!(connect(&stage.wait(from + s(31))).is_some());
}

#[test]
fn a_connection_that_breaks_is_a_restart_only_if_both_sides_can() {
    for (ours, theirs) in [(true, true), (true, false), (false, true)] {
        let mut c = config();
        c.graceful_restart = c.graceful_restart.filter(|_| ours);
        let (mut stage, id) = Stage::established(c, theirs);
        assert_eq!(down(&stage.feed(Event::Closed(id, "reset"))), Some(ours && theirs));
    }
    let (mut stage, id) = Stage::established(config(), true);
    let cease = Notification::cease(Cease::AdministrativeReset).encode();
    assert_eq!(down(&stage.feed(Event::Received(id, &cease))), Some(false));
}

#[test]
fn a_neighbour_that_restarted_replaces_its_old_session_and_no_other_may() {
    let (mut stage, old) = Stage::established(config(), true);
    stage.wait(stage.now + s(5));
    let actions = stage.feed(Event::Accepted(OWN));
    // Nothing is said before the stranger has shown a good OPEN.
    let [Action::Adopt(new)] = actions[..] else { panic!("{actions:?}") };
    let actions = stage.feed(Event::Received(new, &their_open(true)));
    assert_eq!(down(&actions), Some(true));
    assert!(actions.contains(&Action::Close(old)) && notification(&actions).is_none());
    let actions = stage.feed(Event::Received(new, &keepalive()));
    assert!(matches!(actions[..], [Action::Up { .. }]));

    let (mut stage, _) = Stage::established(config(), false);
    let new = adopted(&stage.feed(Event::Accepted(OWN))).unwrap();
    let actions = stage.feed(Event::Received(new, &their_open(false)));
    assert_eq!((notification(&actions), down(&actions)), (Some((6, 7)), None));
    assert_eq!(stage.peer.state(), State::Established);
    // One that says nothing goes after a second.
    let new = adopted(&stage.feed(Event::Accepted(OWN))).unwrap();
    assert!(stage.wait(stage.now + s(2)).contains(&Action::Close(new)));
}

#[test]
fn the_restart_bit_is_set_until_end_of_rib_is_out() {
    let gr = Some(GracefulRestart { restart_time_s: 60, restarting: true });
    let mut stage = Stage::new(PeerConfig { graceful_restart: gr, passive: true, ..config() });
    stage.feed(Event::Start);
    let restarted = |stage: &mut Stage, release: bool| {
        let actions = stage.feed(Event::Accepted(OWN));
        let id = adopted(&actions).unwrap();
        let Some(Action::Send(_, bytes)) = actions.get(1) else { panic!("{actions:?}") };
        stage.feed(Event::Received(id, &their_open(true)));
        stage.feed(Event::Received(id, &keepalive()));
        if release {
            stage.peer.rib_out().release(Family::Ipv4Unicast);
        }
        while stage.peer.next_update(&mut vec![]) {}
        stage.feed(Event::Closed(id, "gone"));
        Open::decode(&bytes[HEADER_LEN..]).unwrap().graceful_restart().unwrap().restarted
    };
    assert!(restarted(&mut stage, false));
    assert!(restarted(&mut stage, true));
    assert!(!restarted(&mut stage, true));
}

#[test]
fn routes_through_ourselves_are_no_routes() {
    let (mut stage, id) = Stage::established(config(), true);
    let actions = stage.feed(Event::Received(id, &route("10.1.0.0/16", &[65101, 65000])));
    assert!(matches!(&actions[..], [Action::Update { reach, unreach, .. }] if reach.is_empty() && unreach.len() == 1));
    assert_eq!(stage.peer.prefixes_received(), 0);
}

#[test]
fn attempts_are_spaced_by_the_configured_pauses() {
    let mut stage = Stage::new(config());
    let mut id = connect(&stage.feed(Event::Start)).unwrap();
    let mut pauses = vec![];
    for _ in 0..7 {
        stage.feed(Event::Closed(id, "refused"));
        let from = stage.now;
        let due = stage.peer.deadline().unwrap();
        id = connect(&stage.wait(due)).unwrap();
        pauses.push((due - from).as_millis());
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
}

#[test]
fn without_a_route_the_pauses_neither_grow_nor_shrink() {
    let mut stage = Stage::new(config());
    let mut id = connect(&stage.feed(Event::Start)).unwrap();
    let mut pauses = vec![];
    for way in [false, false, true, true, false, true] {
        stage.feed(if way { Event::Closed(id, "refused") } else { Event::NoRoute(id, "unreachable") });
        let from = stage.now;
        let due = stage.peer.deadline().unwrap();
        id = connect(&stage.wait(due)).unwrap();
        pauses.push((due - from).as_millis());
    }
    assert_eq!(pauses, [500, 500, 500, 1000, 500, 2000]);
}

#[test]
fn route_refresh_both_ways() {
    let (mut stage, id) = Stage::established(config(), true);
    let rib = stage.peer.rib_out();
    rib.release(Family::Ipv4Unicast);
    rib.advertise(Nlri::Unicast("10.0.0.0/8".parse().unwrap()), Default::default(), None);
    while stage.peer.next_update(&mut vec![]) {}
    stage.feed(Event::Received(id, &RouteRefresh::new(Family::Vpnv4, Refresh::Request).encode()));
    assert!(!stage.peer.next_update(&mut vec![]), "a family that was not agreed on");
    stage.feed(Event::Received(id, &RouteRefresh::new(Family::Ipv4Unicast, Refresh::Request).encode()));
    assert!(stage.peer.next_update(&mut vec![]));
    let want = Action::Send(id, RouteRefresh::new(Family::Ipv4Unicast, Refresh::Request).encode());
    assert_eq!(stage.feed(Event::Refresh(Family::Ipv4Unicast)), [want]);
}

proptest::proptest! {
    #[test]
    fn whatever_a_neighbour_sends_is_survived(messages in proptest::collection::vec((1u8..7, proptest::collection::vec(proptest::num::u8::ANY, 0..60)), 1..20)) {
        let (mut stage, mut id) = Stage::established(config(), true);
        for (kind, body) in messages {
            let len = u16::try_from(HEADER_LEN + body.len()).unwrap().to_be_bytes();
            let bytes = [&[0xff; 16][..], &len, &[kind], &body].concat();
            stage.feed(Event::Received(id, &bytes));
            if stage.peer.state() != State::Established {
                (stage, id) = Stage::established(config(), true);
            }
        }
    }
}
