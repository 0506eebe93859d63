//! What pvmd (in a port VM) or cvmd (for the label-switching router of a platform) programs into FastForward, and what
//! anyone on the control socket can ask of it.
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
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version of the messages below.
pub const VERSION: u8 = 3;
/// Operations in one `Program`, at most.
pub const MAX_OPS: usize = 512;
/// Paths of one route, at most; as many again as backups.
pub const MAX_PATHS: usize = 64;
/// Equal-cost ways of one tunnel, at most.
pub const MAX_LEGS: usize = 16;
/// Ports of a label-switching router, at most.
pub const MAX_PORTS: usize = 64;
/// Labels outside the VPN label, at most.
pub const MAX_TRANSPORT_LABELS: usize = 8;
/// Rows of one dump answer, at most.
pub const MAX_ROWS: u32 = 1000;
/// MAC address that the PVM's own kernel uses as its default gateway on the TAP: frames sent to it are routed by
/// the VRF; frames to any other address leave on the customer side as they are.
pub const VRF_MAC: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0xfe]);
/// IPv4 address of that gateway, known to the PVM's kernel alone.
pub const VRF_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The same for IPv6.
pub const VRF_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe);
/// MAC address to which a label-switching router sends, on the port it came in by and with its labels as they came, a packet
/// that the control plane is to look at: Router Alert (label 1), or a TTL that expired on an LSP ping (RFC 8029 §4.4).
pub const PUNT_MAC: MacAddr = MacAddr([0x02, 0, 0x5e, 0, 0, 0xfd]);

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
    /// What each leg of each tunnel took.
    TunnelCounts,
    /// How far sessions of the kernel beside us may go; at most [`MAX_OPS`].
    Hold(Vec<HoldOp>),
    Holds,
    /// Neighbours that another instance knows: used at once, as if they had just answered; at most [`MAX_OPS`].
    Neighbors(Vec<Neighbor>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FibOp {
    /// Facts about the attachment; replaces the former ones.
    Interface(Interface),
    /// A label by which the core addresses this VRF: looked up in it or, with `next_hop`, sent to that CE without a lookup.
    OwnLabel {
        label: Label,
        next_hop: Option<IpAddr>,
    },
    OwnLabelGone {
        label: Label,
    },
    /// Core ports of a label-switching router, by number; replaces the former ones.
    Ports(Vec<Port>),
    /// Incoming label map (RFC 3031 §3.11).
    Switch {
        label: Label,
        target: SwitchTarget,
    },
    SwitchGone {
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
    /// The PVM's own addresses with the prefix length of their subnet; the first of a family is the source of its ICMP errors.
    /// IPv6 link-local addresses are given like others, fe80::/64.
    pub addresses: Vec<IpNet>,
    /// IP MTU towards the customer, bytes, 576..=9216.
    pub customer_mtu: u16,
    /// Bytes that fit behind the Ethernet header towards the core, labels included.
    pub core_mtu: u16,
}

/// A core port of a label-switching router: the vNIC of the same number, and what the platform is called on that segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub mac: MacAddr,
    /// Source of ICMP errors about packets that came in here.
    pub address: Ipv4Addr,
    /// Bytes that fit behind the Ethernet header, labels included, 576..=9216.
    pub mtu: u16,
}

/// What becomes of a packet with a label of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwitchTarget {
    /// Popped, then the labels of the tunnel's leg pushed: swap, or penultimate-hop popping where a leg has none.
    Tunnel(TunnelId),
    /// The label is ours to pop: what is below goes back to the port it came in by, with the platform's own MAC address as
    /// destination, where the switch finds the owner of the next label or the CVM.
    Pop,
}

