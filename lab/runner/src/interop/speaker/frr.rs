//! FRR's bgpd, by vtysh.

use super::{Family, Side, Speaker, json, kill_all};
use crate::{launch, node::Node};
use anyhow::{Context, Result};
use serde_json::Value;

#[derive(Debug)]
pub(in crate::interop) struct Frr<'n> {
    pub(in crate::interop) node: &'n Node,
    pub(in crate::interop) asn: u32,
}

fn words(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4 unicast",
        Family::Ipv6 => "ipv6 unicast",
        Family::Vpnv4 => "ipv4 vpn",
        Family::Vpnv6 => "ipv6 vpn",
    }
}

/// Whether any path in the answer, however deep, is from that peer.
fn from_peer(answer: &Value, peer: &str) -> bool {
    match answer {
        Value::Object(o) => o.get("peerId").and_then(Value::as_str) == Some(peer) || o.values().any(|v| from_peer(v, peer)),
        Value::Array(a) => a.iter().any(|v| from_peer(v, peer)),
        _ => false,
    }
}

impl Frr<'_> {
    fn neighbor(&self, side: Side<'_>) -> Result<Value> {
        let answer = json(self.node, &["vtysh", "-c", &format!("show bgp neighbors {} json", side.neighbor)])?;
        answer.get(side.neighbor).cloned().with_context(|| format!("FRR knows no neighbour {}", side.neighbor))
    }

    pub(in crate::interop) fn configure(&self, lines: &[&str]) -> Result<()> {
        let lines = ["configure terminal"].iter().chain(lines).flat_map(|l| ["-c", l]);
        self.node.run(&["vtysh"].into_iter().chain(lines).collect::<Vec<_>>()).map(drop)
    }
}

impl Speaker for Frr<'_> {
    fn established(&self, side: Side<'_>) -> Result<bool> {
        Ok(self.neighbor(side)?["bgpState"] == "Established")
    }

    fn has(&self, side: Side<'_>, prefix: &str) -> Result<bool> {
        let answer = json(self.node, &["vtysh", "-c", &format!("show bgp {} {prefix} json", words(side.family))])?;
        Ok(from_peer(&answer, side.neighbor))
    }

    fn announce(&self, side: Side<'_>, prefix: &str, number: u8, there: bool) -> Result<()> {
        let no = if there { "" } else { "no " };
        let line = match (side.family.is_vpn(), there) {
            (true, true) => format!("network {prefix} rd 65000:200 label 20{number:02} route-map TARGET"),
            (true, false) => format!("no network {prefix} rd 65000:200 label 20{number:02}"),
            (false, _) => format!("{no}network {prefix}"),
        };
        self.configure(&[&format!("router bgp {}", self.asn), &format!("address-family {}", words(side.family)), &line])
    }

    fn ask_again(&self, side: Side<'_>) -> Result<()> {
        self.node.run(&["vtysh", "-c", &format!("clear bgp {} {} in", words(side.family), side.neighbor)]).map(drop)
    }

    fn heard(&self, side: Side<'_>) -> Result<u64> {
        self.neighbor(side)?["messageStats"]["updatesRecv"].as_u64().context("updatesRecv")
    }

    fn kill(&self) -> Result<()> {
        kill_all(self.node, "bgpd")
    }

    fn start(&self) -> Result<()> {
        launch::frr_daemon(self.node, "bgpd")?;
        launch::frr_configure(self.node)
    }

    fn password(&self, sides: &[Side<'_>], password: &str) -> Result<()> {
        let router = format!("router bgp {}", self.asn);
        sides.iter().try_for_each(|s| self.configure(&[&router, &format!("neighbor {} password {password}", s.neighbor)]))
    }
}
