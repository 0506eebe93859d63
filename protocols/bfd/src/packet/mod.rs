//! The BFD control packet (RFC 5880 §4.1).
//!
//! ```text
//!  |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//!  |                       My Discriminator                        |
//!  |                      Your Discriminator                       |
//!  |                    Desired Min TX Interval                    |
//!  |                   Required Min RX Interval                    |
//!  |                 Required Min Echo RX Interval                 |
//! ```

use std::fmt;

/// Length of a packet without authentication section, bytes.
pub const LENGTH: usize = 24;

/// Session states (RFC 5880 §4.1, §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// Of two bits.
    pub(crate) fn from_number(number: u8) -> Self {
        match number & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }
}

/// Why the sender's session last left Up; numbers of RFC 5880 §4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    pub const NONE: Self = Self(0);
    pub const EXPIRED: Self = Self(1);
    pub const NEIGHBOR_DOWN: Self = Self(3);
    pub const ADMIN_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 9] = [
            "no diagnostic",
            "control detection time expired",
            "echo function failed",
            "neighbor signaled session down",
            "forwarding plane reset",
            "path down",
            "concatenated path down",
            "administratively down",
            "reverse concatenated path down",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "diagnostic {}", self.0),
        }
    }
}

/// A control packet without authentication. Intervals are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    pub diagnostic: Diagnostic,
    pub state: State,
    pub poll: bool,
    pub is_final: bool,
    /// The sender's BFD does not share the fate of its control plane.
    pub control_plane_independent: bool,
    pub demand: bool,
    pub detect_multiplier: u8,
    pub my_discriminator: u32,
    pub your_discriminator: u32,
    pub desired_min_tx_us: u32,
    pub required_min_rx_us: u32,
    pub required_min_echo_rx_us: u32,
}

/// Why a packet is dropped (RFC 5880 §6.8.6), with the offset of the field in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} at offset {offset} is {got}: {right}")]
pub struct DecodeError {
    pub field: &'static str,
    pub offset: usize,
    pub got: u32,
    pub right: &'static str,
}

impl Control {
    pub fn encode(&self) -> [u8; LENGTH] {
        let state = self.state.number();
        let flag = |set: bool, bit: u8| u8::from(set) << bit;
        let flags = flag(self.poll, 5) | flag(self.is_final, 4) | flag(self.control_plane_independent, 3) | flag(self.demand, 1);
        let mut out = [0; LENGTH];
        out[..4].copy_from_slice(&[1 << 5 | self.diagnostic.0 & 0x1f, state << 6 | flags, self.detect_multiplier, 24]);
        let words =
            [self.my_discriminator, self.your_discriminator, self.desired_min_tx_us, self.required_min_rx_us, self.required_min_echo_rx_us];
        for (place, word) in out[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        out
    }

    /// Reads a UDP payload; bytes behind the packet's own length are ignored, as RFC 5880 §6.8.6 has it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bad = |field, offset, got: u32, right| DecodeError { field, offset, got, right };
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let Some(&packet) = bytes.first_chunk::<LENGTH>() else {
            return Err(bad("packet length", 0, size, "must be at least 24"));
        };
        let [first, second, detect_multiplier, length, ..] = packet;
        if first >> 5 != 1 {
            return Err(bad("version", 0, u32::from(first >> 5), "must be 1"));
        }
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(bad("length", 3, u32::from(length), "must be at least 24 and within the packet"));
        }
        if second & 0x04 != 0 {
            return Err(bad("authentication present", 1, 1, "must be 0: no authentication is configured"));
        }
        if second & 0x01 != 0 {
            return Err(bad("multipoint", 1, 1, "must be 0"));
        }
        if second & 0x30 == 0x30 {
            return Err(bad("poll and final", 1, 3, "must not both be set"));
        }
        if detect_multiplier == 0 {
            return Err(bad("detect mult", 2, 0, "must not be 0"));
        }
        let word = |n: usize| packet[4 * n..].first_chunk().map_or(0, |w| u32::from_be_bytes(*w));
        let state = State::from_number(second >> 6);
        if word(1) == 0 {
            return Err(bad("my discriminator", 4, 0, "must not be 0"));
        }
        if word(2) == 0 && matches!(state, State::Init | State::Up) {
            return Err(bad("your discriminator", 8, 0, "must not be 0 in state Init or Up"));
        }
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            poll: second & 0x20 != 0,
            is_final: second & 0x10 != 0,
            control_plane_independent: second & 0x08 != 0,
            demand: second & 0x02 != 0,
            detect_multiplier,
            my_discriminator: word(1),
            your_discriminator: word(2),
            desired_min_tx_us: word(3),
            required_min_rx_us: word(4),
            required_min_echo_rx_us: word(5),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> [u8; LENGTH] {
        [0x20, 0xc0, 3, 24, 0, 0, 0, 1, 0, 0, 0, 2, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0xc3, 0x50]
    }

    #[test]
    fn a_packet_as_a_router_sends_it() {
        let packet = Control::decode(&good()).unwrap();
        assert_eq!((packet.state, packet.detect_multiplier, packet.desired_min_tx_us), (State::Up, 3, 300_000));
        assert_eq!((packet.my_discriminator, packet.your_discriminator, packet.required_min_echo_rx_us), (1, 2, 50_000));
        assert_eq!(packet.encode(), good());
    }

    /// RFC 5880 §6.8.6, step by step.
    #[test]
    fn each_fault_is_named() {
        let fault = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good().to_vec();
            change(&mut bytes);
            Control::decode(&bytes).unwrap_err().field
        };
        assert_eq!(fault(&|b| b.truncate(23)), "packet length");
        assert_eq!(fault(&|b| b[0] = 0x40), "version");
        assert_eq!(fault(&|b| b[3] = 23), "length");
        assert_eq!(fault(&|b| b[3] = 25), "length");
        assert_eq!(fault(&|b| b[1] |= 4), "authentication present");
        assert_eq!(fault(&|b| b[1] |= 1), "multipoint");
        assert_eq!(fault(&|b| b[1] |= 0x30), "poll and final");
        assert_eq!(fault(&|b| b[2] = 0), "detect mult");
        assert_eq!(fault(&|b| b[7] = 0), "my discriminator");
        assert_eq!(fault(&|b| b[11] = 0), "your discriminator");
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same(bytes in proptest::collection::vec(any::<u8>(), 24..40)) {
            if let Ok(packet) = Control::decode(&bytes) {
                prop_assert_eq!(Control::decode(&packet.encode()), Ok(packet));
            }
        }

        #[test]
        fn good_packets_survive(state in 0u8..4, flags in 0u8..4, words in any::<[u32; 5]>(), mult in 1u8..) {
            let mut bytes = good();
            bytes[1] = state << 6 | flags << 4;
            bytes[2] = mult;
            for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_be_bytes());
            }
            if let Ok(packet) = Control::decode(&bytes) {
                prop_assert_eq!(packet.encode(), bytes);
            } else {
                prop_assert!(flags == 3 || words[0] == 0 || words[1] == 0);
            }
        }
    }
}
