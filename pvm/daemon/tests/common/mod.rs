//! pvmd's surroundings, played by the test: a FastForward on a Unix socket, a CVM on a real relay, a CE on loopback.

#![allow(unreachable_pub)]

use edgeplex_bgp::PeerConfig;
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri};
use edgeplex_ff_fib_api::{FibOp, Reply, Request, Status, Target, VERSION, encode_reply};
use edgeplex_mgmt::{config, config::PvmConfig, show};
use edgeplex_pvmd::{Options, Ports, Pvmd};
use edgeplex_relay::{CustomerOp, EpochMap, Sync, ToCvm, ToPvm, Tunnel, VpnOp, VpnPath, WINDOW};
use edgeplex_transport::{
    bgp::{Event, Speaker, SpeakerConfig},
    mgmt::ask,
    relay::{KeyPair, RelayServer, generate_keypair},
};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId, wire::Deframer};
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
};

pub const LIMIT: Duration = Duration::from_secs(20);

pub fn net(s: &str) -> Ipv4Net {
    s.parse().unwrap()
}

/// Waits for a condition; names it when it does not come.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

// --- FastForward

#[derive(Debug, Default)]
pub struct FibTable {
    pub epoch: Option<Epoch>,
    current: Epoch,
    pub routes: BTreeMap<IpNet, (Epoch, Target)>,
    pub tunnels: BTreeMap<TunnelId, Epoch>,
    pub own_label: Option<Label>,
    /// Prefixes withdrawn or swept since [`Forward::forget_losses`].
    pub lost: Vec<IpNet>,
    pub refuse: u32,
}

impl FibTable {
    fn request(&mut self, request: Request) -> Reply {
        if self.refuse > 0 && matches!(request, Request::Program { .. }) {
            self.refuse -= 1;
            return Reply::Refused { reason: "as the test wants it".into() };
        }
        match request {
            Request::Begin { epoch } => self.current = epoch,
            Request::Program { epoch, ops } => {
                assert_eq!(epoch, self.current);
                ops.into_iter().for_each(|op| self.op(op));
            }
            Request::End { epoch } => {
                let gone: Vec<_> = self.routes.extract_if(.., |_, (e, _)| *e != epoch).map(|(p, _)| p).collect();
                self.lost.extend(gone);
                self.tunnels.retain(|_, e| *e == epoch);
                self.epoch = Some(epoch);
            }
            Request::Status => {
                return Reply::Status(Status {
                    uptime_ms: 0,
                    epoch: self.epoch,
                    routes: self.routes.len() as u64,
                    tunnels: 0,
                    fib_bytes: 0,
                    own_label: self.own_label,
                });
            }
            other => panic!("pvmd does not ask {other:?}"),
        }
        Reply::Done
    }

    fn op(&mut self, op: FibOp) {
        match op {
            FibOp::Interface(_) => {}
            FibOp::OwnLabel { label } => self.own_label = Some(label),
            FibOp::Tunnel(t) => {
                self.tunnels.insert(t.id, self.current);
            }
            FibOp::TunnelGone { id } => {
                self.tunnels.remove(&id);
            }
            FibOp::Route { prefix, target } => {
                if let Target::Vpn { paths } = &target {
                    assert!(paths.iter().all(|p| self.tunnels.contains_key(&p.tunnel)), "tunnel before route");
                }
                self.routes.insert(prefix, (self.current, target));
            }
            FibOp::Withdraw { prefix } => {
                self.routes.remove(&prefix);
                self.lost.push(prefix);
            }
        }
    }
}

/// A FastForward that can die; its FIB lives as long as it does.
#[derive(Debug)]
pub struct Forward {
    path: PathBuf,
    pub table: Arc<Mutex<FibTable>>,
    task: JoinHandle<()>,
}

impl Forward {
    pub fn start(path: &Path) -> Self {
        let table = Arc::new(Mutex::new(FibTable::default()));
        let task = Self::serve(path, table.clone());
        Self { path: path.to_owned(), table, task }
    }

