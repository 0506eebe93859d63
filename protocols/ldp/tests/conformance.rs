//! The stories of `tests/conformance`: one LSR, 10.255.0.5 unless the story says otherwise, whose neighbours' words are in the file.
//! Labels come from 100 to 199.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

mod words;

use edgeplex_conformance::Subject;
use edgeplex_ldp::packet::{Composer, MAX_PDU, Message, frame};
use edgeplex_ldp::{Action, Config, ConnId, Event, Ldp, Routes, Start};
use edgeplex_types::{Label, LabelRange, NextHop};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

fn label(l: u32) -> Label {
    Label::try_from(l).unwrap()
}

struct Lsr {
    config: Config,
    ldp: Option<Ldp>,
    hellos: bool,
    /// Who speaks over a connection.
    speakers: BTreeMap<ConnId, Ipv4Addr>,
    /// LSR identifiers by transport address, as told in Hellos.
    heard: BTreeMap<Ipv4Addr, Ipv4Addr>,
    message_id: u32,
}

impl Lsr {
    fn new() -> Self {
        let mut config = Config::new(Ipv4Addr::new(10, 255, 0, 5), LabelRange::new(label(100), label(199)).unwrap());
        config.interfaces = ["eth0", "eth1"].map(Arc::from).into();
        Self { config, ldp: None, hellos: false, speakers: BTreeMap::new(), heard: BTreeMap::new(), message_id: 0 }
    }

    fn handle(&mut self, now: Duration, event: Event) -> Vec<String> {
        let config = self.config.clone();
        let ldp = self.ldp.get_or_insert_with(|| Ldp::new(now, config, Start::default()));
        let actions = ldp.handle(now, event);
        actions.into_iter().flat_map(|action| self.tell(action)).collect()
    }

    fn tell(&mut self, action: Action) -> Vec<String> {
        let names = |list: Vec<Arc<str>>| list.join(" ");
        vec![match action {
            Action::SendHello { interface, packet } => {
                let all = messages(&packet);
                if !self.hellos {
                    return vec![];
                }
                format!("hello {interface} {}", all.join(" | "))
            }
            Action::Connect { conn, local, remote, password, gtsm } => {
                self.speakers.insert(conn, self.heard[&remote]);
                let md5 = if password.is_some() { " md5" } else { "" };
                format!("connect {} {local} {remote}{md5}{}", name(conn), if gtsm { " gtsm" } else { "" })
            }
            Action::Protect { conn } => format!("protect {}", name(conn)),
            Action::Key { remote, password } => format!("key {remote} {}", if password.is_some() { "set" } else { "none" }),
            Action::Send { conn, bytes } => {
                return messages(&bytes).into_iter().map(|m| format!("send {} {m}", name(conn))).collect();
            }
            Action::Close { conn } => format!("close {}", name(conn)),
            Action::BindingsChanged => {
                let bindings = self.ldp.as_ref().unwrap().bindings();
                format!("store {}", bindings.iter().map(|(fec, label)| format!("{fec}={label}")).collect::<Vec<_>>().join(" "))
            }
            Action::ForwardingChanged => "forwarding".to_owned(),
            Action::SessionUp { lsr_id, interfaces } => format!("up {lsr_id} {}", names(interfaces)),
            Action::SessionDown { lsr_id, interfaces, reason } => format!("down {lsr_id} [{}] {reason}", names(interfaces)),
            Action::Synced { interface, synced } => format!("{interface} {}", if synced { "in step" } else { "not in step" }),
            Action::Recovered => "recovered".to_owned(),
            Action::Log { lsr_id, text } => format!("log {} {text}", lsr_id.map_or("-".to_owned(), |l| l.to_string())),
        }]
    }

    fn show(&self) -> Vec<String> {
        let ldp = self.ldp.as_ref().unwrap();
        let of_fec = |(fec, f): (&ipnet::Ipv4Net, &edgeplex_ldp::Fec)| {
            let text = |l: Option<Label>| l.map_or("-".to_owned(), |l| l.to_string());
            let hops: Vec<_> = f.hops.iter().map(|(hop, label)| format!("{}/{}:{}", hop.interface, hop.address, text(*label))).collect();
            format!("{fec} {} {}", text(f.local), if f.egress { "egress".to_owned() } else { hops.join(" ") }).trim_end().to_owned()
        };
        let labels = ldp.labels_in_use().iter().map(|(l, n)| format!("label {l} has {n} users"));
        ldp.forwarding().iter().map(of_fec).chain(labels).collect()
    }
}

fn name(conn: ConnId) -> String {
    match conn {
        ConnId::Opened(n) => format!("opened-{n}"),
        ConnId::Accepted(n) => format!("accepted-{n}"),
        ConnId::Inherited(n) => format!("inherited-{n}"),
    }
}

