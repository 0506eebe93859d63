//! What attachments have forwarded, whichever instances did it: each packet once.
//!
//! A forwarder counts from zero each time it is started. Its figures are read each second; when a VM is retired its last figures go
//! into the placement, in the commit that retires it, and when a forwarder was started again in its VM, those of the one before.
//! So nothing is counted twice, whatever dies; what a forwarder that died took within the last second may be missing.

use crate::{
    hosts::{Fleet, Place},
    placement::{Instance, Placements, Unit, add},
    vmlink::FibLink,
};
use anyhow::{Context, bail};
use edgeplex_ff_fib_api::{Counters, Reply, Request};
use futures::future::join_all;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

const PERIOD: Duration = Duration::from_secs(1);

/// One forwarder's last figures.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    uptime_ms: u64,
    counters: Counters,
}

#[derive(Debug)]
pub struct Meter {
    fleet: Arc<Fleet>,
    placements: Arc<Placements>,
    /// By VM.
    last: Mutex<BTreeMap<String, Reading>>,
}

impl Meter {
    pub fn new(fleet: Arc<Fleet>, placements: Arc<Placements>) -> Self {
        Self { fleet, placements, last: Mutex::default() }
    }

    /// Reads all that are led to, each second, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let state = self.placements.state();
            let vms: Vec<String> = state.units.iter().flat_map(|(u, p)| p.instances().into_iter().map(|i| u.vm(i.number))).collect();
            self.with(|last| last.retain(|vm, _| vms.contains(vm)));
            let pvms = state.units.iter().filter(|(unit, _)| **unit != Unit::Cvm);
            join_all(pvms.map(async |(unit, p)| drop(self.read(unit, p.leader()).await))).await;
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Reading>) -> T) -> T {
        f(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the instance's forwarder says now.
    async fn read(&self, unit: &Unit, i: &Instance) -> anyhow::Result<Counters> {
        let vm = unit.vm(i.number);
        let at = Place { runtime: self.fleet.at(&i.host)?, vm: vm.parse()? };
        let mut link = FibLink::open(&at).await?;
        let (Reply::Status(status), Reply::Counters(counters)) = (link.ask(&Request::Status).await?, link.ask(&Request::Counters).await?)
        else {
            bail!("FastForward answered something else");
        };
        let reading = Reading { uptime_ms: status.uptime_ms, counters };
        let before = self.with(|last| last.insert(vm.clone(), reading.clone()));
        // One that has run for less long than when it was last asked is another one.
        if let Some(before) = before.filter(|b| b.uptime_ms > reading.uptime_ms) {
            let banked = self.placements.change(unit, |p, _| {
                // One that was retired meanwhile has been counted.
                if p.instances().iter().any(|x| x.number == i.number) && p.leader().number == i.number {
                    add(&mut p.counted, &before.counters);
                }
                Ok(())
            });
            banked.await.context("counting what a forwarder left")?;
        }
        Ok(reading.counters)
    }

    /// What it says now, or said last.
    pub async fn figures(&self, unit: &Unit, i: &Instance) -> Counters {
        match self.read(unit, i).await {
            Ok(counters) => counters,
            Err(_) => self.with(|last| last.get(&unit.vm(i.number)).map(|r| r.counters.clone())).unwrap_or_default(),
        }
    }

    /// All of a unit: what was counted of those that are gone, and what those say that are not.
    pub async fn total(&self, unit: &Unit) -> anyhow::Result<Counters> {
        let p = self.placements.get(unit).context("it has no VM yet")?;
        let mut living = self.read(unit, &p.active).await?;
        // Until it is retired the one that was replaced is not in the sum.
        if let Some(m) = p.unfinished.as_ref().filter(|m| m.phase < edgeplex_api::Phase::Retire && m.from.number != p.active.number) {
            add(&mut living, &self.figures(unit, &m.from).await);
        }
        let p = self.placements.get(unit).context("it has no VM any more")?;
        add(&mut living, &p.counted);
        Ok(living)
    }
}
