//! The interface `pe0` between this VM's kernel and FastForward: addresses, MTU, and the ways out through the VRF.
//!
//! FastForward makes the TAP and may make it again. This task looks whenever a link changes, and every so often in
//! case it missed that, and puts right what is not. That pe0 is not there is a condition to wait for, not an error.

use edgeplex_ff_fib_api::{VRF_GATEWAY, VRF_GATEWAY6, VRF_MAC};
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::NeighbourState,
    },
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// How often to look without being told.
const RECHECK: Duration = Duration::from_secs(2);

/// What pe0 should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tap {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) mtu: u16,
}

/// What was seen when it was last put right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    index: u32,
    up: bool,
    mtu: Option<u32>,
    /// FastForward sets it when it is told; with the old one the kernel forgets all neighbours, the permanent ones too.
    mac: Option<Vec<u8>>,
    wanted: Tap,
}

/// Keeps the interface as `wanted` says for ever; `ready` becomes true when it is so for the first time.
/// Fails only if netlink itself does.
pub(crate) async fn keep(mut wanted: watch::Receiver<Tap>, ready: watch::Sender<bool>) -> anyhow::Result<()> {
    let (connection, handle, mut changes) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
    let connection = tokio::spawn(connection);
    let mut seen = None;
    let mut waiting = false;
    loop {
        let want = wanted.borrow_and_update().clone();
        match look(&handle, &want).await {
            Ok(None) => {
                seen = None;
                if !std::mem::replace(&mut waiting, true) {
                    info!(interface = want.name, "waiting for FastForward to make the interface");
                }
            }
            Ok(Some(now)) if Some(&now) == seen.as_ref() => {}
            Ok(Some(now)) => match set_up(&handle, now.index, &want).await {
                // What was done is what should be seen from now on; what changed meanwhile is seen to differ.
                Ok(()) => {
                    seen = Some(Seen { up: true, mtu: Some(want.mtu.into()), ..now });
                    waiting = false;
                    info!(interface = want.name, addresses = ?want.addresses, mtu = want.mtu, "interface is set up");
                    ready.send_replace(true);
                }
                Err(error) => warn!(interface = want.name, %error, "setting up the interface failed, trying again"),
            },
            Err(error) => warn!(interface = want.name, %error, "looking at the interface failed"),
        }
        tokio::select! {
            change = changes.next() => if change.is_none() { break },
            changed = wanted.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(RECHECK) => {}
        }
    }
    connection.abort();
    Ok(())
}

async fn look(handle: &Handle, want: &Tap) -> Result<Option<Seen>, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(want.name.clone()).execute();
    match links.try_next().await {
        Ok(Some(link)) => Ok(Some(seen(&link, want))),
        Ok(None) => Ok(None),
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::ENODEV => Ok(None),
        Err(e) => Err(e),
    }
}

fn seen(link: &LinkMessage, want: &Tap) -> Seen {
    let mtu = link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None });
    let mac = link.attributes.iter().find_map(|a| if let LinkAttribute::Address(mac) = a { Some(mac.clone()) } else { None });
    Seen { index: link.header.index, up: link.header.flags.contains(LinkFlags::Up), mtu, mac, wanted: want.clone() }
}

/// Idempotent.
async fn set_up(handle: &Handle, index: u32, want: &Tap) -> Result<(), rtnetlink::Error> {
    let link = LinkUnspec::new_with_index(index).mtu(want.mtu.into()).up().build();
    handle.link().change(link).execute().await?;

    if want.addresses.iter().any(|a| a.addr().is_ipv6()) {
        prepare_ipv6(&want.name);
    }
    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    while let Some(found) = addresses.try_next().await? {
        let other = address_of(&found).is_some_and(|a| !link_local(a) && !want.addresses.contains(&a));
        if other {
            handle.address().del(found).execute().await?;
        }
    }
    for address in &want.addresses {
        let mut add = handle.address().add(index, address.addr(), address.prefix_len()).replace();
        if address.addr().is_ipv6() {
            // Nobody else has it: FastForward answers for it. Until it was looked for, nothing could be bound to it.
            add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        add.execute().await?;
        way_out(handle, index, address.addr()).await?;
    }
    Ok(())
}

/// Everything beyond the subnet is for the VRF to route: through a gateway that only this kernel knows.
async fn way_out(handle: &Handle, index: u32, own: IpAddr) -> Result<(), rtnetlink::Error> {
    let gateway: IpAddr = if own.is_ipv4() { VRF_GATEWAY.into() } else { VRF_GATEWAY6.into() };
    handle.neighbours().add(index, gateway).link_layer_address(&VRF_MAC.0).state(NeighbourState::Permanent).replace().execute().await?;
    let default = match own {
        IpAddr::V4(own) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .gateway(VRF_GATEWAY)
            .output_interface(index)
            .pref_source(own)
            .onlink()
            .build(),
        IpAddr::V6(own) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
            .gateway(VRF_GATEWAY6)
            .output_interface(index)
            .pref_source(own)
            .build(),
    };
    handle.route().add(default).replace().execute().await
}

fn address_of(found: &AddressMessage) -> Option<IpNet> {
    let local = found.attributes.iter().find_map(|a| if let AddressAttribute::Local(a) = a { Some(*a) } else { None });
    // IPv6 addresses have no local part apart.
    let address =
        local.or_else(|| found.attributes.iter().find_map(|a| if let AddressAttribute::Address(a) = a { Some(*a) } else { None }));
    IpNet::new(address?, found.header.prefix_len).ok()
}

/// The kernel makes it from the MAC address, and needs it.
fn link_local(address: IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(a) if a.is_unicast_link_local())
}

