//! The FIB of one VRF, or of a label-switching router, in two levels, programmed by epochs.
//!
//! ```text
//! core label ──► labels (cuckoo) ──► this VRF │ a CE │ pop │ tunnel ──► legs
//! address ──► hosts (cuckoo) ──► trie ──► target ──► paths or backups ──► tunnel ──► legs: MACs, transport labels
//!                                            └─────► CE next hop (its adjacency is the forwarder's)
//! ```
//! A route names a target, a target's paths name tunnels: when the core reroutes, one tunnel changes and a million
//! prefixes follow. Programming is mark-and-sweep: each operation takes effect at once and renews, `end` lets what
//! was not renewed since `begin` be removed. Lookups are right at every moment between.
//!
//! The thread that programs also forwards, so no call may work long, however many routes there are: `end` sweeps a
//! first slice, the rest is swept by [`Fib::sweep`], a bounded slice a call.

pub mod cuckoo;
pub mod key;
mod labels;
pub mod routes;
mod targets;
pub mod trie;
mod tunnels;

pub use edgeplex_ff_fib_api as api;
pub use targets::{Forward, Paths};
pub use trie::Leaf;
pub use tunnels::{Leg, Way};

use api::{FibOp, Interface, Port, Request, SwitchTarget, Target, Tunnel, TunnelCount};
use edgeplex_types::{Epoch, Label};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use labels::{Labels, Meaning};
use routes::{Generation, Prefix, Routes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use targets::Targets;
use tunnels::{Tunnels, share};

/// Routes of one FIB, at most; targets never outnumber them and the labels, and so stay below [`trie::MAX_TARGETS`].
pub const MAX_ROUTES: usize = 1 << 22;
/// Tunnels that were programmed or that routes and labels name, at most.
pub const MAX_TUNNELS: usize = 1 << 16;

/// Routes, labels and tunnels that one slice of a sweep looks at: some 100 us if all of them must go.
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
    Routes4(Option<Prefix<u32>>),
    Routes6(Option<Prefix<u128>>),
    Labels(Option<Label>),
    Tunnels(usize),
}

/// What becomes of a packet with a label of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Looked up in the VRF.
    Vrf,
    /// To this CE.
    NextHop(IpAddr),
    /// Into this tunnel, to be given to [`Fib::switch`].
    Tunnel(u32),
    Pop,
}

/// Whether the open snapshot has renewed it.
type Renewed = bool;

#[derive(Debug, Default)]
pub struct Fib {
    routes4: Routes<u32>,
    routes6: Routes<u128>,
    targets: Targets,
    tunnels: Tunnels,
    labels: Labels,
    interface: Option<(Interface, Renewed)>,
    ports: Option<(Vec<Port>, Renewed)>,
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
        if let Some(i) = &mut self.interface {
            i.1 = false;
        }
        if let Some(p) = &mut self.ports {
            p.1 = false;
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
        self.interface.take_if(|i| !i.1);
        self.ports.take_if(|p| !p.1);
        let sweep = Some(Sweep { epoch, generation: self.generation, stage: Stage::Routes4(None) });
        *(if self.sweep.is_some() { &mut self.next_sweep } else { &mut self.sweep }) = sweep;
        self.sweep();
        Ok(())
    }

    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Sweeps one slice. To be called again and again, with packets in between, while [`Fib::is_sweeping`].
    pub fn sweep(&mut self) {
        let Self { routes4, routes6, targets, tunnels, labels, .. } = self;
        let Some(sweep) = &mut self.sweep else { return };
        let (mut left, since) = (SLICE, sweep.generation);
        if let Stage::Routes4(after) = sweep.stage {
            let (next, seen) = routes4.sweep(after, left, since, |target| targets.release(target, tunnels));
            left -= seen;
            sweep.stage = if next.is_some() { Stage::Routes4(next) } else { Stage::Routes6(None) };
        }
        if let Stage::Routes6(after) = sweep.stage {
            let (next, seen) = routes6.sweep(after, left, since, |target| targets.release(target, tunnels));
            left -= seen;
            sweep.stage = if next.is_some() || left == 0 { Stage::Routes6(next.or(after)) } else { Stage::Labels(None) };
        }
        if let Stage::Labels(after) = sweep.stage {
            let (gone, next, seen) = labels.sweep(after, left, since);
            gone.into_iter().for_each(|m| forget(m, targets, tunnels));
            left -= seen;
            sweep.stage = if next.is_some() || left == 0 { Stage::Labels(next.or(after)) } else { Stage::Tunnels(0) };
        }
        if let Stage::Tunnels(from) = sweep.stage {
            match tunnels.sweep(from, left, since) {
                Some(next) => sweep.stage = Stage::Tunnels(next),
                None => {
                    self.complete = Some(sweep.epoch);
                    self.sweep = self.next_sweep.take();
                }
            }
        }
    }

