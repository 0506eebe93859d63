//! What placements need besides moves: units that come and go, and a standby where one is wanted.

use crate::{
    desired::Desired,
    hosts::{Census, Fleet},
    placement::{Conflict, Placement, Placements, State, Unit, Upkeep, Wish, tags_in_use, upkeep},
    specs,
};
use edgeplex_intent::{OWN_HOST, Protection};
use edgeplex_runtime::VmState;
use std::{collections::BTreeSet, path::Path};

/// vNICs of a VM of the unit.
pub fn nics(desired: &Desired, unit: &Unit) -> usize {
    match unit {
        Unit::Cvm => desired.intent.platform.as_ref().map_or(0, |p| p.core.len()),
        Unit::Pvm(_) => 2,
    }
}

/// Hosts that may take a new instance of the unit, the own one first. The control VM stays beside the controller.
pub async fn hosts_for(unit: &Unit, image: Option<&str>, fleet: &Fleet, drained: &BTreeSet<String>) -> Vec<String> {
    if *unit == Unit::Cvm {
        return vec![OWN_HOST.into()];
    }
    let mut out = vec![];
    for host in fleet.names().into_iter().filter(|h| !drained.contains(h) && fleet.is_up(h)) {
        if fleet.has_image(&host, image).await {
            out.push(host);
        }
    }
    out
}

/// Whether a standby is wanted of it.
pub fn standby_wanted(desired: &Desired, unit: &Unit) -> bool {
    match unit {
        Unit::Cvm => desired.intent.platform.as_ref().is_some_and(|p| p.control_plane.standby),
        Unit::Pvm(id) => desired.intent.customers.get(&id.customer).is_some_and(|c| desired.intent.protection_of(c) == Protection::Standby),
    }
}

/// Brings the placements in line with what is wanted and with the hosts there are.
pub async fn tend(placements: &Placements, fleet: &Fleet, desired: &Desired, census: &Census, dir: &Path) -> anyhow::Result<()> {
    let units = specs::units(desired);
    let there = |unit: &Unit, p: &Placement| p.instances().into_iter().any(|i| census.find(&i.host, &unit.vm(i.number)).is_some());
    let left = placements.state().units.iter().filter(|(u, p)| there(u, p)).map(|(u, _)| u.clone()).collect();
    placements.settle(&units, &left).await?;
    let state = placements.state();
    let used = tags_in_use(&state);
    let wanted = specs::wanted(desired, &state, dir)?;
    for unit in &units {
        let Some(p) = state.units.get(unit).filter(|p| p.unfinished.is_none()) else { continue };
        // Nobody is to stand by for one that is dead: it has to be made anew first.
        let runs = census.find(&p.active.host, &unit.vm(p.active.number)).is_some_and(|vm| vm.state != VmState::Dead);
        if p.standby.is_none() && !runs {
            continue;
        }
        let hosts = hosts_for(unit, p.active.image.as_deref(), fleet, &state.drained).await;
        let standby = standby_wanted(desired, unit) && !is_outdated(unit, p, &wanted, census);
        let nics = nics(desired, unit);
        let wish = Wish { standby, hosts: &hosts, nics };
        if upkeep(p, wish, &used) == Upkeep::Keep {
            continue;
        }
        let edit = |p: &mut Placement, state: &State| {
            match upkeep(p, wish, &tags_in_use(state)) {
                Upkeep::Keep => {}
                Upkeep::Drop => p.standby = None,
                Upkeep::Make { host, tags } => p.standby = Some(p.newcomer(&host, p.active.image.clone(), tags)),
            }
            Ok::<(), Conflict>(())
        };
        placements.change(unit, edit).await?;
    }
    Ok(())
}

/// The active instance will be made anew, for its vNICs or arguments have changed: that is no death for which anyone stands by.
fn is_outdated(unit: &Unit, p: &Placement, wanted: &specs::Wanted, census: &Census) -> bool {
    let vm = unit.vm(p.active.number);
    let is = census.find(&p.active.host, &vm).filter(|i| i.state != VmState::Dead).map(|i| &i.spec_hash);
    is.is_some_and(|hash| wanted.vms.vms.get(&vm).is_some_and(|w| w.spec != *hash))
}
