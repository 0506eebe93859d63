//! What a label-switching router answers to an echo request (RFC 8029 §4.4, §4.5).

use crate::packet::{Fec, InterfaceAndLabelStack, Kind, LabelEntry, Message, ReturnCode, Tlv};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What this router knows of FECs and labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// FECs that end here.
    pub egress: BTreeSet<Ipv4Net>,
    /// Labels given by this router.
    pub labels: BTreeMap<Label, KnownLabel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLabel {
    pub fec: Ipv4Net,
    /// There is a next hop for it.
    pub forwards: bool,
}

/// The reply to a request that came in with these labels; `None` where none is due. `interface`: address and index of where it
/// came in; `now`: NTP timestamp.
pub fn respond(request: &Message, labels: &[LabelEntry], known: &Known, interface: (Ipv4Addr, u32), now: u64) -> Option<Message> {
    if request.kind != Kind::Request || !matches!(request.reply_mode, 2 | 3) {
        return None;
    }
    let mut reply = Message { kind: Kind::Reply, received: now, tlvs: vec![], ..request.clone() };
    let mut unknown: Vec<u8> = request.tlvs.iter().filter(|t| t.is_mandatory_unknown()).flat_map(Tlv::to_bytes).collect();
    if request.fecs.iter().any(Fec::is_mandatory_unknown) {
        unknown.extend(request.fec_stack());
    }
    (reply.return_code, reply.return_subcode) = if request.fecs.is_empty() {
        (ReturnCode::MALFORMED, 0)
    } else if unknown.is_empty() {
        judge(request, labels, known)
    } else {
        (ReturnCode::TLV_NOT_UNDERSTOOD, 0)
    };
    if !unknown.is_empty() {
        reply.tlvs.push(Tlv::NotUnderstood(unknown));
    }
    if request.tlvs.iter().any(|t| matches!(t, Tlv::DownstreamDetailedMapping(d) if d.asks_for_stack())) {
        let (address, interface) = interface;
        reply.tlvs.push(Tlv::InterfaceAndLabelStack(InterfaceAndLabelStack { address, interface, stack: labels.to_vec() }));
    }
    Some(reply)
}

