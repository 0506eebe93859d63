//! From desired state and placements to the VMs they want.

use crate::{
    desired::Desired,
    placement::{Instance, Placement, State as Placed, Unit},
};
use anyhow::Context;
use edgeplex_intent::{
    Attachment, Customer, Desired as WantedVms, DesiredVm, LSR_SOCKET, Platform, core_interface, core_mac, core_mtu, cvm_config, lsr_mac,
    pvm_config, pvm_core_mac, pvm_cust_mac,
};
use edgeplex_mgmt::config::{Instance as Generation, InstanceRole};
use edgeplex_runtime::{Nic, Process, Share, SharedDir, VmId, VmKind, VmSpec, host_nic_name};
use edgeplex_types::{AttachmentId, MacAddr};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The label-switching router's, of a platform with LDP.
pub const LSR: &str = "lsr";
/// A PVM's vNICs.
pub const CUST: &str = "cust";
pub const CORE: &str = "core";
/// What a PVM may use, bytes: a million routes in pvmd and FastForward, with room to spare.
const PVM_MEMORY: u64 = 2 << 30;
/// What the label-switching router may use, bytes: packet buffers, and a table of a million labels at most.
const LSR_MEMORY: u64 = 1 << 30;
/// What the CVM may use, bytes: some ten million VPN routes. A PVM that floods it must not take the host with it.
const CVM_MEMORY: u64 = 8 << 30;

/// Ports whose segments FastForward holds until a successor knows what they tell: BGP's, and LDP's in the CVM.
const HOLD_BGP: [&str; 2] = ["--hold", "179"];
const HOLD_LDP: [&str; 2] = ["--hold", "646"];

/// A VM that should run, and where.
#[derive(Debug, Clone)]
pub struct WantedVm {
    pub spec: VmSpec,
    pub host: String,
    /// What it is an instance of; the label-switching router is of nothing.
    pub unit: Option<Unit>,
}

/// VMs by id, with all that is needed to make them and to see whether they are right.
#[derive(Debug, Default)]
pub struct Wanted {
    pub specs: BTreeMap<String, WantedVm>,
    pub vms: WantedVms,
}

/// What its instances have in common on a host.
pub fn identity(unit: &Unit) -> String {
    match unit {
        Unit::Cvm => "cvm".into(),
        Unit::Pvm(id) => format!("pvm-{}-{}", id.customer, id.attachment),
    }
}

/// Name of the CVM's vNIC behind [`core_interface`], which is FastForward's.
pub fn wire(n: usize) -> String {
    format!("wire{n}")
}

pub fn digest(config: &[u8]) -> String {
    Sha256::digest(config).iter().map(|b| format!("{b:02x}")).collect()
}

/// What should have instances.
pub fn units(desired: &Desired) -> BTreeSet<Unit> {
    let cvm = desired.intent.platform.iter().map(|_| Unit::Cvm);
    let pvms = desired.intent.attachments().filter(|_| desired.intent.platform.is_some()).map(|(id, _, _)| Unit::Pvm(id));
    cvm.chain(pvms).collect()
}

/// Everything the platform should run; nothing without a Platform document. `dir` is the controller's directory.
pub fn wanted(desired: &Desired, placed: &Placed, dir: &Path) -> anyhow::Result<Wanted> {
    let mut out = Wanted::default();
    let Some(platform) = &desired.intent.platform else { return Ok(out) };
    if let Some(p) = placed.units.get(&Unit::Cvm) {
        for i in p.instances() {
            let core = platform.core.iter().map(|c| c.port.clone());
            out.add(cvm(desired, platform, p, i, dir)?, i, Some(Unit::Cvm), core);
        }
    }
    if platform.ldp.is_some() {
        let own = Instance { number: 0, generation: 0, host: edgeplex_intent::OWN_HOST.into(), image: None, tags: vec![] };
        out.add(lsr(platform, dir)?, &own, None, []);
    }
    for (id, c, a) in desired.intent.attachments() {
        let unit = Unit::Pvm(id.clone());
        let Some(p) = placed.units.get(&unit) else { continue };
        for i in p.instances() {
            let link = platform.hosts.iter().filter(|h| h.name.as_str() == i.host).map(|h| h.port.clone());
            let ports: Vec<String> = link.chain([a.port.clone()]).collect();
            out.add(pvm(desired, platform, c, &id, a, (p, i), dir)?, i, Some(unit.clone()), ports);
        }
    }
    Ok(out)
}

impl Wanted {
    fn add(&mut self, spec: VmSpec, at: &Instance, unit: Option<Unit>, host_ports: impl IntoIterator<Item = String>) {
        let id = spec.id.to_string();
        // Those on another host are ports of that host's switch.
        let own = spec.nics.iter().filter(|n| n.tag.is_none()).map(|n| n.host_name.clone());
        let vm = DesiredVm {
            is_cvm: spec.kind == VmKind::Cvm,
            spec: spec.hash(),
            config: digest(&spec.config),
            ports: own.chain(host_ports).collect(),
        };
        self.vms.vms.insert(id.clone(), vm);
        self.specs.insert(id, WantedVm { spec, host: at.host.clone(), unit });
    }
}

/// What its file says it is.
fn generation(p: &Placement, i: &Instance) -> Generation {
    // A successor hears from us when it is to speak, and not from its file.
    let (generation, role) = if p.speaks(i) { (i.generation, InstanceRole::Active) } else { (i.number, InstanceRole::Standby) };
    Generation { generation, role }
}

