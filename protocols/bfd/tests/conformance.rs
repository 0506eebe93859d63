//! Conformance steps: RFC 5880 by examples, as data in `conformance/`.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_bfd::{
    Action, Bfd, Key, Parameters,
    packet::{Control, Diagnostic, State},
};
use edgeplex_conformance::Subject;
use std::{path::Path, time::Duration};

/// One system with one session to 10.0.0.2, which may have several clients. Events:
///
/// ```text
/// add CLIENT INTERVAL_MS MULTIPLIER        remove CLIENT
/// receive STATE [poll] [final] [demand] [tx=MS] [rx=MS] [mult=N] [you=0|1|other]     (you: 1 is our discriminator)
/// raw HEX
/// ```
struct OneSession {
    bfd: Bfd,
    key: Key,
    ours: u32,
}

fn new() -> OneSession {
    let key = Key { peer: [10, 0, 0, 2].into(), local: [10, 0, 0, 1].into(), interface: Some("eth1".into()) };
    OneSession { bfd: Bfd::new(1), key, ours: 0 }
}

impl OneSession {
    fn tell(&mut self, actions: Vec<Action>) -> Vec<String> {
        let mut out = vec![];
        for action in actions {
            out.push(match action {
                Action::Send(_, p) => {
                    self.ours = p.my_discriminator;
                    let flag = |set, word: &str| if set { format!(" {word}") } else { String::new() };
                    let ms = |us: u32| us / 1000;
                    format!(
                        "send {}{}{}{} tx={} rx={} mult={} you={} diag={}",
                        p.state.name(),
                        flag(p.poll, "poll"),
                        flag(p.is_final, "final"),
                        flag(p.demand, "demand"),
                        ms(p.desired_min_tx_us),
                        ms(p.required_min_rx_us),
                        p.detect_multiplier,
                        p.your_discriminator,
                        p.diagnostic.0,
                    )
                }
                Action::Up(_) => "up".into(),
                Action::Down(_, why) => format!("down: {why}"),
                Action::Removed(_) => "removed".into(),
            });
        }
        out
    }

    fn receive(&mut self, now: Duration, words: &str) -> Result<Vec<Action>, String> {
        let mut packet = Control {
            diagnostic: Diagnostic::NONE,
            state: State::Down,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: 3,
            my_discriminator: 77,
            your_discriminator: self.ours,
            desired_min_tx_us: 1_000_000,
            required_min_rx_us: 300_000,
            required_min_echo_rx_us: 0,
        };
        for word in words.split_whitespace() {
            let number = |text: &str| text.parse::<u32>().map_err(|e| format!("{word}: {e}"));
            match word.split_once('=') {
                Some(("tx", ms)) => packet.desired_min_tx_us = number(ms)? * 1000,
                Some(("rx", ms)) => packet.required_min_rx_us = number(ms)? * 1000,
                Some(("mult", n)) => packet.detect_multiplier = u8::try_from(number(n)?).map_err(|e| e.to_string())?,
                Some(("you", "0")) => packet.your_discriminator = 0,
                Some(("you", "1")) => packet.your_discriminator = self.ours,
                Some(("you", "other")) => packet.your_discriminator = self.ours ^ 0x5555,
                None => match word {
                    "admin-down" => packet.state = State::AdminDown,
                    "down" => packet.state = State::Down,
                    "init" => packet.state = State::Init,
                    "up" => packet.state = State::Up,
                    "poll" => packet.poll = true,
                    "final" => packet.is_final = true,
                    "demand" => packet.demand = true,
                    _ => return Err(format!("`{word}` is no state and no flag")),
                },
                Some(_) => return Err(format!("`{word}` is no field")),
            }
        }
        // Through the codec, as on the wire.
        self.raw(now, &packet.encode())
    }

    fn raw(&mut self, now: Duration, bytes: &[u8]) -> Result<Vec<Action>, String> {
        match Control::decode(bytes) {
            Ok(packet) => Ok(self.bfd.receive(now, self.key.peer, self.key.local, Some("eth1"), &packet)),
            Err(error) => Err(format!("dropped: {error}")),
        }
    }
}

impl Subject for OneSession {
    fn event(&mut self, now: Duration, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let actions = match verb {
            "add" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let [client, interval, multiplier] = words[..] else { return Err("add CLIENT MS MULTIPLIER".into()) };
                let interval = Duration::from_millis(interval.parse().map_err(|_| "interval")?);
                let parameters = Parameters::new(interval, multiplier.parse().map_err(|_| "multiplier")?).map_err(|e| e.to_string())?;
                let up = self.bfd.add(now, &self.key, client, parameters);
                if up { vec![Action::Up(self.key.clone())] } else { vec![] }
            }
            "remove" => {
                self.bfd.remove(now, &self.key, rest);
                vec![]
            }
            "receive" => self.receive(now, rest)?,
            "raw" => {
                let hex: String = rest.split_whitespace().collect();
                let bytes = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16)).collect::<Result<Vec<_>, _>>();
                self.raw(now, &bytes.map_err(|e| e.to_string())?)?
            }
            _ => return Err(format!("`{line}` is not an event")),
        };
        Ok(self.tell(actions))
    }

    fn deadline(&self) -> Option<Duration> {
        self.bfd.deadline()
    }

    fn timer(&mut self, now: Duration) -> Vec<String> {
        let actions = self.bfd.timer(now);
        self.tell(actions)
    }
}

#[test]
fn steps() {
    edgeplex_conformance::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), new);
}
