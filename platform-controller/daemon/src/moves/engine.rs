//! One unit's moves, and who takes over when its active instance dies.
//!
//! The engine is the only one that changes who is active. While nothing moves it waits for a command or a death; a move that is
//! under way it carries on phase by phase (see `steps`).

use super::world::{Death, World};
use crate::placement::{Conflict, Instance, Placement, Placements, State, Unit, add, free_tags, tags_in_use};
use edgeplex_api::{MoveKind, Outcome, Phase};
use edgeplex_ff_fib_api::Counters;
use edgeplex_mgmt::show::{InstanceOrder, InstanceState, InstanceStatus};
use edgeplex_runtime::patiently;
use futures::future::BoxFuture;
use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};

/// Who cannot answer in this time is not asked further when seconds count.
const GLANCE: Duration = Duration::from_millis(300);
/// A standby without which all sessions are lost may take as long to answer as a busy host needs.
const HEARING: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(20);
/// Times that an instance which is fenced is told to go on.
const RESUMES: usize = 5;
/// Before a death is looked at again of which another takes care.
const PAUSE: Duration = Duration::from_millis(500);
/// A host that is only silent may come back, and with it an instance that has all its sessions.
const COMES_BACK: Duration = Duration::from_secs(10);

/// Where to, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub kind: MoveKind,
    pub host: String,
    pub image: Option<String>,
    pub why: String,
    /// What the new instance begins with, instead of what the old one has.
    pub file: Option<PathBuf>,
}

#[derive(Debug)]
pub enum Command {
    Move { target: Target, answer: oneshot::Sender<Result<u64, String>> },
    Abort { answer: oneshot::Sender<Result<u64, String>> },
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) unit: Unit,
    pub(super) placements: Arc<Placements>,
    pub(super) world: Arc<dyn World>,
    pub(super) commands: mpsc::Receiver<Command>,
    changes: watch::Receiver<Arc<State>>,
    /// When the old one was last fenced, by us.
    pub(super) fenced: Option<Instant>,
    /// When the phase began.
    since: Instant,
    /// What is decided of the move was decided by us: whoever takes it up cannot know whether the successor has spoken.
    pub(super) own: bool,
    /// The rules lead to the successor already.
    pub(super) led: bool,
    /// The active one's host has not been heard: since when, and when that was last seen.
    silent: Option<(Instant, Instant)>,
}

impl Engine {
    pub(super) fn new(unit: Unit, placements: Arc<Placements>, world: Arc<dyn World>, commands: mpsc::Receiver<Command>) -> Self {
        let changes = placements.watch();
        Self { unit, placements, world, commands, changes, fenced: None, since: Instant::now(), own: false, led: false, silent: None }
    }

