//! From text to documents. Every value is taken by hand from the parsed tree, so that an error can name its path.

use crate::{
    Attachment, Bgp, Core, CoreRoute, Customer, Document, IntentError, Labels, Platform, Reflector, StaticRoute, Vpn, model::HIDDEN,
};
use edgeplex_types::{InvalidValue, Label, LabelRange, Name, VlanId};
use ipnet::Ipv4Net;
use serde_json::{Map, Value};
use std::{fmt::Display, net::Ipv4Addr, ops::RangeInclusive, str::FromStr};

pub const API_VERSION: &str = "edgeplex/v1";
/// Longest text taken, bytes.
pub const MAX_TEXT: usize = 4 << 20;
/// TCP MD5 keys are at most this long in Linux (TCP_MD5SIG_MAXKEYLEN), bytes.
const MAX_PASSWORD: usize = 80;
const MTU: RangeInclusive<u64> = 576..=9216;
/// Between AS numbers that fit two octets and those that do not stands AS_TRANS (RFC 6793 §9).
const AS_TRANS: u32 = 23456;

/// Reads all YAML documents of `text` (JSON is YAML too). Unknown fields and duplicate keys are refused.
pub fn parse(text: &str) -> Result<Vec<Document>, IntentError> {
    if text.len() > MAX_TEXT {
        return Err(IntentError::new("input", "size", format!("{} bytes", text.len()), format!("must be at most {MAX_TEXT} bytes")));
    }
    let values: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| malformed(&e))?;
    if values.is_empty() {
        return Err(IntentError::new("input", "document 1", "", "holds no document; write at least one Platform or Customer"));
    }
    values.iter().enumerate().map(|(i, v)| document(i + 1, v)).collect()
}

fn malformed(e: &serde_saphyr::Error) -> IntentError {
    let place = e.location().map_or_else(|| "syntax".to_owned(), |l| format!("line {} column {}", l.line(), l.column()));
    match e.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            IntentError::new("input", place, key, "is given twice in one mapping")
        }
        other => {
            let said = other.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // Where it is has been said.
            let said = said.lines().next().and_then(|l| l.split(" at line ").next()).unwrap_or_default();
            IntentError::new("input", place, "YAML", format!("is not well-formed: {said}"))
        }
    }
}

fn document(number: usize, value: &Value) -> Result<Document, IntentError> {
    let untitled = format!("document {number}");
    let root = At { document: &untitled, path: String::new(), value };
    let fields = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let version: String = fields.need("apiVersion")?.text()?.to_owned();
    if version != API_VERSION {
        return Err(fields.need("apiVersion")?.wrong(format!("must be {API_VERSION}")));
    }
    let kind = fields.need("kind")?;
    let name: Name = fields.need("metadata")?.fields(&["name"])?.need("name")?.parse()?;
    let title = format!("{} {name}", kind.text()?);
    let root = At { document: &title, path: String::new(), value };
    let spec = root.fields(&["apiVersion", "kind", "metadata", "spec"])?.need("spec")?;
    match kind.text()? {
        "Platform" => platform(name, &spec).map(Document::Platform),
        "Customer" => customer(name, &spec).map(Document::Customer),
        _ => Err(kind.wrong("must be Platform or Customer")),
    }
}

fn platform(name: Name, spec: &At<'_>) -> Result<Platform, IntentError> {
    let f = spec.fields(&["asn", "loopback", "core", "coreRoutes", "routeReflectors", "access", "labels"])?;
    let core = f.need("core")?.list(|a| {
        let f = a.fields(&["port", "address", "mtu"])?;
        Ok(Core { port: f.need("port")?.port()?, address: f.need("address")?.interface_address()?, mtu: f.mtu(1600)? })
    })?;
    let core_routes = f.list("coreRoutes", |a| {
        let f = a.fields(&["prefix", "via"])?;
        Ok(CoreRoute { prefix: f.need("prefix")?.prefix()?, via: f.need("via")?.address()? })
    })?;
    let route_reflectors = f.list("routeReflectors", |a| {
        let f = a.fields(&["address", "password"])?;
        Ok(Reflector { address: f.need("address")?.address()?, password: f.may("password", At::password)? })
    })?;
    let labels = f.may("labels", |a| {
        let f = a.fields(&["first", "last", "quarantine"])?;
        let label = |key, default: Label| f.may(key, |a| a.label()).map(|l| l.unwrap_or(default));
        let (first, last) = (label("first", Label::FIRST_UNRESERVED)?, label("last", Label::MAX)?);
        let range = LabelRange::new(first, last).map_err(|e| a.invalid(&e))?;
        let quarantine = f.may("quarantine", |a| a.number(0..=86_400, "must be 0 to 86400 seconds"))?.unwrap_or(QUARANTINE_S);
        Ok(Labels { range, quarantine })
    })?;
    let labels = match labels {
        Some(l) => l,
        None => {
            Labels { range: LabelRange::new(Label::FIRST_UNRESERVED, Label::MAX).map_err(|e| spec.invalid(&e))?, quarantine: QUARANTINE_S }
        }
    };
    let access = f.need("access")?.list(At::port)?;
    Ok(Platform {
        name,
        asn: f.need("asn")?.asn()?,
        loopback: f.need("loopback")?.address()?,
        core,
        core_routes,
        route_reflectors,
        access,
        labels,
    })
}

