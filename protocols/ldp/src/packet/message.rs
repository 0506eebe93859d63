//! The messages (RFC 5036 §3.5, RFC 5561 §6).

use super::compose::length16;
use super::fec::IPV4;
use super::{Error, FecElement, LdpId, RawMessage, Reader, Status, VERSION};
use edgeplex_types::Label;
use std::{net::Ipv4Addr, time::Duration};

mod kind {
    pub(super) const NOTIFICATION: u16 = 0x0001;
    pub(super) const HELLO: u16 = 0x0100;
    pub(super) const INITIALIZATION: u16 = 0x0200;
    pub(super) const KEEPALIVE: u16 = 0x0201;
    pub(super) const CAPABILITY: u16 = 0x0202;
    pub(super) const ADDRESS: u16 = 0x0300;
    pub(super) const ADDRESS_WITHDRAW: u16 = 0x0301;
    pub(super) const LABEL_MAPPING: u16 = 0x0400;
    pub(super) const LABEL_REQUEST: u16 = 0x0401;
    pub(super) const LABEL_WITHDRAW: u16 = 0x0402;
    pub(super) const LABEL_RELEASE: u16 = 0x0403;
    pub(super) const LABEL_ABORT_REQUEST: u16 = 0x0404;
}

mod tlv {
    pub(super) const FEC: u16 = 0x0100;
    pub(super) const ADDRESS_LIST: u16 = 0x0101;
    pub(super) const PATH_VECTOR: u16 = 0x0104;
    pub(super) const GENERIC_LABEL: u16 = 0x0200;
    pub(super) const STATUS: u16 = 0x0300;
    pub(super) const COMMON_HELLO: u16 = 0x0400;
    pub(super) const IPV4_TRANSPORT_ADDRESS: u16 = 0x0401;
    pub(super) const CONFIGURATION_SEQUENCE: u16 = 0x0402;
    pub(super) const COMMON_SESSION: u16 = 0x0500;
    pub(super) const FT_SESSION: u16 = 0x0503;
    pub(super) const DYNAMIC_CAPABILITY: u16 = 0x0506;
    pub(super) const TYPED_WILDCARD: u16 = 0x050b;
    pub(super) const LABEL_REQUEST_ID: u16 = 0x0600;
    pub(super) const UNRECOGNIZED_NOTIFICATION: u16 = 0x0603;

    /// Known, though it means nothing to the message it is in or nothing to us: extended status, returned PDU, message
    /// and TLVs, IPv6 transport address, ATM and frame relay session parameters, MAC list, dual stack.
    pub(super) fn is_known(kind: u16) -> bool {
        matches!(kind, FEC | ADDRESS_LIST | 0x0103 | PATH_VECTOR | GENERIC_LABEL | STATUS..=0x0304 | COMMON_HELLO..=0x0404)
            || matches!(kind, COMMON_SESSION..=FT_SESSION | DYNAMIC_CAPABILITY | TYPED_WILDCARD)
            || matches!(kind, LABEL_REQUEST_ID | UNRECOGNIZED_NOTIFICATION | 0x0701)
    }
}

/// U: whoever does not know it shall ignore it.
const U: u16 = 0x8000;
/// S: the capability is given, not taken back (RFC 5561 §3).
const S: u8 = 0x80;
/// RFC 3478 §2: nothing of RFC 3479 but "Learn from Network".
const FT_LEARN: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub status: Status,
    /// Of the message that it is about; 0 for none.
    pub message_id: u32,
    pub message_kind: u16,
    /// With End-of-LIB: of which FECs (RFC 5919).
    pub fec: Option<FecElement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// 0: the default, 15 s for links; 65535: for ever.
    pub hold_s: u16,
    pub targeted: bool,
    pub request_targeted: bool,
    /// Able to do RFC 6720.
    pub gtsm: bool,
    /// Otherwise it is the source of the packet.
    pub transport_address: Option<Ipv4Addr>,
    pub configuration_sequence: Option<u32>,
}

