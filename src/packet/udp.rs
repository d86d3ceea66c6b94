//! UDP datagrams (RFC 768). Ports and data go in and bytes come out, or the other way round. It never sends one.
//!
//! ```text
//!  0-1          2-3               4-5     6-7       8...
//!  source port  destination port  length  checksum  data
//! ```

use std::net::Ipv4Addr;

use super::{Malformed, checksum, ipv4};

/// Bytes before the data.
pub const HEADER_LEN: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpRepr<'a> {
    pub src_port: u16,
    pub dst_port: u16,
    pub data: &'a [u8],
}

impl<'a> UdpRepr<'a> {
    /// # Errors
    /// If the datagram is short or its checksum, where there is one, is wrong.
    pub fn parse(bytes: &'a [u8], src: Ipv4Addr, dst: Ipv4Addr) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let datagram = bytes.get(..usize::from(word(4))).ok_or(Malformed::Truncated)?;
        let data = datagram.get(HEADER_LEN..).ok_or(Malformed::Length)?;
        let pseudo = checksum::pseudo_header(src, dst, ipv4::UDP, word(4));
        if word(6) != 0 && !checksum::verify(pseudo, datagram) {
            return Err(Malformed::Checksum);
        }
        Ok(Self { src_port: word(0), dst_port: word(2), data })
    }

    #[must_use]
    pub fn emit(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let length = u16::try_from(HEADER_LEN + self.data.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(usize::from(length));
        for word in [self.src_port, self.dst_port, length, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(self.data);
        let pseudo = checksum::pseudo_header(src, dst, ipv4::UDP, length);
        let field = match checksum::checksum(pseudo, &bytes) {
            0 => 0xffff, // RFC 768: an all-zero field means no checksum
            other => other,
        };
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parse_of_emit(ports: (u16, u16), ends: (u32, u32), data in proptest::collection::vec(any::<u8>(), 0..99)) {
            let (src, dst) = (ends.0.into(), ends.1.into());
            let repr = UdpRepr { src_port: ports.0, dst_port: ports.1, data: &data };
            let bytes = repr.emit(src, dst);
            prop_assert_eq!(UdpRepr::parse(&bytes, src, dst), Ok(repr));
            let length = u16::try_from(bytes.len()).unwrap();
            let ip = etherparse::Ipv4Header::new(length, 64, etherparse::IpNumber::UDP, src.octets(), dst.octets());
            let theirs = etherparse::UdpHeader::with_ipv4_checksum(ports.0, ports.1, &ip.unwrap(), &data).unwrap();
            prop_assert_eq!(&bytes[..8], &theirs.to_bytes()[..]);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = UdpRepr::parse(&bytes, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        }
    }
}
