//! BGP-4 message codec (RFC 4271, 4760, 4364, 6793, 7606).
//!
//! ```text
//!   stream ─ header::frame ─► Frame{type, body} ─┬─ Open::decode
//!                                                ├─ update::Decoder::decode   faults carry their RFC 7606 severity
//!                                                ├─ Notification::decode
//!                                                └─ RouteRefresh::decode
//! ```
//! Every decoder is total: any bytes give a value or an error that says at which byte, in which field and why.
//! Offsets count from the start of the message, its header included.

mod as_path;
mod attributes;
pub mod compose;
mod error;
mod header;
mod nlri;
mod notification;
mod open;
mod refresh;
pub mod update;

pub use as_path::{AS_TRANS, AsPath, Segment, SegmentKind};
pub use attributes::{Aggregator, Attributes, Origin, UnknownAttribute};
pub use error::{Cause, DecodeError, Fatal, Fault, Severity};
pub use header::{Frame, HEADER_LEN, MAX_MESSAGE, MessageType, frame, keepalive};
pub use nlri::{Family, FamilySet, Nlri, NlriKey};
pub use notification::{Cease, Code, Notification};
pub use open::{Capability, GracefulRestart, Open};
pub use refresh::RouteRefresh;
pub use update::{Context, Decoder, Reach, Update};

pub(crate) use header::{finish, start};
