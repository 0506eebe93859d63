//! Moves: one mechanism for a planned move, a crash, an upgrade and its way back.
//!
//! ```text
//!   command, or a death ──► engine (one task a unit) ──commit──► placements ──► reconciler: VMs, ports, rules
//!                              │  then acts: orders to both     (durable)   ──► links: journals
//!                              └► World: VMs, switch, counters
//! ```
//! Every phase is on disk before it acts. A controller that is started again reads the phase and looks at what is.

mod engine;
mod real;
mod steps;
mod world;

pub use engine::{Command, Target};
pub use real::Real;
pub use world::{Death, World};

use crate::{
    hosts::Fleet,
    placement::{Placements, State, Unit},
    tending::hosts_for,
};
use edgeplex_api::{MoveKind, MoveReport, Phase, Started};
use engine::Engine;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// Gives orders to the engines of all units.
#[derive(Debug)]
pub struct Moves {
    placements: Arc<Placements>,
    world: Arc<dyn World>,
    engines: Mutex<BTreeMap<Unit, mpsc::Sender<Command>>>,
}

impl Moves {
    pub fn new(placements: Arc<Placements>, world: Arc<dyn World>) -> Arc<Self> {
        Arc::new(Self { placements, world, engines: Mutex::default() })
    }

    pub fn placements(&self) -> &Arc<Placements> {
        &self.placements
    }

    /// Keeps an engine for each unit that there is.
    pub async fn run(self: Arc<Self>) {
        let mut placements = self.placements.watch();
        loop {
            let units: BTreeSet<Unit> = placements.borrow_and_update().units.keys().cloned().collect();
            self.engines.lock().unwrap_or_else(PoisonError::into_inner).retain(|u, commands| units.contains(u) && !commands.is_closed());
            units.into_iter().for_each(|unit| drop(self.engine(unit)));
            if placements.changed().await.is_err() {
                return;
            }
        }
    }

    fn engine(&self, unit: Unit) -> mpsc::Sender<Command> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (commands, commanded) = mpsc::channel(4);
            let engine = Engine::new(unit.clone(), self.placements.clone(), self.world.clone(), commanded);
            tokio::spawn(engine.run());
            commands
        };
        engines.entry(unit.clone()).or_insert_with(start).clone()
    }

    /// Begins a move; its number.
    pub async fn begin(&self, unit: &Unit, target: Target) -> anyhow::Result<u64> {
        anyhow::ensure!(self.placements.get(unit).is_some(), "{unit} has no instances yet");
        let (answer, begun) = oneshot::channel();
        self.engine(unit.clone()).send(Command::Move { target, answer }).await?;
        begun.await?.map_err(anyhow::Error::msg)
    }

    /// Moves all that is active on `host` to others. A unit that cannot go now is moved when it is asked again.
    pub async fn drain(&self, host: &str, fleet: &Fleet) -> Vec<Started> {
        let state = self.placements.state();
        let mut started = vec![];
        for (unit, p) in state.units.iter().filter(|(_, p)| p.active.host == host) {
            let mut hosts = hosts_for(unit, p.active.image.as_deref(), fleet, &state.drained).await;
            hosts.retain(|h| h != host);
            let standby = p.standby.as_ref().map(|s| &s.host).filter(|h| hosts.contains(h));
            let Some(to) = standby.or(hosts.first()) else { continue };
            let target = Target {
                kind: MoveKind::Drain,
                host: to.clone(),
                image: p.active.image.clone(),
                why: format!("host {host} is drained"),
                file: None,
            };
            match self.begin(unit, target).await {
                Ok(id) => started.push(Started { unit: unit.to_string(), id }),
                Err(e) => tracing::warn!("{unit}: {e:#}"),
            }
        }
        started
    }

    /// Waits until that move has come to its end; what became of it.
    pub async fn ended(&self, unit: &Unit, id: u64) -> anyhow::Result<MoveReport> {
        let mut state = self.placements.watch();
        let over = |s: &Arc<State>| s.units.get(unit).is_none_or(|p| p.unfinished.as_ref().is_none_or(|m| m.id != id));
        let state = state.wait_for(over).await?.clone();
        let report = state.units.get(unit).and_then(|p| p.past.iter().find(|r| r.id == id).cloned());
        report.ok_or_else(|| anyhow::anyhow!("{unit} is gone"))
    }

    /// Ends the move that is under way, if it is not decided yet; its number.
    pub async fn abort(&self, unit: &Unit) -> anyhow::Result<u64> {
        let Some(m) = self.placements.get(unit).and_then(|p| p.unfinished.clone()) else {
            anyhow::bail!("{unit} is not moving");
        };
        anyhow::ensure!(m.phase < Phase::Switch, "{unit}: it is too late, the move is at {}; it will be done in a moment", m.phase);
        let (answer, heard) = oneshot::channel();
        self.engine(unit.clone()).send(Command::Abort { answer }).await?;
        heard.await?.map_err(anyhow::Error::msg)
    }
}
