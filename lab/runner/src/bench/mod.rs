//! `lab/bench NAME`: figures against a rival or a bound, measured in the same run; a table for people, JSON lines for programs.

mod picture;

pub use picture::{Panel, draw};

use crate::say;
use anyhow::{Context, Result};
use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use std::{fs, path::Path};

/// One figure. `ours` and `peer` are medians; `ratio` is ours to the peer's, by `unit` as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub bench: String,
    pub case: String,
    pub metric: String,
    pub ours: f64,
    /// The rival's median, or the bound of the promise.
    pub peer: Option<f64>,
    pub peer_name: String,
    pub ratio: Option<f64>,
    /// Measurements behind ours.
    pub n: usize,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub unit: String,
    /// Whether a promise holds; none was made for a row without a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
}

/// What ours is compared with.
#[derive(Debug, Clone)]
pub enum Peer {
    /// At most so much, in every single measurement.
    Never(f64, &'static str),
    /// At most so much in the median.
    AtMost(f64, &'static str),
    /// At least so much in the median.
    AtLeast(f64, &'static str),
    /// A rival's measurements of this run.
    Rival(Vec<f64>, String),
    Nobody,
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value below which that share of the measurements lies.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index of a small list")]
    let at = (share.clamp(0.0, 1.0) * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl Row {
    pub fn new(bench: &str, case: &str, metric: &str, unit: &str, values: &[f64], peer: Peer) -> Self {
        let (median, min, max) = (quantile(values, 0.5), quantile(values, 0.0), quantile(values, 1.0));
        let (value, peer_name, held) = match peer {
            Peer::Never(bound, name) => (Some(bound), name.to_owned(), Some(max <= bound)),
            Peer::AtMost(bound, name) => (Some(bound), name.to_owned(), Some(median <= bound)),
            Peer::AtLeast(bound, name) => (Some(bound), name.to_owned(), Some(median >= bound)),
            Peer::Rival(rival, name) => (Some(quantile(&rival, 0.5)), name, None),
            Peer::Nobody => (None, String::new(), None),
        };
        let ratio = value.filter(|p| *p != 0.0).map(|p| median / p);
        Self {
            bench: bench.into(),
            case: case.into(),
            metric: metric.into(),
            ours: median,
            peer: value,
            peer_name,
            ratio,
            n: values.len(),
            median,
            min,
            max,
            unit: unit.into(),
            held: held.filter(|_| !values.is_empty()),
        }
    }
}

fn figure(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".into(),
        v if v == v.round() && v.abs() < 1e9 => format!("{v:.0}"),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(160);
    }
    table.set_header(["", "case", "metric", "ours (median)", "min … max", "n", "unit", "against", "ratio"]);
    for r in rows {
        let sign = r.held.map_or("", |held| if held { "ok" } else { "MISSED" });
        let against = r.peer.map(|p| format!("{} {}", figure(p), r.peer_name)).unwrap_or_default();
        table.add_row([
            Cell::new(sign),
            Cell::new(&r.case),
            Cell::new(&r.metric),
            Cell::new(figure(r.ours)),
            Cell::new(format!("{} … {}", figure(r.min), figure(r.max))),
            Cell::new(r.n),
            Cell::new(&r.unit),
            Cell::new(against),
            Cell::new(r.ratio.map(figure).unwrap_or_default()),
        ]);
    }
    table.to_string()
}

/// Prints the table; with a file, writes one JSON object a line.
pub fn report(rows: &[Row], json: Option<&Path>) -> Result<()> {
    say!("{}", table(rows));
    if let Some(file) = json {
        let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        fs::write(file, lines.join("\n") + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_holds_in_the_median_or_in_every_case() {
        let row = |peer| Row::new("b", "c", "m", "ms", &[3.0, 1.0, 20.0], peer);
        assert_eq!((row(Peer::Nobody).median, row(Peer::Nobody).min, row(Peer::Nobody).max), (3.0, 1.0, 20.0));
        assert_eq!(row(Peer::AtMost(5.0, "")).held, Some(true));
        assert_eq!(row(Peer::Never(5.0, "")).held, Some(false));
        assert_eq!(row(Peer::AtLeast(5.0, "")).held, Some(false));
        let rival = row(Peer::Rival(vec![6.0, 6.0, 1.0], "BIRD".into()));
        assert_eq!((rival.peer, rival.ratio, rival.held), (Some(6.0), Some(0.5), None));
    }

    #[test]
    fn nothing_measured_promises_nothing() {
        let row = Row::new("b", "c", "m", "ms", &[], Peer::Never(0.0, "target"));
        assert!(row.held.is_none() && row.median.is_nan());
    }
}
