//! What follows from an intent: changes by field, automatic RDs, configurations.

#![allow(clippy::unwrap_used)]

mod common;

use common::{ACME, PLATFORM, another, apply, started};
use edgeplex_intent::*;
use edgeplex_mgmt::config::{Instance, InstanceRole};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn applying_the_same_again_changes_nothing() {
    let intent = started();
    assert_eq!(changes(&intent, &apply(&intent, &format!("{ACME}---\n{PLATFORM}")).unwrap()), vec![]);
}

#[test]
fn a_change_is_told_by_field_and_passwords_are_not_told() {
    let old = started();
    let new = apply(&old, &ACME.replace("maxPrefix: 1000", "maxPrefix: 50, password: secret")).unwrap();
    let told = changes(&old, &new);
    assert_eq!((told.len(), told[0].action, told[0].name.as_str()), (1, Action::Update, "acme"));
    let field = |f: &str, old, new| FieldChange { field: format!("spec.attachments[denver-1].bgp.{f}"), old, new };
    let expected = vec![field("maxPrefix", Some(json!(1000)), Some(json!(50))), field("password", None, Some(json!("***")))];
    assert_eq!(told[0].fields, expected);
    let newer = apply(&new, &ACME.replace("maxPrefix: 1000", "maxPrefix: 50, password: other")).unwrap();
    assert_eq!(changes(&new, &newer)[0].fields, vec![field("password", Some(json!("***")), Some(json!("***")))]);
    let shown = Document::Customer(newer.customers.into_values().next().unwrap());
    assert!(!format!("{shown:?}{}", shown.to_shown()).contains("other"));
}

#[test]
fn documents_come_and_go_whole() {
    let old = started();
    let mut new = apply(&old, &another("beta", 1)).unwrap();
    new.customers.remove(&"acme".parse().unwrap());
    let told: Vec<_> = changes(&old, &new).into_iter().map(|c| (c.action, c.name, c.fields.len())).collect();
    assert_eq!(told, [(Action::Create, "beta".into(), 0), (Action::Delete, "acme".into(), 0)]);
}

#[test]
fn an_automatic_rd_stays_with_its_attachment() {
    let automatic = |name, n| another(name, n).replace(&format!("      rd: '65000:{}'\n", 1001 + n), "");
    let mut two = apply(&apply(&started(), &automatic("xeno", 1)).unwrap(), &automatic("yeti", 2)).unwrap();
    let first = allocate(&two, &Allocations::new()).unwrap();
    let rd = |a: &Allocations, id: &str| a.get(&id.parse().unwrap()).map(ToString::to_string);
    assert_eq!(rd(&first, "xeno/denver-1").unwrap(), "10.255.0.1:1");
    assert_eq!(rd(&first, "yeti/denver-1").unwrap(), "10.255.0.1:2");
    assert_eq!(rd(&first, "acme/denver-1"), None, "it has its own");
    two.customers.remove(&"xeno".parse().unwrap());
    let three = apply(&two, &format!("{}---\n{}", automatic("abba", 3), automatic("zeta", 4))).unwrap();
    let second = allocate(&three, &first).unwrap();
    assert_eq!(
        ["abba", "yeti", "zeta"].map(|c| rd(&second, &format!("{c}/denver-1")).unwrap()),
        ["10.255.0.1:1", "10.255.0.1:2", "10.255.0.1:3"]
    );
    // Given by hand to another, it is not taken away from the one that has it.
    let thief = another("thief", 5).replace("65000:1006", "10.255.0.1:2");
    let four = three.apply(parse(&thief).unwrap()).unwrap();
    let third = allocate(&four, &second).unwrap();
    assert!(validate(&four, &third).unwrap_err().to_string().contains("`10.255.0.1:2`: is already the RD of yeti/denver-1"));
}