/// The legs are of equal cost; the flow hash chooses. Without any, paths over the tunnel give way to their backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub id: TunnelId,
    pub endpoint: IpAddr,
    pub legs: Vec<Leg>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leg {
    /// Of a label-switching router; 0 in a port VM, which has one.
    pub port: u8,
    /// Labels outside the VPN label, outermost first; empty after implicit null.
    pub transport: Vec<Label>,
    pub source_mac: MacAddr,
    pub destination_mac: MacAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Into the core; more than one path means ECMP by flow hash. `backup` is used while no tunnel of `paths` has a leg.
    Vpn { paths: Vec<VpnPath>, backup: Vec<VpnPath> },
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

/// A TCP connection of the kernel behind the TAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// Output commit: FastForward holds a segment of a guarded port (`--hold`) until what it tells the neighbour is safe with a
/// successor. Of a flow that is not known yet only the handshake passes; FIN and RST pass only after [`HoldOp::Over`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldOp {
    /// Segments leave that end at or before `seq` and acknowledge no more than `ack` (serial arithmetic, RFC 1982). Bounds only grow.
    /// Ends a fence.
    Upto { flow: Flow, seq: u32, ack: u32 },
    /// Nothing of the flow leaves or enters.
    Fence { flow: Flow },
    /// The connection ends in order: it is guarded no more, and what is held goes.
    Over { flow: Flow },
    /// All flows that live have been told: the kernel may refuse (RST) what belongs to none. A neighbour so learns at once that
    /// a session is gone of which nothing was left. What was guarded or fenced and not told since [`HoldOp::Anew`] is over.
    Known,
    /// Another programmer, or the same one with another connection: what is told from here on is what it knows. Guards stay.
    Anew,
}

/// A guarded flow, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub flow: Flow,
    pub seq: u32,
    pub ack: u32,
    pub fenced: bool,
    /// Segments held now, all that were held, and dropped for want of room or by a fence.
    pub waiting: u32,
    pub held: u64,
    pub dropped: u64,
    /// Longest time that a segment was held, microseconds.
    pub longest_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    pub address: IpAddr,
    pub mac: MacAddr,
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
    TunnelCounts {
        rows: Vec<TunnelCount>,
    },
    Holds {
        rows: Vec<Hold>,
    },
}

/// Frames by the legs of a tunnel, in the order of [`Tunnel::legs`]; a leg that is programmed again as it was goes on counting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelCount {
    pub id: TunnelId,
    pub legs: Vec<Count>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub uptime_ms: u64,
    /// Epoch of the last complete snapshot, if any: its `End` has come and what it did not renew is gone.
    pub epoch: Option<Epoch>,
    pub routes: u64,
    pub tunnels: u64,
    pub fib_bytes: u64,
    /// Labels that lead here: those of the VRF, or the incoming label map's.
    pub labels: u64,
}

/// A CE or host on the attachment's subnet, as ARP or neighbour discovery found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjacency {
    pub address: IpAddr,
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
            Self::Hold(ops) if ops.len() > MAX_OPS => Err(bad("ops", ops.len(), "at most 512")),
            Self::Neighbors(rows) if rows.len() > MAX_OPS => Err(bad("neighbors", rows.len(), "at most 512")),
            Self::Neighbors(rows) if rows.iter().any(|n| !n.mac.is_unicast()) => {
                Err(bad("neighbors.mac", "a group address", "a unicast address"))
            }
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
            Self::OwnLabel { label, .. } if label.is_reserved() => Err(bad("own label", label, "16 or above")),
            Self::Switch { label, .. } if label.is_reserved() => Err(bad("label", label, "16 or above")),
            Self::Ports(ports) if ports.is_empty() || ports.len() > MAX_PORTS => Err(bad("ports", ports.len(), "1 to 64 ports")),
            Self::Ports(ports) => ports.iter().try_for_each(|p| match p {
                p if !p.mac.is_unicast() => Err(bad("port.mac", p.mac, "a unicast address")),
                p if !(576..=9216).contains(&p.mtu) => Err(bad("port.mtu", p.mtu, "576 to 9216")),
                _ => Ok(()),
            }),
            Self::Tunnel(t) if t.legs.len() > MAX_LEGS => Err(bad("tunnel.legs", t.legs.len(), "at most 16 legs")),
            Self::Tunnel(t) => t.legs.iter().try_for_each(|leg| {
                if leg.transport.len() > MAX_TRANSPORT_LABELS {
                    Err(bad("tunnel.legs.transport", leg.transport.len(), "at most 8 labels"))
                } else if leg.transport.contains(&Label::IMPLICIT_NULL) {
                    // RFC 3032 §2.1: it is signalled, and never stands in a stack.
                    Err(bad("tunnel.legs.transport", Label::IMPLICIT_NULL, "a label that can be sent"))
                } else if usize::from(leg.port) >= MAX_PORTS {
                    Err(bad("tunnel.legs.port", leg.port, "0 to 63"))
                } else {
                    Ok(())
                }
            }),
            Self::Route { target: Target::Vpn { backup, .. }, .. } if backup.len() > MAX_PATHS => {
                Err(bad("route.backup", backup.len(), "at most 64 paths"))
            }
            Self::Route { target: Target::Vpn { paths, .. }, .. } if paths.is_empty() || paths.len() > MAX_PATHS => {
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
