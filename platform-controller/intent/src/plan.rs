//! What to do so that the VMs, ports and rules that are become those that should be.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A VM that should run. The CVM comes before all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredVm {
    pub is_cvm: bool,
    /// Hash of all that cannot change while it runs.
    pub spec: String,
    /// Digest of its configuration.
    pub config: String,
    /// Switch ports of its vNICs, and those of the host that it needs.
    pub ports: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    pub vms: BTreeMap<String, DesiredVm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Running, or held by someone who will let it run again.
    Alive,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedVm {
    pub state: VmState,
    pub spec: String,
    /// The configuration that its daemon is known to have taken, if any.
    pub config: Option<String>,
    /// Switch ports of its vNICs.
    pub ports: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    pub vms: BTreeMap<String, ObservedVm>,
    /// Ports that the switch has and that work.
    pub ports: BTreeSet<String>,
    /// Rules to add or remove, with the ports as they are now.
    pub rules: usize,
}

/// One step; the order in which [`plan`] gives them is the order in which to take them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Take the rules, the ports and then the VM away.
    Remove {
        vm: String,
        why: String,
    },
    Configure {
        vm: String,
    },
    Start {
        vm: String,
    },
    Connect {
        vm: String,
        ports: Vec<String>,
    },
    Rules {
        changes: usize,
    },
}

impl Step {
    /// The VM that it is about, if one.
    pub fn vm(&self) -> Option<&str> {
        match self {
            Self::Remove { vm, .. } | Self::Configure { vm } | Self::Start { vm } | Self::Connect { vm, .. } => Some(vm),
            Self::Rules { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { vm, why } => write!(f, "stop VM {vm}: {why}"),
            Self::Configure { vm } => write!(f, "give VM {vm} its new configuration"),
            Self::Start { vm } => write!(f, "start VM {vm}"),
            Self::Connect { vm, ports } => write!(f, "connect VM {vm}: ports {}", ports.join(", ")),
            Self::Rules { changes } => write!(f, "change {changes} switch rules"),
        }
    }
}

/// The steps from `observed` to `desired`, in order; empty when nothing is to be done.
///
/// What goes, goes first: its rules and VM before the CVM forgets its label. What comes, comes after the CVM knows of
/// it: the CVM's configuration before any PVM that it must let in, rules last.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = vec![];
    let mut gone = BTreeSet::new();
    for (id, vm) in &observed.vms {
        let why = match desired.vms.get(id) {
            None => "it is no longer wanted",
            Some(_) if vm.state == VmState::Dead => "it has died",
            Some(want) if want.spec != vm.spec => "it must be made anew",
            Some(_) => continue,
        };
        gone.insert(id);
        steps.push(Step::Remove { vm: id.clone(), why: why.into() });
    }
    let mut wanted: Vec<_> = desired.vms.iter().collect();
    wanted.sort_by_key(|(id, vm)| (!vm.is_cvm, *id));
    let running = |id: &String| observed.vms.get(id).filter(|_| !gone.contains(id));
    // The CVM in full before the PVMs; then PVMs that run are told before others are made.
    for cvm in [true, false] {
        let of_kind = || wanted.iter().filter(move |(_, vm)| vm.is_cvm == cvm);
        for (id, want) in of_kind() {
            if running(id).is_some_and(|vm| vm.config.as_ref() != Some(&want.config)) {
                steps.push(Step::Configure { vm: (*id).clone() });
            }
        }
        for (id, _) in of_kind() {
            if running(id).is_none() {
                steps.push(Step::Start { vm: (*id).clone() });
            }
        }
    }
    for (id, want) in &wanted {
        // The ports of a VM that is made anew have to be looked at anew.
        let own = |p: &String| observed.vms.get(*id).is_none_or(|vm| gone.contains(id) && vm.ports.contains(p));
        let missing: Vec<_> = want.ports.iter().filter(|p| !observed.ports.contains(*p) || own(p)).cloned().collect();
        if !missing.is_empty() {
            steps.push(Step::Connect { vm: (*id).clone(), ports: missing });
        }
    }
    if observed.rules > 0 || !steps.is_empty() && steps.iter().any(|s| !matches!(s, Step::Configure { .. })) {
        steps.push(Step::Rules { changes: observed.rules });
    }
    steps
}
