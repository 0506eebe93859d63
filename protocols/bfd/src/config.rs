//! What a session is, and how fast.

use std::{net::IpAddr, sync::Arc, time::Duration};

/// Names a session: who with, from which of our addresses, and for a single hop over which interface (RFC 5881 §3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub peer: IpAddr,
    pub local: IpAddr,
    /// `None`: multihop (RFC 5883).
    pub interface: Option<Arc<str>>,
}

/// Times of a session in asynchronous mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    interval: Duration,
    multiplier: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    #[error("BFD interval of {0:?}: must be 10 ms to 60 s")]
    Interval(Duration),
    #[error("BFD multiplier {0}: must be 2 to 255")]
    Multiplier(u8),
}

impl Parameters {
    /// `interval`: both the transmit interval that is desired and the receive interval that is required.
    pub fn new(interval: Duration, multiplier: u8) -> Result<Self, ParametersError> {
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&interval) {
            Err(ParametersError::Interval(interval))
        } else if multiplier < 2 {
            Err(ParametersError::Multiplier(multiplier))
        } else {
            Ok(Self { interval, multiplier })
        }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub fn multiplier(&self) -> u8 {
        self.multiplier
    }

    /// What serves both: the session is as fast as its most demanding client wants it.
    pub(crate) fn faster(self, other: Self) -> Self {
        if (self.interval * u32::from(self.multiplier), self.interval) <= (other.interval * u32::from(other.multiplier), other.interval) {
            self
        } else {
            other
        }
    }
}
