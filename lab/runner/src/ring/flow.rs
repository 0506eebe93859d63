//! Streams between the two hosts, and what became of each datagram.

use super::world::{HOSTS, PES, World};
use crate::{
    tools::flow::{self, Report},
    traffic::{self, Way},
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    process::Child,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub(super) const PPS: u32 = 1000;
/// Datagrams before anything is done, and after everything is done, none of which may be lost.
const CALM: u64 = 300;
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One end in each host; they end with the value.
#[derive(Debug)]
pub(super) struct Flows<'a> {
    world: &'a World<'a>,
    ends: Vec<Child>,
}

/// What became of the datagrams of one direction.
#[derive(Debug, Clone)]
pub(super) struct Direction {
    pub(super) name: String,
    pub(super) sent: u64,
    /// When each that did not arrive left, microseconds since 1970.
    pub(super) lost: Vec<u64>,
    pub(super) duplicates: u64,
    /// Longest time without an arrival.
    pub(super) gap: Duration,
    /// Half of them took less.
    pub(super) delay: Duration,
}

impl Direction {
    fn new(name: String, sent: &[u64], received: &[(u64, u64)]) -> Self {
        let arrived: BTreeSet<u64> = received.iter().map(|(number, _)| *number).collect();
        let lost = (0u64..).zip(sent).filter(|(number, _)| !arrived.contains(number)).map(|(_, at)| *at).collect();
        let gap = received.windows(2).map(|pair| pair[1].1.saturating_sub(pair[0].1)).max().unwrap_or_default();
        let left = |number: u64| usize::try_from(number).ok().and_then(|n| sent.get(n));
        let mut delays: Vec<u64> = received.iter().filter_map(|(number, at)| Some(at.saturating_sub(*left(*number)?))).collect();
        delays.sort_unstable();
        Self {
            name,
            sent: sent.len() as u64,
            lost,
            duplicates: (received.len() - arrived.len()) as u64,
            gap: Duration::from_micros(gap),
            delay: Duration::from_micros(delays.get(delays.len() / 2).copied().unwrap_or_default()),
        }
    }

    /// Lost although they came to the core only after that moment.
    pub(super) fn lost_after(&self, at: u64) -> u64 {
        self.lost.iter().filter(|left| **left > at).count() as u64
    }
}

impl<'a> Flows<'a> {
    /// Returns once datagrams flow without loss, streams and all.
    pub(super) fn start(world: &'a World<'a>) -> Result<Self> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let mut flows = Self { world, ends: vec![] };
        for (pe, (_, other)) in PES.iter().zip(HOSTS.iter().rev()) {
            let host = world.host(pe)?;
            flows.ends.push(host.tool(&["flow", "--to", other, "--id", &id, "--pps", &PPS.to_string(), "--size", "64"])?);
        }
        flows.calm()?;
        Ok(flows)
    }

    /// So many datagrams more, without a loss.
    pub(super) fn calm(&self) -> Result<()> {
        for (pe, (_, other)) in PES.iter().zip(HOSTS.iter().rev()) {
            let report = traffic::send(self.world.host(pe)?, &Way { to: other, pps: PPS, size: 64, source_port: 0 }, CALM)?;
            ensure!(report.lost == 0, "from {pe}: {} of {} lost where nothing happens", report.lost, report.sent);
        }
        Ok(())
    }

    pub(super) fn stop(mut self) -> Result<[Direction; 2]> {
        // Both before either is waited for: each listens until the other is silent.
        self.ends.iter_mut().for_each(|end| drop(end.stdin.take()));
        let reports: Vec<Report> = std::mem::take(&mut self.ends).into_iter().map(traffic::result).collect::<Result<_>>()?;
        let (denver, boston) = (reports.first().context("no report")?, reports.get(1).context("no report")?);
        Ok([
            Direction::new(format!("{}→{}", PES[0], PES[1]), &denver.sent, &boston.received),
            Direction::new(format!("{}→{}", PES[1], PES[0]), &boston.sent, &denver.received),
        ])
    }
}

impl Drop for Flows<'_> {
    fn drop(&mut self) {
        self.ends.iter_mut().for_each(traffic::stop);
    }
}

/// Now, as the streams count.
pub(super) fn now() -> u64 {
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
        assert_eq!((d.gap, d.delay), (Duration::from_micros(3200), Duration::from_micros(500)));
        assert_eq!((d.lost_after(11_999), d.lost_after(12_000), d.lost_after(13_000)), (2, 1, 0));
    }
}
