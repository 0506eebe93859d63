//! The core side: what happens in the core goes into [`Core`], what follows from it goes out to the VPN, the label-switching
//! router, the kernel and the protocols.

mod heard;
mod succession;

use super::{Timing, lsp::LspPings, settle::Settling};
use crate::{
    config::core_config,
    core_io::{CoreCommand, CoreEvent, CoreIo},
    network::{KernelRoutes, NetworkEvent},
    state::{Bindings, BindingsFile},
};
use edgeplex_cvm_core::{Action, Core, TunnelState};
use edgeplex_cvm_vpn as vpn;
use edgeplex_ff_fib_api::FibOp;
use edgeplex_ff_fib_client::{Client, Event as LsrEvent, Source};
use edgeplex_mgmt::{
    Answer,
    config::{CoreInterface, CvmConfig},
    show::CvmQuery,
};
use edgeplex_transport::{bfd, relay::Peer};
use edgeplex_types::NextHop;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tracing::info;

/// Pause between two attempts to go on with a label-switching router that refused something.
const RETRY: Duration = Duration::from_millis(20);

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    Core(CoreEvent),
    Lsr(LsrEvent),
    /// The label-switching router may be told again.
    Retry,
}

/// How far this process is the one that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It only learns.
    Following,
    /// The kernel is to reach all of the core.
    Routing,
    /// It speaks to neighbours.
    Speaking,
}

pub(crate) struct CoreSide<I> {
    io: I,
    stage: Stage,
    /// The label-switching router is ours to program.
    forwards: bool,
    /// The core has converged once, or it had for whoever we took over from.
    known: bool,
    core: Core,
    lsr: Option<(String, Client)>,
    interfaces: Vec<CoreInterface>,
    igp_sync: bool,
    settling: Settling,
    lsp_pings: LspPings,
    /// OSPF neighbours with whom BFD runs.
    sessions: BTreeMap<NextHop, (bfd::Key, bfd::Parameters)>,
    file: BindingsFile,
    /// What is not stored yet, and when to try again.
    unstored: Option<(Bindings, Instant)>,
    retry: Retry,
}

/// When the label-switching router is told again. It stays when other things happen meanwhile, however many.
#[derive(Debug, Default)]
struct Retry(Option<Instant>);

impl Retry {
    /// `deadline`: of the client. While answers are awaited it may lie in the past.
    fn at(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        self.0 = deadline.map(|at| self.0.unwrap_or(at.max(now + RETRY)));
        self.0
    }
}

/// What the label-switching router is programmed with.
struct LabelMap<'a>(&'a mut Core);

impl Source for LabelMap<'_> {
    fn restart(&mut self) {
        self.0.lsr_restart();
    }
    fn take(&mut self, max: usize) -> Vec<FibOp> {
        self.0.lsr_ops(max)
    }
    fn complete(&self) -> bool {
        self.0.lsr_complete()
    }
}

impl<I: CoreIo> CoreSide<I> {
    /// `restarting`: what a past process told may still be in use.
    pub(crate) fn start(
        now: Instant,
        io: I,
        config: &CvmConfig,
        file: BindingsFile,
        timing: Timing,
        restarting: bool,
        stage: Stage,
    ) -> Self {
        let mut side = Self {
            io,
            stage,
            forwards: stage == Stage::Speaking,
            known: false,
            core: Core::new(core_config(config), restarting),
            lsr: None,
            interfaces: vec![],
            igp_sync: false,
            settling: Settling::new(now, timing),
            lsp_pings: LspPings::start(config),
            sessions: BTreeMap::new(),
            file,
            unstored: None,
            retry: Retry::default(),
        };
        side.take(config);
        side
    }

    /// Moves to another configuration.
    pub(crate) async fn configure(&mut self, config: &CvmConfig) -> anyhow::Result<()> {
        self.io.configure(config).await?;
        self.core.configure(core_config(config));
        self.lsp_pings.configure(config);
        // A protocol that is ended says nothing more.
        if config.ospf.is_none() {
            self.core.ospf(Arc::default());
            for hop in self.settling.adjacent().cloned().collect::<Vec<_>>() {
                self.adjacency_down(Instant::now(), &hop);
            }
        }
        if config.ldp.is_none() {
            self.core.ldp(Arc::default());
        }
        self.take(config);
        Ok(())
    }

    fn take(&mut self, config: &CvmConfig) {
        self.bring_lsr(config);
        self.interfaces = config.core.clone();
        self.settling.configure(config);
        let neighbors: Vec<NextHop> = self.settling.adjacent().cloned().collect();
        neighbors.iter().for_each(|hop| self.watch(hop));
        let gone: Vec<NextHop> = self.sessions.keys().filter(|hop| self.wanted_session(hop).is_none()).cloned().collect();
        for hop in gone {
            self.unwatch(&hop);
            // Nobody will say that it lives, and nobody is asked.
            self.core.liveness(hop, true);
        }
        self.forget_dead();
        let igp_sync = config.ospf.is_some() && config.ldp.as_ref().is_some_and(|ldp| ldp.igp_sync);
        if igp_sync || std::mem::replace(&mut self.igp_sync, igp_sync) {
            self.igp_sync = igp_sync;
            config.core.iter().for_each(|i| self.link_cost(&Arc::from(&i.name[..])));
        }
    }

    fn bring_lsr(&mut self, config: &CvmConfig) {
        let wanted = config.lsr_socket.as_ref().filter(|_| self.forwards);
        if self.lsr.as_ref().map(|(path, _)| path) != wanted {
            self.lsr = wanted.map(|path| (path.clone(), Client::start(PathBuf::from(path))));
        }
    }

