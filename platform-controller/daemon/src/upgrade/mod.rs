//! Upgrades: every unit is moved onto another image, some first; each group is watched before the next goes. What goes wrong with
//! one takes all back that went. The control VM goes last.
//!
//! How far it has come is on disk before the next step: a controller that is started again goes on. Those that are done are
//! remembered: each can be taken back, the latest first.

mod health;
mod run;

use crate::{
    moves::Moves,
    placement::{Unit, now_ms},
    reconcile::State as Reconciled,
    show::Viewer,
};
use anyhow::{Context, ensure};
use edgeplex_api::{UpgradeOrder, UpgradeReport, UpgradeState};
use edgeplex_runtime::DEFAULT_IMAGE;
use edgeplex_store::{Store, Write, read};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

const KEY: &str = "upgrade";
const DONE: &str = "upgrades-done";
/// Of those that are done.
const KEPT: usize = 8;

#[derive(Debug)]
pub struct Upgrades {
    store: Arc<dyn Store>,
    moves: Arc<Moves>,
    viewer: Viewer,
    /// Why VMs cannot be made.
    reconciled: watch::Receiver<Reconciled>,
    book: watch::Sender<Book>,
    /// Held while the book is changed.
    changing: Mutex<()>,
}

/// What is remembered of upgrades.
#[derive(Debug, Clone, Default)]
struct Book {
    /// The last one, or the one under way.
    last: Option<UpgradeReport>,
    /// Those that are done and were not taken back, oldest first.
    done: Vec<UpgradeReport>,
}

impl Book {
    fn state(&self) -> Option<UpgradeState> {
        self.last.as_ref().map(|r| r.state)
    }

    /// Begins to take back the one under way, or what is left of one that was taken back in part, or the last that is done.
    fn back(&mut self, why: &str) -> anyhow::Result<UpgradeReport> {
        let last = self.last.take_if(|r| r.state != UpgradeState::Done);
        let resumed = match last {
            Some(r) if r.state == UpgradeState::RollingBack => {
                self.last = Some(r);
                anyhow::bail!("an upgrade is being taken back already; see `edgeplex show upgrade`");
            }
            Some(r) if r.state == UpgradeState::Running || !r.stuck.is_empty() => Some(r),
            other => {
                let before = self.done.pop();
                if before.is_none() && other.is_some() {
                    self.last = other;
                }
                before
            }
        };
        let mut report = resumed.context("there is no upgrade that could be taken back")?;
        (report.state, report.why) = (UpgradeState::RollingBack, why.to_owned());
        report.stuck.clear();
        report.doing.clear();
        self.last = Some(report.clone());
        Ok(report)
    }

    fn finished(&mut self) {
        let Some(report) = &mut self.last else { return };
        report.state = UpgradeState::Done;
        report.doing.clear();
        self.done.push(report.clone());
        let excess = self.done.len().saturating_sub(KEPT);
        self.done.drain(..excess);
    }
}

/// As placements name it.
fn image(name: &str) -> Option<String> {
    (name != DEFAULT_IMAGE).then(|| name.to_owned())
}

impl Upgrades {
    /// Takes up what an earlier controller left.
    pub fn open(
        store: Arc<dyn Store>,
        moves: Arc<Moves>,
        viewer: Viewer,
        reconciled: watch::Receiver<Reconciled>,
    ) -> anyhow::Result<Arc<Self>> {
        let last: Option<UpgradeReport> = read(&*store, KEY)?;
        // Before there was a list there was the last one alone.
        let only = || last.iter().filter(|r| r.state == UpgradeState::Done).cloned().collect();
        let done = read(&*store, DONE)?.unwrap_or_else(only);
        let book = Book { last, done };
        let state = book.state();
        let this = Arc::new(Self { store, moves, viewer, reconciled, book: watch::Sender::new(book), changing: Mutex::new(()) });
        match state {
            Some(UpgradeState::Running) => drop(tokio::spawn(this.clone().run())),
            Some(UpgradeState::RollingBack) => drop(tokio::spawn(this.clone().go_back())),
            Some(UpgradeState::Done | UpgradeState::RolledBack) | None => {}
        }
        Ok(this)
    }

    /// The last one, or the one under way.
    pub fn report(&self) -> Option<UpgradeReport> {
        self.book.borrow().last.clone()
    }

    /// What became of the one that began then, when it has come to an end; `None` where another came after it.
    pub async fn ended(&self, began_ms: u64) -> Option<UpgradeReport> {
        let mut book = self.book.subscribe();
        let busy = |r: &UpgradeReport| matches!(r.state, UpgradeState::Running | UpgradeState::RollingBack);
        let book = book.wait_for(|b| !b.last.as_ref().is_some_and(|r| r.started_ms == began_ms && busy(r))).await.ok()?;
        book.last.iter().chain(&book.done).find(|r| r.started_ms == began_ms).cloned()
    }

