//! Two systems over a network that loses, repeats and delays: whatever happens, they agree in the end.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_bfd::{Action, Bfd, Key, Parameters, packet::Control};
use proptest::prelude::*;
use std::{net::IpAddr, time::Duration};

const ADDRESS: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2))];

#[derive(Debug, Clone)]
enum Act {
    Add(usize, u64, u8),
    Remove(usize),
    /// A process dies and comes back without its memory.
    Restart(usize),
    /// Per cent of packets lost from now on.
    Loss(u8),
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0..2usize, 20..400u64, 2..5u8).prop_map(|(who, ms, n)| Act::Add(who, ms, n)),
        (0..2usize).prop_map(Act::Remove),
        (0..2usize).prop_map(Act::Restart),
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
                if let Some(p) = self.parameters[who] {
                    self.systems[who].add(self.now, &self.keys[who], "test", p);
                }
            }
            Act::Loss(percent) => self.loss = percent,
            Act::Pass(ms) => self.pass(Duration::from_millis(ms)),
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for steps in 0.. {
            assert!(steps < 100_000, "a storm of packets");
            let packet = self.wire.iter().map(|(t, ..)| *t).min();
            let timers = self.systems.iter().filter_map(Bfd::deadline).min();
            let Some(next) = packet.into_iter().chain(timers).min().filter(|t| *t <= until) else { break };
            self.now = self.now.max(next);
            if packet == Some(next) {
                let at = self.wire.iter().position(|(t, ..)| *t == next).unwrap();
                let (_, to, packet) = self.wire.remove(at);
                let packet = Control::decode(&packet.encode()).unwrap();
                let actions = self.systems[to].receive(self.now, ADDRESS[1 - to], ADDRESS[to], None, &packet);
                self.take(to, actions);
            } else {
                for who in 0..2 {
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
                Action::Down(..) => assert!(std::mem::replace(&mut self.told_up[who], false), "down, never up"),
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
