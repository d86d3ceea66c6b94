//! What a node says of a packet it cannot send on. A packet goes in; an ICMP message and its receiver come out, or nothing
//! where the sender must not be told (RFC 1122, section 3.2.2). It never sends anything.

use std::net::Ipv4Addr;

use super::forward::is_unicast;
use crate::packet::icmp::{FRAG_NEEDED, IcmpRepr};
use crate::packet::{Ipv4View, ipv4};

/// Of the packet, so that the whole answer is no more than 576 bytes (RFC 1812, section 4.3.2.3).
const QUOTED: usize = 576 - ipv4::HEADER_LEN - 8;
/// ICMP types that are questions, or answers to them; all others are errors, or unknown.
const NO_ERRORS: [u8; 6] = [0, 8, 13, 14, 17, 18];

/// "Fragmentation needed and DF set" with the MTU that would have been small enough, about a packet whose network header
/// comes first.
pub(super) fn frag_needed(packet: &[u8], mtu: u16) -> Option<(Ipv4Addr, Vec<u8>)> {
    let view = Ipv4View::new_checked(packet).ok()?;
    let is_error =
        view.protocol() == ipv4::ICMP && !view.payload().first().is_some_and(|t| NO_ERRORS.contains(t));
    let later = view.repr().fragment_offset != 0;
    if is_error || later || !is_unicast(view.src()) || !is_unicast(view.dst()) {
        return None;
    }
    let original = &packet[..usize::from(view.total_len()).min(packet.len()).min(QUOTED)];
    Some((view.src(), IcmpRepr::DestUnreachable { code: FRAG_NEEDED, mtu, original }.emit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Ipv4Repr;

    const SRC: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn about(header: Ipv4Repr, payload: &[u8]) -> Option<(Ipv4Addr, Vec<u8>)> {
        frag_needed(&header.with_payload(payload), 1460)
    }

    fn header(protocol: u8) -> Ipv4Repr {
        Ipv4Repr { dont_fragment: true, ..Ipv4Repr::new(SRC, Ipv4Addr::new(10, 0, 0, 2), protocol, 0) }
    }

    #[test]
    fn the_sender_is_told() {
        let (to, message) = about(header(ipv4::UDP), &[7; 1480]).unwrap();
        assert_eq!((to, message.len()), (SRC, 576 - ipv4::HEADER_LEN));
        let Ok(IcmpRepr::DestUnreachable { code, mtu, original }) = IcmpRepr::parse(&message) else {
            panic!()
        };
        assert_eq!((code, mtu), (FRAG_NEEDED, 1460));
        assert_eq!(Ipv4View::new_header(original).unwrap().src(), SRC);
        assert!(about(header(ipv4::ICMP), &[8, 0, 0, 0]).is_some(), "an echo request is no error");
    }

    #[test]
    fn some_are_never_told() {
        assert_eq!(about(header(ipv4::ICMP), &[3, 4, 0, 0]), None, "of an error");
        let multicast = Ipv4Repr { dst: Ipv4Addr::new(224, 0, 0, 5), ..header(ipv4::UDP) };
        assert_eq!(about(multicast, &[0; 8]), None);
        let later = Ipv4Repr { fragment_offset: 3, ..header(ipv4::UDP) };
        assert_eq!(about(later, &[0; 8]), None);
    }
}
