//! The reconciler: makes what is what should be. It never trusts what woke it; each pass looks at everything.
//!
//! A VM that fails is tried again after a growing pause and holds up no other.

use crate::{
    desired::Desired,
    fabric::{Known, model},
    pauses::Pauses,
    specs::{CORE, CVM, LSR, Wanted, digest, vm_of, wanted},
    switching::Fabricator,
    vmlink,
};
use anyhow::Context;
use edgeplex_api::Reconciler as Report;
use edgeplex_intent::{Observed, ObservedVm, Step, VmState as Life, plan};
use edgeplex_mgmt::{
    CONFIG_FILE,
    show::{CvmQuery, Fabric, PvmQuery, Reloaded},
};
use edgeplex_runtime::{Runtime, VmId, VmInfo, VmSpec, VmState, host_nic_name};
use edgeplex_switch::{Changes, PortNo, diff, rules};
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

#[derive(Debug)]
pub struct Reconciler {
    pub dir: PathBuf,
    pub runtime: Arc<dyn Runtime>,
    pub switch: Box<dyn Fabricator>,
    pub desired: watch::Receiver<Arc<Desired>>,
    pub fabric: watch::Receiver<Option<Fabric>>,
    pub looks: mpsc::Receiver<Look>,
    pub state: watch::Sender<State>,
    memory: Memory,
}

/// What it remembers from one pass to the next; all of it can be learnt again.
#[derive(Debug, Default)]
struct Memory {
    known: Known,
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
    steps: Vec<Step>,
    rules: Changes,
    connected: BTreeSet<AttachmentId>,
    waiting: Option<&'static str>,
    desired: Arc<Desired>,
}

impl Reconciler {
    pub fn new(
        dir: PathBuf,
        runtime: Arc<dyn Runtime>,
        switch: Box<dyn Fabricator>,
        desired: watch::Receiver<Arc<Desired>>,
        fabric: watch::Receiver<Option<Fabric>>,
        looks: mpsc::Receiver<Look>,
        state: watch::Sender<State>,
    ) -> Self {
        Self { dir, runtime, switch, desired, fabric, looks, state, memory: Memory::default() }
    }

