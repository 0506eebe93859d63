//! The rows of the core's own protocols: OSPF with FRR and BIRD, LDP with FRR, BFD with FRR and BIRD.

use super::{
    matrix::{Column, Matrix},
    speaker::{Bird, Frr, Speaker},
    world::{LOOPBACK, World, number, soon, soon_true, text, within},
};
use crate::{launch, process::Process};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

const BADCORE: &str = include_str!("badcore.py");
/// Debian's: the one that is sure to be there.
const PYTHON: &str = "/usr/bin/python3";
/// The network of ours that comes and goes.
const OURS: &str = "10.0.9.0/30";
/// One more of FRR's loopback addresses, for LDP.
const EXTRA: &str = "10.250.0.1/32";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Ospf,
    Ldp,
    Bfd,
}

#[derive(Debug)]
struct Row {
    line: usize,
    what: What,
    /// 1 FRR, 2 BIRD, as in every address.
    number: u8,
}

impl Row {
    fn name(&self) -> &'static str {
        if self.number == 1 { "FRR" } else { "BIRD" }
    }

    fn router_id(&self) -> &'static str {
        if self.number == 1 { "10.255.0.2" } else { "10.255.0.3" }
    }

    fn address(&self) -> String {
        format!("10.0.{}.2", self.number)
    }

    fn ours(&self) -> String {
        format!("10.0.{}.1", self.number)
    }

    fn external(&self) -> String {
        format!("10.40.{}.0/24", self.number)
    }
}

pub(super) struct Igp<'a, 'w> {
    world: &'w World<'a>,
    frr: Frr<'a>,
    bird: Bird<'a>,
    rows: Vec<Row>,
}

impl<'a, 'w> Igp<'a, 'w> {
    pub(super) fn new(world: &'w World<'a>, matrix: &mut Matrix) -> Result<Self> {
        let rows = [(What::Ospf, 1), (What::Ospf, 2), (What::Ldp, 1), (What::Bfd, 1), (What::Bfd, 2)];
        let rows = rows.map(|(what, number)| {
            let line = matrix.lines.len();
            let row = Row { line, what, number };
            let protocol = match what {
                What::Ospf => "OSPFv2",
                What::Ldp => "LDP",
                What::Bfd => "BFD",
            };
            matrix.declare(protocol, row.name());
            row
        });
        let (frr, bird) = (Frr { node: world.lab.node("core-frr")?, asn: 65000 }, Bird { node: world.lab.node("core-bird")? });
        Ok(Self { world, frr, bird, rows: rows.into() })
    }

    fn vtysh(&self, question: &str) -> Result<String> {
        self.frr.node.run(&["vtysh", "-c", question])
    }

    /// How the peer sees us.
    fn theirs(&self, row: &Row) -> Result<bool> {
        Ok(match (row.what, row.number) {
            (What::Ospf, 1) => self.vtysh("show ip ospf neighbor json")?.replace(' ', "").contains("\"converged\":\"Full\""),
            (What::Ospf, _) => self.bird.ask("show ospf neighbors")?.lines().any(|l| l.contains(LOOPBACK) && l.contains("Full")),
            (What::Ldp, _) => self.vtysh("show mpls ldp neighbor json")?.contains("OPERATIONAL"),
            (What::Bfd, 1) => {
                let peers: Value = serde_json::from_str(&self.vtysh("show bfd peers json")?)?;
                peers.as_array().into_iter().flatten().any(|p| text(p, "peer") == row.ours() && text(p, "status") == "up")
            }
            (What::Bfd, _) => self.bird.ask("show bfd sessions")?.lines().any(|l| l.contains(&row.ours()) && l.contains(" Up ")),
        })
    }

    /// Our own row: state, times lost.
    fn ours(&self, row: &Row) -> Result<(String, u64)> {
        let (question, key, value, count): (&[&str], _, _, _) = match row.what {
            What::Ospf => (&["show", "ospf", "neighbors"], "address", row.address(), "resets"),
            What::Ldp => (&["show", "ldp", "neighbors"], "lsr_id", row.router_id().to_owned(), "resets"),
            What::Bfd => (&["show", "bfd"], "address", row.address(), "downs"),
        };
        let rows = self.world.edgeplex(question)?;
        let found = rows.iter().find(|r| text(r, key) == value).with_context(|| format!("{value} is not there"))?;
        Ok((text(found, "state"), number(found, count)))
    }

