//! Processes that take each other's place.

use super::{Net, ms, name};
use edgeplex_ospf::{Action, Event, Ospf, Start};

impl Net {
    /// Before packets leave.
    pub(super) fn store(&mut self, router: usize) {
        let now = self.now;
        let r = &mut self.routers[router];
        let Some(engine) = &mut r.engine else { return };
        for (name, value) in engine.changes() {
            if let Some(standby) = &mut r.standby {
                standby.apply(now, &name, value.as_deref()).unwrap();
            }
            match value {
                Some(value) => drop(r.values.insert(name, value)),
                None => assert!(r.values.remove(&name).is_some(), "{name} was never told"),
            }
        }
        assert_eq!(engine.changes(), [], "told once");
    }

    fn follower(&self, router: usize) -> Ospf {
        let crypto_sequence = u32::try_from(self.now.as_secs()).unwrap();
        let config = self.routers[router].config.clone();
        let mut follower = Ospf::following(self.now, config, Start { restarting: false, crypto_sequence });
        for (name, value) in &self.routers[router].values {
            follower.apply(self.now, name, Some(value)).unwrap();
        }
        follower
    }

    /// From now on there is one that is told everything.
    pub(crate) fn follow(&mut self, router: usize) {
        if self.routers[router].engine.is_some() {
            self.routers[router].standby = Some(self.follower(router));
        }
    }

    /// As `kill -9` does; after `silence` milliseconds another process takes its place.
    pub(crate) fn replace(&mut self, router: usize, silence: u64) {
        if self.routers[router].engine.take().is_none() {
            return;
        }
        self.run(ms(silence));
        let mut successor = self.routers[router].standby.take().unwrap_or_else(|| self.follower(router));
        // What it has to say before it is promoted is for its owner alone.
        let told = successor.handle(self.now, Event::Timer);
        assert!(!told.iter().any(|a| matches!(a, Action::Send { .. })));
        let actions = successor.promote(self.now, true);
        let greetings: Vec<_> =
            actions.iter().filter_map(|a| if let Action::Send { packet, .. } = a { Some(packet[1]) } else { None }).collect();
        self.routers[router].engine = Some(successor);
        self.sent_at_once = greetings;
        self.act(router, actions);
        for link in (0..self.links.len()).filter(|l| self.links[*l].routers.contains(&router)).collect::<Vec<_>>() {
            let up = self.links[link].up;
            self.handle(router, Event::Interface { name: &name(link), up });
        }
    }
}
