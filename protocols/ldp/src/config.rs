//! How an LSR is configured, and what a new process knows of the one before it.

use edgeplex_types::{Label, LabelRange};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

/// One LSR with a platform-wide label space. Start from [`Config::new`] and change what differs.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// LSR identifier and transport address (RFC 5036 §2.2.2, §2.5.2): the loopback.
    pub lsr_id: Ipv4Addr,
    /// Names of the interfaces on which discovery runs.
    pub interfaces: BTreeSet<Arc<str>>,
    /// Where labels for FECs come from.
    pub labels: LabelRange,
    /// How often Hellos are sent; at least three times within the hold time agreed with a neighbour.
    pub hello: Duration,
    /// How long neighbours keep an adjacency without Hellos from us; whole seconds, 1 to 65534.
    pub hold: Duration,
    /// KeepAlive time that we propose, seconds, at least 1.
    pub keepalive_s: u16,
    /// Own FECs are mapped to label 0 instead of 3 (RFC 3032 §2.1).
    pub explicit_null: bool,
    /// Bind host routes only, instead of all of the routing table but its default route.
    pub host_routes_only: bool,
    /// How long neighbours are asked to wait for us after a session is lost (FT Reconnect Timeout of RFC 3478), and the
    /// longest that we wait for them. Zero: no graceful restart.
    pub reconnect: Duration,
    /// How long state kept over a restart is confirmed before the rest of it goes (RFC 3478), ours and theirs.
    pub recovery: Duration,
    /// Sessions with neighbours that offer it take packets of TTL 255 only (RFC 6720).
    pub gtsm: bool,
    /// TCP MD5 (RFC 5036 §2.9) by LSR identifier.
    pub passwords: BTreeMap<Ipv4Addr, String>,
}

impl Config {
    pub fn new(lsr_id: Ipv4Addr, labels: LabelRange) -> Self {
        Self {
            lsr_id,
            interfaces: BTreeSet::new(),
            labels,
            hello: Duration::from_secs(5),
            hold: Duration::from_secs(15),
            keepalive_s: 60,
            explicit_null: false,
            host_routes_only: false,
            reconnect: Duration::from_secs(120),
            recovery: Duration::from_secs(120),
            gtsm: true,
            passwords: BTreeMap::new(),
        }
    }

    /// The label that own FECs are mapped to.
    pub(crate) fn null_label(&self) -> Label {
        if self.explicit_null { Label::IPV4_EXPLICIT_NULL } else { Label::IMPLICIT_NULL }
    }

    pub(crate) fn hold_s(&self) -> u16 {
        u16::try_from(self.hold.as_secs()).unwrap_or(u16::MAX - 1).clamp(1, u16::MAX - 1)
    }
}

/// Without the passwords.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("lsr_id", &self.lsr_id)
            .field("interfaces", &self.interfaces)
            .field("labels", &self.labels)
            .finish_non_exhaustive()
    }
}

/// What remains of a former process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The forwarder has kept what the former process told it: neighbours may go on using our labels (RFC 3478 §3.1).
    pub restarting: bool,
    /// Labels of its FECs, as stored after [`crate::Action::BindingsChanged`].
    pub bindings: BTreeMap<Ipv4Net, Label>,
}
