//! Starts what runs inside a node: FRR, BIRD, GoBGP, OpenBGPD, Open vSwitch, edgeplexd. Each waits until its control socket answers.

use crate::{
    guest,
    node::{Node, bin_dir, own_program},
    tools::ovs_lsr,
    topology::{Image, Kind, Topology},
};
use anyhow::{Context, Result, ensure};
use std::{fmt::Write as _, fs, time::Duration};

const START: Duration = Duration::from_secs(15);
/// Copies of what the topology binds beside them.
pub const GOBGP_CONF: &str = "/run/gobgp/own.toml";
pub const OPENBGPD_CONF: &str = "/run/openbgpd/own.conf";
/// Interfaces with such names belong to the node itself.
const MANAGEMENT: &str = "mgmt";
/// The bridge of a PE node.
pub const FABRIC: &str = "fabric";

pub fn launch(topology: &Topology, node: &Node) -> Result<()> {
    let spec = &topology.nodes[&node.name];
    for line in &spec.exec {
        node.shell(line)?;
    }
    match (spec.kind, spec.image) {
        (Kind::OvsBridge, _) => access_switch(topology, node),
        (Kind::Linux, Image::EdgePlex) => {
            fabric(topology, node)?;
            edgeplexd(node)
        }
        // Its agent must know its controller: see `agent`.
        (Kind::Linux, Image::Host) => fabric(topology, node),
        (Kind::Linux, Image::Frr) => {
            frr(node)?;
            if topology.wants_mpls(&node.name) { mpls_by_ovs(topology, node) } else { Ok(()) }
        }
        (Kind::Linux, Image::Bird) => bird(node),
        (Kind::Linux, Image::GoBgp) => gobgp(node),
        (Kind::Linux, Image::OpenBgpd) => openbgpd(node),
        (Kind::Vm, _) => guest::launch(topology, node),
        (Kind::Bridge, _) | (Kind::Linux, Image::Plain) => Ok(()),
    }
}

fn frr(node: &Node) -> Result<()> {
    let daemons = node.shell("cat /etc/frr/daemons")?;
    let wanted = |d: &str| daemons.lines().any(|l| l.trim() == format!("{d}=yes"));
    // zebra first: the others connect to it.
    for daemon in ["zebra", "staticd", "ospfd", "ldpd", "bfdd", "bgpd"].into_iter().filter(|d| *d == "zebra" || wanted(d)) {
        frr_daemon(node, daemon)?;
    }
    frr_configure(node)
}

/// Starts one daemon of FRR, without configuration.
pub fn frr_daemon(node: &Node, daemon: &str) -> Result<()> {
    node.shell(&format!(": >/etc/frr/{daemon}.conf; chown frr:frr /etc/frr/{daemon}.conf; rm -f /run/frr/{daemon}.vty"))?;
    node.daemon(daemon, &[&format!("/usr/lib/frr/{daemon}"), "-A", "127.0.0.1", "-P", "0", "--log", "stdout"])?;
    node.wait_path(&format!("/run/frr/{daemon}.vty"), START)
}

/// The integrated file is read by vtysh, which hands each daemon its part.
pub fn frr_configure(node: &Node) -> Result<()> {
    node.shell("echo 'service integrated-vtysh-config' >/etc/frr/vtysh.conf; chown frr:frr /etc/frr/vtysh.conf; vtysh -b >/dev/null")
        .map(drop)
}

pub fn bird(node: &Node) -> Result<()> {
    node.daemon("bird", &["bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl"])?;
    node.wait_path("/run/bird/bird.ctl", START)
}

/// GoBGP, with a copy of its configuration of which the checks may make another.
pub fn gobgp(node: &Node) -> Result<()> {
    node.shell(&format!("[ -e {GOBGP_CONF} ] || cp /run/gobgp/gobgpd.toml {GOBGP_CONF}"))?;
    node.daemon("gobgpd", &["gobgpd", "-f", GOBGP_CONF])?;
    crate::wait::until_true("gobgpd answers", START, || Ok(node.output(&["gobgp", "global"])?.status.success()))
}

/// OpenBGPD, with a copy of its configuration: it insists that nobody else can read the file.
pub fn openbgpd(node: &Node) -> Result<()> {
    node.shell(&format!(
        "[ -e {OPENBGPD_CONF} ] || install -m 600 /run/openbgpd/bgpd.conf {OPENBGPD_CONF}; rm -f /run/openbgpd/bgpd.sock*"
    ))?;
    node.daemon("bgpd", &["bgpd", "-d", "-f", OPENBGPD_CONF])?;
    crate::wait::until_true("bgpd answers", START, || Ok(node.output(&["bgpctl", "show"])?.status.success()))
}

