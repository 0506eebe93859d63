//! FastForward: the forwarding process of a port VM. Opens the VM's two NICs by DPDK and the TAP to its kernel, then
//! forwards between them as programmed over fib.sock.

mod control;
mod run;

use anyhow::Context;
use clap::Parser;
use edgeplex_ff_phy::{DpdkConfig, Tap, open_ports};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::path::PathBuf;

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
    let tap = Tap::open(&args.tap)?;
    let [cust, core] = open_ports([&args.cust, &args.core], &config)?;
    let control = control::ControlServer::bind(&args.socket).with_context(|| format!("listening on {}", args.socket.display()))?;
    tracing::info!(cust = args.cust, core = args.core, tap = args.tap, socket = %args.socket.display(), "forwarding");
    run::EventLoop::new(run::Devices { cust, core, tap }, control, signals).run()?;
    tracing::info!("stopped");
    Ok(())
}
