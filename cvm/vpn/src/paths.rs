//! Which paths of a prefix a VRF uses: the best, those used together with it, and those that stand by.

use crate::engine::Slot;
use edgeplex_bgp::decision::{self, Candidate, Origin};
use edgeplex_bgp_wire::Attributes;
use edgeplex_types::{Label, Rd};
use std::{net::Ipv4Addr, sync::Arc};

/// RFC 9494 §4.2: kept by someone through a long outage.
pub(crate) const LLGR_STALE: u32 = 0xffff_0006;

/// Who told us of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// With its path identifier (RFC 7911).
    Reflector(Ipv4Addr, u32),
    Attachment(Slot),
}

/// A path as a VRF sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path<'a> {
    pub(crate) rd: Rd,
    pub(crate) source: Source,
    /// BGP next hop: our own loopback for a path of our own attachments.
    pub(crate) endpoint: Ipv4Addr,
    pub(crate) label: Label,
    pub(crate) attributes: &'a Arc<Attributes>,
    /// Of the way to the endpoint; `None` while there is none.
    pub(crate) cost: Option<u32>,
    /// We keep it through a long outage of the reflector that sent it.
    pub(crate) long_lived: bool,
}

impl<'a> Path<'a> {
    /// As the decision process sees it. A customer route of another attachment here was learnt by eBGP.
    fn candidate(&self) -> Candidate<'a> {
        let (origin, peer, path_id) = match self.source {
            Source::Attachment(slot) => (Origin::Ebgp, self.endpoint, slot),
            Source::Reflector(rr, path_id) => (Origin::Ibgp, rr, path_id),
        };
        let igp_metric = self.cost.unwrap_or(u32::MAX);
        Candidate { attributes: self.attributes, origin, igp_metric, peer_id: peer, peer_address: peer.into(), path_id }
    }

    /// RFC 9494 §4.3: used only where there is nothing else.
    fn is_last_resort(&self) -> bool {
        self.long_lived || self.attributes.communities.contains(&LLGR_STALE)
    }

    fn chosen(&self) -> Chosen {
        Chosen { label: self.label, endpoint: self.endpoint, long_lived: self.long_lived, attributes: self.attributes.clone() }
    }
}

/// A path that a PVM is told. It keeps what was said alive, not what is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) label: Label,
    pub(crate) endpoint: Ipv4Addr,
    pub(crate) long_lived: bool,
    pub(crate) attributes: Arc<Attributes>,
}

/// What is done with a prefix: nothing if there are no paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Choice {
    /// Used together, best first.
    pub(crate) paths: Box<[Chosen]>,
    /// Used when no endpoint of `paths` can be reached: what would be chosen then.
    pub(crate) backup: Box<[Chosen]>,
}

impl Choice {
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.paths.iter().chain(&self.backup).map(|p| p.endpoint)
    }
}

/// Chooses among the candidates of a VRF, at most `most` paths to be used together.
pub(crate) fn choose(candidates: &[Path], most: u8) -> Choice {
    let (paths, backup) = split(candidates, most);
    let chosen = |paths: Vec<Path>| paths.iter().map(Path::chosen).collect();
    Choice { paths: chosen(paths), backup: chosen(backup) }
}

/// Paths to use, and their backup: over other tunnels, so that the loss of a tunnel never takes both.
pub(crate) fn split<'a>(candidates: &[Path<'a>], most: u8) -> (Vec<Path<'a>>, Vec<Path<'a>>) {
    // Where nothing tells two paths apart the later one is taken: let that be the one with the lower route distinguisher.
    let usable: Vec<Path> = candidates.iter().rev().filter(|p| p.cost.is_some()).copied().collect();
    let paths = pick(&usable, most);
    let others: Vec<Path> = usable.iter().filter(|p| paths.iter().all(|u| u.endpoint != p.endpoint)).copied().collect();
    let backup = pick(&others, most);
    (paths, backup)
}

/// The best path and those as good, in the order of the decision process. What two reflectors say alike is one path.
fn pick<'a>(paths: &[Path<'a>], most: u8) -> Vec<Path<'a>> {
    let nothing_else = paths.iter().all(Path::is_last_resort);
    let mut pool: Vec<Path> = paths.iter().filter(|p| p.is_last_resort() == nothing_else).copied().collect();
    let Some(best) = take_best(&mut pool) else { return vec![] };
    let mut picked = vec![best];
    pool.retain(|p| decision::multipath(&best.candidate(), &p.candidate()));
    while picked.len() < usize::from(most)
        && let Some(next) = take_best(&mut pool)
    {
        if picked.iter().all(|p| (p.endpoint, p.label) != (next.endpoint, next.label)) {
            picked.push(next);
        }
    }
    picked
}

fn take_best<'a>(pool: &mut Vec<Path<'a>>) -> Option<Path<'a>> {
    let candidates: Vec<Candidate> = pool.iter().map(Path::candidate).collect();
    let best = decision::best(&candidates)?;
    Some(pool.remove(best))
}
