//! What each single trial came to: kept whole, since a mean hides the one that failed.

use super::{
    judge::Sitting,
    world::{PE, World},
};
use crate::streams::{Direction, Streams, now};
use anyhow::Result;
use serde::Serialize;
use std::time::{Duration, Instant};

/// One trial.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) case: String,
    pub(super) trial: usize,
    /// When it was done, microseconds since 1970.
    pub(super) at_us: u64,
    /// From the deed until all was as it should be.
    pub(super) took_ms: f64,
    /// What the command or the platform says it took, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) says_ms: Option<f64>,
    /// Routers that noticed.
    pub(super) noticed: Vec<String>,
    /// By direction, within this trial's time.
    pub(super) lost: Vec<u64>,
    pub(super) gap_ms: Vec<f64>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// All trials of a case, with the streams that ran through them.
#[derive(Debug)]
pub(super) struct Trials {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) directions: [Direction; 2],
}

fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// Does something `n` times under traffic of a customer. `deed` returns once all is well again, with what the platform said it took;
/// after an error the trials end.
pub(super) fn trials(
    world: &World<'_>,
    case: &str,
    n: usize,
    (customer, pps): (&str, u32),
    mut deed: impl FnMut(usize) -> Result<Option<f64>>,
) -> Result<Trials> {
    let streams: Streams = world.streams(customer, pps)?;
    let sitting = Sitting::open(world, super::world::CONVERGE)?;
    let mut outcomes: Vec<Outcome> = vec![];
    for trial in 0..n {
        let (at_us, started) = (now(), Instant::now());
        let done = deed(trial);
        let took_ms = millis(started.elapsed());
        let noticed = sitting.noticed(world).unwrap_or_else(|e| vec![format!("{e:#}")]);
        let (says_ms, error) = match done {
            Ok(says) => (says, None),
            Err(e) => (None, Some(format!("{e:#}"))),
        };
        let over = error.is_some() || !noticed.is_empty();
        outcomes.push(Outcome { case: case.into(), trial, at_us, took_ms, says_ms, noticed, lost: vec![], gap_ms: vec![], error });
        if over {
            break;
        }
    }
    // What is lost at the end would be seen too.
    let calm = world.calm(customer);
    let directions = streams.stop()?;
    let ends: Vec<u64> = outcomes.iter().skip(1).map(|o| o.at_us).chain([u64::MAX]).collect();
    for (outcome, end) in outcomes.iter_mut().zip(ends) {
        outcome.lost = directions.iter().map(|d| d.lost_within(outcome.at_us, end)).collect();
        outcome.gap_ms = directions.iter().map(|d| millis(d.gap_within(outcome.at_us, end))).collect();
    }
    if let (Err(e), Some(last)) = (calm, outcomes.last_mut()) {
        last.error.get_or_insert(format!("{PE}: {e:#}"));
    }
    Ok(Trials { outcomes, directions })
}

impl Trials {
    pub(super) fn values(&self, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(of).collect()
    }

    /// Packets lost in a trial, both directions.
    #[expect(clippy::cast_precision_loss, reason = "counts of packets")]
    pub(super) fn lost(&self) -> Vec<f64> {
        self.values(|o| o.lost.iter().sum::<u64>() as f64)
    }

    pub(super) fn gaps(&self) -> Vec<f64> {
        self.values(|o| o.gap_ms.iter().copied().fold(0.0, f64::max))
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of sessions")]
    pub(super) fn noticed(&self) -> Vec<f64> {
        self.values(|o| o.noticed.len() as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of packets")]
    pub(super) fn duplicates(&self) -> Vec<f64> {
        vec![self.directions.iter().map(|d| d.duplicates).sum::<u64>() as f64]
    }

    pub(super) fn failed(&self) -> usize {
        self.outcomes.iter().filter(|o| o.error.is_some() || !o.noticed.is_empty()).count()
    }
}
