//! Looking: what is, what should be, and the steps between.

use super::Reconciler;
use crate::{
    desired::Desired,
    hosts::Census,
    placement::{Placement, State as Placed, Unit},
    specs::{Wanted, WantedVm, digest, wanted},
    tending,
    wiring::{Ground, Wiring},
};
use anyhow::Context;
use edgeplex_api::Phase;
use edgeplex_intent::{Observed, ObservedVm, Step, VmState as Life, plan};
use edgeplex_runtime::{VmInfo, VmState};
use edgeplex_switch::{Changes, FabricModel, diff, rules};
use edgeplex_types::AttachmentId;
use futures::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::time::Instant;

/// What a pass has seen and would do.
#[derive(Debug)]
pub(super) struct View {
    pub(super) wanted: Wanted,
    /// Where each VM is that there is.
    pub(super) found: BTreeMap<String, (String, VmInfo)>,
    pub(super) steps: Vec<Step>,
    pub(super) rules: Changes,
    /// Revision of the placements that `rules` are made of.
    pub(super) revision: u64,
    pub(super) connected: BTreeSet<AttachmentId>,
    pub(super) waiting: Vec<String>,
    pub(super) desired: Arc<Desired>,
}

impl Reconciler {
    pub(super) async fn look(&mut self) -> anyhow::Result<View> {
        let now = Instant::now();
        let desired = self.parts.desired.borrow_and_update().clone();
        if let Some(fabric) = self.parts.fabric.borrow_and_update().as_ref() {
            Arc::make_mut(&mut self.memory.known).learn(fabric, now);
            self.memory.heard = true;
        }
        Arc::make_mut(&mut self.memory.known).forget(|id| desired.keys.contains_key(id));
        self.parts.fleet.know(desired.intent.platform.as_ref().map_or(&[], |p| &p.hosts));
        let census = self.parts.fleet.census().await;
        tending::tend(&self.parts.placements, &self.parts.fleet, &desired, &census, &self.parts.dir).await?;
        let placed = self.placed.borrow_and_update().clone();
        let wanted = wanted(&desired, &placed, &self.parts.dir)?;
        self.memory.taken.retain(|id, _| census.vms.iter().any(|(_, vm)| vm.id.as_str() == id));
        let ports = Arc::new(self.parts.switch.ports().await.context("switch")?);
        let mut observed = Observed { ports: ports.keys().cloned().collect(), ..Observed::default() };
        self.confirm(&census, &wanted).await;
        let mut vms = wanted.vms.clone();
        observed.vms = census.vms.iter().map(|(_, vm)| (vm.id.to_string(), self.observe(vm, &wanted))).collect();
        for (id, vm) in &wanted.specs {
            if census.silent.contains_key(&vm.host) || in_hand(id, vm, &placed, &census) {
                // Nobody can say how it is, or somebody else sees to it.
                vms.vms.remove(id);
                observed.vms.remove(id);
            }
        }
        let ground = Ground { desired: desired.clone(), known: self.memory.known.clone(), ports };
        let wiring = Wiring { ground: &ground, placed: &placed, dir: &self.parts.dir };
        let has_platform = desired.intent.platform.is_some();
        let mut waiting: Vec<String> = census.silent.iter().map(|(host, e)| format!("host {host}: {e}")).collect();
        let deaf = has_platform && !self.memory.heard;
        let model = wiring.model();
        let changes = if deaf {
            waiting.push("wait for the CVM to say its labels and neighbours".into());
            Changes::default()
        } else {
            let target = if has_platform { rules(&model) } else { vec![] };
            diff(&target, &self.parts.switch.rules().await.context("switch")?)
        };
        observed.rules = changes.len();
        let connected = if has_platform && !deaf && changes.is_empty() { connected(&wiring, &model) } else { BTreeSet::new() };
        let mut steps = plan(&vms, &observed);
        if deaf {
            // Whatever the plan thinks of rules, it cannot know yet.
            steps.retain(|s| !matches!(s, Step::Rules { .. }));
        } else if changes.is_empty() {
            steps.retain(|s| !matches!(s, Step::Rules { changes: 0 }));
        }
        self.parts.ground.send_replace((!deaf).then_some(ground));
        let found = census.vms.into_iter().map(|(host, vm)| (vm.id.to_string(), (host, vm))).collect();
        Ok(View { wanted, found, steps, rules: changes, revision: placed.revision, connected, waiting, desired })
    }

