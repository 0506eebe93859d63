//! Ping and traceroute, through an LSP (RFC 8029) or a VPN.

use edgeplex_types::Label;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingOptions {
    /// Requests (ping), 1 to 1000.
    pub count: u16,
    pub interval_ms: u32,
    /// How long an answer may take.
    pub timeout_ms: u32,
    /// Highest TTL (traceroute), 1 to 64.
    pub max_hops: u8,
}

impl PingOptions {
    /// The option that is out of range, what was given, and what would be right.
    pub fn check(&self) -> Result<(), (&'static str, u64, &'static str)> {
        if !(1..=1000).contains(&self.count) {
            Err(("count", self.count.into(), "must be 1 to 1000"))
        } else if !(10..=60_000).contains(&self.interval_ms) {
            Err(("interval", self.interval_ms.into(), "must be 10 to 60000 ms"))
        } else if !(10..=60_000).contains(&self.timeout_ms) {
            Err(("timeout", self.timeout_ms.into(), "must be 10 to 60000 ms"))
        } else if !(1..=64).contains(&self.max_hops) {
            Err(("max-hops", self.max_hops.into(), "must be 1 to 64"))
        } else {
            Ok(())
        }
    }

    /// How long a ping takes if no request is answered; requests are sent each `interval_ms`, whatever comes back.
    pub fn longest_ping(&self) -> Duration {
        Duration::from_millis(u64::from(self.count.saturating_sub(1)) * u64::from(self.interval_ms) + u64::from(self.timeout_ms))
    }

    /// How long a traceroute takes if nobody answers; each TTL is tried once, one after the other.
    pub fn longest_traceroute(&self) -> Duration {
        Duration::from_millis(u64::from(self.max_hops) * u64::from(self.timeout_ms))
    }
}

impl Default for PingOptions {
    fn default() -> Self {
        Self { count: 5, interval_ms: 200, timeout_ms: 2000, max_hops: 30 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReport {
    pub sent: u16,
    pub received: u16,
    pub probes: Vec<Probe>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Number of the request (ping) or TTL (traceroute).
    pub number: u16,
    pub from: Option<IpAddr>,
    pub rtt_us: Option<u64>,
    /// Such as `echo-reply`, `ttl-exceeded`, `unreachable`, `timeout`; for an LSP the return code in words (RFC 8029 §3.1).
    pub outcome: String,
    /// Label stack as the answerer saw it, outermost first (RFC 4950, RFC 8029 §3.4).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// The end was reached.
    pub last: bool,
}