    fn check(&self, ops: &[FibOp]) -> Result<(), Refused> {
        // The limits of one request, borrowed from the API's own check.
        Request::Program { epoch: Epoch(0), ops: ops.to_vec() }.check()?;
        let (mut routes, mut tunnels) = (0, 0);
        let new = |id| usize::from(!self.tunnels.is_known(id));
        for op in ops {
            match op {
                FibOp::Route { target, .. } => {
                    routes += 1;
                    if let Target::Vpn { paths, backup } = target {
                        tunnels += paths.iter().chain(backup).map(|p| new(p.tunnel)).sum::<usize>();
                    }
                }
                FibOp::Tunnel(Tunnel { id, .. }) | FibOp::Switch { target: SwitchTarget::Tunnel(id), .. } => tunnels += new(*id),
                _ => {}
            }
        }
        // Counted as if all were new, which only matters close to the limit.
        if self.routes() + routes > MAX_ROUTES {
            return Err(Refused::TooManyRoutes);
        }
        if self.tunnels.known() + tunnels > MAX_TUNNELS {
            return Err(Refused::TooManyTunnels);
        }
        Ok(())
    }

    fn apply(&mut self, op: &FibOp) {
        let Self { routes4, routes6, targets, tunnels, labels, .. } = self;
        match op {
            FibOp::Interface(i) => self.interface = Some((i.clone(), true)),
            FibOp::Ports(ports) => self.ports = Some((ports.clone(), true)),
            FibOp::OwnLabel { label, next_hop: None } => self.set_label(*label, Some(Meaning::Vrf)),
            FibOp::OwnLabel { label, next_hop: Some(next_hop) } => {
                let target = targets.acquire(&Target::Customer { next_hop: *next_hop }, tunnels);
                self.set_label(*label, target.map(Meaning::Target));
            }
            FibOp::Switch { label, target: SwitchTarget::Pop } => self.set_label(*label, Some(Meaning::Pop)),
            FibOp::Switch { label, target: SwitchTarget::Tunnel(id) } => {
                let slot = tunnels.slot(*id);
                tunnels.hold(slot);
                self.set_label(*label, Some(Meaning::Tunnel(slot)));
            }
            FibOp::OwnLabelGone { label } | FibOp::SwitchGone { label } => {
                if let Some(old) = labels.remove(*label) {
                    forget(old, targets, tunnels);
                }
            }
            FibOp::Tunnel(t) => tunnels.set(t, self.generation),
            FibOp::TunnelGone { id } => tunnels.gone(*id),
            FibOp::Route { prefix, target } => {
                let Some(n) = targets.acquire(target, tunnels) else { return };
                let old = match prefix {
                    IpNet::V4(p) => routes4.insert(p.addr().into(), p.prefix_len(), n, self.generation),
                    IpNet::V6(p) => routes6.insert(p.addr().into(), p.prefix_len(), n, self.generation),
                };
                if let Some(old) = old {
                    targets.release(old, tunnels);
                }
            }
            FibOp::Withdraw { prefix } => {
                let old = match prefix {
                    IpNet::V4(p) => routes4.remove(p.addr().into(), p.prefix_len()),
                    IpNet::V6(p) => routes6.remove(p.addr().into(), p.prefix_len()),
                };
                if let Some(old) = old {
                    targets.release(old, tunnels);
                }
            }
        }
    }

    /// `None`, which no request leads to, changes nothing.
    fn set_label(&mut self, label: Label, meaning: Option<Meaning>) {
        if let Some(new) = meaning
            && let Some(old) = self.labels.insert(label, new, self.generation)
        {
            forget(old, &mut self.targets, &mut self.tunnels);
        }
    }

    /// Where a packet to this address goes.
    #[inline]
    pub fn route(&self, address: Ipv4Addr) -> Option<&Forward> {
        self.targets.get(self.routes4.lookup(address.into())?.target)
    }

    /// Where a packet to this address goes.
    #[inline]
    pub fn route6(&self, address: Ipv6Addr) -> Option<&Forward> {
        self.targets.get(self.routes6.lookup(address.into())?.target)
    }

    /// The VPN label and the leg for this flow. A path whose tunnel is down is passed over for those that are up, and if
    /// none is, for the backups. `None` if all are down or this is no VPN target. The upper half of the hash chooses the
    /// path, the lower half the leg: neither tells the other.
    #[inline]
    pub fn path(&self, forward: &Forward, flow: u64) -> Option<(Label, Way)> {
        let Forward::Vpn(paths) = forward else { return None };
        let path = if paths.is_single() { &paths.first } else { paths.nth(share(flow >> 32, paths.count()))? };
        match self.tunnels.choose(path.tunnel, || flow) {
            Some(way) => Some((path.label, way)),
            None => self.detour(paths, flow),
        }
    }

    #[cold]
    fn detour(&self, paths: &Paths, flow: u64) -> Option<(Label, Way)> {
        let up = |p: &&targets::Path| self.tunnels.is_up(p.tunnel);
        // Only the flows of the path that is down move, to equal shares of the others.
        let again = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let path = match paths.active().filter(up).count() {
            0 => {
                let n = paths.backups().iter().filter(up).count();
                paths.backups().iter().filter(up).nth(share(again, n))?
            }
            n => paths.active().filter(up).nth(share(again, n))?,
        };
        Some((path.label, self.tunnels.choose(path.tunnel, || flow)?))
    }

