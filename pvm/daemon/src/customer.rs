//! The CE's session as the state task sees it: the speaker, the RIB's routes towards the CE, and what becomes of the
//! CE's routes when the session ends.

use crate::{Ports, config};
use edgeplex_bgp_wire::{Family, Nlri, NlriKey};
use edgeplex_mgmt::{config::PvmConfig, show::BgpNeighbor};
use edgeplex_pvm_vrf::{CeOp, Restart, StaleRoutes, Vrf};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use ipnet::Ipv4Net;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// How long a CE's routes are kept while it restarts (RFC 4724 §3 leaves an upper bound to us).
const RESTART_TIME: Duration = Duration::from_secs(120);
/// Routes handed to the speaker at a time.
const BATCH: usize = 1024;

#[derive(Debug)]
struct Running {
    speaker: Speaker,
    events: mpsc::Receiver<Event>,
    peer: IpAddr,
    /// The next hop of what the CE gets.
    own: IpAddr,
    released: bool,
}

#[derive(Debug, Default)]
pub(crate) struct CustomerSession {
    running: Option<Running>,
    up: bool,
    stale: StaleRoutes,
    refused: u64,
}

impl CustomerSession {
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
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

    /// Starts the session of the configured neighbor, if there is one.
    pub(crate) fn start(&mut self, c: &PvmConfig, ports: Ports, restarting: bool, vrf: &mut Vrf) {
        let Some(peer) = config::peer(c, ports.neighbor, restarting) else { return };
        let own = c.address.addr();
        info!(peer = %peer.address, remote_as = peer.remote_as, restarting, "starting the customer session");
        let (speaker, events) = Speaker::start(SpeakerConfig { local_as: c.asn, router_id: own, listen: ports.listen });
        self.running = Some(Running { speaker: speaker.clone(), events, peer: peer.address, own: own.into(), released: false });
        // This speaker knows nothing of what a former one was told.
        vrf.ce_restart();
        speaker.set_peer(peer);
    }

    /// Moves to another configuration of the same session ([`config::another_session`]).
    pub(crate) fn update(&self, c: &PvmConfig, ports: Ports, restarting: bool) {
        if let (Some(running), Some(peer)) = (&self.running, config::peer(c, ports.neighbor, restarting)) {
            running.speaker.set_peer(peer);
        }
    }

    /// Ends the session for good; the CE's routes go.
    pub(crate) async fn end(&mut self, now: Instant, vrf: &mut Vrf, restart: &mut Restart) {
        self.close(false).await;
        self.down(now, false, vrf, restart);
    }

    /// Closes without a word, so that the CE goes on forwarding to FastForward until the next pvmd is there.
    pub(crate) async fn leave(&mut self) {
        self.close(true).await;
    }

    async fn close(&mut self, graceful: bool) {
        if let Some(Running { speaker, events, .. }) = self.running.take() {
            // Nobody reads them any more; a session that waits to be heard must not hold up the end.
            drop(events);
            speaker.shutdown(graceful).await;
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, event: Event, vrf: &mut Vrf, restart: &mut Restart) {
        match event {
            Event::Up { peer, peer_has_gr, .. } => {
                info!(%peer, graceful_restart = peer_has_gr, "customer session is up");
                self.up = true;
                vrf.customer_up();
                restart.ce_up(now, peer_has_gr);
                if self.stale.returned(now, peer_has_gr) {
                    vrf.customer_sweep();
                }
            }
            Event::Down { peer, reason, graceful } => {
                warn!(%peer, reason, kept = if graceful { vrf.counts().customer } else { 0 }, "customer session is down");
                self.down(now, graceful, vrf, restart);
            }
            // What a session left in the queue that has been ended since.
            Event::Update { .. } | Event::EndOfRib { .. } if !self.up => {}
            Event::Update { attributes, next_hop, reach, unreach, peer, .. } => {
                restart.ce_update(now);
                let reach = reach.iter().filter_map(ipv4);
                let unreach = unreach.iter().filter_map(|k| if let NlriKey::Ipv4(p) = k { Some(*p) } else { None });
                if let Some((prefix, reason)) = vrf.customer_update(&attributes, next_hop, reach, unreach) {
                    self.refused += 1;
                    if self.refused.is_power_of_two() {
                        warn!(%peer, %prefix, %reason, refused = self.refused, "a route of the customer is not taken");
                    }
                }
            }
            Event::EndOfRib { peer, family: Family::Ipv4Unicast } => {
                info!(%peer, routes = vrf.counts().customer, "customer's table is complete");
                vrf.customer_sweep();
                self.stale.cleared();
                restart.ce_end_of_rib();
            }
            Event::EndOfRib { .. } => {}
        }
    }

    fn down(&mut self, now: Instant, keep: bool, vrf: &mut Vrf, restart: &mut Restart) {
        self.up = false;
        restart.ce_down();
        vrf.customer_down(keep);
        if keep {
            self.stale.kept(now, RESTART_TIME);
        } else {
            self.stale.cleared();
        }
    }

    pub(crate) fn tick(&mut self, now: Instant, vrf: &mut Vrf) {
        if self.stale.expired(now) {
            info!("the customer did not repeat its routes in time");
            if self.up { vrf.customer_sweep() } else { vrf.customer_down(false) }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.stale.deadline()
    }

    /// Hands the speaker what the CE should hear.
    pub(crate) fn flush(&mut self, release: bool, vrf: &mut Vrf) {
        let Some(r) = &mut self.running else { return };
        while !vrf.ce_clean() {
            for op in vrf.ce_ops(BATCH) {
                match op {
                    CeOp::Advertise { prefix, attributes } => r.speaker.advertise(r.peer, Nlri::Ipv4(prefix), attributes, r.own),
                    CeOp::Withdraw { prefix } => r.speaker.withdraw(r.peer, NlriKey::Ipv4(prefix)),
                }
            }
        }
        if release && !std::mem::replace(&mut r.released, true) {
            r.speaker.release(r.peer, Family::Ipv4Unicast);
        }
    }
}

fn ipv4(n: &Nlri) -> Option<Ipv4Net> {
    match n {
        Nlri::Ipv4(p) => Some(*p),
        _ => None,
    }
}
