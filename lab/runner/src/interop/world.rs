//! The lab as its checks see it: the device under test through its CLI, and who hangs on it where.

use crate::{lab::Lab, node::Node, process, wait};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// The node of ours.
pub(super) const DUT: &str = "dut";
pub(super) const LOOPBACK: &str = "10.255.0.1";
pub(super) const CUSTOMER: &str = "inter";
/// What should happen does so within this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub(super) struct World<'a> {
    pub lab: &'a Lab,
}

/// A BGP session as the device under test sees it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub state: String,
    pub resets: u64,
    pub last_error: String,
    pub treated_as_withdraw: u64,
}

impl<'a> World<'a> {
    pub(super) fn dut(&self) -> Result<&'a Node> {
        self.lab.node(DUT)
    }

    /// `edgeplex apply` of one of the topology's files.
    pub(super) fn apply(&self, name: &str) -> Result<()> {
        self.apply_from("interop", name)
    }

    pub(super) fn apply_from(&self, topology: &str, name: &str) -> Result<()> {
        let file = self.lab.topology.directory.join(topology).join("dut").join(name);
        self.dut()?.run(&["edgeplex", "apply", "-f", &file.to_string_lossy(), "--wait"]).map(drop)
    }

    /// `edgeplex … -o json`; an answer that is not complete yet (a VM restarts) is an error.
    pub(super) fn edgeplex(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = self.dut()?.run(&[&["edgeplex"], arguments, &["-o", "json"]].concat())?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("edgeplex {}: not JSON", arguments.join(" ")))?;
        value.as_array().cloned().with_context(|| format!("edgeplex {}: not a list", arguments.join(" ")))
    }

    pub(super) fn session(&self, owner: &str, address: &str) -> Result<Seen> {
        let rows = self.edgeplex(&["show", "bgp"])?;
        let row = rows.iter().find(|r| text(r, "owner") == owner && text(r, "address") == address);
        let row = row.with_context(|| format!("edgeplex show bgp has no neighbour {address} of {owner}"))?;
        Ok(Seen {
            state: text(row, "state"),
            resets: number(row, "resets"),
            last_error: text(row, "last_error"),
            treated_as_withdraw: number(row, "treated_as_withdraw"),
        })
    }

    /// The source (`bgp`, `vpn` …) and label of the best route of an attachment, if there is one.
    pub(super) fn route(&self, attachment: &str, prefix: &str) -> Result<Option<(String, u64)>> {
        let rows = self.edgeplex(&["show", "routes", "-c", CUSTOMER])?;
        let row = rows.iter().find(|r| text(r, "attachment") == attachment && text(r, "prefix") == prefix && r["best"] == true);
        Ok(row.map(|r| (text(r, "source"), number(r, "label"))))
    }

    /// Kills every process of that name in the VMs of the device under test and waits until others have taken their place.
    pub(super) fn kill_ours(&self, program: &str) -> Result<usize> {
        let dut = self.dut()?;
        let before = dut.processes(program);
        ensure!(!before.is_empty(), "no {program} runs");
        for pid in &before {
            process::Process::find(*pid).with_context(|| format!("{program} {pid}"))?.kill();
        }
        wait::until(&format!("{program} runs again"), PATIENCE, || {
            let now = dut.processes(program);
            let fresh = now.iter().filter(|p| !before.contains(p)).count();
            Ok(if fresh == before.len() { Ok(()) } else { Err(format!("{fresh} of {} are new", before.len())) })
        })?;
        Ok(before.len())
    }
}

/// [`wait::until`] for a question that may fail while daemons come and go: that counts as "not yet".
pub(super) fn soon<T>(what: &str, ask: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    within(PATIENCE, what, ask)
}

pub(super) fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    wait::until(what, patience, || Ok(ask().unwrap_or_else(|e| Err(format!("{e:#}")))))
}

pub(super) fn soon_true(what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    soon(what, || Ok(if ask()? { Ok(()) } else { Err("still not so".into()) }))
}

/// A member as text; empty if it is not there.
pub(super) fn text(row: &Value, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(super) fn number(row: &Value, key: &str) -> u64 {
    row.get(key).and_then(Value::as_u64).unwrap_or_default()
}
