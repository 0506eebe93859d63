//! Reading and checking config.json. The controller writes what is right; a damaged file must still do no harm.

use edgeplex_cvm_vpn as vpn;
use edgeplex_mgmt::config::{CvmAttachment, CvmConfig};
use edgeplex_transport::relay::PublicKey;
use edgeplex_types::AttachmentId;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
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
    #[error("{what} {value} is given to two attachments")]
    Twice { what: &'static str, value: String },
    #[error("core interface `{0}`: a name is 1 to 15 letters and digits")]
    Interface(String),
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
    unique("attachment", config.attachments.iter().map(|a| a.id.to_string()))?;
    unique("route distinguisher", config.attachments.iter().map(|a| a.rd.to_string()))?;
    unique("relay key", config.attachments.iter().map(|a| a.relay_public_key.clone()))?;
    unique("label", config.attachments.iter().filter_map(|a| a.label).map(|l| l.to_string()))?;
    relay_keys(config).map(|_| ())
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

/// What the VPN engine is told.
pub fn vpn_config(config: &CvmConfig) -> vpn::Config {
    let interface = |i: &edgeplex_mgmt::config::CoreInterface| vpn::CoreInterface { name: i.name.clone(), mac: i.mac, address: i.address };
    let attachment = |a: &CvmAttachment| vpn::AttachmentConfig {
        id: a.id.clone(),
        rd: a.rd,
        import: a.import.iter().copied().collect(),
        export: a.export.iter().copied().collect(),
        label: a.label,
        max_routes: a.max_routes,
    };
    vpn::Config {
        asn: config.asn,
        loopback: config.loopback,
        interfaces: config.core.iter().map(interface).collect(),
        routes: config.core_routes.iter().map(|r| vpn::CoreRoute { prefix: r.prefix, via: r.via }).collect(),
        reflectors: config.route_reflectors.iter().map(|n| n.address).collect(),
        labels: config.labels,
        quarantine: Duration::from_secs(config.label_quarantine_s.into()),
        stale: Duration::from_secs(config.stale_s.into()),
        attachments: config.attachments.iter().map(attachment).collect(),
    }
}
