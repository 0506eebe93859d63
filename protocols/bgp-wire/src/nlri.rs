//! Network layer reachability: prefixes and memberships, and how they stand in an UPDATE
//! (RFC 4271 §4.3, RFC 4760 §5, RFC 4364 §4.3.4, RFC 4659 §3.2, RFC 8277 §2, RFC 7911 §3).

use crate::RtMembership;
use crate::error::{Cause, DecodeError};
use crate::family::Family;
use edgeplex_types::{Label, Rd};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// One reachable destination; its family follows from the prefix. Prefixes have no host bits set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nlri {
    Unicast(IpNet),
    Vpn { rd: Rd, prefix: IpNet, label: Label },
    RouteTarget(RtMembership),
}

/// What identifies a destination when it is replaced or withdrawn: the NLRI without its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NlriKey {
    Unicast(IpNet),
    Vpn { rd: Rd, prefix: IpNet },
    RouteTarget(RtMembership),
}

/// One path to a destination. `path_id` is 0 unless the peer sends several (RFC 7911).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    pub path_id: u32,
    pub nlri: Nlri,
}

/// One path that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unreach {
    pub path_id: u32,
    pub key: NlriKey,
}

impl Nlri {
    pub fn family(&self) -> Family {
        self.key().family()
    }
    pub fn key(&self) -> NlriKey {
        match *self {
            Self::Unicast(prefix) => NlriKey::Unicast(prefix),
            Self::Vpn { rd, prefix, .. } => NlriKey::Vpn { rd, prefix },
            Self::RouteTarget(membership) => NlriKey::RouteTarget(membership),
        }
    }
    pub fn label(&self) -> Option<Label> {
        match *self {
            Self::Vpn { label, .. } => Some(label),
            Self::Unicast(_) | Self::RouteTarget(_) => None,
        }
    }
}

impl NlriKey {
    pub fn family(&self) -> Family {
        match self {
            Self::Unicast(IpNet::V4(_)) => Family::Ipv4Unicast,
            Self::Unicast(IpNet::V6(_)) => Family::Ipv6Unicast,
            Self::Vpn { prefix: IpNet::V4(_), .. } => Family::Vpnv4,
            Self::Vpn { prefix: IpNet::V6(_), .. } => Family::Vpnv6,
            Self::RouteTarget(_) => Family::RouteTarget,
        }
    }
    pub fn prefix(&self) -> Option<IpNet> {
        match *self {
            Self::Unicast(prefix) | Self::Vpn { prefix, .. } => Some(prefix),
            Self::RouteTarget(_) => None,
        }
    }
}

impl Reach {
    pub fn unreach(&self) -> Unreach {
        Unreach { path_id: self.path_id, key: self.nlri.key() }
    }
}

/// The only path.
impl From<Nlri> for Reach {
    fn from(nlri: Nlri) -> Self {
        Self { path_id: 0, nlri }
    }
}

/// The only path.
impl From<NlriKey> for Unreach {
    fn from(key: NlriKey) -> Self {
        Self { path_id: 0, key }
    }
}

impl fmt::Display for NlriKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unicast(prefix) => write!(f, "{prefix}"),
            Self::Vpn { rd, prefix } => write!(f, "{rd} {prefix}"),
            Self::RouteTarget(membership) => write!(f, "{membership}"),
        }
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vpn { label, .. } => write!(f, "{} label {label}", self.key()),
            Self::Unicast(_) | Self::RouteTarget(_) => self.key().fmt(f),
        }
    }
}

/// Longest encoding of one NLRI of any family: length, label, RD, prefix.
pub(crate) const MAX_NLRI: usize = 1 + 3 + 8 + 16;
const LABEL_BITS: u8 = 24;
const RD_BITS: u8 = 64;
/// RFC 8277 §2.4: the label field of a withdrawal; its value means nothing to the receiver.
const WITHDRAW_LABEL: [u8; 3] = [0x80, 0, 0];

/// One entry as read: `label` is `None` where there is none, or where a stack of several stood.
pub(crate) struct Entry {
    pub(crate) path_id: u32,
    pub(crate) key: NlriKey,
    pub(crate) label: Option<Label>,
}

/// A run of NLRI of one family.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) field: &'static str,
    pub(crate) family: Family,
    /// Path identifiers stand before each (RFC 7911 §3).
    pub(crate) add_path: bool,
    pub(crate) bytes: &'a [u8],
    /// Where `bytes` starts in the message.
    pub(crate) offset: usize,
}

