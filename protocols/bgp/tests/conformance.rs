//! Sessions told as stories: `conformance/*.steps`. We are AS 65000, 10.0.0.1; the peer is AS 65101 unless the story says
//! otherwise.
//!
//! ```text
//! configure WORD…                 as=N families=A,B gr llgr=S add-path role=R strict max-prefix=N warn=P warning-only restart=S
//!                                 own-as=N as-override remove-private passive shutdown=TEXT   (before anything else)
//! start | stop | reset | bfd-down
//! connected N | accepted | closed N REASON…
//! open N [WORD…]                  as=N id=A hold=S families=A,B gr=S[R][N][F] llgr=S add-path role=N refresh enhanced extended
//! keepalive N | notification N C/S [TEXT] | refresh N request|begin|end FAMILY | end-of-rib N FAMILY
//! update N HEX…                   the bytes behind the header; `|` closes a part whose length stands before it: withdrawn |
//!                                 attributes | NLRI
//! advertise PREFIX [WORD…]        path=A,B community=HEX rt=RT otc=N next-hop=A, then what the peer is sent at once
//! withdraw PREFIX | release FAMILY
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp::packet::*;
use edgeplex_bgp::{Action, ConnId, Event, GracefulRestart, Local, MaxPrefix, Peer, PeerConfig};
use edgeplex_conformance::Subject;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const WE: Local = Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 1) };
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

struct Stage {
    config: PeerConfig,
    peer: Option<Peer>,
    /// What updates of ours are read with.
    context: Context,
}

#[test]
fn stories() {
    edgeplex_conformance::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"), || Stage {
        config: PeerConfig::new([192, 0, 2, 2], 65101),
        peer: None,
        context: Context { four_octet_as: true, ibgp: true, families: Family::ALL.into_iter().collect(), ..Context::default() },
    });
}

/// `name=value`, or the name alone.
fn split(word: &str) -> (&str, &str) {
    word.split_once('=').unwrap_or((word, ""))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not what belongs here"))
}

fn family(text: &str) -> Result<Family, String> {
    Family::ALL.into_iter().find(|f| f.to_string() == text).ok_or_else(|| format!("`{text}` is no family"))
}

fn families(text: &str) -> Result<Vec<Family>, String> {
    text.split(',').map(family).collect()
}

fn role(text: &str) -> Result<Role, String> {
    let known = [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];
    known.into_iter().find(|r| format!("{r:?}").to_lowercase() == text).ok_or_else(|| format!("`{text}` is no role"))
}

fn configure(c: &mut PeerConfig, word: &str) -> Result<(), String> {
    let (name, value) = split(word);
    let limit = |c: &PeerConfig| c.max_prefix.unwrap_or(MaxPrefix::new(0));
    match name {
        "as" => c.remote_as = number(value)?,
        "families" => c.families = families(value)?,
        "gr" => c.graceful_restart = Some(GracefulRestart { restart_time_s: 60, restarting: false }),
        "llgr" => c.long_lived_s = Some(number(value)?),
        "add-path" => c.add_path_receive = true,
        "role" => c.role = Some(role(value)?),
        "strict" => c.role_strict = true,
        "max-prefix" => c.max_prefix = Some(MaxPrefix::new(number(value)?)),
        "warn" => c.max_prefix = Some(MaxPrefix { warn_percent: number(value)?, ..limit(c) }),
        "warning-only" => c.max_prefix = Some(MaxPrefix { warning_only: true, ..limit(c) }),
        "restart" => c.max_prefix = Some(MaxPrefix { restart: Duration::from_secs(number(value)?), ..limit(c) }),
        "own-as" => c.allow_own_as = number(value)?,
        "as-override" => c.as_override = true,
        "remove-private" => c.remove_private_as = true,
        "passive" => c.passive = true,
        "shutdown" => c.shutdown = Some(value.into()),
        _ => return Err(format!("`{word}` is not configured here")),
    }
    Ok(())
}

