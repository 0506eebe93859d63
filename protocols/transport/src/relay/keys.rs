//! CURVE keys, and which attachment each may speak for.

use super::TransportError;
use edgeplex_types::AttachmentId;
use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A CURVE public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl FromStr for PublicKey {
    type Err = TransportError;
    fn from_str(s: &str) -> Result<Self, TransportError> {
        decode_key(s).map(Self)
    }
}

/// The 32 bytes of a key written in Z85. Never echoes the text: it may be a secret.
pub(super) fn decode_key(z85: &str) -> Result<[u8; 32], TransportError> {
    let bad = || TransportError::Key(format!("{} characters", z85.len()));
    if z85.len() != 40 {
        return Err(bad());
    }
    let key: [u8; 32] = zmq::z85_decode(z85).ok().and_then(|v| v.try_into().ok()).ok_or_else(bad)?;
    // libzmq reports characters outside the alphabet, but the binding does not pass it on: what was read must read back.
    if zmq::z85_encode(&key).is_ok_and(|text| text == z85) { Ok(key) } else { Err(bad()) }
}

/// A new CURVE key pair, both halves in Z85.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub public: String,
    pub secret: String,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Draws a key pair. Fails only if libzmq was built without CURVE.
pub fn generate_keypair() -> Result<KeyPair, TransportError> {
    let pair = zmq::CurveKeyPair::new()?;
    let text = |key: [u8; 32]| zmq::z85_encode(&key).map_err(|_| TransportError::Key("32 bytes".into()));
    Ok(KeyPair { public: text(pair.public_key)?, secret: text(pair.secret_key)? })
}

/// The table of keys that may connect; shared between the server and its ZAP handler.
#[derive(Debug, Clone, Default)]
pub struct Keys(Arc<Mutex<HashMap<PublicKey, AttachmentId>>>);

impl Keys {
    fn table(&self) -> MutexGuard<'_, HashMap<PublicKey, AttachmentId>> {
        // The table is replaced whole, so a panic elsewhere cannot have left it half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lookup(&self, key: &PublicKey) -> Option<AttachmentId> {
        self.table().get(key).cloned()
    }

    /// Replaces the table, or leaves it if one key is given to two attachments.
    pub fn replace(&self, keys: impl IntoIterator<Item = (PublicKey, AttachmentId)>) -> Result<(), TransportError> {
        let mut new = HashMap::new();
        for (key, attachment) in keys {
            if let Some(other) = new.insert(key, attachment.clone()) {
                return Err(TransportError::SharedKey(attachment, other));
            }
        }
        *self.table() = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_pair_is_z85_and_secrets_are_not_shown() {
        let pair = generate_keypair().unwrap();
        assert!(pair.public.parse::<PublicKey>().is_ok());
        assert!(!format!("{pair:?}").contains(&pair.secret));
        for bad in ["", "x", &"~".repeat(40), &"é".repeat(20)] {
            let error = bad.parse::<PublicKey>().unwrap_err().to_string();
            assert!(error.contains("must be 40 characters"), "{error}");
        }
    }

    #[test]
    fn one_key_cannot_serve_two_attachments() {
        let keys = Keys::default();
        let (a, b) = ("acme/a".parse::<AttachmentId>().unwrap(), "beta/b".parse::<AttachmentId>().unwrap());
        keys.replace([(PublicKey([1; 32]), a.clone())]).unwrap();
        assert!(keys.replace([(PublicKey([2; 32]), a.clone()), (PublicKey([2; 32]), b)]).is_err());
        assert_eq!(keys.lookup(&PublicKey([1; 32])), Some(a));
    }
}
