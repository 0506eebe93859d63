//! What a route from the customer must be before it enters the RIB. The CE is not trusted: a wrong route is
//! treated as withdrawn and counted, and disturbs nothing else.

use crate::VrfConfig;
use edgeplex_bgp_wire::Attributes;
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};

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

/// Checks of one UPDATE that hold for all its routes; the usable next hop if it passes.
pub(crate) fn check_path(config: &VrfConfig, remote_as: u32, attributes: &Attributes, next_hop: IpAddr) -> Result<Ipv4Addr, Rejected> {
    // RFC 4271 §9.1.2: a route that contains the own AS is excluded.
    if attributes.as_path.contains(config.local_as) {
        return Err(Rejected::Loop);
    }
    // RFC 4271 §6.3: the leftmost AS should be that of the peer.
    if attributes.as_path.first() != Some(remote_as) {
        return Err(Rejected::FirstAs);
    }
    // RFC 4271 §5.1.3, §6.3: a first-party or third-party next hop shares the subnet; the receiver's own address never serves.
    match next_hop {
        IpAddr::V4(a) if config.resolves(a) => Ok(a),
        _ => Err(Rejected::NextHop),
    }
}

pub(crate) fn check_prefix(config: &VrfConfig, prefix: Ipv4Net) -> Result<(), Rejected> {
    if prefix == config.own() {
        Err(Rejected::OwnAddress)
    } else if MARTIANS.iter().any(|m| m.contains(&prefix)) {
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
        ] {
            assert_eq!(check_prefix(&config, prefix.parse().unwrap()), want, "{prefix}");
        }
    }
}
