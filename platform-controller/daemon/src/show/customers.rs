//! What customers have: sessions, routes, labels, FIBs, counters.

use super::{CVM, Of, Viewer, attachments, gather};
use crate::{
    desired::Desired,
    hosts::Place,
    placement::Unit,
    vmlink::{self, FibLink, PATIENCE},
};
use anyhow::bail;
use edgeplex_api::{BfdSession, BgpRow, CounterRow, FibRow, RouteRow, Shown};
use edgeplex_ff_fib_api::{MAX_ROWS, Reply, Request};
use edgeplex_mgmt::show::{BfdRow, BgpNeighbor, CvmQuery, LabelRow, PvmQuery, Route};
use edgeplex_types::AttachmentId;

/// Routes of one FIB shown at most.
const MAX_FIB: usize = 2_000_000;

fn bgp_row(owner: &str, neighbor: BgpNeighbor) -> BgpRow {
    BgpRow { owner: owner.into(), neighbor }
}

/// Of one VM.
fn bfd_rows(owner: &str, rows: Vec<BfdRow>) -> Vec<BfdSession> {
    rows.into_iter().map(|session| BfdSession { owner: owner.into(), session }).collect()
}

impl Viewer {
    /// All sessions, or those of one attachment or customer.
    pub async fn bgp(&self, desired: &Desired, of: Of<'_>) -> Shown<BgpRow> {
        let mut answers = self
            .of_pvms(attachments(desired, of), |id, at| async move {
                let neighbors: Vec<BgpNeighbor> = vmlink::ask(&at, &PvmQuery::Bgp, PATIENCE).await?;
                Ok(neighbors.into_iter().map(|n| bgp_row(&id.to_string(), n)).collect())
            })
            .await;
        if of.is_all() && desired.intent.platform.is_some() {
            let core = self.cvm::<Vec<BgpNeighbor>>(&CvmQuery::Bgp).await;
            answers.insert(0, (CVM.into(), core.map(|n| n.into_iter().map(|n| bgp_row(CVM, n)).collect())));
        }
        gather(answers)
    }

    pub async fn routes(&self, desired: &Desired, of: Of<'_>) -> Shown<RouteRow> {
        gather(
            self.of_pvms(attachments(desired, of), |id, at| async move {
                let routes: Vec<Route> = vmlink::ask(&at, &PvmQuery::Routes, PATIENCE).await?;
                Ok(routes.into_iter().map(|route| RouteRow { attachment: id.clone(), route }).collect())
            })
            .await,
        )
    }

    pub async fn labels(&self, desired: &Desired, of: Of<'_>) -> Shown<LabelRow> {
        if desired.intent.platform.is_none() {
            return gather(vec![]);
        }
        let rows = self.cvm::<Vec<LabelRow>>(&CvmQuery::Labels).await;
        let theirs = |row: &LabelRow| {
            of.customer.is_none_or(|c| row.attachment.customer == *c) && of.attachment.is_none_or(|a| row.attachment == *a)
        };
        gather(vec![(CVM.into(), rows.map(|rows| rows.into_iter().filter(theirs).collect()))])
    }

    pub async fn fib(&self, desired: &Desired, of: Of<'_>) -> Shown<FibRow> {
        gather(
            self.of_pvms(attachments(desired, of), |id, at| async move {
                let mut link = FibLink::open(&at).await?;
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

    /// What all instances of an attachment have forwarded, those that are gone included, each once.
    pub async fn counters(&self, desired: &Desired, of: Of<'_>) -> Shown<CounterRow> {
        let one = |id: AttachmentId, _: Place| async move {
            let counters = self.meter.total(&Unit::Pvm(id.clone())).await?;
            Ok(vec![CounterRow { attachment: id, counters }])
        };
        gather(self.of_pvms(attachments(desired, of), one).await)
    }

    /// All sessions, or those of one attachment or customer.
    pub async fn bfd(&self, desired: &Desired, of: Of<'_>) -> Shown<BfdSession> {
        let wanted = attachments(desired, of);
        let ask =
            |id: AttachmentId, at: Place| async move { Ok(bfd_rows(&id.to_string(), vmlink::ask(&at, &PvmQuery::Bfd, PATIENCE).await?)) };
        let mut answers = self.of_pvms(wanted, ask).await;
        if of.is_all() && desired.intent.platform.is_some() {
            let core = self.cvm::<Vec<BfdRow>>(&CvmQuery::Bfd).await;
            answers.insert(0, (CVM.into(), core.map(|rows| bfd_rows(CVM, rows))));
        }
        gather(answers)
    }
}
