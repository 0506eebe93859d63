//! LSP ping and traceroute (RFC 8029): other routers' requests are answered from what the core knows; our own run beside the control
//! task, which has better things to do than to wait for answers.

use crate::management::to_answer;
use edgeplex_cvm_core::Core;
use edgeplex_mgmt::{
    Answer,
    config::CvmConfig,
    show::{CvmQuery, PingOptions},
};
use edgeplex_transport::lsp_ping::{self, Handle, Known, KnownLabel, Port, Way};
use ipnet::Ipv4Net;
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{oneshot, watch};

pub(super) struct LspPings {
    handle: Handle,
    known: watch::Sender<Arc<Known>>,
    loopback: Ipv4Net,
}

fn ports(config: &CvmConfig) -> Vec<Port> {
    config.core.iter().map(|i| Port { name: Arc::from(&i.name[..]), address: i.address.addr() }).collect()
}

impl LspPings {
    pub(super) fn start(config: &CvmConfig) -> Self {
        let (known, to_answer_with) = watch::channel(Arc::default());
        let handle = lsp_ping::start(config.loopback, ports(config), to_answer_with);
        Self { handle, known, loopback: config.loopback.into() }
    }

    pub(super) fn configure(&self, config: &CvmConfig) {
        self.handle.configure(ports(config));
    }

    /// Labels or FECs changed.
    pub(super) fn learn(&self, core: &Core) {
        let mut egress: BTreeSet<Ipv4Net> = core.egress_fecs().collect();
        egress.insert(self.loopback);
        let known = |row: edgeplex_cvm_core::ForwardingView| {
            (row.label, KnownLabel { fec: row.prefix, forwards: !row.legs.is_empty() || egress.contains(&row.prefix) })
        };
        let labels = core.show_forwarding().into_iter().map(known).collect();
        self.known.send_replace(Arc::new(Known { egress, labels }));
    }

    /// Answers when the last probe is over.
    pub(super) fn ask(&self, core: &Core, query: CvmQuery, reply: oneshot::Sender<Answer<Value>>) {
        let (prefix, options, trace) = match query {
            CvmQuery::LspPing { prefix, options } => (prefix, options, false),
            CvmQuery::LspTraceroute { prefix, options } => (prefix, options, true),
            _ => return,
        };
        match self.way(core, &prefix, &options) {
            Ok((interface, way)) => {
                let handle = self.handle.clone();
                tokio::spawn(async move {
                    let report = if trace {
                        handle.traceroute(prefix, &interface, &way, &options).await
                    } else {
                        handle.ping(prefix, &interface, &way, &options).await
                    };
                    // The asker may have gone away.
                    let _ = reply.send(report.map_or_else(|e| Answer::Error(e.to_string()), |r| to_answer(&r)));
                });
            }
            Err(why) => {
                let _ = reply.send(Answer::Error(why));
            }
        }
    }

    fn way(&self, core: &Core, prefix: &Ipv4Net, options: &PingOptions) -> Result<(Arc<str>, Way), String> {
        options.check().map_err(|(field, got, right)| format!("{field} {got}: {right}"))?;
        if self.known.borrow().egress.contains(prefix) {
            return Err(format!("{prefix} is this router's own: there is no LSP to it from here"));
        }
        let (leg, source_mac) = core.lsp(prefix).into_iter().next().ok_or_else(|| {
            format!("there is no LSP to {prefix}: no route of exactly that prefix, or no label of its next hop (see `show ldp bindings`)")
        })?;
        Ok((leg.hop.interface, Way { source_mac, destination_mac: leg.mac, labels: leg.labels }))
    }
}
