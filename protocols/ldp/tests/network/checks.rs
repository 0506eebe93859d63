//! What must hold always, and what must hold once everything has settled.

use super::{Network, interface, loopback, node_of};
use edgeplex_ldp::{Ldp, State};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;

/// What a node has of another's labels.
fn heard_from(ldp: &Ldp, other: usize) -> BTreeMap<Ipv4Net, (Label, bool)> {
    let of_other = |b: &edgeplex_ldp::BindingView| b.remote.iter().find(|r| node_of(r.lsr_id) == other).map(|r| (r.label, r.stale));
    ldp.lib().iter().filter_map(|b| Some((b.prefix, of_other(b)?))).collect()
}

fn local(ldp: &Ldp) -> BTreeMap<Ipv4Net, Label> {
    ldp.lib().iter().filter_map(|b| Some((b.prefix, b.local?))).collect()
}

impl Network {
    pub(crate) fn check_always(&self) {
        let locals: Vec<_> = self.nodes.iter().map(|n| local(&n.ldp)).collect();
        for (at, node) in self.nodes.iter().enumerate() {
            // Ordered control.
            // One that has just taken over does nothing about labels before it knows its routes.
            for (fec, f) in node.ldp.forwarding().iter().filter(|_| !node.journal.awaits_routes) {
                let behind = f.egress || f.hops.iter().any(|(_, label)| label.is_some());
                assert!(f.local.is_none() || behind, "{at} at {:?}: {fec} has a label with nothing behind it: {f:?}", self.now);
                assert_eq!(f.local, locals[at].get(fec).copied(), "{at} at {:?}: {fec}", self.now);
            }
            // No label means two FECs, neither here nor to anybody who has heard of it.
            let mut meaning: BTreeMap<Label, Ipv4Net> = BTreeMap::new();
            for (fec, label) in locals[at].iter().filter(|(_, l)| !l.is_reserved()) {
                assert_eq!(meaning.insert(*label, *fec), None, "{at} at {:?}: {label} twice", self.now);
                assert!(node.ldp.labels_in_use().contains_key(label), "{at} at {:?}: {label} is free and in use", self.now);
            }
            for (other, listener) in self.nodes.iter().enumerate().filter(|(other, _)| *other != at) {
                for (fec, (label, stale)) in heard_from(&listener.ldp, at) {
                    let means = meaning.get(&label).unwrap_or(&fec);
                    assert_eq!(*means, fec, "{at} at {:?}: {label} has another meaning at {other}, stale {stale}", self.now);
                }
            }
        }
    }

    /// Everything is repaired and quiet.
    pub(crate) fn check_agreement(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let mut neighbors = std::collections::BTreeSet::new();
            for link in self.links_of(at) {
                neighbors.extend(self.links[link].ends.into_iter().filter(|n| *n != at));
            }
            let routes = self.routes_of(at);
            let own = local(&node.ldp);
            let keys: Vec<_> = own.keys().collect();
            assert_eq!(keys, routes.keys().collect::<Vec<_>>(), "{at}: every FEC has a label");
            for &other in &neighbors {
                assert_eq!(node.ldp.state(loopback(other)), State::Operational, "{at} with {other}");
                let told: BTreeMap<_, _> = own.iter().map(|(fec, label)| (*fec, (*label, false))).collect();
                assert_eq!(heard_from(&self.nodes[other].ldp, at), told, "what {other} has of {at}");
            }
            let shown = node.ldp.neighbors(self.now);
            assert_eq!(shown.len(), neighbors.len(), "{at}: nobody else is remembered");
            for n in shown {
                assert_eq!((n.labels_sent, n.stale), (own.len(), false), "{at}: {n:?}");
            }
            // No label leaks: each has our binding and every neighbour as its users.
            let expected: BTreeMap<_, _> = own.values().filter(|l| !l.is_reserved()).map(|label| (*label, 1 + neighbors.len())).collect();
            assert_eq!(node.ldp.labels_in_use(), &expected, "{at}: users of labels");
            assert!(!node.ldp.recovering());
            let bindings: BTreeMap<_, _> = own.iter().filter(|(_, l)| !l.is_reserved()).map(|(f, l)| (*f, *l)).collect();
            assert_eq!(node.stored, bindings, "{at}: stored");
            for fec in routes.keys() {
                self.follow(at, *fec);
            }
        }
    }

    /// Every path of labels ends at an egress.
    fn follow(&self, from: usize, fec: Ipv4Net) {
        let mut ways = vec![(from, 0)];
        while let Some((at, depth)) = ways.pop() {
            assert!(depth <= self.nodes.len(), "{fec} from {from}: a loop");
            let entry = &self.nodes[at].ldp.forwarding()[&fec];
            for (hop, label) in &entry.hops {
                let link = (0..self.links.len()).find(|l| interface(*l) == hop.interface).unwrap();
                let next = self.links[link].ends.into_iter().find(|n| *n != at).unwrap();
                assert_eq!(*label, self.nodes[next].ldp.forwarding()[&fec].local, "{fec} from {from}: {at} to {next}");
                assert!(label.is_some(), "{fec} from {from}: no label at {at}");
                ways.push((next, depth + 1));
            }
            assert!(entry.egress || !entry.hops.is_empty(), "{fec} from {from}: ends at {at}");
        }
    }
}
