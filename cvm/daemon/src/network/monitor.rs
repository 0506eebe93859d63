//! The kernel's links and neighbour table: what it knows, and keeping it knowing.
//!
//! Nothing but the BGP session sends through the kernel to most neighbours, so nothing would resolve them or notice that
//! they changed: wanted neighbours are marked as used (NTF_USE) until resolved and every so often after.

use super::NetworkEvent;
use edgeplex_types::{MacAddr, NextHop};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{debug, warn};

/// Pause between attempts to resolve a neighbour, and between looks at one that is resolved.
const RETRY: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_secs(2);
const QUEUE: usize = 1024;

struct Monitor {
    handle: Handle,
    names: BTreeMap<u32, Arc<str>>,
    up: BTreeMap<Arc<str>, bool>,
    known: BTreeMap<NextHop, MacAddr>,
    used: BTreeMap<NextHop, Instant>,
    events: mpsc::Sender<NetworkEvent>,
}

pub(super) async fn start(
    handle: Handle,
    mut wanted: watch::Receiver<BTreeSet<NextHop>>,
) -> anyhow::Result<(JoinHandle<()>, mpsc::Receiver<NetworkEvent>)> {
    let (connection, _, mut changes) = rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh, MulticastGroup::Link])?;
    let (events, receiver) = mpsc::channel(QUEUE);
    let mut monitor =
        Monitor { handle, names: BTreeMap::new(), up: BTreeMap::new(), known: BTreeMap::new(), used: BTreeMap::new(), events };
    let connection = tokio::spawn(connection);
    monitor.dump().await?;
    let task = tokio::spawn(async move {
        let mut tick = tokio::time::interval(RETRY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some((message, _)) => monitor.change(message).await,
                    None => break,
                },
                changed = wanted.changed() => if changed.is_err() { break },
                _ = tick.tick() => {}
            }
            let now = wanted.borrow_and_update().clone();
            monitor.keep(&now).await;
        }
        connection.abort();
    });
    Ok((task, receiver))
}

impl Monitor {
    async fn dump(&mut self) -> anyhow::Result<()> {
        let mut links = self.handle.link().get().execute();
        let mut found = vec![];
        while let Some(link) = links.try_next().await? {
            found.push(link);
        }
        drop(links);
        for link in &found {
            self.link(link).await;
        }
        let mut neighbors = self.handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
        let mut found = vec![];
        while let Some(neighbor) = neighbors.try_next().await? {
            found.push(neighbor);
        }
        drop(neighbors);
        for neighbor in &found {
            self.neighbor(neighbor).await;
        }
        Ok(())
    }

    async fn change(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => self.link(&link).await,
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbor)) => self.neighbor(&neighbor).await,
            // A deleted entry is only forgotten, not proven dead: it is resolved again, and fails if it does.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(neighbor)) => {
                if let Some(neighbor) = self.name(&neighbor) {
                    self.used.remove(&neighbor);
                }
            }
            // The kernel dropped messages because we were slow (ENOBUFS): look at everything again.
            NetlinkPayload::Error(_) | NetlinkPayload::Overrun(_) => {
                if let Err(error) = self.dump().await {
                    warn!(%error, "reading the neighbour table again failed");
                }
            }
            _ => {}
        }
    }

    /// Without a carrier nobody on the segment can be reached.
    async fn link(&mut self, link: &LinkMessage) {
        let name = link.attributes.iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(Arc::from(&n[..])) } else { None });
        let Some(name): Option<Arc<str>> = name else { return };
        self.names.insert(link.header.index, name.clone());
        let up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        if !up {
            let lost: Vec<_> = self.known.keys().filter(|n| n.interface == name).cloned().collect();
            for neighbor in lost {
                self.learn(neighbor, None).await;
            }
        }
        if self.up.insert(name.clone(), up) != Some(up) {
            self.say(NetworkEvent::Link { interface: name, up }).await;
        }
    }

    async fn say(&self, event: NetworkEvent) {
        // The owner of the other end is gone only when the daemon ends.
        let _ = self.events.send(event).await;
    }

    fn name(&self, message: &NeighbourMessage) -> Option<NextHop> {
        if message.header.family != AddressFamily::Inet {
            return None;
        }
        let address = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(*a),
            _ => None,
        })?;
        Some(NextHop { interface: self.names.get(&message.header.ifindex)?.clone(), address })
    }

    async fn neighbor(&mut self, message: &NeighbourMessage) {
        let Some(neighbor) = self.name(message) else { return };
        let mac = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(&bytes[..]).ok().map(MacAddr),
            _ => None,
        });
        match message.header.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
                if mac.is_some() =>
            {
                self.learn(neighbor, mac).await;
            }
            NeighbourState::Failed => self.learn(neighbor, None).await,
            // Being resolved again: what was known holds until it fails.
            _ => {}
        }
    }

    async fn learn(&mut self, hop: NextHop, mac: Option<MacAddr>) {
        let before = match mac {
            Some(mac) => self.known.insert(hop.clone(), mac),
            None => self.known.remove(&hop),
        };
        if before != mac {
            debug!(%hop, ?mac, "neighbour changed");
            self.used.remove(&hop);
            self.say(NetworkEvent::Neighbor { hop, mac }).await;
        }
    }

    async fn keep(&mut self, wanted: &BTreeSet<NextHop>) {
        let now = Instant::now();
        self.used.retain(|n, _| wanted.contains(n));
        for neighbor in wanted {
            let pause = if self.known.contains_key(neighbor) { REFRESH } else { RETRY };
            if self.used.get(neighbor).is_some_and(|last| now < *last + pause) {
                continue;
            }
            let Some(index) = self.names.iter().find(|(_, name)| **name == neighbor.interface).map(|(index, _)| *index) else { continue };
            self.used.insert(neighbor.clone(), now);
            let mut request = self.handle.neighbours().add(index, neighbor.address.into()).replace();
            request = request.state(NeighbourState::None).flags(NeighbourFlags::Use);
            if let Err(error) = request.execute().await {
                debug!(%neighbor, %error, "asking the kernel to resolve a neighbour failed");
            }
        }
    }
}
