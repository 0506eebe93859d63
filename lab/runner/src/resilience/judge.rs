//! The judges: what other people's routers say of their sessions with us. Each knows since when a session stands or how often it has
//! changed; another answer than before means that it noticed.

use crate::{lab::Lab, wait};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// A session as its other end sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seat {
    /// Node, neighbour.
    FrrBgp(&'static str, &'static str),
    /// Node, protocol.
    BirdBgp(&'static str, &'static str),
    GoBgp(&'static str, &'static str),
    FrrOspf(&'static str, &'static str),
    FrrLdp(&'static str, &'static str),
}

/// Sessions of denver's customers, in the order of the customers.
pub(crate) const CES: [(&str, Seat); 3] = [
    ("acme", Seat::FrrBgp("acme-denver", "192.168.1.1")),
    ("beta", Seat::BirdBgp("beta-denver", "edgeplex")),
    ("gamma", Seat::GoBgp("gamma-denver", "192.168.1.1")),
];
/// Sessions of the core with denver.
pub(crate) const CORE: [Seat; 4] =
    [Seat::FrrBgp("rr", "10.255.0.1"), Seat::BirdBgp("rr2", "denver"), Seat::FrrOspf("p1", "10.255.0.1"), Seat::FrrLdp("p1", "10.255.0.1")];

/// A session that fell and came back begins later than that. No router of the lab connects anew in so short a time.
const BESIDE_S: f64 = 0.2;

/// What a seat says of the present session; another value is another session. `None`: there is none now.
type Word = Option<String>;

impl Seat {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        CES.into_iter().map(|(_, seat)| seat).chain(CORE)
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::FrrBgp(node, _) => format!("FRR {node}"),
            Self::BirdBgp(node, _) => format!("BIRD {node}"),
            Self::GoBgp(node, _) => format!("GoBGP {node}"),
            Self::FrrOspf(node, _) => format!("FRR {node} (OSPF)"),
            Self::FrrLdp(node, _) => format!("FRR {node} (LDP)"),
        }
    }

    fn ask(self, lab: &Lab) -> Result<Word> {
        let json = |node: &str, line: &[&str]| -> Result<Value> {
            let text = lab.node(node)?.run(line)?;
            serde_json::from_str(&text).with_context(|| format!("{node}: {}: not JSON", line.join(" ")))
        };
        Ok(match self {
            Self::FrrBgp(node, neighbor) => {
                let said = json(node, &["vtysh", "-c", &format!("show bgp neighbors {neighbor} json")])?;
                let of = &said[neighbor];
                (of["bgpState"] == "Established").then(|| format!("{}/{}", of["connectionsEstablished"], of["connectionsDropped"]))
            }
            Self::BirdBgp(node, protocol) => {
                let said = lab.node(node)?.run(&["birdc", "show", "protocols", protocol])?;
                let line = said.lines().find(|l| l.starts_with(protocol)).unwrap_or_default().to_owned();
                line.contains("Established").then(|| line.split_whitespace().collect::<Vec<_>>().join(" "))
            }
            Self::GoBgp(node, neighbor) => {
                let said = json(node, &["gobgp", "neighbor", neighbor, "-j"])?;
                let up = &said["timers"]["state"]["uptime"];
                // 6: established.
                let state = &said["state"]["session_state"];
                (*state == 6 || *state == "ESTABLISHED").then(|| up.to_string())
            }
            Self::FrrOspf(node, neighbor) => {
                let said = json(node, &["vtysh", "-c", &format!("show ip ospf neighbor {neighbor} detail json")])?;
                let rows = said["neighbors"].get(neighbor).or_else(|| said.get(neighbor)).cloned().unwrap_or_default();
                let row = rows.get(0).cloned().unwrap_or(rows);
                let full = row["nbrState"].as_str().is_some_and(|s| s.starts_with("Full"));
                full.then(|| row["stateChangeCounter"].to_string())
            }
            Self::FrrLdp(node, neighbor) => {
                let said = lab.node(node)?.run(&["vtysh", "-c", "show mpls ldp neighbor"])?;
                let up = said.lines().any(|l| l.contains(neighbor) && l.contains("OPERATIONAL"));
                // Its uptime has whole seconds; its log says each time that it became operational.
                let file = lab.node(node)?.log("ldpd");
                let log = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let times = log.lines().filter(|l| l.contains(neighbor) && l.contains("to OPERATIONAL")).count();
                ensure!(!up || times > 0, "{node}: the log of ldpd does not tell of sessions");
                up.then(|| times.to_string())
            }
        })
    }
}

/// Whether two words tell of one session. BIRD counts back from now to the moment at which it began, and comes out a few milliseconds
/// beside where it came out before when the clock is being set right.
fn same(before: &str, now: &str) -> bool {
    let near = |a: &str, b: &str| seconds(a).zip(seconds(b)).is_some_and(|(a, b)| (a - b).abs() < BESIDE_S);
    before.split(' ').count() == now.split(' ').count() && before.split(' ').zip(now.split(' ')).all(|(a, b)| a == b || near(a, b))
}

/// Of a time of day, `HH:MM:SS.mmm`.
fn seconds(word: &str) -> Option<f64> {
    let parts: Vec<f64> = word.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hours, minutes, seconds] = parts[..] else { return None };
    Some((hours * 60.0 + minutes) * 60.0 + seconds)
}

/// All seats' words at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sitting(BTreeMap<Seat, String>);

impl Sitting {
    /// Waits until each of them has a session.
    pub(crate) fn open(lab: &Lab, seats: impl IntoIterator<Item = Seat>, patience: Duration) -> Result<Self> {
        let mut words = BTreeMap::new();
        for seat in seats {
            let word = wait::until(&format!("{} has its session", seat.name()), patience, || {
                Ok(match seat.ask(lab) {
                    Ok(Some(word)) => Ok(word),
                    Ok(None) => Err("no session".into()),
                    Err(e) => Err(format!("{e:#}")),
                })
            })?;
            words.insert(seat, word);
        }
        Ok(Self(words))
    }

    /// Who says that its session is another one now, or gone.
    pub(crate) fn noticed(&self, lab: &Lab) -> Result<Vec<String>> {
        let mut noticed = vec![];
        for (seat, before) in &self.0 {
            let now = seat.ask(lab)?;
            if !now.as_ref().is_some_and(|now| same(before, now)) {
                noticed.push(format!("{}: {before} → {}", seat.name(), now.as_deref().unwrap_or("no session")));
            }
        }
        Ok(noticed)
    }

    /// [`Self::noticed`], of which nothing may be.
    pub(crate) fn insist(&self, lab: &Lab) -> Result<()> {
        let noticed = self.noticed(lab)?;
        if noticed.is_empty() { Ok(()) } else { bail!("noticed by {}", noticed.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_right_makes_no_other_session() {
        let of = |time: &str| format!("edgeplex BGP --- up {time} Established");
        assert!(same(&of("00:37:48.828"), &of("00:37:48.830")) && same(&of("00:37:59.999"), &of("00:38:00.002")));
        assert!(!same(&of("00:37:48.828"), &of("00:37:49.100")));
        assert!(!same("1/0", "2/1") && !same(&of("00:37:48.828"), "edgeplex BGP --- up 00:37:48.828 Established x"));
    }
}
