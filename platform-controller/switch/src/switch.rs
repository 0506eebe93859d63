//! One bridge of Open vSwitch.

use crate::{Changes, PortNo, Rule, SwitchError};
use std::{collections::BTreeMap, path::Path};

/// A connection to one bridge: OpenFlow for its rules, OVSDB for its ports.
#[derive(Debug)]
pub struct Switch {}

impl Switch {
    /// Connects to `bridge` of the Open vSwitch whose run directory is `ovs_run_dir`. Open vSwitch may restart:
    /// each later call connects anew if the connection has been lost.
    pub async fn connect(_ovs_run_dir: &Path, _bridge: &str) -> Result<Self, SwitchError> {
        unimplemented!("in minutes")
    }
    /// Makes interface `name` a port of the bridge, if it is not one yet, and returns its number once the switch has given one.
    pub async fn ensure_port(&mut self, _name: &str) -> Result<PortNo, SwitchError> {
        unimplemented!("in minutes")
    }
    /// Takes interface `name` off the bridge; nothing happens if it is not a port of it.
    pub async fn remove_port(&mut self, _name: &str) -> Result<(), SwitchError> {
        unimplemented!("in minutes")
    }
    /// Ports of the bridge by name; those that work only (no missing device).
    pub async fn ports(&mut self) -> Result<BTreeMap<String, PortNo>, SwitchError> {
        unimplemented!("in minutes")
    }
    /// Every rule that the bridge has.
    pub async fn rules(&mut self) -> Result<Vec<Rule>, SwitchError> {
        unimplemented!("in minutes")
    }
    /// Applies all of `changes` or none of it (one bundle), and returns when the switch has taken it.
    pub async fn apply(&mut self, _changes: &Changes) -> Result<(), SwitchError> {
        unimplemented!("in minutes")
    }
}
