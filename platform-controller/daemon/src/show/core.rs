//! What the CVM alone knows: OSPF, LDP, tunnels.

use super::{CVM, Viewer, gather};
use crate::desired::Desired;
use edgeplex_api::Shown;
use edgeplex_intent::Platform;
use edgeplex_mgmt::show::CvmQuery;
use serde::de::DeserializeOwned;

/// What was asked for is not there by the operator's own will; says how it would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotConfigured(String);

/// Whether the platform has what `query` asks about.
pub(super) fn configured<'a>(desired: &'a Desired, query: &CvmQuery) -> Result<&'a Platform, NotConfigured> {
    let Some(p) = &desired.intent.platform else {
        return Err(NotConfigured("there is no platform yet; apply one".into()));
    };
    let missing = |protocol: &str, how: &str| Err(NotConfigured(format!("{protocol} is not configured on Platform {}; {how}", p.name)));
    match query {
        CvmQuery::OspfNeighbors | CvmQuery::OspfInterfaces | CvmQuery::OspfDatabase | CvmQuery::OspfRoutes if p.ospf.is_none() => {
            missing("OSPF", "give it spec.ospf, and its core ports ospf")
        }
        CvmQuery::LdpNeighbors
        | CvmQuery::LdpBindings
        | CvmQuery::Forwarding
        | CvmQuery::LspPing { .. }
        | CvmQuery::LspTraceroute { .. }
            if p.ldp.is_none() =>
        {
            missing("LDP", "give it spec.ldp, and its core ports `ldp: true`")
        }
        _ => Ok(p),
    }
}

impl Viewer {
    pub async fn core<T: DeserializeOwned>(&self, desired: &Desired, query: &CvmQuery) -> Result<Shown<T>, NotConfigured> {
        configured(desired, query)?;
        Ok(gather(vec![(CVM.into(), self.cvm::<Vec<T>>(query).await)]))
    }
}
