//! The matrix: rows are (protocol, peer), columns what was tried. A cell says how it ended and why.

use comfy_table::{Cell as TableCell, ContentArrangement, Table, presets};
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Column {
    Up,
    Routes,
    Withdraw,
    Refresh,
    BadInput,
    RestartPeer,
    RestartOurs,
    Md5,
}

pub(super) const COLUMNS: [(Column, &str); 8] = [
    (Column::Up, "up"),
    (Column::Routes, "routes both ways"),
    (Column::Withdraw, "withdraw"),
    (Column::Refresh, "refresh"),
    (Column::BadInput, "bad input"),
    (Column::RestartPeer, "kill -9 peer"),
    (Column::RestartOurs, "kill -9 ours"),
    (Column::Md5, "MD5"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Failed,
    /// The protocol or the peer has no such thing.
    #[serde(rename = "n/a")]
    NotApplicable,
}

/// One cell.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    pub verdict: Verdict,
    /// What was seen, and by whom; or why not.
    pub evidence: String,
    pub seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub protocol: String,
    pub peer: String,
    pub cells: BTreeMap<Column, Cell>,
}

/// Lines by key `protocol peer`, in the order in which they were declared.
#[derive(Debug, Default)]
pub(super) struct Matrix {
    pub lines: Vec<Line>,
}

impl Matrix {
    pub(super) fn declare(&mut self, protocol: &str, peer: &str) {
        self.lines.push(Line { protocol: protocol.into(), peer: peer.into(), cells: BTreeMap::new() });
    }

    /// Does the work and notes the outcome in each of the lines.
    pub(super) fn check(&mut self, lines: &[usize], column: Column, work: impl FnOnce() -> anyhow::Result<String>) {
        let started = Instant::now();
        let outcome = work();
        let seconds = started.elapsed().as_secs_f64();
        let (verdict, evidence) = match outcome {
            Ok(text) => (Verdict::Ok, text),
            Err(e) => (Verdict::Failed, format!("{e:#}")),
        };
        for i in lines {
            let Some(line) = self.lines.get_mut(*i) else { continue };
            if verdict == Verdict::Failed {
                crate::complain!("    {} with {}, {}: FAILED: {evidence}", line.protocol, line.peer, name(column));
            }
            line.cells.insert(column, Cell { verdict, evidence: evidence.clone(), seconds });
        }
    }

    pub(super) fn not_applicable(&mut self, line: usize, column: Column, why: &str) {
        if let Some(line) = self.lines.get_mut(line) {
            line.cells.insert(column, Cell { verdict: Verdict::NotApplicable, evidence: why.into(), seconds: 0.0 });
        }
    }

    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.lines.iter().flat_map(|l| l.cells.values()).filter(|c| c.verdict == verdict).count()
    }

    /// A cell that was never reached counts as a failure of the run, not of the cell.
    pub(super) fn missing(&self, columns: &[Column]) -> usize {
        self.lines.iter().map(|l| columns.iter().filter(|c| !l.cells.contains_key(c)).count()).sum()
    }

    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none() {
            table.set_width(150);
        }
        table.set_header([vec!["protocol", "peer"], COLUMNS.iter().map(|c| c.1).collect()].concat());
        for line in &self.lines {
            let sign = |column: &Column| match line.cells.get(column).map(|c| c.verdict) {
                Some(Verdict::Ok) => "ok",
                Some(Verdict::Failed) => "FAILED",
                Some(Verdict::NotApplicable) => "n/a",
                None => "-",
            };
            let cells = COLUMNS.iter().map(|(c, _)| TableCell::new(sign(c)));
            table.add_row([TableCell::new(&line.protocol), TableCell::new(&line.peer)].into_iter().chain(cells));
        }
        table.to_string()
    }
}

pub(super) fn name(column: Column) -> &'static str {
    COLUMNS.iter().find(|c| c.0 == column).map_or("", |c| c.1)
}
