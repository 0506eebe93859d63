//! `lab/test`: every test of the project, one after the other, each with a log of its own; the last line counts.

use crate::{
    complain,
    demo::{self, Ledger, Options},
    lab::{Lab, down},
    leftovers, say,
    scenarios::{ALL, Ctx, PLATFORMS},
    state::LabDir,
};
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// The project's folder: said by the wrapper scripts, else where this was built.
pub fn root() -> PathBuf {
    env::var_os("EDGEPLEX_ROOT").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), PathBuf::from)
}

/// Name and command line, its words parted by blanks. Cargo's release profile is the one the lab runs, so artifacts are shared. Root's
/// tests that wait most of the time stand in modules `at_leisure`, so that some can run at once.
const STEPS: &[(&str, &str)] = &[
    ("format", "cargo fmt --all --check"),
    ("clippy", "cargo clippy --locked --release --workspace --all-targets -- -D warnings"),
    ("tests", "cargo test --locked --release --workspace --no-fail-fast"),
    ("tests as root", "cargo test --locked --release --workspace --tests --no-fail-fast -- --ignored --test-threads=1 --skip at_leisure::"),
    (
        "tests as root that wait",
        "cargo test --locked --release --workspace --tests --no-fail-fast -- --ignored --test-threads=4 at_leisure::",
    ),
    ("fuzz", "lab/fuzz/run 5"),
];

/// Lines that are shown of what failed.
const TOLD: usize = 60;

/// The labs of the step `lab`.
pub const LABS: [&str; 2] = ["test-a", "test-b"];
/// The step that is not a command: the scenarios on a lab.
const LAB: &str = "lab";

fn matches(only: Option<&str>, name: &str) -> bool {
    only.is_none_or(|o| name.contains(o))
}

/// Whether `--only` leaves anything to run.
pub fn check(only: Option<&str>) -> Result<()> {
    let names: Vec<&str> = STEPS.iter().map(|s| s.0).chain([LAB]).collect();
    ensure!(names.iter().any(|n| matches(only, n)), "--only {}: no such step; there are {}", only.unwrap_or_default(), names.join(", "));
    Ok(())
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs all; true if nothing failed.
pub fn run(only: Option<&str>) -> Result<bool> {
    let root = root();
    let out = root.join("lab/out/test");
    fs::create_dir_all(&out)?;
    let wanted = |name: &str| matches(only, name);
    let mut total = Count::default();
    let mut add = |name: &str, started: Instant, count: Count| {
        let sign = if count.failed == 0 { "ok" } else { "FAILED" };
        say!("{name}: {sign}, {} passed, {} failed ({:.0} s)", count.passed, count.failed, started.elapsed().as_secs_f64());
        total.passed += count.passed;
        total.failed += count.failed;
    };
    for (name, line) in STEPS.iter().filter(|s| wanted(s.0)) {
        let started = Instant::now();
        complain!("{name} …");
        let count = step(&root, name, line, &out.join(format!("{}.log", name.replace(' ', "-"))))?;
        add(name, started, count);
    }
    if wanted(LAB) {
        let started = Instant::now();
        add(LAB, started, labs(&root, &out));
    }
    say!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn step(root: &Path, name: &str, line: &str, log: &Path) -> Result<Count> {
    let mut arguments = line.split(' ');
    let program = arguments.next().context("empty step")?;
    let program = if program.contains('/') { root.join(program) } else { PathBuf::from(program) };
    let file = fs::File::create(log)?;
    let status =
        Command::new(program).args(arguments).current_dir(root).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status()?;
    let text = fs::read_to_string(log)?;
    let mut count = counts(&text);
    if count.passed + count.failed == 0 {
        // A step that counts nothing itself is one test.
        count = if status.success() { Count { passed: 1, failed: 0 } } else { Count { passed: 0, failed: 1 } };
    } else if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    if !status.success() {
        say!("--- {name}, of {}:", log.display());
        for line in why(&text) {
            say!("    {line}");
        }
    }
    Ok(count)
}

/// What a reader of a failed step's log needs: what cargo tells of each failed test, its last lines if that is long; else the log's end.
fn why(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = vec![];
    let mut rest = lines.as_slice();
    while let Some(begin) = rest.iter().position(|l| l.starts_with("---- ") && l.ends_with(" stdout ----")) {
        let told = &rest[begin..];
        let length = told.iter().skip(1).position(|l| l.starts_with("---- ") || *l == "failures:").map_or(told.len(), |n| n + 1);
        let (told, after) = told.split_at(length);
        found.push(told[0]);
        found.extend_from_slice(&told[told.len().saturating_sub(TOLD).max(1)..]);
        rest = after;
    }
    if found.is_empty() { lines[lines.len().saturating_sub(TOLD)..].to_vec() } else { found }
}

/// Sums the `N passed; N failed` of cargo and the `N passed, N failed` of our own scripts.
fn counts(text: &str) -> Count {
    let mut total = Count::default();
    for line in text.lines() {
        let line = line.strip_prefix("test result: ").unwrap_or(line);
        let words: Vec<&str> = line.split([' ', ';', ',', '.']).filter(|w| !w.is_empty()).collect();
        let before = |word: &str| words.iter().position(|w| *w == word).and_then(|i| words.get(i.checked_sub(1)?)?.parse::<u64>().ok());
        if let (Some(passed), Some(failed)) = (before("passed"), before("failed")) {
            total.passed += passed;
            total.failed += failed;
        }
    }
    total
}

/// The scenarios on one lab, while a second lab of the same topology runs beside it; then nothing may be left.
fn labs(root: &Path, out: &Path) -> Count {
    let topology = root.join("lab/topologies/two-cities.clab.yml");
    let mut ledger = Ledger::new(ALL.len() + 6);
    let beside = ledger.step("a second lab of the same file", || {
        let lab = Lab::up(&topology, Some(LABS[1]))?;
        Ok((lab, Default::default()))
    });
    let options = Options { topology, name: None, keep: false, json: None, out: out.join("lab"), only: None };
    demo::prove(&mut ledger, &options, LABS[0]);
    if let Some(lab) = beside {
        ledger.step("the second lab converges beside the first", || {
            let ctx = Ctx::new(&lab, out.join("lab-b"))?;
            demo::provision(&ctx)?;
            demo::converge(&ctx)?;
            Ok(((), Default::default()))
        });
    }
    ledger.step("nothing is left behind", || {
        for name in LABS {
            down(&LabDir::of(name)?)?;
            let found = leftovers::of(name, &PLATFORMS);
            ensure!(found.is_empty(), "left behind: {}", found.join(", "));
        }
        Ok(((), Default::default()))
    });
    say!("{}", ledger.table());
    let failed = ledger.failed() as u64;
    Count { passed: ledger.proofs.len() as u64 - failed, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tests_own_words_are_shown_wherever_they_stand() {
        let of_one = "---- a::b stdout ----\npanicked at x\n\n---- c stdout ----\nnot within 30s\n\nfailures:\n    a::b";
        let text = format!("running 9 tests\n{of_one}\n{}", "Doc-tests of others\n".repeat(100));
        assert_eq!(why(&text), ["---- a::b stdout ----", "panicked at x", "", "---- c stdout ----", "not within 30s", ""]);
        assert_eq!(why("error: no such crate\n"), ["error: no such crate"]);
    }

    #[test]
    fn counts_are_read_from_cargo_and_from_our_own_scripts() {
        let text = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\nfuzz x: ok\n4 passed, 1 failed\ntest result: FAILED. 1 passed; 2 failed;";
        let c = counts(text);
        assert_eq!((c.passed, c.failed), (8, 3));
    }
}
