//! The engine: events in, actions and messages out.

use crate::{
    attachment::Attachment,
    config::Config,
    core_net::{CoreNet, Neighbor},
    customer::ExportError,
    feed::Feed,
    labels::{LabelError, LabelSpace},
    rib::{Key, Learned, Path, Received, Reflector, Rib, Session},
    sessions::PvmSession,
};
use edgeplex_bgp_wire::{Attributes, Nlri, NlriKey};
use edgeplex_relay::{CustomerOp, DEAD_AFTER, MAX_ATTRIBUTES, Refusal, Sync, ToCvm, ToPvm, WINDOW};
use edgeplex_types::{AttachmentId, Epoch, Label, MacAddr, RouteTarget};
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

mod labels;
mod pvm;
mod reflector;

/// What the owner of the engine has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To every route reflector, next hop self.
    Advertise(Nlri, Arc<Attributes>),
    Withdraw(NlriKey),
    /// Labels were given or taken: to be stored ([`Vpn::labels`]), and answered by [`Vpn::labels_stored`].
    LabelsChanged,
    /// The switch or the neighbour monitor has something new to learn ([`Vpn::generation`]).
    FabricChanged,
    /// A PVM did what it may not: for the log.
    Refused(AttachmentId, String),
    LabelMissing(LabelError),
}

/// How the process came up.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Counted up from here. What PVMs hold of a past process must never carry an epoch of this one, or it would not be swept:
    /// numbers are compared for being equal only, so a random number does, and a wall clock that was set back would not.
    pub epoch: Epoch,
    /// Whether PVMs and route reflectors may still hold what a past process told them.
    pub restarting: bool,
}

/// An internal name of an attachment, cheap to copy.
pub(crate) type Slot = u32;

/// A route of a VRF to look at again for one attachment, from a place in the table on.
#[derive(Debug, Clone)]
struct Scan {
    slot: Slot,
    after: Option<Key>,
}

/// The state of the VPN. `P` names a relay connection.
#[derive(Debug)]
pub struct Vpn<P> {
    pub(crate) config: Config,
    pub(crate) core: CoreNet,
    pub(crate) rib: Rib,
    pub(crate) labels: LabelSpace,
    /// Labels as they are in the file: these may be used.
    stored: BTreeMap<AttachmentId, Label>,
    /// The owner of the engine was asked to store labels and has not answered.
    storing: bool,
    /// Storing failed and is tried again then.
    store_again: Option<Instant>,
    pub(crate) attachments: BTreeMap<Slot, Attachment>,
    pub(crate) slots: BTreeMap<AttachmentId, Slot>,
    next_slot: Slot,
    by_rd: BTreeMap<edgeplex_types::Rd, Slot>,
    importers: BTreeMap<RouteTarget, BTreeSet<Slot>>,
    pub(crate) sessions: BTreeMap<Slot, PvmSession<P>>,
    /// Sessions that may have something to say, and where the turn is.
    ready: BTreeSet<Slot>,
    turn: Slot,
    replies: VecDeque<(P, ToPvm)>,
    actions: VecDeque<Action>,
    /// VPN-IPv4 prefixes whose best path is to be decided again.
    undecided: BTreeSet<Key>,
    scans: VecDeque<Scan>,
    epoch: Epoch,
    generation: u64,
    /// Until then snapshots to PVMs stay open for what the reflectors have yet to send.
    converged_by: Instant,
    converged: bool,
}

impl<P: Clone + Eq> Vpn<P> {
    /// An engine that knows nothing. `labels` are those of a past process, as they are stored.
    pub fn new(now: Instant, start: Start, config: Config, labels: LabelSpace) -> Self {
        let wait = if start.restarting { Duration::from_secs(30) } else { Duration::from_secs(3) };
        let empty = Config { attachments: vec![], reflectors: BTreeSet::new(), ..config.clone() };
        let mut vpn = Self {
            config: empty,
            core: CoreNet::default(),
            rib: Rib::default(),
            stored: labels.held().clone(),
            labels,
            storing: false,
            store_again: None,
            attachments: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_slot: 0,
            by_rd: BTreeMap::new(),
            importers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ready: BTreeSet::new(),
            turn: 0,
            replies: VecDeque::new(),
            actions: VecDeque::new(),
            undecided: BTreeSet::new(),
            scans: VecDeque::new(),
            epoch: start.epoch,
            generation: start.epoch.0,
            converged_by: now + wait,
            converged: false,
        };
        vpn.configure(now, config);
        vpn
    }

