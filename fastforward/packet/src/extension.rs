//! What a router adds behind the packet that an ICMP error quotes (RFC 4884): the label stack under which that packet
//! came (RFC 4950).

use crate::checksum;

/// RFC 4884 §3: with an extension, the quoted packet is padded to at least so many bytes; exactly so many is what
/// receivers older than the RFC look behind (§5.5).
pub const QUOTE: usize = 128;
const HEADER_LEN: usize = 4;
const OBJECT_LEN: usize = 4;
/// RFC 4884 §7.
const VERSION: u8 = 2;
/// RFC 4950 §3: class and type of the incoming label stack.
const MPLS_STACK: [u8; 2] = [1, 1];

/// Length of the extension that carries a label stack of so many bytes.
pub fn len(stack: usize) -> usize {
    HEADER_LEN + OBJECT_LEN + stack
}

/// Writes the extension to `out`, whose length must be [`len`] of the stack's; false if it is not.
pub fn write(out: &mut [u8], stack: &[u8]) -> bool {
    let Ok(object_len) = u16::try_from(OBJECT_LEN + stack.len()) else { return false };
    let Some((head, to_stack)) = out.split_at_mut_checked(HEADER_LEN + OBJECT_LEN) else { return false };
    if to_stack.len() != stack.len() {
        return false;
    }
    to_stack.copy_from_slice(stack);
    head.fill(0);
    head[0] = VERSION << 4;
    head[4..6].copy_from_slice(&object_len.to_be_bytes());
    head[6..8].copy_from_slice(&MPLS_STACK);
    let sum = checksum::checksum(out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4950_by_the_byte() {
        let mut out = [0xee; 16];
        assert!(write(&mut out, &[0x00, 0x3e, 0x90, 1, 0x00, 0x3e, 0xa1, 1]));
        assert_eq!(out[..2], [0x20, 0]);
        assert_eq!(out[4..], [0, 12, 1, 1, 0x00, 0x3e, 0x90, 1, 0x00, 0x3e, 0xa1, 1]);
        assert_eq!(checksum::checksum(&out), 0);
        assert!(!write(&mut out[..15], &[0; 8]) && !write(&mut out, &[0; 4]) && !write(&mut [0; 3], &[]));
    }
}
