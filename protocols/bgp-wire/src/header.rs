//! The message header (RFC 4271 §4.1) and cutting a stream into messages.

use crate::{Cause, DecodeError, Fatal, Notification, notification::Code};

pub const HEADER_LEN: usize = 19;
/// Longest message, header included (RFC 4271 §4).
pub const MAX_MESSAGE: usize = 4096;
/// The same once both sides have agreed on it (RFC 8654 §3).
pub const MAX_EXTENDED_MESSAGE: usize = 65535;
const MARKER: [u8; 16] = [0xff; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl MessageType {
    fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    fn from_number(n: u8) -> Option<Self> {
        [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh].into_iter().find(|t| t.number() == n)
    }

    /// Shortest message of the type, and whether it is the only length (RFC 4271 §6.1).
    fn length(self) -> (usize, bool) {
        match self {
            Self::Open => (29, false),
            Self::Update => (23, false),
            Self::Notification => (21, false),
            Self::Keepalive => (19, true),
            // RFC 7313 §5 gives a wrong length of ROUTE-REFRESH an error of its own.
            Self::RouteRefresh => (19, false),
        }
    }
}

/// One whole message: what it is, and the bytes behind its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: MessageType,
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Length of the whole message in the stream.
    pub fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }
}

/// [`frame_within`] the length that any peer may send.
pub fn frame(stream: &[u8]) -> Result<Option<Frame<'_>>, Fatal> {
    frame_within(stream, MAX_MESSAGE)
}

/// Cuts the first message off a stream. `None` until it is whole; an error is final for the connection. The header
/// is checked as soon as it is there, so that never more than `limit` bytes need be kept: [`MAX_MESSAGE`] or
/// [`MAX_EXTENDED_MESSAGE`].
pub fn frame_within(stream: &[u8], limit: usize) -> Result<Option<Frame<'_>>, Fatal> {
    let fatal = |offset, field, cause, subcode, data: &[u8]| Fatal {
        notification: Notification::new(Code::MessageHeader, subcode, data),
        error: DecodeError { offset, field, cause },
    };
    // A wrong marker shows before the header is whole.
    let marker = stream.get(..16).unwrap_or(stream);
    if let Some(at) = marker.iter().zip(MARKER).position(|(got, want)| *got != want) {
        return Err(fatal(at, "marker", Cause::Malformed("not all ones"), 1, &[]));
    }
    let Some(header) = stream.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let length = [header[16], header[17]];
    let len = usize::from(u16::from_be_bytes(length));
    if !(HEADER_LEN..=limit).contains(&len) {
        return Err(fatal(16, "length", Cause::Length { got: len, want: "19 to what was agreed on" }, 2, &length));
    }
    let Some(kind) = MessageType::from_number(header[18]) else {
        return Err(fatal(18, "type", Cause::Value(header[18].into()), 3, &[header[18]]));
    };
    let (least, only) = kind.length();
    // RFC 8654 §4: OPEN and KEEPALIVE stay as they were.
    let long_open = kind == MessageType::Open && len > MAX_MESSAGE;
    if len < least || only && len != least || long_open {
        return Err(fatal(16, "length", Cause::Length { got: len, want: "as the type requires" }, 2, &length));
    }
    Ok(stream.get(HEADER_LEN..len).map(|body| Frame { kind, body }))
}

/// Appends a header whose length [`finish`] fills in.
pub(crate) fn start(out: &mut Vec<u8>, kind: MessageType) {
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, kind.number()]);
}

/// Completes the message that began at `base`.
pub(crate) fn finish(out: &mut [u8], base: usize) {
    // Every composer keeps below MAX_EXTENDED_MESSAGE.
    let len = u16::try_from(out.len() - base).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(slot) = out.get_mut(base + 16..base + 18) {
        slot.copy_from_slice(&len);
    }
}

/// A KEEPALIVE message (RFC 4271 §4.4).
pub fn keepalive() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    start(&mut out, MessageType::Keepalive);
    finish(&mut out, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(len: u16, kind: u8) -> Vec<u8> {
        [&MARKER[..], &len.to_be_bytes(), &[kind]].concat()
    }

    fn error(bytes: &[u8]) -> (u8, u8, Vec<u8>) {
        let n = frame(bytes).unwrap_err().notification;
        (n.code.number(), n.subcode, n.data)
    }

    #[test]
    fn keepalives_are_cut_off_one_by_one() {
        let two = [keepalive(), keepalive()].concat();
        let first = frame(&two).unwrap().unwrap();
        assert_eq!((first.kind, first.wire_len()), (MessageType::Keepalive, 19));
        assert_eq!(frame(&two[..18]), Ok(None));
        assert_eq!(frame(&[]), Ok(None));
    }

    #[test]
    fn header_errors_of_rfc_4271_6_1() {
        let mut bad = keepalive();
        bad[3] = 0;
        assert_eq!(error(&bad[..5]), (1, 1, vec![]));
        assert_eq!(error(&header(18, 4)), (1, 2, vec![0, 18]));
        assert_eq!(error(&header(4097, 2)), (1, 2, vec![0x10, 1]));
        assert_eq!(error(&header(20, 4)), (1, 2, vec![0, 20]));
        assert_eq!(error(&header(28, 1)), (1, 2, vec![0, 28]));
        assert_eq!(error(&header(22, 2)), (1, 2, vec![0, 22]));
        assert_eq!(error(&header(19, 9)), (1, 3, vec![9]));
    }

    #[test]
    fn long_messages_once_agreed_on_but_no_long_open() {
        assert_eq!(frame_within(&header(65535, 2), MAX_EXTENDED_MESSAGE), Ok(None));
        assert_eq!(frame_within(&header(4097, 1), MAX_EXTENDED_MESSAGE).unwrap_err().notification.subcode, 2);
    }
}
