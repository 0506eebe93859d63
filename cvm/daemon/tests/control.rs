//! cvmd in this process: real sockets to a PVM, a route reflector and the controller; only the kernel's neighbours are told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, NlriKey};
use edgeplex_cvm_vpn::Neighbor;
use edgeplex_cvmd::{Control, Exit, NeighborEvent, Paths, Timing};
use edgeplex_mgmt::{
    SOCKET,
    config::{CoreInterface, CoreNeighbor, CoreRoute, CvmAttachment, CvmConfig, RelayClient as ClientConfig, RelayServer},
    show::{CvmQuery, CvmStatus, Fabric, LabelRow, Reloaded, Route, TunnelRow},
};
use edgeplex_relay::{CustomerOp, Sync, ToCvm, ToPvm, VpnOp};
use edgeplex_transport::{
    bgp::{Event, Speaker, SpeakerConfig},
    mgmt::{MgmtError, ask},
    relay::{Delivery, KeyPair, RelayClient, generate_keypair},
};
use edgeplex_types::{Epoch, Label, LabelRange, MacAddr, TunnelId};
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(20);
const PE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
const RR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);
const REMOTE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

struct Site {
    dir: TempDir,
    config: CvmConfig,
    cvm: KeyPair,
    pvms: Vec<KeyPair>,
}

struct Running {
    task: JoinHandle<anyhow::Result<Exit>>,
    stop: oneshot::Sender<()>,
    neighbors: mpsc::Sender<NeighborEvent>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let (cvm, pvms): (_, Vec<_>) = (generate_keypair().unwrap(), (0..2).map(|_| generate_keypair().unwrap()).collect());
        let label = |n| Label::try_from(n).unwrap();
        let config = CvmConfig {
            version: 1,
            name: "denver".parse().unwrap(),
            asn: 65000,
            loopback: PE,
            core: vec![CoreInterface {
                name: "core0".into(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                address: "10.0.0.1/24".parse().unwrap(),
                mtu: 1600,
            }],
            core_routes: vec![CoreRoute { prefix: REMOTE.into(), via: Ipv4Addr::new(10, 0, 0, 2) }],
            route_reflectors: vec![CoreNeighbor { address: RR, password: None }],
            labels: LabelRange::new(label(1000), label(1999)).unwrap(),
            label_quarantine_s: 60,
            stale_s: 30,
            relay: RelayServer { endpoint: format!("ipc://{}/relay.sock", dir.path().display()), secret_key: cvm.secret.clone() },
            attachments: vec![],
        };
        let mut site = Self { dir, config, cvm, pvms };
        site.attach("acme/denver-1", 0, 100);
        site
    }
    fn attach(&mut self, id: &str, n: usize, target: u32) {
        let rt = format!("65000:{target}").parse().unwrap();
        self.config.attachments.push(CvmAttachment {
            id: id.parse().unwrap(),
            rd: format!("10.255.0.1:{n}").parse().unwrap(),
            import: vec![rt],
            export: vec![rt],
            label: None,
            relay_public_key: self.pvms[n].public.clone(),
            max_routes: None,
        });
        self.write();
    }
    fn write(&self) {
        std::fs::write(self.paths().config, serde_json::to_vec(&self.config).unwrap()).unwrap();
    }
    fn paths(&self) -> Paths {
        Paths { config: self.dir.path().join("config.json"), run: self.dir.path().into(), state: self.dir.path().join("state") }
    }
    async fn start(&self) -> Running {
        let (neighbors, events) = mpsc::channel(16);
        let timing = Timing { fabric_wait: Duration::from_millis(200), ..Timing::default() };
        let control = Control::start(edgeplex_cvmd::load(&self.paths().config).unwrap(), self.paths(), timing, None, events).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(control.run(async move { drop(stopped.await) }));
        Running { task, stop, neighbors }
    }
    async fn ask<T: serde::de::DeserializeOwned>(&self, question: CvmQuery) -> Result<T, MgmtError> {
        let socket: PathBuf = self.dir.path().join(SOCKET);
        ask(&socket, &question, LIMIT).await
    }
    async fn labels_in_use(&self) -> Vec<u32> {
        let fabric: Fabric = self.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
        fabric.labels.iter().map(|l| l.label.get()).collect()
    }
    fn pvm(&self, n: usize, id: &str, keys: &KeyPair) -> Pvm {
        let config = ClientConfig {
            endpoint: self.config.relay.endpoint.clone(),
            server_key: self.cvm.public.clone(),
            public_key: keys.public.clone(),
            secret_key: keys.secret.clone(),
        };
        Pvm {
            client: RelayClient::connect(&config).unwrap(),
            id: id.into(),
            incarnation: 10 + n as u64,
            label: None,
            tunnels: BTreeMap::new(),
            routes: BTreeMap::new(),
            ended: false,
        }
    }
}

