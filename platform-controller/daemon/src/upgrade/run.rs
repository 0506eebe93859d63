//! Carrying upgrades out, group by group, and taking them back.

use super::{Upgrades, health::Health, image};
use crate::{
    moves::Target,
    placement::{Placement, Unit},
};
use anyhow::{Context, bail, ensure};
use edgeplex_api::{MoveKind, MoveReport, Outcome, UpgradeReport, UpgradeState, without_numbers};
use edgeplex_intent::OWN_HOST;
use futures::future::join_all;
use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long packets are counted before a group goes.
const BASELINE: Duration = Duration::from_secs(1);
/// How long routes may take to be the same again.
const SETTLE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(250);
/// Times that a way back is tried.
const TRIES: u32 = 5;
/// A VM that could not be made in this time, and was tried again, is not going to be.
const BROKEN: Duration = Duration::from_secs(5);
/// What one move may take, whatever holds it up; and what it may take to end once it was told to.
const LONGEST: Duration = Duration::from_secs(240);
const END: Duration = Duration::from_secs(60);

/// Groups in which `units` go: the canaries, then so many percent at a time.
fn groups(units: &[Unit], canary: usize, percent: usize) -> Vec<Vec<Unit>> {
    let (first, rest) = units.split_at(canary.min(units.len()));
    let size = (units.len() * percent).div_ceil(100).max(1);
    let first = (!first.is_empty()).then(|| first.to_vec());
    first.into_iter().chain(rest.chunks(size).map(<[Unit]>::to_vec)).collect()
}

impl Upgrades {
    pub(super) async fn run(self: Arc<Self>) {
        let Some(report) = self.report() else { return };
        match self.all(&report).await {
            Ok(()) => tracing::info!("upgrade to {}: done", report.order.to),
            Err(e) if self.is_running() => {
                if let Err(e) = self.roll_back(&without_numbers(&format!("{e:#}"))).await {
                    tracing::error!("upgrade: {e:#}");
                }
            }
            Err(_) => {}
        }
    }

    fn is_running(&self) -> bool {
        self.book.borrow().state() == Some(UpgradeState::Running)
    }

    /// Says what it does just now; that is not kept.
    fn says(&self, doing: String) {
        self.book.send_modify(|book| book.last.iter_mut().for_each(|r| r.doing.clone_from(&doing)));
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
        self.change(|book| {
            book.finished();
            Ok(())
        })
        .await
    }

    /// Moves a group, watches it, and says what is worse than before.
    async fn group(&self, report: &UpgradeReport, group: &[Unit]) -> anyhow::Result<()> {
        let names = group.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.says(format!("looks how {names} are before they go"));
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
            self.change(|book| {
                // Whoever takes back has looked at what went: nothing is added to that.
                let r = book.last.as_mut().filter(|r| r.state == UpgradeState::Running).context("it is taken back")?;
                r.left.retain(|u| *u != unit.to_string());
                r.gone.push((unit.to_string(), had));
                Ok(())
            })
            .await?;
            self.says(format!("moves {unit}"));
            self.go(unit, MoveKind::Upgrade, image(&report.order.to), &format!("upgrade to {}", report.order.to)).await?;
            moved.insert(unit, Instant::now());
        }
        self.says(format!("watches {names} for {} s", report.order.soak_s));
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
        let report = self.carried(unit, id).await?;
        ensure!(report.outcome == Outcome::Done, "{unit}: {}", report.why);
        Ok(())
    }

    /// Waits for the end of a move, but not for ever, and not for a VM that cannot be made.
    async fn carried(&self, unit: &Unit, id: u64) -> anyhow::Result<MoveReport> {
        let ended = self.moves.ended(unit, id);
        tokio::pin!(ended);
        let why = tokio::select! {
            report = &mut ended => return report,
            why = self.cannot_be_made(unit, id) => why,
            () = sleep(LONGEST) => format!("it is not done after {} s", LONGEST.as_secs()),
        };
        if let Err(e) = self.moves.abort(unit).await {
            // It is decided, or was over just now.
            tracing::warn!("{e:#}");
        }
        let report = timeout(END, ended).await.with_context(|| format!("{unit}: {why}; and it does not end"))??;
        ensure!(report.outcome == Outcome::Done, "{unit}: {why}");
        Ok(report)
    }

    /// Resolves when the new VM of a move could not be made for some time: why.
    async fn cannot_be_made(&self, unit: &Unit, id: u64) -> String {
        let of = |p: Arc<Placement>| p.unfinished.as_ref().filter(|m| m.id == id).map(|m| unit.vm(m.to.number));
        let Some(vm) = self.moves.placements().get(unit).and_then(of) else { return pending().await };
        let mut reconciled = self.reconciled.clone();
        let mut since: Option<Instant> = None;
        // It tells after each of its passes.
        while reconciled.changed().await.is_ok() {
            match reconciled.borrow_and_update().problem_of(&vm) {
                Some(why) if since.is_some_and(|at| at.elapsed() > BROKEN) => return why,
                Some(_) => drop(since.get_or_insert_with(Instant::now)),
                None => since = None,
            }
        }
        pending().await
    }

    pub(super) async fn go_back(self: Arc<Self>) {
        if let Err(e) = self.back().await {
            tracing::error!("upgrade: {e:#}");
        }
    }

    /// In the order in which they came, the last one first; then what came into being since.
    async fn back(&self) -> anyhow::Result<()> {
        let Some(report) = self.report() else { return Ok(()) };
        let units = self.to_take_back(&report)?;
        self.moves.placements().set_image(report.before.clone()).await?;
        let mut failures = vec![];
        let mut stuck = vec![];
        for (unit, had) in units {
            self.says(format!("takes {unit} back"));
            let mut tries = 0;
            while let Some(p) = self.moves.placements().get(&unit) {
                if p.active.image == had && p.unfinished.is_none() {
                    break;
                }
                let result = match &p.unfinished {
                    Some(m) => self.carried(&unit, m.id).await.map(drop),
                    None => self.go(&unit, MoveKind::Rollback, had.clone(), &report.why).await,
                };
                if let Err(e) = result {
                    tries += 1;
                    if tries == TRIES {
                        stuck.push(unit.to_string());
                        failures.push(format!("{e:#}"));
                        break;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
        self.change(|book| {
            if let Some(r) = &mut book.last {
                r.state = UpgradeState::RolledBack;
                r.doing.clear();
                r.stuck = stuck;
                if !failures.is_empty() {
                    r.why = format!("{}; not taken back: {}", r.why, failures.join("; "));
                }
            }
            Ok(())
        })
        .await
    }

    /// Units with the images that they had.
    fn to_take_back(&self, report: &UpgradeReport) -> anyhow::Result<Vec<(Unit, Option<String>)>> {
        let mut out = vec![];
        for (unit, had) in report.gone.iter().rev() {
            out.push((unit.parse()?, had.clone()));
        }
        let (placed, to) = (self.moves.placements().state(), image(&report.order.to));
        // What came after it was done was made of the new image, and never was of another.
        if placed.image == to {
            let new = placed.units.iter().filter(|(unit, p)| p.active.image == to && !out.iter().any(|(gone, _)| gone == *unit));
            let new: Vec<_> = new.map(|(unit, _)| (unit.clone(), report.before.clone())).collect();
            out.extend(new);
        }
        Ok(out)
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
