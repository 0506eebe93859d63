//! The CEs' sessions as the state task sees them: the speaker, the RIB's routes towards each CE, and what becomes of a
//! CE's routes when its session ends.

use crate::{
    Ports,
    config::{self, Loaded},
};
use edgeplex_bgp_wire::{Family, Nlri, NlriKey};
use edgeplex_journal::{Record, SessionId};
use edgeplex_mgmt::show::BgpNeighbor;
use edgeplex_pvm_vrf::{CeOp, Restart, StaleRoutes, Vrf};
use edgeplex_transport::{
    Mode, Promoted,
    bgp::{Event, Speaker, SpeakerConfig},
    journal::{Flow, Gate, Journal},
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// How long a CE's routes are kept while it restarts, at most (RFC 4724 §3 leaves an upper bound to us).
const RESTART_TIME: Duration = Duration::from_secs(120);
/// Routes handed to the speaker at a time.
const BATCH: usize = 1024;

#[derive(Debug)]
struct Running {
    speaker: Speaker,
    events: mpsc::Receiver<Event>,
    /// What another value of makes another speaker.
    identity: (u32, Ipv4Addr),
}

#[derive(Debug, Default)]
struct Ce {
    up: bool,
    stale: StaleRoutes,
    released: bool,
    refused: u64,
}

#[derive(Debug)]
pub(crate) struct Customers {
    ports: Ports,
    running: Option<Running>,
    ces: BTreeMap<IpAddr, Ce>,
    /// The sessions of a predecessor are being taken over: one that ends now was lost by us.
    succeeding: bool,
    /// Sessions of a predecessor that stand in its journal.
    recorded: BTreeMap<SessionId, Flow>,
}

/// The one family of a CE's session.
fn family(peer: IpAddr) -> Family {
    if peer.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast }
}

fn identity(loaded: &Loaded) -> (u32, Ipv4Addr) {
    (loaded.config.asn, loaded.config.router_id)
}

impl Customers {
    pub(crate) fn new(ports: Ports) -> Self {
        Self { ports, running: None, ces: BTreeMap::new(), succeeding: false, recorded: BTreeMap::new() }
    }

    /// Cancel-safe. Never returns while there is no session to hear from.
    pub(crate) async fn event(&mut self) -> Event {
        if let Some(running) = &mut self.running
            && let Some(event) = running.events.recv().await
        {
            return event;
        }
        std::future::pending().await
    }

    pub(crate) fn neighbors(&self) -> Vec<BgpNeighbor> {
        self.running.as_ref().map(|r| r.speaker.neighbors()).unwrap_or_default()
    }

    /// What has happened already, without waiting.
    pub(crate) fn at_hand(&mut self) -> Option<Event> {
        self.running.as_mut()?.events.try_recv().ok()
    }

    /// Starts the sessions, if they are not running and there are any.
    pub(crate) fn start(&mut self, loaded: &Loaded, mode: Mode, restarting: bool, vrf: &mut Vrf) {
        if self.running.is_some() || loaded.config.bgp.is_empty() {
            return;
        }
        info!(neighbors = loaded.config.bgp.len(), restarting, "starting the customer's sessions");
        let (local_as, router_id) = identity(loaded);
        let (speaker, events) = Speaker::start(SpeakerConfig { local_as, router_id, listen: self.ports.listen.clone() }, mode);
        self.running = Some(Running { speaker, events, identity: (local_as, router_id) });
        self.set_peers(loaded, restarting, vrf);
    }

    fn set_peers(&mut self, loaded: &Loaded, restarting: bool, vrf: &mut Vrf) {
        let Some(running) = &self.running else { return };
        for b in &loaded.config.bgp {
            self.ces.entry(b.neighbor).or_insert_with(|| {
                // The engine knows nothing of what a former one was told.
                vrf.ce_restart(b.neighbor);
                Ce::default()
            });
            // A session that becomes another one by this ends by itself, and says so.
            running.speaker.set_peer(config::peer(loaded, b, &self.ports, restarting));
        }
    }

    /// Whether another configuration makes other sessions of them all.
    pub(crate) fn others(&self, loaded: &Loaded) -> bool {
        self.running.as_ref().map(|r| r.identity) != (!loaded.config.bgp.is_empty()).then(|| identity(loaded))
    }

