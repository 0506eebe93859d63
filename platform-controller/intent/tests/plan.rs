//! What holds for every plan.

#![allow(clippy::unwrap_used)]

use edgeplex_intent::*;
use proptest::{option, prelude::*, sample};
use std::collections::{BTreeMap, BTreeSet};

const IDS: [&str; 4] = ["cvm", "pvm-a-1", "pvm-a-2", "pvm-b-1"];

/// Ports of its vNICs, and those of the host that it needs.
fn ports(id: &str) -> BTreeSet<String> {
    [format!("{id}-cust"), format!("{id}-core"), if id == "cvm" { "eth1" } else { "eth2" }.into()].into()
}

fn version() -> impl Strategy<Value = String> {
    sample::select(vec!["one".to_owned(), "two".to_owned()])
}

fn desired() -> impl Strategy<Value = Desired> {
    let vm = |id: &'static str| {
        (version(), version())
            .prop_map(move |(spec, config)| (id.to_owned(), DesiredVm { is_cvm: id == "cvm", spec, config, ports: ports(id) }))
    };
    sample::subsequence(IDS.to_vec(), 0..=4)
        .prop_flat_map(move |ids| ids.into_iter().map(vm).collect::<Vec<_>>())
        .prop_map(|vms| Desired { vms: vms.into_iter().collect() })
}

fn observed() -> impl Strategy<Value = Observed> {
    let vm = |id: &'static str| {
        let state = sample::select(vec![VmState::Alive, VmState::Dead]);
        (state, version(), option::of(version())).prop_map(move |(state, spec, config)| {
            let ports = ports(id).into_iter().filter(|p| !p.starts_with("eth")).collect();
            (id.to_owned(), ObservedVm { state, spec, config, ports })
        })
    };
    let vms = sample::subsequence(IDS.to_vec(), 0..=4).prop_flat_map(move |ids| ids.into_iter().map(vm).collect::<Vec<_>>());
    let all: Vec<String> = IDS.iter().flat_map(|id| ports(id)).collect();
    let count = all.len();
    (vms, sample::subsequence(all, 0..=count), 0..3usize).prop_map(|(vms, ports, rules)| Observed {
        vms: vms.into_iter().collect::<BTreeMap<_, _>>(),
        ports: ports.into_iter().collect(),
        rules,
    })
}

/// The world after a step; what cannot be done in it fails.
fn carry_out(step: &Step, desired: &Desired, world: &mut Observed) {
    match step {
        Step::Remove { vm, .. } => {
            let vm = world.vms.remove(vm).unwrap();
            world.ports.retain(|p| !vm.ports.contains(p));
        }
        Step::Configure { vm } => {
            let seen = world.vms.get_mut(vm).unwrap();
            assert_eq!(seen.state, VmState::Alive, "the dead cannot be configured");
            seen.config = Some(desired.vms[vm].config.clone());
        }
        Step::Start { vm } => {
            let want = &desired.vms[vm];
            let nics = want.ports.iter().filter(|p| !p.starts_with("eth")).cloned().collect();
            let new = ObservedVm { state: VmState::Alive, spec: want.spec.clone(), config: Some(want.config.clone()), ports: nics };
            assert!(world.vms.insert(vm.clone(), new).is_none(), "{vm} is there already");
        }
        Step::Connect { vm, ports } => {
            assert!(world.vms.contains_key(vm), "{vm} has no vNIC to connect");
            world.ports.extend(ports.iter().cloned());
        }
        Step::Rules { .. } => world.rules = 0,
    }
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(desired in desired(), observed in observed()) {
        let mut world = observed;
        for step in plan(&desired, &world) {
            carry_out(&step, &desired, &mut world);
        }
        prop_assert_eq!(plan(&desired, &world), vec![]);
        prop_assert!(world.vms.keys().eq(desired.vms.keys()));
        prop_assert!(desired.vms.values().all(|vm| vm.ports.is_subset(&world.ports)));
    }

    #[test]
    fn what_goes_goes_first_and_the_cvm_knows_before_a_pvm_starts(desired in desired(), observed in observed()) {
        let rank = |s: &Step| match s {
            Step::Remove { .. } => 0,
            Step::Configure { vm } | Step::Start { vm } if vm == "cvm" => 1,
            Step::Configure { .. } => 2,
            Step::Start { .. } => 3,
            Step::Connect { .. } => 4,
            Step::Rules { .. } => 5,
        };
        let ranks: Vec<_> = plan(&desired, &observed).iter().map(rank).collect();
        prop_assert!(ranks.is_sorted(), "{ranks:?}");
    }
}
