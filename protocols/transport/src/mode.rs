//! What a driver is: the instance that speaks, or one that follows it and may take its place.

use crate::journal::Journal;
use std::{
    future::Future,
    pin::pin,
    task::{Context, Waker},
};

/// How a driver begins.
#[derive(Debug, Clone)]
pub enum Mode {
    /// It speaks from the start, and writes down what a successor needs ([`Journal::none`]: there will be none).
    Live(Journal),
    /// It is told what another instance, or a past process, has written down. It hears and says nothing until it is promoted.
    Following,
}

/// What a promotion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promoted {
    /// Sessions that went on, and those that could not.
    pub sessions: u32,
    pub lost: u32,
}

/// Whether everything up to `end` is committed already.
pub(crate) fn is_committed(journal: &Journal, end: u64) -> bool {
    pin!(journal.committed(end)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}
