//! BIRD, by birdc. Its protocols are named `dut` (core), `dut4` and `dut6` (customer).

use super::{Family, Side, Speaker, kill_all};
use crate::{launch, node::Node};
use anyhow::{Context, Result, ensure};

#[derive(Debug)]
pub(in crate::interop) struct Bird<'n> {
    pub(in crate::interop) node: &'n Node,
}

const CONF: &str = "/etc/bird/bird.conf";
const CHANGED: &str = "/run/bird/changed.conf";

fn protocol(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "dut4",
        Family::Ipv6 => "dut6",
        Family::Vpnv4 | Family::Vpnv6 => "dut",
    }
}

fn channel(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
        Family::Vpnv4 => "vpn4-mpls",
        Family::Vpnv6 => "vpn6-mpls",
    }
}

fn table(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "master4",
        Family::Ipv6 => "master6",
        Family::Vpnv4 => "vpntab4",
        Family::Vpnv6 => "vpntab6",
    }
}

impl Bird<'_> {
    pub(in crate::interop) fn ask(&self, words: &str) -> Result<String> {
        self.node.run(&[&["birdc"][..], &words.split(' ').collect::<Vec<_>>()].concat())
    }

    /// Changes pieces of the configuration in force.
    pub(in crate::interop) fn reconfigure(&self, changes: &[(String, String)]) -> Result<()> {
        let text = self.node.shell(&format!("cat {CHANGED} 2>/dev/null || cat {CONF}"))?;
        for (from, _) in changes {
            ensure!(text.contains(from), "BIRD's configuration has no `{from}`");
        }
        let changed = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
        std::fs::write(format!("/proc/{}/root{CHANGED}", self.node.init.pid), changed)?;
        let said = self.ask(&format!("configure \"{CHANGED}\""))?;
        ensure!(said.contains("Reconfigur"), "birdc configure: {said}");
        Ok(())
    }
}

impl Speaker for Bird<'_> {
    fn established(&self, side: Side<'_>) -> Result<bool> {
        Ok(self.ask(&format!("show protocols {}", protocol(side.family)))?.contains("Established"))
    }

    fn has(&self, side: Side<'_>, prefix: &str) -> Result<bool> {
        let routes = self.ask(&format!("show route table {} protocol {}", table(side.family), protocol(side.family)))?;
        Ok(routes.split_whitespace().any(|w| w == prefix))
    }

    /// Only what its configuration has ready as `extra4` and `extra6`.
    fn announce(&self, side: Side<'_>, _prefix: &str, _number: u8, there: bool) -> Result<()> {
        ensure!(!side.family.is_vpn(), "BIRD rewrites the label of a VPN route of its own to 3");
        let name = if side.family.is_v6() { "extra6" } else { "extra4" };
        self.ask(&format!("{} {name}", if there { "enable" } else { "disable" })).map(drop)
    }

    fn ask_again(&self, side: Side<'_>) -> Result<()> {
        self.ask(&format!("reload in {}", protocol(side.family))).map(drop)
    }

    fn heard(&self, side: Side<'_>) -> Result<u64> {
        let shown = self.ask(&format!("show protocols all {}", protocol(side.family)))?;
        let (_, rest) = shown.split_once(&format!("Channel {}", channel(side.family))).context("no such channel")?;
        let line = rest.lines().find_map(|l| l.trim().strip_prefix("Import updates:")).context("no counters")?;
        line.split_whitespace().next().and_then(|w| w.parse().ok()).context("no number")
    }

    /// OSPF and BFD go on: by them the core knows the way here.
    fn silence(&self) -> Result<()> {
        self.ask("disable \"dut*\"").map(drop)
    }

    fn kill(&self) -> Result<()> {
        kill_all(self.node, "bird")?;
        self.node.run(&["rm", "-f", "/run/bird/bird.ctl"]).map(drop)
    }

    fn start(&self) -> Result<()> {
        launch::bird(self.node)
    }

    fn password(&self, sides: &[Side<'_>], password: &str) -> Result<()> {
        let with = |side: &Side<'_>| {
            let neighbor = format!("neighbor {} as 65000;", side.neighbor);
            (neighbor.clone(), format!("{neighbor} password \"{password}\";"))
        };
        self.reconfigure(&sides.iter().map(with).collect::<Vec<_>>())
    }
}
