//! The event loop: one thread that moves bursts of frames between the devices and the forwarder, and in between takes
//! up control requests, frames from the TAP, and timers.
//!
//! ```text
//!   loop: port 0 ≤ 32 ─┐                        busy: every 16th round look (poll, no waiting) at TAP, control, signals
//!         port 1 ≤ 32 ─┼─ router ─ send         idle: after a few empty rounds wait in poll for all of them and the
//!         tap    ≤ 32 ─┘                              ports, until the router's next deadline
//! ```
//! Nothing can be lost between the last empty round and the wait: each descriptor stays readable as long as something
//! is there to be taken, the ports' too (see `edgeplex_ff_phy::DpdkPort`).

use crate::control::ControlServer;
use crate::router::{Outgoing, Outlet, Router};
use anyhow::Context;
use edgeplex_ff_fib_api::{FibOp, Reply, Request};
use edgeplex_ff_phy::{DpdkPort, Mbuf, PacketBuf, Phy, Tap};
use edgeplex_types::MacAddr;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Frames taken from a device before the others have their turn.
const BURST: usize = 32;
/// Busy rounds between two looks at TAP, control clients and signals.
const ROUNDS_PER_LOOK: u32 = 16;
/// Empty rounds before the loop waits. Few: to be woken costs some 10 us, to poll in vain costs a core.
const EMPTY_ROUNDS: u32 = 4;
/// How often to look whether an interface that is down has come up.
const DOWN_RECHECK: Duration = Duration::from_millis(100);

/// What a look at the descriptors found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Ready {
    port_error: bool,
    /// Any of them.
    tap: bool,
    tap_gone: bool,
    control: bool,
    signal: bool,
}

#[derive(Debug)]
pub(crate) struct EventLoop {
    ports: Vec<DpdkPort>,
    taps: Vec<Tap>,
    router: Router,
    control: ControlServer,
    signals: SignalFd,
    outgoing: Outgoing,
    incoming: Vec<Mbuf>,
}

/// Where a burst came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Port(u8),
    Tap(u8),
}

impl EventLoop {
    /// `ports` and `taps` in the order of their numbers.
    pub(crate) fn new(ports: Vec<DpdkPort>, taps: Vec<Tap>, router: Router, control: ControlServer, signals: SignalFd) -> Self {
        let outgoing = Outgoing::new(ports.len(), taps.len());
        Self { ports, taps, router, control, signals, outgoing, incoming: Vec::with_capacity(BURST) }
    }

