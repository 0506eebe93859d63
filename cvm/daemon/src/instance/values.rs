//! The values in the journal that are cvmd's own; those of the protocols are theirs.
//!
//! ```text
//!   labels/vpn/<label>                    its row in the label space (format: LabelSpace::values)
//!   labels/ldp/<prefix>                   LDP's label of it
//!   core/neighbor/<interface>/<address>   MAC address
//!   cvm/identity                          whose journal this is
//!   cvm/settled                           the core is known
//! ```

use crate::state::Bindings;
use edgeplex_cvm_vpn::LabelSpace;
use edgeplex_journal::Record;
use edgeplex_mgmt::config::{CvmConfig, Role};
use edgeplex_transport::journal::Journal;
use edgeplex_types::{Label, MacAddr, NextHop, wire};
use ipnet::Ipv4Net;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};
use tracing::warn;

/// Of each value.
const VERSION: u8 = 1;
const VPN: &str = "labels/vpn/";
const LDP: &str = "labels/ldp/";
const NEIGHBOR: &str = "core/neighbor/";
const IDENTITY: &str = "cvm/identity";
const SETTLED: &str = "cvm/settled";

/// What the journal holds of them, and where changes of them go.
#[derive(Debug, Default)]
pub(crate) struct Values {
    all: BTreeMap<String, Vec<u8>>,
    /// None while another instance is followed.
    journal: Option<Journal>,
}

impl Values {
    /// A record as another instance, or a past process, has written it; others than ours are let pass. Says what is new of a
    /// neighbour, if that is what it was.
    pub(crate) fn replay(&mut self, record: &Record) -> Option<(NextHop, Option<MacAddr>)> {
        let ours = |name: &str| [VPN, LDP, NEIGHBOR, IDENTITY, SETTLED].iter().any(|prefix| name.starts_with(prefix));
        match record {
            Record::Put { name, value } if ours(name) => drop(self.all.insert(name.clone(), value.clone())),
            Record::Delete { name } => drop(self.all.remove(name)),
            _ => return None,
        }
        let (Record::Put { name, .. } | Record::Delete { name }) = record else { return None };
        let mac = self.all.get(name).and_then(|value| wire::decode(VERSION, value).ok());
        neighbor(name).map(|hop| (hop, mac))
    }

    /// From now on changes are ours, and written down.
    pub(crate) fn write_to(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    fn set(&mut self, name: String, value: Option<Vec<u8>>) {
        if self.all.get(&name) == value.as_ref() {
            return;
        }
        let Some(journal) = &self.journal else { return };
        match value {
            Some(value) => {
                journal.append(&Record::Put { name: name.clone(), value: value.clone() });
                self.all.insert(name, value);
            }
            None => {
                journal.append(&Record::Delete { name: name.clone() });
                self.all.remove(&name);
            }
        }
    }

    /// Makes `wanted` all that there is under a prefix.
    fn bring(&mut self, prefix: &str, wanted: BTreeMap<String, Vec<u8>>) {
        let gone: Vec<String> = self.under(prefix).map(|(name, _)| name.clone()).filter(|name| !wanted.contains_key(name)).collect();
        gone.into_iter().for_each(|name| self.set(name, None));
        wanted.into_iter().for_each(|(name, value)| self.set(name, Some(value)));
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Vec<u8>)> {
        self.all.range(prefix.to_owned()..).take_while(move |(name, _)| name.starts_with(prefix))
    }

    pub(crate) fn put_labels(&mut self, space: &LabelSpace) {
        match space.values() {
            Ok(rows) => self.bring(VPN, rows.into_iter().map(|(label, row)| (format!("{VPN}{label}"), row)).collect()),
            Err(error) => warn!(%error, "labels are not written down"),
        }
    }

    /// Fills the label space; false if nothing is known of labels.
    pub(crate) fn labels(&self, now: Instant, space: &mut LabelSpace) -> bool {
        let mut any = false;
        for (name, value) in self.under(VPN) {
            match space.load_value(now, value) {
                Ok(()) => any = true,
                Err(error) => warn!(name, %error, "a label of the past cannot be read"),
            }
        }
        any
    }

    pub(crate) fn put_bindings(&mut self, bindings: &Bindings) {
        let value = |(prefix, label): (&Ipv4Net, &Label)| Some((format!("{LDP}{prefix}"), wire::encode(VERSION, label).ok()?));
        self.bring(LDP, bindings.iter().filter_map(value).collect());
    }

    pub(crate) fn bindings(&self) -> Bindings {
        let binding =
            |(name, value): (&String, &Vec<u8>)| Some((name.strip_prefix(LDP)?.parse().ok()?, wire::decode(VERSION, value).ok()?));
        self.under(LDP).filter_map(binding).collect()
    }

    pub(crate) fn put_neighbor(&mut self, hop: &NextHop, mac: Option<MacAddr>) {
        let value = mac.and_then(|mac| wire::encode(VERSION, &mac).ok());
        self.set(format!("{NEIGHBOR}{}/{}", hop.interface, hop.address), value);
    }

    /// Neighbours and their MAC addresses.
    pub(crate) fn neighbors(&self) -> BTreeMap<NextHop, MacAddr> {
        self.under(NEIGHBOR).filter_map(|(name, value)| Some((neighbor(name)?, wire::decode(VERSION, value).ok()?))).collect()
    }

    pub(crate) fn put_identity(&mut self, config: &CvmConfig) {
        let value = wire::encode(VERSION, &identity(config));
        self.set(IDENTITY.into(), value.ok());
    }

    /// Whether it is the same router that has written them.
    pub(crate) fn belong_to(&self, config: &CvmConfig) -> bool {
        let known = self.all.get(IDENTITY).and_then(|value| wire::decode::<(String, u32, Ipv4Addr, bool)>(VERSION, value).ok());
        known.is_none_or(|known| known == identity(config))
    }

    pub(crate) fn put_settled(&mut self, settled: bool) {
        self.set(SETTLED.into(), wire::encode(VERSION, &true).ok().filter(|_| settled));
    }

    pub(crate) fn settled(&self) -> bool {
        self.all.contains_key(SETTLED)
    }
}

fn identity(config: &CvmConfig) -> (String, u32, Ipv4Addr, bool) {
    (config.name.to_string(), config.asn, config.loopback, config.role == Role::Pe)
}

fn neighbor(name: &str) -> Option<NextHop> {
    let (interface, address) = name.strip_prefix(NEIGHBOR)?.split_once('/')?;
    Some(NextHop { interface: interface.into(), address: address.parse().ok()? })
}

/// The label space as it is configured, empty, with the wall clock's word.
pub(crate) fn empty_labels(now: Instant, wall: Duration, config: &CvmConfig) -> LabelSpace {
    let mut labels = LabelSpace::new(config.labels, Duration::from_secs(config.label_quarantine_s.into()));
    labels.set_clock(now, wall);
    labels
}
