//! `kind: Platform`.

use super::{
    at::At,
    values::{MAX_PASSWORD, protection},
};
use crate::{
    Authentication, AuthenticationType, ControlPlane, Core, CoreRoute, Host, IntentError, Labels, Ldp, LdpPassword, OWN_HOST, Ospf,
    OspfPort, Platform, Reflector,
};
use edgeplex_mgmt::config::{OspfNetwork, Role};
use edgeplex_types::Name;
use ipnet::Ipv4Net;
use std::net::{Ipv4Addr, SocketAddr};

/// VPN and LDP labels where the platform does not say.
const VPN_LABELS: (u32, u32) = (16, 499_999);
const LDP_LABELS: (u32, u32) = (500_000, 599_999);
const QUARANTINE_S: u32 = 60;

pub(super) fn platform(name: Name, spec: &At<'_>) -> Result<Platform, IntentError> {
    let f = spec.fields(&[
        "role",
        "asn",
        "loopback",
        "core",
        "coreRoutes",
        "ospf",
        "ldp",
        "routeReflectors",
        "access",
        "labels",
        "hosts",
        "protection",
        "controlPlane",
    ])?;
    let role = f.may("role", |a| a.choice(&[("pe", Role::Pe), ("p", Role::P)]))?.unwrap_or_default();
    let asn = match role {
        Role::Pe => Some(f.need("asn")?.asn()?),
        Role::P => f.may("asn", At::asn)?,
    };
    let core_routes = f.list("coreRoutes", |a| {
        let f = a.fields(&["prefix", "via"])?;
        Ok(CoreRoute { prefix: f.need("prefix")?.prefix4()?, via: f.need("via")?.address4()? })
    })?;
    let route_reflectors = f.list("routeReflectors", |a| {
        let f = a.fields(&["address", "password", "bfd"])?;
        Ok(Reflector {
            address: f.need("address")?.address4()?,
            password: f.may("password", |a| a.password(MAX_PASSWORD))?,
            bfd: f.may("bfd", At::bfd)?,
        })
    })?;
    let nothing = serde_json::json!({});
    let labels = f.get("labels").unwrap_or_else(|| f.at("labels", &nothing));
    let range = labels.labels(VPN_LABELS.0, VPN_LABELS.1, &["quarantine"])?;
    let quarantine = labels.fields(&["first", "last", "quarantine"])?.number("quarantine", 0..=86_400, " seconds", QUARANTINE_S)?;
    Ok(Platform {
        name,
        role,
        asn,
        loopback: f.need("loopback")?.address4()?,
        core: f.need("core")?.list(core)?,
        core_routes,
        ospf: f.may("ospf", ospf)?,
        ldp: f.may("ldp", ldp)?,
        route_reflectors,
        access: f.list("access", At::port)?,
        labels: Labels { range, quarantine },
        hosts: f.list("hosts", host)?,
        protection: f.may("protection", protection)?.unwrap_or_default(),
        control_plane: f
            .may("controlPlane", |a| Ok(ControlPlane { standby: a.fields(&["standby"])?.flag("standby", false)? }))?
            .unwrap_or_default(),
    })
}

fn host(a: &At<'_>) -> Result<Host, IntentError> {
    let f = a.fields(&["name", "address", "port", "key", "silence"])?;
    let name: Name = f.need("name")?.parse()?;
    if name.as_str() == OWN_HOST {
        return Err(f.need("name")?.wrong("is the controller's own host; choose another name"));
    }
    let (address, key) = (f.need("address")?, f.need("key")?);
    let right = "must be an address and a port, such as 192.0.2.7:7443 or [2001:db8::7]:7443";
    let to: SocketAddr = address.text()?.parse().map_err(|_| address.wrong(right))?;
    if to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast() {
        return Err(address.wrong(right));
    }
    let digits = key.text()?;
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(key.wrong("must be the 64 hexadecimal digits that `edgeplex-agent --show-key` prints"));
    }
    // An agent says every 50 ms that it is there; on a busy host it may be late.
    let silence = f.number("silence", 150..=60_000, " ms", 500)?;
    Ok(Host { name, address: to, port: f.need("port")?.port()?, key: digits.to_owned(), silence })
}

fn core(a: &At<'_>) -> Result<Core, IntentError> {
    let f = a.fields(&["port", "address", "mtu", "ospf", "ldp", "bfd"])?;
    let address = f.need("address")?.interface_address()?;
    Ok(Core {
        port: f.need("port")?.port()?,
        address,
        mtu: f.may("mtu", At::mtu)?.unwrap_or(1600),
        ospf: f.may("ospf", |a| ospf_port(a, address))?,
        ldp: f.flag("ldp", false)?,
        bfd: f.may("bfd", At::bfd)?,
    })
}

