//! Other people's BGP daemons, each asked and told through its own command line.

mod bird;
mod frr;
mod gobgp;
mod openbgpd;

pub(super) use bird::Bird;
pub(super) use frr::Frr;
pub(super) use gobgp::GoBgp;
pub(super) use openbgpd::OpenBgpd;

use crate::{interop::world::soon_true, node::Node, process::Process};
use anyhow::{Context, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Ipv4,
    Ipv6,
    Vpnv4,
    Vpnv6,
}

impl Family {
    pub(in crate::interop) fn is_v6(self) -> bool {
        matches!(self, Self::Ipv6 | Self::Vpnv6)
    }

    pub(in crate::interop) fn is_vpn(self) -> bool {
        matches!(self, Self::Vpnv4 | Self::Vpnv6)
    }
}

/// The daemon's side of a session with the device under test.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'s> {
    pub family: Family,
    /// The address of the device under test.
    pub neighbor: &'s str,
}

pub(super) trait Speaker {
    fn established(&self, side: Side<'_>) -> Result<bool>;

    /// Whether it has the prefix from the device under test.
    fn has(&self, side: Side<'_>, prefix: &str) -> Result<bool>;

    /// Makes or takes back a route of its own. `number` is for what must be unique, as a label.
    fn announce(&self, side: Side<'_>, prefix: &str, number: u8, there: bool) -> Result<()>;

    /// Sends ROUTE-REFRESH; an error says why it cannot.
    fn ask_again(&self, side: Side<'_>) -> Result<()>;

    /// Counts what came from the device under test: UPDATEs or the routes in them.
    fn heard(&self, side: Side<'_>) -> Result<u64>;

    /// Ends its BGP, as long as it is not started again; what else the process does goes on where that matters.
    fn silence(&self) -> Result<()> {
        self.kill()
    }

    fn kill(&self) -> Result<()>;
    fn start(&self) -> Result<()>;

    /// Sets the TCP MD5 password (RFC 2385) of the sessions, by configuration that is then in force.
    fn password(&self, sides: &[Side<'_>], password: &str) -> Result<()>;
}

/// Ends every process of that name in the node, at once.
fn kill_all(node: &Node, command: &str) -> Result<()> {
    for pid in node.processes(command) {
        // One may end with another.
        if let Some(process) = Process::find(pid) {
            process.kill();
        }
    }
    soon_true(&format!("{command} ends"), || Ok(node.processes(command).is_empty()))
}

fn json(node: &Node, line: &[&str]) -> Result<serde_json::Value> {
    let text = node.run(line)?;
    serde_json::from_str(&text).with_context(|| format!("{}: not JSON: {text}", line.join(" ")))
}
