//! What a successor of this PVM needs beside its sessions, as named values of the journal: whom we wait for, whom FastForward
//! knows, what was forwarded, and the relay's last epoch. A leader's values are believed no more than a CE.

use edgeplex_ff_fib_api::{Count, Counters, Neighbor};
use edgeplex_journal::Record;
use edgeplex_mgmt::show::{PastTraffic, Traffic};
use edgeplex_transport::journal::Journal;
use edgeplex_types::Epoch;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

const AWAITED: &str = "pvm/awaited";
const NEIGHBORS: &str = "pvm/neighbors";
const STATICS: &str = "pvm/statics";
const EPOCH: &str = "pvm/epoch";
/// Followed by the generation.
const TRAFFIC: &str = "pvm/traffic/";
/// Version of what is inside.
const VERSION: u8 = 1;
/// A longer value is not ours, bytes.
const MAX_VALUE: usize = 128 << 10;
/// Neighbours handed on, at most: as FastForward takes them at once.
pub(crate) const MAX_NEIGHBORS: usize = edgeplex_ff_fib_api::MAX_OPS;
/// Past generations of whose traffic is told.
const PAST: usize = 8;

#[derive(Debug, Serialize, Deserialize)]
struct Stored<T> {
    version: u8,
    value: T,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Maps with keys that are no strings would fail; there are none.
    serde_json::to_vec(&Stored { version: VERSION, value }).unwrap_or_default()
}

/// `None` if it is not of a version that we know, or damaged.
fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let stored: Stored<T> = serde_json::from_slice(value).ok()?;
    (stored.version == VERSION && value.len() <= MAX_VALUE).then_some(stored.value)
}

/// What the forwarders of one generation counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meter {
    /// Those that are gone.
    before: PastTraffic,
    /// The present one.
    now: PastTraffic,
    /// Of the present one, when it said so: a shorter one later is another forwarder's.
    uptime_ms: u64,
}

fn sum(a: PastTraffic, b: PastTraffic) -> PastTraffic {
    let add = |a: Traffic, b: Traffic| Traffic { packets: a.packets.saturating_add(b.packets), bytes: a.bytes.saturating_add(b.bytes) };
    PastTraffic {
        generation: a.generation,
        from_customer: add(a.from_customer, b.from_customer),
        to_customer: add(a.to_customer, b.to_customer),
        from_core: add(a.from_core, b.from_core),
        to_core: add(a.to_core, b.to_core),
    }
}

fn traffic(generation: u64, c: &Counters) -> PastTraffic {
    let count = |c: Count| Traffic { packets: c.packets, bytes: c.bytes };
    PastTraffic {
        generation,
        from_customer: count(c.from_customer),
        to_customer: count(c.to_customer),
        from_core: count(c.from_core),
        to_core: count(c.to_core),
    }
}

/// The values as they stand in the journal.
#[derive(Debug, Default)]
pub(crate) struct Values {
    awaited: Option<BTreeSet<IpAddr>>,
    /// Neighbours of static routes with which BFD is up.
    statics: BTreeSet<IpAddr>,
    neighbors: Vec<Neighbor>,
    traffic: BTreeMap<u64, Meter>,
    epoch: Epoch,
}

impl Values {
    /// Takes a record of a predecessor; others than our values change nothing.
    pub(crate) fn replay(&mut self, record: &Record) {
        match record {
            Record::Put { name, value } if name == AWAITED => self.awaited = decode(value),
            Record::Put { name, value } if name == STATICS => self.statics = decode(value).unwrap_or_default(),
            Record::Put { name, value } if name == NEIGHBORS => {
                self.neighbors = decode(value).unwrap_or_default();
                self.neighbors.truncate(MAX_NEIGHBORS);
            }
            Record::Put { name, value } if name == EPOCH => self.epoch = decode(value).map_or(self.epoch, Epoch),
            Record::Put { name, value } => {
                if let (Some(generation), Some(meter)) = (generation(name), decode(value)) {
                    self.traffic.insert(generation, meter);
                    if self.traffic.len() > PAST + 1 {
                        self.traffic.pop_first();
                    }
                }
            }
            Record::Delete { name } => {
                if let Some(generation) = generation(name) {
                    self.traffic.remove(&generation);
                }
            }
            _ => {}
        }
    }

    /// Whom the predecessor waited for; `None` if there was none.
    pub(crate) fn awaited(&self) -> Option<&BTreeSet<IpAddr>> {
        self.awaited.as_ref()
    }

    pub(crate) fn statics(&self) -> &BTreeSet<IpAddr> {
        &self.statics
    }

    pub(crate) fn neighbors(&self) -> &[Neighbor] {
        &self.neighbors
    }

    /// Epochs of ours so far are not above it.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Traffic of all generations but `own`.
    pub(crate) fn past(&self, own: u64) -> Vec<PastTraffic> {
        let past = self.traffic.iter().filter(|(generation, _)| **generation != own);
        past.map(|(generation, m)| PastTraffic { generation: *generation, ..sum(m.before, m.now) }).collect()
    }

    // --- of the active instance: what differs is written

    pub(crate) fn set_awaited(&mut self, journal: &Journal, awaited: BTreeSet<IpAddr>) {
        if self.awaited.as_ref() != Some(&awaited) {
            put(journal, AWAITED.into(), &awaited);
            self.awaited = Some(awaited);
        }
    }

    pub(crate) fn set_statics(&mut self, journal: &Journal, up: BTreeSet<IpAddr>) {
        if self.statics != up {
            put(journal, STATICS.into(), &up);
            self.statics = up;
        }
    }

    pub(crate) fn set_neighbors(&mut self, journal: &Journal, neighbors: Vec<Neighbor>) {
        if self.neighbors != neighbors {
            put(journal, NEIGHBORS.into(), &neighbors);
            self.neighbors = neighbors;
        }
    }

