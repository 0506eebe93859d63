//! What each single trial came to: kept whole, since a mean hides the one that failed.

use super::{
    judge::{Seat, Sitting},
    world::{CONVERGE, PE, World},
};
use crate::{
    bench::quantile,
    streams::{Direction, Streams, now},
};
use anyhow::Result;
use serde::Serialize;
use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A case in which so many trials failed is over.
const ENOUGH: usize = 5;
/// Around what the platform says it took: what left before the command and arrives after it, and the other way round.
const MARGIN_US: u64 = 50_000;

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
    /// Routes that a customer's router lacks or has too many afterwards.
    pub(super) wrong_routes: usize,
    /// By direction, within this trial's time.
    pub(super) lost: Vec<u64>,
    pub(super) gap_ms: Vec<f64>,
    /// The slowest packet while it was done, and in as long a time before it.
    pub(super) slowest_ms: f64,
    pub(super) slowest_before_ms: f64,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Outcome {
    pub(super) fn failed(&self) -> bool {
        self.error.is_some() || !self.noticed.is_empty() || self.wrong_routes > 0
    }
}

/// All trials of a case, with the streams that ran through them.
#[derive(Debug)]
pub(super) struct Trials {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) directions: [Direction; 2],
    /// How many there were to be.
    pub(super) asked: usize,
}

/// The moment of the deed itself, which comes after what prepares it.
#[derive(Debug)]
pub(super) struct Moment(Cell<(u64, Instant)>);

impl Moment {
    fn new() -> Self {
        Self(Cell::new((now(), Instant::now())))
    }

    pub(super) fn is_now(&self) {
        self.0.set((now(), Instant::now()));
    }
}

fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// Does something `n` times under traffic of a customer. `deed` returns once all is well again, with what the platform said it took.
/// After a failure the next trial waits until all is well again; after [`ENOUGH`] of them the trials end.
pub(super) fn trials(
    world: &World<'_>,
    case: &str,
    n: usize,
    (customer, pps): (&str, u32),
    mut deed: impl FnMut(usize, &Moment) -> Result<Option<f64>>,
) -> Result<Trials> {
    let streams: Streams = world.streams(customer, pps)?;
    let mut sitting = Sitting::open(world.lab, Seat::all(), CONVERGE)?;
    let mut outcomes: Vec<Outcome> = vec![];
    for trial in 0..n {
        let moment = Moment::new();
        let done = deed(trial, &moment);
        let (at_us, started) = moment.0.get();
        let took_ms = millis(started.elapsed());
        let noticed = sitting.noticed(world.lab).unwrap_or_else(|e| vec![format!("{e:#}")]);
        let routes = world.wrong_routes();
        let (says_ms, error) = match done {
            Ok(says) => (says, routes.as_ref().err().map(|e| format!("{e:#}"))),
            Err(e) => (None, Some(format!("{e:#}"))),
        };
        let outcome = Outcome {
            case: case.into(),
            trial,
            at_us,
            took_ms,
            says_ms,
            noticed,
            wrong_routes: routes.unwrap_or_default(),
            lost: vec![],
            gap_ms: vec![],
            slowest_ms: 0.0,
            slowest_before_ms: 0.0,
            error,
        };
        let failed = outcome.failed();
        outcomes.push(outcome);
        if failed {
            if outcomes.iter().filter(|o| o.failed()).count() >= ENOUGH || world.wait_all_protected().is_err() {
                break;
            }
            match Sitting::open(world.lab, Seat::all(), CONVERGE) {
                Ok(anew) => sitting = anew,
                Err(_) => break,
            }
        }
    }
    // What is lost at the end would be seen too.
    let calm = world.calm(customer);
    let directions = streams.stop()?;
    measure(&mut outcomes, &directions);
    if let (Err(e), Some(last)) = (calm, outcomes.last_mut()) {
        last.error.get_or_insert(format!("{PE}: {e:#}"));
    }
    Ok(Trials { outcomes, directions, asked: n })
}

