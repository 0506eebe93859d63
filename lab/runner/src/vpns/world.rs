//! The lab as the proofs see it: how to ask a CE, a PE or the reflector, and how to send.

use super::document;
use crate::{
    lab::Lab,
    node::Node,
    tools::udp,
    traffic::{self, Servers, Stream, Way},
    wait,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

pub(super) const PES: [&str; 3] = ["denver", "boston", "austin"];
pub(super) const PLATFORMS: [&str; 4] = ["p1", "denver", "boston", "austin"];
/// What should come to be does so within this time.
pub(super) const CONVERGE: Duration = Duration::from_secs(90);
/// Nodes that answer datagrams with their names.
const SERVERS: [&str; 11] =
    ["six-denver-host", "six-austin-host", "shared", "a", "b", "dual-site", "dual-far", "dual-one", "ce-one", "ce-two", "gw"];
/// A CE, and a prefix that it has when all is well.
const EXPECTED: [(&str, &str); 8] = [
    ("six-denver", "2001:db8:a2::/64"),
    ("six-austin", "2001:db8:a1::/64"),
    ("spoke-denver", "172.16.23.0/24"),
    ("spoke-boston", "172.16.22.0/24"),
    ("ce-one", "172.16.52.0/24"),
    ("ce-two", "192.168.55.0/30"),
    ("feat-frr", "10.81.1.0/24"),
    ("feat-bird", "10.80.1.0/24"),
];

#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) lab: &'a Lab,
    /// Where captures and edited documents are kept.
    pub(super) out: PathBuf,
    _servers: Servers,
}