/// RFC 3478 §2
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultTolerance {
    /// How long to wait for the sender after its session is lost; milliseconds on the wire.
    pub reconnect: Duration,
    /// How long the sender will still keep its forwarding state of before; zero: there is none.
    pub recovery: Duration,
}

/// RFC 5561, 5918, 5919
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    pub dynamic: bool,
    pub typed_wildcard: bool,
    pub unrecognized_notification: bool,
}

/// What a Capability message gives or takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilityChange {
    pub typed_wildcard: Option<bool>,
    pub unrecognized_notification: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialization {
    pub version: u16,
    pub keepalive_s: u16,
    pub downstream_on_demand: bool,
    pub loop_detection: bool,
    pub path_vector_limit: u8,
    pub max_pdu: u16,
    pub receiver: LdpId,
    pub fault_tolerance: Option<FaultTolerance>,
    pub capabilities: Capabilities,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub fecs: Vec<FecElement>,
    pub label: Label,
    /// The request that it answers.
    pub request_id: Option<u32>,
}

/// Label Request, Withdraw, Release or Abort Request. Request and abort have no label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMessage {
    pub fecs: Vec<FecElement>,
    pub label: Option<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Notification(Notification),
    Hello(Hello),
    Initialization(Initialization),
    KeepAlive,
    Capability(CapabilityChange),
    Address(Vec<Ipv4Addr>),
    AddressWithdraw(Vec<Ipv4Addr>),
    LabelMapping(Mapping),
    LabelRequest(Vec<FecElement>),
    LabelWithdraw(LabelMessage),
    LabelRelease(LabelMessage),
    LabelAbortRequest { fecs: Vec<FecElement>, request_id: u32 },
}

/// What was found among the parameters of a message.
#[derive(Default)]
struct Found {
    fecs: Option<Vec<FecElement>>,
    addresses: Option<Vec<Ipv4Addr>>,
    label: Option<Label>,
    request_id: Option<u32>,
    status: Option<(Status, u32, u16)>,
    hello: Option<(u16, u16)>,
    transport_address: Option<Ipv4Addr>,
    configuration_sequence: Option<u32>,
    session: Option<Initialization>,
    fault_tolerance: Option<FaultTolerance>,
    dynamic: Option<bool>,
    typed_wildcard: Option<bool>,
    unrecognized_notification: Option<bool>,
}

