//! The adj-RIB-out of one neighbour (RFC 4271 §3.2): the routes it should have, and what it has been told.
//!
//! The owner only says what is desired; it may change a route as often as it likes. What is owed to the neighbour is
//! composed when its connection takes it, newest state only, NLRI of equal attributes packed into full UPDATEs. So
//! a slow neighbour costs memory for its routes and no more.

use crate::session::SendContext;
use edgeplex_bgp_wire::compose::{self, EncodedAttributes};
use edgeplex_bgp_wire::{Attributes, Family, FamilySet, Nlri, NlriKey};
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

#[derive(Debug, Clone)]
struct Route {
    nlri: Nlri,
    group: Group,
}

/// Routes that can share an UPDATE.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    attributes: Arc<Attributes>,
    /// `None`: our own address of the session.
    next_hop: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Entry {
    desired: Option<Route>,
    /// The neighbour has some version of this route.
    sent: bool,
    /// What the neighbour has differs from `desired`, and a queue holds the key.
    queued: bool,
}

/// A group being sent; its keys from `next` on are still to do.
#[derive(Debug)]
struct Current {
    group: Group,
    encoded: EncodedAttributes,
    keys: Vec<NlriKey>,
    next: usize,
}

/// One family. Keys in the queues may be out of date: the entry says whether and what is owed.
#[derive(Debug, Default)]
struct Table {
    entries: HashMap<NlriKey, Entry>,
    withdrawals: Vec<NlriKey>,
    groups: HashMap<Group, Vec<NlriKey>>,
    order: VecDeque<Group>,
    current: Option<Current>,
    /// Keys in all queues, those out of date included.
    queue_len: usize,
    released: bool,
    /// There is a session that carries this family.
    active: bool,
    end_of_rib_due: bool,
    sent: usize,
    own_address: Option<IpAddr>,
}

enum Progress {
    Sent,
    /// These routes fit no message.
    Refused,
    /// The group has nothing left.
    Done,
}

/// NLRI looked at for one UPDATE; more than fit 4096 bytes.
const BATCH: usize = 1024;
/// Queues may hold this many keys beyond twice the table before they are built anew.
const SLACK: usize = 1024;

#[derive(Debug, Default)]
pub struct AdjRibOut {
    tables: [Table; Family::ALL.len()],
    context: Option<SendContext>,
    scratch: Vec<(usize, Nlri)>,
}

impl AdjRibOut {
    fn table(&mut self, family: Family) -> Option<&mut Table> {
        let at = Family::ALL.iter().position(|f| *f == family)?;
        self.tables.get_mut(at)
    }

    /// Sets the desired route. Setting what already is so does nothing.
    pub fn advertise(&mut self, nlri: Nlri, attributes: Arc<Attributes>, next_hop: impl Into<Option<IpAddr>>) {
        let next_hop = next_hop.into();
        if let Some(table) = self.table(nlri.family()) {
            table.set(nlri.key(), Some(Route { nlri, group: Group { attributes, next_hop } }));
        }
    }

    pub fn withdraw(&mut self, key: NlriKey) {
        if let Some(table) = self.table(key.family()) {
            table.set(key, None);
        }
    }

    /// From now on routes of the family are sent, then End-of-RIB (RFC 4724 §4.1: selection is deferred until then).
    pub fn release(&mut self, family: Family) {
        if let Some(table) = self.table(family) {
            table.released = true;
        }
    }

    /// Everything of the family is owed again (RFC 2918 §4).
    pub fn refresh(&mut self, family: Family) {
        if let Some(table) = self.table(family) {
            table.owe_everything();
        }
    }

    /// A session starts that knows nothing yet.
    pub fn session_up(&mut self, families: FamilySet, context: SendContext) {
        self.session_down();
        self.context = Some(context);
        for family in families.iter() {
            if let Some(table) = self.table(family) {
                table.active = true;
                table.end_of_rib_due = true;
                table.owe_everything();
            }
        }
    }

    pub fn session_down(&mut self) {
        self.context = None;
        for table in &mut self.tables {
            table.active = false;
            table.end_of_rib_due = false;
            table.forget_session();
        }
    }

    /// Routes the neighbour has.
    pub fn sent(&self) -> usize {
        self.tables.iter().map(|t| t.sent).sum()
    }

    /// The session's families have all been sent to their End-of-RIB.
    pub fn in_sync(&self) -> bool {
        self.context.is_some() && self.tables.iter().all(|t| !t.active || t.released && !t.end_of_rib_due)
    }

