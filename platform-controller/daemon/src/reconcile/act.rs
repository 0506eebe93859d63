//! Acting: the steps of a pass, in their order, alike ones side by side.

use super::{Reconciler, look::View};
use crate::{
    hosts::Place,
    placement::Unit,
    specs::{Wanted, WantedVm, digest},
};
use anyhow::Context;
use edgeplex_intent::Step;
use edgeplex_runtime::VmInfo;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

impl Reconciler {
    /// Carries out the steps of `view`; how many succeeded, and what did not. VMs are started side by side.
    pub(super) async fn act(&mut self, view: View) -> (u64, Vec<String>) {
        let now = Instant::now();
        let (mut done, mut problems) = (0, vec![]);
        let View { wanted, found, rules, revision, .. } = view;
        let steps: Vec<Step> = view.steps.into_iter().filter(|s| s.vm().is_none_or(|vm| !self.memory.pauses.rests(vm, now))).collect();
        let mut broken = BTreeSet::new();
        let mut index = 0;
        while index < steps.len() {
            let step = &steps[index];
            let mut together = vec![step];
            // Those for which the CVM is ready are served side by side: a slow one must not hold up the others.
            if matches!(step, Step::Start { vm } | Step::Configure { vm } if wanted.specs.get(vm).is_none_or(|w| w.unit != Some(Unit::Cvm)))
            {
                let alike = |s: &&Step| std::mem::discriminant(*s) == std::mem::discriminant(step);
                together.extend(steps[index + 1..].iter().take_while(alike));
            }
            index += together.len();
            together.retain(|s| s.vm().is_none_or(|vm| !broken.contains(vm)));
            let results = match together.as_slice() {
                [] => continue,
                [Step::Start { .. } | Step::Configure { .. }, ..] => self.side_by_side(&together, &wanted).await,
                [other, ..] => {
                    let result = match other {
                        // Ports that came in this round have no rules in `rules` yet: the next round adds them.
                        Step::Rules { .. } => self.parts.bundles.apply(rules.clone(), revision).await,
                        other => self.take(other, &wanted, &found).await,
                    };
                    vec![(other.vm().map(ToOwned::to_owned), result)]
                }
            };
            for (vm, result) in results {
                match (result, vm) {
                    (Ok(()), vm) => {
                        done += 1;
                        vm.iter().for_each(|vm| self.memory.pauses.succeeded(vm));
                    }
                    (Err(e), Some(vm)) => {
                        let problem = format!("VM {vm}: {step}: {e:#}");
                        problems.push(problem.clone());
                        self.memory.pauses.failed(&vm, problem, Instant::now());
                        broken.insert(vm);
                    }
                    (Err(e), None) => problems.push(format!("{step}: {e:#}")),
                }
            }
        }
        (done, problems)
    }

    /// Starts or configures VMs, all at once. What a VM's daemon has taken is known afterwards.
    async fn side_by_side(&mut self, steps: &[&Step], wanted: &Wanted) -> Vec<(Option<String>, anyhow::Result<()>)> {
        let this = &*self;
        let one = async |step: &Step| {
            let vm = step.vm().unwrap_or_default();
            tracing::info!("{step}");
            let result = match wanted.specs.get(vm) {
                None => Err(anyhow::anyhow!("no such VM is wanted")),
                Some(want) if matches!(step, Step::Start { .. }) => this.start(want).await.map(|()| digest(&want.spec.config)),
                Some(want) => this.configure(want).await.map(|()| digest(&want.spec.config)),
            };
            (vm.to_owned(), result)
        };
        let mut results = vec![];
        for (vm, result) in join_all(steps.iter().map(|s| one(s))).await {
            self.memory.taken.remove(&vm);
            let result = result.map(|config| drop(self.memory.taken.insert(vm.clone(), config)));
            results.push((Some(vm), result));
        }
        results
    }

    async fn start(&self, want: &WantedVm) -> anyhow::Result<()> {
        let info = self.parts.fleet.at(&want.host)?.start(&want.spec).await?;
        tracing::info!("started VM {} on {}: pid {}, {:?}", want.spec.id, want.host, info.pid, info.timings);
        Ok(())
    }

    async fn configure(&self, want: &WantedVm) -> anyhow::Result<()> {
        let at = Place { runtime: self.parts.fleet.at(&want.host)?, vm: want.spec.id.clone() };
        at.runtime.rewrite_config(&at.vm, &want.spec.config).await?;
        self.reload(&at, want.unit.as_ref()).await
    }

    async fn take(&mut self, step: &Step, wanted: &Wanted, found: &BTreeMap<String, (String, VmInfo)>) -> anyhow::Result<()> {
        tracing::info!("{step}");
        match step {
            Step::Remove { vm, .. } => {
                let (host, info) = found.get(vm).context("it is gone already")?;
                match wanted.specs.get(vm) {
                    Some(_) => self.remove(host, info).await,
                    None => self.remove_for_good(host, info).await,
                }
            }
            Step::Connect { ports, .. } => {
                for port in ports {
                    self.parts.switch.ensure_port(port).await?;
                }
                Ok(())
            }
            Step::Rules { .. } | Step::Start { .. } | Step::Configure { .. } => anyhow::bail!("{step}: is served elsewhere"),
        }
    }
}
