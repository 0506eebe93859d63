//! Taking VMs away: one that is no longer wanted, or all of them.

use crate::{
    desired::Desired,
    reconcile::{Reconciler, State},
    specs,
    switching::Fabricator,
};
use edgeplex_mgmt::{CONFIG_FILE, config::PvmConfig};
use edgeplex_runtime::{Runtime, VmId, host_nic_name};
use edgeplex_switch::{Action, Changes, PortNo, Rule};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{mpsc, watch};

/// More core ports than any platform has; a VM's ports are found again by the names that its vNICs can have.
const MAX_CORE: usize = 256;

impl Reconciler {
    /// An attachment that is gone for good ends its customer's session with a NOTIFICATION (Cease/Peer De-configured,
    /// RFC 4486): a VM that just stops looks like a restart, and the customer's router would keep our routes for minutes.
    /// Best effort: a PVM that does not listen is stopped all the same.
    pub(crate) async fn say_goodbye(&self, vm: &str) {
        let without_session = async {
            let id: VmId = vm.parse()?;
            let path = self.dir.join("vms").join(vm).join("etc").join(CONFIG_FILE);
            let mut config: PvmConfig = serde_json::from_slice(&tokio::fs::read(path).await?)?;
            config.bgp.clear();
            self.runtime.rewrite_config(&id, &serde_json::to_vec(&config)?).await?;
            self.reload(vm).await
        };
        if let Err(e) = without_session.await {
            tracing::debug!("VM {vm}: no goodbye: {e:#}");
        }
    }

    /// Rules first, so that no packet meets a half-dead VM; ports while they still work, so that none is left behind.
    pub(crate) async fn remove(&mut self, vm: &str) -> anyhow::Result<()> {
        let id: VmId = vm.parse()?;
        let ports = self.switch.ports().await?;
        let own: BTreeMap<String, PortNo> = [specs::CUST, specs::CORE]
            .into_iter()
            .map(ToOwned::to_owned)
            .chain((0..MAX_CORE).map(edgeplex_intent::core_interface))
            .map(|nic| host_nic_name(&self.dir, &id, &nic))
            .filter_map(|name| ports.get(&name).map(|p| (name.clone(), *p)))
            .collect();
        let numbers: BTreeSet<PortNo> = own.values().copied().collect();
        let remove = self.switch.rules().await?.into_iter().filter(|r| touches(r, &numbers)).collect();
        self.switch.apply(&Changes { add: vec![], remove }).await?;
        for port in own.keys() {
            self.switch.remove_port(port).await?;
        }
        self.runtime.stop(&id).await?;
        self.forget_taken(vm);
        Ok(())
    }
}

/// Whether a rule takes from or sends to one of these ports.
fn touches(rule: &Rule, ports: &BTreeSet<PortNo>) -> bool {
    let to = |a: &Action| matches!(a, Action::Output(p) if ports.contains(p));
    rule.matches.in_port.is_some_and(|p| ports.contains(&p)) || rule.actions.iter().any(to)
}

/// Stops all VMs and takes their ports and all rules away: the platform is being removed. Desired state stays on disk.
pub async fn teardown(dir: PathBuf, runtime: Arc<dyn Runtime>, switch: Box<dyn Fabricator>) -> anyhow::Result<()> {
    let (_keep, desired) = watch::channel(Arc::new(Desired {
        intent: Default::default(),
        rds: Default::default(),
        keys: Default::default(),
        cvm_key: edgeplex_intent::Keys { public: String::new(), secret: String::new() },
    }));
    let (_fabric, fabric) = watch::channel(None);
    let (_looks, looks) = mpsc::channel(1);
    let (state, _) = watch::channel(State::default());
    let mut reconciler = Reconciler::new(dir, runtime, switch, desired, fabric, looks, state);
    let mut failures = vec![];
    for vm in reconciler.runtime.list().await? {
        if let Err(e) = reconciler.remove(vm.id.as_str()).await {
            // The switch may be gone already; the VM must go all the same.
            failures.push(format!("{}: {e:#}", vm.id));
            reconciler.runtime.stop(&vm.id).await?;
        }
    }
    if let Ok(rules) = reconciler.switch.rules().await {
        reconciler.switch.apply(&Changes { add: vec![], remove: rules }).await?;
    }
    for f in failures {
        tracing::warn!("{f}");
    }
    Ok(())
}
