//! Bundles for OpenFlow 1.3: ONF extension 230, spoken as experimenter messages. All of a bundle takes effect or none.

use super::{OfError, Reader};

/// ONF_EXPERIMENTER_ID.
const ONF: u32 = 0x4f4e_4600;
const CONTROL: u32 = 2300;
const ADD: u32 = 2301;
/// ATOMIC | ORDERED: a packet sees all of the change or nothing of it, and the messages apply in order.
const FLAGS: u16 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BundleControl {
    pub(crate) id: u32,
    pub(crate) kind: u16,
}

impl BundleControl {
    pub(crate) const OPEN: u16 = 0;
    pub(crate) const COMMIT: u16 = 4;
    pub(crate) const DISCARD: u16 = 6;

    /// The type that answers `request`: each reply follows its request in the list of OFPBCT_*.
    pub(crate) fn reply_of(request: u16) -> u16 {
        request | 1
    }

    /// Body of EXPERIMENTER.
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = head(CONTROL, self.id);
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&FLAGS.to_be_bytes());
        out
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, OfError> {
        let mut r = Reader::new(body);
        if r.u32("experimenter")? != ONF || r.u32("experimenter type")? != CONTROL {
            return Err(r.error("experimenter", "not a bundle control message"));
        }
        Ok(Self { id: r.u32("bundle id")?, kind: r.u16("bundle control type")? })
    }
}

/// Body of EXPERIMENTER that adds a whole message to a bundle; both must have the same xid.
pub(crate) fn encode_bundle_add(id: u32, message: &[u8]) -> Vec<u8> {
    let mut out = head(ADD, id);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&FLAGS.to_be_bytes());
    out.extend_from_slice(message);
    out
}

fn head(kind: u32, id: u32) -> Vec<u8> {
    [ONF, kind, id].into_iter().flat_map(u32::to_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn control_messages_read_back(id: u32, kind: u16) {
            let m = BundleControl { id, kind };
            prop_assert_eq!(BundleControl::decode(&m.encode()).unwrap(), m);
        }
    }

    #[test]
    fn replies_follow_requests() {
        assert_eq!([0, 4, 6].map(BundleControl::reply_of), [1, 5, 7]);
    }
}
