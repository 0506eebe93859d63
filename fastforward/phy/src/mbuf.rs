//! DPDK's packet buffer as a Rust value: owned, one segment, freed into its pool when dropped.
#![allow(unsafe_code)]

use crate::PacketBuf;
use edgeplex_ff_dpdk_sys as sys;
use std::ptr::NonNull;

/// One mbuf. Neither `Send` nor `Sync`: the pool serves one thread, without locks.
///
/// Kept true by all methods: `data_off + data_len <= buf_len`, and the bytes of the buffer are initialised memory
/// (the pool is made of zeroed pages).
pub struct Mbuf(NonNull<sys::rte_mbuf>);

impl Mbuf {
    /// Takes over an mbuf. `None` for null, and for a chain, which no driver here makes and which is freed.
    ///
    /// # Safety
    /// `m` is null or a live mbuf of a pool of this process whose only owner gives it away.
    pub(crate) unsafe fn from_raw(m: *mut sys::rte_mbuf) -> Option<Self> {
        let m = Self(NonNull::new(m)?);
        (m.raw().nb_segs == 1).then_some(m)
    }

    /// Gives the mbuf away, to be freed by whoever takes it.
    pub(crate) fn into_raw(self) -> *mut sys::rte_mbuf {
        let m = self.0.as_ptr();
        std::mem::forget(self);
        m
    }

    fn raw(&self) -> &sys::rte_mbuf {
        // SAFETY: `self` owns the mbuf: it is live, and nobody writes to it while it is borrowed.
        unsafe { self.0.as_ref() }
    }

    fn set_extent(&mut self, off: u16, len: u16) {
        // SAFETY: `self` owns the mbuf exclusively.
        let m = unsafe { self.0.as_mut() };
        m.data_off = off;
        m.data_len = len;
        m.pkt_len = u32::from(len);
    }

    fn start(&self) -> *mut u8 {
        let m = self.raw();
        // SAFETY: data_off <= buf_len, and buf_addr points to buf_len bytes.
        unsafe { m.buf_addr.cast::<u8>().add(usize::from(m.data_off)) }
    }
}

impl PacketBuf for Mbuf {
    fn data(&self) -> &[u8] {
        // SAFETY: data_len initialised bytes lie behind start(), and belong to this mbuf alone.
        unsafe { std::slice::from_raw_parts(self.start(), usize::from(self.raw().data_len)) }
    }

    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in data(), and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), usize::from(self.raw().data_len)) }
    }

    fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let m = self.raw();
        let n = u16::try_from(n).ok()?;
        let (off, len) = (m.data_off.checked_sub(n)?, m.data_len.checked_add(n)?);
        self.set_extent(off, len);
        Some(self.data_mut())
    }

    fn pull_front(&mut self, n: usize) -> bool {
        let m = self.raw();
        match u16::try_from(n) {
            Ok(n) if n <= m.data_len => {
                let (off, len) = (m.data_off + n, m.data_len - n);
                self.set_extent(off, len);
                true
            }
            _ => false,
        }
    }

    fn pulled(&self, n: usize) -> &[u8] {
        let off = usize::from(self.raw().data_off);
        if n > off {
            return &[];
        }
        // SAFETY: n <= data_off initialised bytes lie before start(), and belong to this mbuf alone.
        unsafe { std::slice::from_raw_parts(self.start().sub(n), n) }
    }

    fn set_len(&mut self, n: usize) -> bool {
        let (off, old, room) = (self.raw().data_off, self.raw().data_len, self.raw().buf_len);
        match u16::try_from(n) {
            Ok(n) if n <= room - off => {
                self.set_extent(off, n);
                if let Some(fresh) = self.data_mut().get_mut(usize::from(old)..) {
                    fresh.fill(0);
                }
                true
            }
            _ => false,
        }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: `self` owned the mbuf, and is gone.
        unsafe { sys::ff_pktmbuf_free(self.0.as_ptr()) }
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf").field("off", &self.raw().data_off).field("len", &self.raw().data_len).finish()
    }
}
