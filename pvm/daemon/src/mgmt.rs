//! The management socket's questions, handed to the task that owns the state; pings run beside it.

use crate::probe::{ProbeError, Prober};
use edgeplex_bgp::State;
use edgeplex_mgmt::{
    Answer,
    config::PvmConfig,
    show::{self, InstanceOrder},
};
use edgeplex_pvm_vrf::{RouteView, Source};
use edgeplex_transport::mgmt::Handler;
use edgeplex_types::{Community, LargeCommunity};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How long a question for a change waits for one.
const WATCH: Duration = Duration::from_secs(20);

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Answer<Value>>;
/// One question and where its answer goes.
pub(crate) type Question = (StateQuery, Reply);

/// What only the task that owns the state can answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StateQuery {
    Status,
    Bgp,
    Routes,
    Bfd,
    Reload,
    Instance(InstanceOrder),
}

#[derive(Debug)]
pub(crate) struct Questions {
    state: mpsc::Sender<Question>,
    prober: Prober,
    instance: watch::Receiver<show::InstanceStatus>,
}

impl Questions {
    pub(crate) fn new(state: mpsc::Sender<Question>, prober: Prober, instance: watch::Receiver<show::InstanceStatus>) -> Self {
        Self { state, prober, instance }
    }

    async fn order(&self, order: InstanceOrder) -> Answer<Value> {
        if let InstanceOrder::Watch { seen } = order {
            let mut instance = self.instance.clone();
            // At the end of its patience it tells as well.
            let _ = tokio::time::timeout(WATCH, instance.wait_for(|status| status.revision != seen)).await;
        }
        self.ask(StateQuery::Instance(order)).await
    }

    async fn ask(&self, query: StateQuery) -> Answer<Value> {
        let (sender, answer) = oneshot::channel();
        let gone = || Answer::Error("pvmd is shutting down".into());
        match self.state.send((query, sender)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }
}

impl Handler for Questions {
    type Query = show::PvmQuery;

    async fn answer(&self, query: show::PvmQuery) -> Answer<Value> {
        match query {
            show::PvmQuery::Status => self.ask(StateQuery::Status).await,
            show::PvmQuery::Bgp => self.ask(StateQuery::Bgp).await,
            show::PvmQuery::Routes => self.ask(StateQuery::Routes).await,
            show::PvmQuery::Bfd => self.ask(StateQuery::Bfd).await,
            show::PvmQuery::Reload => self.ask(StateQuery::Reload).await,
            show::PvmQuery::Instance(order) => self.order(order).await,
            show::PvmQuery::Ping { to, options } => report(self.prober.ping(to, &options).await),
            show::PvmQuery::Traceroute { to, options } => report(self.prober.traceroute(to, &options).await),
        }
    }
}

fn report(result: Result<show::PingReport, ProbeError>) -> Answer<Value> {
    match result {
        Ok(report) => answer(&report),
        Err(error) => Answer::Error(error.to_string()),
    }
}

pub(crate) fn answer(value: &impl Serialize) -> Answer<Value> {
    serde_json::to_value(value).map_or_else(|e| Answer::Error(e.to_string()), Answer::Ok)
}

/// The state of the session that has come least far, of those the operator wants.
pub(crate) fn least(config: &PvmConfig, neighbors: &[show::BgpNeighbor]) -> String {
    if config.bgp.is_empty() {
        return "none".into();
    }
    let wanted = |n: &&show::BgpNeighbor| config.bgp.iter().any(|b| b.neighbor == n.address && b.shutdown.is_none());
    let order = [State::Idle, State::Connect, State::Active, State::OpenSent, State::OpenConfirm, State::Established].map(State::name);
    let rank = |n: &show::BgpNeighbor| order.iter().position(|s| *s == n.state).unwrap_or(0);
    let least = neighbors.iter().filter(wanted).map(rank).min().unwrap_or(0);
    order.get(least).map_or_else(String::new, |s| (*s).to_owned())
}

/// A route as `edgeplex show routes` has it.
pub(crate) fn route(r: &RouteView) -> show::Route {
    let communities = r.attributes.map(|a| {
        let standard = a.communities.iter().map(|c| Community(*c).to_string());
        standard.chain(a.large_communities.iter().map(|c| LargeCommunity(*c).to_string())).collect()
    });
    show::Route {
        prefix: r.prefix,
        rd: None,
        source: match r.source {
            Source::Local | Source::Connected => show::Source::Connected,
            Source::Static => show::Source::Static,
            Source::Customer => show::Source::Bgp,
            Source::Vpn => show::Source::Vpn,
        },
        best: r.best,
        multipath: r.multipath,
        backup: r.backup,
        stale: r.stale,
        next_hop: r.next_hop,
        label: r.label,
        tunnel: r.tunnel,
        as_path: r.attributes.map(|a| a.as_path.to_string()).unwrap_or_default(),
        local_pref: r.attributes.and_then(|a| a.local_pref),
        med: r.attributes.and_then(|a| a.med),
        route_targets: r.attributes.map(|a| a.route_targets().collect()).unwrap_or_default(),
        communities: communities.unwrap_or_default(),
    }
}
