//! One neighbour: how it is heard, its session, what it told us and what it holds of ours.

use crate::fsm::{Session, State};
use crate::packet::Message;
use crate::{NeighborView, Time};
use edgeplex_types::{Label, NextHop};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

/// Pause after a failed connection, doubled up to [`RETRY_LAST`].
const RETRY: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(15);
/// RFC 5036 §2.5.3: pause after a refused Initialization, doubled up to [`REFUSED_LAST`].
const REFUSED: Duration = Duration::from_secs(15);
const REFUSED_LAST: Duration = Duration::from_secs(120);

/// Hellos of a neighbour on one interface.
#[derive(Debug)]
pub(crate) struct Adjacency {
    pub(crate) source: Ipv4Addr,
    /// Agreed on; `None`: for ever.
    pub(crate) hold: Option<Duration>,
    pub(crate) expires: Option<Time>,
    pub(crate) sequence: Option<u32>,
    /// A Hello of ours has followed its first, or the first after a session was lost.
    pub(crate) greeted: bool,
}

/// A label that the neighbour gave us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) label: Label,
    pub(crate) stale: bool,
}

/// A label that we gave the neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) label: Label,
    /// `false`: it released the label by itself and is not told again.
    pub(crate) held: bool,
}

#[derive(Debug)]
pub(crate) struct Neighbor {
    pub(crate) lsr_id: Ipv4Addr,
    pub(crate) transport: Ipv4Addr,
    pub(crate) gtsm: bool,
    pub(crate) adjacencies: BTreeMap<Arc<str>, Adjacency>,
    pub(crate) session: Option<Session>,
    /// When to connect again.
    pub(crate) retry_at: Option<Time>,
    failures: u32,
    refusals: u32,

    pub(crate) addresses: BTreeSet<Ipv4Addr>,
    pub(crate) remote: BTreeMap<Ipv4Net, Remote>,
    /// Addresses of the session before, until they are confirmed.
    pub(crate) stale_addresses: BTreeSet<Ipv4Addr>,
    /// What is stale goes then.
    pub(crate) stale_until: Option<Time>,
    /// Mappings that were not kept because there were too many.
    pub(crate) refused: u64,

    pub(crate) sent: BTreeMap<Ipv4Net, Sent>,
    /// Withdrawn and not yet released.
    pub(crate) withdrawn: BTreeSet<(Ipv4Net, Label)>,
    /// Its requests that wait for a label, and their message identifiers.
    pub(crate) requests: BTreeMap<Ipv4Net, u32>,

    pub(crate) messages_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) resets: u64,
    pub(crate) last_error: Option<String>,
}

impl Neighbor {
    pub(crate) fn new(lsr_id: Ipv4Addr, transport: Ipv4Addr) -> Self {
        Self {
            lsr_id,
            transport,
            gtsm: false,
            adjacencies: BTreeMap::new(),
            session: None,
            retry_at: None,
            failures: 0,
            refusals: 0,
            addresses: BTreeSet::new(),
            remote: BTreeMap::new(),
            stale_addresses: BTreeSet::new(),
            stale_until: None,
            refused: 0,
            sent: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            requests: BTreeMap::new(),
            messages_received: 0,
            messages_sent: 0,
            resets: 0,
            last_error: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_up)
    }

    pub(crate) fn interfaces(&self) -> Vec<Arc<str>> {
        self.adjacencies.keys().cloned().collect()
    }

    pub(crate) fn send(&mut self, message: &Message) {
        if let Some(session) = self.session.as_mut().filter(|s| !s.muted) {
            session.push(message);
            self.messages_sent += 1;
        }
    }

    /// The neighbour is behind this next hop, for all we know: it is heard at that address, or it is heard on that interface and has
    /// told us the address (RFC 5036 §2.7). One that is restarting is not heard.
    pub(crate) fn is_at(&self, hop: &NextHop) -> bool {
        match self.adjacencies.get(&hop.interface) {
            Some(adjacency) => adjacency.source == hop.address || self.knows(hop.address),
            None => self.stale_until.is_some() && self.knows(hop.address),
        }
    }

    fn knows(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&address) || self.stale_addresses.contains(&address)
    }

    /// A connection failed, or our parameters were refused: the pause grows.
    pub(crate) fn failed(&mut self, now: Time, refused: bool) {
        let grown = |first: Duration, last: Duration, times: u32| (first * 2u32.pow(times.min(10))).min(last);
        let pause = if refused {
            self.refusals = self.refusals.saturating_add(1);
            grown(REFUSED, REFUSED_LAST, self.refusals - 1)
        } else {
            self.failures = self.failures.saturating_add(1);
            grown(RETRY, RETRY_LAST, self.failures - 1)
        };
        self.retry_at = Some(now + pause);
    }

    /// Something has changed, or went well: the next attempt is made at once.
    pub(crate) fn forgive(&mut self) {
        (self.failures, self.refusals, self.retry_at) = (0, 0, None);
    }

    /// What has not been confirmed goes; gives the FECs that it concerned.
    pub(crate) fn sweep(&mut self) -> Vec<Ipv4Net> {
        self.stale_until = None;
        self.stale_addresses.clear();
        let gone: Vec<_> = self.remote.iter().filter(|(_, r)| r.stale).map(|(fec, _)| *fec).collect();
        self.remote.retain(|_, r| !r.stale);
        gone
    }

    pub(crate) fn view(&self, now: Time) -> NeighborView {
        let session = self.session.as_ref();
        NeighborView {
            lsr_id: self.lsr_id,
            transport_address: self.transport,
            state: session.map_or(State::NonExistent, |s| s.state),
            up: session.and_then(|s| s.up_since).map(|since| now.saturating_sub(since)),
            interfaces: self.interfaces(),
            hold: self.adjacencies.values().filter_map(|a| a.hold).min().unwrap_or_default(),
            keepalive_s: session.map_or(0, |s| s.keepalive_s),
            labels_received: self.remote.len(),
            labels_sent: self.sent.values().filter(|s| s.held).count(),
            messages_received: self.messages_received,
            messages_sent: self.messages_sent,
            resets: self.resets,
            last_error: self.last_error.clone(),
            stale: self.stale_until.is_some(),
        }
    }
}
