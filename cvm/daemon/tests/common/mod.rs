//! Tests in network namespaces of their own: as root only, and nothing is left behind. Around cvmd are real sockets to PVMs, a
//! route reflector, a label-switching router and the controller; only the core is a [`fake`].

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // each test file uses its part of it

pub(crate) mod fake;
pub(crate) mod lsr;
pub(crate) mod pvm;
pub(crate) mod reflector;
pub(crate) mod site;

use nix::sched::{CloneFlags, unshare};
use std::{
    thread::{Builder, JoinHandle},
    time::Duration,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Runs `test` on a runtime whose threads live in a fresh network namespace; what it returns, or `None` without the right
/// to make one.
pub(crate) fn in_namespace<T: Send + 'static, F: Future<Output = T>>(test: impl FnOnce() -> F + Send + 'static) -> JoinHandle<Option<T>> {
    // Threads of the runtime inherit the namespace of the one that makes them; it goes with the last of them.
    Builder::new()
        .name("namespace".into())
        .spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("not run: a network namespace needs root ({error})");
                return None;
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            Some(runtime.block_on(test()))
        })
        .unwrap()
}

/// Waits for the namespace's test and passes its panic on.
pub(crate) fn join<T>(thread: JoinHandle<Option<T>>) -> Option<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

pub(crate) fn netlink() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}
