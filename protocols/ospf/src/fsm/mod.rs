//! Interfaces and neighbours: what is held of each, and their states (RFC 2328 §9 and §10).

mod election;
mod exchange;
mod hello;

use crate::db::Db;
use crate::packet::{DatabaseDescription, LsaHeader, LsaKey, RouterLink};
use crate::{InterfaceConfig, Network, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

/// RFC 2328 §9.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InterfaceState {
    Down,
    /// Announced, nothing else.
    Passive,
    Waiting,
    PointToPoint,
    DrOther,
    Backup,
    Dr,
}

impl InterfaceState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Passive => "passive",
            Self::Waiting => "waiting",
            Self::PointToPoint => "point-to-point",
            Self::DrOther => "dr-other",
            Self::Backup => "backup",
            Self::Dr => "dr",
        }
    }

    /// Packets are sent and taken.
    pub(crate) fn is_active(self) -> bool {
        !matches!(self, Self::Down | Self::Passive)
    }
}

/// RFC 2328 §10.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NeighborState {
    Down,
    Init,
    TwoWay,
    ExStart,
    Exchange,
    Loading,
    Full,
}

impl NeighborState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Init => "init",
            Self::TwoWay => "2-way",
            Self::ExStart => "ex-start",
            Self::Exchange => "exchange",
            Self::Loading => "loading",
            Self::Full => "full",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) config: InterfaceConfig,
    pub(crate) state: InterfaceState,
    /// The caller says that it carries packets.
    pub(crate) carrier: bool,
    /// Addresses on the segment; 0.0.0.0 for none.
    pub(crate) designated: Ipv4Addr,
    pub(crate) backup: Ipv4Addr,
    pub(crate) hello_at: Option<Time>,
    pub(crate) hello_sent: Option<Time>,
    pub(crate) wait_until: Option<Time>,
    /// Something happened that calls for an election (NeighborChange).
    pub(crate) elect: bool,
    /// By address on the segment.
    pub(crate) neighbors: BTreeMap<Ipv4Addr, Neighbor>,
    /// LSAs that do not leave the link (LS type 9).
    pub(crate) db: Db,
    /// To be flooded out of here before the event is over.
    pub(crate) flood: BTreeSet<LsaKey>,
    pub(crate) acknowledge: Vec<LsaHeader>,
    pub(crate) acknowledge_at: Option<Time>,
    /// LDP is not ready there: announced at the highest cost (RFC 5443).
    pub(crate) max_cost: bool,
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

impl Interface {
    pub(crate) fn new(config: InterfaceConfig) -> Self {
        Self {
            config,
            state: InterfaceState::Down,
            carrier: false,
            designated: Ipv4Addr::UNSPECIFIED,
            backup: Ipv4Addr::UNSPECIFIED,
            hello_at: None,
            hello_sent: None,
            wait_until: None,
            elect: false,
            neighbors: BTreeMap::new(),
            db: Db::default(),
            flood: BTreeSet::new(),
            acknowledge: vec![],
            acknowledge_at: None,
            max_cost: false,
            refused: BTreeMap::new(),
        }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.config.address.addr()
    }

    pub(crate) fn is_broadcast(&self) -> bool {
        self.config.network == Network::Broadcast
    }

    /// DR or Backup: others send to us at AllDRouters.
    pub(crate) fn is_designated(&self) -> bool {
        matches!(self.state, InterfaceState::Dr | InterfaceState::Backup)
    }

    pub(crate) fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    pub(crate) fn retransmit(&self) -> Duration {
        Duration::from_secs(self.config.retransmit_s.max(1).into())
    }

    pub(crate) fn hello(&self) -> Duration {
        Duration::from_secs(self.config.hello_s.max(1).into())
    }

    pub(crate) fn dead(&self) -> Duration {
        Duration::from_secs(self.config.dead_s.max(1).into())
    }

    /// Room for OSPF behind IP header and authentication, in bytes.
    pub(crate) fn room(&self) -> usize {
        const IP_HEADER: usize = 20;
        const LARGEST_DIGEST: usize = 64;
        usize::from(self.config.mtu.max(576)) - IP_HEADER - LARGEST_DIGEST - crate::packet::HEADER
    }
}

/// LSAs and when each was last sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Retransmissions {
    sent: BTreeMap<LsaKey, Time>,
    /// What has come or gone since it was last asked.
    touched: BTreeSet<LsaKey>,
}

impl Retransmissions {
    pub(crate) fn insert(&mut self, key: LsaKey, at: Time) {
        if self.sent.insert(key, at).is_none() {
            self.touched.insert(key);
        }
    }

