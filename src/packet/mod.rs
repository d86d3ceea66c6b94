//! Wire formats and checksums: IPv4 (RFC 791), ICMP (RFC 792), UDP (RFC 768), IP in IP (RFC 2003), ESP (RFC 4303), and
//! blocks of pcapng files. Bytes go in, checked views and plain values come out, and the other way round. It never does I/O
//! and never panics on bytes it did not make.

pub mod bpf;
pub mod checksum;
pub mod esp;
pub mod icmp;
pub mod ipv4;
pub mod join;
pub mod pcapng;
pub mod segment;
pub mod udp;

use std::net::Ipv4Addr;

pub use icmp::IcmpRepr;
pub use ipv4::{Ecn, Ipv4Mut, Ipv4Repr, Ipv4View};
pub use join::{Datagram, Train};
pub use segment::{Segments, Vnet};
pub use udp::UdpRepr;

/// Why bytes are not the packet they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("shorter than its header or its length field says")]
    Truncated,
    #[error("not IP version 4")]
    Version,
    #[error("a header length or total length that cannot be")]
    Length,
    #[error("wrong checksum")]
    Checksum,
    #[error("a type that is not known here")]
    Type,
}

/// The IPv4 headers of a packet, outermost first: follows protocol 4 (RFC 2003) until another protocol, a later
/// fragment or bytes that are no IPv4 header. A capture may have cut the payload short.
#[must_use]
pub fn stack(bytes: &[u8]) -> Vec<Ipv4Repr> {
    let mut headers = Vec::new();
    let mut rest = bytes;
    while let Ok(view) = Ipv4View::new_header(rest) {
        let repr = view.repr();
        headers.push(repr);
        if repr.protocol != ipv4::IPIP || repr.fragment_offset != 0 {
            break;
        }
        rest = view.payload();
    }
    headers
}

/// Puts `headers` (source and destination, outermost first) in front of `packet`, as ipip devices with TTL 64 do:
/// RFC 2003, DF set, ECN of RFC 3168. `id` is the identification of each header.
#[must_use]
pub fn nest(headers: &[(Ipv4Addr, Ipv4Addr)], packet: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    for (src, dst) in headers.iter().rev() {
        let ecn = Ipv4View::new_header(&bytes).map_or(Ecn::NotEct, |v| v.ecn()).encapsulate();
        let repr = Ipv4Repr::ipip(*src, *dst, bytes.len(), ecn, id);
        bytes = repr.with_payload(&bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn stack_lists_headers_outermost_first() {
        let inner = Ipv4Repr::new(addr(1), addr(2), 17, 3).with_payload(b"abc");
        let bytes = nest(&[(addr(5), addr(6)), (addr(3), addr(4))], &inner, 7);
        let pairs: Vec<_> = stack(&bytes).iter().map(|r| (r.src, r.dst)).collect();
        assert_eq!(pairs, [(addr(5), addr(6)), (addr(3), addr(4)), (addr(1), addr(2))]);
    }

    #[test]
    fn stack_accepts_a_cut_capture() {
        let inner = Ipv4Repr::new(addr(1), addr(2), 17, 100).with_payload(&[0; 100]);
        let bytes = nest(&[(addr(3), addr(4))], &inner, 7);
        assert_eq!(stack(&bytes[..45]).len(), 2);
        assert_eq!(stack(&bytes[..39]).len(), 1);
    }

    proptest! {
        #[test]
        fn stack_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = stack(&bytes);
        }

        #[test]
        fn nest_then_stack(pairs in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..9)) {
            let pairs: Vec<_> = pairs.into_iter().map(|(s, d)| (s.into(), d.into())).collect();
            let inner = Ipv4Repr::new(addr(1), addr(2), 17, 5).with_payload(b"hello");
            let bytes = nest(&pairs, &inner, 1);
            let found: Vec<_> = stack(&bytes).iter().map(|r| (r.src, r.dst)).collect();
            prop_assert_eq!(&found[..pairs.len()], &pairs[..]);
            prop_assert!(bytes.ends_with(&inner));
        }
    }
}
