//! From intent to the configuration of the VMs.

mod cvm;
mod pvm;

pub use cvm::cvm_config;
pub use pvm::pvm_config;

use crate::Platform;
use edgeplex_types::{AttachmentId, MacAddr};
use serde::{Deserialize, Serialize};

/// Where the relay is, as the VMs see it.
const RELAY_ENDPOINT: &str = "ipc:///run/relay/relay.sock";
/// Version of the configuration files.
const VERSION: u8 = 1;
/// Where the label-switching router listens, as it and the CVM see it.
pub const LSR_SOCKET: &str = "/run/lsr/fib.sock";

/// A CURVE key pair, Z85.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub public: String,
    pub secret: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A locally administered MAC address, the same each time for the same parts (64-bit FNV-1a, mixed as MurmurHash3 ends).
fn mac(parts: &[&str]) -> MacAddr {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let mut h = parts.iter().fold(0xcbf2_9ce4_8422_2325, |h, p| p.bytes().chain([0xff]).fold(h, step));
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let [_, _, a, b, c, d, e, f] = (h ^ (h >> 33)).to_be_bytes();
    // IEEE 802 §8.2: bit 1 of the first octet says locally administered, bit 0 clear says individual.
    MacAddr([a & 0xfc | 0x02, b, c, d, e, f])
}

fn seed(p: &Platform) -> String {
    format!("{}/{}", p.name, p.loopback)
}

/// Name of the CVM's vNIC for the n-th core port.
pub fn core_interface(n: usize) -> String {
    format!("core{n}")
}

/// The PE's MAC address on a core port.
pub fn core_mac(p: &Platform, port: &str) -> MacAddr {
    mac(&[&seed(p), "core", port])
}

/// Of the label-switching router's vNIC: only tells it apart, frames carry [`core_mac`].
pub fn lsr_mac(p: &Platform, port: &str) -> MacAddr {
    mac(&[&seed(p), "lsr", port])
}

/// The PE's MAC address towards the customer.
pub fn pe_mac(p: &Platform, id: &AttachmentId) -> MacAddr {
    mac(&[&seed(p), "pe", &id.to_string()])
}

/// Of the PVM's `cust` vNIC: FastForward speaks with [`pe_mac`]; this one only tells the vNIC apart.
pub fn pvm_cust_mac(p: &Platform, id: &AttachmentId) -> MacAddr {
    mac(&[&seed(p), "cust", &id.to_string()])
}

/// Of the PVM's `core` vNIC; frames carry [`core_mac`].
pub fn pvm_core_mac(p: &Platform, id: &AttachmentId) -> MacAddr {
    mac(&[&seed(p), "pvm-core", &id.to_string()])
}

/// What fits through every core port.
pub fn core_mtu(p: &Platform) -> u16 {
    p.core.iter().map(|c| c.mtu).min().unwrap_or(1500)
}
