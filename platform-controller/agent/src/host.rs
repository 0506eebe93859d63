//! The agent's host: a sandbox runtime, and a bridge that carries its vNICs to the controller's switch.
//!
//! One task owns the bridge. It looks at everything each time, as the controller's reconciler does: rules that somebody took away, an
//! Open vSwitch that restarted, VMs of an earlier agent are all the same to it.

use crate::{AgentError, wire::Spec};
use edgeplex_runtime::{Runtime, Sandbox, SandboxConfig, VmId, VmInfo, VmSpec, VmState};
use edgeplex_switch::{Changes, PortNo, Switch, SwitchError, diff, extender};
use edgeplex_types::VlanId;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Between two looks at the bridge when nothing has happened.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct HostConfig {
    pub dir: PathBuf,
    /// Has `edgeplex-init` and the daemons.
    pub bin_dir: PathBuf,
    /// Run directory of Open vSwitch.
    pub ovs_run_dir: PathBuf,
    pub bridge: String,
    /// The bridge's port to the controller's switch.
    pub uplink: String,
}

/// What is done on this host.
#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
    sandbox: Arc<Sandbox>,
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    /// Make ports and rules those of the VMs that there are.
    Settle(oneshot::Sender<Result<(), AgentError>>),
    /// That VM is about to go: its ports are taken off while they still work.
    Leave { vm: VmInfo, done: oneshot::Sender<Result<(), AgentError>> },
}

