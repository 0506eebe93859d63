//! The rules of the fabric, as a pure function of what is attached to it.
//!
//! ```text
//!  table 0, by in_port                                            table 2, by label
//!   access, VLAN            -> pop  -> PVM.cust                    label of a PVM              -> PVM.core that owns it
//!   PVM.cust, untagged      -> push -> access                      any other, from core port i -> LSR.coreI
//!   core, MPLS to PE MAC    -> table 2
//!   core, other             -> CVM.core                            a miss in any table drops
//!   CVM.core                -> core
//!   LSR.core, MPLS to PE MAC -> table 2                           (a popped explicit null: the next label is a PVM's)
//!   LSR.core, to PUNT_MAC    -> CVM.core                          (for the control plane, with its labels)
//!   LSR.core, other, to PE MAC -> CVM.core                        (a popped explicit null: the packet is ours)
//!   LSR.core, from PE MAC, other -> core                          (switched)
//!   PVM.core, MPLS from PE MAC to a neighbour -> core port
//!   PVM.core, MPLS from PE MAC to a PE MAC, label of an attachment it imports from -> that PVM.core
//!   link to a host, tag of a vNIC -> pop, note the tag -> table 1
//!  table 1, by link and noted tag: what table 0 has for the vNIC, were it here
//! ```
//! A vNIC on another host is a tag on the link to it, pushed last and popped first; the switch there is a port extender ([`extender`]).
//!
//! A PVM is hostile. What it may send is what has a rule: untagged frames to its own VLAN, and MPLS frames with the
//! PE's source address to a core neighbour or to attachments of its own VPN on this PE. All else is dropped for want of one;
//! so there is no way from a PVM to the label-switching router, but by a neighbour: what labels say to one is not looked at (DESIGN.md,
//! "A hostile VM": why the core has to be authenticated). That one, without customers of its own, is trusted as the CVM
//! is, with what a router may send: only as the PE, or to the CVM beside it.

use crate::rule::{Action, ETH_TYPE_MPLS, Match, PLATFORM_COOKIE, Port, PortNo, Rule, VlanMatch};
use edgeplex_types::{Label, MacAddr, VlanId};
use std::collections::BTreeMap;

/// Everything that is attached to the fabric. Of several instances of a VM it names the one to which traffic is led.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FabricModel {
    pub core: Vec<CorePort>,
    pub attachments: Vec<Attachment>,
    pub neighbors: Vec<Neighbor>,
}

/// One core-facing port, the vNICs of the CVM and the label-switching router that stand for it, and the PE's MAC on this
/// segment, which is the CVM's vNIC's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorePort {
    pub port: PortNo,
    pub cvm: Port,
    /// Where the platform has one.
    pub lsr: Option<Port>,
    pub mac: MacAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// [`crate::cookie_of`] its customer.
    pub cookie: u64,
    pub access: PortNo,
    /// Untagged when `None`.
    pub vlan: Option<VlanId>,
    /// Of the PVM that serves it.
    pub vnics: Vnics,
    /// Of PVMs that served it until just now: nothing is led to them any more, but what they have still goes its way.
    pub draining: Vec<Vnics>,
    /// VPN labels of the attachment, as soon as the CVM has given it some.
    pub labels: Vec<Label>,
    /// Labels of the attachments of this PE whose routes this one imports: all that it may send to directly.
    pub imports: Vec<Label>,
}

/// A PVM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnics {
    pub cust: Port,
    pub core: Port,
}

/// A router seen on a core segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    pub mac: MacAddr,
    /// The core port behind which it is.
    pub port: PortNo,
}

/// Where the label-switching router sends what the control plane is to look at; the same as in edgeplex-ff-fib-api.
pub const PUNT_MAC: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0xfd]);

/// Rules by ports and VLAN, before those by address alone, before any that sends all the rest of a port somewhere.
const EXACT: u16 = 200;
const ADDRESS: u16 = 150;
const REST: u16 = 100;
const CLASSIFY: u8 = 0;
/// As [`CLASSIFY`], for what came from another host's vNICs: the tag is off and noted.
const REMOTE: u8 = 1;
const LABELS: u8 = 2;