fn ospf(a: &At<'_>) -> Result<Ospf, IntentError> {
    let f = a.fields(&["area", "stubRouter", "grace", "loopFreeAlternates"])?;
    let area = f.may("area", |a| {
        let number = a.value.as_u64().and_then(|n| u32::try_from(n).ok()).map(Ipv4Addr::from);
        let text = || a.value.as_str().and_then(|s| s.parse().ok());
        number.or_else(text).ok_or_else(|| a.wrong("must be an area such as 0.0.0.0 or 0"))
    })?;
    Ok(Ospf {
        area: area.unwrap_or(Ipv4Addr::UNSPECIFIED),
        stub_router: f.flag("stubRouter", false)?,
        // RFC 3623 §3.1: at most LSRefreshTime.
        grace: f.number("grace", 0..=1800, " seconds", 120)?,
        loop_free_alternates: f.flag("loopFreeAlternates", true)?,
    })
}

fn ospf_port(a: &At<'_>, address: Ipv4Net) -> Result<OspfPort, IntentError> {
    let f = a.fields(&["network", "cost", "priority", "hello", "dead", "retransmit", "passive", "authentication"])?;
    let networks = [("point-to-point", OspfNetwork::PointToPoint), ("broadcast", OspfNetwork::Broadcast)];
    // Two addresses leave room for one neighbour.
    let usual = if address.prefix_len() >= 30 { OspfNetwork::PointToPoint } else { OspfNetwork::Broadcast };
    let hello: u16 = f.number("hello", 1..=65_535, " seconds", 10)?;
    // RFC 2328 §C.3 suggests four times the hello interval.
    let dead = f.number("dead", 1..=65_535, " seconds", (u32::from(hello) * 4).min(65_535))?;
    if dead <= u32::from(hello) {
        let right = format!("must be above hello ({hello} seconds), or every lost Hello ends the adjacency");
        return Err(IntentError::new(a.document, format!("{}.dead", a.path), dead, right));
    }
    Ok(OspfPort {
        network: f.may("network", |a| a.choice(&networks))?.unwrap_or(usual),
        cost: f.number("cost", 1..=65_535, "", 10)?,
        priority: f.number("priority", 0..=255, "", 1)?,
        hello,
        dead,
        retransmit: f.number("retransmit", 1..=3600, " seconds", 5)?,
        passive: f.flag("passive", false)?,
        authentication: f.may("authentication", authentication)?.flatten(),
    })
}

fn authentication(a: &At<'_>) -> Result<Option<Authentication>, IntentError> {
    use AuthenticationType::{HmacSha256, HmacSha384, HmacSha512, Md5, Simple};
    let f = a.fields(&["type", "keyId", "password"])?;
    let kind = f.need("type")?.choice(&[
        ("none", None),
        ("simple", Some(Simple)),
        ("md5", Some(Md5)),
        ("hmac-sha256", Some(HmacSha256)),
        ("hmac-sha384", Some(HmacSha384)),
        ("hmac-sha512", Some(HmacSha512)),
    ])?;
    let Some(kind) = kind else {
        return match f.get("password").or_else(|| f.get("keyId")) {
            Some(a) => Err(IntentError::new(a.document, a.path, "(given)", "means nothing with type none; leave it out")),
            None => Ok(None),
        };
    };
    // RFC 2328 §D.3 has 64 bits for a simple password and 128 for an MD5 key; RFC 5709 §3.3 hashes longer keys.
    let longest = match kind {
        Simple => 8,
        Md5 => 16,
        HmacSha256 | HmacSha384 | HmacSha512 => MAX_PASSWORD,
    };
    let password = f.need("password")?.password(longest)?;
    let key_id = match kind {
        Simple => match f.get("keyId") {
            Some(id) => return Err(id.wrong("means nothing with type simple; leave it out")),
            None => 0,
        },
        _ => f.need("keyId")?.number(1..=255, "must be 1 to 255")?,
    };
    Ok(Some(Authentication { kind, key_id, password }))
}

fn ldp(a: &At<'_>) -> Result<Ldp, IntentError> {
    let f = a.fields(&["labels", "hello", "hold", "keepalive", "explicitNull", "reconnect", "igpSync", "passwords"])?;
    let nothing = serde_json::json!({});
    let labels = f.get("labels").unwrap_or_else(|| f.at("labels", &nothing)).labels(LDP_LABELS.0, LDP_LABELS.1, &[])?;
    let hello: u16 = f.number("hello", 1..=21_844, " seconds", 5)?;
    // RFC 5036 §3.5.2: 65535 would mean for ever.
    let hold: u16 = f.number("hold", 1..=65_534, " seconds", hello.saturating_mul(3))?;
    if hold <= hello {
        let right = format!("must be above hello ({hello} seconds), or every lost Hello ends the adjacency");
        return Err(IntentError::new(a.document, format!("{}.hold", a.path), hold, right));
    }
    Ok(Ldp {
        labels,
        hello,
        hold,
        keepalive: f.number("keepalive", 3..=65_535, " seconds", 60)?,
        explicit_null: f.flag("explicitNull", false)?,
        reconnect: f.number("reconnect", 0..=3600, " seconds", 120)?,
        igp_sync: f.flag("igpSync", true)?,
        passwords: f.list("passwords", |a| {
            let f = a.fields(&["neighbor", "password"])?;
            Ok(LdpPassword { neighbor: f.need("neighbor")?.address4()?, password: f.need("password")?.password(MAX_PASSWORD)? })
        })?,
    })
}