/// `bits` of a prefix, in as many bytes as needed; bits beyond are cleared (RFC 4271 §4.3: irrelevant).
fn read_prefix(family: Family, bits: u8, bytes: &[u8]) -> Option<IpNet> {
    if matches!(family, Family::Ipv6Unicast | Family::Vpnv6) {
        let mut octets = [0; 16];
        octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
        return Some(Ipv6Net::new(Ipv6Addr::from(octets), bits).ok()?.trunc().into());
    }
    let mut octets = [0; 4];
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(Ipv4Net::new(Ipv4Addr::from(octets), bits).ok()?.trunc().into())
}

fn address_bits(family: Family) -> u8 {
    if matches!(family, Family::Ipv6Unicast | Family::Vpnv6) { 128 } else { 32 }
}

/// Cuts the first entry off `rest`: its length in bits and its bytes.
fn cut<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&bits, tail) = rest.split_first()?;
    let (entry, tail) = tail.split_at_checked(usize::from(bits).div_ceil(8))?;
    *rest = tail;
    Some((bits, entry))
}

/// Reads all entries of a run.
pub(crate) fn read(run: Run<'_>, mut each: impl FnMut(Entry)) -> Result<(), DecodeError> {
    let mut rest = run.bytes;
    while !rest.is_empty() {
        let offset = run.offset + run.bytes.len() - rest.len();
        let error = |what| DecodeError { offset, field: run.field, cause: Cause::Malformed(what) };
        let mut path_id = 0;
        if run.add_path {
            let (id, tail) = rest.split_first_chunk::<4>().ok_or_else(|| error("no room for a path identifier"))?;
            path_id = u32::from_be_bytes(*id);
            rest = tail;
        }
        let (bits, entry) = cut(&mut rest).ok_or_else(|| error("entry runs past the end of the field"))?;
        let (key, label) = match run.family {
            Family::Ipv4Unicast | Family::Ipv6Unicast => {
                // RFC 7606 §5.3
                let prefix = read_prefix(run.family, bits, entry).ok_or_else(|| error("prefix longer than its address"))?;
                (NlriKey::Unicast(prefix), None)
            }
            Family::Vpnv4 | Family::Vpnv6 => read_vpn(run.family, bits, entry).map_err(error)?,
            Family::RouteTarget => {
                let membership = RtMembership::read(bits, entry).ok_or_else(|| error("length of a membership is 0 or 32 to 96"))?;
                (NlriKey::RouteTarget(membership), None)
            }
        };
        each(Entry { path_id, key, label });
    }
    Ok(())
}

/// Label or stack, RD, prefix.
fn read_vpn(family: Family, bits: u8, mut entry: &[u8]) -> Result<(NlriKey, Option<Label>), &'static str> {
    let mut left = bits;
    let mut labels = 0u32;
    // RFC 8277 §2.2: without the Multiple Labels capability there is one label and its S bit is ignored.
    // An entry too long for that can only be a stack: its key is still read, so that it can be withdrawn.
    let label = loop {
        let (l, tail) = entry.split_first_chunk::<3>().ok_or("no room for a label")?;
        entry = tail;
        left = left.checked_sub(LABEL_BITS).ok_or("no room for a label")?;
        labels += 1;
        let value = u32::from_be_bytes([0, l[0], l[1], l[2]]) >> 4;
        let bottom = l[2] & 1 == 1 || *l == WITHDRAW_LABEL;
        if left <= RD_BITS + address_bits(family) && (labels == 1 || bottom) {
            break Label::try_from(value).ok().filter(|_| labels == 1);
        }
        if bottom {
            return Err("prefix longer than its address");
        }
    };
    let (rd, tail) = entry.split_first_chunk::<8>().ok_or("no room for a route distinguisher")?;
    let bits = left.checked_sub(RD_BITS).ok_or("no room for a route distinguisher")?;
    let prefix = read_prefix(family, bits, tail).ok_or("prefix longer than its address")?;
    Ok((NlriKey::Vpn { rd: Rd(*rd), prefix }, label))
}

fn write_prefix(out: &mut Vec<u8>, extra_bits: u8, head: &[u8], prefix: IpNet) {
    out.push(extra_bits + prefix.prefix_len());
    out.extend_from_slice(head);
    let bytes = usize::from(prefix.prefix_len()).div_ceil(8);
    match prefix {
        IpNet::V4(p) => out.extend(p.network().octets().iter().take(bytes)),
        IpNet::V6(p) => out.extend(p.network().octets().iter().take(bytes)),
    }
}

