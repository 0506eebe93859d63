//! A customer's router, played by the test; keeps what it hears.

use crate::site::CE_PORT;
use edgeplex_bgp::PeerConfig;
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, NlriKey};
use edgeplex_transport::{
    Mode,
    bgp::{Event, Speaker, SpeakerConfig},
    journal::Journal,
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::task::JoinHandle;

#[derive(Debug)]
pub struct Ce {
    pub speaker: Speaker,
    pub heard: Arc<Mutex<CeTable>>,
    own: IpAddr,
    asn: u32,
    pe: IpAddr,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub struct CeTable {
    pub routes: BTreeMap<IpNet, (Arc<Attributes>, IpAddr)>,
    pub ends: u32,
    pub ups: u32,
    /// Why, and whether its routes stayed.
    pub downs: Vec<(String, bool)>,
}

impl Ce {
    /// Waits for the PE on `own`, an address of its side of the link.
    pub fn start(own: impl Into<IpAddr>, asn: u32, pe: impl Into<IpAddr>, password: Option<&str>) -> Self {
        let (own, pe) = (own.into(), pe.into());
        let router_id = if let IpAddr::V4(a) = own { a } else { Ipv4Addr::new(10, 0, 0, 6) };
        let config = SpeakerConfig { local_as: asn, router_id, listen: vec![SocketAddr::new(own, CE_PORT)] };
        let (speaker, mut events) = Speaker::start(config, Mode::Live(Journal::none()));
        let mut peer = PeerConfig::new(pe, 65000);
        peer.passive = true;
        peer.local_address = Some(own);
        peer.hold_time = 30;
        peer.password = password.map(str::to_owned);
        peer.graceful_restart = Some(edgeplex_bgp::GracefulRestart { restart_time_s: 30, restarting: false });
        speaker.set_peer(peer);
        let heard = Arc::new(Mutex::new(CeTable::default()));
        let table = heard.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                table.lock().unwrap().take(event);
            }
        });
        Self { speaker, heard, own, asn, pe, task }
    }

    pub fn announce(&self, prefix: &str) {
        self.announce_with(prefix, Attributes { as_path: AsPath::sequence([self.asn, 7]), ..Attributes::default() });
    }

    pub fn announce_with(&self, prefix: &str, attributes: Attributes) {
        self.speaker.advertise(self.pe, Nlri::Unicast(prefix.parse().unwrap()), Arc::new(attributes), self.own);
    }

    pub fn withdraw(&self, prefix: &str) {
        self.speaker.withdraw(self.pe, NlriKey::Unicast(prefix.parse().unwrap()));
    }

    pub fn release(&self) {
        self.speaker.release(self.pe, if self.own.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast });
    }

    pub fn has(&self, prefix: &str) -> Option<(Arc<Attributes>, IpAddr)> {
        self.heard.lock().unwrap().routes.get(&prefix.parse().unwrap()).cloned()
    }

    /// The AS path of a route it has, as a person writes it.
    pub fn path(&self, prefix: &str) -> Option<String> {
        self.has(prefix).map(|(a, _)| a.as_path.to_string())
    }

    pub async fn stop(self, graceful: bool) {
        self.speaker.shutdown(graceful).await;
        self.task.abort();
    }
}

impl CeTable {
    fn take(&mut self, event: Event) {
        match event {
            Event::Up { .. } => self.ups += 1,
            Event::Down { reason, graceful, .. } => {
                if graceful.is_none() {
                    self.routes.clear();
                }
                self.downs.push((reason, graceful.is_some()));
            }
            Event::Update { attributes, next_hop, reach, unreach, .. } => {
                for gone in unreach {
                    self.routes.retain(|p, _| NlriKey::Unicast(*p) != gone.key);
                }
                for r in reach {
                    if let Nlri::Unicast(p) = r.nlri {
                        self.routes.insert(p, (attributes.clone(), next_hop));
                    }
                }
            }
            Event::EndOfRib { .. } => self.ends += 1,
        }
    }
}
