//! What the switch's controller is told: labels and neighbours, when they change.

use edgeplex_mgmt::show::{Fabric, FabricLabel, FabricNeighbor};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Publisher {
    told: watch::Sender<Option<Arc<Fabric>>>,
    /// Differs from that of any other process, and from one publication to the next.
    generation: u64,
    dirty: bool,
    /// Until then the first one waits for neighbours that are still being resolved.
    patience: Instant,
}

impl Publisher {
    pub(crate) fn new(now: Instant, first: u64, wait: Duration) -> (Self, watch::Receiver<Option<Arc<Fabric>>>) {
        let (told, out) = watch::channel(None);
        (Self { told, generation: first, dirty: false, patience: now + wait }, out)
    }

    /// Something of it may have changed.
    pub(crate) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Tells what is new. After a start nothing is told until the core has converged and neighbours had time to resolve: an
    /// empty list would make the controller take away what still forwards.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        converged: bool,
        resolved: bool,
        what: impl FnOnce() -> (Vec<FabricLabel>, Vec<FabricNeighbor>),
    ) {
        let first = self.told.borrow().is_none();
        let due = if first { converged && (resolved || now >= self.patience) } else { self.dirty };
        if !due {
            return;
        }
        self.dirty = false;
        let (labels, neighbors) = what();
        let same = |f: &Fabric| f.labels == labels && f.neighbors == neighbors;
        if !self.told.borrow().as_deref().is_some_and(same) {
            self.generation += 1;
            self.told.send_replace(Some(Arc::new(Fabric { generation: self.generation, labels, neighbors })));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_types::MacAddr;

    #[test]
    fn nothing_is_told_too_early_and_nothing_twice() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3);
        let (mut publisher, out) = Publisher::new(now, 7, Duration::from_secs(3));
        let neighbor = |n| FabricNeighbor { mac: MacAddr([2, 0, 0, 0, 0, n]), interface: "core0".into() };
        publisher.publish(now, true, false, || panic!("too early"));
        publisher.publish(later, false, true, || panic!("the core is not known yet"));
        publisher.publish(now, true, true, || (vec![], vec![neighbor(1)]));
        assert_eq!(out.borrow().as_ref().map(|f| (f.generation, f.neighbors.len())), Some((8, 1)));
        publisher.publish(later, true, true, || panic!("nothing is new"));
        publisher.touch();
        publisher.publish(later, true, true, || (vec![], vec![neighbor(1)]));
        assert_eq!(out.borrow().as_ref().map(|f| f.generation), Some(8));
        publisher.touch();
        publisher.publish(later, false, false, || (vec![], vec![]));
        assert_eq!(out.borrow().as_ref().map(|f| (f.generation, f.neighbors.len())), Some((9, 0)));
    }
}
