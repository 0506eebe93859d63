//! Address families (RFC 4760 §3) and sets of them.

use std::fmt;

/// An address family this speaker can exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1 (RFC 2545).
    Ipv6Unicast,
    /// AFI 1, SAFI 128 (RFC 4364 §4.3.4).
    Vpnv4,
    /// AFI 2, SAFI 128 (RFC 4659).
    Vpnv6,
    /// AFI 1, SAFI 132 (RFC 4684): which route targets a peer wants to hear of.
    RouteTarget,
}

impl Family {
    /// In the order in which they are sent: what we want to hear first, then what we have to tell.
    pub const ALL: [Self; 5] = [Self::RouteTarget, Self::Ipv4Unicast, Self::Ipv6Unicast, Self::Vpnv4, Self::Vpnv6];

    /// AFI and SAFI (RFC 4760 §3).
    pub fn afi_safi(self) -> (u16, u8) {
        match self {
            Self::Ipv4Unicast => (1, 1),
            Self::Ipv6Unicast => (2, 1),
            Self::Vpnv4 => (1, 128),
            Self::Vpnv6 => (2, 128),
            Self::RouteTarget => (1, 132),
        }
    }

    pub fn from_afi_safi(afi: u16, safi: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.afi_safi() == (afi, safi))
    }

    /// Routes of a VPN, which carry route targets.
    pub fn is_vpn(self) -> bool {
        matches!(self, Self::Vpnv4 | Self::Vpnv6)
    }

    pub fn is_unicast(self) -> bool {
        matches!(self, Self::Ipv4Unicast | Self::Ipv6Unicast)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Ipv6Unicast => 2,
            Self::Vpnv4 => 4,
            Self::Vpnv6 => 8,
            Self::RouteTarget => 16,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
            Self::Vpnv4 => "vpnv4",
            Self::Vpnv6 => "vpnv6",
            Self::RouteTarget => "route-target",
        })
    }
}

/// A small set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct FamilySet(u8);

impl FamilySet {
    pub const EMPTY: Self = Self(0);

    pub fn contains(self, f: Family) -> bool {
        self.0 & f.bit() != 0
    }
    pub fn insert(&mut self, f: Family) {
        self.0 |= f.bit();
    }
    pub fn remove(&mut self, f: Family) {
        self.0 &= !f.bit();
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |f| self.contains(*f))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::EMPTY;
        families.into_iter().for_each(|f| set.insert(f));
        set
    }
}
