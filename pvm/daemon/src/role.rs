//! Which instance this daemon is, across its own restarts: a file beside the journal. Who was promoted goes on as that, whatever
//! older generation the configuration still tells.

use edgeplex_mgmt::config::Instance;
use serde::{Deserialize, Serialize};
use std::{fs, io, path::Path};
use tracing::warn;

const FILE: &str = "role";
const VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u8,
    instance: Instance,
}

/// What the configuration says, or the file in `dir` if that is as new or newer.
pub(crate) fn load(dir: &Path, configured: Instance) -> Instance {
    let path = dir.join(FILE);
    let stored = match fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Stored>(&text).ok().filter(|s| s.version == VERSION),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return configured,
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot be read; going on as configured");
            return configured;
        }
    };
    match stored {
        Some(stored) if stored.instance.generation >= configured.generation => stored.instance,
        Some(_) => configured,
        None => {
            warn!(path = %path.display(), "is damaged; going on as configured");
            configured
        }
    }
}

/// In one step: a crash leaves the former file or this one.
pub(crate) fn store(dir: &Path, instance: Instance) -> io::Result<()> {
    let new = dir.join(format!("{FILE}.new"));
    fs::write(&new, serde_json::to_vec(&Stored { version: VERSION, instance })?)?;
    fs::rename(new, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_mgmt::config::InstanceRole::{Active, Standby};

    #[test]
    fn the_higher_generation_wins_and_a_promotion_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let configured = Instance { generation: 3, role: Standby };
        assert_eq!(load(dir.path(), configured), configured);
        let promoted = Instance { generation: 3, role: Active };
        store(dir.path(), promoted).unwrap();
        assert_eq!(load(dir.path(), configured), promoted);
        store(dir.path(), Instance { generation: 4, ..promoted }).unwrap();
        assert_eq!(load(dir.path(), configured).generation, 4);
        let newer = Instance { generation: 5, role: Standby };
        assert_eq!(load(dir.path(), newer), newer);
    }

    #[test]
    fn yesterdays_file_is_read_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let configured = Instance { generation: 1, role: Standby };
        fs::write(dir.path().join(FILE), br#"{"version":1,"instance":{"generation":9,"role":"active"}}"#).unwrap();
        assert_eq!(load(dir.path(), configured), Instance { generation: 9, role: Active });
        for damaged in ["", "{", r#"{"version":2,"instance":{"generation":9,"role":"active"}}"#] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(load(dir.path(), configured), configured);
        }
    }
}
