//! The kernel's routes, all under one protocol number of our own: those and no others are touched.

use super::KernelRoutes;
use anyhow::Context;
use edgeplex_types::NextHop;
use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, RouteNextHopBuilder,
    packet_route::{
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{debug, info, warn};

/// Nobody else's, by `/etc/iproute2/rt_protos`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);
/// How often the kernel is asked what it has: routes go with an interface, without a word.
const LOOK: Duration = Duration::from_secs(5);

type Routes = BTreeMap<Ipv4Net, BTreeSet<NextHop>>;

struct Keeper {
    handle: Handle,
    /// Preferred source of our own packets.
    loopback: Ipv4Addr,
    indices: BTreeMap<Arc<str>, u32>,
    present: Routes,
}

/// Starts the keeper; what it has brought the kernel to can be watched.
pub(super) fn start(
    handle: Handle,
    loopback: Ipv4Addr,
    mut wanted: watch::Receiver<KernelRoutes>,
) -> anyhow::Result<(JoinHandle<()>, watch::Receiver<KernelRoutes>)> {
    let (connection, _, mut links) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
    let connection = tokio::spawn(connection);
    let mut keeper = Keeper { handle, loopback, indices: BTreeMap::new(), present: Routes::new() };
    let (brought, in_place) = watch::channel(KernelRoutes::default());
    let task = tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let fresh = tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => break,
                },
                Some(_) = links.next() => true,
                _ = look.tick() => true,
            };
            if fresh && let Err(error) = keeper.look().await {
                warn!(error = format!("{error:#}"), "reading the kernel's routes failed");
            }
            let now = wanted.borrow_and_update().clone();
            keeper.bring(&now).await;
            brought.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
        }
        connection.abort();
    });
    Ok((task, in_place))
}

impl Keeper {
    async fn look(&mut self) -> anyhow::Result<()> {
        self.indices.clear();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.context("links")? {
            let name = link.attributes.iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(Arc::from(&n[..])) } else { None });
            self.indices.extend(name.map(|name| (name, link.header.index)));
        }
        self.present.clear();
        let mut list = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let mut found = vec![];
        while let Some(route) = list.try_next().await.context("routes")? {
            if route.header.protocol == PROTOCOL && route.header.table == RouteHeader::RT_TABLE_MAIN {
                found.push(route);
            }
        }
        drop(list);
        // What cannot be read is nothing that is wanted: it is replaced, or goes.
        self.present = found.iter().filter_map(|route| Some((destination(route)?, self.hops(route).unwrap_or_default()))).collect();
        Ok(())
    }

    fn hops(&self, route: &RouteMessage) -> Option<BTreeSet<NextHop>> {
        let hop = |index: u32, attributes: &[RouteAttribute]| {
            let (interface, _) = self.indices.iter().find(|(_, i)| **i == index)?;
            Some(NextHop { interface: interface.clone(), address: gateway(attributes)? })
        };
        let several = route.attributes.iter().find_map(|a| if let RouteAttribute::MultiPath(hops) = a { Some(hops) } else { None });
        match several {
            Some(hops) => hops.iter().map(|h| hop(h.interface_index, &h.attributes)).collect(),
            None => {
                let index = route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None })?;
                Some([hop(index, &route.attributes)?].into())
            }
        }
    }

    async fn bring(&mut self, wanted: &KernelRoutes) {
        let (mut set, mut removed) = (0u64, 0u64);
        for (prefix, hops) in wanted.routes.iter().filter(|(p, h)| self.present.get(p) != Some(h)).collect::<Vec<_>>() {
            match self.set(prefix, hops).await {
                Ok(()) => {
                    self.present.insert(*prefix, hops.clone());
                    set += 1;
                }
                // Tried again with the next look: the interface may be down.
                Err(error) => debug!(%prefix, error = format!("{error:#}"), "route not set"),
            }
        }
        let extra: Vec<Ipv4Net> = self.present.keys().filter(|p| wanted.sweep && !wanted.routes.contains_key(p)).copied().collect();
        for prefix in extra {
            self.present.remove(&prefix);
            match self.handle.route().del(self.message(&prefix).build()).execute().await {
                Ok(()) => removed += 1,
                Err(error) => debug!(%prefix, %error, "route not removed"),
            }
        }
        if set + removed > 0 {
            info!(set, removed, all = self.present.len(), "kernel routes changed");
        }
    }

    fn message(&self, prefix: &Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
        RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(prefix.addr(), prefix.prefix_len()).protocol(PROTOCOL)
    }

    async fn set(&self, prefix: &Ipv4Net, hops: &BTreeSet<NextHop>) -> anyhow::Result<()> {
        let index = |hop: &NextHop| self.indices.get(&hop.interface).copied().with_context(|| format!("no interface {}", hop.interface));
        let message = self.message(prefix).pref_source(self.loopback);
        let message = match hops.iter().collect::<Vec<_>>()[..] {
            [hop] => message.gateway(hop.address).output_interface(index(hop)?),
            ref hops => {
                let several =
                    hops.iter().map(|hop| Ok(RouteNextHopBuilder::new_ipv4().interface(index(hop)?).via(hop.address.into())?.build()));
                message.multipath(several.collect::<anyhow::Result<_>>()?)
            }
        };
        Ok(self.handle.route().add(message.build()).replace().execute().await?)
    }
}

fn destination(route: &RouteMessage) -> Option<Ipv4Net> {
    let to = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(*to),
        _ => None,
    });
    Ipv4Net::new(to.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length).ok()
}

fn gateway(attributes: &[RouteAttribute]) -> Option<Ipv4Addr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
        _ => None,
    })
}
