//! The real world of the core side: the namespace's network, OSPF, LDP and BFD.

use crate::{
    config::{ldp_config, ospf_config},
    core_io::{CoreCommand, CoreEvent, CoreIo, Part},
    instance::Origin,
    management::to_answer,
    network::{Network, NetworkEvent},
    state::{Alive, Bindings, BindingsFile},
};
use edgeplex_journal::Record;
use edgeplex_mgmt::{Answer, config::CvmConfig, show::CvmQuery};
use edgeplex_transport::{Mode, Promoted, bfd, journal::Journal, ldp, ospf};
use edgeplex_types::NextHop;
use futures::{FutureExt, future::BoxFuture};
use ipnet::Ipv4Net;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Time for the first words of BFD sessions that end; the others only repeat it.
const GOODBYE: Duration = Duration::from_millis(50);

type Routes = Arc<BTreeMap<Ipv4Net, Vec<NextHop>>>;

/// A protocol that runs.
#[derive(Debug)]
struct Running<H, E> {
    handle: H,
    events: mpsc::Receiver<E>,
}

#[derive(Debug)]
pub struct Protocols {
    network: Network,
    kernel: mpsc::Receiver<NetworkEvent>,
    config: CvmConfig,
    /// Of protocols that are started from now on.
    mode: Mode,
    ospf: Option<Running<ospf::Handle, ospf::Event>>,
    ldp: Option<Running<ldp::Handle, ldp::Event>>,
    bfd: bfd::Handle,
    /// It has been, before all others.
    bfd_promoted: Option<Promoted>,
    liveness: mpsc::UnboundedReceiver<bfd::Event>,
    /// What a protocol that is started has to be told: the routing table, and which interfaces are up.
    fecs: Routes,
    up: BTreeMap<Arc<str>, bool>,
    past: Past,
}

/// What a past process left behind, for the first start of each protocol.
#[derive(Debug)]
struct Past {
    /// How long ago it was alive.
    ago: Option<Duration>,
    bindings: BindingsFile,
}

impl Protocols {
    /// Sets the network up and starts what the configuration asks for. `state` is what outlives the VM.
    pub async fn start(config: &CvmConfig, state: &Path, origin: &Origin) -> anyhow::Result<Self> {
        let mode = origin.mode();
        let (bfd, liveness) = bfd::start(mode.clone());
        let bfd_promoted = match origin {
            Origin::Past(journal, records, None) => {
                // Its neighbours wait for tenths of a second; it needs nothing but the addresses that the past process has set.
                records.iter().for_each(|record| bfd.replay(record));
                Some(bfd.promote(journal.clone()).await)
            }
            Origin::Past(..) | Origin::Nothing(_) | Origin::Leader(..) => None,
        };
        let (network, kernel) = Network::start(config).await?;
        // Who follows goes on from the journal instead.
        let ago = if matches!(mode, Mode::Live(_)) { Alive::new(state).ago() } else { None };
        let past = Past { ago, bindings: BindingsFile::new(state) };
        let mut protocols = Self {
            network,
            kernel,
            config: config.clone(),
            mode,
            ospf: None,
            ldp: None,
            bfd,
            bfd_promoted,
            liveness,
            fecs: Routes::default(),
            up: BTreeMap::new(),
            past,
        };
        protocols.bring_protocols().await;
        // Only what was there before this process is a past to go on from.
        protocols.past.ago = None;
        Ok(protocols)
    }

    async fn bring_protocols(&mut self) {
        self.bring_ospf().await;
        self.bring_ldp().await;
        self.tell_interfaces();
    }

    async fn bring_ospf(&mut self) {
        match (ospf_config(&self.config), &self.ospf) {
            (Some(config), Some(ospf)) => ospf.handle.configure(config),
            (Some(config), None) => {
                // RFC 3623 §2: neighbours that were asked to wait longer than that no longer do.
                let restarting = self.past.ago.is_some_and(|ago| ago.as_secs() < config.grace_s.into());
                let (handle, events) = ospf::start(config, restarting, self.mode.clone());
                self.ospf = Some(Running { handle, events });
            }
            (None, Some(_)) => {
                if let Some(ospf) = self.ospf.take() {
                    ospf.handle.shutdown(false).await;
                }
            }
            (None, None) => {}
        }
    }

