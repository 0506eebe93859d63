//! The FIB of one VRF, in two levels, programmed by epochs.
//!
//! ```text
//! core label ──► labels (cuckoo) ──► this VRF
//! IPv4 address ──► hosts /32 (cuckoo) ──► trie ──► target ──► path list ──► tunnel ──► MACs, transport labels
//!                                                    └─────► CE next hop (its adjacency is the forwarder's)
//! ```
//! A route names a target, a target's paths name tunnels: when the core reroutes, one tunnel changes and a million
//! prefixes follow. Programming is mark-and-sweep: each operation takes effect at once and renews, `end` lets what
//! was not renewed since `begin` be removed. Lookups are right at every moment between.
//!
//! The thread that programs also forwards, so no call may work long, however many routes there are: `end` sweeps a
//! first slice, the rest is swept by [`Fib::sweep`], a bounded slice a call.

pub mod cuckoo;
pub mod routes;
mod targets;
pub mod trie;

pub use edgeplex_ff_fib_api as api;
pub use targets::{Forward, Path, Rewrite};
pub use trie::Leaf;

use api::{FibOp, Interface, Request, Target, Tunnel};
use cuckoo::Cuckoo;
use edgeplex_types::{Epoch, Label};
use ipnet::{IpNet, Ipv4Net};
use routes::{Generation, Key, Routes};
use std::net::{IpAddr, Ipv4Addr};
use targets::{Targets, Tunnels};

/// Routes of one FIB, at most; targets never outnumber them, and so stay below [`trie::MAX_TARGETS`].
pub const MAX_ROUTES: usize = 1 << 24;
/// Tunnels that are up or that routes name, at most.
pub const MAX_TUNNELS: usize = 1 << 16;

/// Routes and tunnels that one slice of a sweep looks at: some 100 us if all of them must go.
const SLICE: usize = 128;

/// Why programming was refused; nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Api(#[from] api::ApiError),
    #[error("epoch {got}: the current one is {}", .current.map_or("none".to_owned(), |e| e.0.to_string()))]
    Epoch { got: u64, current: Option<Epoch> },
    #[error("no snapshot is open: `End` must follow `Begin`")]
    NoSnapshot,
    #[error("{0} is not IPv4")]
    NotIpv4(String),
    #[error("more than {MAX_ROUTES} routes")]
    TooManyRoutes,
    #[error("more than {MAX_TUNNELS} tunnels")]
    TooManyTunnels,
}

/// A snapshot that has ended, and how far what it did not renew is removed.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    epoch: Epoch,
    generation: Generation,
    stage: Stage,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Routes(Option<Key>),
    Tunnels(usize),
}

#[derive(Debug, Default)]
pub struct Fib {
    routes: Routes,
    targets: Targets,
    tunnels: Tunnels,
    /// Label → VRF; a FastForward process serves one VRF, number 0.
    labels: Cuckoo,
    own_label: Option<(Label, bool)>,
    interface: Option<(Interface, bool)>,
    epoch: Option<Epoch>,
    /// Of `epoch`.
    generation: Generation,
    open: bool,
    sweep: Option<Sweep>,
    /// Ended during that sweep; is swept after it, so that a programmer that begins again and again starves none.
    next_sweep: Option<Sweep>,
    complete: Option<Epoch>,
}

impl Fib {
    /// Opens a snapshot. One that is still open is abandoned: what it brought stays until the new one ends. A sweep
    /// under way goes on: what is programmed from now on is newer than what it removes.
    pub fn begin(&mut self, epoch: Epoch) {
        self.epoch = Some(epoch);
        self.open = true;
        self.generation = self.generation.next();
        if let Some(l) = &mut self.own_label {
            l.1 = false;
        }
        if let Some(i) = &mut self.interface {
            i.1 = false;
        }
    }

    /// Applies operations, as part of the open snapshot or as changes after it. All or, if refused, none.
    pub fn program(&mut self, epoch: Epoch, ops: &[FibOp]) -> Result<(), Refused> {
        if self.epoch != Some(epoch) {
            return Err(Refused::Epoch { got: epoch.0, current: self.epoch });
        }
        self.check(ops)?;
        for op in ops {
            self.apply(op);
        }
        Ok(())
    }

