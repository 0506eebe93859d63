//! The management socket's questions, handed to the task that owns the state.

use edgeplex_mgmt::{Answer, show};
use edgeplex_pvm_vrf::{RouteView, Source};
use edgeplex_transport::mgmt::Handler;
use ipnet::IpNet;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// One question and where its answer goes.
pub(crate) type Question = (show::PvmQuery, oneshot::Sender<Answer<Value>>);

#[derive(Debug)]
pub(crate) struct Questions(pub(crate) mpsc::Sender<Question>);

impl Handler for Questions {
    type Query = show::PvmQuery;

    async fn answer(&self, query: show::PvmQuery) -> Answer<Value> {
        let (sender, answer) = oneshot::channel();
        let gone = || Answer::Error("pvmd is shutting down".into());
        match self.0.send((query, sender)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }
}

/// A route as `edgeplex show routes` has it.
pub(crate) fn route(r: &RouteView) -> show::Route {
    show::Route {
        prefix: IpNet::V4(r.prefix),
        rd: None,
        source: match r.source {
            Source::Local | Source::Connected => show::Source::Connected,
            Source::Static => show::Source::Static,
            Source::Customer => show::Source::Bgp,
            Source::Vpn => show::Source::Vpn,
        },
        best: r.best,
        stale: r.stale,
        next_hop: r.next_hop.map(Into::into),
        label: r.label,
        tunnel: r.tunnel,
        as_path: r.attributes.map(|a| a.as_path.to_string()).unwrap_or_default(),
        local_pref: r.attributes.and_then(|a| a.local_pref),
        med: r.attributes.and_then(|a| a.med),
        route_targets: r.attributes.map(|a| a.route_targets().collect()).unwrap_or_default(),
    }
}
