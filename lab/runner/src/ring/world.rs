//! The core as the events see it: who is where, which way packets go, whether all is whole again.

use crate::{
    lab::Lab,
    node::Node,
    traffic::{Way as Datagrams, send},
    wait,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

pub(super) const PES: [&str; 2] = ["denver", "boston"];
pub(super) const P_ROUTERS: [&str; 2] = ["p1", "p3"];
/// The router that is not ours, by the addresses that the PEs know.
pub(super) const P2: &str = "p2";
/// Host of each PE's site, and its address.
pub(super) const HOSTS: [(&str, &str); 2] = [("acme-denver-host", "172.16.1.10"), ("acme-boston-host", "172.16.2.10")];
const LOOPBACKS: [&str; 2] = ["10.255.0.1", "10.255.0.2"];
/// Adjacencies and LDP sessions of each platform when all is up.
const NEIGHBORS: [(&str, usize, usize); 4] = [("denver", 2, 2), ("boston", 2, 2), ("p1", 4, 3), ("p3", 4, 3)];
pub(super) const CONVERGE: Duration = Duration::from_secs(60);

/// Which way the PEs' tunnels to each other go: the address of each one's next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// denver, p2, boston.
    Short,
    /// denver, p1, p3, boston.
    Long,
}

impl Way {
    fn next_hops(self) -> [&'static str; 2] {
        match self {
            Self::Short => ["10.0.2.2", "10.0.6.2"],
            Self::Long => ["10.0.1.2", "10.0.5.2"],
        }
    }
}

#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) lab: &'a Lab,
    pub(super) out: PathBuf,
}

