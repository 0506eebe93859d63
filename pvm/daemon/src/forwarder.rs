//! FastForward beside its table: it is watched for what a successor should know, and a standby's is told what its leader's knows.

use crate::values::MAX_NEIGHBORS;
use edgeplex_ff_fib_api as fib;
use edgeplex_ff_fib_api::{Counters, Neighbor};
use edgeplex_ff_fib_client::{Holder, HolderError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::debug;

/// How often to look, and how often to tell.
const PERIOD: Duration = Duration::from_secs(1);

/// What FastForward knows and has counted.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) neighbors: Vec<Neighbor>,
    pub(crate) uptime_ms: u64,
    pub(crate) counters: Counters,
}

pub(crate) async fn look(holder: &Holder) -> Result<Seen, HolderError> {
    let known = |a: &fib::Adjacency| Some(Neighbor { address: a.address, mac: a.mac? });
    let mut neighbors: Vec<Neighbor> = holder.adjacencies().await?.iter().filter_map(known).take(MAX_NEIGHBORS).collect();
    neighbors.sort_by_key(|n| n.address);
    let (uptime_ms, counters) = holder.counters().await?;
    Ok(Seen { neighbors, uptime_ms, counters })
}

/// Looks again and again; while there is something in `seed`, FastForward is told of that instead. Ends with its reader.
pub(crate) async fn keep(holder: Holder, seed: watch::Receiver<Option<Vec<Neighbor>>>, seen: mpsc::Sender<Seen>) {
    let mut beat = tokio::time::interval(PERIOD);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let told = seed.borrow().clone();
        let done = match told {
            Some(neighbors) => holder.neighbors(neighbors).await,
            None => match look(&holder).await {
                // Whether its reader is still there is seen below.
                Ok(all) => seen.send(all).await.or(Ok(())),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            debug!(%error, "FastForward does not tell what it knows, or does not take it");
        }
        if seen.is_closed() {
            return;
        }
    }
}
