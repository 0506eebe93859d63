//! pvmd and a real FastForward, killed, moved and replaced, before customers' routers of other people: BIRD and FRR with their
//! default timers and without graceful restart, whose own logs judge that nothing was noticed. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)] // a test, though not under cfg(test)

#[path = "../pvmd/cvm.rs"]
mod cvm;
mod killed;
mod place;
mod router;
mod succession;
mod vm;
