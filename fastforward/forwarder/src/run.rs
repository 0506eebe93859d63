//! The event loop: one thread that moves bursts of frames between the devices and the forwarder, and in between takes
//! up control requests, frames from the TAP, and timers.
//!
//! ```text
//!   loop: cust ≤ 32 ─┐                        busy: every 16th round look (poll, no waiting) at TAP, control, signals
//!         core ≤ 32 ─┼─ Forwarder ─ send      idle: after a few empty rounds wait in poll for all of them and both
//!         tap  ≤ 32 ─┘                              ports, until the forwarder's next deadline
//! ```
//! Nothing can be lost between the last empty round and the wait: each descriptor stays readable as long as something
//! is there to be taken, the ports' too (see `edgeplex_ff_phy::DpdkPort`).

use crate::control::ControlServer;
use anyhow::Context;
use edgeplex_ff_fib_api::{FibOp, Reply, Request};
use edgeplex_ff_phy::{DpdkPort, Mbuf, PacketBuf, Phy, Tap};
use edgeplex_forwarder::{Forwarder, Port, Sink};
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

#[derive(Debug)]
pub(crate) struct Devices {
    pub(crate) cust: DpdkPort,
    pub(crate) core: DpdkPort,
    pub(crate) tap: Tap,
}

/// Frames on their way out, by device. They leave after each burst.
#[derive(Debug, Default)]
struct Outgoing {
    cust: Vec<Mbuf>,
    core: Vec<Mbuf>,
    tap: Vec<Mbuf>,
}

/// What the forwarder sees of the devices while it works on a frame.
struct Outlet<'a> {
    outgoing: &'a mut Outgoing,
    /// All ports share one pool.
    pool: &'a mut DpdkPort,
}

impl Sink<Mbuf> for Outlet<'_> {
    fn send(&mut self, port: Port, frame: Mbuf) {
        match port {
            Port::Customer => self.outgoing.cust.push(frame),
            Port::Core => self.outgoing.core.push(frame),
            Port::Tap => self.outgoing.tap.push(frame),
        }
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }
}

/// What a look at the descriptors found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Ready {
    port_error: bool,
    tap: bool,
    tap_gone: bool,
    control: bool,
    signal: bool,
}

#[derive(Debug)]
pub(crate) struct EventLoop {
    devices: Devices,
    forwarder: Forwarder<Mbuf>,
    control: ControlServer,
    signals: SignalFd,
    outgoing: Outgoing,
    incoming: Vec<Mbuf>,
    /// Bytes to offer to the kernel for a frame of the TAP.
    tap_room: usize,
}

impl EventLoop {
    pub(crate) fn new(devices: Devices, control: ControlServer, signals: SignalFd) -> Self {
        let tap_room = devices.cust.max_frame();
        Self {
            devices,
            forwarder: Forwarder::new(Instant::now()),
            control,
            signals,
            outgoing: Outgoing::default(),
            incoming: Vec::with_capacity(BURST),
            tap_room,
        }
    }

