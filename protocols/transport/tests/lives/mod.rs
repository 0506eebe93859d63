//! A speaker in a process of its own, which is killed and begun again: the test's program, started anew with orders for its test `life`.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

use crate::bgp_common::{LIMIT, Wire};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ORDERS: &str = "EDGEPLEX_LIFE";

/// What a life is to do: its kind, and the directory where it leaves its journal and its status. `None`: this process is no life.
pub(crate) fn orders() -> Option<(String, PathBuf)> {
    let orders = std::env::var(ORDERS).ok()?;
    let (kind, dir) = orders.split_once(' ').unwrap();
    Some((kind.to_owned(), dir.into()))
}

/// Leaves numbers for [`Lives::status`], all at once.
pub(crate) fn tell<const N: usize>(dir: &Path, numbers: [usize; N]) {
    std::fs::write(dir.join("status.new"), numbers.map(|n| n.to_string()).join(" ")).unwrap();
    std::fs::rename(dir.join("status.new"), dir.join("status")).unwrap();
}

/// The lives of a speaker that tells `N` numbers, in its namespace.
pub(crate) struct Lives<'a, const N: usize> {
    wire: &'a Wire,
    kind: &'a str,
    child: Child,
}

impl<'a, const N: usize> Lives<'a, N> {
    pub(crate) fn begin(wire: &'a Wire, kind: &'a str) -> Self {
        Self { wire, kind, child: Self::spawn(wire, kind) }
    }

    fn spawn(wire: &Wire, kind: &str) -> Child {
        let _ = std::fs::remove_file(wire.path().join("status"));
        let log = std::fs::File::options().create(true).append(true).open(wire.path().join("life.log")).unwrap();
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &wire.ours]).arg(std::env::current_exe().unwrap());
        run.args(["life", "--exact", "--ignored", "--nocapture"]);
        run.env(ORDERS, format!("{kind} {}", wire.path().to_str().unwrap()));
        run.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub(crate) fn status(&self) -> [usize; N] {
        let text = std::fs::read_to_string(self.wire.path().join("status")).unwrap_or_default();
        let mut numbers = text.split(' ').map(|n| n.parse().unwrap_or(0));
        std::array::from_fn(|_| numbers.next().unwrap_or(0))
    }

    pub(crate) fn until(&self, what: &str, wanted: impl Fn([usize; N]) -> bool) {
        let start = Instant::now();
        while !wanted(self.status()) {
            let log = || std::fs::read_to_string(self.wire.path().join("life.log")).unwrap_or_default();
            assert!(start.elapsed() < LIMIT, "never: {what}; {:?}\n{}", self.status(), log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL, and the next life.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(self.wire, self.kind);
    }
}

impl<const N: usize> Drop for Lives<'_, N> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