/// What a customer's routers advertise is not for this kernel.
fn prepare_ipv6(interface: &str) {
    for setting in ["disable_ipv6", "accept_ra", "autoconf", "accept_redirects"] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{setting}");
        if let Err(error) = std::fs::write(&path, "0") {
            debug!(path, %error, "cannot be set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use rtnetlink::{LinkVeth, packet_route::route::RouteAttribute};

    /// Runs `test` in a network namespace of its own. Needs root, as `lab/test` has it.
    fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
        let thread = std::thread::spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: no network namespace of our own ({error})");
                return;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test()).await.unwrap() });
        });
        thread.join().unwrap();
    }

    async fn make(handle: &Handle) {
        handle.link().add(LinkVeth::new("pe0", "other").build()).execute().await.unwrap();
    }

    async fn addresses(handle: &Handle, index: u32) -> Vec<IpNet> {
        let found: Vec<_> = handle.address().get().set_link_index_filter(index).execute().try_collect().await.unwrap();
        let mut addresses: Vec<IpNet> = found.iter().filter_map(address_of).filter(|a| !link_local(*a)).collect();
        addresses.sort();
        addresses
    }

    /// Default routes of both families through the interface.
    async fn defaults(handle: &Handle, index: u32) -> usize {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes: Vec<_> = handle.route().get(v4).execute().try_collect().await.unwrap();
        routes.extend(handle.route().get(v6).execute().try_collect::<Vec<_>>().await.unwrap());
        let ours = |r: &&rtnetlink::packet_route::route::RouteMessage| r.attributes.contains(&RouteAttribute::Oif(index));
        routes.iter().filter(ours).filter(|r| r.header.destination_prefix_length == 0).count()
    }

    /// Gateways that the kernel need not look for.
    async fn gateways(handle: &Handle, index: u32) -> usize {
        let known: Vec<_> = handle.neighbours().get().execute().try_collect().await.unwrap();
        known.iter().filter(|n| n.header.ifindex == index && n.header.state == NeighbourState::Permanent).count()
    }

    /// Waits until pe0 is as wanted, default routes and gateways included.
    async fn until(handle: &Handle, want: &Tap) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            assert!(tokio::time::Instant::now() < deadline, "pe0 does not become {want:?}");
            if let Ok(Some(now)) = look(handle, want).await {
                let is = now.up && now.mtu == Some(want.mtu.into()) && addresses(handle, now.index).await == want.addresses;
                let ways = (defaults(handle, now.index).await, gateways(handle, now.index).await);
                if is && ways == (want.addresses.len(), want.addresses.len()) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn nets(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn the_interface_is_set_up_when_it_comes_again_when_it_returns_and_anew_when_the_wish_changes() {
        in_namespace(|| async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let want = Tap { name: "pe0".into(), addresses: nets(&["192.168.1.1/30", "2001:db8:1::1/64"]), mtu: 1400 };
            let (wish, wanted) = watch::channel(want.clone());
            let (ready, mut is_ready) = watch::channel(false);
            tokio::spawn(keep(wanted, ready));
            make(&handle).await;
            is_ready.wait_for(|r| *r).await.unwrap();
            until(&handle, &want).await;

            let index = look(&handle, &want).await.unwrap().unwrap().index;
            handle.link().del(index).execute().await.unwrap();
            make(&handle).await;
            until(&handle, &want).await;

            let other = Tap { addresses: nets(&["192.168.7.1/29", "2001:db8:7::1/64"]), mtu: 1300, ..want };
            wish.send_replace(other.clone());
            until(&handle, &other).await;

            // Taken down from outside, it comes up again.
            let index = look(&handle, &other).await.unwrap().unwrap().index;
            handle.link().change(LinkUnspec::new_with_index(index).down().build()).execute().await.unwrap();
            until(&handle, &other).await;

            // FastForward learns which MAC address it has: the kernel forgets the gateways then.
            let mac = LinkUnspec::new_with_index(index).address(vec![2, 0, 0, 0, 0, 7]).build();
            handle.link().change(mac).execute().await.unwrap();
            until(&handle, &other).await;
        });
    }
}
