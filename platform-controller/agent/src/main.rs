//! `edgeplex-agent`: see the library.

use anyhow::{Context, Result};
use clap::Parser;
use edgeplex_agent::{Fingerprint, Host, HostConfig, Identity, Server};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Runs VMs of an EdgePlex platform whose controller is on another host.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where VMs and this agent's key are.
    #[arg(long, default_value = "/var/lib/edgeplex-agent")]
    dir: PathBuf,
    /// Print the fingerprint of this agent's certificate, `key` of the host in the Platform, and end.
    #[arg(long)]
    show_key: bool,
    /// Where to listen for the controller.
    #[arg(long, default_value = "[::]:7443")]
    listen: SocketAddr,
    /// Fingerprint of the controller's certificate; nobody else is let in.
    #[arg(long, required_unless_present = "show_key")]
    controller_key: Option<Fingerprint>,
    /// Run directory of Open vSwitch.
    #[arg(long, default_value = "/run/openvswitch")]
    ovs_run_dir: PathBuf,
    /// A bridge of that Open vSwitch with datapath_type=netdev; its rules are the agent's alone.
    #[arg(long, default_value = "fabric")]
    bridge: String,
    /// The interface that leads to the controller's switch.
    #[arg(long, required_unless_present = "show_key")]
    uplink: Option<String>,
    /// Where cvmd, pvmd, fastforward and edgeplex-init are; by default beside this program.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    runtime.block_on(run(Arguments::parse()))
}

async fn run(arguments: Arguments) -> Result<()> {
    let dir = arguments.dir;
    if arguments.show_key {
        // A directory that was mistyped is not made.
        anyhow::ensure!(dir.is_dir(), "{}: there is no such directory; make it, or start edgeplex-agent, which makes it", dir.display());
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let identity = Identity::open(&dir)?;
    let (Some(controller), Some(uplink), false) = (arguments.controller_key, arguments.uplink, arguments.show_key) else {
        use std::io::Write;
        writeln!(std::io::stdout(), "{}", identity.fingerprint())?;
        return Ok(());
    };
    let lock = File::create(dir.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .with_context(|| format!("another agent uses {}", dir.display()))?;
    let bin_dir = match arguments.bin_dir {
        Some(d) => d,
        None => std::env::current_exe()?.parent().context("this program has no directory")?.to_owned(),
    };
    let config = HostConfig { dir, bin_dir, ovs_run_dir: arguments.ovs_run_dir, bridge: arguments.bridge, uplink };
    let listener = TcpListener::bind(arguments.listen).await.with_context(|| arguments.listen.to_string())?;
    tracing::info!("edgeplex-agent {} listens at {}, key {}", env!("CARGO_PKG_VERSION"), listener.local_addr()?, identity.fingerprint());
    let server = Server::new(listener, &identity, controller, Host::open(config).await?)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = server.run() => ended?,
        _ = terminate.recv() => tracing::info!("terminated; VMs stay"),
        _ = interrupt.recv() => tracing::info!("interrupted; VMs stay"),
    }
    Ok(())
}