    fn up_now(&self, row: &Row) -> Result<()> {
        soon(&format!("{:?} with {}", row.what, row.name()), || {
            let (theirs, (ours, _)) = (self.theirs(row)?, self.ours(row)?);
            let up = matches!(ours.as_str(), "full" | "operational" | "up");
            Ok(if theirs && up {
                Ok(())
            } else {
                Err(format!("{} says {}, we say {ours}", row.name(), if theirs { "up" } else { "not up" }))
            })
        })
    }

    /// Whether we have their prefix, and they ours.
    fn exchange(&self, row: &Row, theirs: &str, ours: &str, there: bool) -> Result<()> {
        let word = if there { "is" } else { "is no longer" };
        soon_true(&format!("{theirs} {word} at edgeplex"), || {
            Ok(match row.what {
                What::Ospf => {
                    let rows = self.world.edgeplex(&["show", "ospf", "routes"])?;
                    rows.iter().any(|r| text(r, "prefix") == theirs && r.to_string().contains(&row.address()))
                }
                _ => {
                    let rows = self.world.edgeplex(&["show", "ldp", "bindings"])?;
                    rows.iter().any(|r| text(r, "prefix") == theirs && r["remote"].to_string().contains(row.router_id()))
                }
            } == there)
        })?;
        soon_true(&format!("{ours} {word} at {}", row.name()), || {
            let has =
                |text: String, words: &[&str]| text.lines().any(|l| words.iter().all(|w| l.split_whitespace().any(|have| have == *w)));
            Ok(match (row.what, row.number) {
                (What::Ospf, 1) => {
                    let routes: Value = serde_json::from_str(&self.vtysh("show ip ospf route json")?)?;
                    routes.get(ours).is_some_and(|r| r.to_string().contains(&row.ours()))
                }
                (What::Ospf, _) => has(self.bird.ask("show route protocol core")?, &[ours]),
                _ => has(self.vtysh("show mpls ldp binding")?, &[ours, LOOPBACK]),
            } == there)
        })
    }

    fn base_exchange(&self, row: &Row) -> Result<()> {
        let loopback = format!("{LOOPBACK}/32");
        match row.what {
            What::Ospf => {
                self.exchange(row, &row.external(), &loopback, true)?;
                self.exchange(row, &format!("{}/32", row.router_id()), OURS, true)
            }
            What::Ldp => self.exchange(row, &format!("{}/32", row.router_id()), &loopback, true),
            What::Bfd => Ok(()),
        }
    }

    pub(super) fn up(&self, matrix: &mut Matrix) {
        for row in &self.rows {
            matrix.check(&[row.line], Column::Up, || {
                self.up_now(row)?;
                Ok(format!("{} at edgeplex, and as much at {}", self.ours(row)?.0, row.name()))
            });
        }
    }

    pub(super) fn routes(&self, matrix: &mut Matrix) {
        for row in &self.rows {
            match row.what {
                What::Bfd => matrix.not_applicable(row.line, Column::Routes, "BFD has no routes"),
                What::Ospf => matrix.check(&[row.line], Column::Routes, || {
                    self.base_exchange(row)?;
                    Ok(format!("loopback, links and external {} of {} here; ours, with {OURS}, there", row.external(), row.name()))
                }),
                What::Ldp => matrix.check(&[row.line], Column::Routes, || {
                    self.base_exchange(row)?;
                    let tunnels = self.world.edgeplex(&["show", "tunnels"])?;
                    let up = |r: &&Value| text(r, "endpoint") == row.router_id() && r["up"] == true;
                    ensure!(tunnels.iter().find(up).is_some(), "no tunnel to {} is up: {tunnels:?}", row.router_id());
                    Ok("labels of both loopbacks at both ends; the tunnel to FRR's is up".into())
                }),
            }
        }
    }

