//! The phases of a move: what each does, and what makes up for it when it cannot be done.

use super::{
    engine::{Command, Engine, heard},
    world::{Death, World},
};
use crate::placement::{Conflict, Move, Placement, Unit, is_more};
use anyhow::{Context, bail, ensure};
use edgeplex_api::{MoveKind, Outcome, Phase};
use edgeplex_ff_fib_api::Counters;
use edgeplex_mgmt::show::{InstanceOrder, InstanceState, InstanceStatus};
use edgeplex_runtime::patiently;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a fenced instance waits for us before it goes on by itself, milliseconds.
const LEASE_MS: u32 = 3000;
/// A fence that is older is renewed before the rules change.
const FRESH: Duration = Duration::from_millis(1000);
/// One that has been replaced must not speak again, whatever becomes of us.
const LONG_LEASE_MS: u32 = 600_000;
/// A VM is made in well under a second; on a busy host it may take longer.
const PREPARE: Duration = Duration::from_secs(60);
/// A million routes are followed and programmed in less.
const SYNC: Duration = Duration::from_secs(120);
/// Of one that has nothing to follow: its forwarder may have all, or not.
const COLD: Duration = Duration::from_secs(3);
/// A daemon that has not answered for so long since its VM was made does not work.
const ANSWER: Duration = Duration::from_secs(10);
const FENCE: Duration = Duration::from_secs(2);
/// To hear whether it stands still, and its successor is in step. With [`FRESH`] it is less than the lease.
const STILL: Duration = Duration::from_secs(1);
/// As long as the old one can still go back to work.
const SWITCH: Duration = Duration::from_millis(1500);
/// An order to promote is given anew after [`ORDER`]; sessions wait longer than this for a word.
const PROMOTE: Duration = Duration::from_secs(30);
const ORDER: Duration = Duration::from_secs(10);
/// Longer no packet stays in a forwarder.
const DRAIN: Duration = Duration::from_millis(500);
/// A forwarder that took and gave nothing for so long holds nothing for a port to which nothing is led.
const IDLE: Duration = Duration::from_millis(10);
const KILL: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(300);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(3);
const RETRY: Duration = Duration::from_millis(20);

/// What ended a phase before the decision.
enum End {
    Forward(anyhow::Result<()>),
    OldDied(Death),
    NewDied(Death),
    Abort,
}

impl Engine {
    /// Carries the move one phase on; `false` when there will be no more commands.
    pub(super) async fn step(&mut self, p: &Placement) -> anyhow::Result<bool> {
        let Some(m) = p.unfinished.clone() else { return Ok(true) };
        match m.phase {
            Phase::Prepare | Phase::Sync | Phase::Fence => return self.undecided(&m).await,
            Phase::Switch => self.switch(&m).await?,
            Phase::Promote => self.promote(&m).await?,
            Phase::Drain => self.drain(&m).await?,
            Phase::Retire => self.retire(&m).await?,
        }
        Ok(true)
    }

    /// Up to the decision either side may die, and the operator may change his mind.
    async fn undecided(&mut self, m: &Move) -> anyhow::Result<bool> {
        let crash = m.kind == MoveKind::Failover;
        let (world, unit) = (self.world.clone(), self.unit.clone());
        let end = {
            let forward = forward(&*world, &unit, m);
            let old_died = world.died(&unit, &m.from);
            // Before it is made its host can die.
            let new_died = if m.phase == Phase::Prepare { world.lost(&m.to.host) } else { world.died(&unit, &m.to) };
            tokio::pin!(forward, old_died, new_died);
            loop {
                tokio::select! {
                    done = &mut forward => break End::Forward(done),
                    death = &mut old_died, if !crash => break End::OldDied(death),
                    death = &mut new_died => break End::NewDied(death),
                    command = self.commands.recv() => match command {
                        Some(Command::Abort { answer }) => {
                            let _ = answer.send(Ok(m.id));
                            break End::Abort;
                        }
                        Some(Command::Move { answer, .. }) => {
                            let _ = answer.send(Err(format!("{unit}: {} {} is under way, at {}", m.kind, m.id, m.phase)));
                        }
                        None => return Ok(false),
                    },
                }
            }
        };
        match end {
            End::Forward(Ok(())) => match m.phase {
                Phase::Prepare => self.reach(Phase::Sync).await?,
                // Where the old one is lost there is nobody to fence.
                Phase::Sync if !crash => self.reach(Phase::Fence).await?,
                _ => {
                    self.fenced = Some(Instant::now());
                    self.commit(Placement::decide).await?;
                }
            },
            End::Forward(Err(e)) => self.give_up(Outcome::Failed, &format!("{e:#}")).await?,
            End::NewDied(death) => self.give_up(Outcome::Failed, &format!("the new instance: {}", death.why())).await?,
            End::Abort => self.give_up(Outcome::Aborted, "so it was asked").await?,
            End::OldDied(death) => {
                let said = heard(&*self.world, &self.unit, &m.to).await;
                let able = said.is_some_and(|s| s.state == InstanceState::Standby && s.in_sync);
                if able {
                    self.commit(|p, spent| crashed(p, death.why(), spent)).await?;
                } else {
                    self.give_up(Outcome::Failed, death.why()).await?;
                }
            }
        }
        Ok(true)
    }

