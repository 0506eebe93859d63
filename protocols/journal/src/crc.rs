//! CRC-32C (Castagnoli; RFC 3720 §12.1), eight bytes a step.

const POLYNOMIAL: u32 = 0x82f6_3b78;

const fn table() -> [[u32; 256]; 8] {
    let mut t = [[0; 256]; 8];
    let mut n: u32 = 0;
    while n < 256 {
        let mut crc = n;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        t[0][n as usize] = crc;
        n += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut n = 0;
        while n < 256 {
            t[k][n] = t[k - 1][n] >> 8 ^ t[0][(t[k - 1][n] & 0xff) as usize];
            n += 1;
        }
        k += 1;
    }
    t
}

static TABLE: [[u32; 256]; 8] = table();

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let mut eights = bytes.chunks_exact(8);
    for eight in eights.by_ref() {
        let low = crc.to_le_bytes();
        let mut next = 0;
        for (k, byte) in eight.iter().enumerate() {
            let byte = byte ^ low.get(k).copied().unwrap_or(0);
            next ^= TABLE[7 - k][usize::from(byte)];
        }
        crc = next;
    }
    for byte in eights.remainder() {
        crc = crc >> 8 ^ TABLE[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// RFC 3720 §B.4
    #[test]
    fn vectors() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&up), 0x46dd_794e);
        assert_eq!(crc32c(&[]), 0);
    }
}
