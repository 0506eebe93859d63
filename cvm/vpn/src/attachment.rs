//! One attachment: its VRF, its customer's routes, and what is advertised of them.

use crate::{
    config::AttachmentConfig,
    customer::{self, ExportError, MAX_ATTRIBUTE_BYTES, MAX_ROUTES},
    feed::Vrf,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::EpochMap;
use edgeplex_types::{Epoch, Label};
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// A customer route as the PVM sent it, sanitized.
#[derive(Debug, Clone)]
pub(crate) struct CustomerRoute {
    pub(crate) attributes: Arc<Attributes>,
    /// Length as received, for the account.
    bytes: usize,
}

impl PartialEq for CustomerRoute {
    fn eq(&self, other: &Self) -> bool {
        self.attributes == other.attributes
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) config: AttachmentConfig,
    /// The label in use; `None` as long as it is not given or not stored.
    pub(crate) label: Option<Label>,
    /// It was told that the label is not used because it is not stored.
    pub(crate) withheld: bool,
    pub(crate) vrf: Vrf,
    pub(crate) routes: EpochMap<Ipv4Net, CustomerRoute>,
    /// What is advertised, with route targets. Empty without a label.
    pub(crate) exported: BTreeMap<Ipv4Net, Arc<Attributes>>,
    /// Counts the snapshots received.
    pub(crate) epoch: Epoch,
    /// A snapshot has been received whole.
    pub(crate) synced: bool,
    /// Since when routes are kept that the PVM has not renewed.
    pub(crate) stale_since: Option<Instant>,
    /// Routes refused because there were as many as are allowed, and whether that was told.
    pub(crate) over_limit: u64,
    pub(crate) limit_told: bool,
    /// Some of them were refused in the current epoch.
    left_out: bool,
    /// Routes of the current epoch.
    fresh: usize,
    bytes: usize,
    /// Routes of one UPDATE of the customer come one after the other: they share one set of attributes here as well.
    recent: Option<(Vec<u8>, Arc<Attributes>)>,
    recent_export: Option<(Arc<Attributes>, Arc<Attributes>)>,
}

impl Attachment {
    pub(crate) fn new(config: AttachmentConfig) -> Self {
        Self {
            config,
            label: None,
            withheld: false,
            vrf: Vrf::new(),
            routes: EpochMap::default(),
            exported: BTreeMap::new(),
            epoch: Epoch::default(),
            synced: false,
            stale_since: None,
            over_limit: 0,
            limit_told: false,
            left_out: false,
            fresh: 0,
            bytes: 0,
            recent: None,
            recent_export: None,
        }
    }

    fn is_fresh(&self, prefix: &Ipv4Net) -> bool {
        self.routes.get(prefix).is_some() && !self.routes.is_stale(prefix, self.epoch)
    }

    fn max_routes(&self) -> usize {
        self.config.max_routes.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
    }

    /// Whether routes were left out and there is room for some of them now.
    pub(crate) fn has_room(&self) -> bool {
        self.left_out && self.fresh < self.max_routes()
    }

    /// A snapshot begins: everything has to be said again. The limit is on what was said again, so that routes which only wait
    /// for being swept keep no new ones out. What waits is not more than the limit either: gives back what had to go for that.
    pub(crate) fn begin(&mut self) -> Vec<Ipv4Net> {
        let gone = if self.routes.len() > self.max_routes() { self.drop_stale() } else { vec![] };
        self.epoch.0 += 1;
        self.fresh = 0;
        self.left_out = false;
        gone
    }

    /// Takes a customer route; true if it is new or different.
    pub(crate) fn insert(&mut self, asn: u32, prefix: Ipv4Net, encoded: Vec<u8>) -> Result<bool, ExportError> {
        let attributes = match &self.recent {
            Some((bytes, shared)) if *bytes == encoded => shared.clone(),
            _ => Arc::new(customer::sanitize(asn, &encoded)?),
        };
        let length = encoded.len();
        self.recent = Some((encoded, attributes.clone()));
        let fresh = self.is_fresh(&prefix);
        if let Some(most) = self.config.max_routes
            && !fresh
            && self.fresh >= self.max_routes()
        {
            self.over_limit += 1;
            self.left_out = true;
            return Err(ExportError::Limit(most));
        }
        let old = self.routes.get(&prefix).map(|r| r.bytes);
        let bytes = self.bytes - old.unwrap_or(0) + length;
        if bytes > MAX_ATTRIBUTE_BYTES || (old.is_none() && self.routes.len() >= MAX_ROUTES) {
            return Err(ExportError::Full);
        }
        let kept = CustomerRoute { attributes, bytes: length };
        let changed = self.routes.insert(self.epoch, prefix, kept);
        self.fresh += usize::from(!fresh);
        // An equal value is not stored anew, so the account stays at the length that is.
        let stored = self.routes.get(&prefix).map_or(0, |r| r.bytes);
        self.bytes = bytes - length + stored;
        Ok(changed)
    }

    pub(crate) fn remove(&mut self, prefix: &Ipv4Net) -> bool {
        if self.is_fresh(prefix) {
            self.fresh -= 1;
            self.limit_told = false;
        }
        match self.routes.remove(prefix) {
            Some(route) => {
                self.bytes -= route.bytes;
                true
            }
            None => false,
        }
    }

    /// Drops what the current snapshot has not renewed.
    pub(crate) fn sweep(&mut self) -> Vec<Ipv4Net> {
        self.stale_since = None;
        self.drop_stale()
    }

    fn drop_stale(&mut self) -> Vec<Ipv4Net> {
        let gone = self.routes.sweep(self.epoch);
        self.bytes -= gone.iter().map(|(_, r)| r.bytes).sum::<usize>();
        gone.into_iter().map(|(prefix, _)| prefix).collect()
    }

    /// The attributes with which a customer route is advertised.
    pub(crate) fn export(&mut self, customer: &Arc<Attributes>) -> Result<Arc<Attributes>, ExportError> {
        if let Some((of, exported)) = &self.recent_export
            && Arc::ptr_eq(of, customer)
        {
            return Ok(exported.clone());
        }
        let exported = Arc::new(customer::export(customer, &self.config.export)?);
        self.recent_export = Some((customer.clone(), exported.clone()));
        Ok(exported)
    }

    /// Takes a new configuration; what was exported under the old one is to be exported again.
    pub(crate) fn reconfigure(&mut self, config: AttachmentConfig) {
        self.config = config;
        self.recent_export = None;
    }

    /// What is more than a limit that was lowered, from the end of the table.
    pub(crate) fn beyond_limit(&self) -> Vec<Ipv4Net> {
        let fresh = self.routes.iter().map(|(p, _)| *p).filter(|p| self.is_fresh(p));
        if self.fresh > self.max_routes() { fresh.skip(self.max_routes()).collect() } else { vec![] }
    }
}
