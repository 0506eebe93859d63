//! What a speaker of ours hears from another daemon on a wire.
#![allow(dead_code, unreachable_pub)] // Each test uses its part.

use edgeplex_bgp::PeerConfig;
use edgeplex_bgp_wire::{Attributes, Nlri, NlriKey};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use edgeplex_transport::{Mode, journal::Journal};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;

#[path = "../wire/mod.rs"]
mod wire;
pub(crate) use wire::*;

pub async fn next(events: &mut Receiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("an event in time").expect("the speaker lives")
}

/// Reads events until these routes are reachable; gives their last attributes.
pub async fn learn(events: &mut Receiver<Event>, wanted: &[&str]) -> (Vec<Nlri>, Arc<Attributes>, IpAddr) {
    let mut have: Vec<Nlri> = vec![];
    loop {
        if let Event::Update { attributes, next_hop, reach, unreach, .. } = next(events).await {
            have.retain(|n| !unreach.iter().any(|u| u.key == n.key()) && !reach.iter().any(|r| r.nlri.key() == n.key()));
            have.extend(reach.iter().map(|r| r.nlri));
            have.sort();
            let names: Vec<String> = have.iter().map(|n| n.key().to_string()).collect();
            if names == wanted {
                return (have, attributes, next_hop);
            }
        }
    }
}

pub async fn lose(events: &mut Receiver<Event>) -> Vec<NlriKey> {
    loop {
        match next(events).await {
            Event::Update { unreach, .. } if !unreach.is_empty() => return unreach.iter().map(|u| u.key).collect(),
            _ => {}
        }
    }
}

pub async fn down(events: &mut Receiver<Event>) -> (String, bool) {
    loop {
        if let Event::Down { reason, graceful, .. } = next(events).await {
            return (reason, graceful.is_some());
        }
    }
}

pub fn speaker(asn: u32, peer: PeerConfig) -> (Speaker, Receiver<Event>) {
    let listen = vec![SocketAddr::from((WE, 179)), SocketAddr::from((WE6, 179))];
    let (speaker, events) = Speaker::start(SpeakerConfig { local_as: asn, router_id: WE, listen }, Mode::Live(Journal::none()));
    speaker.set_peer(peer);
    (speaker, events)
}

pub async fn end_of_rib(events: &mut Receiver<Event>, wanted: edgeplex_bgp_wire::Family) {
    loop {
        if matches!(next(events).await, Event::EndOfRib { family, .. } if family == wanted) {
            return;
        }
    }
}
