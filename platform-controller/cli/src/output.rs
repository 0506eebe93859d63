//! Values on the terminal: aligned tables for people, JSON and YAML for programs.

use crate::error::Stop;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    time::Instant,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    format: Format,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// `value` for programs, what `text` makes of it for people.
    pub(crate) fn print<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Stop> {
        let text = match self.format {
            Format::Table => text(value),
            Format::Json => serde_json::to_string_pretty(value).map_err(unprintable)?,
            Format::Yaml => yaml(value)?,
        };
        write(&text)
    }

    /// Like [`Self::print`], but each value is a document of its own in YAML, so that `apply` takes them back.
    pub(crate) fn print_documents<T: Serialize>(self, values: &[T], text: impl FnOnce(&[T]) -> String) -> Result<(), Stop> {
        if self.format != Format::Yaml {
            return self.print(values, text);
        }
        let documents: Result<Vec<_>, _> = values.iter().map(yaml).collect();
        write(&documents?.join("---\n"))
    }
}

/// Lists stand deeper than their key: with the compact style the serializer sets an empty one, after another list, at its key's own
/// depth, which is no YAML.
fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String, Stop> {
    let options = serde_saphyr::ser_options! { compact_list_indent: false };
    serde_saphyr::to_string_with_options(&value, options).map_err(unprintable)
}

fn unprintable(e: impl Display) -> Stop {
    Stop::Failed(format!("writing the output: {e}"))
}

fn write(text: &str) -> Result<(), Stop> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// A line on standard error; when that is closed there is nobody left to tell.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", clean(line));
}

/// How something goes on, on standard error: one line that changes on a terminal, and elsewhere a line for each thing that has happened.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    last: String,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: String::new(), terminal: std::io::stderr().is_terminal() }
    }

    /// What is so just now: for a terminal. Empty clears the line.
    pub(crate) fn now(&self, line: &str) {
        if self.terminal {
            let mut out = std::io::stderr();
            let _ = write!(out, "\r\x1b[K{}", clean(line)).and_then(|()| out.flush());
        }
    }

    /// What has happened: for a log, once, with the time since the beginning.
    pub(crate) fn happened(&mut self, line: &str) {
        if !self.terminal && self.last != line {
            note(&format!("[{:7.3} s] {line}", self.began.elapsed().as_secs_f64()));
            line.clone_into(&mut self.last);
        }
    }
}

/// Text from elsewhere, a customer's VM perhaps, must not steer the operator's terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Columns under upper-case headers; an empty cell is `-`.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let cell = |c: String| if c.is_empty() { "-".to_owned() } else { clean(&c).replace('\n', " ") };
    let mut t = Table::new();
    t.load_preset(presets::NOTHING).set_header(header);
    for row in rows {
        t.add_row(row.into_iter().map(cell));
    }
    for column in t.column_iter_mut() {
        column.set_padding((0, 3));
    }
    t.trim_fmt() + "\n"
}

/// What there is, or nothing.
pub(crate) fn or_none(value: Option<impl Display>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

pub(crate) fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|v| v.to_string()).collect::<Vec<_>>().join(",")
}

/// `1d2h`, `3h4m`, `5m6s`, `7s`.
pub(crate) fn duration(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}

/// `2026-11-21 13:16:05.123Z` of milliseconds since 1970.
pub(crate) fn time(ms: u64) -> String {
    let (days, s) = (ms / 86_400_000, ms / 1000 % 86_400);
    // The civil calendar counted from 1 March of year 0, where leap days come last: eras of 400 years have 146,097 days.
    let d = days + 719_468;
    let (era, day) = (d / 146_097, d % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let date = of_year - (153 * m + 2) / 5 + 1;
    let (month, carry) = if m < 10 { (m + 3, 0) } else { (m - 9, 1) };
    let year = era * 400 + year + carry;
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}.{:03}Z", s / 3600, s / 60 % 60, s % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_plain() {
        let t = table(&["NAME", "STATE"], [vec!["acme".into(), "ready".into()], vec!["a-long-name".into(), String::new()]]);
        assert_eq!(t, "NAME          STATE\nacme          ready\na-long-name   -\n");
    }

    #[test]
    fn yaml_is_read_back_as_what_it_was() {
        let value = serde_json::json!([
            {"prefix": "10.0.0.0/8", "target": {"Vpn": {"paths": [{"label": 4006, "tunnel": 1}], "backup": []}}},
            {"prefix": "::/0", "target": {"Vpn": {"paths": [], "backup": [{"label": 3, "tunnel": 2}]}}, "empty": {}},
        ]);
        let text = yaml(&value).unwrap();
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let t = table(&["A"], [vec!["x\x1b[2J\u{9b}y\nz".into()]]);
        assert_eq!(t, "A\nx\u{fffd}[2J\u{fffd}y z\n");
    }

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(time(951_782_399_999), "2000-02-28 23:59:59.999Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(time(1_795_266_965_007), "2026-11-21 13:16:05.007Z");
        assert_eq!([59, 60, 3661, 90_000].map(duration), ["59s", "1m0s", "1h1m", "1d1h"]);
    }
}
