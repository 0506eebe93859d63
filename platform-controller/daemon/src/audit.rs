//! Who ordered what, and what became of it. An order is on disk before it is carried out.
//!
//! Records: `audit/<number>`.

use crate::{
    moves::Moves,
    placement::{Unit, now_ms},
    upgrade::Upgrades,
};
use anyhow::Context;
use edgeplex_api::{AuditEntry, Outcome, Started, UpgradeState};
use edgeplex_intent::Change;
use edgeplex_store::{Store, Write, read, read_all};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Mutex, MutexGuard};

/// Entries that are kept.
const KEPT: u64 = 1000;
const UNDER_WAY: &str = "under way";

#[derive(Debug)]
pub struct Audit {
    store: Arc<dyn Store>,
    /// Number of the next entry. Held while one is written.
    next: Mutex<u64>,
}

fn key(n: u64) -> String {
    format!("audit/{n:020}")
}

/// What an order has led to.
#[derive(Debug)]
pub enum Became {
    Done(String),
    /// It is done when these are; and what was not begun at all.
    Moves(Vec<Started>, Vec<String>),
    /// When the upgrade that began then has come to its end, in this state.
    Upgrade(u64, UpgradeState),
}

impl Audit {
    pub fn open(store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let all: BTreeMap<String, AuditEntry> = read_all(&*store, "audit/")?;
        let next = all.last_key_value().and_then(|(k, _)| k.parse::<u64>().ok()).map_or(0, |n| n + 1);
        Ok(Self { store, next: Mutex::new(next) })
    }

    /// Oldest first.
    pub fn entries(&self) -> anyhow::Result<Vec<AuditEntry>> {
        Ok(read_all(&*self.store, "audit/")?.into_values().collect())
    }

