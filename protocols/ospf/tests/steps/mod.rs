//! Words for events and actions of one engine: router 1, 10.255.0.1.
//!
//! On wires its neighbour N is behind interface `l(N-2)` at 10.0.(N-2).N; on a segment all are on `l0` at 10.0.0.N. Routers
//! and addresses on the segment go by their last number, N; 0 is nobody.
//!
//! ```text
//! start wires | segment [OPTION…]     mtu=N prio=N grace=N lsas=N restarting md5 password
//! interface l0 up | down
//! hello N [sees] [dr=N] [backup=N] [prio=N] [hello=N] [dead=N] [mask=N] [crypto=N] [key=WORD]
//! dd N FLAGS seq=N | last | next [mtu=N] [LSA…]     FLAGS of I, M, S or -; last, next: of what we sent it last
//! full N [LSA…]                       everything up to Full, these LSAs being what N has
//! update N LSA…     ack N LSA… | sent     request N LSA…     sent: all that we ever sent it
//! lost N | cost l0 max | normal | drain on | off | prepare-restart | shutdown
//! database | neighbors | routes
//! LSA: router:N[@SEQ][~AGE][=N,N…]  links to these routers, a host of its own     note:N[@SEQ][~AGE][=TEXT]  an opaque area LSA
//!      network:N:ADV[@SEQ][~AGE]=N,N…  of the segment     grace:N[@SEQ][~AGE]=PERIOD     strange:N  an unknown type
//! ```
//! SEQ counts from 1; `last` is the greatest there is.

mod words;

use edgeplex_conformance::Subject;
use edgeplex_ospf::packet::{
    DD_INIT, DD_MASTER, DD_MORE, DatabaseDescription, Hello, Lsa, LsaHeader, Message, OPTION_E, OPTION_O, Packet, Update,
};
use edgeplex_ospf::{ALL_ROUTERS, Action, Algorithm, Authentication, Config, Event, InterfaceConfig, Network, Ospf, Start, Time};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use words::{lsa, lsa_words};

pub(crate) fn router(n: u8) -> Ipv4Addr {
    if n == 0 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::new(10, 255, 0, n) }
}

#[derive(Debug, Default)]
pub(crate) struct Bench {
    engine: Option<Ospf>,
    config: Option<Config>,
    segment: bool,
    /// Sequence number of the last database description that we sent to each neighbour, and what it was asked for.
    described: BTreeMap<u8, u32>,
    asked: BTreeMap<u8, usize>,
    /// LSAs that we have sent on each interface.
    sent: BTreeMap<String, Vec<LsaHeader>>,
}