    pub(super) fn withdraw(&self, matrix: &mut Matrix) {
        let apart = [
            self.frr.configure(&["no ip route 10.40.1.0/24 blackhole"]),
            self.bird.ask("disable outside").map(drop),
            self.frr.node.run(&["ip", "address", "add", EXTRA, "dev", "lo"]).map(drop),
        ];
        let apart: Result<Vec<()>> = apart.into_iter().collect();
        let apart = apart.map(drop).map_err(|e| format!("{e:#}"));
        let extra = self.rows.iter().filter(|r| r.what == What::Ldp).map(|r| self.exchange(r, EXTRA, EXTRA, true)).next().unwrap_or(Ok(()));
        let back = self.frr.node.run(&["ip", "address", "del", EXTRA, "dev", "lo"]).map(drop);
        let less = self.world.apply("platform-less.yaml").map_err(|e| format!("{e:#}"));
        let ready = extra.and(back).map_err(|e| format!("{e:#}")).and(less).and(apart);
        for row in &self.rows {
            if row.what == What::Bfd {
                matrix.not_applicable(row.line, Column::Withdraw, "BFD has no routes");
                continue;
            }
            matrix.check(&[row.line], Column::Withdraw, || {
                ready.clone().map_err(anyhow::Error::msg)?;
                let theirs = if row.what == What::Ldp { EXTRA.to_owned() } else { row.external() };
                // LDP gives a label to what is connected, with OSPF or without; it takes back the one it gave to FRR's.
                let ours = if row.what == What::Ldp { EXTRA } else { OURS };
                self.exchange(row, &theirs, ours, false)?;
                Ok(format!("{theirs} of {} is gone here, {ours} of ours is gone there", row.name()))
            });
        }
        // As it was, for what comes next.
        let again = self.frr.configure(&["ip route 10.40.1.0/24 blackhole"]).and_then(|()| self.bird.ask("enable outside").map(drop));
        let again = again.and_then(|()| self.world.apply("platform.yaml"));
        for row in self.rows.iter().filter(|r| r.what == What::Ospf) {
            if let Err(e) = again.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(|()| self.base_exchange(row)) {
                matrix.check(&[row.line], Column::Withdraw, || Err(e.context("it does not come back")));
            }
        }
    }

    pub(super) fn refresh(&self, matrix: &mut Matrix) {
        for row in &self.rows {
            let why = match row.what {
                What::Ospf => "OSPF has no such request: LSAs are refreshed by age, and asked for only while databases are exchanged",
                What::Ldp => "FRR has no command that asks for labels again (typed wildcard request, RFC 5918)",
                What::Bfd => "BFD has nothing to ask for",
            };
            matrix.not_applicable(row.line, Column::Refresh, why);
        }
    }

    pub(super) fn bad_input(&self, matrix: &mut Matrix) {
        for row in &self.rows {
            matrix.check(&[row.line], Column::BadInput, || {
                let node = if row.number == 1 { self.frr.node } else { self.bird.node };
                let before = self.ours(row)?;
                let (protocol, address, ours) = (format!("{:?}", row.what).to_lowercase(), row.address(), row.ours());
                let sent = node.run(&[PYTHON, "-c", BADCORE, &protocol, &address, &ours, row.router_id(), LOOPBACK])?;
                self.base_exchange(row)?;
                self.up_now(row)?;
                // Longer than any of them would take to miss its neighbour: a lost session shows as counted.
                let after = self.ours(row)?;
                ensure!(before == after, "{before:?} before, {after:?} after");
                let refused = if row.what == What::Ospf { format!("; refused: {}", self.refused(row)?) } else { String::new() };
                Ok(format!("{} malformed packets from {}'s address: not lost once{refused}", sent.trim(), row.name()))
            });
        }
    }