    async fn bring_ldp(&mut self) {
        match (ldp_config(&self.config), &self.ldp) {
            (Some(config), Some(ldp)) => ldp.handle.configure(config),
            (Some(config), None) => {
                let bindings = if matches!(self.mode, Mode::Live(_)) { self.past.bindings.load() } else { Bindings::new() };
                // RFC 3478 §3.1: neighbours wait no longer than they were asked to.
                let restarting = self.past.ago.is_some_and(|ago| ago < config.reconnect) && !bindings.is_empty();
                let (handle, events) = ldp::start(config, edgeplex_ldp::Start { restarting, bindings }, self.mode.clone());
                // Before routing has said anything, no word is better than that there is nothing.
                if !self.fecs.is_empty() {
                    handle.routes(self.fecs.clone());
                }
                self.ldp = Some(Running { handle, events });
            }
            (None, Some(_)) => {
                if let Some(ldp) = self.ldp.take() {
                    ldp.handle.shutdown(false).await;
                }
            }
            (None, None) => {}
        }
    }

    fn tell_interfaces(&self) {
        for interface in &self.config.core {
            let name: Arc<str> = Arc::from(&interface.name[..]);
            let up = self.up.get(&name).copied().unwrap_or(false);
            if let Some(ospf) = &self.ospf {
                ospf.handle.interface(&name, up);
            }
            if let Some(ldp) = &self.ldp {
                ldp.handle.interface(name, interface.address.addr(), up);
            }
        }
    }
}

impl CoreIo for Protocols {
    async fn configure(&mut self, config: &CvmConfig) -> anyhow::Result<()> {
        self.network.apply(config).await?;
        self.config = config.clone();
        self.bring_protocols().await;
        Ok(())
    }

    async fn event(&mut self) -> CoreEvent {
        tokio::select! {
            Some(event) = self.kernel.recv() => {
                if let NetworkEvent::Link { interface, up } = &event {
                    self.up.insert(interface.clone(), *up);
                    self.tell_interfaces();
                }
                CoreEvent::Network(event)
            }
            Some(event) = self.liveness.recv() => CoreEvent::Bfd(event),
            event = next(self.ospf.as_mut().map(|ospf| &mut ospf.events)) => CoreEvent::Ospf(event),
            event = next(self.ldp.as_mut().map(|ldp| &mut ldp.events)) => CoreEvent::Ldp(event),
        }
    }

    fn command(&mut self, command: CoreCommand) {
        match command {
            CoreCommand::Resolve(neighbors) => self.network.want(neighbors),
            CoreCommand::KernelRoutes(routes) => self.network.route(routes),
            CoreCommand::Fecs(fecs) => {
                self.fecs = fecs;
                if let Some(ldp) = &self.ldp {
                    ldp.handle.routes(self.fecs.clone());
                }
            }
            CoreCommand::NeighborLost(hop) => {
                if let Some(ospf) = &self.ospf {
                    ospf.handle.neighbor_lost(&hop.interface, hop.address);
                }
            }
            CoreCommand::LinkCost { interface, max } => {
                if let Some(ospf) = &self.ospf {
                    ospf.handle.link_cost(&interface, max);
                }
            }
            CoreCommand::Bfd { key, client, parameters: Some(parameters) } => self.bfd.add(key, client, parameters),
            CoreCommand::Bfd { key, client, parameters: None } => self.bfd.remove(key, client),
        }
    }

    async fn show(&mut self, query: &CvmQuery) -> Answer<Value> {
        let none = |protocol: &str| Answer::Error(format!("this platform speaks no {protocol}"));
        match query {
            CvmQuery::Bfd => to_answer(&self.bfd.show().await),
            CvmQuery::LdpNeighbors | CvmQuery::LdpBindings => {
                let Some(Running { handle, .. }) = &self.ldp else { return none("LDP") };
                match query {
                    CvmQuery::LdpNeighbors => to_answer(&handle.neighbors().await),
                    _ => to_answer(&handle.bindings().await),
                }
            }
            _ => {
                let Some(Running { handle, .. }) = &self.ospf else { return none("OSPF") };
                match query {
                    CvmQuery::OspfNeighbors => to_answer(&handle.show_neighbors().await),
                    CvmQuery::OspfInterfaces => to_answer(&handle.show_interfaces().await),
                    CvmQuery::OspfDatabase => to_answer(&handle.show_database().await),
                    CvmQuery::OspfRoutes => to_answer(&handle.show_routes().await),
                    _ => Answer::Error("not a question about the core".into()),
                }
            }
        }
    }

