//! Desired state: model, validation, plan. Pure: text and values in, values out.
//!
//! ```text
//!  YAML --parse--> Document --Intent::apply--> Intent --validate--> render--> VM configurations
//!                                                               \-> plan(desired, observed) -> steps
//! ```

mod allocate;
mod diff;
mod error;
mod model;
mod plan;
mod read;
mod render;
mod validate;

pub use allocate::{Allocations, allocate};
pub use diff::{Action, Change, FieldChange, changes};
pub use error::IntentError;
pub use model::{
    Attachment, Authentication, AuthenticationType, Bfd, Bgp, ControlPlane, Core, CoreRoute, Customer, Document, Host, Intent, Labels, Ldp,
    LdpPassword, Leak, LeakFrom, MaxPrefix, OWN_HOST, Ospf, OspfPort, Platform, Protection, Reflector, Rule, RuleMatch, RuleSet,
    StaticRoute, Vpn, VpnOverride,
};
pub use plan::{Desired, DesiredVm, Observed, ObservedVm, Step, VmState, plan};
pub use read::{API_VERSION, MAX_TEXT, parse};
pub use render::{
    Keys, LSR_SOCKET, core_interface, core_mac, core_mtu, cvm_config, lsr_mac, pe_mac, pvm_config, pvm_core_mac, pvm_cust_mac,
};
pub use validate::validate;