    fn refused(&self, row: &Row) -> Result<String> {
        let rows = self.world.edgeplex(&["show", "ospf", "interfaces"])?;
        let found = rows.iter().find(|r| text(r, "address").starts_with(&row.ours())).context("no such interface")?;
        let list = found["refused"].as_array().context("refused")?;
        ensure!(!list.is_empty(), "nothing of it was counted as refused");
        Ok(list.iter().map(|r| format!("{} {}", r[0].as_str().unwrap_or_default(), r[1])).collect::<Vec<_>>().join(", "))
    }

    pub(super) fn restart_peers(&self, matrix: &mut Matrix) {
        for row in &self.rows {
            matrix.check(&[row.line], Column::RestartPeer, || {
                let (_, before) = self.ours(row)?;
                if row.number == 2 {
                    self.bird.kill()?;
                    self.bird.start()?;
                } else {
                    let daemon = match row.what {
                        What::Ospf => "ospfd",
                        What::Ldp => "ldpd",
                        What::Bfd => "bfdd",
                    };
                    // ldpd is three processes, of which the parent starts the others.
                    for pid in self.frr.node.processes(daemon) {
                        if let Some(p) = Process::find(pid) {
                            p.kill();
                        }
                    }
                    soon_true(&format!("{daemon} ends"), || Ok(self.frr.node.processes(daemon).is_empty()))?;
                    launch::frr_daemon(self.frr.node, daemon)?;
                    launch::frr_configure(self.frr.node)?;
                }
                soon("we notice", || {
                    let lost = self.ours(row).map_or(true, |(_, n)| n > before);
                    Ok(if lost { Ok(()) } else { Err(format!("lost {before} times as before")) })
                })?;
                self.up_now(row)?;
                self.base_exchange(row)?;
                Ok(format!("{}'s daemon killed and started: up and all there again", row.name()))
            });
        }
    }

    /// Which happened with BGP's.
    pub(super) fn after_restart_of_ours(&self, matrix: &mut Matrix) {
        for row in &self.rows {
            matrix.check(&[row.line], Column::RestartOurs, || {
                self.up_now(row)?;
                self.base_exchange(row)?;
                Ok("cvmd killed: up and all there again".into())
            });
        }
    }

    pub(super) fn md5(&self, matrix: &mut Matrix, applied: &Result<(), String>) {
        let lost: Vec<Result<()>> = self
            .rows
            .iter()
            .filter(|r| r.what != What::Bfd)
            .map(|row| {
                within(Duration::from_secs(100), &format!("{:?} with {} is refused without the password", row.what, row.name()), || {
                    let ours = self.ours(row).map_or_else(|_| "gone".to_owned(), |(state, _)| state);
                    let theirs = self.theirs(row)?;
                    Ok(if theirs || matches!(ours.as_str(), "full" | "operational") {
                        Err(format!("{}: {theirs}, we: {ours}", row.name()))
                    } else {
                        Ok(())
                    })
                })
            })
            .collect();
        let frr = self.frr.configure(&[
            "interface eth1",
            "ip ospf authentication message-digest",
            "ip ospf message-digest-key 1 md5 ospf-word",
            "mpls ldp",
            &format!("neighbor {LOOPBACK} password ldp-word"),
        ]);
        let bird = self
            .bird
            .reconfigure(&[("bfd yes;".into(), "bfd yes; authentication cryptographic; password \"ospf-word\" { id 1; };".into())]);
        let set = frr.and(bird).map_err(|e| format!("{e:#}"));
        let mut lost = lost.into_iter();
        for row in &self.rows {
            if row.what == What::Bfd {
                let why = "neither FRR 8.4 nor EdgePlex has BFD authentication (RFC 5880 §6.7); GTSM is what protects it";
                matrix.not_applicable(row.line, Column::Md5, why);
                continue;
            }
            let lost = lost.next().unwrap_or(Ok(()));
            matrix.check(&[row.line], Column::Md5, || {
                applied.clone().map_err(anyhow::Error::msg).context("edgeplex apply")?;
                lost?;
                set.clone().map_err(anyhow::Error::msg).context("setting the password")?;
                self.up_now(row)?;
                self.base_exchange(row)?;
                Ok(format!("password here only: lost; also at {}: up and all there again", row.name()))
            });
        }
    }
}
