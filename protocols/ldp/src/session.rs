//! Sessions between LSRs (RFC 5036 §2.5): who connects, what comes over a connection, how it ends.

use crate::db::own_fec;
use crate::engine::{Ldp, Pending};
use crate::fsm::{self, End, Session, State, Step, notification};
use crate::packet::{FecElement, LdpId, MAX_PDU, Message, Notification, Pdu, RawMessage, Status, frame};
use crate::{Action, ConnId, Time};
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

/// How long an accepted connection may wait for its peer's Hello and Initialization.
const PENDING: Duration = Duration::from_secs(5);
/// Accepted connections that may wait: all together, and from one address.
const MAX_PENDING: usize = 64;
const MAX_PENDING_FROM_ONE: usize = 2;
/// Addresses in one message, so that it fits into a PDU of the smallest length that can be agreed on.
pub(crate) const ADDRESSES_AT_ONCE: usize = 50;

impl Ldp {
    /// RFC 5036 §2.5.2: the greater transport address connects.
    pub(crate) fn try_connect(&mut self, now: Time, lsr_id: Ipv4Addr) {
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        let due = neighbor.retry_at.is_none_or(|at| at <= now);
        if !due || neighbor.session.is_some() || neighbor.adjacencies.is_empty() || self.config.lsr_id < neighbor.transport {
            return;
        }
        neighbor.retry_at = None;
        self.opened += 1;
        let conn = ConnId::Opened(self.opened);
        neighbor.session = Some(Session::new(now, conn, &self.config));
        self.conns.insert(conn, lsr_id);
        self.actions.push(Action::Connect {
            conn,
            local: self.config.lsr_id,
            remote: neighbor.transport,
            password: self.config.passwords.get(&lsr_id).cloned(),
            gtsm: neighbor.gtsm,
        });
    }

    /// Our connection stands: the active side speaks first.
    pub(crate) fn connected(&mut self, now: Time, conn: ConnId) {
        let Some(&lsr_id) = self.conns.get(&conn) else { return };
        self.send_initialization(now, lsr_id);
        let session = self.neighbors.get_mut(&lsr_id).and_then(|n| n.session.as_mut());
        if let Some(session) = session.filter(|s| s.state == State::Initialized) {
            session.state = State::OpenSent;
            session.receive_by = now + fsm::SETUP;
        }
    }

    fn send_initialization(&mut self, now: Time, lsr_id: Ipv4Addr) {
        let recovery = self.recovery_left(now);
        let message = fsm::initialization(&self.config, LdpId { lsr_id, label_space: 0 }, recovery);
        if let Some(neighbor) = self.neighbors.get_mut(&lsr_id) {
            neighbor.send(&message);
        }
    }

    /// Whose it is, its Initialization tells; the Hello may still be on its way.
    pub(crate) fn accepted(&mut self, now: Time, conn: ConnId, remote: Ipv4Addr) {
        let from_it = self.pending.values().filter(|p| p.remote == remote).count();
        if self.pending.len() >= MAX_PENDING || from_it >= MAX_PENDING_FROM_ONE {
            return self.actions.push(Action::Close { conn });
        }
        self.pending.insert(conn, Pending { remote, input: vec![], expires: now + PENDING });
    }

