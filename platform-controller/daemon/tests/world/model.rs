//! A model of VMs, their daemons, the switch and the reconciler, in which anything can be made to die between any two steps.

use edgeplex_api::Phase;
use edgeplex_ff_fib_api::{Count, Counters};
use edgeplex_mgmt::show::{InstanceOrder, InstanceState, InstanceStatus};
use edgeplexd::{
    moves::{Death, World},
    placement::{Instance, Placement, Placements, Unit},
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Nobody,
    Controller,
    Old,
    New,
    /// The connection to the switch, for a while.
    Switch,
    /// The link that the new one follows by, for a while.
    Link,
    /// Does what it is told, but says so only after a while: its host is busy.
    OldIsSlow,
    NewIsSlow,
}

/// At the engine's n-th step, before it has happened or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct When {
    pub(crate) step: usize,
    pub(crate) after: bool,
}

/// A VM and its daemon.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) alive: bool,
    pub(crate) active: bool,
    pub(crate) fenced_until: Option<Instant>,
    pub(crate) generation: u64,
    /// It has the sessions as they are: they were begun here, or followed to the end.
    pub(crate) sessions: bool,
    /// A follower's: linked for this long.
    linked: Option<Instant>,
    pub(crate) packets: u64,
}

impl Vm {
    fn new(active: bool, generation: u64) -> Self {
        Self { alive: true, active, fenced_until: None, generation, sessions: false, linked: None, packets: 0 }
    }

    /// It would send to neighbours if it could.
    pub(crate) fn speaks(&self) -> bool {
        self.alive && self.active && self.fenced_until.is_none_or(|until| until <= Instant::now())
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) vms: BTreeMap<u64, Vm>,
    /// To whom the rules lead, and who has a way out besides.
    pub(crate) led: Option<u64>,
    pub(crate) outlets: Vec<u64>,
    switch_back: Option<Instant>,
    link_back: Option<Instant>,
    /// Answers of that one come then.
    slow: Option<(u64, Instant)>,
    steps: usize,
    armed: bool,
    fault: Option<(Fault, When)>,
    pub(crate) broken: Vec<String>,
    /// Packets that somebody took.
    pub(crate) passed: u64,
}

impl Inner {
    pub(crate) fn taken(&self) -> usize {
        self.steps
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    inner: Arc<Mutex<Inner>>,
    placements: Arc<Placements>,
    /// Set when the controller is to die.
    pub(crate) killed: watch::Sender<bool>,
    changed: watch::Sender<u64>,
    /// What is hit by the fault: the old and the new one of the move.
    pub(crate) old: u64,
    pub(crate) new: Arc<Mutex<u64>>,
}

/// How long a switch or a link is away.
const AWAY: Duration = Duration::from_millis(400);
/// A follower is in step some time after it was linked.
const FOLLOW: Duration = Duration::from_millis(20);

impl Model {
    pub(crate) fn new(placements: Arc<Placements>, fault: Fault, when: When) -> Self {
        let first = Vm { sessions: true, ..Vm::new(true, 1) };
        let inner = Inner {
            vms: BTreeMap::from([(1, first)]),
            led: Some(1),
            outlets: vec![1],
            switch_back: None,
            link_back: None,
            slow: None,
            steps: 0,
            armed: false,
            fault: Some((fault, when)),
            broken: vec![],
            passed: 0,
        };
        let inner = Arc::new(Mutex::new(inner));
        Self { inner, placements, killed: watch::Sender::new(false), changed: watch::Sender::new(0), old: 1, new: Arc::new(Mutex::new(0)) }
    }

