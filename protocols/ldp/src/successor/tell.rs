//! What is new, for a successor.

use super::{Change, Told};
use crate::engine::Ldp;
use crate::stored::{self, Name, StoredAdjacency, StoredBinding, StoredInterface, StoredSpeaker};
use std::{collections::BTreeMap, sync::Arc};

impl Ldp {
    /// What is new since this was last asked. To be safe before the actions of the same event are done.
    pub fn changes(&mut self) -> Vec<Change> {
        if self.following.is_some() {
            return vec![];
        }
        if self.stopped {
            return self.farewell();
        }
        let mut told = std::mem::take(&mut self.told);
        let mut out = vec![];
        let speaker = StoredSpeaker::new(self.config.lsr_id, self.sequence);
        if told.speaker.as_ref() != Some(&speaker) {
            out.push((Name::Speaker.to_string(), Some(stored::encode(&speaker))));
            told.speaker = Some(speaker);
        }
        let interfaces = self.interfaces.iter().map(|(name, i)| (name.clone(), StoredInterface::new(i.address))).collect();
        differences(&mut told.interfaces, interfaces, |name| Name::Interface(name.clone()), &mut out);
        differences(&mut told.adjacencies, self.adjacencies(), |(lsr_id, name)| Name::Adjacency(*lsr_id, name.clone()), &mut out);
        if std::mem::take(&mut self.lib.rebound) {
            for (fec, label) in &self.lib.bindings {
                if told.bindings.get(fec) != Some(label) {
                    out.push((Name::Binding(*fec).to_string(), Some(stored::encode(&StoredBinding::new(*label)))));
                }
            }
            for fec in told.bindings.keys().filter(|fec| !self.lib.bindings.contains_key(fec)) {
                out.push((Name::Binding(*fec).to_string(), None));
            }
            told.bindings.clone_from(&self.lib.bindings);
        }
        self.told = told;
        out
    }

    /// Nobody is to go on with anything.
    pub fn farewell(&mut self) -> Vec<Change> {
        let told = std::mem::take(&mut self.told);
        let names = told.speaker.map(|_| Name::Speaker).into_iter();
        let names = names.chain(told.interfaces.into_keys().map(Name::Interface));
        let names = names.chain(told.adjacencies.into_keys().map(|(lsr_id, name)| Name::Adjacency(lsr_id, name)));
        names.chain(told.bindings.into_keys().map(Name::Binding)).map(|name| (name.to_string(), None)).collect()
    }

    fn adjacencies(&self) -> BTreeMap<(std::net::Ipv4Addr, Arc<str>), StoredAdjacency> {
        let all = self.neighbors.values().flat_map(|n| n.adjacencies.iter().map(move |(name, a)| (n, name, a)));
        all.map(|(n, name, a)| {
            let hold_s = a.hold.map(|hold| u16::try_from(hold.as_secs()).unwrap_or(u16::MAX));
            ((n.lsr_id, name.clone()), StoredAdjacency::new(a.source, n.transport, hold_s, a.sequence, n.gtsm))
        })
        .collect()
    }
}

fn differences<K: Ord, V: PartialEq + serde::Serialize>(
    told: &mut BTreeMap<K, V>,
    now: BTreeMap<K, V>,
    name: impl Fn(&K) -> Name,
    out: &mut Vec<Change>,
) {
    for (key, value) in now.iter().filter(|(key, value)| told.get(key) != Some(value)) {
        out.push((name(key).to_string(), Some(stored::encode(value))));
    }
    for key in told.keys().filter(|key| !now.contains_key(key)) {
        out.push((name(key).to_string(), None));
    }
    *told = now;
}

impl Told {
    pub(super) fn is_empty(&self) -> bool {
        self.speaker.is_none()
    }
}
