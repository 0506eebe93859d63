//! One attachment: what its VRF holds, its customer's routes, and what is advertised of them.

use crate::{
    config::AttachmentConfig,
    customer::{self, ExportError, MAX_ATTRIBUTE_BYTES, MAX_ROUTES},
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::{EpochMap, MAX_ATTRIBUTES};
use edgeplex_types::{Epoch, Label, Rd, RouteTarget};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

/// CEs of one attachment that can have a label of their own. A PVM names them, so they must not be many; routes of any more
/// go by the label of the VRF, which serves as well.
pub const MAX_CES: usize = 64;

/// A customer route as the PVM sent it, sanitized.
#[derive(Debug, Clone)]
pub(crate) struct CustomerRoute {
    pub(crate) attributes: Arc<Attributes>,
    /// The CE it leads to, where that one is counted among the attachment's CEs.
    pub(crate) ce: Option<IpAddr>,
    /// Length as received, for the account.
    bytes: u16,
}

impl PartialEq for CustomerRoute {
    fn eq(&self, other: &Self) -> bool {
        (&self.attributes, self.ce) == (&other.attributes, other.ce)
    }
}

/// A CE that some route leads to.
#[derive(Debug, Clone, Default)]
struct Ce {
    routes: usize,
    /// Its label in use; `None` as long as it is not given or not stored.
    label: Option<Label>,
}

/// A customer route as it is advertised, with route targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exported {
    pub(crate) label: Label,
    pub(crate) attributes: Arc<Attributes>,
}