/// RFC 8029 §4.4, steps 3 to 6, for stacks of one FEC. The subcode is the depth of the label that is spoken of, 1 at the bottom.
fn judge(request: &Message, labels: &[LabelEntry], known: &Known) -> (ReturnCode, u8) {
    let depth = |entries: &[LabelEntry]| u8::try_from(entries.len()).unwrap_or(u8::MAX);
    let mut rest = labels;
    // RFC 3032 §2.1: null labels and Router Alert carry no FEC.
    while let Some((top, below)) = rest.split_first()
        && top.label.is_reserved()
    {
        rest = below;
    }
    let fec = request.fecs.iter().find_map(|fec| if let Fec::Ldp(fec) = fec { Some(fec) } else { None });
    match rest.first() {
        None if fec.is_some_and(|f| known.egress.contains(f)) => (ReturnCode::EGRESS, 1),
        None => (ReturnCode::NO_MAPPING, 1),
        Some(top) => match known.labels.get(&top.label) {
            None => (ReturnCode::NO_LABEL_ENTRY, depth(rest)),
            Some(label) if request.validate_fec && Some(&label.fec) != fec => (ReturnCode::MAPPING_DIFFERS, depth(rest)),
            Some(label) if !label.forwards => (ReturnCode(9), depth(rest)),
            Some(_) => (ReturnCode::LABEL_SWITCHED, depth(rest)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> Ipv4Net {
        s.parse().unwrap()
    }

    fn label(n: u32) -> LabelEntry {
        LabelEntry { label: Label::try_from(n).unwrap(), traffic_class: 0, bottom: true, ttl: 1 }
    }

    fn known() -> Known {
        let known = |fec, forwards| KnownLabel { fec: net(fec), forwards };
        Known {
            egress: [net("10.255.0.1/32")].into(),
            labels: [
                (Label::try_from(500_000).unwrap(), known("10.255.0.2/32", true)),
                (Label::try_from(500_001).unwrap(), known("10.255.0.3/32", false)),
            ]
            .into(),
        }
    }

    fn answer(fec: &str, labels: &[LabelEntry]) -> (u8, u8) {
        let request = Message::request(net(fec), 1, 2, 3, true);
        let reply = respond(&request, labels, &known(), ([10, 0, 0, 1].into(), 4), 99).unwrap();
        assert_eq!((reply.kind, reply.handle, reply.sequence, reply.sent, reply.received), (Kind::Reply, 1, 2, 3, 99));
        let stack = reply.tlvs.iter().find_map(|t| if let Tlv::InterfaceAndLabelStack(s) = t { Some(s.stack.clone()) } else { None });
        assert_eq!(stack.as_deref(), Some(labels));
        (reply.return_code.0, reply.return_subcode)
    }

    /// RFC 8029 §4.4.
    #[test]
    fn each_place_on_the_way_answers_for_itself() {
        assert_eq!(answer("10.255.0.1/32", &[]), (3, 1), "egress, after the last hop but one popped");
        assert_eq!(answer("10.255.0.1/32", &[label(0)]), (3, 1), "egress, explicit null");
        assert_eq!(answer("10.255.0.2/32", &[]), (4, 1), "an LSP that broke: the packet came out without labels");
        assert_eq!(answer("10.255.0.2/32", &[label(500_000)]), (8, 1), "on the way");
        assert_eq!(answer("10.255.0.2/32", &[label(1), label(500_000)]), (8, 1), "Router Alert on top");
        assert_eq!(answer("10.255.0.9/32", &[label(500_000)]), (10, 1), "an LSP that leads elsewhere");
        assert_eq!(answer("10.255.0.3/32", &[label(500_001)]), (9, 1), "a label without a next hop");
        assert_eq!(answer("10.255.0.2/32", &[label(17)]), (11, 1), "a label of nobody");
    }

    #[test]
    fn unknown_mandatory_tlvs_are_named_and_no_reply_is_given_where_none_is_wanted() {
        let mut request = Message::request(net("10.255.0.1/32"), 1, 2, 3, false);
        request.tlvs = vec![Tlv::Other(99, vec![1, 2]), Tlv::Other(40000, vec![])];
        let reply = respond(&request, &[], &known(), ([10, 0, 0, 1].into(), 4), 99).unwrap();
        assert_eq!(reply.return_code, ReturnCode::TLV_NOT_UNDERSTOOD);
        assert_eq!(reply.tlvs, [Tlv::NotUnderstood(vec![0, 99, 0, 2, 1, 2, 0, 0])]);

        // An RSVP-TE session.
        let strange = Message { fecs: vec![Fec::Other(3, vec![7; 20])], tlvs: vec![], ..request.clone() };
        let strange = Message::decode(&strange.encode()).unwrap();
        let reply = respond(&strange, &[], &known(), ([10, 0, 0, 1].into(), 4), 99).unwrap();
        assert_eq!(reply.return_code, ReturnCode::TLV_NOT_UNDERSTOOD);
        let stack = [&[0, 1, 0, 24, 0, 3, 0, 20][..], &[7; 20]].concat();
        assert_eq!(reply.tlvs, [Tlv::NotUnderstood(stack)]);
        assert!(Message::decode(&reply.encode()).is_ok());
        // One that may be passed over.
        let optional = Message { fecs: vec![Fec::Other(40000, vec![]), request.fecs[0].clone()], ..strange };
        assert_eq!(respond(&optional, &[], &known(), ([10, 0, 0, 1].into(), 4), 99).unwrap().return_code, ReturnCode::EGRESS);

        request.reply_mode = 1;
        assert_eq!(respond(&request, &[], &known(), ([10, 0, 0, 1].into(), 4), 99), None);
        let reply = Message { kind: Kind::Reply, reply_mode: 2, ..request };
        assert_eq!(respond(&reply, &[], &known(), ([10, 0, 0, 1].into(), 4), 99), None, "a reply is never answered");
    }
}