fn parse_name(text: &str) -> Result<ConnId, String> {
    let number = |n: &str| n.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    match text.split_once('-') {
        Some(("opened", n)) => Ok(ConnId::Opened(number(n)?)),
        Some(("accepted", n)) => Ok(ConnId::Accepted(number(n)?)),
        _ => Err(format!("`{text}` is not a connection")),
    }
}

/// What we send, in words.
fn messages(bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes;
    let mut out = vec![];
    while let Some(pdu) = frame(rest, MAX_PDU).unwrap() {
        out.extend(pdu.messages().map(|raw| words::say(&Message::decode(&raw.unwrap()).unwrap().unwrap())));
        rest = &rest[pdu.wire_len()..];
    }
    out
}

impl Subject for Lsr {
    fn event(&mut self, now: Duration, line: &str) -> Result<Vec<String>, String> {
        let all: Vec<_> = line.split_whitespace().collect();
        let address = |text: &str| text.parse::<Ipv4Addr>().map_err(|e| format!("{text}: {e}"));
        let event = match all.as_slice() {
            ["show"] => return Ok(self.show()),
            ["hellos", "shown"] => {
                self.hellos = true;
                return Ok(vec![]);
            }
            ["config", changes @ ..] => {
                words::configure(&mut self.config, changes)?;
                if self.ldp.is_none() {
                    return Ok(vec![]);
                }
                Event::Configure(self.config.clone())
            }
            ["restarted", bindings @ ..] => {
                let of = |text: &&str| {
                    let (fec, label) = text.split_once('=').ok_or("FEC=LABEL")?;
                    Ok((fec.parse().map_err(|_| "FEC")?, Label::try_from(label.parse::<u32>().map_err(|_| "label")?).map_err(|_| "label")?))
                };
                let bindings = bindings.iter().map(of).collect::<Result<_, &str>>()?;
                self.ldp = Some(Ldp::new(now, self.config.clone(), Start { restarting: true, bindings }));
                Event::Timer
            }
            ["interface", name, "down"] => Event::Interface { name: (*name).into(), address: Ipv4Addr::UNSPECIFIED, up: false },
            ["interface", name, at] => Event::Interface { name: (*name).into(), address: address(at)?, up: true },
            // hello INTERFACE SOURCE LSR-ID …
            ["hello", interface, source, lsr_id, more @ ..] => {
                let hello = words::hello(more, address(lsr_id)?)?;
                self.heard.extend(hello.transport_address.map(|transport| (transport, address(lsr_id).unwrap())));
                let mut composer = Composer::new(address(lsr_id)?, MAX_PDU);
                composer.push(1, &Message::Hello(hello));
                Event::Hello { interface: (*interface).into(), source: address(source)?, packet: composer.take() }
            }
            ["connected", conn] => Event::Connected { conn: parse_name(conn)? },
            ["accepted", conn, remote] => {
                self.speakers.insert(parse_name(conn)?, address(remote)?);
                Event::Accepted { conn: parse_name(conn)?, remote: address(remote)? }
            }
            ["closed", conn, reason @ ..] => Event::Closed { conn: parse_name(conn)?, reason: reason.join(" ") },
            ["bytes", conn, hex @ ..] => Event::Received { conn: parse_name(conn)?, bytes: words::hex(&hex.concat())? },
            ["receive", conn, message @ ..] => {
                let conn = parse_name(conn)?;
                let speaker = *self.speakers.get(&conn).ok_or("nobody speaks there")?;
                let mut composer = Composer::new(speaker, MAX_PDU);
                for message in message.split(|w| *w == "|") {
                    self.message_id += 1;
                    composer.push(self.message_id, &words::hear(message, self.config.lsr_id)?);
                }
                Event::Received { conn, bytes: composer.take() }
            }
            // routes FEC=own FEC=eth0/10.0.0.2,eth1/10.0.1.2 …
            ["routes", routes @ ..] => {
                let hop = |text: &str| {
                    let (interface, at) = text.split_once('/').ok_or("INTERFACE/ADDRESS")?;
                    Ok(NextHop { interface: interface.into(), address: at.parse().map_err(|_| "address")? })
                };
                let route = |text: &&str| {
                    let (fec, hops) = text.split_once('=').ok_or("FEC=HOPS")?;
                    let hops: Result<_, &str> = if hops == "own" { Ok(vec![]) } else { hops.split(',').map(hop).collect() };
                    Ok((fec.parse().map_err(|_| "FEC")?, hops?))
                };
                Event::Routes(Arc::new(routes.iter().map(route).collect::<Result<Routes, &str>>()?))
            }
            ["reset", lsr_id] => Event::Reset { lsr_id: address(lsr_id)? },
            ["stop"] => Event::Stop,
            _ => return Err(format!("`{line}` is not an event")),
        };
        Ok(self.handle(now, event))
    }

    fn deadline(&self) -> Option<Duration> {
        self.ldp.as_ref()?.deadline()
    }

    fn timer(&mut self, now: Duration) -> Vec<String> {
        self.handle(now, Event::Timer)
    }
}

#[test]
fn stories() {
    edgeplex_conformance::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), Lsr::new);
}
