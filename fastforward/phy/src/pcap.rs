//! Reads and writes classic pcap files of Ethernet frames, and a device that receives from one and sends into
//! another: a recorded conversation becomes a test.

use crate::{PacketBuf, Phy, PhyError, VecBuf};
use std::io::{BufReader, Read, Write};
use std::time::Duration;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
/// No frame in a file may be longer, in bytes: as in other readers.
const MAX_CAPTURED: u32 = 262_144;

/// Reads frames from a file of either byte order and either resolution.
#[derive(Debug)]
pub struct PcapReader<R: Read> {
    from: BufReader<R>,
    swapped: bool,
    nanos: bool,
}

impl<R: Read> PcapReader<R> {
    pub fn new(from: R) -> Result<Self, PhyError> {
        let mut me = Self { from: BufReader::new(from), swapped: false, nanos: false };
        let magic = me.word()?;
        me.swapped = [MAGIC_MICROS.swap_bytes(), MAGIC_NANOS.swap_bytes()].contains(&magic);
        me.nanos = [MAGIC_NANOS.swap_bytes(), MAGIC_NANOS].contains(&magic);
        if !me.swapped && magic != MAGIC_MICROS && magic != MAGIC_NANOS {
            return Err(PhyError::Pcap("does not begin as one"));
        }
        // Version, time zone, accuracy, snap length: of no use here.
        for _ in 0..4 {
            me.word()?;
        }
        // The upper bits tell the length of an FCS.
        if me.word()? & 0xffff == LINKTYPE_ETHERNET { Ok(me) } else { Err(PhyError::Pcap("holds no Ethernet frames")) }
    }

    fn word(&mut self) -> Result<u32, PhyError> {
        let mut b = [0; 4];
        self.from.read_exact(&mut b)?;
        let n = u32::from_ne_bytes(b);
        Ok(if self.swapped { n.swap_bytes() } else { n })
    }

    /// The next frame and its time, or `None` at the end of the file.
    pub fn next_frame(&mut self) -> Result<Option<(Duration, Vec<u8>)>, PhyError> {
        if std::io::BufRead::fill_buf(&mut self.from)?.is_empty() {
            return Ok(None);
        }
        let (seconds, fraction, captured, _original) = (self.word()?, self.word()?, self.word()?, self.word()?);
        if captured > MAX_CAPTURED {
            return Err(PhyError::Pcap("holds a frame of more than 262144 bytes"));
        }
        let fraction = Duration::from_nanos(u64::from(fraction) * if self.nanos { 1 } else { 1000 });
        let mut frame = vec![0; captured as usize];
        self.from.read_exact(&mut frame)?;
        Ok(Some((Duration::from_secs(u64::from(seconds)) + fraction, frame)))
    }
}

/// Writes frames, in this machine's byte order, with microseconds.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    to: W,
}

impl<W: Write> PcapWriter<W> {
    pub fn new(mut to: W) -> Result<Self, PhyError> {
        to.write_all(&MAGIC_MICROS.to_ne_bytes())?;
        to.write_all(&2u16.to_ne_bytes())?;
        to.write_all(&4u16.to_ne_bytes())?;
        for n in [0, 0, MAX_CAPTURED, LINKTYPE_ETHERNET] {
            to.write_all(&n.to_ne_bytes())?;
        }
        Ok(Self { to })
    }

    /// Appends a frame seen `time` after the epoch.
    pub fn write(&mut self, time: Duration, frame: &[u8]) -> Result<(), PhyError> {
        let len = u32::try_from(frame.len()).ok().filter(|n| *n <= MAX_CAPTURED).ok_or(PhyError::Pcap("cannot hold so long a frame"))?;
        let seconds = u32::try_from(time.as_secs()).map_err(|_| PhyError::Pcap("cannot hold a time after 2106"))?;
        for n in [seconds, time.subsec_micros(), len, len] {
            self.to.write_all(&n.to_ne_bytes())?;
        }
        Ok(self.to.write_all(frame)?)
    }

    pub fn flush(&mut self) -> Result<(), PhyError> {
        Ok(self.to.flush()?)
    }
}

