//! What the platform's label-switching router is programmed with: snapshot and deltas of the incoming label map.
//!
//! The tunnel behind a label carries the label's number: no two labels share one, and after a restart of ours the number means
//! the same.

use crate::ways::{Known, Leg, Legs};
use edgeplex_ff_fib_api::{self as fib, FibOp, MAX_LEGS, SwitchTarget};
use edgeplex_ldp::Fec;
use edgeplex_types::{Label, TunnelId};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) prefix: Ipv4Net,
    pub(crate) action: LabelAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelAction {
    Pop,
    Swap(Legs),
}

impl Entry {
    fn tunnel(&self, label: Label) -> Option<fib::Tunnel> {
        let LabelAction::Swap(legs) = &self.action else { return None };
        let leg = |leg: &Leg| fib::Leg {
            port: leg.port,
            transport: leg.labels.clone(),
            source_mac: leg.source_mac,
            destination_mac: leg.destination_mac,
        };
        let endpoint = IpAddr::V4(self.prefix.addr());
        Some(fib::Tunnel { id: TunnelId(label.get()), endpoint, legs: legs.used().iter().take(MAX_LEGS).map(leg).collect() })
    }
}

/// What was told of a label: `None` to pop it.
type Told = Option<fib::Tunnel>;

#[derive(Debug, Default)]
pub(crate) struct Lsr {
    entries: BTreeMap<Label, Entry>,
    ports: Vec<fib::Port>,
    told: BTreeMap<Label, Told>,
    /// Labels that may be told another thing than is true.
    dirty: BTreeSet<Label>,
    ports_dirty: bool,
}

impl Lsr {
    /// Looks at everything again; true if there is something new to tell.
    pub(crate) fn refresh(&mut self, known: &Known) -> bool {
        let ports: Vec<_> =
            known.config.interfaces.iter().map(|i| fib::Port { mac: i.mac, address: i.address.addr(), mtu: i.mtu }).collect();
        if ports != self.ports {
            self.ports = ports;
            self.ports_dirty = true;
        }
        let entry = |(prefix, fec): (&Ipv4Net, &Fec)| {
            let label = fec.local.filter(|l| !l.is_reserved())?;
            let action = if fec.egress { LabelAction::Pop } else { LabelAction::Swap(known.to_fec(prefix)) };
            Some((label, Entry { prefix: *prefix, action }))
        };
        let entries: BTreeMap<Label, Entry> = known.labels.iter().filter_map(entry).collect();
        let before = std::mem::replace(&mut self.entries, entries);
        let changed = self.entries.iter().filter(|(label, e)| before.get(label) != Some(e)).map(|(label, _)| *label);
        let gone = before.keys().filter(|label| !self.entries.contains_key(label)).copied();
        self.dirty.extend(changed.chain(gone));
        self.ports_dirty || !self.dirty.is_empty()
    }

    pub(crate) fn entries(&self) -> &BTreeMap<Label, Entry> {
        &self.entries
    }

    /// A snapshot begins: nothing has been told.
    pub(crate) fn restart(&mut self) {
        self.told.clear();
        self.dirty = self.entries.keys().copied().collect();
        self.ports_dirty = true;
    }

    /// Nothing is left to tell.
    pub(crate) fn is_clean(&self) -> bool {
        !self.ports_dirty && self.dirty.is_empty()
    }

    /// What would take away from what a past process told: held back while what is true is still being learnt again.
    fn is_held(&self, label: Label, hold: bool) -> bool {
        let leads_nowhere = |e: &Entry| matches!(&e.action, LabelAction::Swap(legs) if legs.used().is_empty());
        hold && !self.told.contains_key(&label) && self.entries.get(&label).is_none_or(leads_nowhere)
    }

    /// The next operations, at most `max` (2 or more).
    pub(crate) fn ops(&mut self, max: usize, hold: bool) -> Vec<FibOp> {
        let mut ops = vec![];
        if self.ports_dirty && !self.ports.is_empty() && max > 0 {
            ops.push(FibOp::Ports(self.ports.clone()));
        }
        self.ports_dirty = false;
        let due: Vec<Label> = self.dirty.iter().filter(|l| !self.is_held(**l, hold)).copied().collect();
        for label in due {
            // A label takes two at most.
            if ops.len() + 2 > max {
                break;
            }
            self.dirty.remove(&label);
            self.tell(label, &mut ops);
        }
        ops
    }

    /// The tunnel before the label that leads to it, and away after it.
    fn tell(&mut self, label: Label, ops: &mut Vec<FibOp>) {
        let now: Option<Told> = self.entries.get(&label).map(|e| e.tunnel(label));
        let before = match &now {
            Some(told) => self.told.insert(label, told.clone()),
            None => self.told.remove(&label),
        };
        if before == now {
            return;
        }
        let id = TunnelId(label.get());
        match (before, now) {
            (Some(Some(_)), Some(Some(tunnel))) => ops.push(FibOp::Tunnel(tunnel)),
            (_, Some(Some(tunnel))) => {
                ops.push(FibOp::Tunnel(tunnel));
                ops.push(FibOp::Switch { label, target: SwitchTarget::Tunnel(id) });
            }
            (before, Some(None)) => {
                ops.push(FibOp::Switch { label, target: SwitchTarget::Pop });
                ops.extend(before.flatten().map(|_| FibOp::TunnelGone { id }));
            }
            (before, None) => {
                ops.push(FibOp::SwitchGone { label });
                ops.extend(before.flatten().map(|_| FibOp::TunnelGone { id }));
            }
        }
    }
}