impl Message {
    /// `None`: of an unknown type, to be ignored silently.
    pub fn decode(raw: &RawMessage<'_>) -> Result<Option<Self>, Error> {
        let at = raw.parameters.offset();
        // RFC 5036 §3.5.1.2.1
        let missing = |field| Error::new(Status::MISSING_MESSAGE_PARAMETERS, at, field, "is missing");
        let fecs = |f: &mut Found| f.fecs.take().ok_or_else(|| missing("FEC"));
        let label_message = || {
            let mut f = Found::read(raw)?;
            Ok(LabelMessage { fecs: fecs(&mut f)?, label: f.label })
        };
        Ok(Some(match raw.kind {
            kind::NOTIFICATION => {
                let mut f = Found::read(raw)?;
                let (status, message_id, message_kind) = f.status.ok_or_else(|| missing("status"))?;
                let fec = f.fecs.take().and_then(|fecs| fecs.into_iter().next());
                Self::Notification(Notification { status, message_id, message_kind, fec })
            }
            kind::HELLO => {
                let f = Found::read(raw)?;
                let (hold_s, flags) = f.hello.ok_or_else(|| missing("common hello parameters"))?;
                Self::Hello(Hello {
                    hold_s,
                    targeted: flags & 0x8000 != 0,
                    request_targeted: flags & 0x4000 != 0,
                    gtsm: flags & 0x2000 != 0,
                    transport_address: f.transport_address,
                    configuration_sequence: f.configuration_sequence,
                })
            }
            kind::INITIALIZATION => {
                let f = Found::read(raw)?;
                let session = f.session.ok_or_else(|| missing("common session parameters"))?;
                let capabilities = Capabilities {
                    dynamic: f.dynamic == Some(true),
                    typed_wildcard: f.typed_wildcard == Some(true),
                    unrecognized_notification: f.unrecognized_notification == Some(true),
                };
                Self::Initialization(Initialization { fault_tolerance: f.fault_tolerance, capabilities, ..session })
            }
            kind::KEEPALIVE => {
                Found::read(raw)?;
                Self::KeepAlive
            }
            kind::CAPABILITY => {
                let f = Found::read(raw)?;
                let (typed_wildcard, unrecognized_notification) = (f.typed_wildcard, f.unrecognized_notification);
                Self::Capability(CapabilityChange { typed_wildcard, unrecognized_notification })
            }
            kind::ADDRESS => Self::Address(Found::read(raw)?.addresses.ok_or_else(|| missing("address list"))?),
            kind::ADDRESS_WITHDRAW => Self::AddressWithdraw(Found::read(raw)?.addresses.ok_or_else(|| missing("address list"))?),
            kind::LABEL_MAPPING => {
                let mut f = Found::read(raw)?;
                let fecs = fecs(&mut f)?;
                Self::LabelMapping(Mapping { fecs, label: f.label.ok_or_else(|| missing("label"))?, request_id: f.request_id })
            }
            kind::LABEL_REQUEST => Self::LabelRequest(fecs(&mut Found::read(raw)?)?),
            kind::LABEL_WITHDRAW => Self::LabelWithdraw(label_message()?),
            kind::LABEL_RELEASE => Self::LabelRelease(label_message()?),
            kind::LABEL_ABORT_REQUEST => {
                let mut f = Found::read(raw)?;
                let fecs = fecs(&mut f)?;
                Self::LabelAbortRequest { fecs, request_id: f.request_id.ok_or_else(|| missing("label request message id"))? }
            }
            _ if raw.unknown_bit => return Ok(None),
            _ => return Err(Error::new(Status::UNKNOWN_MESSAGE_TYPE, at, "message type", "is unknown")),
        }))
    }

    pub fn kind(&self) -> u16 {
        match self {
            Self::Notification(_) => kind::NOTIFICATION,
            Self::Hello(_) => kind::HELLO,
            Self::Initialization(_) => kind::INITIALIZATION,
            Self::KeepAlive => kind::KEEPALIVE,
            Self::Capability(_) => kind::CAPABILITY,
            Self::Address(_) => kind::ADDRESS,
            Self::AddressWithdraw(_) => kind::ADDRESS_WITHDRAW,
            Self::LabelMapping(_) => kind::LABEL_MAPPING,
            Self::LabelRequest(_) => kind::LABEL_REQUEST,
            Self::LabelWithdraw(_) => kind::LABEL_WITHDRAW,
            Self::LabelRelease(_) => kind::LABEL_RELEASE,
            Self::LabelAbortRequest { .. } => kind::LABEL_ABORT_REQUEST,
        }
    }

    pub(super) fn encode(&self, id: u32, out: &mut Vec<u8>) {
        out.extend(self.kind().to_be_bytes());
        counted(out, |out| {
            out.extend(id.to_be_bytes());
            self.encode_parameters(out);
        });
    }

