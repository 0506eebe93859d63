//! Interfaces, routes and neighbours in two joined network namespaces: set up, set up again, and a neighbour that comes,
//! moves and goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use edgeplex_cvmd::{KernelRoutes, Network, NetworkEvent};
use edgeplex_mgmt::config::{CoreInterface, CvmConfig, Instance, RelayServer, Role};
use edgeplex_types::{Label, LabelRange, MacAddr, NextHop};
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        route::{RouteAddress, RouteAttribute},
    },
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
        role: Role::Pe,
        asn: 65000,
        loopback: Ipv4Addr::new(10, 255, 0, 1),
        core: vec![CoreInterface {
            name: "core0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            address: "10.0.0.1/24".parse().unwrap(),
            mtu: 1600,
            ospf: None,
            ldp: false,
            bfd: None,
        }],
        core_routes: vec![],
        ospf: None,
        ldp: None,
        lsr_socket: None,
        route_reflectors: vec![],
        labels: LabelRange::new(label(1000), label(1999)).unwrap(),
        label_quarantine_s: 60,
        stale_s: 30,
        relay: RelayServer { endpoint: String::new(), secret_key: String::new() },
        instance: Instance::default(),
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

/// Routes with gateways, as `ip route` would write them.
async fn gateways(handle: &Handle) -> Vec<String> {
    let mut list = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut out = vec![];
    let gateway = |attributes: &[RouteAttribute]| {
        attributes.iter().find_map(|a| if let RouteAttribute::Gateway(RouteAddress::Inet(g)) = a { Some(g.to_string()) } else { None })
    };
    while let Some(r) = list.try_next().await.unwrap() {
        let several = r.attributes.iter().find_map(|a| if let RouteAttribute::MultiPath(hops) = a { Some(hops) } else { None });
        let mut hops: Vec<String> = match several {
            Some(hops) => hops.iter().filter_map(|h| gateway(&h.attributes)).collect(),
            None => gateway(&r.attributes).into_iter().collect(),
        };
        let to = r.attributes.iter().find_map(|a| if let RouteAttribute::Destination(RouteAddress::Inet(d)) = a { Some(*d) } else { None });
        if let (false, Some(to)) = (hops.is_empty(), to) {
            hops.sort();
            out.push(format!("{to}/{} via {}", r.header.destination_prefix_length, hops.join(" ")));
        }
    }
    out.sort();
    out
}

async fn become_gateways(handle: &Handle, wanted: &[&str]) {
    timeout(LIMIT, async {
        while gateways(handle).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("in time: {wanted:?}"));
}

async fn next(events: &mut mpsc::Receiver<NetworkEvent>, of: Ipv4Addr) -> Option<MacAddr> {
    loop {
        match timeout(LIMIT, events.recv()).await.expect("an event in time").unwrap() {
            NetworkEvent::Neighbor { hop, mac } if hop.address == of => return mac,
            _ => {}
        }
    }
}

async fn next_link(events: &mut mpsc::Receiver<NetworkEvent>) -> bool {
    loop {
        match timeout(LIMIT, events.recv()).await.expect("an event in time").unwrap() {
            NetworkEvent::Link { interface, up } if *interface == *"core0" && up => return true,
            _ => {}
        }
    }
}

fn hop(address: [u8; 4]) -> NextHop {
    NextHop { interface: "core0".into(), address: address.into() }
}

fn routes(sweep: bool, routes: &[(&str, &[[u8; 4]])]) -> KernelRoutes {
    let route = |(prefix, hops): &(&str, &[[u8; 4]])| (prefix.parse().unwrap(), hops.iter().map(|h| hop(*h)).collect());
    KernelRoutes { routes: routes.iter().map(route).collect(), sweep }
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
        let up = |events: &mut mpsc::Receiver<NetworkEvent>| {
            let known = std::iter::from_fn(|| events.try_recv().ok()).collect::<Vec<_>>();
            known.contains(&NetworkEvent::Link { interface: "core0".into(), up: true })
        };
        assert!(up(&mut events) || next_link(&mut events).await);
        assert_eq!(std::fs::read_to_string("/proc/thread-self/root/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");

        // Nobody sends anything: being wanted is enough.
        let address = Ipv4Addr::new(10, 0, 0, 2);
        network.want([hop([10, 0, 0, 2]), hop([10, 0, 0, 77])].into());
        assert_eq!(next(&mut events, address).await, Some(MacAddr([2, 0, 0, 0, 0, 2])));

        // Routes over one neighbour and over several; one of somebody else stays whatever happens.
        let foreign = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(Ipv4Addr::new(192, 0, 2, 0), 24).gateway(address).build();
        handle.route().add(foreign).execute().await.unwrap();
        network.route(routes(true, &[("10.255.0.2/32", &[[10, 0, 0, 2]]), ("10.255.0.3/32", &[[10, 0, 0, 2], [10, 0, 0, 9]])]));
        let both = ["10.255.0.2/32 via 10.0.0.2", "10.255.0.3/32 via 10.0.0.2 10.0.0.9"];
        become_gateways(&handle, &[both[0], both[1], "192.0.2.0/24 via 10.0.0.2"]).await;
        network.route(routes(true, &[("10.255.0.3/32", &[[10, 0, 0, 9]]), ("10.255.0.4/32", &[[10, 0, 0, 2]])]));
        let changed = ["10.255.0.3/32 via 10.0.0.9", "10.255.0.4/32 via 10.0.0.2", "192.0.2.0/24 via 10.0.0.2"];
        become_gateways(&handle, &changed).await;

        // A restart finds the neighbour in the kernel, and takes no route away before it knows better.
        drop(network);
        let (network, mut events) = Network::start(&config).await.unwrap();
        assert_eq!(next(&mut events, address).await, Some(MacAddr([2, 0, 0, 0, 0, 2])));
        network.route(routes(false, &[("10.255.0.5/32", &[[10, 0, 0, 2]])]));
        become_gateways(&handle, &[changed[0], changed[1], "10.255.0.5/32 via 10.0.0.2", changed[2]]).await;
        network.route(routes(true, &[("10.255.0.5/32", &[[10, 0, 0, 2]])]));
        become_gateways(&handle, &["10.255.0.5/32 via 10.0.0.2", changed[2]]).await;

        // The interface's address changes; the kernel drops routes without a word, and gets ours again.
        config.core[0].address = "10.0.0.3/24".parse().unwrap();
        network.apply(&config).await.unwrap();
        network.apply(&config).await.unwrap();
        assert_eq!(addresses(&handle, "core0").await, ["10.0.0.3/24"]);
        become_gateways(&handle, &["10.255.0.5/32 via 10.0.0.2"]).await;

        network.want([hop([10, 0, 0, 2])].into());
        ask.send(Peer::Mac([2, 0, 0, 0, 0, 9])).await.unwrap();
        // Nobody announces it: it is found out by asking.
        assert_eq!(next(&mut events, address).await, Some(MacAddr([2, 0, 0, 0, 0, 9])));
        ask.send(Peer::Down).await.unwrap();
        assert_eq!(next(&mut events, address).await, None);
    });
    common::join(test);
    common::join(peer);
}
