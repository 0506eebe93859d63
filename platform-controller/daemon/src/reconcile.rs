//! The reconciler: makes what is what should be. It never trusts what woke it; each pass looks at everything.
//!
//! A VM that fails is tried again after a growing pause and holds up no other.

use crate::{
    desired::Desired,
    fabric::Known,
    hosts::{Census, Fleet, Place},
    pauses::Pauses,
    placement::{Placement, Placements, State as Placed, Unit},
    specs::{Wanted, WantedVm, digest, wanted},
    switching::{Bundles, Fabricator},
    tending, vmlink,
    wiring::{Ground, Wiring},
};
use anyhow::Context;
use edgeplex_api::{Phase, Reconciler as Report};
use edgeplex_intent::{Observed, ObservedVm, Step, VmState as Life, plan};
use edgeplex_mgmt::show::{CvmQuery, Fabric, PvmQuery, Reloaded};
use edgeplex_runtime::{VmInfo, VmState};
use edgeplex_switch::{Changes, FabricModel, diff, rules};
use edgeplex_types::AttachmentId;
use futures::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

const PERIOD: Duration = Duration::from_secs(1);

/// What the API may know of the reconciler.
#[derive(Debug, Clone, Default)]
pub struct State {
    report: Report,
    /// Attachments whose rules are all in the switch.
    pub connected: BTreeSet<AttachmentId>,
    /// The desired state that the last pass saw: `settled` is said of it and of no later one.
    pub seen: Option<Arc<Desired>>,
}

impl State {
    /// The report, as it stands to `desired`.
    pub fn report(&self, desired: &Arc<Desired>) -> Report {
        let current = self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, desired));
        Report { settled: self.report.settled && current, ..self.report.clone() }
    }
}

/// A question to the reconciler: what is left to do?
pub type Look = oneshot::Sender<Vec<String>>;

/// What it works with.
#[derive(Debug)]
pub struct Parts {
    pub dir: PathBuf,
    pub fleet: Arc<Fleet>,
    /// For looking, and for ports.
    pub switch: Box<dyn Fabricator>,
    pub bundles: Bundles,
    pub placements: Arc<Placements>,
    pub desired: watch::Receiver<Arc<Desired>>,
    pub fabric: watch::Receiver<Option<Fabric>>,
    pub looks: mpsc::Receiver<Look>,
    pub state: watch::Sender<State>,
    /// What rules are made from, for whoever has to be faster than a pass.
    pub ground: watch::Sender<Option<Ground>>,
}

#[derive(Debug)]
pub struct Reconciler {
    pub(crate) parts: Parts,
    placed: watch::Receiver<Arc<Placed>>,
    memory: Memory,
}

/// What it remembers from one pass to the next; all of it can be learnt again.
#[derive(Debug, Default)]
struct Memory {
    known: Arc<Known>,
    /// The CVM has been heard since the daemon started: without it no rule can be called wrong.
    heard: bool,
    /// Digest of the configuration that each VM's daemon has taken.
    taken: BTreeMap<String, String>,
    pauses: Pauses,
}

/// What a pass has seen and would do.
#[derive(Debug)]
struct View {
    wanted: Wanted,
    /// Where each VM is that there is.
    found: BTreeMap<String, (String, VmInfo)>,
    steps: Vec<Step>,
    rules: Changes,
    /// Revision of the placements that `rules` are made of.
    revision: u64,
    connected: BTreeSet<AttachmentId>,
    waiting: Vec<String>,
    desired: Arc<Desired>,
}

impl Reconciler {
    pub fn new(parts: Parts) -> Self {
        let placed = parts.placements.watch();
        Self { parts, placed, memory: Memory::default() }
    }

