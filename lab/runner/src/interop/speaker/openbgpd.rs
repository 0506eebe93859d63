//! OpenBGPD, by bgpctl.

use super::{Family, Side, Speaker, json, kill_all};
use crate::{launch, node::Node};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

#[derive(Debug)]
pub(in crate::interop) struct OpenBgpd<'n> {
    pub(in crate::interop) node: &'n Node,
}

fn words(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
        Family::Vpnv4 => "vpnv4",
        Family::Vpnv6 => "vpnv6",
    }
}

impl OpenBgpd<'_> {
    fn neighbor(&self, side: Side<'_>) -> Result<Value> {
        let answer = json(self.node, &["bgpctl", "-j", "show", "neighbor", side.neighbor])?;
        answer["neighbors"].get(0).cloned().with_context(|| format!("OpenBGPD knows no neighbour {}", side.neighbor))
    }
}

impl Speaker for OpenBgpd<'_> {
    fn established(&self, side: Side<'_>) -> Result<bool> {
        Ok(self.neighbor(side)?["state"] == "Established")
    }

    fn has(&self, side: Side<'_>, prefix: &str) -> Result<bool> {
        let text = self.node.run(&["bgpctl", "show", "rib", words(side.family), "in", "neighbor", side.neighbor])?;
        Ok(text.split_whitespace().any(|w| w == prefix))
    }

    fn announce(&self, side: Side<'_>, prefix: &str, _number: u8, there: bool) -> Result<()> {
        ensure!(!side.family.is_vpn(), "OpenBGPD needs OpenBSD's mpe(4) for VPN routes of its own");
        self.node.run(&["bgpctl", "network", if there { "add" } else { "delete" }, prefix]).map(drop)
    }

    fn ask_again(&self, side: Side<'_>) -> Result<()> {
        self.node.run(&["bgpctl", "neighbor", side.neighbor, "refresh"]).map(drop)
    }

    fn heard(&self, side: Side<'_>) -> Result<u64> {
        Ok(self.neighbor(side)?["stats"]["update"]["received"]["updates"].as_u64().unwrap_or_default())
    }

    fn kill(&self) -> Result<()> {
        kill_all(self.node, "bgpd")
    }

    fn start(&self) -> Result<()> {
        launch::openbgpd(self.node)
    }

    fn password(&self, sides: &[Side<'_>], password: &str) -> Result<()> {
        for side in sides {
            let script = format!("s|^\\(.*neighbor {} {{\\)|\\1\\n\\t\\ttcp md5sig password {password}|", side.neighbor);
            self.node.run(&["sed", "-i", &script, launch::OPENBGPD_CONF])?;
        }
        self.node.run(&["bgpctl", "reload"])?;
        // In force with the next session only.
        sides.iter().try_for_each(|s| self.node.run(&["bgpctl", "neighbor", s.neighbor, "clear"]).map(drop))
    }
}
