//! Reading UPDATEs (RFC 4271 §4.3, §6.3) with the error handling of RFC 7606.
use crate::{attributes::Attributes, error::*, nlri::*};
use std::{net::IpAddr, sync::Arc};

/// What the session agreed on, as far as it matters for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub four_octet_as: bool,
    pub ibgp: bool,
    /// AS the path of an eBGP route must start with (RFC 4271 §6.3), unless `None`.
    pub first_as: Option<u32>,
    pub families: FamilySet,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub next_hop: IpAddr,
    pub nlri: Vec<Nlri>,
}
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    pub attributes: Option<Arc<Attributes>>,
    pub reach: Vec<Reach>,
    pub unreach: Vec<NlriKey>,
    pub end_of_rib: Option<Family>,
    pub faults: Vec<Fault>,
}
#[derive(Debug)]
pub struct Decoder {}
pub(crate) fn attributes_from_bytes(_bytes: &[u8]) -> Result<Attributes, Fatal> {
    todo!()
}