/// Receives what one file holds and writes what is sent to another. After the end of the file nothing is received.
#[derive(Debug)]
pub struct PcapPhy<R: Read, W: Write> {
    from: PcapReader<R>,
    to: PcapWriter<W>,
    max_frame: usize,
    dropped: u64,
    /// Time of the last received frame, stamped on what is sent.
    time: Duration,
    failure: Option<PhyError>,
}

impl<R: Read, W: Write> PcapPhy<R, W> {
    pub fn new(from: R, to: W, max_frame: usize) -> Result<Self, PhyError> {
        let (from, to) = (PcapReader::new(from)?, PcapWriter::new(to)?);
        Ok(Self { from, to, max_frame, dropped: 0, time: Duration::ZERO, failure: None })
    }

    /// Completes the written file, and says whether either file failed meanwhile.
    pub fn finish(mut self) -> Result<W, PhyError> {
        self.to.flush()?;
        self.failure.map_or(Ok(self.to.to), Err)
    }
}

impl<R: Read, W: Write> Phy for PcapPhy<R, W> {
    type Buf = VecBuf;

    fn receive(&mut self, out: &mut Vec<VecBuf>, max: usize) -> usize {
        let mut n = 0;
        while n < max && self.failure.is_none() {
            match self.from.next_frame() {
                Ok(Some((time, frame))) => {
                    self.time = time;
                    out.push(VecBuf::from_bytes(&frame));
                    n += 1;
                }
                Ok(None) => break,
                Err(e) => self.failure = Some(e),
            }
        }
        n
    }

    fn transmit(&mut self, bufs: &mut Vec<VecBuf>) {
        for b in bufs.drain(..) {
            if b.len() > self.max_frame {
                self.dropped += 1;
            } else if let Err(e) = self.to.write(self.time, b.data()) {
                self.dropped += 1;
                self.failure.get_or_insert(e);
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

    fn file(frames: &[&[u8]]) -> Vec<u8> {
        let mut w = PcapWriter::new(vec![]).unwrap();
        for (i, f) in frames.iter().enumerate() {
            w.write(Duration::from_millis(1500 * i as u64), f).unwrap();
        }
        w.to
    }

    #[test]
    fn what_is_read_from_one_file_can_be_sent_into_another() {
        let recorded = file(&[&[1; 60], &[2; 1514], &[3; 61]]);
        let mut p = PcapPhy::new(&recorded[..], vec![], 100).unwrap();
        let mut frames = vec![];
        assert_eq!(p.receive(&mut frames, 32), 3);
        assert_eq!(p.receive(&mut frames, 32), 0);
        p.transmit(&mut frames);
        assert_eq!(p.dropped(), 1, "the long one");
        let mut r = PcapReader::new(std::io::Cursor::new(p.finish().unwrap())).unwrap();
        assert_eq!(r.next_frame().unwrap(), Some((Duration::from_secs(3), vec![1; 60])));
        assert_eq!(r.next_frame().unwrap().unwrap().1, [3; 61]);
        assert_eq!(r.next_frame().unwrap(), None);
    }

    #[test]
    fn files_of_the_other_byte_order_and_of_nanoseconds_are_read() {
        let mut f = vec![];
        for n in [MAGIC_NANOS, 0x0002_0004, 0, 0, 65535, LINKTYPE_ETHERNET, 7, 5, 2, 60] {
            f.extend_from_slice(&n.swap_bytes().to_ne_bytes());
        }
        f.extend_from_slice(&[9, 8]);
        let mut r = PcapReader::new(&f[..]).unwrap();
        assert_eq!(r.next_frame().unwrap(), Some((Duration::new(7, 5), vec![9, 8])));
        assert_eq!(r.next_frame().unwrap(), None);
    }

    #[test]
    fn broken_files_are_refused_wherever_they_are_cut() {
        let whole = file(&[&[1; 60]]);
        for cut in (0..whole.len()).filter(|n| *n != 24) {
            let r = PcapReader::new(&whole[..cut]).and_then(|mut r| r.next_frame());
            assert!(r.is_err(), "cut at {cut}");
        }
        let mut long = whole.clone();
        long[32..36].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(PcapReader::new(&long[..]).unwrap().next_frame().is_err());
        let mut wifi = whole;
        wifi[20] = 105;
        assert!(PcapReader::new(&wifi[..]).is_err());
        assert!(PcapReader::new(&[0; 24][..]).is_err());
    }
}
