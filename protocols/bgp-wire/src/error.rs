//! What can be wrong with a message, where, and what must follow from it (RFC 4271 §6, RFC 7606 §2).

use crate::{Family, Notification};

/// Why a field was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("{got} bytes, where {want} would be right")]
    Length { got: usize, want: &'static str },
    #[error("value {0} is not allowed")]
    Value(u32),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("attribute flags {got:#04x} contradict its type")]
    Flags { got: u8 },
    #[error("appears more than once")]
    Duplicate,
    #[error("is missing")]
    Missing,
}

/// What was wrong, and at which byte of the message (its header counted).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {offset}: {cause}")]
pub struct DecodeError {
    pub offset: usize,
    pub field: &'static str,
    pub cause: Cause,
}

/// The error-handling approaches of RFC 7606 §2, mildest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Severity {
    /// The attribute is dropped; the routes stand.
    AttributeDiscard,
    /// The routes of the UPDATE count as withdrawn.
    TreatAsWithdraw,
    /// Nothing more of this family can be understood.
    AfiSafiDisable(Family),
    /// The session ends with this NOTIFICATION.
    SessionReset(Notification),
}

impl Severity {
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::AttributeDiscard => 0,
            Self::TreatAsWithdraw => 1,
            Self::AfiSafiDisable(_) => 2,
            Self::SessionReset(_) => 3,
        }
    }
}

/// An error with what must follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    pub error: DecodeError,
}

/// A message that ends the session: what to tell the peer, and what to write in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{notification}: {error}")]
pub struct Fatal {
    pub notification: Notification,
    pub error: DecodeError,
}
