//! Two systems over a network that loses, repeats and delays: whatever happens, they agree in the end.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_bfd::{Action, Bfd, Key, Parameters, packet::Control};
use proptest::prelude::*;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

const ADDRESS: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2))];

#[derive(Debug, Clone)]
enum Act {
    Add(usize, u64, u8),
    Remove(usize),
    /// A process dies and comes back without its memory.
    Restart(usize),
    /// A process dies, and after so many milliseconds a successor takes over that knows what it had stored.
    Replace(usize, u64),
    /// Per cent of packets lost from now on.
    Loss(u8),
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0..2usize, 20..400u64, 2..5u8).prop_map(|(who, ms, n)| Act::Add(who, ms, n)),
        (0..2usize).prop_map(Act::Remove),
        (0..2usize).prop_map(Act::Restart),
        (0..2usize, 0..200u64).prop_map(|(who, ms)| Act::Replace(who, ms)),
        (0..=100u8).prop_map(Act::Loss),
        (1..3000u64).prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 1..40)
}

struct Net {
    now: Duration,
    systems: [Bfd; 2],
    keys: [Key; 2],
    parameters: [Option<Parameters>; 2],
    /// What each side's client was last told.
    told_up: [bool; 2],
    /// What each has stored.
    values: [BTreeMap<String, Vec<u8>>; 2],
    /// Nobody speaks here.
    dead: Option<usize>,
    downs: u32,
    wire: Vec<(Duration, usize, Control)>,
    loss: u8,
    random: u64,
}

impl Net {
    fn new(seed: u64) -> Self {
        let key = |a: usize| Key { peer: ADDRESS[1 - a], local: ADDRESS[a], interface: None };
        Self {
            now: Duration::from_secs(1),
            systems: [Bfd::new(seed | 3), Bfd::new(seed.rotate_left(7) | 5)],
            keys: [key(0), key(1)],
            parameters: [None; 2],
            told_up: [false; 2],
            values: Default::default(),
            dead: None,
            downs: 0,
            wire: vec![],
            loss: 0,
            random: seed | 1,
        }
    }

