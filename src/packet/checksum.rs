//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Bytes or changed words go in, the
//! 16-bit field value comes out. It never looks at what the bytes mean.

use std::net::Ipv4Addr;

/// One's complement sum of big-endian 16-bit words, not folded; an odd last byte is the high half of a word.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut total: u64 = words.iter().map(|w| u64::from(u16::from_be_bytes(*w))).sum();
    if let [last] = rest {
        total += u64::from(*last) << 8;
    }
    u32::from(fold(total))
}

/// Folds the carries back in.
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// The checksum field for bytes whose checksum field is zero; `initial` is the sum of a pseudo header.
#[must_use]
pub fn checksum(initial: u32, bytes: &[u8]) -> u16 {
    !fold(u64::from(initial) + u64::from(sum(bytes)))
}

/// Whether bytes that hold their checksum sum to all ones.
#[must_use]
pub fn verify(initial: u32, bytes: &[u8]) -> bool {
    checksum(initial, bytes) == 0
}

/// The checksum after one 16-bit word changed from `old` to `new`: HC' = ~(~HC + ~m + m') (RFC 1624, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// Sum of the IPv4 pseudo header of UDP and TCP: addresses, protocol, length of the segment in bytes.
#[must_use]
pub fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: u16) -> u32 {
    sum(&src.octets()) + sum(&dst.octets()) + u32::from(protocol) + u32::from(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes), 0xddf2);
        assert_eq!(checksum(0, &bytes), !0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn a_checksummed_buffer_verifies(mut bytes in proptest::collection::vec(any::<u8>(), 2..600)) {
            bytes[0] = 0;
            bytes[1] = 0;
            let field = checksum(0, &bytes).to_be_bytes();
            bytes[..2].copy_from_slice(&field);
            prop_assert!(verify(0, &bytes));
        }

        #[test]
        fn incremental_equals_full(mut words in proptest::collection::vec(any::<u16>(), 2..32), new: u16) {
            words[0] |= 1; // not all zero: RFC 1624 section 3 on the two zeros
            let bytes = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
            let before = checksum(0, &bytes(&words));
            let updated = update(before, words[1], new);
            words[1] = new;
            prop_assert_eq!(updated, checksum(0, &bytes(&words)));
        }
    }
}
