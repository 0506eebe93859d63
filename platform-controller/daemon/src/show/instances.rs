//! Who has which instances, and what they say of themselves.

use super::Viewer;
use crate::{
    desired::Desired,
    hosts::{Fleet, Place},
    placement::{Instance, Placement, State, Unit, free_tags, tags_in_use},
    specs, tending, vmlink,
};
use edgeplex_api::{InstanceRow, MoveKind, MoveReport, Whose};
use edgeplex_intent::IntentError;
use edgeplex_mgmt::show::{CvmQuery, InstanceOrder, InstanceStatus, PvmQuery};
use edgeplex_runtime::{VmInfo, VmState};
use futures::future::join_all;
use std::time::Duration;

/// A table must come soon, whatever a VM does.
const GLANCE: Duration = Duration::from_millis(800);

fn wrong(field: &str, given: impl ToString, what: &str, there: &[String]) -> IntentError {
    let right = format!("no such {what}; there are: {}", if there.is_empty() { "none".into() } else { there.join(", ") });
    IntentError::new("request", field, given.to_string(), right)
}

/// The unit that the operator named, if it is there.
pub fn check_unit(desired: &Desired, text: &str) -> Result<Unit, IntentError> {
    let units = specs::units(desired);
    let found = text.parse::<Unit>().ok().filter(|u| units.contains(u));
    found.ok_or_else(|| wrong("unit", text, "attachment", &units.iter().map(ToString::to_string).collect::<Vec<_>>()))
}

pub fn units_of(desired: &Desired, whose: &Whose) -> Result<Vec<Unit>, IntentError> {
    match whose {
        Whose::Cvm => check_unit(desired, "cvm").map(|u| vec![u]),
        Whose::Attachment(id) => check_unit(desired, &id.to_string()).map(|u| vec![u]),
        Whose::Customer(name) => {
            let units = specs::units(desired).into_iter().filter(|u| matches!(u, Unit::Pvm(id) if id.customer == *name));
            let units: Vec<Unit> = units.collect();
            let names: Vec<String> = desired.intent.customers.keys().map(ToString::to_string).collect();
            if units.is_empty() { Err(wrong("customer", name, "customer", &names)) } else { Ok(units) }
        }
    }
}

pub fn check_host(fleet: &Fleet, host: &str) -> Result<(), IntentError> {
    let names = fleet.names();
    if names.iter().any(|n| n == host) { Ok(()) } else { Err(wrong("host", host, "host", &names)) }
}

fn place_of(p: &Placement, i: &Instance) -> &'static str {
    if p.is_leaving(i) || i.number != p.active.number && i.number == p.leader().number {
        "leaving"
    } else if i.number == p.active.number {
        "active"
    } else if p.standby.as_ref().is_some_and(|s| s.number == i.number) {
        "standby"
    } else {
        "successor"
    }
}

pub(super) fn state_of(vm: Option<&VmInfo>) -> &'static str {
    vm.map_or("absent", |v| match v.state {
        VmState::Running => "running",
        VmState::Frozen => "frozen",
        VmState::Dead => "dead",
    })
}

impl Viewer {
    pub async fn look(&self, unit: &Unit, i: &Instance, limit: Duration) -> anyhow::Result<InstanceStatus> {
        let at = Place { runtime: self.fleet.at(&i.host)?, vm: unit.vm(i.number).parse()? };
        match unit {
            Unit::Cvm => vmlink::ask(&at, &CvmQuery::Instance(InstanceOrder::Look), limit).await,
            Unit::Pvm(_) => vmlink::ask(&at, &PvmQuery::Instance(InstanceOrder::Look), limit).await,
        }
    }

    /// All of all units, the active one first; all are asked at once.
    pub async fn instances(&self, desired: &Desired) -> Vec<InstanceRow> {
        let (placed, census) = (self.placements.state(), self.fleet.census().await);
        let all = placed.units.iter().flat_map(|(u, p)| p.instances().into_iter().map(move |i| (u, p, i)));
        let row = async |(unit, p, i): (&Unit, &Placement, &Instance)| {
            let vm = unit.vm(i.number);
            let note = if i.number == p.active.number { self.unprotected(desired, &placed, unit, p).await } else { None };
            let state = state_of(census.find(&i.host, &vm));
            let said = if state == "running" { self.look(unit, i, GLANCE).await.ok() } else { None };
            let last = p.past.last().filter(|r| r.to == i.number && r.kind == MoveKind::Failover);
            InstanceRow {
                failover_ms: last.map(MoveReport::until_promoted_ms),
                unit: unit.to_string(),
                place: place_of(p, i).into(),
                host: i.host.clone(),
                image: i.image.clone(),
                generation: i.generation,
                state: state.into(),
                said,
                note: note.unwrap_or_default(),
                vm,
            }
        };
        join_all(all.map(|(u, p, i)| row((u, p, i)))).await
    }

    /// Why a unit that should have a standby on another host has none there; nothing while it moves.
    async fn unprotected(&self, desired: &Desired, placed: &State, unit: &Unit, p: &Placement) -> Option<String> {
        let elsewhere = p.standby.as_ref().is_some_and(|s| s.host != p.active.host);
        if elsewhere || p.unfinished.is_some() || !tending::standby_wanted(desired, unit) {
            return None;
        }
        let what = if p.standby.is_some() { "its standby is on the same host" } else { "it has no standby" };
        if *unit == Unit::Cvm {
            return Some(format!("{what}: the control VM stays beside the controller"));
        }
        let used = tags_in_use(placed);
        let obstacle = async |host: String| match self.fleet.obstacle(&host, p.active.image.as_deref(), &placed.drained).await {
            None => {
                let free = free_tags(&used, &host, tending::nics(desired, unit));
                free.is_none().then(|| format!("no tags are left on the link to {host}"))
            }
            some => some,
        };
        let others: Vec<String> = self.fleet.names().into_iter().filter(|h| *h != p.active.host).collect();
        let count = others.len();
        let obstacles: Vec<String> = join_all(others.into_iter().map(obstacle)).await.into_iter().flatten().collect();
        let why = match obstacles.len() {
            0 if count == 0 => "there is no other host".to_owned(),
            n if n < count => "another is being made".to_owned(),
            _ => obstacles.join("; "),
        };
        Some(format!("{what}: {why}"))
    }
}