    pub(crate) fn received(&mut self, now: Time, conn: ConnId, bytes: Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&conn) {
            pending.input.extend(bytes);
            return self.match_one(now, conn);
        }
        let Some(&lsr_id) = self.conns.get(&conn) else { return };
        let Some(session) = self.neighbors.get_mut(&lsr_id).and_then(|n| n.session.as_mut()) else { return };
        let mut input = std::mem::take(&mut session.input);
        input.extend(bytes);
        self.digest(now, lsr_id, conn, input);
    }

    /// Gives pending connections to neighbours that have been heard meanwhile.
    pub(crate) fn match_pending(&mut self, now: Time) {
        let all: Vec<_> = self.pending.keys().copied().collect();
        all.into_iter().for_each(|conn| self.match_one(now, conn));
    }

    fn match_one(&mut self, now: Time, conn: ConnId) {
        let Some(pending) = self.pending.get(&conn) else { return };
        let (lsr_id, opens) = match frame(&pending.input, MAX_PDU) {
            Ok(None) => return,
            Ok(Some(pdu)) => (pdu.sender.lsr_id, opens(&pdu)),
            Err(error) => return self.refuse_pending(conn, error.status),
        };
        let remote = pending.remote;
        let Some(neighbor) = self.neighbors.get(&lsr_id).filter(|n| !n.adjacencies.is_empty() && n.transport == remote) else {
            // More than one PDU before our answer is more than the protocol has to say.
            if pending.input.len() > 2 * usize::from(MAX_PDU) {
                self.refuse_pending(conn, Status::REJECTED_NO_HELLO);
            }
            return;
        };
        // RFC 5036 §2.5.2: it is we who connect.
        if self.config.lsr_id > neighbor.transport {
            return self.refuse_pending(conn, Status::SHUTDOWN);
        }
        // Another that has a key is at the same address.
        if !self.is_signed(lsr_id, remote) {
            return self.refuse_pending(conn, Status::SHUTDOWN);
        }
        // What could not begin a session does not end the one that there is.
        if neighbor.session.is_some() && !opens {
            return self.refuse_pending(conn, Status::SHUTDOWN);
        }
        let Some(Pending { input, .. }) = self.pending.remove(&conn) else { return };
        if neighbor.session.is_some() {
            // A neighbour that connects again has lost the session before, even if we have not noticed.
            self.end_session(now, lsr_id, End::lost("the neighbour connected again".into()));
        }
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        neighbor.session = Some(Session::new(now, conn, &self.config));
        if neighbor.gtsm {
            self.actions.push(Action::Protect { conn });
        }
        self.conns.insert(conn, lsr_id);
        self.digest(now, lsr_id, conn, input);
    }

    pub(crate) fn refuse_pending(&mut self, conn: ConnId, status: Status) {
        self.pending.remove(&conn);
        let mut out = crate::packet::Composer::new(self.config.lsr_id, MAX_PDU);
        out.push(1, &notification(status, (0, 0)));
        self.actions.push(Action::Send { conn, bytes: out.take() });
        self.actions.push(Action::Close { conn });
    }

    pub(crate) fn expire_pending(&mut self, now: Time) {
        let late: Vec<_> = self.pending.iter().filter(|(_, p)| p.expires <= now).map(|(conn, _)| *conn).collect();
        late.into_iter().for_each(|conn| self.refuse_pending(conn, Status::REJECTED_NO_HELLO));
    }

    /// Works off whole PDUs; the rest waits for more.
    fn digest(&mut self, now: Time, lsr_id: Ipv4Addr, conn: ConnId, mut input: Vec<u8>) {
        let mut done = 0;
        loop {
            let session = self.neighbors.get_mut(&lsr_id).and_then(|n| n.session.as_mut()).filter(|s| s.conn == conn);
            let Some(session) = session else { return };
            let pdu = match frame(input.get(done..).unwrap_or_default(), session.max_pdu) {
                Ok(Some(pdu)) => pdu,
                Ok(None) => {
                    input.drain(..done);
                    session.input = input;
                    return;
                }
                Err(error) => return self.end_session(now, lsr_id, End::error(error, (0, 0))),
            };
            if pdu.sender != (LdpId { lsr_id, label_space: 0 }) {
                let why = End { keep: false, ..End::ours(Status::BAD_LDP_IDENTIFIER, "a PDU with another LDP identifier") };
                return self.end_session(now, lsr_id, why);
            }
            session.heard(now);
            done += pdu.wire_len();
            for raw in pdu.messages() {
                match raw {
                    Ok(raw) => self.message(now, lsr_id, &raw),
                    Err(error) => self.end_session(now, lsr_id, End::error(error, (0, 0))),
                }
                if !self.conns.contains_key(&conn) {
                    return;
                }
            }
        }
    }

    fn message(&mut self, now: Time, lsr_id: Ipv4Addr, raw: &RawMessage<'_>) {
        let about = (raw.id, raw.kind);
        let decoded = Message::decode(raw);
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        neighbor.messages_received += 1;
        let message = match decoded {
            Ok(Some(message)) => message,
            Ok(None) => return,
            // RFC 5036 §3.5.1.2: the message is ignored, the session goes on, once there is one.
            Err(error) if !error.status.is_fatal() && neighbor.is_up() => {
                neighbor.send(&notification(error.status, about));
                neighbor.last_error = Some(error.to_string());
                return self.log(now, Some(lsr_id), error.to_string());
            }
            Err(error) => return self.end_session(now, lsr_id, End::error(error, about)),
        };
        if let Message::Notification(n) = &message
            && n.status.is_fatal()
        {
            return self.told_to_end(now, lsr_id, n);
        }
        let Some(session) = &mut neighbor.session else { return };
        match session.step(&message) {
            Step::Negotiate(proposal) => {
                let passive = session.state == State::Initialized;
                if let Err(status) = session.negotiate(now, &self.config, proposal) {
                    let reason = format!("we refuse its Initialization: {status}");
                    self.end_session(now, lsr_id, End { notify: Some((status, about)), reason, keep: true });
                    return;
                }
                if passive {
                    self.send_initialization(now, lsr_id);
                }
                if let Some(neighbor) = self.neighbors.get_mut(&lsr_id) {
                    neighbor.send(&Message::KeepAlive);
                }
            }
            Step::Up => self.session_up(now, lsr_id),
            Step::Exchange => self.exchange(lsr_id, message, about),
            Step::Nothing => {}
            // RFC 5036 §2.5.4: so do advisory notifications before there is a session.
            Step::Wrong if matches!(message, Message::Notification(_)) => {}
            Step::Wrong => {
                let why = format!("message {:#06x} while {}", raw.kind, session.state.name());
                self.end_session(now, lsr_id, End { notify: Some((Status::SHUTDOWN, about)), reason: why, keep: false });
            }
        }
    }

    /// The peer ends the session. RFC 5036 §3.5.1.1: it closes, and so do we.
    fn told_to_end(&mut self, now: Time, lsr_id: Ipv4Addr, n: &Notification) {
        // Timers that ran out there may be our own restart; anything else is meant to be the end.
        let keep = matches!(n.status, Status::HOLD_TIMER_EXPIRED | Status::KEEPALIVE_TIMER_EXPIRED);
        let reason = format!("the neighbour says: {}", n.status);
        self.end_session(now, lsr_id, End { notify: None, reason, keep });
        if let Some(neighbor) = self.neighbors.get_mut(&lsr_id)
            && n.status.is_rejection()
        {
            // RFC 5036 §2.5.3
            neighbor.failed(now, true);
        }
    }

    fn session_up(&mut self, now: Time, lsr_id: Ipv4Addr) {
        let own: Vec<_> = self.own_addresses().into_iter().collect();
        let longest = self.config.recovery;
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        let Some(session) = &mut neighbor.session else { return };
        session.up(now);
        let peer = session.peer;
        neighbor.forgive();
        // RFC 3478 §3.3: what the peer has kept it will confirm within its recovery time.
        let recovery = peer.and_then(|p| p.fault_tolerance).map_or(Duration::ZERO, |ft| ft.recovery.min(longest));
        if neighbor.stale_until.is_some() {
            if recovery.is_zero() {
                self.lib.touch(neighbor.sweep());
            } else {
                neighbor.stale_until = Some(now + recovery);
            }
        }
        for addresses in own.chunks(ADDRESSES_AT_ONCE) {
            neighbor.send(&Message::Address(addresses.to_vec()));
        }
        // All our labels, as they are now, and then End-of-LIB (RFC 5919 §4).
        self.lib.touch_all();
        self.lib.settle(now, &self.config, &mut self.neighbors);
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        if peer.is_some_and(|p| p.capabilities.unrecognized_notification) {
            let fec = Some(FecElement::all_ipv4());
            neighbor.send(&Message::Notification(Notification { status: Status::END_OF_LIB, message_id: 0, message_kind: 0, fec }));
        }
        // What kept the first session from coming up is over, and no reason to worry.
        if neighbor.resets == 0 {
            neighbor.last_error = None;
        }
        let interfaces = neighbor.interfaces();
        self.actions.push(Action::SessionUp { lsr_id, interfaces });
    }

    /// Ends a session, whatever its state; without one nothing happens.
    pub(crate) fn end_session(&mut self, now: Time, lsr_id: Ipv4Addr, why: End) {
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        if let Some((status, about)) = why.notify {
            neighbor.send(&notification(status, about));
        }
        let Some(mut session) = neighbor.session.take() else { return };
        if let Some(bytes) = session.flush(now) {
            self.actions.push(Action::Send { conn: session.conn, bytes });
        }
        self.conns.remove(&session.conn);
        self.actions.push(Action::Close { conn: session.conn });
        neighbor.last_error = Some(why.reason.clone());
        neighbor.adjacencies.values_mut().for_each(|a| a.greeted = false);
        let refused = why.notify.is_some_and(|(status, _)| status.is_rejection());
        neighbor.failed(now, refused);
        let up = session.is_up();
        // RFC 3478 §3.3: both sides can do it.
        let theirs = session.peer.and_then(|p| p.fault_tolerance).filter(|_| !self.config.reconnect.is_zero() && why.keep);
        if up {
            neighbor.resets += 1;
            neighbor.stale_addresses = std::mem::take(&mut neighbor.addresses);
            neighbor.remote.values_mut().for_each(|r| r.stale = true);
            match theirs.map(|ft| ft.reconnect.min(self.config.reconnect)).filter(|wait| !wait.is_zero()) {
                Some(wait) => neighbor.stale_until = Some(now + wait),
                None => self.lib.touch(neighbor.sweep()),
            }
            // It may do the same with ours.
            let rest = session.peer.and_then(|p| p.fault_tolerance).map(|_| now + self.config.reconnect);
            self.lib.session_ended(neighbor, rest);
            self.lib.touch_all();
            let (interfaces, reason) = (neighbor.interfaces(), why.reason);
            self.actions.push(Action::SessionDown { lsr_id, interfaces, reason });
        } else {
            let text = format!("no session: {}", why.reason);
            self.log(now, Some(lsr_id), text);
        }
    }

    pub(crate) fn closed(&mut self, now: Time, conn: ConnId, reason: String) {
        self.pending.remove(&conn);
        if let Some(&lsr_id) = self.conns.get(&conn) {
            self.end_session(now, lsr_id, End::lost(reason));
        }
    }

    pub(crate) fn session_timers(&mut self, now: Time, lsr_id: Ipv4Addr) {
        let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { return };
        let Some(session) = &neighbor.session else { return };
        if session.receive_by <= now {
            return self.end_session(now, lsr_id, End::ours(Status::KEEPALIVE_TIMER_EXPIRED, "KeepAlive timer expired"));
        }
        let complete = session.is_up() && session.complete_at.is_some_and(|at| at <= now);
        if session.send_by.is_some_and(|at| at <= now) {
            neighbor.send(&Message::KeepAlive);
        }
        if complete {
            self.complete(lsr_id);
        }
    }

    /// Our addresses have changed.
    pub(crate) fn tell_addresses(&mut self, before: &BTreeSet<Ipv4Addr>) {
        let now = self.own_addresses();
        let new: Vec<_> = now.difference(before).copied().collect();
        let gone: Vec<_> = before.difference(&now).copied().collect();
        for neighbor in self.neighbors.values_mut().filter(|n| n.is_up()) {
            new.chunks(ADDRESSES_AT_ONCE).for_each(|a| neighbor.send(&Message::Address(a.to_vec())));
            gone.chunks(ADDRESSES_AT_ONCE).for_each(|a| neighbor.send(&Message::AddressWithdraw(a.to_vec())));
        }
        self.lib.touch([own_fec(&self.config)]);
    }
}

/// Whether the PDU begins as a session must: with an Initialization that is whole.
fn opens(pdu: &Pdu<'_>) -> bool {
    let first = pdu.messages().next().and_then(Result::ok);
    first.is_some_and(|raw| matches!(Message::decode(&raw), Ok(Some(Message::Initialization(_)))))
}