fn write_vpn(out: &mut Vec<u8>, rd: Rd, prefix: IpNet, label: [u8; 3]) {
    let ([a, b, c], [r0, r1, r2, r3, r4, r5, r6, r7]) = (label, rd.0);
    write_prefix(out, LABEL_BITS + RD_BITS, &[a, b, c, r0, r1, r2, r3, r4, r5, r6, r7], prefix);
}

/// Appends one reachable NLRI.
pub(crate) fn write(out: &mut Vec<u8>, nlri: &Nlri) {
    match nlri {
        Nlri::Unicast(prefix) => write_prefix(out, 0, &[], *prefix),
        Nlri::Vpn { rd, prefix, label } => {
            // The bottom-of-stack bit is set on the one label (RFC 8277 §2.2).
            let [_, a, b, c] = (label.get() << 4 | 1).to_be_bytes();
            write_vpn(out, *rd, *prefix, [a, b, c]);
        }
        Nlri::RouteTarget(membership) => membership.write(out),
    }
}

/// Appends one NLRI to withdraw.
pub(crate) fn write_key(out: &mut Vec<u8>, key: &NlriKey) {
    match key {
        NlriKey::Unicast(prefix) => write_prefix(out, 0, &[], *prefix),
        NlriKey::Vpn { rd, prefix } => write_vpn(out, *rd, *prefix, WITHDRAW_LABEL),
        NlriKey::RouteTarget(membership) => membership.write(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(family: Family, add_path: bool, bytes: &[u8]) -> Result<Vec<(u32, String, Option<u32>)>, DecodeError> {
        let mut out = vec![];
        let run = Run { field: "NLRI", family, add_path, bytes, offset: 0 };
        read(run, |e| out.push((e.path_id, e.key.to_string(), e.label.map(Label::get))))?;
        Ok(out)
    }

    fn keys(bytes: &[u8]) -> Result<Vec<(u32, String, Option<u32>)>, DecodeError> {
        entries(Family::Vpnv4, false, bytes)
    }

    const RD: [u8; 8] = [0, 0, 0xfd, 0xe8, 0, 0, 0, 100];

    #[test]
    fn vpn_entries_with_one_label_a_stack_and_a_withdrawn_label() {
        let one = [&[112][..], &[0, 0x3e, 0x81], &RD, &[10, 1, 2]].concat();
        assert_eq!(keys(&one), Ok(vec![(0, "65000:100 10.1.2.0/24".into(), Some(1000))]));
        let stack = [&[144][..], &[0, 0x3e, 0x80, 0, 0x3e, 0x91], &RD, &[10, 1, 2, 3]].concat();
        assert_eq!(keys(&stack), Ok(vec![(0, "65000:100 10.1.2.3/32".into(), None)]));
        let gone = [&[112][..], &[0x80, 0, 0], &RD, &[10, 1, 2]].concat();
        assert_eq!(keys(&gone).unwrap()[0].1, "65000:100 10.1.2.0/24");
        let six = [&[120][..], &[0, 0x3e, 0x81], &RD, &[0x20, 1, 0x0d, 0xb8]].concat();
        assert_eq!(entries(Family::Vpnv6, false, &six), Ok(vec![(0, "65000:100 2001:db8::/32".into(), Some(1000))]));
    }

    #[test]
    fn vpn_entries_that_do_not_fit_say_where() {
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
    fn host_bits_are_cleared_and_lengths_beyond_the_address_refused() {
        let four = |bytes: &[u8]| entries(Family::Ipv4Unicast, false, bytes);
        let got: Vec<_> = four(&[12, 10, 0xff, 0]).unwrap().into_iter().map(|e| e.1).collect();
        assert_eq!(got, ["10.240.0.0/12", "0.0.0.0/0"]);
        assert_eq!(four(&[8, 10, 33, 1, 1, 1, 1, 1]).unwrap_err().offset, 2);
        let six = |bytes: &[u8]| entries(Family::Ipv6Unicast, false, bytes);
        assert_eq!(six(&[28, 0x20, 1, 0x0d, 0xbf, 0]).unwrap()[0].1, "2001:db0::/28");
        assert!(six(&[&[129][..], &[0; 17]].concat()).is_err());
    }

    #[test]
    fn path_identifiers_stand_before_each_entry() {
        let two = [0, 0, 0, 7, 8, 10, 0, 0, 0, 8, 8, 10];
        let got: Vec<_> = entries(Family::Ipv4Unicast, true, &two).unwrap().into_iter().map(|e| (e.0, e.1)).collect();
        assert_eq!(got, [(7, "10.0.0.0/8".into()), (8, "10.0.0.0/8".into())]);
        assert_eq!(entries(Family::Ipv4Unicast, true, &two[..9]).unwrap_err().offset, 6);
    }
}
