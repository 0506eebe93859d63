//! NOTIFICATION (RFC 4271 §4.5), Cease subcodes (RFC 4486, 8538, 9384), shutdown communication (RFC 9003).

use crate::{Cause, DecodeError, HEADER_LEN, MAX_MESSAGE, MessageType, finish, start};
use std::fmt;

/// Error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    MessageHeader,
    Open,
    Update,
    HoldTimerExpired,
    FiniteStateMachine,
    Cease,
    /// RFC 7313.
    RouteRefresh,
    /// RFC 9687.
    SendHoldTimerExpired,
    Other(u8),
}

impl Code {
    pub fn number(self) -> u8 {
        match self {
            Self::MessageHeader => 1,
            Self::Open => 2,
            Self::Update => 3,
            Self::HoldTimerExpired => 4,
            Self::FiniteStateMachine => 5,
            Self::Cease => 6,
            Self::RouteRefresh => 7,
            Self::SendHoldTimerExpired => 8,
            Self::Other(n) => n,
        }
    }

    pub fn from_number(n: u8) -> Self {
        match n {
            1 => Self::MessageHeader,
            2 => Self::Open,
            3 => Self::Update,
            4 => Self::HoldTimerExpired,
            5 => Self::FiniteStateMachine,
            6 => Self::Cease,
            7 => Self::RouteRefresh,
            8 => Self::SendHoldTimerExpired,
            n => Self::Other(n),
        }
    }
}

/// Subcodes of Cease (RFC 4486 §3, RFC 8538 §3, RFC 9384).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cease {
    MaximumPrefixes,
    AdministrativeShutdown,
    PeerDeconfigured,
    AdministrativeReset,
    ConnectionRejected,
    OtherConfigurationChange,
    ConnectionCollision,
    OutOfResources,
    HardReset,
    BfdDown,
}

impl Cease {
    pub fn number(self) -> u8 {
        match self {
            Self::MaximumPrefixes => 1,
            Self::AdministrativeShutdown => 2,
            Self::PeerDeconfigured => 3,
            Self::AdministrativeReset => 4,
            Self::ConnectionRejected => 5,
            Self::OtherConfigurationChange => 6,
            Self::ConnectionCollision => 7,
            Self::OutOfResources => 8,
            Self::HardReset => 9,
            Self::BfdDown => 10,
        }
    }
}

/// A NOTIFICATION message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: Code,
    pub subcode: u8,
    pub data: Vec<u8>,
}

impl Notification {
    /// Data beyond what a message holds is cut off.
    pub fn new(code: Code, subcode: u8, data: &[u8]) -> Self {
        let room = MAX_MESSAGE - HEADER_LEN - 2;
        Self { code, subcode, data: data.get(..room).unwrap_or(data).to_vec() }
    }

    pub fn cease(subcode: Cease) -> Self {
        Self::new(Code::Cease, subcode.number(), &[])
    }

    /// Cease/2 with the operator's words, of which the first 255 bytes go along (RFC 9003 §2).
    pub fn shutdown(words: &str) -> Self {
        let mut text = words;
        while text.len() > 255 {
            text = text.char_indices().next_back().map_or("", |(at, _)| &text[..at]);
        }
        let len = u8::try_from(text.len()).unwrap_or(0);
        let data = if text.is_empty() { Vec::new() } else { [&[len][..], text.as_bytes()].concat() };
        Self::new(Code::Cease, Cease::AdministrativeShutdown.number(), &data)
    }