    /// Appends the next UPDATE that is owed. False if there is none.
    pub fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(context) = self.context else { return false };
        let tables = self.tables.iter_mut().zip(Family::ALL);
        tables.filter(|(t, _)| t.active && t.released).any(|(t, family)| t.next(family, &context, &mut self.scratch, out))
    }
}

impl Table {
    fn set(&mut self, key: NlriKey, desired: Option<Route>) {
        let entry = match (self.entries.get_mut(&key), &desired) {
            (Some(entry), _) => entry,
            (None, None) => return,
            (None, Some(_)) => self.entries.entry(key).or_default(),
        };
        let same = match (&entry.desired, &desired) {
            (Some(a), Some(b)) => a.nlri == b.nlri && a.group == b.group,
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        entry.desired = desired;
        if entry.desired.is_none() && !entry.sent {
            // Never told: nothing to take back. A key left in a queue finds no entry.
            self.entries.remove(&key);
        } else if self.active {
            entry.queued = true;
            self.enqueue(key);
            if self.queue_len > 2 * self.entries.len() + SLACK {
                self.rebuild();
            }
        } else if entry.desired.is_none() {
            self.entries.remove(&key);
        }
    }

    fn enqueue(&mut self, key: NlriKey) {
        let Some(entry) = self.entries.get(&key) else { return };
        self.queue_len += 1;
        match &entry.desired {
            None => self.withdrawals.push(key),
            Some(route) => match self.groups.get_mut(&route.group) {
                Some(keys) => keys.push(key),
                None => {
                    self.order.push_back(route.group.clone());
                    self.groups.insert(route.group.clone(), vec![key]);
                }
            },
        }
    }

    fn clear_queues(&mut self) {
        self.withdrawals = Vec::new();
        self.groups = HashMap::new();
        self.order = VecDeque::new();
        self.current = None;
        self.queue_len = 0;
    }

    /// Drops the keys that are out of date.
    fn rebuild(&mut self) {
        self.clear_queues();
        let keys: Vec<NlriKey> = self.entries.iter().filter(|(_, e)| e.queued).map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|k| self.enqueue(k));
    }

    fn owe_everything(&mut self) {
        if self.active {
            self.entries.values_mut().for_each(|e| e.queued = true);
            self.rebuild();
        }
    }

    fn forget_session(&mut self) {
        self.entries.retain(|_, e| e.desired.is_some());
        for entry in self.entries.values_mut() {
            entry.sent = false;
            entry.queued = false;
        }
        self.sent = 0;
        self.clear_queues();
    }

    fn next(&mut self, family: Family, context: &SendContext, scratch: &mut Vec<(usize, Nlri)>, out: &mut Vec<u8>) -> bool {
        if self.next_withdrawal(out) {
            return true;
        }
        loop {
            if self.current.is_none() {
                let Some(group) = self.order.pop_front() else { break };
                let keys = self.groups.remove(&group).unwrap_or_default();
                let encoded = context.encode(&group.attributes);
                self.current = Some(Current { group, encoded, keys, next: 0 });
            }
            match self.next_of_group(scratch, out) {
                Progress::Sent => return true,
                // What could not be sent may have left a withdrawal behind.
                Progress::Refused if self.next_withdrawal(out) => return true,
                Progress::Refused => {}
                Progress::Done => self.current = None,
            }
        }
        if std::mem::take(&mut self.end_of_rib_due) {
            compose::end_of_rib(out, family);
            return true;
        }
        false
    }

    fn next_withdrawal(&mut self, out: &mut Vec<u8>) -> bool {
        let mut keys = Vec::new();
        while keys.len() < BATCH {
            let Some(key) = self.withdrawals.pop() else { break };
            self.queue_len -= 1;
            if self.entries.get(&key).is_some_and(|e| e.desired.is_none()) {
                keys.push(key);
                // The entry goes now; a duplicate of its key in the queue finds nothing.
                self.entries.remove(&key);
                self.sent -= 1;
            }
        }
        let taken = compose::unreach(out, &keys);
        for key in keys.drain(..).skip(taken) {
            self.entries.insert(key, Entry { desired: None, sent: true, queued: true });
            self.sent += 1;
            self.enqueue(key);
        }
        taken > 0
    }

