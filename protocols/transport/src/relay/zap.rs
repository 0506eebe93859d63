//! The ZAP handler: ZeroMQ asks it about every client key (ZeroMQ RFC 27, ZAP 1.0).
//!
//! It answers with the key itself, in Z85, as the User-Id of the connection; the server reads it back from each message.

use super::{Keys, PublicKey, server::Counters, socket::AsyncSocket};
use std::sync::Arc;
use tracing::warn;
use zmq::Message;

pub(super) const ENDPOINT: &str = "inproc://zeromq.zap.01";
/// version, request id, domain, address, identity, mechanism, client key.
const REQUEST_FRAMES: usize = 7;

/// Answers requests until the socket ends.
pub(super) async fn run(mut socket: AsyncSocket, keys: Keys, counters: Arc<Counters>) {
    // A REP socket takes the next request only after this one is answered.
    while let Ok((request, _)) = socket.recv(REQUEST_FRAMES).await {
        let answer = answer(&request, &keys);
        if answer.is_none() {
            let seen = Counters::count(&counters.wrong_key);
            if seen.is_power_of_two() {
                let from = request.get(3).and_then(|a| a.as_str()).unwrap_or("?");
                warn!(from, refused = seen, "relay: a connection with an unknown key is refused");
            }
        }
        let id = request.get(1).map_or(&[][..], |m| &m[..]);
        let (code, text, user) = match &answer {
            Some(user) => ("200", "OK", user.as_str()),
            // "Temporary" (ZAP, ZeroMQ RFC 27): the connection is cut and the client tries again. At 400 libzmq's client
            // gives up for good, and a PVM that was faster than our configuration would never get in.
            None => ("300", "unknown key", ""),
        };
        let frames: [&[u8]; 6] = [b"1.0", id, code.as_bytes(), text.as_bytes(), user.as_bytes(), b""];
        if socket.get().send_multipart(frames, zmq::DONTWAIT).is_err() {
            break;
        }
    }
}

/// The User-Id of a request that may pass.
fn answer(request: &[Message], keys: &Keys) -> Option<String> {
    let [version, _, _, _, _, mechanism, key] = request else { return None };
    if &version[..] != b"1.0" || &mechanism[..] != b"CURVE" {
        return None;
    }
    let key = PublicKey(key[..].try_into().ok()?);
    keys.lookup(&key)?;
    zmq::z85_encode(&key.0).ok()
}
