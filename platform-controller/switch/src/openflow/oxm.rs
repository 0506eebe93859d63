//! Match fields as OpenFlow extensible match (OXM) TLVs (§A.2.3).

use super::{OfError, Reader, pad8, patch_length};
use crate::rule::{Match, PortNo, VlanMatch};
use edgeplex_types::{Label, MacAddr, VlanId};

const BASIC: u16 = 0x8000;
const IN_PORT: u8 = 0;
const METADATA: u8 = 2;
const ETH_DST: u8 = 3;
const ETH_SRC: u8 = 4;
const ETH_TYPE: u8 = 5;
pub(super) const VLAN_VID: u8 = 6;
const MPLS_LABEL: u8 = 34;
/// OFPVID_PRESENT: a tag is there; without it, VID 0 says that none is (§A.2.3.7).
const VID_PRESENT: u16 = 0x1000;

/// One OXM TLV without mask.
pub(super) fn put(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.extend_from_slice(&BASIC.to_be_bytes());
    // Values are of 2 to 8 bytes.
    out.extend_from_slice(&[field << 1, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
    out.extend_from_slice(value);
}

/// VLAN_VID as the switch knows a tag.
pub(super) fn vid(v: VlanId) -> [u8; 2] {
    (VID_PRESENT | v.get()).to_be_bytes()
}

/// Appends `ofp_match`, padded. Prerequisites come first (§A.2.3.6): eth_type before mpls_label.
pub(super) fn encode(m: &Match, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0, 1, 0, 0]);
    if let Some(p) = m.in_port {
        put(out, IN_PORT, &p.0.to_be_bytes());
    }
    if let Some(v) = m.metadata {
        put(out, METADATA, &v.to_be_bytes());
    }
    if let Some(a) = m.eth_dst {
        put(out, ETH_DST, &a.0);
    }
    if let Some(a) = m.eth_src {
        put(out, ETH_SRC, &a.0);
    }
    if let Some(t) = m.eth_type {
        put(out, ETH_TYPE, &t.to_be_bytes());
    }
    match m.vlan {
        VlanMatch::Any => {}
        VlanMatch::Untagged => put(out, VLAN_VID, &[0, 0]),
        VlanMatch::Tagged(v) => put(out, VLAN_VID, &vid(v)),
    }
    if let Some(l) = m.mpls_label {
        put(out, MPLS_LABEL, &l.get().to_be_bytes());
    }
    out.extend_from_slice(&m.foreign);
    patch_length(out, start, start + 2);
    pad8(out, start);
}

/// Reads `ofp_match` with its padding. What this driver never writes is kept raw in [`Match::foreign`].
pub(super) fn decode(r: &mut Reader<'_>) -> Result<Match, OfError> {
    if r.u16("match type")? != 1 {
        return Err(r.error("match type", "not OXM"));
    }
    let length = usize::from(r.u16("match length")?);
    let fields = r.take(length.checked_sub(4).ok_or_else(|| r.error("match length", "less than 4"))?, "match fields")?;
    r.take(length.next_multiple_of(8) - length, "match padding")?;
    let mut m = Match::default();
    let mut f = Reader::new(fields);
    while f.rest() > 0 {
        let head: [u8; 4] = f.array("OXM header")?;
        let value = f.take(usize::from(head[3]), "OXM value")?;
        if !known(&mut m, head, value) {
            m.foreign.extend_from_slice(&head);
            m.foreign.extend_from_slice(value);
        }
    }
    Ok(m)
}

/// Sets the field, if it is one of ours, unmasked, with a possible value, and for the first time.
fn known(m: &mut Match, [c0, c1, field, _]: [u8; 4], value: &[u8]) -> bool {
    if u16::from_be_bytes([c0, c1]) != BASIC || field & 1 != 0 {
        return false;
    }
    fn first<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
        let new = slot.is_none() && value.is_some();
        if new {
            *slot = value;
        }
        new
    }
    let (two, four) = (<[u8; 2]>::try_from(value).map(u16::from_be_bytes), <[u8; 4]>::try_from(value).map(u32::from_be_bytes));
    let mac = <[u8; 6]>::try_from(value).map(MacAddr).ok();
    match field >> 1 {
        IN_PORT => first(&mut m.in_port, four.ok().map(PortNo)),
        METADATA => first(&mut m.metadata, <[u8; 8]>::try_from(value).map(u64::from_be_bytes).ok()),
        ETH_DST => first(&mut m.eth_dst, mac),
        ETH_SRC => first(&mut m.eth_src, mac),
        ETH_TYPE => first(&mut m.eth_type, two.ok()),
        MPLS_LABEL => first(&mut m.mpls_label, four.ok().and_then(|l| Label::try_from(l).ok())),
        VLAN_VID if m.vlan == VlanMatch::Any => {
            let vlan = match two {
                Ok(0) => VlanMatch::Untagged,
                Ok(v) if v & VID_PRESENT != 0 => VlanId::try_from(v & !VID_PRESENT).map_or(VlanMatch::Any, VlanMatch::Tagged),
                _ => VlanMatch::Any,
            };
            m.vlan = vlan;
            vlan != VlanMatch::Any
        }
        _ => false,
    }
}
