//! What the switch must know of the core side: labels and neighbours, as the CVM tells them.
//!
//! The CVM may restart at any time and then knows less for a while. What it said stays in force until it says otherwise (a label
//! is another's) or has not named it for [`LINGER`]: a restart of the control plane must not touch forwarding.

use crate::{
    hosts::{Fleet, Place},
    placement::{Placements, Unit},
    vmlink,
};
use edgeplex_mgmt::show::{CvmQuery, Fabric};
use edgeplex_types::{AttachmentId, Label, MacAddr};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How long a neighbour or a label counts that the CVM no longer names.
/// Long: a rule for one that is gone harms nobody, one that is missing stops forwarding.
const LINGER: Duration = Duration::from_secs(600);
/// The CVM answers a long poll after some 20 s at the latest.
const POLL: Duration = Duration::from_secs(30);
/// Between two tries while it does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// All that the CVM has said and that is in force.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Owner of each label, with the time at which it was last named.
    labels: BTreeMap<Label, (AttachmentId, Instant)>,
    /// Core interface and MAC, likewise.
    neighbors: BTreeMap<(String, MacAddr), Instant>,
}

impl Known {
    /// Takes the CVM's word at `now`.
    pub fn learn(&mut self, fabric: &Fabric, now: Instant) {
        for l in &fabric.labels {
            // A label has one owner: whoever had it before has it no more.
            self.labels.insert(l.label, (l.attachment.clone(), now));
        }
        for n in &fabric.neighbors {
            self.neighbors.insert((n.interface.clone(), n.mac), now);
        }
        let fresh = |seen: &Instant| now.saturating_duration_since(*seen) < LINGER;
        self.labels.retain(|_, (_, seen)| fresh(seen));
        self.neighbors.retain(|_, seen| fresh(seen));
    }

    /// Forgets the labels of attachments that are gone.
    pub fn forget(&mut self, wanted: impl Fn(&AttachmentId) -> bool) {
        self.labels.retain(|_, (id, _)| wanted(id));
    }

    pub fn neighbors(&self) -> impl Iterator<Item = &(String, MacAddr)> {
        self.neighbors.keys()
    }

    pub fn labels_of(&self, id: &AttachmentId) -> impl Iterator<Item = Label> {
        self.labels.iter().filter(move |(_, (owner, _))| owner == id).map(|(label, _)| *label)
    }
}

/// Follows the CVM that is active for ever: each of its answers is published and the reconciler woken by it.
pub async fn follow(fleet: Arc<Fleet>, placements: Arc<Placements>, publish: watch::Sender<Option<Fabric>>) {
    // No generation is this high: the first question is answered at once.
    let mut seen = u64::MAX;
    let mut placed = placements.watch();
    loop {
        let active = placed.borrow_and_update().units.get(&Unit::Cvm).map(|p| p.leader().clone());
        let asked = async {
            let active = active.as_ref().ok_or_else(|| anyhow::anyhow!("there is none"))?;
            let at = Place { runtime: fleet.at(&active.host)?, vm: Unit::Cvm.vm(active.number).parse()? };
            vmlink::ask::<_, Fabric>(&at, &CvmQuery::Fabric { seen }, POLL).await
        };
        // Another one leads: what it says counts from now on.
        let replaced = placed.wait_for(|p| p.units.get(&Unit::Cvm).map(|p| p.leader().number) != active.as_ref().map(|i| i.number));
        let asked = tokio::select! {
            answer = asked => answer,
            changed = async { replaced.await.map(drop) } => match changed {
                Ok(()) => {
                    seen = u64::MAX;
                    continue;
                }
                Err(_) => return,
            },
        };
        match asked {
            Ok(fabric) => {
                seen = fabric.generation;
                publish.send_replace(Some(fabric));
            }
            Err(e) => {
                tracing::debug!("CVM: {e:#}");
                seen = u64::MAX;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_mgmt::show::{FabricLabel, FabricNeighbor};

    fn fabric(labels: &[(&str, u32)], macs: &[u8]) -> Fabric {
        Fabric {
            generation: 1,
            labels: labels.iter().map(|(a, l)| FabricLabel { attachment: a.parse().unwrap(), label: (*l).try_into().unwrap() }).collect(),
            neighbors: macs.iter().map(|m| FabricNeighbor { mac: MacAddr([2, 0, 0, 0, 0, *m]), interface: "core0".into() }).collect(),
        }
    }

    #[tokio::test]
    async fn a_cvm_that_restarted_and_knows_nothing_yet_changes_nothing() {
        let mut known = Known::default();
        let start = Instant::now();
        known.learn(&fabric(&[("acme/a", 100)], &[1, 2]), start);
        known.learn(&fabric(&[], &[]), start + Duration::from_secs(5));
        assert_eq!((known.labels.len(), known.neighbors.len()), (1, 2));
        known.learn(&fabric(&[("acme/a", 101)], &[1]), start + Duration::from_secs(500));
        assert_eq!(known.labels_of(&"acme/a".parse().unwrap()).map(Label::get).collect::<Vec<_>>(), [100, 101], "several, one of each CE");
        known.learn(&fabric(&[], &[1]), start + Duration::from_secs(650));
        assert_eq!(known.neighbors.len(), 1, "a neighbour that is not named for long is gone");
        assert_eq!(known.labels_of(&"acme/a".parse().unwrap()).map(Label::get).collect::<Vec<_>>(), [101], "and a label");
    }

    #[tokio::test]
    async fn a_label_has_one_owner() {
        let mut known = Known::default();
        known.learn(&fabric(&[("acme/a", 100), ("beta/b", 101)], &[]), Instant::now());
        known.learn(&fabric(&[("gamma/c", 100)], &[]), Instant::now());
        assert_eq!(known.labels_of(&"acme/a".parse().unwrap()).count(), 0);
        known.forget(|id| id.customer.as_str() == "gamma");
        assert_eq!(known.labels.len(), 1);
    }
}
