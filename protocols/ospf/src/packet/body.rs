//! What LSAs say (RFC 2328 §A.4, RFC 5250, RFC 3623 appendix A).

use super::lsa::{ASBR_SUMMARY, EXTERNAL, NETWORK, NSSA, OPAQUE_AREA, OPAQUE_AS, OPAQUE_LINK, ROUTER, SUMMARY};
use super::reader::{Cause, DecodeError, Reader, mask_of, prefix_length};
use std::net::Ipv4Addr;

/// LSInfinity: a summary or external route of this cost does not exist (RFC 2328 appendix B).
pub const LS_INFINITY: u32 = 0x00ff_ffff;
/// A link of this cost carries no transit traffic (RFC 6987 §2).
pub const MAX_LINK_METRIC: u16 = 0xffff;

/// Flags of a router-LSA.
pub const ROUTER_FLAG_BORDER: u8 = 1;
pub const ROUTER_FLAG_EXTERNAL: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LsaBody {
    Router(RouterLsa),
    Network(NetworkLsa),
    Summary(Summary),
    AsbrSummary(Summary),
    External(External),
    Nssa(External),
    /// Types 9, 10 and 11, and their meaning is not ours.
    Opaque(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouterLsa {
    /// V, E and B.
    pub flags: u8,
    pub links: Vec<RouterLink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouterLink {
    pub kind: LinkKind,
    /// Neighbour's router ID, address of the designated router, or the stub network.
    pub id: Ipv4Addr,
    /// Our address, or the mask of the stub network.
    pub data: Ipv4Addr,
    pub metric: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    PointToPoint,
    Transit,
    Stub,
    Virtual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkLsa {
    pub prefix_length: u8,
    /// Router IDs.
    pub attached: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Without meaning for an ASBR.
    pub prefix_length: u8,
    /// 24 bits.
    pub metric: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct External {
    pub prefix_length: u8,
    /// The E bit: its cost is more than any way within the AS.
    pub type_2: bool,
    /// 24 bits.
    pub metric: u32,
    /// 0.0.0.0: the advertising router itself.
    pub forwarding: Ipv4Addr,
    pub tag: u32,
}

impl LsaBody {
    /// LS types that have a meaning or are carried (RFC 2328 §13 (2)).
    pub fn is_known(kind: u8) -> bool {
        matches!(kind, ROUTER | NETWORK | SUMMARY | ASBR_SUMMARY | EXTERNAL | NSSA | OPAQUE_LINK | OPAQUE_AREA | OPAQUE_AS)
    }

    pub(super) fn read(kind: u8, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            ROUTER => Self::Router(RouterLsa::read(from)?),
            NETWORK => Self::Network(NetworkLsa::read(from)?),
            SUMMARY => Self::Summary(Summary { prefix_length: from.mask("network mask")?, metric: metric(from)?.1 }),
            ASBR_SUMMARY => {
                // Routers write anything here.
                from.u32("network mask")?;
                Self::AsbrSummary(Summary { prefix_length: 0, metric: metric(from)?.1 })
            }
            EXTERNAL => Self::External(External::read(from)?),
            NSSA => Self::Nssa(External::read(from)?),
            // What is no LSA of ours to understand; its receiver looks at the type before it keeps it.
            _ => Self::Opaque(from.rest().to_vec()),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Router(router) => router.write(out),
            Self::Network(network) => {
                out.extend_from_slice(&mask_of(network.prefix_length).to_be_bytes());
                out.extend(network.attached.iter().flat_map(Ipv4Addr::octets));
            }
            Self::Summary(summary) | Self::AsbrSummary(summary) => {
                out.extend_from_slice(&mask_of(summary.prefix_length).to_be_bytes());
                out.extend_from_slice(&(summary.metric & LS_INFINITY).to_be_bytes());
            }
            Self::External(external) | Self::Nssa(external) => {
                out.extend_from_slice(&mask_of(external.prefix_length).to_be_bytes());
                let bit = if external.type_2 { 1 << 31 } else { 0 };
                out.extend_from_slice(&(bit | external.metric & LS_INFINITY).to_be_bytes());
                out.extend_from_slice(&external.forwarding.octets());
                out.extend_from_slice(&external.tag.to_be_bytes());
            }
            Self::Opaque(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// The first byte and the 24 bits after it. What other types of service cost is not looked at (RFC 2328 §A.4: TOS is gone).
fn metric(from: &mut Reader<'_>) -> Result<(u8, u32), DecodeError> {
    let word = from.u32("metric")?;
    let [first, ..] = word.to_be_bytes();
    Ok((first, word & LS_INFINITY))
}

impl RouterLsa {
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = from.u8("router flags")?;
        from.u8("reserved")?;
        let count = from.u16("number of links")?;
        let mut links = Vec::with_capacity(usize::from(count).min(from.rest().len() / 12));
        for _ in 0..count {
            let (id, data) = (from.address("link ID")?, from.address("link data")?);
            let at = from.clone();
            let kind = match from.u8("link type")? {
                1 => LinkKind::PointToPoint,
                2 => LinkKind::Transit,
                3 => LinkKind::Stub,
                4 => LinkKind::Virtual,
                other => return Err(at.error("link type", Cause::Value(other.into()))),
            };
            let tos = from.u8("number of TOS metrics")?;
            let metric = from.u16("link metric")?;
            from.take("TOS metrics", usize::from(tos) * 4)?;
            if kind == LinkKind::Stub && prefix_length(data.into()).is_none() {
                return Err(at.error("stub mask", Cause::Value(data.into())));
            }
            links.push(RouterLink { kind, id, data, metric });
        }
        Ok(Self { flags, links })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.flags, 0]);
        // Lsa::new refuses what is longer than an LSA, which has no room for 65,536 links.
        out.extend_from_slice(&u16::try_from(self.links.len()).unwrap_or(u16::MAX).to_be_bytes());
        for link in &self.links {
            out.extend_from_slice(&link.id.octets());
            out.extend_from_slice(&link.data.octets());
            let kind = match link.kind {
                LinkKind::PointToPoint => 1,
                LinkKind::Transit => 2,
                LinkKind::Stub => 3,
                LinkKind::Virtual => 4,
            };
            out.extend_from_slice(&[kind, 0]);
            out.extend_from_slice(&link.metric.to_be_bytes());
        }
    }
}

impl NetworkLsa {
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let prefix_length = from.mask("network mask")?;
        let mut attached = Vec::with_capacity(from.rest().len() / 4);
        while !from.is_empty() {
            attached.push(from.address("attached router")?);
        }
        Ok(Self { prefix_length, attached })
    }
}

impl External {
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let prefix_length = from.mask("network mask")?;
        let (first, metric) = metric(from)?;
        let forwarding = from.address("forwarding address")?;
        Ok(Self { prefix_length, type_2: first & 0x80 != 0, metric, forwarding, tag: from.u32("route tag")? })
    }
}

/// What a restarting router asks (RFC 3623 appendix A), from the contents of its grace-LSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// Seconds.
    pub period: u32,
    /// 0 unknown, 1 software restart, 2 reload or upgrade, 3 switch to a redundant processor.
    pub reason: u8,
    /// Of the interface, on a segment with a designated router.
    pub address: Option<Ipv4Addr>,
}

/// The Link State ID of a grace-LSA: opaque type 3, ID 0.
pub const GRACE_ID: Ipv4Addr = Ipv4Addr::new(3, 0, 0, 0);

impl Grace {
    pub fn decode(contents: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(contents, 0);
        let (mut period, mut reason, mut address) = (None, None, None);
        while !from.is_empty() {
            let kind = from.u16("TLV type")?;
            let length = from.u16("TLV length")?;
            let offset = from.offset();
            let mut value = Reader::new(from.take("TLV value", length.into())?, offset);
            match kind {
                1 => period = Some(value.u32("grace period")?),
                2 => reason = Some(value.u8("restart reason")?),
                3 => address = Some(value.address("interface address")?),
                _ => {}
            }
            // Values are padded to four bytes; the last one's padding may be missing.
            let padding = (usize::from(length).next_multiple_of(4) - usize::from(length)).min(from.rest().len());
            from.take("padding", padding)?;
        }
        let missing = |field| from.error(field, Cause::Length { got: 0, want: 4 });
        Ok(Self {
            period: period.ok_or_else(|| missing("grace period"))?,
            reason: reason.ok_or_else(|| missing("restart reason"))?,
            address,
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, 1, 0, 4];
        out.extend_from_slice(&self.period.to_be_bytes());
        out.extend_from_slice(&[0, 2, 0, 1, self.reason, 0, 0, 0]);
        if let Some(address) = self.address {
            out.extend_from_slice(&[0, 3, 0, 4]);
            out.extend_from_slice(&address.octets());
        }
        out
    }
}
