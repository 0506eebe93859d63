//! Processes that take each other's place.

use super::{Network, Rng, address, interface};
use edgeplex_ldp::{Action, Change, ConnId, Event, Ldp, Routes, Start, State};
use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

#[derive(Debug)]
enum Bytes {
    Received(Vec<u8>),
    Sent(Vec<u8>),
}

/// What a process has stored: values, and the streams of its connections.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) values: BTreeMap<String, Vec<u8>>,
    streams: BTreeMap<ConnId, (Ipv4Addr, Vec<Bytes>)>,
    /// What its daemon has told it last; a daemon that follows learns the same.
    routes: Option<Arc<Routes>>,
    pub(super) awaits_routes: bool,
}

impl Journal {
    pub(super) fn heard(&mut self, event: &Event) {
        match event {
            Event::Received { conn, bytes } => {
                if let Some((_, stream)) = self.streams.get_mut(conn) {
                    stream.push(Bytes::Received(bytes.clone()));
                }
            }
            Event::Closed { conn, .. } => self.closed(*conn),
            Event::Routes(routes) => {
                self.routes = Some(Arc::clone(routes));
                self.awaits_routes = false;
            }
            _ => {}
        }
    }

    pub(super) fn store(&mut self, changes: Vec<Change>) {
        for (name, value) in changes {
            match value {
                Some(value) => drop(self.values.insert(name, value)),
                None => assert!(self.values.remove(&name).is_some(), "{name} was never told"),
            }
        }
    }

    pub(super) fn said(&mut self, conn: ConnId, bytes: &[u8]) {
        if let Some((_, stream)) = self.streams.get_mut(&conn) {
            stream.push(Bytes::Sent(bytes.to_vec()));
        }
    }

    pub(super) fn opened(&mut self, conn: ConnId, remote: Ipv4Addr) {
        self.streams.insert(conn, (remote, vec![]));
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        self.streams.remove(&conn);
    }
}

impl Network {
    /// The process is killed, and another goes on with what it had stored. Its interfaces and routes are told to it again, before or
    /// after. Connections stand.
    pub(crate) fn replace(&mut self, node: usize, rng: &mut Rng) {
        let now = self.now;
        let config = self.nodes[node].config.clone();
        let before = self.nodes[node].ldp.neighbors(now);
        let journal = std::mem::take(&mut self.nodes[node].journal);
        let mut successor = Ldp::following(now, config, Start { restarting: true, bindings: self.nodes[node].stored.clone() });
        if let Some(routes) = journal.routes.as_ref().filter(|_| rng.below(2) == 0) {
            assert!(quiet(&successor.handle(now, Event::Routes(Arc::clone(routes)))));
        }
        let mut conns = BTreeMap::new();
        let mut renamed = Journal { values: journal.values, streams: BTreeMap::new(), routes: journal.routes, awaits_routes: true };
        for (n, (old, (remote, stream))) in journal.streams.into_iter().enumerate() {
            let conn = ConnId::Inherited(1000 * u64::from(self.nodes[node].life) + n as u64);
            successor.replay_opened(conn, remote);
            for piece in &stream {
                let actions = match piece {
                    Bytes::Received(bytes) => successor.replay_received(now, conn, bytes),
                    Bytes::Sent(bytes) => {
                        // However it comes.
                        let (first, second) = bytes.split_at(rng.below(bytes.len() + 1));
                        assert!(quiet(&successor.replay_sent(now, conn, first)));
                        successor.replay_sent(now, conn, second)
                    }
                };
                assert!(quiet(&actions), "{actions:?}");
            }
            renamed.streams.insert(conn, (remote, stream));
            conns.insert(old, conn);
        }
        for (name, value) in &renamed.values {
            successor.apply(now, name, Some(value)).unwrap();
        }
        let actions = successor.handle(now, Event::Timer);
        assert!(quiet(&actions), "{actions:?}");
        // The other ends have the same connections.
        let life = self.nodes[node].life;
        let ends: Vec<_> = self.by_end.iter().filter(|(end, _)| end.0 == node && end.1 == life).map(|(end, c)| (*end, *c)).collect();
        self.nodes[node].life += 1;
        for (end, connection) in ends {
            self.by_end.remove(&end);
            let at = usize::from(self.connections[connection].ends[1] == Some(end));
            let new = conns.get(&end.2).map(|conn| (node, life + 1, *conn));
            self.connections[connection].ends[at] = new;
            match new {
                Some(new) => drop(self.by_end.insert(new, connection)),
                // Asked for and not yet answered.
                None => self.send(connection, 1 - at, rng, |()| super::Delivery::Closed { connection, towards: 1 - at }),
            }
        }
        let inherited: Vec<_> = successor.inherited().into_iter().map(|i| i.conn).collect();
        assert_eq!(inherited, conns.values().copied().collect::<Vec<_>>());
        self.nodes[node].journal = renamed;
        let actions = successor.promote(now, &[]);
        self.nodes[node].ldp = successor;
        let after = self.nodes[node].ldp.neighbors(now);
        // What was kept of a session that is over is not stored.
        for b in before.iter().filter(|b| b.state == State::Operational && !b.stale) {
            let a = after.iter().find(|a| a.lsr_id == b.lsr_id).expect("it is still known");
            let what = |n: &edgeplex_ldp::NeighborView| (n.state, n.interfaces.clone(), n.labels_received, n.labels_sent, n.keepalive_s);
            assert_eq!(what(a), what(b));
        }
        self.follow_up(node, actions, false, rng);
        for link in 0..self.links.len() {
            if self.links[link].ends.contains(&node) {
                let up = self.links[link].up;
                self.handle_with(node, Event::Interface { name: interface(link), address: address(link, node), up }, rng);
            }
        }
        self.later(Duration::from_millis(rng.below(3000) as u64), super::Delivery::Routes { to: node });
    }
}

/// Nothing of it is for anybody but the daemon.
fn quiet(actions: &[Action]) -> bool {
    !actions.iter().any(|a| {
        matches!(a, Action::SendHello { .. } | Action::Connect { .. } | Action::Protect { .. } | Action::Send { .. } | Action::Close { .. })
    })
}
