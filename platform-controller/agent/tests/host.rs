//! A host with its agent, an Open vSwitch and VMs. `cargo test -p edgeplex-agent -- --ignored --test-threads 1` as root.

#![allow(clippy::unwrap_used)]

#[path = "../../switch/tests/common/mod.rs"]
mod ovs;
#[path = "../../runtime/tests/common/mod.rs"]
mod vms;

use edgeplex_agent::{AgentConfig, AgentRuntime, Fingerprint, Identity};
use edgeplex_runtime::{DEFAULT_IMAGE, Reach, Runtime, RuntimeError, VmId, VmKind, VmSpec, VmState};
use ovs::{Ovs, Wire, frame, ipv4};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use vms::{Host, read, wait_for};

const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);
const PE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CE: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// The programs of a VM: one that reaches for the relay, and one that sends back what its vNIC brings.
const PVMD: &str = r#"#!/usr/bin/perl
use IO::Socket::UNIX;
if (@ARGV && $ARGV[0] eq "--version") { print "pvmd 1.2.3\n"; exit }
$l = IO::Socket::UNIX->new(Local => "/run/edgeplex/mgmt.sock", Listen => 8) or die $!;
if (fork() == 0) {
    while (1) {
        if ($r = IO::Socket::UNIX->new(Peer => "/run/relay/relay.sock")) {
            print $r "hello from the vm\n";
            $line = <$r>;
            if (defined $line) { open($f, ">>", "/run/edgeplex/heard"); print $f $line; close $f; sleep 1000 }
        }
        select(undef, undef, undef, 0.05);
    }
}
while ($c = $l->accept) { $line = <$c>; print $c "asked: $line"; close $c }
"#;
/// AF_PACKET, all frames; addresses are turned round.
const FASTFORWARD: &str = r#"#!/usr/bin/perl
socket($s, 17, 3, unpack("n", pack("S", 3))) or die $!;
$ifreq = pack("a16x24", "cust"); ioctl($s, 0x8933, $ifreq) or die $!;
$index = unpack("x16i", $ifreq);
bind($s, pack("SnixxCxxxxxxxxx", 17, 3, $index, 0)) or die $!;
while (1) {
    $from = recv($s, $frame, 4096, 0); next unless defined $from;
    next if unpack("x10C", $from) == 4;
    next unless $frame =~ /EDGEPLEX/;
    send($s, substr($frame, 6, 6) . substr($frame, 0, 6) . substr($frame, 12), 0);
}
"#;

struct Lab {
    vms: Host,
    ovs: Ovs,
    /// The controller's directory.
    here: tempfile::TempDir,
    uplink: String,
    address: SocketAddr,
    agent: Option<Child>,
}

impl Lab {
    fn new(id: &str) -> Self {
        let vms = Host::new();
        for (name, text) in [("pvmd", PVMD), ("fastforward", FASTFORWARD)] {
            fs::write(vms.path().join("bin").join(name), text).unwrap();
        }
        let mut ovs = Ovs::start(id);
        let uplink = ovs.link(&format!("{id}l"));
        // Free until the agent takes it.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let here = tempfile::Builder::new().prefix("edgeplex-here-").tempdir().unwrap();
        fs::create_dir(here.path().join("relay")).unwrap();
        let mut lab = Self { vms, ovs, here, uplink, address, agent: None };
        // Its key is asked for at once, perhaps before the agent has made its directory.
        fs::create_dir(lab.dir()).unwrap();
        lab.start_agent();
        lab
    }

    fn dir(&self) -> PathBuf {
        self.vms.path().join("d")
    }

