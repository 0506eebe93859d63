//! Switch driver: OpenFlow 1.3 and OVSDB to Open vSwitch.
//!
//! ```text
//!  FabricModel --rules()--> desired --+
//!                                     +--diff()--> Changes --Switch::apply--> Open vSwitch
//!  Switch::rules() -----> observed ---+
//! ```
//! [`rules()`] and [`diff()`] are pure; only [`Switch`] has sockets.

mod connection;
mod diff;
mod openflow;
mod ovsdb;
mod rule;
pub mod rules;
mod switch;

#[doc(hidden)]
pub use openflow::fuzz as fuzz_openflow;

pub use diff::{Changes, diff};
pub use rule::{Action, ETH_TYPE_MPLS, Match, PLATFORM_COOKIE, Port, PortNo, Rule, VlanMatch, cookie_of};
pub use rules::{Attachment, CorePort, FabricModel, Neighbor, Vnics, extender, rules};
pub use switch::Switch;

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error("{path}: {error}", path = path.display())]
    Connect { path: PathBuf, error: std::io::Error },
    #[error("connection to the switch: {0}")]
    Io(#[from] std::io::Error),
    #[error("the switch did not answer within {0} s")]
    Timeout(u64),
    #[error("the switch sent what cannot be: {0}")]
    Protocol(String),
    #[error("the switch refused rule `{rule}`: {reason}")]
    RuleRefused { rule: Box<Rule>, reason: String },
    #[error("the switch refused the change: {0}")]
    Refused(String),
    #[error("port {name}: {reason}")]
    Port { name: String, reason: String },
}
