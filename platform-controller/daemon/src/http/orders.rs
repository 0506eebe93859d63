//! Orders to instances: moves, images, upgrades, checkpoints. Each is in the audit log before it is carried out.

use super::{Answer, Api, Body, Peer, Refused};
use crate::{
    audit::Became,
    checkpoint,
    moves::Target,
    placement::{Unit, now_ms},
    show::{check_host, check_unit, units_of},
};
use axum::{
    Json,
    extract::{ConnectInfo, State},
};
use edgeplex_api::{
    Abort, AddImage, Begun, Checkpoint, Checkpointed, Drain, ImageRow, Migrate, MoveKind, Started, Stays, UpgradeOrder, UpgradeReport,
    UpgradeState, Whose,
};
use edgeplex_intent::OWN_HOST;
use edgeplex_runtime::Reach;
use futures::future::join_all;

type Who = ConnectInfo<Peer>;

/// Notes the order, carries it out and notes what became of it.
async fn noted<T>(api: &Api, peer: Peer, order: String, act: impl Future<Output = Result<(T, Became), Refused>>) -> Answer<T> {
    let number = api.keeper.audit().begin(peer.uid, order).await?;
    match act.await {
        Ok((answer, became)) => {
            api.keeper.audit().follow(number, became, &api.moves, &api.upgrades).await;
            Ok(Json(answer))
        }
        Err(refused) => {
            let word = if refused.0.is_client_error() { "refused" } else { "failed" };
            api.keeper.audit().end(number, format!("{word}: {}", refused.1.message)).await;
            Err(refused)
        }
    }
}

fn conflict(e: anyhow::Error) -> Refused {
    Refused::conflict(format!("{e:#}"))
}

/// Those that go, where there are any, with what the others lack. Otherwise why none does.
fn begun(moves: Vec<Started>, stay: Vec<Stays>) -> Result<(Begun, Became), String> {
    if moves.is_empty() && stay.iter().any(|s| !s.by_design) {
        // Of all units of a customer it is the same more often than not.
        let mut whys: Vec<String> = stay.into_iter().map(|s| s.why).collect();
        whys.dedup();
        return Err(whys.join("; "));
    }
    let left = stay.iter().filter(|s| !s.by_design).map(|s| s.why.clone()).collect();
    Ok((Begun { moves: moves.clone(), stay }, Became::Moves(moves, left)))
}

fn name(whose: &Whose) -> String {
    match whose {
        Whose::Customer(name) => name.to_string(),
        Whose::Attachment(id) => id.to_string(),
        Whose::Cvm => "cvm".into(),
    }
}

pub(super) async fn migrate(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<Migrate>) -> Answer<Begun> {
    let Json(Migrate { whose, to }) = body?;
    let act = async {
        let units = units_of(&api.keeper.current(), &whose)?;
        check_host(&api.viewer.fleet, &to)?;
        if units.contains(&Unit::Cvm) && to != OWN_HOST {
            return Err(Refused::conflict("the control VM stays on the controller's host; `--to local` makes it anew there"));
        }
        // A customer's VMs may be of different versions; of those that fit none is held up by the others.
        let (mut moves, mut stay) = (vec![], vec![]);
        for unit in units {
            let image = api.moves.placements().get(&unit).and_then(|p| p.active.image.clone());
            let obstacle = obstacle(&api, &to, image.as_deref()).await;
            let target = Target { kind: MoveKind::Move, host: to.clone(), image, why: "so it was asked".into(), file: None };
            let result = match obstacle {
                Some(why) => Err(why),
                None => api.moves.begin(&unit, target).await.map_err(|e| format!("{e:#}")),
            };
            match result {
                Ok(id) => moves.push(Started { unit: unit.to_string(), id }),
                Err(why) => stay.push(Stays { unit: unit.to_string(), why, by_design: false }),
            }
        }
        begun(moves, stay).map_err(Refused::conflict)
    };
    noted(&api, peer, format!("migrate {} --to {to}", name(&whose)), act).await
}

/// Why nothing goes to that host now.
async fn obstacle(api: &Api, to: &str, image: Option<&str>) -> Option<String> {
    let fleet = &api.viewer.fleet;
    let state = api.moves.placements().state();
    let obstacle = fleet.obstacle(to, image, &state.drained).await;
    // Nothing is begun on one that may be lost in a moment.
    obstacle.or_else(|| (fleet.seen(to).reach == Reach::Broken).then(|| format!("host {to} cannot be reached just now")))
}

pub(super) async fn abort(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<Abort>) -> Answer<Begun> {
    let Json(Abort { whose }) = body?;
    let act = async {
        let (mut moves, mut stay) = (vec![], vec![]);
        for unit in units_of(&api.keeper.current(), &whose)? {
            match api.moves.abort(&unit).await {
                Ok(id) => moves.push(Started { unit: unit.to_string(), id }),
                Err(e) => stay.push(Stays { unit: unit.to_string(), why: format!("{e:#}"), by_design: false }),
            }
        }
        let (begun, _) = begun(moves, stay).map_err(Refused::conflict)?;
        Ok((begun, Became::Done("done".into())))
    };
    noted(&api, peer, format!("migrate {} --abort", name(&whose)), act).await
}