    fn start_agent(&mut self) {
        let controller = Identity::open(self.here.path()).unwrap().fingerprint().to_string();
        let (dir, bin) = (self.dir(), self.vms.path().join("bin"));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.here.path().join("agent.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgeplex-agent"));
        command.args(["--listen", &self.address.to_string(), "--controller-key", &controller, "--uplink", &self.uplink]);
        command.args(["--bridge", &self.ovs.bridge]).arg("--ovs-run-dir").arg(self.ovs.dir.path());
        command.arg("--dir").arg(dir).arg("--bin-dir").arg(bin).stdin(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    /// Ends the agent without a word.
    fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    fn agents_key(&self) -> Fingerprint {
        let mut show = Command::new(env!("CARGO_BIN_EXE_edgeplex-agent"));
        let out = show.args(["--show-key", "--dir"]).arg(self.dir()).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
    }

    fn controller(&self) -> AgentRuntime {
        let config = AgentConfig::new("far", self.address, self.agents_key(), self.here.path());
        AgentRuntime::start(config, &Identity::open(self.here.path()).unwrap()).unwrap()
    }

    fn spec(&self, id: &str, tags: [u16; 2]) -> VmSpec {
        let mut spec = self.vms.spec(id, VmKind::Pvm);
        for (nic, tag) in spec.nics.iter_mut().zip(tags) {
            nic.tag = Some(tag.try_into().unwrap());
        }
        // The controller's own: on the other host it is the one of that name there.
        spec.shared[0].host = self.here.path().join("relay");
        spec
    }

    fn rules(&self) -> Vec<String> {
        let of = format!("unix:{}/{}.mgmt", self.ovs.dir.path().display(), self.ovs.bridge);
        let out = Command::new("ovs-ofctl").args(["-O", "OpenFlow13", "--no-stats", "--sort", "dump-flows", &of]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().filter(|l| l.contains("actions")).map(str::to_owned).collect()
    }

    fn ports(&self) -> usize {
        let db = format!("--db=unix:{}/db.sock", self.ovs.dir.path().display());
        let out = Command::new("ovs-vsctl").args([&db[..], "list-ports", &self.ovs.bridge]).output().unwrap();
        String::from_utf8(out.stdout).unwrap().lines().count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill_agent();
        if std::thread::panicking() {
            eprintln!("{}", read(self.here.path().join("agent.log")));
        }
    }
}

async fn until(runtime: &AgentRuntime, want: Reach) {
    timeout(PATIENCE, runtime.reach().wait_for(|r| *r == want)).await.unwrap_or_else(|_| panic!("never {want:?}")).unwrap();
}

/// A frame through the link and the VM and back.
fn through(wire: &mut Wire, tag: u16, number: u32) {
    wire.send(&ipv4(PE, CE, &[tag], number));
    let back = wire.expect(number);
    // The kernel takes the tag off on the way to this socket; that it came by its own rule is the switch's test.
    assert_eq!(back, ipv4(CE, PE, &[], number));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, namespaces and Open vSwitch"]
async fn vms_of_another_host_are_had_as_those_at_home() {
    let mut lab = Lab::new("agh");
    let far = lab.controller();
    until(&far, Reach::Up).await;
    let images = far.images().await.unwrap();
    assert_eq!((images.len(), &images[0].name[..], &images[0].version[..]), (1, DEFAULT_IMAGE, "1.2.3"));

    let relay = UnixListener::bind(lab.here.path().join("relay/relay.sock")).unwrap();
    let spec = lab.spec("pvm-acme-denver", [100, 101]);
    let vm = far.start(&spec).await.unwrap();
    assert_eq!((vm.state, &vm.spec_hash), (VmState::Running, &spec.hash()), "or it would be made anew for ever");
    assert!(matches!(far.start(&spec).await, Err(RuntimeError::Exists(id)) if id == spec.id));
    let all = vec![vm.clone()];
    assert_eq!(far.list().await.unwrap(), all);
    assert_eq!(far.inspect(&spec.id).await.unwrap(), Some(vm.clone()));
    assert_eq!(far.inspect(&"pvm-b".parse().unwrap()).await.unwrap(), None);
    assert_eq!(far.config(&spec.id).await.unwrap().unwrap(), spec.config);
    far.rewrite_config(&spec.id, b"{\"b\":2}").await.unwrap();
    assert_eq!(far.config(&spec.id).await.unwrap().unwrap(), b"{\"b\":2}");

    // Its sockets, and the relay's.
    let mut back = String::new();
    let asking = async {
        loop {
            // Until its daemon listens.
            if let Ok(mut stream) = far.connect(&spec.id, "mgmt.sock").await {
                stream.write_all(b"how are you\n").await.unwrap();
                stream.read_to_string(&mut back).await.unwrap();
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap();
    assert_eq!(back, "asked: how are you\n");
    let error = far.connect(&spec.id, "../mgmt.sock").await.unwrap_err().to_string();
    assert!(error.starts_with("host far: "), "{error}");
    let answered = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        let (mut stream, _) = relay.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        stream.write_all(b"hello from the relay\n").unwrap();
        (line, stream)
    });
    let run = lab.dir().join("vms").join(spec.id.as_str()).join("run");
    wait_for("the relay's answer", || (read(run.join("heard")) == "hello from the relay\n").then_some(()));
    let (line, _kept) = answered.join().unwrap();
    assert_eq!(line, "hello from the vm\n");

    // Its packets.
    let mut wire = Wire::open(&format!("{}p", lab.uplink));
    through(&mut wire, 100, 1);
    wire.send(&ipv4(PE, CE, &[99], 2));
    wire.send(&frame(PE, CE, &[], 0x0800, &[], 3));
    through(&mut wire, 100, 4);
    let rules = lab.rules();
    assert_eq!(rules.len(), 4, "{rules:?}");

    // The agent goes, and nothing else does.
    lab.kill_agent();
    until(&far, Reach::Broken).await;
    through(&mut wire, 100, 5);
    assert!(matches!(far.list().await, Err(RuntimeError::Unreachable { .. })));
    lab.start_agent();
    until(&far, Reach::Up).await;
    assert_eq!(far.list().await.unwrap(), all);
    through(&mut wire, 100, 6);
    assert_eq!(lab.rules(), rules);
    // Another controller, as after a restart of it: the same.
    drop(far);
    through(&mut wire, 100, 7);
    let far = lab.controller();
    until(&far, Reach::Up).await;
    assert_eq!(far.list().await.unwrap(), all);

    // Rules that somebody takes away come again.
    let of = format!("unix:{}/{}.mgmt", lab.ovs.dir.path().display(), lab.ovs.bridge);
    ovs::run("ovs-ofctl", &["-O", "OpenFlow13", "del-flows", &of], lab.ovs.dir.path());
    wait_for("the rules", || (lab.rules() == rules).then_some(()));

    far.stop(&spec.id).await.unwrap();
    assert_eq!((lab.rules().len(), lab.ports(), far.list().await.unwrap().len()), (0, 1, 0));
    assert_eq!(lab.vms.remains(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, namespaces and Open vSwitch"]
async fn deaths_are_told_and_asked_for() {
    let mut lab = Lab::new("agd");
    let far = lab.controller();
    until(&far, Reach::Up).await;
    let specs = [lab.spec("pvm-acme-denver", [100, 101]), lab.spec("pvm-b", [102, 103])];
    for spec in &specs {
        far.start(spec).await.unwrap();
    }
    let [one, other] = &specs;
    let mut end = far.exited(&one.id);
    assert!(timeout(Duration::from_millis(200), &mut end).await.is_err());
    let vm = far.inspect(&one.id).await.unwrap().unwrap();
    let start = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(vm.pid.try_into().unwrap()), nix::sys::signal::Signal::SIGKILL).unwrap();
    timeout(SOON, &mut end).await.unwrap().unwrap();
    println!("the death of a VM on another host is known after {:?}", start.elapsed());
    assert_eq!(far.inspect(&one.id).await.unwrap().unwrap().state, VmState::Dead);
    wait_for("its rules to go", || (lab.rules().len() == 4).then_some(()));
    far.stop(&one.id).await.unwrap();

    far.freeze(&other.id).await.unwrap();
    assert_eq!(far.inspect(&other.id).await.unwrap().unwrap().state, VmState::Frozen);
    far.thaw(&other.id).await.unwrap();
    // A watch that nobody keeps costs the agent nothing; one that is cut off by the agent's end says so.
    for _ in 0..10 {
        assert!(timeout(Duration::from_millis(5), far.exited(&other.id)).await.is_err());
    }
    let watch = far.exited(&other.id);
    let cut = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        lab.kill_agent();
    };
    let (watched, ()) = tokio::join!(timeout(PATIENCE, watch), cut);
    assert!(matches!(watched.unwrap(), Err(RuntimeError::Unreachable { .. })));
    lab.start_agent();
    until(&far, Reach::Up).await;
    let start = Instant::now();
    let (watched, killed) = tokio::join!(timeout(SOON, far.exited(&other.id)), far.kill(&other.id));
    killed.unwrap();
    watched.unwrap().unwrap();
    println!("killed after {:?}", start.elapsed());
    let gone: VmId = "pvm-none".parse().unwrap();
    assert!(matches!(far.freeze(&gone).await, Err(RuntimeError::Unknown(id)) if id == gone));
    far.stop(&other.id).await.unwrap();
    far.forget(&other.id).await.unwrap();

    // What cannot be connected is not started.
    far.start(one).await.unwrap();
    let error = far.start(&lab.spec("pvm-b", [101, 103])).await.unwrap_err().to_string();
    assert!(error.contains("tag 101 is already that of a vNIC of VM pvm-acme-denver"), "{error}");
    assert!(far.start(&lab.spec("pvm-b", [103, 103])).await.unwrap_err().to_string().contains("tag 103"));
    far.stop(&one.id).await.unwrap();
    let mut bad = lab.spec("pvm-b", [102, 103]);
    bad.nics[0].tag = None;
    assert!(far.start(&bad).await.unwrap_err().to_string().contains("has no tag"));
    lab.ovs.exit("vsw.ctl");
    let error = far.start(&lab.spec("pvm-b", [102, 103])).await.unwrap_err().to_string();
    assert!(error.contains("on host far"), "{error}");
    lab.ovs.start_vswitchd();
    assert_eq!(far.list().await.unwrap(), []);
    assert_eq!(lab.vms.remains(), Vec::<String>::new());
}
