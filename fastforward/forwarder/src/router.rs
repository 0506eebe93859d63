//! The kinds of forwarder as the event loop sees them, and the ways out of each.

use crate::run::From;
use edgeplex_ff_fib_api::{Reply, Request};
use edgeplex_ff_phy::{DpdkPort, Mbuf, Phy};
use edgeplex_forwarder::{Forwarder, Lsr, Port, Side, Sink, Wires};
use std::time::Instant;

/// Numbers of a port VM's ports.
const CUSTOMER: u8 = 0;
const CORE: u8 = 1;

/// Frames on their way out, by device. They leave after each burst.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) ports: Vec<Vec<Mbuf>>,
    pub(crate) taps: Vec<Vec<Mbuf>>,
}

impl Outgoing {
    pub(crate) fn new(ports: usize, taps: usize) -> Self {
        let queues = |n| (0..n).map(|_| vec![]).collect();
        Self { ports: queues(ports), taps: queues(taps) }
    }
}

/// What the forwarder sees of the devices while it works on a frame.
pub(crate) struct Outlet<'a> {
    outgoing: &'a mut Outgoing,
    /// All ports share one pool.
    pool: &'a mut DpdkPort,
}

impl<'a> Outlet<'a> {
    /// `None` if there are no ports.
    pub(crate) fn new(outgoing: &'a mut Outgoing, ports: &'a mut [DpdkPort]) -> Option<Self> {
        Some(Self { outgoing, pool: ports.first_mut()? })
    }

    fn queue_for_tap(&mut self, tap: u8, frame: Mbuf) {
        if let Some(queue) = self.outgoing.taps.get_mut(usize::from(tap)) {
            queue.push(frame);
        }
    }
}

impl Sink<Mbuf, u8> for Outlet<'_> {
    fn send(&mut self, port: u8, frame: Mbuf) {
        // The router knows how many there are.
        if let Some(queue) = self.outgoing.ports.get_mut(usize::from(port)) {
            queue.push(frame);
        }
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }
}

impl Sink<Mbuf> for Outlet<'_> {
    fn send(&mut self, port: Port, frame: Mbuf) {
        match port {
            Port::Customer => Sink::<Mbuf, u8>::send(self, CUSTOMER, frame),
            Port::Core => Sink::<Mbuf, u8>::send(self, CORE, frame),
            Port::Tap => self.queue_for_tap(0, frame),
        }
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }
}

impl Sink<Mbuf, Side> for Outlet<'_> {
    fn send(&mut self, side: Side, frame: Mbuf) {
        match side {
            Side::Wire(pair) => Sink::<Mbuf, u8>::send(self, pair, frame),
            Side::Tap(pair) => self.queue_for_tap(pair, frame),
        }
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }
}

#[derive(Debug)]
pub(crate) enum Router {
    PortVm(Box<Forwarder<Mbuf>>),
    /// With the names of its ports.
    Lsr(Box<Lsr<Mbuf>>, Vec<String>),
    /// With the names of its wires.
    Wires(Box<Wires<Mbuf>>, Vec<String>),
}

impl Router {
    pub(crate) fn process(&mut self, now: Instant, from: From, frames: &mut Vec<Mbuf>, outlet: &mut Outlet<'_>) {
        match (self, from) {
            (Self::PortVm(f), from) => {
                let port = match from {
                    From::Tap(_) => Port::Tap,
                    From::Port(CUSTOMER) => Port::Customer,
                    From::Port(_) => Port::Core,
                };
                frames.drain(..).for_each(|frame| f.process(now, port, frame, outlet));
            }
            (Self::Lsr(lsr, _), From::Port(port)) => frames.drain(..).for_each(|frame| lsr.process(now, port, frame, outlet)),
            // It has no TAP.
            (Self::Lsr(..), From::Tap(_)) => frames.clear(),
            (Self::Wires(wires, _), from) => {
                let side = match from {
                    From::Port(pair) => Side::Wire(pair),
                    From::Tap(pair) => Side::Tap(pair),
                };
                frames.drain(..).for_each(|frame| wires.process(now, side, frame, outlet));
            }
        }
    }

    pub(crate) fn tick(&mut self, now: Instant, outlet: &mut Outlet<'_>) {
        if let Self::PortVm(f) = self {
            f.tick(now, outlet);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if let Self::PortVm(f) = self { f.next_deadline() } else { None }
    }

    pub(crate) fn has_work(&self) -> bool {
        match self {
            Self::PortVm(f) => f.has_work(),
            Self::Lsr(l, _) => l.has_work(),
            Self::Wires(..) => false,
        }
    }

    pub(crate) fn work(&mut self) {
        match self {
            Self::PortVm(f) => f.work(),
            Self::Lsr(l, _) => l.work(),
            Self::Wires(..) => {}
        }
    }

    pub(crate) fn control(&mut self, now: Instant, request: Request, outlet: &mut Outlet<'_>) -> Reply {
        match self {
            Self::PortVm(f) => f.control(now, request, outlet),
            Self::Lsr(l, _) => l.control(now, request),
            Self::Wires(w, _) => w.control(now, request, outlet),
        }
    }

    /// Whether each TAP stands for the port of its number.
    pub(crate) fn joins(&self) -> bool {
        matches!(self, Self::Wires(..))
    }

    /// Reasons under which frames are counted that the devices did not take, in the order of the ports.
    pub(crate) fn outputs(&self) -> Vec<String> {
        match self {
            Self::PortVm(_) => ["customer-output", "core-output"].map(String::from).to_vec(),
            Self::Lsr(_, names) | Self::Wires(_, names) => names.iter().map(|n| format!("{n}-output")).collect(),
        }
    }
}
