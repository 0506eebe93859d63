//! cvmd over a core with OSPF, LDP and BFD: what customers' packets and the label-switching router go by.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    LIMIT,
    fake::hop,
    lsr::Lsr,
    pvm::Pvm,
    reflector::Reflector,
    site::{PE, REMOTE, Running, Site, addresses, interface},
};
use edgeplex_cvmd::{CoreCommand, CoreEvent, NetworkEvent};
use edgeplex_mgmt::{
    config::{Bfd, CoreRoute, Ldp, Ospf, OspfAuthentication, OspfInterface, OspfNetwork, Role},
    show::{CvmQuery, Fabric, ForwardingRow, PingOptions, PingReport, Reloaded, TunnelRow},
};
use edgeplex_transport::{bfd, ldp, ospf};
use edgeplex_types::{Label, LabelRange, MacAddr};
use std::time::Duration;
use tokio::time::timeout;

/// Neighbours on the two interfaces, and where they are.
const FIRST: [u8; 4] = [10, 0, 0, 2];
const SECOND: [u8; 4] = [10, 0, 1, 2];
const FIRST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 20]);
const SECOND_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 21]);
const P1: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 255, 0, 11);
const P2: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 255, 0, 12);

/// Two interfaces with OSPF, LDP and BFD, and a label-switching router.
fn site() -> (Site, Lsr) {
    let mut site = Site::new();
    let ospf = OspfInterface {
        network: OspfNetwork::PointToPoint,
        cost: 10,
        priority: 1,
        hello_s: 1,
        dead_s: 4,
        retransmit_s: 5,
        passive: false,
        authentication: OspfAuthentication::Null,
    };
    let label = |n| Label::try_from(n).unwrap();
    for n in 0..2 {
        let mut core = interface(n);
        core.ospf = Some(ospf.clone());
        core.ldp = true;
        core.bfd = Some(Bfd { interval_ms: 50, multiplier: 3 });
        site.config.core.insert(usize::from(n), core);
    }
    site.config.core.truncate(2);
    site.config.core_routes.clear();
    site.config.ospf = Some(Ospf { area: [0, 0, 0, 0].into(), stub_router: false, grace_s: 120, loop_free_alternates: true });
    site.config.ldp = Some(Ldp {
        labels: LabelRange::new(label(500_000), label(599_999)).unwrap(),
        hello_s: 5,
        hold_s: 15,
        keepalive_s: 60,
        explicit_null: false,
        reconnect_s: 120,
        igp_sync: true,
        passwords: vec![],
    });
    let socket = site.dir.path().join("lsr.sock");
    site.config.lsr_socket = Some(socket.display().to_string());
    site.write();
    (site, Lsr::start(&socket))
}

fn key(n: u8, neighbor: [u8; 4]) -> bfd::Key {
    let local = std::net::Ipv4Addr::new(10, 0, n, 1);
    bfd::Key { peer: std::net::IpAddr::from(neighbor), local: local.into(), interface: Some(format!("core{n}").into()) }
}

/// What OSPF and the kernel know of both neighbours.
async fn neighbors(running: &Running) {
    for (n, at, mac, id) in [("core0", FIRST, FIRST_MAC, P1), ("core1", SECOND, SECOND_MAC, P2)] {
        running.core.say(CoreEvent::Network(NetworkEvent::Link { interface: n.into(), up: true })).await;
        running.core.resolve(at, Some(mac)).await;
        running.core.adjacency(at, id).await;
    }
}

async fn labels(running: &Running) {
    running.core.labels(&[(REMOTE, 500_000, &[(FIRST, 100), (SECOND, 101)]), (P1, 500_001, &[(FIRST, 3)])]).await;
    running.core.synced("core0", true).await;
    running.core.synced("core1", true).await;
}

async fn routes(running: &Running) {
    running.core.routes(&[(REMOTE, FIRST, Some(SECOND)), (P1, FIRST, None)]).await;
}

#[test]
fn a_dead_neighbor_gives_way_to_its_alternate_before_ospf_has_run() {
    common::join(common::in_namespace(reroute));
}

