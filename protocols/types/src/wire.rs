//! The envelope of everything sent between our own processes or written to disk: a version byte, then
//! the value in postcard's encoding. On a stream it is preceded by a 32-bit big-endian length.
//! Both length and version are checked before anything is decoded; the sender is assumed hostile.

use serde::{Serialize, de::DeserializeOwned};

/// No message may be longer than this, envelope included, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("message of {got} bytes: at most {max} are allowed")]
    TooLong { got: usize, max: usize },
    #[error("message is empty")]
    Empty,
    #[error("message of version {got}: this side speaks version {want}")]
    Version { got: u8, want: u8 },
    #[error("message body does not decode: {0}")]
    Body(String),
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
}

/// Encodes `value` under `version`. Fails if the result would exceed [`MAX_MESSAGE`].
pub fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, WireError> {
    let out = postcard::to_extend(value, vec![version]).map_err(|e| WireError::Body(e.to_string()))?;
    if out.len() > MAX_MESSAGE { Err(WireError::TooLong { got: out.len(), max: MAX_MESSAGE }) } else { Ok(out) }
}

/// Decodes one whole message; nothing may follow it.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::TooLong { got: bytes.len(), max: MAX_MESSAGE });
    }
    let (&got, body) = bytes.split_first().ok_or(WireError::Empty)?;
    if got != version {
        return Err(WireError::Version { got, want: version });
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(|e| WireError::Body(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(WireError::Trailing(rest.len())) }
}

/// [`encode`], preceded by its length, ready for a stream.
pub fn encode_framed<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, WireError> {
    let body = encode(version, value)?;
    // encode() bounds the length by MAX_MESSAGE, far below 2^32.
    let len = u32::try_from(body.len()).map_err(|_| WireError::TooLong { got: body.len(), max: MAX_MESSAGE })?;
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Cuts a byte stream into messages. Feed it what was read, then take messages until `None`.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
}

impl Deframer {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes arrive. An error is final for this stream.
    pub fn next<T: DeserializeOwned>(&mut self, version: u8) -> Result<Option<T>, WireError> {
        let rest = &self.buffer[self.start..];
        let Some((len, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        if len > MAX_MESSAGE {
            return Err(WireError::TooLong { got: len, max: MAX_MESSAGE });
        }
        let Some(body) = body.get(..len) else { return Ok(None) };
        let value = decode(version, body)?;
        self.start += 4 + len;
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_survive_any_cutting_of_the_stream(values: Vec<(u32, String)>, cut in 1usize..50) {
            let stream: Vec<u8> = values.iter().flat_map(|v| encode_framed(7, v).unwrap()).collect();
            let mut d = Deframer::default();
            let mut got: Vec<(u32, String)> = vec![];
            for chunk in stream.chunks(cut) {
                d.push(chunk);
                while let Some(v) = d.next(7).unwrap() {
                    got.push(v);
                }
            }
            prop_assert_eq!(got, values);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode::<(u32, String)>(7, &bytes);
        }
    }

    #[test]
    fn another_version_a_long_message_and_trailing_bytes_are_refused() {
        let m = encode(1, &5u32).unwrap();
        assert_eq!(decode::<u32>(2, &m), Err(WireError::Version { got: 1, want: 2 }));
        assert_eq!(decode::<u32>(1, &[m, vec![0]].concat()), Err(WireError::Trailing(1)));
        let mut d = Deframer::default();
        d.push(&u32::MAX.to_be_bytes());
        assert!(matches!(d.next::<u32>(1), Err(WireError::TooLong { .. })));
        assert!(matches!(encode(1, &vec![0u8; MAX_MESSAGE]), Err(WireError::TooLong { .. })));
    }
}
