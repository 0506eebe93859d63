//! The LSR: routes each event to the part that it concerns.

use crate::{Action, BindingView, Config, Event, Forwarding, NeighborView, Start, Time};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, sync::Arc};

/// One LDP speaker: label space 0 of one LSR.
#[derive(Debug)]
pub struct Ldp {
    config: Config,
    bindings: BTreeMap<Ipv4Net, Label>,
    forwarding: Arc<Forwarding>,
}

impl Ldp {
    pub fn new(_now: Time, config: Config, start: Start) -> Self {
        Self { config, bindings: start.bindings, forwarding: Arc::default() }
    }

    /// Does one event. What it answers is to be done in order.
    pub fn handle(&mut self, _now: Time, event: Event) -> Vec<Action> {
        if let Event::Configure(config) = event {
            self.config = config;
        }
        vec![]
    }

    /// When [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    pub fn forwarding(&self) -> &Arc<Forwarding> {
        &self.forwarding
    }

    /// Our labels by FEC, to be stored; null labels are not among them.
    pub fn bindings(&self) -> &BTreeMap<Ipv4Net, Label> {
        &self.bindings
    }

    /// We were restarted, and what was kept over it is not yet confirmed ([`Action::Recovered`] follows).
    pub fn recovering(&self) -> bool {
        false
    }

    pub fn neighbors(&self, _now: Time) -> Vec<NeighborView> {
        vec![]
    }

    pub fn lib(&self) -> Vec<BindingView> {
        vec![]
    }
}