/// What comes from a vNIC, and the table in which to look for it.
fn from(p: impl Into<Port>) -> (u8, Match) {
    let Port { no, tag } = p.into();
    let matches = Match { in_port: Some(no), metadata: tag.map(noted), ..Match::default() };
    (if tag.is_some() { REMOTE } else { CLASSIFY }, matches)
}

fn noted(tag: VlanId) -> u64 {
    tag.get().into()
}

/// Sends to a vNIC or port what came in by `in_port`.
fn to(in_port: PortNo, p: impl Into<Port>) -> Vec<Action> {
    let Port { no, tag } = p.into();
    // From one vNIC of a host to another of the same.
    let out = if no == in_port { PortNo::IN_PORT } else { no };
    tag.map(Action::PushVlan).into_iter().chain([Action::Output(out)]).collect()
}

/// MPLS with these addresses; tags beside the one that was taken off are nobody's.
fn mpls((table, matches): (u8, Match), src: Option<MacAddr>, dst: MacAddr) -> (u8, Match) {
    (table, Match { vlan: VlanMatch::Untagged, eth_type: Some(ETH_TYPE_MPLS), eth_src: src, eth_dst: Some(dst), ..matches })
}

/// Rules as they are made; of two with the same match the later one counts.
#[derive(Default)]
struct Rules(BTreeMap<(u8, u16, Match), Rule>);

impl Rules {
    fn add(&mut self, cookie: u64, priority: u16, (table, matches): (u8, Match), actions: Vec<Action>) {
        let key = (table, priority, matches.clone());
        self.0.insert(key, Rule { cookie, table, priority, matches, actions });
    }

    /// Lets in what comes from a vNIC of another host.
    fn untag(&mut self, cookie: u64, p: Port) {
        if let Some(tag) = p.tag {
            let matches = Match { in_port: Some(p.no), vlan: VlanMatch::Tagged(tag), ..Match::default() };
            self.add(cookie, EXACT, (CLASSIFY, matches), vec![Action::PopVlan, Action::Metadata(noted(tag)), Action::Goto(REMOTE)]);
        }
    }
}

/// The rules that `model` needs, sorted, one for each match.
pub fn rules(model: &FabricModel) -> Vec<Rule> {
    let mut out = Rules::default();
    for c in &model.core {
        core(c, &mut out);
    }
    for a in &model.attachments {
        for v in a.draining.iter().chain([&a.vnics]) {
            from_customer(a, v, &mut out);
            from_pvm(model, a, v, &mut out);
        }
        to_pvm(model, a, &mut out);
    }
    out.0.into_values().collect()
}

fn core(c: &CorePort, out: &mut Rules) {
    const OWN: u64 = PLATFORM_COOKIE;
    out.add(OWN, EXACT, mpls(from(c.port), None, c.mac), vec![Action::Goto(LABELS)]);
    out.add(OWN, REST, from(c.port), to(c.port, c.cvm));
    out.untag(OWN, c.cvm);
    out.add(OWN, REST, from(c.cvm), to(c.cvm.no, c.port));
    let Some(lsr) = c.lsr else { return };
    out.untag(OWN, lsr);
    out.add(OWN, EXACT, mpls(from(lsr), None, c.mac), vec![Action::Goto(LABELS)]);
    let addressed = |mac| {
        let (table, matches) = from(lsr);
        (table, Match { eth_dst: Some(mac), ..matches })
    };
    out.add(OWN, EXACT, addressed(PUNT_MAC), to(lsr.no, c.cvm));
    out.add(OWN, ADDRESS, addressed(c.mac), to(lsr.no, c.cvm));
    let (table, matches) = from(lsr);
    out.add(OWN, REST, (table, Match { eth_src: Some(c.mac), ..matches }), to(lsr.no, c.port));
    // What the router sends to the labels' table and is nobody's is dropped: back to itself it would go round for ever.
    let (_, any) = from(c.port);
    out.add(OWN, REST, (LABELS, any), to(c.port, lsr));
}

