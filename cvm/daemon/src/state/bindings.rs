//! LDP's labels: neighbours go on using them while we are away, so the next process gives the same.

use super::StateFile;
use edgeplex_types::{Label, wire};
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path};

/// Of the file.
const VERSION: u8 = 1;

pub type Bindings = BTreeMap<Ipv4Net, Label>;

#[derive(Debug)]
pub(crate) struct BindingsFile(StateFile);

impl BindingsFile {
    pub(crate) fn new(dir: &Path) -> Self {
        Self(StateFile(dir.join("ldp-labels")))
    }

    /// Those of a past process. A file that cannot be read is set aside.
    pub(crate) fn load(&self) -> Bindings {
        let Some(bytes) = self.0.read() else { return Bindings::new() };
        decode(&bytes).unwrap_or_else(|error| {
            self.0.set_aside(&error);
            Bindings::new()
        })
    }

    pub(crate) fn save(&self, bindings: &Bindings) -> anyhow::Result<()> {
        let rows: Vec<(Ipv4Addr, u8, Label)> = bindings.iter().map(|(p, l)| (p.addr(), p.prefix_len(), *l)).collect();
        Ok(self.0.replace(&wire::encode(VERSION, &rows)?)?)
    }
}

fn decode(bytes: &[u8]) -> anyhow::Result<Bindings> {
    let rows: Vec<(Ipv4Addr, u8, Label)> = wire::decode(VERSION, bytes)?;
    rows.into_iter().map(|(address, length, label)| Ok((Ipv4Net::new(address, length)?, label))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Bindings {
        let label = |n| Label::try_from(n).unwrap();
        [("10.255.0.2/32".parse().unwrap(), label(500_000)), ("10.0.1.0/30".parse().unwrap(), label(500_001))].into()
    }

    #[test]
    fn what_was_saved_comes_back_and_what_is_damaged_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = BindingsFile::new(dir.path());
        assert!(file.load().is_empty());
        file.save(&some()).unwrap();
        assert_eq!(file.load(), some());
        std::fs::write(dir.path().join("ldp-labels"), [VERSION, 1, 10, 0, 0, 1, 33, 16]).unwrap();
        assert!(file.load().is_empty());
        assert!(dir.path().join("ldp-labels.bad").exists());
    }

    #[test]
    fn the_bytes_of_version_1_are_still_read() {
        let bytes = [1, 2, 10, 0, 1, 0, 30, 0xa1, 0xc2, 0x1e, 10, 255, 0, 2, 32, 0xa0, 0xc2, 0x1e];
        assert_eq!(decode(&bytes).unwrap(), some());
    }
}
