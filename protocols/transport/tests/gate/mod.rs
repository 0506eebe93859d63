//! A gate of the simplest kind between our namespace and the neighbour's: what FastForward does for a VM. Segments of BGP and LDP wait
//! until what they tell is committed; FIN and RST of a process that died never leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

mod sockopt;

use crate::bgp_common::{PEER, PEER6, WE, WE6};
use crate::bgp_common::{Wire, sh};
use edgeplex_transport::journal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// What the speaker's process tells the gate.
#[derive(Debug)]
pub(crate) struct Tell(UnixDatagram);

impl Tell {
    pub(crate) fn new(socket: &Path) -> Arc<Self> {
        let unix = UnixDatagram::unbound().unwrap();
        unix.connect(socket).unwrap();
        Arc::new(Self(unix))
    }
}

impl journal::Gate for Tell {
    fn upto(&self, flow: journal::Flow, seq: u32, ack: u32) {
        self.0.send(format!("upto {} {} {seq} {ack}", flow.local, flow.remote).as_bytes()).unwrap();
    }
    fn fence(&self, flow: journal::Flow) {
        self.0.send(format!("fence {} {} 0 0", flow.local, flow.remote).as_bytes()).unwrap();
    }
    fn over(&self, flow: journal::Flow) {
        self.0.send(format!("over {} {} 0 0", flow.local, flow.remote).as_bytes()).unwrap();
    }
}

type Flow = (SocketAddr, SocketAddr);

struct Segment {
    flow: Flow,
    flags: u8,
    ack: u32,
    seq: u32,
    /// Sequence number behind the data.
    end: u32,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// The BGP or LDP segment in an Ethernet frame.
fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(14..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [8, 0] if packet.get(9) == Some(&6) => {
            let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            let header = usize::from(packet[0] & 15) * 4;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?).into());
            (address(12)?, address(16)?, packet.get(header..total)?)
        }
        [0x86, 0xdd] if packet.get(6) == Some(&6) => {
            let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?).into());
            (address(8)?, address(24)?, packet.get(40..40 + length)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let number = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let (source, destination) = (port(0)?, port(2)?);
    let data = tcp.len() - usize::from(tcp.get(12)? >> 4) * 4;
    let flow = (SocketAddr::new(from, source), SocketAddr::new(to, destination));
    let seq = number(4)?;
    let segment = Segment { flow, flags: *tcp.get(13)?, ack: number(8)?, seq, end: seq.wrapping_add(data as u32) };
    [179, 646].iter().any(|port| source == *port || destination == *port).then_some(segment)
}

/// RFC 1982
fn at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

#[derive(Default)]
struct State {
    bounds: HashMap<Flow, (u32, u32)>,
    fenced: HashSet<Flow>,
    over: HashSet<Flow>,
    held: Vec<(Flow, Vec<u8>)>,
}

enum Verdict {
    Pass,
    Hold,
    Drop,
}

impl State {
    fn judge(&self, s: &Segment) -> Verdict {
        if self.over.contains(&s.flow) {
            return Verdict::Pass;
        }
        if self.fenced.contains(&s.flow) || s.flags & (FIN | RST) != 0 && s.flags & SYN == 0 && s.seq != 0 {
            return Verdict::Drop;
        }
        match self.bounds.get(&s.flow) {
            // A handshake: SYN, or an acknowledgement without data.
            None if s.flags & SYN != 0 || s.end == s.seq => Verdict::Pass,
            Some((seq, ack)) if at_most(s.end, *seq) && at_most(s.ack, *ack) => Verdict::Pass,
            _ => Verdict::Hold,
        }
    }

    fn told(&mut self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let flow: Flow = (words[1].parse().unwrap(), words[2].parse().unwrap());
        match words[0] {
            "upto" => {
                self.fenced.remove(&flow);
                self.over.remove(&flow);
                self.bounds.insert(flow, (words[3].parse().unwrap(), words[4].parse().unwrap()));
            }
            "fence" => drop(self.fenced.insert(flow)),
            _ => {
                self.over.insert(flow);
                self.bounds.remove(&flow);
            }
        }
    }
}

/// Segments held, and FIN or RST that were kept from leaving.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) held: AtomicU64,
    pub(crate) silenced: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) counts: Arc<Counts>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gate {
    /// Puts itself between the two ends of the wire, with the same addresses.
    pub(crate) fn between(wire: &Wire) -> Self {
        let (ours, theirs) = (&wire.ours, &wire.theirs);
        sh(&format!("ip -n {ours} link del v0"));
        let tap = |namespace: &str| {
            let file = File::open(format!("/run/netns/{namespace}")).unwrap();
            let thread = std::thread::spawn(|| {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                sockopt::tap("v0").unwrap()
            });
            thread.join().unwrap()
        };
        let (left, right) = (tap(ours), tap(theirs));
        for (namespace, v4, v6) in [(ours, WE, WE6), (theirs, PEER, PEER6)] {
            sh(&format!(
                "ip -n {namespace} addr add {v4}/24 dev v0 && ip -n {namespace} addr add {v6}/64 dev v0 nodad && ip -n {namespace} link set v0 up"
            ));
        }
        let socket = wire.path().join("gate.sock");
        let orders = UnixDatagram::bind(&socket).unwrap();
        orders.set_nonblocking(true).unwrap();
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        Self { counts, thread: Some(std::thread::spawn(move || relay(left, right, &orders, &counted))) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn relay(mut left: File, mut right: File, orders: &UnixDatagram, counts: &Counts) {
    let mut state = State::default();
    let mut buffer = vec![0; 70_000];
    while !counts.stop.load(Ordering::Relaxed) {
        let mut fds = [left.as_fd(), right.as_fd(), orders.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::from(50u8)).unwrap();
        // Orders first: what they allow may be among what comes.
        let mut moved = false;
        while let Ok(n) = orders.recv(&mut buffer) {
            state.told(std::str::from_utf8(&buffer[..n]).unwrap());
            moved = true;
        }
        if moved {
            for (flow, frame) in std::mem::take(&mut state.held) {
                pass(&mut state, counts, flow, frame, &mut right);
            }
        }
        while let Ok(n) = right.read(&mut buffer) {
            // A fence holds both ways. A full interface drops, as networks do.
            let fenced = segment(&buffer[..n]).is_some_and(|s| state.fenced.contains(&(s.flow.1, s.flow.0)));
            if !fenced {
                let _ = left.write(&buffer[..n]);
            }
        }
        while let Ok(n) = left.read(&mut buffer) {
            match segment(&buffer[..n]) {
                Some(s) => pass(&mut state, counts, s.flow, buffer[..n].to_vec(), &mut right),
                None => drop(right.write(&buffer[..n])),
            }
        }
    }
}

fn pass(state: &mut State, counts: &Counts, flow: Flow, frame: Vec<u8>, right: &mut File) {
    let s = segment(&frame).unwrap();
    match state.judge(&s) {
        Verdict::Pass => drop(right.write(&frame)),
        Verdict::Hold => {
            counts.held.fetch_add(1, Ordering::Relaxed);
            state.held.push((flow, frame));
        }
        Verdict::Drop => {
            counts.silenced.fetch_add(1, Ordering::Relaxed);
        }
    }
}
