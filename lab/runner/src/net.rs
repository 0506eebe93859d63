//! Links between nodes: veth pairs, created straight into the two namespaces, with every offload off (userspace
//! switches and forwarders see frames as they are, and checksums must be in them).

use crate::{
    node::Node,
    topology::{Kind, Topology},
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

/// Creates all links, then brings up each node's ends.
pub fn connect(topology: &Topology, nodes: &BTreeMap<String, Node>) -> Result<()> {
    let mut batch = String::new();
    for link in &topology.links {
        let [a, b] = &link.ends;
        let (pa, pb) = (nodes[&a.node].init.pid, nodes[&b.node].init.pid);
        let mtu = link.mtu;
        writeln!(batch, "link add name {} mtu {mtu} netns {pa} type veth peer name {} mtu {mtu} netns {pb}", a.interface, b.interface)?;
    }
    ip_batch(&batch).context("creating the links")?;

    std::thread::scope(|scope| {
        let work: Vec<_> = nodes.values().map(|node| scope.spawn(move || prepare_ends(topology, node))).collect();
        work.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}

fn prepare_ends(topology: &Topology, node: &Node) -> Result<()> {
    let mut script = String::new();
    let bridge = topology.nodes[&node.name].kind == Kind::Bridge;
    if bridge {
        writeln!(script, "ip link add name {0} type bridge mcast_snooping 0 && ip link set dev {0} up", node.name)?;
    }
    for (interface, _) in topology.interfaces(&node.name) {
        writeln!(script, "ethtool -K {interface} tx off rx off sg off tso off gso off gro off >/dev/null")?;
        if bridge {
            writeln!(script, "ip link set dev {interface} master {}", node.name)?;
        }
        writeln!(script, "ip link set dev {interface} up")?;
    }
    for (key, value) in &topology.nodes[&node.name].sysctls {
        // A kernel without the knob needs no setting of it.
        let path = key.replace('.', "/");
        writeln!(script, "if [ -e /proc/sys/{path} ]; then echo '{value}' >/proc/sys/{path}; fi")?;
    }
    node.shell(&script).map(drop)
}

fn ip_batch(batch: &str) -> Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "ip: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

/// Makes `ip netns exec NAME` work for a node.
pub fn name_namespace(name: &str, node: &Node) -> Result<()> {
    let out = Command::new("ip").args(["netns", "attach", name, &node.init.pid.to_string()]).output()?;
    ensure!(out.status.success(), "ip netns attach {name}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}
