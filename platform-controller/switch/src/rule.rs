//! The switch's rules as values: what the controller wants and what it reads back have the same type, so that a
//! reconciler can compare them.

use edgeplex_types::{Label, MacAddr, VlanId};
use std::fmt;

/// Ethertype of MPLS unicast (RFC 3032 §5).
pub const ETH_TYPE_MPLS: u16 = 0x8847;
/// Cookie of rules that belong to no customer. Cookies of customers come from [`cookie_of`].
pub const PLATFORM_COOKIE: u64 = 1;

/// OpenFlow port number of one port of the bridge, as Open vSwitch assigned it; 1..=0xfeff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNo(pub u32);

impl PortNo {
    /// Stands for the port that a packet came in by: to name that one as output means to drop (OpenFlow 1.3 §A.2.1).
    pub const IN_PORT: Self = Self(0xffff_fff8);
}

impl fmt::Display for PortNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a vNIC is met: at a port of the switch; or, on a host whose switch extends this one's ports, behind the port to it by a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub no: PortNo,
    pub tag: Option<VlanId>,
}

impl From<PortNo> for Port {
    fn from(no: PortNo) -> Self {
        Self { no, tag: None }
    }
}

impl Port {
    /// Behind the port to another host.
    pub fn behind(uplink: PortNo, tag: VlanId) -> Self {
        Self { no: uplink, tag: Some(tag) }
    }
}

/// What a rule asks of a frame's outermost 802.1Q tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum VlanMatch {
    #[default]
    Any,
    Untagged,
    Tagged(VlanId),
}

/// Every field that is set must be equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Match {
    pub in_port: Option<PortNo>,
    /// What [`Action::Metadata`] has noted of the packet.
    pub metadata: Option<u64>,
    pub vlan: VlanMatch,
    pub eth_type: Option<u16>,
    pub eth_src: Option<MacAddr>,
    pub eth_dst: Option<MacAddr>,
    /// Label outermost on the stack; wants `eth_type` MPLS.
    pub mpls_label: Option<Label>,
    /// OXM fields as read from the switch that this driver never writes. They make a foreign rule different from
    /// each of ours, and let it be deleted exactly.
    pub foreign: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    PopVlan,
    PushVlan(VlanId),
    Output(PortNo),
    /// Note it beside the packet, for the next table. After all but the next.
    Metadata(u64),
    /// Continue in that table. Only as the last action.
    Goto(u8),
    /// Something read from the switch that this driver never writes.
    Foreign(Vec<u8>),
}

/// One flow entry. No actions means drop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub cookie: u64,
    pub table: u8,
    pub priority: u16,
    pub matches: Match,
    pub actions: Vec<Action>,
}

impl Rule {
    /// Whether it takes from or sends to that vNIC or port.
    pub fn touches(&self, port: Port) -> bool {
        let m = &self.matches;
        let outputs = |a: &Action| matches!(a, Action::Output(p) if *p == port.no || *p == PortNo::IN_PORT && m.in_port == Some(port.no));
        match port.tag {
            None => m.in_port == Some(port.no) || self.actions.iter().any(outputs),
            Some(tag) => {
                let of_tag = m.vlan == VlanMatch::Tagged(tag) || m.metadata == Some(u64::from(tag.get()));
                let pushed = |pair: &[Action]| matches!(pair, [Action::PushVlan(v), to] if *v == tag && outputs(to));
                m.in_port == Some(port.no) && of_tag || self.actions.windows(2).any(pushed)
            }
        }
    }
}

/// The cookie that tags a customer's rules: stable over restarts, never 0 or [`PLATFORM_COOKIE`].
/// Two customers may share one in theory (64-bit FNV-1a); nothing but accounting depends on it.
pub fn cookie_of(customer: &str) -> u64 {
    let hash = customer.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // OFPC: a cookie of all ones is reserved in FLOW_MOD; 0 and 1 are ours.
    if hash <= PLATFORM_COOKIE || hash == u64::MAX { hash.wrapping_add(2).max(2) } else { hash }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        parts.extend(self.in_port.map(|p| format!("in_port={p}")));
        parts.extend(self.metadata.map(|m| format!("metadata={m}")));
        match self.vlan {
            VlanMatch::Any => {}
            VlanMatch::Untagged => parts.push("untagged".into()),
            VlanMatch::Tagged(v) => parts.push(format!("vlan={v}")),
        }
        parts.extend(self.eth_type.map(|t| format!("eth_type={t:#06x}")));
        parts.extend(self.eth_src.map(|m| format!("eth_src={m}")));
        parts.extend(self.eth_dst.map(|m| format!("eth_dst={m}")));
        parts.extend(self.mpls_label.map(|l| format!("mpls_label={l}")));
        if !self.foreign.is_empty() {
            parts.push(format!("foreign({} bytes)", self.foreign.len()));
        }
        f.write_str(if parts.is_empty() { "any" } else { "" })?;
        f.write_str(&parts.join(","))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::PopVlan => f.write_str("pop_vlan"),
            Action::PushVlan(v) => write!(f, "push_vlan:{v}"),
            Action::Output(PortNo::IN_PORT) => f.write_str("output:in_port"),
            Action::Output(p) => write!(f, "output:{p}"),
            Action::Metadata(m) => write!(f, "metadata:{m}"),
            Action::Goto(t) => write!(f, "goto:{t}"),
            Action::Foreign(raw) => write!(f, "foreign({} bytes)", raw.len()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cookie={:#x} table={} priority={} {} ->", self.cookie, self.table, self.priority, self.matches)?;
        if self.actions.is_empty() {
            return f.write_str(" drop");
        }
        self.actions.iter().try_for_each(|a| write!(f, " {a}"))
    }
}
