//! The switch as the reconciler sees it: a trait, and Open vSwitch behind it.

use edgeplex_switch::{Changes, PortNo, Rule, Switch};
use futures::future::BoxFuture;
use std::{collections::BTreeMap, path::PathBuf};

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
