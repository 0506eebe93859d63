//! What a mad neighbour can make us remember.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_ldp::packet::{Capabilities, Composer, FecElement, Hello, Initialization, LabelMessage, LdpId, MAX_PDU, Mapping, Message};
use edgeplex_ldp::{Action, Config, ConnId, Event, Ldp, Start, State};
use edgeplex_types::{Label, LabelRange, NextHop};
use ipnet::Ipv4Net;
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

const US: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 1);
const NEIGHBOR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
const NOW: Duration = Duration::from_secs(1);
const CONN: ConnId = ConnId::Opened(1);

fn label(l: u32) -> Label {
    Label::try_from(l).unwrap()
}

fn fec(n: u32) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(0x1400_0000 + n), 32).unwrap()
}

fn hello(lsr_id: Ipv4Addr) -> Event {
    let mut composer = Composer::new(lsr_id, MAX_PDU);
    composer.push(
        1,
        &Message::Hello(Hello {
            hold_s: 15,
            targeted: false,
            request_targeted: false,
            gtsm: false,
            transport_address: Some(lsr_id),
            configuration_sequence: None,
        }),
    );
    Event::Hello { interface: "eth0".into(), source: Ipv4Addr::new(10, 0, 0, 2), packet: composer.take() }
}

fn say(ldp: &mut Ldp, messages: &[Message]) -> Vec<Action> {
    let mut composer = Composer::new(NEIGHBOR, MAX_PDU);
    messages.iter().for_each(|m| composer.push(1, m));
    ldp.handle(NOW, Event::Received { conn: CONN, bytes: composer.take() })
}

fn mapping(n: u32, l: u32) -> Message {
    Message::LabelMapping(Mapping { fecs: vec![FecElement::Prefix(fec(n))], label: label(l), request_id: None })
}

/// An LSR with one neighbour, whose session stands.
fn lsr() -> Ldp {
    let mut config = Config::new(US, LabelRange::new(label(1000), label(1999)).unwrap());
    config.interfaces = [Arc::from("eth0")].into();
    let mut ldp = Ldp::new(NOW, config, Start::default());
    ldp.handle(NOW, Event::Interface { name: "eth0".into(), address: Ipv4Addr::new(10, 0, 0, 1), up: true });
    ldp.handle(NOW, hello(NEIGHBOR));
    ldp.handle(NOW, Event::Connected { conn: CONN });
    let initialization = Initialization {
        version: 1,
        keepalive_s: 60,
        downstream_on_demand: false,
        loop_detection: false,
        path_vector_limit: 0,
        max_pdu: 4096,
        receiver: LdpId { lsr_id: US, label_space: 0 },
        fault_tolerance: None,
        capabilities: Capabilities::default(),
    };
    say(&mut ldp, &[Message::Initialization(initialization), Message::KeepAlive]);
    assert_eq!(ldp.state(NEIGHBOR), State::Operational);
    ldp
}

#[test]
fn neighbors_on_one_interface() {
    let mut ldp = lsr();
    for n in 0..1000u32 {
        ldp.handle(NOW, hello(Ipv4Addr::from(0x0a00_1000 + n)));
    }
    assert_eq!(ldp.neighbors(NOW).len(), 64);
    assert_eq!(ldp.state(NEIGHBOR), State::Operational);
    // Unheard again, they are forgotten.
    ldp.handle(NOW + Duration::from_secs(16), Event::Timer);
    ldp.handle(NOW + Duration::from_secs(16), Event::Timer);
    assert_eq!(ldp.neighbors(NOW).len(), 0);
}

#[test]
fn labels_for_fecs_without_a_route() {
    let mut ldp = lsr();
    let via = vec![NextHop { interface: "eth0".into(), address: Ipv4Addr::new(10, 0, 0, 2) }];
    ldp.handle(NOW, Event::Routes(Arc::new([(fec(999_999), via)].into())));
    for n in 0..1010 {
        say(&mut ldp, &(0..100).map(|i| mapping(100 * n + i, 16)).collect::<Vec<_>>());
    }
    assert_eq!(ldp.neighbors(NOW)[0].labels_received, 100_000);
    let answer = say(&mut ldp, &[mapping(500_000, 16)]);
    assert!(matches!(answer.as_slice(), [Action::Send { .. }]), "released: {answer:?}");
    // What is needed is always kept.
    say(&mut ldp, &[mapping(999_999, 17)]);
    assert!(ldp.forwarding()[&fec(999_999)].local.is_some());
}

#[test]
fn addresses() {
    let mut ldp = lsr();
    for n in 0..100 {
        say(&mut ldp, &[Message::Address((0..100).map(|i| Ipv4Addr::from(0x1000_0000 + 100 * n + i)).collect())]);
    }
    let far = |address| vec![NextHop { interface: "eth0".into(), address }];
    let routes = [(fec(1), far(Ipv4Addr::from(0x1000_0000 + 4095))), (fec(2), far(Ipv4Addr::from(0x1000_0000 + 4096)))];
    ldp.handle(NOW, Event::Routes(Arc::new(routes.into())));
    say(&mut ldp, &[mapping(1, 16), mapping(2, 17)]);
    let known: Vec<_> = [1, 2].map(|n| ldp.forwarding()[&fec(n)].hops[0].1.is_some()).into();
    assert_eq!(known, [true, false]);
}

#[test]
fn connections_of_nobody() {
    let mut ldp = lsr();
    let closed = |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Close { .. }));
    for n in 0..64u8 {
        let actions = ldp.handle(NOW, Event::Accepted { conn: ConnId::Accepted(n.into()), remote: Ipv4Addr::new(10, 9, 0, n / 2) });
        assert!(!closed(&actions));
    }
    let one_more = |ldp: &mut Ldp, n, remote| ldp.handle(NOW, Event::Accepted { conn: ConnId::Accepted(n), remote });
    assert!(closed(&one_more(&mut ldp, 64, Ipv4Addr::new(10, 9, 1, 1))));
    // Bytes that are no PDU end it at once, and there is room again; but not for a third from one address.
    assert!(closed(&ldp.handle(NOW, Event::Received { conn: ConnId::Accepted(0), bytes: vec![9; 4] })));
    assert!(closed(&one_more(&mut ldp, 65, Ipv4Addr::new(10, 9, 0, 5))));
    assert!(!closed(&one_more(&mut ldp, 66, Ipv4Addr::new(10, 9, 1, 1))));
}

#[test]
fn labels_that_are_never_released() {
    let mut ldp = lsr();
    let via = vec![NextHop { interface: "eth0".into(), address: Ipv4Addr::new(10, 0, 0, 2) }];
    ldp.handle(NOW, Event::Routes(Arc::new([(fec(1), via)].into())));
    let withdrawal = Message::LabelWithdraw(LabelMessage { fecs: vec![FecElement::Wildcard], label: None });
    for n in 0..2000 {
        if ldp.state(NEIGHBOR) != State::Operational {
            assert!(n > 200, "not for a few");
            assert!(ldp.labels_in_use().is_empty(), "with the session they are free");
            return;
        }
        say(&mut ldp, &[mapping(1, 16)]);
        say(&mut ldp, std::slice::from_ref(&withdrawal));
    }
    panic!("{} labels are gone", ldp.labels_in_use().len());
}
