//! PID 1: starts the VM's processes, starts them again when they end, reaps orphans, and ends all when told.

use crate::{command, log::Log};
use anyhow::Context;
use edgeplex_recipes::boot::{BootProcess, BootSpec};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(2);
/// A process that ran this long had started well.
const HEALTHY: Duration = Duration::from_secs(2);
/// How long processes may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
const LOG_CHECK: Duration = Duration::from_secs(1);

/// Makes the signals that PID 1 acts on wait in a descriptor. Blocked, they are delivered to PID 1 although it has
/// no handler.
pub(crate) fn block_signals() -> anyhow::Result<SignalFd> {
    let mask: SigSet = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    mask.thread_block().context("signal mask")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")
}

/// How long to wait before a process is started again. One that had started well goes on at once: neighbours wait for it, and
/// its journal does; else doubled each time up to [`LAST_DELAY`].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Backoff(Duration);

impl Backoff {
    fn next(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.0 = FIRST_DELAY;
            return Duration::ZERO;
        }
        let delay = self.0;
        self.0 = (delay * 2).min(LAST_DELAY);
        delay
    }
}

#[derive(Debug)]
enum State {
    Running { pid: Pid, since: Instant },
    Waiting { until: Instant },
}

#[derive(Debug)]
struct Service {
    process: BootProcess,
    log: Log,
    backoff: Backoff,
    state: State,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    services: Vec<Service>,
    signals: SignalFd,
    log_max: u64,
    /// Set when told to end: when to stop waiting for the processes.
    ending: Option<Instant>,
}

impl Supervisor {
    pub(crate) fn new(spec: &BootSpec, logs: Vec<Log>, signals: SignalFd) -> Self {
        let service = |(process, log): (&BootProcess, Log)| Service {
            process: process.clone(),
            log,
            backoff: Backoff(FIRST_DELAY),
            state: State::Waiting { until: Instant::now() },
        };
        let services = spec.processes.iter().zip(logs).map(service).collect();
        Self { services, signals, log_max: spec.log_max, ending: None }
    }

    /// Starts every process whose time has come.
    pub(crate) fn start_all(&mut self) {
        let now = Instant::now();
        for s in &mut self.services {
            if matches!(s.state, State::Waiting { until } if until <= now) {
                s.start(now);
            }
        }
    }

    /// Until told to end.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let mut next_log_check = Instant::now() + LOG_CHECK;
        loop {
            let due = self.services.iter().filter_map(|s| match s.state {
                State::Waiting { until } if self.ending.is_none() => Some(until),
                _ => None,
            });
            let wake = due.chain(self.ending).chain([next_log_check]).min().unwrap_or(next_log_check);
            self.wait(wake)?;
            while let Some(info) = self.signals.read_signal()? {
                if info.ssi_signo != Signal::SIGCHLD as u32 {
                    self.end();
                }
            }
            self.reap();
            let now = Instant::now();
            match self.ending {
                None => self.start_all(),
                // The kernel kills what is left of the PID namespace together with its PID 1.
                Some(limit) if now >= limit || !self.any_running() => return Ok(()),
                Some(_) => {}
            }
            if now >= next_log_check {
                next_log_check = now + LOG_CHECK;
                for s in &mut self.services {
                    if let Err(e) = s.log.rotate(self.log_max) {
                        eprintln!("edgeplex-init: log of {}: {e}", s.process.name);
                    }
                }
            }
        }
    }

    fn any_running(&self) -> bool {
        self.services.iter().any(|s| matches!(s.state, State::Running { .. }))
    }

    /// Until a signal arrives or `wake` has come.
    fn wait(&self, wake: Instant) -> anyhow::Result<()> {
        let left = wake.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e).context("poll"),
        }
    }

    /// Asks all processes to end.
    fn end(&mut self) {
        self.ending.get_or_insert(Instant::now() + GRACE);
        for s in &self.services {
            if let State::Running { pid, .. } = s.state {
                let _ = kill(pid, Signal::SIGTERM);
            }
        }
    }

    /// Takes leave of every process that has ended: ours, and orphans that became ours.
    fn reap(&mut self) {
        let now = Instant::now();
        loop {
            let (pid, how) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exited with {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("was ended by {signal}")),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            for s in &mut self.services {
                match s.state {
                    State::Running { pid: p, since } if p == pid => {
                        let delay = s.backoff.next(now - since);
                        eprintln!("edgeplex-init: {} {how}; again in {delay:?}", s.process.name);
                        s.state = State::Waiting { until: now + delay };
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Service {
    fn start(&mut self, now: Instant) {
        let started = self.log.outputs().and_then(|outputs| command(&self.process.argv, outputs).spawn());
        self.state = match started.map(|child| i32::try_from(child.id()).map(Pid::from_raw)) {
            Ok(Ok(pid)) => State::Running { pid, since: now },
            other => {
                let delay = self.backoff.next(Duration::ZERO);
                eprintln!("edgeplex-init: {} does not start: {other:?}; again in {delay:?}", self.process.name);
                State::Waiting { until: now + delay }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_to_a_limit_and_there_is_none_after_health() {
        let mut b = Backoff(FIRST_DELAY);
        let delays: Vec<_> = (0..8).map(|_| b.next(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!([HEALTHY, Duration::ZERO, Duration::ZERO].map(|ran| b.next(ran).as_millis()), [0, 50, 100]);
    }
}