    /// The same, wrapped so that the peer does not take it for a restart (RFC 8538 §3.1).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let data = [&[self.code.number(), self.subcode][..], &self.data].concat();
        Self::new(Code::Cease, Cease::HardReset.number(), &data)
    }

    pub fn is_hard_reset(&self) -> bool {
        self.code == Code::Cease && self.subcode == Cease::HardReset.number()
    }

    /// Reads the bytes behind the header.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let ([code, subcode], data) = body.split_first_chunk::<2>().ok_or(DecodeError {
            offset: HEADER_LEN,
            field: "NOTIFICATION",
            cause: Cause::Length { got: body.len(), want: "2 or more" },
        })?;
        Ok(Self::new(Code::from_number(*code), *subcode, data))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + 2 + self.data.len());
        start(&mut out, MessageType::Notification);
        out.extend_from_slice(&[self.code.number(), self.subcode]);
        out.extend_from_slice(&self.data);
        out.truncate(MAX_MESSAGE);
        finish(&mut out, 0);
        out
    }

    /// The operator's words in an administrative shutdown or reset (RFC 9003 §2), made fit for a log line.
    pub fn shutdown_communication(&self) -> Option<String> {
        if self.code != Code::Cease || ![2, 4].contains(&self.subcode) {
            return None;
        }
        let (&len, text) = self.data.split_first()?;
        let text = String::from_utf8_lossy(text.get(..usize::from(len))?);
        // Whoever sends it is not trusted with our terminal.
        let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(clean).filter(|t| !t.is_empty())
    }

    /// The name of code and subcode.
    fn names(&self) -> (&'static str, &'static str) {
        let pick = |names: &'static [&'static str]| names.get(usize::from(self.subcode)).copied().unwrap_or("");
        match self.code {
            Code::MessageHeader => {
                ("message header error", pick(&["", "connection not synchronized", "bad message length", "bad message type"]))
            }
            Code::Open => (
                "OPEN error",
                pick(&[
                    "",
                    "unsupported version number",
                    "bad peer AS",
                    "bad BGP identifier",
                    "unsupported optional parameter",
                    "",
                    "unacceptable hold time",
                    "unsupported capability",
                    "",
                    "",
                    "",
                    "role mismatch",
                ]),
            ),
            Code::Update => (
                "UPDATE error",
                pick(&[
                    "",
                    "malformed attribute list",
                    "unrecognized well-known attribute",
                    "missing well-known attribute",
                    "attribute flags error",
                    "attribute length error",
                    "invalid ORIGIN",
                    "",
                    "invalid NEXT_HOP",
                    "optional attribute error",
                    "invalid network field",
                    "malformed AS_PATH",
                ]),
            ),
            Code::HoldTimerExpired => ("hold timer expired", ""),
            Code::FiniteStateMachine => (
                "finite state machine error",
                pick(&["", "unexpected message in OpenSent", "unexpected message in OpenConfirm", "unexpected message in Established"]),
            ),
            Code::Cease => (
                "Cease",
                pick(&[
                    "",
                    "maximum number of prefixes reached",
                    "administrative shutdown",
                    "peer de-configured",
                    "administrative reset",
                    "connection rejected",
                    "other configuration change",
                    "connection collision resolution",
                    "out of resources",
                    "hard reset",
                    "BFD down",
                ]),
            ),
            Code::RouteRefresh => ("ROUTE-REFRESH error", pick(&["", "invalid message length"])),
            Code::SendHoldTimerExpired => ("send hold timer expired", ""),
            Code::Other(_) => ("unknown error", ""),
        }
    }
}

/// `Cease: administrative shutdown (6/2) "moving house"`
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.names();
        f.write_str(code)?;
        if !subcode.is_empty() {
            write!(f, ": {subcode}")?;
        }
        write!(f, " ({}/{})", self.code.number(), self.subcode)?;
        if let Some(text) = self.shutdown_communication() {
            write!(f, " \"{text}\"")?;
        }
        match self.data.split_first_chunk::<2>() {
            // What is wrapped twice is not unwrapped: the depth is the peer's choice.
            Some(([code, subcode], data)) if self.is_hard_reset() && (*code, *subcode) != (6, Cease::HardReset.number()) => {
                write!(f, " for {}", Self::new(Code::from_number(*code), *subcode, data))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_the_shutdown_communication() {
        let n = Notification::new(Code::Cease, 2, b"\x0dmoving\x1b house");
        assert_eq!(n.to_string(), "Cease: administrative shutdown (6/2) \"moving  house\"");
        assert_eq!(Notification::new(Code::Cease, 2, b"\x7fshort").shutdown_communication(), None);
        assert_eq!(Notification::new(Code::Other(77), 200, &[]).to_string(), "unknown error (77/200)");
        let back = Notification::decode(&n.encode()[HEADER_LEN..]).unwrap();
        assert_eq!(back, n);
    }

    #[test]
    fn the_operators_words_are_cut_between_characters_and_a_hard_reset_says_what_for() {
        let n = Notification::shutdown("moving house");
        assert_eq!(n.clone().into_hard_reset().to_string(), format!("Cease: hard reset (6/9) for {n}"));
        assert_eq!(Notification::shutdown(&"ü".repeat(200)).shutdown_communication().unwrap().chars().count(), 127);
        assert_eq!(Notification::shutdown("").data, []);
        assert_eq!(n.clone().into_hard_reset().into_hard_reset().to_string(), "Cease: hard reset (6/9)");
    }

    #[test]
    fn data_never_exceeds_a_message() {
        assert_eq!(Notification::new(Code::Update, 1, &[0; 9000]).encode().len(), MAX_MESSAGE);
    }
}
