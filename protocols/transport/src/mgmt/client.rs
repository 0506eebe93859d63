//! The asker's end. What it talks to may be hostile: everything is capped and timed.

use super::MgmtError;
use edgeplex_mgmt::{Answer, MAX_LINE};
use serde::{Serialize, de::DeserializeOwned};
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixStream,
};

/// Connects to the socket at `path`, asks one question and returns the answer, all within `limit`.
pub async fn ask<Q: Serialize + Sync, T: DeserializeOwned>(path: &Path, question: &Q, limit: Duration) -> Result<T, MgmtError> {
    let error = |source| MgmtError::Socket { path: path.to_owned(), source };
    let exchange = async { ask_over(UnixStream::connect(path).await.map_err(error)?, path, question, limit).await };
    tokio::time::timeout(limit, exchange).await.map_err(|_| MgmtError::Timeout(limit))?
}

/// [`ask`] over a connection that is there already; `name` says in errors whose it is.
pub async fn ask_over<S, Q, T>(mut stream: S, name: &Path, question: &Q, limit: Duration) -> Result<T, MgmtError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    Q: Serialize + Sync,
    T: DeserializeOwned,
{
    let error = |source| MgmtError::Socket { path: name.to_owned(), source };
    let exchange = async {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(error)?;
        line.clear();
        let mut capped = BufReader::new(stream).take(MAX_LINE as u64);
        capped.read_until(b'\n', &mut line).await.map_err(error)?;
        match line.last() {
            None => Err(MgmtError::Closed),
            Some(b'\n') => match serde_json::from_slice(&line)? {
                Answer::Ok(value) => Ok(value),
                Answer::Error(text) => Err(MgmtError::Refused(text)),
            },
            Some(_) if line.len() >= MAX_LINE => Err(MgmtError::TooLong(MAX_LINE)),
            Some(_) => Err(MgmtError::Closed),
        }
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| MgmtError::Timeout(limit))?
}
