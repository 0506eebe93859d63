//! What the VM's processes may do: networking, and what root does with its own files. Not mounting, not tracing.
#![allow(unsafe_code)]

use nix::{errno::Errno, libc};

/// Capabilities that stay, by their numbers in `linux/capability.h`. All are within the VM's own namespaces only.
const KEEP: [u32; 9] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    5,  // KILL
    10, // NET_BIND_SERVICE
    12, // NET_ADMIN: TAP, addresses and routes, TCP_MD5SIG
    13, // NET_RAW: packet sockets
    14, // IPC_LOCK: DPDK locks its memory
    23, // SYS_NICE: DPDK pins its threads
];

/// Takes all other capabilities out of the bounding set: no process started from here on can have them.
pub(crate) fn limit() -> nix::Result<()> {
    for cap in (0..64).filter(|c| !KEEP.contains(c)) {
        // SAFETY: PR_CAPBSET_DROP takes an integer and touches no memory of ours.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(cap), 0, 0, 0) }) {
            // This kernel knows no capability of that number.
            Err(Errno::EINVAL) => break,
            other => other.map(drop)?,
        }
    }
    Ok(())
}
