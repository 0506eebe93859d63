//! Answers to `edgeplex show` and `edgeplex status`, gathered from the VMs side by side.

use crate::{
    desired::Desired,
    reconcile::State,
    specs::{CVM, vm_of},
    vmlink::{self, FibLink, PATIENCE},
};
use anyhow::bail;
use edgeplex_api::{AttachmentStatus, BgpRow, CounterRow, FibRow, RouteRow, Shown, Status, Timing, Vm};
use edgeplex_ff_fib_api::{MAX_ROWS, Reply, Request};
use edgeplex_mgmt::show::{BgpNeighbor, CvmQuery, CvmStatus, LabelRow, PvmQuery, PvmStatus, Route};
use edgeplex_runtime::{Runtime, VmId, VmState};
use edgeplex_types::{AttachmentId, Name};
use futures::future::join_all;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// A status must come soon, whatever a VM does.
const GLANCE: Duration = Duration::from_millis(800);
/// Routes of one FIB shown at most.
const MAX_FIB: usize = 2_000_000;

#[derive(Debug, Clone)]
pub struct Viewer {
    pub runtime: Arc<dyn Runtime>,
}

fn attachments(desired: &Desired, customer: Option<&Name>) -> Vec<AttachmentId> {
    let wanted = |id: &AttachmentId| customer.is_none_or(|c| id.customer == *c);
    desired.intent.attachments().map(|(id, _, _)| id).filter(wanted).collect()
}

fn bgp_row(owner: &str, neighbor: BgpNeighbor) -> BgpRow {
    BgpRow { owner: owner.into(), neighbor }
}

/// Rows of all that answered, in order, and the names of those that did not, with the reason.
fn gather<T>(answers: Vec<(String, anyhow::Result<Vec<T>>)>) -> Shown<T> {
    let mut shown = Shown { rows: vec![], unreachable: vec![] };
    for (who, answer) in answers {
        match answer {
            Ok(rows) => shown.rows.extend(rows),
            Err(e) => shown.unreachable.push(format!("{who}: {e:#}")),
        }
    }
    shown
}

impl Viewer {
    fn run_dir(&self, vm: &str) -> anyhow::Result<PathBuf> {
        Ok(self.runtime.vm_run_dir(&vm.parse::<VmId>()?))
    }

    /// What each PVM answers, all asked at once.
    async fn of_pvms<T, F: Future<Output = anyhow::Result<Vec<T>>>>(
        &self,
        ids: Vec<AttachmentId>,
        ask: impl Fn(AttachmentId, PathBuf) -> F,
    ) -> Vec<(String, anyhow::Result<Vec<T>>)> {
        let asked = ids.into_iter().map(|id| {
            let name = id.to_string();
            let answer = self.run_dir(&vm_of(&id)).map(|dir| ask(id, dir));
            async move {
                match answer {
                    Ok(answer) => (name, answer.await),
                    Err(e) => (name, Err(e)),
                }
            }
        });
        join_all(asked).await
    }

    pub async fn bgp(&self, desired: &Desired, customer: Option<&Name>) -> Shown<BgpRow> {
        let mut answers = self
            .of_pvms(attachments(desired, customer), |id, dir| async move {
                let neighbors: Vec<BgpNeighbor> = vmlink::ask(&dir, &PvmQuery::Bgp, PATIENCE).await?;
                Ok(neighbors.into_iter().map(|n| bgp_row(&id.to_string(), n)).collect())
            })
            .await;
        if customer.is_none() && desired.intent.platform.is_some() {
            let core = self.cvm::<Vec<BgpNeighbor>>(&CvmQuery::Bgp).await;
            answers.insert(0, (CVM.into(), core.map(|n| n.into_iter().map(|n| bgp_row(CVM, n)).collect())));
        }
        gather(answers)
    }

    pub async fn routes(&self, desired: &Desired, customer: Option<&Name>) -> Shown<RouteRow> {
        gather(
            self.of_pvms(attachments(desired, customer), |id, dir| async move {
                let routes: Vec<Route> = vmlink::ask(&dir, &PvmQuery::Routes, PATIENCE).await?;
                Ok(routes.into_iter().map(|route| RouteRow { attachment: id.clone(), route }).collect())
            })
            .await,
        )
    }

    pub async fn labels(&self, desired: &Desired, customer: Option<&Name>) -> Shown<LabelRow> {
        if desired.intent.platform.is_none() {
            return gather(vec![]);
        }
        let rows = self.cvm::<Vec<LabelRow>>(&CvmQuery::Labels).await;
        let of_customer = |row: &LabelRow| customer.is_none_or(|c| row.attachment.customer == *c);
        gather(vec![(CVM.into(), rows.map(|rows| rows.into_iter().filter(of_customer).collect()))])
    }

