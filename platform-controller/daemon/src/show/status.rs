//! Health: what runs, and what each part says of itself.

use super::{Of, Viewer, attachments};
use crate::{
    desired::Desired,
    placement::Unit,
    reconcile::State,
    specs::LSR,
    vmlink::{self, FibLink},
};
use edgeplex_api::{AttachmentStatus, LsrStatus, Status, Timing, Vm};
use edgeplex_ff_fib_api::{Reply, Request};
use edgeplex_mgmt::show::{CvmQuery, CvmStatus, PvmQuery, PvmStatus};
use edgeplex_runtime::VmState;
use edgeplex_types::AttachmentId;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A status must come soon, whatever a VM does.
const GLANCE: Duration = Duration::from_millis(800);

impl Viewer {
    pub async fn status(&self, desired: &Arc<Desired>, state: &State, uptime: Duration) -> anyhow::Result<Status> {
        let census = self.fleet.census().await;
        let vms: Vec<&edgeplex_runtime::VmInfo> = census.vms.iter().map(|(_, vm)| vm).collect();
        let placed = self.placements.state();
        // Of the instance to which the switch leads.
        let vm_of = |id: &AttachmentId| {
            let unit = Unit::Pvm(id.clone());
            placed.units.get(&unit).map(|p| unit.vm(p.leader().number)).unwrap_or_default()
        };
        let state_of = |vm: &str| {
            vms.iter().find(|v| v.id.as_str() == vm).map_or("absent", |v| match v.state {
                VmState::Running => "running",
                VmState::Frozen => "frozen",
                VmState::Dead => "dead",
            })
        };
        let cvm: Option<CvmStatus> = match self.speaker(&Unit::Cvm) {
            Ok(at) if state_of(at.vm.as_str()) == "running" => vmlink::ask(&at, &CvmQuery::Status, GLANCE).await.ok(),
            _ => None,
        };
        let running = attachments(desired, Of::default()).into_iter().filter(|id| state_of(&vm_of(id)) == "running").collect();
        let asked = self
            .of_pvms(running, |id, at| async move { Ok(vec![(id, vmlink::ask::<_, PvmStatus>(&at, &PvmQuery::Status, GLANCE).await?)]) });
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
        let vm = |v: &&edgeplex_runtime::VmInfo| Vm {
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
            lsr: if state_of(LSR) == "running" { self.lsr().await.ok() } else { None },
        })
    }
    /// Its socket is in the directory that it shares with the CVM.
    async fn lsr(&self) -> anyhow::Result<LsrStatus> {
        let ask = async {
            match FibLink::open_in(&self.dir.join(LSR)).await?.ask(&Request::Status).await? {
                Reply::Status(s) => Ok(s),
                _ => anyhow::bail!("FastForward answered something else"),
            }
        };
        let s = tokio::time::timeout(GLANCE, ask).await??;
        Ok(LsrStatus { uptime_s: s.uptime_ms / 1000, programmed: s.epoch.is_some(), labels: s.labels, tunnels: s.tunnels })
    }
}
