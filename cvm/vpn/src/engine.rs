//! The engine: events in, actions and messages out.

use crate::{
    attachment::Attachment,
    config::{AttachmentConfig, Config, TunnelState},
    customer::ExportError,
    endpoints,
    feed::Feed,
    labels::{LabelError, LabelSpace, Owner},
    reflector::Reflector,
    rib::{Key, Received, Rib},
    sessions::{Conn, Instance, MAX_INSTANCES, PvmSession, Sessions},
};
use edgeplex_bgp_wire::{Attributes, Nlri, NlriKey, Origin, RtMembership};
use edgeplex_relay::{CustomerOp, DEAD_AFTER, MAX_ATTRIBUTES, Refusal, Sync, ToCvm, ToPvm, WINDOW};
use edgeplex_types::{AttachmentId, Epoch, Label, RouteTarget};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

mod configure;
mod labels;
mod pvm;
mod reflector;
mod work;

use work::{Leaving, Walk};

/// What the owner of the engine has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To every route reflector, next hop self: a VPN route, or what we want to hear of (RFC 4684).
    Advertise(Nlri, Arc<Attributes>),
    Withdraw(NlriKey),
    /// Labels were given or taken: to be stored ([`Vpn::labels`]), and answered by [`Vpn::labels_stored`].
    LabelsChanged,
    /// The switch has something new to learn ([`Vpn::generation`], [`Vpn::labels_in_use`]).
    FabricChanged,
    /// The core has other endpoints to find ways to ([`Vpn::wanted_endpoints`]).
    Endpoints,
    /// A PVM did what it may not: for the log.
    Refused(AttachmentId, String),
    LabelMissing(LabelError),
}

/// How long reflectors and PVMs that others told of a past process are waited for.
const CONVERGED_AFTER: Duration = Duration::from_secs(30);

/// How the process came up.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Counted up from here. What PVMs hold of a past process must never carry an epoch of this one, or it would not be swept:
    /// numbers are compared for being equal only, so a random number does, and a wall clock that was set back would not.
    pub epoch: Epoch,
    /// Whether PVMs and route reflectors may still hold what a past process told them.
    pub restarting: bool,
}

/// An internal name of an attachment, cheap to copy, never used twice.
pub(crate) type Slot = u32;

/// The state of the VPN. `P` names a relay connection.
#[derive(Debug)]
pub struct Vpn<P> {
    pub(crate) config: Config,
    pub(crate) rib: Rib,
    pub(crate) labels: LabelSpace,
    /// Labels as they are in the file: these may be used.
    stored: BTreeMap<Owner, Label>,
    /// The owner of the engine was asked to store labels and has not answered.
    storing: bool,
    /// Storing failed and is tried again then.
    store_again: Option<Instant>,
    /// Labels that could not be given, as told.
    label_errors: Vec<LabelError>,
    pub(crate) slots: BTreeMap<AttachmentId, Slot>,
    next_slot: Slot,
    /// Counts the sessions of all reflectors.
    session: u32,
    /// Route targets that we have told the reflectors to want (RFC 4684).
    memberships: BTreeSet<RouteTarget>,
    pub(crate) sessions: Sessions<P>,
    /// Sessions that may have something to say, and where the turn is.
    ready: BTreeSet<Conn>,
    turn: Conn,
    replies: VecDeque<(P, ToPvm)>,
    actions: VecDeque<Action>,
    /// Prefixes of the table whose importers are to be decided again.
    undecided: BTreeSet<Key>,
    /// The table is gone through; and what the next time is for.
    walk: Option<Walk>,
    next_walk: Walk,
    /// Attachments whose routes are to be exported anew, from a prefix on.
    exports: BTreeMap<Slot, Option<IpNet>>,
    leaving: VecDeque<Leaving>,
    epoch: Epoch,
    generation: u64,
    /// Until then snapshots to PVMs stay open for what the reflectors and other PVMs have yet to send.
    converged_by: Instant,
    converged: bool,
}

