//! The decision process (RFC 4271 §9.1.2.2, with RFC 4456 §9 for reflected and RFC 9494 §4.3 for long-lived stale routes),
//! and what is used beside the best path.

use edgeplex_bgp_wire::{Attributes, LLGR_STALE, NO_LLGR};
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
    /// RFC 7911; 0 if the peer sends one path only.
    pub path_id: u32,
}

/// eBGP, cost, identifier, CLUSTER_LIST, address and path identifier.
type AfterMed = (bool, Reverse<u32>, Reverse<Ipv4Addr>, Reverse<usize>, Reverse<(IpAddr, u32)>);

impl Candidate<'_> {
    /// Steps before MED, larger is better.
    fn before_med(&self) -> (bool, bool, u32, Reverse<usize>, Reverse<edgeplex_bgp_wire::Origin>) {
        (
            self.origin == Origin::Local,
            // RFC 9494 §4.3
            !self.attributes.communities.contains(&LLGR_STALE),
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
    fn after_med(&self) -> AfterMed {
        (
            // §9.1.2.2 d
            self.origin == Origin::Ebgp,
            // §9.1.2.2 e
            Reverse(self.igp_metric),
            // §9.1.2.2 f; RFC 4456 §9: ORIGINATOR_ID stands in for the identifier,
            Reverse(self.attributes.originator_id.unwrap_or(self.peer_id)),
            // then the shorter CLUSTER_LIST,
            Reverse(self.attributes.cluster_list.len()),
            // §9.1.2.2 g; several paths of one peer are told apart by their identifiers.
            Reverse((self.peer_address, self.path_id)),
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

/// Whether traffic may be shared between two paths: they tie up to and including the cost to the next hop, and were both
/// learnt outside or both inside. Paths of different neighbouring ASes are never mixed.
pub fn multipath(a: &Candidate, b: &Candidate) -> bool {
    a.before_med() == b.before_med()
        && a.neighbor_as() == b.neighbor_as()
        && a.med() == b.med()
        && a.origin == b.origin
        && a.igp_metric == b.igp_metric
}

/// What is used of several paths, by index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The best, and behind it, best first, those it shares traffic with ([`multipath`]).
    pub paths: Vec<usize>,
    /// The best of the others, for the moment when none of `paths` leads anywhere.
    pub backup: Option<usize>,
}

/// Chooses at most `max_paths` (at least one) and a backup; `None` if there is no path at all.
pub fn select(candidates: &[Candidate], max_paths: usize) -> Option<Selection> {
    let first = best(candidates)?;
    let top = candidates.get(first)?;
    let mut equal: Vec<(usize, &Candidate)> = candidates.iter().enumerate().filter(|(i, c)| *i != first && multipath(top, c)).collect();
    equal.sort_by_key(|(_, c)| Reverse(c.after_med()));
    let paths: Vec<usize> = std::iter::once(first).chain(equal.into_iter().map(|(i, _)| i)).take(max_paths.max(1)).collect();
    let rest: Vec<usize> = (0..candidates.len()).filter(|i| !paths.contains(i)).collect();
    let others: Vec<Candidate> = rest.iter().filter_map(|i| candidates.get(*i)).copied().collect();
    let backup = best(&others).and_then(|i| rest.get(i).copied());
    Some(Selection { paths, backup })
}

/// The attributes of a stale route that goes on as long-lived stale (RFC 9494 §4.2); `None` if its sender forbids it: then it
/// is withdrawn.
pub fn long_lived_stale(attributes: &Attributes) -> Option<Attributes> {
    if attributes.communities.contains(&NO_LLGR) {
        return None;
    }
    let mut out = attributes.clone();
    if !out.communities.contains(&LLGR_STALE) {
        out.communities.push(LLGR_STALE);
    }
    Some(out)
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
        Candidate { attributes, origin: Origin::Ebgp, igp_metric: 0, peer_id, peer_address: peer_id.into(), path_id: 0 }
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
        let stale = Attributes { local_pref: Some(900), ..long_lived_stale(&shorter).unwrap() };
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
            (Candidate { peer_address: lower_address, path_id: 9, ..base }, base),
            (base, Candidate { path_id: 1, ..base }),
            (candidate(&low_pref), candidate(&stale)),
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

    #[test]
    fn paths_that_tie_share_and_the_next_best_waits() {
        let (a, other_as) = (attributes(&[1, 2]), attributes(&[3, 2]));
        let of = |attributes, igp_metric, last: u8, origin| {
            let peer_id = Ipv4Addr::new(10, 0, 0, last);
            Candidate { igp_metric, peer_id, origin, ..candidate(attributes) }
        };
        let i = Origin::Ibgp;
        let four = [of(&a, 5, 9, i), of(&a, 5, 3, i), of(&other_as, 5, 7, i), of(&a, 6, 1, i)];
        assert_eq!(select(&four, 8), Some(Selection { paths: vec![1, 0], backup: Some(2) }));
        assert_eq!(select(&four, 1), Some(Selection { paths: vec![1], backup: Some(2) }));
        let mixed = [of(&a, 5, 9, i), of(&a, 5, 3, Origin::Ebgp)];
        assert_eq!(select(&mixed, 8), Some(Selection { paths: vec![1], backup: Some(0) }));
        assert_eq!(select(&[], 8), None);
    }

    #[test]
    fn a_route_whose_sender_forbids_it_is_not_kept_long() {
        let forbidden = Attributes { communities: vec![NO_LLGR], ..Attributes::default() };
        assert_eq!(long_lived_stale(&forbidden), None);
        let once = long_lived_stale(&Attributes::default()).unwrap();
        assert_eq!(long_lived_stale(&once).unwrap().communities, [LLGR_STALE]);
    }
}