pub(super) async fn drain(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<Drain>) -> Answer<Begun> {
    let Json(Drain { host, undo }) = body?;
    let order = format!("{} {host}", if undo { "undrain" } else { "drain" });
    let act = async {
        check_host(&api.viewer.fleet, &host)?;
        if host == OWN_HOST && !undo && api.viewer.fleet.names().len() == 1 {
            return Err(Refused::conflict("there is no other host that could take the VMs"));
        }
        api.moves.placements().drain(&host, !undo).await?;
        if undo {
            return Ok((Begun::default(), Became::Done("done".into())));
        }
        let moves = api.moves.drain(&host, &api.viewer.fleet).await;
        let stay = stays(&api, &host, &moves).await;
        // It is drained, whoever stays.
        let left = stay.iter().filter(|s| !s.by_design).map(|s| s.why.clone()).collect();
        Ok((Begun { moves: moves.clone(), stay }, Became::Moves(moves, left)))
    };
    noted(&api, peer, order, act).await
}

/// What is active on a drained host and does not go, and why.
async fn stays(api: &Api, host: &str, moves: &[Started]) -> Vec<Stays> {
    let state = api.moves.placements().state();
    let going = |unit: &Unit| moves.iter().any(|m| m.unit == unit.to_string());
    let mut out = vec![];
    for (unit, p) in state.units.iter().filter(|(unit, p)| p.active.host == host && !going(unit)) {
        let by_design = *unit == Unit::Cvm;
        let why = if by_design {
            format!("the control VM, and its standby, stay on {host}: they run beside the controller")
        } else if let Some(m) = &p.unfinished {
            format!("{unit} stays: {} {} is under way", m.kind, m.id)
        } else {
            let others = api.viewer.fleet.names().into_iter().filter(|h| h != host);
            let image = p.active.image.as_deref();
            let obstacles = others.map(async |to| api.viewer.fleet.obstacle(&to, image, &state.drained).await);
            let obstacles: Vec<String> = join_all(obstacles).await.into_iter().flatten().collect();
            format!("{unit} stays: {}", if obstacles.is_empty() { "it could not be moved".into() } else { obstacles.join("; ") })
        };
        out.push(Stays { unit: unit.to_string(), why, by_design });
    }
    out
}

pub(super) async fn add_image(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<AddImage>) -> Answer<Vec<ImageRow>> {
    let Json(AddImage { name, dir }) = body?;
    let act = async {
        api.images.add(&name, &dir).await.map_err(conflict)?;
        Ok((api.images.list(&api.moves.placements().state()).await?, Became::Done("done".into())))
    };
    noted(&api, peer, format!("image add {name} {}", dir.display()), act).await
}

pub(super) async fn upgrade(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<UpgradeOrder>) -> Answer<UpgradeReport> {
    let Json(order) = body?;
    let UpgradeOrder { to, canary, then_percent, soak_s } = &order;
    let text = format!("upgrade --to {to} --canary {canary} --then {then_percent}% --soak {soak_s}");
    let act = async {
        api.images.check(&order.to, &api.moves.placements().state()).await.map_err(conflict)?;
        let report = api.upgrades.begin(order).await.map_err(conflict)?;
        let began = report.started_ms;
        Ok((report, Became::Upgrade(began, UpgradeState::Done)))
    };
    noted(&api, peer, text, act).await
}

pub(super) async fn rollback(State(api): State<Api>, ConnectInfo(peer): Who) -> Answer<UpgradeReport> {
    let act = async {
        let report = api.upgrades.roll_back("so it was asked").await.map_err(conflict)?;
        let began = report.started_ms;
        Ok((report, Became::Upgrade(began, UpgradeState::RolledBack)))
    };
    noted(&api, peer, "rollback".into(), act).await
}

pub(super) async fn checkpoint(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<Checkpoint>) -> Answer<Checkpointed> {
    let Json(Checkpoint { unit, file }) = body?;
    let order = format!("checkpoint {unit} {}", file.display());
    let act = async {
        let unit = check_unit(&api.keeper.current(), &unit)?;
        let file = checkpoint::place(&unit, &file, now_ms()).map_err(conflict)?;
        Ok((checkpoint::write(&api.viewer, &unit, file).await?, Became::Done("done".into())))
    };
    noted(&api, peer, order, act).await
}

pub(super) async fn restore(State(api): State<Api>, ConnectInfo(peer): Who, body: Body<Checkpoint>) -> Answer<Begun> {
    let Json(Checkpoint { unit, file }) = body?;
    let order = format!("restore {unit} {}", file.display());
    let act = async {
        let unit = check_unit(&api.keeper.current(), &unit)?;
        let id = checkpoint::restore(&api.moves, &unit, &file).await.map_err(conflict)?;
        begun(vec![Started { unit: unit.to_string(), id }], vec![]).map_err(Refused::conflict)
    };
    noted(&api, peer, order, act).await
}