    /// What a label of the core means here.
    #[inline]
    pub fn label(&self, label: Label) -> Option<Incoming> {
        Some(match self.labels.get(label)? {
            Meaning::Vrf => Incoming::Vrf,
            Meaning::Pop => Incoming::Pop,
            Meaning::Tunnel(slot) => Incoming::Tunnel(slot),
            Meaning::Target(n) => match self.targets.get(n)? {
                Forward::Customer(next_hop) => Incoming::NextHop(*next_hop),
                _ => return None,
            },
        })
    }

    /// The leg of a tunnel for a flow, whose hash is asked for if there are several; `None` if it is down.
    #[inline]
    pub fn switch(&self, tunnel: u32, flow: impl FnOnce() -> u64) -> Option<Way> {
        self.tunnels.choose(tunnel, flow)
    }

    #[inline]
    pub fn leg(&self, way: Way) -> Option<&Leg> {
        self.tunnels.leg(way)
    }

    #[inline]
    pub fn leg_mut(&mut self, way: Way) -> Option<&mut Leg> {
        self.tunnels.leg_mut(way)
    }

    /// Labels that lead here.
    pub fn labels(&self) -> usize {
        self.labels.len()
    }
    #[inline]
    pub fn interface(&self) -> Option<&Interface> {
        self.interface.as_ref().map(|i| &i.0)
    }
    /// Of a label-switching router.
    #[inline]
    pub fn ports(&self) -> &[Port] {
        self.ports.as_ref().map_or(&[], |p| &p.0)
    }
    /// Epoch of the last snapshot that ended and of which nothing is left to sweep.
    pub fn complete_epoch(&self) -> Option<Epoch> {
        self.complete
    }
    pub fn routes(&self) -> usize {
        self.routes4.len() + self.routes6.len()
    }
    /// Tunnels that were programmed, with legs or without.
    pub fn tunnels_there(&self) -> usize {
        self.tunnels.there()
    }
    /// Tunnels that were programmed or that a route or label names.
    pub fn tunnels_known(&self) -> usize {
        self.tunnels.known()
    }
    /// Different targets: routes that are alike share one.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }
    /// Heap bytes of everything.
    pub fn bytes(&self) -> usize {
        let ((lookup4, exact4), (lookup6, exact6)) = (self.routes4.bytes(), self.routes6.bytes());
        lookup4 + exact4 + lookup6 + exact6 + self.targets.bytes() + self.tunnels.bytes() + self.labels.bytes()
    }

    /// The route that an address meets.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, Target)> {
        let (leaf, prefix) = match address {
            IpAddr::V4(a) => {
                let leaf = self.routes4.lookup(a.into())?;
                (leaf, Ipv4Net::new(a, leaf.len).ok()?.trunc().into())
            }
            IpAddr::V6(a) => {
                let leaf = self.routes6.lookup(a.into())?;
                (leaf, Ipv6Net::new(a, leaf.len).ok()?.trunc().into())
            }
        };
        Some((prefix, self.targets.show(leaf.target, &self.tunnels)?))
    }

    /// At most `limit` routes in prefix order behind `after`, IPv4 before IPv6, and whether there are more.
    pub fn page(&self, after: Option<IpNet>, limit: usize) -> (Vec<(IpNet, Target)>, bool) {
        let show = |prefix: IpNet, target| Some((prefix, self.targets.show(target, &self.tunnels)?));
        let mut rows = vec![];
        let after6 = match after {
            Some(IpNet::V6(p)) => Some((p.addr().into(), p.prefix_len())),
            after => {
                let after = if let Some(IpNet::V4(p)) = after { Some((p.addr().into(), p.prefix_len())) } else { None };
                let (page, more) = self.routes4.page(after, limit);
                rows.extend(page.into_iter().filter_map(|(a, len, target)| show(Ipv4Net::new(a.into(), len).ok()?.into(), target)));
                if more {
                    return (rows, true);
                }
                None
            }
        };
        let (page, more) = self.routes6.page(after6, limit.saturating_sub(rows.len()));
        rows.extend(page.into_iter().filter_map(|(a, len, target)| show(Ipv6Net::new(a.into(), len).ok()?.into(), target)));
        (rows, more)
    }

    /// Tunnels that were programmed, by id.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.tunnels.rows()
    }

    /// What the legs of each tunnel took, in their order.
    pub fn tunnel_counts(&self) -> Vec<TunnelCount> {
        self.tunnels.counts()
    }
}

/// Gives back what a label's meaning held.
fn forget(meaning: Meaning, targets: &mut Targets, tunnels: &mut Tunnels) {
    match meaning {
        Meaning::Vrf | Meaning::Pop => {}
        Meaning::Tunnel(slot) => tunnels.release(slot),
        Meaning::Target(n) => targets.release(n, tunnels),
    }
}