    /// Ends the snapshot. What it did not renew is removed slice by slice: the first one now, the others by
    /// [`Fib::sweep`]; [`Fib::complete_epoch`] tells when all is done.
    pub fn end(&mut self, epoch: Epoch) -> Result<(), Refused> {
        if self.epoch != Some(epoch) {
            return Err(Refused::Epoch { got: epoch.0, current: self.epoch });
        }
        if !std::mem::take(&mut self.open) {
            return Err(Refused::NoSnapshot);
        }
        if let Some((label, false)) = self.own_label {
            self.labels.remove(label.get());
            self.own_label = None;
        }
        self.interface.take_if(|i| !i.1);
        let sweep = Some(Sweep { epoch, generation: self.generation, stage: Stage::Routes(None) });
        *(if self.sweep.is_some() { &mut self.next_sweep } else { &mut self.sweep }) = sweep;
        self.sweep();
        Ok(())
    }

    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Sweeps one slice. To be called again and again, with packets in between, while [`Fib::is_sweeping`].
    pub fn sweep(&mut self) {
        let Self { routes, targets, tunnels, .. } = self;
        let Some(sweep) = &mut self.sweep else { return };
        let mut left = SLICE;
        if let Stage::Routes(after) = sweep.stage {
            let (next, seen) = routes.sweep(after, SLICE, sweep.generation, |target| targets.release(target, tunnels));
            left -= seen;
            sweep.stage = if next.is_some() { Stage::Routes(next) } else { Stage::Tunnels(0) };
        }
        if let Stage::Tunnels(from) = sweep.stage {
            match tunnels.sweep(from, left, sweep.generation) {
                Some(next) => sweep.stage = Stage::Tunnels(next),
                None => {
                    self.complete = Some(sweep.epoch);
                    self.sweep = self.next_sweep.take();
                }
            }
        }
    }

    fn check(&self, ops: &[FibOp]) -> Result<(), Refused> {
        let not_ipv4 = |what: &dyn std::fmt::Display| Err(Refused::NotIpv4(what.to_string()));
        // The limits of one request, borrowed from the API's own check.
        Request::Program { epoch: Epoch(0), ops: ops.to_vec() }.check()?;
        let (mut routes, mut tunnels) = (0, 0);
        for op in ops {
            match op {
                FibOp::Route { prefix: IpNet::V6(p), .. } | FibOp::Withdraw { prefix: IpNet::V6(p) } => return not_ipv4(p),
                FibOp::Route { target: Target::Customer { next_hop: IpAddr::V6(a) }, .. } => return not_ipv4(a),
                FibOp::Route { target, .. } => {
                    routes += 1;
                    if let Target::Vpn { paths } = target {
                        tunnels += paths.iter().filter(|p| !self.tunnels.is_known(p.tunnel)).count();
                    }
                }
                FibOp::Tunnel(t) => tunnels += usize::from(!self.tunnels.is_known(t.id)),
                _ => {}
            }
        }
        // Counted as if all were new, which only matters close to the limit.
        if self.routes.len() + routes > MAX_ROUTES {
            return Err(Refused::TooManyRoutes);
        }
        if self.tunnels.known() + tunnels > MAX_TUNNELS {
            return Err(Refused::TooManyTunnels);
        }
        Ok(())
    }

    fn apply(&mut self, op: &FibOp) {
        match op {
            FibOp::Interface(i) => self.interface = Some((i.clone(), true)),
            FibOp::OwnLabel { label } => {
                if let Some((old, _)) = self.own_label.replace((*label, true)) {
                    self.labels.remove(old.get());
                }
                self.labels.insert(label.get(), 0);
            }
            FibOp::Tunnel(t) => self.tunnels.set(t, self.generation),
            FibOp::TunnelGone { id } => self.tunnels.gone(*id),
            FibOp::Route { prefix: IpNet::V4(p), target } => {
                if let Some(n) = self.targets.acquire(target, &mut self.tunnels)
                    && let Some(old) = self.routes.insert(p.addr().into(), p.prefix_len(), n, self.generation)
                {
                    self.targets.release(old, &mut self.tunnels);
                }
            }
            FibOp::Withdraw { prefix: IpNet::V4(p) } => {
                if let Some(old) = self.routes.remove(p.addr().into(), p.prefix_len()) {
                    self.targets.release(old, &mut self.tunnels);
                }
            }
            // check() let no IPv6 through.
            FibOp::Route { prefix: IpNet::V6(_), .. } | FibOp::Withdraw { prefix: IpNet::V6(_) } => {}
        }
    }