fn their_open(words: &[&str]) -> Result<Open, String> {
    let mut asn = 65101;
    let mut open = Open::new(asn, 90, Ipv4Addr::new(10, 0, 0, 2));
    let mut carried = vec![Family::Ipv4Unicast];
    for word in words {
        let (name, value) = split(word);
        let each = || carried.iter().map(|f| f.afi_safi());
        match name {
            "as" => asn = number(value)?,
            "id" => open.identifier = number(value)?,
            "hold" => open.hold_time = number(value)?,
            "families" => {
                carried = families(value)?;
                open.capabilities.extend(carried.iter().map(|f| Capability::MultiProtocol(f.afi_safi().0, f.afi_safi().1)));
            }
            "gr" => open.capabilities.push(Capability::GracefulRestart(packet::GracefulRestart {
                restarted: value.contains('R'),
                notification: value.contains('N'),
                restart_time: number(value.trim_end_matches(['R', 'N', 'F']))?,
                families: each().map(|(afi, safi)| (afi, safi, value.contains('F'))).collect(),
            })),
            "llgr" => {
                let stale_time = number(value)?;
                let long = each().map(|(afi, safi)| LongLived { afi, safi, forwarding: true, stale_time });
                open.capabilities.push(Capability::LongLived(long.collect()));
            }
            "add-path" => {
                let paths = each().map(|(afi, safi)| AddPath { afi, safi, receive: true, send: true });
                open.capabilities.push(Capability::AddPath(paths.collect()));
            }
            "role" => open.capabilities.push(Capability::Role(number(value)?)),
            "refresh" => open.capabilities.push(Capability::RouteRefresh),
            "enhanced" => open.capabilities.push(Capability::EnhancedRefresh),
            "extended" => open.capabilities.push(Capability::ExtendedMessage),
            _ => return Err(format!("`{word}` belongs in no OPEN")),
        }
    }
    (open.my_as, open.capabilities[0]) = (u16::try_from(asn).unwrap_or(AS_TRANS), Capability::FourOctetAs(asn));
    Ok(open)
}

mod packet {
    pub(crate) use edgeplex_bgp::packet::GracefulRestart;
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(HEADER_LEN + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &len, &[kind], body].concat()
}

/// Bytes in hexadecimal, of which the first two parts get their lengths put before them.
fn update_body(words: &[&str]) -> Result<Vec<u8>, String> {
    let mut parts = vec![Vec::new()];
    for word in words {
        if *word == "|" {
            parts.push(Vec::new());
            continue;
        }
        let digits = word.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).ok().and_then(|c| u8::from_str_radix(c, 16).ok()));
        let bytes: Option<Vec<u8>> = digits.collect();
        parts.last_mut().unwrap().extend(bytes.ok_or_else(|| format!("`{word}` is not hexadecimal"))?);
    }
    let [withdrawn, attributes, nlri] = &parts[..] else { return Err("withdrawn | attributes | NLRI".into()) };
    let len = |b: &[u8]| u16::try_from(b.len()).unwrap().to_be_bytes();
    Ok([&len(withdrawn)[..], withdrawn, &len(attributes), attributes, nlri].concat())
}

fn nlri(prefix: &str) -> Result<Nlri, String> {
    match prefix.split_once('@') {
        Some((rd, prefix)) => {
            let label = edgeplex_types::Label::try_from(100).map_err(|e| e.to_string())?;
            Ok(Nlri::Vpn { rd: number(rd)?, prefix: number(prefix)?, label })
        }
        None => Ok(Nlri::Unicast(number(prefix)?)),
    }
}

