//! One router, several processes one after the other: nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sim;

use edgeplex_ospf::{Action, Algorithm, Authentication, Event, Network, Ospf, Start};
use proptest::prelude::*;
use sim::{Link, Net, Random, ms, router_id, s};
use std::collections::BTreeMap;

const HELLO: u8 = 1;

/// Three to five routers on a segment and on wires in a ring.
fn random_net(seed: u64, shape: &mut Random, dead_s: u32) -> Net {
    let routers = 3 + shape.pick(3);
    let wire = |a: usize| Link { network: Network::PointToPoint, routers: vec![a, (a + 1) % routers], up: true };
    let mut links: Vec<_> = (0..routers).map(wire).collect();
    links.push(Link { network: Network::Broadcast, routers: (0..routers).collect(), up: true });
    let signed = shape.chance(50);
    let costs: Vec<u16> = (0..20).map(|_| u16::try_from(1 + shape.below(9)).unwrap()).collect();
    Net::new(seed, routers, links, |router, link, i| {
        i.cost = costs[(router * 7 + link) % costs.len()];
        i.priority = u8::from(router != 0);
        i.dead_s = dead_s;
        if signed {
            i.authentication = Authentication::Cryptographic { algorithm: Algorithm::HmacSha256, key_id: 1, key: "word".into() };
        }
    })
}

fn adjacency_events(net: &Net) -> Vec<String> {
    let all = net.routers.iter().enumerate().flat_map(|(r, router)| router.told.iter().map(move |(at, a)| (r, at, a)));
    all.filter(|(_, _, a)| matches!(a, Action::NeighborUp { .. } | Action::NeighborDown { .. }))
        .map(|(r, at, a)| format!("router {r} at {at:?}: {a:?}"))
        .collect()
}

/// In quiet times a change of process is a Hello more.
fn quiet(seed: u64) {
    let mut shape = Random::new(seed ^ 0x5eed);
    let mut net = random_net(seed, &mut shape, 4);
    net.start_all();
    net.settles(s(40));
    net.routers.iter_mut().for_each(|r| r.told.clear());
    let routes: Vec<_> = (0..net.routers.len()).map(|r| net.engine(r).routes().clone()).collect();
    let database = net.engine(0).database().into_iter().map(|l| (l.id, l.advertising_router, l.sequence)).collect::<Vec<_>>();
    for _ in 0..6 {
        let router = shape.pick(net.routers.len());
        if shape.chance(50) {
            net.follow(router);
            let time = ms(shape.below(5000));
            net.run(time);
        }
        // A Hello each second, and one is lost on a good day: within the dead interval of 4 s.
        net.replace(router, shape.below(1800));
        assert_eq!(net.sent_at_once, vec![HELLO; net.sent_at_once.len()], "nothing but Hellos");
        assert_eq!(*net.engine(router).routes(), routes[router], "routes are there at once");
        let time = ms(shape.below(6000));
        net.run(time);
    }
    net.run(s(10));
    assert_eq!(adjacency_events(&net), Vec::<String>::new());
    let after = net.engine(0).database().into_iter().map(|l| (l.id, l.advertising_router, l.sequence)).collect::<Vec<_>>();
    assert_eq!(after, database, "not one LSA was originated anew");
    net.settles(s(10));
}

/// And while the network changes and loses packets it is no harder.
fn busy(seed: u64) {
    let mut shape = Random::new(seed ^ 0xb05e);
    let mut net = random_net(seed, &mut shape, 12);
    net.start_all();
    net.settles(s(40));
    net.routers.iter_mut().for_each(|r| r.told.clear());
    (net.loss, net.delay) = (shape.below(15), 1 + shape.below(50));
    for _ in 0..8 {
        let router = shape.pick(net.routers.len());
        let changed = shape.pick(net.routers.len());
        let cost = u16::try_from(1 + shape.below(30)).unwrap();
        net.configure(changed, |c| c.interfaces.values_mut().for_each(|i| i.cost = cost));
        if shape.chance(50) {
            net.follow(router);
        }
        // In the middle of the flooding.
        let time = ms(shape.below(60));
        net.run(time);
        net.replace(router, shape.below(200));
        let time = ms(shape.below(4000));
        net.run(time);
    }
    (net.loss, net.delay) = (0, 3);
    net.settles(s(40));
    // Twelve Hellos in a row are not lost.
    assert_eq!(adjacency_events(&net), Vec::<String>::new());
}