    /// Where a packet to this address goes.
    pub fn route(&self, address: Ipv4Addr) -> Option<&Forward> {
        self.targets.get(self.routes.lookup(address.into())?.target)
    }

    /// [`Fib::route`] for many: the leaves, to be given to [`Fib::target`] one by one.
    pub fn route_burst(&self, addresses: &[u32], out: &mut [Option<Leaf>]) {
        self.routes.lookup_burst(addresses, out);
    }

    pub fn target(&self, leaf: Leaf) -> Option<&Forward> {
        self.targets.get(leaf.target)
    }

    /// The path for this flow and its tunnel. A path whose tunnel is down is passed over for the next one that is
    /// up; `None` if all are down or this is no VPN target.
    pub fn path<'a>(&'a self, forward: &'a Forward, flow: u32) -> Option<(&'a Path, &'a Rewrite)> {
        let Forward::Vpn { first, others } = forward else { return None };
        let up = |p: &'a Path| Some((p, self.tunnels.rewrite(p)?));
        if others.is_empty() {
            return up(first);
        }
        let n = others.len() + 1;
        // Multiply-shift: an even share of 2^32 flows for each path.
        let start = usize::try_from((u64::from(flow) * n as u64) >> 32).unwrap_or(0);
        let nth = |i: usize| if i == 0 { Some(first) } else { others.get(i - 1) };
        (start..start + n).find_map(|i| up(nth(i % n)?))
    }

    /// Whether the core uses this label for this VRF.
    pub fn is_own_label(&self, label: Label) -> bool {
        self.labels.get(label.get()).is_some()
    }
    pub fn own_label(&self) -> Option<Label> {
        self.own_label.map(|l| l.0)
    }
    pub fn interface(&self) -> Option<&Interface> {
        self.interface.as_ref().map(|i| &i.0)
    }
    /// Epoch of the last snapshot that ended and of which nothing is left to sweep.
    pub fn complete_epoch(&self) -> Option<Epoch> {
        self.complete
    }
    pub fn routes(&self) -> usize {
        self.routes.len()
    }
    pub fn tunnels_up(&self) -> usize {
        self.tunnels.up()
    }
    /// Tunnels that are up or that a route names.
    pub fn tunnels_known(&self) -> usize {
        self.tunnels.known()
    }
    /// Different targets: routes that are alike share one.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }
    /// Heap bytes of everything.
    pub fn bytes(&self) -> usize {
        let (lookup, exact) = self.routes.bytes();
        lookup + exact + self.targets.bytes() + self.tunnels.bytes() + self.labels.bytes()
    }

    /// The route that an address meets.
    pub fn lookup(&self, address: Ipv4Addr) -> Option<(IpNet, Target)> {
        let leaf = self.routes.lookup(address.into())?;
        self.row(address.into(), leaf.len, leaf.target)
    }

    /// At most `limit` routes in prefix order behind `after`, and whether there are more.
    pub fn page(&self, after: Option<Ipv4Net>, limit: usize) -> (Vec<(IpNet, Target)>, bool) {
        let (rows, more) = self.routes.page(after.map(|p| (p.addr().into(), p.prefix_len())), limit);
        (rows.into_iter().filter_map(|(a, len, target)| self.row(a, len, target)).collect(), more)
    }

    fn row(&self, address: u32, len: u8, target: u32) -> Option<(IpNet, Target)> {
        let prefix = Ipv4Net::new(address.into(), len).ok()?.trunc();
        Some((prefix.into(), self.targets.show(target, &self.tunnels)?))
    }

    /// Tunnels that are up, by id.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.tunnels.rows()
    }
}
