//! One TCP transfer, checked end to end: the sender digests what it sends, the receiver what it gets, and the
//! receiver answers with its digest and its name.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

const CHUNK: usize = 65536;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub bytes: u64,
    pub seconds: f64,
    pub mbit_per_second: f64,
    pub sha256: String,
    pub answered_by: String,
}

/// Receives until the sender closes, then answers `NAME BYTES SHA256`.
pub fn digest(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        total += n as u64;
    }
    stream.write_all(format!("{name} {total} {}", hex(&hash.finalize())).as_bytes())?;
    Ok(())
}

/// Sends so many bytes that no two chunks are alike.
pub fn send(to: SocketAddr, bytes: u64) -> Result<Report> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).context("connecting")?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let mut hash = Sha256::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let chunk = noise(&mut seed, n);
        hash.update(&chunk);
        stream.write_all(&chunk).context("sending")?;
        left -= n as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("waiting for the digest")?;
    let seconds = started.elapsed().as_secs_f64();
    let mine = hex(&hash.finalize());
    let [name, total, theirs] = answer.split(' ').collect::<Vec<_>>().try_into().ok().context("answer not understood")?;
    ensure!(total == bytes.to_string() && theirs == mine, "sent {bytes} bytes with {mine}, but {total} arrived with {theirs}");
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let mbit_per_second = bytes as f64 * 8.0 / 1e6 / seconds;
    Ok(Report { bytes, seconds, mbit_per_second, sha256: mine, answered_by: name.to_owned() })
}

/// Xorshift: fast, and no two chunks repeat.
fn noise(seed: &mut u64, n: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(n + 8);
    while out.len() < n {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out.truncate(n);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    #[test]
    fn a_transfer_is_digested_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || digest(listener.accept().unwrap().0, "me"));
        let report = send(to, 200_001).unwrap();
        server.join().unwrap().unwrap();
        assert_eq!((report.bytes, report.answered_by.as_str()), (200_001, "me"));
    }

    #[test]
    fn a_receiver_that_got_something_else_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            std::io::copy(&mut s, &mut std::io::sink()).unwrap();
            s.write_all(b"me 10 abcd").unwrap();
        });
        assert!(send(to, 10).unwrap_err().to_string().contains("abcd"));
    }
}