    /// Forwards until a signal asks to stop, or an interface is gone for good.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let (mut empty, mut rounds) = (0, 0);
        loop {
            let now = Instant::now();
            let mut moved = self.burst(Port::Customer, now) + self.burst(Port::Core, now);
            if self.forwarder.next_deadline().is_some_and(|d| d <= now) {
                let mut outlet = Outlet { outgoing: &mut self.outgoing, pool: &mut self.devices.cust };
                self.forwarder.tick(now, &mut outlet);
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
                moved += self.tap_burst(now);
            }
            if ready.control || self.control.has_backlog() {
                self.serve(now);
            }
            if self.forwarder.has_work() {
                self.forwarder.work();
            }
            if ready.port_error || !self.devices.cust.is_up() || !self.devices.core.is_up() {
                self.inspect()?;
            }
            if moved > 0 {
                empty = 0;
            }
        }
    }

    /// How long to wait for something to happen; `None` is for ever.
    fn patience(&self, now: Instant) -> Option<Duration> {
        if self.control.has_backlog() || self.forwarder.has_work() {
            return Some(Duration::ZERO);
        }
        let timer = self.forwarder.next_deadline().map(|d| d.saturating_duration_since(now));
        let down = (!self.devices.cust.is_up() || !self.devices.core.is_up()).then_some(DOWN_RECHECK);
        timer.into_iter().chain(down).min()
    }

    fn look(&self, patience: Option<Duration>) -> anyhow::Result<Ready> {
        // Rounded up: to wake a little early would be to spin until the deadline.
        let timeout = patience
            .map_or(PollTimeout::NONE, |p| PollTimeout::try_from(p.as_micros().div_ceil(1000).min(60_000)).unwrap_or(PollTimeout::ZERO));
        let d = &self.devices;
        let mut fds = vec![
            PollFd::new(d.cust.as_fd(), PollFlags::POLLIN),
            PollFd::new(d.core.as_fd(), PollFlags::POLLIN),
            PollFd::new(d.tap.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.control.interests().map(|(fd, events)| PollFd::new(fd, events)));
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
            Ok(_) => {}
            Err(e) => return Err(e).context("waiting for frames"),
        }
        let seen = |i: usize| fds.get(i).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let trouble = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        Ok(Ready {
            port_error: (seen(0) | seen(1)).intersects(trouble),
            tap: seen(2).contains(PollFlags::POLLIN),
            tap_gone: seen(2).intersects(trouble),
            signal: !seen(3).is_empty(),
            control: fds.iter().skip(4).any(|f| f.any().unwrap_or(true)),
        })
    }

    /// Takes one burst from a wire and forwards it; returns the number of frames.
    fn burst(&mut self, from: Port, now: Instant) -> usize {
        let device = if from == Port::Core { &mut self.devices.core } else { &mut self.devices.cust };
        let n = device.receive(&mut self.incoming, BURST);
        if n > 0 {
            self.forward(from, now);
        }
        n
    }

    fn tap_burst(&mut self, now: Instant) -> usize {
        while self.incoming.len() < BURST {
            // Without a buffer the frame waits in the TAP's queue.
            let Some(mut buf) = self.devices.cust.alloc() else { break };
            if !self.devices.tap.read(&mut buf, self.tap_room) {
                break;
            }
            self.incoming.push(buf);
        }
        let n = self.incoming.len();
        self.forward(Port::Tap, now);
        n
    }

    fn forward(&mut self, from: Port, now: Instant) {
        let mut outlet = Outlet { outgoing: &mut self.outgoing, pool: &mut self.devices.cust };
        for frame in self.incoming.drain(..) {
            self.forwarder.process(now, from, frame, &mut outlet);
        }
        self.flush();
    }

    fn flush(&mut self) {
        if !self.outgoing.cust.is_empty() {
            self.devices.cust.transmit(&mut self.outgoing.cust);
        }
        if !self.outgoing.core.is_empty() {
            self.devices.core.transmit(&mut self.outgoing.core);
        }
        for frame in self.outgoing.tap.drain(..) {
            self.devices.tap.write(frame.data());
        }
    }

    fn serve(&mut self, now: Instant) {
        let d = &self.devices;
        let dropped = [("customer-output", d.cust.dropped()), ("core-output", d.core.dropped()), ("tap-output", d.tap.dropped())];
        let (forwarder, tap) = (&mut self.forwarder, &d.tap);
        self.control.serve(|request| {
            let mac = interface_mac(&request);
            let mut reply = forwarder.control(now, request);
            if let Reply::Counters(c) = &mut reply {
                c.drops.extend(dropped.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| ((*reason).to_owned(), *n)));
                c.drops.sort();
            }
            if let (Some(mac), Reply::Done) = (mac, &reply)
                && let Err(e) = tap.set_mac(mac)
            {
                tracing::error!("{e}");
            }
            reply
        });
    }

    fn inspect(&mut self) -> anyhow::Result<()> {
        for port in [&mut self.devices.cust, &mut self.devices.core] {
            let before = port.is_up();
            port.inspect()?;
            if port.is_up() != before {
                tracing::info!(interface = port.name(), up = port.is_up(), "interface changed");
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
