//! pvmd: see the library. This is the command line, the log and the signals.

use anyhow::Context;
use clap::Parser;
use edgeplex_pvmd::{Options, Ports, Pvmd};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};
use tokio::signal::unix::{SignalKind, signal};

/// Routing daemon of one customer attachment.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = "/etc/edgeplex/config.json")]
    config: PathBuf,
    /// Directory of mgmt.sock, fib.sock and the sockets between instances.
    #[arg(long, default_value = "/run/edgeplex")]
    run: PathBuf,
    /// Directory of the journal, in memory that outlives this process.
    #[arg(long, default_value = "/run/journal")]
    journal: PathBuf,
    /// FastForward's TAP interface.
    #[arg(long, default_value = "pe0")]
    tap: String,
}

const BGP_PORT: u16 = 179;

// The task that owns the routes has the main thread. While it is busy with a table, BFD, the journal's followers and leader, and
// FastForward's holds must not wait for it.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let arguments = Arguments::parse();
    let listen = vec![(Ipv4Addr::UNSPECIFIED, BGP_PORT).into(), (Ipv6Addr::UNSPECIFIED, BGP_PORT).into()];
    let ports = Ports { listen, neighbor: BGP_PORT };
    let Arguments { config, run, journal, tap } = arguments;
    let options = Options { config, run, journal: Some(journal), tap: Some(tap), ports };
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Pvmd::new(options)?.run(stop).await
}
