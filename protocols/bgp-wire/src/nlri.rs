//! Network layer reachability: families, prefixes, and how they stand in an UPDATE
//! (RFC 4271 §4.3, RFC 4760 §5, RFC 4364 §4.3.4, RFC 8277 §2).

use crate::error::{Cause, DecodeError};
use edgeplex_types::{Label, Rd};
use ipnet::Ipv4Net;
use std::{fmt, net::Ipv4Addr};

/// An address family this speaker can exchange.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 1, SAFI 128 (RFC 4364 §4.3.4).
    Vpnv4,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Vpnv4];

    /// AFI and SAFI (RFC 4760 §3).
    pub fn afi_safi(self) -> (u16, u8) {
        match self {
            Self::Ipv4Unicast => (1, 1),
            Self::Vpnv4 => (1, 128),
        }
    }

    pub fn from_afi_safi(afi: u16, safi: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.afi_safi() == (afi, safi))
    }

    fn bit(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Vpnv4 => 2,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Vpnv4 => "vpnv4",
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

/// One reachable destination. Prefixes have no host bits set.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nlri {
    Ipv4(Ipv4Net),
    Vpnv4 { rd: Rd, prefix: Ipv4Net, label: Label },
}

/// What identifies a destination when it is replaced or withdrawn: the NLRI without its label.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NlriKey {
    Ipv4(Ipv4Net),
    Vpnv4 { rd: Rd, prefix: Ipv4Net },
}

impl Nlri {
    pub fn family(&self) -> Family {
        self.key().family()
    }
    pub fn key(&self) -> NlriKey {
        match *self {
            Self::Ipv4(prefix) => NlriKey::Ipv4(prefix),
            Self::Vpnv4 { rd, prefix, .. } => NlriKey::Vpnv4 { rd, prefix },
        }
    }
    pub fn label(&self) -> Option<Label> {
        match *self {
            Self::Ipv4(_) => None,
            Self::Vpnv4 { label, .. } => Some(label),
        }
    }
}

impl NlriKey {
    pub fn family(&self) -> Family {
        match self {
            Self::Ipv4(_) => Family::Ipv4Unicast,
            Self::Vpnv4 { .. } => Family::Vpnv4,
        }
    }
    pub fn prefix(&self) -> Ipv4Net {
        match *self {
            Self::Ipv4(prefix) | Self::Vpnv4 { prefix, .. } => prefix,
        }
    }
}

impl fmt::Display for NlriKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(prefix) => write!(f, "{prefix}"),
            Self::Vpnv4 { rd, prefix } => write!(f, "{rd} {prefix}"),
        }
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vpnv4 { label, .. } => write!(f, "{} label {label}", self.key()),
            Self::Ipv4(_) => self.key().fmt(f),
        }
    }
}

/// Longest encoding of one NLRI of any family: length, label, RD, prefix.
pub(crate) const MAX_NLRI: usize = 1 + 3 + 8 + 4;
const LABEL_BITS: u8 = 24;
const RD_BITS: u8 = 64;
/// RFC 8277 §2.4: the label field of a withdrawal; its value means nothing to the receiver.
const WITHDRAW_LABEL: [u8; 3] = [0x80, 0, 0];

/// `bits` of an IPv4 prefix, in as many bytes as needed; bits beyond are cleared (RFC 4271 §4.3: irrelevant).
fn read_prefix(bits: u8, bytes: &[u8]) -> Option<Ipv4Net> {
    let mut octets = [0; 4];
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(Ipv4Net::new(Ipv4Addr::from(octets), bits).ok()?.trunc())
}

/// Cuts the first entry off `rest`: its length in bits and its bytes.
fn cut<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&bits, tail) = rest.split_first()?;
    let (entry, tail) = tail.split_at_checked(usize::from(bits).div_ceil(8))?;
    *rest = tail;
    Some((bits, entry))
}

fn error(field: &'static str, offset: usize, what: &'static str) -> DecodeError {
    DecodeError { offset, field, cause: Cause::Malformed(what) }
}

/// Reads a run of IPv4 prefixes; `offset` is where `bytes` starts in the message.
pub(crate) fn read_ipv4(field: &'static str, bytes: &[u8], offset: usize, mut each: impl FnMut(Ipv4Net)) -> Result<(), DecodeError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = offset + bytes.len() - rest.len();
        let (bits, entry) = cut(&mut rest).ok_or_else(|| error(field, at, "prefix runs past the end of the field"))?;
        // RFC 7606 §5.3
        let prefix = read_prefix(bits, entry).ok_or_else(|| error(field, at, "prefix longer than 32 bits"))?;
        each(prefix);
    }
    Ok(())
}

/// A VPNv4 entry as read: `label` is `None` where a stack of several stood.
pub(crate) struct LabeledPrefix {
    pub(crate) rd: Rd,
    pub(crate) prefix: Ipv4Net,
    pub(crate) label: Option<Label>,
}

