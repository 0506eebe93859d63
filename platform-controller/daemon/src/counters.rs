//! What attachments have forwarded, whichever instances did it: each packet once.
//!
//! A forwarder counts from zero each time it is started. Its figures are read each second; when a VM is retired its last figures go
//! into the placement, in the commit that retires it, and when a forwarder was started again in its VM, those of the one before.
//! So nothing is counted twice, whatever dies; what a forwarder that died took within the last second may be missing.

use crate::{
    hosts::{Fleet, Place},
    placement::{Instance, Placements, Unit, add},
    vmlink::FibLink,
};
use anyhow::{Context, bail};
use edgeplex_ff_fib_api::{Counters, Reply, Request};
use futures::future::join_all;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Mutex as Turn,
    time::{MissedTickBehavior, interval},
};

const PERIOD: Duration = Duration::from_secs(1);
/// Times that a sum is begun anew because a placement changed while its parts were read.
const TRIES: usize = 10;

/// One forwarder's last figures.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reading {
    uptime_ms: u64,
    counters: Counters,
}

/// One forwarder's, if it was ever heard. Held from the question until the answer is noted: of two answers that overtook each other the
/// older one would look like a forwarder that was started again.
type Last = Arc<Turn<Option<Reading>>>;

#[derive(Debug)]
pub struct Meter {
    fleet: Arc<Fleet>,
    placements: Arc<Placements>,
    /// By VM.
    last: Mutex<BTreeMap<String, Last>>,
}

impl Meter {
    pub fn new(fleet: Arc<Fleet>, placements: Arc<Placements>) -> Self {
        Self { fleet, placements, last: Mutex::default() }
    }

