//! One speaker, several processes one after the other. A session is the two streams of its connection: replayed, they make the
//! same session. What is not in them (who is heard where, which labels mean what) is told as values (`stored`).
//!
//! ```text
//!   speaks:   handle ─► changes ─► values, safe ─► streams, safe ─► packets leave
//!   follows:               └─► apply         └─► replay: the forwarding as it is there
//!                                  promote ─► speaks: no session is reset, no label changes
//! ```
//! After a promotion no label is given or taken until the routes have been told: what is not routed yet is not gone.

mod replay;
mod take_over;
mod tell;

use crate::stored::{StoredAdjacency, StoredInterface, StoredSpeaker};
use crate::{ConnId, Event, Start};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// A value of this name is new; `None`: there is none any more.
pub type Change = (String, Option<Vec<u8>>);

/// What a successor has been told, or the process that we follow has told us.
#[derive(Debug, Default)]
pub(crate) struct Told {
    speaker: Option<StoredSpeaker>,
    interfaces: BTreeMap<Arc<str>, StoredInterface>,
    adjacencies: BTreeMap<(Ipv4Addr, Arc<str>), StoredAdjacency>,
    bindings: BTreeMap<Ipv4Net, Label>,
}

/// What only one that follows has.
#[derive(Debug)]
pub(crate) struct Following {
    /// How to begin if there is nothing to go on with.
    start: Start,
    /// What the daemon has said of interfaces: it holds from the promotion on.
    said: Vec<Event>,
    connections: BTreeMap<ConnId, Connection>,
}

/// A connection whose streams are replayed.
#[derive(Debug)]
struct Connection {
    remote: Ipv4Addr,
    /// Of the neighbour, before it is known who that is.
    received: Vec<u8>,
    /// The beginning of a PDU of ours.
    sent: Vec<u8>,
    /// Addresses of ours that the neighbour has been told.
    addresses: BTreeSet<Ipv4Addr>,
}

/// A connection that goes on after a promotion, and what its socket must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    pub conn: ConnId,
    pub password: Option<String>,
    /// Takes TTL 255 only.
    pub gtsm: bool,
}
