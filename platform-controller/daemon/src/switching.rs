//! The switch as the controller sees it: a trait, Open vSwitch behind it, and the one task through which rules change.

use anyhow::Context;
use edgeplex_switch::{Changes, PortNo, Rule, Switch};
use futures::future::BoxFuture;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

/// How often the connection is used when there is nothing to do. Open vSwitch closes one that says nothing for a minute or two, and a
/// failover should find one that is open.
const USE: Duration = Duration::from_secs(10);

/// The switch as the reconciler needs it; [`edgeplex_switch::Switch`] behind a reconnecting wrapper, or a fake.
pub trait Fabricator: Send + Sync + std::fmt::Debug {
    fn ports(&mut self) -> BoxFuture<'_, anyhow::Result<BTreeMap<String, PortNo>>>;
    fn rules(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Rule>>>;
    fn ensure_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
    fn remove_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
    fn apply<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// Open vSwitch, connected to anew when a connection has failed.
#[derive(Debug)]
pub struct OpenVSwitch {
    pub run_dir: PathBuf,
    pub bridge: String,
    pub connection: Option<Switch>,
}

impl OpenVSwitch {
    async fn with<T>(&mut self, act: impl AsyncFnOnce(&mut Switch) -> Result<T, edgeplex_switch::SwitchError>) -> anyhow::Result<T> {
        let mut switch = match self.connection.take() {
            Some(s) => s,
            None => Switch::connect(&self.run_dir, &self.bridge).await?,
        };
        let result = act(&mut switch).await?;
        self.connection = Some(switch);
        Ok(result)
    }
}

impl Fabricator for OpenVSwitch {
    fn ports(&mut self) -> BoxFuture<'_, anyhow::Result<BTreeMap<String, PortNo>>> {
        Box::pin(self.with(async |s| s.ports().await))
    }
    fn rules(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Rule>>> {
        Box::pin(self.with(async |s| s.rules().await))
    }
    fn ensure_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.with(async move |s| s.ensure_port(name).await.map(drop)))
    }
    fn remove_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.with(async move |s| s.remove_port(name).await))
    }
    fn apply<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.with(async move |s| s.apply(changes).await))
    }
}

/// Rules change here and nowhere else, one bundle after the other. A bundle that was made of older placements than one before it is
/// refused: it would lead back.
#[derive(Debug, Clone)]
pub struct Bundles(mpsc::Sender<Bundle>);

#[derive(Debug)]
struct Bundle {
    changes: Changes,
    /// Revision of the placements that it was made of.
    revision: u64,
    leads: bool,
    answer: oneshot::Sender<anyhow::Result<()>>,
}

impl Bundles {
    pub fn start(mut switch: Box<dyn Fabricator>) -> Self {
        let (orders, mut ordered) = mpsc::channel::<Bundle>(16);
        tokio::spawn(async move {
            let mut led = 0;
            let mut idle = interval(USE);
            idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let ordered = tokio::select! {
                    biased;
                    ordered = ordered.recv() => ordered,
                    _ = idle.tick() => {
                        // Should it fail, the next bundle opens another.
                        let _ = switch.ports().await;
                        continue;
                    }
                };
                let Some(Bundle { changes, revision, leads, answer }) = ordered else { return };
                let result = if revision < led {
                    Err(anyhow::anyhow!("placements have changed meanwhile"))
                } else {
                    led = if leads { revision } else { led };
                    switch.apply(&changes).await
                };
                let _ = answer.send(result);
            }
        });
        Self(orders)
    }

    /// Of a reconciler's pass.
    pub async fn apply(&self, changes: Changes, revision: u64) -> anyhow::Result<()> {
        self.order(changes, revision, false).await
    }

    /// Leads to another instance.
    pub async fn lead(&self, changes: Changes, revision: u64) -> anyhow::Result<()> {
        self.order(changes, revision, true).await
    }

    async fn order(&self, changes: Changes, revision: u64, leads: bool) -> anyhow::Result<()> {
        let (answer, done) = oneshot::channel();
        self.0.send(Bundle { changes, revision, leads, answer }).await.context("the switch is served no more")?;
        done.await.context("the switch is served no more")?
    }
}
