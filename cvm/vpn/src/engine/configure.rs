//! Moving from one configuration to another. What is equal in both is not disturbed.

use super::*;

impl<P: Clone + Eq> Vpn<P> {
    /// Moves to a configuration. AS number and loopback stay what they are: they are the identity of the process.
    pub fn configure(&mut self, now: Instant, config: Config) {
        let config = Config { asn: self.config.asn, loopback: self.config.loopback, ..config };
        self.configure_reflectors(&config.reflectors);

        let wanted: BTreeMap<&AttachmentId, _> = config.attachments.iter().map(|a| (&a.id, a)).collect();
        let removed: Vec<_> = self.slots.iter().filter(|(id, _)| !wanted.contains_key(id)).map(|(_, slot)| *slot).collect();
        removed.into_iter().for_each(|slot| self.remove_attachment(slot));
        // All RDs that go are gone before one is taken: two attachments may have swapped theirs.
        for new in wanted.values() {
            if let Some(slot) = self.slots.get(&new.id).copied()
                && let Some(old) = self.rib.attachments.get(&slot)
                && old.config.rd != new.rd
            {
                self.rib.by_rd.remove(&old.config.rd);
                self.leave(slot);
                self.exports.insert(slot, None);
            }
        }
        for new in wanted.into_values() {
            match self.slots.get(&new.id).copied() {
                Some(slot) => self.change_attachment(now, slot, new.clone()),
                None => self.add_attachment(now, new.clone()),
            }
        }
        self.config = config;
        self.tell_memberships();
        self.assign_labels(now);
    }

    fn add_attachment(&mut self, now: Instant, config: AttachmentConfig) {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(config.id.clone(), slot);
        self.rib.by_rd.insert(config.rd, slot);
        self.look_for(slot, &config);
        let ces = if config.label_per_ce { self.ces_of_the_past(&config.id) } else { vec![] };
        self.rib.attachments.insert(slot, Attachment::new(now, config, ces));
    }

    /// What is there to import is found by going through the table.
    fn look_for(&mut self, slot: Slot, config: &AttachmentConfig) {
        for rt in Attachment::targets(config) {
            self.rib.importers.entry(rt).or_default().insert(slot);
        }
        self.next_walk.slots.insert(slot);
    }

    fn look_no_longer_for(&mut self, slot: Slot, config: &AttachmentConfig) {
        for rt in Attachment::targets(config) {
            if let Some(slots) = self.rib.importers.get_mut(&rt) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.rib.importers.remove(&rt);
                }
            }
        }
    }

    fn change_attachment(&mut self, now: Instant, slot: Slot, new: AttachmentConfig) {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return };
        if attachment.config == new {
            return;
        }
        let old = attachment.config.clone();
        attachment.reconfigure(new.clone());
        self.rib.by_rd.insert(new.rd, slot);
        if (&old.import, &old.leaks) != (&new.import, &new.leaks) {
            self.look_no_longer_for(slot, &old);
            self.look_for(slot, &new);
        }
        // Whoever takes a target away expects it to hold now: what the VRF has is looked at without waiting for the table.
        if (&old.import, &old.leaks, old.max_paths) != (&new.import, &new.leaks, new.max_paths) {
            for (conn, session) in self.sessions.of_mut(slot) {
                session.feed.all_changed();
                self.ready.insert(conn);
            }
        }
        if old.export != new.export {
            self.exports.insert(slot, None);
        }
        if old.max_routes != new.max_routes {
            self.limit_changed(now, slot);
        }
    }

    fn remove_attachment(&mut self, slot: Slot) {
        self.leave(slot);
        let Some(attachment) = self.rib.attachments.remove(&slot) else { return };
        self.slots.remove(&attachment.config.id);
        self.rib.by_rd.remove(&attachment.config.rd);
        self.look_no_longer_for(slot, &attachment.config);
        self.next_walk.slots.remove(&slot);
        self.exports.remove(&slot);
        for conn in self.sessions.of(slot).map(|(conn, _)| conn).collect::<Vec<_>>() {
            self.dismiss(conn, Refusal::NotYours);
        }
    }

    /// RFC 4684 §5: the reflectors are told which route targets are imported here, those of leaks included.
    fn tell_memberships(&mut self) {
        let wanted: BTreeSet<RouteTarget> = self.rib.importers.keys().copied().collect();
        for gone in self.memberships.difference(&wanted) {
            self.actions.push_back(Action::Withdraw(self.membership(*gone).key()));
        }
        let attributes = membership_attributes();
        for new in wanted.difference(&self.memberships) {
            self.actions.push_back(Action::Advertise(self.membership(*new), attributes.clone()));
        }
        self.memberships = wanted;
    }
}
