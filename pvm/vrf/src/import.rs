//! What a route from the customer must be before it enters the RIB. The CE is not trusted: a wrong route is
//! treated as withdrawn and counted, and disturbs nothing else.

use crate::{Neighbor, VrfConfig};
use edgeplex_bgp_wire::Attributes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a route of the CE was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Rejected {
    #[error("the next hop is not a host of the attachment's subnet")]
    NextHop,
    #[error("the first AS of the path is not the neighbor's")]
    FirstAs,
    #[error("the provider's AS is in the path")]
    Loop,
    #[error("the prefix is not a destination that may be announced")]
    Martian,
    #[error("the prefix is the PE's own address")]
    OwnAddress,
    #[error("the prefix is of the family that this session does not carry")]
    Family,
}

const MARTIANS: [Ipv4Net; 5] = [
    net(0, 0, 8),      // "this network" (RFC 791); the default route is no part of it
    net(127, 0, 8),    // loopback (RFC 1122)
    net(169, 254, 16), // link local (RFC 3927 §7: never forwarded)
    net(224, 0, 4),    // multicast (RFC 5771)
    net(240, 0, 4),    // reserved (RFC 1112 §4)
];

const fn net(a: u8, b: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), len)
}

const MARTIANS_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 127), // unspecified and loopback (RFC 4291 §2.5.2, §2.5.3)
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96), // IPv4-mapped (RFC 4291 §2.5.5.2: never on the wire)
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), // link local (RFC 4291 §2.5.6)
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), // multicast (RFC 4291 §2.7)
];

/// Checks of one UPDATE that hold for all its routes.
pub(crate) fn check_path(config: &VrfConfig, neighbor: &Neighbor, attributes: &Attributes, next_hop: IpAddr) -> Result<(), Rejected> {
    // RFC 4271 §9.1.2: a route that contains the own AS is excluded, unless the operator allows so many.
    if attributes.as_path.iter().filter(|a| *a == config.local_as).count() > neighbor.allow_as_in.into() {
        return Err(Rejected::Loop);
    }
    // RFC 4271 §6.3: the leftmost AS should be that of the peer.
    if attributes.as_path.first() != Some(neighbor.remote_as) {
        return Err(Rejected::FirstAs);
    }
    // RFC 4271 §5.1.3, §6.3: a first-party or third-party next hop shares the subnet; the receiver's own address never serves.
    if config.resolves(next_hop) { Ok(()) } else { Err(Rejected::NextHop) }
}

pub(crate) fn check_prefix(config: &VrfConfig, neighbor: &Neighbor, prefix: IpNet) -> Result<(), Rejected> {
    let martian = match prefix {
        IpNet::V4(p) => MARTIANS.iter().any(|m| m.contains(&p)),
        IpNet::V6(p) => MARTIANS_V6.iter().any(|m| m.contains(&p)),
    };
    if !neighbor.carries(prefix) {
        Err(Rejected::Family)
    } else if config.own().any(|own| own == prefix) {
        Err(Rejected::OwnAddress)
    } else if martian {
        Err(Rejected::Martian)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn martians_are_refused_and_the_default_route_is_not() {
        let config = crate::vrf::tests::config();
        for (prefix, want) in [
            ("0.0.0.0/0", Ok(())),
            ("10.0.0.0/8", Ok(())),
            ("0.0.0.0/8", Err(Rejected::Martian)),
            ("127.0.0.0/8", Err(Rejected::Martian)),
            ("127.1.2.3/32", Err(Rejected::Martian)),
            ("169.254.0.1/32", Err(Rejected::Martian)),
            ("224.0.0.0/4", Err(Rejected::Martian)),
            ("239.1.0.0/16", Err(Rejected::Martian)),
            ("255.255.255.255/32", Err(Rejected::Martian)),
            ("192.168.1.1/32", Err(Rejected::OwnAddress)),
            ("192.168.1.2/32", Ok(())),
            ("::/0", Ok(())),
            ("2001:db8:9::/48", Ok(())),
            ("::1/128", Err(Rejected::Martian)),
            ("::ffff:10.0.0.0/104", Err(Rejected::Martian)),
            ("fe80::/64", Err(Rejected::Martian)),
            ("ff02::1/128", Err(Rejected::Martian)),
            ("2001:db8:1::1/128", Err(Rejected::OwnAddress)),
        ] {
            let prefix: IpNet = prefix.parse().unwrap();
            let neighbor = config.neighbors.iter().find(|n| n.carries(prefix)).unwrap();
            assert_eq!(check_prefix(&config, neighbor, prefix), want, "{prefix}");
        }
        let wrong_session = check_prefix(&config, &config.neighbors[0], "2001:db8:9::/48".parse().unwrap());
        assert_eq!(wrong_session, Err(Rejected::Family));
    }
}