    /// Moves to a configuration; what is equal in both is not disturbed. AS number and loopback stay what they are: they
    /// are the identity of the process.
    pub fn configure(&mut self, now: Instant, config: Config) {
        let config = Config { asn: self.config.asn, loopback: self.config.loopback, ..config };
        self.rib_configure(&config.reflectors);
        let changed = self.core.configure(config.loopback, &config.interfaces, &config.routes);
        self.tunnels_changed(changed);

        let wanted: BTreeMap<&AttachmentId, _> = config.attachments.iter().map(|a| (&a.id, a)).collect();
        let removed: Vec<_> = self.slots.iter().filter(|(id, _)| !wanted.contains_key(id)).map(|(_, slot)| *slot).collect();
        removed.into_iter().for_each(|slot| self.remove_attachment(slot));
        // All RDs that go are gone before one is taken: two attachments may have swapped theirs.
        let mut moved = BTreeSet::new();
        for new in wanted.values() {
            if let Some(slot) = self.slots.get(&new.id).copied()
                && let Some(old) = self.attachments.get(&slot)
                && old.config.rd != new.rd
            {
                self.by_rd.remove(&old.config.rd);
                moved.insert(slot);
                self.unexport_all(slot);
            }
        }
        for new in wanted.into_values() {
            match self.slots.get(&new.id).copied() {
                Some(slot) => self.change_attachment(now, slot, new.clone(), moved.contains(&slot)),
                None => self.add_attachment(new.clone()),
            }
        }
        self.config = config;
        self.assign_labels(now);
        self.fabric_changed();
    }

    fn add_attachment(&mut self, config: crate::config::AttachmentConfig) {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(config.id.clone(), slot);
        self.by_rd.insert(config.rd, slot);
        config.import.iter().for_each(|rt| {
            self.importers.entry(*rt).or_default().insert(slot);
        });
        self.attachments.insert(slot, Attachment::new(config));
        self.scans.push_back(Scan { slot, after: None });
    }

    fn change_attachment(&mut self, now: Instant, slot: Slot, new: crate::config::AttachmentConfig, moved: bool) {
        let Some(attachment) = self.attachments.get_mut(&slot) else { return };
        if attachment.config == new {
            return;
        }
        let old = attachment.config.clone();
        attachment.reconfigure(new.clone());
        self.by_rd.insert(new.rd, slot);
        if old.import != new.import {
            self.forget_imports(slot, &old.import);
            for rt in &new.import {
                self.importers.entry(*rt).or_default().insert(slot);
            }
            self.drop_unimported(slot);
            // What is new to import is found by looking at everything.
            self.scans.retain(|s| s.slot != slot);
            self.scans.push_back(Scan { slot, after: None });
        }
        if moved || old.export != new.export {
            self.export_all(slot);
        }
        if old.max_routes != new.max_routes {
            self.limit_changed(now, slot);
        }
    }

    /// Takes out of a VRF, at once, what its import targets no longer allow: whoever changes a target expects it to hold now,
    /// and a path that goes before a later look at the table would not be found there.
    fn drop_unimported(&mut self, slot: Slot) {
        let Some(attachment) = self.attachments.get_mut(&slot) else { return };
        let import = &attachment.config.import;
        let mut changed = vec![];
        attachment.vrf.retain(|prefix, paths| {
            let before = paths.len();
            paths.retain(|_, path| path.attributes.route_targets().any(|rt| import.contains(&rt)));
            if paths.len() != before {
                changed.push(*prefix);
            }
            !paths.is_empty()
        });
        if let Some(session) = self.sessions.get_mut(&slot) {
            changed.into_iter().for_each(|prefix| session.feed.prefix_changed(prefix));
            self.ready.insert(slot);
        }
    }

    fn remove_attachment(&mut self, slot: Slot) {
        self.unexport_all(slot);
        let Some(attachment) = self.attachments.remove(&slot) else { return };
        self.slots.remove(&attachment.config.id);
        self.by_rd.remove(&attachment.config.rd);
        self.forget_imports(slot, &attachment.config.import);
        self.scans.retain(|s| s.slot != slot);
        self.ready.remove(&slot);
        if let Some(session) = self.sessions.remove(&slot) {
            self.replies.push_back((session.peer, ToPvm::Refused { incarnation: session.incarnation, reason: Refusal::NotYours }));
        }
    }

