//! What the operator says about one attachment, in the form the RIB needs.

use edgeplex_types::MacAddr;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfConfig {
    /// The provider's AS number.
    pub local_as: u32,
    /// MAC address of the PE towards the customer.
    pub mac: MacAddr,
    /// The PE's address on the attachment's subnet, host bits kept.
    pub address: Ipv4Net,
    /// IP MTU towards the customer, bytes.
    pub customer_mtu: u16,
    /// Bytes behind the Ethernet header towards the core, labels included.
    pub core_mtu: u16,
    pub customer: Option<Customer>,
    pub statics: Vec<StaticRoute>,
}

/// The customer's router, when it speaks BGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Customer {
    pub address: Ipv4Addr,
    pub remote_as: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

impl VrfConfig {
    /// The connected subnet.
    pub fn subnet(&self) -> Ipv4Net {
        self.address.trunc()
    }

    /// The PE's own address as a host route.
    pub fn own(&self) -> Ipv4Net {
        Ipv4Net::from(self.address.addr())
    }

    /// Whether a packet can be handed to `next_hop` on the wire: a host of the connected subnet other than this one.
    pub fn resolves(&self, next_hop: Ipv4Addr) -> bool {
        let subnet = self.subnet();
        // RFC 3021: a /31 has neither network nor broadcast address.
        let is_host = subnet.prefix_len() >= 31 || (next_hop != subnet.network() && next_hop != subnet.broadcast());
        subnet.contains(&next_hop) && is_host && next_hop != self.address.addr()
    }
}
