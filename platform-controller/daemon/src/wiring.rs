//! From desired state, placements and what is known of the core to the switch's model, and to the bundle that leads to another
//! instance.

use crate::{
    desired::Desired,
    fabric::Known,
    placement::{Instance, Placement, State as Placed, Unit},
    specs,
};
use edgeplex_intent::{Customer, Platform, core_interface, core_mac};
use edgeplex_runtime::{VmId, host_nic_name};
use edgeplex_switch::{Attachment, Changes, CorePort, FabricModel, Neighbor, Port, PortNo, Rule, Vnics, cookie_of, rules};
use edgeplex_types::{AttachmentId, MacAddr, RouteTarget};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

/// What rules are made from, as the reconciler saw it last.
#[derive(Debug, Clone)]
pub struct Ground {
    pub desired: Arc<Desired>,
    pub known: Arc<Known>,
    pub ports: Arc<BTreeMap<String, PortNo>>,
}

/// The ground, and who is to be led to.
#[derive(Debug, Clone, Copy)]
pub struct Wiring<'a> {
    pub ground: &'a Ground,
    pub placed: &'a Placed,
    pub dir: &'a Path,
}

impl Wiring<'_> {
    fn platform(&self) -> Option<&Platform> {
        self.ground.desired.intent.platform.as_ref()
    }

    fn port(&self, name: &str) -> Option<PortNo> {
        self.ground.ports.get(name).copied()
    }

    /// A vNIC of an instance; `nth` counts its vNICs.
    fn nic(&self, unit: &Unit, i: &Instance, nth: usize, name: &str) -> Option<Port> {
        let link = self.platform()?.hosts.iter().find(|h| h.name.as_str() == i.host);
        match link {
            Some(host) => Some(Port::behind(self.port(&host.port)?, *i.tags.get(nth)?)),
            None => {
                let vm: VmId = unit.vm(i.number).parse().ok()?;
                self.port(&host_nic_name(self.dir, &vm, name)).map(Into::into)
            }
        }
    }

    /// Of a PVM, as soon as the switch has both.
    pub fn vnics(&self, unit: &Unit, i: &Instance) -> Option<Vnics> {
        Some(Vnics { cust: self.nic(unit, i, 0, specs::CUST)?, core: self.nic(unit, i, 1, specs::CORE)? })
    }

    /// All of an instance's, as soon as the switch has them.
    pub fn ports(&self, unit: &Unit, i: &Instance) -> Option<Vec<Port>> {
        match unit {
            Unit::Pvm(_) => self.vnics(unit, i).map(|v| vec![v.cust, v.core]),
            Unit::Cvm => (0..self.platform()?.core.len()).map(|n| self.nic(unit, i, n, &specs::wire(n))).collect(),
        }
    }

    fn core(&self, platform: &Platform) -> Vec<CorePort> {
        let Some(cvm) = self.placed.units.get(&Unit::Cvm) else { return vec![] };
        let one = |(n, c): (usize, &edgeplex_intent::Core)| {
            let interface = core_interface(n);
            let lsr: Option<VmId> = platform.ldp.as_ref().and_then(|_| specs::LSR.parse().ok());
            let lsr = lsr.and_then(|id| self.port(&host_nic_name(self.dir, &id, &interface))).map(Into::into);
            let cvm = self.nic(&Unit::Cvm, &cvm.active, n, &specs::wire(n))?;
            Some(CorePort { port: self.port(&c.port)?, cvm, lsr, mac: core_mac(platform, &c.port) })
        };
        platform.core.iter().enumerate().filter_map(one).collect()
    }

    /// Whose routes may come here by import (RFC 4364 §4.3.1): only to them may this attachment send without leaving the PE.
    fn imports_from<'a>(
        &'a self,
        id: &AttachmentId,
        c: &Customer,
        a: &edgeplex_intent::Attachment,
    ) -> impl Iterator<Item = AttachmentId> + 'a {
        let intent = &self.ground.desired.intent;
        let leaked = c.vpn.leak.iter().flat_map(|l| intent.leaked(&l.from));
        let wanted: BTreeSet<RouteTarget> = c.import_of(a).iter().copied().chain(leaked).collect();
        let id = id.clone();
        let others = intent.attachments().filter(move |(other, o, b)| *other != id && o.export_of(b).iter().any(|rt| wanted.contains(rt)));
        others.map(|(other, _, _)| other)
    }

    fn attachment(&self, id: &AttachmentId, c: &Customer, a: &edgeplex_intent::Attachment) -> Option<Attachment> {
        let known = &self.ground.known;
        let unit = Unit::Pvm(id.clone());
        let p = self.placed.units.get(&unit)?;
        Some(Attachment {
            cookie: cookie_of(id.customer.as_str()),
            access: self.port(&a.port)?,
            vlan: a.vlan,
            vnics: self.vnics(&unit, &p.active)?,
            draining: p.lingering().filter(|i| i.number != p.active.number).and_then(|i| self.vnics(&unit, i)).into_iter().collect(),
            labels: known.labels_of(id).collect(),
            imports: self.imports_from(id, c, a).flat_map(|other| known.labels_of(&other).collect::<Vec<_>>()).collect(),
        })
    }

    /// The model from which the rules are made. What has no port yet is left out until it has.
    pub fn model(&self) -> FabricModel {
        self.model_of(|_| true)
    }

    fn model_of(&self, of: impl Fn(&AttachmentId) -> bool) -> FabricModel {
        let Some(platform) = self.platform() else { return FabricModel::default() };
        let behind =
            |interface: &str| platform.core.iter().enumerate().find(|(n, _)| core_interface(*n) == interface).map(|(_, c)| &c.port);
        let neighbor = |(interface, mac): &(String, MacAddr)| Some(Neighbor { mac: *mac, port: self.port(behind(interface)?)? });
        let attachments = self.ground.desired.intent.attachments().filter(|(id, _, _)| of(id));
        FabricModel {
            core: self.core(platform),
            attachments: attachments.filter_map(|(id, c, a)| self.attachment(&id, c, a)).collect(),
            neighbors: self.ground.known.neighbors().filter_map(neighbor).collect(),
        }
    }

    /// Those with which the attachment shares rules, and itself.
    fn around(&self, id: &AttachmentId) -> BTreeSet<AttachmentId> {
        let intent = &self.ground.desired.intent;
        let mut out = BTreeSet::from([id.clone()]);
        for (other, c, a) in intent.attachments() {
            if other == *id {
                out.extend(self.imports_from(id, c, a));
            } else if self.imports_from(&other, c, a).any(|from| from == *id) {
                out.insert(other);
            }
        }
        out
    }

    /// The bundle that leads to the active instance of `unit`, and cuts off all others that do not linger. `None` while the switch
    /// has no ports of it.
    pub fn lead(&self, unit: &Unit) -> Option<Changes> {
        let p = self.placed.units.get(unit)?;
        let of: BTreeSet<AttachmentId> = match unit {
            Unit::Cvm => BTreeSet::new(),
            Unit::Pvm(id) => self.around(id),
        };
        let touching =
            |rules: Vec<Rule>, ports: &[Port]| rules.into_iter().filter(|r| ports.iter().any(|p| r.touches(*p))).collect::<Vec<_>>();
        let target = rules(&self.model_of(|id| of.contains(id)));
        let mut remove: Vec<Rule> = vec![];
        let lingering = p.lingering().map(|i| i.number);
        for other in p.instances().into_iter().filter(|i| i.number != p.active.number && Some(i.number) != lingering) {
            let Some(ports) = self.ports(unit, other) else { continue };
            let mut placed = self.placed.clone();
            placed.units.insert(unit.clone(), Arc::new(Placement { active: other.clone(), unfinished: None, ..(**p).clone() }));
            let before = Wiring { placed: &placed, ..*self }.model_of(|id| of.contains(id));
            remove.extend(touching(rules(&before), &ports));
        }
        let key = |r: &Rule| (r.table, r.priority, r.matches.clone());
        let kept: BTreeSet<_> = target.iter().map(key).collect();
        remove.retain(|r| !kept.contains(&key(r)));
        Some(Changes { add: touching(target, &self.ports(unit, &p.active)?), remove })
    }
}