    fn serve(path: &Path, table: Arc<Mutex<FibTable>>) -> JoinHandle<()> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                clients.spawn(Self::client(stream, table.clone()));
            }
        })
    }

    async fn client(mut stream: UnixStream, table: Arc<Mutex<FibTable>>) {
        let mut frames = Deframer::default();
        let mut buffer = vec![0; 4096];
        while let Ok(n) = stream.read(&mut buffer).await
            && n > 0
        {
            frames.push(&buffer[..n]);
            while let Some(request) = frames.next::<Request>(VERSION).unwrap() {
                request.check().unwrap();
                let reply = table.lock().unwrap().request(request);
                let _ = stream.write_all(&encode_reply(&reply).unwrap()).await;
            }
        }
    }

    /// Dies and comes back empty.
    pub async fn crash(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        *self.table.lock().unwrap() = FibTable::default();
        self.task = Self::serve(&self.path, self.table.clone());
    }

    pub fn target(&self, prefix: &str) -> Option<Target> {
        self.table.lock().unwrap().routes.get(&prefix.parse().unwrap()).map(|(_, t)| t.clone())
    }

    pub fn epoch(&self) -> Option<Epoch> {
        self.table.lock().unwrap().epoch
    }
}

// --- CVM

#[derive(Debug, Default)]
pub struct CvmTable {
    pub routes: EpochMap<IpNet, Vec<u8>>,
    pub ends: u32,
    pub up: bool,
    pub lost: Vec<IpNet>,
}

