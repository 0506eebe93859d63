//! BGP-4 message codec (RFC 4271, 4760, 4364, 4659, 4684, 6793, 7606, 7911, 8654, 9234).
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
mod family;
mod header;
mod membership;
mod nlri;
mod notification;
mod open;
mod refresh;
pub mod update;

pub use as_path::{AS_TRANS, AsPath, Segment, SegmentKind};
pub use attributes::{Aggregator, Attributes, LLGR_STALE, NO_LLGR, Origin, UnknownAttribute};
pub use error::{Cause, DecodeError, Fatal, Fault, Severity};
pub use family::{Family, FamilySet};
pub use header::{Frame, HEADER_LEN, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, MessageType, frame, frame_within, keepalive};
pub use membership::RtMembership;
pub use nlri::{Nlri, NlriKey, Reach, Unreach};
pub use notification::{Cease, Code, Notification};
pub use open::{AddPath, Capability, GracefulRestart, LongLived, Open, Role};
pub use refresh::{Refresh, RouteRefresh};
pub use update::{Announced, Context, Decoder, Update};

pub(crate) use header::{finish, start};
