//! Path attributes without the next hop and without reachability (RFC 4271 §5, RFC 4456, 1997, 4360, 8092).

use crate::{as_path::AsPath, error::Fatal};
use edgeplex_types::RouteTarget;
use std::net::Ipv4Addr;

/// RFC 9494 §4.6: the route is long stale, and least preferred.
pub const LLGR_STALE: u32 = 0xffff_0006;
/// RFC 9494 §4.6: the route is not to be kept when it is long stale.
pub const NO_LLGR: u32 = 0xffff_0007;

/// ORIGIN (RFC 4271 §5.1.1), best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    Igp,
    Egp,
    #[default]
    Incomplete,
}

/// AGGREGATOR (RFC 4271 §5.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aggregator {
    pub asn: u32,
    pub address: Ipv4Addr,
}

/// An optional transitive attribute of a type we do not know: passed on with the Partial bit set (RFC 4271 §5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    pub code: u8,
    pub value: Vec<u8>,
}

/// The attributes that many routes share. Next hop and NLRI stand beside it, never in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Attributes {
    pub origin: Origin,
    pub as_path: AsPath,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<Aggregator>,
    /// RFC 1997.
    pub communities: Vec<u32>,
    /// RFC 4456.
    pub originator_id: Option<Ipv4Addr>,
    /// RFC 4456, nearest cluster first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// RFC 4360, as they stand on the wire.
    pub ext_communities: Vec<[u8; 8]>,
    /// RFC 8092.
    pub large_communities: Vec<[u32; 3]>,
    /// Only to Customer (RFC 9234 §5): the AS that sent the route downwards or sidewards.
    pub only_to_customer: Option<u32>,
    pub unknown: Vec<UnknownAttribute>,
}

impl Attributes {
    /// The relay's form: path attributes as in an UPDATE, with 4-octet AS numbers, without NEXT_HOP and MP_*.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        crate::compose::write_attributes(&mut out, self, true);
        out
    }

    /// Reads [`Self::to_bytes`]. Any fault is an error: nothing of ours sends malformed attributes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fatal> {
        crate::update::attributes_from_bytes(bytes)
    }

    /// Route targets among the extended communities (RFC 4364 §4.3.1).
    pub fn route_targets(&self) -> impl Iterator<Item = RouteTarget> {
        self.ext_communities.iter().filter_map(|c| RouteTarget::from_extended_community(*c))
    }
}

/// Attribute type codes this codec knows.
pub(crate) mod code {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MED: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITY: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const EXT_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const PMSI_TUNNEL: u8 = 22;
    pub(crate) const TUNNEL_ENCAPSULATION: u8 = 23;
    pub(crate) const IPV6_EXT_COMMUNITIES: u8 = 25;
    pub(crate) const AIGP: u8 = 26;
    pub(crate) const LARGE_COMMUNITY: u8 = 32;
    pub(crate) const ONLY_TO_CUSTOMER: u8 = 35;
    pub(crate) const PREFIX_SID: u8 = 40;
    pub(crate) const ATTR_SET: u8 = 128;

    /// A name for the log.
    pub(crate) fn name(code: u8) -> &'static str {
        match code {
            ORIGIN => "ORIGIN",
            AS_PATH => "AS_PATH",
            NEXT_HOP => "NEXT_HOP",
            MED => "MULTI_EXIT_DISC",
            LOCAL_PREF => "LOCAL_PREF",
            ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
            AGGREGATOR => "AGGREGATOR",
            COMMUNITY => "COMMUNITIES",
            ORIGINATOR_ID => "ORIGINATOR_ID",
            CLUSTER_LIST => "CLUSTER_LIST",
            MP_REACH => "MP_REACH_NLRI",
            MP_UNREACH => "MP_UNREACH_NLRI",
            EXT_COMMUNITIES => "EXTENDED_COMMUNITIES",
            AS4_PATH => "AS4_PATH",
            AS4_AGGREGATOR => "AS4_AGGREGATOR",
            PMSI_TUNNEL => "PMSI_TUNNEL",
            TUNNEL_ENCAPSULATION => "TUNNEL_ENCAPSULATION",
            IPV6_EXT_COMMUNITIES => "IPV6_EXTENDED_COMMUNITIES",
            AIGP => "AIGP",
            LARGE_COMMUNITY => "LARGE_COMMUNITY",
            ONLY_TO_CUSTOMER => "ONLY_TO_CUSTOMER",
            PREFIX_SID => "PREFIX_SID",
            ATTR_SET => "ATTR_SET",
            _ => UNKNOWN,
        }
    }

    const UNKNOWN: &str = "path attribute";

    pub(crate) fn is_known(code: u8) -> bool {
        name(code) != UNKNOWN
    }
}

/// Attribute flag bits (RFC 4271 §4.3).
pub(crate) mod flag {
    pub(crate) const OPTIONAL: u8 = 0x80;
    pub(crate) const TRANSITIVE: u8 = 0x40;
    pub(crate) const PARTIAL: u8 = 0x20;
    pub(crate) const EXTENDED: u8 = 0x10;
}
