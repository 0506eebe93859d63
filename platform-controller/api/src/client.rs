//! The API's client, over a Unix socket.

use crate::{Failure, MAX_BODY};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{path}: {error}; is edgeplexd running? --socket or EDGEPLEX_SOCKET names its socket", path = path.display(), error = crate::plain(error))]
    Connect { path: PathBuf, error: std::io::Error },
    #[error("edgeplexd did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("talking to edgeplexd: {0}")]
    Http(String),
    /// Nothing was changed: it was wrong, or does not fit what there is.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// It was tried.
    #[error("{}", .0.message)]
    Failed(Failure),
}

#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

fn http(e: impl std::fmt::Display) -> ClientError {
    ClientError::Http(e.to_string())
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into(), patience: Duration::from_secs(30) }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The same, for a question that takes its time.
    pub fn patient(&self, patience: Duration) -> Self {
        Self { socket: self.socket.clone(), patience: patience.max(self.patience) }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.request(Method::POST, path, serde_json::to_vec(body).map_err(http)?.into()).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let exchange = self.exchange(method, path, body);
        let (status, body) = tokio::time::timeout(self.patience, exchange).await.map_err(|_| ClientError::Timeout(self.patience))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(http);
        }
        let failure = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Failure { message: format!("{status}: {}", String::from_utf8_lossy(&body)), problem: None });
        Err(if status.is_client_error() { ClientError::Refused(failure) } else { ClientError::Failed(failure) })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| ClientError::Connect { path: self.socket.clone(), error })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "edgeplex")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(http)?;
        let answer = sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(http)?.to_bytes();
        driver.abort();
        Ok((status, body))
    }
}
