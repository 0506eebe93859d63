//! What an operator gets to read for mistakes about OSPF, LDP, BFD and the role of the platform.

#![allow(clippy::unwrap_used)]

mod common;

use common::{ACME, FULL_PLATFORM, PLATFORM, apply, both, refusals};
use edgeplex_intent::Intent;

#[test]
fn a_platform_with_everything() {
    let p = "Platform denver: spec.";
    refusals(
        &Intent::default(),
        FULL_PLATFORM,
        &[
            ("role: pe", "role: ce", format!("{p}role: `ce`: must be pe, p")),
            ("  asn: 65000\n", "", format!("{p}asn: `(missing)`: is required")),
            ("network: broadcast", "network: nbma", format!("{p}core[1].ospf.network: `nbma`: must be point-to-point, broadcast")),
            ("cost: 20", "cost: 0", format!("{p}core[1].ospf.cost: `0`: must be 1 to 65535")),
            ("priority: 0", "priority: 256", format!("{p}core[1].ospf.priority: `256`: must be 0 to 255")),
            ("dead: 3", "dead: 1", format!("{p}core[1].ospf.dead: `1`: must be above hello (1 seconds)")),
            ("retransmit: 2", "retransmit: 0", format!("{p}core[1].ospf.retransmit: `0`: must be 1 to 3600 seconds")),
            ("passive: false", "passive: no-way", format!("{p}core[1].ospf.passive: `no-way`: must be true or false")),
            ("passive: false", "passive: true", format!("{p}core[1].bfd: `(given)`: watches OSPF neighbours; the port must have ospf")),
            ("type: md5", "type: sha1", format!("{p}core[1].ospf.authentication.type: `sha1`: must be none, simple, md5, hmac-sha256,")),
            ("type: md5", "type: none", format!("{p}core[1].ospf.authentication.password: `(given)`: means nothing with type none")),
            ("type: md5", "type: simple", format!("{p}core[1].ospf.authentication.password: `(hidden)`: must be 1 to 8 bytes")),
            (
                "{type: md5, keyId: 7, password: exactly-16-bytes}",
                "{type: simple, keyId: 7, password: short}",
                format!("{p}core[1].ospf.authentication.keyId: `7`: means nothing with type simple"),
            ),
            ("keyId: 7, ", "", format!("{p}core[1].ospf.authentication.keyId: `(missing)`: is required")),
            ("keyId: 7", "keyId: 0", format!("{p}core[1].ospf.authentication.keyId: `0`: must be 1 to 255")),
            (
                "exactly-16-bytes",
                "more-than-16-bytes",
                format!("{p}core[1].ospf.authentication.password: `(hidden)`: must be 1 to 16 bytes"),
            ),
            ("interval: 50", "interval: 5", format!("{p}core[1].bfd.interval: `5`: must be 10 to 60000 ms")),
            ("multiplier: 4", "multiplier: 1", format!("{p}core[1].bfd.multiplier: `1`: must be 2 to 255")),
            ("ospf: {}, ", "bfd: {}, ", format!("{p}core[0].bfd: `(given)`: watches OSPF neighbours")),
            ("area: 0.0.0.0", "area: backbone", format!("{p}ospf.area: `backbone`: must be an area such as 0.0.0.0 or 0")),
            ("grace: 60", "grace: 1801", format!("{p}ospf.grace: `1801`: must be 0 to 1800 seconds")),
            ("stubRouter", "stubrouter", format!("{p}ospf.stubrouter: `stubrouter`: is not a known field; known are area, stubRouter,")),
            (
                "  ospf: {area: 0.0.0.0, stubRouter: true, grace: 60, loopFreeAlternates: false}\n",
                "",
                format!("{p}core[0].ospf: `(given)`: needs OSPF on the platform: give spec.ospf, {{}} is enough"),
            ),
            ("hold: 7", "hold: 2", format!("{p}ldp.hold: `2`: must be above hello (2 seconds)")),
            ("keepalive: 30", "keepalive: 2", format!("{p}ldp.keepalive: `2`: must be 3 to 65535 seconds")),
            ("reconnect: 90", "reconnect: 1h", format!("{p}ldp.reconnect: `1h`: must be 0 to 3600 seconds, without quotes")),
            ("igpSync: false", "igpSync: 0", format!("{p}ldp.igpSync: `0`: must be true or false")),
            ("first: 500000", "first: 3", format!("{p}ldp.labels.first: `3`: must be 16 to 1048575 (0 to 15 are reserved)")),
            (
                "first: 500000",
                "first: 1999",
                format!("{p}ldp.labels: `1999-500999`: overlaps spec.labels, 1000 to 1999; LDP and VPN labels must be distinct ranges"),
            ),
            ("neighbor: 10.255.0.3", "neighbor: 10.255.0.1", format!("{p}ldp.passwords[0].neighbor: `10.255.0.1`: is the platform's own")),
            ("password: for-ldp", "password: ''", format!("{p}ldp.passwords[0].password: `(hidden)`: must be 1 to 80 bytes")),
            (
                "[{neighbor: 10.255.0.3, password: for-ldp}]",
                "[{neighbor: 10.255.0.3, password: a}, {neighbor: 10.255.0.3, password: b}]",
                format!("{p}ldp.passwords[1].neighbor: `10.255.0.3`: is given twice"),
            ),
            ("interval: 1000", "interval: 70000", format!("{p}routeReflectors[0].bfd.interval: `70000`: must be 10 to 60000 ms")),
        ],
    );
}

