//! What an operator gets to read for mistakes about hosts and protection.

#![allow(clippy::unwrap_used)]

mod common;

use common::{ACME, FULL_PLATFORM, both, refusals};
use edgeplex_intent::Intent;

#[test]
fn hosts() {
    let p = "Platform denver: spec.hosts";
    let key = "a".repeat(63) + "1";
    refusals(
        &Intent::default(),
        FULL_PLATFORM,
        &[
            ("name: host-a, ", "", format!("{p}[0].name: `(missing)`: is required")),
            ("name: host-a", "name: local", format!("{p}[0].name: `local`: is the controller's own host")),
            ("name: host-a", "name: Host_A", format!("{p}[0].name: `Host_A`: ")),
            ("name: host-b", "name: host-a", format!("{p}[1].name: `host-a`: is given twice")),
            ("192.0.2.7:7443", "192.0.2.7", format!("{p}[0].address: `192.0.2.7`: must be an address and a port")),
            ("192.0.2.7:7443", "192.0.2.7:0", format!("{p}[0].address: `192.0.2.7:0`: must be an address and a port")),
            ("192.0.2.7:7443", "0.0.0.0:7443", format!("{p}[0].address: `0.0.0.0:7443`: must be")),
            ("192.0.2.7:7443", "host-a:7443", format!("{p}[0].address: `host-a:7443`: must be")),
            ("'[2001:db8::7]:7443'", "192.0.2.7:7443", format!("{p}[1].address: `192.0.2.7:7443`: is given twice")),
            ("port: link0", "port: eth2", format!("{p}[0].port: `eth2`: is a core or access port")),
            ("port: link0", "port: eth4", format!("{p}[0].port: `eth4`: is a core or access port")),
            ("port: link1", "port: link0", format!("{p}[1].port: `link0`: leads to another host already")),
            ("port: link1", "port: a-very-long-name", format!("{p}[1].port: `a-very-long-name`: must be an interface name")),
            (&key, &key[1..], format!("{p}[0].key: `{}`: must be the 64 hexadecimal digits", &key[1..])),
            (&key, &key.to_uppercase(), format!("{p}[0].key: `{}`: must be the 64", key.to_uppercase())),
            (&key, &"b".repeat(64), format!("{p}[1].key: `{}`: is given twice", "b".repeat(64))),
            ("key: bb", "note: bb", format!("{p}[1].note: `note`: is not a known field; known are name, address, port, key, silence")),
            ("silence: 300", "silence: 100", format!("{p}[1].silence: `100`: must be 150 to 60000 ms")),
        ],
    );
}

#[test]
fn protection() {
    let p = "Platform denver: spec.";
    refusals(
        &Intent::default(),
        FULL_PLATFORM,
        &[
            ("protection: standby", "protection: none", format!("{p}protection: `none`: must be restart, standby")),
            ("{standby: true}", "{standby: 2}", format!("{p}controlPlane.standby: `2`: must be true or false")),
            ("{standby: true}", "{active: 2}", format!("{p}controlPlane.active: `active`: is not a known field; known are standby")),
            ("{standby: true}", "standby", format!("{p}controlPlane: `standby`: must be a mapping with the fields standby")),
        ],
    );
    let before = common::apply(&Intent::default(), &both()).unwrap();
    let with = ACME.replace("  attachments:", "  protection: standby\n  attachments:");
    refusals(&before, &with, &[("standby", "always", "Customer acme: spec.protection: `always`: must be restart, standby".into())]);
}