/// Reads a run of VPNv4 entries.
pub(crate) fn read_vpnv4(field: &'static str, bytes: &[u8], offset: usize, mut each: impl FnMut(LabeledPrefix)) -> Result<(), DecodeError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = offset + bytes.len() - rest.len();
        let (bits, mut entry) = cut(&mut rest).ok_or_else(|| error(field, at, "entry runs past the end of the field"))?;
        let mut left = bits;
        let mut labels = 0u32;
        // RFC 8277 §2.2: without the Multiple Labels capability there is one label and its S bit is ignored.
        // An entry too long for that can only be a stack: its key is still read, so that it can be withdrawn.
        let label = loop {
            let (l, tail) = entry.split_first_chunk::<3>().ok_or_else(|| error(field, at, "no room for a label"))?;
            entry = tail;
            left = left.checked_sub(LABEL_BITS).ok_or_else(|| error(field, at, "no room for a label"))?;
            labels += 1;
            let value = u32::from_be_bytes([0, l[0], l[1], l[2]]) >> 4;
            let bottom = l[2] & 1 == 1 || *l == WITHDRAW_LABEL;
            if left <= RD_BITS + 32 && (labels == 1 || bottom) {
                break Label::try_from(value).ok().filter(|_| labels == 1);
            }
            if bottom {
                return Err(error(field, at, "prefix longer than 32 bits"));
            }
        };
        let (rd, tail) = entry.split_first_chunk::<8>().ok_or_else(|| error(field, at, "no room for a route distinguisher"))?;
        let bits = left.checked_sub(RD_BITS).ok_or_else(|| error(field, at, "no room for a route distinguisher"))?;
        let prefix = read_prefix(bits, tail).ok_or_else(|| error(field, at, "prefix longer than 32 bits"))?;
        each(LabeledPrefix { rd: Rd(*rd), prefix, label });
    }
    Ok(())
}

fn write_prefix(out: &mut Vec<u8>, extra_bits: u8, head: &[u8], prefix: Ipv4Net) {
    out.push(extra_bits + prefix.prefix_len());
    out.extend_from_slice(head);
    let octets = prefix.network().octets();
    out.extend_from_slice(octets.get(..usize::from(prefix.prefix_len()).div_ceil(8)).unwrap_or(&octets));
}

/// Appends one reachable NLRI.
pub(crate) fn write(out: &mut Vec<u8>, nlri: &Nlri) {
    match nlri {
        Nlri::Ipv4(prefix) => write_prefix(out, 0, &[], *prefix),
        Nlri::Vpnv4 { rd, prefix, label } => {
            // The bottom-of-stack bit is set on the one label (RFC 8277 §2.2).
            let [_, a, b, c] = (label.get() << 4 | 1).to_be_bytes();
            let [r0, r1, r2, r3, r4, r5, r6, r7] = rd.0;
            write_prefix(out, LABEL_BITS + RD_BITS, &[a, b, c, r0, r1, r2, r3, r4, r5, r6, r7], *prefix);
        }
    }
}

/// Appends one NLRI to withdraw.
pub(crate) fn write_key(out: &mut Vec<u8>, key: &NlriKey) {
    match key {
        NlriKey::Ipv4(prefix) => write_prefix(out, 0, &[], *prefix),
        NlriKey::Vpnv4 { rd, prefix } => {
            let [r0, r1, r2, r3, r4, r5, r6, r7] = rd.0;
            let [a, b, c] = WITHDRAW_LABEL;
            write_prefix(out, LABEL_BITS + RD_BITS, &[a, b, c, r0, r1, r2, r3, r4, r5, r6, r7], *prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Result<Vec<(String, Option<u32>)>, DecodeError> {
        let mut out = vec![];
        read_vpnv4("NLRI", bytes, 0, |e| {
            out.push((NlriKey::Vpnv4 { rd: e.rd, prefix: e.prefix }.to_string(), e.label.map(Label::get)));
        })?;
        Ok(out)
    }

    const RD: [u8; 8] = [0, 0, 0xfd, 0xe8, 0, 0, 0, 100];

    #[test]
    fn vpnv4_with_one_label_a_stack_and_a_withdrawn_label() {
        let one = [&[112][..], &[0, 0x3e, 0x81], &RD, &[10, 1, 2]].concat();
        assert_eq!(keys(&one), Ok(vec![("65000:100 10.1.2.0/24".into(), Some(1000))]));
        let stack = [&[144][..], &[0, 0x3e, 0x80, 0, 0x3e, 0x91], &RD, &[10, 1, 2, 3]].concat();
        assert_eq!(keys(&stack), Ok(vec![("65000:100 10.1.2.3/32".into(), None)]));
        let gone = [&[112][..], &[0x80, 0, 0], &RD, &[10, 1, 2]].concat();
        assert_eq!(keys(&gone).unwrap()[0].0, "65000:100 10.1.2.0/24");
    }

    #[test]
    fn vpnv4_entries_that_do_not_fit_say_where() {
        let short = [&[16][..], &[0, 0]].concat();
        assert!(keys(&short).is_err());
        let no_rd = [&[80][..], &[0, 0x3e, 0x81], &RD[..7]].concat();
        assert!(keys(&no_rd).is_err());
        let long = [&[128][..], &[0, 0x3e, 0x81], &RD, &[1, 2, 3, 4, 5]].concat();
        assert!(keys(&long).is_err());
        let good = [&[88][..], &[0, 0x3e, 0x81], &RD].concat();
        let second = [good.clone(), vec![200]].concat();
        assert_eq!(keys(&second).unwrap_err().offset, good.len());
    }

    #[test]
    fn host_bits_are_cleared_and_length_33_is_refused() {
        let mut got = vec![];
        read_ipv4("NLRI", &[12, 10, 0xff, 0], 0, |p| got.push(p.to_string())).unwrap();
        assert_eq!(got, ["10.240.0.0/12", "0.0.0.0/0"]);
        let e = read_ipv4("NLRI", &[8, 10, 33, 1, 1, 1, 1, 1], 40, |_| {}).unwrap_err();
        assert_eq!(e.offset, 42);
    }
}
