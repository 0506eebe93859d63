//! The packet buffer as the forwarder sees it: some bytes, with room to grow at both ends.

/// Room that a received or fresh buffer has in front of its first byte, at least, in bytes: enough for the nine
/// labels that a route may push and a new Ethernet header, or for a label stack of 16 under which an ICMP error goes on.
pub const HEADROOM: usize = 128;

/// One frame in one contiguous piece of memory.
pub trait PacketBuf {
    fn data(&self) -> &[u8];

    fn data_mut(&mut self) -> &mut [u8];

    /// Grows the frame at its front by `n` bytes and returns the whole frame; the new bytes hold anything.
    /// `None`, and no change, if the headroom is too small.
    fn push_front(&mut self, n: usize) -> Option<&mut [u8]>;

    /// Drops `n` bytes at the front; they become headroom. `false`, and no change, if the frame is shorter.
    fn pull_front(&mut self, n: usize) -> bool;

    /// The `n` bytes in front of the frame as [`PacketBuf::pull_front`] left them, if nothing was pushed since; without so
    /// much headroom none.
    fn pulled(&self, n: usize) -> &[u8];

    /// Cuts the frame to `n` bytes, or extends it by zeros up to `n`. `false`, and no change, if there is no room.
    fn set_len(&mut self, n: usize) -> bool;

    fn len(&self) -> usize {
        self.data().len()
    }

    fn is_empty(&self) -> bool {
        self.data().is_empty()
    }

    /// Makes `bytes` the content of the frame, keeping the headroom as it is. `false`, and no change, if they do not fit.
    fn fill(&mut self, bytes: &[u8]) -> bool {
        let fits = self.set_len(bytes.len());
        if fits {
            self.data_mut().copy_from_slice(bytes);
        }
        fits
    }
}

/// A buffer on the heap, for tests and for devices that are not DPDK's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VecBuf {
    /// Headroom, frame, tailroom. Its length is the capacity and never changes.
    room: Vec<u8>,
    start: usize,
    end: usize,
}

impl VecBuf {
    /// An empty buffer that can grow to `max_frame` bytes behind [`HEADROOM`].
    pub fn with_room(max_frame: usize) -> Self {
        Self { room: vec![0; HEADROOM + max_frame], start: HEADROOM, end: HEADROOM }
    }

    /// A buffer that holds `bytes`, with as much room behind them as a device of the usual size gives.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut b = Self::with_room(bytes.len().max(2048));
        b.end = b.start + bytes.len();
        b.data_mut().copy_from_slice(bytes);
        b
    }
}

impl PacketBuf for VecBuf {
    fn data(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.end]
    }

    fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(n)?;
        Some(self.data_mut())
    }

    fn pull_front(&mut self, n: usize) -> bool {
        let fits = n <= self.end - self.start;
        if fits {
            self.start += n;
        }
        fits
    }

    fn pulled(&self, n: usize) -> &[u8] {
        self.start.checked_sub(n).map_or(&[], |from| &self.room[from..self.start])
    }

    fn set_len(&mut self, n: usize) -> bool {
        let fits = n <= self.room.len() - self.start;
        if fits {
            let end = self.start + n;
            if end > self.end {
                self.room[self.end..end].fill(0);
            }
            self.end = end;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_and_shrinks_at_both_ends_within_its_room() {
        let mut b = VecBuf::from_bytes(&[1, 2, 3]);
        b.push_front(2).unwrap()[..2].copy_from_slice(&[8, 9]);
        assert_eq!(b.data(), [8, 9, 1, 2, 3]);
        assert!(b.pull_front(3));
        assert_eq!((b.pulled(3), b.pulled(HEADROOM + 2)), (&[8, 9, 1][..], &[][..]));
        assert!(b.set_len(4));
        assert_eq!(b.data(), [2, 3, 0, 0], "the extension does not show old bytes");
        assert!(!b.pull_front(5));
        assert!(b.push_front(HEADROOM + 2).is_none());
        assert_eq!(b.len(), 4);
        assert!(!b.set_len(1 << 20));
        assert!(b.fill(&[7; 2000]) && b.data() == [7; 2000]);
    }
}
