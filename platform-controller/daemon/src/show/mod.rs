//! Answers to `edgeplex show` and `edgeplex status`, gathered from the VMs side by side.

mod core;
mod customers;
mod hosts;
mod instances;
mod probe;
mod status;

pub use self::{
    core::NotConfigured,
    instances::{check_host, check_unit, units_of},
    probe::{Kind, ProbeError},
};

use crate::{
    counters::Meter,
    desired::Desired,
    hosts::{Fleet, Place},
    placement::{Placements, Unit},
    vmlink::{self, PATIENCE},
};
use edgeplex_api::Shown;
use edgeplex_mgmt::show::CvmQuery;
use edgeplex_types::{AttachmentId, Name};
use futures::future::join_all;
use std::{path::PathBuf, sync::Arc};

/// Whom tables name as the owner of what is the control plane's.
const CVM: &str = "cvm";

#[derive(Debug, Clone)]
pub struct Viewer {
    pub fleet: Arc<Fleet>,
    pub placements: Arc<Placements>,
    pub meter: Arc<Meter>,
    /// The controller's.
    pub dir: PathBuf,
}

/// Whose rows are asked for; all, where neither is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Of<'a> {
    pub customer: Option<&'a Name>,
    pub attachment: Option<&'a AttachmentId>,
}

impl Of<'_> {
    fn is_all(&self) -> bool {
        self.customer.is_none() && self.attachment.is_none()
    }
}

fn attachments(desired: &Desired, of: Of<'_>) -> Vec<AttachmentId> {
    let wanted = |id: &AttachmentId| of.customer.is_none_or(|c| id.customer == *c) && of.attachment.is_none_or(|a| id == a);
    desired.intent.attachments().map(|(id, _, _)| id).filter(wanted).collect()
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
    /// The instance that speaks for the unit.
    pub fn speaker(&self, unit: &Unit) -> anyhow::Result<Place> {
        let p = self.placements.get(unit).ok_or_else(|| anyhow::anyhow!("{unit} has no VM yet"))?;
        let leader = p.leader();
        Ok(Place { runtime: self.fleet.at(&leader.host)?, vm: unit.vm(leader.number).parse()? })
    }

    /// What each PVM answers, all asked at once.
    async fn of_pvms<T, F: Future<Output = anyhow::Result<Vec<T>>>>(
        &self,
        ids: Vec<AttachmentId>,
        ask: impl Fn(AttachmentId, Place) -> F,
    ) -> Vec<(String, anyhow::Result<Vec<T>>)> {
        let asked = ids.into_iter().map(async |id| {
            let name = id.to_string();
            match self.speaker(&Unit::Pvm(id.clone())) {
                Ok(at) => (name, ask(id, at).await),
                Err(e) => (name, Err(e)),
            }
        });
        join_all(asked).await
    }

    async fn cvm<T: serde::de::DeserializeOwned>(&self, query: &CvmQuery) -> anyhow::Result<T> {
        vmlink::ask(&self.speaker(&Unit::Cvm)?, query, PATIENCE).await
    }
}
