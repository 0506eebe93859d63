//! A core that says what a test wants, and remembers what it was told to do.

use super::LIMIT;
use edgeplex_cvmd::{CoreCommand, CoreEvent, CoreIo, NetworkEvent, Part};
use edgeplex_journal::Record;
use edgeplex_mgmt::{Answer, config::CvmConfig, show::CvmQuery};
use edgeplex_ospf::RouteKind;
use edgeplex_transport::{Promoted, journal::Journal, ldp, ospf};
use edgeplex_types::{Label, MacAddr, NextHop};
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, sync::Arc};
use tokio::{sync::mpsc, time::timeout};

pub(crate) struct Fake {
    events: mpsc::Receiver<CoreEvent>,
    asked: mpsc::UnboundedSender<CoreCommand>,
    verbs: mpsc::UnboundedSender<Verb>,
}

/// What was done with the protocols as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    Replay(Record),
    Promote(Part),
    Fence,
    Unfence,
    Leave,
    Shutdown,
}

impl Fake {
    fn verb(&self, verb: Verb) {
        let _ = self.verbs.send(verb);
    }
}

impl CoreIo for Fake {
    async fn configure(&mut self, _: &CvmConfig) -> anyhow::Result<()> {
        Ok(())
    }
    async fn event(&mut self) -> CoreEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
    fn command(&mut self, command: CoreCommand) {
        let _ = self.asked.send(command);
    }
    async fn show(&mut self, query: &CvmQuery) -> Answer<Value> {
        Answer::Ok(json!(format!("{query:?}")))
    }
    fn replay(&mut self, record: &Record) {
        self.verb(Verb::Replay(record.clone()));
    }
    fn promote(&mut self, part: Part, _: &Journal) -> BoxFuture<'static, Promoted> {
        self.verb(Verb::Promote(part));
        std::future::ready(Promoted { sessions: 1, lost: 0 }).boxed()
    }
    fn routes_in_place(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
    fn taken(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
    fn fence(&self) -> BoxFuture<'static, ()> {
        self.verb(Verb::Fence);
        std::future::ready(()).boxed()
    }
    fn unfence(&self) {
        self.verb(Verb::Unfence);
    }
    async fn leave(&mut self) {
        self.verb(Verb::Leave);
    }
    async fn shutdown(&mut self) {
        self.verb(Verb::Shutdown);
    }
}

/// The test's end of it.
pub(crate) struct World {
    pub(crate) events: mpsc::Sender<CoreEvent>,
    asked: mpsc::UnboundedReceiver<CoreCommand>,
    verbs: mpsc::UnboundedReceiver<Verb>,
}

pub(crate) fn world() -> (Fake, World) {
    let (events, fake_events) = mpsc::channel(64);
    let (fake_asked, asked) = mpsc::unbounded_channel();
    let (fake_verbs, verbs) = mpsc::unbounded_channel();
    (Fake { events: fake_events, asked: fake_asked, verbs: fake_verbs }, World { events, asked, verbs })
}

/// To, via, alternate.
pub(crate) type Route = (Ipv4Addr, [u8; 4], Option<[u8; 4]>);
/// To, our label, and those of neighbours.
pub(crate) type Fec<'a> = (Ipv4Addr, u32, &'a [([u8; 4], u32)]);

/// On the interface of the address's third byte.
pub(crate) fn hop(address: [u8; 4]) -> NextHop {
    NextHop { interface: format!("core{}", address[2]).into(), address: address.into() }
}

impl World {
    pub(crate) async fn say(&self, event: CoreEvent) {
        self.events.send(event).await.unwrap();
    }

    pub(crate) async fn resolve(&self, address: [u8; 4], mac: Option<MacAddr>) {
        self.say(CoreEvent::Network(NetworkEvent::Neighbor { hop: hop(address), mac })).await;
    }

    pub(crate) async fn adjacency(&self, address: [u8; 4], router_id: Ipv4Addr) {
        let NextHop { interface, address } = hop(address);
        self.say(CoreEvent::Ospf(ospf::Event::NeighborUp { interface, address, router_id })).await;
    }

    /// Each prefix with its next hop and its alternate.
    pub(crate) async fn routes(&self, routes: &[Route]) {
        let route = |(to, via, backup): &Route| {
            let backup = backup.iter().map(|b| hop(*b)).collect();
            let route = ospf::Route { kind: RouteKind::IntraArea, cost: 20, next_hops: [hop(*via)].into(), backup, connected: false };
            ((*to).into(), route)
        };
        self.say(CoreEvent::Ospf(ospf::Event::Routes(Arc::new(routes.iter().map(route).collect())))).await;
    }

    /// Each prefix with our label and those of its neighbours.
    pub(crate) async fn labels(&self, fecs: &[Fec<'_>]) {
        let label = |n| Label::try_from(n).unwrap();
        let fec = |(to, local, hops): &Fec<'_>| {
            let hops = hops.iter().map(|(h, l)| (hop(*h), Some(label(*l)))).collect();
            ((*to).into(), edgeplex_ldp::Fec { local: Some(label(*local)), egress: false, hops })
        };
        self.say(CoreEvent::Ldp(ldp::Event::Forwarding(Arc::new(fecs.iter().map(fec).collect())))).await;
    }

    pub(crate) async fn synced(&self, interface: &str, synced: bool) {
        self.say(CoreEvent::Ldp(ldp::Event::Synced { interface: interface.into(), synced })).await;
    }

    /// The next command of which `what` makes something.
    pub(crate) async fn asked<T>(&mut self, why: &str, what: impl Fn(CoreCommand) -> Option<T>) -> T {
        timeout(LIMIT, async {
            loop {
                if let Some(found) = what(self.asked.recv().await.expect("cvmd runs")) {
                    return found;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("in time: {why}"))
    }

    pub(crate) fn verbs(&mut self) -> Vec<Verb> {
        std::iter::from_fn(|| self.verbs.try_recv().ok()).collect()
    }

    /// Commands that nobody asked for yet.
    pub(crate) fn rest(&mut self) -> Vec<CoreCommand> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }
}
