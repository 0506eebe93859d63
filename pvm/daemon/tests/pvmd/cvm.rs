//! A CVM on a real relay, played by the test.

use edgeplex_bgp_wire::{AsPath, Attributes};
use edgeplex_mgmt::config;
use edgeplex_relay::{CustomerOp, EpochMap, Leg, MAX_OPS, Refusal, Sync, ToCvm, ToPvm, Tunnel, VpnOp, VpnPath, WINDOW};
use edgeplex_transport::relay::{KeyPair, Peer, RelayServer, generate_keypair};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use ipnet::IpNet;
use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::{sync::watch, task::JoinHandle};

#[derive(Debug, Default)]
pub struct CvmTable {
    pub routes: EpochMap<IpNet, (Option<IpAddr>, Vec<u8>)>,
    pub ends: u32,
    pub up: bool,
    pub lost: Vec<IpNet>,
}

/// An instance of the PVM.
#[derive(Debug)]
struct Session {
    peer: Peer,
    incarnation: u64,
    generation: u64,
    standby: bool,
    /// The End of its snapshot.
    owed: bool,
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
            let mut sessions: Vec<Session> = vec![];
            let mut beat = tokio::time::interval(edgeplex_relay::KEEPALIVE);
            loop {
                if *complete.borrow_and_update() {
                    for s in sessions.iter_mut().filter(|s| s.owed) {
                        s.owed = false;
                        let sync = Sync::End { epoch: Epoch(s.incarnation) };
                        let _ = server.send(&s.peer, &ToPvm::Sync { incarnation: s.incarnation, sync }).unwrap();
                    }
                }
                let (from, _, message) = tokio::select! {
                    message = server.recv() => message.unwrap(),
                    _ = complete.changed() => continue,
                    _ = beat.tick() => {
                        for s in &sessions {
                            let _ = server.send(&s.peer, &ToPvm::Keepalive { incarnation: s.incarnation }).unwrap();
                        }
                        continue;
                    }
                };
                let mut out = vec![];
                if let ToCvm::Hello { incarnation, generation, standby, .. } = message {
                    let speaks = |s: &Session| !s.standby && s.generation > generation;
                    if !standby && sessions.iter().any(speaks) {
                        let _ = server.send(&from, &ToPvm::Refused { incarnation, reason: Refusal::Superseded }).unwrap();
                        continue;
                    }
                    // One speaks for an attachment.
                    for past in sessions.extract_if(.., |s| s.peer == from || (!standby && !s.standby)) {
                        if past.peer != from {
                            let refused = ToPvm::Refused { incarnation: past.incarnation, reason: Refusal::Superseded };
                            let _ = server.send(&past.peer, &refused).unwrap();
                        }
                    }
                    sessions.push(Session { peer: from.clone(), incarnation, generation, standby, owed: true });
                    table.lock().unwrap().up = true;
                    let ops = vpn.lock().unwrap().clone();
                    let epoch = Epoch(incarnation);
                    out.push(ToPvm::Welcome { incarnation });
                    out.push(ToPvm::Grant { incarnation, credits: WINDOW });
                    out.push(ToPvm::Sync { incarnation, sync: Sync::Begin { epoch } });
                    out.extend(ops.chunks(MAX_OPS).map(|ops| ToPvm::Sync { incarnation, sync: Sync::Ops { epoch, ops: ops.to_vec() } }));
                } else {
                    let (ToCvm::Hello { incarnation, .. }
                    | ToCvm::Sync { incarnation, .. }
                    | ToCvm::Grant { incarnation, .. }
                    | ToCvm::Keepalive { incarnation }) = message;
                    let session = sessions.iter().find(|s| s.peer == from && s.incarnation == incarnation);
                    match (message, session) {
                        (_, None) => out.push(ToPvm::Refused { incarnation, reason: Refusal::Unknown }),
                        (ToCvm::Sync { sync, .. }, Some(session)) => {
                            assert!(!session.standby, "a standby tells nothing");
                            if let Sync::Ops { .. } = sync {
                                out.push(ToPvm::Grant { incarnation, credits: 1 });
                            }
                            table.lock().unwrap().take(sync);
                        }
                        _ => {}
                    }
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
        table.routes.get(&prefix.parse().unwrap()).map(|(_, a)| Attributes::from_bytes(a).unwrap())
    }

    pub fn next_hop(&self, prefix: &str) -> Option<IpAddr> {
        self.table.lock().unwrap().routes.get(&prefix.parse().unwrap())?.0
    }

    /// Prefixes withdrawn or swept.
    pub fn lost(&self) -> Vec<String> {
        self.table.lock().unwrap().lost.iter().map(ToString::to_string).collect()
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
                        CustomerOp::Route { prefix, next_hop, attributes } => {
                            self.routes.insert(epoch, prefix, (next_hop, attributes));
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
    let leg = Leg { transport: vec![], source_mac: MacAddr([2, 0, 0, 0, 0, 1]), destination_mac: MacAddr([2, 0, 0, 0, 0, 2]) };
    VpnOp::Tunnel(Tunnel { id: TunnelId(id), endpoint: IpAddr::from([10, 255, 0, 2]), legs: vec![leg] })
}

pub fn vpn_path(label: u32, asns: &[u32]) -> VpnPath {
    let attributes = Attributes {
        as_path: AsPath::sequence(asns),
        local_pref: Some(100),
        ext_communities: vec![[0, 2, 0xfd, 0xe8, 0, 0, 0, 100]],
        ..Attributes::default()
    };
    VpnPath { label: Label::try_from(label).unwrap(), tunnel: TunnelId(1), attributes: attributes.to_bytes() }
}

pub fn vpn_route(prefix: &str, label: u32, asns: &[u32]) -> VpnOp {
    VpnOp::Route { prefix: prefix.parse().unwrap(), paths: vec![vpn_path(label, asns)], backup: vec![] }
}
