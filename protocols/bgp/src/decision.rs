//! The decision process (RFC 4271 §9.1.2.2, with RFC 4456 §9 for reflected routes).

use edgeplex_bgp_wire::Attributes;
use std::{
    cmp::{Ordering, Reverse},
    net::{IpAddr, Ipv4Addr},
};

/// Local preference of a route that carries none.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// Where a route came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Connected, static, or otherwise ours: preferred before anything learnt, whatever its attributes.
    Local,
    Ebgp,
    Ibgp,
}

/// One feasible path to a destination. Loops and unreachable next hops are excluded before (§9.1.2).
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub attributes: &'a Attributes,
    pub origin: Origin,
    /// Cost to the next hop.
    pub igp_metric: u32,
    /// BGP identifier of the peer.
    pub peer_id: Ipv4Addr,
    pub peer_address: IpAddr,
}

impl Candidate<'_> {
    /// Steps before MED, larger is better.
    fn before_med(&self) -> (bool, u32, Reverse<usize>, Reverse<edgeplex_bgp_wire::Origin>) {
        (
            self.origin == Origin::Local,
            // Phase 1, §9.1.1
            self.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
            // §9.1.2.2 a
            Reverse(self.attributes.as_path.length()),
            // §9.1.2.2 b
            Reverse(self.attributes.origin),
        )
    }

    /// The AS from which the route was received; MED compares only within one (§9.1.2.2 c).
    fn neighbor_as(&self) -> Option<u32> {
        self.attributes.as_path.first()
    }

    fn med(&self) -> u32 {
        // §9.1.2.2 c: without the attribute it counts as the lowest value.
        self.attributes.med.unwrap_or(0)
    }

    /// Steps after MED, larger is better.
    fn after_med(&self) -> (bool, Reverse<u32>, Reverse<Ipv4Addr>, Reverse<usize>, Reverse<IpAddr>) {
        (
            // §9.1.2.2 d
            self.origin == Origin::Ebgp,
            // §9.1.2.2 e
            Reverse(self.igp_metric),
            // §9.1.2.2 f; RFC 4456 §9: ORIGINATOR_ID stands in for the identifier,
            Reverse(self.attributes.originator_id.unwrap_or(self.peer_id)),
            // then the shorter CLUSTER_LIST,
            Reverse(self.attributes.cluster_list.len()),
            // §9.1.2.2 g
            Reverse(self.peer_address),
        )
    }
}

/// Compares two paths to one destination: `Greater` means that `a` is preferred, so that `max_by(better)` gives
/// the best of two. Among three or more, MED makes this no total order: use [`best`].
pub fn better(a: &Candidate, b: &Candidate) -> Ordering {
    a.before_med()
        .cmp(&b.before_med())
        .then_with(|| if a.neighbor_as() == b.neighbor_as() { b.med().cmp(&a.med()) } else { Ordering::Equal })
        .then_with(|| a.after_med().cmp(&b.after_med()))
}

/// Index of the best path, whatever the order they are given in: first the best of each neighbouring AS, then
/// the best of those.
pub fn best(candidates: &[Candidate]) -> Option<usize> {
    let top = candidates.iter().map(Candidate::before_med).max()?;
    let equal = |c: &&Candidate| c.before_med() == top;
    candidates
        .iter()
        .enumerate()
        .filter(|(_, c)| c.before_med() == top)
        // §9.1.2.2 c: a path leaves if another of the same AS has a lower MED.
        .filter(|(_, c)| !candidates.iter().filter(equal).any(|o| o.neighbor_as() == c.neighbor_as() && o.med() < c.med()))
        .max_by(|(_, a), (_, b)| a.after_med().cmp(&b.after_med()))
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_bgp_wire::{AsPath, Origin as PathOrigin};

    fn attributes(path: &[u32]) -> Attributes {
        Attributes { origin: PathOrigin::Igp, as_path: AsPath::sequence(path), ..Attributes::default() }
    }

    fn candidate(attributes: &Attributes) -> Candidate<'_> {
        let peer_id = Ipv4Addr::new(10, 0, 0, 1);
        Candidate { attributes, origin: Origin::Ebgp, igp_metric: 0, peer_id, peer_address: peer_id.into() }
    }

    /// Each step decides when all before it are equal, and only then: the loser is made better at every later step.
    #[test]
    fn each_step_in_its_turn() {
        let a = attributes(&[1, 2]);
        let base = candidate(&a);
        let worst_id = Ipv4Addr::new(10, 0, 0, 9);
        let shorter = attributes(&[1]);
        let egp = Attributes { origin: PathOrigin::Egp, ..a.clone() };
        let low_pref = Attributes { local_pref: Some(50), ..shorter.clone() };
        let low_med = Attributes { med: Some(5), ..a.clone() };
        let high_med = Attributes { med: Some(6), ..a.clone() };
        let reflected = Attributes { originator_id: Some(Ipv4Addr::new(10, 0, 0, 1)), cluster_list: vec![worst_id], ..a.clone() };
        let lower_address = IpAddr::from([10, 0, 0, 0]);
        let pairs = [
            (Candidate { origin: Origin::Local, attributes: &low_pref, ..base }, candidate(&shorter)),
            (base, candidate(&low_pref)),
            (Candidate { attributes: &Attributes { origin: PathOrigin::Egp, ..shorter.clone() }, ..base }, base),
            (Candidate { attributes: &high_med, ..base }, candidate(&egp)),
            (Candidate { attributes: &low_med, origin: Origin::Ibgp, ..base }, candidate(&high_med)),
            (Candidate { igp_metric: 9, ..base }, Candidate { origin: Origin::Ibgp, ..base }),
            (Candidate { peer_id: worst_id, ..base }, Candidate { igp_metric: 1, ..base }),
            (Candidate { peer_address: worst_id.into(), ..base }, Candidate { peer_id: worst_id, peer_address: lower_address, ..base }),
            (base, Candidate { attributes: &reflected, peer_address: lower_address, ..base }),
            (Candidate { peer_address: lower_address, ..base }, base),
        ];
        for (i, (winner, loser)) in pairs.iter().enumerate() {
            assert_eq!(better(winner, loser), Ordering::Greater, "step {i}");
            assert_eq!(better(loser, winner), Ordering::Less, "step {i}");
            assert_eq!(best(&[*loser, *winner]), Some(1), "step {i}");
        }
        assert_eq!(better(&base, &base), Ordering::Equal);
    }

    #[test]
    fn med_between_different_ases_does_not_count_and_the_order_of_arrival_does_not_matter() {
        let m = |asn, med, id| (Attributes { med: Some(med), ..attributes(&[asn, 9]) }, Ipv4Addr::new(10, 0, 0, id));
        let paths = [m(1, 10, 1), m(1, 5, 3), m(2, 50, 2)];
        let c: Vec<_> = paths.iter().map(|(a, id)| Candidate { peer_id: *id, ..candidate(a) }).collect();
        // The first loses to the second by MED; the third wins over the second by identifier.
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let shuffled = order.map(|i| c[i]);
            assert_eq!(order[best(&shuffled).unwrap()], 2, "{order:?}");
        }
    }
}