    fn forget_imports(&mut self, slot: Slot, import: &BTreeSet<RouteTarget>) {
        for rt in import {
            if let Some(slots) = self.importers.get_mut(rt) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.importers.remove(rt);
                }
            }
        }
    }

    /// A neighbour appeared, changed or went.
    pub fn neighbor(&mut self, neighbor: Neighbor, mac: Option<MacAddr>) {
        let before = self.core.resolved();
        let changed = self.core.neighbor(neighbor, mac);
        if self.core.resolved() != before {
            self.fabric_changed();
        }
        self.tunnels_changed(changed);
    }

    /// Some tunnels changed: paths whose usability may have are decided anew, and PVMs that know the tunnel are told.
    fn tunnels_changed(&mut self, endpoints: Vec<Ipv4Addr>) {
        for endpoint in endpoints {
            self.undecided.extend(self.rib.sent_with(endpoint));
            if endpoint == self.config.loopback {
                let keys = self.attachments.values().flat_map(|a| a.exported.keys().map(|p| (a.config.rd, *p)));
                self.undecided.extend(keys);
            }
            for (slot, session) in &mut self.sessions {
                session.feed.tunnel_changed(endpoint);
                self.ready.insert(*slot);
            }
        }
    }

    fn fabric_changed(&mut self) {
        self.generation += 1;
        self.actions.push_back(Action::FabricChanged);
    }

    /// Neighbours to keep resolved.
    pub fn wanted_neighbors(&self) -> BTreeSet<Neighbor> {
        self.core.wanted()
    }

    /// Wanted neighbours that are resolved.
    pub fn neighbors(&self) -> BTreeMap<Neighbor, MacAddr> {
        self.core.resolved()
    }

    /// Changes whenever labels or neighbours do, and from one process to the next.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Everything advertised, for a route reflector that is new.
    pub fn exports(&self) -> impl Iterator<Item = (Nlri, Arc<Attributes>)> {
        self.attachments.values().flat_map(|a| {
            let label = a.label;
            a.exported.iter().filter_map(move |(prefix, attributes)| Some((nlri(a, *prefix, label?), attributes.clone())))
        })
    }

    /// Whether every attachment's PVM has told its routes since the start.
    pub fn synced(&self) -> bool {
        self.attachments.values().all(|a| a.synced)
    }

    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Does up to `budget` steps of what is queued; true if there is more.
    pub fn work(&mut self, budget: usize) -> bool {
        let mut left = budget;
        while left > 0
            && let Some(key) = self.undecided.pop_first()
        {
            left -= 1;
            self.decide(key);
        }
        while left > 0
            && let Some(mut scan) = self.scans.pop_front()
        {
            let from = scan.after.map_or(Bound::Unbounded, Bound::Excluded);
            let slice: Vec<(Key, Arc<Path>)> =
                self.rib.best.range((from, Bound::Unbounded)).take(left).map(|(k, p)| (*k, p.clone())).collect();
            left -= slice.len().min(left);
            for (key, path) in &slice {
                let imports = self.imports(path).contains(&scan.slot);
                self.import(scan.slot, *key, Some(path).filter(|_| imports));
            }
            match slice.last() {
                Some((key, _)) => {
                    scan.after = Some(*key);
                    self.scans.push_front(scan);
                }
                None => {
                    self.ready.insert(scan.slot);
                }
            }
        }
        let more = !self.undecided.is_empty() || !self.scans.is_empty();
        if !more && budget > left {
            // Snapshots may end now.
            self.ready.extend(self.sessions.keys());
        }
        more
    }

    fn decide(&mut self, key: Key) {
        let local = self.by_rd.get(&key.0).and_then(|slot| self.attachments.get(slot)).and_then(|a| {
            Some(Path {
                rd: key.0,
                from: Learned::Attachment(a.config.id.clone()),
                endpoint: self.config.loopback,
                label: a.label?,
                attributes: a.exported.get(&key.1)?.clone(),
            })
        });
        let new = self.rib.decide(&self.core, self.config.asn, self.config.loopback, &key, local).map(Arc::new);
        let old = match &new {
            Some(path) => self.rib.best.insert(key, path.clone()),
            None => self.rib.best.remove(&key),
        };
        if old == new {
            return;
        }
        let into = new.as_ref().map(|p| self.imports(p)).unwrap_or_default();
        let out_of = old.map(|p| self.imports(&p)).unwrap_or_default();
        for slot in out_of.difference(&into) {
            self.import(*slot, key, None);
        }
        for slot in &into {
            self.import(*slot, key, new.as_ref());
        }
    }

    /// RFC 4364 §4.3.1: attachments with an import target among the path's route targets; never the one it is from.
    fn imports(&self, path: &Path) -> BTreeSet<Slot> {
        let own = match &path.from {
            Learned::Attachment(id) => self.slots.get(id).copied(),
            Learned::Reflector(_) => None,
        };
        let targets = path.attributes.route_targets();
        targets.filter_map(|rt| self.importers.get(&rt)).flatten().copied().filter(|s| Some(*s) != own).collect()
    }

    fn import(&mut self, slot: Slot, (rd, prefix): Key, path: Option<&Arc<Path>>) {
        let Some(attachment) = self.attachments.get_mut(&slot) else { return };
        let changed = match path {
            Some(path) => attachment.vrf.entry(prefix).or_default().insert(rd, path.clone()).as_ref() != Some(path),
            None => attachment.vrf.get_mut(&prefix).is_some_and(|paths| paths.remove(&rd).is_some()),
        };
        if attachment.vrf.get(&prefix).is_some_and(BTreeMap::is_empty) {
            attachment.vrf.remove(&prefix);
        }
        if changed && let Some(session) = self.sessions.get_mut(&slot) {
            session.feed.prefix_changed(prefix);
            self.ready.insert(slot);
        }
    }

    fn export_all(&mut self, slot: Slot) {
        let Some(attachment) = self.attachments.get(&slot) else { return };
        let prefixes: Vec<_> = attachment.routes.iter().map(|(p, _)| *p).collect();
        for prefix in prefixes {
            self.export(slot, prefix);
        }
    }

    fn unexport_all(&mut self, slot: Slot) {
        let Some(attachment) = self.attachments.get_mut(&slot) else { return };
        let rd = attachment.config.rd;
        for prefix in std::mem::take(&mut attachment.exported).into_keys() {
            self.actions.push_back(Action::Withdraw(NlriKey::Vpnv4 { rd, prefix }));
            self.undecided.insert((rd, prefix));
        }
    }

    /// Advertises a customer route as it now is, or withdraws it.
    fn export(&mut self, slot: Slot, prefix: Ipv4Net) {
        let Some(attachment) = self.attachments.get_mut(&slot) else { return };
        let rd = attachment.config.rd;
        let customer = attachment.routes.get(&prefix).map(|r| r.attributes.clone());
        let exported = match (customer, attachment.label) {
            (Some(customer), Some(label)) => match attachment.export(&customer) {
                Ok(attributes) => Some((label, attributes)),
                Err(error) => {
                    self.actions.push_back(Action::Refused(attachment.config.id.clone(), format!("{prefix}: {error}")));
                    None
                }
            },
            _ => None,
        };
        match exported {
            Some((label, attributes)) => {
                let nlri = nlri(attachment, prefix, label);
                attachment.exported.insert(prefix, attributes.clone());
                self.actions.push_back(Action::Advertise(nlri, attributes));
            }
            None if attachment.exported.remove(&prefix).is_some() => {
                self.actions.push_back(Action::Withdraw(NlriKey::Vpnv4 { rd, prefix }));
            }
            None => return,
        }
        self.undecided.insert((rd, prefix));
    }

    /// The passing of time: call some times a second.
    pub fn tick(&mut self, now: Instant) {
        self.tick_reflectors(now);
        self.tick_pvms(now);
        self.tick_labels(now);
        let waiting = self.rib.reflectors.values().any(|r| !r.session.is_some_and(|s| s.complete));
        if !self.converged && (!waiting || now >= self.converged_by) {
            self.converged = true;
            self.ready.extend(self.sessions.keys());
        }
    }
}

fn nlri(attachment: &Attachment, prefix: Ipv4Net, label: Label) -> Nlri {
    Nlri::Vpnv4 { rd: attachment.config.rd, prefix, label }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
