//! Commands and their options.

use crate::{
    moves::{Percent, WhoseArg},
    output::Format,
};
use clap::{Parser, Subcommand, ValueEnum};
use edgeplex_mgmt::show::PingOptions;
use edgeplex_types::{AttachmentId, Name};
use ipnet::Ipv4Net;
use std::{net::IpAddr, path::PathBuf};

#[derive(Debug, Parser)]
#[command(
    name = "edgeplex",
    version,
    about = "Operate one EdgePlex router",
    after_help = "Exit codes: 0 done; 1 tried and failed, a difference was found, or nothing came back; 2 refused or wrong, nothing was changed."
)]
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
        /// Of this customer only.
        #[arg(short, long, global = true, value_name = "NAME")]
        customer: Option<Name>,
        #[command(subcommand)]
        what: ShowWhat,
    },
    /// Ping from an attachment's VRF. Exit code 1 if nothing comes back.
    Ping {
        #[arg(value_name = "CUSTOMER/ATTACHMENT")]
        attachment: AttachmentId,
        address: IpAddr,
        #[command(flatten)]
        options: PingArgs,
    },
    /// Traceroute from an attachment's VRF. Exit code 1 if the end is not reached.
    Traceroute {
        #[arg(value_name = "CUSTOMER/ATTACHMENT")]
        attachment: AttachmentId,
        address: IpAddr,
        #[command(flatten)]
        options: TraceArgs,
    },
    /// Test a label-switched path of the core (RFC 8029).
    Lsp {
        #[command(subcommand)]
        command: LspCommand,
    },
    /// Move a customer's port VMs, or the control VM, to a host; their neighbours do not notice. Exit code 1 if one did not go.
    Migrate {
        #[arg(value_name = "CUSTOMER[/ATTACHMENT]|cvm")]
        whose: WhoseArg,
        /// `local` is the controller's own; to where it is already, it is made anew there.
        #[arg(long, value_name = "HOST", required_unless_present = "abort")]
        to: Option<String>,
        /// End the move that is under way, as if nothing had been.
        #[arg(long, conflicts_with = "to")]
        abort: bool,
    },
    /// Move everything off a host, and place nothing there any more. The control VM stays beside the controller.
    Drain { host: String },
    /// Let VMs be placed on a host again.
    Undrain { host: String },
    /// Write the state of an attachment's daemon, or the control VM's, to a file.
    Checkpoint {
        #[arg(value_name = "CUSTOMER[/ATTACHMENT]|cvm")]
        whose: WhoseArg,
        /// Must not be there yet; in a directory it gets a name; `-` is standard output.
        file: PathBuf,
    },
    /// Replace an instance by one that begins with the state of a file. Sessions begin anew.
    Restore {
        #[arg(value_name = "CUSTOMER[/ATTACHMENT]|cvm")]
        whose: WhoseArg,
        /// What `checkpoint` wrote of the same attachment; `-` is standard input.
        file: PathBuf,
    },
    /// Versions of the programs of which VMs are made.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Move everything onto another image, some first; taken back by itself if anything gets worse (exit code 1).
    Upgrade {
        #[arg(long, value_name = "IMAGE")]
        to: String,
        /// Attachments that go first.
        #[arg(long, value_name = "N", default_value_t = 1)]
        canary: u32,
        /// How many go together then.
        #[arg(long, value_name = "PERCENT%", default_value = "10%")]
        then: Percent,
        /// How long each group is watched before the next goes.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        soak: u32,
        /// Do not wait for its end.
        #[arg(long)]
        no_wait: bool,
    },
    /// Take the last upgrade back that is done, or the one under way.
    Rollback,
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
        /// Comma-separated KEY=VALUE; keys: name, port, vlan, address, address6, mtu, rd, label, neighbor, remote-as,
        /// max-prefix, hold-time, static (PREFIX@NEXTHOP, may be repeated). Passwords belong in files.
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

#[derive(Debug, Subcommand)]
pub(crate) enum ShowWhat {
    /// Sessions with route reflectors and customers.
    Bgp(OfArgs),
    /// Routes in the VRFs, and what is made of them.
    Routes(OfArgs),
    /// VPN labels, and whose they are.
    Labels(OfArgs),
    /// What FastForward forwards by.
    Fib(OfArgs),
    /// Packets.
    Counters(OfArgs),
    /// BFD sessions of the core and of customers.
    Bfd(OfArgs),
    Ospf {
        what: OspfTable,
    },
    Ldp {
        what: LdpTable,
    },
    /// Incoming labels of the platform's label-switching router.
    Forwarding,
    /// Ways to other routers of the core.
    Tunnels,
    /// Hosts of the platform: whether they are there, what runs on them, and which images they have.
    Hosts,
    /// VMs of each attachment and of the control plane: where they are, and which leads.
    Instances,
    /// The last moves, and those under way.
    Moves,
    /// The last upgrade, or the one under way.
    Upgrade,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Copy the programs of a directory to every host; what is added does not change any more.
    Add {
        name: String,
        dir: PathBuf,
    },
    List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OfArgs {
    /// Of this customer or attachment only.
    #[arg(value_name = "CUSTOMER[/ATTACHMENT]")]
    pub(crate) of: Option<WhoseArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OspfTable {
    Neighbors,
    Interfaces,
    Database,
    Routes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LdpTable {
    Neighbors,
    Bindings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LspCommand {
    /// Ping through the LSP of a prefix. Exit code 1 if nothing comes back.
    Ping {
        prefix: Ipv4Net,
        #[command(flatten)]
        options: PingArgs,
    },
    /// Traceroute through the LSP of a prefix. Exit code 1 if the end is not reached.
    Traceroute {
        prefix: Ipv4Net,
        #[command(flatten)]
        options: TraceArgs,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct PingArgs {
    /// Requests.
    #[arg(long, default_value_t = PingOptions::default().count)]
    count: u16,
    /// Between two requests.
    #[arg(long, value_name = "MS", default_value_t = PingOptions::default().interval_ms)]
    interval: u32,
    /// For an answer.
    #[arg(long, value_name = "MS", default_value_t = PingOptions::default().timeout_ms)]
    timeout: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// For an answer.
    #[arg(long, value_name = "MS", default_value_t = PingOptions::default().timeout_ms)]
    timeout: u32,
    #[arg(long, value_name = "N", default_value_t = PingOptions::default().max_hops)]
    max_hops: u8,
}

impl From<PingArgs> for PingOptions {
    fn from(a: PingArgs) -> Self {
        Self { count: a.count, interval_ms: a.interval, timeout_ms: a.timeout, ..Self::default() }
    }
}

impl From<TraceArgs> for PingOptions {
    fn from(a: TraceArgs) -> Self {
        Self { timeout_ms: a.timeout, max_hops: a.max_hops, ..Self::default() }
    }
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
