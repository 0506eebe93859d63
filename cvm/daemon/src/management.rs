//! The management socket's questions: most go to the control task, the long poll watches what it publishes.

use edgeplex_mgmt::{
    Answer,
    show::{CvmQuery, Fabric, InstanceOrder, InstanceStatus},
};
use edgeplex_transport::mgmt::Handler;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// How long a long poll waits for news.
const POLL: Duration = Duration::from_secs(20);

pub(crate) type Question = (CvmQuery, oneshot::Sender<Answer<Value>>);

pub(crate) struct Management {
    pub(crate) control: mpsc::Sender<Question>,
    /// `None` until the first is worth reading.
    pub(crate) fabric: watch::Receiver<Option<Arc<Fabric>>>,
    pub(crate) instance: watch::Receiver<InstanceStatus>,
}

impl Handler for Management {
    type Query = CvmQuery;

    async fn answer(&self, query: CvmQuery) -> Answer<Value> {
        if let CvmQuery::Fabric { seen } = query {
            return self.fabric(seen).await;
        }
        if let CvmQuery::Instance(InstanceOrder::Watch { seen }) = query {
            // What has not changed may have moved on all the same: the answer is the control task's.
            let mut instance = self.instance.clone();
            let _ = tokio::time::timeout(POLL, instance.wait_for(|status| status.revision != seen)).await;
        }
        let (reply, answer) = oneshot::channel();
        if self.control.send((query, reply)).await.is_err() {
            return Answer::Error("cvmd is stopping".into());
        }
        answer.await.unwrap_or_else(|_| Answer::Error("cvmd is stopping".into()))
    }
}

impl Management {
    async fn fabric(&self, seen: u64) -> Answer<Value> {
        let mut fabric = self.fabric.clone();
        let news = fabric.wait_for(|f| f.as_ref().is_some_and(|f| f.generation != seen));
        let waited = tokio::time::timeout(POLL, news).await.map(|r| r.map(|f| f.clone()));
        let current = match waited {
            Ok(Ok(fabric)) => fabric,
            Ok(Err(_)) => return Answer::Error("cvmd is stopping".into()),
            Err(_) => self.fabric.borrow().clone(),
        };
        match current {
            Some(fabric) => to_answer(&*fabric),
            None => Answer::Error("cvmd is still starting".into()),
        }
    }
}

pub(crate) fn to_answer<T: serde::Serialize>(value: &T) -> Answer<Value> {
    serde_json::to_value(value).map_or_else(|e| Answer::Error(e.to_string()), Answer::Ok)
}
