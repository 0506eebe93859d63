//! What to change so that the switch has the rules it should have.

use crate::rule::{Match, Rule};
use std::collections::BTreeMap;

/// An atomic change. `add` also replaces the rule of the same table, priority and match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    pub add: Vec<Rule>,
    pub remove: Vec<Rule>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    pub fn len(&self) -> usize {
        self.add.len() + self.remove.len()
    }
}

/// The changes that turn `observed` into `desired`; empty when there is nothing to do. Rules that are not ours are
/// removed too: the fabric belongs to the controller.
pub fn diff(desired: &[Rule], observed: &[Rule]) -> Changes {
    fn by_key(rules: &[Rule]) -> BTreeMap<(u8, u16, &Match), &Rule> {
        rules.iter().map(|r| ((r.table, r.priority, &r.matches), r)).collect()
    }
    let (want, have) = (by_key(desired), by_key(observed));
    Changes {
        add: want.iter().filter(|(k, r)| have.get(*k) != Some(r)).map(|(_, r)| (*r).clone()).collect(),
        remove: have.iter().filter(|(k, _)| !want.contains_key(*k)).map(|(_, r)| (*r).clone()).collect(),
    }
}