    pub(crate) fn set_epoch(&mut self, journal: &Journal, epoch: Epoch) {
        if self.epoch < epoch {
            put(journal, EPOCH.into(), &epoch.0);
            self.epoch = epoch;
        }
    }

    /// The forwarder of generation `own` has counted so much in its life, which has lasted so long.
    pub(crate) fn set_counters(&mut self, journal: &Journal, own: u64, uptime_ms: u64, counters: &Counters) {
        let meter = self.traffic.entry(own).or_default();
        let was = *meter;
        if uptime_ms < meter.uptime_ms {
            meter.before = sum(meter.before, meter.now);
        }
        meter.uptime_ms = uptime_ms;
        meter.now = traffic(own, counters);
        if (was.before, was.now) != (meter.before, meter.now) {
            put(journal, format!("{TRAFFIC}{own}"), meter);
        }
        while self.traffic.len() > PAST + 1 {
            let Some((gone, _)) = self.traffic.pop_first() else { break };
            journal.append(&Record::Delete { name: format!("{TRAFFIC}{gone}") });
        }
    }

    /// This instance, with its forwarder, has another generation.
    pub(crate) fn renumber(&mut self, journal: &Journal, from: u64, to: u64) {
        if from == to {
            return;
        }
        if let Some(meter) = self.traffic.remove(&from) {
            put(journal, format!("{TRAFFIC}{to}"), &meter);
            journal.append(&Record::Delete { name: format!("{TRAFFIC}{from}") });
            self.traffic.insert(to, meter);
        }
    }
}

fn put(journal: &Journal, name: String, value: &impl Serialize) {
    journal.append(&Record::Put { name, value: encode(value) });
}

fn generation(name: &str) -> Option<u64> {
    name.strip_prefix(TRAFFIC)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, text: &str) -> Record {
        Record::Put { name: name.into(), value: text.as_bytes().to_vec() }
    }

    fn counters(packets: u64) -> Counters {
        Counters { from_customer: Count { packets, bytes: 100 * packets }, ..Counters::default() }
    }

    #[test]
    fn yesterdays_values_are_read() {
        let mut v = Values::default();
        v.replay(&put(AWAITED, r#"{"version":1,"value":["192.168.1.2"]}"#));
        v.replay(&put(STATICS, r#"{"version":1,"value":["2001:db8::9"]}"#));
        v.replay(&put(NEIGHBORS, r#"{"version":1,"value":[{"address":"192.168.1.2","mac":"02:00:00:00:00:07"}]}"#));
        v.replay(&put(EPOCH, r#"{"version":1,"value":7}"#));
        let zero = r#"{"packets":0,"bytes":0}"#;
        let row = |n: u64| {
            format!(
                r#"{{"generation":3,"from_customer":{{"packets":{n},"bytes":{n}}},"to_customer":{zero},"from_core":{zero},"to_core":{zero}}}"#
            )
        };
        let meter = format!(r#"{{"version":1,"value":{{"before":{},"now":{},"uptime_ms":5}}}}"#, row(2), row(3));
        v.replay(&put("pvm/traffic/3", &meter));
        assert_eq!(v.awaited().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.1.2"]);
        assert_eq!((v.neighbors().len(), v.statics().len(), v.epoch()), (1, 1, Epoch(7)));
        assert_eq!(v.past(4)[0].from_customer, Traffic { packets: 5, bytes: 5 });
        assert_eq!(v.past(3), []);
        v.replay(&Record::Delete { name: "pvm/traffic/3".into() });
        assert_eq!(v.past(4), []);
    }

    #[test]
    fn a_hostile_leaders_values_change_nothing_or_little() {
        let mut v = Values::default();
        for text in ["", "{", r#"{"version":2,"value":[]}"#, r#"{"version":1,"value":[7]}"#, r#"{"version":1,"value":"x"}"#] {
            for name in [AWAITED, STATICS, NEIGHBORS, EPOCH, "pvm/traffic/1", "pvm/traffic/-1", "pvm/traffic/", "pvm/other", "bfd/x"] {
                v.replay(&put(name, text));
            }
        }
        assert_eq!((v.awaited(), v.neighbors().len(), v.epoch(), v.past(0)), (None, 0, Epoch(0), vec![]));
        let row = r#"{"address":"192.168.1.2","mac":"02:00:00:00:00:07"}"#;
        v.replay(&put(NEIGHBORS, &format!(r#"{{"version":1,"value":[{}]}}"#, vec![row; 1000].join(","))));
        assert_eq!(v.neighbors().len(), MAX_NEIGHBORS);
        for generation in 0..100 {
            v.replay(&Record::Put { name: format!("{TRAFFIC}{generation}"), value: encode(&Meter::default()) });
        }
        assert_eq!(v.past(99).len(), PAST);
    }

    #[test]
    fn what_each_forwarder_counted_is_counted_once() {
        let journal = Journal::none();
        let mut v = Values::default();
        v.set_counters(&journal, 1, 1000, &counters(10));
        v.set_counters(&journal, 1, 2000, &counters(15));
        // FastForward was started again.
        v.set_counters(&journal, 1, 100, &counters(4));
        v.set_counters(&journal, 1, 1100, &counters(6));
        assert_eq!(v.past(2)[0].from_customer, Traffic { packets: 21, bytes: 2100 });
        // The same forwarder under another generation.
        v.renumber(&journal, 1, 2);
        v.set_counters(&journal, 2, 2100, &counters(7));
        assert_eq!((v.past(2), v.past(3)[0].from_customer.packets), (vec![], 22));
        v.renumber(&journal, 2, 2);
        assert_eq!(v.past(3).len(), 1);
    }
}