    pub async fn fib(&self, desired: &Desired, customer: Option<&Name>) -> Shown<FibRow> {
        gather(
            self.of_pvms(attachments(desired, customer), |id, dir| async move {
                let mut link = FibLink::open(&dir).await?;
                let mut rows: Vec<FibRow> = vec![];
                loop {
                    let after = rows.last().map(|r| r.prefix);
                    let Reply::Routes { rows: page, more } = link.ask(&Request::Routes { after, limit: MAX_ROWS }).await? else {
                        bail!("FastForward answered something else");
                    };
                    // A hostile PVM could go on for ever, or in circles.
                    let forward = page.first().is_none_or(|(p, _)| after.is_none_or(|a| *p > a));
                    if !forward || rows.len() > MAX_FIB {
                        bail!("FastForward's pages do not end");
                    }
                    let empty = page.is_empty();
                    rows.extend(page.into_iter().map(|(prefix, target)| FibRow { attachment: id.clone(), prefix, target }));
                    if !more || empty {
                        return Ok(rows);
                    }
                }
            })
            .await,
        )
    }

    pub async fn counters(&self, desired: &Desired, customer: Option<&Name>) -> Shown<CounterRow> {
        gather(
            self.of_pvms(attachments(desired, customer), |id, dir| async move {
                match FibLink::open(&dir).await?.ask(&Request::Counters).await? {
                    Reply::Counters(counters) => Ok(vec![CounterRow { attachment: id.clone(), counters }]),
                    _ => bail!("FastForward answered something else"),
                }
            })
            .await,
        )
    }

    async fn cvm<T: serde::de::DeserializeOwned>(&self, query: &CvmQuery) -> anyhow::Result<T> {
        vmlink::ask(&self.run_dir(CVM)?, query, PATIENCE).await
    }

    pub async fn status(&self, desired: &Arc<Desired>, state: &State, uptime: Duration) -> anyhow::Result<Status> {
        let vms = self.runtime.list().await?;
        let state_of = |vm: &str| {
            vms.iter().find(|v| v.id.as_str() == vm).map_or("absent", |v| match v.state {
                VmState::Running => "running",
                VmState::Frozen => "frozen",
                VmState::Dead => "dead",
            })
        };
        let cvm: Option<CvmStatus> = match state_of(CVM) {
            "running" => vmlink::ask(&self.run_dir(CVM)?, &CvmQuery::Status, GLANCE).await.ok(),
            _ => None,
        };
        let running = attachments(desired, None).into_iter().filter(|id| state_of(&vm_of(id)) == "running").collect();
        let asked = self
            .of_pvms(running, |id, dir| async move { Ok(vec![(id, vmlink::ask::<_, PvmStatus>(&dir, &PvmQuery::Status, GLANCE).await?)]) });
        let said: BTreeMap<AttachmentId, PvmStatus> = asked.await.into_iter().filter_map(|(_, answer)| answer.ok()).flatten().collect();
        let one = |(id, _, a): (AttachmentId, &edgeplex_intent::Customer, &edgeplex_intent::Attachment)| {
            let pvm = said.get(&id);
            let in_cvm = cvm.as_ref().and_then(|c| c.attachments.iter().find(|x| x.attachment == id));
            let (relay_up, fib_up) = pvm.map_or((false, false), |s| (s.relay_up, s.fib_up));
            AttachmentStatus {
                port: a.port.clone(),
                vlan: a.vlan,
                rd: a.rd.or_else(|| desired.rds.get(&id).copied()),
                label: in_cvm.map(|x| x.label),
                vm: state_of(&vm_of(&id)).into(),
                relay_up,
                fib_up,
                bgp: pvm.map_or_else(|| "unknown".into(), |s| s.bgp.clone()),
                customer_routes: pvm.map_or(0, |s| s.customer_routes),
                vpn_routes: pvm.map_or(0, |s| s.vpn_routes),
                ready: relay_up && fib_up && state.connected.contains(&id),
                attachment: id,
            }
        };
        let attachments = desired.intent.attachments().map(one).collect();
        let microseconds = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let timing = |(stage, d): &(String, Duration)| Timing { stage: stage.clone(), microseconds: microseconds(*d) };
        let vm = |v: &edgeplex_runtime::VmInfo| Vm {
            id: v.id.to_string(),
            state: state_of(v.id.as_str()).into(),
            pid: v.pid,
            template: v.template.clone(),
            timings: v.timings.iter().map(timing).collect(),
        };
        Ok(Status {
            platform: desired.intent.platform.as_ref().map(|p| p.name.clone()),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: uptime.as_secs(),
            reconciler: state.report(desired),
            vms: vms.iter().map(vm).collect(),
            attachments,
            cvm,
        })
    }
}
