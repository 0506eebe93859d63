//! A hostile LDP neighbour: its PDUs by themselves, its Hellos, and what it says over a session that stands.
#![no_main]
use edgeplex_ldp::packet::{Composer, MAX_PDU, Message, frame};
use edgeplex_ldp::{Action, Config, ConnId, Event, Ldp, Start, State};
use edgeplex_types::{Label, LabelRange, NextHop};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

const NEIGHBOR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    match choice % 4 {
        0 => codec(bytes),
        // Without the header of a PDU, so that the fuzzer need not find it first.
        1 => codec(&pdu(bytes)),
        2 => talk(bytes, false),
        _ => talk(bytes, true),
    }
});

fn pdu(messages: &[u8]) -> Vec<u8> {
    let messages = &messages[..messages.len().min(4000)];
    let length = u16::try_from(messages.len() + 6).expect("short");
    [&[0, 1][..], &length.to_be_bytes(), &NEIGHBOR.octets(), &[0, 0], messages].concat()
}

/// What was understood can be said again.
fn codec(mut bytes: &[u8]) {
    while let Ok(Some(pdu)) = frame(bytes, MAX_PDU) {
        for raw in pdu.messages() {
            let Ok(raw) = raw else { break };
            let Ok(Some(message)) = Message::decode(&raw) else { continue };
            let mut composer = Composer::new(NEIGHBOR, MAX_PDU);
            composer.push(raw.id, &message);
            let said = composer.take();
            let again = frame(&said, u16::MAX).expect("what we write is framed").expect("and whole");
            let raw = again.messages().next().expect("one message").expect("of the right length");
            assert_eq!(Message::decode(&raw), Ok(Some(message)));
        }
        bytes = &bytes[pdu.wire_len()..];
    }
}

/// Pieces of input, each with a first byte that says what it is and how long.
fn talk(mut bytes: &[u8], framed: bool) {
    let label = |l| Label::try_from(l).expect("a label");
    let mut config = Config::new(Ipv4Addr::new(10, 255, 0, 5), LabelRange::new(label(100), label(120)).expect("a range"));
    config.interfaces = [Arc::from("eth0")].into();
    let mut now = Duration::ZERO;
    let mut ldp = Ldp::new(now, config, Start::default());
    let via = vec![NextHop { interface: "eth0".into(), address: Ipv4Addr::new(10, 0, 0, 2) }];
    let fec = |i: u8| (ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, i, 0, 0), 16), via.clone());
    ldp.handle(now, Event::Routes(Arc::new((0..30).map(fec).collect())));
    ldp.handle(now, Event::Interface { name: "eth0".into(), address: Ipv4Addr::new(10, 0, 0, 1), up: true });
    // It is heard, and its session stands; it stands again whenever we connect again.
    let mut open = vec![];
    let mut heard = hello_packet();
    loop {
        for action in ldp.handle(now, heard) {
            if let Action::Connect { conn, .. } = action {
                open.push(conn);
                ldp.handle(now, Event::Connected { conn });
                ldp.handle(now, Event::Received { conn, bytes: pdu(&initialization()) });
                assert_eq!(ldp.state(NEIGHBOR), State::Operational);
            }
        }
        let Some((&what, rest)) = bytes.split_first() else { break };
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(what >> 2) * 4));
        bytes = rest;
        let said = if framed { pdu(piece) } else { piece.to_vec() };
        let conn = open.last().copied().unwrap_or(ConnId::Accepted(1));
        heard = match what & 3 {
            0 | 1 => Event::Received { conn, bytes: said },
            2 => Event::Hello { interface: "eth0".into(), source: Ipv4Addr::new(10, 0, 0, 2), packet: said },
            _ => {
                now += Duration::from_secs(1);
                Event::Timer
            }
        };
        assert!(ldp.labels_in_use().len() <= 21);
        assert!(ldp.forwarding().values().all(|f| f.local.is_none() || f.egress || f.hops.iter().any(|(_, l)| l.is_some())));
    }
}

fn hello_packet() -> Event {
    let packet = pdu(&[1, 0, 0, 20, 0, 0, 0, 1, 4, 0, 0, 4, 0, 15, 0, 0, 4, 1, 0, 4, 10, 255, 0, 2]);
    Event::Hello { interface: "eth0".into(), source: Ipv4Addr::new(10, 0, 0, 2), packet }
}

fn initialization() -> Vec<u8> {
    let session = [5, 0, 0, 14, 0, 1, 0, 60, 0, 0, 16, 0, 10, 255, 0, 5, 0, 0];
    let restart = [0x85, 3, 0, 12, 0, 1, 0, 0, 0, 0, 0xff, 0, 0, 0, 0xff, 0];
    let length = u8::try_from(4 + session.len() + restart.len()).expect("short");
    [&[2, 0, 0, length, 0, 0, 0, 1][..], &session, &restart, &[2, 1, 0, 4, 0, 0, 0, 2]].concat()
}
