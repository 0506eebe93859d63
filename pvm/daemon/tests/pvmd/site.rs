//! The place where pvmd runs in a test: a namespace, a directory, and everyone around it.

use crate::{cvm::Cvm, forward::Forward};
use edgeplex_mgmt::{
    config::{self, PvmConfig},
    show,
};
use edgeplex_pvmd::{Options, Ports, Pvmd};
use edgeplex_transport::mgmt::ask;
use edgeplex_types::MacAddr;
use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio::{sync::oneshot, task::JoinHandle};

pub const LIMIT: Duration = Duration::from_secs(20);

/// Waits for a condition; names it when it does not come.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

/// Addresses of the attachment: the PE's, two routers of IPv4, one of IPv6.
pub const PE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub const CE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
pub const CE2: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 3);
pub const PE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub const CE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// High, so that nobody's real session is in the way.
const PE_PORT: u16 = 10179;
pub const CE_PORT: u16 = 20179;

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
            for address in [PE, CE, CE2] {
                handle.address().add(1, address.into(), 29).execute().await.unwrap();
            }
            for address in [PE6, CE6] {
                let mut add = handle.address().add(1, address.into(), 64);
                add.message_mut().header.flags |= rtnetlink::packet_route::address::AddressHeaderFlags::Nodad;
                add.execute().await.unwrap();
            }
            test.await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A neighbour with nothing optional but a limit.
pub fn neighbor(address: impl Into<IpAddr>, remote_as: u32) -> config::CustomerBgp {
    let limit = config::MaxPrefix { limit: 1000, warn_percent: 80, warning_only: false, restart_s: 10 };
    config::CustomerBgp {
        neighbor: address.into(),
        remote_as,
        password: None,
        max_prefix: Some(limit),
        hold_time_s: 30,
        shutdown: None,
        ttl_security_hops: None,
        role: None,
        bfd: None,
        as_override: false,
        allow_as_in: 0,
        remove_private_as: false,
        site_of_origin: None,
        default_originate: false,
        import: vec![],
        export: vec![],
    }
}

#[derive(Debug)]
pub struct Site {
    pub dir: tempfile::TempDir,
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
        let cvm = Cvm::new(dir.path());
        let forward = Forward::start(&dir.path().join("fib.sock"));
        let config = PvmConfig {
            version: 1,
            attachment: "acme/denver-1".parse().unwrap(),
            asn: 65000,
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            router_id: PE,
            addresses: vec!["192.168.1.1/29".parse().unwrap()],
            customer_mtu: 1500,
            core_mtu: 1600,
            bgp: if bgp { vec![neighbor(CE, 65101)] } else { vec![] },
            static_routes: vec![config::StaticRoute { prefix: "10.9.0.0/16".parse().unwrap(), via: CE.into(), bfd: None }],
            max_paths: 4,
            relay: cvm.client(),
            instance: config::Instance::default(),
        };
        let site = Self { dir, config, forward, cvm };
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
        self.pvmd_with(None)
    }

    /// With a journal in this directory of the site's.
    pub fn pvmd_with(&self, journal: Option<&str>) -> Running {
        let journal = journal.map(|name| {
            let dir = self.dir.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        });
        let listen = vec![SocketAddr::new(PE.into(), PE_PORT), SocketAddr::new(PE6.into(), PE_PORT)];
        let ports = Ports { listen, neighbor: CE_PORT };
        let pvmd = Pvmd::new(Options { config: self.file(), run: self.dir.path().to_owned(), journal, tap: None, ports }).unwrap();
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

    /// Writes the configuration and has pvmd take it.
    pub async fn reload(&self) {
        self.write();
        let _: show::Reloaded = self.ask(show::PvmQuery::Reload).await.unwrap();
    }

    pub async fn order(&self, order: show::InstanceOrder) -> Result<show::InstanceStatus, String> {
        self.ask(show::PvmQuery::Instance(order)).await
    }

    pub async fn status(&self) -> show::PvmStatus {
        self.ask(show::PvmQuery::Status).await.unwrap()
    }
}
