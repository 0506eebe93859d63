//! Waiting until reality has followed.

use crate::{
    error::Stop,
    output::{Progress, note},
};
use edgeplex_api::{Client, Status};
use edgeplex_types::{AttachmentId, Name};
use std::time::{Duration, Instant};

/// How often to ask.
const INTERVAL: Duration = Duration::from_millis(100);

/// What to wait for, besides a reconciler with nothing left to do.
#[derive(Debug)]
pub(crate) struct Goal {
    ready: Vec<AttachmentId>,
    gone: Vec<Name>,
    vms_gone: Vec<String>,
    /// Number of the last pass that cannot have seen the change.
    after_pass: Option<u64>,
}

impl Goal {
    pub(crate) fn ready(attachments: Vec<AttachmentId>, after_pass: Option<u64>) -> Self {
        Self { ready: attachments, gone: vec![], vms_gone: vec![], after_pass }
    }

    pub(crate) fn gone(customers: Vec<Name>, vms: Vec<String>, after_pass: Option<u64>) -> Self {
        Self { ready: vec![], gone: customers, vms_gone: vms, after_pass }
    }

    /// What is still missing, if anything.
    fn missing(&self, s: &Status) -> Option<String> {
        let is_ready = |id: &&AttachmentId| s.attachments.iter().any(|a| a.attachment == **id && a.ready);
        let ready = self.ready.iter().filter(is_ready).count();
        let staying = s.vms.iter().filter(|v| self.vms_gone.contains(&v.id)).count();
        let listed = s.attachments.iter().any(|a| self.gone.contains(&a.attachment.customer));
        if ready < self.ready.len() {
            Some(format!("{ready} of {} attachments are ready{}", self.ready.len(), first_problem(s)))
        } else if staying > 0 {
            Some(format!("{staying} of {} VMs are still there{}", self.vms_gone.len(), first_problem(s)))
        } else if listed || !s.reconciler.settled || self.after_pass == Some(s.reconciler.passes) {
            Some(format!("the reconciler has not finished{}", first_problem(s)))
        } else {
            None
        }
    }
}

fn first_problem(s: &Status) -> String {
    s.reconciler.problems.first().map(|p| format!("; {p}")).unwrap_or_default()
}

/// Asks until nothing is missing. A controller that is away for a while, as when it is restarted, is waited for.
pub(crate) async fn until(client: &Client, seconds: u32, goal: &Goal) -> Result<(), Stop> {
    let start = Instant::now();
    let mut progress = Progress::new();
    let limit = Duration::from_secs(seconds.into());
    loop {
        let missing = match client.get::<Status>("/v1/status").await {
            Ok(status) => goal.missing(&status),
            Err(e) => Some(e.to_string()),
        };
        let Some(missing) = missing else {
            progress.now("");
            note(&format!("done after {:.1} s", start.elapsed().as_secs_f64()));
            return Ok(());
        };
        if start.elapsed() >= limit {
            progress.now("");
            return Err(Stop::Failed(format!(
                "not done after {seconds} s: {missing}; it goes on in the background, see `edgeplex status`"
            )));
        }
        progress.now(&format!("{} s: {missing}", start.elapsed().as_secs()));
        progress.happened(&missing);
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use edgeplex_api::{AttachmentStatus, Reconciler, Vm};

    pub(crate) fn status(ready: bool, settled: bool, passes: u64) -> Status {
        let vm = "pvm-acme-d1".to_owned();
        Status {
            platform: None,
            version: String::new(),
            uptime_s: 0,
            reconciler: Reconciler { passes, changes: 0, settled, problems: vec!["no port eth2".into()] },
            vms: vec![Vm { id: vm.clone(), state: "running".into(), pid: 1, template: String::new(), timings: vec![] }],
            attachments: vec![AttachmentStatus {
                attachment: "acme/d1".parse().unwrap(),
                port: "eth2".into(),
                vlan: None,
                rd: None,
                label: None,
                vm,
                relay_up: ready,
                fib_up: ready,
                bgp: "none".into(),
                customer_routes: 0,
                vpn_routes: 0,
                ready,
            }],
            cvm: None,
            lsr: None,
        }
    }

    #[test]
    fn ready_means_ready_settled_and_looked_at_since() {
        let id: AttachmentId = "acme/d1".parse().unwrap();
        let goal = Goal::ready(vec![id], Some(4));
        assert_eq!(goal.missing(&status(false, true, 5)).unwrap(), "0 of 1 attachments are ready; no port eth2");
        assert!(goal.missing(&status(true, false, 5)).unwrap().contains("the reconciler"));
        assert!(goal.missing(&status(true, true, 4)).unwrap().contains("the reconciler"));
        assert_eq!(goal.missing(&status(true, true, 5)), None);
    }

    #[test]
    fn gone_means_no_vm_and_no_attachment() {
        let goal = Goal::gone(vec!["acme".parse().unwrap()], vec!["pvm-acme-d1".into()], None);
        let mut s = status(true, true, 1);
        assert!(goal.missing(&s).unwrap().starts_with("1 of 1 VMs are still there"));
        s.vms.clear();
        assert!(goal.missing(&s).is_some());
        s.attachments.clear();
        assert_eq!(goal.missing(&s), None);
    }
}
