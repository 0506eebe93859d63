//! A platform's configuration and files, and cvmd running by them.

use super::{
    LIMIT,
    fake::{World, world},
    netlink,
    pvm::Pvm,
};
use edgeplex_cvmd::{Control, Exit, Origin, Paths, Timing};
use edgeplex_mgmt::{
    SOCKET,
    config::{
        CoreInterface, CoreNeighbor, CoreRoute, CvmAttachment, CvmConfig, Instance, LabelMode, RelayClient as ClientConfig, RelayServer,
        Role,
    },
    show::{CvmQuery, Fabric},
};
use edgeplex_transport::{
    mgmt::{MgmtError, ask},
    relay::{KeyPair, RelayClient, generate_keypair},
};
use edgeplex_types::{Label, LabelRange, MacAddr};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

pub(crate) const PE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
pub(crate) const RR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);
pub(crate) const REMOTE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// 10.0.N.1/24
pub(crate) fn interface(n: u8) -> CoreInterface {
    CoreInterface {
        name: format!("core{n}"),
        mac: MacAddr([2, 0, 0, 0, n, 1]),
        address: format!("10.0.{n}.1/24").parse().unwrap(),
        mtu: 1600,
        ospf: None,
        ldp: false,
        bfd: None,
    }
}

pub(crate) struct Site {
    /// Without one, as it is at first, a process that ends tells its neighbours.
    pub(crate) journal: Option<PathBuf>,
    pub(crate) dir: TempDir,
    pub(crate) config: CvmConfig,
    pub(crate) cvm: KeyPair,
    pub(crate) pvms: Vec<KeyPair>,
}

pub(crate) struct Running {
    pub(crate) task: JoinHandle<anyhow::Result<Exit>>,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) core: World,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        assert_eq!(timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap(), Exit::Stopped);
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let (cvm, pvms): (_, Vec<_>) = (generate_keypair().unwrap(), (0..2).map(|_| generate_keypair().unwrap()).collect());
        let label = |n| Label::try_from(n).unwrap();
        let config = CvmConfig {
            version: 1,
            name: "denver".parse().unwrap(),
            asn: 65000,
            loopback: PE,
            role: Role::Pe,
            core: vec![interface(0)],
            core_routes: vec![CoreRoute { prefix: REMOTE.into(), via: Ipv4Addr::new(10, 0, 0, 2) }],
            ospf: None,
            ldp: None,
            lsr_socket: None,
            route_reflectors: vec![CoreNeighbor { address: RR, password: None, bfd: None }],
            labels: LabelRange::new(label(1000), label(1999)).unwrap(),
            label_quarantine_s: 60,
            stale_s: 30,
            relay: RelayServer { endpoint: format!("ipc://{}/relay.sock", dir.path().display()), secret_key: cvm.secret.clone() },
            instance: Instance::default(),
            attachments: vec![],
        };
        let mut site = Self { dir, config, cvm, pvms, journal: None };
        site.attach("acme/denver-1", 0, 100);
        site
    }
    /// What a process knows outlives it.
    pub(crate) fn keep_journal(&mut self) {
        self.journal = Some(self.dir.path().join("journal"));
        self.write();
    }
    /// Another VM of the same platform.
    pub(crate) fn sibling(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let journal = self.journal.as_ref().map(|_| dir.path().join("journal"));
        let site = Self { dir, config: self.config.clone(), cvm: self.cvm.clone(), pvms: self.pvms.clone(), journal };
        site.write();
        site
    }
    pub(crate) fn attach(&mut self, id: &str, n: usize, target: u32) {
        let rt = format!("65000:{target}").parse().unwrap();
        self.config.attachments.push(CvmAttachment {
            id: id.parse().unwrap(),
            rd: format!("10.255.0.1:{n}").parse().unwrap(),
            import: vec![rt],
            export: vec![rt],
            leaks: vec![],
            label: None,
            label_mode: LabelMode::PerAttachment,
            max_paths: 1,
            relay_public_key: self.pvms[n].public.clone(),
            max_routes: None,
        });
        self.write();
    }
    pub(crate) fn write(&self) {
        std::fs::write(self.paths().config, serde_json::to_vec(&self.config).unwrap()).unwrap();
    }
    pub(crate) fn paths(&self) -> Paths {
        Paths {
            config: self.dir.path().join("config.json"),
            run: self.dir.path().into(),
            state: self.dir.path().join("state"),
            journal: self.journal.clone(),
        }
    }
    pub(crate) async fn start(&self) -> Running {
        let (io, core) = world();
        let timing = Timing { fabric_wait: Duration::from_millis(200), settle_quiet: Duration::from_millis(300), ..Timing::default() };
        let config = edgeplex_cvmd::load(&self.paths().config).unwrap();
        let origin = Origin::open(&config, &self.paths()).unwrap();
        let control = Control::start(config, self.paths(), timing, io, origin).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(control.run(async move { drop(stopped.await) }));
        Running { task, stop, core }
    }
    pub(crate) async fn ask<T: serde::de::DeserializeOwned>(&self, question: CvmQuery) -> Result<T, MgmtError> {
        let socket: PathBuf = self.dir.path().join(SOCKET);
        ask(&socket, &question, LIMIT).await
    }
    pub(crate) async fn labels_in_use(&self) -> Vec<u32> {
        let fabric: Fabric = self.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
        fabric.labels.iter().map(|l| l.label.get()).collect()
    }
    pub(crate) fn pvm(&self, n: usize, id: &str, keys: &KeyPair) -> Pvm {
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
            labels: BTreeSet::new(),
            tunnels: BTreeMap::new(),
            routes: BTreeMap::new(),
            ended: false,
        }
    }
}

/// The PE's and the reflector's addresses.
pub(crate) async fn addresses() {
    let handle = netlink();
    handle.link().change(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
    for address in [PE, RR] {
        handle.address().add(1, address.into(), 32).execute().await.unwrap();
    }
}
