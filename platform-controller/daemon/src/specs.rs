//! From desired state to the VMs it wants.

use crate::desired::Desired;
use anyhow::Context;
use edgeplex_intent::{
    Attachment, Customer, Desired as WantedVms, DesiredVm, LSR_SOCKET, Platform, core_interface, core_mac, core_mtu, cvm_config, lsr_mac,
    pvm_config, pvm_core_mac, pvm_cust_mac,
};
use edgeplex_runtime::{Nic, Process, Share, SharedDir, VmId, VmKind, VmSpec, host_nic_name};
use edgeplex_types::{AttachmentId, MacAddr};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

/// The CVM's name; PVMs are called `pvm-<customer>-<attachment>`.
pub const CVM: &str = "cvm";
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

/// VMs by id, with all that is needed to make them and to see whether they are right.
#[derive(Debug, Default)]
pub struct Wanted {
    pub specs: BTreeMap<String, VmSpec>,
    pub vms: WantedVms,
}

/// Name of an attachment's VM; validation sees to it that no two have the same.
pub fn vm_of(id: &AttachmentId) -> String {
    format!("pvm-{}-{}", id.customer, id.attachment)
}

pub fn digest(config: &[u8]) -> String {
    Sha256::digest(config).iter().map(|b| format!("{b:02x}")).collect()
}

/// Everything the platform should run; nothing without a Platform document. `dir` is the controller's directory.
pub fn wanted(desired: &Desired, dir: &Path) -> anyhow::Result<Wanted> {
    let mut out = Wanted::default();
    let Some(platform) = &desired.intent.platform else { return Ok(out) };
    out.add(cvm(desired, platform, dir)?, true, platform.core.iter().map(|c| c.port.clone()));
    if platform.ldp.is_some() {
        out.add(lsr(platform, dir)?, false, []);
    }
    for (id, c, a) in desired.intent.attachments() {
        out.add(pvm(desired, platform, c, &id, a, dir)?, false, [a.port.clone()]);
    }
    Ok(out)
}

impl Wanted {
    fn add(&mut self, spec: VmSpec, is_cvm: bool, host_ports: impl IntoIterator<Item = String>) {
        let id = spec.id.to_string();
        let ports = spec.nics.iter().map(|n| n.host_name.clone()).chain(host_ports).collect();
        self.vms.vms.insert(id.clone(), DesiredVm { is_cvm, spec: spec.hash(), config: digest(&spec.config), ports });
        self.specs.insert(id, spec);
    }
}

fn process(name: &str, arguments: &[&str]) -> Process {
    Process { name: name.into(), argv: [name].iter().chain(arguments).map(|s| (*s).to_owned()).collect() }
}

/// A directory of `dir` that several VMs see, under /run in each.
fn share(dir: &Path, name: &str, role: Share) -> SharedDir {
    SharedDir { host: dir.join(name), path: format!("/run/{name}"), role }
}

/// One vNIC for each core port.
fn core_nics(platform: &Platform, id: &VmId, dir: &Path, mac: impl Fn(&Platform, &str) -> MacAddr) -> Vec<Nic> {
    let nic = |(n, core): (usize, &edgeplex_intent::Core)| {
        let name = core_interface(n);
        Nic { mac: mac(platform, &core.port), mtu: core.mtu, host_name: host_nic_name(dir, id, &name), name }
    };
    platform.core.iter().enumerate().map(nic).collect()
}

fn cvm(desired: &Desired, platform: &Platform, dir: &Path) -> anyhow::Result<VmSpec> {
    let id: VmId = CVM.parse()?;
    let config = cvm_config(&desired.intent, platform, &desired.rds, &desired.cvm_key, &desired.keys);
    Ok(VmSpec {
        nics: core_nics(platform, &id, dir, core_mac),
        kind: VmKind::Cvm,
        config: serde_json::to_vec_pretty(&config)?,
        processes: vec![process("cvmd", &[])],
        memory_max: Some(CVM_MEMORY),
        // The router's too where there is none: the CVM need not be made anew when one comes.
        shared: vec![share(dir, "relay", Share::OwnerForAll), share(dir, "lsr", Share::Member)],
        id,
    })
}

fn lsr(platform: &Platform, dir: &Path) -> anyhow::Result<VmSpec> {
    let id: VmId = LSR.parse()?;
    let names: Vec<String> = (0..platform.core.len()).map(core_interface).collect();
    let mtu = platform.core.iter().map(|c| c.mtu).max().unwrap_or(1500).to_string();
    let mut arguments: Vec<&str> = names.iter().flat_map(|name| ["--lsr", name]).collect();
    arguments.extend(["--socket", LSR_SOCKET, "--mtu", &mtu]);
    Ok(VmSpec {
        nics: core_nics(platform, &id, dir, lsr_mac),
        kind: VmKind::Lsr,
        // It is told everything by the CVM.
        config: b"{}".to_vec(),
        processes: vec![process("fastforward", &arguments)],
        memory_max: Some(LSR_MEMORY),
        shared: vec![share(dir, "lsr", Share::OwnerForMember)],
        id,
    })
}

fn pvm(
    desired: &Desired,
    platform: &Platform,
    c: &Customer,
    attachment: &AttachmentId,
    a: &Attachment,
    dir: &Path,
) -> anyhow::Result<VmSpec> {
    let id: VmId = vm_of(attachment).parse()?;
    let nic = |name: &str, mac, mtu| Nic { name: name.into(), mac, mtu, host_name: host_nic_name(dir, &id, name) };
    let keys = desired.keys.get(attachment).with_context(|| format!("{attachment} has no relay key"))?;
    let core = core_mtu(platform);
    let config = pvm_config(platform, c, attachment, a, &desired.cvm_key.public, keys);
    let mtu = a.mtu.max(core).to_string();
    Ok(VmSpec {
        nics: vec![nic(CUST, pvm_cust_mac(platform, attachment), a.mtu), nic(CORE, pvm_core_mac(platform, attachment), core)],
        kind: VmKind::Pvm,
        config: serde_json::to_vec_pretty(&config)?,
        processes: vec![process("fastforward", &["--cust", CUST, "--core", CORE, "--mtu", &mtu]), process("pvmd", &[])],
        memory_max: Some(PVM_MEMORY),
        shared: vec![share(dir, "relay", Share::Guest)],
        id,
    })
}