impl<P: Clone + Eq> Vpn<P> {
    /// An engine that knows nothing. `labels` are those of a past process, as they are stored.
    pub fn new(now: Instant, start: Start, config: Config, labels: LabelSpace) -> Self {
        let wait = if start.restarting { CONVERGED_AFTER } else { Duration::from_secs(3) };
        let empty = Config { attachments: vec![], reflectors: BTreeSet::new(), ..config.clone() };
        let mut vpn = Self {
            rib: Rib::new(config.asn, config.loopback),
            config: empty,
            stored: labels.held().clone(),
            labels,
            storing: false,
            store_again: None,
            label_errors: vec![],
            slots: BTreeMap::new(),
            next_slot: 0,
            session: 0,
            memberships: BTreeSet::new(),
            sessions: Sessions::default(),
            ready: BTreeSet::new(),
            turn: Conn::FIRST,
            replies: VecDeque::new(),
            actions: VecDeque::new(),
            undecided: BTreeSet::new(),
            walk: None,
            next_walk: Walk::default(),
            exports: BTreeMap::new(),
            leaving: VecDeque::new(),
            epoch: start.epoch,
            generation: start.epoch.0,
            converged_by: now + wait,
            converged: false,
        };
        vpn.configure(now, config);
        vpn
    }

    /// What the core says of an endpoint; of one that nobody wants it is not heard. PVMs that use the tunnel are told at
    /// once, in one operation; what it means for each prefix is found out in slices.
    pub fn tunnel(&mut self, _now: Instant, endpoint: Ipv4Addr, state: Option<TunnelState>) {
        let (was, cost) = (self.rib.endpoints.tunnel(endpoint), endpoints::cost(state.as_ref()));
        let Some(old) = self.rib.endpoints.set(endpoint, state) else { return };
        if self.rib.endpoints.tunnel(endpoint) != was {
            for (conn, session) in self.sessions.iter_mut() {
                if session.feed.tunnel_changed(endpoint) {
                    self.ready.insert(conn);
                }
            }
        }
        // RFC 4271 §9.1.2.2 e: only the cost matters to the decision, and whether there is one.
        if endpoints::cost(old.as_ref()) != cost {
            self.next_walk.endpoints.insert(endpoint);
        }
    }

    /// Endpoints that some path leads to, our own loopback among them, in order.
    pub fn wanted_endpoints(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.rib.endpoints.wanted()
    }

    fn fabric_changed(&mut self) {
        self.generation += 1;
        self.actions.push_back(Action::FabricChanged);
    }

    /// Changes whenever labels in use do, and from one process to the next.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Everything advertised, for a route reflector that is new: first what we want to hear of.
    pub fn exports(&self) -> impl Iterator<Item = (Nlri, Arc<Attributes>)> {
        let attributes = membership_attributes();
        let memberships = self.memberships.iter().map(move |rt| (self.membership(*rt), attributes.clone()));
        let routes = self.rib.attachments.values().flat_map(|a| {
            let rd = a.config.rd;
            a.exported.iter().map(move |(prefix, e)| (Nlri::Vpn { rd, prefix: *prefix, label: e.label }, e.attributes.clone()))
        });
        memberships.chain(routes)
    }

    fn membership(&self, target: RouteTarget) -> Nlri {
        Nlri::RouteTarget(RtMembership::new(self.config.asn, target))
    }

    /// Whether every attachment's PVM has told its routes since the start.
    pub fn synced(&self) -> bool {
        self.rib.attachments.values().all(|a| a.synced)
    }

    pub fn next_action(&mut self) -> Option<Action> {
        if self.rib.endpoints.settle() {
            return Some(Action::Endpoints);
        }
        self.actions.pop_front()
    }

    /// The passing of time: call some times a second.
    pub fn tick(&mut self, now: Instant) {
        self.tick_reflectors(now);
        self.tick_pvms(now);
        self.tick_labels(now);
        let waiting = !self.synced() || self.rib.reflectors.values().any(|r| !r.is_complete());
        self.converged |= !waiting || now >= self.converged_by;
        // Snapshots that waited for something, if only for this, may end.
        self.ready.extend(self.sessions.iter().filter(|(_, s)| !s.feed.is_live()).map(|(conn, _)| conn));
    }
}

/// RFC 4684 §5: advertised like any route of ours.
fn membership_attributes() -> Arc<Attributes> {
    Arc::new(Attributes { origin: Origin::Igp, local_pref: Some(100), ..Attributes::default() })
}

#[cfg(test)]
mod tests;
