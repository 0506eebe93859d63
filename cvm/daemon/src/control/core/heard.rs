//! What OSPF, LDP and BFD say, and what they are asked for in return.

use super::{CoreSide, Stage};
use crate::{
    config::bfd_parameters,
    core_io::{CoreCommand, CoreIo},
    state::Bindings,
};
use edgeplex_transport::{bfd, ldp, ospf};
use edgeplex_types::NextHop;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{error, info, warn};

/// Of BFD's sessions with OSPF neighbours.
const CLIENT: &str = "ospf";
/// Pause before bindings that could not be stored are tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

impl<I: CoreIo> CoreSide<I> {
    pub(super) fn ospf(&mut self, now: Instant, event: ospf::Event) {
        match event {
            ospf::Event::Routes(routes) => {
                self.settling.news(now);
                self.core.ospf(routes);
                self.forget_dead();
            }
            ospf::Event::NeighborUp { interface, address, router_id } => {
                info!(%interface, %address, %router_id, "OSPF adjacency is full");
                let hop = NextHop { interface, address };
                self.settling.adjacency(now, hop.clone(), true);
                // Its packets come through: that is a sign of life as well.
                self.core.liveness(hop.clone(), true);
                self.core.router(hop.clone(), Some(router_id));
                self.watch(&hop);
            }
            ospf::Event::NeighborDown { interface, address, router_id, reason } => {
                warn!(%interface, %address, %router_id, reason, "OSPF adjacency is down");
                self.adjacency_down(now, &NextHop { interface, address });
            }
        }
    }

    pub(super) fn adjacency_down(&mut self, now: Instant, hop: &NextHop) {
        self.settling.adjacency(now, hop.clone(), false);
        self.core.router(hop.clone(), None);
        self.unwatch(hop);
        self.forget_dead();
    }

    /// Without a session nobody would say that a neighbour lives.
    pub(super) fn forget_dead(&mut self) {
        let sessions = &self.sessions;
        self.core.forget_dead(|hop| sessions.contains_key(hop));
    }

    pub(super) fn ldp(&mut self, now: Instant, event: ldp::Event) {
        match event {
            ldp::Event::Forwarding(labels) => {
                self.settling.news(now);
                self.core.ldp(labels);
            }
            ldp::Event::SessionUp { lsr_id, interfaces } => info!(%lsr_id, ?interfaces, "LDP session is up"),
            ldp::Event::SessionDown { lsr_id, interfaces, reason } => warn!(%lsr_id, ?interfaces, reason, "LDP session is down"),
            ldp::Event::Synced { interface, synced } => {
                self.settling.synced(now, interface.clone(), synced);
                self.link_cost(&interface);
            }
            ldp::Event::Store(bindings) => self.store(now, bindings),
            ldp::Event::Recovered => info!("LDP has recovered what was before the restart"),
        }
    }

    pub(super) fn bfd(&mut self, event: bfd::Event) -> Option<bfd::Key> {
        let (key, alive) = match event {
            bfd::Event::Up(key) => (key, true),
            // RFC 5882 §3.2: ended by an operator, which says nothing of the way.
            bfd::Event::Down(_, bfd::Why::NeighborAdminDown) => return None,
            bfd::Event::Down(key, _) => (key, false),
        };
        let Some((hop, _)) = self.sessions.iter().find(|(_, (k, _))| *k == key) else {
            return (!alive).then_some(key);
        };
        let hop = hop.clone();
        self.core.liveness(hop.clone(), alive);
        if !alive {
            warn!(neighbor = %hop, "BFD lost a neighbour");
            self.io.command(CoreCommand::NeighborLost(hop));
        }
        None
    }

    pub(super) fn wanted_session(&self, hop: &NextHop) -> Option<(bfd::Key, bfd::Parameters)> {
        let interface = self.interfaces.iter().find(|i| *i.name == *hop.interface)?;
        let parameters = bfd_parameters(interface.bfd.as_ref()?);
        let local = interface.address.addr().into();
        Some((bfd::Key { peer: hop.address.into(), local, interface: Some(hop.interface.clone()) }, parameters))
    }

    /// Asks for BFD with a neighbour, where it is configured.
    pub(super) fn watch(&mut self, hop: &NextHop) {
        let Some(wanted) = self.wanted_session(hop) else { return };
        if self.sessions.get(hop) == Some(&wanted) {
            return;
        }
        if self.sessions.get(hop).is_some_and(|(key, _)| *key != wanted.0) {
            self.unwatch(hop);
        }
        self.bfd_session(wanted.0.clone(), CLIENT, Some(wanted.1));
        self.sessions.insert(hop.clone(), wanted);
    }

    pub(super) fn unwatch(&mut self, hop: &NextHop) {
        if let Some((key, _)) = self.sessions.remove(hop) {
            self.bfd_session(key, CLIENT, None);
        }
    }

    /// A client wants a session, or no longer.
    pub(crate) fn bfd_session(&mut self, key: bfd::Key, client: &'static str, parameters: Option<bfd::Parameters>) {
        self.io.command(CoreCommand::Bfd { key, client, parameters });
    }

    /// RFC 5443: a link without labels is the last to be used.
    pub(super) fn link_cost(&mut self, interface: &Arc<str>) {
        let speaks = self.interfaces.iter().any(|i| *i.name == **interface && i.ldp && i.ospf.is_some());
        let max = self.igp_sync && speaks && !self.settling.is_synced(interface);
        // A restarting router's links are announced as they were, until it has had the time to find its neighbours again.
        if self.stage == Stage::Speaking && (!max || self.core.is_settled()) {
            self.io.command(CoreCommand::LinkCost { interface: interface.clone(), max });
        }
    }

    pub(crate) fn store(&mut self, now: Instant, bindings: Bindings) {
        match self.file.save(&bindings) {
            Ok(()) => {
                if self.unstored.take().is_some() {
                    info!("LDP labels are stored again");
                }
            }
            Err(error) => {
                if self.unstored.is_none() {
                    error!(error = format!("{error:#}"), "LDP labels cannot be stored: a restart would change them");
                }
                self.unstored = Some((bindings, now + STORE_AGAIN));
            }
        }
    }
}
