//! Messages of the PVMs, and the turn-taking of what is sent to them.

use super::*;

/// A new session costs a look at the whole VRF: a Hello sooner than this after the last is not heard, and said again.
const HELLO_PAUSE: Duration = Duration::from_millis(50);
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
        if let ToCvm::Hello { incarnation, .. } = message {
            self.hello(now, slot, peer, incarnation);
            return;
        }
        let incarnation = incarnation(&message);
        let Some(session) = self.sessions.get_mut(&slot).filter(|s| s.peer == peer && s.incarnation == incarnation) else {
            self.replies.push_back((peer, ToPvm::Refused { incarnation, reason: Refusal::Unknown }));
            return;
        };
        session.last_heard = now;
        match message {
            ToCvm::Hello { .. } | ToCvm::Keepalive { .. } => {}
            ToCvm::Grant { credits, .. } => {
                session.feed.grant(credits);
                self.ready.insert(slot);
            }
            ToCvm::Sync { sync, .. } => self.sync(now, slot, sync),
        }
    }

    fn hello(&mut self, now: Instant, slot: Slot, peer: P, incarnation: u64) {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return };
        if let Some(session) = self.sessions.get(&slot) {
            if session.peer == peer && session.incarnation == incarnation {
                // Said again before it heard the answer to the first: that session stands, with its credits.
                self.replies.push_back((peer, ToPvm::Welcome { incarnation }));
                return;
            }
            if now < session.since + HELLO_PAUSE {
                return;
            }
        }
        self.epoch.0 += 1;
        let feed = Feed::new(self.epoch);
        if !attachment.routes.is_empty() {
            attachment.stale_since.get_or_insert(now);
        }
        self.sessions.insert(slot, PvmSession::new(now, peer.clone(), incarnation, feed));
        self.replies.push_back((peer.clone(), ToPvm::Welcome { incarnation }));
        self.replies.push_back((peer, ToPvm::Grant { incarnation, credits: WINDOW }));
        self.ready.insert(slot);
    }

    fn sync(&mut self, now: Instant, slot: Slot, sync: Sync<CustomerOp>) {
        let (Some(session), Some(attachment)) = (self.sessions.get_mut(&slot), self.rib.attachments.get_mut(&slot)) else { return };
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
                    self.refuse(now, slot, Refusal::Limit, "sends more than it was granted".into());
                    return;
                }
                let mut refused = None;
                let mut count = 0u32;
                let mut limit = None;
                for op in ops {
                    match self.customer_op(slot, op) {
                        Ok(()) => {}
                        Err(ExportError::Full) => {
                            self.refuse(now, slot, Refusal::Limit, ExportError::Full.to_string());
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
                let Some(session) = self.sessions.get_mut(&slot) else { return };
                let (peer, incarnation) = (session.peer.clone(), session.incarnation);
                if let Some(credits) = session.grant_due() {
                    self.replies.push_back((peer, ToPvm::Grant { incarnation, credits }));
                }
            }
            Sync::End { .. } | Sync::Ops { .. } => self.refuse(now, slot, Refusal::Unknown, "speaks of an epoch it has not begun".into()),
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
        if refused > 0 {
            // Which routes were left out is not known here: the PVM is made to say all again.
            self.refuse(now, slot, Refusal::Unknown, format!("{refused} routes were left out under a limit that has changed"));
        }
    }

    fn refuse(&mut self, now: Instant, slot: Slot, reason: Refusal, why: String) {
        let Some(session) = self.end_session(now, slot) else { return };
        self.replies.push_back((session.peer, ToPvm::Refused { incarnation: session.incarnation, reason }));
        if let Some(attachment) = self.rib.attachments.get(&slot) {
            self.actions.push_back(Action::Refused(attachment.config.id.clone(), why));
        }
    }

    fn end_session(&mut self, now: Instant, slot: Slot) -> Option<PvmSession<P>> {
        self.ready.remove(&slot);
        if let Some(attachment) = self.rib.attachments.get_mut(&slot) {
            attachment.stale_since.get_or_insert(now);
        }
        self.sessions.remove(&slot)
    }

    /// A message could not be delivered: the stream has a hole, so the session ends. The PVM finds out by its next
    /// message or by silence, and says Hello again.
    pub fn undeliverable(&mut self, now: Instant, peer: &P) {
        let slot = self.sessions.iter().find(|(_, s)| s.peer == *peer).map(|(slot, _)| *slot);
        if let Some(slot) = slot {
            self.end_session(now, slot);
        }
    }

    pub(super) fn tick_pvms(&mut self, now: Instant) {
        let mut silent = vec![];
        for (slot, session) in &mut self.sessions {
            if now >= session.last_heard + DEAD_AFTER {
                silent.push(*slot);
            } else if session.keepalive_due(now) {
                self.replies.push_back((session.peer.clone(), ToPvm::Keepalive { incarnation: session.incarnation }));
            }
        }
        silent.into_iter().for_each(|slot| {
            self.end_session(now, slot);
        });
        // A customer that replaced its routes may have said the new ones before it took back the old ones.
        let due = |(slot, s): (&Slot, &PvmSession<P>)| {
            let room = now >= s.since + RESYNC_PAUSE && self.rib.attachments.get(slot).is_some_and(Attachment::has_room);
            room.then_some(*slot)
        };
        for slot in self.sessions.iter().filter_map(due).collect::<Vec<_>>() {
            self.refuse(now, slot, Refusal::Unknown, "there is room for routes that were left out: all are asked for again".into());
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
            let receiving = self.sessions.get(&slot).is_some_and(|s| s.receiving.is_some());
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
            && let Some(slot) = self.ready.range(self.turn..).next().or_else(|| self.ready.first()).copied()
        {
            self.turn = slot.wrapping_add(1);
            let complete = self.converged && !self.is_looking(slot);
            let Some(session) = self.sessions.get_mut(&slot) else {
                self.ready.remove(&slot);
                continue;
            };
            if let Some(sync) = session.feed.next(&self.rib, slot, complete, &mut looks) {
                return Some((session.peer.clone(), ToPvm::Sync { incarnation: session.incarnation, sync }));
            }
            if !session.feed.is_busy() {
                self.ready.remove(&slot);
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