const QUARANTINE_S: u32 = 60;

fn customer(name: Name, spec: &At<'_>) -> Result<Customer, IntentError> {
    let f = spec.fields(&["vpn", "attachments"])?;
    let vpn = f.need("vpn")?.fields(&["import", "export"])?;
    let vpn = Vpn { import: vpn.list("import", At::parse)?, export: vpn.list("export", At::parse)? };
    Ok(Customer { name, vpn, attachments: f.list("attachments", attachment)? })
}

fn attachment(a: &At<'_>) -> Result<Attachment, IntentError> {
    let f = a.fields(&["name", "port", "vlan", "address", "mtu", "rd", "label", "bgp", "static"])?;
    Ok(Attachment {
        name: f.need("name")?.parse()?,
        port: f.need("port")?.port()?,
        vlan: f.may("vlan", |a| {
            let n: u16 = a.number(1..=4094, "must be 1 to 4094")?;
            VlanId::try_from(n).map_err(|e| a.invalid(&e))
        })?,
        address: f.need("address")?.interface_address()?,
        mtu: f.mtu(1500)?,
        rd: f.may("rd", At::parse)?,
        label: f.may("label", |a| a.label())?,
        bgp: f.may("bgp", bgp)?,
        static_routes: f.list("static", |a| {
            let f = a.fields(&["prefix", "via"])?;
            Ok(StaticRoute { prefix: f.need("prefix")?.prefix()?, via: f.need("via")?.address()? })
        })?,
    })
}

fn bgp(a: &At<'_>) -> Result<Bgp, IntentError> {
    let f = a.fields(&["neighbor", "remoteAs", "maxPrefix", "password", "holdTime"])?;
    let hold_time = f.may("holdTime", |a| {
        let right = "must be 0 or 3 to 65535 seconds";
        let t: u16 = a.number(0..=65_535, right)?;
        // RFC 4271 §4.2
        if t == 1 || t == 2 { Err(a.wrong(right)) } else { Ok(t) }
    })?;
    Ok(Bgp {
        neighbor: f.need("neighbor")?.address()?,
        remote_as: f.need("remoteAs")?.asn()?,
        max_prefix: f.may("maxPrefix", |a| a.number(1..=u64::from(u32::MAX), "must be 1 to 4294967295"))?,
        password: f.may("password", At::password)?,
        hold_time,
    })
}

/// A place in a document.
struct At<'a> {
    document: &'a str,
    path: String,
    value: &'a Value,
}