    /// Sends from the current group.
    fn next_of_group(&mut self, scratch: &mut Vec<(usize, Nlri)>, out: &mut Vec<u8>) -> Progress {
        let Some(current) = &mut self.current else { return Progress::Done };
        scratch.clear();
        let start = current.next;
        for (at, key) in current.keys.iter().enumerate().skip(start) {
            if scratch.len() == BATCH {
                break;
            }
            current.next = at + 1;
            let Some(entry) = self.entries.get_mut(key).filter(|e| e.queued) else { continue };
            let Some(route) = entry.desired.as_ref().filter(|r| r.group == current.group) else { continue };
            // Cleared already here, so that a key that stands twice is taken once.
            entry.queued = false;
            scratch.push((at, route.nlri));
        }
        self.queue_len -= current.next - start;
        if scratch.is_empty() {
            return Progress::Done;
        }
        let nlri: Vec<Nlri> = scratch.iter().map(|(_, n)| *n).collect();
        let next_hop = current.group.next_hop.or(self.own_address);
        let taken = next_hop.map_or(0, |hop| compose::reach(out, &current.encoded, hop, &nlri));
        for n in nlri.iter().take(taken) {
            if let Some(entry) = self.entries.get_mut(&n.key()) {
                self.sent += usize::from(!entry.sent);
                entry.sent = true;
            }
        }
        if taken == 0 {
            // RFC 4271 §9.2: what does not fit a message is not advertised; what the neighbour had is taken back.
            for n in nlri {
                self.set(n.key(), None);
            }
            return Progress::Refused;
        }
        if let Some((at, _)) = scratch.get(taken) {
            self.queue_len += current.next - at;
            current.next = *at;
            for n in nlri.iter().skip(taken) {
                if let Some(entry) = self.entries.get_mut(&n.key()) {
                    entry.queued = true;
                }
            }
        }
        Progress::Sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_bgp_wire::{AsPath, Context, HEADER_LEN, frame, update};
    use std::collections::BTreeMap;

    const CONTEXT: SendContext = SendContext { four_octet_as: true, ibgp: true, local_as: 65000 };
    const F: Family = Family::Ipv4Unicast;

    fn nlri(n: u32) -> Nlri {
        Nlri::Ipv4(ipnet::Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap())
    }

    fn attributes(med: u32) -> Arc<Attributes> {
        Arc::new(Attributes { med: Some(med), as_path: AsPath::sequence([1]), ..Attributes::default() })
    }

    fn hop() -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }

    /// What a neighbour holds after reading everything owed, how many UPDATEs it took, and whether End-of-RIB came.
    #[derive(Default)]
    struct Neighbour {
        table: BTreeMap<NlriKey, u32>,
        messages: usize,
        end_of_rib: bool,
    }

    impl Neighbour {
        fn read(&mut self, rib: &mut AdjRibOut, limit: usize) {
            let context = Context { four_octet_as: true, ibgp: true, first_as: None, families: Family::ALL.into_iter().collect() };
            let mut out = vec![];
            for _ in 0..limit {
                out.clear();
                if !rib.next(&mut out) {
                    break;
                }
                assert!(out.len() <= 4096);
                assert_eq!(frame(&out).unwrap().unwrap().wire_len(), out.len());
                let u = update::decode(context, &out[HEADER_LEN..]).unwrap();
                assert!(u.faults.is_empty());
                self.messages += 1;
                self.end_of_rib |= u.end_of_rib.is_some();
                u.unreach.iter().for_each(|k| assert!(self.table.remove(k).is_some(), "withdrawn without need"));
                for n in u.reach.iter().flat_map(|r| &r.nlri) {
                    self.table.insert(n.key(), u.attributes.as_ref().unwrap().med.unwrap());
                }
            }
        }
    }

    fn up(rib: &mut AdjRibOut) {
        rib.session_up(Family::ALL.into_iter().collect(), CONTEXT);
    }

    #[test]
    fn nothing_is_sent_before_release_then_full_updates_and_end_of_rib() {
        let mut rib = AdjRibOut::default();
        up(&mut rib);
        (0..3000).for_each(|n| rib.advertise(nlri(n), attributes(n % 2), hop()));
        assert!(!rib.next(&mut vec![]) && !rib.in_sync());
        rib.release(F);
        let mut peer = Neighbour::default();
        peer.read(&mut rib, usize::MAX);
        assert_eq!((peer.table.len(), peer.end_of_rib, rib.sent()), (3000, true, 3000));
        // 4 bytes a prefix: about 1000 in each; equal attributes share whichever Arc they came in.
        assert!(peer.messages <= 5, "{}", peer.messages);
        assert!(!rib.in_sync());
        rib.release(Family::Vpnv4);
        peer.read(&mut rib, usize::MAX);
        assert!(rib.in_sync());
    }

