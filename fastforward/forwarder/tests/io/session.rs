//! Sessions of real kernels through the hold, in a port VM and on a CVM's wire: what leaves, and when; and that the death of a
//! process is not heard on the wire.

use crate::vm::*;
use edgeplex_ff_fib_api::{Flow, Hold, HoldOp, Reply, Request};
use edgeplex_ff_packet::{ethernet, ipv4};
use edgeplex_ff_phy::{PacketBuf, Phy, RawSocket};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const OURS: &str = "192.168.1.1";
const THEIRS: &str = "192.168.1.2";
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// The neighbour: a network of its own behind the interface that was `ce`.
struct Neighbour(Helper);

impl Neighbour {
    fn new(vm: &Vm, mtu: u16) -> Self {
        let mut holder = Helper(
            Command::new("unshare")
                .args(["--net", "sh", "-c", "ip link set lo up; echo ready; exec cat > /dev/null"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        BufReader::new(holder.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let moved = Command::new("nsenter")
            .args(["-n", "-t", &vm.holder_id().to_string(), "ip", "link", "set", "ce", "netns", &holder.0.id().to_string()])
            .status();
        assert!(moved.unwrap().success());
        let me = Self(holder);
        me.sh(&format!(
            "ip link set ce address {CE} mtu {mtu} arp on up; ip addr add {THEIRS}/30 dev ce; ethtool -K ce tx off gso off tso off gro off >/dev/null"
        ));
        me
    }

    fn sh(&self, command: &str) -> String {
        let out = Command::new("nsenter").args(["-n", "-t", &self.0.0.id().to_string(), "sh", "-ec", command]).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// What `f` makes in the neighbour's network.
    fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let net = File::open(format!("/proc/{}/ns/net", self.0.0.id())).unwrap();
        std::thread::scope(|s| {
            s.spawn(move || {
                setns(net, CloneFlags::CLONE_NEWNET).unwrap();
                f()
            })
            .join()
            .unwrap()
        })
    }
}

/// A process that ends with the test.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A TCP segment of ours, as the neighbour sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    len: usize,
}

fn segment(frame: &[u8]) -> Option<Segment> {
    let f = ethernet::Frame::new(frame).ok()?;
    let ip = ipv4::Packet::new(f.payload()).ok().filter(|p| p.source().to_string() == OURS && p.protocol() == ipv4::TCP)?;
    let b = ip.payload();
    let word = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    Some(Segment {
        port: u16::from_be_bytes([b[0], b[1]]),
        seq: word(4),
        ack: word(8),
        flags: b[13],
        len: b.len() - usize::from(b[12] >> 4) * 4,
    })
}

/// One mode of FastForward with a neighbour before it.
struct Site {
    vm: Vm,
    neighbour: Neighbour,
    sniffer: RawSocket,
    listener: TcpListener,
    seen: Vec<Segment>,
}

impl Site {
    fn port_vm() -> Self {
        let mut vm = Vm::with("cust,ce core,p", &["--hold", "179", "--hold", "646"], 1600);
        vm.connect().program(1, []);
        vm.exec(&format!("ip addr add {OURS}/30 dev pe0 && ip link set pe0 up"));
        Self::new(vm, 1500)
    }

    fn wire() -> Self {
        let vm = wires();
        vm.exec(&format!("ip addr add {OURS}/30 dev core0 && ip link set core0 up"));
        Self::new(vm, 9216)
    }

    fn both() -> impl Iterator<Item = Self> {
        [Self::port_vm as fn() -> Self, Self::wire].into_iter().map(|make| make())
    }

    fn new(vm: Vm, mtu: u16) -> Self {
        let neighbour = Neighbour::new(&vm, mtu);
        let (sniffer, listener) = neighbour.within(|| {
            let listener = TcpListener::bind((THEIRS, 179)).unwrap();
            (RawSocket::open("ce").unwrap(), listener)
        });
        Self { vm, neighbour, sniffer, listener, seen: vec![] }
    }

    /// Everything of ours that has come to the neighbour.
    fn seen(&mut self) -> &[Segment] {
        let mut frames = vec![];
        while self.sniffer.receive(&mut frames, 1000) > 0 {}
        self.seen.extend(frames.iter().filter_map(|f| segment(f.data())));
        &self.seen
    }

    fn flow(&self, port: u16) -> Flow {
        let at = |a: &str, p| SocketAddr::new(a.parse::<IpAddr>().unwrap(), p);
        Flow { local: at(OURS, port), remote: at(THEIRS, 179) }
    }

    /// Sequence numbers of ours and of theirs behind the handshake of the connection from this port.
    fn start(&mut self, port: u16) -> (u32, u32) {
        until("the handshake", || {
            let mut of_it = self.seen().iter().filter(|s| s.port == port);
            let syn = of_it.clone().find(|s| s.flags & SYN != 0)?;
            let ack = of_it.find(|s| s.flags & SYN == 0 && s.len == 0)?;
            Some((syn.seq.wrapping_add(1), ack.ack))
        })
    }

    fn tell(&mut self, op: HoldOp) {
        self.vm.connect().done(&Request::Hold(vec![op]));
    }

    fn holds(&mut self) -> Vec<Hold> {
        let Reply::Holds { rows } = self.vm.connect().ask(&Request::Holds) else { panic!("no holds") };
        rows
    }

    fn dropped(&mut self, reason: &str) -> u64 {
        let Reply::Counters(c) = self.vm.connect().ask(&Request::Counters) else { panic!("no counters") };
        c.drops.iter().find(|d| d.0 == reason).map_or(0, |d| d.1)
    }
}

/// A CVM with two wires, made as its init makes it; `ce` stands before the first.
pub(crate) fn wires() -> Vm {
    let args = &["--wire", "core0=wire0", "--wire", "core1=wire1", "--hold", "179", "--hold", "646", "--mtu", "9216"];
    let vm = Vm::with("wire0,ce wire1,p", args, 9216);
    for nic in ["wire0", "wire1"] {
        vm.exec(&format!("cd /proc/sys/net/ipv4/conf/{nic}; echo 1 > rp_filter; echo 8 > arp_ignore"));
    }
    vm
}

/// Nothing is there to be read.
fn is_quiet(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.read(&mut [0]).is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

fn read(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn bytes_and_acknowledgements_leave_when_they_are_safe_and_not_before() {
    for mut site in Site::both() {
        let mut ours = TcpStream::connect((THEIRS, 179)).expect("the handshake passes unaided");
        let (mut theirs, remote) = site.listener.accept().unwrap();
        let (flow, (seq, ack)) = (site.flow(remote.port()), site.start(remote.port()));
        ours.write_all(b"open!").unwrap();
        assert!(is_quiet(&mut theirs), "not yet known to anybody");
        site.tell(HoldOp::Upto { flow, seq, ack });
        assert!(is_quiet(&mut theirs), "beyond the bound");
        site.tell(HoldOp::Upto { flow, seq: seq.wrapping_add(5), ack });
        assert_eq!(read(&mut theirs, 5), b"open!");

        theirs.write_all(b"their open").unwrap();
        assert_eq!(read(&mut ours, 10), b"their open");
        assert!(is_quiet(&mut theirs));
        assert!(site.seen().iter().all(|s| s.ack == ack || s.flags & SYN != 0), "what was read is not yet acknowledged: {:?}", site.seen);
        let all = ack.wrapping_add(10);
        site.tell(HoldOp::Upto { flow, seq, ack: all });
        until("the acknowledgement", || site.seen().iter().any(|s| s.ack == all).then_some(()));

        // A fence; then on as if nothing had been.
        site.tell(HoldOp::Fence { flow });
        theirs.write_all(b"unheard").unwrap();
        assert!(is_quiet(&mut ours));
        site.tell(HoldOp::Upto { flow, seq: seq.wrapping_add(7), ack: all.wrapping_add(7) });
        assert_eq!(read(&mut ours, 7), b"unheard");
        ours.write_all(b"?!").unwrap();
        assert_eq!(read(&mut theirs, 2), b"?!");
        let row = &site.holds()[0];
        assert_eq!((row.flow, row.fenced, row.seq), (flow, false, seq.wrapping_add(7)));
        assert!(row.held >= 2 && row.longest_us > 300_000, "{row:?}");

        // In order.
        site.tell(HoldOp::Over { flow });
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "a FIN");
    }
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn a_process_that_is_killed_is_silent_on_the_wire() {
    for mut site in Site::both() {
        // What it has read or not decides whether its kernel says FIN or RST.
        for unread in [false, true] {
            let script = format!("exec 3<>/dev/tcp/{THEIRS}/179; echo up; printf hello >&3; read x; exec sleep 1000");
            let process = Command::new("bash").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut process = Helper(process.unwrap());
            let (mut theirs, remote) = site.listener.accept().unwrap();
            let (flow, (seq, ack)) = (site.flow(remote.port()), site.start(remote.port()));
            site.tell(HoldOp::Upto { flow, seq: seq.wrapping_add(5), ack: ack.wrapping_add(3) });
            assert_eq!(read(&mut theirs, 5), b"hello");
            if unread {
                theirs.write_all(b"abc").unwrap();
                until("the acknowledgement", || site.seen().iter().any(|s| s.ack == ack.wrapping_add(3)).then_some(()));
            }
            let before = site.dropped("hold-end");
            process.0.kill().unwrap();
            process.0.wait().unwrap();
            if unread {
                until("its RST", || (site.dropped("hold-end") > before).then_some(()));
            } else {
                until("its FIN", || site.holds().iter().any(|h| h.flow == flow && h.waiting == 1).then_some(()));
            }
            // Its kernel goes on: repeats, and answers what the neighbour says.
            theirs.write_all(b"keepalive").unwrap();
            assert!(is_quiet(&mut theirs), "the neighbour's session stands");
            assert!(site.seen().iter().all(|s| s.port != remote.port() || s.flags & (FIN | RST) == 0), "{:?}", site.seen);
            // Nobody takes it over: now it may be heard.
            site.tell(HoldOp::Over { flow });
            theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let end = theirs.write_all(b"keepalive").and_then(|()| theirs.read(&mut [0]));
            assert!(matches!(end, Ok(0) | Err(_)) && !end.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "unread {unread}");
            drop(theirs);
        }
    }
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn what_nobody_knows_does_not_leave_after_fastforward_itself_was_started_again() {
    for mut site in Site::both() {
        let mut ours = TcpStream::connect((THEIRS, 179)).unwrap();
        let (mut theirs, remote) = site.listener.accept().unwrap();
        let (flow, (seq, ack)) = (site.flow(remote.port()), site.start(remote.port()));
        site.tell(HoldOp::Upto { flow, seq, ack });
        site.vm.kill_and_restart();
        let mut client = site.vm.connect();
        if site.vm.is_port_vm() {
            client.program(2, []);
        }
        ours.write_all(b"hello").unwrap();
        assert!(is_quiet(&mut theirs));
        let began = Instant::now();
        site.tell(HoldOp::Upto { flow, seq: seq.wrapping_add(5), ack });
        assert_eq!(read(&mut theirs, 5), b"hello");
        println!("released {:?} after it was told again", began.elapsed());
    }
}

/// As fast as a neighbour of the core ever speaks. `cargo test --release -p edgeplex-forwarder --test io -- --ignored --nocapture wire`.
#[test]
#[ignore = "needs root; lab/test runs it"]
fn a_wire_is_as_good_as_a_wire() {
    const BYTES: usize = 64 << 20;
    let mut site = Site::wire();
    let quick = site.neighbour.within(|| TcpListener::bind((THEIRS, 5000)).unwrap());
    let mut ours = TcpStream::connect((THEIRS, 5000)).unwrap();
    let (mut theirs, _) = quick.accept().unwrap();
    ours.set_nodelay(true).unwrap();
    theirs.set_nodelay(true).unwrap();

    let mut times = vec![];
    for _ in 0..500 {
        let began = Instant::now();
        ours.write_all(&[1]).unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        theirs.write_all(&[1]).unwrap();
        ours.read_exact(&mut [0]).unwrap();
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("there and back: median {:?}, 99 % {:?}", times[250], times[495]);

    for to_neighbour in [true, false] {
        let (from, to) = if to_neighbour { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
        let began = Instant::now();
        std::thread::scope(|s| {
            s.spawn(move || from.write_all(&vec![7; BYTES]).unwrap());
            let (mut left, mut chunk) = (BYTES, vec![0; 1 << 20]);
            while left > 0 {
                let n = to.read(&mut chunk).unwrap();
                assert!(n > 0 && chunk[..n].iter().all(|b| *b == 7));
                left -= n;
            }
        });
        let rate = f64::from(u32::try_from(BYTES).unwrap()) * 8.0 / 1e6 / began.elapsed().as_secs_f64();
        println!("{} the kernel: {rate:.0} Mbit/s", if to_neighbour { "from" } else { "to" });
    }
    let load = site.vm.load(Duration::from_secs(1));
    println!("idle: {:.4} % of a core, RSS {} kB", load * 100.0, site.vm.rss_kb());
    assert!(load < 0.02, "{load}");
    assert_eq!(site.dropped("hold-opaque") + site.dropped("tap-output"), 0);
    // The largest packet, unbroken; TTL 1 to a group.
    let answers = "echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts";
    site.vm.exec(&format!("{answers}; ping -c 2 -W 5 -M do -s {} {THEIRS}", 9216 - 28));
    site.neighbour.sh(&format!("{answers}; ping -c 2 -W 5 -M do -s {} {OURS}", 9216 - 28));
    site.vm.exec("ping -c 2 -W 5 -t 1 -I core0 224.0.0.1");
    site.neighbour.sh("ping -c 2 -W 5 -t 1 -I ce 224.0.0.1");
}

/// What PID 1 of a CVM does: a queue of the TAP that is switched off.
const SPARE_QUEUE: &str = r#"
    open(F, "+<", "/dev/net/tun") or die $!;
    for ([0x400454ca, 0x1102], [0x400454d9, 0x0400]) {
        my $request = pack("a16 s x22", "core0", $_->[1]);
        ioctl(F, $_->[0], $request) or die $!;
    }
    $| = 1; print "kept\n"; sleep 1000"#;

#[test]
#[ignore = "needs root; lab/test runs it"]
fn the_kernel_sees_the_wire_and_not_the_process_on_it() {
    let mut site = Site::wire();
    let mut spare = Helper(Command::new("perl").args(["-e", SPARE_QUEUE]).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(spare.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "kept\n");
    let link = |vm: &Vm| String::from_utf8(vm.exec("ip -o link show core0").stdout).unwrap();
    let before = link(&site.vm);
    assert!(before.contains("LOWER_UP") && before.contains("mtu 9216"), "{before}");
    let nic = String::from_utf8(site.vm.exec("ip -o link show wire0").stdout).unwrap();
    let mac = |text: &str| text.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).map(str::to_owned);
    assert_eq!(mac(&before), mac(&nic), "it stands for the vNIC");
    let monitor = Command::new("ip").args(["-o", "monitor", "link", "dev", "core0"]).stdout(Stdio::piped()).spawn();
    let mut monitor = Helper(monitor.unwrap());
    let events = BufReader::new(monitor.0.stdout.take().unwrap()).lines();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || events.map_while(Result::ok).try_for_each(|line| told.send(line)));
    for _ in 0..3 {
        site.vm.process.kill().unwrap();
        site.vm.process.wait().unwrap();
        assert_eq!(link(&site.vm), before, "while nobody is there");
        site.vm.kill_and_restart();
        site.vm.connect();
        assert_eq!(link(&site.vm), before);
        site.vm.exec(&format!("ping -c 1 -W 5 {THEIRS}"));
    }
    // Told is what changes nothing: queues that come and go.
    assert_eq!(heard.try_iter().filter(|line| !line.contains("LOWER_UP")).collect::<Vec<_>>(), Vec::<String>::new());
    // The wire itself, though, is seen.
    site.vm.exec("ip link set wire0 down");
    let down = heard.iter().find(|line| !line.contains("LOWER_UP"));
    assert!(down.is_some());
    until("no carrier", || (!link(&site.vm).contains("LOWER_UP")).then_some(()));
    site.vm.exec("ip link set wire0 up");
    until("the carrier", || link(&site.vm).contains("LOWER_UP").then_some(()));
    site.vm.exec(&format!("ping -c 1 -W 5 {THEIRS}"));
}
