//! The route reflectors: their sessions, what they say to the VPN, and when they hear of it.

use super::Timing;
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{Attributes, Family, Nlri, NlriKey};
use edgeplex_cvm_vpn::{MAX_OWN_AS, Vpn};
use edgeplex_journal::Record;
use edgeplex_mgmt::{
    config::{CoreNeighbor, CvmConfig},
    show::BgpNeighbor,
};
use edgeplex_transport::{
    Mode, Promoted, bfd,
    bgp::{Event, Speaker, SpeakerConfig},
    journal::Journal,
    relay::Peer,
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// BGP hold time towards route reflectors, seconds.
const HOLD_TIME: u16 = 30;
/// How long a route reflector keeps our routes while we are away, seconds (RFC 4724).
const RESTART_TIME: u16 = 120;
const FAMILIES: [Family; 3] = [Family::RouteTarget, Family::Vpnv4, Family::Vpnv6];
/// Of BFD's sessions with them.
const CLIENT: &str = "bgp";

/// BFD sessions to ask for: with parameters, or no longer.
pub(crate) type BfdWishes = Vec<(bfd::Key, Option<bfd::Parameters>)>;

#[derive(Debug)]
pub(crate) struct Reflectors {
    speaker: Speaker,
    events: mpsc::Receiver<Event>,
    peers: BTreeMap<IpAddr, PeerConfig>,
    bfd: BTreeMap<bfd::Key, bfd::Parameters>,
    local_as: u32,
    loopback: Ipv4Addr,
    port: u16,
    restarting: bool,
    released: bool,
    /// Ends of RIBs that the VPN is not told before the core has converged: it would end the PVMs' snapshots, and the ways
    /// to the routes are not known yet.
    withheld: Option<Vec<(Ipv4Addr, Family)>>,
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    }
}

impl Reflectors {
    pub(crate) const CLIENT: &'static str = CLIENT;

    pub(crate) fn start(config: &CvmConfig, timing: Timing, restarting: bool, mode: Mode) -> Self {
        // A router without customers speaks no BGP.
        let listens = timing.bgp_listen_port != 0 && !config.route_reflectors.is_empty();
        let listen = listens.then(|| SocketAddr::from((config.loopback, timing.bgp_listen_port))).into_iter().collect();
        let (speaker, events) = Speaker::start(SpeakerConfig { local_as: config.asn, router_id: config.loopback, listen }, mode);
        Self {
            speaker,
            events,
            peers: BTreeMap::new(),
            bfd: BTreeMap::new(),
            local_as: config.asn,
            loopback: config.loopback,
            port: timing.bgp_port,
            restarting,
            released: false,
            withheld: restarting.then(Vec::new),
        }
    }

