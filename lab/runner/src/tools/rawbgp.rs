//! A BGP speaker that says whatever it is told: after an honest handshake every line of standard input, in hexadecimal,
//! goes out as the body of an UPDATE. Nothing of it is parsed here. It keeps the session alive, reports on standard
//! output what becomes of it, one JSON object a line, and ends with its input.

use super::badbgp::{KEEPALIVE, NOTIFICATION, OPEN, Session, UPDATE, patiently};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead, Write},
    net::{IpAddr, Ipv4Addr},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

#[derive(Debug, Clone)]
pub struct Options {
    pub peer: IpAddr,
    pub local: IpAddr,
    pub asn: u16,
    pub router_id: Ipv4Addr,
    /// AFI and SAFI of each family to agree on.
    pub families: Vec<(u16, u8)>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    Established,
    Notification { code: u8, subcode: u8 },
    Closed,
}

/// The hold time offered is 90 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub fn run(options: &Options) -> Result<()> {
    let mut session = patiently(|| connect(options))?;
    say(&Event::Established)?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || std::io::stdin().lock().lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
    let mut spoken = Instant::now();
    session.stream.set_read_timeout(Some(LOOK_EVERY))?;
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => {
                for line in std::iter::once(line).chain(lines.try_iter()) {
                    // A session that has ended says so below.
                    let _ = session.send(UPDATE, &bytes(&line)?);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                // Cease, Administrative Shutdown.
                let _ = session.send(NOTIFICATION, &[6, 2]);
                return Ok(());
            }
        }
        if spoken.elapsed() > KEEPALIVE_EVERY {
            let _ = session.send(KEEPALIVE, &[]);
            spoken = Instant::now();
        }
        match session.receive() {
            Ok(Some((NOTIFICATION, body))) => {
                let at = |i: usize| body.get(i).copied().unwrap_or_default();
                say(&Event::Notification { code: at(0), subcode: at(1) })?;
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                say(&Event::Closed)?;
                return Ok(());
            }
            // Nothing to read for now.
            Err(_) => {}
        }
    }
}

fn connect(options: &Options) -> Result<Session> {
    let mut session = Session::connect(options.peer, Some(options.local))?;
    let [hi, lo] = options.asn.to_be_bytes();
    let mut capabilities = vec![65, 4, 0, 0, hi, lo];
    for (afi, safi) in &options.families {
        let [a, b] = afi.to_be_bytes();
        capabilities.extend_from_slice(&[1, 4, a, b, 0, *safi]);
    }
    let length = u8::try_from(capabilities.len())?;
    let parameters = [&[2, length][..], &capabilities].concat();
    let open = [&[4, hi, lo, 0, 90][..], &options.router_id.octets(), &[length + 2], &parameters].concat();
    session.send(OPEN, &open)?;
    loop {
        match session.receive()?.context("closed during the handshake")? {
            (NOTIFICATION, body) => bail!("NOTIFICATION {body:?} during the handshake"),
            (OPEN, _) => session.send(KEEPALIVE, &[])?,
            (KEEPALIVE, _) => return Ok(session),
            _ => {}
        }
    }
}

fn bytes(line: &str) -> Result<Vec<u8>> {
    let digits = line.trim().as_bytes();
    let pair = |p: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(p), 16).with_context(|| format!("{line}: not hexadecimal"));
    digits.chunks(2).map(pair).collect()
}

fn say(event: &Event) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(event)?)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bytes() {
        assert_eq!(bytes("00ff7F\n").unwrap(), [0, 255, 127]);
        assert!(bytes("0g").is_err());
    }
}
