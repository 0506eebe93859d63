//! Capabilities of an OPEN (RFC 5492).

use crate::{Cause, Code, DecodeError, Fatal, HEADER_LEN, Notification};

/// The Graceful Restart capability (RFC 4724 §3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// The R bit: the sender has restarted.
    pub restarted: bool,
    /// The N bit (RFC 8538 §2): a NOTIFICATION is a restart as well, unless it is a Hard Reset.
    pub notification: bool,
    /// Seconds, 0 to 4095.
    pub restart_time: u16,
    /// AFI, SAFI, and the F bit: forwarding state was kept.
    pub families: Vec<(u16, u8, bool)>,
}

/// One family of the Long-Lived Graceful Restart capability (RFC 9494 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongLived {
    pub afi: u16,
    pub safi: u8,
    /// The F bit: forwarding state was kept.
    pub forwarding: bool,
    /// Seconds, 24 bits.
    pub stale_time: u32,
}

/// One family of the ADD-PATH capability (RFC 7911 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddPath {
    pub afi: u16,
    pub safi: u8,
    pub receive: bool,
    pub send: bool,
}

/// What the sender is to the receiver (RFC 9234 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Provider,
    RouteServer,
    RouteServerClient,
    Customer,
    Peer,
}

impl Role {
    pub fn number(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// What the other side of such a session must be (RFC 9234 §4.2).
    pub fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Customer => Self::Provider,
            Self::Peer => Self::Peer,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760 §8: AFI, SAFI.
    MultiProtocol(u16, u8),
    /// RFC 2918.
    RouteRefresh,
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 9234, as a number: one that nobody has defined is a role all the same, only no one's counterpart.
    Role(u8),
    GracefulRestart(GracefulRestart),
    /// RFC 6793.
    FourOctetAs(u32),
    /// RFC 7911.
    AddPath(Vec<AddPath>),
    /// RFC 7313.
    EnhancedRefresh,
    /// RFC 9494.
    LongLived(Vec<LongLived>),
    Unknown {
        code: u8,
        value: Vec<u8>,
    },
}

const MP: u8 = 1;
const REFRESH: u8 = 2;
const EXTENDED_MESSAGE: u8 = 6;
const ROLE: u8 = 9;
const GR: u8 = 64;
const AS4: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_REFRESH: u8 = 70;
const LLGR: u8 = 71;

/// Entries of `N` bytes, if they fill the value.
fn entries<const N: usize, T>(value: &[u8], read: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
    let entries = value.chunks_exact(N);
    entries.remainder().is_empty().then(|| entries.filter_map(|c| <[u8; N]>::try_from(c).ok()).map(read).collect())
}

/// `Err` says what length would be right. A list that is cut is kept as if it were not known: it is ignored, as
/// RFC 5492 §3 has it for what is not understood, and the session does not suffer.
fn read_one(code: u8, value: &[u8]) -> Result<Capability, &'static str> {
    let known = match (code, value) {
        (MP, [hi, lo, _, safi]) => Some(Capability::MultiProtocol(u16::from_be_bytes([*hi, *lo]), *safi)),
        (MP | AS4, other) if other.len() != 4 => return Err("4"),
        (REFRESH, []) => Some(Capability::RouteRefresh),
        (EXTENDED_MESSAGE, []) => Some(Capability::ExtendedMessage),
        (ENHANCED_REFRESH, []) => Some(Capability::EnhancedRefresh),
        (ROLE, [role]) => Some(Capability::Role(*role)),
        (AS4, [a, b, c, d]) => Some(Capability::FourOctetAs(u32::from_be_bytes([*a, *b, *c, *d]))),
        (GR, [hi, lo, families @ ..]) => entries(families, |[a, b, safi, flags]| (u16::from_be_bytes([a, b]), safi, flags & 0x80 != 0))
            .map(|families| {
                Capability::GracefulRestart(GracefulRestart {
                    restarted: hi & 0x80 != 0,
                    notification: hi & 0x40 != 0,
                    restart_time: u16::from_be_bytes([hi & 0x0f, *lo]),
                    families,
                })
            }),
        (ADD_PATH, value) => entries(value, |[a, b, safi, mode]| AddPath {
            afi: u16::from_be_bytes([a, b]),
            safi,
            // RFC 7911 §4: other values are ignored.
            receive: matches!(mode, 1 | 3),
            send: matches!(mode, 2 | 3),
        })
        .map(Capability::AddPath),
        (LLGR, value) => entries(value, |[a, b, safi, flags, s2, s1, s0]| LongLived {
            afi: u16::from_be_bytes([a, b]),
            safi,
            forwarding: flags & 0x80 != 0,
            stale_time: u32::from_be_bytes([0, s2, s1, s0]),
        })
        .map(Capability::LongLived),
        _ => None,
    };
    Ok(known.unwrap_or_else(|| Capability::Unknown { code, value: value.to_vec() }))
}