    /// Forwards until a signal asks to stop, or an interface is gone for good.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let (mut empty, mut rounds) = (0, 0);
        loop {
            let now = Instant::now();
            let mut moved = 0;
            for i in 0..self.ports.len() {
                moved += self.burst(i, now);
            }
            if self.router.next_deadline().is_some_and(|d| d <= now) {
                if let Some(mut outlet) = Outlet::new(&mut self.outgoing, &mut self.ports) {
                    self.router.tick(now, &mut outlet);
                }
                self.flush();
            }
            empty = if moved > 0 { 0 } else { empty + 1 };
            rounds += 1;
            let wait = empty >= EMPTY_ROUNDS;
            if !wait && rounds < ROUNDS_PER_LOOK {
                continue;
            }
            rounds = 0;
            let ready = self.look(if wait { self.patience(now) } else { Some(Duration::ZERO) })?;
            if ready.signal {
                return Ok(());
            }
            anyhow::ensure!(!ready.tap_gone, "the TAP was deleted");
            let now = Instant::now();
            if ready.tap {
                moved += (0..self.taps.len()).map(|i| self.tap_burst(i, now)).sum::<usize>();
            }
            if ready.control || self.control.has_backlog() {
                self.serve(now);
            }
            if self.router.has_work() {
                self.router.work();
            }
            if ready.port_error || self.is_any_down() {
                self.inspect()?;
            }
            if moved > 0 {
                empty = 0;
            }
        }
    }

    fn is_any_down(&self) -> bool {
        self.ports.iter().any(|p| !p.is_up())
    }

    /// How long to wait for something to happen; `None` is for ever.
    fn patience(&self, now: Instant) -> Option<Duration> {
        if self.control.has_backlog() || self.router.has_work() {
            return Some(Duration::ZERO);
        }
        let timer = self.router.next_deadline().map(|d| d.saturating_duration_since(now));
        let down = self.is_any_down().then_some(DOWN_RECHECK);
        timer.into_iter().chain(down).min()
    }

    fn look(&self, patience: Option<Duration>) -> anyhow::Result<Ready> {
        // Rounded up: to wake a little early would be to spin until the deadline.
        let timeout = patience
            .map_or(PollTimeout::NONE, |p| PollTimeout::try_from(p.as_micros().div_ceil(1000).min(60_000)).unwrap_or(PollTimeout::ZERO));
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.signals.as_fd())];
        fds.extend(self.ports.iter().map(|p| readable(p.as_fd())));
        fds.extend(self.taps.iter().map(|t| readable(t.as_fd())));
        fds.extend(self.control.interests().map(|(fd, events)| PollFd::new(fd, events)));
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
            Ok(_) => {}
            Err(e) => return Err(e).context("waiting for frames"),
        }
        let trouble = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let seen = |f: &PollFd| f.revents().unwrap_or(PollFlags::empty());
        // In the order in which they were put in.
        let mut fds = fds.iter();
        let signal = fds.next().is_some_and(|f| !seen(f).is_empty());
        let port_error = fds.by_ref().take(self.ports.len()).fold(false, |any, f| any | seen(f).intersects(trouble));
        let tap = fds.by_ref().take(self.taps.len()).fold(PollFlags::empty(), |any, f| any | seen(f));
        let control = fds.any(|f| f.any().unwrap_or(true));
        Ok(Ready { signal, port_error, tap: tap.contains(PollFlags::POLLIN), tap_gone: tap.intersects(trouble), control })
    }

    /// Takes one burst from a wire and forwards it; returns the number of frames.
    fn burst(&mut self, i: usize, now: Instant) -> usize {
        let (Some(device), Ok(port)) = (self.ports.get_mut(i), u8::try_from(i)) else { return 0 };
        let n = device.receive(&mut self.incoming, BURST);
        if n > 0 {
            self.forward(From::Port(port), now);
        }
        n
    }

    fn tap_burst(&mut self, i: usize, now: Instant) -> usize {
        let (Some(tap), Some(pool), Ok(number)) = (self.taps.get_mut(i), self.ports.first_mut(), u8::try_from(i)) else { return 0 };
        let room = pool.max_frame();
        while self.incoming.len() < BURST {
            // Without a buffer the frame waits in the TAP's queue.
            let Some(mut buf) = pool.alloc() else { break };
            if !tap.read(&mut buf, room) {
                break;
            }
            self.incoming.push(buf);
        }
        let n = self.incoming.len();
        self.forward(From::Tap(number), now);
        n
    }

    fn forward(&mut self, from: From, now: Instant) {
        if let Some(mut outlet) = Outlet::new(&mut self.outgoing, &mut self.ports) {
            self.router.process(now, from, &mut self.incoming, &mut outlet);
        }
        self.flush();
    }

    fn flush(&mut self) {
        for (device, frames) in self.ports.iter_mut().zip(&mut self.outgoing.ports) {
            if !frames.is_empty() {
                device.transmit(frames);
            }
        }
        for (tap, frames) in self.taps.iter_mut().zip(&mut self.outgoing.taps) {
            frames.drain(..).for_each(|frame| tap.write(frame.data()));
        }
    }

    fn serve(&mut self, now: Instant) {
        let names = self.router.outputs();
        let wires = names.iter().zip(&self.ports).map(|(name, p)| (name.clone(), p.dropped()));
        let tap = ("tap-output".to_owned(), self.taps.iter().map(Tap::dropped).sum());
        let dropped: Vec<_> = wires.chain([tap]).filter(|(_, n)| *n > 0).collect();
        let (router, tap) = (&mut self.router, self.taps.first());
        let Some(mut outlet) = Outlet::new(&mut self.outgoing, &mut self.ports) else { return };
        self.control.serve(|request| {
            let mac = interface_mac(&request);
            let mut reply = router.control(now, request, &mut outlet);
            if let Reply::Counters(c) = &mut reply {
                c.drops.extend(dropped.iter().cloned());
                c.drops.sort();
            }
            if let (Some(mac), Some(tap), Reply::Done) = (mac, tap, &reply)
                && let Err(e) = tap.set_mac(mac)
            {
                tracing::error!("{e}");
            }
            reply
        });
        // What a session's bounds held back.
        self.flush();
    }

    fn inspect(&mut self) -> anyhow::Result<()> {
        for (i, port) in self.ports.iter_mut().enumerate() {
            let before = port.is_up();
            port.inspect()?;
            if port.is_up() != before {
                tracing::info!(interface = port.name(), up = port.is_up(), "interface changed");
                if let Some(tap) = self.taps.get(i).filter(|_| self.router.joins()) {
                    tap.set_carrier(port.is_up())?;
                }
            }
        }
        Ok(())
    }
}

/// The MAC address that the TAP must have if this request is carried out.
fn interface_mac(request: &Request) -> Option<MacAddr> {
    let Request::Program { ops, .. } = request else { return None };
    ops.iter().rev().find_map(|op| if let FibOp::Interface(i) = op { Some(i.mac) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_ff_fib_api::Interface;
    use edgeplex_types::Epoch;

    #[test]
    fn the_tap_follows_the_last_interface_of_a_request() {
        let interface =
            |n| FibOp::Interface(Interface { mac: MacAddr([2, 0, 0, 0, 0, n]), addresses: vec![], customer_mtu: 1500, core_mtu: 1600 });
        let request = |ops| Request::Program { epoch: Epoch(1), ops };
        assert_eq!(interface_mac(&request(vec![interface(1), interface(2)])), Some(MacAddr([2, 0, 0, 0, 0, 2])));
        assert_eq!(interface_mac(&request(vec![])), None);
        assert_eq!(interface_mac(&Request::Status), None);
    }
}
