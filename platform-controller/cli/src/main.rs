//! `edgeplex`, the operator's command line: reads arguments and files, asks the controller, prints what it says.
//!
//! Exit codes: 0 it is done; 1 it was tried and failed (an upgrade that was taken back, too), `diff` found a difference, or a ping or
//! traceroute did not get through; 2 it was refused, or the input is wrong: nothing was changed.

mod args;
mod change;
mod checkpoint;
mod describe;
mod error;
mod get;
mod hosts;
mod input;
mod moves;
mod output;
mod probe;
mod rows;
mod show;
mod status;
mod upgrade;
mod wait;

use args::{Args, Command, CustomerCommand, DeleteWhat, DescribeWhat, GetWhat, ImageCommand, LspCommand};
use clap::Parser;
use edgeplex_api::{Client, UpgradeOrder};
use error::Stop;
use output::Printer;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let client = Client::new(&args.socket);
    let printer = Printer::new(args.output);
    match run(&client, printer, args.command).await {
        Ok(code) => code,
        Err(stop) => stop.report(),
    }
}

async fn run(client: &Client, out: Printer, command: Command) -> Result<ExitCode, Stop> {
    match command {
        Command::Apply { files, dry_run, wait } => change::apply(client, out, &input::read_files(&files)?, dry_run, wait).await?,
        Command::Diff { files } => return change::diff(client, out, &files).await,
        Command::Get { what } => get::get(client, out, what).await?,
        Command::Describe { what: DescribeWhat::Customer { name } } => describe::customer(client, out, &name).await?,
        Command::Delete { what, files, wait } => {
            let names = match what {
                Some(DeleteWhat::Customer { names }) => names,
                None => input::read_files(&files)?.customers_to_delete()?,
            };
            change::delete(client, out, names, wait).await?;
        }
        Command::Customer { command } => customer(client, out, command).await?,
        Command::Show { what, customer } => show::show(client, out, &what, customer.as_ref()).await?,
        Command::Ping { attachment, address, options } => return probe::ping(client, out, attachment, address, options.into()).await,
        Command::Traceroute { attachment, address, options } => {
            return probe::traceroute(client, out, attachment, address, options.into()).await;
        }
        Command::Lsp { command: LspCommand::Ping { prefix, options } } => {
            return probe::lsp_ping(client, out, prefix, options.into()).await;
        }
        Command::Lsp { command: LspCommand::Traceroute { prefix, options } } => {
            return probe::lsp_traceroute(client, out, prefix, options.into()).await;
        }
        Command::Migrate { whose, to, .. } => return moves::migrate(client, out, whose.0, to).await,
        Command::Drain { host } => return moves::drain(client, out, host).await,
        Command::Undrain { host } => moves::undrain(client, host).await?,
        Command::Checkpoint { whose, file } => checkpoint::checkpoint(client, out, &whose.0, &file).await?,
        Command::Restore { whose, file } => return checkpoint::restore(client, out, &whose.0, &file).await,
        Command::Image { command: ImageCommand::Add { name, dir } } => {
            return hosts::add(client, out, name, &dir).await;
        }
        Command::Image { command: ImageCommand::List } => hosts::images(client, out).await?,
        Command::Upgrade { to, canary, then, soak, no_wait } => {
            let order = UpgradeOrder { to, canary, then_percent: then.0, soak_s: soak };
            return upgrade::upgrade(client, out, &order, !no_wait).await;
        }
        Command::Rollback => return upgrade::rollback(client, out).await,
        Command::Status => status::status(client, out).await?,
        Command::Audit => status::audit(client, out).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn customer(client: &Client, out: Printer, command: CustomerCommand) -> Result<(), Stop> {
    match command {
        CustomerCommand::Create { name, import, export, attachments, dry_run, wait } => {
            let input = input::new_customer(&name, &import, &export, &attachments)?;
            change::create(client, out, &name, &input, dry_run, wait).await
        }
        CustomerCommand::Delete { names, wait } => change::delete(client, out, names, wait).await,
        CustomerCommand::List => get::get(client, out, Some(GetWhat::Customers)).await,
        CustomerCommand::Show { name } => describe::customer(client, out, &name).await,
    }
}