    /// Reads all that are led to, each second, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let state = self.placements.state();
            let vms: Vec<String> = state.units.iter().flat_map(|(u, p)| p.instances().into_iter().map(|i| u.vm(i.number))).collect();
            self.with(|last| last.retain(|vm, _| vms.contains(vm)));
            let pvms = state.units.iter().filter(|(unit, _)| **unit != Unit::Cvm);
            join_all(pvms.map(async |(unit, p)| drop(self.read(unit, p.leader()).await))).await;
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Last>) -> T) -> T {
        f(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the instance's forwarder says now.
    async fn read(&self, unit: &Unit, i: &Instance) -> anyhow::Result<Counters> {
        let vm = unit.vm(i.number);
        let last = self.with(|last| last.entry(vm.clone()).or_default().clone());
        let mut last = last.lock().await;
        let at = Place { runtime: self.fleet.at(&i.host)?, vm: vm.parse()? };
        let mut link = FibLink::open(&at).await?;
        let (Reply::Status(status), Reply::Counters(counters)) = (link.ask(&Request::Status).await?, link.ask(&Request::Counters).await?)
        else {
            bail!("FastForward answered something else");
        };
        let reading = Reading { uptime_ms: status.uptime_ms, counters };
        // One that has run for less long than when it was last asked is another one.
        if let Some(before) = last.as_ref().filter(|b| b.uptime_ms > reading.uptime_ms) {
            let banked = self.placements.change(unit, |p, _| {
                // One that was retired meanwhile has been counted.
                if p.instances().iter().any(|x| x.number == i.number) && p.leader().number == i.number {
                    add(&mut p.counted, &before.counters);
                }
                Ok(())
            });
            banked.await.context("counting what a forwarder left")?;
        }
        *last = Some(reading.clone());
        Ok(reading.counters)
    }

    /// What it says now, or said last.
    pub async fn figures(&self, unit: &Unit, i: &Instance) -> Counters {
        match self.read(unit, i).await {
            Ok(counters) => counters,
            Err(_) => {
                let last = self.with(|last| last.get(&unit.vm(i.number)).cloned());
                match last {
                    Some(last) => last.lock().await.as_ref().map(|r| r.counters.clone()).unwrap_or_default(),
                    None => Counters::default(),
                }
            }
        }
    }

    /// All of a unit: what was counted of those that are gone, and what those say that are not.
    pub async fn total(&self, unit: &Unit) -> anyhow::Result<Counters> {
        for _ in 0..TRIES {
            let p = self.placements.get(unit).context("it has no VM yet")?;
            let mut living = self.read(unit, &p.active).await?;
            // Until it is retired the one that was replaced is not in the sum.
            if let Some(m) = p.unfinished.as_ref().filter(|m| m.phase < edgeplex_api::Phase::Retire && m.from.number != p.active.number) {
                add(&mut living, &self.figures(unit, &m.from).await);
            }
            // Otherwise something may have been counted meanwhile that is among the living ones too.
            if self.placements.get(unit).is_some_and(|now| Arc::ptr_eq(&now, &p)) {
                add(&mut living, &p.counted);
                return Ok(living);
            }
        }
        bail!("it changes all the time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_ff_fib_api::{Count, Status, VERSION, encode_reply};
    use edgeplex_mgmt::FIB_SOCKET;
    use edgeplex_runtime::{FakeRuntime, Runtime, VmId, VmKind, VmSpec};
    use edgeplex_store::Memory;
    use edgeplex_types::wire::Deframer;
    use std::{collections::BTreeSet, sync::atomic::AtomicU64, sync::atomic::Ordering};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        time::sleep,
    };

    fn status(uptime_ms: u64) -> Status {
        Status { uptime_ms, epoch: None, routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 }
    }

    /// A forwarder that runs longer, and has counted more, each time it is asked; the first to ask hears of the packets last.
    async fn forwarder(listener: UnixListener) {
        let age = Arc::new(AtomicU64::new(0));
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let age = age.clone();
            tokio::spawn(async move {
                let (mut asked, mut buffer) = (Deframer::default(), vec![0; 1024]);
                let now = age.fetch_add(1, Ordering::Relaxed) + 1;
                loop {
                    while let Some(request) = asked.next::<Request>(VERSION).unwrap() {
                        let reply = match request {
                            Request::Status => Reply::Status(status(now)),
                            _ => {
                                sleep(Duration::from_millis(if now == 1 { 200 } else { 0 })).await;
                                let to_core = Count { packets: now, bytes: now };
                                Reply::Counters(Counters { to_core, ..Counters::default() })
                            }
                        };
                        stream.write_all(&encode_reply(&reply).unwrap()).await.unwrap();
                    }
                    match stream.read(&mut buffer).await {
                        Ok(n) if n > 0 => asked.push(&buffer[..n]),
                        _ => return,
                    }
                }
            });
        }
    }

    #[tokio::test]
    async fn answers_that_overtake_each_other_are_no_restart() {
        let dir = tempfile::tempdir().unwrap();
        let unit: Unit = "acme/denver-1".parse().unwrap();
        let vm: VmId = unit.vm(1).parse().unwrap();
        let runtime = Arc::new(FakeRuntime::new(dir.path()));
        let (kind, nics, config, processes, shared) = (VmKind::Pvm, vec![], vec![], vec![], vec![]);
        let spec = VmSpec { id: vm.clone(), kind, nics, config, processes, memory_max: None, shared, image: None, identity: None };
        runtime.start(&spec).await.unwrap();
        std::fs::create_dir_all(runtime.vm_run_dir(&vm)).unwrap();
        tokio::spawn(forwarder(UnixListener::bind(runtime.vm_run_dir(&vm).join(FIB_SOCKET)).unwrap()));
        let placements = Arc::new(Placements::open(Arc::new(Memory::default())).unwrap());
        placements.settle(&BTreeSet::from([unit.clone()]), &BTreeSet::new()).await.unwrap();
        let meter = Meter::new(Arc::new(Fleet::alone(runtime)), placements.clone());
        let (a, b) = tokio::join!(meter.total(&unit), meter.total(&unit));
        let mut said = [a.unwrap().to_core.packets, b.unwrap().to_core.packets];
        said.sort_unstable();
        assert_eq!((said, placements.get(&unit).unwrap().counted.to_core.packets), ([1, 2], 0));
    }
}
