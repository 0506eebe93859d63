//! The relay to the PVMs: who may connect, messages both ways, and what is logged of a PVM that does what it may not.

use crate::config::relay_keys;
use anyhow::Context;
use edgeplex_cvm_vpn::Vpn;
use edgeplex_mgmt::config::CvmConfig;
use edgeplex_relay::ToCvm;
use edgeplex_transport::relay::{Delivery, Peer, RelayServer};
use edgeplex_types::AttachmentId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tracing::warn;

const LOG_PACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Relay {
    server: RelayServer,
    /// When a refusal of an attachment was last logged, and how many were not since.
    logged: BTreeMap<AttachmentId, (Option<Instant>, u64)>,
}

impl Relay {
    pub(crate) fn bind(config: &CvmConfig) -> anyhow::Result<Self> {
        let mut relay = Self { server: RelayServer::bind(&config.relay)?, logged: BTreeMap::new() };
        relay.configure(config)?;
        Ok(relay)
    }

    /// The rights are those of the configuration, at once: a removed attachment is silent from here on.
    pub(crate) fn configure(&mut self, config: &CvmConfig) -> anyhow::Result<()> {
        self.server.set_keys(relay_keys(config)?)?;
        self.logged.retain(|id, _| config.attachments.iter().any(|a| a.id == *id));
        Ok(())
    }

    /// Cancel-safe.
    pub(crate) async fn message(&mut self) -> anyhow::Result<(Peer, AttachmentId, ToCvm)> {
        self.server.recv().await.context("relay")
    }

    /// Sends what the VPN has to say, at most `limit` messages; true if there may be more.
    pub(crate) fn send(&mut self, now: Instant, vpn: &mut Vpn<Peer>, limit: usize) -> anyhow::Result<bool> {
        for _ in 0..limit {
            let Some((peer, message)) = vpn.next_message() else { return Ok(false) };
            if self.server.send(&peer, &message)? == Delivery::Dropped {
                vpn.undeliverable(now, &peer);
            }
        }
        Ok(true)
    }

    /// Connections refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        let refusals = self.server.refusals();
        refusals.wrong_key + refusals.not_yours
    }

    /// At most a line a second for each attachment: a PVM must not fill the log.
    pub(crate) fn log_refusal(&mut self, now: Instant, attachment: AttachmentId, why: &str) {
        let entry = self.logged.entry(attachment.clone()).or_default();
        if entry.0.is_some_and(|last| now < last + LOG_PACE) {
            entry.1 += 1;
            return;
        }
        warn!(%attachment, why, unlogged = entry.1, "a PVM is refused");
        *entry = (Some(now), 0);
    }
}
