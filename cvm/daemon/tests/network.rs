//! Interfaces, routes and neighbours in two joined network namespaces: set up, set up again, and a neighbour that comes,
//! moves and goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use edgeplex_cvm_vpn::Neighbor;
use edgeplex_cvmd::{NeighborEvent, Network};
use edgeplex_mgmt::config::{CoreInterface, CoreRoute, CvmConfig, RelayServer};
use edgeplex_types::{Label, LabelRange, MacAddr};
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{address::AddressAttribute, route::RouteAttribute},
};
use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    sync::mpsc as std_mpsc,
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

const LIMIT: Duration = Duration::from_secs(60);

fn config() -> CvmConfig {
    let label = |n| Label::try_from(n).unwrap();
    CvmConfig {
        version: 1,
        name: "denver".parse().unwrap(),
        asn: 65000,
        loopback: Ipv4Addr::new(10, 255, 0, 1),
        core: vec![CoreInterface {
            name: "core0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            address: "10.0.0.1/24".parse().unwrap(),
            mtu: 1600,
        }],
        core_routes: vec![CoreRoute { prefix: "10.255.0.2/32".parse().unwrap(), via: Ipv4Addr::new(10, 0, 0, 2) }],
        route_reflectors: vec![],
        labels: LabelRange::new(label(1000), label(1999)).unwrap(),
        label_quarantine_s: 60,
        stale_s: 30,
        relay: RelayServer { endpoint: String::new(), secret_key: String::new() },
        attachments: vec![],
    }
}

/// What the other namespace is asked to do.
enum Peer {
    Mac([u8; 6]),
    Down,
}

/// The other end of the segment: takes `peer0`, gives it 10.0.0.2, and does as told.
async fn other_end(ready: std_mpsc::Sender<File>, mut asked: mpsc::Receiver<Peer>) {
    let handle = common::netlink();
    ready.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    let index = loop {
        let mut links = handle.link().get().match_name("peer0").execute();
        match links.try_next().await {
            Ok(Some(link)) => break link.header.index,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let link = LinkUnspec::new_with_index(index).address(vec![2, 0, 0, 0, 0, 2]).up().build();
    handle.link().change(link).execute().await.unwrap();
    handle.address().add(index, Ipv4Addr::new(10, 0, 0, 2).into(), 24).execute().await.unwrap();
    while let Some(request) = asked.recv().await {
        let link = match request {
            Peer::Mac(mac) => LinkUnspec::new_with_index(index).address(mac.to_vec()).build(),
            Peer::Down => LinkUnspec::new_with_index(index).down().build(),
        };
        handle.link().change(link).execute().await.unwrap();
    }
}

async fn addresses(handle: &Handle, name: &str) -> Vec<String> {
    let link = handle.link().get().match_name(name).execute().try_next().await.unwrap().unwrap();
    let mut list = handle.address().get().set_link_index_filter(link.header.index).execute();
    let mut out = vec![];
    while let Some(a) = list.try_next().await.unwrap() {
        let local = a.attributes.iter().find_map(|x| if let AddressAttribute::Local(IpAddr::V4(a)) = x { Some(*a) } else { None });
        out.extend(local.map(|l| format!("{l}/{}", a.header.prefix_len)));
    }
    out.sort();
    out
}

async fn gateways(handle: &Handle) -> usize {
    let mut list = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut count = 0;
    while let Some(r) = list.try_next().await.unwrap() {
        count += usize::from(r.attributes.iter().any(|a| matches!(a, RouteAttribute::Gateway(_))));
    }
    count
}

async fn next(events: &mut mpsc::Receiver<NeighborEvent>, address: Ipv4Addr) -> Option<MacAddr> {
    loop {
        let event = timeout(LIMIT, events.recv()).await.expect("an event in time").unwrap();
        if event.neighbor.address == address {
            return event.mac;
        }
    }
}

#[test]
fn the_network_is_brought_to_the_configuration_and_neighbors_are_followed() {
    let (ready, other) = std_mpsc::channel();
    let (ask, asked) = mpsc::channel(4);
    let peer = common::in_namespace(|| other_end(ready, asked));
    let test = common::in_namespace(|| async move {
        let handle = common::netlink();
        let veth = LinkVeth::new("core0", "peer0").build();
        handle.link().add(veth).execute().await.unwrap();
        let namespace = other.recv().unwrap();
        let peer = handle.link().get().match_name("peer0").execute().try_next().await.unwrap().unwrap();
        let away = LinkUnspec::new_with_index(peer.header.index).setns_by_fd(namespace.as_raw_fd()).build();
        handle.link().change(away).execute().await.unwrap();

        let mut config = config();
        let (network, mut events) = Network::start(&config).await.unwrap();
        assert_eq!(addresses(&handle, "lo").await, ["10.255.0.1/32", "127.0.0.1/8"]);
        assert_eq!(addresses(&handle, "core0").await, ["10.0.0.1/24"]);
        assert_eq!(gateways(&handle).await, 1);

        // Nobody sends anything: being wanted is enough.
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let neighbor = Neighbor { interface: "core0".into(), address };
        let absent = Neighbor { interface: "core0".into(), address: Ipv4Addr::new(10, 0, 0, 77) };
        network.want([neighbor, absent].into());
        assert_eq!(next(&mut events, address).await, Some(MacAddr([2, 0, 0, 0, 0, 2])));

        // Once more, with a change: the old address and route go, nothing is lost that stays.
        config.core[0].address = "10.0.0.3/24".parse().unwrap();
        config.core_routes[0].prefix = "10.255.0.8/32".parse().unwrap();
        network.apply(&config).await.unwrap();
        network.apply(&config).await.unwrap();
        assert_eq!(addresses(&handle, "core0").await, ["10.0.0.3/24"]);
        assert_eq!(gateways(&handle).await, 1);

        // A restart finds the neighbour in the kernel.
        drop(network);
        let (network, mut events) = Network::start(&config).await.unwrap();
        assert_eq!(events.try_recv().unwrap().mac, Some(MacAddr([2, 0, 0, 0, 0, 2])));
        let neighbor = Neighbor { interface: "core0".into(), address };
        network.want([neighbor].into());
        ask.send(Peer::Mac([2, 0, 0, 0, 0, 9])).await.unwrap();
        // Nobody announces it: it is found out by asking.
        assert_eq!(next(&mut events, address).await, Some(MacAddr([2, 0, 0, 0, 0, 9])));
        ask.send(Peer::Down).await.unwrap();
        assert_eq!(next(&mut events, address).await, None);
    });
    common::join(test);
    common::join(peer);
}
