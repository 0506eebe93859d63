//! The CVM's end of the relay.

use super::{Delivery, HANDSHAKE_MS, HIGH_WATER, Keys, MAX_FRAME, PublicKey, TransportError, keys::decode_key, socket::AsyncSocket, zap};
use edgeplex_mgmt::config;
use edgeplex_relay::{Refusal, ToCvm, ToPvm, decode, encode};
use edgeplex_types::AttachmentId;
use std::{
    fs::Permissions,
    hash::{BuildHasher, RandomState},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tracing::warn;
use zmq::{Context, DONTWAIT, Message, ROUTER, SNDMORE, SocketType};

/// One connection of a PVM, as ZeroMQ names it. A reconnect gives another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(Vec<u8>);

/// What was refused since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Connections whose key is not in the table, and messages of such as were taken out of it.
    pub wrong_key: u64,
    /// Hellos in another attachment's name.
    pub not_yours: u64,
    /// Messages that are too long, do not decode, or exceed a limit.
    pub malformed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) wrong_key: AtomicU64,
    not_yours: AtomicU64,
    malformed: AtomicU64,
}

impl Counters {
    /// Counts one more and tells how many there are.
    pub(super) fn count(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// ROUTER with CURVE; must be made within a tokio runtime.
#[derive(Debug)]
pub struct RelayServer {
    socket: AsyncSocket,
    keys: Keys,
    counters: Arc<Counters>,
    zap: tokio::task::JoinHandle<()>,
}

impl RelayServer {
    /// Binds the endpoint, whoever had it before. Nobody may connect until [`set_keys`](Self::set_keys).
    pub fn bind(config: &config::RelayServer) -> Result<Self, TransportError> {
        let context = Context::new();
        let counters = Arc::new(Counters::default());
        let keys = Keys::default();

        // Before the ROUTER is bound: without a handler ZeroMQ would let every key in.
        let zap = context.socket(SocketType::REP)?;
        zap.set_linger(0)?;
        zap.bind(zap::ENDPOINT)?;
        let zap = tokio::spawn(zap::run(AsyncSocket::new(zap)?, keys.clone(), counters.clone()));

        let socket = context.socket(ROUTER)?;
        socket.set_linger(0)?;
        socket.set_handshake_ivl(HANDSHAKE_MS)?;
        socket.set_maxmsgsize(MAX_FRAME)?;
        socket.set_sndhwm(HIGH_WATER)?;
        socket.set_rcvhwm(HIGH_WATER)?;
        // A message to a peer that is gone or full is an error to act on, not a silent loss.
        socket.set_router_mandatory(true)?;
        socket.set_zap_domain("relay")?;
        socket.set_curve_server(true)?;
        socket.set_curve_secretkey(&decode_key(&config.secret_key)?)?;
        let bind =
            |endpoint: &str| socket.bind(endpoint).map_err(|source| TransportError::Endpoint { endpoint: config.endpoint.clone(), source });
        match config.endpoint.strip_prefix("ipc://") {
            Some(path) => {
                // Under another name first: whoever had the name before loses it in one step, and when it ends, ZeroMQ removes the
                // name that it had bound and not ours.
                let own = format!("{path}.{:08x}", RandomState::new().hash_one(std::process::id()) >> 32);
                bind(&format!("ipc://{own}"))?;
                // A PVM is another user to this namespace. CURVE decides who may speak, not the file.
                std::fs::set_permissions(&own, Permissions::from_mode(0o666))?;
                std::fs::rename(&own, path)?;
            }
            None => bind(&config.endpoint)?,
        }
        Ok(Self { socket: AsyncSocket::new(socket)?, keys, counters, zap })
    }

    /// Replaces the table of who may connect. Live connections whose key is not in it are cut off.
    pub fn set_keys(&self, keys: impl IntoIterator<Item = (PublicKey, AttachmentId)>) -> Result<(), TransportError> {
        self.keys.replace(keys)
    }

    pub fn refusals(&self) -> Refusals {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.counters;
        Refusals { wrong_key: get(&c.wrong_key), not_yours: get(&c.not_yours), malformed: get(&c.malformed) }
    }

    /// The next message that its sender was entitled to send. Others are counted and logged. Cancel-safe.
    pub async fn recv(&mut self) -> Result<(Peer, AttachmentId, ToCvm), TransportError> {
        loop {
            let (mut frames, count) = self.socket.recv(2).await?;
            let (Some(mut body), Some(peer)) = (frames.pop(), frames.pop()) else { continue };
            let peer = Peer(peer.to_vec());
            let Some(attachment) = self.speaker(&mut body) else {
                let seen = Counters::count(&self.counters.wrong_key);
                if seen.is_power_of_two() {
                    warn!(refused = seen, "relay: a message under a key no longer valid is dropped");
                }
                continue;
            };
            match if count == 2 { decode::<ToCvm>(&body).map_err(|e| e.to_string()) } else { Err(format!("{count} frames instead of 2")) } {
                Ok(ToCvm::Hello { attachment: claimed, incarnation, .. }) if claimed != attachment => {
                    let seen = Counters::count(&self.counters.not_yours);
                    if seen.is_power_of_two() {
                        warn!(%attachment, %claimed, refused = seen, "relay: a PVM speaks in another attachment's name, refused");
                    }
                    let _ = self.send(&peer, &ToPvm::Refused { incarnation, reason: Refusal::NotYours })?;
                }
                Ok(message) => return Ok((peer, attachment, message)),
                Err(error) => {
                    let seen = Counters::count(&self.counters.malformed);
                    if seen.is_power_of_two() {
                        warn!(%attachment, error, refused = seen, "relay: malformed message dropped");
                    }
                }
            }
        }
    }

    /// The attachment whose key the connection of this message has proven, if the table still has it.
    fn speaker(&self, body: &mut Message) -> Option<AttachmentId> {
        self.keys.lookup(&body.gets("User-Id")?.parse().ok()?)
    }

    /// Queues a message; never waits. Errors are those of the message or of the whole socket.
    pub fn send(&mut self, peer: &Peer, message: &ToPvm) -> Result<Delivery, TransportError> {
        let body = encode(message)?;
        match self.socket.get().send(&peer.0[..], DONTWAIT | SNDMORE) {
            Ok(()) => {}
            Err(zmq::Error::EAGAIN | zmq::Error::EHOSTUNREACH | zmq::Error::EINTR) => return Ok(Delivery::Dropped),
            Err(e) => return Err(e.into()),
        }
        match self.socket.get().send(body, DONTWAIT) {
            Ok(()) => Ok(Delivery::Queued),
            Err(zmq::Error::EAGAIN | zmq::Error::EHOSTUNREACH) => Ok(Delivery::Dropped),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.zap.abort();
    }
}