    /// Runs until the API goes away.
    pub async fn run(mut self) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.pass().await,
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.pass().await,
                    Err(_) => return,
                },
                Ok(()) = self.fabric.changed() => self.pass().await,
                look = self.looks.recv() => match look {
                    Some(answer) => drop(answer.send(self.left_to_do().await)),
                    None => return,
                },
            }
        }
    }

    async fn left_to_do(&mut self) -> Vec<String> {
        match self.look().await {
            Ok(view) => view.steps.iter().map(ToString::to_string).chain(view.waiting.map(ToOwned::to_owned)).collect(),
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
            let waiting = view.waiting;
            seen = Some(view.desired.clone());
            // A VM with nothing left to do has overcome its problem, or is gone.
            unsettled = view.steps.iter().filter_map(|s| s.vm().map(ToOwned::to_owned)).collect();
            let connected = view.connected.clone();
            settled = view.steps.is_empty() && waiting.is_none();
            self.state.send_if_modified(|s| std::mem::replace(&mut s.connected, connected.clone()) != connected);
            if view.steps.is_empty() {
                problems.extend(waiting.map(ToOwned::to_owned));
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
        if self.state.borrow().report.passes == 0 || changes > 0 {
            tracing::info!("reconciled: {changes} changes{}", if settled { "" } else { ", not settled" });
        }
        self.state.send_modify(|s| {
            s.seen = seen;
            let r = &mut s.report;
            (r.passes, r.changes, r.settled, r.problems) = (r.passes + 1, r.changes + changes, settled, problems);
        });
    }

    async fn look(&mut self) -> anyhow::Result<View> {
        let now = Instant::now();
        let desired = self.desired.borrow_and_update().clone();
        if let Some(fabric) = self.fabric.borrow_and_update().as_ref() {
            self.memory.known.learn(fabric, now);
            self.memory.heard = true;
        }
        self.memory.known.forget(|id| desired.keys.contains_key(id));
        let wanted = wanted(&desired, &self.dir)?;
        let vms = self.runtime.list().await?;
        self.memory.taken.retain(|id, _| vms.iter().any(|vm| vm.id.as_str() == id));
        let ports = self.switch.ports().await.context("switch")?;
        let mut observed = Observed { ports: ports.keys().cloned().collect(), ..Observed::default() };
        self.confirm(&vms, &wanted).await;
        observed.vms = vms.iter().map(|vm| (vm.id.to_string(), self.observe(vm, &wanted))).collect();
        let (target, waiting) = match &desired.intent.platform {
            None => (vec![], None),
            Some(_) if !self.memory.heard => (vec![], Some("wait for the CVM to say its labels and neighbours")),
            Some(p) => (rules(&model(&desired, p, &self.memory.known, &ports, &self.dir)), None),
        };
        let changes = if waiting.is_some() { Changes::default() } else { diff(&target, &self.switch.rules().await.context("switch")?) };
        observed.rules = changes.len();
        let connected = match &desired.intent.platform {
            Some(p) if changes.is_empty() && waiting.is_none() => {
                let model = model(&desired, p, &self.memory.known, &ports, &self.dir);
                let labelled: BTreeSet<PortNo> = model.attachments.iter().filter(|a| !a.labels.is_empty()).map(|a| a.core).collect();
                let core_port = |id: &AttachmentId| ports.get(&host_nic_name(&self.dir, &vm_of(id).parse().ok()?, CORE));
                desired.keys.keys().filter(|id| core_port(id).is_some_and(|p| labelled.contains(p))).cloned().collect()
            }
            _ => BTreeSet::new(),
        };
        let mut steps = plan(&wanted.vms, &observed);
        if waiting.is_some() {
            // Whatever the plan thinks of rules, it cannot know yet.
            steps.retain(|s| !matches!(s, Step::Rules { .. }));
        } else if changes.is_empty() {
            steps.retain(|s| !matches!(s, Step::Rules { changes: 0 }));
        }
        Ok(View { wanted, steps, rules: changes, connected, waiting, desired })
    }

    /// A daemon whose file is right already, but of which we do not know that it has read it (this process is new), is asked to
    /// read it again: that disturbs nothing. All are asked at once; one that is silent rests before it is asked again.
    async fn confirm(&mut self, vms: &[VmInfo], wanted: &Wanted) {
        let now = Instant::now();
        let unsure = vms.iter().filter_map(|vm| {
            let id = vm.id.as_str();
            let want = wanted.vms.vms.get(id)?;
            let asked = vm.state == VmState::Running && !self.memory.taken.contains_key(id) && !self.memory.pauses.rests(id, now);
            (asked && self.file_digest(&vm.id).as_deref() == Some(&want.config)).then(|| (id.to_owned(), want.config.clone()))
        });
        let this = &*self;
        let answers = join_all(unsure.map(async |(id, config)| (this.reload(&id).await, id, config))).await;
        for (answer, id, config) in answers {
            match answer {
                Ok(()) => drop(self.memory.taken.insert(id, config)),
                Err(e) => self.memory.pauses.failed(&id, format!("VM {id}: {e:#}"), Instant::now()),
            }
        }
    }

    /// A VM as it is.
    fn observe(&self, vm: &VmInfo, wanted: &Wanted) -> ObservedVm {
        let id = vm.id.as_str();
        ObservedVm {
            state: if vm.state == VmState::Dead { Life::Dead } else { Life::Alive },
            spec: vm.spec_hash.clone(),
            config: self.memory.taken.get(id).cloned(),
            ports: wanted.specs.get(id).map(|s| s.nics.iter().map(|n| n.host_name.clone()).collect()).unwrap_or_default(),
        }
    }

    fn file_digest(&self, id: &VmId) -> Option<String> {
        let path = self.dir.join("vms").join(id.as_str()).join("etc").join(CONFIG_FILE);
        Some(digest(&std::fs::read(path).ok()?))
    }

    pub(crate) async fn reload(&self, id: &str) -> anyhow::Result<()> {
        if id == LSR {
            // All that it knows the CVM tells it; there is no daemon that reads its configuration.
            return Ok(());
        }
        let run = vmlink::run_dir(&*self.runtime, id).await?;
        let asked = if id == CVM {
            vmlink::ask::<_, Reloaded>(&run, &CvmQuery::Reload, vmlink::PATIENCE).await
        } else {
            vmlink::ask::<_, Reloaded>(&run, &PvmQuery::Reload, vmlink::PATIENCE).await
        };
        asked.map(drop)
    }

    /// Carries out the steps of `view`; how many succeeded, and what did not. VMs are started side by side.
    async fn act(&mut self, view: View) -> (u64, Vec<String>) {
        let now = Instant::now();
        let (mut done, mut problems) = (0, vec![]);
        let steps: Vec<Step> = view.steps.into_iter().filter(|s| s.vm().is_none_or(|vm| !self.memory.pauses.rests(vm, now))).collect();
        let mut broken = BTreeSet::new();
        let mut index = 0;
        while index < steps.len() {
            let step = &steps[index];
            let mut together = vec![step];
            // Those for which the CVM is ready are served side by side: a slow one must not hold up the others.
            if matches!(step, Step::Start { vm } | Step::Configure { vm } if vm != CVM) {
                let alike = |s: &&Step| std::mem::discriminant(*s) == std::mem::discriminant(step);
                together.extend(steps[index + 1..].iter().take_while(alike));
            }
            index += together.len();
            together.retain(|s| s.vm().is_none_or(|vm| !broken.contains(vm)));
            let results = match together.as_slice() {
                [] => continue,
                [Step::Start { .. } | Step::Configure { .. }, ..] => self.side_by_side(&together, &view.wanted).await,
                [other, ..] => vec![(other.vm().map(ToOwned::to_owned), self.take(other, &view.wanted, &view.rules).await)],
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
                Some(spec) if matches!(step, Step::Start { .. }) => this.start(spec).await.map(|()| digest(&spec.config)),
                Some(spec) => this.configure(spec).await.map(|()| digest(&spec.config)),
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

    async fn start(&self, spec: &VmSpec) -> anyhow::Result<()> {
        let info = self.runtime.start(spec).await?;
        tracing::info!("started VM {}: pid {}, {:?}", spec.id, info.pid, info.timings);
        Ok(())
    }

    pub(crate) fn forget_taken(&mut self, vm: &str) {
        self.memory.taken.remove(vm);
    }

    async fn configure(&self, spec: &VmSpec) -> anyhow::Result<()> {
        self.runtime.rewrite_config(&spec.id, &spec.config).await?;
        self.reload(spec.id.as_str()).await
    }

    async fn take(&mut self, step: &Step, wanted: &Wanted, rules: &Changes) -> anyhow::Result<()> {
        tracing::info!("{step}");
        match step {
            Step::Remove { vm, .. } => {
                let for_good = !wanted.specs.contains_key(vm);
                if for_good {
                    self.say_goodbye(vm).await;
                }
                self.remove(vm).await?;
                if for_good {
                    self.runtime.forget(&vm.parse()?).await?;
                }
                Ok(())
            }
            Step::Connect { ports, .. } => {
                for port in ports {
                    self.switch.ensure_port(port).await?;
                }
                Ok(())
            }
            // Ports that came in this round have no rules in `rules` yet: the next round adds them.
            Step::Rules { .. } => self.switch.apply(rules).await,
            Step::Start { vm } | Step::Configure { vm } => anyhow::bail!("VM {vm} is served elsewhere"),
        }
    }
}