    /// Runs until the API goes away.
    pub async fn run(mut self) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.pass().await,
                changed = self.parts.desired.changed() => match changed {
                    Ok(()) => self.pass().await,
                    Err(_) => return,
                },
                Ok(()) = self.parts.fabric.changed() => self.pass().await,
                Ok(()) = self.placed.changed() => {
                    // Whoever takes over at this moment needs the processor more; it will tell when it has.
                    if !self.placed.borrow_and_update().units.values().any(|p| takes_over(p)) {
                        self.pass().await;
                    }
                }
                look = self.parts.looks.recv() => match look {
                    Some(answer) => drop(answer.send(self.left_to_do().await)),
                    None => return,
                },
            }
        }
    }

    async fn left_to_do(&mut self) -> Vec<String> {
        match self.look().await {
            Ok(view) => view.steps.iter().map(ToString::to_string).chain(view.waiting).collect(),
            Err(e) => vec![format!("look again: {e:#}")],
        }
    }

    /// One pass: looks, acts until nothing is left or something fails, and reports.
    pub async fn pass(&mut self) {
        let mut changes = 0;
        let mut problems = vec![];
        let mut settled = false;
        let mut seen = None;
        let mut unsettled = BTreeSet::new();
        // Each round may uncover work that only it made possible: ports give numbers, numbers give rules.
        for _ in 0..4 {
            let view = match self.look().await {
                Ok(view) => view,
                Err(e) => {
                    problems.push(format!("{e:#}"));
                    break;
                }
            };
            let waiting = view.waiting.clone();
            seen = Some(view.desired.clone());
            // A VM with nothing left to do has overcome its problem, or is gone.
            unsettled = view.steps.iter().filter_map(|s| s.vm().map(ToOwned::to_owned)).collect();
            let connected = view.connected.clone();
            settled = view.steps.is_empty() && waiting.is_empty();
            self.parts.state.send_if_modified(|s| std::mem::replace(&mut s.connected, connected.clone()) != connected);
            if view.steps.is_empty() {
                problems.extend(waiting);
                break;
            }
            let (done, failed) = self.act(view).await;
            changes += done;
            let stuck = done == 0;
            if !failed.is_empty() || stuck {
                problems = failed;
                break;
            }
        }
        for p in &problems {
            tracing::warn!("{p}");
        }
        // What rests is a problem still, but no news for the log.
        self.memory.pauses.retain(|vm| unsettled.contains(vm));
        let resting: Vec<String> = self.memory.pauses.problems().filter(|p| !problems.contains(p)).cloned().collect();
        problems.extend(resting);
        if self.parts.state.borrow().report.passes == 0 || changes > 0 {
            tracing::info!("reconciled: {changes} changes{}", if settled { "" } else { ", not settled" });
        }
        self.parts.state.send_modify(|s| {
            s.seen = seen;
            let r = &mut s.report;
            (r.passes, r.changes, r.settled, r.problems) = (r.passes + 1, r.changes + changes, settled, problems);
        });
    }

    async fn look(&mut self) -> anyhow::Result<View> {
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

    pub(crate) fn place(&self, vm: &str, host: &str) -> anyhow::Result<Place> {
        Ok(Place { runtime: self.parts.fleet.at(host)?, vm: vm.parse()? })
    }

    pub(crate) async fn reload(&self, at: &Place, unit: Option<&Unit>) -> anyhow::Result<()> {
        let asked = match unit {
            // All that the label-switching router knows the CVM tells it; there is no daemon that reads its configuration.
            None => return Ok(()),
            Some(Unit::Cvm) => vmlink::ask::<_, Reloaded>(at, &CvmQuery::Reload, vmlink::PATIENCE).await,
            Some(Unit::Pvm(_)) => vmlink::ask::<_, Reloaded>(at, &PvmQuery::Reload, vmlink::PATIENCE).await,
        };
        asked.map(drop)
    }

    /// Carries out the steps of `view`; how many succeeded, and what did not. VMs are started side by side.
    async fn act(&mut self, view: View) -> (u64, Vec<String>) {
        let now = Instant::now();
        let (mut done, mut problems) = (0, vec![]);
        let View { wanted, found, rules, revision, .. } = view;
        let steps: Vec<Step> = view.steps.into_iter().filter(|s| s.vm().is_none_or(|vm| !self.memory.pauses.rests(vm, now))).collect();
        let mut broken = BTreeSet::new();
        let mut index = 0;
        while index < steps.len() {
            let step = &steps[index];
            let mut together = vec![step];
            // Those for which the CVM is ready are served side by side: a slow one must not hold up the others.
            if matches!(step, Step::Start { vm } | Step::Configure { vm } if wanted.specs.get(vm).is_none_or(|w| w.unit != Some(Unit::Cvm)))
            {
                let alike = |s: &&Step| std::mem::discriminant(*s) == std::mem::discriminant(step);
                together.extend(steps[index + 1..].iter().take_while(alike));
            }
            index += together.len();
            together.retain(|s| s.vm().is_none_or(|vm| !broken.contains(vm)));
            let results = match together.as_slice() {
                [] => continue,
                [Step::Start { .. } | Step::Configure { .. }, ..] => self.side_by_side(&together, &wanted).await,
                [other, ..] => {
                    let result = match other {
                        // Ports that came in this round have no rules in `rules` yet: the next round adds them.
                        Step::Rules { .. } => self.parts.bundles.apply(rules.clone(), revision).await,
                        other => self.take(other, &wanted, &found).await,
                    };
                    vec![(other.vm().map(ToOwned::to_owned), result)]
                }
            };
            for (vm, result) in results {
                match (result, vm) {
                    (Ok(()), vm) => {
                        done += 1;
                        vm.iter().for_each(|vm| self.memory.pauses.succeeded(vm));
                    }
                    (Err(e), Some(vm)) => {
                        let problem = format!("VM {vm}: {step}: {e:#}");
                        problems.push(problem.clone());
                        self.memory.pauses.failed(&vm, problem, Instant::now());
                        broken.insert(vm);
                    }
                    (Err(e), None) => problems.push(format!("{step}: {e:#}")),
                }
            }
        }
        (done, problems)
    }

    /// Starts or configures VMs, all at once. What a VM's daemon has taken is known afterwards.
    async fn side_by_side(&mut self, steps: &[&Step], wanted: &Wanted) -> Vec<(Option<String>, anyhow::Result<()>)> {
        let this = &*self;
        let one = async |step: &Step| {
            let vm = step.vm().unwrap_or_default();
            tracing::info!("{step}");
            let result = match wanted.specs.get(vm) {
                None => Err(anyhow::anyhow!("no such VM is wanted")),
                Some(want) if matches!(step, Step::Start { .. }) => this.start(want).await.map(|()| digest(&want.spec.config)),
                Some(want) => this.configure(want).await.map(|()| digest(&want.spec.config)),
            };
            (vm.to_owned(), result)
        };
        let mut results = vec![];
        for (vm, result) in join_all(steps.iter().map(|s| one(s))).await {
            self.memory.taken.remove(&vm);
            let result = result.map(|config| drop(self.memory.taken.insert(vm.clone(), config)));
            results.push((Some(vm), result));
        }
        results
    }

    async fn start(&self, want: &WantedVm) -> anyhow::Result<()> {
        let info = self.parts.fleet.at(&want.host)?.start(&want.spec).await?;
        tracing::info!("started VM {} on {}: pid {}, {:?}", want.spec.id, want.host, info.pid, info.timings);
        Ok(())
    }

    pub(crate) fn forget_taken(&mut self, vm: &str) {
        self.memory.taken.remove(vm);
    }

    async fn configure(&self, want: &WantedVm) -> anyhow::Result<()> {
        let at = Place { runtime: self.parts.fleet.at(&want.host)?, vm: want.spec.id.clone() };
        at.runtime.rewrite_config(&at.vm, &want.spec.config).await?;
        self.reload(&at, want.unit.as_ref()).await
    }

    async fn take(&mut self, step: &Step, wanted: &Wanted, found: &BTreeMap<String, (String, VmInfo)>) -> anyhow::Result<()> {
        tracing::info!("{step}");
        match step {
            Step::Remove { vm, .. } => {
                let (host, info) = found.get(vm).context("it is gone already")?;
                match wanted.specs.get(vm) {
                    Some(_) => self.remove(host, info).await,
                    None => self.remove_for_good(host, info).await,
                }
            }
            Step::Connect { ports, .. } => {
                for port in ports {
                    self.parts.switch.ensure_port(port).await?;
                }
                Ok(())
            }
            Step::Rules { .. } | Step::Start { .. } | Step::Configure { .. } => anyhow::bail!("{step}: is served elsewhere"),
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

fn takes_over(p: &Placement) -> bool {
    p.unfinished.as_ref().is_some_and(|m| (Phase::Fence..=Phase::Promote).contains(&m.phase))
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
