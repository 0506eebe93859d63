//! Hosts: whether they are there, and what is on them.

use super::Viewer;
use crate::{hosts::told, placement::State};
use edgeplex_api::HostRow;
use edgeplex_runtime::{DEFAULT_IMAGE, Image, Reach, RuntimeError, VmState};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::timeout;

/// A table must come soon, whatever a host does.
const GLANCE: Duration = Duration::from_secs(3);

impl Viewer {
    /// The controller's own first.
    pub async fn hosts(&self) -> Vec<HostRow> {
        let placed = self.placements.state();
        let own = self.images_of(edgeplex_intent::OWN_HOST).await.unwrap_or_default();
        join_all(self.fleet.names().into_iter().map(|name| self.host(name, &placed, &own))).await
    }

    async fn images_of(&self, host: &str) -> anyhow::Result<Vec<Image>> {
        let runtime = self.fleet.at(host)?;
        Ok(timeout(GLANCE, runtime.images()).await??)
    }

    async fn host(&self, name: String, placed: &State, own: &[Image]) -> HostRow {
        let (seen, described) = (self.fleet.seen(&name), self.fleet.described(&name));
        let silent = || RuntimeError::Unreachable { host: name.clone(), what: "it does not answer".into() };
        let vms = match self.fleet.at(&name) {
            Ok(runtime) => timeout(GLANCE, runtime.list()).await.unwrap_or_else(|_| Err(silent())),
            Err(_) => Ok(vec![]),
        };
        let (vms, problem) = vms.map_or_else(|e| (vec![], told(e)), |vms| (vms, String::new()));
        let there = self.images_of(&name).await.unwrap_or_default();
        let is_default = |i: &&Image| i.name == DEFAULT_IMAGE;
        let image = |own: &Image| {
            let same = there.iter().any(|i| i.name == own.name && i.hash == own.hash);
            let mut at = self.fleet.image_at(name.clone(), &own.name, same);
            if own.name == DEFAULT_IMAGE && !same {
                // It lies beside the agent, and nobody copies it.
                at.note = if at.away { "unknown" } else { "the programs there are others than the controller's" }.into();
            }
            at
        };
        HostRow {
            address: described.as_ref().map(|h| h.address),
            port: described.map(|h| h.port),
            reach: match seen.reach {
                Reach::Up => "up",
                Reach::Broken => "broken",
                Reach::Lost => "lost",
            }
            .into(),
            since_ms: seen.since_ms,
            drained: placed.drained.contains(&name),
            vms: vms.iter().filter(|vm| vm.state != VmState::Dead).count(),
            active: placed.units.values().filter(|p| p.active.host == name).count(),
            standby: placed.units.values().filter(|p| p.standby.as_ref().is_some_and(|s| s.host == name)).count(),
            version: there.iter().find(is_default).map(|i| i.version.clone()).unwrap_or_default(),
            images: own.iter().map(image).collect(),
            problem,
            name,
        }
    }
}
