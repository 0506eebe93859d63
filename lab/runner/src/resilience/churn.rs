//! 200 UPDATEs a second from gamma's site in Boston, for as long as the value lives: they go through Boston's PE, the reflectors and
//! denver's CVM to gamma and acme there.

use super::world::{CONVERGE, World};
use anyhow::{Context, Result, ensure};
use std::{
    io::{BufRead, BufReader, Write},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const PER_SECOND: u32 = 200;
/// Prefixes it plays with: 100.64.0.0/24 and on.
const PREFIXES: u32 = 1000;

#[derive(Debug)]
pub(super) struct Churn {
    child: Child,
    stop: Arc<AtomicBool>,
    writer: Option<thread::JoinHandle<()>>,
}

/// An UPDATE that announces (or takes back) one prefix, by its number: another MED each time round.
fn update(n: u32) -> String {
    let third = n % PREFIXES;
    let prefix = [24, 100, 64 + u8::try_from(third / 256).unwrap_or_default(), u8::try_from(third % 256).unwrap_or_default()];
    let round = n / PREFIXES;
    let bytes = if round % 4 == 3 {
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
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = thread::spawn(move || {
            let started = Instant::now();
            for n in 0.. {
                let due = started + Duration::from_secs(1) / PER_SECOND * n;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if stopped.load(Ordering::Relaxed) || writeln!(input, "{}", update(n)).is_err() {
                    break;
                }
            }
        });
        let churn = Self { child, stop, writer: Some(writer) };
        crate::wait::until_true("the churn is heard of in Denver", CONVERGE, || {
            let rows = world.edgeplex_json(&["show", "routes", "gamma/denver-1"])?;
            Ok(rows.as_array().is_some_and(|r| r.len() > 100))
        })?;
        Ok(churn)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
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
    fn an_update_is_whole() {
        assert_eq!(update(3001), "0004186440010000");
        let first = update(257);
        assert!(first.starts_with("0000001b") && first.ends_with("18644101"), "{first}");
        assert_eq!(first.len() / 2, 4 + 27 + 4);
    }
}
