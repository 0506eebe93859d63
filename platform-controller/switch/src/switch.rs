//! One bridge of Open vSwitch.

use crate::{Changes, PortNo, Rule, SwitchError, connection::Connection, ovsdb::Ovsdb};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long the socket of a bridge that is in the database may take to appear.
const BRIDGE_APPEARS: Duration = Duration::from_secs(2);

/// Beneath the tag that means a vNIC of another host a frame may have one of its own. A switch that sees the first alone takes it
/// for untagged when that one is off, and the VM hops.
const TAGS: u8 = 2;

/// One bridge: OpenFlow for its rules, OVSDB for its ports.
///
/// Open vSwitch may restart at any time. A call that fails drops its connection, and the next call connects anew.
#[derive(Debug)]
pub struct Switch {
    run_dir: PathBuf,
    bridge: String,
    openflow: Option<Connection>,
    ovsdb: Option<Ovsdb>,
}

impl Switch {
    /// Connects to `bridge` of the Open vSwitch whose run directory is `ovs_run_dir`.
    pub async fn connect(ovs_run_dir: &Path, bridge: &str) -> Result<Self, SwitchError> {
        let mut s = Self { run_dir: ovs_run_dir.into(), bridge: bridge.into(), openflow: None, ovsdb: None };
        s.openflow = Some(s.open_openflow().await?);
        Ok(s)
    }

    async fn open_openflow(&mut self) -> Result<Connection, SwitchError> {
        match self.openflow.take() {
            Some(c) => Ok(c),
            None => {
                // Says at once when there is no such bridge.
                let mut db = self.open_ovsdb().await?;
                db.bridge_ports(&self.bridge).await?;
                db.ensure_vlan_limit(TAGS).await?;
                self.ovsdb = Some(db);
                let path = self.run_dir.join(format!("{}.mgmt", self.bridge));
                let deadline = Instant::now() + BRIDGE_APPEARS;
                loop {
                    match Connection::open(&path).await {
                        // ovs-vswitchd makes the socket a little after the bridge, also when it has just restarted.
                        Err(SwitchError::Connect { .. }) if Instant::now() < deadline => sleep(Duration::from_millis(10)).await,
                        done => return done,
                    }
                }
            }
        }
    }

    async fn open_ovsdb(&mut self) -> Result<Ovsdb, SwitchError> {
        match self.ovsdb.take() {
            Some(c) => Ok(c),
            None => Ovsdb::open(&self.run_dir.join("db.sock")).await,
        }
    }

    /// Makes interface `name` a port of the bridge, if it is not one yet, and returns its number.
    pub async fn ensure_port(&mut self, name: &str) -> Result<PortNo, SwitchError> {
        let gone = || SwitchError::Port { name: name.into(), reason: "the switch gave it no number".into() };
        self.ensure_ports(&[name]).await?.remove(name).ok_or_else(gone)
    }

    /// [`Self::ensure_port`] for several at once, in one transaction: all become ports or none.
    pub async fn ensure_ports(&mut self, names: &[&str]) -> Result<BTreeMap<String, PortNo>, SwitchError> {
        let mut db = self.open_ovsdb().await?;
        let ports = db.ensure_ports(&self.bridge, names).await?;
        self.ovsdb = Some(db);
        Ok(ports)
    }

    /// Takes interface `name` off the bridge; nothing happens if it is not a port of it.
    pub async fn remove_port(&mut self, name: &str) -> Result<(), SwitchError> {
        let mut db = self.open_ovsdb().await?;
        db.remove_port(&self.bridge, name).await?;
        self.ovsdb = Some(db);
        Ok(())
    }

    /// Working ports of the bridge by name, without its own internal port.
    pub async fn ports(&mut self) -> Result<BTreeMap<String, PortNo>, SwitchError> {
        let mut c = self.open_openflow().await?;
        let ports = c.ports().await?;
        self.openflow = Some(c);
        // Numbers from 0xffffff00 are reserved (OFPP_LOCAL is the bridge itself).
        Ok(ports.into_iter().filter(|p| p.number.0 <= 0xffff_ff00).map(|p| (p.name, p.number)).collect())
    }

    /// Every rule that the bridge has, sorted.
    pub async fn rules(&mut self) -> Result<Vec<Rule>, SwitchError> {
        let mut c = self.open_openflow().await?;
        let rules = c.rules().await?;
        self.openflow = Some(c);
        Ok(rules)
    }

    /// Applies all of `changes` or none of it (one bundle), and returns when the switch has taken it.
    ///
    /// Packets may still meet the old rules for 0.4 to 1.8 ms after that (measured with Open vSwitch 3.1).
    pub async fn apply(&mut self, changes: &Changes) -> Result<(), SwitchError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut c = self.open_openflow().await?;
        c.apply(changes).await?;
        self.openflow = Some(c);
        Ok(())
    }
}