    fn dice(&mut self, sides: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % sides
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Add(who, ms, n) => {
                let p = Parameters::new(Duration::from_millis(ms), n).unwrap();
                self.parameters[who] = Some(p);
                let up = self.systems[who].add(self.now, &self.keys[who], "test", p);
                assert_eq!(up, self.told_up[who]);
            }
            Act::Remove(who) => {
                self.systems[who].remove(self.now, &self.keys[who], "test");
                self.parameters[who] = None;
                self.told_up[who] = false;
            }
            Act::Restart(who) => {
                let seed = self.dice(u64::MAX);
                self.systems[who] = Bfd::new(seed);
                self.told_up[who] = false;
                self.values[who].clear();
                if let Some(p) = self.parameters[who] {
                    self.systems[who].add(self.now, &self.keys[who], "test", p);
                }
            }
            Act::Replace(who, ms) => self.replace(who, ms),
            Act::Loss(percent) => self.loss = percent,
            Act::Pass(ms) => self.pass(Duration::from_millis(ms)),
        }
    }

    fn store(&mut self, who: usize) {
        for (_, name, value) in self.systems[who].changes() {
            match value {
                Some(value) => drop(self.values[who].insert(name, value)),
                None => drop(self.values[who].remove(&name)),
            }
        }
    }

    fn replace(&mut self, who: usize, ms: u64) {
        self.store(who);
        self.dead = Some(who);
        self.pass(Duration::from_millis(ms));
        self.dead = None;
        let mut successor = Bfd::following(self.dice(u64::MAX));
        // Clients are there before what is stored is read, or after.
        let early = self.dice(2) == 0;
        if let Some(p) = self.parameters[who].filter(|_| early) {
            assert!(!successor.add(self.now, &self.keys[who], "test", p));
        }
        for (name, value) in &self.values[who] {
            successor.restore(self.now, name, Some(value)).unwrap();
        }
        let actions = successor.promote(self.now);
        let up = actions.contains(&Action::Up(self.keys[who].clone()));
        assert!(up == self.told_up[who] || self.parameters[who].is_none(), "its successor takes its place");
        self.systems[who] = successor;
        self.take(who, actions.into_iter().filter(|a| !matches!(a, Action::Up(_))).collect());
        if let Some(p) = self.parameters[who].filter(|_| !early) {
            assert_eq!(self.systems[who].add(self.now, &self.keys[who], "test", p), up);
        }
        self.store(who);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for steps in 0.. {
            assert!(steps < 100_000, "a storm of packets");
            let packet = self.wire.iter().map(|(t, ..)| *t).min();
            let timers = (0..2).filter(|who| self.dead != Some(*who)).filter_map(|who| self.systems[who].deadline()).min();
            let Some(next) = packet.into_iter().chain(timers).min().filter(|t| *t <= until) else { break };
            self.now = self.now.max(next);
            if packet == Some(next) {
                let at = self.wire.iter().position(|(t, ..)| *t == next).unwrap();
                let (_, to, packet) = self.wire.remove(at);
                if self.dead == Some(to) {
                    continue;
                }
                let packet = Control::decode(&packet.encode()).unwrap();
                let actions = self.systems[to].receive(self.now, ADDRESS[1 - to], ADDRESS[to], None, &packet);
                self.take(to, actions);
            } else {
                for who in (0..2).filter(|who| self.dead != Some(*who)).collect::<Vec<_>>() {
                    if self.systems[who].deadline().is_some_and(|t| t <= self.now) {
                        let actions = self.systems[who].timer(self.now);
                        self.take(who, actions);
                    }
                }
            }
        }
        self.now = until;
    }

    fn take(&mut self, who: usize, actions: Vec<Action>) {
        self.store(who);
        for action in actions {
            match action {
                Action::Send(_, packet) => {
                    if self.dice(100) >= self.loss.into() {
                        let delay = Duration::from_micros(100 + self.dice(3000));
                        self.wire.push((self.now + delay, 1 - who, packet));
                        if self.dice(20) == 0 {
                            self.wire.push((self.now + delay * 2, 1 - who, packet));
                        }
                    }
                }
                Action::Up(_) => assert!(!std::mem::replace(&mut self.told_up[who], true), "up twice"),
                Action::Down(..) => {
                    self.downs += 1;
                    assert!(std::mem::replace(&mut self.told_up[who], false), "down, never up");
                }
                Action::Removed(_) => assert!(self.parameters[who].is_none(), "removed, though wanted"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_once_the_network_is_well(seed: u64, acts in acts()) {
        let mut net = Net::new(seed);
        acts.iter().for_each(|a| net.act(a));
        net.loss = 0;
        net.pass(Duration::from_secs(12));
        let wanted = net.parameters.iter().all(Option::is_some);
        for who in 0..2 {
            prop_assert_eq!(net.told_up[who], wanted, "system {}", who);
            prop_assert_eq!(net.systems[who].is_up(&net.keys[who]), wanted);
            let views = net.systems[who].views(net.now);
            prop_assert_eq!(views.len(), usize::from(net.parameters[who].is_some()), "a session that nobody wants is gone");
            if wanted {
                let (mine, theirs) = (net.parameters[who].unwrap(), net.parameters[1 - who].unwrap());
                let pace = mine.interval().max(theirs.interval());
                prop_assert_eq!(views[0].transmit, pace);
                prop_assert_eq!(views[0].detection, pace * u32::from(theirs.multiplier()));
            }
        }
        // And a dead neighbour is noticed in the detection time, not sooner.
        if wanted {
            let detection = net.systems[0].views(net.now)[0].detection;
            net.loss = 100;
            net.wire.clear();
            let interval = net.systems[1].views(net.now)[0].transmit;
            net.pass(detection.checked_sub(interval).unwrap().checked_sub(Duration::from_millis(1)).unwrap());
            prop_assert!(net.told_up[0], "too early");
            net.pass(interval + Duration::from_millis(5));
            prop_assert!(!net.told_up[0], "too late");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn successors_within_the_detection_time_are_not_noticed(
        seed: u64,
        interval in 20..400u64,
        replaced in proptest::collection::vec((0..2usize, 0..100u64, 0..2000u64), 1..20),
    ) {
        let mut net = Net::new(seed);
        net.act(&Act::Add(0, interval, 3));
        net.act(&Act::Add(1, interval * 2, 3));
        net.pass(Duration::from_secs(8));
        prop_assert_eq!(net.told_up, [true; 2]);
        let before = net.systems[0].views(net.now)[0].local_discriminator;
        for (who, silence, pause) in replaced {
            // One interval may have passed before the silence begins.
            net.act(&Act::Replace(who, silence * interval * 2 / 100));
            net.pass(Duration::from_millis(pause));
        }
        prop_assert_eq!((net.told_up, net.downs), ([true; 2], 0));
        let view = net.systems[0].views(net.now).remove(0);
        prop_assert_eq!((view.local_discriminator, view.transmit, view.detection), {
            let pace = Duration::from_millis(interval * 2);
            (before, pace, pace * 3)
        });
    }
}

/// What yesterday's process stored is understood.
#[test]
fn stored_values_of_format_1_are_read() {
    let text = include_str!("data/values.1.txt");
    let mut bfd = Bfd::following(7);
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        bfd.restore(Duration::ZERO, name, Some(value.as_bytes())).unwrap();
    }
    let actions = bfd.promote(Duration::from_secs(1));
    let ups: Vec<_> = actions.iter().filter_map(|a| if let Action::Up(key) = a { Some(key.clone()) } else { None }).collect();
    let single = Key { peer: ADDRESS[0], local: ADDRESS[1], interface: Some("core0".into()) };
    assert_eq!(ups, std::slice::from_ref(&single));
    assert_eq!((bfd.source_port(&single), bfd.views(Duration::from_secs(1)).len()), (Some(49_200), 2));
    // As they would be stored today.
    let mut stored: Vec<_> = bfd.changes().into_iter().map(|(_, name, value)| (name, value)).collect();
    assert!(stored.is_empty(), "nothing has changed: {stored:?}");
    bfd.set_source_port(&single, 50_000);
    stored = bfd.changes().into_iter().map(|(_, name, value)| (name, value)).collect();
    let line = text.lines().next().unwrap().replace("49200", "50000");
    let (name, value) = line.split_once(' ').unwrap();
    assert_eq!(stored, [(name.to_owned(), Some(value.as_bytes().to_vec()))]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = r#"{"format":1,"state":"up","discriminator":7,"diagnostic":0,"interval_us":300000,"multiplier":3,"polling":false,"agreed_tx_us":300000,"agreed_rx_us":300000,"remote":{"state":3,"diagnostic":0,"discriminator":9,"demand":false,"min_rx_us":300000,"desired_tx_us":300000,"multiplier":3}}"#;
    let name = "bfd/10.0.0.1/10.0.0.2";
    let read = |value: &str| Bfd::following(1).restore(Duration::ZERO, name, Some(value.as_bytes()));
    read(good).unwrap();
    let bad = [
        ("\"format\":1", "\"format\":2"),
        ("\"discriminator\":7", "\"discriminator\":0"),
        ("\"interval_us\":300000", "\"interval_us\":1"),
        ("\"agreed_tx_us\":300000", "\"agreed_tx_us\":18446744073709551615"),
        ("\"state\":3", "\"state\":4"),
        ("\"multiplier\":3}", "\"multiplier\":0}"),
        ("\"remote\"", "\"former\""),
        ("}}", "}"),
    ];
    for (from, to) in bad {
        assert!(read(&good.replace(from, to)).is_err(), "{to}");
    }
}
