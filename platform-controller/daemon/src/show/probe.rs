//! Ping and traceroute: questions that take as long as the probes they send.

use super::{Viewer, core::configured};
use crate::{desired::Desired, placement::Unit, vmlink};
use edgeplex_api::{LspProbe, PROBE_MARGIN, VpnProbe};
use edgeplex_intent::IntentError;
use edgeplex_mgmt::show::{CvmQuery, PingOptions, PingReport, PvmQuery};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ping,
    Traceroute,
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Invalid(#[from] IntentError),
    #[error(transparent)]
    NotConfigured(#[from] super::NotConfigured),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Viewer {
    pub async fn vpn_probe(&self, desired: &Desired, kind: Kind, probe: VpnProbe) -> Result<PingReport, ProbeError> {
        let VpnProbe { attachment, to, options } = probe;
        let limit = longest(kind, &options)? + PROBE_MARGIN;
        let wrong = |field: &str, given: &dyn ToString, right: String| IntentError::new("probe", field, given.to_string(), right);
        let Some((_, _, a)) = desired.intent.attachments().find(|(id, _, _)| *id == attachment) else {
            let all: Vec<String> = desired.intent.attachments().map(|(id, _, _)| id.to_string()).collect();
            let there = if all.is_empty() { "none".into() } else { all.join(", ") };
            return Err(wrong("attachment", &attachment, format!("no such attachment; there are: {there}")).into());
        };
        if a.address_like(to).is_none() {
            let right = format!("{attachment} has no address of that family to ask from; give it address6, or address for IPv4");
            return Err(wrong("to", &to, right).into());
        }
        let at = self.speaker(&Unit::Pvm(attachment))?;
        let query = match kind {
            Kind::Ping => PvmQuery::Ping { to, options },
            Kind::Traceroute => PvmQuery::Traceroute { to, options },
        };
        Ok(vmlink::ask(&at, &query, limit).await?)
    }

    pub async fn lsp_probe(&self, desired: &Desired, kind: Kind, probe: LspProbe) -> Result<PingReport, ProbeError> {
        let LspProbe { prefix, options } = probe;
        let limit = longest(kind, &options)? + PROBE_MARGIN;
        if prefix.trunc() != prefix {
            let right = format!("has host bits set; must be {}", prefix.trunc());
            return Err(IntentError::new("probe", "prefix", prefix, right).into());
        }
        let query = match kind {
            Kind::Ping => CvmQuery::LspPing { prefix, options },
            Kind::Traceroute => CvmQuery::LspTraceroute { prefix, options },
        };
        configured(desired, &query)?;
        Ok(vmlink::ask(&self.speaker(&Unit::Cvm)?, &query, limit).await?)
    }
}

fn longest(kind: Kind, options: &PingOptions) -> Result<std::time::Duration, IntentError> {
    options.check().map_err(|(field, given, right)| IntentError::new("probe", field, given, right))?;
    Ok(match kind {
        Kind::Ping => options.longest_ping(),
        Kind::Traceroute => options.longest_traceroute(),
    })
}
