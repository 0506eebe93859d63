//! `edgeplexd`: see the library.

use anyhow::{Context, Result};
use clap::Parser;
use edgeplex_runtime::{Runtime, Sandbox, SandboxConfig};
use edgeplex_store::Embedded;
use edgeplexd::{
    desired::Keeper,
    fabric,
    http::{Api, Peer, router},
    reconcile::{Reconciler, State},
    retire::teardown,
    show::Viewer,
    switching::OpenVSwitch,
};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

/// Platform controller of one EdgePlex PE.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where state, VMs and the API's socket are. Must outlive a reboot: peers would notice other RDs and labels.
    #[arg(long, default_value = "/var/lib/edgeplex")]
    dir: PathBuf,
    /// Run directory of Open vSwitch.
    #[arg(long, default_value = "/run/openvswitch")]
    ovs_run_dir: PathBuf,
    /// The fabric: a bridge of that Open vSwitch with datapath_type=netdev.
    #[arg(long, default_value = "fabric")]
    bridge: String,
    /// Where cvmd, pvmd, fastforward and edgeplex-init are; by default beside this program.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Stop all VMs, remove their ports and rules, and end. Desired state stays.
    #[arg(long)]
    teardown: bool,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(Arguments::parse()))
}

/// One controller a directory.
fn lock(dir: &Path) -> Result<Flock<File>> {
    let file = File::create(dir.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .with_context(|| format!("another edgeplexd uses {}", dir.display()))
}

async fn run(arguments: Arguments) -> Result<()> {
    let started = Instant::now();
    fs::create_dir_all(arguments.dir.join("relay")).with_context(|| arguments.dir.display().to_string())?;
    let dir = arguments.dir.canonicalize()?;
    let _lock = lock(&dir)?;
    let bin_dir = match arguments.bin_dir {
        Some(d) => d,
        None => std::env::current_exe()?.parent().context("this program has no directory")?.to_owned(),
    };
    let sandbox = Sandbox::open(SandboxConfig { dir: dir.clone(), bin_dir }).await?;
    let switch = Box::new(OpenVSwitch { run_dir: arguments.ovs_run_dir, bridge: arguments.bridge, connection: None });
    if arguments.teardown {
        let sandbox = Arc::new(sandbox);
        teardown(dir, sandbox.clone(), switch).await?;
        if let Some(sandbox) = Arc::into_inner(sandbox) {
            sandbox.close();
        }
        return Ok(());
    }
    serve(dir, Arc::new(sandbox), switch, started).await
}

async fn serve(dir: PathBuf, runtime: Arc<dyn Runtime>, switch: Box<OpenVSwitch>, started: Instant) -> Result<()> {
    let state_file = dir.join("state.redb");
    let store = tokio::task::spawn_blocking(move || Embedded::open(&state_file)).await??;
    let keeper = Arc::new(Keeper::open(Arc::new(store))?);
    // Keys are in there.
    fs::set_permissions(dir.join("state.redb"), Permissions::from_mode(0o600))?;
    let (fabric_out, fabric_in) = watch::channel(None);
    let (looks, looked) = mpsc::channel(8);
    let (state_out, state) = watch::channel(State::default());
    tokio::spawn(fabric::follow(runtime.clone(), fabric_out));
    let reconciler = Reconciler::new(dir.clone(), runtime.clone(), switch, keeper.watch(), fabric_in, looked, state_out);
    let reconciler = tokio::spawn(reconciler.run());
    let listener = listen(&dir.join("api.sock"))?;
    tracing::info!("edgeplexd {} serves {}", env!("CARGO_PKG_VERSION"), dir.display());
    let api = Api { keeper, viewer: Viewer { runtime, dir: dir.clone() }, state, looks, started };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = axum::serve(listener, router(api).into_make_service_with_connect_info::<Peer>());
    tokio::select! {
        result = server => result?,
        // A reconciler that died would leave an API that promises what nobody does.
        result = reconciler => result.context("the reconciler ended")?,
        _ = terminate.recv() => tracing::info!("terminated; VMs, ports and rules stay"),
        _ = interrupt.recv() => tracing::info!("interrupted; VMs, ports and rules stay"),
    }
    Ok(())
}

/// The API's socket, for root alone. The directory's lock says that a socket that is there is a dead one.
fn listen(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(|| path.display().to_string()),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
