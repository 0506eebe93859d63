//! LSAs and messages in the words of the steps.

use super::router;
use edgeplex_ospf::packet::{
    DD_INIT, DD_MASTER, DD_MORE, GRACE_ID, Grace, INITIAL_SEQUENCE, LinkKind, Lsa, LsaBody, LsaHeader, LsaKey, MAX_SEQUENCE, Message,
    NETWORK, NetworkLsa, OPAQUE_AREA, OPAQUE_LINK, OPTION_E, ROUTER, RouterLink, RouterLsa,
};
use std::net::Ipv4Addr;

const NOTE_ID: Ipv4Addr = Ipv4Addr::new(128, 0, 0, 0);

fn last(address: Ipv4Addr) -> u8 {
    address.octets()[3]
}

fn numbers(text: &str) -> Result<Vec<u8>, String> {
    text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().map_err(|_| format!("`{t}` is no router"))).collect()
}

/// `KIND:N[:ADV][@SEQ][~AGE][=CONTENTS]`
pub(super) fn lsa(word: &str) -> Result<Lsa, String> {
    let (head, contents) = word.split_once('=').unwrap_or((word, ""));
    let (head, age) = head.split_once('~').unwrap_or((head, "0"));
    let (head, sequence) = head.split_once('@').unwrap_or((head, "1"));
    let mut parts = head.split(':');
    let kind = parts.next().unwrap_or_default();
    let mut next = || parts.next().and_then(|p| p.parse::<u8>().ok());
    let n = next().ok_or_else(|| format!("`{word}` is of no router"))?;
    let by = next().unwrap_or(n);
    let (kind, id, body) = match kind {
        "router" => {
            let link =
                |to: &u8| RouterLink { kind: LinkKind::PointToPoint, id: router(*to), data: Ipv4Addr::new(10, 9, n, *to), metric: 10 };
            let mut links: Vec<_> = numbers(contents)?.iter().map(link).collect();
            links.push(RouterLink { kind: LinkKind::Stub, id: router(n), data: Ipv4Addr::BROADCAST, metric: 0 });
            (ROUTER, router(n), LsaBody::Router(RouterLsa { flags: 0, links }))
        }
        "network" => {
            let attached = numbers(contents)?.into_iter().map(router).collect();
            (NETWORK, Ipv4Addr::new(10, 0, 0, n), LsaBody::Network(NetworkLsa { prefix_length: 24, attached }))
        }
        "note" => (OPAQUE_AREA, NOTE_ID, LsaBody::Opaque(contents.as_bytes().to_vec())),
        "grace" => {
            let period = contents.parse().map_err(|_| "a grace period is a number")?;
            (OPAQUE_LINK, GRACE_ID, LsaBody::Opaque(Grace { period, reason: 1, address: None }.encode()))
        }
        "strange" => (99, NOTE_ID, LsaBody::Opaque(vec![])),
        _ => return Err(format!("`{word}` is no LSA")),
    };
    let sequence = match sequence {
        "last" => MAX_SEQUENCE,
        text => INITIAL_SEQUENCE + text.parse::<i32>().map_err(|_| format!("`{text}` is no sequence number"))? - 1,
    };
    let age = age.parse().map_err(|_| format!("`{age}` is no age"))?;
    let key = LsaKey { kind, id, advertising_router: router(by) };
    Ok(Lsa::new(key, OPTION_E, sequence, body).ok_or("too long")?.at_age(age))
}

fn header_words(header: &LsaHeader) -> String {
    let (id, by) = (last(header.key.id), last(header.key.advertising_router));
    let name = match header.key.kind {
        ROUTER => format!("router:{by}"),
        NETWORK => format!("network:{id}:{by}"),
        OPAQUE_LINK => format!("grace:{by}"),
        OPAQUE_AREA => format!("note:{by}"),
        kind => format!("type {kind}:{by}"),
    };
    let sequence = match header.sequence {
        MAX_SEQUENCE => "last".to_owned(),
        sequence => (sequence - INITIAL_SEQUENCE + 1).to_string(),
    };
    format!("{name}@{sequence}~{}", header.age)
}

pub(super) fn lsa_words(lsa: &Lsa) -> String {
    let join = |numbers: &mut dyn Iterator<Item = u8>| numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let contents = match &lsa.body {
        LsaBody::Router(r) => {
            let links = r.links.iter().filter(|l| l.kind != LinkKind::Stub);
            let dear = if links.clone().any(|l| l.metric == 0xffff) { ",drained" } else { "" };
            let word = |l: &RouterLink| match l.kind {
                LinkKind::Transit => format!("segment of {}", last(l.id)),
                _ => last(l.id).to_string(),
            };
            format!("{}{dear}", links.map(word).collect::<Vec<_>>().join(","))
        }
        LsaBody::Network(n) => join(&mut n.attached.iter().map(|id| last(*id))),
        LsaBody::Opaque(bytes) if lsa.header.key.kind == OPAQUE_LINK => Grace::decode(bytes).unwrap().period.to_string(),
        LsaBody::Opaque(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    };
    format!("{}={contents}", header_words(&lsa.header))
}

pub(super) fn message(message: &Message) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(" ");
    match message {
        Message::Hello(h) => {
            let seen = h.neighbors.iter().map(|n| last(*n).to_string()).collect::<Vec<_>>().join(",");
            format!("hello dr={} backup={} sees {seen}", last(h.designated), last(h.backup))
        }
        Message::DatabaseDescription(dd) => {
            let flags: String =
                [('I', DD_INIT), ('M', DD_MORE), ('S', DD_MASTER)].iter().filter(|(_, f)| dd.flags & f != 0).map(|(c, _)| *c).collect();
            let flags = if flags.is_empty() { "-" } else { &flags };
            format!("dd {flags} seq={} {}", dd.sequence, list(&mut dd.headers.iter().map(header_words)))
        }
        Message::Request(keys) => {
            let key = |k: &LsaKey| format!("type {} {} of {}", k.kind, k.id, last(k.advertising_router));
            format!("request {}", list(&mut keys.iter().map(key)))
        }
        Message::Update(update) => format!("update {}", list(&mut update.lsas.iter().map(lsa_words))),
        Message::Acknowledge(headers) => format!("ack {}", list(&mut headers.iter().map(header_words))),
    }
}
