//! Cuts fields off a byte slice, with checks; and what can be wrong with a packet.

use std::net::Ipv4Addr;

/// Why a field was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("{got} bytes, where {want} are needed")]
    Length { got: usize, want: usize },
    #[error("value {0} is not allowed")]
    Value(u32),
    #[error("the checksum is wrong")]
    Checksum,
}

/// What was wrong, and at which byte of the packet or LSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {offset}: {cause}")]
pub struct DecodeError {
    pub offset: usize,
    pub field: &'static str,
    pub cause: Cause,
}

/// Reads forward through a packet.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// `offset`: where `bytes` begin in the packet.
    pub(super) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { rest: bytes, offset }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn error(&self, field: &'static str, cause: Cause) -> DecodeError {
        DecodeError { offset: self.offset, field, cause }
    }

    pub(super) fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.error(field, Cause::Length { got: self.rest.len(), want: count }))?;
        self.rest = rest;
        self.offset += count;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(field, N)?;
        // take() gives exactly N bytes.
        Ok(bytes.try_into().unwrap_or([0; N]))
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(super) fn address(&mut self, field: &'static str) -> Result<Ipv4Addr, DecodeError> {
        Ok(Ipv4Addr::from(self.array::<4>(field)?))
    }

    /// A contiguous network mask, as its length.
    pub(super) fn mask(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        let at = self.clone();
        let mask = self.u32(field)?;
        prefix_length(mask).ok_or_else(|| at.error(field, Cause::Value(mask)))
    }
}

pub(super) fn prefix_length(mask: u32) -> Option<u8> {
    let length = mask.leading_ones();
    if mask.count_ones() == length { u8::try_from(length).ok() } else { None }
}

pub(super) fn mask_of(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

/// The 16-bit one's complement sum of IP, of a packet whose checksum field is zero.
pub(super) fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to 16 bits above.
    !u16::try_from(sum).unwrap_or(0)
}
