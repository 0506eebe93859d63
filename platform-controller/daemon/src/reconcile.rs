//! The reconciler: makes what is what should be. It never trusts what woke it; each pass looks at everything.
//!
//! A VM that fails is tried again after a growing pause and holds up no other.

use crate::{
    desired::Desired,
    fabric::{Known, model},
    specs::{CVM, Wanted, digest, wanted},
    vmlink,
};
use anyhow::Context;
use edgeplex_api::Reconciler as Report;
use edgeplex_intent::{Observed, ObservedVm, Step, VmState as Life, plan};
use edgeplex_mgmt::{
    CONFIG_FILE,
    config::PvmConfig,
    show::{CvmQuery, Fabric, PvmQuery, Reloaded},
};
use edgeplex_runtime::{Runtime, VmId, VmInfo, VmSpec, VmState, host_nic_name};
use edgeplex_switch::{Changes, PortNo, Rule, Switch, diff, rules};
use edgeplex_types::AttachmentId;
use futures::future::{BoxFuture, join_all};
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

/// More core ports than any platform has; a VM's ports are found again by the names that its vNICs can have.
const MAX_CORE: usize = 256;
const PERIOD: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The switch as the reconciler needs it; [`edgeplex_switch::Switch`] behind a reconnecting wrapper, or a fake.
pub trait Fabricator: Send + Sync + std::fmt::Debug {
    fn ports(&mut self) -> BoxFuture<'_, anyhow::Result<BTreeMap<String, PortNo>>>;
    fn rules(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Rule>>>;
    fn ensure_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
    fn remove_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
    fn apply<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// Open vSwitch, connected to anew when a connection has failed.
#[derive(Debug)]
pub struct OpenVSwitch {
    pub run_dir: PathBuf,
    pub bridge: String,
    pub connection: Option<Switch>,
}

impl OpenVSwitch {
    async fn with<T>(&mut self, act: impl AsyncFnOnce(&mut Switch) -> Result<T, edgeplex_switch::SwitchError>) -> anyhow::Result<T> {
        let mut switch = match self.connection.take() {
            Some(s) => s,
            None => Switch::connect(&self.run_dir, &self.bridge).await?,
        };
        let result = act(&mut switch).await?;
        self.connection = Some(switch);
        Ok(result)
    }
}

impl Fabricator for OpenVSwitch {
    fn ports(&mut self) -> BoxFuture<'_, anyhow::Result<BTreeMap<String, PortNo>>> {
        Box::pin(self.with(async |s| s.ports().await))
    }
    fn rules(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Rule>>> {
        Box::pin(self.with(async |s| s.rules().await))
    }
    fn ensure_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.with(async move |s| s.ensure_port(name).await.map(drop)))
    }
    fn remove_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.with(async move |s| s.remove_port(name).await))
    }
    fn apply<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.with(async move |s| s.apply(changes).await))
    }
}

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
    /// VMs for which something failed: what, how long they rest now, and until when.
    pauses: BTreeMap<String, Pause>,
}

impl Memory {
    fn rests(&self, vm: &str, now: Instant) -> bool {
        self.pauses.get(vm).is_some_and(|p| p.until > now)
    }

    /// After a failure a VM rests, each time twice as long.
    fn rest(&mut self, vm: &str, problem: String) {
        let length = self.pauses.get(vm).map_or(FIRST_PAUSE, |p| (p.length * 2).min(LONGEST_PAUSE));
        self.pauses.insert(vm.to_owned(), Pause { problem, length, until: Instant::now() + length });
    }
}

#[derive(Debug)]
struct Pause {
    problem: String,
    length: Duration,
    until: Instant,
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
        self.memory.pauses.retain(|vm, _| unsettled.contains(vm));
        let resting: Vec<String> = self.memory.pauses.values().map(|p| p.problem.clone()).filter(|p| !problems.contains(p)).collect();
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
                let labelled: BTreeSet<PortNo> = model.attachments.iter().filter(|a| a.label.is_some()).map(|a| a.core).collect();
                let core_port =
                    |id: &AttachmentId| ports.get(&host_nic_name(&self.dir, &crate::specs::vm_of(id).parse().ok()?, crate::specs::CORE));
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
            let asked = vm.state == VmState::Running && !self.memory.taken.contains_key(id) && !self.memory.rests(id, now);
            (asked && self.file_digest(&vm.id).as_deref() == Some(&want.config)).then(|| (id.to_owned(), want.config.clone()))
        });
        let this = &*self;
        let answers = join_all(unsure.map(async |(id, config)| (this.reload(&id).await, id, config))).await;
        for (answer, id, config) in answers {
            match answer {
                Ok(()) => drop(self.memory.taken.insert(id, config)),
                Err(e) => self.memory.rest(&id, format!("VM {id}: {e:#}")),
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

    async fn reload(&self, id: &str) -> anyhow::Result<()> {
        let run = self.runtime.vm_run_dir(&id.parse()?);
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
        let steps: Vec<Step> = view.steps.into_iter().filter(|s| s.vm().is_none_or(|vm| !self.memory.rests(vm, now))).collect();
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
                        vm.map(|vm| self.memory.pauses.remove(&vm));
                    }
                    (Err(e), Some(vm)) => {
                        let problem = format!("VM {vm}: {step}: {e:#}");
                        problems.push(problem.clone());
                        self.memory.rest(&vm, problem);
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

    /// An attachment that is gone for good ends its customer's session with a NOTIFICATION (Cease/Peer De-configured,
    /// RFC 4486): a VM that just stops looks like a restart, and the customer's router would keep our routes for minutes.
    /// Best effort: a PVM that does not listen is stopped all the same.
    async fn say_goodbye(&self, vm: &str) {
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
    async fn remove(&mut self, vm: &str) -> anyhow::Result<()> {
        let id: VmId = vm.parse()?;
        let ports = self.switch.ports().await?;
        let own: BTreeMap<String, PortNo> = [crate::specs::CUST, crate::specs::CORE]
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
        self.memory.taken.remove(vm);
        Ok(())
    }
}

/// Whether a rule takes from or sends to one of these ports.
fn touches(rule: &Rule, ports: &BTreeSet<PortNo>) -> bool {
    let to = |a: &edgeplex_switch::Action| matches!(a, edgeplex_switch::Action::Output(p) if ports.contains(p));
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