    fn encode_parameters(&self, out: &mut Vec<u8>) {
        match self {
            Self::Notification(n) => {
                let head = [n.status.to_wire().to_be_bytes(), n.message_id.to_be_bytes()].concat();
                put(out, tlv::STATUS, &[&head, &n.message_kind.to_be_bytes()[..]].concat());
                if let Some(fec) = &n.fec {
                    put_fecs(out, std::slice::from_ref(fec));
                }
            }
            Self::Hello(h) => {
                let flags = u16::from(h.targeted) << 15 | u16::from(h.request_targeted) << 14 | u16::from(h.gtsm) << 13;
                put(out, tlv::COMMON_HELLO, &[h.hold_s.to_be_bytes(), flags.to_be_bytes()].concat());
                if let Some(address) = h.transport_address {
                    put(out, tlv::IPV4_TRANSPORT_ADDRESS, &address.octets());
                }
                if let Some(sequence) = h.configuration_sequence {
                    put(out, tlv::CONFIGURATION_SEQUENCE, &sequence.to_be_bytes());
                }
            }
            Self::Initialization(i) => i.encode(out),
            Self::KeepAlive => {}
            Self::Capability(c) => {
                put_capability(out, tlv::TYPED_WILDCARD, c.typed_wildcard);
                put_capability(out, tlv::UNRECOGNIZED_NOTIFICATION, c.unrecognized_notification);
            }
            Self::Address(addresses) | Self::AddressWithdraw(addresses) => {
                let octets = addresses.iter().flat_map(|a| a.octets());
                put(out, tlv::ADDRESS_LIST, &IPV4.to_be_bytes().into_iter().chain(octets).collect::<Vec<_>>());
            }
            Self::LabelMapping(m) => {
                put_fecs(out, &m.fecs);
                put(out, tlv::GENERIC_LABEL, &m.label.get().to_be_bytes());
                if let Some(id) = m.request_id {
                    put(out, tlv::LABEL_REQUEST_ID, &id.to_be_bytes());
                }
            }
            Self::LabelRequest(fecs) => put_fecs(out, fecs),
            Self::LabelWithdraw(m) | Self::LabelRelease(m) => {
                put_fecs(out, &m.fecs);
                if let Some(label) = m.label {
                    put(out, tlv::GENERIC_LABEL, &label.get().to_be_bytes());
                }
            }
            Self::LabelAbortRequest { fecs, request_id } => {
                put_fecs(out, fecs);
                put(out, tlv::LABEL_REQUEST_ID, &request_id.to_be_bytes());
            }
        }
    }
}

impl Initialization {
    fn encode(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.downstream_on_demand) << 7 | u8::from(self.loop_detection) << 6;
        let mut value = [self.version.to_be_bytes(), self.keepalive_s.to_be_bytes(), [flags, self.path_vector_limit]].concat();
        value.extend(self.max_pdu.to_be_bytes());
        value.extend(self.receiver.lsr_id.octets());
        value.extend(self.receiver.label_space.to_be_bytes());
        put(out, tlv::COMMON_SESSION, &value);
        if let Some(ft) = self.fault_tolerance {
            let milliseconds = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX).to_be_bytes();
            let flags = [FT_LEARN.to_be_bytes(), [0; 2]].concat();
            put(out, tlv::FT_SESSION | U, &[&flags[..], &milliseconds(ft.reconnect), &milliseconds(ft.recovery)].concat());
        }
        let c = self.capabilities;
        put_capability(out, tlv::DYNAMIC_CAPABILITY, c.dynamic.then_some(true));
        put_capability(out, tlv::TYPED_WILDCARD, c.typed_wildcard.then_some(true));
        put_capability(out, tlv::UNRECOGNIZED_NOTIFICATION, c.unrecognized_notification.then_some(true));
    }
}

impl Found {
    fn read(raw: &RawMessage<'_>) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut rest = raw.parameters;
        while !rest.is_empty() {
            let at = rest.offset();
            let head = rest.u16("TLV type")?;
            let length = rest.u16("TLV length")?;
            let value = rest.take(length.into(), "TLV")?;
            let kind = head & 0x3fff;
            let taken = match found.take(kind, value) {
                // What a Notification says of a FEC that we do not know is its own affair.
                Err(e) if raw.kind == kind::NOTIFICATION && !e.status.is_fatal() => true,
                other => other?,
            };
            // RFC 5036 §3.5.1.2.2; a Notification is not answered with another.
            if !taken && head & U == 0 && !tlv::is_known(kind) && raw.kind != kind::NOTIFICATION {
                return Err(Error::new(Status::UNKNOWN_TLV, at, "TLV", "is unknown"));
            }
        }
        Ok(found)
    }

