//! ROUTE-REFRESH (RFC 2918).

use crate::{Cause, Code, DecodeError, Family, Fatal, HEADER_LEN, MessageType, Notification, finish, start};

/// Asks the peer to send all routes of a family again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRefresh {
    pub afi: u16,
    /// Message subtype (RFC 7313 §3.2); zero is the plain request.
    pub subtype: u8,
    pub safi: u8,
}

impl RouteRefresh {
    pub fn new(family: Family) -> Self {
        let (afi, safi) = family.afi_safi();
        Self { afi, subtype: 0, safi }
    }

    /// The family asked for, if it is one of ours and this is a plain request.
    pub fn family(&self) -> Option<Family> {
        Family::from_afi_safi(self.afi, self.safi).filter(|_| self.subtype == 0)
    }

    pub fn decode(body: &[u8]) -> Result<Self, Fatal> {
        match *body {
            [hi, lo, subtype, safi] => Ok(Self { afi: u16::from_be_bytes([hi, lo]), subtype, safi }),
            // RFC 7313 §5
            _ => Err(Fatal {
                notification: Notification::new(Code::RouteRefresh, 1, body),
                error: DecodeError { offset: HEADER_LEN, field: "ROUTE-REFRESH", cause: Cause::Length { got: body.len(), want: "4" } },
            }),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + 4);
        start(&mut out, MessageType::RouteRefresh);
        let [hi, lo] = self.afi.to_be_bytes();
        out.extend_from_slice(&[hi, lo, self.subtype, self.safi]);
        finish(&mut out, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_refuses_other_lengths() {
        let bytes = RouteRefresh::new(Family::Vpnv4).encode();
        assert_eq!(bytes[HEADER_LEN..], [0, 1, 0, 128]);
        assert_eq!(RouteRefresh::decode(&bytes[HEADER_LEN..]).unwrap().family(), Some(Family::Vpnv4));
        let n = RouteRefresh::decode(&[0, 1, 0]).unwrap_err().notification;
        assert_eq!((n.code, n.subcode, n.data), (Code::RouteRefresh, 1, vec![0, 1, 0]));
    }
}
