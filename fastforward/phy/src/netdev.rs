//! The few questions and orders about a kernel interface that need an ioctl. No netlink: FastForward must start in a
//! VM that has almost nothing.
#![allow(unsafe_code)]

use crate::PhyError;
use edgeplex_types::MacAddr;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// Interface flags that make a device ours: up, seeing every frame, and without the kernel answering ARP on it for
/// the addresses of the TAP.
pub(crate) const OURS: i32 = libc::IFF_UP | libc::IFF_PROMISC | libc::IFF_NOARP;

/// An interface request with its name filled in.
pub(crate) fn request(name: &str) -> Result<libc::ifreq, PhyError> {
    // SAFETY: ifreq is plain data made of integers and a union of integers; all zeros is a value of it.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty()
        || name.len() >= r.ifr_name.len()
        || name.bytes().any(|b| b == 0 || b == b'/' || b == b',' || b.is_ascii_whitespace())
    {
        return Err(PhyError::Name(name.to_owned()));
    }
    for (to, from) in r.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(r)
}

/// Flags as an ifreq holds them: the field has 16 bits, and all flags that can be set are among them.
pub(crate) fn low16(flags: i32) -> i16 {
    let [a, b, ..] = flags.to_le_bytes();
    i16::from_le_bytes([a, b])
}

/// One interface, through a socket kept for ioctls.
#[derive(Debug)]
pub(crate) struct NetDev {
    name: String,
    control: OwnedFd,
}

impl NetDev {
    pub(crate) fn new(name: &str) -> Result<Self, PhyError> {
        request(name)?;
        let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|e| PhyError::os("socket for ioctls on", name, e.into()))?;
        Ok(Self { name: name.to_owned(), control })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `None` if there is no such interface (any more).
    pub(crate) fn index(&self) -> Option<u32> {
        if_nametoindex(self.name.as_str()).ok()
    }

    fn ioctl(&self, what: &'static str, order: libc::Ioctl, r: &mut libc::ifreq) -> Result<(), PhyError> {
        // SAFETY: all orders used here (SIOC[GS]IF*) read or write one ifreq, which `r` borrows exclusively.
        match unsafe { libc::ioctl(self.control.as_raw_fd(), order, std::ptr::from_mut(r)) } {
            0 => Ok(()),
            _ => Err(PhyError::os(what, &self.name, std::io::Error::last_os_error())),
        }
    }

    pub(crate) fn flags(&self) -> Result<i32, PhyError> {
        let mut r = request(&self.name)?;
        self.ioctl("reading the flags of", libc::SIOCGIFFLAGS, &mut r)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the flags are the active member of the union.
        Ok(i32::from(unsafe { r.ifr_ifru.ifru_flags }))
    }

    /// Sets `flags` in addition to those that are set.
    pub(crate) fn add_flags(&self, flags: i32) -> Result<(), PhyError> {
        let now = self.flags()?;
        if now & flags == flags {
            return Ok(());
        }
        let mut r = request(&self.name)?;
        r.ifr_ifru.ifru_flags = low16(now | flags);
        self.ioctl("setting the flags of", libc::SIOCSIFFLAGS, &mut r)
    }

    pub(crate) fn mac(&self) -> Result<MacAddr, PhyError> {
        let mut r = request(&self.name)?;
        self.ioctl("reading the MAC address of", libc::SIOCGIFHWADDR, &mut r)?;
        let mut mac = [0; 6];
        // SAFETY: SIOCGIFHWADDR succeeded, so the hardware address is the active member of the union.
        let from = unsafe { r.ifr_ifru.ifru_hwaddr.sa_data };
        for (to, from) in mac.iter_mut().zip(from) {
            *to = from.cast_unsigned();
        }
        Ok(MacAddr(mac))
    }

    pub(crate) fn set_mac(&self, mac: MacAddr) -> Result<(), PhyError> {
        let mut r = request(&self.name)?;
        let mut sa_data = [0; 14];
        for (to, from) in sa_data.iter_mut().zip(mac.0) {
            *to = from.cast_signed();
        }
        r.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data };
        self.ioctl("setting the MAC address of", libc::SIOCSIFHWADDR, &mut r)
    }

    /// Bytes behind the Ethernet header in its largest frame.
    pub(crate) fn mtu(&self) -> Result<i32, PhyError> {
        let mut r = request(&self.name)?;
        self.ioctl("reading the MTU of", libc::SIOCGIFMTU, &mut r)?;
        // SAFETY: SIOCGIFMTU succeeded, so the MTU is the active member of the union.
        Ok(unsafe { r.ifr_ifru.ifru_mtu })
    }

    pub(crate) fn set_mtu(&self, mtu: i32) -> Result<(), PhyError> {
        let mut r = request(&self.name)?;
        r.ifr_ifru.ifru_mtu = mtu;
        self.ioctl("setting the MTU of", libc::SIOCSIFMTU, &mut r)
    }

    /// Keeps the kernel from speaking IPv6 of its own on the interface. Where /proc/sys is read-only or there is no
    /// IPv6, this does nothing: the worst that follows is a router solicitation nobody answers.
    pub(crate) fn silence_ipv6(&self) {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name), "1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_that_the_kernel_or_a_device_argument_would_misread_are_refused() {
        for bad in ["", "a/b", "a,b", "a b", "1234567890123456", "x\0"] {
            assert!(matches!(request(bad), Err(PhyError::Name(_))), "{bad:?}");
        }
        assert!(request("123456789012345").is_ok());
        let lo = NetDev::new("lo").unwrap();
        assert_eq!(lo.index(), Some(1));
        assert!(lo.flags().unwrap() & libc::IFF_LOOPBACK != 0);
        assert_eq!(lo.mac().unwrap(), MacAddr([0; 6]));
        assert_eq!(NetDev::new("nosuchif0").unwrap().index(), None);
    }
}
