//! `lab/interop --corpus`: each malformed UPDATE between two good ones, against us and side by side the four. For each
//! case and each implementation: whether the session was kept, whether a good route was lost, whether the bad one was
//! taken. Asserted is only ours: session kept and no good route lost wherever RFC 7606 allows it.

use super::{
    cases::{Case, Expect, Reach, Voice},
    hostile::{From, Hostile},
    speaker::{Bird, Family, Frr, GoBgp, OpenBgpd, Side, Speaker},
    world::{CUSTOMER, World, text, within},
};
use crate::{complain, lab::Lab, node::Node, say};
use anyhow::{Context, Result, anyhow};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

const ASN: u16 = 65101;
/// A session that was ended comes back within this time, whatever the implementation's hold-down.
const BACK: Duration = Duration::from_secs(70);
const TAKEN: Duration = Duration::from_secs(5);

/// What became of one case at one implementation.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    session_kept: bool,
    /// NOTIFICATION code and subcode, or `closed`.
    ended_by: Option<String>,
    good_before_lost: bool,
    good_after_lost: bool,
    bad_taken: bool,
}

impl Outcome {
    fn sign(&self) -> String {
        match (self.session_kept, self.good_before_lost || self.good_after_lost) {
            (false, _) => format!("RESET {}", self.ended_by.as_deref().unwrap_or_default()),
            (true, true) => "kept, LOST good".to_owned(),
            (true, false) => if self.bad_taken { "kept, taken" } else { "kept, not taken" }.to_owned(),
        }
    }
}

/// An implementation on trial.
struct Target<'a> {
    name: &'static str,
    number: u8,
    view: View<'a>,
}

enum View<'a> {
    Ours(World<'a>),
    Theirs(Box<dyn Speaker + Sync + 'a>),
}

impl Target<'_> {
    fn local(&self) -> String {
        format!("192.168.{}.2", self.number)
    }

    /// Which of the prefixes it has from the hostile speaker.
    fn has(&self, prefixes: &[String; 3]) -> Result<[bool; 3]> {
        match &self.view {
            View::Ours(world) => {
                let rows = world.edgeplex(&["show", "routes", "-c", CUSTOMER])?;
                Ok(prefixes.each_ref().map(|p| rows.iter().any(|r| text(r, "prefix") == *p && text(r, "source") == "bgp")))
            }
            View::Theirs(speaker) => {
                let neighbor = self.local();
                let side = Side { family: Family::Ipv4, neighbor: &neighbor };
                let [a, b, c] = prefixes;
                Ok([speaker.has(side, a)?, speaker.has(side, b)?, speaker.has(side, c)?])
            }
        }
    }

    /// All cases, one after the other, on one session as long as it lives.
    fn run(&self, hostile: &Node, cases: &[Case]) -> Result<Vec<Outcome>> {
        let (local, peer) = (self.local(), format!("192.168.{}.1", self.number));
        let voice = Voice { asn: ASN, next_hop: local.parse()?, next_hop6: None, reach: Reach::Classic };
        let from = From { local: &local, peer: &peer, asn: ASN, router_id: &local, families: "1/1" };
        let mut session: Option<Hostile> = None;
        let mut outcomes = vec![];
        for (k, case) in (1u8..).zip(cases) {
            let mut speaker = match session.take() {
                Some(s) => s,
                None => within(BACK, &format!("{}: a session for the hostile speaker", self.name), || {
                    Ok(Hostile::start(hostile, &from).map_err(|e| format!("{e:#}")))
                })?,
            };
            let prefixes = [1, 2, 3].map(|n| format!("10.{k}.{n}.0/24"));
            let wire = |n: u8| [24, 10, k, n];
            speaker.update(&voice.good(&wire(1))?)?;
            speaker.update(&voice.bad(case, &wire(2))?)?;
            speaker.update(&voice.good(&wire(3))?)?;
            // Until the last of the three has been dealt with, or the session is over.
            let waited = within(TAKEN, "dealt with", || {
                let seen = self.has(&prefixes)?;
                Ok(if speaker.ended().is_some() || seen[2] { Ok(seen) } else { Err(String::new()) })
            });
            let ended_by = speaker.ended();
            let seen = waited.or_else(|_| self.has(&prefixes))?;
            let session_kept = ended_by.is_none();
            outcomes.push(Outcome {
                session_kept,
                ended_by,
                good_before_lost: !session_kept || !seen[0],
                good_after_lost: !session_kept || !seen[2],
                bad_taken: session_kept && seen[1],
            });
            if session_kept {
                session = Some(speaker);
            }
        }
        Ok(outcomes)
    }
}

