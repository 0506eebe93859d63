//! What the switch must know of the core side: labels and neighbours, as the CVM tells them.
//!
//! The CVM may restart at any time and then knows less for a while. What it said stays in force until it says otherwise (a label
//! is another's) or has not named it for [`LINGER`]: a restart of the control plane must not touch forwarding.

use crate::{desired::Desired, specs, vmlink};
use edgeplex_intent::{Customer, Platform, core_interface, core_mac};
use edgeplex_mgmt::show::{CvmQuery, Fabric};
use edgeplex_runtime::{Runtime, VmId, host_nic_name};
use edgeplex_switch::{Attachment, CorePort, FabricModel, Neighbor, PortNo, cookie_of};
use edgeplex_types::{AttachmentId, Label, MacAddr, RouteTarget};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
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

    pub fn labels_of(&self, id: &AttachmentId) -> impl Iterator<Item = Label> {
        self.labels.iter().filter(move |(_, (owner, _))| owner == id).map(|(label, _)| *label)
    }
}

/// Follows the CVM for ever: each of its answers is published and the reconciler woken by it.
pub async fn follow(runtime: Arc<dyn Runtime>, publish: watch::Sender<Option<Fabric>>) {
    // No generation is this high: the first question is answered at once.
    let mut seen = u64::MAX;
    loop {
        let asked = async {
            let run_dir = vmlink::run_dir(&*runtime, specs::CVM).await?;
            vmlink::ask::<_, Fabric>(&run_dir, &CvmQuery::Fabric { seen }, POLL).await
        };
        match asked.await {
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
        let interface = core_interface(n);
        let lsr = platform.ldp.as_ref().and_then(|_| nic(specs::LSR, &interface));
        Some(CorePort { port: port(&c.port)?, cvm: nic(specs::CVM, &interface)?, lsr, mac: core_mac(platform, &c.port) })
    });
    // Whose routes may come here by import (RFC 4364 §4.3.1): only to them may this attachment send without leaving the PE.
    let imports = |id: &AttachmentId, c: &Customer, a: &edgeplex_intent::Attachment| {
        let leaked = c.vpn.leak.iter().flat_map(|l| desired.intent.leaked(&l.from));
        let wanted: BTreeSet<RouteTarget> = c.import_of(a).iter().copied().chain(leaked).collect();
        let others =
            desired.intent.attachments().filter(|(other, o, b)| other != id && o.export_of(b).iter().any(|rt| wanted.contains(rt)));
        others.flat_map(|(other, _, _)| known.labels_of(&other).collect::<Vec<_>>()).collect()
    };
    let attachment = |(id, c, a): (AttachmentId, &Customer, &edgeplex_intent::Attachment)| {
        let vm = specs::vm_of(&id);
        Some(Attachment {
            cookie: cookie_of(id.customer.as_str()),
            access: port(&a.port)?,
            vlan: a.vlan,
            cust: nic(&vm, specs::CUST)?,
            core: nic(&vm, specs::CORE)?,
            labels: known.labels_of(&id).collect(),
            imports: imports(&id, c, a),
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
