//! Reading and checking config.json. The controller writes what is right; a damaged file must still do no harm.

mod parts;

pub use parts::vpn_config;
pub(crate) use parts::{bfd_parameters, core_config, ldp_config, ospf_config};

use edgeplex_ff_fib_api::MAX_PORTS;
use edgeplex_mgmt::config::{Bfd, CvmAttachment, CvmConfig, OspfAuthentication, Role};
use edgeplex_transport::relay::PublicKey;
use edgeplex_types::AttachmentId;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Version of the file.
const VERSION: u8 = 1;
/// Longest file accepted, bytes.
const MAX_FILE: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0}: longer than {MAX_FILE} bytes")]
    TooLong(PathBuf),
    #[error("{0}: {1}")]
    Parse(PathBuf, serde_json::Error),
    #[error("configuration of version {0}: this cvmd reads version {VERSION}")]
    Version(u8),
    #[error("{what} {value} is given twice")]
    Twice { what: &'static str, value: String },
    #[error("core interface `{0}`: a name is 1 to 15 letters and digits")]
    Interface(String),
    #[error("{0} core interfaces: at most {MAX_PORTS} are possible")]
    Interfaces(usize),
    #[error("{0}: {1}")]
    Field(String, &'static str),
    #[error("{0}: {1}")]
    Key(AttachmentId, String),
}

/// Reads the file and checks what its types do not.
pub fn load(path: &Path) -> Result<CvmConfig, ConfigError> {
    let read = |e| ConfigError::Read(path.to_owned(), e);
    if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE {
        return Err(ConfigError::TooLong(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let config: CvmConfig = serde_json::from_slice(&bytes).map_err(|e| ConfigError::Parse(path.to_owned(), e))?;
    check(&config)?;
    Ok(config)
}

fn check(config: &CvmConfig) -> Result<(), ConfigError> {
    if config.version != VERSION {
        return Err(ConfigError::Version(config.version));
    }
    // The name becomes part of a path in /proc/sys.
    let good = |name: &str| (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(bad) = config.core.iter().find(|i| !good(&i.name)) {
        return Err(ConfigError::Interface(bad.name.clone()));
    }
    if config.core.len() > MAX_PORTS {
        return Err(ConfigError::Interfaces(config.core.len()));
    }
    unique("core interface", config.core.iter().map(|i| i.name.clone()))?;
    core(config)?;
    unique("attachment", config.attachments.iter().map(|a| a.id.to_string()))?;
    unique("route distinguisher", config.attachments.iter().map(|a| a.rd.to_string()))?;
    unique("relay key", config.attachments.iter().map(|a| a.relay_public_key.clone()))?;
    unique("label", config.attachments.iter().filter_map(|a| a.label).map(|l| l.to_string()))?;
    relay_keys(config).map(|_| ())
}

/// Times and numbers of the core's protocols that would make no sense of theirs.
fn core(config: &CvmConfig) -> Result<(), ConfigError> {
    let bad = |field: String, right| Err(ConfigError::Field(field, right));
    let bfd = |of: String, bfd: &Option<Bfd>| match bfd {
        Some(b) if !(10..=60_000).contains(&b.interval_ms) => bad(format!("{of}.bfd.interval_ms"), "must be 10 to 60,000"),
        Some(b) if b.multiplier < 2 => bad(format!("{of}.bfd.multiplier"), "must be 2 to 255"),
        _ => Ok(()),
    };
    for interface in &config.core {
        bfd(interface.name.clone(), &interface.bfd)?;
        let Some(ospf) = &interface.ospf else { continue };
        let field = |name: &str| format!("{}.ospf.{name}", interface.name);
        if ospf.cost == 0 {
            return bad(field("cost"), "must be 1 to 65535");
        }
        if ospf.hello_s == 0 || ospf.dead_s <= u32::from(ospf.hello_s) || ospf.retransmit_s == 0 {
            return bad(field("dead_s"), "must be above hello_s, and both and retransmit_s above 0");
        }
        if matches!(&ospf.authentication, OspfAuthentication::Simple { password } if password.len() > 8) {
            return bad(field("authentication.password"), "must be 8 bytes or less");
        }
    }
    for reflector in &config.route_reflectors {
        bfd(reflector.address.to_string(), &reflector.bfd)?;
    }
    match &config.ldp {
        Some(ldp) if ldp.hello_s == 0 || ldp.hold_s <= ldp.hello_s || ldp.keepalive_s == 0 => {
            bad("ldp.hold_s".into(), "must be above hello_s, and both and keepalive_s above 0")
        }
        // A router without customers gives no VPN labels.
        Some(ldp)
            if config.role == Role::Pe && ldp.labels.first() <= config.labels.last() && config.labels.first() <= ldp.labels.last() =>
        {
            bad("ldp.labels".into(), "must be apart from the VPN labels")
        }
        _ => Ok(()),
    }
}

fn unique(what: &'static str, values: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for value in values {
        if let Some(value) = seen.replace(value) {
            return Err(ConfigError::Twice { what, value });
        }
    }
    Ok(())
}

/// Who may connect to the relay.
pub fn relay_keys(config: &CvmConfig) -> Result<Vec<(PublicKey, AttachmentId)>, ConfigError> {
    let key = |a: &CvmAttachment| match a.relay_public_key.parse::<PublicKey>() {
        Ok(key) => Ok((key, a.id.clone())),
        Err(e) => Err(ConfigError::Key(a.id.clone(), e.to_string())),
    };
    config.attachments.iter().map(key).collect()
}