    /// The rules lead to the successor. It is decided, but should it die now, the old one has lost nothing yet and goes on; unless an
    /// earlier controller decided, which may have let the successor speak.
    async fn switch(&mut self, m: &Move) -> anyhow::Result<()> {
        let (world, unit) = (self.world.clone(), self.unit.clone());
        let crash = m.kind == MoveKind::Failover;
        let way_back = self.own && !crash;
        let started = Instant::now();
        let mut new_died = world.died(&unit, &m.to);
        if crash {
            // Dead, or beyond reach: the rules are the fence, and nobody waits for this.
            let (world, unit, from) = (world.clone(), unit.clone(), m.from.clone());
            tokio::spawn(async move { drop(timeout(KILL, world.kill(&unit, &from)).await) });
            if std::mem::take(&mut self.led) {
                return self.promote(m).await;
            }
        }
        loop {
            let attempt = async {
                // The successor is about to speak: from now on the old one may not, whatever becomes of us.
                let for_long = async { crash || stands_still(&*world, &unit, m).await };
                if !crash && self.fenced.is_none_or(|at| at.elapsed() > FRESH) {
                    let fenced = patiently(FENCE, world.order(&unit, &m.from, InstanceOrder::Fence { lease_ms: LEASE_MS })).await;
                    if !matches!(fenced, Some(Ok(_))) {
                        // It cannot be told to stand still.
                        let _ = timeout(KILL, world.kill(&unit, &m.from)).await;
                    }
                    self.fenced = Some(Instant::now());
                }
                let p = self.placements.get(&unit).context("it is gone")?;
                let (led, still) = tokio::join!(timeout(FENCE, world.lead(&unit, &p)), for_long);
                led.context("the switch does not answer")??;
                if !still {
                    let _ = timeout(KILL, world.kill(&unit, &m.from)).await;
                }
                anyhow::Ok(())
            };
            let failure = tokio::select! {
                led = attempt => match led {
                    Ok(()) => return self.promote(m).await,
                    Err(e) => format!("{e:#}"),
                },
                death = &mut new_died => {
                    if way_back {
                        return self.give_up(Outcome::Failed, &format!("the new instance: {}", death.why())).await;
                    }
                    return self.promote(m).await;
                }
            };
            if way_back && started.elapsed() > SWITCH {
                return self.give_up(Outcome::Failed, &failure).await;
            }
            tracing::warn!("{unit}: {failure}");
            sleep(RETRY).await;
        }
    }

    /// From the first order on the successor may have spoken: there is no way back to the old one's sessions. That it is promoted is
    /// written down beside the order, which [`Phase::Switch`] has decided already.
    async fn promote(&mut self, m: &Move) -> anyhow::Result<()> {
        // Should the store fail, the successor has spoken all the same.
        self.own = false;
        let (world, unit) = (self.world.clone(), self.unit.clone());
        if m.phase == Phase::Promote && m.kind != MoveKind::Failover && !stands_still(&*world, &unit, m).await {
            let _ = timeout(KILL, world.kill(&unit, &m.from)).await;
        }
        let noted = async { if m.phase == Phase::Switch { self.reach(Phase::Promote).await } else { Ok(()) } };
        let (noted, loss) = tokio::join!(noted, promoted(&*world, &unit, m));
        noted?;
        let edit = |p: &mut Placement, spent| {
            if let Some(m) = &mut p.unfinished {
                m.loss = loss;
            }
            p.reach(Phase::Drain, spent)
        };
        self.commit(edit).await
    }

    async fn drain(&mut self, m: &Move) -> anyhow::Result<()> {
        let figures = final_counters(&*self.world, &self.unit, m).await;
        self.commit(|p, spent| p.retire(&figures, spent)).await
    }

    async fn retire(&mut self, m: &Move) -> anyhow::Result<()> {
        if let Err(e) = timeout(KILL, self.world.kill(&self.unit, &m.from)).await.context("it does not end").flatten() {
            // Nothing leads there and it is fenced; the reconciler takes away what is not wanted.
            tracing::warn!("{}: the old instance: {e:#}", self.unit);
        }
        self.commit(Placement::finish).await?;
        if let Some(report) = self.placements.get(&self.unit).and_then(|p| p.past.last().cloned()) {
            let ms = report.until_promoted_ms();
            tracing::info!("{}: {} {} is {}: promoted after {ms} ms; {}", self.unit, report.kind, report.id, report.outcome, report.why);
        }
        Ok(())
    }
}

