//! Live state, one kind of row at a time.

use crate::{
    args::{LdpTable, OspfTable, ShowWhat},
    error::Stop,
    hosts, moves,
    output::{Printer, note, table},
    upgrade,
};
use edgeplex_api::{BfdSession, BgpRow, Client, CounterRow, FibRow, RouteRow, Shown, Whose as Named};
use edgeplex_mgmt::show::{
    ForwardingRow, LabelRow, LdpBindingRow, LdpNeighborRow, LsaRow, OspfInterfaceRow, OspfNeighborRow, OspfRouteRow, TunnelRow,
};
use edgeplex_types::{AttachmentId, Name};
use serde::{Serialize, de::DeserializeOwned};

/// Rows of whom; all, where neither is given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Whose<'a> {
    pub(crate) customer: Option<&'a Name>,
    pub(crate) attachment: Option<&'a AttachmentId>,
}

pub(crate) async fn show(client: &Client, out: Printer, what: &ShowWhat, customer: Option<&Name>) -> Result<(), Stop> {
    let named = match what {
        ShowWhat::Bgp(a) | ShowWhat::Routes(a) | ShowWhat::Labels(a) | ShowWhat::Fib(a) | ShowWhat::Counters(a) | ShowWhat::Bfd(a) => {
            a.of.as_ref().map(|w| &w.0)
        }
        _ if customer.is_some() => return Err(Stop::Refused("--customer: means nothing here; leave it out".into())),
        _ => None,
    };
    let of = match (named, customer) {
        (None, customer) => Whose { customer, attachment: None },
        (Some(_), Some(_)) => return Err(Stop::Refused("--customer: whose it is, is said already; leave it out".into())),
        (Some(Named::Customer(name)), None) => Whose { customer: Some(name), attachment: None },
        (Some(Named::Attachment(id)), None) => Whose { customer: None, attachment: Some(id) },
        (Some(Named::Cvm), None) => {
            return Err(Stop::Refused("must be a customer or an attachment; without either the core is shown too".into()));
        }
    };
    match what {
        ShowWhat::Bgp(_) => print::<BgpRow>(client, out, of).await,
        ShowWhat::Routes(_) => print::<RouteRow>(client, out, of).await,
        ShowWhat::Labels(_) => print::<LabelRow>(client, out, of).await,
        ShowWhat::Fib(_) => print::<FibRow>(client, out, of).await,
        ShowWhat::Counters(_) => print::<CounterRow>(client, out, of).await,
        ShowWhat::Bfd(_) => print::<BfdSession>(client, out, of).await,
        ShowWhat::Ospf { what: OspfTable::Neighbors } => print::<OspfNeighborRow>(client, out, of).await,
        ShowWhat::Ospf { what: OspfTable::Interfaces } => print::<OspfInterfaceRow>(client, out, of).await,
        ShowWhat::Ospf { what: OspfTable::Database } => print::<LsaRow>(client, out, of).await,
        ShowWhat::Ospf { what: OspfTable::Routes } => print::<OspfRouteRow>(client, out, of).await,
        ShowWhat::Ldp { what: LdpTable::Neighbors } => print::<LdpNeighborRow>(client, out, of).await,
        ShowWhat::Ldp { what: LdpTable::Bindings } => print::<LdpBindingRow>(client, out, of).await,
        ShowWhat::Forwarding => print::<ForwardingRow>(client, out, of).await,
        ShowWhat::Tunnels => print::<TunnelRow>(client, out, of).await,
        ShowWhat::Hosts => hosts::show(client, out).await,
        ShowWhat::Instances => moves::show_instances(client, out).await,
        ShowWhat::Moves => moves::show_moves(client, out).await,
        ShowWhat::Upgrade => upgrade::show(client, out).await,
    }
}

async fn print<T: Row>(client: &Client, out: Printer, of: Whose<'_>) -> Result<(), Stop> {
    out.print(&rows::<T>(client, of).await?, |rows| rows_text(rows))
}

/// Asks for the rows, and warns of those who could not be asked.
pub(crate) async fn rows<T: Row>(client: &Client, of: Whose<'_>) -> Result<Vec<T>, Stop> {
    // Names hold nothing that a URL would have to escape, and a slash needs no escape in a query (RFC 3986 §3.4).
    let query = match of {
        Whose { attachment: Some(id), .. } => format!("?attachment={id}"),
        Whose { customer: Some(c), .. } => format!("?customer={c}"),
        _ => String::new(),
    };
    let shown: Shown<T> = client.get(&format!("/v1/show/{}{query}", T::PATH)).await?;
    for who in &shown.unreachable {
        note(&format!("warning: rows are missing: {who}"));
    }
    Ok(shown.rows)
}

pub(crate) fn rows_text<T: Row>(rows: &[T]) -> String {
    table(T::HEADER, rows.iter().map(Row::cells))
}

pub(crate) trait Row: Serialize + DeserializeOwned {
    /// Below `/v1/show/`.
    const PATH: &'static str;
    const HEADER: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}
