//! Commands and their options.

use crate::output::Format;
use clap::{Parser, Subcommand, ValueEnum};
use edgeplex_types::Name;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "edgeplex", version, about = "Operate one EdgePlex provider edge")]
pub(crate) struct Args {
    /// Socket of edgeplexd.
    #[arg(long, global = true, env = "EDGEPLEX_SOCKET", default_value = "/var/lib/edgeplex/api.sock", value_name = "PATH")]
    pub(crate) socket: PathBuf,
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Seconds to wait when `--wait` comes without a number.
const WAIT: &str = "60";
/// Seconds that deleting waits.
const WAIT_GONE: &str = "30";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the documents of the files the desired state: all of them, or none if one is wrong.
    Apply {
        /// YAML; `-` is standard input. May be given several times.
        #[arg(short = 'f', long = "file", required = true, value_name = "FILE", num_args = 1..)]
        files: Vec<PathBuf>,
        /// Say what would change, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Wait until the attachments concerned are ready [default without a number: 60 s].
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WAIT, conflicts_with = "dry_run")]
        wait: Option<u32>,
    },
    /// What applying the files would change; without files, what the reconciler still has to do. Exit code 1 if anything.
    Diff {
        #[arg(short = 'f', long = "file", value_name = "FILE", num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Desired state, as documents that `apply` takes.
    Get { what: Option<GetWhat> },
    /// Everything about one thing, desired and live.
    Describe {
        #[command(subcommand)]
        what: DescribeWhat,
    },
    /// Take customers away, by name or by the files that describe them.
    #[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
    Delete {
        #[command(subcommand)]
        what: Option<DeleteWhat>,
        #[arg(short = 'f', long = "file", required = true, value_name = "FILE", num_args = 1..)]
        files: Vec<PathBuf>,
        /// Wait until their VMs are gone; 0 does not wait.
        #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WAIT, default_value = WAIT_GONE)]
        wait: u32,
    },
    /// Customers, without writing YAML.
    Customer {
        #[command(subcommand)]
        command: CustomerCommand,
    },
    /// Live state of the data and control plane.
    Show {
        what: ShowWhat,
        /// Of this customer only.
        #[arg(short, long, value_name = "NAME")]
        customer: Option<Name>,
    },
    /// Health of the platform: reconciler, VMs, attachments.
    Status,
    /// Who changed what, and when.
    Audit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetWhat {
    Platform,
    #[value(alias = "customer")]
    Customers,
    #[value(alias = "attachment")]
    Attachments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DescribeWhat {
    Customer { name: Name },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeleteWhat {
    Customer {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Name>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CustomerCommand {
    /// Add a customer that is not there yet.
    Create {
        name: Name,
        /// Route targets to import.
        #[arg(long, value_name = "RT", num_args = 1..)]
        import: Vec<String>,
        /// Route targets to export.
        #[arg(long, value_name = "RT", num_args = 1..)]
        export: Vec<String>,
        /// Comma-separated KEY=VALUE; keys: name, port, vlan, address, mtu, rd, label, neighbor, remote-as, max-prefix,
        /// hold-time, static (PREFIX@NEXTHOP, may be repeated). Passwords belong in files.
        #[arg(long = "attachment", value_name = "KEY=VALUE,…")]
        attachments: Vec<String>,
        #[arg(long)]
        dry_run: bool,
        /// Wait until its attachments are ready [default without a number: 60 s].
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WAIT, conflicts_with = "dry_run")]
        wait: Option<u32>,
    },
    /// Take customers away.
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Name>,
        /// Wait until their VMs are gone; 0 does not wait.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WAIT, default_value = WAIT_GONE)]
        wait: u32,
    },
    /// The same as `get customers`.
    List,
    /// The same as `describe customer`.
    Show { name: Name },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShowWhat {
    Bgp,
    Routes,
    Labels,
    Fib,
    Counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_holds_together() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn wait_has_its_defaults() {
        let wait = |line: &str| match Args::try_parse_from(line.split(' ')).unwrap().command {
            Command::Apply { wait, .. } => wait,
            Command::Delete { wait, .. } => Some(wait),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("edgeplex apply -f a"), None);
        assert_eq!(wait("edgeplex apply -f a --wait"), Some(60));
        assert_eq!(wait("edgeplex apply --wait=5 -f a"), Some(5));
        assert_eq!(wait("edgeplex delete -f a"), Some(30));
        assert_eq!(wait("edgeplex delete customer acme"), Some(30));
        assert_eq!(wait("edgeplex delete customer acme beta --wait=0 -o json"), Some(0));
        assert!(Args::try_parse_from(["edgeplex", "apply", "-f", "a", "--wait", "--dry-run"]).is_err());
        assert!(Args::try_parse_from(["edgeplex", "delete"]).is_err());
    }
}
