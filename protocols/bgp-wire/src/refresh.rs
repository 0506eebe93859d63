//! ROUTE-REFRESH (RFC 2918, RFC 7313).

use crate::{Cause, Code, DecodeError, Family, Fatal, HEADER_LEN, MessageType, Notification, finish, start};

/// Message subtype (RFC 7313 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Send all routes of the family again.
    Request,
    /// They come now (BoRR).
    Begin,
    /// They have come (EoRR).
    End,
    /// Of no meaning to us: ignored (RFC 7313 §5).
    Other(u8),
}

/// Asks for all routes of a family again, or marks begin and end of their coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRefresh {
    pub afi: u16,
    pub safi: u8,
    pub kind: Refresh,
}

impl RouteRefresh {
    pub fn new(family: Family, kind: Refresh) -> Self {
        let (afi, safi) = family.afi_safi();
        Self { afi, safi, kind }
    }

    /// The family, if it is one of ours.
    pub fn family(&self) -> Option<Family> {
        Family::from_afi_safi(self.afi, self.safi)
    }

    pub fn decode(body: &[u8]) -> Result<Self, Fatal> {
        match *body {
            [hi, lo, subtype, safi] => {
                let kind = match subtype {
                    0 => Refresh::Request,
                    1 => Refresh::Begin,
                    2 => Refresh::End,
                    other => Refresh::Other(other),
                };
                Ok(Self { afi: u16::from_be_bytes([hi, lo]), safi, kind })
            }
            // RFC 7313 §5
            _ => Err(Fatal {
                notification: Notification::new(Code::RouteRefresh, 1, body),
                error: DecodeError { offset: HEADER_LEN, field: "ROUTE-REFRESH", cause: Cause::Length { got: body.len(), want: "4" } },
            }),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + 4);
        self.write(&mut out);
        out
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        let base = out.len();
        start(out, MessageType::RouteRefresh);
        let [hi, lo] = self.afi.to_be_bytes();
        let subtype = match self.kind {
            Refresh::Request => 0,
            Refresh::Begin => 1,
            Refresh::End => 2,
            Refresh::Other(n) => n,
        };
        out.extend_from_slice(&[hi, lo, subtype, self.safi]);
        finish(out, base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_refuses_other_lengths() {
        let bytes = RouteRefresh::new(Family::Vpnv4, Refresh::Request).encode();
        assert_eq!(bytes[HEADER_LEN..], [0, 1, 0, 128]);
        assert_eq!(RouteRefresh::decode(&bytes[HEADER_LEN..]).unwrap().family(), Some(Family::Vpnv4));
        for kind in [Refresh::Begin, Refresh::End, Refresh::Other(7)] {
            let sent = RouteRefresh::new(Family::Ipv6Unicast, kind);
            assert_eq!(RouteRefresh::decode(&sent.encode()[HEADER_LEN..]), Ok(sent));
        }
        let n = RouteRefresh::decode(&[0, 1, 0]).unwrap_err().notification;
        assert_eq!((n.code, n.subcode, n.data), (Code::RouteRefresh, 1, vec![0, 1, 0]));
    }
}
