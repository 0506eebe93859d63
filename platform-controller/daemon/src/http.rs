//! The HTTP API: one handler a resource. See edgeplex-api for what each takes and gives.

use crate::{
    desired::{ChangeError, Keeper},
    reconcile::{Look, State as Reconciled},
    show::Viewer,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State, connect_info::Connected, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use edgeplex_api::{Apply, AuditEntry, Changed, Delete, Drift, Failure, Status};
use edgeplex_intent::{Document, IntentError, MAX_TEXT};
use edgeplex_types::Name;
use serde::{Deserialize, Serialize};
use std::{
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
}

/// Who is at the other end of the Unix socket.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    uid: u32,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().map_or(u32::MAX, |c| c.uid()) }
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
    fn invalid(e: IntentError) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, Failure { message: e.to_string(), problem: Some(e) })
    }

    fn failed(e: &anyhow::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, Failure { message: format!("{e:#}"), problem: None })
    }
}

impl From<ChangeError> for Refused {
    fn from(e: ChangeError) -> Self {
        match e {
            ChangeError::Invalid(e) => Self::invalid(e),
            ChangeError::Failed(e) => Self::failed(&e),
        }
    }
}

impl From<anyhow::Error> for Refused {
    fn from(e: anyhow::Error) -> Self {
        Self::failed(&e)
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
    Ok(Json(api.keeper.audit()?))
}

#[derive(Debug, Deserialize)]
struct Selection {
    customer: Option<String>,
}

async fn show(State(api): State<Api>, Path(what): Path<String>, Query(selection): Query<Selection>) -> Result<Response, Refused> {
    fn json<T: Serialize>(value: T) -> Response {
        Json(value).into_response()
    }
    let desired = api.keeper.current();
    let customer: Option<Name> = match selection.customer {
        None => None,
        Some(text) => {
            let known = text.parse::<Name>().ok().filter(|n| desired.intent.customers.contains_key(n));
            let names: Vec<&str> = desired.intent.customers.keys().map(Name::as_str).collect();
            let unknown = || IntentError::new("query", "customer", &text, format!("no such customer; there are: {}", names.join(", ")));
            Some(known.ok_or_else(|| Refused::invalid(unknown()))?)
        }
    };
    let (viewer, customer) = (&api.viewer, customer.as_ref());
    Ok(match what.as_str() {
        "bgp" => json(viewer.bgp(&desired, customer).await),
        "routes" => json(viewer.routes(&desired, customer).await),
        "labels" => json(viewer.labels(&desired, customer).await),
        "fib" => json(viewer.fib(&desired, customer).await),
        "counters" => json(viewer.counters(&desired, customer).await),
        _ => {
            let right = "must be bgp, routes, labels, fib or counters";
            return Err(Refused(StatusCode::NOT_FOUND, Failure { message: format!("show {what}: {right}"), problem: None }));
        }
    })
}
