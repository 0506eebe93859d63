//! Messages of the PVMs, and the turn-taking of what is sent to them.

use super::*;

/// A new session costs a look at the whole VRF: Hellos of an attachment that come faster than this are not heard, and said again.
const HELLO_PAUSE: Duration = Duration::from_millis(50);
/// But so much may be made up for: all instances may come at once, to a control VM that has just taken over.
const HELLO_BURST: Duration = HELLO_PAUSE.saturating_mul(3);
/// How long a session lasts at least before it is ended for routes that were left out and now have room.
const RESYNC_PAUSE: Duration = Duration::from_secs(5);

impl<P: Clone + Eq> Vpn<P> {
    /// A message of an attachment's PVM; the caller vouches for the attachment.
    pub fn message(&mut self, now: Instant, peer: P, attachment: &AttachmentId, message: ToCvm) {
        let Some(slot) = self.slots.get(attachment).copied() else {
            // Its key is still in the table for a moment.
            self.replies.push_back((peer, ToPvm::Refused { incarnation: incarnation(&message), reason: Refusal::NotYours }));
            return;
        };
        if let ToCvm::Hello { incarnation, generation, standby, .. } = message {
            self.hello(now, slot, peer, incarnation, Instance { active: !standby, generation });
            return;
        }
        let incarnation = incarnation(&message);
        let session = self.sessions.of_mut(slot).find(|(_, s)| s.peer == peer && s.incarnation == incarnation);
        let Some((conn, session)) = session else {
            self.replies.push_back((peer, ToPvm::Refused { incarnation, reason: Refusal::Unknown }));
            return;
        };
        session.last_heard = now;
        match message {
            ToCvm::Hello { .. } | ToCvm::Keepalive { .. } => {}
            ToCvm::Grant { credits, .. } => {
                session.feed.grant(credits);
                self.ready.insert(conn);
            }
            ToCvm::Sync { .. } if self.sessions.speaker(slot) != Some(conn) => {
                self.refuse(now, conn, Refusal::Superseded, "an instance that does not speak for its customer sends routes".into());
            }
            ToCvm::Sync { sync, .. } => self.sync(now, conn, sync),
        }
    }