    /// The next event. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        let (deadline, lsr) = match &mut self.lsr {
            Some((_, client)) => (client.deadline(), Some(client)),
            None => (None, None),
        };
        let lsr = async {
            match lsr {
                Some(client) => client.event().await,
                None => std::future::pending().await,
            }
        };
        let deadline = self.retry.at(Instant::now(), deadline);
        let retry = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.io.event() => Event::Core(event),
            event = lsr => Event::Lsr(event),
            () = retry => Event::Retry,
        }
    }

    /// Takes an event; returns the multihop session that BFD says is down, if that is what it was.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Option<bfd::Key> {
        let event = match event {
            Event::Core(event) => event,
            Event::Lsr(event) => {
                if let Some((_, client)) = &mut self.lsr {
                    client.handle(now, event);
                    client.flush(now, &mut LabelMap(&mut self.core));
                }
                return None;
            }
            Event::Retry => {
                self.retry = Retry::default();
                self.flush_lsr(now);
                return None;
            }
        };
        match event {
            CoreEvent::Network(NetworkEvent::Neighbor { hop, mac }) => self.core.neighbor(hop, mac),
            CoreEvent::Network(NetworkEvent::Link { interface, up }) => self.settling.link(now, interface, up),
            CoreEvent::Ospf(event) => self.ospf(now, event),
            CoreEvent::Ldp(event) => self.ldp(now, event),
            CoreEvent::Bfd(event) => return self.bfd(event),
        }
        None
    }

    /// Sets the endpoints that VPN routes lead to.
    pub(crate) fn want(&mut self, endpoints: impl Iterator<Item = Ipv4Addr>) {
        self.core.want(endpoints.collect());
    }

    /// What time brings; true when the core has just converged.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        if let Some((bindings, _)) = self.unstored.clone().filter(|(_, at)| now >= *at) {
            self.store(now, bindings);
        }
        if self.stage < Stage::Speaking || self.known || !self.settling.is_settled(now, self.core.is_resolved()) {
            return false;
        }
        self.settle();
        true
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    fn settle(&mut self) {
        info!("the core has converged");
        self.known = true;
        if self.core.is_settled() {
            return;
        }
        self.core.settle();
        let names: Vec<Arc<str>> = self.interfaces.iter().map(|i| Arc::from(&i.name[..])).collect();
        names.iter().for_each(|name| self.link_cost(name));
    }

    /// Does what follows from the events; true if the switch has to know.
    pub(crate) fn work(&mut self, now: Instant, vpn: &mut vpn::Vpn<Peer>) -> bool {
        let (mut neighbors, mut learn) = (false, false);
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Tunnel(endpoint, state) => vpn.tunnel(now, endpoint, state.map(tunnel_state)),
                Action::LabelMap => {
                    learn = true;
                    self.flush_lsr(now);
                }
                Action::KernelRoutes => self.tell_kernel(),
                Action::Fecs => {
                    learn = true;
                    self.tell_ldp();
                }
                Action::Neighbors => {
                    self.tell_resolver();
                    neighbors = true;
                }
            }
        }
        if learn {
            self.lsp_pings.learn(&self.core);
        }
        neighbors
    }

    fn tell_kernel(&mut self) {
        if self.stage >= Stage::Routing {
            let routes = KernelRoutes { routes: self.core.kernel_routes().clone(), sweep: self.core.is_settled() };
            self.io.command(CoreCommand::KernelRoutes(routes));
        }
    }

    /// While routes are still to come, no word is better than that there are none.
    fn tell_ldp(&mut self) {
        if self.stage >= Stage::Speaking {
            self.io.command(CoreCommand::Fecs(self.core.fecs()));
        }
    }

    fn tell_resolver(&mut self) {
        if self.stage >= Stage::Speaking {
            self.io.command(CoreCommand::Resolve(self.core.wanted_neighbors().clone()));
        }
    }

    fn flush_lsr(&mut self, now: Instant) {
        if let Some((_, client)) = &mut self.lsr {
            client.flush(now, &mut LabelMap(&mut self.core));
        }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn ask_lsp(&self, query: CvmQuery, reply: oneshot::Sender<Answer<Value>>) {
        self.lsp_pings.ask(&self.core, query, reply);
    }

    pub(crate) async fn show(&mut self, query: &CvmQuery) -> Answer<Value> {
        self.io.show(query).await
    }

    /// The process ends, another one follows.
    pub(crate) async fn shutdown(&mut self) {
        // RFC 5882 §3.2: a session ended by us says nothing of the way, while one that falls silent does.
        let neighbors: Vec<NextHop> = self.sessions.keys().cloned().collect();
        neighbors.iter().for_each(|hop| self.unwatch(hop));
        self.io.shutdown().await;
    }
}

fn tunnel_state(state: TunnelState) -> vpn::TunnelState {
    vpn::TunnelState { tunnel: state.tunnel, cost: state.cost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_comes_whatever_else_keeps_us_busy() {
        let (start, mut retry) = (Instant::now(), Retry::default());
        assert_eq!(retry.at(start, None), None);
        let due = start + RETRY;
        for ms in 0..50 {
            assert_eq!(retry.at(start + Duration::from_millis(ms), Some(start)), Some(due), "after {ms} ms");
        }
        // A later deadline is kept as it is, one that is gone is forgotten.
        assert_eq!(retry.at(start, None), None);
        assert_eq!(retry.at(start, Some(start + RETRY * 2)), Some(start + RETRY * 2));
    }
}
