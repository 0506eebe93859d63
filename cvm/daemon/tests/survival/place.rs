//! Where it happens: the core's namespace with a bridge that stands for the switch, and one namespace for each control VM.

use crate::{pvm::Pvm, router::BEHIND, vm::Vm};
use edgeplex_mgmt::{
    config::{CvmConfig, Instance, RelayClient},
    show::STALE_MS,
};
use edgeplex_transport::relay::{KeyPair, RelayClient as Client, generate_keypair};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub const LIMIT: Duration = Duration::from_secs(60);
pub const PE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
pub const CORE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// What BFD is asked for: three packets missed in a row, so far apart. A busy machine keeps FRR waiting for longer than a router
/// would be content with.
pub const BFD_MS: u32 = 1000;
/// A process that was started again has to speak within it, or BFD's detection time may be over: less a packet that was just due.
pub const AGAIN: Duration = Duration::from_millis(1500);
/// A standby has to speak within it, or its lease may be over, of which it knows by a word of its leader's that was a beat old.
pub const INSTEAD: Duration = Duration::from_millis(STALE_MS - 250);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Waits for a condition; names it when it does not come.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// All of it goes with the value.
#[derive(Debug)]
pub struct Place {
    name: String,
    dir: tempfile::TempDir,
    pub config: CvmConfig,
    cvm: KeyPair,
    pvm: KeyPair,
    daemons: Vec<Child>,
    vms: u32,
}

impl Place {
    /// The core's router stands on the bridge `lan`.
    pub fn new() -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let name = format!("cvx{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        sh(&format!("chmod 755 {0} && mkdir {0}/relay", dir.path().display()));
        let (cvm, pvm) = (generate_keypair().unwrap(), generate_keypair().unwrap());
        let config = json!({
            "version": 1, "name": "denver", "role": "pe", "asn": 65000, "loopback": PE, "core_routes": [],
            "core": [{"name": "core0", "mac": "02:00:00:00:00:01", "address": "10.0.0.1/24", "mtu": 1600, "ldp": true,
                "ospf": {"network": "point-to-point", "cost": 10, "priority": 0, "hello_s": 1, "dead_s": 4, "retransmit_s": 5},
                "bfd": {"interval_ms": BFD_MS, "multiplier": 3}}],
            "ospf": {"area": "0.0.0.0"},
            "ldp": {"labels": {"first": 500_000, "last": 500_999}, "hello_s": 5, "hold_s": 15, "keepalive_s": 60},
            "route_reflectors": [{"address": CORE, "password": "betweenus", "bfd": {"interval_ms": BFD_MS, "multiplier": 3}}],
            "labels": {"first": 1000, "last": 1999}, "label_quarantine_s": 60, "stale_s": 30,
            "relay": {"endpoint": format!("ipc://{}/relay/relay.sock", dir.path().display()), "secret_key": cvm.secret},
            "attachments": [{"id": "acme/denver-1", "rd": "65000:1", "import": ["65000:100"], "export": ["65000:100"],
                "relay_public_key": pvm.public}],
        });
        let config = serde_json::from_value(config).unwrap();
        let place = Self { name, dir, config, cvm, pvm, daemons: vec![], vms: 0 };
        let core = place.core();
        sh(&format!(
            "ip netns add {core} && ip -n {core} link set lo up && ip -n {core} addr add {CORE}/32 dev lo && ip -n {core} addr add {BEHIND}/32 dev lo &&
             ip -n {core} link add lan type bridge && ip -n {core} link set lan address 02:00:00:00:00:02 mtu 1600 &&
             ip -n {core} link add always type veth peer name idle && ip -n {core} link set idle up && ip -n {core} link set always master lan && ip -n {core} link set always up &&
             ip -n {core} addr add 10.0.0.2/24 dev lan && ip -n {core} link set lan up &&
             ip netns exec {core} ethtool -K lan tx off sg off tso off gso off gro off >/dev/null"
        ));
        place
    }

    pub fn core(&self) -> String {
        format!("{}p", self.name)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A control VM with FastForward on its wire, on a port of the bridge that leads nowhere.
    pub fn vm(&mut self, instance: Instance) -> Vm {
        self.vms += 1;
        let (core, vm, port) = (self.core(), format!("{}v{}", self.name, self.vms), format!("p{}", self.vms));
        sh(&format!(
            "ip netns add {vm} && ip -n {vm} link set lo up &&
             ip link add {port} netns {core} type veth peer name wire0 netns {vm} &&
             ip -n {core} link set {port} mtu 1600 master lan && ip -n {core} link set {port} down &&
             ip netns exec {vm} sh -c \"echo 1 > /proc/sys/net/ipv6/conf/wire0/disable_ipv6\" && ip -n {vm} link set wire0 mtu 1600 arp off &&
             ip -n {vm} link set wire0 up &&
             ip netns exec {vm} ethtool -K wire0 tx off sg off tso off gso off gro off >/dev/null &&
             ip netns exec {core} ethtool -K {port} tx off sg off tso off gso off gro off >/dev/null"
        ));
        Vm::new(vm, self.dir.path().join(format!("vm{}", self.vms)), &CvmConfig { instance, ..self.config.clone() }, port)
    }

    /// The switch leads here, and nowhere else.
    pub fn lead_to(&self, vm: &Vm) {
        let core = self.core();
        for n in 1..=self.vms {
            let port = format!("p{n}");
            sh(&format!("ip -n {core} link set {port} {}", if port == vm.port { "up" } else { "down" }));
        }
    }

    /// Starts a program at the core's router; it is killed with the place.
    pub fn start(&mut self, command: &str) {
        // What FRR leaves in /var/tmp goes with the mount namespace that `ip netns exec` makes.
        let line = format!("mount -t tmpfs tmpfs /var/tmp && exec {command}");
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.core(), "sh", "-c", &line]);
        self.daemons.push(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// The customer's port VM, as far as the control VM sees it.
    pub fn pvm(&self) -> Pvm {
        let config = RelayClient {
            endpoint: self.config.relay.endpoint.clone(),
            server_key: self.cvm.public.clone(),
            public_key: self.pvm.public.clone(),
            secret_key: self.pvm.secret.clone(),
        };
        Pvm {
            client: Client::connect(&config).unwrap(),
            id: "acme/denver-1".into(),
            incarnation: 1,
            labels: BTreeSet::new(),
            tunnels: BTreeMap::new(),
            routes: BTreeMap::new(),
            ended: false,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.core()]).status();
        for n in 1..=self.vms {
            let _ = Command::new("ip").args(["netns", "del", &format!("{}v{n}", self.name)]).status();
        }
    }
}

/// This machine took so long that the trial says nothing.
#[derive(Debug)]
pub struct TooSlow(pub String);

/// Whether somebody spoke soon enough since the last one fell silent for the trial to say something.
pub fn soon(since: Instant, limit: Duration) -> Result<Duration, TooSlow> {
    let took = since.elapsed();
    if took < limit { Ok(took) } else { Err(TooSlow(format!("{took:?} until somebody spoke again"))) }
}

/// Trials, until one says something.
const TRIALS: u32 = 5;

/// Runs a test, and again where it was too slow to say anything. What joins instances has a thread of its own: the test blocks now
/// and then.
pub fn run_in_time(test: impl AsyncFn() -> Result<(), TooSlow>) {
    run(async {
        for trial in 1..=TRIALS {
            match test().await {
                Ok(()) => return,
                Err(TooSlow(why)) => eprintln!("trial {trial} says nothing: {why}"),
            }
        }
        panic!("{TRIALS} trials say nothing: this machine is too slow");
    });
}

pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test);
}
