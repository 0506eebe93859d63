//! Values that several fields share: addresses, prefixes, labels, AS numbers, passwords, BFD.

use super::at::At;
use crate::{Bfd, IntentError, Protection, model::HIDDEN};
use edgeplex_types::{InvalidValue, Label, LabelRange};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP MD5 keys are at most this long in Linux (TCP_MD5SIG_MAXKEYLEN), bytes.
pub(super) const MAX_PASSWORD: usize = 80;
/// Between AS numbers that fit two octets and those that do not stands AS_TRANS (RFC 6793 §9).
const AS_TRANS: u32 = 23456;

pub(super) fn protection(a: &At<'_>) -> Result<Protection, IntentError> {
    a.choice(&[("restart", Protection::Restart), ("standby", Protection::Standby)])
}

impl<'a> At<'a> {
    pub(super) fn label(&self) -> Result<Label, IntentError> {
        let right = "must be 16 to 1048575 (0 to 15 are reserved)";
        let n: u32 = self.number(u64::from(Label::FIRST_UNRESERVED.get())..=u64::from(Label::MAX.get()), right)?;
        Label::try_from(n).map_err(|e| self.invalid(&e))
    }

    /// `first` and `last` of a mapping, either of which may be left out.
    pub(super) fn labels(&self, first: u32, last: u32, more: &[&str]) -> Result<LabelRange, IntentError> {
        let f = self.fields(&[&["first", "last"], more].concat())?;
        let number = |key, default: u32| -> Result<Label, IntentError> {
            let default = Label::try_from(default).map_err(|e| self.invalid(&e))?;
            Ok(f.may(key, At::label)?.unwrap_or(default))
        };
        LabelRange::new(number("first", first)?, number("last", last)?).map_err(|e| self.invalid(&e))
    }

    pub(super) fn asn(&self) -> Result<u32, IntentError> {
        let right = "must be an AS number, 1 to 4294967294 but not 23456 (AS_TRANS, RFC 6793)";
        let n: u32 = self.number(1..=u64::from(u32::MAX - 1), right)?;
        // RFC 7607 forbids 0, RFC 6793 §9 reserves 23456, RFC 7300 the last.
        if n == AS_TRANS { Err(self.wrong(right)) } else { Ok(n) }
    }

    pub(super) fn mtu(&self) -> Result<u16, IntentError> {
        self.number(576..=9216, "must be 576 to 9216 bytes")
    }

    pub(super) fn bfd(&self) -> Result<Bfd, IntentError> {
        let f = self.fields(&["interval", "multiplier"])?;
        Ok(Bfd { interval: f.number("interval", 10..=60_000, " ms", 300)?, multiplier: f.number("multiplier", 2..=255, "", 3)? })
    }

    /// Of a switch port, which is an interface of the host: IFNAMSIZ leaves 15 characters.
    pub(super) fn port(&self) -> Result<String, IntentError> {
        let s = self.text()?;
        let ok = (1..=15).contains(&s.len())
            && !s.starts_with(['.', '-'])
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if ok { Ok(s.to_owned()) } else { Err(self.wrong("must be an interface name: 1 to 15 letters, digits, `-`, `_` or `.`")) }
    }

    /// A unicast address.
    pub(super) fn address4(&self) -> Result<Ipv4Addr, IntentError> {
        let a: Ipv4Addr = self.text()?.parse().map_err(|_| self.wrong("must be an IPv4 address such as 192.168.1.2"))?;
        if unicast(a) { Ok(a) } else { Err(self.wrong("must be a unicast address that a host can have")) }
    }