/// A CVM that tells every PVM the same, and can die with or without its table.
#[derive(Debug)]
pub struct Cvm {
    config: config::RelayServer,
    pub public: String,
    pvm: KeyPair,
    pub table: Arc<Mutex<CvmTable>>,
    vpn: Arc<Mutex<Vec<VpnOp>>>,
    /// Whether the snapshot's End is said.
    complete: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Cvm {
    pub fn new(dir: &Path) -> Self {
        let own = generate_keypair().unwrap();
        let config = config::RelayServer { endpoint: format!("ipc://{}/relay.sock", dir.display()), secret_key: own.secret };
        Self {
            config,
            public: own.public,
            pvm: generate_keypair().unwrap(),
            table: Arc::default(),
            vpn: Arc::default(),
            complete: watch::channel(true).0,
            task: None,
        }
    }

    pub fn say(&self, ops: Vec<VpnOp>) {
        *self.vpn.lock().unwrap() = ops;
    }

    pub fn hold_end(&self, hold: bool) {
        self.complete.send_replace(!hold);
    }

    pub fn start(&mut self) {
        let mut server = RelayServer::bind(&self.config).unwrap();
        server.set_keys([(self.pvm.public.parse().unwrap(), "acme/denver-1".parse().unwrap())]).unwrap();
        let (table, vpn, mut complete) = (self.table.clone(), self.vpn.clone(), self.complete.subscribe());
        self.task = Some(tokio::spawn(async move {
            let mut now = 0;
            let mut peer = None;
            let mut owed = false;
            let mut beat = tokio::time::interval(edgeplex_relay::KEEPALIVE);
            loop {
                if let (true, true, Some(p)) = (owed, *complete.borrow_and_update(), &peer) {
                    owed = false;
                    let _ = server.send(p, &ToPvm::Sync { incarnation: now, sync: Sync::End { epoch: Epoch(now) } }).unwrap();
                }
                let message = tokio::select! {
                    message = server.recv() => message.unwrap(),
                    _ = complete.changed() => continue,
                    _ = beat.tick() => {
                        if let Some(p) = &peer {
                            let _ = server.send(p, &ToPvm::Keepalive { incarnation: now }).unwrap();
                        }
                        continue;
                    }
                };
                let (from, _, message) = message;
                let mut out = vec![];
                match message {
                    ToCvm::Hello { incarnation, .. } => {
                        now = incarnation;
                        owed = true;
                        peer = Some(from.clone());
                        table.lock().unwrap().up = true;
                        let ops = vpn.lock().unwrap().clone();
                        let epoch = Epoch(now);
                        out.push(ToPvm::Welcome { incarnation });
                        out.push(ToPvm::Grant { incarnation, credits: WINDOW });
                        out.push(ToPvm::Sync { incarnation, sync: Sync::Begin { epoch } });
                        out.push(ToPvm::Sync { incarnation, sync: Sync::Ops { epoch, ops } });
                    }
                    ToCvm::Sync { incarnation, .. } | ToCvm::Grant { incarnation, .. } | ToCvm::Keepalive { incarnation }
                        if incarnation != now =>
                    {
                        out.push(ToPvm::Refused { incarnation, reason: edgeplex_relay::Refusal::Unknown });
                    }
                    ToCvm::Sync { sync, incarnation } => {
                        if let Sync::Ops { .. } = sync {
                            out.push(ToPvm::Grant { incarnation, credits: 1 });
                        }
                        table.lock().unwrap().take(sync);
                    }
                    ToCvm::Grant { .. } | ToCvm::Keepalive { .. } => {}
                }
                for m in out {
                    let _ = server.send(&from, &m).unwrap();
                }
            }
        }));
    }

    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    pub fn client(&self) -> config::RelayClient {
        config::RelayClient {
            endpoint: self.config.endpoint.clone(),
            server_key: self.public.clone(),
            public_key: self.pvm.public.clone(),
            secret_key: self.pvm.secret.clone(),
        }
    }

    pub fn attributes(&self, prefix: &str) -> Option<Attributes> {
        let table = self.table.lock().unwrap();
        table.routes.get(&prefix.parse().unwrap()).map(|a| Attributes::from_bytes(a).unwrap())
    }

    pub fn ends(&self) -> u32 {
        self.table.lock().unwrap().ends
    }
}

impl CvmTable {
    fn take(&mut self, sync: Sync<CustomerOp>) {
        match sync {
            Sync::Begin { .. } => {}
            Sync::Ops { epoch, ops } => {
                for op in ops {
                    match op {
                        CustomerOp::Route { prefix, attributes } => {
                            self.routes.insert(epoch, prefix, attributes);
                        }
                        CustomerOp::Withdraw { prefix } => {
                            self.routes.remove(&prefix);
                            self.lost.push(prefix);
                        }
                    }
                }
            }
            Sync::End { epoch } => {
                self.lost.extend(self.routes.sweep(epoch).into_iter().map(|(p, _)| p));
                self.ends += 1;
            }
        }
    }
}

pub fn tunnel(id: u32) -> VpnOp {
    VpnOp::Tunnel(Tunnel {
        id: TunnelId(id),
        endpoint: IpAddr::from([10, 255, 0, 2]),
        transport: vec![],
        source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
    })
}

pub fn vpn_route(prefix: &str, label: u32, asns: &[u32]) -> VpnOp {
    let attributes = Attributes {
        as_path: AsPath::sequence(asns),
        local_pref: Some(100),
        ext_communities: vec![[0, 2, 0xfd, 0xe8, 0, 0, 0, 100]],
        ..Attributes::default()
    };
    let path = VpnPath { label: Label::try_from(label).unwrap(), tunnel: TunnelId(1), attributes: attributes.to_bytes() };
    VpnOp::Route { prefix: prefix.parse().unwrap(), paths: vec![path] }
}

// --- CE

/// A customer's router; keeps what it hears.
#[derive(Debug)]
pub struct Ce {
    pub speaker: Speaker,
    pub heard: Arc<Mutex<CeTable>>,
    pub pe: Ipv4Addr,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub struct CeTable {
    pub routes: BTreeMap<Ipv4Net, (Arc<Attributes>, IpAddr)>,
    pub ends: u32,
    pub ups: u32,
    pub downs: Vec<(String, bool)>,
}

impl Ce {
    pub fn start(net: Link, password: Option<&str>) -> Self {
        let (speaker, mut events) =
            Speaker::start(SpeakerConfig { local_as: 65101, router_id: net.ce, listen: Some(SocketAddr::new(net.ce.into(), CE_PORT)) });
        let mut peer = PeerConfig::new(net.pe, 65000);
        peer.passive = true;
        peer.local_address = Some(net.ce.into());
        peer.hold_time = 30;
        peer.password = password.map(str::to_owned);
        peer.graceful_restart = Some(edgeplex_bgp::GracefulRestart { restart_time_s: 30, restarting: false });
        speaker.set_peer(peer);
        let heard = Arc::new(Mutex::new(CeTable::default()));
        let table = heard.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                table.lock().unwrap().take(event);
            }
        });
        Self { speaker, heard, pe: net.pe, task }
    }

    pub fn announce(&self, prefix: Ipv4Net, from: Ipv4Addr) {
        let attributes = Arc::new(Attributes { as_path: AsPath::sequence([65101, 7]), ..Attributes::default() });
        self.speaker.advertise(self.pe.into(), Nlri::Ipv4(prefix), attributes, from.into());
    }

    pub fn withdraw(&self, prefix: Ipv4Net) {
        self.speaker.withdraw(self.pe.into(), Nlri::Ipv4(prefix).key());
    }

    pub fn release(&self) {
        self.speaker.release(self.pe.into(), Family::Ipv4Unicast);
    }

    pub fn has(&self, prefix: &str) -> Option<(Arc<Attributes>, IpAddr)> {
        self.heard.lock().unwrap().routes.get(&net(prefix)).cloned()
    }

    pub async fn stop(self, graceful: bool) {
        self.speaker.shutdown(graceful).await;
        self.task.abort();
    }
}

