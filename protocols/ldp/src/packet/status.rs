//! Status codes (RFC 5036 §3.9, and the IANA registry).

use std::fmt;

/// A status code with its E bit: whether the session ends with it. The F bit is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(u32);

const FATAL: u32 = 1 << 31;
const FORWARD: u32 = 1 << 30;

impl Status {
    pub const SUCCESS: Self = Self(0);
    pub const BAD_LDP_IDENTIFIER: Self = Self(FATAL | 1);
    pub const BAD_PROTOCOL_VERSION: Self = Self(FATAL | 2);
    pub const BAD_PDU_LENGTH: Self = Self(FATAL | 3);
    pub const UNKNOWN_MESSAGE_TYPE: Self = Self(4);
    pub const BAD_MESSAGE_LENGTH: Self = Self(FATAL | 5);
    pub const UNKNOWN_TLV: Self = Self(6);
    pub const BAD_TLV_LENGTH: Self = Self(FATAL | 7);
    pub const MALFORMED_TLV_VALUE: Self = Self(FATAL | 8);
    pub const HOLD_TIMER_EXPIRED: Self = Self(FATAL | 9);
    pub const SHUTDOWN: Self = Self(FATAL | 0xa);
    pub const LOOP_DETECTED: Self = Self(0xb);
    pub const UNKNOWN_FEC: Self = Self(0xc);
    pub const NO_ROUTE: Self = Self(0xd);
    pub const NO_LABEL_RESOURCES: Self = Self(0xe);
    pub const LABEL_RESOURCES_AVAILABLE: Self = Self(0xf);
    pub const REJECTED_NO_HELLO: Self = Self(FATAL | 0x10);
    pub const REJECTED_ADVERTISEMENT_MODE: Self = Self(FATAL | 0x11);
    pub const REJECTED_MAX_PDU_LENGTH: Self = Self(FATAL | 0x12);
    pub const REJECTED_LABEL_RANGE: Self = Self(FATAL | 0x13);
    pub const KEEPALIVE_TIMER_EXPIRED: Self = Self(FATAL | 0x14);
    pub const LABEL_REQUEST_ABORTED: Self = Self(0x15);
    pub const MISSING_MESSAGE_PARAMETERS: Self = Self(0x16);
    pub const UNSUPPORTED_ADDRESS_FAMILY: Self = Self(0x17);
    pub const REJECTED_KEEPALIVE_TIME: Self = Self(FATAL | 0x18);
    pub const INTERNAL_ERROR: Self = Self(FATAL | 0x19);
    /// RFC 5561
    pub const UNSUPPORTED_CAPABILITY: Self = Self(0x2e);
    /// RFC 5919
    pub const END_OF_LIB: Self = Self(0x2f);
    /// RFC 7552
    pub const TRANSPORT_CONNECTION_MISMATCH: Self = Self(FATAL | 0x32);
    /// RFC 7552
    pub const DUAL_STACK_NONCOMPLIANCE: Self = Self(FATAL | 0x33);

    pub fn from_wire(word: u32) -> Self {
        Self(word & !FORWARD)
    }

    pub fn to_wire(self) -> u32 {
        self.0
    }

    /// The session ends with it.
    pub fn is_fatal(self) -> bool {
        self.0 & FATAL != 0
    }

    /// Our Initialization was refused (RFC 5036 §2.5.3).
    pub fn is_rejection(self) -> bool {
        matches!(
            self,
            Self::REJECTED_NO_HELLO
                | Self::REJECTED_ADVERTISEMENT_MODE
                | Self::REJECTED_MAX_PDU_LENGTH
                | Self::REJECTED_LABEL_RANGE
                | Self::REJECTED_KEEPALIVE_TIME
        )
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.0 & !FATAL {
            0 => "Success",
            1 => "Bad LDP Identifier",
            2 => "Bad Protocol Version",
            3 => "Bad PDU Length",
            4 => "Unknown Message Type",
            5 => "Bad Message Length",
            6 => "Unknown TLV",
            7 => "Bad TLV Length",
            8 => "Malformed TLV Value",
            9 => "Hold Timer Expired",
            0xa => "Shutdown",
            0xb => "Loop Detected",
            0xc => "Unknown FEC",
            0xd => "No Route",
            0xe => "No Label Resources",
            0xf => "Label Resources Available",
            0x10 => "Session Rejected/No Hello",
            0x11 => "Session Rejected/Parameters Advertisement Mode",
            0x12 => "Session Rejected/Parameters Max PDU Length",
            0x13 => "Session Rejected/Parameters Label Range",
            0x14 => "KeepAlive Timer Expired",
            0x15 => "Label Request Aborted",
            0x16 => "Missing Message Parameters",
            0x17 => "Unsupported Address Family",
            0x18 => "Session Rejected/Bad KeepAlive Time",
            0x19 => "Internal Error",
            0x1a => "Temporary Shutdown",
            0x2e => "Unsupported Capability",
            0x2f => "End-of-LIB",
            0x32 => "Transport Connection Mismatch",
            0x33 => "Dual-Stack Noncompliance",
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {:#010x}", self.0),
        }
    }
}