#[test]
fn configurations_follow_from_the_intent() {
    let intent = started();
    let p = intent.platform.as_ref().unwrap();
    let own = Keys { public: "CP".into(), secret: "CS".into() };
    let key = Keys { public: "P".into(), secret: "S".into() };
    let (id, c, a) = intent.attachments().next().unwrap();
    let allocations = Allocations::new();
    assert!(
        cvm_config(&intent, p, &allocations, &own, &BTreeMap::new(), Instance::default()).attachments.is_empty(),
        "nobody is let in without a key"
    );
    let cvm = cvm_config(&intent, p, &allocations, &own, &BTreeMap::from([(id.clone(), key.clone())]), Instance::default());
    let known = &cvm.attachments[0];
    assert_eq!((known.rd.to_string().as_str(), known.relay_public_key.as_str(), known.label.unwrap().get()), ("65000:1001", "P", 1000));
    // The customer's 1000, a static route and the connected one: what the CVM believes of its PVM.
    assert_eq!(known.max_routes, Some(1002));
    for (change, most) in [(", maxPrefix: 1000", None), ("      bgp: {neighbor: 192.168.1.2, remoteAs: 65101, maxPrefix: 1000}\n", Some(2))]
    {
        assert!(ACME.contains(change));
        let other = apply(&intent, &ACME.replace(change, "")).unwrap();
        let keys = BTreeMap::from([(id.clone(), key.clone())]);
        assert_eq!(
            cvm_config(&other, p, &allocations, &own, &keys, Instance::default()).attachments[0].max_routes,
            most,
            "without `{change}`"
        );
    }
    assert_eq!((cvm.core[0].name.as_str(), cvm.core[0].mac, cvm.relay.secret_key.as_str()), ("core0", core_mac(p, "eth1"), "CS"));
    let pvm = pvm_config(p, c, &id, a, &own.public, &key, Instance::default());
    assert_eq!((pvm.core_mtu, pvm.relay.server_key.as_str(), pvm.relay.secret_key.as_str()), (1600, "CP", "S"));
    assert_eq!((pvm.bgp[0].hold_time_s, pvm.static_routes.len()), (90, 1));
    assert!(!format!("{key:?}").contains('S'), "a secret is not for logs");
}

#[test]
fn mac_addresses_are_stable_individual_local_and_distinct() {
    let intent = started();
    let p = intent.platform.as_ref().unwrap();
    let id = |n: u32| format!("acme/d{n}").parse().unwrap();
    let mut all: Vec<_> = (0..500).flat_map(|n| [pe_mac(p, &id(n)), pvm_cust_mac(p, &id(n)), pvm_core_mac(p, &id(n))]).collect();
    all.push(core_mac(p, "eth1"));
    assert!(all.iter().all(|m| m.0[0] & 0x03 == 0x02), "locally administered, not a group");
    assert_eq!(all[0], pe_mac(p, &id(0)));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 1501);
}

/// Every field that an operator may give reaches the VM that it is for.
#[test]
fn configurations_say_all_that_the_long_documents_say() {
    let intent = common::full();
    let p = intent.platform.as_ref().unwrap();
    let key = Keys { public: "P".into(), secret: "S".into() };
    let keys = intent.attachments().map(|(id, _, _)| (id, key.clone())).collect();
    let allocations = allocate(&intent, &Allocations::new()).unwrap();
    let cvm = serde_json::to_value(cvm_config(&intent, p, &allocations, &key, &keys, Instance::default())).unwrap();
    assert_eq!((&cvm["role"], &cvm["lsr_socket"]), (&json!("pe"), &json!(LSR_SOCKET)));
    assert_eq!(cvm["ospf"], json!({"area": "0.0.0.0", "stub_router": true, "grace_s": 60, "loop_free_alternates": false}));
    let (first, second) = (&cvm["core"][0], &cvm["core"][1]);
    // A subnet of many hosts is a broadcast network unless the operator says otherwise.
    assert_eq!(
        first["ospf"],
        json!({"network": "broadcast", "cost": 10, "priority": 1, "hello_s": 10, "dead_s": 40, "retransmit_s": 5, "passive": false,
            "authentication": {"type": "null"}})
    );
    assert_eq!(second["ospf"]["authentication"], json!({"type": "md5", "key_id": 7, "password": "exactly-16-bytes"}));
    assert_eq!((&second["ldp"], &second["bfd"]), (&json!(true), &json!({"interval_ms": 50, "multiplier": 4})));
    assert_eq!(
        cvm["ldp"],
        json!({"labels": {"first": 500_000, "last": 500_999}, "hello_s": 2, "hold_s": 7, "keepalive_s": 30, "explicit_null": true,
            "reconnect_s": 90, "igp_sync": false, "passwords": [{"neighbor": "10.255.0.3", "password": "for-ldp"}]})
    );
    assert_eq!(cvm["route_reflectors"][0]["bfd"], json!({"interval_ms": 1000, "multiplier": 5}));
    let hub = &cvm["attachments"][0];
    assert_eq!((&hub["import"], &hub["export"]), (&json!(["65000:101", "65000:102"]), &json!(["65000:103"])));
    let leaks =
        json!([{"import": ["65000:1"], "prefixes": ["0.0.0.0/0", "::/0"]}, {"import": ["65000:900"], "prefixes": ["10.99.0.0/16"]}]);
    assert_eq!(hub["leaks"], leaks, "a VPN's name stands for what it exports");
    // Two neighbours, two static routes, two connected ones.
    assert_eq!((&hub["label_mode"], &hub["max_paths"], &hub["max_routes"]), (&json!("per-attachment"), &json!(2), &json!(1504)));

    let (id, c, a) = intent.attachments().next().unwrap();
    let pvm = serde_json::to_value(pvm_config(p, c, &id, a, "CP", &key, Instance { generation: 7, role: InstanceRole::Standby })).unwrap();
    assert_eq!((&pvm["addresses"], &pvm["router_id"]), (&json!(["192.168.1.1/29", "2001:db8:1::1/64"]), &json!("10.255.0.1")));
    let mut bgp = pvm["bgp"][0].clone();
    let import = bgp["import"].take();
    assert_eq!(
        bgp,
        json!({"neighbor": "192.168.1.2", "remote_as": 65101, "password": "for-acme", "hold_time_s": 30,
            "max_prefix": {"limit": 1000, "warn_percent": 90, "warning_only": false, "restart_s": 120},
            "shutdown": "maintenance until noon", "ttl_security_hops": 1, "role": "provider",
            "bfd": {"interval_ms": 300, "multiplier": 3}, "as_override": true, "allow_as_in": 2, "remove_private_as": true,
            "site_of_origin": "65000:77", "default_originate": true, "import": null,
            "export": [{"match": {"prefixes": [{"prefix": "0.0.0.0/0"}]}, "set": {"prepend": 0}, "action": "reject"}]})
    );
    assert_eq!(
        import[0],
        json!({"match": {"prefixes": [{"prefix": "10.0.0.0/8", "ge": 16, "le": 24}, {"prefix": "172.16.0.0/12"}],
                "communities": ["65101:1", "no-export"], "large_communities": ["65101:1:2"], "as_path": "^65101( |$)"},
            "set": {"local_pref": 200, "med": 10, "add_communities": ["65000:1"], "remove_communities": ["65101:1"],
                "add_large_communities": ["65000:1:1"], "prepend": 2}, "action": "accept"})
    );
    let bfd = json!({"interval_ms": 100, "multiplier": 3});
    assert_eq!(pvm["static_routes"][0], json!({"prefix": "10.9.0.0/16", "via": "192.168.1.3", "bfd": bfd}));
}

