//! Placements on disk, and whoever watches them.
//!
//! Records: `placement/<unit>`, `drained`, `image`.

use super::{Conflict, Placement, Unit};
use anyhow::Context;
use edgeplex_store::{Store, Write, read, read_all};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::{Mutex, watch};

#[derive(Debug, Clone, Default)]
pub struct State {
    /// Counts changes, since this process began.
    pub revision: u64,
    pub units: BTreeMap<Unit, Arc<Placement>>,
    /// Hosts on which nothing new is placed.
    pub drained: BTreeSet<String>,
    /// What new instances are made of.
    pub image: Option<String>,
}

/// The one place through which placements change.
#[derive(Debug)]
pub struct Placements {
    store: Arc<dyn Store>,
    current: watch::Sender<Arc<State>>,
    /// Held while a change is made: one at a time.
    changing: Mutex<()>,
}

fn key(unit: &Unit) -> String {
    format!("placement/{unit}")
}

impl Placements {
    pub fn open(store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let stored: BTreeMap<String, Placement> = read_all(&*store, "placement/")?;
        let by_unit = |(unit, p): (String, Placement)| -> anyhow::Result<_> { Ok((unit.parse()?, Arc::new(p))) };
        let units = stored.into_iter().map(by_unit).collect::<Result<_, _>>()?;
        let state = State {
            revision: 1,
            units,
            drained: read(&*store, "drained")?.unwrap_or_default(),
            image: read(&*store, "image")?.unwrap_or_default(),
        };
        Ok(Self { store, current: watch::Sender::new(Arc::new(state)), changing: Mutex::new(()) })
    }

    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.current.subscribe()
    }

    pub fn state(&self) -> Arc<State> {
        self.current.borrow().clone()
    }

    pub fn get(&self, unit: &Unit) -> Option<Arc<Placement>> {
        self.current.borrow().units.get(unit).cloned()
    }

    /// Changes one placement: durably, then for all to see. Nothing happens if `edit` finds that it does not fit.
    pub async fn change<T>(&self, unit: &Unit, edit: impl FnOnce(&mut Placement, &State) -> Result<T, Conflict>) -> anyhow::Result<T> {
        let _one = self.changing.lock().await;
        let mut placement = (*self.get(unit).ok_or_else(|| Conflict(format!("{unit} has no instances")))?).clone();
        let before = placement.clone();
        let out = edit(&mut placement, &self.state())?;
        if placement != before {
            self.commit(vec![Write::put(key(unit), &placement)?]).await?;
            self.publish(|state| drop(state.units.insert(unit.clone(), Arc::new(placement))));
        }
        Ok(out)
    }

    /// Gives placements to the units of `wanted` that have none, and takes them from all that are not wanted and have nothing left.
    pub async fn settle(&self, wanted: &BTreeSet<Unit>, left: &BTreeSet<Unit>) -> anyhow::Result<()> {
        let changes = |state: &State| {
            let new: Vec<Unit> = wanted.iter().filter(|u| !state.units.contains_key(u)).cloned().collect();
            let gone: Vec<Unit> = state.units.keys().filter(|u| !wanted.contains(u) && !left.contains(u)).cloned().collect();
            (new, gone)
        };
        let (new, gone) = changes(&self.state());
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        let (new, gone) = changes(&self.state());
        let first = Arc::new(Placement::first(self.state().image.clone()));
        let mut writes: Vec<Write> = gone.iter().map(|u| Write::delete(key(u))).collect();
        for unit in &new {
            writes.push(Write::put(key(unit), &*first)?);
        }
        self.commit(writes).await?;
        self.publish(|state| {
            state.units.retain(|u, _| !gone.contains(u));
            state.units.extend(new.into_iter().map(|u| (u, first.clone())));
        });
        Ok(())
    }

    pub async fn drain(&self, host: &str, drained: bool) -> anyhow::Result<()> {
        let _one = self.changing.lock().await;
        let mut hosts = self.state().drained.clone();
        let _ = if drained { hosts.insert(host.to_owned()) } else { hosts.remove(host) };
        self.commit(vec![Write::put("drained", &hosts)?]).await?;
        self.publish(|state| state.drained = hosts);
        Ok(())
    }

    pub async fn set_image(&self, image: Option<String>) -> anyhow::Result<()> {
        let _one = self.changing.lock().await;
        self.commit(vec![Write::put("image", &image)?]).await?;
        self.publish(|state| state.image = image);
        Ok(())
    }

    async fn commit(&self, writes: Vec<Write>) -> anyhow::Result<()> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.commit(&writes)).await.context("store")?.context("storing placements")
    }

    fn publish(&self, edit: impl FnOnce(&mut State)) {
        self.current.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.revision += 1;
            edit(state);
        });
    }
}
