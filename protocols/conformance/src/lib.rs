//! Conformance steps as data files, one folder a protocol.
//!
//! A file is one story. Each line is an event that the engine's test harness understands; the indented lines below it are
//! what the engine must answer, in order and nothing else.
//!
//! ```text
//! # RFC 5036 §A.1.2: a label request for an unknown FEC
//! receive 10.255.0.2 label-request 192.0.2.0/24
//!   -> send 10.255.0.2 notification no-route
//! after 15s
//!   -> down 10.255.0.2 hold timer
//! ```
//!
//! `after T` lets time pass, from timer to timer, until T has gone by: `10ms`, `1.5s`, `2m`, `1h`. Blank lines and `#` lines are for the
//! reader. With `EDGEPLEX_BLESS=1` in the environment the answers are written into the file instead: read the difference
//! before you commit it.

use std::{fs, path::Path, time::Duration};

/// An engine under test, with words for its events and actions.
pub trait Subject {
    /// Does one event at `now`; gives what the engine answered, one line each. `Err`: the line is not an event.
    fn event(&mut self, now: Duration, line: &str) -> Result<Vec<String>, String>;
    /// When the engine wants to be called next.
    fn deadline(&self) -> Option<Duration>;
    /// The time is `now`, which is its deadline.
    fn timer(&mut self, now: Duration) -> Vec<String>;
}

/// Runs every `*.steps` file of a directory, each with a fresh subject, or panics with all differences. A directory without files fails.
pub fn run<S: Subject>(directory: &Path, mut subject: impl FnMut() -> S) {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "steps")).collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no .steps files", directory.display());
    let bless = std::env::var_os("EDGEPLEX_BLESS").is_some_and(|v| v == "1");
    let mut failures = String::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let told = replay(&text, &mut subject());
        if bless {
            fs::write(&file, told).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        } else if let Some((number, want, got)) = first_difference(&text, &told) {
            failures += &format!("{}:{number}\n  the file says    {want}\n  the engine says  {got}\n", file.display());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// The text with the answers that the engine gives.
fn replay(text: &str, subject: &mut impl Subject) -> String {
    let mut now = Duration::ZERO;
    let mut out = String::new();
    for line in text.lines() {
        let event = line.trim();
        if event.starts_with("->") {
            continue;
        }
        out += line;
        out.push('\n');
        if event.is_empty() || event.starts_with('#') {
            continue;
        }
        let answers = match event.strip_prefix("after ") {
            Some(time) => parse_time(time.trim()).map(|time| pass(&mut now, time, subject)),
            None => subject.event(now, event),
        };
        for answer in answers.unwrap_or_else(|e| vec![format!("!! {e}")]) {
            out += &format!("  -> {answer}\n");
        }
    }
    out
}

/// Time goes by, and the engine is called at each of its deadlines.
fn pass(now: &mut Duration, time: Duration, subject: &mut impl Subject) -> Vec<String> {
    let until = *now + time;
    let mut out = vec![];
    // An engine whose deadline does not move after its timer would never end.
    for _ in 0..100_000 {
        match subject.deadline() {
            Some(deadline) if deadline <= until => {
                *now = (*now).max(deadline);
                out.extend(subject.timer(*now));
            }
            _ => {
                *now = until;
                return out;
            }
        }
    }
    out.push("!! the deadline does not move".into());
    out
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}`: a time is like 10ms, 1.5s, 2m, 1h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{text}`: a time is like 10ms, 1.5s, 2m, 1h"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| format!("`{text}`: {e}"))
}

/// Line number and both lines where two texts part; blank and comment lines are equal in both.
fn first_difference(want: &str, got: &str) -> Option<(usize, String, String)> {
    let (mut want, mut got) = (want.lines(), got.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (want.next(), got.next()) {
            (None, None) => return None,
            (a, b) if a.map(str::trim_end) == b.map(str::trim_end) => {}
            (a, b) => return Some((number, a.unwrap_or("(nothing more)").into(), b.unwrap_or("(nothing more)").into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says `beep` every second, and repeats what it is told.
    struct Beeper(Duration);

    impl Subject for Beeper {
        fn event(&mut self, now: Duration, line: &str) -> Result<Vec<String>, String> {
            match line.strip_prefix("say ") {
                Some(word) => Ok(vec![format!("{word} at {}ms", now.as_millis())]),
                None => Err(format!("`{line}` is not an event")),
            }
        }
        fn deadline(&self) -> Option<Duration> {
            Some(self.0)
        }
        fn timer(&mut self, _: Duration) -> Vec<String> {
            self.0 += Duration::from_secs(1);
            vec!["beep".into()]
        }
    }

    #[test]
    fn answers_come_in_their_place() {
        let told = replay("# story\nafter 1.5s\nsay hello\n\n  -> old answer\nwrong\n", &mut Beeper(Duration::from_secs(1)));
        assert_eq!(told, "# story\nafter 1.5s\n  -> beep\nsay hello\n  -> hello at 1500ms\n\nwrong\n  -> !! `wrong` is not an event\n");
    }

    #[test]
    fn a_difference_is_seen_at_its_line() {
        assert_eq!(first_difference("a\n  -> b\n", "a\n  -> b\n"), None);
        assert_eq!(first_difference("a\n  -> b\n", "a\n"), Some((2, "  -> b".into(), "(nothing more)".into())));
        assert_eq!(first_difference("a\n", "a\n  -> c\n"), Some((2, "(nothing more)".into(), "  -> c".into())));
    }

    #[test]
    fn an_engine_that_stands_still_ends() {
        struct Stuck;
        impl Subject for Stuck {
            fn event(&mut self, _: Duration, _: &str) -> Result<Vec<String>, String> {
                Ok(vec![])
            }
            fn deadline(&self) -> Option<Duration> {
                Some(Duration::ZERO)
            }
            fn timer(&mut self, _: Duration) -> Vec<String> {
                vec![]
            }
        }
        assert_eq!(replay("after 1s\n", &mut Stuck), "after 1s\n  -> !! the deadline does not move\n");
    }
}