/// As much of a PVM as the CVM sees.
struct Pvm {
    client: RelayClient,
    id: String,
    incarnation: u64,
    label: Option<Label>,
    tunnels: BTreeMap<TunnelId, MacAddr>,
    routes: BTreeMap<IpNet, (Label, TunnelId)>,
    ended: bool,
}

impl Pvm {
    fn say(&mut self, message: ToCvm) -> Delivery {
        self.client.send(&message).unwrap()
    }
    /// Hello until welcome, then a snapshot of these prefixes.
    async fn join(&mut self, prefixes: &[&str]) {
        self.incarnation += 100;
        let (incarnation, epoch) = (self.incarnation, Epoch(1));
        self.ended = false;
        timeout(LIMIT, async {
            loop {
                let _ = self.say(ToCvm::Hello { attachment: self.id.parse().unwrap(), incarnation });
                if let Ok(Ok(ToPvm::Welcome { incarnation: i })) = timeout(Duration::from_millis(200), self.client.recv()).await
                    && i == incarnation
                {
                    break;
                }
            }
        })
        .await
        .expect("welcomed");
        let sync = |sync| ToCvm::Sync { incarnation, sync };
        assert_eq!(self.say(ToCvm::Grant { incarnation, credits: 16 }), Delivery::Queued);
        assert_eq!(self.say(sync(Sync::Begin { epoch })), Delivery::Queued);
        self.announce(prefixes);
        assert_eq!(self.say(sync(Sync::End { epoch })), Delivery::Queued);
    }
    fn announce(&mut self, prefixes: &[&str]) {
        let attributes = Attributes { as_path: AsPath::sequence([65101]), ..Attributes::default() }.to_bytes();
        let ops = prefixes.iter().map(|p| CustomerOp::Route { prefix: p.parse().unwrap(), attributes: attributes.clone() }).collect();
        let sync = Sync::Ops { epoch: Epoch(1), ops };
        assert_eq!(self.say(ToCvm::Sync { incarnation: self.incarnation, sync }), Delivery::Queued);
    }
    /// Reads what the CVM says until it makes `done` true.
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        timeout(LIMIT, async {
            while !done(self) {
                // The daemon wants to hear something now and then.
                if let Ok(message) = timeout(Duration::from_millis(300), self.client.recv()).await {
                    self.take(message.unwrap());
                } else {
                    let _ = self.say(ToCvm::Keepalive { incarnation: self.incarnation });
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("in time: {what}"));
    }
    fn take(&mut self, message: ToPvm) {
        let ops = match message {
            ToPvm::Sync { sync: Sync::Ops { ops, .. }, .. } => ops,
            ToPvm::Sync { sync: Sync::End { .. }, .. } => {
                self.ended = true;
                return;
            }
            _ => return,
        };
        for op in ops {
            match op {
                VpnOp::OwnLabel { label } => self.label = Some(label),
                VpnOp::Tunnel(t) => drop(self.tunnels.insert(t.id, t.destination_mac)),
                VpnOp::TunnelGone { id } => drop(self.tunnels.remove(&id)),
                VpnOp::Route { prefix, paths } => drop(self.routes.insert(prefix, (paths[0].label, paths[0].tunnel))),
                VpnOp::Withdraw { prefix } => drop(self.routes.remove(&prefix)),
            }
        }
    }
}

/// A route reflector: another speaker of ours.
struct Reflector {
    speaker: Speaker,
    events: mpsc::Receiver<Event>,
    routes: BTreeSet<String>,
    end_of_rib: bool,
    graceful_downs: u32,
}

impl Reflector {
    fn start() -> Self {
        let listen = Some(SocketAddr::from((RR, 179)));
        let (speaker, events) = Speaker::start(SpeakerConfig { local_as: 65000, router_id: RR, listen });
        speaker.set_peer(PeerConfig {
            passive: true,
            local_address: Some(RR.into()),
            families: vec![Family::Vpnv4],
            graceful_restart: Some(GracefulRestart { restart_time_s: 60, restarting: false }),
            ..PeerConfig::new(PE, 65000)
        });
        speaker.release(PE.into(), Family::Vpnv4);
        Self { speaker, events, routes: BTreeSet::new(), end_of_rib: false, graceful_downs: 0 }
    }
    fn advertise(&self, rd: &str, prefix: &str, target: u32) {
        let rt: edgeplex_types::RouteTarget = format!("65000:{target}").parse().unwrap();
        let attributes =
            Attributes { as_path: AsPath::sequence([65102]), local_pref: Some(100), ext_communities: vec![rt.0], ..Attributes::default() };
        let nlri = Nlri::Vpnv4 { rd: rd.parse().unwrap(), prefix: prefix.parse().unwrap(), label: Label::try_from(2000).unwrap() };
        self.speaker.advertise(PE.into(), nlri, Arc::new(attributes), REMOTE.into());
    }
    fn withdraw(&self, rd: &str, prefix: &str) {
        let prefix: Ipv4Net = prefix.parse().unwrap();
        self.speaker.withdraw(PE.into(), NlriKey::Vpnv4 { rd: rd.parse().unwrap(), prefix });
    }
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let event = timeout(LIMIT, self.events.recv()).await.unwrap_or_else(|_| panic!("in time: {what}")).unwrap();
            match event {
                Event::Update { reach, unreach, .. } => {
                    for key in unreach.iter().copied().chain(reach.iter().map(Nlri::key)) {
                        self.routes.retain(|r| !r.starts_with(&format!("{key} ")));
                    }
                    self.routes.extend(reach.iter().map(|n| n.to_string()));
                }
                Event::EndOfRib { .. } => self.end_of_rib = true,
                Event::Down { graceful, .. } => {
                    self.graceful_downs += u32::from(graceful);
                    self.end_of_rib = false;
                }
                Event::Up { .. } => {}
            }
        }
    }
}

