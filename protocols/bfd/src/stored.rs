//! A session as a successor needs it, under a name of its own: `bfd/<peer>/<local>/<interface>`, without the last part for multihop.
//! JSON, so that fields may be added; what does not know them goes on with their defaults.
//!
//! Clocks are not in it: whoever takes over sends at once, and waits a whole detection time before it misses the neighbour.

use crate::{
    config::{Key, Parameters},
    packet::{Diagnostic, State},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Names of values begin with this.
pub const PREFIX: &str = "bfd/";
const FORMAT: u8 = 1;

/// Why a value is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("{0:?} does not name a BFD session")]
    Name(String),
    #[error("BFD session: {0}")]
    Json(#[from] serde_json::Error),
    #[error("BFD session of format {0}, this knows {FORMAT}")]
    Format(u8),
    #[error("BFD session: {0} makes no sense")]
    Field(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredState {
    Down,
    Init,
    Up,
}

/// What is agreed on with a neighbour, times in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    format: u8,
    state: StoredState,
    pub(crate) discriminator: u32,
    diagnostic: u8,
    interval_us: u64,
    multiplier: u8,
    pub(crate) polling: bool,
    agreed_tx_us: u64,
    agreed_rx_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<StoredRemote>,
    /// RFC 5881 §4: the same for as long as the session lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source_port: Option<u16>,
}

/// The neighbour's last packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRemote {
    /// As in the packet (RFC 5880 §4.1).
    pub(crate) state: u8,
    pub(crate) diagnostic: u8,
    pub(crate) discriminator: u32,
    pub(crate) demand: bool,
    pub(crate) min_rx_us: u32,
    pub(crate) desired_tx_us: u32,
    pub(crate) multiplier: u8,
}

/// What of a session does not come from its neighbour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) state: State,
    pub(crate) discriminator: u32,
    pub(crate) diagnostic: Diagnostic,
    pub(crate) parameters: Parameters,
    pub(crate) polling: bool,
    pub(crate) agreed_tx: Duration,
    pub(crate) agreed_rx: Duration,
    pub(crate) source_port: Option<u16>,
}

fn in_micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

impl Stored {
    /// `None`: it is on its way out, and no successor's business.
    pub(crate) fn new(own: Own, remote: Option<StoredRemote>) -> Option<Self> {
        let state = match own.state {
            State::AdminDown => return None,
            State::Down => StoredState::Down,
            State::Init => StoredState::Init,
            State::Up => StoredState::Up,
        };
        Some(Self {
            format: FORMAT,
            state,
            discriminator: own.discriminator,
            diagnostic: own.diagnostic.0,
            interval_us: in_micros(own.parameters.interval()),
            multiplier: own.parameters.multiplier(),
            polling: own.polling,
            agreed_tx_us: in_micros(own.agreed_tx),
            agreed_rx_us: in_micros(own.agreed_rx),
            remote,
            source_port: own.source_port,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of numbers: nothing in it can fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<(Own, Option<StoredRemote>), ValueError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u8,
        }
        let Versioned { format } = serde_json::from_slice(bytes)?;
        if format != FORMAT {
            return Err(ValueError::Format(format));
        }
        let stored: Self = serde_json::from_slice(bytes)?;
        let parameters = Parameters::new(Duration::from_micros(stored.interval_us), stored.multiplier);
        let state = match stored.state {
            StoredState::Down => State::Down,
            StoredState::Init => State::Init,
            StoredState::Up => State::Up,
        };
        let longest = in_micros(crate::fsm::LONGEST);
        if stored.discriminator == 0 {
            return Err(ValueError::Field("discriminator"));
        }
        if stored.agreed_tx_us.max(stored.agreed_rx_us) > longest {
            return Err(ValueError::Field("agreed interval"));
        }
        if stored.remote.is_some_and(|r| r.state > 3 || r.discriminator == 0 || r.multiplier == 0) {
            return Err(ValueError::Field("remote"));
        }
        if state == State::Up && stored.remote.is_none() {
            return Err(ValueError::Field("state"));
        }
        let own = Own {
            state,
            discriminator: stored.discriminator,
            diagnostic: Diagnostic(stored.diagnostic & 0x1f),
            parameters: parameters.map_err(|_| ValueError::Field("interval or multiplier"))?,
            polling: stored.polling,
            agreed_tx: Duration::from_micros(stored.agreed_tx_us),
            agreed_rx: Duration::from_micros(stored.agreed_rx_us),
            source_port: stored.source_port,
        };
        Ok((own, stored.remote))
    }
}

impl Key {
    pub(crate) fn value_name(&self) -> String {
        let link = self.interface.as_deref().map(|i| format!("/{i}")).unwrap_or_default();
        format!("{PREFIX}{}/{}{link}", self.peer, self.local)
    }

    pub(crate) fn from_value_name(name: &str) -> Result<Self, ValueError> {
        let error = || ValueError::Name(name.to_owned());
        let mut parts = name.strip_prefix(PREFIX).ok_or_else(error)?.splitn(3, '/');
        let mut address = || parts.next().and_then(|p| p.parse().ok()).ok_or_else(error);
        let (peer, local) = (address()?, address()?);
        Ok(Self { peer, local, interface: parts.next().map(Arc::from) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_session_it_is() {
        for (text, interface) in [("bfd/10.0.0.1/10.0.0.2/core0", Some("core0")), ("bfd/fe80::1/fe80::2", None)] {
            let key = Key::from_value_name(text).unwrap();
            assert_eq!((key.interface.as_deref(), key.value_name().as_str()), (interface, text));
        }
        for bad in ["", "bfd/", "bfd/10.0.0.1", "bfd/10.0.0.1/x", "ldp/10.0.0.1/10.0.0.2"] {
            assert!(Key::from_value_name(bad).is_err(), "{bad}");
        }
    }
}
