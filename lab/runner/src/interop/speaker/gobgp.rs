//! GoBGP, by gobgp.

use super::{Family, Side, Speaker, json, kill_all};
use crate::{launch, node::Node};
use anyhow::{Result, bail};
use serde_json::Value;

#[derive(Debug)]
pub(in crate::interop) struct GoBgp<'n> {
    pub(in crate::interop) node: &'n Node,
    /// Next hop of its IPv6 routes.
    pub(in crate::interop) address6: &'static str,
}

/// BGP's FSM as GoBGP numbers it.
const ESTABLISHED: u64 = 6;

fn words(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
        Family::Vpnv4 => "vpnv4",
        Family::Vpnv6 => "vpnv6",
    }
}

impl GoBgp<'_> {
    fn neighbor(&self, side: Side<'_>) -> Result<Value> {
        json(self.node, &["gobgp", "neighbor", side.neighbor, "-j"])
    }
}

impl Speaker for GoBgp<'_> {
    fn established(&self, side: Side<'_>) -> Result<bool> {
        Ok(self.neighbor(side)?["state"]["session_state"] == ESTABLISHED)
    }

    fn has(&self, side: Side<'_>, prefix: &str) -> Result<bool> {
        let line = ["gobgp", "neighbor", side.neighbor, "adj-in", "-a", words(side.family)];
        // Without a session it refuses to answer: then it has nothing.
        if !self.established(side)? {
            return Ok(false);
        }
        let text = self.node.run(&line)?;
        // RD:PREFIX or PREFIX.
        Ok(text.split_whitespace().any(|w| w.strip_suffix(prefix).is_some_and(|rd| rd.is_empty() || rd.ends_with(':'))))
    }

    fn announce(&self, side: Side<'_>, prefix: &str, number: u8, there: bool) -> Result<()> {
        let verb = if there { "add" } else { "del" };
        // The order of the words matters: label before rd.
        let line = match side.family {
            Family::Ipv4 => format!("{verb} {prefix}"),
            Family::Ipv6 => format!("{verb} {prefix} nexthop {}", self.address6),
            Family::Vpnv4 => format!("{verb} {prefix} label 20{number:02} rd 65000:200 rt 65000:100 nexthop 10.255.0.2"),
            Family::Vpnv6 => format!("{verb} {prefix} label 20{number:02} rd 65000:200 rt 65000:100 nexthop ::ffff:10.255.0.2"),
        };
        let head = ["gobgp", "global", "rib", "-a", words(side.family)];
        self.node.run(&[&head[..], &line.split(' ').collect::<Vec<_>>()].concat()).map(drop)
    }

    fn ask_again(&self, _side: Side<'_>) -> Result<()> {
        bail!("GoBGP has no command that sends ROUTE-REFRESH: softresetin works on its own adj-RIB-in")
    }

    fn heard(&self, side: Side<'_>) -> Result<u64> {
        Ok(self.neighbor(side)?["state"]["messages"]["received"]["update"].as_u64().unwrap_or_default())
    }

    fn kill(&self) -> Result<()> {
        kill_all(self.node, "gobgpd")
    }

    fn start(&self) -> Result<()> {
        launch::gobgp(self.node)
    }

    fn password(&self, sides: &[Side<'_>], password: &str) -> Result<()> {
        // Read at the start only.
        self.kill()?;
        for side in sides {
            let line = format!("neighbor-address = \"{}\"", side.neighbor);
            self.node.run(&["sed", "-i", &format!("s|{line}|{line}\\n    auth-password = \"{password}\"|"), launch::GOBGP_CONF])?;
        }
        self.start()
    }
}