#[derive(Serialize)]
struct Tried<'a> {
    name: &'a str,
    rfc: &'a str,
    expect: Expect,
    /// It carries a route at all.
    #[serde(skip)]
    routed: bool,
    outcomes: BTreeMap<&'static str, Outcome>,
}

#[derive(Serialize)]
struct Report<'a> {
    version: u8,
    passed: bool,
    cases: Vec<Tried<'a>>,
}

pub(super) fn run(lab: &Lab, cases: &[Case], only: Option<&str>, report: &Path) -> Result<bool> {
    let world = World { lab };
    for file in ["platform.yaml", "inter.yaml"] {
        world.apply_from("interop-corpus", file)?;
    }
    let cases: Vec<Case> = cases.iter().filter(|c| only.is_none_or(|o| c.name.contains(o))).cloned().collect();
    let hostile = lab.node("hostile")?;
    let targets = [
        Target { name: "EdgePlex", number: 1, view: View::Ours(world) },
        Target { name: "FRR", number: 2, view: View::Theirs(Box::new(Frr { node: lab.node("frr")?, asn: 65000 })) },
        Target { name: "BIRD", number: 3, view: View::Theirs(Box::new(Bird { node: lab.node("bird")? })) },
        Target { name: "GoBGP", number: 4, view: View::Theirs(Box::new(GoBgp { node: lab.node("gobgp")?, address6: "" })) },
        Target { name: "OpenBGPD", number: 5, view: View::Theirs(Box::new(OpenBgpd { node: lab.node("obgpd")? })) },
    ];
    complain!("{} cases against {} implementations …", cases.len(), targets.len());
    let results: Vec<(&str, Result<Vec<Outcome>>)> = thread::scope(|scope| {
        let running: Vec<_> = targets.iter().map(|t| (t.name, scope.spawn(|| t.run(hostile, &cases)))).collect();
        running.into_iter().map(|(name, r)| (name, r.join().unwrap_or_else(|_| Err(anyhow!("panicked"))))).collect()
    });
    let mut tried: Vec<Tried<'_>> = cases
        .iter()
        .map(|c| Tried { name: &c.name, rfc: &c.rfc, expect: c.expect, routed: c.nlri.is_none(), outcomes: BTreeMap::new() })
        .collect();
    for (name, result) in results {
        for (row, outcome) in tried.iter_mut().zip(result.with_context(|| name.to_owned())?) {
            row.outcomes.insert(name, outcome);
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_width(180);
    table.set_header([vec!["case", "RFC"], targets.iter().map(|t| t.name).collect()].concat());
    let mut wrong = vec![];
    for row in &tried {
        let signs = targets.iter().map(|t| row.outcomes.get(t.name).map(Outcome::sign).unwrap_or_default());
        table.add_row([row.name.to_owned(), row.rfc.to_owned()].into_iter().chain(signs));
        if let Some(ours) = row.outcomes.get("EdgePlex")
            && row.expect.keeps_session()
        {
            if ours.good_before_lost || ours.good_after_lost {
                wrong.push(format!("{}: {}", row.name, ours.sign()));
            } else if row.routed && ours.bad_taken == (row.expect == Expect::TreatAsWithdraw) {
                complain!("note: {}: {:?} is asked for; ours: {}", row.name, row.expect, ours.sign());
            }
        }
    }
    say!("{table}");
    for target in &targets {
        let of = |f: &dyn Fn(&Outcome) -> bool| {
            tried.iter().filter(|t| t.expect.keeps_session()).filter_map(|t| t.outcomes.get(target.name)).filter(|o| f(o)).count()
        };
        let lost = of(&|o| o.session_kept && (o.good_before_lost || o.good_after_lost));
        say!(
            "{}: {} sessions ended, {lost} times a good route lost on a session that was kept, where RFC 7606 allows neither",
            target.name,
            of(&|o| !o.session_kept)
        );
    }
    wrong.iter().for_each(|w| complain!("FAILED: {w}"));
    let passed = wrong.is_empty();
    fs::write(report, serde_json::to_vec_pretty(&Report { version: 1, passed, cases: tried })?)
        .with_context(|| report.display().to_string())?;
    Ok(passed)
}
