//! Traffic between hosts: servers that say who they are, datagrams that are counted one by one.

use crate::{
    lab::Lab,
    node::Node,
    tools::{PORT, udp},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::{BufRead, BufReader, Read},
    process::Child,
};

/// Servers on LAN hosts; they end with the value.
#[derive(Debug, Default)]
pub struct Servers(Vec<Child>);

impl Servers {
    /// `hosts`: nodes, and what their servers call themselves.
    pub fn start(lab: &Lab, hosts: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut servers = Self::default();
        for (node, name) in hosts {
            let mut server = lab.node(&node)?.tool(&["serve", &name])?;
            let mut line = String::new();
            if let Some(out) = server.stdout.take() {
                BufReader::new(out).read_line(&mut line)?;
            }
            servers.0.push(server);
            ensure!(line.trim() == "serving", "the server of {name} did not start");
        }
        Ok(servers)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // nsenter waits for the server in the node: `stop` ends that one first.
        self.0.iter_mut().for_each(stop);
    }
}

/// Where datagrams go, and how.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    pub to: &'a str,
    pub pps: u32,
    /// Bytes of UDP payload.
    pub size: usize,
    /// 0: any.
    pub source_port: u16,
}

impl Way<'_> {
    fn start(&self, from: &Node, count: Option<u64>) -> Result<Child> {
        let to = if self.to.contains(':') { format!("[{}]:{PORT}", self.to) } else { format!("{}:{PORT}", self.to) };
        let (pps, size, port) = (self.pps.to_string(), self.size.to_string(), self.source_port.to_string());
        let mut line = vec!["udp-ping", "--to", &to, "--pps", &pps, "--size", &size, "--source-port", &port];
        let count = count.map(|c| c.to_string());
        if let Some(count) = &count {
            line.extend(["--count", count]);
        }
        from.tool(&line)
    }
}

/// Sends so many datagrams and waits for their answers.
pub fn send(from: &Node, way: &Way<'_>, count: u64) -> Result<udp::Report> {
    result(way.start(from, Some(count))?)
}

/// Ends a process started through nsenter, and its children.
pub fn stop(child: &mut Child) {
    let Ok(pid) = i32::try_from(child.id()) else { return };
    for p in crate::process::tree(pid).into_iter().rev().filter_map(crate::process::Process::find) {
        p.kill();
    }
    let _ = child.wait();
}

/// Waits for one of our tools and reads its result.
pub fn result<T: serde::de::DeserializeOwned>(mut child: Child) -> Result<T> {
    let (mut said, mut complaint) = (String::new(), String::new());
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut said)?;
    }
    if let Some(mut err) = child.stderr.take() {
        err.read_to_string(&mut complaint)?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{}", complaint.trim());
    }
    serde_json::from_str(&said).with_context(|| format!("not understood: {said}"))
}

/// A running stream; ends with its owner.
#[derive(Debug)]
pub struct Stream {
    what: String,
    child: Option<Child>,
}

impl Stream {
    /// Sends until it is stopped.
    pub fn start(from: &Node, what: String, way: &Way<'_>) -> Result<Self> {
        Ok(Self { what, child: Some(way.start(from, None)?) })
    }

    pub fn stop(mut self) -> Result<udp::Report> {
        let mut child = self.child.take().context("already stopped")?;
        drop(child.stdin.take());
        result(child).with_context(|| format!("stream of {}", self.what))
    }

    /// Stops it and insists that every datagram was answered, by the customer's own host.
    pub fn stop_without_loss(self) -> Result<udp::Report> {
        let what = self.what.clone();
        let report = self.stop()?;
        ensure!(
            report.lost == 0,
            "{what}: {} of {} datagrams lost (first: {:?}, longest gap {:.0} ms)",
            report.lost,
            report.sent,
            report.lost_numbers,
            report.longest_gap_ms
        );
        Ok(report)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            stop(child);
        }
    }
}

/// Stops all without loss; gives the datagrams sent and the longest gap, milliseconds.
pub fn stop_all(streams: Vec<Stream>) -> Result<(u64, f64)> {
    let reports = streams.into_iter().map(Stream::stop_without_loss).collect::<Vec<_>>();
    let reports = reports.into_iter().collect::<Result<Vec<_>>>()?;
    let gap = reports.iter().map(|r| r.longest_gap_ms).fold(0.0, f64::max);
    Ok((reports.iter().map(|r| r.sent).sum(), gap))
}
