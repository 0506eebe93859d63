//! What leader and follower say before frames flow, and the follower's acknowledgements.
//!
//! ```text
//!   follower ─ Hello: formats, which journal, up to where ─►
//!            ◄─ Welcome: format, "the rest" or "everything" ─  leader
//!            ◄─ frames, as they stand in the file, and Beats ─
//!   follower ─ Ack, Ack, … ─►
//! ```
//! Numbers are big-endian and everything has its one length; extensions come behind a length, so that they can be skipped.

use crate::frame::FORMATS;

const HELLO: [u8; 8] = *b"EPXFOLLW";
const WELCOME: [u8; 8] = *b"EPXLEADS";
/// Of an extension, at most; bytes.
pub const MAX_EXTENSION: usize = 4096;

/// The follower's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Formats it knows: all from the lowest to the highest.
    pub formats: (u8, u8),
    /// What it has: this journal up to there. 0: nothing.
    pub journal: u128,
    pub position: u64,
}

/// The leader's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// Of the frames that follow; 0: there is none that both know, and the connection ends.
    pub format: u8,
    /// What the follower has remains, and the rest follows. Otherwise a whole file follows, without its header.
    pub resumes: bool,
}

/// Everything up to `position` is in the follower's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Counts up; a Beat tells the last one that arrived.
    pub number: u64,
    pub position: u64,
}

/// The best format that is known to both sides.
pub fn common(formats: (u8, u8)) -> Option<u8> {
    FORMATS.into_iter().rev().find(|f| (formats.0..=formats.1).contains(f))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("the other side is no {0} of a journal")]
    Magic(&'static str),
    #[error("an extension of {0} bytes")]
    Extension(usize),
}

impl Hello {
    pub fn ours(journal: u128, position: u64) -> Self {
        Self { formats: (FORMATS[0], FORMATS[FORMATS.len() - 1]), journal, position }
    }

    pub fn encode(&self) -> Vec<u8> {
        let numbers = [&self.journal.to_be_bytes()[..], &self.position.to_be_bytes()].concat();
        [&HELLO[..], &[self.formats.0, self.formats.1], &numbers, &[0, 0]].concat()
    }

    /// `None` until it is whole; else with the bytes that it takes.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let Some(rest) = magic(bytes, HELLO, "follower")? else { return Ok(None) };
        let Some((&[lowest, highest], rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
        let Some((journal, rest)) = rest.split_first_chunk::<16>() else { return Ok(None) };
        let Some((position, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
        let Some(length) = extension(rest)? else { return Ok(None) };
        let hello = Self { formats: (lowest, highest), journal: u128::from_be_bytes(*journal), position: u64::from_be_bytes(*position) };
        Ok(Some((hello, bytes.len() - rest.len() + length)))
    }
}

impl Welcome {
    pub fn encode(&self) -> Vec<u8> {
        [&WELCOME[..], &[self.format, u8::from(self.resumes), 0, 0]].concat()
    }

    /// With what the clock says now by which this leader's records tell the time (`at_ms`, milliseconds): the follower's is another
    /// one. In an extension, which a follower that does not know it skips.
    pub fn encode_with_clock(&self, now_ms: u64) -> Vec<u8> {
        [&WELCOME[..], &[self.format, u8::from(self.resumes), 0, 8], &now_ms.to_be_bytes()].concat()
    }

    /// That clock, out of the bytes that [`Welcome::read`] took.
    pub fn clock(taken: &[u8]) -> Option<u64> {
        let extension = taken.get(WELCOME.len() + 4..)?;
        extension.first_chunk().map(|now| u64::from_be_bytes(*now))
    }

    /// `None` until it is whole; else with the bytes that it takes.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let Some(rest) = magic(bytes, WELCOME, "leader")? else { return Ok(None) };
        let Some((&[format, resumes], rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
        let Some(length) = extension(rest)? else { return Ok(None) };
        Ok(Some((Self { format, resumes: resumes != 0 }, bytes.len() - rest.len() + length)))
    }
}

impl Ack {
    pub const LEN: usize = 16;

    pub fn encode(&self) -> [u8; Self::LEN] {
        (u128::from(self.number) << 64 | u128::from(self.position)).to_be_bytes()
    }

    pub fn decode(bytes: [u8; Self::LEN]) -> Self {
        let [n0, n1, n2, n3, n4, n5, n6, n7, p0, p1, p2, p3, p4, p5, p6, p7] = bytes;
        Self {
            number: u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            position: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
        }
    }
}

/// A wrong one shows before it is whole.
fn magic<'a>(bytes: &'a [u8], want: [u8; 8], who: &'static str) -> Result<Option<&'a [u8]>, HelloError> {
    if bytes.iter().zip(want).any(|(got, want)| *got != want) {
        return Err(HelloError::Magic(who));
    }
    Ok(bytes.get(want.len()..))
}

/// Bytes of an extension and its length.
fn extension(bytes: &[u8]) -> Result<Option<usize>, HelloError> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_EXTENSION {
        return Err(HelloError::Extension(length));
    }
    Ok((rest.len() >= length).then_some(length + 2))
}
