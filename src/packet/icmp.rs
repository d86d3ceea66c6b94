//! The ICMP messages that probes send and meet (RFC 792). An ICMP message goes in and a [`IcmpRepr`] comes out, or
//! the other way round. It never answers a message.
//!
//! ```text
//!  0     1     2-3       4-7                                             8...
//!  type  code  checksum  ident|sequence, or 0|next-hop MTU (RFC 1191)    data, or the packet it is about
//! ```

use super::{Malformed, checksum};

/// Bytes before the data.
pub const HEADER_LEN: usize = 8;
/// Where the identifier of an echo is.
pub const IDENT: usize = 4;
/// Code of [`IcmpRepr::DestUnreachable`]: fragmentation needed and DF set.
pub const FRAG_NEEDED: u8 = 4;

const ECHO_REPLY: u8 = 0;
const DEST_UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;

/// A message; `original` starts with the IP header of the packet an error is about ([`super::Ipv4View::new_header`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpRepr<'a> {
    EchoRequest {
        ident: u16,
        seq: u16,
        data: &'a [u8],
    },
    EchoReply {
        ident: u16,
        seq: u16,
        data: &'a [u8],
    },
    TimeExceeded {
        code: u8,
        original: &'a [u8],
    },
    /// `mtu` is that of the next hop for [`FRAG_NEEDED`] and 0 otherwise.
    DestUnreachable {
        code: u8,
        mtu: u16,
        original: &'a [u8],
    },
}

impl<'a> IcmpRepr<'a> {
    /// # Errors
    /// If the message is short, its checksum is wrong or its type is none of these.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if !checksum::verify(0, bytes) {
            return Err(if bytes.len() < HEADER_LEN { Malformed::Truncated } else { Malformed::Checksum });
        }
        let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
        let first = u16::from_be_bytes([header[4], header[5]]);
        let second = u16::from_be_bytes([header[6], header[7]]);
        match header[0] {
            ECHO_REQUEST => Ok(Self::EchoRequest { ident: first, seq: second, data }),
            ECHO_REPLY => Ok(Self::EchoReply { ident: first, seq: second, data }),
            TIME_EXCEEDED => Ok(Self::TimeExceeded { code: header[1], original: data }),
            DEST_UNREACHABLE => Ok(Self::DestUnreachable { code: header[1], mtu: second, original: data }),
            _ => Err(Malformed::Type),
        }
    }

    /// Type, code, the two words after the checksum, and the rest.
    fn parts(&self) -> (u8, u8, u16, u16, &'a [u8]) {
        match *self {
            Self::EchoRequest { ident, seq, data } => (ECHO_REQUEST, 0, ident, seq, data),
            Self::EchoReply { ident, seq, data } => (ECHO_REPLY, 0, ident, seq, data),
            Self::TimeExceeded { code, original } => (TIME_EXCEEDED, code, 0, 0, original),
            Self::DestUnreachable { code, mtu, original } => (DEST_UNREACHABLE, code, 0, mtu, original),
        }
    }

    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let (kind, code, first, second, data) = self.parts();
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend_from_slice(&first.to_be_bytes());
        bytes.extend_from_slice(&second.to_be_bytes());
        bytes.extend_from_slice(data);
        let field = checksum::checksum(0, &bytes).to_be_bytes();
        bytes[2..4].copy_from_slice(&field);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn roundtrip(repr: IcmpRepr<'_>) {
        assert_eq!(IcmpRepr::parse(&repr.emit()), Ok(repr));
    }

    proptest! {
        #[test]
        fn parse_of_emit(a: u16, b: u16, code: u8, data in proptest::collection::vec(any::<u8>(), 0..99)) {
            roundtrip(IcmpRepr::EchoRequest { ident: a, seq: b, data: &data });
            roundtrip(IcmpRepr::EchoReply { ident: a, seq: b, data: &data });
            roundtrip(IcmpRepr::TimeExceeded { code, original: &data });
            roundtrip(IcmpRepr::DestUnreachable { code, mtu: a, original: &data });
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = IcmpRepr::parse(&bytes);
        }
    }

    #[test]
    fn echo_request_bytes() {
        let bytes = IcmpRepr::EchoRequest { ident: 0x1234, seq: 1, data: b"hi" }.emit();
        assert_eq!(bytes, [8, 0, 0x7d, 0x61, 0x12, 0x34, 0, 1, b'h', b'i']);
    }

    #[test]
    fn short_and_corrupt() {
        assert_eq!(IcmpRepr::parse(&[]), Err(Malformed::Truncated));
        let mut bytes = IcmpRepr::EchoReply { ident: 1, seq: 2, data: b"abc" }.emit();
        bytes[8] ^= 1;
        assert_eq!(IcmpRepr::parse(&bytes), Err(Malformed::Checksum));
    }
}
