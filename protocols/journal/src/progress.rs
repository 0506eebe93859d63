//! Where a session's connection stands, counted along while its records are replayed: what taking it over needs beside its bytes.

use crate::{Opened, Record};

/// Bytes that the neighbour has not acknowledged, at most: far more than a socket buffers.
pub const MAX_UNACKNOWLEDGED: usize = 32 << 20;

/// One session, from its [`Record::Open`] on. Feed it that session's records in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub opened: Opened,
    /// Bytes of either stream so far, and of ours those acknowledged; counted from the connection's first byte, whatever was
    /// left out of the journal since.
    pub received: u64,
    pub sent: u64,
    pub acked: u64,
    /// As the last [`Record::Acked`] told them, or the open.
    pub window: Vec<u8>,
    pub timestamp: u32,
    pub at_ms: u64,
    /// The last `sent - acked` bytes of what was sent; a successor sends them again.
    pub unacknowledged: Vec<u8>,
}

/// Records that cannot be those of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    #[error("{0} bytes are acknowledged that are not among those sent")]
    Acked(u64),
    #[error("{0} bytes are not acknowledged")]
    TooMuch(usize),
}

impl Progress {
    pub fn new(opened: &Opened) -> Self {
        let tcp = &opened.tcp;
        Self {
            opened: opened.clone(),
            received: tcp.received_skipped,
            sent: tcp.sent_skipped,
            acked: tcp.sent_skipped,
            window: tcp.window.clone(),
            timestamp: tcp.timestamp,
            at_ms: tcp.at_ms,
            unacknowledged: Vec::new(),
        }
    }

    /// Counts a record of this session; others than its bytes and acknowledgements change nothing.
    pub fn apply(&mut self, record: &Record) -> Result<(), ProgressError> {
        match record {
            Record::Received(_, bytes) => self.received += bytes.len() as u64,
            Record::Sent(_, bytes) => {
                let held = self.unacknowledged.len() + bytes.len();
                if held > MAX_UNACKNOWLEDGED {
                    return Err(ProgressError::TooMuch(held));
                }
                self.sent += bytes.len() as u64;
                self.unacknowledged.extend_from_slice(bytes);
            }
            Record::Acked { sent, window, timestamp, at_ms, .. } => {
                // An older count is late news.
                let news = sent.saturating_sub(self.acked);
                let news = usize::try_from(news).ok().filter(|n| *n <= self.unacknowledged.len()).ok_or(ProgressError::Acked(*sent))?;
                self.unacknowledged.drain(..news);
                self.acked = self.acked.max(*sent);
                self.window.clone_from(window);
                (self.timestamp, self.at_ms) = (*timestamp, *at_ms);
            }
            _ => {}
        }
        Ok(())
    }

    /// Sequence number of the byte of ours that comes next.
    pub fn sent_seq(&self) -> u32 {
        seq(self.opened.tcp.sent_base, self.sent)
    }

    /// Sequence number of the first of [`Progress::unacknowledged`].
    pub fn acked_seq(&self) -> u32 {
        seq(self.opened.tcp.sent_base, self.acked)
    }

    /// Sequence number of the neighbour's byte that comes next.
    pub fn received_seq(&self) -> u32 {
        seq(self.opened.tcp.received_base, self.received)
    }
}

/// The sequence number `count` bytes behind `base` (RFC 9293 §3.4: modulo 2^32).
pub fn seq(base: u32, count: u64) -> u32 {
    // Masked to 32 bits, so nothing is lost but the wraps.
    base.wrapping_add(u32::try_from(count & u64::from(u32::MAX)).unwrap_or(0))
}