    /// Moves to another configuration, of which the RIB knows already.
    pub(crate) async fn reconfigure(&mut self, now: Instant, loaded: &Loaded, vrf: &mut Vrf, restart: &mut Restart) {
        let others = self.others(loaded);
        let Some(running) = &self.running else { return };
        if others {
            self.close(false).await;
            let peers: Vec<IpAddr> = self.ces.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.lost(now, peer, None, vrf, restart));
            self.ces.clear();
        } else {
            for (gone, _) in self.ces.extract_if(.., |peer, _| loaded.config.bgp.iter().all(|b| b.neighbor != *peer)) {
                info!(peer = %gone, "neighbor removed");
                running.speaker.remove_peer(gone);
                restart.ce_removed(gone);
            }
            self.set_peers(loaded, restart.restarted(), vrf);
        }
        for b in loaded.config.bgp.iter().filter(|b| b.shutdown.is_some()) {
            restart.ce_removed(b.neighbor);
        }
    }

    /// Ends without a word, so that the CEs go on forwarding to FastForward until the next pvmd is there. `successor`: it takes the
    /// sessions over, which stand still until then; otherwise they are closed.
    pub(crate) async fn leave(&mut self, successor: bool) {
        if successor && let Some(Running { speaker, events, .. }) = self.running.take() {
            drop(events);
            return speaker.leave().await;
        }
        self.close(true).await;
    }

    // --- the instance's role

    /// A change that a predecessor has written down.
    pub(crate) fn replay(&mut self, record: &Record) {
        match record {
            Record::Open(id, opened) => {
                self.recorded.insert(*id, Flow::from(opened.as_ref()));
            }
            Record::Close(id) => {
                self.recorded.remove(id);
            }
            _ => {}
        }
        if let Some(running) = &self.running {
            running.speaker.replay(record);
        }
    }

    /// Takes the sessions over that were replayed; or, without any that are wanted, ends them.
    pub(crate) fn promote(&mut self, journal: Journal, gate: &dyn Gate) -> impl Future<Output = Promoted> + use<> {
        self.succeeding = true;
        let speaker = self.running.as_ref().map(|r| r.speaker.clone());
        if speaker.is_none() {
            self.abandon(&journal, gate);
        }
        self.recorded.clear();
        async move {
            let Some(speaker) = speaker else { return Promoted::default() };
            let promoted = speaker.promote(journal).await;
            speaker.told().await;
            promoted
        }
    }

    /// All that came of [`Customers::promote`] was handled.
    pub(crate) fn succeeded(&mut self) {
        self.succeeding = false;
    }

    /// Resolves when what was replayed so far has come out, as far as it has not, in what is at hand.
    pub(crate) fn told(&self) -> impl Future<Output = ()> + use<> {
        let speaker = self.running.as_ref().map(|r| r.speaker.clone());
        async move {
            if let Some(speaker) = speaker {
                speaker.told().await;
            }
        }
    }

    /// The sessions that were replayed may have gone on without us: they are no more, and the CEs' routes stay as across any other
    /// loss. How many there were.
    pub(crate) fn abandon(&mut self, journal: &Journal, gate: &dyn Gate) -> u32 {
        let recorded = std::mem::take(&mut self.recorded);
        for (id, flow) in &recorded {
            journal.append(&Record::Close(*id));
            // The CE is told by a RST as soon as it says something.
            gate.over(*flow);
        }
        self.start_over();
        u32::try_from(recorded.len()).unwrap_or(u32::MAX)
    }

    /// The predecessor tells its state anew.
    pub(crate) fn start_over(&mut self) {
        self.recorded.clear();
        if let Some(running) = &self.running {
            running.speaker.forget();
        }
    }

    /// Sessions stand still: nothing leaves or enters.
    pub(crate) fn fence(&self) -> impl Future<Output = ()> + use<> {
        let speaker = self.running.as_ref().map(|r| r.speaker.clone());
        async move {
            if let Some(speaker) = speaker {
                speaker.fence().await;
            }
        }
    }

    pub(crate) fn unfence(&self) {
        if let Some(running) = &self.running {
            running.speaker.unfence();
        }
    }

    /// CEs of which stale routes are kept: a successor has to wait for them.
    pub(crate) fn stale(&self) -> impl Iterator<Item = IpAddr> {
        self.ces.iter().filter(|(_, ce)| ce.stale.deadline().is_some()).map(|(peer, _)| *peer)
    }

    // --- what the sessions say

    async fn close(&mut self, graceful: bool) {
        if let Some(Running { speaker, events, .. }) = self.running.take() {
            // Nobody reads them any more; a session that waits to be heard must not hold up the end.
            drop(events);
            speaker.shutdown(graceful).await;
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, event: Event, vrf: &mut Vrf, restart: &mut Restart) {
        let (Event::Up { peer, .. } | Event::Down { peer, .. } | Event::Update { peer, .. } | Event::EndOfRib { peer, .. }) = event;
        // What a neighbour left in the queue that is not ours any more.
        let Some(ce) = self.ces.get_mut(&peer) else { return };
        match event {
            Event::Up { router_id, peer_has_gr, restarted, preserved, taken_over, .. } => {
                info!(%peer, graceful_restart = peer_has_gr, taken_over, "customer session is up");
                ce.up = true;
                vrf.customer_up(peer, router_id);
                restart.ce_up(now, peer, peer_has_gr, restarted);
                // RFC 4724 §4.2: without the capability, or without its F bit, the stale routes go.
                if ce.stale.returned(now, preserved.contains(&family(peer))) {
                    vrf.customer_sweep(peer);
                }
            }
            Event::Down { reason, .. } if self.succeeding && ce.up => {
                warn!(%peer, reason, "customer session cannot be taken over");
                self.lost(now, peer, Some(RESTART_TIME), vrf, restart);
                if let Some(ce) = self.ces.get_mut(&peer) {
                    ce.stale.lost(now);
                }
            }
            Event::Down { reason, graceful, .. } => {
                // Long-lived routes (RFC 9494) are for reflectors; from a CE they would be a hole that nobody looks at.
                let keep = graceful.map(|g| Duration::from_secs(g.stale_s.into()).min(RESTART_TIME));
                warn!(%peer, reason, keep_s = keep.map_or(0, |k| k.as_secs()), "customer session is down");
                self.lost(now, peer, keep, vrf, restart);
            }
            // What a session left in the queue that has been ended since.
            Event::Update { .. } | Event::EndOfRib { .. } if !ce.up => {}
            Event::Update { attributes, next_hop, reach, unreach, .. } => {
                restart.ce_update(now, peer);
                let reach = reach.iter().filter_map(|r| unicast(r.nlri.key()));
                let unreach = unreach.iter().filter_map(|u| unicast(u.key));
                if let Some((prefix, reason)) = vrf.customer_update(peer, &attributes, next_hop, reach, unreach) {
                    ce.refused += 1;
                    if ce.refused.is_power_of_two() {
                        warn!(%peer, %prefix, %reason, refused = ce.refused, "a route of the customer is not taken");
                    }
                }
            }
            Event::EndOfRib { family: of, .. } if of == family(peer) => {
                info!(%peer, routes = vrf.counts().customer, "customer's table is complete");
                vrf.customer_sweep(peer);
                ce.stale.cleared();
                restart.ce_end_of_rib(peer);
            }
            Event::EndOfRib { .. } => {}
        }
    }

    /// BFD says that the way to the CE is broken while its session stands. It ends now, and its routes go: BGP cannot
    /// announce a planned restart, so this is a failure (RFC 5882 §4.3.2.2). Routes that are already kept for a CE whose session
    /// ended before stay for their time: our BFD shares fate with the control plane, and its end may be part of that restart
    /// (RFC 5882 §4.3.2).
    pub(crate) fn bfd_down(&mut self, now: Instant, peer: IpAddr, vrf: &mut Vrf, restart: &mut Restart) {
        if let Some(running) = self.running.as_ref().filter(|_| self.ces.get(&peer).is_some_and(|ce| ce.up)) {
            warn!(%peer, "BFD: the way to the neighbor is broken; its session ends and its routes go");
            running.speaker.bfd_down(peer);
            self.lost(now, peer, None, vrf, restart);
        }
    }

    /// Its routes stay for at most `keep`.
    fn lost(&mut self, now: Instant, peer: IpAddr, keep: Option<Duration>, vrf: &mut Vrf, restart: &mut Restart) {
        let Some(ce) = self.ces.get_mut(&peer) else { return };
        ce.up = false;
        restart.ce_down(peer);
        vrf.customer_down(peer, keep.is_some());
        match keep {
            Some(time) => ce.stale.kept(now, time),
            None => ce.stale.cleared(),
        }
    }

    pub(crate) fn tick(&mut self, now: Instant, vrf: &mut Vrf) {
        for (peer, ce) in &mut self.ces {
            if ce.stale.expired(now) {
                info!(%peer, "the customer did not repeat its routes in time");
                if ce.up { vrf.customer_sweep(*peer) } else { vrf.customer_down(*peer, false) }
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ces.values().filter_map(|ce| ce.stale.deadline()).min()
    }

    /// Hands the speaker what the CEs should hear.
    pub(crate) fn flush(&mut self, release: bool, vrf: &mut Vrf) {
        let Some(r) = &self.running else { return };
        for (peer, ce) in &mut self.ces {
            while !vrf.ce_clean(*peer) {
                for op in vrf.ce_ops(*peer, BATCH) {
                    match op {
                        // The next hop is our own address of the session.
                        CeOp::Advertise { prefix, attributes } => r.speaker.advertise(*peer, Nlri::Unicast(prefix), attributes, None),
                        CeOp::Withdraw { prefix } => r.speaker.withdraw(*peer, NlriKey::Unicast(prefix)),
                    }
                }
            }
            if release && !std::mem::replace(&mut ce.released, true) {
                r.speaker.release(*peer, family(*peer));
            }
        }
    }
}

fn unicast(key: NlriKey) -> Option<IpNet> {
    match key {
        NlriKey::Unicast(prefix) => Some(prefix),
        _ => None,
    }
}