#[test]
fn protocols_without_what_they_need() {
    let p = "Platform denver: spec.";
    let mtu = "mtu: 1600}";
    let ospf = "mtu: 1600, ospf: {}}";
    let ldp = "mtu: 1600, ldp: true}";
    refusals(
        &Intent::default(),
        PLATFORM,
        &[
            (mtu, ldp, format!("{p}core[0].ldp: `true`: needs LDP on the platform: give spec.ldp")),
            (mtu, ospf, format!("{p}core[0].ospf: `(given)`: needs OSPF on the platform")),
            ("  asn:", "  ospf: {}\n  asn:", format!("{p}ospf: `(given)`: runs on no port; give at least one core port ospf")),
            ("  asn:", "  ldp: {}\n  asn:", format!("{p}ldp: `(given)`: runs on no port; give at least one core port `ldp: true`")),
            (
                "  coreRoutes: [{prefix: 10.255.0.9/32, via: 10.0.0.9}]",
                "  ldp: {}",
                format!("{p}ldp: `(given)`: has no routes to give labels to"),
            ),
        ],
    );
}

#[test]
fn label_ranges_by_default_are_apart_and_those_of_old_documents_stay_valid() {
    let ldp = PLATFORM.replace("mtu: 1600}", "mtu: 1600, ldp: true}").replace("  asn:", "  ldp: {}\n  asn:");
    let without = ldp.replace("  labels: {first: 1000, last: 1999}\n", "");
    let p = apply(&Intent::default(), &without).unwrap().platform.unwrap();
    assert_eq!((p.labels.range.first().get(), p.labels.range.last().get()), (16, 499_999));
    let own = p.ldp.unwrap().labels;
    assert_eq!((own.first().get(), own.last().get()), (500_000, 599_999));
    let all = "labels: {first: 16, last: 1048575}";
    apply(&Intent::default(), &PLATFORM.replace("labels: {first: 1000, last: 1999}", all)).unwrap();
    let said = apply(&Intent::default(), &ldp.replace("labels: {first: 1000, last: 1999}", all)).unwrap_err().to_string();
    assert!(said.contains("spec.ldp.labels: `500000-599999`: overlaps spec.labels, 16 to 1048575"), "{said}");
}

const P_ROUTER: &str = "
apiVersion: edgeplex/v1
kind: Platform
metadata: {name: denver}
spec:
  role: p
  loopback: 10.255.0.5
  core: [{port: eth1, address: 10.0.1.2/30, ospf: {}, ldp: true}, {port: eth2, address: 10.0.2.1/30, ospf: {}, ldp: true}]
  ospf: {}
  ldp: {}
";

#[test]
fn a_p_router_needs_little_and_has_no_customers() {
    let p = apply(&Intent::default(), P_ROUTER).unwrap();
    refusals(
        &Intent::default(),
        P_ROUTER,
        &[
            ("  ospf: {}\n  ldp: {}\n", "  access: [eth3]\n", "spec.access[0]: `eth3`: a P router (role: p) has no access ports".into()),
            (
                "  ospf: {}\n",
                "  routeReflectors: [{address: 10.0.0.9}]\n",
                "spec.routeReflectors[0].address: `10.0.0.9`: a P router".into(),
            ),
            ("  ldp: {}\n", "", "spec.ldp: `(missing)`: a P router (role: p) switches labels; it needs ldp".into()),
        ],
    );
    let said = apply(&p, ACME).unwrap_err().to_string();
    assert!(said.starts_with("Customer acme: kind: `Customer`: has no place on Platform denver, a P router"), "{said}");
    // A PE with customers does not become one.
    let before = apply(&Intent::default(), &both()).unwrap();
    assert!(apply(&before, P_ROUTER).unwrap_err().to_string().contains("has no place on Platform denver"));
}