impl CeTable {
    fn take(&mut self, event: Event) {
        match event {
            Event::Up { .. } => self.ups += 1,
            Event::Down { reason, graceful, .. } => {
                if !graceful {
                    self.routes.clear();
                }
                self.downs.push((reason, graceful));
            }
            Event::Update { attributes, next_hop, reach, unreach, .. } => {
                for key in unreach {
                    self.routes.retain(|p, _| Nlri::Ipv4(*p).key() != key);
                }
                for nlri in reach {
                    if let Nlri::Ipv4(p) = nlri {
                        self.routes.insert(p, (attributes.clone(), next_hop));
                    }
                }
            }
            Event::EndOfRib { .. } => self.ends += 1,
        }
    }
}

// --- the site

/// Addresses of the attachment's two ends.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub pe: Ipv4Addr,
    pub ce: Ipv4Addr,
}

const LINK: Link = Link { pe: Ipv4Addr::new(192, 168, 1, 1), ce: Ipv4Addr::new(192, 168, 1, 2) };
/// High, so that nobody's real session is in the way.
const PE_PORT: u16 = 10179;
const CE_PORT: u16 = 20179;

/// Runs a test in a network namespace of its own, with both ends of the attachment on its loopback interface: BGP
/// takes no loopback address for a next hop. Needs root, as `lab/test` has it.
pub fn alone(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace of our own ({error})");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            handle.link().change(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
            for address in [LINK.pe, LINK.ce] {
                handle.address().add(1, address.into(), 30).execute().await.unwrap();
            }
            test.await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[derive(Debug)]
pub struct Site {
    pub dir: tempfile::TempDir,
    pub net: Link,
    pub config: PvmConfig,
    pub forward: Forward,
    pub cvm: Cvm,
}

/// A pvmd that runs.
#[derive(Debug)]
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// As on SIGTERM.
    pub async fn terminate(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(LIMIT, &mut self.task).await.unwrap().unwrap();
    }

    /// pvmd is still there.
    pub fn alive(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Site {
    pub fn new(bgp: bool) -> Self {
        // With RUST_LOG=debug a failing test shows what happened.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let net = LINK;
        let cvm = Cvm::new(dir.path());
        let forward = Forward::start(&dir.path().join("fib.sock"));
        let config = PvmConfig {
            version: 1,
            attachment: "acme/denver-1".parse().unwrap(),
            asn: 65000,
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            address: Ipv4Net::new(net.pe, 30).unwrap(),
            customer_mtu: 1500,
            core_mtu: 1600,
            bgp: bgp.then_some(config::CustomerBgp {
                neighbor: net.ce,
                remote_as: 65101,
                password: None,
                max_prefix: Some(1000),
                hold_time_s: 30,
            }),
            static_routes: vec![config::StaticRoute { prefix: "10.9.0.0/16".parse().unwrap(), via: net.ce.into() }],
            relay: cvm.client(),
        };
        let site = Self { dir, net, config, forward, cvm };
        site.write();
        site
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("config.json")
    }

    pub fn write(&self) {
        std::fs::write(self.file(), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    pub fn pvmd(&self) -> Running {
        let ports = Ports { listen: Some(SocketAddr::new(self.net.pe.into(), PE_PORT)), neighbor: CE_PORT };
        let pvmd = Pvmd::new(Options { config: self.file(), run: self.dir.path().to_owned(), tap: None, ports }).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            pvmd.run(stopped).await.unwrap();
        });
        Running { stop: Some(stop), task }
    }

    pub async fn ask<T: serde::de::DeserializeOwned>(&self, query: show::PvmQuery) -> Result<T, String> {
        ask(&self.dir.path().join("mgmt.sock"), &query, LIMIT).await.map_err(|e| e.to_string())
    }

    pub async fn status(&self) -> show::PvmStatus {
        self.ask(show::PvmQuery::Status).await.unwrap()
    }
}