/// The fields of a mapping, all known.
struct Fields<'a> {
    document: &'a str,
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn at(&self, key: &str, value: &'a Value) -> At<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        At { document: self.document, path, value }
    }

    fn get(&self, key: &str) -> Option<At<'a>> {
        self.map.get(key).filter(|v| !v.is_null()).map(|v| self.at(key, v))
    }

    fn need(&self, key: &str) -> Result<At<'a>, IntentError> {
        self.get(key).ok_or_else(|| {
            let at = self.at(key, &Value::Null);
            IntentError::new(at.document, at.path, "(missing)", "is required")
        })
    }

    fn may<T>(&self, key: &str, take: impl Fn(&At<'a>) -> Result<T, IntentError>) -> Result<Option<T>, IntentError> {
        self.get(key).map(|a| take(&a)).transpose()
    }

    fn list<T>(&self, key: &str, take: impl Fn(&At<'a>) -> Result<T, IntentError>) -> Result<Vec<T>, IntentError> {
        self.get(key).map_or_else(|| Ok(vec![]), |a| a.list(take))
    }

    fn mtu(&self, default: u16) -> Result<u16, IntentError> {
        Ok(self.may("mtu", |a| a.number(MTU, "must be 576 to 9216 bytes"))?.unwrap_or(default))
    }
}

impl<'a> At<'a> {
    fn wrong(&self, right: impl Into<String>) -> IntentError {
        let given = match self.value {
            Value::String(s) => s.clone(),
            v => v.to_string(),
        };
        let path = if self.path.is_empty() { "top level" } else { &self.path };
        IntentError::new(self.document, path, given, right)
    }

    fn invalid(&self, e: &InvalidValue) -> IntentError {
        IntentError::new(self.document, &self.path, &e.given, e.right)
    }

    fn fields(&self, known: &[&str]) -> Result<Fields<'a>, IntentError> {
        let map = self.value.as_object().ok_or_else(|| self.wrong(format!("must be a mapping with the fields {}", known.join(", "))))?;
        let f = Fields { document: self.document, path: self.path.clone(), map };
        match map.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(IntentError::new(
                self.document,
                f.at(k, &Value::Null).path,
                k,
                format!("is not a known field; known are {}", known.join(", ")),
            )),
            None => Ok(f),
        }
    }

    fn list<T>(&self, take: impl Fn(&At<'a>) -> Result<T, IntentError>) -> Result<Vec<T>, IntentError> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("must be a list"))?;
        items
            .iter()
            .enumerate()
            .map(|(i, value)| take(&At { document: self.document, path: format!("{}[{i}]", self.path), value }))
            .collect()
    }

    fn text(&self) -> Result<&'a str, IntentError> {
        self.value.as_str().ok_or_else(|| self.wrong("must be text; put it in quotes"))
    }

    fn parse<T: FromStr<Err = InvalidValue>>(&self) -> Result<T, IntentError> {
        self.text()?.parse().map_err(|e| self.invalid(&e))
    }

    fn number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>, right: impl Display) -> Result<T, IntentError> {
        let n = self.value.as_u64().filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
        n.ok_or_else(|| {
            let quotes = if self.value.is_string() { ", without quotes" } else { "" };
            self.wrong(format!("{right}{quotes}"))
        })
    }

    fn label(&self) -> Result<Label, IntentError> {
        let right = "must be 16 to 1048575 (0 to 15 are reserved)";
        let n: u32 = self.number(u64::from(Label::FIRST_UNRESERVED.get())..=u64::from(Label::MAX.get()), right)?;
        Label::try_from(n).map_err(|e| self.invalid(&e))
    }

    fn asn(&self) -> Result<u32, IntentError> {
        let right = "must be an AS number, 1 to 4294967294 but not 23456 (AS_TRANS, RFC 6793)";
        let n: u32 = self.number(1..=u64::from(u32::MAX - 1), right)?;
        // RFC 7607 forbids 0, RFC 6793 §9 reserves 23456, RFC 7300 the last.
        if n == AS_TRANS { Err(self.wrong(right)) } else { Ok(n) }
    }

    /// Of a switch port, which is an interface of the host: IFNAMSIZ leaves 15 characters.
    fn port(&self) -> Result<String, IntentError> {
        let s = self.text()?;
        let ok = (1..=15).contains(&s.len())
            && !s.starts_with(['.', '-'])
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if ok { Ok(s.to_owned()) } else { Err(self.wrong("must be an interface name: 1 to 15 letters, digits, `-`, `_` or `.`")) }
    }

    /// A unicast address.
    fn address(&self) -> Result<Ipv4Addr, IntentError> {
        let a: Ipv4Addr = self.text()?.parse().map_err(|_| self.wrong("must be an IPv4 address such as 192.168.1.2"))?;
        if unicast(a) { Ok(a) } else { Err(self.wrong("must be a unicast address that a host can have")) }
    }

    fn net(&self) -> Result<Ipv4Net, IntentError> {
        self.text()?.parse().map_err(|_| self.wrong("must be an IPv4 prefix such as 10.9.0.0/16"))
    }

    fn prefix(&self) -> Result<Ipv4Net, IntentError> {
        let p = self.net()?;
        if p.trunc() == p { Ok(p) } else { Err(self.wrong(format!("has host bits set; must be {}", p.trunc()))) }
    }

    /// An address that a host can have on the subnet it comes with.
    fn interface_address(&self) -> Result<Ipv4Net, IntentError> {
        let n: Ipv4Net =
            self.text()?.parse().map_err(|_| self.wrong("must be an address with its prefix length, such as 192.168.1.1/30"))?;
        if !(1..=31).contains(&n.prefix_len()) {
            return Err(self.wrong("must have a prefix length of 1 to 31, so that a neighbour fits in the subnet"));
        }
        if !unicast(n.addr()) {
            return Err(self.wrong("must be a unicast address, such as 192.168.1.1/30"));
        }
        if !usable(n, n.addr()) {
            let hosts = n.hosts().next().map(|h| format!(", such as {h}/{}", n.prefix_len())).unwrap_or_default();
            return Err(self.wrong(format!("must be an address that a host can have in {}{hosts}", n.trunc())));
        }
        Ok(n)
    }

    fn password(&self) -> Result<String, IntentError> {
        let hidden = |right: &str| IntentError::new(self.document, &self.path, HIDDEN, right);
        let s = self.value.as_str().ok_or_else(|| hidden("must be text; put it in quotes"))?;
        // What was shown may come back as input; taking it for a password would end the session.
        if s == HIDDEN {
            return Err(hidden("stands for a password where one is shown; give the password itself"));
        }
        if (1..=MAX_PASSWORD).contains(&s.len()) && !s.contains('\0') { Ok(s.to_owned()) } else { Err(hidden("must be 1 to 80 bytes")) }
    }
}

fn unicast(a: Ipv4Addr) -> bool {
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.octets()[0] == 0 || a.octets()[0] >= 240)
}

/// Whether a host can have the address in the subnet: not its first or last, except on a point-to-point /31 (RFC 3021).
pub(crate) fn usable(net: Ipv4Net, a: Ipv4Addr) -> bool {
    net.contains(&a) && (net.prefix_len() >= 31 || (a != net.network() && a != net.broadcast()))
}
