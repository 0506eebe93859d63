//! What the operator says about one attachment, in the form the RIB needs.

use edgeplex_ff_fib_api::VRF_GATEWAY6;
use edgeplex_pvm_policy::Policy;
use edgeplex_types::{MacAddr, SiteOfOrigin};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfConfig {
    /// The provider's AS number.
    pub local_as: u32,
    /// MAC address of the PE towards the customer.
    pub mac: MacAddr,
    /// The PE's addresses on the attachment's subnets, host bits kept; at most one of a family counts.
    pub addresses: Vec<IpNet>,
    /// IP MTU towards the customer, bytes.
    pub customer_mtu: u16,
    /// Bytes behind the Ethernet header towards the core, labels included.
    pub core_mtu: u16,
    /// The customer's routers that speak BGP, each with an address of its own.
    pub neighbors: Vec<Neighbor>,
    pub statics: Vec<StaticRoute>,
    /// Paths of a prefix used together (ECMP), 1 or more.
    pub max_paths: usize,
}

/// A router of the customer. Its session carries the family of its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    pub address: IpAddr,
    pub remote_as: u32,
    /// How often our own AS number may stand in what it tells.
    pub allow_as_in: u8,
    /// Routes learnt here carry it; routes that carry it are not told here.
    pub site_of_origin: Option<SiteOfOrigin>,
    /// A default route is told, whether or not there is one.
    pub default_originate: bool,
    pub import: Policy,
    pub export: Policy,
}

impl Neighbor {
    /// One with nothing optional.
    pub fn new(address: impl Into<IpAddr>, remote_as: u32) -> Self {
        Self {
            address: address.into(),
            remote_as,
            allow_as_in: 0,
            site_of_origin: None,
            default_originate: false,
            import: Policy::default(),
            export: Policy::default(),
        }
    }

    /// Whether `prefix` can be exchanged with it.
    pub(crate) fn carries(&self, prefix: IpNet) -> bool {
        self.address.is_ipv4() == prefix.addr().is_ipv4()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRoute {
    pub prefix: IpNet,
    pub via: IpAddr,
    /// The route is there while BFD with `via` is up.
    pub bfd: bool,
}

/// The default route of an address's family.
pub(crate) fn default_of(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}

impl VrfConfig {
    /// The connected subnets.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().map(IpNet::trunc)
    }

    /// The PE's own addresses as host routes.
    pub fn own(&self) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().map(|a| IpNet::from(a.addr()))
    }

    fn address_of(&self, ipv4: bool) -> Option<IpNet> {
        self.addresses.iter().copied().find(|a| a.addr().is_ipv4() == ipv4)
    }

    /// The PE's own address in the family of `neighbor`.
    pub fn towards(&self, neighbor: IpAddr) -> Option<IpAddr> {
        self.address_of(neighbor.is_ipv4()).map(|a| a.addr())
    }

    /// RFC 4291 appendix A: from the MAC address, as the kernel derives it for the TAP. Only where there is IPv6.
    pub fn link_local(&self) -> Option<Ipv6Net> {
        self.address_of(false)?;
        let [a, b, c, d, e, f] = self.mac.0;
        let word = |hi, lo| u16::from_be_bytes([hi, lo]);
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f));
        Ipv6Net::new(address, 64).ok()
    }

    /// Whether a packet can be handed to `next_hop` on the wire: a host of a connected subnet other than this one.
    pub fn resolves(&self, next_hop: IpAddr) -> bool {
        match (next_hop, self.address_of(next_hop.is_ipv4())) {
            (_, None) => false,
            (IpAddr::V4(a), Some(IpNet::V4(own))) => resolves_v4(own, a),
            (IpAddr::V6(a), Some(IpNet::V6(own))) if a.is_unicast_link_local() => {
                own.addr() != a && self.link_local().is_none_or(|l| l.addr() != a) && a != VRF_GATEWAY6
            }
            (IpAddr::V6(a), Some(IpNet::V6(own))) => {
                // RFC 4291 §2.6.1: the first address of a subnet is the routers' anycast; RFC 6164: not on a /127.
                let is_host = own.prefix_len() >= 127 || a != own.network();
                own.contains(&a) && is_host && a != own.addr()
            }
            _ => false,
        }
    }
}

fn resolves_v4(own: Ipv4Net, next_hop: Ipv4Addr) -> bool {
    // RFC 3021: a /31 has neither network nor broadcast address.
    let is_host = own.prefix_len() >= 31 || (next_hop != own.network() && next_hop != own.broadcast());
    own.contains(&next_hop) && is_host && next_hop != own.addr()
}
