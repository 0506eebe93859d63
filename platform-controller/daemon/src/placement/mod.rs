//! Which instances each attachment, and the control plane, has: the one to which the switch leads, one that follows it, and a
//! move that is not finished.
//!
//! This is what the controller alone decides and what cannot be learnt by looking. Each change is one durable commit, made
//! before anyone acts on it; whoever acts afterwards, this process or its successor, reads it here. See DESIGN.md, "One
//! mechanism".

mod count;
mod keeper;
mod upkeep;

pub use count::{add, is_more};
pub use keeper::{Placements, State};
pub use upkeep::{Upkeep, Wish, free_tags, tags_in_use, upkeep};

use edgeplex_api::{MoveKind, MoveReport, Outcome, Phase, PhaseTime};
use edgeplex_ff_fib_api::Counters;
use edgeplex_intent::OWN_HOST;
use edgeplex_types::{AttachmentId, VlanId};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr, time::SystemTime};

/// Moves of a unit that are remembered.
const KEPT: usize = 8;

/// What has instances: one attachment, or the control plane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Unit {
    Cvm,
    Pvm(AttachmentId),
}

impl Unit {
    /// Name of the VM of its n-th instance; validation sees to it that no two are the same.
    pub fn vm(&self, number: u64) -> String {
        match self {
            Self::Cvm => format!("cvm-g{number}"),
            Self::Pvm(id) => format!("pvm-{}-{}-g{number}", id.customer, id.attachment),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cvm => f.write_str("cvm"),
            Self::Pvm(id) => id.fmt(f),
        }
    }
}

impl FromStr for Unit {
    type Err = <AttachmentId as FromStr>::Err;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // An attachment has a slash in its name.
        if s == "cvm" { Ok(Self::Cvm) } else { s.parse().map(Self::Pvm) }
    }
}

impl TryFrom<String> for Unit {
    type Error = <AttachmentId as FromStr>::Err;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Unit> for String {
    fn from(u: Unit) -> Self {
        u.to_string()
    }
}

/// One VM of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Names its VM, and no other ever.
    pub number: u64,
    /// What it speaks as: its number, or what it was promoted with.
    pub generation: u64,
    pub host: String,
    /// The software it is made of; `None` is what lies beside the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Of its vNICs, in their order, on the fabric's link to its host; none on the controller's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<VlanId>,
}

/// A move that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub id: u64,
    pub kind: MoveKind,
    pub from: Instance,
    pub to: Instance,
    pub phase: Phase,
    /// `to` was the standby, and is again if nothing comes of it.
    pub was_standby: bool,
    pub why: String,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    #[serde(default)]
    pub times: Vec<PhaseTime>,
    /// Of a restore: the state that `to` begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What went wrong after the decision.
    #[serde(default)]
    pub loss: Option<String>,
}

