//! Who an end is: a self-signed certificate, made at the first start, known to the other end by its SHA-256.

use crate::AgentError;
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, str::FromStr};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// SHA-256 of a certificate, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = AgentError;
    fn from_str(s: &str) -> Result<Self, AgentError> {
        let wrong = || AgentError::Key(format!("`{}`: must be 64 hexadecimal digits", s.chars().take(80).collect::<String>()));
        if s.len() != 64 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut out = [0; 32];
        for (byte, digits) in out.iter_mut().zip(s.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(out))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = AgentError;
    fn try_from(s: String) -> Result<Self, AgentError> {
        s.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(v: Fingerprint) -> String {
        v.to_string()
    }
}

/// A certificate and its private key.
#[derive(Debug)]
pub struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { certificate: self.certificate.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Reads `<dir>/agent.pem`, or makes one.
    pub fn open(dir: &Path) -> Result<Self, AgentError> {
        let path = dir.join("agent.pem");
        if !path.exists() {
            make(dir, &path)?;
        }
        load(&path)
    }

    /// Reads `<dir>/agent.pem`, if it is there.
    pub fn read(dir: &Path) -> Result<Option<Self>, AgentError> {
        let path = dir.join("agent.pem");
        path.exists().then(|| load(&path)).transpose()
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }
}

fn load(path: &Path) -> Result<Identity, AgentError> {
    let wrong = |e| AgentError::Key(format!("{}: {e}", path.display()));
    Ok(Identity {
        certificate: CertificateDer::from_pem_file(path).map_err(wrong)?,
        key: PrivateKeyDer::from_pem_file(path).map_err(wrong)?,
    })
}

/// Key and certificate in one file, which is there whole or not at all.
fn make(dir: &Path, path: &Path) -> Result<(), AgentError> {
    let failed = |e: rcgen::Error| AgentError::Key(e.to_string());
    let pair = KeyPair::generate().map_err(failed)?;
    // Nobody looks at the name: the certificate counts, byte for byte.
    let certificate = CertificateParams::new(vec!["edgeplex".to_owned()]).and_then(|p| p.self_signed(&pair)).map_err(failed)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = fs::create_dir_all(dir).and_then(|()| {
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(pair.serialize_pem().as_bytes())?;
        file.write_all(certificate.pem().as_bytes())?;
        file.sync_all()?;
        // Another process may have made one just now: that one it is then.
        match fs::hard_link(&new, path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
            _ => fs::remove_file(&new),
        }
    });
    written.map_err(AgentError::io(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::read(dir.path()).unwrap().is_none() && fs::read_dir(dir.path()).unwrap().next().is_none());
        let first = Identity::open(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap().unwrap().fingerprint(), first.fingerprint());
        assert_eq!(Identity::open(dir.path()).unwrap().fingerprint(), first.fingerprint());
        assert_eq!(fs::metadata(dir.path().join("agent.pem")).unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::open(other.path()).unwrap().fingerprint(), first.fingerprint());
    }

    #[test]
    fn fingerprints_read_back_and_others_are_refused() {
        let f = Fingerprint([7; 32]);
        assert_eq!(f.to_string().parse::<Fingerprint>().unwrap(), f);
        for bad in ["", "07", &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err());
        }
    }
}
