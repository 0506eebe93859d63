//! Answers to `edgeplex show` and `edgeplex status`, gathered from the VMs side by side.

mod core;
mod customers;
mod probe;
mod status;

pub use self::{
    core::NotConfigured,
    probe::{Kind, ProbeError},
};

use crate::{
    desired::Desired,
    specs::{CVM, vm_of},
    vmlink::{self, PATIENCE},
};
use edgeplex_api::Shown;
use edgeplex_mgmt::show::CvmQuery;
use edgeplex_runtime::Runtime;
use edgeplex_types::{AttachmentId, Name};
use futures::future::join_all;
use std::{path::PathBuf, sync::Arc};

#[derive(Debug, Clone)]
pub struct Viewer {
    pub runtime: Arc<dyn Runtime>,
    /// The controller's.
    pub dir: PathBuf,
}

fn attachments(desired: &Desired, customer: Option<&Name>) -> Vec<AttachmentId> {
    let wanted = |id: &AttachmentId| customer.is_none_or(|c| id.customer == *c);
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
    async fn run_dir(&self, vm: &str) -> anyhow::Result<PathBuf> {
        vmlink::run_dir(&*self.runtime, vm).await
    }

    /// What each PVM answers, all asked at once.
    async fn of_pvms<T, F: Future<Output = anyhow::Result<Vec<T>>>>(
        &self,
        ids: Vec<AttachmentId>,
        ask: impl Fn(AttachmentId, PathBuf) -> F,
    ) -> Vec<(String, anyhow::Result<Vec<T>>)> {
        let asked = ids.into_iter().map(async |id| {
            let name = id.to_string();
            match self.run_dir(&vm_of(&id)).await {
                Ok(dir) => (name, ask(id, dir).await),
                Err(e) => (name, Err(e)),
            }
        });
        join_all(asked).await
    }

    async fn cvm<T: serde::de::DeserializeOwned>(&self, query: &CvmQuery) -> anyhow::Result<T> {
        vmlink::ask(&self.run_dir(CVM).await?, query, PATIENCE).await
    }
}