impl Move {
    /// The switch leads to `to`, or will: there is no way back but one that is decided anew.
    pub fn is_decided(&self) -> bool {
        self.phase >= Phase::Switch
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Of the next instance that is made, and of the next promotion.
    pub next: u64,
    pub next_move: u64,
    /// The switch leads here.
    pub active: Instance,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<Instance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Move>,
    /// What instances that are gone have forwarded, each counted once: in the commit that retired it.
    #[serde(default)]
    pub counted: Counters,
    /// The last moves, oldest first.
    #[serde(default)]
    pub past: Vec<MoveReport>,
}

/// A step that does not fit what is stored: someone else was faster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Conflict(pub String);

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Placement {
    /// Of a unit that is new.
    pub fn first(image: Option<String>) -> Self {
        let active = Instance { number: 1, generation: 1, host: OWN_HOST.into(), image, tags: vec![] };
        Self { next: 2, next_move: 1, active, standby: None, unfinished: None, counted: Counters::default(), past: vec![] }
    }

    /// An instance that has not been made yet.
    pub fn newcomer(&mut self, host: &str, image: Option<String>, tags: Vec<VlanId>) -> Instance {
        let number = self.next;
        self.next += 1;
        Instance { number, generation: number, host: host.to_owned(), image, tags }
    }

    /// All that should run, each once: the active one first.
    pub fn instances(&self) -> Vec<&Instance> {
        let moving = self.unfinished.iter().flat_map(|m| [&m.from, &m.to]);
        let mut out: Vec<&Instance> = vec![];
        for i in std::iter::once(&self.active).chain(&self.standby).chain(moving) {
            if !out.iter().any(|o| o.number == i.number) {
                out.push(i);
            }
        }
        out
    }

    /// Those that follow the active one while it leads: what the platform joins to it.
    pub fn followers(&self) -> Vec<&Instance> {
        self.instances().into_iter().filter(|i| i.number != self.leader().number && !self.is_leaving(i)).collect()
    }

    /// Whose journal the others follow: until the successor has been promoted, the one that is fenced.
    pub fn leader(&self) -> &Instance {
        match &self.unfinished {
            Some(m) if m.phase <= Phase::Promote => &m.from,
            _ => &self.active,
        }
    }

    /// It has been replaced, and is only drained.
    pub fn is_leaving(&self, i: &Instance) -> bool {
        self.unfinished.as_ref().is_some_and(|m| m.phase > Phase::Promote && m.from.number == i.number)
    }

    /// Whether its file says that it is active. A successor's does not before it was promoted, by order.
    pub fn speaks(&self, i: &Instance) -> bool {
        i.number == self.leader().number || self.is_leaving(i)
    }

    /// The one whose ways out stay until what it holds has left: it was in order when it was replaced.
    pub fn lingering(&self) -> Option<&Instance> {
        self.unfinished.as_ref().filter(|m| m.is_decided() && m.kind != MoveKind::Failover && m.phase < Phase::Retire).map(|m| &m.from)
    }

    /// Begins a move to `to`, which may be the standby. Where the active one is dead it is decided already.
    pub fn begin(&mut self, kind: MoveKind, to: Instance, why: &str) -> Result<&mut Move, Conflict> {
        if let Some(m) = &self.unfinished {
            return Err(Conflict(format!("move {} is under way, at {}", m.id, m.phase)));
        }
        let was_standby = self.standby.as_ref().is_some_and(|s| s.number == to.number);
        if was_standby {
            self.standby = None;
        }
        let id = self.next_move;
        self.next_move += 1;
        let phase = if was_standby { Phase::Sync } else { Phase::Prepare };
        let (from, why) = (self.active.clone(), why.to_owned());
        let m = Move { id, kind, from, to, phase, was_standby, why, started_ms: now_ms(), times: vec![], file: None, loss: None };
        Ok(self.unfinished.insert(m))
    }

    fn moving(&mut self) -> Result<&mut Move, Conflict> {
        self.unfinished.as_mut().ok_or_else(|| Conflict("there is no move".into()))
    }

    /// The move goes on to `phase`; `spent` microseconds in the one before.
    pub fn reach(&mut self, phase: Phase, spent: u64) -> Result<(), Conflict> {
        let m = self.moving()?;
        m.times.push(PhaseTime { phase: m.phase, microseconds: spent });
        m.phase = phase;
        Ok(())
    }

    /// From now on `to` is the one. It speaks as a generation that none had.
    pub fn decide(&mut self, spent: u64) -> Result<(), Conflict> {
        let generation = self.next;
        self.reach(Phase::Switch, spent)?;
        self.next += 1;
        let m = self.moving()?;
        m.to.generation = generation;
        self.active = m.to.clone();
        // One that followed the former is of no use to this one: what it has replayed it cannot take back. Another is made.
        self.standby = None;
        Ok(())
    }

    /// Nothing comes of the move: `from` goes on. After the decision only where `to` has not spoken.
    pub fn give_up(&mut self, outcome: Outcome, why: &str, spent: u64) -> Result<(), Conflict> {
        let m = self.unfinished.take().ok_or_else(|| Conflict("there is no move".into()))?;
        if m.is_decided() {
            self.active = m.from.clone();
        }
        if m.was_standby && self.standby.is_none() && !m.is_decided() {
            self.standby = Some(m.to.clone());
        }
        self.remember(m, outcome, why, spent);
        Ok(())
    }

    /// `from` is gone, or is about to be killed: what it forwarded is added here and nowhere else.
    pub fn retire(&mut self, counters: &Counters, spent: u64) -> Result<(), Conflict> {
        self.reach(Phase::Retire, spent)?;
        add(&mut self.counted, counters);
        Ok(())
    }

    pub fn finish(&mut self, spent: u64) -> Result<(), Conflict> {
        let mut m = self.unfinished.take().ok_or_else(|| Conflict("there is no move".into()))?;
        let loss = m.loss.take();
        let outcome = if loss.is_some() { Outcome::Failed } else { Outcome::Done };
        self.remember(m, outcome, &loss.unwrap_or_default(), spent);
        Ok(())
    }

    fn remember(&mut self, m: Move, outcome: Outcome, why: &str, spent: u64) {
        let mut report = report(&m);
        report.times.push(PhaseTime { phase: m.phase, microseconds: spent });
        report.outcome = outcome;
        if !why.is_empty() {
            report.why = if report.why.is_empty() { why.to_owned() } else { format!("{}; {why}", report.why) };
        }
        self.past.push(report);
        let excess = self.past.len().saturating_sub(KEPT);
        self.past.drain(..excess);
    }
}

/// As the API tells it.
pub fn report(m: &Move) -> MoveReport {
    MoveReport {
        id: m.id,
        kind: m.kind,
        from: m.from.number,
        to: m.to.number,
        from_host: m.from.host.clone(),
        to_host: m.to.host.clone(),
        image: m.to.image.clone(),
        phase: m.phase,
        outcome: Outcome::UnderWay,
        why: m.why.clone(),
        started_ms: m.started_ms,
        times: m.times.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_ff_fib_api::Count;

    fn numbers(p: &Placement) -> (u64, Option<u64>, Vec<u64>) {
        (p.active.number, p.standby.as_ref().map(|s| s.number), p.instances().iter().map(|i| i.number).collect())
    }

    #[test]
    fn a_move_hands_over_and_counts_once() {
        let mut p = Placement::first(None);
        let to = p.newcomer("west", None, vec![]);
        p.begin(MoveKind::Move, to, "").unwrap();
        assert!(p.begin(MoveKind::Move, p.active.clone(), "").is_err(), "one at a time");
        assert_eq!(numbers(&p), (1, None, vec![1, 2]));
        p.reach(Phase::Sync, 1).unwrap();
        p.reach(Phase::Fence, 1).unwrap();
        assert_eq!((p.leader().number, p.speaks(&p.unfinished.clone().unwrap().to)), (1, false));
        p.decide(1).unwrap();
        assert_eq!(numbers(&p), (2, None, vec![2, 1]));
        assert_eq!((p.active.generation, p.next), (3, 4), "newer than both instances");
        assert_eq!((p.leader().number, p.lingering().map(|i| i.number)), (1, Some(1)), "the fenced one leads until the other has it all");
        p.reach(Phase::Promote, 1).unwrap();
        p.reach(Phase::Drain, 1).unwrap();
        assert_eq!((p.leader().number, p.speaks(&p.active), p.followers().len()), (2, true, 0));
        let figures = Counters { to_core: Count { packets: 5, bytes: 50 }, ..Counters::default() };
        p.retire(&figures, 1).unwrap();
        assert!(p.lingering().is_none());
        p.finish(1).unwrap();
        assert_eq!((&p.counted, numbers(&p)), (&figures, (2, None, vec![2])));
        assert_eq!(p.past[0].times.iter().map(|t| t.phase).collect::<Vec<_>>()[..3], [Phase::Prepare, Phase::Sync, Phase::Fence]);
    }

    #[test]
    fn what_is_given_up_leaves_what_was() {
        let mut p = Placement::first(None);
        p.standby = Some(p.newcomer("local", None, vec![]));
        let before = numbers(&p);
        let to = p.standby.clone().unwrap();
        p.begin(MoveKind::Failover, to.clone(), "").unwrap();
        p.give_up(Outcome::Aborted, "so it was asked", 1).unwrap();
        assert_eq!(numbers(&p), before);
        p.begin(MoveKind::Failover, to, "").unwrap();
        p.decide(1).unwrap();
        p.give_up(Outcome::Failed, "it died", 1).unwrap();
        assert_eq!(numbers(&p), (1, None, vec![1]));
        p.standby = Some(p.newcomer("local", None, vec![]));
        p.begin(MoveKind::Move, p.standby.clone().unwrap(), "").unwrap();
        p.decide(1).unwrap();
        assert_eq!((p.active.number, p.active.generation), (4, 5), "newer than the one that was not to be");
    }

    #[test]
    fn a_stored_placement_is_read_back() {
        let text = r#"{"next":3,"next_move":1,"active":{"number":1,"generation":1,"host":"local"}}"#;
        let p: Placement = serde_json::from_str(text).unwrap();
        assert_eq!((Unit::Cvm.vm(p.active.number), p.standby, p.counted), ("cvm-g1".into(), None, Counters::default()));
        let units = ["cvm", "acme/denver-1"].map(|u| u.parse::<Unit>().unwrap().vm(7));
        assert_eq!(units, ["cvm-g7", "pvm-acme-denver-1-g7"]);
    }
}
