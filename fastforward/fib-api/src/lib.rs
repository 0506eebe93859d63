//! What pvmd programs into FastForward and what anyone on the control socket can ask of it.
//!
//! A client sends framed [`Request`]s over a Unix stream socket and gets one framed [`Reply`] to each, in order.
//! Programming follows the same rule as the relay: `Begin{epoch}`, `Program{epoch, …}`…, `End{epoch}`, then deltas.
//! FastForward goes on forwarding by what it has when the programmer goes away, and after `End` sweeps what the new
//! snapshot did not renew. It does so while it forwards: `Done` answers `End` at once, changes may follow at once, and
//! [`Status::epoch`] tells when the sweep is over.
//!
//! The FIB has two levels: a route names (VPN label, tunnel) or a CE next hop; the tunnel and the CE's
//! adjacency are separate objects, so that one change moves every prefix behind them.

use edgeplex_types::{Epoch, Label, MacAddr, TunnelId, wire};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Version of the messages below.
pub const VERSION: u8 = 1;
/// Operations in one `Program`, at most.
pub const MAX_OPS: usize = 512;
/// Paths of one route, at most.
pub const MAX_PATHS: usize = 64;
/// Labels outside the VPN label, at most.
pub const MAX_TRANSPORT_LABELS: usize = 8;
/// Rows of one dump answer, at most.
pub const MAX_ROWS: u32 = 1000;
/// MAC address that the PVM's own kernel uses as its default gateway on the TAP: frames sent to it are routed by
/// the VRF; frames to any other address leave on the customer side as they are.
pub const VRF_MAC: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0xfe]);
/// IPv4 address of that gateway, known to the PVM's kernel alone.
pub const VRF_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Begin {
        epoch: Epoch,
    },
    Program {
        epoch: Epoch,
        ops: Vec<FibOp>,
    },
    End {
        epoch: Epoch,
    },
    Status,
    Counters,
    /// Routes in prefix order, those after `after` if given; at most `limit` (≤ [`MAX_ROWS`]).
    Routes {
        after: Option<IpNet>,
        limit: u32,
    },
    Tunnels,
    Adjacencies,
    /// What a packet to this address would meet.
    Lookup {
        address: IpAddr,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FibOp {
    /// Facts about the attachment; replaces the former ones.
    Interface(Interface),
    /// The label by which the core addresses this VRF.
    OwnLabel {
        label: Label,
    },
    Tunnel(Tunnel),
    TunnelGone {
        id: TunnelId,
    },
    Route {
        prefix: IpNet,
        target: Target,
    },
    Withdraw {
        prefix: IpNet,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// MAC address of the PE towards the customer: of the TAP, and the one answered by ARP.
    pub mac: MacAddr,
    /// The PVM's own addresses with the prefix length of their subnet; the first is the source of ICMP errors.
    pub addresses: Vec<Ipv4Net>,
    /// IP MTU towards the customer, bytes, 576..=9216.
    pub customer_mtu: u16,
    /// Bytes that fit behind the Ethernet header towards the core, labels included.
    pub core_mtu: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub id: TunnelId,
    pub endpoint: IpAddr,
    /// Labels outside the VPN label, outermost first; empty after implicit null.
    pub transport: Vec<Label>,
    pub source_mac: MacAddr,
    pub destination_mac: MacAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Into the core; more than one path means ECMP by flow hash.
    Vpn { paths: Vec<VpnPath> },
    /// To the customer, through this next hop.
    Customer { next_hop: IpAddr },
    /// The attachment's own subnet: the destination itself is the neighbour.
    Connected,
    /// The PVM itself: punt to the TAP.
    Local,
    /// Dropped; the sender is told by ICMP destination unreachable.
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VpnPath {
    pub label: Label,
    pub tunnel: TunnelId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    /// The request was refused and nothing of it was done.
    Refused {
        reason: String,
    },
    Status(Status),
    Counters(Counters),
    Routes {
        rows: Vec<(IpNet, Target)>,
        more: bool,
    },
    Tunnels {
        rows: Vec<Tunnel>,
    },
    Adjacencies {
        rows: Vec<Adjacency>,
    },
    Lookup {
        found: Option<(IpNet, Target)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub uptime_ms: u64,
    /// Epoch of the last complete snapshot, if any: its `End` has come and what it did not renew is gone.
    pub epoch: Option<Epoch>,
    pub routes: u64,
    pub tunnels: u64,
    pub fib_bytes: u64,
    pub own_label: Option<Label>,
}

/// A CE or host on the attachment's subnet, as ARP found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjacency {
    pub address: Ipv4Addr,
    /// `None` while being asked for.
    pub mac: Option<MacAddr>,
    pub age_ms: u64,
}

/// Packets and bytes (of the Ethernet frame without FCS) since FastForward started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub from_customer: Count,
    pub to_customer: Count,
    pub from_core: Count,
    pub to_core: Count,
    pub punted: Count,
    pub injected: Count,
    /// Dropped packets by reason, e.g. `ttl-expired`, `no-route`, `label-unknown`; reasons in alphabetical order.
    pub drops: Vec<(String, u64)>,
}

/// Why a request is refused before it touches the FIB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error("{field} is {got}: must be {right}")]
    Field { field: &'static str, got: String, right: &'static str },
}

fn bad(field: &'static str, got: impl ToString, right: &'static str) -> ApiError {
    ApiError::Field { field, got: got.to_string(), right }
}

impl Request {
    /// Refuses what exceeds the limits above.
    pub fn check(&self) -> Result<(), ApiError> {
        match self {
            Self::Program { ops, .. } if ops.len() > MAX_OPS => Err(bad("ops", ops.len(), "at most 512")),
            Self::Program { ops, .. } => ops.iter().try_for_each(FibOp::check),
            Self::Routes { limit, .. } if *limit == 0 || *limit > MAX_ROWS => Err(bad("limit", limit, "1 to 1000")),
            _ => Ok(()),
        }
    }
}

impl FibOp {
    fn check(&self) -> Result<(), ApiError> {
        match self {
            Self::Interface(i) => {
                if !i.mac.is_unicast() {
                    Err(bad("interface.mac", i.mac, "a unicast address"))
                } else if i.addresses.is_empty() || i.addresses.len() > 16 {
                    Err(bad("interface.addresses", i.addresses.len(), "1 to 16 addresses"))
                } else if !(576..=9216).contains(&i.customer_mtu) {
                    Err(bad("interface.customer_mtu", i.customer_mtu, "576 to 9216"))
                } else if !(576..=9216).contains(&i.core_mtu) {
                    Err(bad("interface.core_mtu", i.core_mtu, "576 to 9216"))
                } else {
                    Ok(())
                }
            }
            Self::OwnLabel { label } if label.is_reserved() => Err(bad("own label", label, "16 or above")),
            Self::Tunnel(t) if t.transport.len() > MAX_TRANSPORT_LABELS => {
                Err(bad("tunnel.transport", t.transport.len(), "at most 8 labels"))
            }
            Self::Route { target: Target::Vpn { paths }, .. } if paths.is_empty() || paths.len() > MAX_PATHS => {
                Err(bad("route.paths", paths.len(), "1 to 64 paths"))
            }
            Self::Route { prefix, .. } | Self::Withdraw { prefix } if prefix.trunc() != *prefix => {
                Err(bad("route.prefix", prefix, "a prefix without host bits"))
            }
            _ => Ok(()),
        }
    }
}

pub fn encode_request(r: &Request) -> Result<Vec<u8>, ApiError> {
    r.check()?;
    Ok(wire::encode_framed(VERSION, r)?)
}

pub fn encode_reply(r: &Reply) -> Result<Vec<u8>, ApiError> {
    Ok(wire::encode_framed(VERSION, r)?)
}