/// What follows `name=` among the words.
fn option<T: std::str::FromStr>(words: &[&str], name: &str) -> Option<T> {
    words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn number(word: Option<&&str>) -> Result<u8, String> {
    word.and_then(|w| w.parse().ok()).ok_or_else(|| "a number of a router is missing".into())
}

impl Bench {
    fn address(&self, n: u8) -> Ipv4Addr {
        match (n, self.segment) {
            (0, _) => Ipv4Addr::UNSPECIFIED,
            (n, true) => Ipv4Addr::new(10, 0, 0, n),
            (n, false) => Ipv4Addr::new(10, 0, n - 2, n),
        }
    }

    fn interface(&self, n: u8) -> String {
        if self.segment { "l0".into() } else { format!("l{}", n - 2) }
    }

    fn start(&mut self, now: Time, words: &[&str]) -> Result<Vec<String>, String> {
        self.segment = words.first() == Some(&"segment");
        let mut config = Config { hosts: vec![router(1)], ..Config::new(router(1), Ipv4Addr::UNSPECIFIED) };
        config.grace_s = option(words, "grace").unwrap_or(60);
        config.limits.lsas = option(words, "lsas").unwrap_or(config.limits.lsas);
        let network = if self.segment { Network::Broadcast } else { Network::PointToPoint };
        for at in 0..if self.segment { 1 } else { 2 } {
            let mut interface = InterfaceConfig::new(format!("10.0.{at}.1/24").parse().unwrap(), network);
            interface.mtu = option(words, "mtu").unwrap_or(1500);
            interface.priority = option(words, "prio").unwrap_or(1);
            if words.contains(&"md5") {
                interface.authentication = Self::key("key");
            } else if words.contains(&"password") {
                interface.authentication = Authentication::Simple("word".into());
            }
            config.interfaces.insert(format!("l{at}").into(), interface);
        }
        let start = Start { restarting: words.contains(&"restarting"), crypto_sequence: 1000 };
        self.engine = Some(Ospf::new(now, config.clone(), start));
        self.config = Some(config);
        Ok(vec![])
    }

    fn key(word: &str) -> Authentication {
        Authentication::Cryptographic { algorithm: Algorithm::Md5, key_id: 1, key: word.into() }
    }

    fn engine(&mut self) -> Result<&mut Ospf, String> {
        self.engine.as_mut().ok_or_else(|| "`start` comes first".into())
    }

    fn handle(&mut self, now: Time, event: Event<'_>) -> Result<Vec<String>, String> {
        let actions = self.engine()?.handle(now, event);
        Ok(self.tell(actions))
    }

    fn tell(&mut self, actions: Vec<Action>) -> Vec<String> {
        actions.into_iter().map(|a| self.words(a).trim_end().to_owned()).collect()
    }

    /// `n` sends this, with what `words` say of its authentication.
    fn receive(&mut self, now: Time, n: u8, message: &Message, words: &[&str]) -> Result<Vec<String>, String> {
        let interface = self.interface(n);
        let config = self.config.as_ref().ok_or("`start` comes first")?;
        let mut authentication = config.interfaces[interface.as_str()].authentication.clone();
        if let Some(key) = option::<String>(words, "key") {
            authentication = Self::key(&key);
        }
        let crypto: u32 = option(words, "crypto").unwrap_or(1);
        let packet = message.encode(router(n), Ipv4Addr::UNSPECIFIED, &authentication, crypto);
        let source = self.address(n);
        self.handle(now, Event::Received { interface: &interface, source, destination: ALL_ROUTERS, packet: &packet })
    }

    fn hello(&mut self, now: Time, n: u8, words: &[&str]) -> Result<Vec<String>, String> {
        let role = |name| self.address(option(words, name).unwrap_or(0));
        let hello = Hello {
            mask: u32::MAX << (32 - option(words, "mask").unwrap_or(24u32)),
            hello_interval: option(words, "hello").unwrap_or(10),
            options: OPTION_E,
            priority: option(words, "prio").unwrap_or(1),
            dead_interval: option(words, "dead").unwrap_or(40),
            designated: role("dr"),
            backup: role("backup"),
            neighbors: if words.contains(&"sees") { vec![router(1)] } else { vec![] },
        };
        self.receive(now, n, &Message::Hello(hello), words)
    }

    fn dd(&mut self, now: Time, n: u8, words: &[&str]) -> Result<Vec<String>, String> {
        let flags = words.first().ok_or("flags are missing")?;
        let flags = [('I', DD_INIT), ('M', DD_MORE), ('S', DD_MASTER)].iter().filter(|(c, _)| flags.contains(*c)).map(|(_, f)| f).sum();
        let last = self.described.get(&n).copied().unwrap_or(0);
        let sequence = match option::<String>(words, "seq").as_deref() {
            Some("last") => last,
            Some("next") => last + 1,
            Some(other) => other.parse().map_err(|_| "a sequence number is a number")?,
            None => return Err("a sequence number is missing".into()),
        };
        let headers: Vec<_> = lsas(words)?.into_iter().map(|l| l.header).collect();
        let dd = DatabaseDescription { mtu: option(words, "mtu").unwrap_or(1500), options: OPTION_E | OPTION_O, flags, sequence, headers };
        self.receive(now, n, &Message::DatabaseDescription(dd), words)
    }

    /// The neighbour is the master, for its identifier is greater; it gives what it is asked for.
    fn full(&mut self, now: Time, n: u8, words: &[&str]) -> Result<Vec<String>, String> {
        let crypto = words.iter().copied().filter(|w| w.starts_with("crypto")).collect::<Vec<_>>();
        let hello: Vec<&str> = words.iter().copied().filter(|w| w.contains('=') && !w.contains(':')).chain(["sees"]).collect();
        let mut told = self.hello(now, n, &hello)?;
        let described = words.iter().copied().filter(|w| w.contains(':'));
        told.extend(self.dd(now, n, &["IMS", "seq=100"].into_iter().chain(crypto.clone()).collect::<Vec<_>>())?);
        told.extend(self.dd(now, n, &["S", "seq=101"].into_iter().chain(crypto).chain(described).collect::<Vec<_>>())?);
        if self.asked.remove(&n).is_some_and(|count| count > 0) {
            told.extend(self.receive(now, n, &Message::Update(Update { lsas: lsas(words)?, refused: vec![] }), words)?);
        }
        // How it came about has a story of its own.
        Ok(told.into_iter().filter(|t| !["hello", "dd", "request"].iter().any(|w| t.contains(&format!(" {w}")))).collect())
    }

    fn words(&mut self, action: Action) -> String {
        match action {
            Action::Send { interface, destination, packet } => {
                let packet = Packet::decode(&packet).unwrap();
                let to = match destination {
                    ALL_ROUTERS => "all".to_owned(),
                    edgeplex_ospf::DESIGNATED_ROUTERS => "designated".to_owned(),
                    one => one.octets()[3].to_string(),
                };
                let n = if self.segment { destination.octets()[3] } else { interface[1..].parse::<u8>().unwrap() + 2 };
                let message = packet.message().unwrap();
                match &message {
                    Message::DatabaseDescription(dd) => drop(self.described.insert(n, dd.sequence)),
                    Message::Request(keys) => drop(self.asked.insert(n, keys.len())),
                    Message::Update(update) => {
                        let sent = self.sent.entry(interface.to_string()).or_default();
                        sent.extend(update.lsas.iter().map(|l| l.header));
                    }
                    _ => {}
                }
                format!("{interface} to {to}: {}", words::message(&message))
            }
            Action::RoutesChanged => "routes changed".into(),
            Action::NeighborUp { interface, router_id, .. } => format!("{interface}: {} up", router_id.octets()[3]),
            Action::NeighborDown { interface, router_id, reason, .. } => format!("{interface}: {} down: {reason}", router_id.octets()[3]),
            Action::JoinDrRouters { interface } => format!("{interface}: joins AllDRouters"),
            Action::LeaveDrRouters { interface } => format!("{interface}: leaves AllDRouters"),
            Action::Log(text) => format!("log: {text}"),
        }
    }

    fn show(&mut self, what: &str) -> Result<Vec<String>, String> {
        let engine = self.engine()?;
        Ok(match what {
            "database" => {
                let row = |l: edgeplex_ospf::LsaView| {
                    let sequence = l.sequence.wrapping_sub(0x8000_0000);
                    format!("{} {} of {}, {sequence}, age {}: {}", l.kind, l.id, l.advertising_router, l.age_s, l.contents.join("; "))
                };
                engine.database().into_iter().map(row).collect()
            }
            "neighbors" => {
                let row = |n: edgeplex_ospf::NeighborView| {
                    let owed = format!("retransmissions {}, requests {}", n.retransmissions, n.requests);
                    format!("{} is {}, {}, {owed}, {}", n.address, n.state, n.role, n.last_error.unwrap_or_default())
                };
                let refused = engine.interfaces().into_iter().flat_map(|i| i.refused).map(|(reason, n)| format!("refused {n}: {reason}"));
                engine.neighbors().into_iter().map(row).chain(refused).collect()
            }
            _ => {
                let row = |(prefix, route): (_, &edgeplex_ospf::Route)| {
                    let hops: Vec<_> = route.next_hops.iter().map(ToString::to_string).collect();
                    format!(
                        "{prefix} {} {} by {}",
                        route.kind.name(),
                        route.cost,
                        if route.connected { "us".into() } else { hops.join(", ") }
                    )
                };
                engine.routes().iter().map(row).collect()
            }
        })
    }
}

fn lsas(words: &[&str]) -> Result<Vec<Lsa>, String> {
    words.iter().filter(|w| w.contains(':')).map(|w| lsa(w)).collect()
}

impl Subject for Bench {
    fn event(&mut self, now: Duration, line: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (head, rest) = words.split_first().ok_or("nothing to do")?;
        let tail = rest.get(1..).unwrap_or_default();
        match *head {
            "start" => self.start(now, rest),
            "interface" => self.handle(now, Event::Interface { name: rest.first().ok_or("which?")?, up: tail == ["up"] }),
            "hello" => self.hello(now, number(rest.first())?, tail),
            "dd" => self.dd(now, number(rest.first())?, tail),
            "full" => self.full(now, number(rest.first())?, tail),
            "update" => self.receive(now, number(rest.first())?, &Message::Update(Update { lsas: lsas(tail)?, refused: vec![] }), tail),
            "ack" => {
                let n = number(rest.first())?;
                let mut headers: Vec<_> = lsas(tail)?.into_iter().map(|l| l.header).collect();
                if tail == ["sent"] {
                    headers = self.sent.get(&self.interface(n)).cloned().unwrap_or_default();
                }
                self.receive(now, n, &Message::Acknowledge(headers), tail)
            }
            "request" => {
                let keys = lsas(tail)?.into_iter().map(|l| l.header.key).collect();
                self.receive(now, number(rest.first())?, &Message::Request(keys), tail)
            }
            "lost" => {
                let n = number(rest.first())?;
                let (interface, address) = (self.interface(n), self.address(n));
                self.handle(now, Event::NeighborLost { interface: &interface, address })
            }
            "cost" => self.handle(now, Event::LinkCost { interface: rest.first().ok_or("which?")?, max: tail == ["max"] }),
            "drain" => {
                let config = self.config.as_mut().ok_or("`start` comes first")?;
                config.stub_router = *rest == ["on"];
                let config = config.clone();
                self.handle(now, Event::Configure(config))
            }
            "prepare-restart" => self.handle(now, Event::PrepareRestart),
            "shutdown" => self.handle(now, Event::Shutdown),
            "database" | "neighbors" | "routes" => self.show(head),
            _ => Err(format!("`{head}` is not an event")),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.engine.as_ref()?.deadline()
    }

    fn timer(&mut self, now: Duration) -> Vec<String> {
        self.handle(now, Event::Timer).unwrap_or_else(|e| vec![e])
    }
}

#[test]
fn lsas_are_told_as_they_are_written() {
    for text in ["router:2@3~7=1,3", "note:2@1~0=hello", "network:3:3@2~1=1,3", "grace:2@1~3600=60", "note:2@last~0=x"] {
        assert_eq!(lsa_words(&lsa(text).unwrap()), text);
    }
}