/// Reads one optional parameter that holds capabilities; `offset` is where `bytes` starts behind the header.
pub(super) fn read(bytes: &[u8], offset: usize, out: &mut Vec<Capability>) -> Result<(), Fatal> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let offset = HEADER_LEN + offset + bytes.len() - rest.len();
        let refuse = |cause| Fatal {
            notification: Notification::new(Code::Open, 0, &[]),
            error: DecodeError { offset, field: "capability", cause },
        };
        let cut = || refuse(Cause::Malformed("runs past the end"));
        let ([code, len], tail) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (value, tail) = tail.split_at_checked((*len).into()).ok_or_else(cut)?;
        out.push(read_one(*code, value).map_err(|want| refuse(Cause::Length { got: value.len(), want }))?);
        rest = tail;
    }
    Ok(())
}

/// Appends one capability; nothing if its value is longer than 255 bytes.
pub(super) fn write(out: &mut Vec<u8>, capability: &Capability) {
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    let code = match capability {
        Capability::MultiProtocol(afi, safi) => {
            let [hi, lo] = afi.to_be_bytes();
            out.extend_from_slice(&[hi, lo, 0, *safi]);
            MP
        }
        Capability::RouteRefresh => REFRESH,
        Capability::ExtendedMessage => EXTENDED_MESSAGE,
        Capability::EnhancedRefresh => ENHANCED_REFRESH,
        Capability::Role(role) => {
            out.push(*role);
            ROLE
        }
        Capability::FourOctetAs(asn) => {
            out.extend_from_slice(&asn.to_be_bytes());
            AS4
        }
        Capability::GracefulRestart(g) => {
            let [hi, lo] = g.restart_time.min(0xfff).to_be_bytes();
            out.extend_from_slice(&[hi | u8::from(g.restarted) << 7 | u8::from(g.notification) << 6, lo]);
            for (afi, safi, forwarding) in &g.families {
                let [hi, lo] = afi.to_be_bytes();
                out.extend_from_slice(&[hi, lo, *safi, u8::from(*forwarding) << 7]);
            }
            GR
        }
        Capability::AddPath(families) => {
            for f in families {
                let [hi, lo] = f.afi.to_be_bytes();
                out.extend_from_slice(&[hi, lo, f.safi, u8::from(f.receive) | u8::from(f.send) << 1]);
            }
            ADD_PATH
        }
        Capability::LongLived(families) => {
            for f in families {
                let ([hi, lo], [_, a, b, c]) = (f.afi.to_be_bytes(), f.stale_time.min(0xff_ffff).to_be_bytes());
                out.extend_from_slice(&[hi, lo, f.safi, u8::from(f.forwarding) << 7, a, b, c]);
            }
            LLGR
        }
        Capability::Unknown { code, value } => {
            out.extend_from_slice(value);
            *code
        }
    };
    match u8::try_from(out.len() - at - 2) {
        Ok(len) => out[at..at + 2].copy_from_slice(&[code, len]),
        Err(_) => out.truncate(at),
    }
}
