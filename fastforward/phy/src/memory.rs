//! A device made of two queues: tests put frames in at one end and look at what comes out of the other.

use crate::{Phy, VecBuf};
use std::collections::VecDeque;

#[derive(Debug)]
pub struct MemoryPhy {
    /// Frames waiting to be received.
    pub rx: VecDeque<VecBuf>,
    /// Frames sent, oldest first.
    pub tx: VecDeque<VecBuf>,
    /// `tx` holds at most so many; the rest is dropped, as by a full ring.
    pub tx_capacity: usize,
    max_frame: usize,
    dropped: u64,
}

impl MemoryPhy {
    pub fn new(max_frame: usize) -> Self {
        Self { rx: VecDeque::new(), tx: VecDeque::new(), tx_capacity: usize::MAX, max_frame, dropped: 0 }
    }

    /// Puts a frame on the wire towards the device.
    pub fn inject(&mut self, frame: &[u8]) {
        self.rx.push_back(VecBuf::from_bytes(frame));
    }
}

impl Phy for MemoryPhy {
    type Buf = VecBuf;

    fn receive(&mut self, out: &mut Vec<VecBuf>, max: usize) -> usize {
        let n = max.min(self.rx.len());
        out.extend(self.rx.drain(..n));
        n
    }

    fn transmit(&mut self, bufs: &mut Vec<VecBuf>) {
        for b in bufs.drain(..) {
            if self.tx.len() < self.tx_capacity && crate::PacketBuf::len(&b) <= self.max_frame {
                self.tx.push_back(b);
            } else {
                self.dropped += 1;
            }
        }
    }

    fn alloc(&mut self) -> Option<VecBuf> {
        Some(VecBuf::with_room(self.max_frame))
    }

    fn max_frame(&self) -> usize {
        self.max_frame
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PacketBuf;

    #[test]
    fn frames_pass_in_order_and_a_full_queue_or_a_long_frame_is_a_counted_drop() {
        let mut p = MemoryPhy::new(100);
        for i in 0..5 {
            p.inject(&[i; 60]);
        }
        let mut got = vec![];
        assert_eq!(p.receive(&mut got, 3), 3);
        assert_eq!(p.receive(&mut got, 3), 2);
        assert_eq!(p.receive(&mut got, 3), 0);
        p.tx_capacity = 4;
        got.insert(0, VecBuf::from_bytes(&[0; 101]));
        p.transmit(&mut got);
        assert!(got.is_empty());
        assert_eq!(p.tx.iter().map(|b| b.data()[0]).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(p.dropped(), 2);
        assert_eq!(p.alloc().unwrap().len(), 0);
    }
}