#[test]
fn a_change_of_process_is_not_noticed() {
    (0..12).for_each(quiet);
}

#[test]
fn a_change_of_process_in_bad_times_is_not_noticed_either() {
    (0..12).for_each(busy);
}

#[test]
fn what_was_not_acknowledged_is_flooded_again() {
    let link = Link { network: Network::PointToPoint, routers: vec![0, 1], up: true };
    let mut net = Net::new(3, 2, vec![link], |_, _, i| i.retransmit_s = 5);
    net.start_all();
    net.settles(s(10));
    // It is said, and nobody hears it.
    net.loss = 100;
    net.configure(0, |c| c.interfaces.values_mut().for_each(|i| i.cost = 77));
    net.run(ms(5));
    net.loss = 0;
    net.replace(0, 5);
    assert!(net.sent_at_once.contains(&4), "an update: {:?}", net.sent_at_once);
    net.run(s(1));
    assert_eq!(net.complaints(), Vec::<String>::new());
}

#[test]
fn lsas_go_on_growing_old_and_ours_are_refreshed_in_time() {
    let link = Link { network: Network::PointToPoint, routers: vec![0, 1], up: true };
    let mut net = Net::new(3, 2, vec![link], |_, _, _| {});
    net.start_all();
    net.run(s(1700));
    let age = |net: &Net| net.engine(0).database().iter().map(|l| (l.advertising_router, l.age_s, l.sequence)).collect::<Vec<_>>();
    let before = age(&net);
    assert!(before.iter().all(|(_, age, _)| *age > 1600), "{before:?}");
    net.replace(0, 10);
    for (now, before) in age(&net).iter().zip(&before) {
        assert!((now.0, now.2) == (before.0, before.2) && now.1.abs_diff(before.1) <= 2, "{now:?}, was {before:?}");
    }
    net.run(s(200));
    let after = age(&net);
    assert!(after.iter().all(|(_, age, _)| *age < 200), "refreshed: {after:?}");
    assert!(after.iter().zip(&before).all(|(a, b)| a.2 == b.2 + 1), "once: {before:?} {after:?}");
}

#[test]
fn sequence_numbers_of_signed_packets_never_fall() {
    let link = Link { network: Network::PointToPoint, routers: vec![0, 1], up: true };
    let mut net = Net::new(3, 2, vec![link], |_, _, i| {
        i.authentication = Authentication::Cryptographic { algorithm: Algorithm::Md5, key_id: 1, key: "word".into() };
    });
    net.start_all();
    net.settles(s(10));
    for _ in 0..5 {
        // Whose clock is late, on another host.
        let values = net.routers[0].values.clone();
        let mut late = Ospf::following(net.now, net.routers[0].config.clone(), Start { restarting: false, crypto_sequence: 1 });
        values.iter().for_each(|(name, value)| late.apply(net.now, name, Some(value)).unwrap());
        net.routers[0].standby = Some(late);
        net.replace(0, 5);
        net.run(s(10));
    }
    assert_eq!(adjacency_events(&net).iter().filter(|t| t.contains("Down")).count(), 0);
    let refused: u64 = net.engine(1).interfaces().iter().flat_map(|i| i.refused.values()).sum();
    assert_eq!(refused, 0);
}

#[test]
fn what_is_too_old_or_of_another_router_is_not_gone_on_with() {
    let link = Link { network: Network::PointToPoint, routers: vec![0, 1], up: true };
    let mut net = Net::new(3, 2, vec![link], |_, _, _| {});
    net.start_all();
    net.settles(s(10));
    let values = net.routers[0].values.clone();
    let promoted = |crypto_sequence: u32, id: usize| {
        let mut config = net.routers[0].config.clone();
        config.router_id = router_id(id);
        let mut engine = Ospf::following(s(1), config, Start { restarting: false, crypto_sequence });
        values.iter().for_each(|(name, value)| engine.apply(s(1), name, Some(value)).unwrap());
        engine.handle(s(1), Event::Timer);
        engine.promote(s(1), false);
        let gone = engine.changes().iter().filter(|(_, value)| value.is_none()).count();
        (engine.neighbors().iter().filter(|n| n.state == "full").count(), gone > 0)
    };
    let now = u32::try_from(net.now.as_secs()).unwrap();
    assert_eq!(promoted(now, 0), (1, false));
    assert_eq!(promoted(now + 4000, 0), (0, true), "an hour later");
    assert_eq!(promoted(now, 7), (0, true), "as another router");
}

