//! A NOC's mistakes: each is told in words that name the field, ends with exit code 2, and changes nothing.

use super::{
    Evidence,
    site::{CITIES, Ctx},
};
use anyhow::{Context, Result, ensure};
use std::fs;

/// What is wrong, the file, and what the message must name.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("malformed YAML", "apiVersion: edgeplex/v1\nkind: Customer\nmetadata: {name: gamma\n", "line"),
    ("unknown field", "{HEAD}spec:\n  vnp: {}\n", "vnp"),
    ("overlapping VLAN", "{HEAD}{VPN}    - {name: denver-1, port: eth2, vlan: 100, address: 192.168.9.1/30, mtu: 1500}\n", "vlan"),
    (
        "duplicate RD",
        "{HEAD}{VPN}    - {name: denver-1, port: eth2, vlan: 300, address: 192.168.9.1/30, mtu: 1500, rd: \"65000:1001\"}\n",
        "rd",
    ),
    (
        "host bits set",
        "{HEAD}{VPN}    - {name: denver-1, port: eth2, vlan: 300, address: 192.168.9.1/30, mtu: 1500, static: [{prefix: 10.9.0.1/16, via: 192.168.9.2}]}\n",
        "prefix",
    ),
    (
        "label out of range",
        "{HEAD}{VPN}    - {name: denver-1, port: eth2, vlan: 300, address: 192.168.9.1/30, mtu: 1500, label: 1048576}\n",
        "label",
    ),
    (
        "label of another range",
        "{HEAD}{VPN}    - {name: denver-1, port: eth2, vlan: 300, address: 192.168.9.1/30, mtu: 1500, label: 5000}\n",
        "label",
    ),
    ("VLAN out of range", "{HEAD}{VPN}    - {name: denver-1, port: eth2, vlan: 4095, address: 192.168.9.1/30, mtu: 1500}\n", "vlan"),
    ("unknown port", "{HEAD}{VPN}    - {name: denver-1, port: eth9, vlan: 300, address: 192.168.9.1/30, mtu: 1500}\n", "port"),
];
const HEAD: &str = "apiVersion: edgeplex/v1\nkind: Customer\nmetadata: {name: gamma}\n";
const VPN: &str = "spec:\n  vpn: {import: [\"65000:300\"], export: [\"65000:300\"]}\n  attachments:\n";

pub(super) fn refused(ctx: &Ctx<'_>) -> Result<Evidence> {
    let city = CITIES[0];
    let before = (ctx.edgeplex_json(city, &["get"])?, ctx.flows(city)?);
    for (what, text, field) in MISTAKES {
        let file = ctx.out.join("mistake.yaml");
        fs::write(&file, text.replace("{HEAD}", HEAD).replace("{VPN}", VPN))?;
        let out = ctx.edgeplex(city, &["apply", "-f", &file.to_string_lossy()]).with_context(|| (*what).to_owned())?;
        fs::remove_file(file)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(2), "{what}: exit code {:?}, said: {}", out.status.code(), said.trim());
        ensure!(said.contains(field), "{what}: the message does not name `{field}`: {}", said.trim());
    }
    let after = (ctx.edgeplex_json(city, &["get"])?, ctx.flows(city)?);
    ensure!(before == after, "the desired state or the switch rules changed");
    let names: Vec<_> = MISTAKES.iter().map(|m| m.0).collect();
    Ok(Evidence::new(format!("{} mistakes, each exit code 2, named, nothing changed", names.len())).figure("mistakes", names))
}
