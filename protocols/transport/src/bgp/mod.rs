//! BGP over TCP: drives the sans-IO engine of `edgeplex-bgp` with sockets, timers and one task a neighbour.

use edgeplex_bgp::PeerConfig;
use edgeplex_bgp_wire::{Attributes, Family, Nlri, NlriKey};
use edgeplex_mgmt::show::BgpNeighbor;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What all sessions of a speaker share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeakerConfig {
    pub local_as: u32,
    pub router_id: Ipv4Addr,
    /// Where to accept connections; tried again until the address is there. `None`: connect only.
    pub listen: Option<SocketAddr>,
}

/// What a session has to say to its daemon. Not read, it stops the reading of that neighbour's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Up {
        peer: IpAddr,
        /// BGP identifier of the peer, for the decision process.
        router_id: Ipv4Addr,
        /// The peer sends graceful-restart capability: its End-of-RIB will come.
        peer_has_gr: bool,
        families: Vec<Family>,
    },
    /// `graceful`: keep the peer's routes as stale until it is back (RFC 4724 §4.2); otherwise they are gone.
    Down {
        peer: IpAddr,
        reason: String,
        graceful: bool,
    },
    /// `attributes` and `next_hop` belong to `reach` and mean nothing where it is empty. Routes that carry our own
    /// AS or identifier, and those treated as withdrawn (RFC 7606), arrive as `unreach`.
    Update {
        peer: IpAddr,
        ibgp: bool,
        attributes: Arc<Attributes>,
        next_hop: IpAddr,
        reach: Vec<Nlri>,
        unreach: Vec<NlriKey>,
    },
    EndOfRib {
        peer: IpAddr,
        family: Family,
    },
}

/// All sessions of one daemon. Cloning gives another handle to the same speaker.
#[derive(Debug, Clone)]
pub struct Speaker {}

impl Speaker {
    /// Must be called within a tokio runtime.
    pub fn start(config: SpeakerConfig) -> (Self, mpsc::Receiver<Event>) {
        todo!("{config:?}")
    }

    /// Adds a neighbour, or moves it to another configuration; nothing happens if it is the same. Desired routes stay.
    pub fn set_peer(&self, config: PeerConfig) {
        todo!("{config:?}")
    }

    /// Ends the session with Cease/3 and forgets the neighbour. No event follows.
    pub fn remove_peer(&self, peer: IpAddr) {
        todo!("{peer}")
    }

    /// Sets the desired route of a neighbour; it is kept across its sessions. The attributes are those of our RIB: what
    /// the session's kind requires is done on sending: towards eBGP the local AS stands in front (added unless it is
    /// already there) and LOCAL_PREF and reflection attributes are left out; towards iBGP LOCAL_PREF is filled in.
    pub fn advertise(&self, peer: IpAddr, nlri: Nlri, attributes: Arc<Attributes>, next_hop: IpAddr) {
        todo!("{peer} {nlri} {attributes:?} {next_hop}")
    }

    pub fn withdraw(&self, peer: IpAddr, key: NlriKey) {
        todo!("{peer} {key}")
    }

    /// Routes of this family are complete: from now on they are sent, and End-of-RIB after them. Needed once for a
    /// neighbour, whether it does graceful restart or not; until then nothing of the family is sent.
    pub fn release(&self, peer: IpAddr, family: Family) {
        todo!("{peer} {family}")
    }

    /// Asks the neighbour to send its routes of a family again (RFC 2918).
    pub fn refresh(&self, peer: IpAddr, family: Family) {
        todo!("{peer} {family}")
    }

    /// Ends the session with Cease/4; it comes back by itself.
    pub fn reset(&self, peer: IpAddr) {
        todo!("{peer}")
    }

    /// All neighbours in the order of their addresses.
    pub fn neighbors(&self) -> Vec<BgpNeighbor> {
        todo!()
    }

    /// Ends everything. `graceful`: connections close without a NOTIFICATION, so that neighbours keep our routes
    /// (RFC 4724); otherwise each gets Cease/2. Returns when the sockets are closed, after 2 s at the latest.
    pub async fn shutdown(&self, graceful: bool) {
        todo!("{graceful}")
    }
}