fn attributes(words: &[&str]) -> Result<(Attributes, Option<IpAddr>), String> {
    let (mut a, mut next_hop) = (Attributes { origin: Origin::Igp, ..Attributes::default() }, None);
    for word in words {
        let (name, value) = split(word);
        match name {
            "path" => a.as_path = AsPath::sequence(value.split(',').map(number).collect::<Result<Vec<u32>, _>>()?),
            "community" => a.communities.push(u32::from_str_radix(value, 16).map_err(|e| e.to_string())?),
            "rt" => a.ext_communities.push(number::<edgeplex_types::RouteTarget>(value)?.0),
            "otc" => a.only_to_customer = Some(number(value)?),
            "next-hop" => next_hop = Some(number(value)?),
            _ => return Err(format!("`{word}` is no attribute")),
        }
    }
    Ok((a, next_hop))
}

impl Stage {
    fn peer(&mut self) -> &mut Peer {
        self.peer.get_or_insert_with(|| Peer::new(self.config.clone(), WE))
    }

    fn act(&mut self, now: Duration, event: Event<'_>) -> Vec<String> {
        let context = self.context;
        let mut told: Vec<String> = self.peer().handle(now, event).iter().map(|a| describe(context, a)).collect();
        told.extend(self.owed());
        told
    }

    /// What the connection takes at once.
    fn owed(&mut self) -> Vec<String> {
        let context = self.context;
        let mut out = vec![];
        let Some(id) = self.peer().established_connection() else { return out };
        let mut bytes = vec![];
        while self.peer().next_update(&mut bytes) {
            out.push(describe(context, &Action::Send(id, std::mem::take(&mut bytes))));
        }
        out
    }

    fn receive(&mut self, now: Duration, id: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
        Ok(self.act(now, Event::Received(ConnId(number(id)?), bytes)))
    }
}

fn routes(reach: &[Reach], unreach: &[Unreach]) -> String {
    let name = |path_id: u32, key: NlriKey| if path_id == 0 { key.to_string() } else { format!("{key}#{path_id}") };
    let mut gone: Vec<String> = unreach.iter().map(|u| format!(" -{}", name(u.path_id, u.key))).collect();
    gone.sort();
    let new = reach.iter().map(|r| format!(" +{}", name(r.path_id, r.nlri.key())));
    gone.into_iter().chain(new).collect()
}

fn say_attributes(a: &Attributes) -> String {
    let mut out = if a.as_path.is_empty() { String::new() } else { format!(" path {}", a.as_path) };
    if let Some(asn) = a.only_to_customer {
        out += &format!(" otc {asn}");
    }
    out
}

fn describe(context: Context, action: &Action) -> String {
    match action {
        Action::Connect(id) => format!("connect {}", id.0),
        Action::Adopt(id) => format!("adopt {}", id.0),
        Action::Close(id) => format!("close {}", id.0),
        Action::Send(id, bytes) => format!("send {} {}", id.0, describe_message(context, bytes)),
        Action::Up { router_id, peer_has_gr, restarted, families, preserved } => {
            let names = |f: &[Family]| f.iter().map(Family::to_string).collect::<Vec<_>>().join(",");
            let gr = if *peer_has_gr { format!(", graceful restart, preserved [{}]", names(preserved)) } else { String::new() };
            format!("up {router_id} {}{gr}{}", names(families), if *restarted { ", restarted" } else { "" })
        }
        Action::Down { reason, graceful: None } => format!("down: {reason}"),
        Action::Down { reason, graceful: Some(g) } => format!("down, routes stay {} s and {} s: {reason}", g.stale_s, g.llgr_stale_s),
        Action::Update { attributes, reach, unreach, .. } => {
            let said = if reach.is_empty() { String::new() } else { say_attributes(attributes) };
            format!("update{}{said}", routes(reach, unreach))
        }
        Action::EndOfRib(family) => format!("end-of-rib {family}"),
        Action::Warn(text) => format!("warn: {text}"),
    }
}

