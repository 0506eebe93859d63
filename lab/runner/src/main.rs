//! `edgeplex-lab`: the commands behind lab/up, lab/down, lab/exec, lab/demo and lab/test, and the small tools that
//! the scenarios run inside the nodes.

use anyhow::Result;
use clap::{Parser, Subcommand};
use edgeplex_lab::{
    demo,
    lab::{self, Lab},
    node,
    state::{self, LabDir},
    suite,
    tools::{badbgp, rogue, serve, tcp, udp},
    topology::Topology,
};
use edgeplex_types::AttachmentId;
use ipnet::IpNet;
use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::ExitCode,
};

#[derive(Parser)]
#[command(name = "edgeplex-lab", version, about = "Runs containerlab topologies in network namespaces, and the scenarios on them")]
struct Cli {
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

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("edgeplex-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { file, name } => {
            let lab = Lab::up(&file, name.as_deref())?;
            println!("lab {} is up with {} nodes; try: lab/exec denver edgeplex status", lab.dir.name(), lab.nodes.len());
        }
        Command::Down { file, name, all } => down(file, name, all)?,
        Command::Exec { name, node, command } => {
            let lab = Lab::find(name.as_deref())?;
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let (program, arguments) = words.split_first().unwrap_or((&"sh", &[]));
            return Err(lab.node(&node)?.command(program, arguments).exec().into());
        }
        Command::Demo { keep, json, name, only } => {
            let root = suite::root();
            let out = root.join("lab/out").join(name.as_deref().unwrap_or("demo"));
            let topology = root.join("lab/topologies/two-cities.clab.yml");
            return code(demo::run(&demo::Options { topology, name, keep, json, out, only, thorough: false })?);
        }
        Command::Test { only } => return code(suite::run(only.as_deref())?),
        Command::Serve { name } => serve::run(&name)?,
        Command::UdpPing { to, source_port, pps, count, size } => print(&udp::run(&udp::Options { to, source_port, pps, count, size })?)?,
        Command::TcpSend { to, bytes } => print(&tcp::send(to, bytes)?)?,
        Command::Rogue { endpoint, server_key, public_key, secret_key, attachment, prefix } => {
            print(&rogue::run(&rogue::Options { endpoint, server_key, keys: public_key.zip(secret_key), attachment, prefix })?)?;
        }
        Command::Badbgp { peer, asn, router_id, kind } => print(&badbgp::run(&badbgp::Options { peer, asn, router_id, kind })?)?,
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

fn code(passed: bool) -> Result<ExitCode> {
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

fn down(file: Option<PathBuf>, name: Option<String>, all: bool) -> Result<()> {
    let labs = match (file, name, all) {
        (Some(file), _, _) => vec![LabDir::of(&Topology::load(&file)?.name)?],
        (_, Some(name), _) => vec![LabDir::of(&name)?],
        (_, _, true) => state::labs(),
        _ => {
            let found = state::labs();
            anyhow::ensure!(found.len() < 2, "several labs are there: name one with --name, or say --all");
            found
        }
    };
    for dir in labs {
        lab::down(&dir)?;
        println!("lab {} is down", dir.name());
    }
    Ok(())
}
