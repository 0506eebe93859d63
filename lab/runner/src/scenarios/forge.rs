//! Forged frames: made and sent by scapy, found again by tcpdump and tshark. Every kind has a UDP source port of its
//! own, so that a capture says which of them it saw.

use super::capture::tshark;
use crate::node::Node;
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

/// UDP destination port of every forged frame; nothing else in the lab uses it.
pub(super) const PORT: u16 = 44000;
/// How often each is sent.
pub(super) const COUNT: usize = 20;
/// Debian's: another python3 that comes first on the PATH does not have Debian's scapy.
pub(super) const PYTHON: &str = "/usr/bin/python3";

/// One kind of forged frame.
pub(super) struct Forgery {
    pub(super) name: &'static str,
    /// What stands before the IPv4 header, as scapy writes it.
    layers: String,
    source: String,
    destination: String,
}

impl Forgery {
    pub(super) fn new(name: &'static str, layers: String, (source, destination): (&str, &str)) -> Self {
        Self { name, layers, source: source.to_owned(), destination: destination.to_owned() }
    }
}

/// A program for [`PYTHON`] that sends every forgery [`COUNT`] times out of an interface.
pub(super) fn script(forgeries: &[Forgery], interface: &str) -> String {
    let frames: Vec<String> = (1u16..)
        .zip(forgeries)
        .map(|(n, f)| {
            let (layers, source, destination) = (&f.layers, &f.source, &f.destination);
            format!("{layers} / IP(src='{source}', dst='{destination}') / UDP(sport={}, dport={PORT}) / b'forged'", PORT + n)
        })
        .collect();
    let imports = "import logging; logging.getLogger('scapy.runtime').setLevel(logging.ERROR)
from scapy.layers.l2 import Ether, Dot1Q
from scapy.layers.inet import IP, UDP
from scapy.contrib.mpls import MPLS
from scapy.sendrecv import sendp";
    format!("{imports}\nsendp([\n{}\n] * {COUNT}, iface='{interface}', verbose=False)\n", frames.join(",\n"))
}

/// Runs a [`script`] to its end, wherever the command leads.
pub(super) fn send(mut command: Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().context("scapy")?;
    if !out.status.success() {
        bail!("scapy: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// How many frames of each kind a capture holds, whatever is wrapped around them; kinds never seen are not listed.
pub(super) fn seen(file: &Path, forgeries: &[Forgery]) -> Result<BTreeMap<&'static str, usize>> {
    let mut seen = BTreeMap::new();
    // An ICMP error quotes the frame, and is none.
    for row in tshark(file, &["udp.dstport", "udp.srcport", "icmp.type"])? {
        let [to, from, icmp] = row.as_slice() else { continue };
        if !icmp.is_empty() {
            continue;
        }
        let Some(kind) = from.parse::<u16>().ok().and_then(|p| p.checked_sub(PORT + 1)) else { continue };
        if let Some(forgery) = forgeries.get(usize::from(kind)).filter(|_| *to == PORT.to_string()) {
            *seen.entry(forgery.name).or_default() += 1;
        }
    }
    Ok(seen)
}

/// Insists that a capture holds every frame that was sent.
pub(super) fn all_there(file: &Path, forgeries: &[Forgery], place: &str) -> Result<()> {
    let seen = seen(file, forgeries)?;
    for forgery in forgeries {
        let got = seen.get(forgery.name).copied().unwrap_or_default();
        ensure!(got == COUNT, "{got} of {COUNT} frames `{}` came to {place}: nothing is proven", forgery.name);
    }
    Ok(())
}

/// Frames that the fabric has taken in at a port, as Open vSwitch counts.
pub(super) fn received(pe: &Node, port: &str) -> Result<usize> {
    let text = pe.run(&["ovs-ofctl", "-O", "OpenFlow13", "dump-ports", crate::launch::FABRIC, port])?;
    let count = text.split("rx pkts=").nth(1).and_then(|t| t.split(',').next()?.trim().parse().ok());
    count.with_context(|| format!("no counter of {port}: {text}"))
}