/// What yesterday's process stored is understood: names and values, LSAs in hexadecimal.
#[test]
fn stored_values_of_format_1_are_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/values.1.txt");
    if std::env::var_os("EDGEPLEX_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(path, today()).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let mut net = stored_net();
    let date = text.lines().next().unwrap().strip_prefix("# stored at ").unwrap().parse().unwrap();
    let mut engine = Ospf::following(s(1), net.routers[0].config.clone(), Start { restarting: false, crypto_sequence: date });
    for line in text.lines().skip(1) {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let hex = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).unwrap();
        let value = if value.starts_with('{') { value.as_bytes().to_vec() } else { (0..value.len()).step_by(2).map(hex).collect() };
        engine.apply(s(1), name, Some(&value)).unwrap();
    }
    engine.promote(s(1), false);
    net.now = s(1);
    net.routers[0].engine = Some(engine);
    let full: Vec<_> = net.engine(0).neighbors().iter().map(|n| (n.interface.to_string(), n.state)).collect();
    assert_eq!(full, [("l0".to_owned(), "full"), ("l1".to_owned(), "full"), ("l1".to_owned(), "full")]);
    assert_eq!(net.engine(0).database().len(), 4);
    assert_eq!(net.engine(0).routes().len(), 5);
}

fn stored_net() -> Net {
    let wire = Link { network: Network::PointToPoint, routers: vec![0, 1], up: true };
    let segment = Link { network: Network::Broadcast, routers: vec![0, 1, 2], up: true };
    Net::new(3, 3, vec![wire, segment], |_, _, i| {
        i.authentication = Authentication::Cryptographic { algorithm: Algorithm::Md5, key_id: 1, key: "word".into() };
    })
}

fn today() -> String {
    let mut net = stored_net();
    net.start_all();
    net.settles(s(20));
    net.configure(0, |c| c.stub_router = true);
    let values: &BTreeMap<_, _> = &net.routers[0].values;
    let text = |v: &Vec<u8>| {
        if v.first() == Some(&b'{') { String::from_utf8(v.clone()).unwrap() } else { v.iter().map(|b| format!("{b:02x}")).collect() }
    };
    let lines = values.iter().map(|(name, value)| format!("{name} {}", text(value)).trim_end().to_owned() + "\n");
    format!("# stored at {}\n{}", net.now.as_secs(), lines.collect::<String>())
}

proptest! {
    /// Who is followed is believed no more than a neighbour.
    #[test]
    fn garbage_is_followed_without_harm(
        values in proptest::collection::vec(("ospf/[a-z-]{3,9}(/[0-9.]{1,9}){0,4}", proptest::collection::vec(any::<u8>(), 0..80)), 0..10),
        at in 0..u32::MAX,
        state in "full|two-way|silent",
        until in proptest::option::of(any::<u32>()),
    ) {
        let mut engine = Ospf::following(s(1), stored_net().routers[0].config.clone(), Start { restarting: false, crypto_sequence: at });
        for (name, value) in &values {
            let _ = engine.apply(s(1), name, Some(value));
        }
        let until = until.map(|u| format!(",\"helping_until\":{u},\"since\":{u}")).unwrap_or_default();
        let neighbor = format!(r#"{{"format":1,"router_id":"10.255.0.9","state":"{state}","priority":0,"options":0{until}}}"#);
        for address in ["10.0.1.1", "10.0.1.2", "255.255.255.255"] {
            engine.apply(s(1), &format!("ospf/neighbor/l1/{address}"), Some(neighbor.as_bytes())).unwrap();
        }
        engine.apply(s(1), "ospf/router", Some(br#"{"format":1,"router_id":"10.255.0.1","area":"0.0.0.0"}"#)).unwrap();
        let interface = br#"{"format":1,"state":"broadcast","address":"10.0.1.1/24","designated":"1.2.3.4"}"#;
        engine.apply(s(1), "ospf/interface/l1", Some(interface)).unwrap();
        engine.handle(s(1), Event::Timer);
        engine.promote(s(1), false);
        let mut now = s(1);
        for _ in 0..50 {
            let Some(next) = engine.deadline() else { break };
            now = now.max(next);
            engine.handle(now, Event::Timer);
            engine.changes();
        }
        prop_assert!(engine.neighbors().iter().all(|n| n.state == "down"), "nobody is there: {:?}", engine.neighbors());
    }
}