fn open_vswitch(node: &Node) -> Result<()> {
    let (db, socket) = ("/run/openvswitch/conf.db", "/run/openvswitch/db.sock");
    node.run(&["ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema"])?;
    let remote = format!("--remote=punix:{socket}");
    node.daemon("ovsdb-server", &["ovsdb-server", db, &remote, "--pidfile=/run/openvswitch/ovsdb-server.pid", "--no-chdir"])?;
    node.wait_path(socket, START)?;
    node.run(&["ovs-vsctl", "--no-wait", "init"])?;
    let pidfile = "/run/openvswitch/ovs-vswitchd.pid";
    node.daemon("ovs-vswitchd", &["ovs-vswitchd", &format!("unix:{socket}"), &format!("--pidfile={pidfile}"), "--no-chdir"])?;
    node.wait_path(pidfile, START)?;
    let pid = node.shell(&format!("cat {pidfile}"))?;
    node.daemon("ovs-buffers", &[&own_program()?.to_string_lossy(), "ovs-buffers", pid.trim()])
}

/// An `ovs-bridge` node: a learning switch; a port with a VLAN is an access port, any other a trunk.
fn access_switch(topology: &Topology, node: &Node) -> Result<()> {
    open_vswitch(node)?;
    let name = &node.name;
    let mut script = format!("ovs-vsctl add-br {name} -- set bridge {name} datapath_type=netdev");
    for (interface, link) in topology.interfaces(name) {
        write!(script, " -- add-port {name} {interface}")?;
        if let Some(vlan) = link.vlan {
            write!(script, " tag={vlan}")?;
        }
    }
    node.shell(&script).map(drop)
}

/// Forwards MPLS beside a kernel that does not: see [`crate::tools::ovs_lsr`].
fn mpls_by_ovs(topology: &Topology, node: &Node) -> Result<()> {
    open_vswitch(node)?;
    let bridge = ovs_lsr::BRIDGE;
    let mut script = format!("ovs-vsctl add-br {bridge} -- set bridge {bridge} datapath_type=netdev protocols=OpenFlow13 fail_mode=secure");
    for (interface, _) in topology.interfaces(&node.name) {
        write!(script, " -- add-port {bridge} {interface}")?;
    }
    node.shell(&script)?;
    node.daemon("ovs-lsr", &[&own_program()?.to_string_lossy(), "ovs-lsr"])
}

/// Of an EdgePlex node: every link is a port of its fabric, but those by which its controller reaches other hosts.
fn fabric(topology: &Topology, node: &Node) -> Result<()> {
    open_vswitch(node)?;
    // datapath_type first: the bridge must never be made on the kernel datapath. secure: no rules, no traffic.
    let mut script = format!("ovs-vsctl add-br {FABRIC} -- set bridge {FABRIC} datapath_type=netdev protocols=OpenFlow13 fail_mode=secure");
    for (interface, _) in topology.interfaces(&node.name).filter(|(i, _)| !i.starts_with(MANAGEMENT)) {
        write!(script, " -- add-port {FABRIC} {interface}")?;
    }
    node.shell(&script).map(drop)
}

/// Fingerprint of the key of a node's controller or agent, which it makes if it has none.
pub fn fingerprint(node: &Node, program: &str) -> Result<String> {
    let path = bin_dir()?.join(program);
    ensure!(path.exists(), "{} is missing: build it first", path.display());
    Ok(node.run(&[&path.to_string_lossy(), "--dir", "/run/edgeplex", "--show-key"])?.trim().to_owned())
}

/// Starts the agent of a further host; the controller reconnects by itself.
pub fn agent(node: &Node, listen: &str, uplink: &str, controller: &Node) -> Result<()> {
    let program = bin_dir()?.join("edgeplex-agent").to_string_lossy().into_owned();
    let key = fingerprint(controller, "edgeplexd")?;
    let of = ["--dir", "/run/edgeplex", "--ovs-run-dir", "/run/openvswitch", "--bridge", FABRIC];
    node.daemon(
        "edgeplex-agent",
        &[&[program.as_str()], &of[..], &["--listen", listen, "--uplink", uplink, "--controller-key", &key]].concat(),
    )
}

/// Starts edgeplexd and waits for its API; also used to start it again.
pub fn edgeplexd(node: &Node) -> Result<()> {
    let program = bin_dir()?.join("edgeplexd");
    ensure!(program.exists(), "{} is missing: build it first", program.display());
    let program = program.to_string_lossy();
    node.daemon("edgeplexd", &[&program, "--dir", "/run/edgeplex", "--ovs-run-dir", "/run/openvswitch", "--bridge", FABRIC])?;
    let answer = crate::wait::until("edgeplexd answers", START, || {
        let out = node.output(&["edgeplex", "status", "-o", "json"])?;
        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        Ok(if out.status.success() { Ok(()) } else { Err(said) })
    });
    answer.with_context(|| {
        let log = fs::read_to_string(node.log("edgeplexd")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        format!("{}: edgeplexd's last words: {}", node.name, tail.into_iter().rev().collect::<Vec<_>>().join(" | "))
    })
}
