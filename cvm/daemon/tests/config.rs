//! A configuration that makes no sense is refused, and the field is named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "version": 1, "name": "denver", "asn": 65000, "loopback": "10.255.0.1",
        "core": [{
            "name": "core0", "mac": "02:00:00:00:00:01", "address": "10.0.0.1/30", "mtu": 1600, "ldp": true,
            "ospf": {"network": "point-to-point", "cost": 10, "priority": 1, "hello_s": 10, "dead_s": 40, "retransmit_s": 5,
                     "authentication": {"type": "simple", "password": "12345678"}},
            "bfd": {"interval_ms": 300, "multiplier": 3},
        }],
        "core_routes": [],
        "ospf": {"area": "0.0.0.0"},
        "ldp": {"labels": {"first": 500_000, "last": 599_999}, "hello_s": 5, "hold_s": 15, "keepalive_s": 60},
        "route_reflectors": [{"address": "10.255.0.9", "bfd": {"interval_ms": 300, "multiplier": 3}}],
        "labels": {"first": 1000, "last": 1999}, "label_quarantine_s": 60, "stale_s": 30,
        "relay": {"endpoint": "", "secret_key": ""},
        "attachments": [],
    })
}

fn load(config: &Value) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    edgeplex_cvmd::load(&path).map(drop).map_err(|e| e.to_string())
}

#[test]
fn a_field_that_makes_no_sense_is_named() {
    load(&good()).unwrap();
    for (path, value, words) in [
        ("/core/0/name", json!("core/0"), "core interface `core/0`"),
        ("/core/0/ospf/cost", json!(0), "core0.ospf.cost: must be 1 to 65535"),
        ("/core/0/ospf/hello_s", json!(0), "core0.ospf.dead_s"),
        ("/core/0/ospf/dead_s", json!(10), "core0.ospf.dead_s"),
        ("/core/0/ospf/retransmit_s", json!(0), "core0.ospf.dead_s"),
        ("/core/0/ospf/authentication/password", json!("123456789"), "core0.ospf.authentication.password"),
        ("/core/0/bfd/interval_ms", json!(5), "core0.bfd.interval_ms: must be 10 to 60,000"),
        ("/core/0/bfd/multiplier", json!(1), "core0.bfd.multiplier"),
        ("/route_reflectors/0/bfd/multiplier", json!(0), "10.255.0.9.bfd.multiplier"),
        ("/ldp/hold_s", json!(5), "ldp.hold_s"),
        ("/ldp/keepalive_s", json!(0), "ldp.hold_s"),
        ("/ldp/labels/first", json!(1500), "ldp.labels: must be apart from the VPN labels"),
        ("/ospf/area", json!("x"), "ospf"),
    ] {
        let mut config = good();
        *config.pointer_mut(path).unwrap() = value;
        // The whole path, unless the type itself says no.
        let error = load(&config).expect_err(path);
        assert!(error.contains(words) || path == "/ospf/area", "{path}: {error}");
    }
    let mut router = good();
    router["role"] = json!("p");
    router["ldp"]["labels"]["first"] = json!(1500);
    load(&router).expect("a P router gives no VPN labels that LDP's could meet");
    let mut twice = good();
    let first = twice["core"][0].clone();
    twice["core"].as_array_mut().unwrap().push(first);
    assert!(load(&twice).unwrap_err().contains("core interface core0 is given twice"));
}
