//! 200 UPDATEs a second from gamma's site in Boston, for as long as the value lives: they go through Boston's PE, the reflectors and
//! denver's CVM to gamma and acme there, whose routers must have exactly what was said last whenever it pauses.

use super::world::{CONVERGE, World};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::Child,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

const PER_SECOND: u32 = 200;
/// Prefixes it plays with: 100.64.0.0/24 and on.
const PREFIXES: u32 = 1000;

/// Routers that are told of it: FRR's and GoBGP's words for their tables.
const TABLES: [(&str, &[&str]); 2] =
    [("acme-denver", &["vtysh", "-c", "show bgp ipv4 unicast json"]), ("gamma-denver", &["gobgp", "global", "rib", "-j"])];
/// Until what was said last is everywhere.
const SETTLE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Churn {
    child: Child,
    line: Arc<Mutex<Line>>,
    writer: Option<thread::JoinHandle<()>>,
}

/// Where the writer is.
#[derive(Debug, Default)]
struct Line {
    /// Number of the next UPDATE.
    next: u32,
    paused: bool,
    over: bool,
}

fn locked(line: &Mutex<Line>) -> std::sync::MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prefix(third: u32) -> [u8; 3] {
    [100, 64 + u8::try_from(third / 256).unwrap_or_default(), u8::try_from(third % 256).unwrap_or_default()]
}

/// Every fourth time round the prefixes are taken back.
fn takes_back(n: u32) -> bool {
    n / PREFIXES % 4 == 3
}

/// The prefixes that are announced after all UPDATEs below that number.
fn announced(next: u32) -> BTreeSet<String> {
    let last = |third: u32| (next > third).then(|| third + (next - 1 - third) / PREFIXES * PREFIXES);
    let there = (0..PREFIXES).filter(|third| last(*third).is_some_and(|n| !takes_back(n)));
    there.map(prefix).map(|[a, b, c]| format!("{a}.{b}.{c}.0/24")).collect()
}

/// An UPDATE that announces (or takes back) one prefix, by its number: another MED each time round.
fn update(n: u32) -> String {
    let [a, b, c] = prefix(n % PREFIXES);
    let prefix = [24, a, b, c];
    let round = n / PREFIXES;
    let bytes = if takes_back(n) {
        [&[0, 4][..], &prefix, &[0, 0]].concat()
    } else {
        // ORIGIN IGP, AS_PATH 65302, NEXT_HOP, MED.
        let attributes = [
            &[0x40, 1, 1, 0][..],
            &[0x40, 2, 6, 2, 1, 0, 0, 0xff, 0x16],
            &[0x40, 3, 4, 192, 168, 2, 2],
            &[0x80, 4, 4],
            &round.to_be_bytes(),
        ]
        .concat();
        let length = u16::try_from(attributes.len()).unwrap_or_default().to_be_bytes();
        [&[0, 0][..], &length, &attributes, &prefix].concat()
    };
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Churn {
    pub(super) fn start(world: &World<'_>) -> Result<Self> {
        let line = [
            "raw-bgp",
            "--peer",
            "192.168.2.1",
            "--local",
            "192.168.2.2",
            "--asn",
            "65302",
            "--router-id",
            "192.168.2.2",
            "--families",
            "1/1",
        ];
        let mut child = world.node("churn")?.tool(&line)?;
        let mut said = BufReader::new(child.stdout.take().context("no output")?);
        let mut input = child.stdin.take().context("no input")?;
        let mut first = String::new();
        said.read_line(&mut first)?;
        ensure!(first.contains("established"), "gamma's site in Boston: {first}");
        // What it reports later nobody needs; but it must be able to.
        thread::spawn(move || said.lines().map_while(Result::ok).for_each(drop));
        let line = Arc::new(Mutex::new(Line::default()));
        let of_writer = Arc::clone(&line);
        let writer = thread::spawn(move || write(&of_writer, &mut input));
        let churn = Self { child, line, writer: Some(writer) };
        wait::until_true("the churn is heard of in Denver", CONVERGE, || {
            let rows = world.edgeplex_json(&["show", "routes", "gamma/denver-1"])?;
            Ok(rows.as_array().is_some_and(|r| r.len() > 100))
        })?;
        Ok(churn)
    }

    /// How many prefixes of all tables are there and should not be, or the other way round, once it has paused and all is told.
    pub(super) fn wrong(&self, world: &World<'_>) -> Result<usize> {
        let expected = {
            let mut line = locked(&self.line);
            line.paused = true;
            announced(line.next)
        };
        let mut wrong = 0;
        let same = wait::until("the routes are what was said last", SETTLE, || {
            wrong = 0;
            for (node, ask) in TABLES {
                let said: Value = serde_json::from_str(&world.node(node)?.run(ask)?).with_context(|| format!("{node}: not JSON"))?;
                let table = said.get("routes").unwrap_or(&said).as_object().into_iter().flatten();
                let there: BTreeSet<String> = table.map(|(prefix, _)| prefix.clone()).filter(|p| p.starts_with("100.")).collect();
                wrong += there.symmetric_difference(&expected).count();
            }
            Ok(if wrong == 0 { Ok(()) } else { Err(format!("{wrong} are not")) })
        });
        locked(&self.line).paused = false;
        // Not in time is what is counted; not to be asked is an error.
        if wrong == 0 {
            same?;
        }
        Ok(wrong)
    }
}

fn write(line: &Mutex<Line>, input: &mut impl Write) {
    let pace = Duration::from_secs(1) / PER_SECOND;
    let mut due = Instant::now();
    loop {
        // What was missed during a pause is not caught up with.
        due = (due + pace).max(Instant::now().checked_sub(pace * PER_SECOND).unwrap_or(due));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut line = locked(line);
        if line.over {
            return;
        }
        if line.paused {
            due = Instant::now();
        } else if writeln!(input, "{}", update(line.next)).is_err() {
            return;
        } else {
            line.next += 1;
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        locked(&self.line).over = true;
        crate::traffic::stop(&mut self.child);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_counts() {
        assert!(announced(0).is_empty());
        assert_eq!(announced(2).into_iter().collect::<Vec<_>>(), ["100.64.0.0/24", "100.64.1.0/24"]);
        assert_eq!(announced(3 * PREFIXES).len(), 1000);
        let some = announced(3 * PREFIXES + 400);
        assert!(some.len() == 600 && !some.contains("100.64.0.0/24") && some.contains("100.65.144.0/24"));
        assert_eq!(announced(4 * PREFIXES + 1).into_iter().collect::<Vec<_>>(), ["100.64.0.0/24"]);
    }

    #[test]
    fn an_update_is_whole() {
        assert_eq!(update(3001), "0004186440010000");
        let first = update(257);
        assert!(first.starts_with("0000001b") && first.ends_with("18644101"), "{first}");
        assert_eq!(first.len() / 2, 4 + 27 + 4);
    }
}
