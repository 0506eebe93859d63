//! TAPs that outlive whoever reads and writes their frames.
#![allow(unsafe_code)]

use anyhow::Context;
use nix::{
    fcntl::{OFlag, open},
    libc,
    sys::stat::Mode,
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// Makes the TAP, and returns a queue of it that is switched off: it takes no frames, but while it is open the TAP has a
/// carrier, whether FastForward has a queue of its own or not.
pub(crate) fn tap(name: &str) -> anyhow::Result<OwnedFd> {
    let file = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).context("/dev/net/tun")?;
    request(&file, name, libc::TUNSETIFF, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE)
        .with_context(|| format!("TAP {name}"))?;
    request(&file, name, libc::TUNSETQUEUE, libc::IFF_DETACH_QUEUE).with_context(|| format!("queue of TAP {name}"))?;
    Ok(file)
}

fn request(file: &OwnedFd, name: &str, order: libc::Ioctl, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: ifreq is plain data made of integers and a union of integers; all zeros is a value of it.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= r.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in r.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // All flags used here are within the field's 16 bits.
    let [a, b, ..] = flags.to_le_bytes();
    r.ifr_ifru.ifru_flags = i16::from_le_bytes([a, b]);
    // SAFETY: both orders read, and TUNSETIFF writes, one ifreq, which outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), order, &raw mut r) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::process::Command;

    #[test]
    #[ignore = "needs root; lab/test runs it"]
    fn a_tap_has_a_carrier_while_nobody_serves_it() {
        // Of this thread, and of what it starts.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let run = |args: &[&str]| String::from_utf8(Command::new("ip").args(args).output().unwrap().stdout).unwrap();
        let is_up = || run(&["-o", "link", "show", "core0"]).contains("LOWER_UP");
        let spare = tap("core0").unwrap();
        run(&["link", "set", "core0", "up"]);
        assert!(is_up());
        // FastForward comes and goes.
        let queue = || {
            let file = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
            request(&file, "core0", libc::TUNSETIFF, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE).unwrap();
            file
        };
        for _ in 0..3 {
            let file = queue();
            assert!(is_up());
            drop(file);
            assert!(is_up());
        }
        let file = queue();
        drop(spare);
        drop(file);
        assert!(run(&["-o", "link", "show", "core0"]).is_empty(), "nobody is left");
        assert!(tap("a name too long for it").is_err());
    }
}
