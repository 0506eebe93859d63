//! A port VM, or the VM of a label-switching router, as FastForward finds it, made of a user, network and mount namespace: uid 0 is not the host's, there are
//! no hugepages, /sys is empty and /run read-only. Everything ends with the value.

use edgeplex_ff_fib_api::{FibOp, Interface, Leg, Reply, Request, Target, Tunnel, VERSION, VpnPath, encode_request};
use edgeplex_ff_phy::{PacketBuf, Phy, RawSocket, VecBuf};
use edgeplex_types::wire::Deframer;
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PE: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub(crate) const CE: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
pub(crate) const PE_CORE: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
pub(crate) const FAR_PE: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
pub(crate) const OWN_LABEL: u32 = 1000;
pub(crate) const FAR_LABEL: u32 = 2001;

const PREPARE: &str = "set -e
for pair in $PAIRS; do
  ip link add ${pair%,*} type veth peer name ${pair#*,}
  for i in ${pair%,*} ${pair#*,}; do
    echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6
    ip link set $i mtu $MTU
  done
  ip link set ${pair#*,} up arp off
done
mount -t tmpfs none /sys
mount -t tmpfs -o ro none /run
echo ready
exec cat > /dev/null";

#[derive(Debug)]
pub(crate) struct Vm {
    holder: Child,
    pub(crate) process: Child,
    dir: tempfile::TempDir,
    args: &'static [&'static str],
    pub(crate) ce: RawSocket,
    pub(crate) p: RawSocket,
}

impl Vm {
    /// Starts FastForward in a new VM. The calling thread moves into the VM's network.
    pub(crate) fn start() -> Self {
        Self::with("cust,ce core,p", &[], 1600)
    }

    /// A label-switching router; `ce` stands before its port 0, `p` before port 1.
    pub(crate) fn switch() -> Self {
        Self::with("core0,ce core1,p", &["--lsr", "core0", "--lsr", "core1", "--mtu", "1600"], 1600)
    }

    /// FastForward with these arguments; `pairs` are its interfaces, each with what stands before it: `ce`, `p`.
    pub(crate) fn with(pairs: &str, args: &'static [&'static str], mtu: u16) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", PREPARE])
            .env("PAIRS", pairs)
            .env("MTU", mtu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "preparing the VM");
        let net = std::fs::File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        setns(net, CloneFlags::CLONE_NEWNET).expect("entering the VM's network; this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let process = Self::launch(&holder, &dir, args);
        let (ce, p) = (RawSocket::open("ce").unwrap(), RawSocket::open("p").unwrap());
        let mut vm = Self { holder, process, dir, args, ce, p };
        vm.connect();
        vm
    }

    fn enter(holder: &Child) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["--preserve-credentials", "-U", "-n", "-m", "-t", &holder.id().to_string()]);
        c
    }

    fn launch(holder: &Child, dir: &tempfile::TempDir, args: &[&str]) -> Child {
        let program = env!("CARGO_BIN_EXE_fastforward");
        Self::enter(holder).arg(program).arg("--socket").arg(dir.path().join("fib.sock")).args(args).spawn().unwrap()
    }

    /// Process that keeps the namespaces.
    pub(crate) fn holder_id(&self) -> u32 {
        self.holder.id()
    }

    /// Whether it has a customer, and not only wires.
    pub(crate) fn is_port_vm(&self) -> bool {
        !self.args.iter().any(|a| matches!(*a, "--wire" | "--lsr"))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("fib.sock")
    }

    /// Runs a command in the VM, which must succeed.
    pub(crate) fn exec(&self, command: &str) -> Output {
        let out = Self::enter(&self.holder).args(["sh", "-c", command]).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        out
    }

    /// A control connection, as soon as FastForward accepts one.
    pub(crate) fn connect(&mut self) -> Client {
        let stream = until("fib.sock", || {
            assert_eq!(self.process.try_wait().unwrap(), None, "fastforward ended");
            UnixStream::connect(self.socket()).ok()
        });
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, input: Deframer::default() }
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::launch(&self.holder, &self.dir, self.args);
    }

    pub(crate) fn signal(&self, s: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), s).unwrap();
    }

    /// CPU time of all threads so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let ns = tasks.map(|t| {
            let s = std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap();
            s.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(ns.sum())
    }

    /// Share of one core that FastForward uses during `span`.
    pub(crate) fn load(&self, span: Duration) -> f64 {
        let (before, began) = (self.cpu_time(), Instant::now());
        // The passing of time is what is measured here.
        std::thread::sleep(span);
        (self.cpu_time() - before).as_secs_f64() / began.elapsed().as_secs_f64()
    }

    pub(crate) fn rss_kb(&self) -> u64 {
        let s = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = s.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    input: Deframer,
}

