//! What comes out of a [`crate::Bfd`].

use crate::{config::Key, packet::Control};
use std::{fmt, time::Duration};

/// Time since any fixed moment.
pub type Time = Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Send(Key, Control),
    Up(Key),
    /// The session left Up.
    Down(Key, Why),
    /// The session is gone: nothing more will be sent, its socket can be closed.
    Removed(Key),
}

/// Why a session left Up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing came for the detection time.
    Expired,
    /// The neighbour says that it hears nothing of us.
    NeighborDown,
    /// The neighbour's operator ended the session: no sign of a failure (RFC 5882 §3.2).
    NeighborAdminDown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "control detection time expired",
            Self::NeighborDown => "neighbor signaled session down",
            Self::NeighborAdminDown => "neighbor's operator ended the session",
        })
    }
}
