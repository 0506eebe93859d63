//! The five packets' contents (RFC 2328 §A.3.2 to §A.3.6).

use super::lsa::{LSA_HEADER, Lsa, LsaHeader, LsaKey};
use super::reader::{Cause, DecodeError, Reader};
use std::net::Ipv4Addr;

/// Options (RFC 2328 §A.2, RFC 5250).
pub const OPTION_E: u8 = 0x02;
pub const OPTION_NP: u8 = 0x08;
pub const OPTION_O: u8 = 0x40;

/// Flags of a database description.
pub const DD_MASTER: u8 = 1;
pub const DD_MORE: u8 = 2;
pub const DD_INIT: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The network mask as it stands; on a broadcast segment it must be ours.
    pub mask: u32,
    /// Seconds.
    pub hello_interval: u16,
    pub options: u8,
    pub priority: u8,
    /// Seconds.
    pub dead_interval: u32,
    /// Addresses on the segment; 0.0.0.0 for none.
    pub designated: Ipv4Addr,
    pub backup: Ipv4Addr,
    /// Router IDs.
    pub neighbors: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseDescription {
    pub mtu: u16,
    pub options: u8,
    pub flags: u8,
    pub sequence: u32,
    pub headers: Vec<LsaHeader>,
}

/// An update's LSAs, each by itself: one that cannot be used does not take the others with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    pub lsas: Vec<Lsa>,
    pub refused: Vec<DecodeError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Hello(Hello),
    DatabaseDescription(DatabaseDescription),
    /// Types unknown to us have no key that anyone could ask for.
    Request(Vec<LsaKey>),
    Update(Update),
    Acknowledge(Vec<LsaHeader>),
}

impl Message {
    /// RFC 2328 §A.3.1.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::DatabaseDescription(_) => 2,
            Self::Request(_) => 3,
            Self::Update(_) => 4,
            Self::Acknowledge(_) => 5,
        }
    }

    pub(super) fn read(kind: u8, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match kind {
            1 => Ok(Self::Hello(Hello {
                mask: from.u32("network mask")?,
                hello_interval: from.u16("hello interval")?,
                options: from.u8("options")?,
                priority: from.u8("router priority")?,
                dead_interval: from.u32("router dead interval")?,
                designated: from.address("designated router")?,
                backup: from.address("backup designated router")?,
                neighbors: all(from, 4, |r| r.address("neighbor"))?,
            })),
            2 => Ok(Self::DatabaseDescription(DatabaseDescription {
                mtu: from.u16("interface MTU")?,
                options: from.u8("options")?,
                flags: from.u8("flags")?,
                sequence: from.u32("DD sequence number")?,
                headers: all(from, LSA_HEADER, LsaHeader::read)?,
            })),
            3 => Ok(Self::Request(all(from, 12, request)?)),
            4 => Ok(Self::Update(update(from)?)),
            5 => Ok(Self::Acknowledge(all(from, LSA_HEADER, LsaHeader::read)?)),
            other => Err(from.error("packet type", Cause::Value(other.into()))),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                out.extend_from_slice(&hello.mask.to_be_bytes());
                out.extend_from_slice(&hello.hello_interval.to_be_bytes());
                out.extend_from_slice(&[hello.options, hello.priority]);
                out.extend_from_slice(&hello.dead_interval.to_be_bytes());
                out.extend_from_slice(&hello.designated.octets());
                out.extend_from_slice(&hello.backup.octets());
                out.extend(hello.neighbors.iter().flat_map(Ipv4Addr::octets));
            }
            Self::DatabaseDescription(dd) => {
                out.extend_from_slice(&dd.mtu.to_be_bytes());
                out.extend_from_slice(&[dd.options, dd.flags]);
                out.extend_from_slice(&dd.sequence.to_be_bytes());
                dd.headers.iter().for_each(|h| h.write(out));
            }
            Self::Request(keys) => {
                for key in keys {
                    out.extend_from_slice(&u32::from(key.kind).to_be_bytes());
                    out.extend_from_slice(&key.id.octets());
                    out.extend_from_slice(&key.advertising_router.octets());
                }
            }
            Self::Update(update) => {
                // A packet of 64 kB has no room for more.
                out.extend_from_slice(&u32::try_from(update.lsas.len()).unwrap_or(u32::MAX).to_be_bytes());
                update.lsas.iter().for_each(|lsa| lsa.write(lsa.header.age, out));
            }
            Self::Acknowledge(headers) => headers.iter().for_each(|h| h.write(out)),
        }
    }
}

/// Items of one size up to the end.
fn all<'a, T>(
    from: &mut Reader<'a>,
    size: usize,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut out = Vec::with_capacity(from.rest().len() / size);
    while !from.is_empty() {
        out.push(read(from)?);
    }
    Ok(out)
}

fn request(from: &mut Reader<'_>) -> Result<LsaKey, DecodeError> {
    let at = from.clone();
    let kind = from.u32("LS type")?;
    let kind = u8::try_from(kind).map_err(|_| at.error("LS type", Cause::Value(kind)))?;
    Ok(LsaKey { kind, id: from.address("link state ID")?, advertising_router: from.address("advertising router")? })
}

fn update(from: &mut Reader<'_>) -> Result<Update, DecodeError> {
    let count = from.u32("number of LSAs")?;
    let mut update = Update::default();
    for _ in 0..count {
        // Where the next LSA begins must be certain; what is wrong within one stays within it.
        let length = LsaHeader::read(&mut from.clone())?.length;
        let offset = from.offset();
        let mut one = Reader::new(from.take("LSA", length.into())?, offset);
        match Lsa::read(&mut one) {
            Ok(lsa) => update.lsas.push(lsa),
            Err(error) => update.refused.push(error),
        }
    }
    Ok(update)
}
