//! MPLS forwarding for a third party's router on a kernel without MPLS: Open vSwitch beside the kernel.
//!
//! ```text
//!   FRR: zebra's label table ──► this tool ──► flows of bridge `mpls`, whose ports are the router's links
//!   MPLS frames: bridge          everything else: the kernel, which sees the same frames and knows no MPLS
//! ```
//! Labels are FRR's own; nothing of EdgePlex takes part in the decision where a packet goes.

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    net::{Ipv4Addr, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

pub const BRIDGE: &str = "mpls";
/// How often FRR is asked.
const PACE: Duration = Duration::from_millis(100);
const IMPLICIT_NULL: u64 = 3;
/// discard (RFC 863): a datagram that makes the kernel ask for a neighbour's MAC address.
const DISCARD: u16 = 9;

/// One link of the router.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    name: String,
    mac: String,
    address: Ipv4Net,
}

/// One entry of FRR's label table, with a neighbour whose MAC address is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    label: u64,
    /// `None`: popped.
    out: Option<u64>,
    link: Link,
    mac: String,
}

/// Runs until it is killed.
pub fn run() -> Result<()> {
    let mut installed = None;
    loop {
        // A daemon of FRR that is being restarted does not answer: what is installed stays, as it would in a kernel.
        if let Ok(entries) = entries() {
            let flows = flows(&links()?, &entries)?;
            if installed.as_ref() != Some(&flows) {
                install(&flows)?;
                println!("{flows}");
                installed = Some(flows);
            }
        }
        thread::sleep(PACE);
    }
}

fn json(program: &str, arguments: &[&str]) -> Result<Value> {
    let out = Command::new(program).args(arguments).stderr(Stdio::null()).output().with_context(|| program.to_owned())?;
    if !out.status.success() {
        bail!("{program} ended with {}", out.status);
    }
    serde_json::from_slice(&out.stdout).with_context(|| format!("{program}: not JSON"))
}

/// Interfaces that are ports of the bridge.
fn links() -> Result<Vec<Link>> {
    let all = json("ip", &["-j", "address"])?;
    let link = |v: &Value| -> Option<Link> {
        let name = v["ifname"].as_str().filter(|n| n.starts_with("eth"))?;
        let inet = v["addr_info"].as_array()?.iter().find(|a| a["family"] == "inet")?;
        let address: Ipv4Addr = inet["local"].as_str()?.parse().ok()?;
        let length = u8::try_from(inet["prefixlen"].as_u64()?).ok()?;
        Some(Link { name: name.to_owned(), mac: v["address"].as_str()?.to_owned(), address: Ipv4Net::new(address, length).ok()? })
    };
    Ok(all.as_array().into_iter().flatten().filter_map(link).collect())
}

fn entries() -> Result<Vec<Entry>> {
    let (table, links) = (json("vtysh", &["-c", "show mpls table json"])?, links()?);
    let neighbours: BTreeMap<(String, String), String> = json("ip", &["-j", "neighbour"])?
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| {
            let text = |k: &str| n[k].as_str().map(str::to_owned);
            Some(((text("dev")?, text("dst")?), text("lladdr")?))
        })
        .collect();
    let mut out = vec![];
    for entry in table.as_object().into_iter().flat_map(|o| o.values()) {
        let Some(label) = entry["inLabel"].as_u64() else { continue };
        // The first next hop: a kernel would hash over several, which no test here asks for.
        let Some(hop) = entry["nexthops"].as_array().and_then(|n| n.first()) else { continue };
        let Some(via) = hop["nexthop"].as_str().and_then(|a| a.parse::<Ipv4Addr>().ok()) else { continue };
        let Some(link) = links.iter().find(|l| l.address.contains(&via)) else { continue };
        match neighbours.get(&(link.name.clone(), via.to_string())) {
            Some(mac) => {
                let given = hop["outLabel"].as_u64().or_else(|| hop["outLabelStack"][0].as_u64());
                let out_label = given.filter(|l| *l != IMPLICIT_NULL);
                out.push(Entry { label, out: out_label, link: link.clone(), mac: mac.clone() });
            }
            None => {
                UdpSocket::bind("0.0.0.0:0")?.send_to(&[], (via, DISCARD))?;
            }
        }
    }
    Ok(out)
}

/// One flow each for the bottom of the stack and for what is above it: popping must say what comes to light.
fn flows(links: &[Link], entries: &[Entry]) -> Result<String> {
    let mut out = String::from("priority=0,actions=drop\n");
    for e in entries {
        for port in links {
            let to = if port.name == e.link.name { "in_port".to_owned() } else { format!("output:{}", e.link.name) };
            let rewrite = format!("mod_dl_src:{},mod_dl_dst:{},{to}", e.link.mac, e.mac);
            let matches = format!("priority=100,in_port={},dl_dst={},dl_type=0x8847,mpls_label={}", port.name, port.mac, e.label);
            match e.out {
                Some(label) => writeln!(out, "{matches},actions=dec_mpls_ttl,set_mpls_label({label}),{rewrite}")?,
                None => {
                    writeln!(out, "{matches},mpls_bos=1,actions=dec_mpls_ttl,pop_mpls:0x0800,{rewrite}")?;
                    writeln!(out, "{matches},mpls_bos=0,actions=dec_mpls_ttl,pop_mpls:0x8847,{rewrite}")?;
                }
            }
        }
    }
    Ok(out)
}

fn install(flows: &str) -> Result<()> {
    let mut child = Command::new("ovs-ofctl")
        .args(["--names", "--bundle", "-O", "OpenFlow13", "replace-flows", BRIDGE, "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("ovs-ofctl")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(flows.as_bytes())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("ovs-ofctl ended with {status} on:\n{flows}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_swapped_on_every_link_or_popped_by_what_is_below() {
        let link = |name: &str, n: u8| Link {
            name: name.into(),
            mac: format!("02:00:00:00:00:0{n}"),
            address: format!("10.0.{n}.1/30").parse().unwrap(),
        };
        let (one, two) = (link("eth1", 1), link("eth2", 2));
        let entry = |label, out| Entry { label, out, link: two.clone(), mac: "02:00:00:00:00:99".into() };
        let text = flows(&[one, two.clone()], &[entry(16, Some(20)), entry(17, None)]).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 2 + 4);
        assert_eq!(
            lines[1],
            "priority=100,in_port=eth1,dl_dst=02:00:00:00:00:01,dl_type=0x8847,mpls_label=16,actions=dec_mpls_ttl,\
             set_mpls_label(20),mod_dl_src:02:00:00:00:00:02,mod_dl_dst:02:00:00:00:00:99,output:eth2"
        );
        assert!(lines[2].ends_with(",in_port"), "never by its name out of the port it came in by: {}", lines[2]);
        assert!(lines[3].contains("mpls_bos=1") && lines[3].contains("pop_mpls:0x0800"));
        assert!(lines[4].contains("mpls_bos=0") && lines[4].contains("pop_mpls:0x8847"));
    }
}
