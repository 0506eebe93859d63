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
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};
use tracing::warn;

const LOG_PACE: Duration = Duration::from_secs(1);

fn path(config: &CvmConfig) -> Option<&Path> {
    config.relay.endpoint.strip_prefix("ipc://").map(Path::new)
}

/// Device and inode.
fn file(config: &CvmConfig) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path(config)?).ok()?;
    Some((found.dev(), found.ino()))
}

#[derive(Debug)]
pub(crate) struct Relay {
    /// None while another instance speaks to the PVMs.
    server: Option<RelayServer>,
    /// The file of the socket, as it was bound last.
    file: Option<(u64, u64)>,
    /// Connections refused by servers of before.
    refused: u64,
    /// When a refusal of an attachment was last logged, and how many were not since.
    logged: BTreeMap<AttachmentId, (Option<Instant>, u64)>,
}

impl Relay {
    pub(crate) fn unbound() -> Self {
        Self { server: None, file: None, refused: 0, logged: BTreeMap::new() }
    }

    /// PVMs connect here from now on, whoever had the name before.
    pub(crate) fn bind(&mut self, config: &CvmConfig) -> anyhow::Result<()> {
        self.unbind();
        let server = RelayServer::bind(&config.relay)?;
        server.set_keys(relay_keys(config)?)?;
        self.server = Some(server);
        self.file = file(config);
        Ok(())
    }

    /// Connections end, so that PVMs look for whoever has the name then.
    pub(crate) fn unbind(&mut self) {
        self.refused = self.refused();
        self.server = None;
    }

    /// Somebody else has bound the name since, and is there.
    pub(crate) fn is_taken(&self, config: &CvmConfig) -> bool {
        file(config) != self.file && path(config).is_some_and(|path| UnixStream::connect(path).is_ok())
    }

    /// The name is bound to nobody: to an instance that is no more, perhaps, which had it after us.
    pub(crate) fn is_orphaned(&self, config: &CvmConfig) -> bool {
        self.server.is_some() && self.file.is_some() && file(config) != self.file && !self.is_taken(config)
    }

    /// The rights are those of the configuration, at once: a removed attachment is silent from here on.
    pub(crate) fn configure(&mut self, config: &CvmConfig) -> anyhow::Result<()> {
        if let Some(server) = &self.server {
            server.set_keys(relay_keys(config)?)?;
        }
        self.logged.retain(|id, _| config.attachments.iter().any(|a| a.id == *id));
        Ok(())
    }

    /// Cancel-safe.
    pub(crate) async fn message(&mut self) -> anyhow::Result<(Peer, AttachmentId, ToCvm)> {
        match &mut self.server {
            Some(server) => server.recv().await.context("relay"),
            None => std::future::pending().await,
        }
    }

    /// Sends what the VPN has to say, at most `limit` messages; true if there may be more.
    pub(crate) fn send(&mut self, now: Instant, vpn: &mut Vpn<Peer>, limit: usize) -> anyhow::Result<bool> {
        let Some(server) = &mut self.server else { return Ok(false) };
        for _ in 0..limit {
            let Some((peer, message)) = vpn.next_message() else { return Ok(false) };
            if server.send(&peer, &message)? == Delivery::Dropped {
                vpn.undeliverable(now, &peer);
            }
        }
        Ok(true)
    }

    /// Connections refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        let now = self.server.as_ref().map(RelayServer::refusals).unwrap_or_default();
        self.refused + now.wrong_key + now.not_yours
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
