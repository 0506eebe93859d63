//! The world as it is.

use super::world::{Death, World};
use crate::{
    counters::Meter,
    desired::Desired,
    hosts::{Fleet, Place},
    placement::{Instance, Placement, Placements, Unit},
    switching::Bundles,
    tending,
    vmlink::{self, FibLink, is_refusal},
    wiring::{Ground, Wiring},
};
use anyhow::{Context, bail};
use edgeplex_ff_fib_api::{Counters, Reply, Request};
use edgeplex_mgmt::show::{CvmQuery, InstanceOrder, InstanceStatus, PvmQuery};
use edgeplex_runtime::{Reach, VmState, patiently};
use futures::future::BoxFuture;
use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};

/// An order may take as long as a promotion of very many sessions does.
const PATIENCE: Duration = Duration::from_secs(10);
/// The answer to a long poll comes after some 20 s at the latest.
const WATCH: Duration = Duration::from_secs(30);
/// What a daemon and a forwarder are asked how they are, and between two such questions. The forwarder answers between two bursts.
const WORD: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_secs(1);
/// Questions that neither of them has answered, and that the forwarder has not, whatever its daemon says: then it is at an end.
const BOTH: u32 = 2;
const FORWARDER: u32 = 4;
/// A forwarder that has gone is back, or its VM serves nobody.
const AGAIN: Duration = Duration::from_millis(10);
/// In this time a forwarder that ended is started again in its VM, also on a busy host.
const RESTART: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Real {
    pub dir: PathBuf,
    pub fleet: Arc<Fleet>,
    pub placements: Arc<Placements>,
    pub bundles: Bundles,
    pub ground: watch::Receiver<Option<Ground>>,
    pub desired: watch::Receiver<Arc<Desired>>,
    pub meter: Arc<Meter>,
}

impl Real {
    fn place(&self, unit: &Unit, i: &Instance) -> anyhow::Result<Place> {
        Ok(Place { runtime: self.fleet.at(&i.host)?, vm: unit.vm(i.number).parse()? })
    }

    async fn ask(&self, unit: &Unit, i: &Instance, order: InstanceOrder, limit: Duration) -> anyhow::Result<InstanceStatus> {
        let at = self.place(unit, i)?;
        match unit {
            Unit::Cvm => vmlink::ask(&at, &CvmQuery::Instance(order), limit).await,
            Unit::Pvm(_) => vmlink::ask(&at, &PvmQuery::Instance(order), limit).await,
        }
    }

    /// Resolves when its host is lost, or none of the platform's any more.
    async fn host_lost(&self, host: &str) -> Death {
        let mut hosts = self.fleet.changes();
        loop {
            hosts.borrow_and_update();
            let Ok(runtime) = self.fleet.at(host) else { return Death::Host(format!("host {host} is no longer one of the platform's")) };
            let mut reach = runtime.reach();
            let lost = async {
                if reach.wait_for(|r| *r == Reach::Lost).await.is_err() {
                    // It was given up by us, not lost.
                    pending::<()>().await;
                }
            };
            tokio::select! {
                () = lost => return Death::Host(format!("host {host} is lost")),
                Ok(()) = hosts.changed() => {}
            }
        }
    }

    /// Resolves when its VM is dead.
    async fn exited(&self, unit: &Unit, i: &Instance) -> Death {
        loop {
            let Ok(at) = self.place(unit, i) else { return pending().await };
            // Before it was made there is none, and afterwards none that could die twice.
            let known = matches!(at.runtime.inspect(&at.vm).await, Ok(Some(_)));
            if known && at.runtime.exited(&at.vm).await.is_ok() {
                return Death::Instance(format!("VM {} died", at.vm));
            }
            sleep(PERIOD / 10).await;
        }
    }

    /// Resolves when its forwarder has died: at once, by the end of a connection to it. One that closes a connection and goes on is
    /// none that died.
    async fn forwarder_died(&self, unit: &Unit, i: &Instance) -> Death {
        let died = || Death::Instance(format!("the forwarder of VM {} died", unit.vm(i.number)));
        let mut running: Option<u64> = None;
        loop {
            match self.forwarder(unit, i).await {
                Ok((mut link, uptime)) => {
                    if running.is_some_and(|before| uptime < before) {
                        return died();
                    }
                    running = Some(uptime);
                    link.closed().await;
                    // Whether it is there still is asked at once.
                    continue;
                }
                Err(e) => {
                    // Refused where it was there before: its socket is nobody's now. An agent that is started again, or a
                    // connection to it that broke, is no death.
                    if running.is_some() && self.is_up(&i.host) && is_refusal(&e) {
                        return died();
                    }
                }
            }
            sleep(AGAIN).await;
        }
    }

    fn is_up(&self, host: &str) -> bool {
        self.fleet.at(host).is_ok_and(|runtime| *runtime.reach().borrow() == Reach::Up)
    }

    async fn forwarder(&self, unit: &Unit, i: &Instance) -> anyhow::Result<(FibLink, u64)> {
        let mut link = FibLink::open(&self.place(unit, i)?).await?;
        match link.ask(&Request::Status).await? {
            Reply::Status(s) => Ok((link, s.uptime_ms)),
            _ => bail!("FastForward answered something else"),
        }
    }

