//! The engine's views in the words of the management socket.

use edgeplex_cvm_vpn::{LabelState, Learned, Vpn};
use edgeplex_mgmt::show::{CvmAttachmentStatus, CvmStatus, Fabric, FabricLabel, FabricNeighbor, LabelRow, Route, Source, TunnelRow};
use edgeplex_transport::relay::Peer;
use edgeplex_types::AttachmentId;
use std::time::Duration;

pub(crate) fn status(vpn: &Vpn<Peer>, uptime: Duration, refused: u64) -> CvmStatus {
    let attachment = |a: edgeplex_cvm_vpn::AttachmentView| {
        // An attachment that waits for its label (quarantine, exhausted range) has no row worth a made-up number.
        Some(CvmAttachmentStatus { attachment: a.id, rd: a.rd, label: a.label?, relay_up: a.session_up, routes: a.customer_routes })
    };
    CvmStatus {
        pid: std::process::id(),
        uptime_s: uptime.as_secs(),
        vpn_routes: vpn.routes(),
        attachments: vpn.show_attachments().into_iter().filter_map(attachment).collect(),
        refused,
    }
}

pub(crate) fn routes(vpn: &Vpn<Peer>, attachment: Option<&AttachmentId>) -> Vec<Route> {
    let row = |r: edgeplex_cvm_vpn::RouteView| Route {
        prefix: r.prefix.into(),
        rd: Some(r.rd),
        source: match r.from {
            Learned::Attachment(ref id) if attachment.is_none_or(|a| a == id) => Source::Bgp,
            _ => Source::Vpn,
        },
        best: r.best,
        stale: r.stale,
        next_hop: Some(r.next_hop.into()),
        label: Some(r.label),
        tunnel: r.tunnel,
        as_path: r.attributes.as_path.to_string(),
        local_pref: r.attributes.local_pref,
        med: r.attributes.med,
        route_targets: r.attributes.route_targets().collect(),
    };
    vpn.show_routes(attachment).into_iter().map(row).collect()
}

pub(crate) fn labels(vpn: &Vpn<Peer>) -> Vec<LabelRow> {
    let state = |s| match s {
        LabelState::Active => "active",
        LabelState::Quarantine(_) => "quarantine",
    };
    let row =
        |l: edgeplex_cvm_vpn::LabelView| LabelRow { label: l.label, attachment: l.attachment, rd: l.rd, state: state(l.state).into() };
    vpn.show_labels().into_iter().map(row).collect()
}

pub(crate) fn tunnels(vpn: &Vpn<Peer>) -> Vec<TunnelRow> {
    let row = |t: edgeplex_cvm_vpn::TunnelView| TunnelRow {
        id: t.id,
        endpoint: t.endpoint.into(),
        up: t.tunnel.is_some(),
        transport: t.tunnel.as_ref().map(|t| t.transport.clone()).unwrap_or_default(),
        next_hop: t.neighbor.map(|n| n.address.into()),
        mac: t.tunnel.map(|t| t.destination_mac),
        paths: t.paths,
    };
    vpn.show_tunnels().into_iter().map(row).collect()
}

pub(crate) fn fabric(vpn: &Vpn<Peer>) -> Fabric {
    Fabric {
        generation: vpn.generation(),
        labels: vpn.labels_in_use().into_iter().map(|(label, id)| FabricLabel { attachment: id.clone(), label }).collect(),
        neighbors: vpn.neighbors().into_iter().map(|(n, mac)| FabricNeighbor { mac, interface: n.interface }).collect(),
    }
}
