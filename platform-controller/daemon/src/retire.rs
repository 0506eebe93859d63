//! Taking VMs away: one that is no longer wanted, or all of them.

use crate::{
    desired::Desired,
    hosts::Fleet,
    placement::{Placements, Unit},
    reconcile::{Parts, Reconciler, State},
    specs,
    switching::{Bundles, Fabricator},
};
use edgeplex_intent::OWN_HOST;
use edgeplex_mgmt::config::PvmConfig;
use edgeplex_runtime::{VmId, VmInfo, VmKind, host_nic_name};
use edgeplex_store::Memory;
use edgeplex_switch::{Changes, Port, Rule};
use edgeplex_types::AttachmentId;
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};
use tokio::sync::{mpsc, watch};

/// More core ports than any platform has; a VM's ports are found again by the names that its vNICs can have.
const MAX_CORE: usize = 256;

impl Reconciler {
    /// A VM that is not wanted. One whose attachment is gone with it says goodbye; one that was replaced must not say a word.
    pub(crate) async fn remove_for_good(&mut self, host: &str, vm: &VmInfo) -> anyhow::Result<()> {
        let wanted = specs::units(&self.parts.desired.borrow());
        let gone = match vm.kind {
            VmKind::Lsr => Some(vm.id.to_string()),
            VmKind::Cvm => (!wanted.contains(&Unit::Cvm)).then(|| specs::identity(&Unit::Cvm)),
            VmKind::Pvm => {
                let attachment = self.attachment_of(host, vm).await;
                let unit = attachment.map(Unit::Pvm).filter(|u| !wanted.contains(u));
                if unit.is_some() {
                    self.say_goodbye(host, vm).await;
                }
                unit.as_ref().map(specs::identity)
            }
        };
        self.remove(host, vm).await?;
        if let Some(identity) = gone {
            let identity: VmId = identity.parse()?;
            // Its other instances are on their way out too; the last one takes what they had in common.
            match self.parts.fleet.at(host)?.forget(&identity).await {
                Err(edgeplex_runtime::RuntimeError::Exists(_)) | Ok(()) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    async fn config_of(&self, host: &str, vm: &VmInfo) -> anyhow::Result<PvmConfig> {
        let config = self.parts.fleet.at(host)?.config(&vm.id).await?;
        Ok(serde_json::from_slice(&config.unwrap_or_default())?)
    }

    /// What it served, by its file.
    async fn attachment_of(&self, host: &str, vm: &VmInfo) -> Option<AttachmentId> {
        self.config_of(host, vm).await.ok().map(|c| c.attachment)
    }

    /// An attachment that is gone for good ends its customer's session with a NOTIFICATION (Cease/Peer De-configured,
    /// RFC 4486): a VM that just stops looks like a restart, and the customer's router would keep our routes for minutes.
    /// Best effort: a PVM that does not listen is stopped all the same.
    async fn say_goodbye(&self, host: &str, vm: &VmInfo) {
        let without_session = async {
            let mut config = self.config_of(host, vm).await?;
            config.bgp.clear();
            let at = self.place(vm.id.as_str(), host)?;
            at.runtime.rewrite_config(&vm.id, &serde_json::to_vec(&config)?).await?;
            self.reload(&at, Some(&Unit::Pvm(config.attachment))).await
        };
        if let Err(e) = without_session.await {
            tracing::debug!("VM {}: no goodbye: {e:#}", vm.id);
        }
    }

    /// Rules first, so that no packet meets a half-dead VM; ports while they still work, so that none is left behind.
    pub(crate) async fn remove(&mut self, host: &str, vm: &VmInfo) -> anyhow::Result<()> {
        let ports = self.parts.switch.ports().await?;
        let cores = (0..MAX_CORE).flat_map(|n| [edgeplex_intent::core_interface(n), specs::wire(n)]);
        let named = [specs::CUST, specs::CORE].into_iter().map(ToOwned::to_owned).chain(cores);
        let names: BTreeSet<String> = named.map(|name| host_nic_name(&self.parts.dir, &vm.id, &name)).collect();
        let own: Vec<&String> = ports.keys().filter(|name| names.contains(*name)).collect();
        let here = own.iter().filter_map(|name| ports.get(*name)).map(|no| Port::from(*no));
        let link = self.parts.fleet.link(host).and_then(|name| ports.get(&name).copied());
        let there = vm.nics.iter().filter_map(|n| Some(Port::behind(link?, n.tag?)));
        let met: Vec<Port> = here.chain(there).collect();
        let touches = |r: &Rule| met.iter().any(|p| r.touches(*p));
        let remove: Vec<Rule> = self.parts.switch.rules().await?.into_iter().filter(touches).collect();
        let revision = self.parts.placements.state().revision;
        self.parts.bundles.apply(Changes { add: vec![], remove }, revision).await?;
        for port in own {
            self.parts.switch.remove_port(port).await?;
        }
        self.parts.fleet.at(host)?.stop(&vm.id).await?;
        self.forget_taken(vm.id.as_str());
        Ok(())
    }
}

/// Stops all VMs of this host and takes their ports and all rules away: the platform is being removed. Desired state stays on disk.
pub async fn teardown(dir: PathBuf, fleet: Arc<Fleet>, switch: Box<dyn Fabricator>, rules: Box<dyn Fabricator>) -> anyhow::Result<()> {
    let (_keep, desired) = watch::channel(Arc::new(Desired {
        intent: Default::default(),
        rds: Default::default(),
        keys: Default::default(),
        cvm_key: edgeplex_intent::Keys { public: String::new(), secret: String::new() },
    }));
    let (_fabric, fabric) = watch::channel(None);
    let (_looks, looks) = mpsc::channel(1);
    let (state, _) = watch::channel(State::default());
    let (ground, _) = watch::channel(None);
    let placements = Arc::new(Placements::open(Arc::new(Memory::default()))?);
    let bundles = Bundles::start(rules);
    let parts = Parts { dir, fleet, switch, bundles, placements, desired, fabric, looks, state, ground };
    let mut reconciler = Reconciler::new(parts);
    let mut failures = vec![];
    let runtime = reconciler.parts.fleet.own().clone();
    for vm in runtime.list().await? {
        if let Err(e) = reconciler.remove(OWN_HOST, &vm).await {
            // The switch may be gone already; the VM must go all the same.
            failures.push(format!("{}: {e:#}", vm.id));
            runtime.stop(&vm.id).await?;
        }
    }
    if let Ok(remove) = reconciler.parts.switch.rules().await {
        reconciler.parts.bundles.apply(Changes { add: vec![], remove }, 0).await?;
    }
    for f in failures {
        tracing::warn!("{f}");
    }
    Ok(())
}
