//! FastForward: the forwarding process of a port VM, or the label-switching router of a platform. Opens the VM's NICs by
//! DPDK, in a port VM the TAP to its kernel, then forwards between them as programmed over fib.sock.

mod control;
mod router;
mod run;

use anyhow::Context;
use clap::Parser;
use edgeplex_ff_fib_api::MAX_PORTS;
use edgeplex_ff_phy::{DpdkConfig, Tap, open_ports};
use edgeplex_forwarder::{Forwarder, Lsr};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use router::Router;
use std::hash::{BuildHasher, RandomState};
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
    /// Control socket to listen on
    #[arg(long, default_value = "/run/edgeplex/fib.sock")]
    socket: PathBuf,
    /// Bytes behind the Ethernet header in the largest frame on either side, labels included
    #[arg(long, default_value_t = DpdkConfig::default().mtu)]
    mtu: usize,
    /// Frames in each receive and transmit ring
    #[arg(long, default_value_t = DpdkConfig::default().ring)]
    ring: usize,
    /// Packet buffers
    #[arg(long, default_value_t = DpdkConfig::default().buffers)]
    buffers: usize,
}

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

    let config = DpdkConfig { mtu: args.mtu, ring: args.ring, buffers: args.buffers };
    anyhow::ensure!(args.lsr.len() <= MAX_PORTS, "more than {MAX_PORTS} interfaces");
    let (now, seed) = (Instant::now(), RandomState::new().hash_one(0u8));
    let (interfaces, tap, router) = if args.lsr.is_empty() {
        let tap = Tap::open(&args.tap)?;
        (vec![args.cust, args.core], Some(tap), Router::PortVm(Box::new(Forwarder::new(now, seed))))
    } else {
        (args.lsr.clone(), None, Router::Lsr(Box::new(Lsr::new(now, seed, args.lsr.len())), args.lsr))
    };
    let ports = open_ports(&interfaces.iter().map(String::as_str).collect::<Vec<_>>(), &config)?;
    let control = control::ControlServer::bind(&args.socket).with_context(|| format!("listening on {}", args.socket.display()))?;
    tracing::info!(interfaces = interfaces.join(","), tap = tap.is_some(), socket = %args.socket.display(), "forwarding");
    run::EventLoop::new(ports, tap, router, control, signals).run()?;
    tracing::info!("stopped");
    Ok(())
}
