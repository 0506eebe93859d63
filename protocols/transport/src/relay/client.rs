//! A PVM's end of the relay.

use super::{Delivery, HANDSHAKE_MS, HIGH_WATER, MAX_FRAME, TransportError, keys::decode_key, socket::AsyncSocket};
use edgeplex_mgmt::config;
use edgeplex_relay::{ToCvm, ToPvm, decode, encode};
use tracing::warn;
use zmq::{Context, DEALER, DONTWAIT};

/// DEALER with CURVE; must be made within a tokio runtime. Reconnects by itself, at once and then less and less
/// often up to every second. Whether the session still stands is for the messages to tell.
#[derive(Debug)]
pub struct RelayClient {
    socket: AsyncSocket,
    malformed: u64,
}

impl RelayClient {
    /// Starts to connect; fails only on a bad configuration.
    pub fn connect(config: &config::RelayClient) -> Result<Self, TransportError> {
        let socket = Context::new().socket(DEALER)?;
        socket.set_linger(0)?;
        socket.set_maxmsgsize(MAX_FRAME)?;
        socket.set_sndhwm(HIGH_WATER)?;
        socket.set_rcvhwm(HIGH_WATER)?;
        // Nothing is queued for a server that is not there: what it would get belongs to a past session.
        socket.set_immediate(true)?;
        // A server that does not know our key yet leaves the handshake hanging: try again soon.
        socket.set_handshake_ivl(HANDSHAKE_MS)?;
        socket.set_reconnect_ivl(20)?;
        socket.set_reconnect_ivl_max(1000)?;
        socket.set_curve_serverkey(&decode_key(&config.server_key)?)?;
        socket.set_curve_publickey(&decode_key(&config.public_key)?)?;
        socket.set_curve_secretkey(&decode_key(&config.secret_key)?)?;
        socket.connect(&config.endpoint).map_err(|source| TransportError::Endpoint { endpoint: config.endpoint.clone(), source })?;
        Ok(Self { socket: AsyncSocket::new(socket)?, malformed: 0 })
    }

    /// The next message. Malformed ones are dropped and logged. Cancel-safe.
    pub async fn recv(&mut self) -> Result<ToPvm, TransportError> {
        loop {
            let (frames, count) = self.socket.recv(1).await?;
            let [body] = &frames[..] else { continue };
            match if count == 1 { decode::<ToPvm>(body).map_err(|e| e.to_string()) } else { Err(format!("{count} frames instead of 1")) } {
                Ok(message) => return Ok(message),
                Err(error) => {
                    self.malformed += 1;
                    if self.malformed.is_power_of_two() {
                        warn!(error, dropped = self.malformed, "relay: malformed message dropped");
                    }
                }
            }
        }
    }

    /// Queues a message; never waits. `Dropped` while there is no connection.
    pub fn send(&mut self, message: &ToCvm) -> Result<Delivery, TransportError> {
        match self.socket.get().send(encode(message)?, DONTWAIT) {
            Ok(()) => Ok(Delivery::Queued),
            Err(zmq::Error::EAGAIN | zmq::Error::EINTR) => Ok(Delivery::Dropped),
            Err(e) => Err(e.into()),
        }
    }
}
