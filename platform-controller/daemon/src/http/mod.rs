//! The HTTP API: one handler a resource. See edgeplex-api for what each takes and gives.

mod moves;
mod orders;

use crate::{
    desired::{ChangeError, Keeper},
    images::Images,
    moves::Moves,
    reconcile::{Look, State as Reconciled},
    show::{Kind, NotConfigured, Of, ProbeError, Viewer},
    upgrade::Upgrades,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State, connect_info::Connected, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use edgeplex_api::{Apply, AuditEntry, Changed, Delete, Drift, Failure, LspProbe, Status, VpnProbe};
use edgeplex_intent::{Document, IntentError, MAX_TEXT};
use edgeplex_mgmt::show::{CvmQuery, PingReport};
use edgeplex_types::{AttachmentId, Name};
use serde::{Deserialize, Serialize};
use std::{
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};

/// Largest body: a text of [`MAX_TEXT`], escaped as JSON.
const MAX_BODY: usize = 2 * MAX_TEXT + 1024;

#[derive(Debug, Clone)]
pub struct Api {
    pub keeper: Arc<Keeper>,
    pub viewer: Viewer,
    pub state: watch::Receiver<Reconciled>,
    pub looks: mpsc::Sender<Look>,
    pub started: Instant,
    pub moves: Arc<Moves>,
    pub images: Arc<Images>,
    pub upgrades: Arc<Upgrades>,
}

/// Who is at the other end of the Unix socket.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    uid: u32,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let Ok(peer) = stream.io().peer_cred() else { return Self { uid: u32::MAX } };
        // Whoever became root to talk to us has logged in as somebody else.
        let login = peer.pid().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
        let login = login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != u32::MAX);
        Self { uid: login.unwrap_or(peer.uid()) }
    }
}

#[derive(Debug)]
struct Refused(StatusCode, Failure);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl Refused {
    /// It does not fit what there is.
    fn conflict(message: impl Into<String>) -> Self {
        Self(StatusCode::CONFLICT, Failure { message: message.into(), problem: None })
    }

    fn failed(e: &anyhow::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, Failure { message: format!("{e:#}"), problem: None })
    }
}

impl From<IntentError> for Refused {
    fn from(e: IntentError) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, Failure { message: e.to_string(), problem: Some(e) })
    }
}

impl From<ChangeError> for Refused {
    fn from(e: ChangeError) -> Self {
        match e {
            ChangeError::Invalid(e) => e.into(),
            ChangeError::Failed(e) => Self::failed(&e),
        }
    }
}

impl From<anyhow::Error> for Refused {
    fn from(e: anyhow::Error) -> Self {
        Self::failed(&e)
    }
}

impl From<NotConfigured> for Refused {
    fn from(e: NotConfigured) -> Self {
        Self::conflict(e.to_string())
    }
}

impl From<ProbeError> for Refused {
    fn from(e: ProbeError) -> Self {
        match e {
            ProbeError::Invalid(e) => e.into(),
            ProbeError::NotConfigured(e) => e.into(),
            ProbeError::Failed(e) => Self::failed(&e),
        }
    }
}

impl From<JsonRejection> for Refused {
    fn from(e: JsonRejection) -> Self {
        Self(e.status(), Failure { message: e.body_text(), problem: None })
    }
}

type Answer<T> = Result<Json<T>, Refused>;
type Body<T> = Result<Json<T>, JsonRejection>;

pub fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/apply", post(apply))
        .route("/v1/delete", post(delete))
        .route("/v1/documents", get(documents))
        .route("/v1/drift", get(drift))
        .route("/v1/status", get(status))
        .route("/v1/show/{what}", get(show))
        .route("/v1/audit", get(audit))
        .route("/v1/ping", post(async |api, body| vpn_probe(api, Kind::Ping, body).await))
        .route("/v1/traceroute", post(async |api, body| vpn_probe(api, Kind::Traceroute, body).await))
        .route("/v1/lsp/ping", post(async |api, body| lsp_probe(api, Kind::Ping, body).await))
        .route("/v1/lsp/traceroute", post(async |api, body| lsp_probe(api, Kind::Traceroute, body).await))
        .route("/v1/hosts", get(moves::hosts))
        .route("/v1/instances", get(moves::instances))
        .route("/v1/moves", get(moves::moves))
        .route("/v1/migrate", post(orders::migrate))
        .route("/v1/abort", post(orders::abort))
        .route("/v1/drain", post(orders::drain))
        .route("/v1/images", get(moves::images).post(orders::add_image))
        .route("/v1/upgrade", get(moves::upgrade_report).post(orders::upgrade))
        .route("/v1/rollback", post(orders::rollback))
        .route("/v1/checkpoint", post(orders::checkpoint))
        .route("/v1/restore", post(orders::restore))
        .fallback(async || Refused(StatusCode::NOT_FOUND, Failure { message: "no such resource".into(), problem: None }))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

async fn apply(State(api): State<Api>, ConnectInfo(peer): ConnectInfo<Peer>, body: Body<Apply>) -> Answer<Changed> {
    let Json(Apply { text, dry_run }) = body?;
    let changes = api.keeper.apply(&text, dry_run, peer.uid).await?;
    Ok(Json(Changed { dry_run, changes }))
}

