//! pvmd among a FastForward, a CVM over a real relay, and CEs: what each gets, and what each keeps when another dies.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test, though not under cfg(test)

mod ce;
mod customers;
mod cvm;
mod forward;
mod instance;
mod lifecycle;
mod site;
