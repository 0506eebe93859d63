//! The corpus of malformed UPDATEs: read from a data file, composed byte by byte for whichever family is spoken.
//!
//! A case's `attributes` are words: hexadecimal bytes, or a name for what an honest UPDATE would hold there:
//! `ORIGIN`, `AS_PATH`, `REACH` (NEXT_HOP, or MP_REACH_NLRI where the family needs it), `REST` (what the session and
//! the VPN need besides), `GOOD` (all of these), `AS` (the speaker's AS in four octets), `NH` (its address),
//! `COMMUNITIES500` (as many communities).

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// What RFC 7606 (or the RFC named by the case) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Expect {
    /// Nothing is wrong with it, odd as it looks: the route is taken.
    Accept,
    AttributeDiscard,
    TreatAsWithdraw,
    /// The session may be reset.
    SessionReset,
}

impl Expect {
    pub(super) fn keeps_session(self) -> bool {
        self != Self::SessionReset
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub name: String,
    pub rfc: String,
    pub expect: Expect,
    #[serde(default)]
    pub attributes: String,
    /// The NLRI field instead of the bad prefix, hexadecimal.
    pub nlri: Option<String>,
    /// The whole body instead, hexadecimal: lengths included.
    pub body: Option<String>,
    /// Only makes sense where NLRI and next hop stand outside of MP_REACH_NLRI.
    #[serde(default)]
    pub classic: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

pub(super) fn load(path: &Path) -> Result<Vec<Case>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: File = serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let voice = Voice { asn: 65101, next_hop: Ipv4Addr::LOCALHOST, next_hop6: None, reach: Reach::Classic };
    for case in &file.cases {
        voice.bad(case, &[24, 10, 0, 0]).with_context(|| format!("case {}", case.name))?;
    }
    Ok(file.cases)
}

/// Where the routes of a session go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Classic,
    /// MP_REACH_NLRI with this AFI and SAFI; for SAFI 128 the NLRI gets label 99 and RD 65000:66.
    Multi(u16, u8),
}

/// The speaker that announces, as far as its attributes show it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voice {
    /// Its AS; the same as the peer's makes an internal session.
    pub asn: u16,
    pub next_hop: Ipv4Addr,
    /// For IPv6 routes; without it, the other one mapped.
    pub next_hop6: Option<Ipv6Addr>,
    pub reach: Reach,
}

/// AS of the device under test and of every speaker of its core.
const OURS: u16 = 65000;

impl Voice {
    /// An honest UPDATE of one prefix (length and bytes).
    pub(super) fn good(&self, prefix: &[u8]) -> Result<Vec<u8>> {
        self.compose("GOOD", None, prefix)
    }

    pub(super) fn bad(&self, case: &Case, prefix: &[u8]) -> Result<Vec<u8>> {
        match &case.body {
            Some(body) => self.words(body, prefix),
            None => self.compose(&case.attributes, case.nlri.as_deref(), prefix),
        }
    }

    fn compose(&self, attributes: &str, nlri: Option<&str>, prefix: &[u8]) -> Result<Vec<u8>> {
        let attributes = self.words(attributes, prefix)?;
        let nlri = match (nlri, self.reach) {
            (Some(text), _) => self.words(text, prefix)?,
            (None, Reach::Classic) => prefix.to_vec(),
            (None, Reach::Multi(..)) => vec![],
        };
        let length = u16::try_from(attributes.len())?.to_be_bytes();
        Ok([&[0, 0][..], &length, &attributes, &nlri].concat())
    }

    fn words(&self, text: &str, prefix: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![];
        for word in text.split_whitespace() {
            match word {
                "GOOD" => out.extend(self.words("ORIGIN AS_PATH REACH REST", prefix)?),
                "ORIGIN" => out.extend([0x40, 1, 1, 0]),
                "AS_PATH" if self.asn == OURS => out.extend([0x40, 2, 0]),
                "AS_PATH" => {
                    let [hi, lo] = self.asn.to_be_bytes();
                    out.extend([0x40, 2, 6, 2, 1, 0, 0, hi, lo]);
                }
                "REACH" => out.extend(self.reach_attribute(prefix)?),
                "REST" => {
                    if self.asn == OURS {
                        out.extend([0x40, 5, 4, 0, 0, 0, 100]);
                    }
                    if matches!(self.reach, Reach::Multi(_, 128)) {
                        // RT:65000:100
                        out.extend([0xc0, 16, 8, 0, 2, 0xfd, 0xe8, 0, 0, 0, 100]);
                    }
                }
                "AS" => {
                    let [hi, lo] = self.asn.to_be_bytes();
                    out.extend([0, 0, hi, lo]);
                }
                "NH" => out.extend(self.next_hop.octets()),
                "COMMUNITIES500" => out.extend((1..=500_u16).flat_map(|n| [[0xfd, 0xe8], n.to_be_bytes()].concat())),
                hex => out.extend(bytes(hex)?),
            }
        }
        Ok(out)
    }

    fn reach_attribute(&self, prefix: &[u8]) -> Result<Vec<u8>> {
        let (afi, safi) = match self.reach {
            Reach::Classic => return Ok([&[0x40, 3, 4][..], &self.next_hop.octets()].concat()),
            Reach::Multi(afi, safi) => (afi, safi),
        };
        let octets = self.next_hop.octets();
        let mapped = self.next_hop6.unwrap_or_else(|| self.next_hop.to_ipv6_mapped()).octets().to_vec();
        let address = if afi == 1 { octets.to_vec() } else { mapped };
        let (length, rest) = prefix.split_first().context("prefix")?;
        let (next_hop, nlri) = match safi {
            128 => {
                let head = [length.checked_add(88).context("prefix length")?, 0, 6, 0x31, 0, 0, 0xfd, 0xe8, 0, 0, 0, 66];
                ([&[0; 8][..], &address].concat(), [&head[..], rest].concat())
            }
            1 => (address, prefix.to_vec()),
            other => bail!("SAFI {other}"),
        };
        let [a, b] = afi.to_be_bytes();
        let value = [&[a, b, safi, u8::try_from(next_hop.len())?][..], &next_hop, &[0], &nlri].concat();
        Ok([&[0x80, 14, u8::try_from(value.len())?][..], &value].concat())
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    ensure!(hex.len().is_multiple_of(2) && hex.is_ascii(), "{hex}: not whole bytes");
    let pair =
        |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap_or_default(), 16).with_context(|| format!("{hex}: not hexadecimal"));
    hex.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_updates_are_what_the_rfcs_say() {
        let classic = Voice { asn: 65101, next_hop: Ipv4Addr::new(192, 0, 2, 1), next_hop6: None, reach: Reach::Classic };
        let body = classic.good(&[24, 10, 1, 2]).unwrap();
        let attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfe, 0x4d, 0x40, 3, 4, 192, 0, 2, 1];
        assert_eq!(body, [&[0, 0, 0, 20][..], &attributes, &[24, 10, 1, 2]].concat());
        let vpn = Voice { asn: OURS, next_hop: Ipv4Addr::new(192, 0, 2, 1), next_hop6: None, reach: Reach::Multi(1, 128) };
        let body = vpn.good(&[24, 10, 1, 2]).unwrap();
        assert_eq!(body[11..16], [0x80, 14, 32, 0, 1]);
        assert_eq!(body[2..4], [0, u8::try_from(body.len() - 4).unwrap()]);
    }

    #[test]
    fn the_corpus_is_whole() {
        let cases = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/bgp-updates.yaml")).unwrap();
        let mut names: Vec<_> = cases.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "two cases of one name");
        assert!(cases.len() >= 50);
    }
}