    /// One entry is written at a time.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, u64> {
        self.next.lock().await
    }

    /// What a change of the desired state writes besides.
    pub(crate) fn of_changes(number: u64, uid: u32, changes: &[Change]) -> anyhow::Result<Vec<Write>> {
        writes(number, &AuditEntry { at_ms: now_ms(), uid, changes: changes.to_vec(), ..AuditEntry::default() })
    }

    /// Notes an order; its number.
    pub async fn begin(&self, uid: u32, order: String) -> anyhow::Result<u64> {
        let entry = AuditEntry { at_ms: now_ms(), uid, order, outcome: UNDER_WAY.into(), ..AuditEntry::default() };
        let mut next = self.next.lock().await;
        self.commit(writes(*next, &entry)?).await?;
        *next += 1;
        Ok(*next - 1)
    }

    async fn commit(&self, writes: Vec<Write>) -> anyhow::Result<()> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.commit(&writes)).await.context("store")?.context("audit")
    }

    async fn edit(&self, number: u64, edit: impl FnOnce(&mut AuditEntry)) {
        let _one = self.next.lock().await;
        let written = async {
            // Nobody waits so long that it is gone; if so, nobody reads it.
            let Some(mut entry) = read::<AuditEntry>(&*self.store, &key(number))? else { return Ok(()) };
            edit(&mut entry);
            self.commit(vec![Write::put(key(number), &entry)?]).await
        };
        if let Err(e) = written.await {
            tracing::warn!("audit: {e:#}");
        }
    }

    pub async fn end(&self, number: u64, outcome: String) {
        self.edit(number, |e| (e.outcome, e.ended_ms) = (outcome, Some(now_ms()))).await;
    }

    /// Notes what the order has led to, and its end when that comes.
    pub async fn follow(self: &Arc<Self>, number: u64, became: Became, moves: &Arc<Moves>, upgrades: &Arc<Upgrades>) {
        match became {
            Became::Done(outcome) => self.end(number, outcome).await,
            Became::Moves(started, left) => {
                self.edit(number, |e| e.moves.clone_from(&started)).await;
                tokio::spawn(self.clone().until_moved(number, started, left, moves.clone()));
            }
            Became::Upgrade(began, hoped) => {
                self.edit(number, |e| e.upgrade = Some(began)).await;
                tokio::spawn(self.clone().until_upgraded(number, began, hoped, upgrades.clone()));
            }
        }
    }

    async fn until_moved(self: Arc<Self>, number: u64, started: Vec<Started>, left: Vec<String>, moves: Arc<Moves>) {
        let mut out = left;
        for Started { unit, id } in &started {
            let Ok(parsed) = unit.parse::<Unit>() else { continue };
            match moves.ended(&parsed, *id).await {
                Ok(r) if r.outcome == Outcome::Done => {}
                Ok(r) => out.push(format!("{unit}: {}: {}", r.outcome, r.why)),
                Err(e) => out.push(format!("{unit}: {e:#}")),
            }
        }
        self.end(number, if out.is_empty() { "done".into() } else { out.join("; ") }).await;
    }

    async fn until_upgraded(self: Arc<Self>, number: u64, began: u64, hoped: UpgradeState, upgrades: Arc<Upgrades>) {
        let outcome = match upgrades.ended(began).await {
            Some(r) if r.state == hoped && r.stuck.is_empty() => "done".into(),
            Some(r) if r.state == UpgradeState::Done => "done all the same".into(),
            Some(r) => format!("taken back: {}", r.why),
            None => "another came after it".into(),
        };
        self.end(number, outcome).await;
    }

    /// Takes up what an earlier controller left.
    pub async fn resume(self: &Arc<Self>, moves: &Arc<Moves>, upgrades: &Arc<Upgrades>) -> anyhow::Result<()> {
        let all: BTreeMap<String, AuditEntry> = read_all(&*self.store, "audit/")?;
        for (number, entry) in all.into_iter().filter(|(_, e)| e.outcome == UNDER_WAY) {
            let hoped = if entry.order.starts_with("rollback") { UpgradeState::RolledBack } else { UpgradeState::Done };
            let became = match (entry.upgrade, entry.moves) {
                (Some(began), _) => Became::Upgrade(began, hoped),
                (None, moves) if !moves.is_empty() => Became::Moves(moves, vec![]),
                _ => Became::Done("nobody knows: the controller was started again".into()),
            };
            self.follow(number.parse()?, became, moves, upgrades).await;
        }
        Ok(())
    }
}

fn writes(number: u64, entry: &AuditEntry) -> anyhow::Result<Vec<Write>> {
    let old = number.checked_sub(KEPT).map(|n| Write::delete(key(n)));
    Ok(std::iter::once(Write::put(key(number), entry)?).chain(old).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_store::Memory;

    #[tokio::test]
    async fn orders_are_numbered_beyond_a_restart_and_the_oldest_go() {
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let audit = Audit::open(store.clone()).unwrap();
        for n in 0..KEPT {
            audit.begin(7, format!("drain host-{n}")).await.unwrap();
        }
        audit.end(KEPT - 1, "done".into()).await;
        let audit = Audit::open(store).unwrap();
        assert_eq!(audit.begin(7, "drain last".into()).await.unwrap(), KEPT);
        let all = audit.entries().unwrap();
        let told = |e: &AuditEntry| (e.order.clone(), e.outcome.clone(), e.ended_ms.is_some());
        assert_eq!(told(&all[0]), ("drain host-1".into(), UNDER_WAY.into(), false));
        assert_eq!(told(&all[all.len() - 2]), ("drain host-999".into(), "done".into(), true));
        assert_eq!(all.len() as u64, KEPT);
        audit.end(0, "it has gone".into()).await;
        assert_eq!(audit.entries().unwrap().len() as u64, KEPT);
    }

    #[test]
    fn an_entry_of_before_there_were_orders_reads() {
        let entry: AuditEntry = serde_json::from_str(r#"{"at_ms":1,"uid":0,"changes":[]}"#).unwrap();
        assert_eq!((entry.at_ms, entry.order, entry.ended_ms), (1, String::new(), None));
    }
}
