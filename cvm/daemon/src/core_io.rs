//! What the core side does to the world and hears from it, behind a trait: the kernel's network, OSPF, LDP and BFD; or a fake.

use crate::network::{KernelRoutes, NetworkEvent};
use edgeplex_journal::Record;
use edgeplex_mgmt::{Answer, config::CvmConfig, show::CvmQuery};
use edgeplex_transport::{Promoted, bfd, journal::Journal, ldp, ospf};
use edgeplex_types::{MacAddr, NextHop};
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Something happened in the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreEvent {
    Network(NetworkEvent),
    Ospf(ospf::Event),
    Ldp(ldp::Event),
    Bfd(bfd::Event),
}

/// Something to do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreCommand {
    /// Neighbours to keep resolved.
    Resolve(BTreeSet<NextHop>),
    KernelRoutes(KernelRoutes),
    /// The routing table, for LDP.
    Fecs(Arc<BTreeMap<Ipv4Net, Vec<NextHop>>>),
    /// BFD lost it: OSPF need not wait for its Hellos.
    NeighborLost(NextHop),
    /// To OSPF: announce the link at the highest cost, or no longer (RFC 5443).
    LinkCost {
        interface: Arc<str>,
        max: bool,
    },
    /// A client wants a session; without parameters, no longer.
    Bfd {
        key: bfd::Key,
        client: &'static str,
        parameters: Option<bfd::Parameters>,
    },
}

/// What is taken over in one go, in this order: LDP's connections need the routes that come from OSPF's neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// OSPF and BFD. The kernel is told what is known of neighbours.
    Routing(BTreeMap<NextHop, MacAddr>),
    Labels,
}

/// The world around the core side. What is given back to be waited for may need events to be taken meanwhile.
pub trait CoreIo: Send {
    /// Brings interfaces and protocols to the configuration; what is equal is not disturbed.
    fn configure(&mut self, config: &CvmConfig) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The next event. Cancel-safe.
    fn event(&mut self) -> impl Future<Output = CoreEvent> + Send;

    fn command(&mut self, command: CoreCommand);

    /// Answers a question about OSPF, LDP or BFD.
    fn show(&mut self, query: &CvmQuery) -> impl Future<Output = Answer<Value>> + Send;

    /// To protocols that follow: a change that the active instance has written down.
    fn replay(&mut self, record: &Record);

    /// Protocols that followed speak from now on.
    fn promote(&mut self, part: Part, journal: &Journal) -> BoxFuture<'static, Promoted>;

    /// Resolves when the kernel has the routes that were commanded.
    fn routes_in_place(&self) -> BoxFuture<'static, ()>;

    /// Resolves when the protocols have taken all that was commanded, and said what follows from it.
    fn taken(&self) -> BoxFuture<'static, ()>;

    /// Nothing is said or heard until [`unfence`](Self::unfence). Resolves when it is so.
    fn fence(&self) -> BoxFuture<'static, ()>;

    fn unfence(&self);

    /// The process ends, and a successor goes on with what was written down: no neighbour is told.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;

    /// The process ends, another one follows: neighbours are asked to go on.
    fn shutdown(&mut self) -> impl Future<Output = ()> + Send;
}
