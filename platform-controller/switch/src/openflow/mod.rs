//! Codec of the part of OpenFlow 1.3 (ONF TS-006) that the driver speaks, and of bundles (ONF EXT-230).
//!
//! Decoders are total: whatever the bytes, they give a value or an error, and take memory only in proportion to the
//! input, whose length the header bounds to 64 kB.

mod bundle;
mod flow;
mod oxm;
mod port;

pub(crate) use bundle::{BundleControl, encode_bundle_add};
pub(crate) use flow::{FlowCommand, FlowMod, encode_flow_stats_request, flow_stats};
pub(crate) use port::{PortDesc, encode_port_desc_request, port_descriptions, port_status};

/// OpenFlow 1.3.
pub(crate) const VERSION: u8 = 4;
/// Bytes of the header that begins every message.
pub(crate) const HEADER: usize = 8;

/// OFPT_*: message types (§A.1).
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 0;
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const ECHO_REQUEST: u8 = 2;
    pub(crate) const ECHO_REPLY: u8 = 3;
    pub(crate) const EXPERIMENTER: u8 = 4;
    pub(crate) const FEATURES_REQUEST: u8 = 5;
    pub(crate) const FEATURES_REPLY: u8 = 6;
    pub(crate) const PORT_STATUS: u8 = 12;
    pub(crate) const FLOW_MOD: u8 = 14;
    pub(crate) const MULTIPART_REQUEST: u8 = 18;
    pub(crate) const MULTIPART_REPLY: u8 = 19;
    pub(crate) const BARRIER_REQUEST: u8 = 20;
    pub(crate) const BARRIER_REPLY: u8 = 21;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {offset}: {cause}")]
pub(crate) struct OfError {
    pub(crate) field: &'static str,
    pub(crate) offset: usize,
    pub(crate) cause: &'static str,
}

/// One message: its type, transaction and what follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) xid: u32,
    pub(crate) body: Vec<u8>,
}

/// Reads a message's header: (type, whole length, xid).
pub(crate) fn decode_header(h: [u8; HEADER]) -> Result<(u8, usize, u32), OfError> {
    let [version, kind, l0, l1, x0, x1, x2, x3] = h;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    // §A.1: HELLO may carry a higher version than the one then negotiated.
    if version != VERSION && kind != self::kind::HELLO {
        return Err(OfError { field: "version", offset: 0, cause: "not OpenFlow 1.3" });
    }
    if length < HEADER {
        return Err(OfError { field: "length", offset: 2, cause: "shorter than the header" });
    }
    Ok((kind, length, u32::from_be_bytes([x0, x1, x2, x3])))
}

/// The message as it stands on the wire. Fails when it would be longer than its 16-bit length can say.
pub(crate) fn encode(kind: u8, xid: u32, body: &[u8]) -> Result<Vec<u8>, OfError> {
    let long = |_| OfError { field: "length", offset: 2, cause: "message longer than 65535 bytes" };
    let length = u16::try_from(HEADER + body.len()).map_err(long)?;
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&xid.to_be_bytes());
    out.extend_from_slice(body);
    Ok(out)
}

/// HELLO with the version bitmap (§A.5.1): 1.3 and no other.
pub(crate) fn hello_body() -> [u8; 8] {
    let [a, b, c, d] = (1u32 << VERSION).to_be_bytes();
    [0, 1, 0, 8, a, b, c, d]
}

/// ERROR (§A.4.4) in words.
pub(crate) fn error_text(body: &[u8]) -> String {
    let Some(([t0, t1, c0, c1], _)) = body.split_first_chunk::<4>().map(|(h, rest)| (*h, rest)) else {
        return "an error without a type".into();
    };
    let (kind, code) = (u16::from_be_bytes([t0, t1]), u16::from_be_bytes([c0, c1]));
    let name = match (kind, code) {
        (0, _) => "hello failed",
        (1, 5) => "not permitted (OFPBRC_EPERM)",
        (1, _) => "bad request",
        (2, 4) => "bad output port (OFPBAC_BAD_OUT_PORT)",
        (2, _) => "bad action",
        (3, _) => "bad instruction",
        (4, _) => "bad match",
        (5, 1) => "table full (OFPFMFC_TABLE_FULL)",
        (5, 2) => "bad table (OFPFMFC_BAD_TABLE_ID)",
        (5, 3) => "overlaps another rule (OFPFMFC_OVERLAP)",
        (5, _) => "flow-mod failed",
        (0xffff, _) => "bundle failed",
        _ => "error",
    };
    format!("{name}, type {kind} code {code}")
}

/// Reads fields one after the other; every read is checked.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn error(&self, field: &'static str, cause: &'static str) -> OfError {
        OfError { field, offset: self.at, cause }
    }

    pub(crate) fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], OfError> {
        let short = self.error(field, "cut off");
        let got = self.bytes.get(self.at..self.at.saturating_add(n)).ok_or(short)?;
        self.at += n;
        Ok(got)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], OfError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, field)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, OfError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, OfError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, OfError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, OfError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }
}

/// Appends zeroes up to a multiple of 8 counted from `start`.
pub(crate) fn pad8(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    out.resize(start + len.next_multiple_of(8), 0);
}

/// Writes the length of what begins at `start` into the two bytes at `at`.
pub(crate) fn patch_length(out: &mut [u8], start: usize, at: usize) {
    // Nothing written here outgrows 16 bits: encode() refuses a message that does, and a part is smaller.
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Body of a MULTIPART message: (type, more to come, contents).
pub(crate) fn multipart(body: &[u8]) -> Result<(u16, bool, &[u8]), OfError> {
    let mut r = Reader::new(body);
    let (kind, flags) = (r.u16("multipart type")?, r.u16("multipart flags")?);
    r.take(4, "multipart padding")?;
    let n = r.rest();
    Ok((kind, flags & 1 != 0, r.take(n, "multipart body")?))
}

/// Runs every decoder over `bytes`: the entry of the fuzz target.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Some((h, body)) = bytes.split_first_chunk::<HEADER>() {
        let _ = decode_header(*h);
        let _ = port_status(body);
        let _ = BundleControl::decode(body);
        let _ = error_text(body);
        if let Ok((_, _, contents)) = multipart(body) {
            let _ = flow_stats(contents);
            let _ = port_descriptions(contents);
        }
    }
}

/// Header of a MULTIPART request.
fn multipart_request(kind: u16) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.resize(8, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_decoder_panics(bytes: Vec<u8>) {
            let _ = multipart(&bytes);
            let _ = flow_stats(&bytes);
            let _ = port_descriptions(&bytes);
            let _ = port_status(&bytes);
            let _ = FlowMod::decode(&bytes);
            let _ = BundleControl::decode(&bytes);
            let _ = error_text(&bytes);
        }

        #[test]
        fn headers_read_back(kind: u8, xid: u32, body: Vec<u8>) {
            let m = encode(kind, xid, &body).unwrap();
            let (h, rest) = m.split_first_chunk::<HEADER>().unwrap();
            prop_assert_eq!(decode_header(*h).unwrap(), (kind, HEADER + body.len(), xid));
            prop_assert_eq!(rest, &body[..]);
        }
    }

    #[test]
    fn a_wrong_version_or_length_is_refused() {
        assert_eq!(decode_header([1, 2, 0, 8, 0, 0, 0, 0]).unwrap_err().field, "version");
        assert_eq!(decode_header([4, 2, 0, 7, 0, 0, 0, 0]).unwrap_err().field, "length");
        assert!(encode(2, 0, &vec![0; 65528]).is_err());
    }
}
