//! Numbered datagrams in both directions between two hosts, and what became of each.

use crate::{
    node::Node,
    tools::flow::{self, Report},
    traffic,
};
use anyhow::{Context, Result};
use std::{
    process::Child,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// One end of a stream: the node, its address, what it is called in reports.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    pub node: &'a Node,
    pub address: &'a str,
    pub name: &'a str,
}

/// Streams both ways between two ends; they end with the value.
#[derive(Debug)]
pub struct Streams {
    names: [String; 2],
    children: Vec<Child>,
}

/// What became of the datagrams of one direction.
#[derive(Debug, Clone)]
pub struct Direction {
    pub name: String,
    pub sent: u64,
    /// When each that did not arrive left, microseconds since 1970.
    pub lost: Vec<u64>,
    pub duplicates: u64,
    /// Longest time without an arrival.
    pub gap: Duration,
    /// Half of them took less.
    pub delay: Duration,
    /// The slowest took that.
    pub slowest: Duration,
    /// When each arrived, microseconds since 1970.
    pub arrivals: Vec<u64>,
    /// When each that arrived left, and how long it took, microseconds.
    pub delays: Vec<(u64, u64)>,
}

impl Streams {
    pub fn start(ends: [End<'_>; 2], pps: u32) -> Result<Self> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let [a, b] = ends;
        let mut streams = Self { names: [format!("{}→{}", a.name, b.name), format!("{}→{}", b.name, a.name)], children: vec![] };
        for (from, to) in [(a, b), (b, a)] {
            streams.children.push(from.node.tool(&["flow", "--to", to.address, "--id", &id, "--pps", &pps.to_string(), "--size", "64"])?);
        }
        Ok(streams)
    }

    pub fn stop(mut self) -> Result<[Direction; 2]> {
        // Both before either is waited for: each listens until the other is silent.
        self.children.iter_mut().for_each(|end| drop(end.stdin.take()));
        let reports: Vec<Report> = std::mem::take(&mut self.children).into_iter().map(traffic::result).collect::<Result<_>>()?;
        let (a, b) = (reports.first().context("no report")?, reports.get(1).context("no report")?);
        let [there, back] = std::mem::take(&mut self.names);
        Ok([Direction::new(there, &a.sent, &b.received), Direction::new(back, &b.sent, &a.received)])
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(traffic::stop);
    }
}

impl Direction {
    fn new(name: String, sent: &[u64], received: &[(u64, u64)]) -> Self {
        let mut first: Vec<bool> = vec![false; sent.len()];
        let mut duplicates = 0;
        let mut delays = Vec::with_capacity(received.len());
        for (number, at) in received {
            let Some((seen, left)) = usize::try_from(*number).ok().and_then(|n| Some((first.get_mut(n)?, sent.get(n)?))) else { continue };
            duplicates += u64::from(std::mem::replace(seen, true));
            delays.push((*left, at.saturating_sub(*left)));
        }
        let mut sorted: Vec<u64> = delays.iter().map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        let gap = received.windows(2).map(|pair| pair[1].1.saturating_sub(pair[0].1)).max().unwrap_or_default();
        Self {
            name,
            sent: sent.len() as u64,
            lost: first.iter().zip(sent).filter(|(seen, _)| !**seen).map(|(_, at)| *at).collect(),
            duplicates,
            gap: Duration::from_micros(gap),
            delay: Duration::from_micros(sorted.get(sorted.len() / 2).copied().unwrap_or_default()),
            slowest: Duration::from_micros(sorted.last().copied().unwrap_or_default()),
            arrivals: received.iter().map(|(_, at)| *at).collect(),
            delays,
        }
    }

    /// Lost although they left only after that moment.
    pub fn lost_after(&self, at: u64) -> u64 {
        self.lost.iter().filter(|left| **left > at).count() as u64
    }

    /// Lost of those that left in a span of time.
    pub fn lost_within(&self, from: u64, to: u64) -> u64 {
        self.lost.iter().filter(|left| (from..to).contains(*left)).count() as u64
    }

    /// The slowest of those that left in a span of time and arrived.
    pub fn slowest_within(&self, from: u64, to: u64) -> Duration {
        let within = self.delays.iter().filter(|(left, _)| (from..to).contains(left));
        Duration::from_micros(within.map(|(_, took)| *took).max().unwrap_or_default())
    }

    /// The longest time without an arrival that touches a span of time.
    pub fn gap_within(&self, from: u64, to: u64) -> Duration {
        let gaps = self.arrivals.windows(2).filter(|p| p[1] >= from && p[0] < to).map(|p| p[1].saturating_sub(p[0]));
        Duration::from_micros(gaps.max().unwrap_or_default())
    }
}

/// Now, as the streams count.
pub fn now() -> u64 {
    flow::now_us()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_arrive_is_lost_when_it_left() {
        let received = [(0, 10_500), (1, 11_500), (4, 14_700), (4, 14_800), (5, 15_500)];
        let d = Direction::new("x".into(), &[10_000, 11_000, 12_000, 13_000, 14_000, 15_000], &received);
        assert_eq!((d.sent, d.duplicates, &d.lost[..]), (6, 1, &[12_000, 13_000][..]));
        assert_eq!((d.gap, d.delay, d.slowest), (Duration::from_micros(3200), Duration::from_micros(500), Duration::from_micros(800)));
        assert_eq!((d.lost_after(11_999), d.lost_after(12_000), d.lost_after(13_000)), (2, 1, 0));
        assert_eq!((d.lost_within(0, 12_500), d.lost_within(12_500, 20_000)), (1, 1));
        assert_eq!(
            (d.slowest_within(0, 14_000), d.slowest_within(14_000, 15_000)),
            (Duration::from_micros(500), Duration::from_micros(800))
        );
        assert_eq!(d.gap_within(14_750, 20_000), Duration::from_micros(700));
    }

    #[test]
    fn what_was_never_sent_counts_for_nothing() {
        let d = Direction::new("x".into(), &[10], &[(0, 20), (7, 30)]);
        assert_eq!((d.lost.len(), d.duplicates), (0, 0));
    }
}