fn describe_message(context: Context, bytes: &[u8]) -> String {
    let message = frame_within(bytes, MAX_EXTENDED_MESSAGE).unwrap().unwrap();
    match message.kind {
        MessageType::Keepalive => "keepalive".into(),
        MessageType::Notification => Notification::decode(message.body).unwrap().to_string(),
        MessageType::RouteRefresh => {
            let refresh = RouteRefresh::decode(message.body).unwrap();
            format!("refresh {:?} {}", refresh.kind, refresh.family().unwrap())
        }
        MessageType::Open => {
            let open = Open::decode(message.body).unwrap();
            let mut out = format!("open as {} hold {}", open.asn(), open.hold_time);
            out.extend(open.graceful_restart().map(|g| format!(" gr {}{}", g.restart_time, if g.restarted { " R" } else { "" })));
            out.extend(open.roles().map(|r| format!(" role {r}")));
            out
        }
        MessageType::Update => {
            let u = update::decode(context, message.body).unwrap();
            if let Some(family) = u.end_of_rib {
                return format!("end-of-rib {family}");
            }
            let reach: Vec<Reach> = u.announced.iter().flat_map(|a| a.reach.clone()).collect();
            let said = u.attributes.as_deref().map(say_attributes).unwrap_or_default();
            format!("update{}{said}", routes(&reach, &u.unreach))
        }
    }
}

impl Subject for Stage {
    fn event(&mut self, now: Duration, line: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rest = words.get(2..).unwrap_or_default();
        match words[..] {
            ["configure", ..] => {
                words[1..].iter().try_for_each(|w| configure(&mut self.config, w))?;
                Ok(vec![])
            }
            ["start"] => Ok(self.act(now, Event::Start)),
            ["stop"] => Ok(self.act(now, Event::Stop(Some(&Notification::shutdown("the end"))))),
            ["reset"] => Ok(self.act(now, Event::Reset)),
            ["bfd-down"] => Ok(self.act(now, Event::BfdDown)),
            ["connected", id] => Ok(self.act(now, Event::Connected(ConnId(number(id)?), OWN))),
            ["accepted"] => Ok(self.act(now, Event::Accepted(OWN))),
            ["closed", id, ..] => Ok(self.act(now, Event::Closed(ConnId(number(id)?), &rest.join(" ")))),
            ["open", id, ..] => self.receive(now, id, &their_open(rest)?.encode()),
            ["keepalive", id] => self.receive(now, id, &keepalive()),
            ["notification", id, what, ..] => {
                let (code, subcode) = what.split_once('/').ok_or("code/subcode")?;
                let words = words[3..].join(" ");
                let data = if words.is_empty() { vec![] } else { Notification::shutdown(&words).data };
                self.receive(now, id, &Notification::new(Code::from_number(number(code)?), number(subcode)?, &data).encode())
            }
            ["refresh", id, kind, of] => {
                let kind = match kind {
                    "begin" => Refresh::Begin,
                    "end" => Refresh::End,
                    _ => Refresh::Request,
                };
                self.receive(now, id, &RouteRefresh::new(family(of)?, kind).encode())
            }
            ["end-of-rib", id, of] => {
                let mut bytes = vec![];
                compose::end_of_rib(&mut bytes, family(of)?);
                self.receive(now, id, &bytes)
            }
            ["update", id, ..] => self.receive(now, id, &message(2, &update_body(rest)?)),
            ["advertise", prefix, ..] => {
                let (a, next_hop) = attributes(rest)?;
                self.peer().rib_out().advertise(nlri(prefix)?, Arc::new(a), next_hop);
                Ok(self.owed())
            }
            ["withdraw", prefix] => {
                self.peer().rib_out().withdraw(nlri(prefix)?.key());
                Ok(self.owed())
            }
            ["release", of] => {
                self.peer().rib_out().release(family(of)?);
                Ok(self.owed())
            }
            _ => Err("not an event of this story".into()),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.peer.as_ref()?.deadline()
    }

    fn timer(&mut self, now: Duration) -> Vec<String> {
        self.act(now, Event::Timer)
    }
}