#[test]
fn a_customer_is_protected_as_it_says_or_as_the_platform_says() {
    let mut intent = common::full();
    let protected = |i: &Intent, c: &str| i.protection_of(&i.customers[&c.parse().unwrap()]);
    assert_eq!((protected(&intent, "acme"), protected(&intent, "internet")), (Protection::Restart, Protection::Standby));
    let p = intent.platform.as_mut().unwrap();
    assert_eq!((p.hosts.len(), p.control_plane.standby), (2, true));
    p.protection = Protection::default();
    assert_eq!(protected(&intent, "internet"), Protection::Restart);
}

#[test]
fn a_change_of_a_host_is_told_by_its_name() {
    let old = common::full();
    let text = common::FULL_PLATFORM.replace("192.0.2.7:7443", "192.0.2.8:7443").replace("  protection: standby\n", "");
    let told = changes(&old, &apply(&old, &text).unwrap());
    let field = |f: &str, old: Option<&str>, new: Option<&str>| FieldChange {
        field: format!("spec.{f}"),
        old: old.map(Into::into),
        new: new.map(Into::into),
    };
    let moved = field("hosts[host-a].address", Some("192.0.2.7:7443"), Some("192.0.2.8:7443"));
    assert_eq!(told[0].fields, [moved, field("protection", Some("standby"), None)]);
}

#[test]
fn a_change_is_told_by_neighbour_and_core_port() {
    let old = common::full();
    let text = common::FULL_ACME.replace("limit: 1000", "limit: 900").replace("password: for-acme", "password: changed");
    let told = changes(&old, &apply(&old, &text).unwrap());
    let fields: Vec<&str> = told[0].fields.iter().map(|f| f.field.as_str()).collect();
    let bgp = "spec.attachments[hub].bgp[192.168.1.2]";
    assert_eq!(fields, [format!("{bgp}.maxPrefix.limit"), format!("{bgp}.password")]);
    let text = common::FULL_PLATFORM.replace("exactly-16-bytes", "others").replace("for-ldp", "others").replace("cost: 20", "cost: 30");
    let told = changes(&old, &apply(&old, &text).unwrap());
    let fields: Vec<&str> = told[0].fields.iter().map(|f| f.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.core[eth4].ospf.authentication.password", "spec.core[eth4].ospf.cost", "spec.ldp.passwords[10.255.0.3].password"]
    );
    assert!(!serde_json::to_string(&told).unwrap().contains("others"), "passwords are not told");
}
