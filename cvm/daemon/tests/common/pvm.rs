//! As much of a PVM as the CVM sees.

use super::LIMIT;
use edgeplex_bgp_wire::{AsPath, Attributes};
use edgeplex_relay::{CustomerOp, Sync, ToCvm, ToPvm, Tunnel, VpnOp};
use edgeplex_transport::relay::{Delivery, RelayClient};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::timeout;

pub(crate) struct Pvm {
    pub(crate) client: RelayClient,
    pub(crate) id: String,
    pub(crate) incarnation: u64,
    pub(crate) labels: BTreeSet<Label>,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(crate) routes: BTreeMap<IpNet, (Label, TunnelId)>,
    pub(crate) ended: bool,
}

impl Pvm {
    pub(crate) fn say(&mut self, message: ToCvm) -> Delivery {
        self.client.send(&message).unwrap()
    }
    /// Hello until welcome, then a snapshot of these prefixes.
    pub(crate) async fn join(&mut self, prefixes: &[&str]) {
        self.incarnation += 100;
        let incarnation = self.incarnation;
        self.ended = false;
        timeout(LIMIT, async {
            loop {
                let _ = self.say(ToCvm::Hello { attachment: self.id.parse().unwrap(), incarnation, generation: 1, standby: false });
                if let Ok(Ok(ToPvm::Welcome { incarnation: i })) = timeout(Duration::from_millis(200), self.client.recv()).await
                    && i == incarnation
                {
                    break;
                }
            }
        })
        .await
        .expect("welcomed");
        self.snapshot(prefixes);
    }
    /// Of a session that stands.
    pub(crate) fn snapshot(&mut self, prefixes: &[&str]) {
        let (incarnation, epoch) = (self.incarnation, Epoch(1));
        let sync = |sync| ToCvm::Sync { incarnation, sync };
        assert_eq!(self.say(ToCvm::Grant { incarnation, credits: 16 }), Delivery::Queued);
        assert_eq!(self.say(sync(Sync::Begin { epoch })), Delivery::Queued);
        self.announce(prefixes);
        assert_eq!(self.say(sync(Sync::End { epoch })), Delivery::Queued);
    }
    pub(crate) fn announce(&mut self, prefixes: &[&str]) {
        let attributes = Attributes { as_path: AsPath::sequence([65101]), ..Attributes::default() }.to_bytes();
        let ops = prefixes
            .iter()
            .map(|p| CustomerOp::Route { prefix: p.parse().unwrap(), next_hop: None, attributes: attributes.clone() })
            .collect();
        let sync = Sync::Ops { epoch: Epoch(1), ops };
        assert_eq!(self.say(ToCvm::Sync { incarnation: self.incarnation, sync }), Delivery::Queued);
    }
    /// Reads what the CVM says until it makes `done` true.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        timeout(LIMIT, async {
            while !done(self) {
                // The daemon wants to hear something now and then.
                if let Ok(message) = timeout(Duration::from_millis(300), self.client.recv()).await {
                    self.take(message.unwrap());
                } else {
                    let _ = self.say(ToCvm::Keepalive { incarnation: self.incarnation });
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("in time: {what}"));
    }
    pub(crate) fn take(&mut self, message: ToPvm) {
        let ops = match message {
            ToPvm::Sync { sync: Sync::Ops { ops, .. }, .. } => ops,
            ToPvm::Sync { sync: Sync::End { .. }, .. } => {
                self.ended = true;
                return;
            }
            _ => return,
        };
        for op in ops {
            match op {
                VpnOp::OwnLabel { label, .. } => drop(self.labels.insert(label)),
                VpnOp::OwnLabelGone { label } => drop(self.labels.remove(&label)),
                VpnOp::Tunnel(t) => drop(self.tunnels.insert(t.id, t)),
                VpnOp::TunnelGone { id } => drop(self.tunnels.remove(&id)),
                VpnOp::Route { prefix, paths, .. } => drop(self.routes.insert(prefix, (paths[0].label, paths[0].tunnel))),
                VpnOp::Withdraw { prefix } => drop(self.routes.remove(&prefix)),
            }
        }
    }

    /// MAC address of the neighbour and labels of each leg of the tunnel to a prefix.
    pub(crate) fn legs(&self, prefix: &str) -> Vec<(MacAddr, Vec<u32>)> {
        let Some((_, id)) = self.routes.get(&prefix.parse().unwrap()) else { return vec![] };
        let Some(tunnel) = self.tunnels.get(id) else { return vec![] };
        tunnel.legs.iter().map(|l| (l.destination_mac, l.transport.iter().map(|l| l.get()).collect())).collect()
    }
}