    /// Resolves when neither the daemon nor the forwarder has said a word for long, or the forwarder for longer. A daemon alone is
    /// started again in its VM, and a busy host is no death.
    async fn fell_silent(&self, unit: &Unit, i: &Instance) -> Death {
        let mut silence = Silence::default();
        loop {
            sleep(PERIOD).await;
            let mut reach = self.fleet.at(&i.host).ok().map(|runtime| runtime.reach());
            let was_up = reach.as_mut().is_some_and(|r| *r.borrow_and_update() == Reach::Up);
            let daemon = patiently(WORD, self.ask(unit, i, InstanceOrder::Look, 2 * WORD));
            let (daemon, forwarder) = tokio::join!(daemon, patiently(WORD, self.forwarder(unit, i)));
            if !was_up || reach.is_none_or(|r| !matches!(r.has_changed(), Ok(false))) {
                // Nobody on it can be heard: that is the host's silence.
                continue;
            }
            if silence.is_long(matches!(daemon, Some(Ok(_))), matches!(forwarder, Some(Ok(_)))) {
                return Death::Silence(format!("VM {} says nothing any more", unit.vm(i.number)));
            }
        }
    }
}

/// Questions that were not answered since the last that was; `None` of one that never was heard: it is being made.
#[derive(Debug, Default)]
struct Silence {
    daemon: Option<u32>,
    forwarder: Option<u32>,
}

impl Silence {
    /// Whether it is at an end after another question, and who answered it.
    fn is_long(&mut self, daemon: bool, forwarder: bool) -> bool {
        let count = |before: Option<u32>, said| if said { Some(0) } else { before.map(|n| n + 1) };
        (self.daemon, self.forwarder) = (count(self.daemon, daemon), count(self.forwarder, forwarder));
        let silent = |who: Option<u32>, limit| who.is_some_and(|n| n >= limit);
        silent(self.daemon, BOTH) && silent(self.forwarder, BOTH) || silent(self.forwarder, FORWARDER)
    }
}

impl World for Real {
    fn stands<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Ok(at) = self.place(unit, i) else { return false };
            let runs = matches!(at.runtime.inspect(&at.vm).await, Ok(Some(vm)) if vm.state == VmState::Running);
            let placed = self.placements.state();
            let ground = self.ground.borrow().clone();
            let ports = |ground: &Ground| Wiring { ground, placed: &placed, dir: &self.dir }.ports(unit, i).is_some();
            runs && ground.as_ref().is_some_and(ports)
        })
    }

    fn died<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, Death> {
        Box::pin(async move {
            tokio::select! {
                death = self.exited(unit, i) => death,
                death = self.host_lost(&i.host) => death,
                death = self.forwarder_died(unit, i) => death,
                death = self.fell_silent(unit, i) => death,
            }
        })
    }

    fn gone<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Ok(at) = self.place(unit, i) else { return false };
            match at.runtime.inspect(&at.vm).await {
                Ok(vm) if vm.as_ref().is_none_or(|vm| vm.state == VmState::Dead) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
            let back = async {
                while self.forwarder(unit, i).await.is_err() {
                    sleep(AGAIN).await;
                }
            };
            patiently(RESTART, back).await.is_none()
                && matches!(self.forwarder(unit, i).await, Err(e) if self.is_up(&i.host) && is_refusal(&e))
        })
    }

    fn lost<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Death> {
        Box::pin(self.host_lost(host))
    }

    fn order<'a>(&'a self, unit: &'a Unit, i: &'a Instance, order: InstanceOrder) -> BoxFuture<'a, anyhow::Result<InstanceStatus>> {
        let limit = if matches!(order, InstanceOrder::Watch { .. }) { WATCH } else { PATIENCE };
        Box::pin(self.ask(unit, i, order, limit))
    }

    fn lead<'a>(&'a self, unit: &'a Unit, p: &'a Placement) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut placed = (*self.placements.state()).clone();
            let stored = placed.units.insert(unit.clone(), Arc::new(p.clone()));
            // What is being written at the same time will be of the next revision: a bundle of the present one would lead back.
            let revision = placed.revision + u64::from(stored.is_none_or(|s| *s != *p));
            let ground = self.ground.borrow().clone().context("the switch was not looked at yet")?;
            let changes = Wiring { ground: &ground, placed: &placed, dir: &self.dir }.lead(unit);
            self.bundles.lead(changes.context("the switch has no ports of the new instance")?, revision).await
        })
    }

    fn counters<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, Counters> {
        Box::pin(async move {
            match unit {
                Unit::Cvm => Counters::default(),
                Unit::Pvm(_) => self.meter.figures(unit, i).await,
            }
        })
    }

    fn kill<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let at = self.place(unit, i)?;
            Ok(at.runtime.kill(&at.vm).await?)
        })
    }

    fn refuge<'a>(&'a self, unit: &'a Unit, lost: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(async move {
            let image = self.placements.get(unit).and_then(|p| p.active.image.clone());
            let hosts = tending::hosts_for(unit, image.as_deref(), &self.fleet, &self.placements.state().drained).await;
            hosts.into_iter().find(|h| h != lost)
        })
    }

    fn nics(&self, unit: &Unit) -> usize {
        tending::nics(&self.desired.borrow(), unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_never_heard_is_being_made_and_a_word_makes_up_for_a_silence() {
        let mut s = Silence::default();
        assert!(!(0..20).any(|_| s.is_long(false, false)));
        assert!(!s.is_long(true, true) && !s.is_long(false, false) && s.is_long(false, false));
        assert!(!s.is_long(false, true), "a daemon alone is started again");
        assert!(!(1..FORWARDER).any(|_| s.is_long(true, false)) && s.is_long(true, false), "without a forwarder nothing goes");
        assert!(!s.is_long(true, true) && !(0..20).any(|n| s.is_long(n % 2 == 0, n % 2 == 1)));
    }
}
