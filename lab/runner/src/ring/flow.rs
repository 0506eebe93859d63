//! The streams of the core's events: without loss before, and without loss after all is done.

use super::world::{HOSTS, PES, World};
pub(super) use crate::streams::{Direction, now};
use crate::{
    streams::{End, Streams},
    traffic::{self, Way},
};
use anyhow::{Result, ensure};

pub(super) const PPS: u32 = 1000;
/// Datagrams before anything is done, and after everything is done, none of which may be lost.
const CALM: u64 = 300;

/// One end in each host.
#[derive(Debug)]
pub(super) struct Flows<'a> {
    world: &'a World<'a>,
    streams: Streams,
}

impl<'a> Flows<'a> {
    /// Returns once datagrams flow without loss, streams and all.
    pub(super) fn start(world: &'a World<'a>) -> Result<Self> {
        let end = |n: usize| -> Result<End<'_>> { Ok(End { node: world.host(PES[n])?, address: HOSTS[n].1, name: PES[n] }) };
        let flows = Self { world, streams: Streams::start([end(0)?, end(1)?], PPS)? };
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

    pub(super) fn stop(self) -> Result<[Direction; 2]> {
        self.streams.stop()
    }
}