    /// A unicast address of either family; not link-local, which would need an interface beside it.
    pub(super) fn address(&self) -> Result<IpAddr, IntentError> {
        let a: IpAddr = self.text()?.parse().map_err(|_| self.wrong("must be an IP address such as 192.168.1.2 or 2001:db8:1::2"))?;
        match a {
            IpAddr::V4(v4) if unicast(v4) => Ok(a),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                Err(self.wrong("is link-local; give the global or unique local address of the same router"))
            }
            IpAddr::V6(v6) if unicast6(v6) => Ok(a),
            _ => Err(self.wrong("must be a unicast address that a host can have")),
        }
    }

    pub(super) fn prefix4(&self) -> Result<Ipv4Net, IntentError> {
        let p: Ipv4Net = self.text()?.parse().map_err(|_| self.wrong("must be an IPv4 prefix such as 10.9.0.0/16"))?;
        if p.trunc() == p { Ok(p) } else { Err(self.wrong(format!("has host bits set; must be {}", p.trunc()))) }
    }

    pub(super) fn prefix(&self) -> Result<IpNet, IntentError> {
        self.prefix_of(self.text()?)
    }

    pub(super) fn prefix_of(&self, text: &str) -> Result<IpNet, IntentError> {
        let p: IpNet = text.parse().map_err(|_| self.wrong("must be a prefix such as 10.9.0.0/16 or 2001:db8:9::/48"))?;
        if p.trunc() == p { Ok(p) } else { Err(self.wrong(format!("has host bits set; must be {}", p.trunc()))) }
    }

    /// An address that a host can have on the subnet it comes with.
    pub(super) fn interface_address(&self) -> Result<Ipv4Net, IntentError> {
        let n: Ipv4Net =
            self.text()?.parse().map_err(|_| self.wrong("must be an address with its prefix length, such as 192.168.1.1/30"))?;
        if !(1..=31).contains(&n.prefix_len()) {
            return Err(self.wrong("must have a prefix length of 1 to 31, so that a neighbour fits in the subnet"));
        }
        if !unicast(n.addr()) {
            return Err(self.wrong("must be a unicast address, such as 192.168.1.1/30"));
        }
        if !usable(n, n.addr()) {
            let hosts = n.hosts().next().map(|h| format!(", such as {h}/{}", n.prefix_len())).unwrap_or_default();
            return Err(self.wrong(format!("must be an address that a host can have in {}{hosts}", n.trunc())));
        }
        Ok(n)
    }

    pub(super) fn interface_address6(&self) -> Result<Ipv6Net, IntentError> {
        let n: Ipv6Net =
            self.text()?.parse().map_err(|_| self.wrong("must be an IPv6 address with its prefix length, such as 2001:db8:1::1/64"))?;
        if !(1..=127).contains(&n.prefix_len()) {
            return Err(self.wrong("must have a prefix length of 1 to 127, so that a neighbour fits in the subnet"));
        }
        if n.addr().is_unicast_link_local() {
            return Err(self.wrong("is link-local; the PE has such an address by itself, give a global or unique local one"));
        }
        if !unicast6(n.addr()) {
            return Err(self.wrong("must be a unicast address, such as 2001:db8:1::1/64"));
        }
        if !usable6(n, n.addr()) {
            return Err(self.wrong(format!("is the subnet-router anycast address of {}; must be a host's (RFC 4291 §2.6.1)", n.trunc())));
        }
        Ok(n)
    }

    pub(super) fn password(&self, longest: usize) -> Result<String, IntentError> {
        let hidden = |right: &str| IntentError::new(self.document, &self.path, HIDDEN, right);
        let s = self.value.as_str().ok_or_else(|| hidden("must be text; put it in quotes"))?;
        // What was shown may come back as input; taking it for a password would end the session.
        if s == HIDDEN {
            return Err(hidden("stands for a password where one is shown; give the password itself"));
        }
        let ok = (1..=longest).contains(&s.len()) && !s.contains('\0');
        if ok { Ok(s.to_owned()) } else { Err(hidden(&format!("must be 1 to {longest} bytes"))) }
    }

    pub(super) fn values<T: std::str::FromStr<Err = InvalidValue> + PartialEq>(&self) -> Result<Vec<T>, IntentError> {
        let all: Vec<T> = self.list(At::parse)?;
        match all.iter().enumerate().find(|(i, t)| all[..*i].contains(*t)) {
            Some((i, _)) => {
                let given = self.value.get(i).and_then(serde_json::Value::as_str).unwrap_or_default();
                Err(IntentError::new(self.document, format!("{}[{i}]", self.path), given, "is given twice"))
            }
            None => Ok(all),
        }
    }
}

fn unicast(a: Ipv4Addr) -> bool {
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.octets()[0] == 0 || a.octets()[0] >= 240)
}

fn unicast6(a: Ipv6Addr) -> bool {
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.to_ipv4_mapped().is_some())
}

/// Whether a host can have the address in the subnet: not its first or last, except on a point-to-point /31 (RFC 3021).
pub(crate) fn usable(net: Ipv4Net, a: Ipv4Addr) -> bool {
    net.contains(&a) && (net.prefix_len() >= 31 || (a != net.network() && a != net.broadcast()))
}

/// Not the subnet's first (RFC 4291 §2.6.1), except on a point-to-point /127 (RFC 6164).
pub(crate) fn usable6(net: Ipv6Net, a: Ipv6Addr) -> bool {
    net.contains(&a) && (net.prefix_len() >= 127 || a != net.network())
}
