//! OSPF packets of a hostile neighbour: through the codec, and into an engine that believes them.
#![no_main]
use edgeplex_ospf::packet::{Grace, Hello, Lsa, Message, OPTION_E, Packet};
use edgeplex_ospf::{ALL_ROUTERS, Authentication, Config, Event, InterfaceConfig, Limits, Network, Ospf, Start};
use std::net::Ipv4Addr;
use std::time::Duration;

const WE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const AREA: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = Grace::decode(input);
    if let Ok(lsa) = Lsa::decode(input) {
        let mut out = vec![];
        lsa.write(lsa.header.age, &mut out);
        assert_eq!(Lsa::decode(&out), Ok(lsa), "what we write we can read");
    }
    if let Ok(packet) = Packet::decode(input) {
        let _ = packet.open(&Authentication::Null);
        if let Ok(message) = packet.message() {
            let _ = message.encode(WE, AREA, &Authentication::Null, 0);
        }
    }
    converse(input);
});

/// Packet type, seconds to wait, length, contents; and so on.
fn converse(input: &[u8]) {
    let Some((&choice, mut rest)) = input.split_first() else { return };
    let network = if choice & 1 == 0 { Network::PointToPoint } else { Network::Broadcast };
    let their_id = Ipv4Addr::new(10, 255, 0, if choice & 2 == 0 { 0 } else { 2 });
    let mut config = Config::new(WE, AREA);
    config.limits = Limits { lsas: 20, bytes: 1 << 14, neighbors: 4 };
    config.loop_free_alternates = true;
    config.interfaces.insert("l0".into(), InterfaceConfig::new("10.0.0.1/24".parse().unwrap(), network));
    let mut now = Duration::ZERO;
    let mut engine = Ospf::new(now, config, Start { restarting: choice & 4 != 0, crypto_sequence: 1 });
    engine.handle(now, Event::Interface { name: "l0", up: true });
    let hello = Hello {
        mask: 0xffff_ff00,
        hello_interval: 10,
        options: OPTION_E,
        priority: 1,
        dead_interval: 40,
        designated: Ipv4Addr::new(10, 0, 0, 2),
        backup: Ipv4Addr::UNSPECIFIED,
        neighbors: vec![WE],
    };
    let mut packet = Message::Hello(hello).encode(their_id, AREA, &Authentication::Null, 0);
    loop {
        let actions = engine.handle(now, Event::Received { interface: "l0", source: Ipv4Addr::new(10, 0, 0, 2), destination: ALL_ROUTERS, packet: &packet });
        assert!(actions.len() < 1000, "one packet is not answered by a thousand");
        for _ in 0..20 {
            match engine.deadline() {
                Some(at) if at <= now => drop(engine.handle(now, Event::Timer)),
                _ => break,
            }
        }
        assert!(engine.database().len() <= 30 && engine.neighbors().len() <= 4, "what is held is bounded");
        let Some((&[kind, wait, length], more)) = rest.split_first_chunk::<3>() else { return };
        let body = &more[..more.len().min(length.into())];
        rest = &more[body.len()..];
        now += Duration::from_secs(wait.into());
        packet = seal(kind % 6, their_id, body);
    }
}

fn seal(kind: u8, router_id: Ipv4Addr, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![2, kind, 0, 0];
    packet.extend_from_slice(&router_id.octets());
    packet.extend_from_slice(&[0; 16]);
    packet.extend_from_slice(body);
    if kind == 4 {
        repair(packet.get_mut(28..).unwrap_or_default());
    }
    let length = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    let mut sum: u32 = packet.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], *p.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    packet[12..14].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Right checksums for the LSAs of an update, which the fuzzer would not find.
fn repair(mut lsas: &mut [u8]) {
    while lsas.len() >= 20 {
        let length = usize::from(u16::from_be_bytes([lsas[18], lsas[19]])).clamp(20, lsas.len());
        let (lsa, rest) = lsas.split_at_mut(length);
        lsa[18..20].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        lsa[16..18].fill(0);
        let (mut c0, mut c1) = (0i64, 0i64);
        for &byte in &lsa[2..] {
            c0 += i64::from(byte);
            c1 += c0;
        }
        let x = (i64::try_from(length - 17).unwrap() * c0 - c1).rem_euclid(255);
        let y = (-c0 - x).rem_euclid(255);
        lsa[16..18].copy_from_slice(&[u8::try_from(x).unwrap(), u8::try_from(y).unwrap()]);
        lsas = rest;
    }
}
