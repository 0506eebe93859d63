//! VMs for which something failed: each rests for a while before it is tried again, and holds up no other.

use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(crate) struct Pauses(BTreeMap<String, Pause>);

#[derive(Debug)]
struct Pause {
    problem: String,
    length: Duration,
    until: Instant,
}

impl Pauses {
    pub(crate) fn rests(&self, vm: &str, now: Instant) -> bool {
        self.0.get(vm).is_some_and(|p| p.until > now)
    }

    /// After a failure a VM rests, each time twice as long.
    pub(crate) fn failed(&mut self, vm: &str, problem: String, now: Instant) {
        let length = self.0.get(vm).map_or(FIRST, |p| (p.length * 2).min(LONGEST));
        self.0.insert(vm.to_owned(), Pause { problem, length, until: now + length });
    }

    pub(crate) fn succeeded(&mut self, vm: &str) {
        self.0.remove(vm);
    }

    /// Only of these is there anything left to do; the others have overcome their problem, or are gone.
    pub(crate) fn retain(&mut self, unsettled: impl Fn(&str) -> bool) {
        self.0.retain(|vm, _| unsettled(vm));
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &String> {
        self.0.values().map(|p| &p.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_with_success() {
        let (mut p, start) = (Pauses::default(), Instant::now());
        p.failed("a", "first".into(), start);
        assert!(p.rests("a", start + FIRST / 2) && !p.rests("a", start + FIRST) && !p.rests("b", start));
        p.failed("a", "second".into(), start);
        assert!(p.rests("a", start + FIRST));
        (0..20).for_each(|_| p.failed("a", "again".into(), start));
        assert!(!p.rests("a", start + LONGEST), "not for ever");
        assert_eq!(p.problems().collect::<Vec<_>>(), ["again"]);
        p.succeeded("a");
        p.failed("a", "anew".into(), start);
        assert!(!p.rests("a", start + FIRST), "from the beginning");
        p.retain(|vm| vm != "a");
        assert_eq!(p.problems().count(), 0);
    }
}
