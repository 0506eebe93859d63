//! A route reflector: another speaker of ours.

use super::{
    LIMIT,
    site::{PE, REMOTE, RR},
};
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, NlriKey};
use edgeplex_transport::{
    Mode,
    bgp::{Event, Speaker, SpeakerConfig},
    journal::Journal,
};
use edgeplex_types::Label;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{sync::mpsc, time::timeout};

pub(crate) struct Reflector {
    pub(crate) speaker: Speaker,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) routes: BTreeSet<String>,
    pub(crate) end_of_rib: bool,
    pub(crate) graceful_downs: u32,
}

impl Reflector {
    pub(crate) fn start() -> Self {
        let listen = vec![SocketAddr::from((RR, 179))];
        let (speaker, events) = Speaker::start(SpeakerConfig { local_as: 65000, router_id: RR, listen }, Mode::Live(Journal::none()));
        speaker.set_peer(PeerConfig {
            passive: true,
            local_address: Some(RR.into()),
            families: vec![Family::Vpnv4],
            graceful_restart: Some(GracefulRestart { restart_time_s: 60, restarting: false }),
            ..PeerConfig::new(PE, 65000)
        });
        speaker.release(PE.into(), Family::Vpnv4);
        Self { speaker, events, routes: BTreeSet::new(), end_of_rib: false, graceful_downs: 0 }
    }
    pub(crate) fn advertise(&self, rd: &str, prefix: &str, target: u32) {
        let rt: edgeplex_types::RouteTarget = format!("65000:{target}").parse().unwrap();
        let attributes =
            Attributes { as_path: AsPath::sequence([65102]), local_pref: Some(100), ext_communities: vec![rt.0], ..Attributes::default() };
        let nlri = Nlri::Vpn { rd: rd.parse().unwrap(), prefix: prefix.parse().unwrap(), label: Label::try_from(2000).unwrap() };
        self.speaker.advertise(PE.into(), nlri, Arc::new(attributes), IpAddr::V4(REMOTE));
    }
    pub(crate) fn withdraw(&self, rd: &str, prefix: &str) {
        self.speaker.withdraw(PE.into(), NlriKey::Vpn { rd: rd.parse().unwrap(), prefix: prefix.parse().unwrap() });
    }
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let event = timeout(LIMIT, self.events.recv()).await.unwrap_or_else(|_| panic!("in time: {what}")).unwrap();
            match event {
                Event::Update { reach, unreach, .. } => {
                    for key in unreach.iter().map(|u| u.key).chain(reach.iter().map(|r| r.nlri.key())) {
                        self.routes.retain(|r| !r.starts_with(&format!("{key} ")));
                    }
                    self.routes.extend(reach.iter().map(|r| r.nlri.to_string()));
                }
                Event::EndOfRib { family, .. } => self.end_of_rib |= family == Family::Vpnv4,
                Event::Down { graceful, .. } => {
                    self.graceful_downs += u32::from(graceful.is_some());
                    self.end_of_rib = false;
                }
                Event::Up { .. } => {}
            }
        }
    }
}
