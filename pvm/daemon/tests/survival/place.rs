//! Where it happens: the customer's namespace with a bridge that stands for the switch, and one namespace for each VM.

use crate::{
    cvm::{Cvm, tunnel, vpn_route},
    vm::Vm,
};
use edgeplex_mgmt::config::{self, PvmConfig};
use edgeplex_relay::VpnOp;
use edgeplex_types::{Label, MacAddr};
use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub const LIMIT: Duration = Duration::from_secs(30);
pub const PE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub const CE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// What the customer's router is known to have, what the VPN has, and how many more the router tells now and then.
pub const SITE: &str = "10.1.0.0/16";
pub const VPN: &str = "10.2.0.0/16";
pub const MANY: usize = 12_000;

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
    /// Of the namespaces' names.
    name: String,
    pub dir: tempfile::TempDir,
    pub cvm: Cvm,
    pub config: PvmConfig,
    daemons: Vec<Child>,
    vms: u32,
}

impl Place {
    /// The customer's router stands on the bridge `lan`, which always has a port that is up: BIRD ends sessions over an interface
    /// without a carrier, and while the switch leads elsewhere the bridge would have none for a moment.
    pub fn new() -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let name = format!("pvx{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        // BIRD and FRR give up root, and look around here.
        sh(&format!("chmod 755 {}", dir.path().display()));
        let mut cvm = Cvm::new(dir.path());
        cvm.say(vec![VpnOp::OwnLabel { label: Label::try_from(1000).unwrap(), next_hop: None }, tunnel(1), vpn_route(VPN, 2000, &[65102])]);
        cvm.start();
        let bgp = config::CustomerBgp {
            neighbor: CE.into(),
            remote_as: 65101,
            password: None,
            max_prefix: Some(config::MaxPrefix { limit: 100_000, warn_percent: 80, warning_only: false, restart_s: 10 }),
            hold_time_s: 90,
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
        };
        let config = PvmConfig {
            version: 1,
            attachment: "acme/denver-1".parse().unwrap(),
            asn: 65000,
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            router_id: PE,
            addresses: vec!["192.168.1.1/29".parse().unwrap()],
            customer_mtu: 1500,
            core_mtu: 1600,
            bgp: vec![bgp],
            static_routes: vec![],
            max_paths: 4,
            relay: cvm.client(),
            instance: config::Instance::default(),
        };
        let place = Self { name, dir, cvm, config, daemons: vec![], vms: 0 };
        let ce = place.customer();
        sh(&format!(
            "ip netns add {ce} && ip -n {ce} link set lo up && ip -n {ce} link add lan type bridge &&
             ip -n {ce} link set lan address 02:00:00:00:01:02 && ip -n {ce} link add always type veth peer name idle &&
             ip -n {ce} link set idle up && ip -n {ce} link set always master lan && ip -n {ce} link set always up &&
             ip -n {ce} addr add {CE}/29 dev lan && ip -n {ce} link set lan up &&
             ip netns exec {ce} ethtool -K lan tx off sg off tso off gso off gro off >/dev/null"
        ));
        place
    }

    pub fn customer(&self) -> String {
        format!("{}ce", self.name)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A VM with FastForward in it, on a port of the bridge that leads nowhere.
    pub fn vm(&mut self, instance: config::Instance) -> Vm {
        self.vms += 1;
        let (ce, vm, port) = (self.customer(), format!("{}v{}", self.name, self.vms), format!("p{}", self.vms));
        sh(&format!(
            "ip netns add {vm} && ip -n {vm} link set lo up &&
             ip link add {port} netns {ce} type veth peer name cust netns {vm} &&
             ip link add core netns {vm} type veth peer name corex netns {vm} &&
             ip -n {ce} link set {port} master lan && ip -n {ce} link set {port} down &&
             for i in cust core corex; do
               ip netns exec {vm} sh -c \"echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6\"; ip -n {vm} link set $i mtu 1600;
               ip netns exec {vm} ethtool -K $i tx off sg off tso off gso off gro off >/dev/null;
             done &&
             ip -n {vm} link set corex up arp off &&
             ip netns exec {ce} ethtool -K {port} tx off sg off tso off gso off gro off >/dev/null"
        ));
        Vm::new(vm, self.dir.path().join(format!("vm{}", self.vms)), &PvmConfig { instance, ..self.config.clone() }, port)
    }

    /// The switch leads here, and nowhere else.
    pub fn lead_to(&self, vm: &Vm) {
        let ce = self.customer();
        for n in 1..=self.vms {
            let port = format!("p{n}");
            sh(&format!("ip -n {ce} link set {port} {}", if port == vm.port { "up" } else { "down" }));
        }
    }

    /// Starts a program at the customer's; it is killed with the place.
    pub fn start(&mut self, command: &str) {
        // What FRR leaves in /var/tmp goes with the mount namespace that `ip netns exec` makes.
        let line = format!("mount -t tmpfs tmpfs /var/tmp && exec {command}");
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.customer(), "sh", "-c", &line]);
        self.daemons.push(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.customer()]).status();
        for n in 1..=self.vms {
            let _ = Command::new("ip").args(["netns", "del", &format!("{}v{n}", self.name)]).status();
        }
    }
}

/// This machine took so long that the trial says nothing.
#[derive(Debug)]
pub struct TooSlow(pub String);

/// Trials, until one says something.
const TRIALS: u32 = 10;

/// Runs a test, and again where it was too slow to say anything.
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

/// Runs a test. The CVM and what joins instances have threads of their own: the test blocks now and then.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}