    fn hello(&mut self, now: Instant, slot: Slot, peer: P, incarnation: u64, instance: Instance) {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return };
        let known = |(_, s): &(Conn, &PvmSession<P>)| s.peer == peer && s.incarnation == incarnation && s.instance == instance;
        if self.sessions.of(slot).any(|session| known(&session)) {
            // Said again before it heard the answer to the first: that session stands, with its credits.
            self.replies.push_back((peer, ToPvm::Welcome { incarnation }));
            return;
        }
        if attachment.hello_due > now + HELLO_BURST {
            return;
        }
        // Another life of the same instance, or another role of it: what was, is over.
        let old = self.sessions.of(slot).filter(|(_, s)| s.peer == peer || s.instance == instance).map(|(conn, _)| conn);
        let old: Vec<Conn> = old.collect();
        let others = || self.sessions.of(slot).filter(|(conn, _)| !old.contains(conn));
        let highest = others().map(|(_, s)| s.instance).max();
        let lowest = others().min_by_key(|(_, s)| s.instance).filter(|_| others().count() >= MAX_INSTANCES);
        let refusal = match (highest, lowest) {
            (Some(higher), _) if instance.active && higher > instance => Some(Refusal::Superseded),
            (_, Some((_, lowest))) if lowest.instance > instance => Some(Refusal::Limit),
            _ => None,
        };
        if let Some(reason) = refusal {
            self.replies.push_back((peer, ToPvm::Refused { incarnation, reason }));
            self.actions.push_back(Action::Refused(attachment.config.id.clone(), format!("generation {}: {reason}", instance.generation)));
            return;
        }
        attachment.hello_due = attachment.hello_due.max(now) + HELLO_PAUSE;
        if let Some(conn) = lowest.map(|(conn, _)| conn) {
            self.dismiss(conn, Refusal::Limit);
        }
        for conn in old {
            self.end_session(now, conn);
        }
        if instance.active {
            // Whoever spoke before does no more, and hears of it at once: it may be about to speak to the customer again.
            let before: Vec<Conn> = self.sessions.of(slot).filter(|(_, s)| s.instance.active).map(|(conn, _)| conn).collect();
            before.into_iter().for_each(|conn| self.dismiss(conn, Refusal::Superseded));
            self.routes_are_stale(now, slot);
        }
        self.epoch.0 += 1;
        let session = PvmSession::new(now, peer.clone(), incarnation, instance, Feed::new(self.epoch));
        let conn = self.sessions.insert(slot, session);
        self.replies.push_back((peer.clone(), ToPvm::Welcome { incarnation }));
        self.replies.push_back((peer, ToPvm::Grant { incarnation, credits: WINDOW }));
        self.ready.insert(conn);
    }

    /// What an attachment exports waits to be said again.
    fn routes_are_stale(&mut self, now: Instant, slot: Slot) {
        if let Some(attachment) = self.rib.attachments.get_mut(&slot).filter(|a| !a.routes.is_empty()) {
            attachment.stale_since.get_or_insert(now);
        }
    }

    fn sync(&mut self, now: Instant, conn: Conn, sync: Sync<CustomerOp>) {
        let slot = conn.slot;
        let (Some(session), Some(attachment)) = (self.sessions.get_mut(conn), self.rib.attachments.get_mut(&slot)) else { return };
        match sync {
            Sync::Begin { epoch } => {
                session.receiving = Some(epoch);
                if !attachment.routes.is_empty() {
                    attachment.stale_since.get_or_insert(now);
                }
                // The PVM's own numbers are not relied on: it might use one twice.
                if attachment.begin() {
                    self.exports.insert(slot, None);
                }
            }
            Sync::End { epoch } if session.receiving == Some(epoch) => {
                if attachment.end() {
                    self.exports.insert(slot, None);
                }
            }
            Sync::Ops { epoch, ops } if session.receiving == Some(epoch) => {
                if !session.spend() {
                    self.refuse(now, conn, Refusal::Limit, "sends more than it was granted".into());
                    return;
                }
                let mut refused = None;
                let mut count = 0u32;
                let mut limit = None;
                for op in ops {
                    match self.customer_op(slot, op) {
                        Ok(()) => {}
                        Err(ExportError::Full) => {
                            self.refuse(now, conn, Refusal::Limit, ExportError::Full.to_string());
                            return;
                        }
                        Err(error @ ExportError::Limit(_)) => limit = Some(error),
                        Err(error) => {
                            count += 1;
                            refused.get_or_insert(error);
                        }
                    }
                }
                if let (Some(error), Some(attachment)) = (refused, self.rib.attachments.get(&slot)) {
                    self.actions.push_back(Action::Refused(attachment.config.id.clone(), format!("{count} routes, first: {error}")));
                }
                if let (Some(error), Some(attachment)) = (limit, self.rib.attachments.get_mut(&slot))
                    && !std::mem::replace(&mut attachment.limit_told, true)
                {
                    let why = format!("{error}: the others are left out until there is room ({} so far)", attachment.over_limit);
                    self.actions.push_back(Action::Refused(attachment.config.id.clone(), why));
                }
                let Some(session) = self.sessions.get_mut(conn) else { return };
                let (peer, incarnation) = (session.peer.clone(), session.incarnation);
                if let Some(credits) = session.grant_due() {
                    self.replies.push_back((peer, ToPvm::Grant { incarnation, credits }));
                }
            }
            Sync::End { .. } | Sync::Ops { .. } => self.refuse(now, conn, Refusal::Unknown, "speaks of an epoch it has not begun".into()),
        }
    }

    fn customer_op(&mut self, slot: Slot, op: CustomerOp) -> Result<(), ExportError> {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return Ok(()) };
        let (prefix, changed) = match op {
            CustomerOp::Route { prefix, next_hop, attributes } => {
                let prefix = prefix.trunc();
                match attachment.insert(self.config.asn, prefix, next_hop, attributes) {
                    Ok(changed) => (prefix, changed),
                    Err(error) => {
                        // What was said of the prefix before no longer holds (as RFC 7606 treats it: withdrawn).
                        if attachment.remove(&prefix) {
                            self.export(slot, prefix);
                        }
                        return Err(error);
                    }
                }
            }
            CustomerOp::Withdraw { prefix } => (prefix.trunc(), attachment.remove(&prefix.trunc())),
        };
        if changed {
            self.export(slot, prefix);
        }
        Ok(())
    }

    /// The limit of an attachment is another one now.
    pub(super) fn limit_changed(&mut self, now: Instant, slot: Slot) {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return };
        let beyond = attachment.beyond_limit();
        attachment.over_limit += beyond.len() as u64;
        for prefix in &beyond {
            attachment.remove(prefix);
        }
        let refused = std::mem::take(&mut attachment.over_limit);
        attachment.limit_told = false;
        if !beyond.is_empty() {
            self.exports.insert(slot, None);
        }
        if refused > 0
            && let Some(conn) = self.sessions.speaker(slot)
        {
            // Which routes were left out is not known here: the PVM is made to say all again.
            self.refuse(now, conn, Refusal::Unknown, format!("{refused} routes were left out under a limit that has changed"));
        }
    }

    fn refuse(&mut self, now: Instant, conn: Conn, reason: Refusal, why: String) {
        let Some(session) = self.end_session(now, conn) else { return };
        self.replies.push_back((session.peer, ToPvm::Refused { incarnation: session.incarnation, reason }));
        if let Some(attachment) = self.rib.attachments.get(&conn.slot) {
            self.actions.push_back(Action::Refused(attachment.config.id.clone(), why));
        }
    }

    /// Ends a session whose end means nothing for routes.
    pub(super) fn dismiss(&mut self, conn: Conn, reason: Refusal) {
        self.ready.remove(&conn);
        if let Some(session) = self.sessions.remove(conn) {
            self.replies.push_back((session.peer, ToPvm::Refused { incarnation: session.incarnation, reason }));
        }
    }

    fn end_session(&mut self, now: Instant, conn: Conn) -> Option<PvmSession<P>> {
        self.ready.remove(&conn);
        if self.sessions.speaker(conn.slot) == Some(conn)
            && let Some(attachment) = self.rib.attachments.get_mut(&conn.slot)
        {
            attachment.stale_since.get_or_insert(now);
        }
        self.sessions.remove(conn)
    }

    /// A message could not be delivered: the stream has a hole, so the session ends. The PVM finds out by its next
    /// message or by silence, and says Hello again.
    pub fn undeliverable(&mut self, now: Instant, peer: &P) {
        let conn = self.sessions.iter().find(|(_, s)| s.peer == *peer).map(|(conn, _)| conn);
        if let Some(conn) = conn {
            self.end_session(now, conn);
        }
    }

    /// The relay is gone: all sessions end, and nothing that was to be said is. PVMs come again when there is one.
    pub fn disconnect(&mut self, now: Instant) {
        for conn in self.sessions.iter().map(|(conn, _)| conn).collect::<Vec<_>>() {
            self.end_session(now, conn);
        }
        self.replies.clear();
    }

    pub(super) fn tick_pvms(&mut self, now: Instant) {
        let mut silent = vec![];
        for (conn, session) in self.sessions.iter_mut() {
            if now >= session.last_heard + DEAD_AFTER {
                silent.push(conn);
            } else if session.keepalive_due(now) {
                self.replies.push_back((session.peer.clone(), ToPvm::Keepalive { incarnation: session.incarnation }));
            }
        }
        silent.into_iter().for_each(|conn| {
            self.end_session(now, conn);
        });
        // A customer that replaced its routes may have said the new ones before it took back the old ones.
        let full = self.rib.attachments.iter().filter(|(_, a)| a.has_room()).filter_map(|(slot, _)| self.sessions.speaker(*slot));
        let due = |conn: &Conn| self.sessions.get(*conn).is_some_and(|s| now >= s.since + RESYNC_PAUSE);
        for conn in full.filter(due).collect::<Vec<_>>() {
            self.refuse(now, conn, Refusal::Unknown, "there is room for routes that were left out: all are asked for again".into());
        }
        let stale = self.config.stale;
        let expired: Vec<Slot> = self
            .rib
            .attachments
            .iter()
            .filter(|(_, a)| a.stale_since.is_some_and(|since| now >= since + stale))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in expired {
            let Some(attachment) = self.rib.attachments.get_mut(&slot) else { continue };
            // In a snapshot that is being received, what it has renewed stays. Without one nothing was renewed, however alive
            // the session is.
            let receiving = self.sessions.speaker(slot).and_then(|c| self.sessions.get(c)).is_some_and(|s| s.receiving.is_some());
            let gone = !receiving && attachment.begin();
            if attachment.sweep() || gone {
                self.exports.insert(slot, None);
            }
        }
    }

    /// The next message to send, PVMs taking turns.
    pub fn next_message(&mut self) -> Option<(P, ToPvm)> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        let mut looks = work::LOOKS;
        while looks > 0
            && let Some(conn) = self.ready.range(self.turn..).next().or_else(|| self.ready.first()).copied()
        {
            self.turn = conn.next();
            let complete = self.converged && !self.is_looking(conn.slot);
            let Some(session) = self.sessions.get_mut(conn) else {
                self.ready.remove(&conn);
                continue;
            };
            if let Some(sync) = session.feed.next(&self.rib, conn.slot, complete, &mut looks) {
                return Some((session.peer.clone(), ToPvm::Sync { incarnation: session.incarnation, sync }));
            }
            if !session.feed.is_busy() {
                self.ready.remove(&conn);
            }
        }
        None
    }
}

fn incarnation(message: &ToCvm) -> u64 {
    match message {
        ToCvm::Hello { incarnation, .. }
        | ToCvm::Sync { incarnation, .. }
        | ToCvm::Grant { incarnation, .. }
        | ToCvm::Keepalive { incarnation } => *incarnation,
    }
}
