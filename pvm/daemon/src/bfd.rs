//! Which BFD sessions the configuration wants, and what their state means for whoever wants them.

use crate::config::{self, Loaded};
use edgeplex_journal::Record;
use edgeplex_mgmt::{config::Bfd, show::BfdRow};
use edgeplex_transport::{
    Mode, Promoted,
    bfd::{self, Event, Handle, Key, Parameters, Why},
    journal::Journal,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tokio::sync::mpsc;
use tracing::warn;

/// Who wants a session with a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    Bgp,
    Static,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Bgp => "bgp",
            Self::Static => "static",
        }
    }
}

/// What became of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Static routes through it may be used.
    StaticUp(IpAddr),
    StaticDown(IpAddr),
    BgpDown(IpAddr),
}

#[derive(Debug)]
pub(crate) struct Watch {
    handle: Handle,
    events: mpsc::UnboundedReceiver<Event>,
    /// The TAP; without one sessions are multihop.
    interface: Option<Arc<str>>,
    wanted: BTreeMap<(Key, Client), Parameters>,
    up: BTreeSet<Key>,
}

impl Watch {
    /// Speaks to nobody until it is promoted. Within a tokio runtime.
    pub(crate) fn start(interface: Option<&str>) -> Self {
        let (handle, events) = bfd::start(Mode::Following);
        Self { handle, events, interface: interface.map(Into::into), wanted: BTreeMap::new(), up: BTreeSet::new() }
    }

    /// Cancel-safe.
    pub(crate) async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only when this value does.
            None => std::future::pending().await,
        }
    }

    pub(crate) fn show(&self) -> impl Future<Output = Vec<BfdRow>> + use<> {
        let handle = self.handle.clone();
        async move { handle.show().await }
    }

    fn wants(&self, loaded: &Loaded) -> BTreeMap<(Key, Client), Parameters> {
        let bgp = config::sessions(&loaded.config).filter_map(|b| Some((b.neighbor, Client::Bgp, b.bfd?)));
        let statics = loaded.config.static_routes.iter().filter(|s| loaded.vrf.resolves(s.via));
        let statics = statics.filter_map(|s| Some((s.via, Client::Static, s.bfd?)));
        let mut wanted = BTreeMap::new();
        for (peer, client, parameters) in bgp.chain(statics) {
            if let Some((key, parameters)) = self.session(loaded, peer, parameters) {
                // Of two static routes through one neighbour the first counts.
                wanted.entry((key, client)).or_insert(parameters);
            }
        }
        wanted
    }

    fn session(&self, loaded: &Loaded, peer: IpAddr, parameters: Bfd) -> Option<(Key, Parameters)> {
        let local = match peer {
            IpAddr::V6(a) if a.is_unicast_link_local() => loaded.vrf.link_local()?.addr().into(),
            _ => loaded.vrf.towards(peer)?,
        };
        // The configuration was checked.
        Some((Key { peer, local, interface: self.interface.clone() }, config::parameters(parameters).ok()?))
    }

    /// Asks for what the configuration wants now, and for nothing else.
    #[must_use]
    pub(crate) fn configure(&mut self, loaded: &Loaded) -> Vec<Change> {
        let wanted = self.wants(loaded);
        let mut changes = vec![];
        for (key, client) in self.wanted.keys().filter(|k| !wanted.contains_key(k)) {
            self.handle.remove(key.clone(), client.name());
            if *client == Client::Static {
                changes.push(Change::StaticDown(key.peer));
            }
            if !wanted.keys().any(|(k, _)| k == key) {
                self.up.remove(key);
            }
        }
        for ((key, client), parameters) in &wanted {
            if self.wanted.get(&(key.clone(), *client)) != Some(parameters) {
                // A session that is up already says so again.
                self.handle.add(key.clone(), client.name(), *parameters);
            }
        }
        self.wanted = wanted;
        changes
    }

    pub(crate) fn handle(&mut self, event: Event) -> Vec<Change> {
        let wants = |key: &Key, client| self.wanted.contains_key(&(key.clone(), client));
        match event {
            Event::Up(key) => {
                let change = wants(&key, Client::Static).then_some(Change::StaticUp(key.peer));
                self.up.insert(key);
                change.into_iter().collect()
            }
            // RFC 5882 §3.2: the other operator's wish is no sign of a failure.
            Event::Down(key, why @ Why::NeighborAdminDown) => {
                warn!(peer = %key.peer, %why, "going on without BFD");
                vec![]
            }
            Event::Down(key, _) => {
                self.up.remove(&key);
                let bgp = wants(&key, Client::Bgp).then_some(Change::BgpDown(key.peer));
                let statics = wants(&key, Client::Static).then_some(Change::StaticDown(key.peer));
                bgp.into_iter().chain(statics).collect()
            }
        }
    }

    /// What has happened already, without waiting.
    pub(crate) fn at_hand(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    fn statics(&self, up: bool) -> impl Iterator<Item = IpAddr> {
        let of = self.wanted.keys().filter(move |(key, client)| *client == Client::Static && self.up.contains(key) == up);
        of.map(|(key, _)| key.peer)
    }

    /// Neighbours of static routes that are to be waited for.
    pub(crate) fn unsettled(&self) -> Vec<IpAddr> {
        self.statics(false).collect()
    }

    /// Neighbours of static routes with which it is up.
    pub(crate) fn settled(&self) -> BTreeSet<IpAddr> {
        self.statics(true).collect()
    }

    // --- the instance's role

    /// A change that a predecessor has written down.
    pub(crate) fn replay(&self, record: &Record) {
        self.handle.replay(record);
    }

    pub(crate) fn promote(&self, journal: Journal) -> impl Future<Output = Promoted> + use<> {
        let handle = self.handle.clone();
        async move { handle.promote(journal).await }
    }

    pub(crate) fn fence(&self) -> impl Future<Output = ()> + use<> {
        let handle = self.handle.clone();
        async move { handle.fence().await }
    }

    pub(crate) fn unfence(&self) {
        self.handle.unfence();
    }

    /// Another predecessor's sessions will be told: forgets the former's, and goes on asking for what is wanted.
    pub(crate) fn start_over(&mut self) {
        let mut new = Self::start(self.interface.as_deref());
        new.wanted = std::mem::take(&mut self.wanted);
        for ((key, client), parameters) in &new.wanted {
            new.handle.add(key.clone(), client.name(), *parameters);
        }
        *self = new;
    }

    /// Falls silent. With a successor that goes on, neighbours need not know; otherwise every session ends as the operator's wish, so
    /// that none of them takes our end for a failure.
    pub(crate) async fn leave(&mut self, successor: bool) {
        if successor {
            return self.handle.leave().await;
        }
        for (key, client) in std::mem::take(&mut self.wanted).into_keys() {
            self.handle.remove(key, client.name());
        }
        // Answered after all of that is done.
        self.handle.show().await;
    }
}
