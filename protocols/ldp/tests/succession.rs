//! One speaker, several processes one after the other: no session is reset, and no label changes.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

mod network;

use edgeplex_ldp::{Action, Config, Event, Ldp, Start, State};
use edgeplex_types::{Label, LabelRange};
use network::{Network, Rng, loopback};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

type Labels = BTreeMap<(usize, ipnet::Ipv4Net), Label>;

fn labels(network: &Network) -> Labels {
    let all = network.nodes.iter().enumerate().flat_map(|(at, n)| n.ldp.forwarding().iter().map(move |(fec, f)| (at, *fec, f.local)));
    all.filter_map(|(at, fec, label)| Some(((at, fec), label?))).collect()
}

fn sessions(network: &Network) -> BTreeMap<(usize, usize), (State, u64)> {
    let all = network.nodes.iter().enumerate().flat_map(|(at, n)| n.ldp.neighbors(network.now).into_iter().map(move |v| (at, v)));
    all.map(|(at, v)| ((at, network::node_of(v.lsr_id)), (v.state, v.resets))).collect()
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut network = Network::new(2 + rng.below(3), 900, &mut rng);
    network.calm_down(&mut rng);
    network.check_agreement();
    // Three Hellos in a row that are lost would end a session.
    network.loss = 0;
    let (before, up) = (labels(&network), sessions(&network));
    for _ in 0..10 {
        let node = rng.below(network.nodes.len());
        network.replace(node, &mut rng);
        // Its routes are told within three seconds.
        network.pass(Duration::from_millis(3000 + rng.below(20_000) as u64), &mut rng);
        // Who was replaced counts from zero.
        let undisturbed = |(pair, (state, resets)): (&(usize, usize), &(State, u64))| *state == State::Operational && *resets <= up[pair].1;
        assert!(sessions(&network).iter().all(undisturbed), "seed {seed}: {:?}", sessions(&network));
        assert_eq!(labels(&network), before, "seed {seed}");
    }
    network.pass(Duration::from_secs(200), &mut rng);
    network.check_agreement();
    assert_eq!(labels(&network), before, "seed {seed}");
}

#[test]
fn a_change_of_process_is_not_noticed() {
    (1..=12).for_each(run);
}

/// Changes of the network in the same moment reach the neighbours all the same.
#[test]
fn what_changes_meanwhile_is_told_afterwards() {
    for seed in 1..=8 {
        let mut rng = Rng::new(seed);
        let mut network = Network::new(3, 900, &mut rng);
        network.calm_down(&mut rng);
        network.loss = 0;
        let up = sessions(&network);
        for _ in 0..6 {
            let node = rng.below(3);
            network.flip_prefix(&mut rng);
            network.pass(Duration::from_millis(rng.below(1500) as u64), &mut rng);
            network.replace(node, &mut rng);
            network.change_cost(&mut rng);
            network.pass(Duration::from_secs(5), &mut rng);
        }
        assert!(sessions(&network).iter().all(|(pair, (state, resets))| *state == State::Operational && *resets <= up[pair].1));
        network.calm_down(&mut rng);
        network.check_agreement();
    }
}

fn label(l: u32) -> Label {
    Label::try_from(l).unwrap()
}

/// What yesterday's process stored is understood.
#[test]
fn stored_values_of_format_1_are_read() {
    let text = include_str!("data/values.1.txt");
    let mut config = Config::new(loopback(0), LabelRange::new(label(1000), label(1999)).unwrap());
    config.interfaces = ["core0".into(), "core1".into()].into();
    let mut ldp = Ldp::following(Duration::ZERO, config, Start::default());
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        ldp.apply(Duration::ZERO, name, Some(value.as_bytes())).unwrap();
    }
    let actions = ldp.promote(Duration::from_secs(1), &[]);
    let hellos = actions.iter().filter(|a| matches!(a, Action::SendHello { .. })).count();
    assert_eq!((hellos, ldp.neighbors(Duration::ZERO).len(), ldp.bindings().len()), (2, 1, 2), "{actions:?}");
    let neighbor = ldp.neighbors(Duration::ZERO).remove(0);
    assert_eq!((neighbor.transport_address, neighbor.hold), (loopback(1), Duration::from_secs(15)));
    assert_eq!(ldp.changes(), vec![], "as it would be stored today");
    ldp.handle(Duration::from_secs(1), Event::Stop);
    let names: Vec<_> = text.lines().map(|l| (l.split_once(' ').unwrap().0.to_owned(), None)).collect();
    let mut gone = ldp.changes();
    gone.sort();
    assert_eq!(gone, names, "who says good-bye leaves nothing behind");
}

#[test]
fn what_another_speaker_stored_is_not_gone_on_with() {
    let text = include_str!("data/values.1.txt");
    let config = Config::new(loopback(5), LabelRange::new(label(1000), label(1999)).unwrap());
    let mut ldp = Ldp::following(Duration::ZERO, config, Start::default());
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        ldp.apply(Duration::ZERO, name, Some(value.as_bytes())).unwrap();
    }
    ldp.promote(Duration::from_secs(1), &[]);
    assert!(ldp.neighbors(Duration::ZERO).is_empty() && ldp.bindings().is_empty());
    assert_eq!(ldp.changes().iter().filter(|(_, value)| value.is_none()).count(), text.lines().count() - 1, "all but the speaker");
}

proptest! {
    /// Who is followed is believed no more than a neighbour: whatever it tells, we go on, and within bounds.
    #[test]
    fn garbage_is_followed_without_harm(
        values in proptest::collection::vec(("ldp/[a-z]{4,9}(/[0-9.]{1,9}){0,2}", ".{0,80}"), 0..10),
        adjacency in "\\{\"format\":1,\"source\":\"10.0.0.[0-9]\",\"transport\":\"10.255.0.[0-9]\",\"hold_s\":[0-9]{1,5}\\}",
        streams in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..10),
        head in any::<bool>(),
    ) {
        let config = Config::new(loopback(0), LabelRange::new(label(1000), label(1999)).unwrap());
        let mut ldp = Ldp::following(Duration::ZERO, config, Start::default());
        for (name, value) in &values {
            let _ = ldp.apply(Duration::ZERO, name, Some(value.as_bytes()));
        }
        let _ = ldp.apply(Duration::ZERO, "ldp/adjacency/10.255.0.2/core0", Some(adjacency.as_bytes()));
        ldp.apply(Duration::ZERO, "ldp/speaker", Some(br#"{"format":1,"lsr_id":"10.255.0.1","sequence":1}"#)).unwrap();
        let conn = edgeplex_ldp::ConnId::Inherited(1);
        ldp.replay_opened(conn, loopback(1));
        if head {
            // A PDU that is whole, with who knows what in it.
            ldp.replay_received(Duration::ZERO, conn, &[0, 1, 0, 14, 10, 255, 0, 2, 0, 0, 2, 1, 0, 4, 0, 0, 0, 9]);
        }
        for (sent, bytes) in &streams {
            let _ = if *sent { ldp.replay_sent(Duration::ZERO, conn, bytes) } else { ldp.replay_received(Duration::ZERO, conn, bytes) };
        }
        let actions = ldp.promote(Duration::from_secs(1), &[]);
        prop_assert!(actions.contains(&Action::Close { conn }), "no session comes of that: {:?}", actions);
        prop_assert!(ldp.deadline().is_some_and(|at| at >= Duration::from_secs(1)));
    }
}