fn process(name: &str, arguments: &[&str]) -> Process {
    Process { name: name.into(), argv: [name].iter().chain(arguments).map(|s| (*s).to_owned()).collect() }
}

/// A directory of `dir` that several VMs see, under /run in each.
fn share(dir: &Path, name: &str, role: Share) -> SharedDir {
    SharedDir { host: dir.join(name), path: format!("/run/{name}"), role }
}

/// One vNIC for each core port.
fn core_nics(
    platform: &Platform,
    id: &VmId,
    dir: &Path,
    name: impl Fn(usize) -> String,
    mac: impl Fn(&Platform, &str) -> MacAddr,
) -> Vec<Nic> {
    let nic = |(n, core): (usize, &edgeplex_intent::Core)| {
        let name = name(n);
        Nic { mac: mac(platform, &core.port), mtu: core.mtu, host_name: host_nic_name(dir, id, &name), name, tag: None }
    };
    platform.core.iter().enumerate().map(nic).collect()
}

fn cvm(desired: &Desired, platform: &Platform, p: &Placement, i: &Instance, dir: &Path) -> anyhow::Result<VmSpec> {
    let id: VmId = Unit::Cvm.vm(i.number).parse()?;
    let config = cvm_config(&desired.intent, platform, &desired.rds, &desired.cvm_key, &desired.keys, generation(p, i));
    let wires: Vec<String> = (0..platform.core.len()).map(|n| format!("{}={}", core_interface(n), wire(n))).collect();
    let mtu = largest_core_mtu(platform);
    let mut arguments: Vec<&str> = wires.iter().flat_map(|w| ["--wire", w]).collect();
    // Its kernel forwards packets of others, whose sessions are none of ours.
    let own: Vec<String> = platform.core.iter().map(|c| c.address.addr()).chain([platform.loopback]).map(|a| a.to_string()).collect();
    arguments.extend(HOLD_BGP.iter().chain(&HOLD_LDP).copied().chain(["--mtu", &mtu]));
    arguments.extend(own.iter().flat_map(|a| ["--local", a]));
    Ok(VmSpec {
        nics: core_nics(platform, &id, dir, wire, core_mac),
        kind: VmKind::Cvm,
        config: serde_json::to_vec_pretty(&config)?,
        processes: vec![process("fastforward", &arguments), process("cvmd", &[])],
        memory_max: Some(CVM_MEMORY),
        // The router's too where there is none: the CVM need not be made anew when one comes.
        shared: vec![share(dir, "relay", Share::OwnerForAll), share(dir, "lsr", Share::Member)],
        image: i.image.clone(),
        identity: Some(identity(&Unit::Cvm).parse()?),
        id,
    })
}

fn largest_core_mtu(platform: &Platform) -> String {
    platform.core.iter().map(|c| c.mtu).max().unwrap_or(1500).to_string()
}

fn lsr(platform: &Platform, dir: &Path) -> anyhow::Result<VmSpec> {
    let id: VmId = LSR.parse()?;
    let names: Vec<String> = (0..platform.core.len()).map(core_interface).collect();
    let mtu = largest_core_mtu(platform);
    let mut arguments: Vec<&str> = names.iter().flat_map(|name| ["--lsr", name]).collect();
    arguments.extend(["--socket", LSR_SOCKET, "--mtu", &mtu]);
    Ok(VmSpec {
        nics: core_nics(platform, &id, dir, core_interface, lsr_mac),
        kind: VmKind::Lsr,
        // It is told everything by the CVM.
        config: b"{}".to_vec(),
        processes: vec![process("fastforward", &arguments)],
        memory_max: Some(LSR_MEMORY),
        shared: vec![share(dir, "lsr", Share::OwnerForMember)],
        image: None,
        identity: None,
        id,
    })
}

fn pvm(
    desired: &Desired,
    platform: &Platform,
    c: &Customer,
    attachment: &AttachmentId,
    a: &Attachment,
    (p, i): (&Placement, &Instance),
    dir: &Path,
) -> anyhow::Result<VmSpec> {
    let unit = Unit::Pvm(attachment.clone());
    let id: VmId = unit.vm(i.number).parse()?;
    let mut tags = i.tags.iter().copied();
    let mut nic = |name: &str, mac, mtu| Nic { name: name.into(), mac, mtu, host_name: host_nic_name(dir, &id, name), tag: tags.next() };
    let keys = desired.keys.get(attachment).with_context(|| format!("{attachment} has no relay key"))?;
    let core = core_mtu(platform);
    let config = pvm_config(platform, c, attachment, a, &desired.cvm_key.public, keys, generation(p, i));
    let mtu = a.mtu.max(core).to_string();
    let forwarder: Vec<&str> = ["--cust", CUST, "--core", CORE].into_iter().chain(HOLD_BGP).chain(["--mtu", &mtu]).collect();
    Ok(VmSpec {
        nics: vec![nic(CUST, pvm_cust_mac(platform, attachment), a.mtu), nic(CORE, pvm_core_mac(platform, attachment), core)],
        kind: VmKind::Pvm,
        config: serde_json::to_vec_pretty(&config)?,
        processes: vec![process("fastforward", &forwarder), process("pvmd", &[])],
        memory_max: Some(PVM_MEMORY),
        shared: vec![share(dir, "relay", Share::Guest)],
        image: i.image.clone(),
        identity: Some(identity(&unit).parse()?),
        id,
    })
}