    /// The same world under a controller that was started again.
    pub(crate) fn again(&self, placements: Arc<Placements>) -> Self {
        Self { placements, killed: watch::Sender::new(false), ..self.clone() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// From here on steps are counted.
    pub(crate) fn arm(&self) {
        self.lock().armed = true;
    }

    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn strike(&self, fault: Fault) {
        let victim = match fault {
            Fault::Old => Some(self.old),
            Fault::New => Some(*self.new.lock().unwrap()),
            _ => None,
        };
        {
            let mut w = self.lock();
            match fault {
                Fault::Switch => w.switch_back = Some(Instant::now() + AWAY),
                Fault::Link => w.link_back = Some(Instant::now() + AWAY),
                Fault::OldIsSlow => w.slow = Some((self.old, Instant::now() + AWAY)),
                Fault::NewIsSlow => w.slow = Some((*self.new.lock().unwrap(), Instant::now() + AWAY)),
                _ => {}
            }
            if let Some(vm) = victim.and_then(|n| w.vms.get_mut(&n)) {
                vm.alive = false;
                vm.sessions &= vm.active;
            }
        }
        if fault == Fault::Controller {
            self.killed.send_replace(true);
        }
        self.touch();
    }

    /// A step of the engine: the fault strikes before it, or after it, if it is its turn. Each takes a little, and a packet passes.
    async fn step<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let now = {
            let mut w = self.lock();
            w.steps += usize::from(w.armed);
            let step = w.steps;
            w.fault.filter(|(_, when)| w.armed && when.step == step).map(|(fault, when)| (fault, when.after))
        };
        let die = async |at: bool| {
            if let Some((fault, _)) = now.filter(|(_, after)| *after == at) {
                self.strike(fault);
                if fault == Fault::Controller {
                    pending::<()>().await;
                }
            }
        };
        die(false).await;
        if *self.killed.borrow() {
            pending::<()>().await;
        }
        let out = {
            let mut w = self.lock();
            let led = w.led;
            if let Some(vm) = led.and_then(|n| w.vms.get_mut(&n)).filter(|vm| vm.alive) {
                vm.packets += 1;
                w.passed += 1;
            }
            act(&mut w)
        };
        self.watch();
        die(true).await;
        sleep(Duration::from_millis(1)).await;
        out
    }

    /// What must hold at every moment.
    fn watch(&self) {
        let mut w = self.lock();
        let heard: Vec<u64> = w.vms.iter().filter(|(n, vm)| vm.speaks() && w.outlets.contains(n)).map(|(n, _)| *n).collect();
        if heard.len() > 1 {
            let problem = format!("step {}: {heard:?} speak", w.steps);
            w.broken.push(problem);
        }
    }

    fn state(w: &Inner, n: u64) -> Option<InstanceStatus> {
        let vm = w.vms.get(&n).filter(|vm| vm.alive)?;
        let state = match (vm.active, vm.speaks()) {
            (false, _) => InstanceState::Standby,
            (true, true) => InstanceState::Active,
            (true, false) => InstanceState::Fenced,
        };
        let in_sync = vm.active || vm.sessions;
        Some(InstanceStatus {
            generation: vm.generation,
            state,
            revision: 0,
            sessions: 1,
            end: 0,
            committed: 0,
            in_sync,
            leader_lost_ms: None,
            forwards: true,
            promoted: None,
            past: vec![],
            problems: vec![],
        })
    }

    /// What the reconciler and the links do, without end: VMs as they are placed, rules as they should lead, followers in step.
    pub(crate) async fn reconcile(self, unit: Unit, protected: bool) {
        loop {
            sleep(Duration::from_millis(5)).await;
            let Some(p) = self.placements.get(&unit) else { return };
            // Nobody stands by for a dead one.
            let lives = self.lock().vms.get(&p.active.number).is_some_and(|vm| vm.alive);
            if protected && lives && p.unfinished.is_none() && p.standby.is_none() {
                let make = |p: &mut Placement, _: &_| {
                    if p.unfinished.is_none() && p.standby.is_none() {
                        p.standby = Some(p.newcomer("local", None, vec![]));
                    }
                    Ok(())
                };
                self.placements.change(&unit, make).await.unwrap();
                continue;
            }
            let mut w = self.lock();
            self.vms(&mut w, &p);
            self.follow(&mut w, &p);
            if w.switch_back.is_none_or(|at| at <= Instant::now()) {
                Self::rules(&mut w, &p);
            }
            drop(w);
            self.watch();
            self.touch();
        }
    }

    fn vms(&self, w: &mut Inner, p: &Placement) {
        let wanted: Vec<u64> = p.instances().iter().map(|i| i.number).collect();
        w.vms.retain(|n, _| wanted.contains(n));
        for i in p.instances() {
            let dead = w.vms.get(&i.number).is_some_and(|vm| !vm.alive);
            let in_hand = match &p.unfinished {
                None => i.number == p.active.number && p.standby.is_some(),
                Some(m) => i.number == m.from.number || i.number == m.to.number && matches!(m.phase, Phase::Switch | Phase::Promote),
            };
            if dead && !in_hand {
                let packets = w.vms[&i.number].packets;
                w.vms.insert(i.number, Vm { packets, ..Vm::new(p.speaks(i), i.generation) });
            }
            w.vms.entry(i.number).or_insert_with(|| Vm::new(p.speaks(i), i.generation));
        }
    }

    fn follow(&self, w: &mut Inner, p: &Placement) {
        let leader = p.leader().number;
        let leads = w.vms.get(&leader).is_some_and(|vm| vm.alive && vm.sessions);
        // One that stands still writes nothing that a follower could miss.
        let still = w.vms.get(&leader).is_some_and(|vm| !vm.speaks());
        let up = leads && w.link_back.is_none_or(|at| at <= Instant::now());
        for i in p.followers() {
            let Some(vm) = w.vms.get_mut(&i.number).filter(|vm| vm.alive && !vm.active) else { continue };
            if !up {
                vm.linked = None;
                // What it has of a leader that is dead is all that there was; of one that lives it is not.
                vm.sessions &= !leads || still;
                continue;
            }
            let since = *vm.linked.get_or_insert_with(Instant::now);
            vm.sessions |= since.elapsed() >= FOLLOW;
        }
    }

    fn rules(w: &mut Inner, p: &Placement) {
        w.led = Some(p.active.number);
        w.outlets = std::iter::once(p.active.number).chain(p.lingering().map(|i| i.number)).collect();
    }
}

impl World for Model {
    fn stands<'a>(&'a self, _: &'a Unit, i: &'a Instance) -> BoxFuture<'a, bool> {
        Box::pin(self.step(|w| w.vms.get(&i.number).is_some_and(|vm| vm.alive)))
    }