    /// A daemon whose file is right already, but of which we do not know that it has read it (this process is new), is asked to
    /// read it again: that disturbs nothing. All are asked at once; one that is silent rests before it is asked again.
    async fn confirm(&mut self, census: &Census, wanted: &Wanted) {
        let now = Instant::now();
        let unsure = census.vms.iter().filter_map(|(_, vm)| {
            let id = vm.id.as_str();
            let config = wanted.vms.vms.get(id)?.config.clone();
            let asked = vm.state == VmState::Running && !self.memory.taken.contains_key(id) && !self.memory.pauses.rests(id, now);
            asked.then(|| (id.to_owned(), config))
        });
        let this = &*self;
        let ask = async |(id, config): (String, String)| {
            let Some(want) = wanted.specs.get(&id) else { return Ok(None) };
            let place = this.place(&id, &want.host)?;
            let file = place.runtime.config(&place.vm).await?;
            if file.is_none_or(|f| digest(&f) != config) {
                return Ok(None);
            }
            this.reload(&place, want.unit.as_ref()).await.map(|()| Some(config))
        };
        let answers = join_all(unsure.map(async |(id, config)| (ask((id.clone(), config)).await, id))).await;
        for (answer, id) in answers {
            match answer {
                Ok(None) => {}
                Ok(Some(config)) => drop(self.memory.taken.insert(id, config)),
                Err(e) => self.memory.pauses.failed(&id, format!("VM {id}: {e:#}"), Instant::now()),
            }
        }
    }

    /// A VM as it is.
    fn observe(&self, vm: &VmInfo, wanted: &Wanted) -> ObservedVm {
        let id = vm.id.as_str();
        let own = |want: &WantedVm| want.spec.nics.iter().filter(|n| n.tag.is_none()).map(|n| n.host_name.clone()).collect();
        ObservedVm {
            state: if vm.state == VmState::Dead { Life::Dead } else { Life::Alive },
            spec: vm.spec_hash.clone(),
            config: self.memory.taken.get(id).cloned(),
            ports: wanted.specs.get(id).map(own).unwrap_or_default(),
        }
    }
}

/// Whether the engine of its unit sees to this VM: it is dead and will be replaced, or is being replaced, or is to take over just now.
fn in_hand(id: &str, vm: &WantedVm, placed: &Placed, census: &Census) -> bool {
    let Some((unit, p)) = vm.unit.as_ref().and_then(|u| Some((u, placed.units.get(u)?))) else { return false };
    let dead = census.find(&vm.host, id).is_none_or(|i| i.state == VmState::Dead);
    let is = |number: u64| unit.vm(number) == id;
    match &p.unfinished {
        None => is(p.active.number) && dead && p.standby.is_some() && census.find(&vm.host, id).is_some(),
        Some(m) if is(m.from.number) => dead || m.is_decided(),
        Some(m) if is(m.to.number) => dead && matches!(m.phase, Phase::Switch | Phase::Promote),
        Some(_) => false,
    }
}

/// Attachments to whose labels the switch leads.
fn connected(wiring: &Wiring<'_>, model: &FabricModel) -> BTreeSet<AttachmentId> {
    let labelled = |core: &edgeplex_switch::Port| model.attachments.iter().any(|a| !a.labels.is_empty() && a.vnics.core == *core);
    let of = |(unit, p): (&Unit, &Arc<Placement>)| match unit {
        Unit::Pvm(id) => wiring.vnics(unit, &p.active).filter(|v| labelled(&v.core)).map(|_| id.clone()),
        Unit::Cvm => None,
    };
    wiring.placed.units.iter().filter_map(of).collect()
}