/// What the customer and a PVM of its attachment send each other; towards the PVM only if it serves the attachment.
fn from_customer(a: &Attachment, v: &Vnics, out: &mut Rules) {
    out.untag(a.cookie, v.cust);
    let (table, matches) = from(v.cust);
    // Untagged only: a tagged frame of the PVM would hop into a neighbouring VLAN of an untagged access port.
    let matches = Match { vlan: VlanMatch::Untagged, ..matches };
    let outward = a.vlan.map(Action::PushVlan).into_iter().chain(to(v.cust.no, a.access)).collect();
    out.add(a.cookie, EXACT, (table, matches), outward);
}

/// What a PVM sends towards the core, and to other attachments.
fn from_pvm(model: &FabricModel, a: &Attachment, v: &Vnics, out: &mut Rules) {
    out.untag(a.cookie, v.core);
    // A neighbour that claims a PE's own address gets nothing.
    let own = |mac| model.core.iter().any(|p| p.mac == mac);
    for c in &model.core {
        for n in model.neighbors.iter().filter(|n| n.port == c.port && !own(n.mac)) {
            out.add(a.cookie, EXACT, mpls(from(v.core), Some(c.mac), n.mac), to(v.core.no, c.port));
        }
        // By label, not to the labels' table: a PVM that was taken over must not reach another customer on this PE.
        for (other, label) in model.core.iter().flat_map(|other| a.imports.iter().map(move |l| (other, *l))) {
            if let Some(owner) = model.attachments.iter().find(|o| o.labels.contains(&label)) {
                let (table, matches) = mpls(from(v.core), Some(c.mac), other.mac);
                let matches = Match { mpls_label: Some(label), ..matches };
                out.add(a.cookie, EXACT, (table, matches), to(v.core.no, owner.vnics.core));
            }
        }
    }
}

/// What is led to the PVM that serves the attachment.
fn to_pvm(model: &FabricModel, a: &Attachment, out: &mut Rules) {
    let tag = a.vlan.map_or(VlanMatch::Untagged, VlanMatch::Tagged);
    let (table, matches) = from(a.access);
    let inward = a.vlan.map(|_| Action::PopVlan).into_iter().chain(to(a.access, a.vnics.cust)).collect();
    out.add(a.cookie, EXACT, (table, Match { vlan: tag, ..matches }), inward);
    let core = a.vnics.core;
    for label in a.labels.iter().copied() {
        let matches = Match { eth_type: Some(ETH_TYPE_MPLS), mpls_label: Some(label), ..Match::default() };
        // A router on the same host: its packets come in by the port that they go out by.
        if model.core.iter().any(|c| c.lsr.is_some_and(|l| l.no == core.no)) {
            out.add(a.cookie, EXACT, (LABELS, Match { in_port: Some(core.no), ..matches.clone() }), to(core.no, core));
        }
        let elsewhere = core.tag.map(Action::PushVlan).into_iter().chain([Action::Output(core.no)]).collect();
        out.add(a.cookie, ADDRESS, (LABELS, matches), elsewhere);
    }
}

/// The rules of a switch that extends another's ports: each vNIC has its own tag on the link to it.
pub fn extender(uplink: PortNo, vnics: &[(PortNo, VlanId)]) -> Vec<Rule> {
    let mut out = Rules::default();
    for (vnic, tag) in vnics {
        let (_, own) = from(*vnic);
        // Only what has no tag: else a VM would speak as another.
        let inward = vec![Action::PushVlan(*tag), Action::Output(uplink)];
        out.add(PLATFORM_COOKIE, EXACT, (CLASSIFY, Match { vlan: VlanMatch::Untagged, ..own }), inward);
        let (_, link) = from(uplink);
        let matches = Match { vlan: VlanMatch::Tagged(*tag), ..link };
        out.add(PLATFORM_COOKIE, EXACT, (CLASSIFY, matches), vec![Action::PopVlan, Action::Output(*vnic)]);
    }
    out.0.into_values().collect()
}

#[cfg(test)]
mod tests;