    /// Until the unit is gone.
    pub(super) async fn run(mut self) {
        self.take_up().await;
        while let Some(p) = self.placements.get(&self.unit) {
            let result = if p.unfinished.is_some() { self.step(&p).await } else { self.idle(&p).await };
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => {
                    // The store, or somebody who was faster: the placement tells.
                    tracing::warn!("{}: {e:#}", self.unit);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// A move that an earlier controller left: one that was decided goes on, any other comes to nothing.
    async fn take_up(&mut self) {
        let Some(p) = self.placements.get(&self.unit) else { return };
        let Some(m) = p.unfinished.as_ref().filter(|m| !m.is_decided()) else { return };
        tracing::info!("{}: move {} was cut short at {}: the old instance goes on", self.unit, m.id, m.phase);
        // A failover that was not decided is found again by looking.
        if let Err(e) = self.give_up(Outcome::Aborted, "the controller was started again").await {
            tracing::warn!("{}: {e:#}", self.unit);
        }
    }

    /// Waits for something to do; `false` when there will be no more commands.
    async fn idle(&mut self, p: &Arc<Placement>) -> anyhow::Result<bool> {
        let world = self.world.clone();
        let unit = self.unit.clone();
        // Where nobody stands by, a VM that died is the reconciler's, but for a host that takes it along.
        let mut died = if p.standby.is_some() { world.died(&unit, &p.active) } else { world.lost(&p.active.host) };
        // What the standby said last: when it is needed there is no time to ask.
        let mut standby: Option<InstanceStatus> = None;
        let mut watch = watch(&*world, &unit, p.standby.as_ref(), None, false);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Move { target, answer }) => {
                        let begun = self.begin(target).await;
                        let told = begun.as_ref().map(|id| *id).map_err(|e| format!("{e:#}"));
                        let _ = answer.send(told);
                        return Ok(true);
                    }
                    Some(Command::Abort { answer }) => drop(answer.send(Err(format!("{unit} is not moving")))),
                    None => return Ok(false),
                },
                said = &mut watch => {
                    let seen = said.as_ref().map(|s| s.revision);
                    watch = self::watch(&*world, &unit, p.standby.as_ref(), seen, said.is_none());
                    standby = said;
                }
                death = &mut died => {
                    self.bereaved(p, death, standby).await?;
                    return Ok(true);
                }
                changed = self.changes.changed() => {
                    changed?;
                    if !self.placements.get(&unit).is_some_and(|now| Arc::ptr_eq(&now, p)) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    async fn begin(&mut self, target: Target) -> anyhow::Result<u64> {
        let nics = self.world.nics(&self.unit);
        self.since = Instant::now();
        self.fenced = None;
        // A standby that is in step already need not be waited for.
        let placed = self.placements.get(&self.unit).and_then(|p| p.standby.clone());
        let ready = match &placed {
            Some(s) => matches!(
                timeout(GLANCE, self.world.order(&self.unit, s, InstanceOrder::Look)).await,
                Ok(Ok(said)) if said.state == InstanceState::Standby && said.in_sync && said.forwards
            ),
            None => false,
        };
        let begin = |p: &mut Placement, state: &State| {
            let fits = |s: &&Instance| s.host == target.host && s.image == target.image && target.kind != MoveKind::Restore;
            let to = match p.standby.as_ref().filter(fits).cloned() {
                Some(standby) => standby,
                None => newcomer(p, state, &target.host, target.image.clone(), nics)?,
            };
            let m = p.begin(target.kind, to, &target.why)?;
            m.file = target.file;
            if ready && placed.as_ref() == Some(&m.to) {
                m.phase = Phase::Fence;
            }
            Ok(m.id)
        };
        self.placements.change(&self.unit, begin).await
    }

    /// The active instance is dead. A standby that can takes over; without one the reconciler makes the VM anew where it was, or,
    /// where its host is gone too, another is made elsewhere.
    async fn bereaved(&mut self, p: &Placement, death: Death, said: Option<InstanceStatus>) -> anyhow::Result<()> {
        let now = Instant::now();
        self.since = now;
        self.fenced = None;
        // One that dies again and again too: a successor that is in step never waits, and the making of the next bounds the pace.
        if let Some(standby) = &p.standby {
            let able = |s: &InstanceStatus| s.state == InstanceState::Standby && (s.in_sync || s.forwards);
            let able = match said {
                Some(said) if able(&said) => true,
                _ => heard(&*self.world, &self.unit, standby).await.is_some_and(|said| able(&said)),
            };
            if able {
                tracing::warn!("{}: {}: {} takes over", self.unit, death.why(), self.unit.vm(standby.number));
                return self.fail_over(p, standby, death.why()).await;
            }
            tracing::warn!("{}: {}: its standby is not ready to take over", self.unit, death.why());
        }
        match death {
            Death::Host(_) if p.standby.is_some() && self.may_come_back(now) => {
                sleep(PAUSE).await;
                Ok(())
            }
            Death::Host(why) => {
                let Some(host) = self.world.refuge(&self.unit, &p.active.host).await else {
                    sleep(PAUSE).await;
                    return Ok(());
                };
                let nics = self.world.nics(&self.unit);
                let image = p.active.image.clone();
                self.placements
                    .change(&self.unit, |now, state| {
                        same(now, p)?;
                        let to = newcomer(now, state, &host, image, nics)?;
                        now.begin(MoveKind::Failover, to, &why).map(drop)
                    })
                    .await
            }
            // What is not dead to the last is killed, for the reconciler makes anew only what is. One that may be at work goes on.
            Death::Instance(_) | Death::Silence(_) if p.standby.is_some() && self.world.gone(&self.unit, &p.active).await => {
                let _ = timeout(GLANCE, self.world.kill(&self.unit, &p.active)).await;
                self.commit(|now, _| {
                    same(now, p)?;
                    now.standby = None;
                    Ok(())
                })
                .await
            }
            Death::Instance(_) | Death::Silence(_) => {
                sleep(PAUSE).await;
                Ok(())
            }
        }
    }

    /// Whether the active one's host has not been silent for so long that its instances are given up.
    fn may_come_back(&mut self, now: Instant) -> bool {
        // Not seen for some rounds: it was back meanwhile.
        let still = self.silent.filter(|(_, seen)| now.duration_since(*seen) < 6 * PAUSE);
        let since = still.map_or(now, |(since, _)| since);
        self.silent = Some((since, now));
        now.duration_since(since) < COMES_BACK
    }

    /// Decides for the standby. The rules lead there already while that is being written: the old one is dead, and the standby does
    /// not speak before it is written.
    async fn fail_over(&mut self, p: &Placement, standby: &Instance, why: &str) -> anyhow::Result<()> {
        let mut next = p.clone();
        next.begin(MoveKind::Failover, standby.clone(), why)?;
        next.decide(self.spent())?;
        let (world, unit) = (self.world.clone(), self.unit.clone());
        let decide = |now: &mut Placement, _| {
            same(now, p)?;
            *now = next.clone();
            Ok(())
        };
        let began = self.since;
        let (led, decided) = tokio::join!(timeout(GLANCE, world.lead(&unit, &next)), self.commit(decide));
        decided?;
        // Nobody is told of a shorter time than the customer saw.
        self.since = began;
        self.led = matches!(led, Ok(Ok(())));
        Ok(())
    }

    /// Since the phase began, microseconds.
    pub(super) fn spent(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Puts what comes next on disk; then it may act.
    pub(super) async fn commit(&mut self, edit: impl FnOnce(&mut Placement, u64) -> Result<(), Conflict>) -> anyhow::Result<()> {
        let spent = self.spent();
        self.placements.change(&self.unit, |p, _| edit(p, spent)).await?;
        self.since = Instant::now();
        self.own = true;
        Ok(())
    }

    pub(super) async fn reach(&mut self, phase: Phase) -> anyhow::Result<()> {
        self.commit(|p, spent| p.reach(phase, spent)).await
    }

    /// The old one goes on, from where it stands; a successor that was made for this goes.
    pub(super) async fn give_up(&mut self, outcome: Outcome, why: &str) -> anyhow::Result<()> {
        let Some(m) = self.placements.get(&self.unit).and_then(|p| p.unfinished.clone()) else { return Ok(()) };
        tracing::warn!("{}: {} {} comes to nothing at {}: {why}", self.unit, m.kind, m.id, m.phase);
        // From the decision on the successor may have forwarded something.
        let figures = match m.is_decided() {
            true => timeout(GLANCE, self.world.counters(&self.unit, &m.to)).await.unwrap_or_default(),
            false => Counters::default(),
        };
        let give_up = |p: &mut Placement, spent| {
            p.give_up(outcome, why, spent)?;
            add(&mut p.counted, &figures);
            Ok(())
        };
        self.commit(give_up).await?;
        if m.is_decided() {
            // What the switch has now nobody can say. It follows the placement; should that fail, the reconciler sees to it.
            let led = match self.placements.get(&self.unit) {
                Some(p) => self.world.lead(&self.unit, &p).await,
                None => Ok(()),
            };
            if let Err(e) = led {
                tracing::warn!("{}: leading back: {e:#}", self.unit);
            }
        }
        if m.phase >= Phase::Fence {
            // One that never hears this resumes by itself when its lease ends, which may be long after the decision.
            for _ in 0..if m.is_decided() { RESUMES } else { 1 } {
                if matches!(timeout(GLANCE, self.world.order(&self.unit, &m.from, InstanceOrder::Resume)).await, Ok(Ok(_))) {
                    break;
                }
                sleep(GLANCE).await;
            }
        }
        Ok(())
    }
}

/// The next thing that the standby says which it had not said when `seen` was; `None` if it cannot be heard. `rest`: it could not be
/// heard just now.
fn watch<'a>(
    world: &'a dyn World,
    unit: &'a Unit,
    standby: Option<&'a Instance>,
    seen: Option<u64>,
    rest: bool,
) -> BoxFuture<'a, Option<InstanceStatus>> {
    Box::pin(async move {
        let Some(standby) = standby else { return pending().await };
        if rest {
            sleep(PAUSE).await;
        }
        let order = seen.map_or(InstanceOrder::Look, |seen| InstanceOrder::Watch { seen });
        world.order(unit, standby, order).await.ok()
    })
}

/// What an instance says on which much depends. That nobody listens is an answer too; that it is slow is none.
pub(super) async fn heard(world: &dyn World, unit: &Unit, i: &Instance) -> Option<InstanceStatus> {
    let started = Instant::now();
    let said = async {
        loop {
            match world.order(unit, i, InstanceOrder::Look).await {
                Ok(said) => return Some(said),
                Err(_) if started.elapsed() > GLANCE => return None,
                Err(_) => sleep(RETRY).await,
            }
        }
    };
    patiently(HEARING, said).await.flatten()
}

fn same(now: &Placement, seen: &Placement) -> Result<(), Conflict> {
    if now == seen { Ok(()) } else { Err(Conflict("it has changed meanwhile".into())) }
}

fn newcomer(p: &mut Placement, state: &State, host: &str, image: Option<String>, nics: usize) -> Result<Instance, Conflict> {
    let tags = free_tags(&tags_in_use(state), host, nics).ok_or_else(|| Conflict(format!("host {host}: no tags are left on its link")))?;
    Ok(p.newcomer(host, image, tags))
}