impl Host {
    /// Finds the VMs of an earlier agent and goes on with them.
    pub async fn open(config: HostConfig) -> Result<Self, AgentError> {
        let sandbox = Sandbox::open(SandboxConfig { dir: config.dir.clone(), bin_dir: config.bin_dir.clone() }).await?;
        let dir = config.dir.canonicalize().map_err(AgentError::io(config.dir.display().to_string()))?;
        let sandbox = Arc::new(sandbox);
        let (orders, received) = mpsc::channel(64);
        let bridge = Bridge { config, sandbox: sandbox.clone(), switch: None, leaving: BTreeSet::new() };
        tokio::spawn(bridge.run(received));
        Ok(Self { dir, sandbox, orders })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<Result<(), AgentError>>) -> Order) -> Result<(), AgentError> {
        let (done, answer) = oneshot::channel();
        let gone = || AgentError::Refused("the bridge's task has ended".into());
        self.orders.send(order(done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Starts a VM and connects it. Leaves nothing behind if that fails.
    pub(crate) async fn start(&self, spec: Spec) -> Result<VmInfo, AgentError> {
        let spec = spec.on(&self.dir)?;
        self.check_tags(&spec).await?;
        let vm = self.sandbox.start(&spec).await?;
        if let Err(e) = self.order(Order::Settle).await {
            self.sandbox.stop(&spec.id).await?;
            return Err(e);
        }
        Ok(vm)
    }

    /// A tag means one vNIC: with two, packets of one VM would go to another.
    async fn check_tags(&self, spec: &VmSpec) -> Result<(), AgentError> {
        let mut taken = BTreeMap::new();
        for vm in self.sandbox.list().await?.iter().filter(|vm| vm.state != VmState::Dead && vm.id != spec.id) {
            taken.extend(vm.nics.iter().filter_map(|n| Some((n.tag?, vm.id.clone()))));
        }
        for tag in spec.nics.iter().filter_map(|n| n.tag) {
            if let Some(owner) = taken.insert(tag, spec.id.clone()) {
                return Err(AgentError::Refused(format!("tag {tag} is already that of a vNIC of VM {owner}")));
            }
        }
        Ok(())
    }

    pub(crate) async fn stop(&self, id: &VmId) -> Result<(), AgentError> {
        let Some(vm) = self.sandbox.inspect(id).await? else { return Ok(()) };
        let left = self.order(|done| Order::Leave { vm, done }).await;
        self.sandbox.stop(id).await?;
        left
    }
}

/// The task's own.
struct Bridge {
    config: HostConfig,
    sandbox: Arc<Sandbox>,
    /// Connected to anew after a failure.
    switch: Option<Switch>,
    /// VMs that are being stopped. By their first process too: one that is made anew has the name of the one before it.
    leaving: BTreeSet<(VmId, u32)>,
}

/// vNICs that belong on the bridge, with their tags; forgets VMs that have gone.
fn connected(vms: &[VmInfo], leaving: &mut BTreeSet<(VmId, u32)>) -> Vec<(String, VlanId)> {
    leaving.retain(|(id, pid)| vms.iter().any(|vm| vm.id == *id && vm.pid == *pid));
    let here = vms.iter().filter(|vm| vm.state != VmState::Dead && !leaving.contains(&(vm.id.clone(), vm.pid)));
    here.flat_map(|vm| &vm.nics).filter_map(|n| Some((n.host_name.clone(), n.tag?))).collect()
}

impl Bridge {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = String::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    // Whoever asked may have gone.
                    Some(Order::Settle(done)) => drop(done.send(self.settle().await)),
                    Some(Order::Leave { vm, done }) => drop(done.send(self.leave(vm).await)),
                    None => return,
                },
                _ = tick.tick() => {
                    let said = self.settle().await.err().map(|e| e.to_string()).unwrap_or_default();
                    if said != last && !said.is_empty() {
                        tracing::warn!("bridge {}: {said}", self.config.bridge);
                    }
                    last = said;
                }
            }
        }
    }

    async fn with<T>(&mut self, act: impl AsyncFnOnce(&mut Switch) -> Result<T, SwitchError>) -> Result<T, AgentError> {
        let mut switch = match self.switch.take() {
            Some(s) => s,
            None => Switch::connect(&self.config.ovs_run_dir, &self.config.bridge).await?,
        };
        let result = act(&mut switch).await?;
        self.switch = Some(switch);
        Ok(result)
    }

    async fn settle(&mut self) -> Result<(), AgentError> {
        let vms = self.sandbox.list().await?;
        let tagged = connected(&vms, &mut self.leaving);
        let uplink = self.config.uplink.clone();
        self.with(async move |s| {
            let names: Vec<&str> = tagged.iter().map(|(name, _)| name.as_str()).chain([uplink.as_str()]).collect();
            let working = s.ports().await?;
            let numbers = if names.iter().all(|n| working.contains_key(*n)) { working } else { s.ensure_ports(&names).await? };
            let number = |name: &str| numbers.get(name).copied();
            let vnics: Vec<(PortNo, VlanId)> = tagged.iter().filter_map(|(name, tag)| Some((number(name)?, *tag))).collect();
            let wanted = number(&uplink).map(|u| extender(u, &vnics)).unwrap_or_default();
            let changes = diff(&wanted, &s.rules().await?);
            if !changes.is_empty() {
                tracing::info!("{} changes to the rules", changes.len());
            }
            s.apply(&changes).await
        })
        .await
    }

    async fn leave(&mut self, vm: VmInfo) -> Result<(), AgentError> {
        self.leaving.insert((vm.id.clone(), vm.pid));
        let names: Vec<String> = vm.nics.into_iter().map(|n| n.host_name).collect();
        self.with(async move |s| {
            let ports = s.ports().await?;
            let own: BTreeSet<PortNo> = names.iter().filter_map(|n| ports.get(n).copied()).collect();
            let remove = s.rules().await?.into_iter().filter(|r| own.iter().any(|p| r.touches((*p).into()))).collect();
            s.apply(&Changes { add: vec![], remove }).await?;
            for name in &names {
                s.remove_port(name).await?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_runtime::{VmKind, VmNic};

    #[test]
    fn a_vm_made_anew_is_connected_though_the_one_before_it_left() {
        let vm = |pid, state| VmInfo {
            id: "pvm-acme-main-g2".parse().unwrap(),
            kind: VmKind::Pvm,
            pid,
            state,
            spec_hash: String::new(),
            template: String::new(),
            image: None,
            nics: vec![VmNic { host_name: "ep1".into(), tag: Some(VlanId::try_from(2).unwrap()) }],
            timings: vec![],
        };
        let mut leaving = BTreeSet::from([(vm(7, VmState::Dead).id, 7)]);
        assert!(connected(&[vm(7, VmState::Running)], &mut leaving).is_empty(), "it is being stopped");
        // Nobody looked between the end of the one and the start of the other.
        assert_eq!(connected(&[vm(8, VmState::Running)], &mut leaving).len(), 1);
        assert!(leaving.is_empty());
    }
}
