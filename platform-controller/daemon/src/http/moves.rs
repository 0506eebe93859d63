//! Resources of instances: moves, images, upgrades, checkpoints.

use super::{Answer, Api, Body, Refused};
use crate::{
    checkpoint,
    moves::Target,
    placement::{Unit, report},
    show::{check_host, check_unit, units_of},
};
use axum::{Json, extract::State, http::StatusCode};
use edgeplex_api::{
    Abort, AddImage, Checkpoint, Checkpointed, Drain, Failure, ImageRow, InstanceRow, Migrate, MoveKind, MoveReport, Started, UnitMove,
    UpgradeOrder, UpgradeReport,
};
use edgeplex_intent::OWN_HOST;

fn conflict(message: impl Into<String>) -> Refused {
    Refused(StatusCode::CONFLICT, Failure { message: message.into(), problem: None })
}

pub(super) async fn instances(State(api): State<Api>) -> Json<Vec<InstanceRow>> {
    Json(api.viewer.instances().await)
}

/// Of each unit those that are remembered, and the one under way.
pub(super) async fn moves(State(api): State<Api>) -> Json<Vec<UnitMove>> {
    let state = api.moves.placements().state();
    let of = |unit: &Unit, report: MoveReport| UnitMove { unit: unit.to_string(), took_ms: report.until_promoted_ms(), report };
    let all = state.units.iter().flat_map(|(u, p)| {
        let past = p.past.iter().map(|r| of(u, r.clone()));
        past.chain(p.unfinished.iter().map(|m| of(u, report(m)))).collect::<Vec<_>>()
    });
    Json(all.collect())
}

pub(super) async fn migrate(State(api): State<Api>, body: Body<Migrate>) -> Answer<Vec<Started>> {
    let Json(Migrate { whose, to }) = body?;
    let units = units_of(&api.keeper.current(), &whose)?;
    check_host(&api.viewer.fleet, &to)?;
    if units.contains(&Unit::Cvm) && to != OWN_HOST {
        return Err(conflict("the control VM stays on the controller's host; `--to local` makes it anew there"));
    }
    let (mut started, mut refused) = (vec![], vec![]);
    for unit in units {
        let image = api.moves.placements().get(&unit).and_then(|p| p.active.image.clone());
        let target = Target { kind: MoveKind::Move, host: to.clone(), image, why: "so it was asked".into(), file: None };
        match api.moves.begin(&unit, target).await {
            Ok(id) => started.push(Started { unit: unit.to_string(), id }),
            Err(e) => refused.push(format!("{e:#}")),
        }
    }
    some(started, &refused).map_err(conflict)
}

/// Those that go, where there are any: what the others lack is in the log. Otherwise why none does.
fn some(started: Vec<Started>, refused: &[String]) -> Result<Json<Vec<Started>>, String> {
    if started.is_empty() && !refused.is_empty() {
        return Err(refused.join("; "));
    }
    refused.iter().for_each(|why| tracing::warn!("{why}"));
    Ok(Json(started))
}

pub(super) async fn abort(State(api): State<Api>, body: Body<Abort>) -> Answer<Vec<Started>> {
    let Json(Abort { whose }) = body?;
    let (mut started, mut refused) = (vec![], vec![]);
    for unit in units_of(&api.keeper.current(), &whose)? {
        match api.moves.abort(&unit).await {
            Ok(id) => started.push(Started { unit: unit.to_string(), id }),
            Err(e) => refused.push(format!("{e:#}")),
        }
    }
    some(started, &refused).map_err(conflict)
}

pub(super) async fn drain(State(api): State<Api>, body: Body<Drain>) -> Answer<Vec<Started>> {
    let Json(Drain { host, undo }) = body?;
    check_host(&api.viewer.fleet, &host)?;
    if host == OWN_HOST && !undo && api.viewer.fleet.names().len() == 1 {
        return Err(conflict("there is no other host that could take the VMs"));
    }
    api.moves.placements().drain(&host, !undo).await?;
    if undo {
        return Ok(Json(vec![]));
    }
    Ok(Json(api.moves.drain(&host, &api.viewer.fleet).await))
}

pub(super) async fn images(State(api): State<Api>) -> Answer<Vec<ImageRow>> {
    Ok(Json(api.images.list(&api.moves.placements().state()).await?))
}

pub(super) async fn add_image(State(api): State<Api>, body: Body<AddImage>) -> Answer<Vec<ImageRow>> {
    let Json(AddImage { name, dir }) = body?;
    api.images.add(&name, &dir).await.map_err(|e| conflict(format!("{e:#}")))?;
    images(State(api)).await
}

pub(super) async fn upgrade_report(State(api): State<Api>) -> Answer<Option<UpgradeReport>> {
    Ok(Json(api.upgrades.report()))
}

pub(super) async fn upgrade(State(api): State<Api>, body: Body<UpgradeOrder>) -> Answer<UpgradeReport> {
    let Json(order) = body?;
    api.images.check(&order.to).await.map_err(|e| conflict(format!("{e:#}")))?;
    Ok(Json(api.upgrades.begin(order).await.map_err(|e| conflict(format!("{e:#}")))?))
}

pub(super) async fn rollback(State(api): State<Api>) -> Answer<UpgradeReport> {
    Ok(Json(api.upgrades.roll_back("so it was asked").await.map_err(|e| conflict(format!("{e:#}")))?))
}

pub(super) async fn checkpoint(State(api): State<Api>, body: Body<Checkpoint>) -> Answer<Checkpointed> {
    let Json(Checkpoint { unit, file }) = body?;
    let unit = check_unit(&api.keeper.current(), &unit)?;
    Ok(Json(checkpoint::write(&api.viewer, &unit, &file).await?))
}

pub(super) async fn restore(State(api): State<Api>, body: Body<Checkpoint>) -> Answer<Vec<Started>> {
    let Json(Checkpoint { unit, file }) = body?;
    let unit = check_unit(&api.keeper.current(), &unit)?;
    let id = checkpoint::restore(&api.moves, &unit, &file).await.map_err(|e| conflict(format!("{e:#}")))?;
    Ok(Json(vec![Started { unit: unit.to_string(), id }]))
}