    fn replay(&mut self, record: &Record) {
        if self.bfd_promoted.is_none() {
            self.bfd.replay(record);
        }
        if let Some(ospf) = &self.ospf {
            ospf.handle.replay(record);
        }
        if let Some(ldp) = &self.ldp {
            ldp.handle.replay(record);
        }
    }

    fn promote(&mut self, part: Part, journal: &Journal) -> BoxFuture<'static, Promoted> {
        self.mode = Mode::Live(journal.clone());
        let journal = journal.clone();
        match part {
            Part::Routing(neighbors) => {
                let neighbors = self.network.learn(neighbors);
                let (bfd, promoted) = (self.bfd.clone(), self.bfd_promoted);
                let ospf = self.ospf.as_ref().map(|ospf| ospf.handle.clone());
                async move {
                    let ospf = async {
                        match &ospf {
                            Some(ospf) => ospf.promote(journal.clone()).await,
                            None => Promoted::default(),
                        }
                    };
                    let bfd = async {
                        match promoted {
                            Some(promoted) => promoted,
                            None => bfd.promote(journal.clone()).await,
                        }
                    };
                    // Whoever says something to a neighbour before the kernel knows it waits for its answer there.
                    let (ospf, bfd, ()) = tokio::join!(ospf, bfd, neighbors);
                    Promoted { sessions: ospf.sessions + bfd.sessions, lost: ospf.lost + bfd.lost }
                }
                .boxed()
            }
            Part::Labels => {
                let ldp = self.ldp.as_ref().map(|ldp| ldp.handle.clone());
                async move {
                    match ldp {
                        Some(ldp) => ldp.promote(journal).await,
                        None => Promoted::default(),
                    }
                }
                .boxed()
            }
        }
    }

    fn routes_in_place(&self) -> BoxFuture<'static, ()> {
        self.network.routes_in_place().boxed()
    }

    fn taken(&self) -> BoxFuture<'static, ()> {
        let (ospf, ldp) = (self.ospf.as_ref().map(|ospf| ospf.handle.clone()), self.ldp.as_ref().map(|ldp| ldp.handle.clone()));
        async move {
            let ospf = async {
                if let Some(ospf) = &ospf {
                    ospf.told().await;
                }
            };
            let ldp = async {
                if let Some(ldp) = &ldp {
                    ldp.told().await;
                }
            };
            tokio::join!(ospf, ldp);
        }
        .boxed()
    }

    fn fence(&self) -> BoxFuture<'static, ()> {
        let (ospf, ldp) = (self.ospf.as_ref().map(|ospf| ospf.handle.clone()), self.ldp.as_ref().map(|ldp| ldp.handle.clone()));
        let bfd = self.bfd.clone();
        async move {
            let ospf = async {
                if let Some(ospf) = &ospf {
                    ospf.fence().await;
                }
            };
            let ldp = async {
                if let Some(ldp) = &ldp {
                    ldp.fence().await;
                }
            };
            tokio::join!(ospf, ldp, bfd.fence());
        }
        .boxed()
    }

    fn unfence(&self) {
        self.bfd.unfence();
        if let Some(ospf) = &self.ospf {
            ospf.handle.unfence();
        }
        if let Some(ldp) = &self.ldp {
            ldp.handle.unfence();
        }
    }

    async fn leave(&mut self) {
        let ospf = async {
            if let Some(ospf) = &self.ospf {
                ospf.handle.leave().await;
            }
        };
        let ldp = async {
            if let Some(ldp) = &self.ldp {
                ldp.handle.leave().await;
            }
        };
        tokio::join!(ospf, ldp, self.bfd.leave());
    }

    async fn shutdown(&mut self) {
        let ospf = async {
            if let Some(ospf) = &self.ospf {
                ospf.handle.shutdown(true).await;
            }
        };
        let ldp = async {
            if let Some(ldp) = &self.ldp {
                ldp.handle.shutdown(true).await;
            }
        };
        tokio::join!(ospf, ldp, tokio::time::sleep(GOODBYE));
    }
}

/// The next event of a protocol, if it runs.
async fn next<E>(events: Option<&mut mpsc::Receiver<E>>) -> E {
    if let Some(events) = events
        && let Some(event) = events.recv().await
    {
        return event;
    }
    std::future::pending().await
}
