//! What there is of instances, moves, hosts, images and upgrades.

use super::{Answer, Api};
use crate::placement::{Unit, report};
use axum::{Json, extract::State};
use edgeplex_api::{HostRow, ImageRow, InstanceRow, MoveReport, UnitMove, UpgradeReport};

pub(super) async fn hosts(State(api): State<Api>) -> Json<Vec<HostRow>> {
    Json(api.viewer.hosts().await)
}

pub(super) async fn instances(State(api): State<Api>) -> Json<Vec<InstanceRow>> {
    Json(api.viewer.instances(&api.keeper.current()).await)
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

pub(super) async fn images(State(api): State<Api>) -> Answer<Vec<ImageRow>> {
    Ok(Json(api.images.list(&api.moves.placements().state()).await?))
}

pub(super) async fn upgrade_report(State(api): State<Api>) -> Answer<Option<UpgradeReport>> {
    Ok(Json(api.upgrades.report()))
}