    /// `false`: not one that means something to us.
    fn take(&mut self, kind: u16, mut value: Reader<'_>) -> Result<bool, Error> {
        let at = value.offset();
        match kind {
            tlv::FEC => {
                self.fecs = Some(FecElement::decode_all(value)?);
                return Ok(true);
            }
            tlv::ADDRESS_LIST => {
                if value.u16("address family")? != IPV4 {
                    return Err(Error::new(Status::UNSUPPORTED_ADDRESS_FAMILY, at, "address list", "is not IPv4"));
                }
                let addresses = self.addresses.get_or_insert_default();
                while !value.is_empty() {
                    addresses.push(value.ipv4("address")?);
                }
            }
            tlv::GENERIC_LABEL => {
                let label = Label::try_from(value.u32("label")?).ok();
                // RFC 3032 §2.1: of the reserved labels, only these two name a way to forward IPv4.
                let usable = |l: &Label| !l.is_reserved() || matches!(*l, Label::IPV4_EXPLICIT_NULL | Label::IMPLICIT_NULL);
                let malformed = Error::new(Status::MALFORMED_TLV_VALUE, at, "label", "is reserved or above 1048575");
                self.label = Some(label.filter(usable).ok_or(malformed)?);
            }
            tlv::STATUS => {
                self.status = Some((Status::from_wire(value.u32("status")?), value.u32("message id")?, value.u16("message type")?));
            }
            tlv::COMMON_HELLO => self.hello = Some((value.u16("hold time")?, value.u16("hello flags")?)),
            tlv::IPV4_TRANSPORT_ADDRESS => self.transport_address = Some(value.ipv4("transport address")?),
            tlv::CONFIGURATION_SEQUENCE => self.configuration_sequence = Some(value.u32("configuration sequence number")?),
            tlv::COMMON_SESSION => {
                let (version, keepalive_s) = (value.u16("protocol version")?, value.u16("KeepAlive time")?);
                // RFC 5036 §3.5.3
                if version != VERSION {
                    return Err(Error::new(Status::BAD_PROTOCOL_VERSION, at, "protocol version", "is not 1"));
                }
                let (flags, path_vector_limit) = (value.u8("session flags")?, value.u8("path vector limit")?);
                let max_pdu = value.u16("max PDU length")?;
                let receiver = LdpId { lsr_id: value.ipv4("receiver LSR identifier")?, label_space: value.u16("receiver label space")? };
                self.session = Some(Initialization {
                    version,
                    keepalive_s,
                    downstream_on_demand: flags & 0x80 != 0,
                    loop_detection: flags & 0x40 != 0,
                    path_vector_limit,
                    max_pdu,
                    receiver,
                    fault_tolerance: None,
                    capabilities: Capabilities::default(),
                });
            }
            tlv::FT_SESSION => {
                value.u32("FT flags")?;
                let mut milliseconds = |field| value.u32(field).map(|ms| Duration::from_millis(ms.into()));
                let (reconnect, recovery) = (milliseconds("FT reconnect timeout")?, milliseconds("recovery time")?);
                self.fault_tolerance = Some(FaultTolerance { reconnect, recovery });
            }
            tlv::DYNAMIC_CAPABILITY => self.dynamic = Some(value.u8("capability")? & S != 0),
            tlv::TYPED_WILDCARD => self.typed_wildcard = Some(value.u8("capability")? & S != 0),
            tlv::UNRECOGNIZED_NOTIFICATION => self.unrecognized_notification = Some(value.u8("capability")? & S != 0),
            tlv::LABEL_REQUEST_ID => self.request_id = Some(value.u32("label request message id")?),
            // Hop count and path vector: loops are left to the IGP and TTL, as everywhere in frame mode (RFC 5036 §2.8).
            _ => return Ok(false),
        }
        value.end("TLV")?;
        Ok(true)
    }
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend(length16(value.len()).to_be_bytes());
    out.extend(value);
}

fn put_fecs(out: &mut Vec<u8>, fecs: &[FecElement]) {
    out.extend(tlv::FEC.to_be_bytes());
    counted(out, |out| fecs.iter().for_each(|f| f.encode(out)));
}

fn put_capability(out: &mut Vec<u8>, kind: u16, given: Option<bool>) {
    if let Some(given) = given {
        put(out, kind | U, &[if given { S } else { 0 }]);
    }
}

/// Two bytes of length, then what `body` writes.
fn counted(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 2]);
    body(out);
    let length = length16(out.len() - at - 2).to_be_bytes();
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&length);
    }
}
