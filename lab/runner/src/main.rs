//! `edgeplex-lab`: the commands behind lab/up, lab/down, lab/exec, lab/demo and lab/test, and the small tools that
//! the scenarios run inside the nodes.

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use edgeplex_lab::{
    complain, demo, foreign, interop,
    lab::{self, Lab},
    node, resilience, ring, say,
    state::{self, LabDir},
    suite, supervise,
    tools::{badbgp, buffers, flow, ovs_lsr, rawbgp, rogue, serve, tcp, udp},
    topology::{Image, Topology},
    vpns,
};
use edgeplex_types::AttachmentId;
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Parser)]
#[command(name = "edgeplex-lab", version, about = "Runs containerlab topologies in network namespaces, and the scenarios on them")]
struct Cli {
    /// Given by the supervisor to the process that does the work.
    #[arg(long, hide = true)]
    worker_of: Option<i32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a topology up.
    Up {
        file: PathBuf,
        /// Name of the lab, instead of the file's; lets one file run twice.
        #[arg(long)]
        name: Option<String>,
    },
    /// Take a lab down: the file's, the named one, all, or the only one.
    Down {
        file: Option<PathBuf>,
        #[arg(long, conflicts_with = "file")]
        name: Option<String>,
        #[arg(long, conflicts_with_all = ["file", "name"])]
        all: bool,
    },
    /// Run a command in a node.
    Exec {
        /// Which lab, if several are up.
        #[arg(long)]
        name: Option<String>,
        node: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Bring the two-cities lab up, provision it, prove what EdgePlex promises, take it down.
    Demo {
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
        /// Write what was proven to this file.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Name of the lab, so that several can run side by side.
        #[arg(long)]
        name: Option<String>,
        /// Only the scenarios whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// Break a core of four routers with redundant links in every way, and count what a customer loses.
    CoreRing {
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
        /// Write what was proven to this file.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Name of the lab.
        #[arg(long)]
        name: Option<String>,
    },
    /// Prove that a VPN spans our PE and another one: FRR with kernel MPLS in a QEMU guest.
    ForeignPe {
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
        /// Name of the lab.
        #[arg(long)]
        name: Option<String>,
    },
    /// Prove one platform among FRR, BIRD, GoBGP and OpenBGPD: a matrix of protocols and peers.
    Interop {
        /// Run the corpus of malformed UPDATEs instead, side by side against us and the four.
        #[arg(long)]
        corpus: bool,
        /// Only the phases (columns) whose name contains this, or the corpus cases.
        #[arg(long)]
        only: Option<String>,
        /// Where the result is kept [default: lab/out/interop.json, or corpus.json beside it].
        #[arg(long)]
        json: Option<PathBuf>,
        /// Name of the lab, so that several can run side by side.
        #[arg(long)]
        name: Option<String>,
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
    },
    /// Prove VPN topologies and customer features on three PEs: IPv6, hub and spoke, extranet, dual-homed sites, policy.
    Vpns {
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
        /// Write what was proven to this file.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Name of the lab.
        #[arg(long)]
        name: Option<String>,
        /// Only the proofs whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// Measure something against a rival or a bound.
    Bench {
        what: Bench,
        /// Write the rows to this file, one JSON object a line.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Only the cases whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// How often pvmd and the CVM are killed; the other cases run a fifth as often.
        #[arg(long, default_value_t = 100)]
        kills: usize,
        /// Decides the random moments.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Packets a second each way beside planned moves and upgrades. Two processors for the whole lab carry 5,000, not 10,000.
        #[arg(long, default_value_t = 5_000)]
        pps: u32,
        /// Name of the lab.
        #[arg(long)]
        name: Option<String>,
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
    },
    /// Trouble after trouble, chosen by a seed, with routers and hosts of customers looking on.
    Chaos {
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// The same seed, the same troubles.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Only troubles whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// Name of the lab.
        #[arg(long)]
        name: Option<String>,
        /// Leave the lab running.
        #[arg(long)]
        keep: bool,
    },
    /// Run every test of the project.
    Test {
        /// Only the steps whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// Answer as a LAN host: UDP echo and TCP sink.
    #[command(hide = true)]
    Serve { name: String },
    #[command(hide = true)]
    UdpPing {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 0)]
        source_port: u16,
        #[arg(long, default_value_t = 100)]
        pps: u32,
        /// Until standard input closes, if not given.
        #[arg(long)]
        count: Option<u64>,
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    #[command(hide = true)]
    Flow {
        #[arg(long)]
        to: Ipv4Addr,
        #[arg(long)]
        id: u64,
        #[arg(long)]
        pps: u32,
        #[arg(long)]
        size: usize,
    },
    #[command(hide = true)]
    TcpSend {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        bytes: u64,
    },
    /// Knock at a CVM's relay as somebody else.
    #[command(hide = true)]
    Rogue {
        #[arg(long)]
        endpoint: String,
        #[arg(long)]
        server_key: String,
        #[arg(long, requires = "secret_key")]
        public_key: Option<String>,
        #[arg(long, requires = "public_key")]
        secret_key: Option<String>,
        #[arg(long)]
        attachment: AttachmentId,
        #[arg(long)]
        prefix: IpNet,
    },
    /// Speak BGP badly.
    #[command(hide = true)]
    Badbgp {
        #[arg(long)]
        peer: Ipv4Addr,
        #[arg(long)]
        asn: u16,
        /// Own address, also the next hop.
        #[arg(long)]
        router_id: Ipv4Addr,
        #[arg(long)]
        kind: badbgp::Kind,
    },
    /// Speak BGP as told on standard input.
    #[command(hide = true)]
    RawBgp {
        #[arg(long)]
        peer: IpAddr,
        #[arg(long)]
        local: IpAddr,
        #[arg(long)]
        asn: u16,
        #[arg(long)]
        router_id: Ipv4Addr,
        /// AFI/SAFI, comma-separated.
        #[arg(long, value_delimiter = ',', value_parser = afi_safi)]
        families: Vec<(u16, u8)>,
    },
    /// Give Open vSwitch's sockets room.
    #[command(hide = true)]
    OvsBuffers { pid: i32 },
    /// Forward MPLS for the FRR of this node, whose kernel does not.
    #[command(hide = true)]
    OvsLsr,
    #[command(name = "node-init", hide = true)]
    NodeInit { dir: PathBuf },
    #[command(hide = true)]
    Daemonize {
        #[arg(long)]
        log: PathBuf,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Bench {
    /// Never losing a session.
    Resilience,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.worker_of {
        Some(supervisor) => supervise::become_worker(supervisor).and_then(|()| run(cli.command)),
        None => {
            if let Err(e) = check(&cli.command) {
                complain!("edgeplex-lab: {e:#}");
                return ExitCode::from(2);
            }
            match makes(&cli.command) {
                Some(names) => supervise::supervise(&names),
                None => run(cli.command),
            }
        }
    };
    match outcome {
        Ok(code) => code,
        Err(e) => {
            complain!("edgeplex-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the command line beyond its grammar.
fn check(command: &Command) -> Result<()> {
    match command {
        Command::Demo { json, only, .. } => demo::check(only.as_deref(), json.as_deref()),
        Command::CoreRing { json, .. } => demo::check(None, json.as_deref()),
        Command::Interop { corpus, only, json, name, keep } => {
            interop::check(&interop::Options { corpus: *corpus, only: only.clone(), json: json.clone(), name: name.clone(), keep: *keep })
        }
        Command::Vpns { only, .. } => vpns::check(only.as_deref()),
        Command::Test { only } => suite::check(only.as_deref()),
        _ => Ok(()),
    }
}

/// The names of the labs that a command brings up, if it is one that does.
fn makes(command: &Command) -> Option<Vec<String>> {
    let (name, file) = match command {
        Command::Up { file, name } => (name, file.clone()),
        Command::Demo { name, .. } => (name, two_cities()),
        Command::CoreRing { name, .. } => (name, topology("core-ring")),
        Command::ForeignPe { name, .. } => (name, topology("foreign-pe")),
        Command::Interop { corpus, name, .. } => (name, interop::topology(*corpus)),
        Command::Vpns { name, .. } => (name, topology("vpns")),
        Command::Bench { name, .. } => {
            let lab = name.clone().unwrap_or_else(|| "resilience".into());
            return Some(vec![format!("{lab}-rivals"), lab]);
        }
        Command::Chaos { name, .. } => (name, topology("resilience")),
        Command::Test { .. } => return Some(suite::LABS.map(str::to_owned).to_vec()),
        _ => return None,
    };
    // A file that cannot be read is the worker's to complain of: it makes nothing.
    Some(name.clone().or_else(|| Topology::load(&file).ok().map(|t| t.name)).into_iter().collect())
}

fn topology(name: &str) -> PathBuf {
    suite::root().join("lab/topologies").join(format!("{name}.clab.yml"))
}

fn resilience_options(name: Option<String>) -> resilience::Options {
    let out = suite::root().join("lab/out").join(name.as_deref().unwrap_or("resilience"));
    let (topology, rivals) = (topology("resilience"), topology("resilience-rivals"));
    resilience::Options { topology, rivals, name, keep: false, json: None, out, only: None, kills: 100, seed: 1, pps: 5_000 }
}

fn two_cities() -> PathBuf {
    topology("two-cities")
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { file, name } => {
            let lab = Lab::up(&file, name.as_deref())?;
            let of = name.map(|n| format!("--name {n} ")).unwrap_or_default();
            let pe = lab.topology.nodes.iter().find(|(_, n)| n.image == Image::EdgePlex).map(|(name, _)| format!("{name} edgeplex status"));
            let example = pe.or_else(|| Some(format!("{} ip address", lab.nodes.keys().next()?))).unwrap_or_default();
            say!("lab {} is up with {} nodes; try: lab/exec {of}{example}", lab.dir.name(), lab.nodes.len());
        }
        Command::Down { file, name, all } => down(file.as_deref(), name.as_deref(), all)?,
        Command::Exec { name, node, command } => {
            let lab = Lab::find(name.as_deref())?;
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let (program, arguments) = words.split_first().unwrap_or((&"sh", &[]));
            return Err(lab.node(&node)?.command(program, arguments).exec().into());
        }
        Command::Demo { keep, json, name, only } => {
            let root = suite::root();
            let out = root.join("lab/out").join(name.as_deref().unwrap_or("demo"));
            return code(demo::run(&demo::Options { topology: two_cities(), name, keep, json, out, only })?);
        }
        Command::CoreRing { keep, json, name } => {
            let out = suite::root().join("lab/out").join(name.as_deref().unwrap_or("core-ring"));
            return code(ring::run(&demo::Options { topology: topology("core-ring"), name, keep, json, out, only: None })?);
        }
        Command::ForeignPe { keep, name } => {
            let out = suite::root().join("lab/out").join(name.as_deref().unwrap_or("foreign-pe"));
            let options = demo::Options { topology: topology("foreign-pe"), name, keep, json: None, out, only: None };
            return code(foreign::run(&options)?);
        }
        Command::Interop { corpus, only, json, name, keep } => {
            return code(interop::run(&interop::Options { corpus, only, json, name, keep })?);
        }
        Command::Vpns { keep, json, name, only } => {
            let out = suite::root().join("lab/out").join(name.as_deref().unwrap_or("vpns"));
            return code(vpns::run(&demo::Options { topology: topology("vpns"), name, keep, json, out, only })?);
        }
        Command::Bench { what: Bench::Resilience, json, only, kills, seed, pps, name, keep } => {
            return code(resilience::run(&resilience::Options { json, only, kills, seed, pps, keep, ..resilience_options(name) })?);
        }
        Command::Chaos { seconds, seed, only, name, keep } => {
            return code(resilience::chaos::run(&resilience::Options { only, seed, keep, ..resilience_options(name) }, seconds)?);
        }
        Command::Test { only } => return code(suite::run(only.as_deref())?),
        Command::Serve { name } => serve::run(&name)?,
        Command::UdpPing { to, source_port, pps, count, size } => print(&udp::run(&udp::Options { to, source_port, pps, count, size })?)?,
        Command::Flow { to, id, pps, size } => print(&flow::run(&flow::Options { to, id, pps, size })?)?,
        Command::TcpSend { to, bytes } => print(&tcp::send(to, bytes)?)?,
        Command::Rogue { endpoint, server_key, public_key, secret_key, attachment, prefix } => {
            print(&rogue::run(&rogue::Options { endpoint, server_key, keys: public_key.zip(secret_key), attachment, prefix })?)?;
        }
        Command::Badbgp { peer, asn, router_id, kind } => print(&badbgp::run(&badbgp::Options { peer, asn, router_id, kind })?)?,
        Command::RawBgp { peer, local, asn, router_id, families } => {
            rawbgp::run(&rawbgp::Options { peer, local, asn, router_id, families })?;
        }
        Command::OvsBuffers { pid } => buffers::run(pid)?,
        Command::OvsLsr => ovs_lsr::run()?,
        Command::NodeInit { dir } => {
            if std::process::id() == 1 {
                node::init_inner(&dir)?
            } else {
                node::init_outer(&dir)?
            }
        }
        Command::Daemonize { log, command } => node::daemonize(&log, &command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn afi_safi(text: &str) -> Result<(u16, u8)> {
    let (afi, safi) = text.split_once('/').context("must be AFI/SAFI")?;
    Ok((afi.parse()?, safi.parse()?))
}

fn code(passed: bool) -> Result<ExitCode> {
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

fn down(file: Option<&Path>, name: Option<&str>, all: bool) -> Result<()> {
    let named = match (file, name) {
        (Some(file), _) => Some(Topology::load(file)?.name),
        (_, name) => name.map(str::to_owned),
    };
    let found = state::labs();
    let labs = match named {
        Some(name) => {
            let dir = LabDir::of(&name)?;
            ensure!(dir.0.exists(), "there is no lab {name}; {}", state::others());
            vec![dir]
        }
        None => {
            ensure!(all || found.len() < 2, "several labs are there, name one with --name or say --all: {}", state::others());
            found
        }
    };
    if labs.is_empty() {
        say!("no lab is up");
    }
    let mut failed = vec![];
    for dir in labs {
        match lab::down(&dir) {
            Ok(()) => say!("lab {} is down", dir.name()),
            Err(e) => failed.push(format!("{e:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
