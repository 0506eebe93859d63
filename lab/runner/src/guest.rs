//! A `generic_vm` node: a QEMU guest (`lab/guest`) with Debian's kernel, which has MPLS and VRF, and FRR. Each link of the node is
//! a NIC of the guest, joined by a bridge and a TAP; what the topology binds below /config is the guest's own part.

use crate::{node::Node, suite, topology::Topology, wait};
use anyhow::{Context, Result, ensure};
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

/// Software emulation on a busy machine boots within that.
const BOOT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(30);
const CONSOLE: &str = "/run/guest.sock";

/// Boots the guest and waits until it says that its router runs.
pub fn launch(topology: &Topology, node: &Node) -> Result<()> {
    let root = suite::root();
    let image = root.join("lab/out/guest");
    let built = Command::new(root.join("lab/guest/build")).arg(&image).output().context("lab/guest/build")?;
    ensure!(built.status.success(), "lab/guest/build: {}", String::from_utf8_lossy(&built.stderr).trim());

    let mut script = String::new();
    let mut nics = vec![];
    for (interface, link) in topology.interfaces(&node.name) {
        let mtu = link.mtu;
        writeln!(script, "ip link add br-{interface} mtu {mtu} type bridge mcast_snooping 0")?;
        writeln!(script, "ip tuntap add dev tap-{interface} mode tap && ip link set tap-{interface} mtu {mtu} master br-{interface} up")?;
        writeln!(script, "ip link set {interface} master br-{interface} && ip link set br-{interface} up")?;
        let number = nics.len() / 4;
        let mac = format!("52:54:00:00:{:02x}:{number:02x}", node.name.bytes().fold(0u8, u8::wrapping_add));
        nics.extend([
            "-netdev".into(),
            format!("tap,id=n{number},ifname=tap-{interface},script=no,downscript=no"),
            "-device".into(),
            format!("virtio-net-pci,netdev=n{number},mac={mac},host_mtu={mtu},romfile="),
        ]);
    }
    // The guest's part of the file system is unpacked over the common one.
    let initrd = format!("/run/lab/{}.initrd", node.name);
    writeln!(script, "cd / && find config | cpio --quiet -o -H newc | gzip -1 | cat {}/initrd.gz - >{initrd}", image.display())?;
    node.shell(&script)?;

    let kernel = image.join("kernel").to_string_lossy().into_owned();
    let console = format!("socket,id=console,path={CONSOLE},server=on,wait=off,logfile=/run/lab/console.log");
    let fixed = ["qemu-system-x86_64", "-M", "q35", "-m", "256", "-nodefaults", "-no-reboot", "-display", "none", "-chardev", &console];
    let boot = ["-serial", "chardev:console", "-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0 quiet panic=1"];
    let nics: Vec<&str> = nics.iter().map(String::as_str).collect();
    node.daemon("qemu", &[&fixed[..], &boot, &nics].concat())?;
    wait::until("the guest boots", BOOT, || {
        let said = fs::read_to_string(node.log("console")).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default().to_owned();
        Ok(if said.contains("guest: ready") { Ok(()) } else { Err(last) })
    })
    .with_context(|| format!("{}: {}", node.name, fs::read_to_string(node.log("qemu")).unwrap_or_default()))
}

/// Runs a line in the guest's shell and gives what it wrote.
pub fn ask(node: &Node, line: &str) -> Result<String> {
    let path = format!("/proc/{}/root{CONSOLE}", node.init.pid);
    let mut console = UnixStream::connect(&path).with_context(|| format!("{}: console", node.name))?;
    console.set_read_timeout(Some(ANSWER))?;
    writeln!(console, "{line}")?;
    let mut said = String::new();
    let mut reader = BufReader::new(console);
    loop {
        let mut row = String::new();
        ensure!(reader.read_line(&mut row)? > 0, "{}: the console ended", node.name);
        if let Some(code) = row.trim().strip_prefix("guest: done ") {
            ensure!(code == "0", "{}: `{line}` ended with {code}: {said}", node.name);
            return Ok(said);
        }
        said += &row;
    }
}