    /// Cancel-safe; `None` when the speaker ended.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub(crate) fn neighbors(&self) -> Vec<BgpNeighbor> {
        self.speaker.neighbors()
    }

    pub(crate) fn advertise(&self, nlri: Nlri, attributes: &Arc<Attributes>) {
        for peer in self.peers.keys() {
            self.speaker.advertise(*peer, nlri, attributes.clone(), IpAddr::V4(self.loopback));
        }
    }

    pub(crate) fn withdraw(&self, key: NlriKey) {
        self.peers.keys().for_each(|peer| self.speaker.withdraw(*peer, key));
    }

    /// BFD lost a peer.
    pub(crate) fn lost(&self, key: &bfd::Key) {
        if self.bfd.contains_key(key) {
            warn!(peer = %key.peer, "BFD lost a route reflector");
            self.speaker.bfd_down(key.peer);
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, event: Event, vpn: &mut Vpn<Peer>) {
        match event {
            Event::Up { peer, peer_has_gr, families, preserved, .. } => {
                info!(%peer, ?families, "route reflector is up");
                if let Some(rr) = v4(peer) {
                    vpn.reflector_up(now, rr, &families, &preserved, peer_has_gr);
                }
            }
            Event::Down { peer, reason, graceful } => {
                warn!(%peer, reason, ?graceful, "route reflector is down");
                if let Some(rr) = v4(peer) {
                    self.withheld.iter_mut().for_each(|ends| ends.retain(|(of, _)| *of != rr));
                    vpn.reflector_down(now, rr, graceful);
                }
            }
            Event::Update { peer, attributes, next_hop, reach, unreach, .. } => {
                if let Some(rr) = v4(peer) {
                    vpn.update(now, rr, &attributes, next_hop, &reach, &unreach);
                }
            }
            Event::EndOfRib { peer, family } => match (v4(peer), &mut self.withheld) {
                (Some(rr), Some(ends)) => ends.push((rr, family)),
                (Some(rr), None) => vpn.end_of_rib(rr, family),
                (None, _) => {}
            },
        }
    }

    /// The core has converged.
    pub(crate) fn core_converged(&mut self, vpn: &mut Vpn<Peer>) {
        for (rr, family) in self.withheld.take().into_iter().flatten() {
            vpn.end_of_rib(rr, family);
        }
    }

    /// What we have to tell is complete: it goes out, and our End-of-RIB after it.
    pub(crate) fn release(&mut self) {
        if !std::mem::replace(&mut self.released, true) {
            self.peers.keys().for_each(|peer| self.release_to(*peer));
        }
    }

    fn release_to(&self, peer: IpAddr) {
        FAMILIES.iter().for_each(|family| self.speaker.release(peer, *family));
    }

    /// Brings the speaker's neighbours to the configuration; returns the BFD sessions that follow from it.
    pub(crate) fn configure(&mut self, reflectors: &[CoreNeighbor], vpn: &Vpn<Peer>) -> BfdWishes {
        let peer = |n: &CoreNeighbor| {
            let mut peer = PeerConfig::new(n.address, self.local_as);
            peer.port = self.port;
            peer.local_address = Some(self.loopback.into());
            peer.hold_time = HOLD_TIME;
            peer.families = FAMILIES.to_vec();
            peer.password = n.password.clone();
            peer.graceful_restart = Some(GracefulRestart { restart_time_s: RESTART_TIME, restarting: self.restarting });
            // Nothing is asked of them beyond the restart time; what they ask is done.
            peer.long_lived_s = Some(0);
            peer.add_path_receive = true;
            // Hub and spoke: what a remote hub sends back has our AS in its path; the PVM's allowAsIn is the check on entry.
            peer.allow_own_as = MAX_OWN_AS;
            (peer.address, peer)
        };
        let wanted: BTreeMap<IpAddr, PeerConfig> = reflectors.iter().map(peer).collect();
        let gone: BTreeSet<IpAddr> = self.peers.keys().filter(|p| !wanted.contains_key(p)).copied().collect();
        for peer in gone {
            self.speaker.remove_peer(peer);
        }
        for (address, peer) in &wanted {
            if self.peers.get(address) != Some(peer) {
                self.speaker.set_peer(peer.clone());
            }
            if !self.peers.contains_key(address) {
                for (nlri, attributes) in vpn.exports() {
                    self.speaker.advertise(*address, nlri, attributes, IpAddr::V4(self.loopback));
                }
                // What we want to hear of is known from the configuration (RFC 4684 §6).
                self.speaker.release(*address, Family::RouteTarget);
                if self.released {
                    self.release_to(*address);
                }
            }
        }
        self.peers = wanted;
        self.configure_bfd(reflectors)
    }

    /// RFC 5883: over several hops, from loopback to loopback.
    fn configure_bfd(&mut self, reflectors: &[CoreNeighbor]) -> BfdWishes {
        let session = |n: &CoreNeighbor| {
            let key = bfd::Key { peer: n.address.into(), local: self.loopback.into(), interface: None };
            Some((key, crate::config::bfd_parameters(n.bfd.as_ref()?)))
        };
        let wanted: BTreeMap<_, _> = reflectors.iter().filter_map(session).collect();
        let gone = self.bfd.keys().filter(|key| !wanted.contains_key(key)).map(|key| (key.clone(), None));
        let new = wanted.iter().filter(|(key, p)| self.bfd.get(key) != Some(p)).map(|(key, p)| (key.clone(), Some(*p)));
        let wishes = gone.chain(new).collect();
        self.bfd = wanted;
        wishes
    }

    /// The sessions end before we do.
    pub(crate) fn without_bfd(&mut self) -> BfdWishes {
        self.configure_bfd(&[])
    }

    /// Routes are kept by who learnt them, and our PVMs keep forwarding (RFC 4724).
    pub(crate) async fn shutdown(&self) {
        self.speaker.shutdown(true).await;
    }

    /// To one that follows: a change that the active instance has written down.
    pub(crate) fn replay(&self, record: &Record) {
        self.speaker.replay(record);
    }

    /// Sessions go on here; what is advertised waits for [`release`](Self::release) as ever.
    pub(crate) fn promote(&self, journal: &Journal) -> BoxFuture<'static, Promoted> {
        let (speaker, journal) = (self.speaker.clone(), journal.clone());
        async move { speaker.promote(journal).await }.boxed()
    }

    /// Sessions stand still until [`unfence`](Self::unfence).
    pub(crate) fn fence(&self) -> BoxFuture<'static, ()> {
        let speaker = self.speaker.clone();
        async move { speaker.fence().await }.boxed()
    }

    pub(crate) fn unfence(&self) {
        self.speaker.unfence();
    }

    /// A successor goes on: no reflector is told that we end.
    pub(crate) async fn leave(&self) {
        self.speaker.leave().await;
    }
}
