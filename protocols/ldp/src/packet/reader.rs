//! A slice that knows where in the PDU it lies.

use super::{Error, Status};
use std::net::Ipv4Addr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `n` bytes; too few are a bad TLV length.
    pub(crate) fn take(&mut self, n: usize, field: &'static str) -> Result<Self, Error> {
        let Some((taken, rest)) = self.bytes.split_at_checked(n) else {
            return Err(Error::new(Status::BAD_TLV_LENGTH, self.offset, field, "is cut off"));
        };
        let taken = Self { bytes: taken, offset: self.offset };
        *self = Self { bytes: rest, offset: self.offset + n };
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let taken = self.take(N, field)?;
        let cut_off = Error::new(Status::BAD_TLV_LENGTH, taken.offset, field, "is cut off");
        taken.bytes.first_chunk().copied().ok_or(cut_off)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn ipv4(&mut self, field: &'static str) -> Result<Ipv4Addr, Error> {
        self.array::<4>(field).map(Ipv4Addr::from)
    }

    /// Nothing may be left.
    pub(crate) fn end(&self, field: &'static str) -> Result<(), Error> {
        if self.is_empty() { Ok(()) } else { Err(Error::new(Status::BAD_TLV_LENGTH, self.offset, field, "is too long")) }
    }
}
