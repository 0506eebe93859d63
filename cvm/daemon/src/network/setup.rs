//! Loopback, core interfaces and how the kernel forwards, over rtnetlink. Everything here may be done again at any time.

use anyhow::{Context, bail};
use edgeplex_mgmt::config::{CoreInterface, CvmConfig};
use edgeplex_types::{MacAddr, NextHop};
use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::NeighbourState,
    },
};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use tracing::{debug, info};

/// How long to wait for a vNIC to appear.
const APPEAR: Duration = Duration::from_secs(10);
/// A neighbour that went away or changed its MAC address without a word is noticed within some ten seconds: confirmed every
/// 5 s (RFC 4861 §7.3 gives the scheme), asked twice directly, then twice by broadcast.
const NEIGHBOR_TIMING: [(&str, &str); 5] = [
    ("base_reachable_time_ms", "5000"),
    ("delay_first_probe_time", "1"),
    ("retrans_time_ms", "500"),
    ("ucast_solicit", "2"),
    ("mcast_resolicit", "2"),
];

/// The kernel is a router of the core: it forwards from interface to interface, whatever the way back, says nothing of better
/// ways, and does not use routes over a link without a carrier.
const INTERFACE: [(&str, &str); 4] =
    [("rp_filter", "0"), ("send_redirects", "0"), ("accept_redirects", "0"), ("ignore_routes_with_linkdown", "1")];

pub(super) async fn apply(handle: &Handle, config: &CvmConfig) -> anyhow::Result<()> {
    sysctl("ip_forward", "1");
    // Equal ways by the flow, as FastForward does.
    sysctl("fib_multipath_hash_policy", "1");
    // Our sessions' packets carry the loopback as source: ARP must ask with the interface's address all the same.
    sysctl("conf/all/arp_announce", "2");
    let interfaces = ["all", "default"].into_iter().chain(config.core.iter().map(|i| &i.name[..]));
    let lo = find(handle, "lo").await?.context("there is no loopback interface")?;
    let loopback = Ipv4Net::from(config.loopback);
    up(handle, &lo, None, None).await.context("lo")?;
    addresses(handle, lo.header.index, loopback).await.context("lo")?;
    for interface in &config.core {
        core_interface(handle, interface).await.with_context(|| interface.name.clone())?;
        for (name, value) in NEIGHBOR_TIMING {
            sysctl(&format!("neigh/{}/{name}", interface.name), value);
        }
    }
    for (interface, (name, value)) in interfaces.flat_map(|i| INTERFACE.map(|setting| (i, setting))) {
        sysctl(&format!("conf/{interface}/{name}"), value);
    }
    Ok(())
}

/// What cannot be set is left as it is: the kernel's defaults are slower, and forward less.
fn sysctl(name: &str, value: &str) {
    if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value) {
        debug!(name, %error, "setting not changed");
    }
}

async fn find(handle: &Handle, name: &str) -> anyhow::Result<Option<LinkMessage>> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::ENODEV => Ok(None),
        Err(e) => Err(e.into()),
    }
}

async fn core_interface(handle: &Handle, want: &CoreInterface) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + APPEAR;
    let link = loop {
        if let Some(link) = find(handle, &want.name).await? {
            break link;
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("no such interface after {APPEAR:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    up(handle, &link, Some(u32::from(want.mtu)), Some(want.mac.0)).await?;
    addresses(handle, link.header.index, want.address).await
}

/// Entries that the kernel believes until it has asked the neighbour itself, which it does when it is about to use them.
pub(super) async fn learn(handle: Handle, neighbors: BTreeMap<NextHop, MacAddr>) {
    for (hop, mac) in neighbors {
        let done = async {
            let Some(link) = find(&handle, &hop.interface).await? else { return Ok(()) };
            let entry = handle.neighbours().add(link.header.index, hop.address.into()).replace();
            anyhow::Ok(entry.link_layer_address(&mac.0).state(NeighbourState::Stale).execute().await?)
        };
        if let Err(error) = done.await {
            debug!(%hop, error = format!("{error:#}"), "the kernel is not told of a neighbour");
        }
    }
}

/// Sets what differs: MTU, MAC address, up.
async fn up(handle: &Handle, link: &LinkMessage, mtu: Option<u32>, mac: Option<[u8; 6]>) -> anyhow::Result<()> {
    let is_up = link.header.flags.contains(LinkFlags::Up);
    let has_mtu = mtu.is_none_or(|mtu| link.attributes.contains(&LinkAttribute::Mtu(mtu)));
    let has_mac = mac.is_none_or(|mac| link.attributes.contains(&LinkAttribute::Address(mac.to_vec())));
    if is_up && has_mtu && has_mac {
        return Ok(());
    }
    let mut message = LinkUnspec::new_with_index(link.header.index).up();
    if let Some(mtu) = mtu.filter(|_| !has_mtu) {
        message = message.mtu(mtu);
    }
    if let Some(mac) = mac.filter(|_| !has_mac) {
        message = message.address(mac.to_vec());
    }
    handle.link().change(message.build()).execute().await?;
    info!(index = link.header.index, "interface set up");
    Ok(())
}

/// Makes `want` the interface's only IPv4 address (127.0.0.0/8 apart).
async fn addresses(handle: &Handle, index: u32, want: Ipv4Net) -> anyhow::Result<()> {
    let mut found = false;
    let mut list = handle.address().get().set_link_index_filter(index).execute();
    let mut extra = vec![];
    while let Some(address) = list.try_next().await? {
        if address.header.family != AddressFamily::Inet {
            continue;
        }
        let local = address.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(IpAddr::V4(a)) => Some(*a),
            _ => None,
        });
        if local == Some(want.addr()) && address.header.prefix_len == want.prefix_len() {
            found = true;
        } else if !local.is_some_and(|a| a.is_loopback()) {
            extra.push(address);
        }
    }
    drop(list);
    // First those to go: with the first address of a subnet the kernel drops the others of it, the wanted one perhaps.
    let dropped = !extra.is_empty();
    for address in extra {
        match handle.address().del(address).execute().await {
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::EADDRNOTAVAIL => {}
            other => other?,
        }
    }
    if !found || dropped {
        handle.address().add(index, want.addr().into(), want.prefix_len()).replace().execute().await?;
        info!(index, address = %want, "address set");
    }
    Ok(())
}
