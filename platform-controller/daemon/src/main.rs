//! `edgeplexd`: see the library.

use anyhow::{Context, Result};
use clap::Parser;
use edgeplex_agent::{AgentConfig, AgentRuntime, Identity};
use edgeplex_intent::Host;
use edgeplex_runtime::{Runtime, Sandbox, SandboxConfig};
use edgeplex_store::{Embedded, Store};
use edgeplexd::{
    counters::Meter,
    desired::Keeper,
    fabric,
    hosts::Fleet,
    http::{Api, Peer, router},
    images::Images,
    links,
    moves::{Moves, Real},
    placement::Placements,
    reconcile::{Parts, Reconciler, State},
    retire::teardown,
    show::Viewer,
    switching::{Bundles, OpenVSwitch},
    upgrade::Upgrades,
};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
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
    /// Print the fingerprint of this controller's certificate, which agents of other hosts are told, and end.
    #[arg(long)]
    show_key: bool,
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
    if arguments.show_key {
        use std::io::Write;
        let identity = Identity::read(&arguments.dir)?;
        let identity =
            identity.with_context(|| format!("{}: there is no key; edgeplexd makes it at its first start", arguments.dir.display()))?;
        writeln!(std::io::stdout(), "{}", identity.fingerprint())?;
        return Ok(());
    }
    fs::create_dir_all(arguments.dir.join("relay")).with_context(|| arguments.dir.display().to_string())?;
    let dir = arguments.dir.canonicalize()?;
    let identity = Identity::open(&dir)?;
    let _lock = lock(&dir)?;
    let bin_dir = match arguments.bin_dir {
        Some(d) => d,
        None => std::env::current_exe()?.parent().context("this program has no directory")?.to_owned(),
    };
    let sandbox = Sandbox::open(SandboxConfig { dir: dir.clone(), bin_dir }).await?;
    let switch = || OpenVSwitch { run_dir: arguments.ovs_run_dir.clone(), bridge: arguments.bridge.clone(), connection: None };
    let sandbox = Arc::new(sandbox);
    if arguments.teardown {
        teardown(dir, Arc::new(Fleet::alone(sandbox.clone())), Box::new(switch()), Box::new(switch())).await?;
        if let Some(sandbox) = Arc::into_inner(sandbox) {
            sandbox.close();
        }
        return Ok(());
    }
    let relay = dir.clone();
    let dial = move |host: &Host| -> Result<Arc<dyn Runtime>> {
        let mut config = AgentConfig::new(host.name.as_str(), host.address, host.key.parse()?, relay.clone());
        config.silence = Duration::from_millis(host.silence.into());
        Ok(Arc::new(AgentRuntime::start(config, &identity)?))
    };
    serve(dir, Fleet::new(sandbox, Box::new(dial)), switch, started).await
}

async fn serve(dir: PathBuf, fleet: Fleet, switch: impl Fn() -> OpenVSwitch, started: Instant) -> Result<()> {
    let state_file = dir.join("state.redb");
    let store: Arc<dyn Store> = Arc::new(tokio::task::spawn_blocking(move || Embedded::open(&state_file)).await??);
    let keeper = Arc::new(Keeper::open(store.clone())?);
    // Keys are in there.
    fs::set_permissions(dir.join("state.redb"), Permissions::from_mode(0o600))?;
    let placements = Arc::new(Placements::open(store.clone())?);
    let fleet = Arc::new(fleet);
    // Before anybody asks for one: a host that is not known is a lost one.
    fleet.know(keeper.watch().borrow().intent.platform.as_ref().map_or(&[], |p| &p.hosts));
    let meter = Arc::new(Meter::new(fleet.clone(), placements.clone()));
    let bundles = Bundles::start(Box::new(switch()));
    let (fabric_out, fabric_in) = watch::channel(None);
    let (looks, looked) = mpsc::channel(8);
    let (state_out, state) = watch::channel(State::default());
    let (ground_out, ground) = watch::channel(None);
    tokio::spawn(fabric::follow(fleet.clone(), placements.clone(), fabric_out));
    tokio::spawn(links::keep(fleet.clone(), placements.clone()));
    tokio::spawn(meter.clone().run());
    let reconciler = Reconciler::new(Parts {
        dir: dir.clone(),
        fleet: fleet.clone(),
        switch: Box::new(switch()),
        bundles: bundles.clone(),
        placements: placements.clone(),
        desired: keeper.watch(),
        fabric: fabric_in,
        looks: looked,
        state: state_out,
        ground: ground_out,
    });
    let reconciler = tokio::spawn(reconciler.run());
    let world = Real {
        dir: dir.clone(),
        fleet: fleet.clone(),
        placements: placements.clone(),
        bundles,
        ground,
        desired: keeper.watch(),
        meter: meter.clone(),
    };
    let moves = Moves::new(placements.clone(), Arc::new(world));
    tokio::spawn(moves.clone().run());
    let listener = listen(&dir.join("api.sock"))?;
    tracing::info!("edgeplexd {} serves {}", env!("CARGO_PKG_VERSION"), dir.display());
    let images = Arc::new(Images::new(dir.clone(), fleet.clone()));
    tokio::spawn(images.clone().keep());
    let viewer = Viewer { fleet, placements, meter, dir: dir.clone() };
    let upgrades = Upgrades::open(store, moves.clone(), viewer.clone(), state.clone())?;
    keeper.audit().resume(&moves, &upgrades).await?;
    let api = Api { keeper, viewer, state, looks, started, moves, images, upgrades };
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
