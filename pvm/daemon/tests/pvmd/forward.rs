//! FastForward, played by the test.

use edgeplex_ff_fib_api::{Adjacency, Counters, FibOp, HoldOp, Interface, Neighbor, Reply, Request, Status, Target, VERSION, encode_reply};
use edgeplex_types::{Epoch, Label, TunnelId, wire::Deframer};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};

#[derive(Debug, Default)]
pub struct FibTable {
    pub epoch: Option<Epoch>,
    current: Epoch,
    pub routes: BTreeMap<IpNet, (Epoch, Target)>,
    pub tunnels: BTreeMap<TunnelId, Epoch>,
    pub labels: BTreeMap<Label, Option<IpAddr>>,
    pub interface: Option<Interface>,
    pub neighbors: Vec<Neighbor>,
    pub holds: Vec<HoldOp>,
    /// Prefixes withdrawn or swept.
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
                    labels: self.labels.len() as u64,
                });
            }
            Request::Adjacencies => {
                let row = |n: &Neighbor| Adjacency { address: n.address, mac: Some(n.mac), age_ms: 0 };
                return Reply::Adjacencies { rows: self.neighbors.iter().map(row).collect() };
            }
            Request::Neighbors(rows) => self.neighbors = rows,
            Request::Hold(ops) => self.holds.extend(ops),
            Request::Counters => return Reply::Counters(Counters::default()),
            other => panic!("pvmd does not ask {other:?}"),
        }
        Reply::Done
    }

    fn op(&mut self, op: FibOp) {
        match op {
            FibOp::Interface(interface) => self.interface = Some(interface),
            FibOp::OwnLabel { label, next_hop } => {
                self.labels.insert(label, next_hop);
            }
            FibOp::OwnLabelGone { label } => {
                self.labels.remove(&label);
            }
            FibOp::Tunnel(t) => {
                self.tunnels.insert(t.id, self.current);
            }
            FibOp::TunnelGone { id } => {
                self.tunnels.remove(&id);
            }
            FibOp::Route { prefix, target } => {
                if let Target::Vpn { paths, backup } = &target {
                    assert!(paths.iter().chain(backup).all(|p| self.tunnels.contains_key(&p.tunnel)), "tunnel before route");
                }
                self.routes.insert(prefix, (self.current, target));
            }
            FibOp::Withdraw { prefix } => {
                self.routes.remove(&prefix);
                self.lost.push(prefix);
            }
            other => panic!("not for a port VM: {other:?}"),
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
