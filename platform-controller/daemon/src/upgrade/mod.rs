//! Upgrades: every unit is moved onto another image, some first; each group is watched before the next goes. What goes wrong with
//! one takes all back that went. The control VM goes last.
//!
//! How far it has come is on disk before the next step: a controller that is started again goes on.

mod health;

use crate::{
    moves::{Moves, Target},
    placement::{Unit, now_ms},
    show::Viewer,
};
use anyhow::{Context, bail, ensure};
use edgeplex_api::{MoveKind, Outcome, UpgradeOrder, UpgradeReport, UpgradeState};
use edgeplex_intent::OWN_HOST;
use edgeplex_runtime::DEFAULT_IMAGE;
use edgeplex_store::{Store, Write, read};
use futures::future::join_all;
use health::Health;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep},
};

const KEY: &str = "upgrade";
/// How long packets are counted before a group goes.
const BASELINE: Duration = Duration::from_secs(1);
/// How long routes may take to be the same again.
const SETTLE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(250);
/// Times that a way back is tried.
const TRIES: u32 = 5;

#[derive(Debug)]
pub struct Upgrades {
    store: Arc<dyn Store>,
    moves: Arc<Moves>,
    viewer: Viewer,
    report: watch::Sender<Option<UpgradeReport>>,
    /// Held while the report is changed.
    changing: Mutex<()>,
}

/// As placements name it.
fn image(name: &str) -> Option<String> {
    (name != DEFAULT_IMAGE).then(|| name.to_owned())
}

/// Groups in which `units` go: the canaries, then so many percent at a time.
fn groups(units: &[Unit], canary: usize, percent: usize) -> Vec<Vec<Unit>> {
    let (first, rest) = units.split_at(canary.min(units.len()));
    let size = (units.len() * percent).div_ceil(100).max(1);
    let first = (!first.is_empty()).then(|| first.to_vec());
    first.into_iter().chain(rest.chunks(size).map(<[Unit]>::to_vec)).collect()
}

impl Upgrades {
    /// Takes up what an earlier controller left.
    pub fn open(store: Arc<dyn Store>, moves: Arc<Moves>, viewer: Viewer) -> anyhow::Result<Arc<Self>> {
        let stored: Option<UpgradeReport> = read(&*store, KEY)?;
        let state = stored.as_ref().map(|r| r.state);
        let this = Arc::new(Self { store, moves, viewer, report: watch::Sender::new(stored), changing: Mutex::new(()) });
        match state {
            Some(UpgradeState::Running) => drop(tokio::spawn(this.clone().run())),
            Some(UpgradeState::RollingBack) => drop(tokio::spawn(this.clone().go_back())),
            Some(UpgradeState::Done | UpgradeState::RolledBack) | None => {}
        }
        Ok(this)
    }

    pub fn report(&self) -> Option<UpgradeReport> {
        self.report.borrow().clone()
    }

    pub async fn begin(self: &Arc<Self>, order: UpgradeOrder) -> anyhow::Result<UpgradeReport> {
        ensure!((1..=100).contains(&order.then_percent), "then: `{}`: must be 1 to 100 percent", order.then_percent);
        let placed = self.moves.placements().state();
        let to = image(&order.to);
        let mut left: Vec<&Unit> = placed.units.iter().filter(|(_, p)| p.active.image != to).map(|(u, _)| u).collect();
        ensure!(!left.is_empty() || placed.image != to, "all is on image {} already", order.to);
        left.sort_by_key(|u| (**u == Unit::Cvm, (*u).clone()));
        let left = left.into_iter().map(ToString::to_string).collect();
        let state = UpgradeState::Running;
        let new =
            UpgradeReport { order, state, before: placed.image.clone(), gone: vec![], left, why: String::new(), started_ms: now_ms() };
        self.change(|report| {
            let busy = report.as_ref().is_some_and(|r| matches!(r.state, UpgradeState::Running | UpgradeState::RollingBack));
            ensure!(!busy, "an upgrade is under way; see `edgeplex show upgrade`");
            *report = Some(new.clone());
            Ok(())
        })
        .await?;
        tokio::spawn(self.clone().run());
        Ok(new)
    }

