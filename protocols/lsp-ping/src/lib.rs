//! LSP ping and traceroute (RFC 8029) for LDP IPv4 FECs: codec, frames and the judgement of a request. No sockets.
//!
//! ```text
//!   ask:     Message::request ─► frame::request [labels | IPv4 to 127.0.0.1, TTL 1, Router Alert | UDP 3503 | request]
//!   answer:  frame::parse (labels as they came) ─► respond(request, labels, what we know) ─► UDP to who asked
//! ```

pub mod frame;
pub mod packet;
mod respond;

pub use packet::{Message, ReturnCode};
pub use respond::{Known, KnownLabel, respond};

/// UDP port of requests (RFC 8029 §4.3).
pub const PORT: u16 = 3503;
