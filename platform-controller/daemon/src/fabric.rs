//! What the switch must know of the core side: labels and neighbours, as the CVM tells them.
//!
//! The CVM may restart at any time and then knows less for a while. What it said stays in force until it says otherwise
//! (labels) or has not named it for [`LINGER`] (neighbours): a restart of the control plane must not touch forwarding.

use crate::{desired::Desired, specs, vmlink};
use edgeplex_intent::{Customer, Platform, core_interface, core_mac};
use edgeplex_mgmt::show::{CvmQuery, Fabric};
use edgeplex_runtime::{VmId, host_nic_name};
use edgeplex_switch::{Attachment, CorePort, FabricModel, Neighbor, PortNo, cookie_of};
use edgeplex_types::{AttachmentId, Label, MacAddr};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a neighbour counts that the CVM no longer names.
/// Long: a rule for a neighbour that is gone harms nobody, one that is missing stops forwarding.
const LINGER: Duration = Duration::from_secs(600);
/// The CVM answers a long poll after some 20 s at the latest.
const POLL: Duration = Duration::from_secs(30);
/// Between two tries while it does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// All that the CVM has said and that is in force.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub labels: BTreeMap<AttachmentId, Label>,
    /// Core interface and MAC, with the time at which it was last named.
    neighbors: BTreeMap<(String, MacAddr), Instant>,
}

impl Known {
    /// Takes the CVM's word at `now`.
    pub fn learn(&mut self, fabric: &Fabric, now: Instant) {
        for l in &fabric.labels {
            // A label has one owner: whoever had it before has it no more.
            self.labels.retain(|id, label| *label != l.label || *id == l.attachment);
            self.labels.insert(l.attachment.clone(), l.label);
        }
        for n in &fabric.neighbors {
            self.neighbors.insert((n.interface.clone(), n.mac), now);
        }
        self.neighbors.retain(|_, seen| now.saturating_duration_since(*seen) < LINGER);
    }

    /// Forgets the labels of attachments that are gone.
    pub fn forget(&mut self, wanted: impl Fn(&AttachmentId) -> bool) {
        self.labels.retain(|id, _| wanted(id));
    }
}

/// Follows the CVM for ever: each of its answers is published and the reconciler woken by it.
pub async fn follow(run_dir: PathBuf, publish: watch::Sender<Option<Fabric>>) {
    // No generation is this high: the first question is answered at once.
    let mut seen = u64::MAX;
    loop {
        match vmlink::ask::<_, Fabric>(&run_dir, &CvmQuery::Fabric { seen }, POLL).await {
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

/// The model from which the rules are made. What has no port yet is left out until it has.
pub fn model(desired: &Desired, platform: &Platform, known: &Known, ports: &BTreeMap<String, PortNo>, dir: &Path) -> FabricModel {
    let port = |name: &str| ports.get(name).copied();
    let nic = |vm: &str, nic: &str| vm.parse::<VmId>().ok().and_then(|id| port(&host_nic_name(dir, &id, nic)));
    let core = platform.core.iter().enumerate().filter_map(|(n, c)| {
        Some(CorePort { port: port(&c.port)?, cvm: nic(specs::CVM, &core_interface(n))?, mac: core_mac(platform, &c.port) })
    });
    // Whose routes may come here by import (RFC 4364 §4.3.1): only to them may this attachment send without leaving the PE.
    let imports = |id: &AttachmentId, c: &Customer| {
        let exporters =
            desired.intent.attachments().filter(|(other, o, _)| other != id && o.vpn.export.iter().any(|rt| c.vpn.import.contains(rt)));
        exporters.filter_map(|(other, _, _)| known.labels.get(&other).copied()).collect()
    };
    let attachment = |(id, c, a): (AttachmentId, &Customer, &edgeplex_intent::Attachment)| {
        let vm = specs::vm_of(&id);
        Some(Attachment {
            cookie: cookie_of(id.customer.as_str()),
            access: port(&a.port)?,
            vlan: a.vlan,
            cust: nic(&vm, specs::CUST)?,
            core: nic(&vm, specs::CORE)?,
            label: known.labels.get(&id).copied(),
            imports: imports(&id, c),
        })
    };
    let behind = |interface: &str| platform.core.iter().enumerate().find(|(n, _)| core_interface(*n) == interface).map(|(_, c)| &c.port);
    let neighbor = |(interface, mac): &(String, MacAddr)| Some(Neighbor { mac: *mac, port: port(behind(interface)?)? });
    FabricModel {
        core: core.collect(),
        attachments: desired.intent.attachments().filter_map(attachment).collect(),
        neighbors: known.neighbors.keys().filter_map(neighbor).collect(),
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
        known.learn(&fabric(&[], &[1]), start + Duration::from_secs(500));
        known.learn(&fabric(&[], &[1]), start + Duration::from_secs(650));
        assert_eq!(known.neighbors.len(), 1, "a neighbour that is not named for long is gone");
    }

    #[tokio::test]
    async fn a_label_has_one_owner() {
        let mut known = Known::default();
        known.learn(&fabric(&[("acme/a", 100), ("beta/b", 101)], &[]), Instant::now());
        known.learn(&fabric(&[("gamma/c", 100)], &[]), Instant::now());
        assert!(!known.labels.contains_key(&"acme/a".parse().unwrap()));
        known.forget(|id| id.customer.as_str() == "gamma");
        assert_eq!(known.labels.len(), 1);
    }
}
