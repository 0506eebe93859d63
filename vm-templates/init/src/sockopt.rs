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