    pub async fn begin(self: &Arc<Self>, order: UpgradeOrder) -> anyhow::Result<UpgradeReport> {
        ensure!((1..=100).contains(&order.then_percent), "then: `{}`: must be 1 to 100 percent", order.then_percent);
        let placed = self.moves.placements().state();
        let to = image(&order.to);
        let mut left: Vec<&Unit> = placed.units.iter().filter(|(_, p)| p.active.image != to).map(|(u, _)| u).collect();
        ensure!(!left.is_empty() || placed.image != to, "all is on image {} already", order.to);
        left.sort_by_key(|u| (**u == Unit::Cvm, (*u).clone()));
        let new = UpgradeReport {
            order,
            state: UpgradeState::Running,
            before: placed.image.clone(),
            gone: vec![],
            left: left.into_iter().map(ToString::to_string).collect(),
            why: String::new(),
            doing: String::new(),
            stuck: vec![],
            started_ms: now_ms(),
        };
        self.change(|book| {
            let busy = matches!(book.state(), Some(UpgradeState::Running | UpgradeState::RollingBack));
            ensure!(!busy, "an upgrade is under way; see `edgeplex show upgrade`");
            book.last = Some(new.clone());
            Ok(())
        })
        .await?;
        tokio::spawn(self.clone().run());
        Ok(new)
    }

    /// All that went goes back: of the upgrade under way, or of the last that is done.
    pub async fn roll_back(self: &Arc<Self>, why: &str) -> anyhow::Result<UpgradeReport> {
        let report = self.change(|book| book.back(why)).await?;
        tracing::warn!("upgrade to {}: goes back: {why}", report.order.to);
        tokio::spawn(self.clone().go_back());
        Ok(report)
    }

    async fn change<T>(&self, edit: impl FnOnce(&mut Book) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let _one = self.changing.lock().await;
        let mut book = self.book.borrow().clone();
        let out = edit(&mut book)?;
        let (store, writes) = (self.store.clone(), [Write::put(KEY, &book.last)?, Write::put(DONE, &book.done)?]);
        tokio::task::spawn_blocking(move || store.commit(&writes)).await??;
        self.book.send_replace(book);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(to: &str, before: Option<&str>) -> UpgradeReport {
        UpgradeReport {
            order: UpgradeOrder { to: to.into(), canary: 1, then_percent: 10, soak_s: 1 },
            state: UpgradeState::Running,
            before: before.map(ToOwned::to_owned),
            gone: vec![],
            left: vec![],
            why: String::new(),
            doing: String::new(),
            stuck: vec![],
            started_ms: 0,
        }
    }

    fn taken_back(book: &mut Book, stuck: &[&str]) {
        let r = book.last.as_mut().unwrap();
        (r.state, r.stuck) = (UpgradeState::RolledBack, stuck.iter().map(|s| (*s).to_owned()).collect());
    }

    #[test]
    fn a_rollback_goes_past_an_upgrade_that_failed_and_ends_where_it_began() {
        let mut book = Book::default();
        assert!(book.back("").is_err());
        for (to, before) in [("v1", None), ("v2", Some("v1"))] {
            book.last = Some(report(to, before));
            book.finished();
        }
        book.last = Some(report("v3", Some("v2")));
        assert_eq!(book.back("it is worse").unwrap().order.to, "v3", "the one under way");
        assert!(book.back("").unwrap_err().to_string().contains("already"));
        taken_back(&mut book, &[]);
        let back = book.back("so it was asked").unwrap();
        assert_eq!((back.order.to.as_str(), back.before.as_deref(), back.state), ("v2", Some("v1"), UpgradeState::RollingBack));
        taken_back(&mut book, &["acme/d1"]);
        assert_eq!(book.back("").unwrap().order.to, "v2", "what is left of it");
        taken_back(&mut book, &[]);
        assert_eq!(book.back("").unwrap().order.to, "v1");
        taken_back(&mut book, &[]);
        assert!(book.back("").unwrap_err().to_string().contains("there is no upgrade"));
        assert_eq!(book.last.unwrap().order.to, "v1", "what it was is still told");
    }

    #[test]
    fn some_are_remembered() {
        let mut book = Book::default();
        for n in 0..20 {
            book.last = Some(report(&format!("v{n}"), None));
            book.finished();
        }
        assert_eq!((book.done.len(), book.done[0].order.to.as_str()), (KEPT, "v12"));
    }
}