#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) config: AttachmentConfig,
    /// The VRF's label in use; `None` as long as it is not given or not stored.
    pub(crate) label: Option<Label>,
    /// It was told that a label is not used because it is not stored.
    pub(crate) withheld: bool,
    /// Which routes of the table are imported.
    pub(crate) vrf: BTreeSet<(IpNet, Rd)>,
    pub(crate) routes: EpochMap<IpNet, CustomerRoute>,
    /// CEs that routes lead to, or did when that was last looked at.
    ces: BTreeMap<IpAddr, Ce>,
    /// CEs came or went since that was looked at.
    pub(crate) ces_changed: bool,
    /// What is advertised. Empty without a label.
    pub(crate) exported: BTreeMap<IpNet, Exported>,
    /// Counts the snapshots received.
    pub(crate) epoch: Epoch,
    /// A snapshot has been received whole.
    pub(crate) synced: bool,
    /// When the next Hello may come, were they evenly spaced.
    pub(crate) hello_due: Instant,
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
    /// `ces`: those that had a label in a past process.
    pub(crate) fn new(now: Instant, config: AttachmentConfig, ces: Vec<IpAddr>) -> Self {
        let mut new = Self {
            config,
            label: None,
            withheld: false,
            vrf: BTreeSet::new(),
            routes: EpochMap::default(),
            ces: BTreeMap::new(),
            ces_changed: false,
            exported: BTreeMap::new(),
            epoch: Epoch::default(),
            synced: false,
            hello_due: now,
            stale_since: None,
            over_limit: 0,
            limit_told: false,
            left_out: false,
            fresh: 0,
            bytes: 0,
            recent: None,
            recent_export: None,
        };
        new.expect_ces(ces);
        new
    }

    /// CEs that had a label in a past process keep it until the PVM has said what there is.
    pub(crate) fn expect_ces(&mut self, ces: Vec<IpAddr>) {
        for ce in ces {
            self.ces.entry(ce).or_default();
        }
    }

    /// Whether a route is taken into the VRF: by its targets (RFC 4364 §4.3.1), or leaked from another VPN.
    pub(crate) fn imports(&self, prefix: &IpNet, attributes: &Attributes) -> bool {
        let mut targets = attributes.route_targets();
        targets.any(|rt| {
            let leaked = || self.config.leaks.iter().any(|l| l.import.contains(&rt) && l.prefixes.contains(prefix));
            self.config.import.contains(&rt) || leaked()
        })
    }

    /// Every target it looks for.
    pub(crate) fn targets(config: &AttachmentConfig) -> BTreeSet<RouteTarget> {
        config.import.iter().chain(config.leaks.iter().flat_map(|l| &l.import)).copied().collect()
    }

    /// Labels that lead here: to the VRF, or to a CE.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (Label, Option<IpAddr>)> {
        let ces = self.ces.iter().filter_map(|(address, ce)| Some((ce.label?, Some(*address))));
        self.label.map(|label| (label, None)).into_iter().chain(ces)
    }

    fn is_fresh(&self, prefix: &IpNet) -> bool {
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
    /// for being swept keep no new ones out. What waits is not more than the limit either: true if some had to go for that.
    pub(crate) fn begin(&mut self) -> bool {
        let gone = self.routes.len() > self.max_routes() && self.drop_stale();
        self.epoch.0 += 1;
        self.fresh = 0;
        self.left_out = false;
        gone
    }

    /// Takes a customer route; true if it is new or different.
    pub(crate) fn insert(&mut self, asn: u32, prefix: IpNet, next_hop: Option<IpAddr>, encoded: Vec<u8>) -> Result<bool, ExportError> {
        let length = u16::try_from(encoded.len()).ok().filter(|l| usize::from(*l) <= MAX_ATTRIBUTES);
        let length = length.ok_or(ExportError::TooLong(encoded.len()))?;
        let attributes = match &self.recent {
            Some((bytes, shared)) if *bytes == encoded => shared.clone(),
            _ => Arc::new(customer::sanitize(asn, &encoded)?),
        };
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
        let old = self.routes.get(&prefix).map(|r| (r.ce, r.bytes));
        let bytes = self.bytes - old.map_or(0, |(_, bytes)| usize::from(bytes)) + usize::from(length);
        if bytes > MAX_ATTRIBUTE_BYTES || (old.is_none() && self.routes.len() >= MAX_ROUTES) {
            return Err(ExportError::Full);
        }
        let ce = next_hop.filter(|ce| self.ces.contains_key(ce) || self.ces.len() < MAX_CES);
        let changed = self.routes.insert(self.epoch, prefix, CustomerRoute { attributes, ce, bytes: length });
        if changed {
            ce.into_iter().for_each(|ce| self.join(ce));
            old.and_then(|(ce, _)| ce).into_iter().for_each(|ce| self.leave(ce));
        }
        self.fresh += usize::from(!fresh);
        // An equal value is not stored anew, so the account stays at the length that is.
        let stored = self.routes.get(&prefix).map_or(0, |r| usize::from(r.bytes));
        self.bytes = bytes - usize::from(length) + stored;
        Ok(changed)
    }

    /// One route more leads to a CE.
    fn join(&mut self, address: IpAddr) {
        let ce = self.ces.entry(address).or_default();
        ce.routes += 1;
        self.ces_changed |= ce.routes == 1;
    }

    /// One route less leads to a CE.
    fn leave(&mut self, address: IpAddr) {
        if let Some(ce) = self.ces.get_mut(&address) {
            ce.routes -= 1;
            if ce.routes == 0 {
                self.ces_changed = true;
                // With a label it is left where it is until that is taken from it.
                if self.synced && ce.label.is_none() {
                    self.ces.remove(&address);
                }
            }
        }
    }

    /// A snapshot is complete: what it has not renewed goes; true if there was something.
    pub(crate) fn end(&mut self) -> bool {
        self.synced = true;
        self.ces_changed = true;
        self.sweep()
    }

    /// CEs that are to have labels, if there is one for each: until the first snapshot is whole also those of a past process.
    pub(crate) fn wanted_ces(&self) -> impl Iterator<Item = IpAddr> {
        let wanted = self.ces.iter().filter(|(_, ce)| self.config.label_per_ce && (ce.routes > 0 || !self.synced));
        wanted.map(|(address, _)| *address)
    }

    /// Takes the labels that may be used, for the VRF (`None`) and for CEs; true if they are others than before.
    pub(crate) fn set_labels(&mut self, mut usable: impl FnMut(Option<IpAddr>) -> Option<Label>) -> bool {
        let before: Vec<_> = self.labels().collect();
        self.label = usable(None);
        let wanted: BTreeSet<IpAddr> = self.wanted_ces().collect();
        self.ces.retain(|address, ce| {
            ce.label = usable(Some(*address)).filter(|_| wanted.contains(address));
            ce.routes > 0 || wanted.contains(address)
        });
        !self.labels().eq(before)
    }

    pub(crate) fn remove(&mut self, prefix: &IpNet) -> bool {
        if self.is_fresh(prefix) {
            self.fresh -= 1;
            self.limit_told = false;
        }
        let Some(route) = self.routes.remove(prefix) else { return false };
        self.forget(&route);
        true
    }

    fn forget(&mut self, route: &CustomerRoute) {
        self.bytes -= usize::from(route.bytes);
        route.ce.into_iter().for_each(|ce| self.leave(ce));
    }

    /// Drops what the current snapshot has not renewed; true if there was something.
    pub(crate) fn sweep(&mut self) -> bool {
        self.stale_since = None;
        self.drop_stale()
    }

    fn drop_stale(&mut self) -> bool {
        let gone = self.routes.sweep(self.epoch);
        gone.iter().for_each(|(_, route)| self.forget(route));
        !gone.is_empty()
    }

    /// A customer route as it is to be advertised: nothing if there is none, or no label yet.
    pub(crate) fn export(&mut self, prefix: &IpNet) -> Result<Option<Exported>, ExportError> {
        let Some(route) = self.routes.get(prefix) else { return Ok(None) };
        let ce = route.ce.filter(|_| self.config.label_per_ce).and_then(|ce| self.ces.get(&ce));
        let Some(label) = ce.and_then(|ce| ce.label).or(self.label) else { return Ok(None) };
        let attributes = match &self.recent_export {
            Some((of, exported)) if Arc::ptr_eq(of, &route.attributes) => exported.clone(),
            _ => Arc::new(customer::export(&route.attributes, &self.config.export)?),
        };
        self.recent_export = Some((route.attributes.clone(), attributes.clone()));
        Ok(Some(Exported { label, attributes }))
    }

    /// Takes a new configuration; what was exported under the old one is to be exported again.
    pub(crate) fn reconfigure(&mut self, config: AttachmentConfig) {
        self.config = config;
        self.recent_export = None;
    }

    /// What is more than a limit that was lowered, from the end of the table.
    pub(crate) fn beyond_limit(&self) -> Vec<IpNet> {
        let fresh = self.routes.iter().map(|(p, _)| *p).filter(|p| self.is_fresh(p));
        if self.fresh > self.max_routes() { fresh.skip(self.max_routes()).collect() } else { vec![] }
    }
}