impl World<'_> {
    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        self.lab.node(name)
    }

    /// The host behind a PE.
    pub(super) fn host(&self, pe: &str) -> Result<&Node> {
        self.node(&format!("acme-{pe}-host"))
    }

    pub(super) fn file(&self, node: &str, file: &str) -> PathBuf {
        self.lab.topology.directory.join("core-ring").join(node).join(file)
    }

    /// Applies the platform's document, with words of it replaced by others.
    pub(super) fn apply(&self, node: &str, changes: &[(&str, &str)]) -> Result<()> {
        let mut text = fs::read_to_string(self.file(node, "platform.yaml"))?;
        for (from, to) in changes {
            ensure!(text.matches(from).count() == 1, "{node}: `{from}` is not there once");
            text = text.replace(from, to);
        }
        let file = self.out.join(format!("{node}.yaml"));
        fs::write(&file, text)?;
        self.node(node)?.run(&["edgeplex", "apply", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Rows of `edgeplex show`. `Err` inside: it does not answer now.
    fn rows(&self, node: &str, what: &[&str]) -> Result<Result<Vec<Value>, String>> {
        let out = self.node(node)?.output(&[&["edgeplex", "show"], what, &["-o", "json"]].concat())?;
        let (said, complaint) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if !out.status.success() || complaint.contains("missing") {
            return Ok(Err(format!("{node}: {}", complaint.trim())));
        }
        let rows: Value = serde_json::from_str(&said).with_context(|| format!("edgeplex show {}: not JSON", what.join(" ")))?;
        Ok(Ok(rows.as_array().cloned().unwrap_or_default()))
    }

    /// Waits until both PEs' tunnels to each other go that way, with a backup if one is asked for.
    pub(super) fn wait_way(&self, way: Way, backup: bool) -> Result<()> {
        (0..PES.len()).try_for_each(|direction| self.wait_way_from(direction, way, backup))
    }

    /// [`Self::wait_way`] of one PE, by its number.
    pub(super) fn wait_way_from(&self, pe: usize, way: Way, backup: bool) -> Result<()> {
        let (far, next_hop) = (LOOPBACKS[1 - pe], way.next_hops()[pe]);
        let pe = PES[pe];
        wait::until(&format!("{pe} sends {way:?} (by {next_hop})"), CONVERGE, || {
            let rows = match self.rows(pe, &["tunnels"])? {
                Ok(rows) => rows,
                Err(why) => return Ok(Err(why)),
            };
            let tunnel = rows.iter().find(|t| t["endpoint"] == far).cloned().unwrap_or_default();
            let legs = |of: &str| tunnel[of].as_array().cloned().unwrap_or_default();
            let right = matches!(&legs("legs")[..], [leg] if leg["next_hop"] == next_hop) && (!backup || !legs("backup").is_empty());
            Ok(if right { Ok(()) } else { Err(tunnel.to_string()) })
        })
    }

    /// Waits until every adjacency is full, every LDP session operational, and BFD up with all neighbours.
    pub(super) fn wait_whole(&self) -> Result<()> {
        for (node, adjacencies, sessions) in NEIGHBORS {
            for (what, want, state) in [
                (&["ospf", "neighbors"][..], adjacencies, "full"),
                (&["ldp", "neighbors"], sessions, "operational"),
                (&["bfd"], adjacencies, "up"),
            ] {
                wait::until(&format!("{node}: {want} {} {state}", what.join(" ")), CONVERGE, || {
                    let rows = match self.rows(node, what)? {
                        Ok(rows) => rows,
                        Err(why) => return Ok(Err(why)),
                    };
                    let good = rows.iter().filter(|r| r["state"] == state).count();
                    Ok(if good == want { Ok(()) } else { Err(Value::from(rows).to_string()) })
                })?;
            }
        }
        Ok(())
    }

    /// Waits until a PE's session with the reflector is established.
    pub(super) fn wait_reflector(&self, pe: &str) -> Result<()> {
        wait::until(&format!("{pe}'s session with the reflector"), CONVERGE, || {
            let rows = match self.rows(pe, &["bgp"])? {
                Ok(rows) => rows,
                Err(why) => return Ok(Err(why)),
            };
            let up = rows.iter().any(|r| r["address"] == "10.255.0.9" && r["state"] == "established");
            Ok(if up { Ok(()) } else { Err(Value::from(rows).to_string()) })
        })
    }

    /// Waits until datagrams are answered both ways.
    pub(super) fn wait_datagrams(&self) -> Result<()> {
        for (pe, (_, to)) in PES.iter().zip(HOSTS.iter().rev()) {
            wait::until(&format!("the first answers to {pe}"), CONVERGE, || {
                let report = send(self.host(pe)?, &Datagrams { to, pps: 100, size: 64, source_port: 0 }, 3)?;
                Ok(if report.lost == 0 { Ok(()) } else { Err(format!("{} of {} answered", report.received, report.sent)) })
            })?;
        }
        Ok(())
    }

    /// cvmd's log from here on.
    pub(super) fn log(&self, node: &str) -> Result<Log> {
        let file = self.node(node)?.dir.join("edgeplex/vms/cvm-g1/log/cvmd.log");
        let from = fs::metadata(&file).with_context(|| file.display().to_string())?.len();
        Ok(Log { file, from })
    }
}

/// A log, and where it ended when we began to be interested.
#[derive(Debug)]
pub(super) struct Log {
    file: PathBuf,
    from: u64,
}

impl Log {
    /// When the first line was written that has all those words: microseconds since 1970.
    pub(super) fn when(&self, words: &[impl AsRef<str>]) -> Result<Option<u64>> {
        let mut file = fs::File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text.lines().find(|line| words.iter().all(|w| line.contains(w.as_ref()))).and_then(time_of_day).map(on_this_day))
    }
}

const DAY: u64 = 86_400_000_000;

/// Microseconds since midnight (UTC) of a line that starts like `2026-11-21T16:26:49.123624Z`.
fn time_of_day(line: &str) -> Option<u64> {
    let time = line.split_whitespace().next()?.split_once('T')?.1.trim_end_matches('Z');
    let mut fields = time.split([':', '.']);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(((next()? * 60 + next()?) * 60 + next()?) * 1_000_000 + next()?)
}

/// The last moment before now that has this time of day.
fn on_this_day(of_day: u64) -> u64 {
    let now = super::flow::now();
    let today = now - now % DAY + of_day;
    if today > now { today - DAY } else { today }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_says_when() {
        assert_eq!(time_of_day("2026-11-21T16:26:49.123624Z  WARN cvmd: BFD lost"), Some(59_209_123_624));
        assert_eq!(time_of_day("edgeplex-init: cvmd exited"), None);
        let now = super::super::flow::now();
        assert_eq!(on_this_day((now - 5) % DAY), now - 5);
    }
}
