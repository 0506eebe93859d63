//! The rules of the fabric, as a pure function of what is attached to it.
//!
//! ```text
//!  table 0, by in_port                                            table 1, by label
//!   access, VLAN            -> pop  -> PVM.cust                    MPLS label L -> PVM.core that owns L
//!   PVM.cust, untagged      -> push -> access
//!   core, MPLS to PE MAC    -> table 1                             a miss in either table drops
//!   core, other             -> CVM.core
//!   CVM.core                -> core
//!   PVM.core, MPLS from PE MAC to a neighbour -> core port
//!   PVM.core, MPLS from PE MAC to a PE MAC    -> table 1
//! ```
//!
//! A PVM is hostile. What it may send is what has a rule: untagged frames to its own VLAN, and MPLS frames with the
//! PE's source address to a core neighbour or to another attachment of this PE. All else is dropped for want of one.

use crate::rule::{Action, ETH_TYPE_MPLS, Match, PLATFORM_COOKIE, PortNo, Rule, VlanMatch};
use edgeplex_types::{Label, MacAddr, VlanId};
use std::collections::BTreeMap;

/// Everything that is attached to the fabric.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FabricModel {
    pub core: Vec<CorePort>,
    pub attachments: Vec<Attachment>,
    pub neighbors: Vec<Neighbor>,
}

/// One core-facing port, the CVM's vNIC that stands for it, and that vNIC's MAC: the PE's MAC on this segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorePort {
    pub port: PortNo,
    pub cvm: PortNo,
    pub mac: MacAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// [`crate::cookie_of`] its customer.
    pub cookie: u64,
    pub access: PortNo,
    /// Untagged when `None`.
    pub vlan: Option<VlanId>,
    /// The PVM's vNICs.
    pub cust: PortNo,
    pub core: PortNo,
    /// VPN label of the attachment, once the CVM has given it one.
    pub label: Option<Label>,
}

/// A router seen on a core segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    pub mac: MacAddr,
    /// The core port behind which it is.
    pub port: PortNo,
}

/// Rules by ports and VLAN, before any that sends all the rest of a port somewhere.
const EXACT: u16 = 200;
const REST: u16 = 100;
const CLASSIFY: u8 = 0;
const LABELS: u8 = 1;

/// The rules that `model` needs, sorted, one for each match.
pub fn rules(model: &FabricModel) -> Vec<Rule> {
    let mut out = vec![];
    let mut add = |cookie, table, priority, matches, actions: Vec<Action>| out.push(Rule { cookie, table, priority, matches, actions });
    let mpls = |in_port, src: Option<MacAddr>, dst| Match {
        in_port: Some(in_port),
        eth_type: Some(ETH_TYPE_MPLS),
        eth_src: src,
        eth_dst: Some(dst),
        ..Match::default()
    };
    let from = |p| Match { in_port: Some(p), ..Match::default() };
    for c in &model.core {
        add(PLATFORM_COOKIE, CLASSIFY, EXACT, mpls(c.port, None, c.mac), vec![Action::Goto(LABELS)]);
        add(PLATFORM_COOKIE, CLASSIFY, REST, from(c.port), vec![Action::Output(c.cvm)]);
        add(PLATFORM_COOKIE, CLASSIFY, REST, from(c.cvm), vec![Action::Output(c.port)]);
    }
    for a in &model.attachments {
        let tag = a.vlan.map_or(VlanMatch::Untagged, VlanMatch::Tagged);
        let (pop, push) = (a.vlan.map(|_| Action::PopVlan), a.vlan.map(Action::PushVlan));
        let inward = pop.into_iter().chain([Action::Output(a.cust)]).collect();
        add(a.cookie, CLASSIFY, EXACT, Match { vlan: tag, ..from(a.access) }, inward);
        // Untagged only: a tagged frame of the PVM would hop into a neighbouring VLAN of an untagged access port.
        let outward = push.into_iter().chain([Action::Output(a.access)]).collect();
        add(a.cookie, CLASSIFY, EXACT, Match { vlan: VlanMatch::Untagged, ..from(a.cust) }, outward);
        for c in &model.core {
            for n in model.neighbors.iter().filter(|n| n.port == c.port) {
                add(a.cookie, CLASSIFY, EXACT, mpls(a.core, Some(c.mac), n.mac), vec![Action::Output(c.port)]);
            }
            for to in &model.core {
                add(a.cookie, CLASSIFY, EXACT, mpls(a.core, Some(c.mac), to.mac), vec![Action::Goto(LABELS)]);
            }
        }
        if let Some(label) = a.label {
            let matches = Match { eth_type: Some(ETH_TYPE_MPLS), mpls_label: Some(label), ..Match::default() };
            add(a.cookie, LABELS, EXACT, matches, vec![Action::Output(a.core)]);
        }
    }
    // One rule a match: where a neighbour claims a PE's own address, or is seen twice, the last one written counts
    // (the PE's own, by the order above).
    let unique: BTreeMap<_, _> = out.into_iter().map(|r| ((r.table, r.priority, r.matches.clone()), r)).collect();
    unique.into_values().collect()
}