    /// All that went goes back, also of an upgrade that is done.
    pub async fn roll_back(self: &Arc<Self>, why: &str) -> anyhow::Result<UpgradeReport> {
        let edit = |report: &mut Option<UpgradeReport>| {
            let r = report.as_mut().context("there was no upgrade that could be taken back")?;
            ensure!(r.state != UpgradeState::RolledBack, "the last upgrade was taken back already");
            ensure!(r.state != UpgradeState::RollingBack, "it is being taken back already");
            (r.state, r.why) = (UpgradeState::RollingBack, why.to_owned());
            Ok(r.clone())
        };
        let report = self.change(edit).await?;
        tracing::warn!("upgrade to {}: goes back: {why}", report.order.to);
        tokio::spawn(self.clone().go_back());
        Ok(report)
    }

    async fn change<T>(&self, edit: impl FnOnce(&mut Option<UpgradeReport>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let _one = self.changing.lock().await;
        let mut report = self.report();
        let out = edit(&mut report)?;
        let (store, write) = (self.store.clone(), Write::put(KEY, &report)?);
        tokio::task::spawn_blocking(move || store.commit(&[write])).await??;
        self.report.send_replace(report);
        Ok(out)
    }

    async fn run(self: Arc<Self>) {
        let Some(report) = self.report() else { return };
        match self.all(&report).await {
            Ok(()) => tracing::info!("upgrade to {}: done", report.order.to),
            Err(e) if self.is_running() => {
                if let Err(e) = self.roll_back(&format!("{e:#}")).await {
                    tracing::error!("upgrade: {e:#}");
                }
            }
            Err(_) => {}
        }
    }

    fn is_running(&self) -> bool {
        self.report.borrow().as_ref().is_some_and(|r| r.state == UpgradeState::Running)
    }

    async fn all(&self, report: &UpgradeReport) -> anyhow::Result<()> {
        let left: Vec<Unit> = report.left.iter().filter_map(|u| u.parse().ok()).collect();
        let (pvms, cvm): (Vec<Unit>, Vec<Unit>) = left.into_iter().partition(|u| *u != Unit::Cvm);
        // The canaries of one that is taken up have gone already.
        let canary = usize::try_from(report.order.canary).unwrap_or(usize::MAX).saturating_sub(report.gone.len());
        let groups = groups(&pvms, canary, report.order.then_percent.into());
        for group in groups.into_iter().chain((!cvm.is_empty()).then_some(cvm)) {
            self.group(report, &group).await?;
        }
        ensure!(self.is_running(), "it is taken back");
        self.moves.placements().set_image(image(&report.order.to)).await?;
        self.change(|r| {
            r.iter_mut().for_each(|r| r.state = UpgradeState::Done);
            Ok(())
        })
        .await
    }

    /// Moves a group, watches it, and says what is worse than before.
    async fn group(&self, report: &UpgradeReport, group: &[Unit]) -> anyhow::Result<()> {
        let first = self.readings(group).await;
        sleep(BASELINE).await;
        let before = self.readings(group).await;
        // What cannot be compared afterwards does not go.
        let placed = |unit: &&Unit| self.moves.placements().get(unit).is_some();
        if let Some(unit) = group.iter().filter(placed).find(|unit| !before.contains_key(unit)) {
            bail!("{unit}: it does not say how it is before it goes: nobody could tell whether it is worse afterwards");
        }
        let mut moved: BTreeMap<&Unit, Instant> = BTreeMap::new();
        for unit in group {
            ensure!(self.is_running(), "it is taken back");
            let Some(p) = self.moves.placements().get(unit) else { continue };
            let had = p.active.image.clone();
            // Before it goes: whoever takes over must know that it may have gone.
            self.change(|r| {
                // Whoever takes back has looked at what went: nothing is added to that.
                let r = r.as_mut().filter(|r| r.state == UpgradeState::Running).context("it is taken back")?;
                r.left.retain(|u| *u != unit.to_string());
                r.gone.push((unit.to_string(), had));
                Ok(())
            })
            .await?;
            self.go(unit, MoveKind::Upgrade, image(&report.order.to), &format!("upgrade to {}", report.order.to)).await?;
            moved.insert(unit, Instant::now());
        }
        let soak = Duration::from_secs(report.order.soak_s.into());
        let watched = Instant::now();
        loop {
            ensure!(self.is_running(), "it is taken back");
            let last = watched.elapsed() >= soak;
            let after = self.readings(group).await;
            let worse = group.iter().find_map(|unit| {
                let was = before.get(unit)?;
                let rate = first.get(unit).map_or(0, |f| was.drops_since(f));
                let Some(is) = after.get(unit) else { return Some(format!("{unit}: it does not say how it is")) };
                is.worse_than(was, moved.get(unit).map_or(0, |at| at.elapsed().as_secs()), rate).map(|w| format!("{unit}: {w}"))
            });
            match worse {
                Some(worse) if watched.elapsed() > SETTLE => bail!(worse),
                None if last => return Ok(()),
                _ => sleep(AGAIN).await,
            }
        }
    }

    /// Those that answer.
    async fn readings(&self, group: &[Unit]) -> BTreeMap<Unit, Health> {
        let read = group.iter().map(async |unit| Some((unit.clone(), Health::of(&self.viewer, unit).await.ok()?)));
        join_all(read).await.into_iter().flatten().collect()
    }

    /// One move, to its end.
    async fn go(&self, unit: &Unit, kind: MoveKind, image: Option<String>, why: &str) -> anyhow::Result<()> {
        let p = self.moves.placements().get(unit).with_context(|| format!("{unit} is gone"))?;
        // Where its host has no such image it goes to one that has.
        let there = self.viewer.fleet.has_image(&p.active.host, image.as_deref()).await;
        let host = if there { p.active.host.clone() } else { OWN_HOST.to_owned() };
        let target = Target { kind, host, image, why: why.to_owned(), file: None };
        let id = self.moves.begin(unit, target).await.with_context(|| unit.to_string())?;
        let report = self.moves.ended(unit, id).await?;
        ensure!(report.outcome == Outcome::Done, "{unit}: {}", report.why);
        Ok(())
    }

    async fn go_back(self: Arc<Self>) {
        if let Err(e) = self.back().await {
            tracing::error!("upgrade: {e:#}");
        }
    }

    /// In the order in which they came, the last one first.
    async fn back(&self) -> anyhow::Result<()> {
        let Some(report) = self.report() else { return Ok(()) };
        self.moves.placements().set_image(report.before.clone()).await?;
        let mut failures = vec![];
        for (name, had) in report.gone.iter().rev() {
            let unit: Unit = name.parse()?;
            let mut tries = 0;
            while let Some(p) = self.moves.placements().get(&unit) {
                if p.active.image == *had && p.unfinished.is_none() {
                    break;
                }
                let result = match &p.unfinished {
                    Some(m) => self.moves.ended(&unit, m.id).await.map(drop),
                    None => self.go(&unit, MoveKind::Rollback, had.clone(), &report.why).await,
                };
                if let Err(e) = result {
                    tries += 1;
                    if tries == TRIES {
                        failures.push(format!("{e:#}"));
                        break;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
        self.change(|r| {
            if let Some(r) = r {
                r.state = UpgradeState::RolledBack;
                if !failures.is_empty() {
                    r.why = format!("{}; not taken back: {}", r.why, failures.join("; "));
                }
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_go_first_and_the_rest_in_parts() {
        let units: Vec<Unit> = (0..12).map(|n| format!("acme/a{n}").parse().unwrap()).collect();
        let sizes = |canary, percent| groups(&units, canary, percent).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(1, 10), [1, 2, 2, 2, 2, 2, 1]);
        assert_eq!(sizes(0, 100), [12]);
        assert_eq!(sizes(20, 1), [12]);
        assert_eq!(sizes(3, 50), [3, 6, 3]);
        assert!(groups(&[], 1, 10).is_empty());
    }
}