async fn reroute() {
    addresses().await;
    let (mut site, mut lsr) = site();
    let rr = Reflector::start();
    let mut running = site.start().await;
    let mut pvm = site.pvm(0, "acme/denver-1", &site.pvms[0]);
    pvm.join(&[]).await;
    rr.advertise("65000:7", "10.2.0.0/16", 100);
    neighbors(&running).await;
    routes(&running).await;
    let (client, parameters) = running
        .core
        .asked("BFD with the first neighbour", |c| match c {
            CoreCommand::Bfd { key: k, client, parameters } if k == key(0, FIRST) => Some((client, parameters)),
            _ => None,
        })
        .await;
    assert_eq!((client, parameters.unwrap().multiplier()), ("ospf", 3));
    let fecs =
        running.core.asked("FECs for LDP", |c| if let CoreCommand::Fecs(f) = c { Some(f) } else { None }.filter(|f| f.len() > 3)).await;
    assert_eq!(fecs[&REMOTE.into()], [hop(FIRST), hop(SECOND)]);
    labels(&running).await;

    pvm.until("two labels", |p| p.legs("10.2.0.0/16") == [(FIRST_MAC, vec![100])]).await;
    lsr.until("the label map", |l| l.ended == 1 && l.behind(500_000) == [(0, vec![100])] && l.behind(500_001) == [(0, vec![])]).await;
    let fabric: Fabric = site.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
    assert_eq!(fabric.neighbors.iter().map(|n| n.mac).collect::<Vec<_>>(), [FIRST_MAC, SECOND_MAC]);

    // The first neighbour is dead: nothing else is said by anybody.
    running.core.rest();
    running.core.say(CoreEvent::Bfd(bfd::Event::Down(key(0, FIRST), bfd::Why::Expired))).await;
    pvm.until("the alternate", |p| p.legs("10.2.0.0/16") == [(SECOND_MAC, vec![101])]).await;
    lsr.until("the alternate", |l| l.behind(500_000) == [(1, vec![101])] && l.behind(500_001).is_empty()).await;
    let lost = running.core.asked("OSPF is told", |c| if let CoreCommand::NeighborLost(h) = c { Some(h) } else { None }).await;
    assert_eq!(lost, hop(FIRST));
    let kernel = running.core.asked("the kernel too", |c| if let CoreCommand::KernelRoutes(r) = c { Some(r) } else { None }).await;
    assert_eq!((kernel.routes[&REMOTE.into()].clone(), kernel.sweep), ([hop(SECOND)].into(), true));
    let tunnels: Vec<TunnelRow> = site.ask(CvmQuery::Tunnels).await.unwrap();
    let row = tunnels.iter().find(|t| t.endpoint == REMOTE).unwrap();
    assert_eq!((row.up, &row.source[..], row.cost, row.paths, row.legs[0].mac), (true, "ospf", Some(20), 1, Some(SECOND_MAC)));
    let map: Vec<ForwardingRow> = site.ask(CvmQuery::Forwarding).await.unwrap();
    assert_eq!(map.iter().map(|f| (f.label.get(), f.legs.len())).collect::<Vec<_>>(), [(500_000, 1), (500_001, 0)]);

    // OSPF lets it go: its BFD session with it. Back again it is alive.
    let down = |router_id, reason: &str| {
        let (interface, address) = ("core0".into(), FIRST.into());
        CoreEvent::Ospf(ospf::Event::NeighborDown { interface, address, router_id, reason: reason.into() })
    };
    running.core.say(down(P1, "BFD")).await;
    running.core.asked("no BFD", |c| (c == CoreCommand::Bfd { key: key(0, FIRST), client: "ospf", parameters: None }).then_some(())).await;
    running.core.adjacency(FIRST, P1).await;
    pvm.until("the first again", |p| p.legs("10.2.0.0/16") == [(FIRST_MAC, vec![100])]).await;
    // An operator's end of the session is no failure.
    running.core.say(CoreEvent::Bfd(bfd::Event::Down(key(0, FIRST), bfd::Why::NeighborAdminDown))).await;

    // One setting changes: nothing else is said to anybody.
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    running.core.rest();
    site.config.core[1].bfd = Some(Bfd { interval_ms: 300, multiplier: 3 });
    site.write();
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    let said = running.core.rest();
    let other = said
        .iter()
        .find(|c| !matches!(c, CoreCommand::Bfd { key: k, .. } if *k == key(1, SECOND)) && !matches!(c, CoreCommand::LinkCost { .. }));
    assert_eq!((said.is_empty(), other), (false, None));

    let bindings: String = site.ask(CvmQuery::LdpBindings).await.unwrap();
    assert_eq!(bindings, "LdpBindings");
    let ping = CvmQuery::LspPing { prefix: REMOTE.into(), options: PingOptions::default() };
    assert!(site.ask::<PingReport>(ping).await.is_err());
    running.stop().await;
}