    /// Tells whether it was there.
    pub(crate) fn remove(&mut self, key: &LsaKey) -> bool {
        let there = self.sent.remove(key).is_some();
        if there {
            self.touched.insert(*key);
        }
        there
    }

    pub(crate) fn clear(&mut self) {
        self.touched.extend(std::mem::take(&mut self.sent).into_keys());
    }

    pub(crate) fn contains_key(&self, key: &LsaKey) -> bool {
        self.sent.contains_key(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LsaKey, &Time)> {
        self.sent.iter()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &LsaKey> {
        self.sent.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Time> {
        self.sent.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<LsaKey> {
        std::mem::take(&mut self.touched)
    }
}

/// A neighbour that restarts, and whose links we announce meanwhile (RFC 3623 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Helping {
    pub(crate) until: Time,
    /// It has said that it is back; we have yet to become Full with it.
    pub(crate) back: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Neighbor {
    pub(crate) router_id: Ipv4Addr,
    pub(crate) state: NeighborState,
    pub(crate) priority: u8,
    pub(crate) designated: Ipv4Addr,
    pub(crate) backup: Ipv4Addr,
    /// Of its database descriptions: whether it takes opaque LSAs.
    pub(crate) options: u8,
    pub(crate) dead_at: Time,
    /// Least cryptographic sequence number that is not a replay.
    pub(crate) crypto_sequence: u32,

    /// In the exchange we are the master.
    pub(crate) master: bool,
    pub(crate) dd_sequence: u32,
    pub(crate) dd_sent: Option<DatabaseDescription>,
    /// Flags, options and sequence number of the last one.
    pub(crate) dd_received: Option<(u8, u8, u32)>,
    pub(crate) dd_at: Option<Time>,
    /// What is still to be described to it.
    pub(crate) summary: VecDeque<LsaHeader>,

    pub(crate) requests: BTreeMap<LsaKey, LsaHeader>,
    /// Those of the request on its way.
    pub(crate) asked: BTreeSet<LsaKey>,
    pub(crate) request_at: Option<Time>,

    /// LSAs that it has yet to acknowledge, and when each was last sent.
    pub(crate) retransmissions: Retransmissions,
    pub(crate) retransmit_at: Option<Time>,

    pub(crate) helping: Option<Helping>,
    /// NeighborUp was said.
    pub(crate) up: bool,
    pub(crate) full_since: Option<Time>,
    pub(crate) resets: u64,
    pub(crate) last_error: Option<String>,
}

impl Neighbor {
    pub(crate) fn new(router_id: Ipv4Addr) -> Self {
        Self {
            router_id,
            state: NeighborState::Down,
            priority: 0,
            designated: Ipv4Addr::UNSPECIFIED,
            backup: Ipv4Addr::UNSPECIFIED,
            options: 0,
            dead_at: Time::ZERO,
            crypto_sequence: 0,
            master: false,
            dd_sequence: 0,
            dd_sent: None,
            dd_received: None,
            dd_at: None,
            summary: VecDeque::new(),
            requests: BTreeMap::new(),
            asked: BTreeSet::new(),
            request_at: None,
            retransmissions: Retransmissions::default(),
            retransmit_at: None,
            helping: None,
            up: false,
            full_since: None,
            resets: 0,
            last_error: None,
        }
    }

    /// Its link is announced: it is Full, or was before it began to restart.
    pub(crate) fn is_adjacent(&self) -> bool {
        self.state == NeighborState::Full || self.helping.is_some()
    }

    pub(crate) fn is_exchanging(&self) -> bool {
        matches!(self.state, NeighborState::Exchange | NeighborState::Loading)
    }

    /// The lists of a database exchange are cleared.
    pub(crate) fn clear_lists(&mut self) {
        self.dd_sent = None;
        self.dd_received = None;
        self.dd_at = None;
        self.summary.clear();
        self.requests.clear();
        self.asked.clear();
        self.request_at = None;
        self.retransmissions.clear();
        self.retransmit_at = None;
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let alive = match self.helping {
            Some(helping) => Some(helping.until),
            None => (self.state > NeighborState::Down).then_some(self.dead_at),
        };
        [alive, self.dd_at, self.request_at, self.retransmit_at].into_iter().flatten().min()
    }
}

/// A link of ours with a neighbour behind it, as the router-LSA lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnLink {
    pub(crate) link: RouterLink,
    pub(crate) interface: std::sync::Arc<str>,
    /// On a point-to-point link.
    pub(crate) neighbor: Option<Ipv4Addr>,
}
