//! What the tests of the journal share.
#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

pub(crate) mod pump;

use edgeplex_journal::{Opened, Protocol, Record, State, TcpOpened};
use edgeplex_transport::journal::{Flow, Gate};
use std::sync::Mutex;

pub(crate) fn opened(n: u8) -> Opened {
    Opened {
        protocol: Protocol::Bgp,
        local: "192.0.2.1:179".parse().unwrap(),
        remote: format!("192.0.2.{}:40000", n + 1).parse().unwrap(),
        passive: true,
        tcp: TcpOpened { sent_base: u32::MAX - 1, received_base: 1000, mss: 1460, ..TcpOpened::default() },
    }
}

pub(crate) fn put(name: &str, value: &[u8]) -> Record {
    Record::Put { name: name.into(), value: value.into() }
}

pub(crate) fn state_of(records: &[Record]) -> State {
    let mut state = State::new(1 << 30);
    records.iter().for_each(|r| state.apply(r).unwrap());
    state
}

/// Writes down what it is told.
#[derive(Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<(Flow, What)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Upto(u32, u32),
    Fence,
    Over,
}

impl Told {
    fn push(&self, flow: Flow, what: What) {
        self.0.lock().unwrap().push((flow, what));
    }
    pub(crate) fn last(&self) -> Option<What> {
        self.0.lock().unwrap().last().map(|(_, what)| *what)
    }
}

impl Gate for Told {
    fn upto(&self, flow: Flow, seq: u32, ack: u32) {
        self.push(flow, What::Upto(seq, ack));
    }
    fn fence(&self, flow: Flow) {
        self.push(flow, What::Fence);
    }
    fn over(&self, flow: Flow) {
        self.push(flow, What::Over);
    }
}

pub(crate) mod bytes {
    use edgeplex_bgp_wire::{AsPath, Attributes, Nlri, Open, Origin, compose};
    use std::net::{IpAddr, Ipv4Addr};

    pub(crate) fn keepalive() -> Vec<u8> {
        edgeplex_bgp_wire::keepalive()
    }

    pub(crate) fn open_and_keepalive(asn: u32) -> Vec<u8> {
        [Open::new(asn, 90, Ipv4Addr::new(192, 0, 2, 1)).encode(), keepalive()].concat()
    }

    /// Prefix number `n` with MED `med`.
    pub(crate) fn update(n: u32, med: u32) -> Vec<u8> {
        let attributes = Attributes { origin: Origin::Igp, as_path: AsPath::sequence([65002]), med: Some(med), ..Attributes::default() };
        let address = Ipv4Addr::from(0x0a00_0000 + (n << 8));
        let prefix = ipnet::Ipv4Net::new(address, 24).unwrap();
        let mut out = Vec::new();
        let hop = IpAddr::from([192, 0, 2, 9]);
        compose::reach(&mut out, &compose::EncodedAttributes::new(&attributes, true), hop, &[Nlri::Unicast(prefix.into())]);
        out
    }
}