#[test]
fn a_neighbor_that_died_under_ospf_lives_for_a_static_route() {
    common::join(common::in_namespace(from_ospf_to_static));
}

async fn from_ospf_to_static() {
    addresses().await;
    let (mut site, _lsr) = site();
    let mut running = site.start().await;
    neighbors(&running).await;
    running.core.synced("core0", true).await;
    running.core.synced("core1", true).await;
    routes(&running).await;
    let kernel = |via: [u8; 4]| {
        move |c| {
            if let CoreCommand::KernelRoutes(r) = c { r.routes.get(&REMOTE.into()).cloned() } else { None }
                .filter(|h| *h == [hop(via)].into())
        }
    };
    running.core.asked("the first", kernel(FIRST)).await;
    running.core.say(CoreEvent::Bfd(bfd::Event::Down(key(0, FIRST), bfd::Why::Expired))).await;
    running.core.asked("the alternate", kernel(SECOND)).await;

    // Its adjacency ends, while OSPF's routes still lead to it: it is as dead as before.
    let (interface, address) = ("core0".into(), FIRST.into());
    running.core.say(CoreEvent::Ospf(ospf::Event::NeighborDown { interface, address, router_id: P1, reason: "BFD".into() })).await;
    running.core.asked("no BFD", |c| (c == CoreCommand::Bfd { key: key(0, FIRST), client: "ospf", parameters: None }).then_some(())).await;
    assert!(!running.core.rest().iter().any(|c| matches!(c, CoreCommand::KernelRoutes(_))));

    // No OSPF there any more: a static route goes by it.
    site.config.core[0].ospf = None;
    site.config.core_routes = vec![CoreRoute { prefix: REMOTE.into(), via: FIRST.into() }];
    site.write();
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    running.core.routes(&[(P2, SECOND, None)]).await;
    running.core.asked("the static route", kernel(FIRST)).await;
    running.stop().await;
}

#[test]
fn a_link_without_labels_is_the_last_to_be_used_and_bindings_are_stored() {
    common::join(common::in_namespace(in_step));
}

