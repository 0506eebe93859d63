//! An image on its way to another host, over a connection of its own.
//!
//! ```text
//!   controller                                     agent
//!   Hello { Image { name, programs } }  ────────►  has some of it from an earlier try, or all, or nothing
//!                                       ◄────────  Welcome, Taken::From [bytes that it has of each]
//!   at most CHUNK bytes of a program    ────────►  images/.NAME.part/
//!                                       ◄────────  Taken::Chunk        and so on to the last program's end
//!                                       ◄────────  Taken::Whole        every hash is right: it is images/NAME now
//! ```
//! One chunk is under way at a time, so that what else goes to that host, its beats above all, never waits behind an image. A
//! connection that breaks costs one chunk. What was damaged on the way, or comes from another image, is found by its hash and begun anew.

mod send;
mod take;

pub(crate) use send::ship;
pub(crate) use take::take;

use crate::AgentError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, Read},
    path::Path,
    time::Duration,
};

/// Bytes of a program that are sent before they are acknowledged.
const CHUNK: u64 = 256 << 10;
/// What a chunk may take, either way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reading everything again, for its hashes, may take longer.
const CHECK: Duration = Duration::from_secs(60);
/// Of one image, and of one program in it, bytes.
const PROGRAMS: usize = 16;
const LARGEST: u64 = 1 << 30;

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    name: String,
    bytes: u64,
    /// 64 hexadecimal digits.
    sha256: String,
}

/// What the agent says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Taken {
    /// So many bytes of each program are there already.
    From(Vec<u64>),
    Chunk,
    Whole,
    Failed(String),
}

/// The hash of a file, and how long it is.
fn hash(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hash, mut chunk, mut bytes) = (fs::File::open(path)?, Sha256::new(), vec![0; 1 << 16], 0);
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => {
                hash.update(&chunk[..n]);
                bytes += n as u64;
            }
        }
    }
    Ok((bytes, hash.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

/// Off the threads that carry messages.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, AgentError> + Send + 'static) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(AgentError::Refused(e.to_string())))
}

/// How an operator is told of a file.
fn at(path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    AgentError::io(path.display().to_string())
}