/// What the streams say of each trial's time: from its deed to the next one's.
fn measure(outcomes: &mut [Outcome], directions: &[Direction]) {
    let ends: Vec<u64> = outcomes.iter().skip(1).map(|o| o.at_us).chain([u64::MAX]).collect();
    for (outcome, end) in outcomes.iter_mut().zip(ends) {
        let at = outcome.at_us;
        outcome.lost = directions.iter().map(|d| d.lost_within(at, end)).collect();
        outcome.gap_ms = directions.iter().map(|d| millis(d.gap_within(at, end))).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time that has passed")]
        let during = (outcome.says_ms.unwrap_or(outcome.took_ms) * 1e3) as u64 + MARGIN_US;
        let slowest = |from, to| millis(directions.iter().map(|d| d.slowest_within(from, to)).max().unwrap_or_default());
        outcome.slowest_before_ms = slowest(at.saturating_sub(during + MARGIN_US), at.saturating_sub(MARGIN_US));
        outcome.slowest_ms = slowest(at.saturating_sub(MARGIN_US), at + during);
    }
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

    #[expect(clippy::cast_precision_loss, reason = "counts of routes")]
    pub(super) fn wrong_routes(&self) -> Vec<f64> {
        self.values(|o| o.wrong_routes as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of packets")]
    pub(super) fn duplicates(&self) -> Vec<f64> {
        vec![self.directions.iter().map(|d| d.duplicates).sum::<u64>() as f64]
    }

    /// How much slower the slowest packet was than the slowest one in as long a time before it.
    pub(super) fn extra_delays(&self) -> Vec<f64> {
        self.values(|o| o.slowest_ms - o.slowest_before_ms)
    }

    pub(super) fn failed(&self) -> usize {
        self.outcomes.iter().filter(|o| o.failed()).count()
    }

    /// Every outcome in a few words.
    pub(super) fn summary(&self) -> String {
        let gaps = self.gaps();
        let at = |share| quantile(&gaps, share);
        format!(
            "{} of {} as promised; packets lost in a trial: {}; longest silence, ms: median {:.1}, p90 {:.1}, p99 {:.1}, worst {:.1}",
            self.outcomes.len() - self.failed(),
            self.asked,
            spread(self.outcomes.iter().map(|o| o.lost.iter().sum())),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        )
    }
}

/// How often each value came: `0 (98×), 3, 47 (2×)`.
fn spread(values: impl Iterator<Item = u64>) -> String {
    let mut counts = BTreeMap::new();
    values.for_each(|v| *counts.entry(v).or_insert(0) += 1);
    let words = counts.iter().map(|(value, n): (&u64, &usize)| if *n == 1 { value.to_string() } else { format!("{value} ({n}×)") });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(at_us: u64, says_ms: f64) -> Outcome {
        Outcome {
            case: "c".into(),
            trial: 0,
            at_us,
            took_ms: 1e3,
            says_ms: Some(says_ms),
            noticed: vec![],
            wrong_routes: 0,
            lost: vec![],
            gap_ms: vec![],
            slowest_ms: 0.0,
            slowest_before_ms: 0.0,
            error: None,
        }
    }

    #[test]
    fn each_trial_has_what_its_time_has_cost() {
        // One datagram every 10 ms; the one at 1.0 s takes 7 ms, that of 0.85 s takes 2, all others 1. Those of 2.0 and 2.01 s are lost.
        let delays: Vec<(u64, u64)> = (0..300)
            .map(|n| n * 10_000)
            .filter(|at| ![2_000_000, 2_010_000].contains(at))
            .map(|at| {
                (
                    at,
                    if at == 1_000_000 {
                        7_000
                    } else if at == 850_000 {
                        2_000
                    } else {
                        1_000
                    },
                )
            })
            .collect();
        let direction = Direction {
            name: "d".into(),
            sent: 300,
            lost: vec![2_000_000, 2_010_000],
            duplicates: 0,
            gap: Duration::ZERO,
            delay: Duration::ZERO,
            slowest: Duration::ZERO,
            arrivals: delays.iter().map(|(at, took)| at + took).collect(),
            delays,
        };
        let mut outcomes = [outcome(990_000, 100.0), outcome(1_995_000, 20.0)];
        measure(&mut outcomes, std::slice::from_ref(&direction));
        assert_eq!((outcomes[0].slowest_ms, outcomes[0].slowest_before_ms, &outcomes[0].lost[..]), (7.0, 2.0, &[0][..]));
        assert_eq!((outcomes[1].slowest_ms, outcomes[1].gap_ms[0], &outcomes[1].lost[..]), (1.0, 30.0, &[2][..]));
        let trials = Trials { outcomes: outcomes.to_vec(), directions: [direction.clone(), direction], asked: 3 };
        assert_eq!(trials.extra_delays(), [5.0, 0.0]);
        assert!(trials.summary().starts_with("2 of 3 as promised; packets lost in a trial: 0, 2;"), "{}", trials.summary());
    }

    #[test]
    fn every_value_is_told() {
        assert_eq!(spread([0, 3, 0, 47].into_iter()), "0 (2×), 3, 47");
    }
}
