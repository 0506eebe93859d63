//! The reconciler: makes what is what should be. It never trusts what woke it; each pass looks at everything.
//!
//! A VM that fails is tried again after a growing pause and holds up no other. `look` sees what is and plans; `act` takes the steps.

mod act;
mod look;

use crate::{
    desired::Desired,
    fabric::Known,
    hosts::{Fleet, Place},
    pauses::Pauses,
    placement::{Placement, Placements, State as Placed, Unit},
    switching::{Bundles, Fabricator},
    vmlink,
    wiring::Ground,
};
use edgeplex_api::{Phase, Reconciler as Report};
use edgeplex_mgmt::show::{CvmQuery, Fabric, PvmQuery, Reloaded};
use edgeplex_types::AttachmentId;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};

const PERIOD: Duration = Duration::from_secs(1);

/// What the API may know of the reconciler.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Of the last pass.
    pub report: Report,
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

    /// Why that VM cannot be made as it should be, if so.
    pub fn problem_of(&self, vm: &str) -> Option<String> {
        let of = format!("VM {vm}: ");
        self.report.problems.iter().find(|p| p.starts_with(&of)).cloned()
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

    pub(crate) fn forget_taken(&mut self, vm: &str) {
        self.memory.taken.remove(vm);
    }
}

fn takes_over(p: &Placement) -> bool {
    p.unfinished.as_ref().is_some_and(|m| (Phase::Fence..=Phase::Promote).contains(&m.phase))
}