    #[test]
    fn changes_before_they_are_sent_coalesce() {
        let mut rib = AdjRibOut::default();
        rib.release(F);
        up(&mut rib);
        let mut peer = Neighbour::default();
        rib.advertise(nlri(1), attributes(1), hop());
        rib.withdraw(nlri(1).key());
        peer.read(&mut rib, usize::MAX);
        assert_eq!((peer.messages, peer.end_of_rib), (1, true));
        rib.advertise(nlri(1), attributes(1), hop());
        peer.read(&mut rib, usize::MAX);
        rib.advertise(nlri(1), attributes(1), hop());
        peer.read(&mut rib, usize::MAX);
        assert_eq!(peer.messages, 2, "the same again is nothing");
        rib.withdraw(nlri(1).key());
        rib.advertise(nlri(1), attributes(2), hop());
        peer.read(&mut rib, usize::MAX);
        assert_eq!((peer.messages, peer.table.get(&nlri(1).key())), (3, Some(&2)));
    }

    #[test]
    fn a_neighbour_that_does_not_read_costs_no_more_than_its_table() {
        let mut rib = AdjRibOut::default();
        rib.release(F);
        up(&mut rib);
        for round in 0..100_000u32 {
            rib.advertise(nlri(round % 10), attributes(round % 7), hop());
        }
        assert!(rib.tables[0].queue_len <= 2 * 10 + SLACK + 1);
    }

    #[test]
    fn a_new_session_and_a_refresh_send_everything_again() {
        let mut rib = AdjRibOut::default();
        rib.release(F);
        rib.advertise(nlri(1), attributes(1), hop());
        for _ in 0..2 {
            up(&mut rib);
            let mut peer = Neighbour::default();
            peer.read(&mut rib, usize::MAX);
            assert_eq!((peer.table.len(), peer.end_of_rib), (1, true));
            peer.end_of_rib = false;
            rib.refresh(F);
            peer.read(&mut rib, usize::MAX);
            assert_eq!((peer.messages, peer.end_of_rib), (3, false));
            rib.session_down();
            assert_eq!(rib.sent(), 0);
        }
    }

    #[test]
    fn attributes_too_long_for_a_message_are_not_sent_and_take_back_what_was() {
        let mut rib = AdjRibOut::default();
        rib.release(F);
        up(&mut rib);
        let mut peer = Neighbour::default();
        rib.advertise(nlri(1), attributes(1), hop());
        peer.read(&mut rib, usize::MAX);
        let huge = Arc::new(Attributes { communities: vec![7; 1100], ..Attributes::default() });
        rib.advertise(nlri(1), Arc::clone(&huge), hop());
        rib.advertise(nlri(2), huge, hop());
        peer.read(&mut rib, usize::MAX);
        assert!(peer.table.is_empty());
        assert_eq!(rib.sent(), 0);
    }

    proptest::proptest! {
        /// Whatever is done in whatever order, a neighbour that reads to the end has exactly what is desired.
        #[test]
        fn the_neighbour_ends_with_what_is_desired(ops in proptest::collection::vec((0u32..12, 0u32..5, 0u8..8), 1..200)) {
            let mut rib = AdjRibOut::default();
            rib.release(F);
            up(&mut rib);
            let mut desired = BTreeMap::new();
            let mut peer = Neighbour::default();
            for (n, med, op) in ops {
                match op {
                    0..=2 => { rib.advertise(nlri(n), attributes(med), hop()); desired.insert(nlri(n).key(), med); }
                    3..=4 => { rib.withdraw(nlri(n).key()); desired.remove(&nlri(n).key()); }
                    5 => peer.read(&mut rib, 1),
                    6 => rib.refresh(F),
                    _ => { peer = Neighbour::default(); up(&mut rib); }
                }
            }
            peer.read(&mut rib, usize::MAX);
            proptest::prop_assert_eq!(&peer.table, &desired);
            proptest::prop_assert_eq!(rib.sent(), desired.len());
            proptest::prop_assert_eq!(rib.tables[0].queue_len, 0);
        }
    }
}