/// Fences the one that is replaced until it is retired; whether it heard.
async fn stands_still(world: &dyn World, unit: &Unit, m: &Move) -> bool {
    let fenced = patiently(STILL, world.order(unit, &m.from, InstanceOrder::Fence { lease_ms: LONG_LEASE_MS })).await;
    matches!(fenced, Some(Ok(_)))
}

/// Promotes the successor; what was lost by it, if anything.
async fn promoted(world: &dyn World, unit: &Unit, m: &Move) -> Option<String> {
    let started = Instant::now();
    let mut died = world.died(unit, &m.to);
    loop {
        let order = timeout(ORDER, world.order(unit, &m.to, InstanceOrder::Promote { generation: m.to.generation }));
        let failure = tokio::select! {
            answer = order => match answer {
                Ok(Ok(s)) if s.state == InstanceState::Active => return sessions_lost(&s),
                Ok(Ok(s)) => format!("it is {:?} after its promotion", s.state),
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "it does not answer".into(),
            },
            death = &mut died => match death {
                Death::Silence(why) => {
                    died = world.died(unit, &m.to);
                    why
                }
                death => return Some(format!("the new instance died when it took over ({}): it is made anew", death.why())),
            },
        };
        if started.elapsed() > PROMOTE {
            let _ = timeout(KILL, world.kill(unit, &m.to)).await;
            return Some(format!("the new instance did not take over ({failure}): it is made anew"));
        }
        tracing::warn!("{unit}: promotion: {failure}");
        sleep(RETRY).await;
    }
}

/// The old one is dead, and the successor has all that it had: this is a crash now.
fn crashed(p: &mut Placement, why: &str, spent: u64) -> Result<(), Conflict> {
    if let Some(m) = &mut p.unfinished {
        m.kind = MoveKind::Failover;
        m.why = why.to_owned();
    }
    p.decide(spent)
}

fn sessions_lost(s: &InstanceStatus) -> Option<String> {
    let p = s.promoted.filter(|p| p.lost > 0)?;
    Some(format!("{} of {} sessions could not be taken over", p.lost, p.lost + p.sessions))
}

async fn look(world: &dyn World, unit: &Unit, m: &Move) -> anyhow::Result<InstanceStatus> {
    timeout(GLANCE, world.order(unit, &m.to, InstanceOrder::Look)).await.context("it does not answer")?
}

/// What a phase before the decision waits for.
async fn forward(world: &dyn World, unit: &Unit, m: &Move) -> anyhow::Result<()> {
    match m.phase {
        Phase::Prepare => {
            let stands = async {
                while !world.stands(unit, &m.to).await {
                    sleep(LOOK).await;
                }
            };
            timeout(PREPARE, stands).await.context("the new instance is not there")
        }
        Phase::Sync => sync(world, unit, m).await,
        _ => fence(world, unit, m).await,
    }
}

async fn sync(world: &dyn World, unit: &Unit, m: &Move) -> anyhow::Result<()> {
    let cold = m.kind == MoveKind::Failover;
    let started = Instant::now();
    let mut heard = started;
    loop {
        let said = look(world, unit, m).await;
        if said.is_ok() {
            heard = Instant::now();
        }
        let missing = match said {
            Ok(s) if s.state != InstanceState::Standby => bail!("the new instance is {:?} and should be a standby", s.state),
            Ok(s) if s.forwards && (s.in_sync || cold) => return Ok(()),
            Ok(_) if cold && started.elapsed() > COLD => return Ok(()),
            Ok(s) => format!("in sync: {}, forwards: {}; {}", s.in_sync, s.forwards, s.problems.join("; ")),
            Err(e) => format!("{e:#}"),
        };
        ensure!(started.elapsed() < SYNC && heard.elapsed() < ANSWER, "the new instance does not become ready: {missing}");
        sleep(LOOK).await;
    }
}

async fn fence(world: &dyn World, unit: &Unit, m: &Move) -> anyhow::Result<()> {
    let order = world.order(unit, &m.from, InstanceOrder::Fence { lease_ms: LEASE_MS });
    timeout(FENCE, order).await.context("fencing the old instance: it does not answer")?.context("fencing the old instance")?;
    let s = patiently(STILL, world.order(unit, &m.to, InstanceOrder::Look)).await.context("the new instance does not answer")??;
    ensure!(s.in_sync && s.forwards, "the new instance lost step when the old one was fenced");
    Ok(())
}

/// What the old one has counted when nothing moves in it any more.
async fn final_counters(world: &dyn World, unit: &Unit, m: &Move) -> Counters {
    if m.kind == MoveKind::Failover {
        return world.counters(unit, &m.from).await;
    }
    stands_still(world, unit, m).await;
    let started = Instant::now();
    let mut last = world.counters(unit, &m.from).await;
    loop {
        sleep(IDLE).await;
        let now = world.counters(unit, &m.from).await;
        if !is_more(&now, &last) || started.elapsed() > DRAIN {
            return now;
        }
        last = now;
    }
}