async fn delete(State(api): State<Api>, ConnectInfo(peer): ConnectInfo<Peer>, body: Body<Delete>) -> Answer<Changed> {
    let Json(Delete { customers, dry_run }) = body?;
    let changes = api.keeper.delete(&customers, dry_run, peer.uid).await?;
    Ok(Json(Changed { dry_run, changes }))
}

async fn documents(State(api): State<Api>) -> Json<Vec<serde_json::Value>> {
    Json(api.keeper.current().intent.documents().iter().map(Document::to_shown).collect())
}

async fn drift(State(api): State<Api>) -> Answer<Drift> {
    let (answer, steps) = oneshot::channel();
    api.looks.send(answer).await.map_err(anyhow::Error::from)?;
    // A pass may be under way that starts VMs.
    let steps = tokio::time::timeout(Duration::from_secs(25), steps).await.map_err(anyhow::Error::from)?.map_err(anyhow::Error::from)?;
    Ok(Json(Drift { steps }))
}

async fn status(State(api): State<Api>) -> Answer<Status> {
    let state = api.state.borrow().clone();
    Ok(Json(api.viewer.status(&api.keeper.current(), &state, api.started.elapsed()).await?))
}

async fn audit(State(api): State<Api>) -> Answer<Vec<AuditEntry>> {
    Ok(Json(api.keeper.audit().entries()?))
}

async fn vpn_probe(State(api): State<Api>, kind: Kind, body: Body<VpnProbe>) -> Answer<PingReport> {
    let Json(probe) = body?;
    Ok(Json(api.viewer.vpn_probe(&api.keeper.current(), kind, probe).await?))
}

async fn lsp_probe(State(api): State<Api>, kind: Kind, body: Body<LspProbe>) -> Answer<PingReport> {
    let Json(probe) = body?;
    Ok(Json(api.viewer.lsp_probe(&api.keeper.current(), kind, probe).await?))
}

#[derive(Debug, Deserialize)]
struct Selection {
    customer: Option<String>,
    attachment: Option<String>,
}

/// What the operator named, if it is there.
fn select<T: FromStr + ToString + PartialEq>(what: &str, given: Option<&String>, there: &[T]) -> Result<Option<T>, IntentError> {
    let Some(text) = given else { return Ok(None) };
    let found = text.parse::<T>().ok().filter(|name| there.contains(name));
    let names: Vec<String> = there.iter().map(ToString::to_string).collect();
    let right = || format!("no such {what}; there are: {}", if names.is_empty() { "none".into() } else { names.join(", ") });
    found.map(Some).ok_or_else(|| IntentError::new("query", what, text, right()))
}

async fn show(State(api): State<Api>, Path(what): Path<String>, Query(selection): Query<Selection>) -> Result<Response, Refused> {
    use edgeplex_mgmt::show as rows;
    fn json<T: Serialize>(value: T) -> Response {
        Json(value).into_response()
    }
    let desired = api.keeper.current();
    let customers: Vec<Name> = desired.intent.customers.keys().cloned().collect();
    let attachments: Vec<AttachmentId> = desired.intent.attachments().map(|(id, _, _)| id).collect();
    let customer = select("customer", selection.customer.as_ref(), &customers)?;
    let attachment = select("attachment", selection.attachment.as_ref(), &attachments)?;
    let (viewer, of) = (&api.viewer, Of { customer: customer.as_ref(), attachment: attachment.as_ref() });
    Ok(match what.as_str() {
        "bgp" => json(viewer.bgp(&desired, of).await),
        "routes" => json(viewer.routes(&desired, of).await),
        "labels" => json(viewer.labels(&desired, of).await),
        "fib" => json(viewer.fib(&desired, of).await),
        "counters" => json(viewer.counters(&desired, of).await),
        "bfd" => json(viewer.bfd(&desired, of).await),
        "ospf-neighbors" => json(viewer.core::<rows::OspfNeighborRow>(&desired, &CvmQuery::OspfNeighbors).await?),
        "ospf-interfaces" => json(viewer.core::<rows::OspfInterfaceRow>(&desired, &CvmQuery::OspfInterfaces).await?),
        "ospf-database" => json(viewer.core::<rows::LsaRow>(&desired, &CvmQuery::OspfDatabase).await?),
        "ospf-routes" => json(viewer.core::<rows::OspfRouteRow>(&desired, &CvmQuery::OspfRoutes).await?),
        "ldp-neighbors" => json(viewer.core::<rows::LdpNeighborRow>(&desired, &CvmQuery::LdpNeighbors).await?),
        "ldp-bindings" => json(viewer.core::<rows::LdpBindingRow>(&desired, &CvmQuery::LdpBindings).await?),
        "forwarding" => json(viewer.core::<rows::ForwardingRow>(&desired, &CvmQuery::Forwarding).await?),
        "tunnels" => json(viewer.core::<rows::TunnelRow>(&desired, &CvmQuery::Tunnels).await?),
        _ => {
            let right = "must be bgp, routes, labels, fib, counters, bfd, ospf-{neighbors,interfaces,database,routes}, \
                         ldp-{neighbors,bindings}, forwarding or tunnels";
            return Err(Refused(StatusCode::NOT_FOUND, Failure { message: format!("show {what}: {right}"), problem: None }));
        }
    })
}
