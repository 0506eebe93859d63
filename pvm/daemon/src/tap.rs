//! The interface `pe0` between this VM's kernel and FastForward: address, MTU, and the way out through the VRF.
//!
//! FastForward makes the TAP and may make it again. This task looks whenever a link changes, and every so often in
//! case it missed that, and puts right what is not. That pe0 is not there is a condition to wait for, not an error.

use edgeplex_ff_fib_api::{VRF_GATEWAY, VRF_MAC};
use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags, LinkMessage},
    },
};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};
use tokio::sync::watch;
use tracing::{info, warn};

/// How often to look without being told.
const RECHECK: Duration = Duration::from_secs(2);

/// What pe0 should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tap {
    pub(crate) name: String,
    pub(crate) address: Ipv4Net,
    pub(crate) mtu: u16,
}

/// What was seen when it was last put right.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    index: u32,
    up: bool,
    mtu: Option<u32>,
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
                // Look once more: what was done is what should be seen from now on.
                Ok(()) => {
                    seen = look(&handle, &want).await.unwrap_or_default();
                    waiting = false;
                    info!(interface = want.name, address = %want.address, mtu = want.mtu, "interface is set up");
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
    Seen { index: link.header.index, up: link.header.flags.contains(LinkFlags::Up), mtu, wanted: want.clone() }
}

/// Idempotent.
async fn set_up(handle: &Handle, index: u32, want: &Tap) -> Result<(), rtnetlink::Error> {
    let link = LinkUnspec::new_with_index(index).mtu(want.mtu.into()).up().build();
    handle.link().change(link).execute().await?;

    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    while let Some(found) = addresses.try_next().await? {
        let local = found.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(IpAddr::V4(a)) => Some(*a),
            _ => None,
        });
        let other = local != Some(want.address.addr()) || found.header.prefix_len != want.address.prefix_len();
        if found.header.family == AddressFamily::Inet && other {
            handle.address().del(found).execute().await?;
        }
    }
    handle.address().add(index, want.address.addr().into(), want.address.prefix_len()).replace().execute().await?;

    // Everything else is for the VRF to route: through a gateway that only this kernel knows.
    handle
        .neighbours()
        .add(index, VRF_GATEWAY.into())
        .link_layer_address(&VRF_MAC.0)
        .state(rtnetlink::packet_route::neighbour::NeighbourState::Permanent)
        .replace()
        .execute()
        .await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .gateway(VRF_GATEWAY)
        .output_interface(index)
        .pref_source(want.address.addr())
        .onlink()
        .build();
    handle.route().add(default).replace().execute().await
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

    async fn addresses(handle: &Handle, index: u32) -> Vec<String> {
        let found: Vec<_> = handle.address().get().set_link_index_filter(index).execute().try_collect().await.unwrap();
        let v4 = found.iter().filter(|a| a.header.family == AddressFamily::Inet);
        let local = |a: &AddressAttribute| if let AddressAttribute::Local(a) = a { Some(*a) } else { None };
        v4.map(|a| format!("{}/{}", a.attributes.iter().find_map(local).unwrap(), a.header.prefix_len)).collect()
    }

    /// Waits until pe0 is as wanted, default route included.
    async fn until(handle: &Handle, want: &Tap) {
        loop {
            if let Ok(Some(now)) = look(handle, want).await {
                let routes: Vec<_> =
                    handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute().try_collect().await.unwrap();
                let default = routes
                    .iter()
                    .any(|r| r.header.destination_prefix_length == 0 && r.attributes.contains(&RouteAttribute::Oif(now.index)));
                if now.up && now.mtu == Some(want.mtu.into()) && addresses(handle, now.index).await == [want.address.to_string()] && default
                {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn the_interface_is_set_up_when_it_comes_again_when_it_returns_and_anew_when_the_wish_changes() {
        in_namespace(|| async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let want = Tap { name: "pe0".into(), address: "192.168.1.1/30".parse().unwrap(), mtu: 1400 };
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

            let other = Tap { address: "192.168.7.1/29".parse().unwrap(), mtu: 1300, ..want };
            wish.send_replace(other.clone());
            until(&handle, &other).await;

            // Taken down from outside, it comes up again.
            let index = look(&handle, &other).await.unwrap().unwrap().index;
            handle.link().change(LinkUnspec::new_with_index(index).down().build()).execute().await.unwrap();
            until(&handle, &other).await;
        });
    }
}
