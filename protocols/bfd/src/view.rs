//! A session as an operator sees it.

use crate::{
    config::Key,
    packet::{Diagnostic, State},
};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    pub key: Key,
    pub state: State,
    /// Since when it is up.
    pub up: Option<Duration>,
    pub clients: Vec<String>,
    pub transmit: Duration,
    /// Zero before the neighbour was heard.
    pub detection: Duration,
    pub local_discriminator: u32,
    pub remote_discriminator: u32,
    pub diagnostic: Diagnostic,
    pub remote_diagnostic: Diagnostic,
    pub downs: u64,
    pub packets_received: u64,
    pub packets_sent: u64,
}