impl Client {
    pub(crate) fn send(&mut self, r: &Request) {
        self.stream.write_all(&encode_request(r).unwrap()).unwrap();
    }

    pub(crate) fn reply(&mut self) -> Reply {
        let mut b = [0; 65536];
        loop {
            if let Some(r) = self.input.next(VERSION).unwrap() {
                return r;
            }
            let n = self.stream.read(&mut b).expect("a reply");
            assert!(n > 0, "fastforward hung up");
            self.input.push(&b[..n]);
        }
    }

    pub(crate) fn ask(&mut self, r: &Request) -> Reply {
        self.send(r);
        self.reply()
    }

    pub(crate) fn done(&mut self, r: &Request) {
        let began = Instant::now();
        assert_eq!(self.ask(r), Reply::Done, "{r:?}");
        let kind = match r {
            Request::Program { .. } => "program",
            Request::End { .. } => "end",
            _ => "other",
        };
        if began.elapsed() > Duration::from_millis(20) {
            eprintln!("{kind} took {:?}", began.elapsed());
        }
    }

    /// One attachment: subnet 192.168.1.0/30, 10.1/16 behind the CE, 10.2/16 behind the core.
    pub(crate) fn program(&mut self, epoch: u64, more: impl IntoIterator<Item = Vec<FibOp>>) {
        let epoch = Epoch(epoch);
        let route = |p: &str, target| FibOp::Route { prefix: p.parse().unwrap(), target };
        let label = |n: u32| Label::try_from(n).unwrap();
        let id = TunnelId(1);
        self.done(&Request::Begin { epoch });
        let ops = vec![
            FibOp::Interface(Interface { mac: PE, addresses: vec!["192.168.1.1/30".parse().unwrap()], customer_mtu: 1500, core_mtu: 1600 }),
            FibOp::OwnLabel { label: label(OWN_LABEL), next_hop: None },
            FibOp::Tunnel(Tunnel {
                id,
                endpoint: "10.255.0.2".parse().unwrap(),
                legs: vec![Leg { port: 0, transport: vec![], source_mac: PE_CORE, destination_mac: FAR_PE }],
            }),
            route("10.2.0.0/16", Target::Vpn { paths: vec![VpnPath { label: label(FAR_LABEL), tunnel: id }], backup: vec![] }),
            route("10.1.0.0/16", Target::Customer { next_hop: "192.168.1.2".parse().unwrap() }),
            route("192.168.1.0/30", Target::Connected),
            route("192.168.1.1/32", Target::Local),
        ];
        self.done(&Request::Program { epoch, ops });
        for ops in more {
            self.done(&Request::Program { epoch, ops });
        }
        self.done(&Request::End { epoch });
    }
}

/// Tries until it succeeds; the test fails after a generous while.
pub(crate) fn until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn send(port: &mut RawSocket, frame: &[u8]) {
    let before = port.dropped();
    port.transmit(&mut vec![VecBuf::from_bytes(frame)]);
    assert_eq!(port.dropped(), before, "the test's own frame was not sent");
}

/// The next frame for which `f` finds something; others are ignored.
pub(crate) fn receive<T>(port: &mut RawSocket, what: &str, mut f: impl FnMut(&[u8]) -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(10);
    let mut frames = vec![];
    while Instant::now() < give_up {
        if port.receive(&mut frames, 1) == 0 {
            port.wait(100);
        }
        if let Some(v) = frames.pop().and_then(|b| f(b.data())) {
            return v;
        }
    }
    panic!("waited in vain for {what}");
}