impl<'a> World<'a> {
    pub(super) fn new(lab: &'a Lab, out: PathBuf) -> Result<Self> {
        let servers = Servers::start(lab, SERVERS.iter().map(|s| ((*s).to_owned(), (*s).to_owned())))?;
        Ok(Self { lab, out, _servers: servers })
    }

    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        self.lab.node(name)
    }

    /// `edgeplex … -o json`, which must succeed.
    pub(super) fn edgeplex(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let text = self.node(node)?.run(&[&["edgeplex"], arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("edgeplex {}: not JSON", arguments.join(" ")))
    }

    /// The rows of a `show` command.
    pub(super) fn rows(&self, node: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        let value = self.edgeplex(node, arguments)?;
        value.as_array().cloned().with_context(|| format!("edgeplex {}: no list: {value}", arguments.join(" ")))
    }

    pub(super) fn birdc(&self, node: &str, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let out = self.node(node)?.output(&[&["birdc"], words.as_slice()].concat())?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    pub(super) fn vtysh(&self, node: &str, line: &str) -> Result<Value> {
        let text = self.node(node)?.run(&["vtysh", "-c", line])?;
        serde_json::from_str(&text).with_context(|| format!("{node}: {line}: {text}"))
    }

    /// What a CE's own router says of a prefix that it has by BGP; empty if it has none.
    pub(super) fn bgp_route(&self, ce: &str, prefix: &str) -> Result<String> {
        if self.node(ce)?.output(&["test", "-S", "/run/bird/bird.ctl"])?.status.success() {
            let said = self.birdc(ce, &format!("show route all {prefix}"))?;
            return Ok(if said.contains("BGP.as_path") { said } else { String::new() });
        }
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let said = self.vtysh(ce, &format!("show bgp {family} unicast {prefix} json"))?;
        Ok(if said.get("paths").is_some() { said.to_string() } else { String::new() })
    }

    pub(super) fn wait_route(&self, ce: &str, prefix: &str, present: bool) -> Result<()> {
        wait::until(&format!("{ce} {} {prefix}", if present { "has" } else { "has no" }), CONVERGE, || {
            let said = self.bgp_route(ce, prefix)?;
            Ok(if said.is_empty() != present { Ok(()) } else { Err(said) })
        })
    }

    /// The reflector's VPNv4 paths of a prefix: (next hop, label).
    pub(super) fn reflected(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let by_rd = self.vtysh("rr", &format!("show bgp ipv4 vpn {prefix} json"))?;
        let mut found = vec![];
        for path in by_rd.as_object().into_iter().flatten().filter_map(|(_, routes)| routes.get("paths")?.as_array()).flatten() {
            let hop = path.pointer("/nexthops/0/ip").and_then(Value::as_str).context("a path of the reflector without a next hop")?;
            found.push((hop.to_owned(), path.get("remoteLabel").and_then(Value::as_u64).context("a path without a label")?));
        }
        Ok(found)
    }

    /// Waits until all is provisioned and told to whom it concerns; gives the number of attachments.
    pub(super) fn converged(&self) -> Result<usize> {
        let mut attachments = 0;
        for pe in PES {
            attachments += wait::until(&format!("{pe} is ready"), CONVERGE, || {
                let status = self.edgeplex(pe, &["status"])?;
                let all = status.get("attachments").and_then(Value::as_array).cloned().unwrap_or_default();
                let ready = |a: &Value| a.get("ready") == Some(&Value::Bool(true));
                let waiting: Vec<String> = all.iter().filter(|a| !ready(a)).map(Value::to_string).collect();
                Ok(if waiting.is_empty() && !all.is_empty() { Ok(all.len()) } else { Err(waiting.join(", ")) })
            })?;
        }
        for (ce, prefix) in EXPECTED {
            self.wait_route(ce, prefix, true)?;
        }
        for (from, to) in
            [("a", "192.168.32.2"), ("dual-far", "172.16.44.10"), ("dual-one", "172.16.44.10"), ("surf-austin", "203.0.113.10")]
        {
            self.wait_ping(from, to)?;
        }
        Ok(attachments)
    }

    /// Runs ping and gives (sent, received).
    pub(super) fn ping(&self, from: &str, to: &str, extra: &[&str]) -> Result<(u64, u64)> {
        let out = self.node(from)?.output(&[&["ping", "-n", "-q", "-W", "1", "-i", "0.02"], extra, &[to]].concat())?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let Some(line) = said.lines().find(|l| l.contains("packets transmitted")) else { return Ok((1, 0)) };
        let mut numbers = line.split([' ', ',']).filter_map(|w| w.parse::<u64>().ok());
        numbers.next().zip(numbers.next()).with_context(|| line.to_owned())
    }

    pub(super) fn ping_all(&self, from: &str, to: &str, extra: &[&str]) -> Result<u64> {
        let (sent, received) = self.ping(from, to, &[&["-c", "20"], extra].concat())?;
        ensure!(sent == received && sent > 0, "{from} to {to}: {received} of {sent} answered");
        Ok(received)
    }

    pub(super) fn ping_none(&self, from: &str, to: &str, extra: &[&str]) -> Result<u64> {
        let (sent, received) = self.ping(from, to, &[&["-c", "5"], extra].concat())?;
        ensure!(received == 0, "{from} to {to}: {received} of {sent} answered, where nothing may pass");
        Ok(sent)
    }

    pub(super) fn wait_ping(&self, from: &str, to: &str) -> Result<()> {
        wait::until(&format!("{from} reaches {to}"), CONVERGE, || {
            Ok(if self.ping(from, to, &["-c", "1"])?.1 == 1 { Ok(()) } else { Err("no answer".to_owned()) })
        })
    }

    /// The routers on the way, as traceroute sees them; `*` where none answered.
    pub(super) fn hops(&self, from: &str, to: &str, extra: &[&str]) -> Result<Vec<String>> {
        let said = self.node(from)?.run(&[&["traceroute", "-n", "-q", "1", "-w", "1", "-m", "12", "-N", "1"], extra, &[to]].concat())?;
        Ok(said.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).map(str::to_owned).collect())
    }

    /// Sends datagrams, of which none may be lost and which only `server` may answer.
    pub(super) fn datagrams(&self, from: &str, to: &str, server: &str, count: u64, source_port: u16) -> Result<udp::Report> {
        let report = traffic::send(self.node(from)?, &Way { to, pps: 200, size: 64, source_port }, count)?;
        ensure!(report.lost == 0, "{from} to {to}: {} of {} lost", report.lost, report.sent);
        ensure!(report.answered_by.iter().eq([server]), "{from} to {to} was answered by {:?}", report.answered_by);
        Ok(report)
    }

    pub(super) fn stream(&self, from: &str, to: &str, pps: u32, source_port: u16) -> Result<Stream> {
        Stream::start(self.node(from)?, format!("{from} to {to}"), &Way { to, pps, size: 64, source_port })
    }

    /// Applies a platform's customers with something changed in their text, as a NOC edits its file.
    pub(super) fn apply_edited(&self, node: &str, from: &str, to: &str) -> Result<()> {
        let text = std::fs::read_to_string(document(self.lab, node, "customers.yaml"))?;
        ensure!(text.contains(from), "{node}/customers.yaml has no {from:?}");
        let file = self.out.join(format!("{node}-edited.yaml"));
        std::fs::write(&file, text.replace(from, to))?;
        self.node(node)?.run(&["edgeplex", "apply", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Applies them as they stand in the topology.
    pub(super) fn apply_again(&self, node: &str) -> Result<()> {
        self.node(node)?.run(&["edgeplex", "apply", "-f", &document(self.lab, node, "customers.yaml")]).map(drop)
    }
}