async fn in_step() {
    addresses().await;
    let (site, _lsr) = site();
    let mut running = site.start().await;
    let cost = |name: &'static str, max| move |c| (c == CoreCommand::LinkCost { interface: name.into(), max }).then_some(());
    running.core.asked("not yet in step", cost("core0", true)).await;
    running.core.synced("core0", true).await;
    running.core.asked("in step", cost("core0", false)).await;
    running.core.synced("core0", false).await;
    running.core.asked("no longer", cost("core0", true)).await;
    let bindings: edgeplex_cvmd::Bindings = [(REMOTE.into(), Label::try_from(500_000).unwrap())].into();
    running.core.say(CoreEvent::Ldp(ldp::Event::Store(bindings))).await;
    let file = site.dir.path().join("state/ldp-labels");
    timeout(LIMIT, async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    running.stop().await;
}

#[test]
fn after_a_restart_nothing_is_taken_away_before_the_core_is_known_again() {
    common::join(common::in_namespace(restart));
}

async fn restart() {
    addresses().await;
    let (site, mut lsr) = site();
    let rr = Reflector::start();
    rr.advertise("65000:7", "10.2.0.0/16", 100);
    let running = site.start().await;
    neighbors(&running).await;
    routes(&running).await;
    labels(&running).await;
    let mut pvm = site.pvm(0, "acme/denver-1", &site.pvms[0]);
    pvm.join(&[]).await;
    let there = |p: &Pvm| p.legs("10.2.0.0/16") == [(FIRST_MAC, vec![100])];
    pvm.until("the way", |p| there(p) && p.ended).await;
    lsr.until("the label map", |l| l.ended == 1 && l.labels.len() == 2).await;
    running.stop().await;

    // Everything is there again, but the second neighbour: the snapshots stay open.
    let mut running = site.start().await;
    pvm.join(&[]).await;
    running.core.say(CoreEvent::Network(NetworkEvent::Link { interface: "core0".into(), up: true })).await;
    running.core.resolve(FIRST, Some(FIRST_MAC)).await;
    running.core.adjacency(FIRST, P1).await;
    running.core.routes(&[(P1, FIRST, None)]).await;
    running.core.labels(&[(P1, 500_001, &[(FIRST, 3)]), (REMOTE, 500_000, &[])]).await;
    running.core.synced("core0", true).await;
    let kernel = running.core.asked("kernel routes", |c| if let CoreCommand::KernelRoutes(r) = c { Some(r) } else { None }).await;
    assert!(!kernel.sweep);
    // Longer than a core without news takes.
    let quiet = tokio::time::Instant::now() + Duration::from_millis(900);
    while tokio::time::Instant::now() < quiet {
        if let Ok(message) = timeout(Duration::from_millis(50), pvm.client.recv()).await {
            pvm.take(message.unwrap());
        }
        let _ = pvm.say(edgeplex_relay::ToCvm::Keepalive { incarnation: pvm.incarnation });
    }
    lsr.look();
    assert!(there(&pvm) && !pvm.ended, "taken away too early");
    assert_eq!((lsr.begun, lsr.ended, lsr.behind(500_000)), (2, 1, vec![(0, vec![100])]));
    assert!(site.ask::<Vec<TunnelRow>>(CvmQuery::Tunnels).await.unwrap().iter().all(|t| t.endpoint == PE || !t.up));

    // The rest of the core comes back: with another label, and without the way to the other PE for one of the labels.
    neighbors(&running).await;
    running.core.routes(&[(REMOTE, SECOND, None), (P1, FIRST, None)]).await;
    running.core.labels(&[(REMOTE, 500_000, &[(SECOND, 107)])]).await;
    running.core.synced("core1", true).await;
    pvm.until("the new way", |p| p.legs("10.2.0.0/16") == [(SECOND_MAC, vec![107])]).await;
    pvm.until("the snapshot's end", |p| p.ended).await;
    lsr.until("the map's end", |l| l.ended == 2 && l.behind(500_000) == [(1, vec![107])]).await;
    running.core.asked("the sweep", |c| if let CoreCommand::KernelRoutes(r) = c { r.sweep.then_some(()) } else { None }).await;
    running.stop().await;
}

#[test]
fn a_p_router_has_a_label_map_and_no_bgp() {
    common::join(common::in_namespace(p_router));
}

async fn p_router() {
    addresses().await;
    let (mut site, mut lsr) = site();
    site.config.role = Role::P;
    site.config.asn = 0;
    site.config.attachments.clear();
    site.config.route_reflectors.clear();
    site.write();
    let running = site.start().await;
    neighbors(&running).await;
    routes(&running).await;
    labels(&running).await;
    lsr.until("the label map", |l| l.ended == 1 && l.behind(500_000) == [(0, vec![100])]).await;
    assert!(std::net::TcpStream::connect((PE, 179)).is_err());
    let fabric: Fabric = site.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
    assert_eq!((fabric.labels.len(), fabric.neighbors.len()), (0, 2));
    running.stop().await;
}
