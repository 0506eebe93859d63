//! Authentication of packets (RFC 2328 appendix D, RFC 5709), and the checksum that stands in for it.

use super::reader::internet_checksum;
use super::{HEADER, Message, Packet};
use crate::{Algorithm, Authentication};
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha2::{Sha256, Sha384, Sha512};
use std::net::Ipv4Addr;

/// RFC 5709 §3.3, step 3.
const APAD: [u8; 4] = [0x87, 0x8f, 0xe1, 0xf3];

/// Why a packet was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("the checksum is wrong")]
    Checksum,
    #[error("authentication type {0} is not ours")]
    Kind(u16),
    #[error("the password is not ours")]
    Password,
    #[error("key {0} is not ours")]
    Key(u8),
    #[error("the digest is not that of our key")]
    Digest,
}

/// How a believed packet was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The cryptographic sequence number, which must not fall (RFC 2328 §D.5.3).
    pub sequence: Option<u32>,
}

impl Packet<'_> {
    /// Checks that it comes from someone who knows our key, or at least that it arrived whole.
    pub fn open(&self, authentication: &Authentication) -> Result<Sealed, AuthError> {
        let header = &self.header;
        match (authentication, header.auth_kind) {
            (Authentication::Null, 0) => self.check_sum(),
            (Authentication::Simple(password), 1) => {
                self.check_sum()?;
                // RFC 2328 §D.5.2
                if header.auth == simple(password) { Ok(Sealed { sequence: None }) } else { Err(AuthError::Password) }
            }
            (Authentication::Cryptographic { algorithm, key_id, key }, 2) => {
                let [_, _, id, length, sequence @ ..] = header.auth;
                if id != *key_id {
                    return Err(AuthError::Key(id));
                }
                let want = digest(*algorithm, key, self.bytes);
                let length_right = usize::from(length) == want.len();
                let got = self.trailer.get(..want.len()).ok_or(AuthError::Digest)?;
                if length_right && same(got, &want) {
                    Ok(Sealed { sequence: Some(u32::from_be_bytes(sequence)) })
                } else {
                    Err(AuthError::Digest)
                }
            }
            (_, kind) => Err(AuthError::Kind(kind)),
        }
    }

    fn check_sum(&self) -> Result<Sealed, AuthError> {
        // Without checksum and authentication fields (RFC 2328 §D.4).
        let sum = internet_checksum(&[&self.bytes[..12], &self.bytes[14..16], &self.bytes[HEADER..]]);
        if sum == self.header.checksum { Ok(Sealed { sequence: None }) } else { Err(AuthError::Checksum) }
    }
}

impl Message {
    /// The whole packet, sealed.
    pub fn encode(&self, router_id: Ipv4Addr, area: Ipv4Addr, authentication: &Authentication, sequence: u32) -> Vec<u8> {
        let mut out = vec![2, self.kind(), 0, 0];
        out.extend_from_slice(&router_id.octets());
        out.extend_from_slice(&area.octets());
        out.extend_from_slice(&[0; 12]);
        self.write(&mut out);
        // Whoever composes a message keeps it within an IP packet.
        let length = u16::try_from(out.len()).unwrap_or(u16::MAX);
        out[2..4].copy_from_slice(&length.to_be_bytes());
        match authentication {
            Authentication::Null => seal_with_sum(&mut out),
            Authentication::Simple(password) => {
                out[15] = 1;
                seal_with_sum(&mut out);
                out[16..24].copy_from_slice(&simple(password));
            }
            Authentication::Cryptographic { algorithm, key_id, key } => {
                // RFC 2328 §D.4.3: no checksum.
                out[15] = 2;
                out[18] = *key_id;
                out[19] = algorithm.digest_length();
                out[20..24].copy_from_slice(&sequence.to_be_bytes());
                let digest = digest(*algorithm, key, &out);
                out.extend_from_slice(&digest);
            }
        }
        out
    }
}

impl Algorithm {
    /// Bytes behind each packet.
    pub(crate) fn digest_length(self) -> u8 {
        match self {
            Self::Md5 => 16,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

fn seal_with_sum(packet: &mut [u8]) {
    let sum = internet_checksum(&[&packet[..12], &packet[14..16], &packet[HEADER..]]);
    packet[12..14].copy_from_slice(&sum.to_be_bytes());
}

fn simple(password: &str) -> [u8; 8] {
    let mut out = [0; 8];
    out.iter_mut().zip(password.bytes()).for_each(|(o, b)| *o = b);
    out
}

fn digest(algorithm: Algorithm, key: &str, packet: &[u8]) -> Vec<u8> {
    match algorithm {
        Algorithm::Md5 => {
            // RFC 2328 §D.4.3: the key padded to 16 bytes, behind the packet.
            let mut padded = [0; 16];
            padded.iter_mut().zip(key.bytes()).for_each(|(o, b)| *o = b);
            Md5::new().chain_update(packet).chain_update(padded).finalize().to_vec()
        }
        Algorithm::HmacSha256 => finish(Hmac::<Sha256>::new_from_slice(&fitting::<Sha256>(key)), packet),
        Algorithm::HmacSha384 => finish(Hmac::<Sha384>::new_from_slice(&fitting::<Sha384>(key)), packet),
        Algorithm::HmacSha512 => finish(Hmac::<Sha512>::new_from_slice(&fitting::<Sha512>(key)), packet),
    }
}

/// RFC 5709 §3.3 step 1: a key longer than the digest is hashed. HMAC itself fills up a shorter one with zeros.
fn fitting<D: Digest>(key: &str) -> Vec<u8> {
    if key.len() > <D as Digest>::output_size() { D::digest(key).to_vec() } else { key.as_bytes().to_vec() }
}

/// RFC 5709 §3.3 steps 2 to 4.
fn finish<M: Mac>(mac: Result<M, hmac::digest::InvalidLength>, packet: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = mac else { return vec![] };
    mac.update(packet);
    for _ in 0..M::output_size() / APAD.len() {
        mac.update(&APAD);
    }
    mac.finalize().into_bytes().to_vec()
}

/// In time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    !b.is_empty() && a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}
