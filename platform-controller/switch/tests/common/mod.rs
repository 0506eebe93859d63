//! An Open vSwitch of a test's own, and the ends of its wires.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt},
};
use std::{
    collections::VecDeque,
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// An Open vSwitch with a bridge and some veth pairs, gone with this value.
pub struct Ovs {
    /// A bridge's own port is a TAP of that name in this namespace: each test has another.
    pub bridge: String,
    pub dir: tempfile::TempDir,
    pub links: Vec<String>,
}

pub fn run(program: &str, args: &[&str], dir: &Path) {
    let mut c = Command::new(program);
    for var in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR"] {
        c.env(var, dir);
    }
    let out = c.args(args).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Ovs {
    pub fn start(tag: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("edgeplex-ovs-").tempdir().unwrap();
        let ovs = Self { bridge: format!("{tag}{:x}", std::process::id()), dir, links: vec![] };
        let d = ovs.dir.path();
        let at = |f: &str| d.join(f).display().to_string();
        let sock = format!("unix:{}", at("db.sock"));
        run("ovsdb-tool", &["create", &at("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema"], d);
        let (remote, pid, log) =
            (format!("--remote=p{sock}"), format!("--pidfile={}", at("ovsdb.pid")), format!("--log-file={}", at("db.log")));
        run("ovsdb-server", &[&at("conf.db"), &remote, &pid, &log, "--detach", "--no-chdir", &format!("--unixctl={}", at("db.ctl"))], d);
        run("ovs-vsctl", &["--no-wait", &format!("--db={sock}"), "init"], d);
        ovs.start_vswitchd();
        let add =
            ["add-br", &ovs.bridge, "--", "set", "bridge", &ovs.bridge, "datapath_type=netdev", "protocols=OpenFlow13", "fail_mode=secure"];
        run("ovs-vsctl", &[&[&format!("--db={sock}")[..], "--timeout=10"][..], &add].concat(), d);
        ovs
    }

    pub fn start_vswitchd(&self) {
        let d = self.dir.path();
        let at = |f: &str| d.join(f).display().to_string();
        let (sock, pid, log) =
            (format!("unix:{}", at("db.sock")), format!("--pidfile={}", at("vsw.pid")), format!("--log-file={}", at("vsw.log")));
        run("ovs-vswitchd", &[&sock, &pid, &log, "--detach", "--no-chdir", &format!("--unixctl={}", at("vsw.ctl"))], d);
    }

    pub fn exit(&self, ctl: &str) {
        let ctl = self.dir.path().join(ctl).display().to_string();
        let _ = Command::new("ovs-appctl").args(["-t", &ctl, "exit"]).output();
    }

    /// Another bridge of the same.
    pub fn add_bridge(&self, tag: &str) -> String {
        let name = format!("{tag}{:x}", std::process::id());
        let db = format!("--db=unix:{}/db.sock", self.dir.path().display());
        let add = ["add-br", &name, "--", "set", "bridge", &name, "datapath_type=netdev", "protocols=OpenFlow13", "fail_mode=secure"];
        run("ovs-vsctl", &[&[&db[..], "--timeout=10"][..], &add].concat(), self.dir.path());
        name
    }

    /// A veth pair; the other end has a `p` after its name.
    pub fn link(&mut self, tag: &str) -> String {
        let name = format!("{tag}{:x}", std::process::id());
        let peer = format!("{name}p");
        run("ip", &["link", "add", &name, "type", "veth", "peer", "name", &peer], self.dir.path());
        self.links.push(name.clone());
        for end in [&name, &peer] {
            // The kernel has nothing to say here.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
            run("ip", &["link", "set", end, "up"], self.dir.path());
        }
        name
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        self.exit("vsw.ctl");
        self.exit("db.ctl");
        for l in &self.links {
            let _ = Command::new("ip").args(["link", "del", l]).output();
        }
    }
}

/// The test's end of a wire.
pub struct Wire {
    fd: OwnedFd,
    seen: VecDeque<Vec<u8>>,
}

/// What distinguishes the test's frames from all others.
const MARK: &[u8] = b"EDGEPLEX";
const PATIENCE: Duration = Duration::from_secs(5);

impl Wire {
    /// All frames of the interface, and the way to send some.
    pub fn open(interface: &str) -> Self {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
        let own = |a: &nix::ifaddrs::InterfaceAddress| a.interface_name == interface;
        let address: LinkAddr =
            getifaddrs().unwrap().filter(own).find_map(|a| a.address.as_ref().and_then(|a| a.as_link_addr().copied())).unwrap();
        bind(fd.as_raw_fd(), &address).unwrap();
        setsockopt(&fd, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        setsockopt(&fd, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(0, 20_000)).unwrap();
        Self { fd, seen: VecDeque::new() }
    }

    pub fn send(&self, frame: &[u8]) {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    /// The next of the test's frames that came from the other end, if one comes soon.
    pub fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        loop {
            let n = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
            if buffer[..n].windows(MARK.len()).any(|w| w == MARK) {
                return Some(buffer[..n].to_vec());
            }
        }
    }

    /// Waits until a frame ends with this number; it must be the next one, for frames of one sender do not overtake each other.
    pub fn expect(&mut self, number: u32) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(frame) = self.next() {
                assert_eq!(number_of(&frame), number, "another frame came first");
                return frame;
            }
        }
        panic!("frame {number} did not come");
    }
}

pub fn number_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(*frame.last_chunk().unwrap())
}

/// A frame of the test: tags from the outermost, what follows, and its number.
pub fn frame(dst: [u8; 6], src: [u8; 6], tags: &[u16], kind: u16, body: &[u8], number: u32) -> Vec<u8> {
    let mut out = [dst, src].concat();
    for t in tags {
        out.extend([0x81, 0, (t >> 8).to_be_bytes()[1], t.to_be_bytes()[1]]);
    }
    out.extend(kind.to_be_bytes());
    out.extend(body);
    out.extend(MARK);
    // A switch may pad a frame to 60 bytes, never one that has them.
    out.resize(out.len() + 40, 0);
    out.extend(number.to_be_bytes());
    out
}

/// An IPv4 packet of protocol 253 (for experiments, RFC 3692).
pub fn ipv4(dst: [u8; 6], src: [u8; 6], tags: &[u16], number: u32) -> Vec<u8> {
    let length = 20 + 8 + 40 + 4;
    let header = [0x45, 0, 0, length, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    frame(dst, src, tags, 0x0800, &header, number)
}

/// A packet with that label at the bottom of the stack.
pub fn mpls(dst: [u8; 6], src: [u8; 6], tags: &[u16], label: u32, number: u32) -> Vec<u8> {
    frame(dst, src, tags, 0x8847, &(label << 12 | 0x100 | 64).to_be_bytes(), number)
}
