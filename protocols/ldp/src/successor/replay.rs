//! Following: values and streams of the process that speaks.

use super::{Connection, Following};
use crate::discovery::Interface;
use crate::engine::Ldp;
use crate::fsm::{End, Session};
use crate::neighbor::{Adjacency, Neighbor, Sent};
use crate::packet::{FecElement, LdpId, MAX_PDU, Message, frame};
use crate::stored::{self, Name, StoredAdjacency, StoredBinding, ValueError};
use crate::{Action, Config, ConnId, Event, Start, Time};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

impl Ldp {
    /// Follows another process: hears and says nothing. `start`: how to begin if there turns out to be nothing to go on with.
    pub fn following(now: Time, config: Config, start: Start) -> Self {
        let mut ldp = Self::new(now, config, Start::default());
        ldp.kept_until = None;
        (ldp.lib.following, ldp.lib.held) = (true, true);
        ldp.following = Some(Following { start, said: vec![], connections: BTreeMap::new() });
        ldp
    }

    /// What changes without the process that we follow.
    pub(crate) fn follow(&mut self, now: Time, event: Event) {
        match event {
            Event::Configure(config) => {
                self.config = config;
                self.lib.labels.set_range(self.config.labels);
                self.settle_keys();
                self.lib.touch_all();
            }
            Event::Interface { .. } => {
                if let Some(following) = &mut self.following {
                    // The last word on each counts.
                    let name = |e: &Event| if let Event::Interface { name, .. } = e { Some(Arc::clone(name)) } else { None };
                    let about = name(&event);
                    following.said.retain(|e| name(e) != about);
                    following.said.push(event);
                }
            }
            Event::Routes(routes) => {
                self.lib.held = false;
                self.set_routes(routes);
            }
            _ => {}
        }
        self.settle(now);
        // What there is to say has been said, or will be when it is our turn.
        self.actions.retain(|a| {
            !matches!(
                a,
                Action::SendHello { .. } | Action::Connect { .. } | Action::Protect { .. } | Action::Send { .. } | Action::Close { .. }
            )
        });
    }

    /// A value of the process that we follow; [`Event::Timer`] works it in.
    pub fn apply(&mut self, now: Time, name: &str, value: Option<&[u8]>) -> Result<(), ValueError> {
        let name = Name::parse(name)?;
        match &name {
            Name::Speaker => self.told.speaker = value.map(|v| stored::decode(&name, v)).transpose()?,
            Name::Interface(interface) => match value {
                Some(value) => {
                    let stored: stored::StoredInterface = stored::decode(&name, value)?;
                    let discovery = self.config.interfaces.contains(interface);
                    self.interfaces.insert(Arc::clone(interface), Interface::new(now, stored.address, discovery));
                    self.told.interfaces.insert(Arc::clone(interface), stored);
                }
                None => {
                    self.interfaces.remove(interface);
                    self.told.interfaces.remove(interface);
                }
            },
            Name::Adjacency(lsr_id, interface) => {
                let slot = (*lsr_id, Arc::clone(interface));
                match value {
                    Some(value) => {
                        let stored: StoredAdjacency = stored::decode(&name, value)?;
                        self.adjoin(now, *lsr_id, interface, &stored);
                        self.told.adjacencies.insert(slot, stored);
                    }
                    None => {
                        self.told.adjacencies.remove(&slot);
                        if let Some(neighbor) = self.neighbors.get_mut(lsr_id) {
                            neighbor.adjacencies.remove(interface);
                        }
                    }
                }
                self.settle_keys();
                self.lib.touch_all();
            }
            Name::Binding(fec) => match value {
                Some(value) => {
                    let StoredBinding { label, .. } = stored::decode(&name, value)?;
                    self.told.bindings.insert(*fec, label);
                    self.lib.bound(*fec, Some(label));
                }
                None => {
                    self.told.bindings.remove(fec);
                    self.lib.bound(*fec, None);
                }
            },
        }
        Ok(())
    }

    fn adjoin(&mut self, now: Time, lsr_id: Ipv4Addr, interface: &Arc<str>, stored: &StoredAdjacency) {
        let neighbor = self.neighbors.entry(lsr_id).or_insert_with(|| Neighbor::new(lsr_id, stored.transport));
        (neighbor.transport, neighbor.gtsm) = (stored.transport, stored.gtsm);
        let hold = stored.hold_s.map(|s| Duration::from_secs(s.into()));
        let expires = hold.map(|hold| now + hold);
        let adjacency = Adjacency { source: stored.source, hold, expires, sequence: stored.sequence, greeted: true };
        neighbor.adjacencies.insert(Arc::clone(interface), adjacency);
    }

    /// The process that we follow has a connection; its streams come with [`Ldp::replay_received`] and [`Ldp::replay_sent`].
    pub fn replay_opened(&mut self, conn: ConnId, remote: Ipv4Addr) {
        let (received, sent, addresses) = Default::default();
        if let Some(following) = &mut self.following {
            following.connections.insert(conn, Connection { remote, received, sent, addresses });
        }
    }

    /// The neighbour's next bytes; gives what follows for the daemon.
    pub fn replay_received(&mut self, now: Time, conn: ConnId, bytes: &[u8]) -> Vec<Action> {
        if self.conns.contains_key(&conn) {
            self.received(now, conn, bytes.to_vec());
        } else if let Some(connection) = self.connection(conn) {
            connection.received.extend_from_slice(bytes);
            match frame(&connection.received, MAX_PDU).map(|pdu| pdu.map(|pdu| pdu.sender)) {
                Ok(Some(LdpId { lsr_id, .. })) => self.adopt(now, conn, lsr_id),
                Ok(None) => {}
                // No session comes of it: it is closed when it is our turn.
                Err(_) => connection.received.clear(),
            }
        }
        self.followed(now)
    }

