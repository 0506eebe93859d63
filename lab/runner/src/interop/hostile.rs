//! The hostile speaker of a node: it stands where a router of the peer's stood, and says what it is told.

use crate::{node::Node, tools::rawbgp::Event, traffic::stop, wait};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

#[derive(Debug)]
pub(super) struct Hostile {
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<Event>,
    /// What has come of the session, once it has ended.
    end: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub local: &'a str,
    pub peer: &'a str,
    pub asn: u16,
    pub router_id: &'a str,
    /// `AFI/SAFI,…`
    pub families: &'a str,
}

impl Hostile {
    /// Returns once the session is established.
    pub(super) fn start(node: &Node, from: &From<'_>) -> Result<Self> {
        let asn = from.asn.to_string();
        let line = [
            "raw-bgp",
            "--peer",
            from.peer,
            "--local",
            from.local,
            "--asn",
            &asn,
            "--router-id",
            from.router_id,
            "--families",
            from.families,
        ];
        let mut child = node.tool(&line)?;
        let (input, output) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send(event).is_err()
                {
                    return;
                }
            }
        });
        let mut hostile = Self { child, input: Some(input), events, end: None };
        match hostile.events.recv_timeout(Duration::from_secs(60)) {
            Ok(Event::Established) => Ok(hostile),
            other => {
                stop(&mut hostile.child);
                let mut said = String::new();
                if let Some(mut e) = hostile.child.stderr.take() {
                    e.read_to_string(&mut said)?;
                }
                bail!("the hostile speaker got no session with {}: {other:?} {}", from.peer, said.trim())
            }
        }
    }

    /// Sends an UPDATE with this body.
    pub(super) fn update(&mut self, body: &[u8]) -> Result<()> {
        let mut line = String::with_capacity(body.len() * 2 + 1);
        for byte in body {
            write!(line, "{byte:02x}")?;
        }
        line.push('\n');
        // If it has ended, `ended` says why.
        if let Some(input) = &mut self.input {
            let _ = input.write_all(line.as_bytes()).and_then(|()| input.flush());
        }
        Ok(())
    }

    /// How the session ended, if it has: `3/1` as NOTIFICATION code and subcode, or `closed`.
    pub(super) fn ended(&mut self) -> Option<String> {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Notification { code, subcode } => self.end = Some(format!("{code}/{subcode}")),
                Event::Closed => {
                    self.end.get_or_insert_with(|| "closed".to_owned());
                }
                Event::Established => {}
            }
        }
        self.end.clone()
    }

    /// Says goodbye politely and waits for the process.
    pub(super) fn stop(mut self) -> Result<()> {
        drop(self.input.take());
        wait::until_true("the hostile speaker ends", Duration::from_secs(10), || Ok(self.child.try_wait()?.is_some()))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}
