//! Client of FastForward's control socket, for a daemon whose one task owns the table: pvmd (a customer's routes) or
//! cvmd (the incoming label map of its label-switching router).
//!
//! ```text
//!   table (Source) ◄─ take ─ Client::flush ──► Begin, Program…, End, then Program as it changes
//!                            Client::handle ◄─ event() ◄─ link task: connects for ever, counts replies back
//! ```
//!
//! After each connect everything is told anew under a new epoch; FastForward forwards by what it has meanwhile, and
//! sweeps at `End`. A few requests are open at a time; what changes while they are coalesces in the table.

//!
//! [`Holder`] is a second, independent client: how far the kernel's sessions may go, which cannot wait for routes.

mod client;
mod holder;
mod link;

pub use client::{Client, Source};
pub use holder::{Holder, HolderError};
pub use link::Event;
