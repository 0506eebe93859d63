//! cvmd and a real FastForward on its wire, killed, moved and replaced, before other people's P router and route reflector: FRR's
//! OSPF, LDP, BFD and BGP, whose own logs and counters judge that nothing was noticed. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)] // a test, though not under cfg(test)

mod at_leisure;
#[path = "../common/lsr.rs"]
mod lsr;
mod place;
#[path = "../common/pvm.rs"]
mod pvm;
mod router;
mod silence;
mod vm;

pub(crate) const LIMIT: std::time::Duration = place::LIMIT;
