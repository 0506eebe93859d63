//! `edgeplex-lab`: the commands behind lab/up, lab/down, lab/exec, lab/demo and lab/test, and the small tools that
//! the scenarios run inside the nodes.

use anyhow::Result;
use clap::{Parser, Subcommand};
use edgeplex_lab::{
    lab::{self, Lab},
    node,
    state::{self, LabDir},
    topology::Topology,
};
use std::{os::unix::process::CommandExt, path::PathBuf, process::ExitCode};

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
