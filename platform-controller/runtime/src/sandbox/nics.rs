//! vNICs: veth pairs with one end in the VM.

use super::sockopt;
use crate::Nic;
use futures::FutureExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{InfoData, InfoVeth},
};
use std::{fs, io};

/// A netlink connection to the namespace that this daemon is in.
fn netlink() -> io::Result<(Handle, tokio::task::JoinHandle<()>)> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    Ok((handle, tokio::spawn(connection.map(drop))))
}

fn error(what: String) -> impl FnOnce(rtnetlink::Error) -> io::Error {
    move |e| io::Error::other(format!("{what}: {e}"))
}

/// Makes the pairs, each VM end straight in the namespace of `pid` under its own name, and brings all ends up.
/// `raw` ends are for the forwarder alone: their kernel does no ARP.
pub(super) async fn create(pid: u32, nics: &[Nic], raw: bool) -> io::Result<()> {
    let (handle, task) = netlink()?;
    for nic in nics {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(nic.name.clone())
            .address(nic.mac.0.to_vec())
            .mtu(u32::from(nic.mtu))
            .setns_by_pid(pid)
            .build();
        let pair = LinkVeth::new(&nic.host_name, &nic.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let pair = pair.mtu(u32::from(nic.mtu)).build();
        handle.link().add(pair).execute().await.map_err(error(format!("veth {}", nic.host_name)))?;
        // The switch's end carries frames, no traffic of the host's own.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", nic.host_name), "1");
        sockopt::offloads_off(&nic.host_name)?;
        sockopt::up(&nic.host_name, true)?;
    }
    task.abort();
    let nics = nics.to_vec();
    let inside = move || inside(pid, &nics, raw);
    tokio::task::spawn_blocking(move || in_new_thread(inside)).await.map_err(io::Error::other)?
}

/// Runs `f` in a thread of its own, which may then change namespace and end.
fn in_new_thread(f: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("vm-netns".into()).spawn(f)?;
    thread.join().map_err(|_| io::Error::other("the thread that configures the VM's network panicked"))?
}

/// The VM's ends, from within its network namespace.
fn inside(pid: u32, nics: &[Nic], raw: bool) -> io::Result<()> {
    setns(fs::File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    sockopt::up("lo", true)?;
    for nic in nics {
        // Until IPv6 is served, the kernel shall not solicit routers on a customer's or core's segment.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", nic.name), "1");
        sockopt::offloads_off(&nic.name)?;
        sockopt::up(&nic.name, !raw)?;
    }
    Ok(())
}

/// Removes the host's ends, and with them the VM's. A name that is not there is no error.
pub(super) async fn remove(host_names: &[String]) -> io::Result<()> {
    let (handle, task) = netlink()?;
    for name in host_names {
        if let Ok(index) = nix::net::if_::if_nametoindex(name.as_str()) {
            match handle.link().del(index).execute().await {
                // It goes by itself when the VM's namespace does, perhaps just now.
                Err(_) if nix::net::if_::if_nametoindex(name.as_str()).is_err() => {}
                other => other.map_err(error(format!("veth {name}")))?,
            }
        }
    }
    task.abort();
    Ok(())
}