    /// Our next bytes, as the process that we follow has said them; they may end within a PDU.
    pub fn replay_sent(&mut self, now: Time, conn: ConnId, bytes: &[u8]) -> Vec<Action> {
        let Some(connection) = self.connection(conn) else { return vec![] };
        connection.sent.extend_from_slice(bytes);
        let mut sent = std::mem::take(&mut connection.sent);
        let mut done = 0;
        loop {
            match frame(sent.get(done..).unwrap_or_default(), u16::MAX) {
                Ok(Some(pdu)) => {
                    done += pdu.wire_len();
                    for raw in pdu.messages().map_while(Result::ok) {
                        if let Ok(Some(message)) = Message::decode(&raw) {
                            self.said(now, conn, raw.id, &message);
                        }
                    }
                }
                Ok(None) => break,
                // That is nothing that we would say: whoever wrote it down must not be believed.
                Err(error) => {
                    if let Some(lsr_id) = self.conns.get(&conn).copied() {
                        self.end_session(now, lsr_id, End::lost(format!("what was sent is not LDP: {error}")));
                    }
                    done = sent.len();
                    break;
                }
            }
        }
        sent.drain(..done);
        if let Some(connection) = self.connection(conn) {
            connection.sent = sent;
        }
        self.followed(now)
    }

    /// The connection is over.
    pub fn replay_closed(&mut self, now: Time, conn: ConnId) -> Vec<Action> {
        if let Some(following) = &mut self.following {
            following.connections.remove(&conn);
        }
        self.closed(now, conn, "the process before lost it".into());
        self.followed(now)
    }

    /// Everything that was told is forgotten: it is told anew. What the daemon has said stays.
    pub fn forget(&mut self, now: Time) -> Vec<Action> {
        let Some(Following { start, said, connections }) = self.following.take() else { return vec![] };
        for conn in connections.into_keys() {
            self.closed(now, conn, "the process before is followed anew".into());
        }
        let mut actions = std::mem::take(&mut self.actions);
        actions.retain(|a| matches!(a, Action::SessionDown { .. }));
        let mut fresh = Self::following(now, self.config.clone(), start);
        fresh.synced = std::mem::take(&mut self.synced);
        fresh.keys = std::mem::take(&mut self.keys);
        fresh.settle_keys();
        fresh.lib.held = self.lib.held;
        fresh.set_routes(Arc::clone(&self.lib.routes));
        if let Some(following) = &mut fresh.following {
            following.said = said;
        }
        // What is forwarded changes with what is told anew.
        fresh.lib.forwarding = Arc::clone(&self.lib.forwarding);
        fresh.lib.touch_all();
        *self = fresh;
        actions
    }

    fn followed(&mut self, now: Time) -> Vec<Action> {
        self.follow(now, Event::Timer);
        std::mem::take(&mut self.actions)
    }

    fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.following.as_mut()?.connections.get_mut(&conn)
    }

    /// It is known whose connection this is.
    fn adopt(&mut self, now: Time, conn: ConnId, lsr_id: Ipv4Addr) {
        let Some(connection) = self.connection(conn) else { return };
        let (remote, received) = (connection.remote, std::mem::take(&mut connection.received));
        if self.neighbors.get(&lsr_id).is_some_and(|n| n.session.is_some()) {
            self.end_session(now, lsr_id, End::lost("the neighbour connected again".into()));
        }
        let mut session = Session::new(now, conn, &self.config);
        session.muted = true;
        let neighbor = self.neighbors.entry(lsr_id).or_insert_with(|| Neighbor::new(lsr_id, remote));
        neighbor.session = Some(session);
        self.conns.insert(conn, lsr_id);
        self.received(now, conn, received);
    }

    /// A message of ours.
    fn said(&mut self, now: Time, conn: ConnId, id: u32, message: &Message) {
        if let Message::Initialization(i) = message
            && !self.conns.contains_key(&conn)
        {
            self.adopt(now, conn, i.receiver.lsr_id);
        }
        let addresses = self.connection(conn).map(|c| &mut c.addresses);
        match (message, addresses) {
            (Message::Address(new), Some(addresses)) => addresses.extend(new),
            (Message::AddressWithdraw(gone), Some(addresses)) => addresses.retain(|a| !gone.contains(a)),
            _ => {}
        }
        let Some(neighbor) = self.conns.get(&conn).and_then(|lsr_id| self.neighbors.get_mut(lsr_id)) else { return };
        neighbor.messages_sent += 1;
        if let Some(session) = &mut neighbor.session {
            session.said(id, message);
        }
        match message {
            Message::LabelMapping(m) => {
                for fec in prefixes(&m.fecs) {
                    neighbor.sent.insert(fec, Sent { label: m.label, held: true });
                    neighbor.requests.remove(&fec);
                }
            }
            Message::LabelWithdraw(m) => {
                for fec in prefixes(&m.fecs) {
                    if let Some(sent) = neighbor.sent.remove(&fec).filter(|sent| sent.held) {
                        neighbor.withdrawn.insert((fec, sent.label));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Of what we say, every FEC is a prefix.
fn prefixes(fecs: &[FecElement]) -> impl Iterator<Item = Ipv4Net> {
    fecs.iter().filter_map(|fec| if let FecElement::Prefix(prefix) = fec { Some(*prefix) } else { None })
}

impl Following {
    pub(super) fn into_parts(self) -> (Start, Vec<Event>, BTreeMap<ConnId, BTreeSet<Ipv4Addr>>) {
        let addresses = self.connections.into_iter().map(|(conn, c)| (conn, c.addresses)).collect();
        (self.start, self.said, addresses)
    }
}
