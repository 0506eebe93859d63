//! `cvmd --config /etc/edgeplex/config.json --run /run/edgeplex`: started and restarted by the VM's PID 1.

use anyhow::Context;
use clap::Parser;
use edgeplex_cvmd::{Control, Exit, Origin, Paths, Protocols, Timing};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Control VM daemon of EdgePlex.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration, written by the platform controller.
    #[arg(long, default_value = "/etc/edgeplex/config.json")]
    config: PathBuf,
    /// Directory of the management socket.
    #[arg(long, default_value = "/run/edgeplex")]
    run: PathBuf,
    /// Directory of what outlives the making of the VM: labels, VPN's and LDP's.
    #[arg(long, default_value = "/var/lib/edgeplex")]
    state: PathBuf,
    /// Directory of what outlives the process, in the VM's memory: the journal.
    #[arg(long, default_value = "/run/journal")]
    journal: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = edgeplex_cvmd::load(&arguments.config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let paths = Paths { config: arguments.config, run: arguments.run, state: arguments.state, journal: Some(arguments.journal) };
    let origin = Origin::open(&config, &paths)?;
    let io = Protocols::start(&config, &paths.state, &origin).await.context("setting up the network")?;
    let control = Control::start(config, paths, Timing::default(), io, origin).await?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match control.run(stop).await? {
        Exit::Stopped => info!("stopped"),
        Exit::Restart => info!("the new configuration needs a new process"),
    }
    Ok(())
}