    fn died<'a>(&'a self, _: &'a Unit, i: &'a Instance) -> BoxFuture<'a, Death> {
        Box::pin(async {
            let dead = |_: &u64| self.lock().vms.get(&i.number).is_some_and(|vm| !vm.alive);
            let _ = self.changed.subscribe().wait_for(dead).await;
            Death::Instance(format!("g{} died", i.number))
        })
    }

    fn gone<'a>(&'a self, _: &'a Unit, i: &'a Instance) -> BoxFuture<'a, bool> {
        Box::pin(async { self.lock().vms.get(&i.number).is_none_or(|vm| !vm.alive) })
    }

    fn lost<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Death> {
        Box::pin(pending())
    }

    fn order<'a>(&'a self, _: &'a Unit, i: &'a Instance, order: InstanceOrder) -> BoxFuture<'a, anyhow::Result<InstanceStatus>> {
        if matches!(order, InstanceOrder::Watch { .. }) {
            return Box::pin(async {
                sleep(Duration::from_secs(20)).await;
                anyhow::bail!("there is nothing new")
            });
        }
        let obeyed = self.step(move |w| {
            let speaks = w.vms.get(&i.number).is_some_and(Vm::speaks);
            if speaks && matches!(order, InstanceOrder::Fence { .. }) && w.link_back.is_some_and(|at| at > Instant::now()) {
                // It waits for its followers for a while, and then goes on without them.
                w.vms.values_mut().filter(|vm| !vm.active).for_each(|vm| vm.sessions = false);
            }
            let vm = w.vms.get_mut(&i.number).filter(|vm| vm.alive).ok_or_else(|| anyhow::anyhow!("nobody answers"))?;
            match order {
                InstanceOrder::Look | InstanceOrder::Watch { .. } => {}
                InstanceOrder::Fence { lease_ms } if vm.active => {
                    vm.fenced_until = Some(Instant::now() + Duration::from_millis(lease_ms.into()));
                }
                InstanceOrder::Fence { .. } => anyhow::bail!("a standby cannot be fenced"),
                InstanceOrder::Resume => vm.fenced_until = None,
                InstanceOrder::Promote { generation } => {
                    vm.active = true;
                    vm.generation = generation;
                }
            }
            Self::state(w, i.number).ok_or_else(|| anyhow::anyhow!("it died"))
        });
        Box::pin(async {
            let said = obeyed.await;
            let late = self.lock().slow.filter(|(who, _)| *who == i.number).map(|(_, at)| at);
            if let Some(at) = late {
                sleep_until(at).await;
            }
            said
        })
    }

    fn lead<'a>(&'a self, _: &'a Unit, p: &'a Placement) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.step(move |w| {
            anyhow::ensure!(w.switch_back.is_none_or(|at| at <= Instant::now()), "no connection to the switch");
            Self::rules(w, p);
            Ok(())
        }))
    }

    fn counters<'a>(&'a self, _: &'a Unit, i: &'a Instance) -> BoxFuture<'a, Counters> {
        Box::pin(self.step(|w| {
            let packets = w.vms.get(&i.number).map_or(0, |vm| vm.packets);
            Counters { to_core: Count { packets, bytes: 0 }, ..Counters::default() }
        }))
    }

    fn kill<'a>(&'a self, _: &'a Unit, i: &'a Instance) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async {
            self.step(|w| w.vms.get_mut(&i.number).into_iter().for_each(|vm| vm.alive = false)).await;
            self.touch();
            Ok(())
        })
    }

    fn refuge<'a>(&'a self, _: &'a Unit, _: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(async { Some("local".into()) })
    }

    fn nics(&self, _: &Unit) -> usize {
        2
    }
}