/// The PE's and the reflector's addresses.
async fn addresses() {
    let handle = common::netlink();
    handle.link().change(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
    for address in [PE, RR] {
        handle.address().add(1, address.into(), 32).execute().await.unwrap();
    }
}

async fn resolve(running: &Running, mac: Option<MacAddr>) {
    let neighbor = Neighbor { interface: "core0".into(), address: Ipv4Addr::new(10, 0, 0, 2) };
    running.neighbors.send(NeighborEvent { neighbor, mac }).await.unwrap();
}

#[test]
fn routes_go_both_ways_and_a_restart_keeps_labels_and_sessions_promises() {
    common::join(common::in_namespace(both_ways));
}

async fn both_ways() {
    addresses().await;
    let mut site = Site::new();
    let mut rr = Reflector::start();
    let running = site.start().await;
    resolve(&running, Some(REMOTE_MAC)).await;
    let mut pvm = site.pvm(0, "acme/denver-1", &site.pvms[0]);
    pvm.join(&["10.1.0.0/16"]).await;

    rr.until("the customer's route and the end", |rr| rr.end_of_rib).await;
    assert_eq!(rr.routes, ["10.255.0.1:0 10.1.0.0/16 label 1000".to_owned()].into());
    rr.advertise("65000:7", "10.2.0.0/16", 100);
    rr.advertise("65000:8", "10.3.0.0/16", 200);
    let there: IpNet = "10.2.0.0/16".parse().unwrap();
    pvm.until("the other city's route", |p| p.routes.contains_key(&there) && p.ended).await;
    assert_eq!(pvm.label, Label::try_from(1000).ok());
    assert_eq!(pvm.tunnels[&pvm.routes[&there].1], REMOTE_MAC);
    assert_eq!(pvm.routes.len(), 1);

    // A second customer is added while a long poll waits; it gets what was there before it.
    let fabric: Fabric = site.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
    assert_eq!((fabric.labels.len(), fabric.neighbors[0].mac), (1, REMOTE_MAC));
    site.attach("beta/denver-1", 1, 200);
    let (news, reloaded) =
        tokio::join!(site.ask::<Fabric>(CvmQuery::Fabric { seen: fabric.generation }), site.ask::<Reloaded>(CvmQuery::Reload));
    reloaded.unwrap();
    assert_eq!(news.unwrap().labels.iter().map(|l| l.label.get()).collect::<Vec<_>>(), [1000, 1001]);
    let mut beta = site.pvm(1, "beta/denver-1", &site.pvms[1]);
    beta.join(&["10.1.0.0/16"]).await;
    beta.until("beta's route", |p| p.routes.contains_key(&"10.3.0.0/16".parse().unwrap())).await;
    rr.until("beta's route at the reflector", |rr| rr.routes.contains("10.255.0.1:1 10.1.0.0/16 label 1001")).await;

    // The neighbour goes: routes over it leave; it comes back with another MAC.
    resolve(&running, None).await;
    pvm.until("withdrawn", |p| p.routes.is_empty() && p.tunnels.is_empty()).await;
    let other = MacAddr([2, 0, 0, 0, 0, 3]);
    resolve(&running, Some(other)).await;
    pvm.until("back over the new MAC", |p| p.tunnels.values().eq([&other]) && !p.routes.is_empty()).await;

    let status: CvmStatus = site.ask(CvmQuery::Status).await.unwrap();
    assert!(status.attachments.iter().all(|a| a.relay_up && a.routes == 1), "{status:?}");
    let routes: Vec<Route> = site.ask(CvmQuery::Routes { attachment: Some("acme/denver-1".parse().unwrap()) }).await.unwrap();
    assert_eq!(routes.iter().map(|r| r.prefix.to_string()).collect::<Vec<_>>(), ["10.1.0.0/16", "10.2.0.0/16"]);
    let tunnels: Vec<TunnelRow> = site.ask(CvmQuery::Tunnels).await.unwrap();
    assert!(tunnels.iter().any(|t| t.endpoint == REMOTE && t.up && t.paths == 2));

    // Another process: same labels, the reflector keeps its routes, a PVM is told before anything is swept.
    running.stop.send(()).unwrap();
    assert_eq!(timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap(), Exit::Stopped);
    rr.until("a graceful end", |rr| rr.graceful_downs == 1).await;
    // The run directory goes when the VM is made anew; labels are not in it.
    assert!(site.dir.path().join("state/labels").exists() && !site.dir.path().join("labels").exists());
    let running = site.start().await;
    resolve(&running, Some(REMOTE_MAC)).await;
    let labels: Vec<LabelRow> = site.ask(CvmQuery::Labels).await.unwrap();
    assert_eq!(labels.iter().map(|l| (l.label.get(), &l.state[..])).collect::<Vec<_>>(), [(1000, "active"), (1001, "active")]);
    pvm.join(&["10.1.0.0/16"]).await;
    beta.join(&["10.1.0.0/16"]).await;
    pvm.until("the whole snapshot again", |p| p.ended).await;
    assert!(pvm.routes.contains_key(&there), "the snapshot ended before the reflector's routes were in it");
    rr.until("the whole table again", |rr| rr.end_of_rib).await;
    rr.withdraw("65000:7", "10.2.0.0/16");
    pvm.until("withdrawn at last", |p| p.routes.is_empty()).await;

    // beta is deleted: its label rests, its PVM is cut off.
    site.config.attachments.pop();
    site.write();
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    rr.until("beta is gone", |rr| rr.routes.len() == 1).await;
    let labels: Vec<LabelRow> = site.ask(CvmQuery::Labels).await.unwrap();
    assert_eq!(labels[1].state, "quarantine");
    running.stop.send(()).unwrap();
    timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap();
}

#[test]
fn a_full_disk_keeps_a_new_customer_waiting_and_ends_nothing() {
    common::join(common::in_namespace(full_disk));
}

async fn full_disk() {
    addresses().await;
    let mut site = Site::new();
    let running = site.start().await;
    let mut rr = Reflector::start();
    let mut acme = site.pvm(0, "acme/denver-1", &site.pvms[0]);
    acme.join(&["10.1.0.0/16"]).await;
    rr.until("acme's route", |rr| !rr.routes.is_empty()).await;
    assert_eq!(site.labels_in_use().await, [1000]);

    // Nothing more can be written there.
    let (state, away) = (site.dir.path().join("state"), site.dir.path().join("away"));
    std::fs::rename(&state, &away).unwrap();
    site.attach("beta/denver-1", 1, 200);
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    let mut beta = site.pvm(1, "beta/denver-1", &site.pvms[1]);
    beta.join(&["10.2.0.0/16"]).await;
    acme.announce(&["10.3.0.0/16"]);
    rr.until("acme goes on", |rr| rr.routes.len() == 2).await;
    assert!(rr.routes.iter().all(|r| r.contains(" label 1000")), "{:?}", rr.routes);
    assert_eq!(site.labels_in_use().await, [1000]);
    assert_eq!(site.ask::<CvmStatus>(CvmQuery::Status).await.unwrap().attachments.len(), 1);
    std::fs::rename(&away, &state).unwrap();
    beta.until("its label at last", |p| p.label == Label::try_from(1001).ok()).await;
    rr.until("beta's route", |rr| rr.routes.contains("10.255.0.1:1 10.2.0.0/16 label 1001")).await;
    running.stop.send(()).unwrap();
    assert_eq!(timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap(), Exit::Stopped);
}

#[test]
fn strangers_are_counted_and_a_bad_configuration_changes_nothing() {
    common::join(common::in_namespace(strangers));
}

async fn strangers() {
    addresses().await;
    let mut site = Site::new();
    let running = site.start().await;
    let mut stranger = site.pvm(0, "acme/denver-1", &generate_keypair().unwrap());
    timeout(LIMIT, async {
        loop {
            let _ = stranger.say(ToCvm::Hello { attachment: "acme/denver-1".parse().unwrap(), incarnation: 1 });
            if site.ask::<CvmStatus>(CvmQuery::Status).await.unwrap().refused > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();

    site.attach("beta/denver-1", 1, 200);
    site.config.attachments[1].rd = site.config.attachments[0].rd;
    site.write();
    let error = site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap_err().to_string();
    assert!(error.contains("route distinguisher 10.255.0.1:0 is given to two attachments"), "{error}");
    assert_eq!(site.ask::<CvmStatus>(CvmQuery::Status).await.unwrap().attachments.len(), 1);

    // Another identity takes another process.
    site.config.attachments.pop();
    site.config.asn = 65001;
    site.write();
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    assert_eq!(timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap(), Exit::Restart);
}
