//! FastForward: the forwarding process of a port VM, the label-switching router of a platform, or what stands on a CVM's
//! wires. Opens the VM's NICs by DPDK, and TAPs to its kernel, then forwards between them as programmed over fib.sock.

mod control;
mod router;
mod run;

use anyhow::Context;
use clap::Parser;
use edgeplex_ff_fib_api::MAX_PORTS;
use edgeplex_ff_phy::{DpdkConfig, Tap, open_ports};
use edgeplex_forwarder::{Forwarder, Holds, Lsr, Wires};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use router::Router;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

/// Forwards packets between a customer's port and the MPLS core.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Interface towards the customer
    #[arg(long, default_value = "cust")]
    cust: String,
    /// Interface towards the core
    #[arg(long, default_value = "core")]
    core: String,
    /// TAP to this VM's kernel; created if it is not there, and kept
    #[arg(long, default_value = "pe0")]
    tap: String,
    /// Switch labels between these interfaces, numbered in this order, instead; without customer and TAP
    #[arg(long, value_name = "INTERFACE", conflicts_with_all = ["cust", "core", "tap"])]
    lsr: Vec<String>,
    /// Join this TAP of the kernel with this interface instead, one to one
    #[arg(long, value_name = "TAP=INTERFACE", value_parser = wire, conflicts_with_all = ["cust", "core", "tap", "lsr"])]
    wire: Vec<(String, String)>,
    /// Hold back what the kernel's TCP sessions with this port at either end say, until it may leave
    #[arg(long, value_name = "PORT", conflicts_with = "lsr")]
    hold: Vec<u16>,
    /// An address of this VM: with any given, only what comes from one of them is held, and what the kernel forwards for others is not
    #[arg(long, value_name = "ADDRESS", requires = "hold")]
    local: Vec<IpAddr>,
    /// Control socket to listen on
    #[arg(long, default_value = "/run/edgeplex/fib.sock")]
    socket: PathBuf,
    /// Bytes behind the Ethernet header in the largest frame on either side, labels included
    #[arg(long, default_value_t = DpdkConfig::default().mtu)]
    mtu: usize,
    /// Frames in each receive and transmit ring; if not given, what makes 4 MB of all rings, 64 to 512
    #[arg(long)]
    ring: Option<usize>,
    /// Packet buffers
    #[arg(long, default_value_t = DpdkConfig::default().buffers)]
    buffers: usize,
}

fn wire(text: &str) -> Result<(String, String), String> {
    let (tap, interface) = text.split_once('=').ok_or("not of the form TAP=INTERFACE")?;
    Ok((tap.to_owned(), interface.to_owned()))
}

/// Share of the packet buffers that held segments may take: the rest is to forward with.
const HELD: usize = 4;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();

    // Before EAL starts its thread, so that it too leaves these signals to us.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&stop, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("waiting for signals")?;

    anyhow::ensure!(args.lsr.len().max(args.wire.len()) <= MAX_PORTS, "more than {MAX_PORTS} interfaces");
    let (now, seed, room) = (Instant::now(), RandomState::new().hash_one(0u8), args.buffers / HELD);
    let (interfaces, taps, router) = if !args.wire.is_empty() {
        let taps = args.wire.iter().map(|(tap, nic)| Tap::in_place_of(nic, tap)).collect::<Result<_, _>>()?;
        let names: Vec<_> = args.wire.into_iter().map(|(_, nic)| nic).collect();
        (names.clone(), taps, Router::Wires(Box::new(Wires::new(now, Holds::new(args.hold, room).of(args.local))), names))
    } else if args.lsr.is_empty() {
        let forwarder = Forwarder::new(now, seed, Holds::new(args.hold, room).of(args.local));
        (vec![args.cust, args.core], vec![Tap::open(&args.tap)?], Router::PortVm(Box::new(forwarder)))
    } else {
        (args.lsr.clone(), vec![], Router::Lsr(Box::new(Lsr::new(now, seed, args.lsr.len())), args.lsr))
    };
    let usual = DpdkConfig::of(args.mtu, interfaces.len());
    let config = DpdkConfig { ring: args.ring.unwrap_or(usual.ring), buffers: args.buffers, ..usual };
    let ports = open_ports(&interfaces.iter().map(String::as_str).collect::<Vec<_>>(), &config)?;
    let control = control::ControlServer::bind(&args.socket).with_context(|| format!("listening on {}", args.socket.display()))?;
    tracing::info!(interfaces = interfaces.join(","), taps = taps.len(), socket = %args.socket.display(), "forwarding");
    run::EventLoop::new(ports, taps, router, control, signals).run()?;
    tracing::info!("stopped");
    Ok(())
}
