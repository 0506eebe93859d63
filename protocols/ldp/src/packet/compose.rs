//! Packs messages into PDUs.

use super::{Message, VERSION};
use std::net::Ipv4Addr;

/// Writes messages, as many to a PDU as its length allows.
#[derive(Debug)]
pub struct Composer {
    lsr_id: Ipv4Addr,
    max: u16,
    bytes: Vec<u8>,
    /// Where the PDU begins that may still grow.
    open: Option<usize>,
}

impl Composer {
    /// PDUs are at most `max` long, as their length field counts.
    pub fn new(lsr_id: Ipv4Addr, max: u16) -> Self {
        Self { lsr_id, max, bytes: vec![], open: None }
    }

    pub fn set_max(&mut self, max: u16) {
        self.max = max;
    }

    /// A message that is longer than a PDU may be is a fault of the caller; it goes into a PDU of its own.
    pub fn push(&mut self, id: u32, message: &Message) {
        let before = self.bytes.len();
        message.encode(id, &mut self.bytes);
        let fits = |start: usize| self.bytes.len() - start - super::HEAD <= usize::from(self.max);
        let start = match self.open {
            Some(start) if fits(start) => start,
            _ => {
                let mut head = [0; super::HEAD + super::IDENTIFIER];
                let (version, rest) = head.split_at_mut(2);
                version.copy_from_slice(&VERSION.to_be_bytes());
                rest.iter_mut().skip(2).zip(self.lsr_id.octets()).for_each(|(to, from)| *to = from);
                self.bytes.splice(before..before, head);
                self.open = Some(before);
                before
            }
        };
        let length = length16(self.bytes.len() - start - super::HEAD).to_be_bytes();
        if let Some(field) = self.bytes.get_mut(start + 2..start + 4) {
            field.copy_from_slice(&length);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn take(&mut self) -> Vec<u8> {
        self.open = None;
        std::mem::take(&mut self.bytes)
    }
}

/// Lengths on the wire have 16 bits; what we write stays far below.
pub(super) fn length16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
