//! What is counted: frames and bytes by direction, and every dropped packet under exactly one reason.

use edgeplex_ff_fib_api as api;
use edgeplex_ff_packet::Fault;

macro_rules! drops {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Drop { $($(#[$doc])* $variant,)* }

        const NAMES: &[&str] = &[$($name),*];

        impl Drop {
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

// In alphabetical order, as they are reported.
drops! {
    /// An ARP packet that claims our address or our MAC.
    ArpConflict = "arp-conflict",
    /// An ARP packet whose sender is not on the attachment's subnet.
    ArpForeign = "arp-foreign",
    ArpMalformed = "arp-malformed",
    /// ARP between others.
    ArpNotForUs = "arp-not-for-us",
    EthernetMalformed = "ethernet-malformed",
    EthertypeUnknown = "ethertype-unknown",
    /// Left behind by a process that died: its RST, or a FIN that new data has overtaken.
    HoldEnd = "hold-end",
    /// Of a session that stands still.
    HoldFenced = "hold-fenced",
    /// To be held, but there was no room.
    HoldFull = "hold-full",
    /// What may be part of a guarded session, and cannot be looked into.
    HoldOpaque = "hold-opaque",
    /// Held already.
    HoldRepeated = "hold-repeated",
    /// An ICMP error that was due but over the limit; no packet of a customer.
    IcmpRateLimited = "icmp-rate-limited",
    IpChecksum = "ip-checksum",
    IpHeaderLength = "ip-header-length",
    IpTotalLength = "ip-total-length",
    IpTruncated = "ip-truncated",
    IpVersion = "ip-version",
    /// Own label not at the bottom of the stack.
    LabelNotBottom = "label-not-bottom",
    LabelStackDepth = "label-stack-depth",
    LabelUnknown = "label-unknown",
    /// An IPv6 packet that may not leave its link.
    LinkLocal = "link-local",
    MacNotOurs = "mac-not-ours",
    MartianDestination = "martian-destination",
    MartianSource = "martian-source",
    MplsMalformed = "mpls-malformed",
    MtuExceeded = "mtu-exceeded",
    /// Neighbour discovery that claims an address or the MAC of ours.
    NdConflict = "nd-conflict",
    /// About a neighbour that is not on the attachment's subnets.
    NdForeign = "nd-foreign",
    NdMalformed = "nd-malformed",
    /// Neighbour discovery between others, router discovery.
    NdNotForUs = "nd-not-for-us",
    NeighbourQueueFull = "neighbour-queue-full",
    NeighbourTableFull = "neighbour-table-full",
    NeighbourUnreachable = "neighbour-unreachable",
    NoBuffer = "no-buffer",
    NoHeadroom = "no-headroom",
    NoRoute = "no-route",
    /// No interface was programmed yet.
    NotReady = "not-ready",
    NotUnicast = "not-unicast",
    /// Below a stack that was popped is no IP.
    PayloadUnknown = "payload-unknown",
    /// A leg leads to a port that is not there.
    PortUnknown = "port-unknown",
    PuntPoliced = "punt-policed",
    RouteUnreachable = "route-unreachable",
    SourceMac = "source-mac",
    SourceOwnAddress = "source-own-address",
    /// From the TAP to an address that leads back to it.
    TapLoop = "tap-loop",
    TtlExpired = "ttl-expired",
    TunnelDown = "tunnel-down",
    VlanUnexpected = "vlan-unexpected",
}

impl Drop {
    /// The reason for an IP header that does not parse.
    pub(crate) fn ip(fault: Fault) -> Self {
        match fault {
            Fault::Truncated => Self::IpTruncated,
            Fault::Version => Self::IpVersion,
            Fault::HeaderLength => Self::IpHeaderLength,
            Fault::TotalLength | Fault::Value => Self::IpTotalLength,
            Fault::Checksum => Self::IpChecksum,
        }
    }
}

/// Counts of one direction.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) from_customer: api::Count,
    pub(crate) to_customer: api::Count,
    pub(crate) from_core: api::Count,
    pub(crate) to_core: api::Count,
    pub(crate) punted: api::Count,
    pub(crate) injected: api::Count,
    drops: [u64; NAMES.len()],
}

impl Default for Counts {
    fn default() -> Self {
        let none = api::Count::default();
        let drops = [0; NAMES.len()];
        Self { from_customer: none, to_customer: none, from_core: none, to_core: none, punted: none, injected: none, drops }
    }
}

impl Counts {
    pub(crate) fn drop(&mut self, reason: Drop) {
        self.drops[reason as usize] += 1;
    }

    pub(crate) fn show(&self) -> api::Counters {
        let drops = NAMES.iter().zip(self.drops).filter(|d| d.1 > 0).map(|(n, d)| ((*n).to_owned(), d)).collect();
        api::Counters {
            from_customer: self.from_customer,
            to_customer: self.to_customer,
            from_core: self.from_core,
            to_core: self.to_core,
            punted: self.punted,
            injected: self.injected,
            drops,
        }
    }
}

/// Adds a frame of so many bytes.
pub(crate) fn add(count: &mut api::Count, bytes: usize) {
    count.packets += 1;
    count.bytes += bytes as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_reported_in_alphabetical_order_under_their_own_names() {
        assert!(NAMES.is_sorted());
        assert_eq!(NAMES[Drop::VlanUnexpected as usize], Drop::VlanUnexpected.name());
        let mut c = Counts::default();
        c.drop(Drop::TunnelDown);
        c.drop(Drop::NoRoute);
        c.drop(Drop::TunnelDown);
        assert_eq!(c.show().drops, [("no-route".to_owned(), 1), ("tunnel-down".to_owned(), 2)]);
    }
}
