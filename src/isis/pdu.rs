//! IS-IS PDUs and what they travel in. What TUN devices and raw sockets read goes in, PDUs come out, and what they
//! write. It never does I/O, and reads no more of a PDU than it has to.

use std::net::Ipv4Addr;

use crate::packet::Ipv4View;

/// Protocol of a PDU on a device that has no link layer: the value for ISO in GRE, which isisd uses there.
pub const PROTOCOL: u16 = 0x00fe;
/// IP protocol number of "ISIS over IPv4" (IANA; draft-ietf-isis-wg-over-ip).
pub(super) const IP_PROTOCOL: u8 = 124;
/// Packet information of a TUN device (`struct tun_pi` in linux/if_tun.h): flags, then protocol, big endian.
pub(super) const INFO: [u8; 4] = [0, 0, PROTOCOL.to_be_bytes()[0], PROTOCOL.to_be_bytes()[1]];

/// First byte of every IS-IS PDU (ISO/IEC TR 9577).
const IS_IS: u8 = 0x83;
/// Where a PDU has the length of its header, and its type in the low 5 bits (ISO 10589, 9.5).
const HEADER_LEN_AT: usize = 1;
const TYPE_AT: usize = 4;
const POINT_TO_POINT_HELLO: u8 = 17;
/// Option of a hello (RFC 5303): its first byte is the state of the adjacency, 0 where both hear each other.
const THREE_WAY: u8 = 240;
const UP: u8 = 0;

/// The PDU in what a TUN device with packet information gave.
pub(super) fn of_tun(bytes: &[u8]) -> Option<&[u8]> {
    checked(bytes.strip_prefix(&INFO)?)
}

/// The PDU in an IPv4 packet from `peer`, header included, as the TUN device takes it: its packet information takes the
/// place of the header's last bytes.
pub(super) fn of_ip(packet: &mut [u8], peer: Ipv4Addr) -> Option<&[u8]> {
    let view = Ipv4View::new_checked(packet).ok()?;
    if view.src() != peer || view.protocol() != IP_PROTOCOL || view.is_fragment() {
        return None;
    }
    checked(view.payload())?;
    let (start, end) = (view.header_len(), usize::from(view.total_len()));
    let framed = packet.get_mut(start - INFO.len()..end)?;
    framed[..INFO.len()].copy_from_slice(&INFO);
    Some(framed)
}

fn checked(pdu: &[u8]) -> Option<&[u8]> {
    (pdu.first() == Some(&IS_IS)).then_some(pdu)
}

/// Whether the sender of this PDU may be deaf: it is a hello that does not say that sender and neighbour hear each other.
pub(super) fn says_deaf(pdu: &[u8]) -> bool {
    let kind = pdu.get(TYPE_AT).map(|t| t & 0x1f);
    let start = pdu.get(HEADER_LEN_AT).map_or(0, |len| usize::from(*len));
    kind == Some(POINT_TO_POINT_HELLO) && option(pdu.get(start..).unwrap_or_default(), THREE_WAY) != Some(UP)
}

/// The first byte of an option: they follow each other, each with its code and its length in front.
fn option(mut options: &[u8], wanted: u8) -> Option<u8> {
    while let [code, len, rest @ ..] = options {
        if *code == wanted && *len > 0 {
            return rest.first().copied();
        }
        options = rest.get(usize::from(*len)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::Ipv4Repr;

    const NEAR: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);

    /// A hello of isisd, with this state of the adjacency.
    fn hello(state: u8) -> Vec<u8> {
        let mut pdu = vec![0x83, 20, 1, 0, 17, 1, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 10, 0, 42, 0];
        pdu.extend([129, 1, 204, 1, 4, 3, 0x49, 0, 1, 240, 5, state, 0, 0, 0, 0, 132, 4, 10, 128, 0, 0]);
        pdu
    }

    fn packet(src: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        Ipv4Repr { ttl: 1, ..Ipv4Repr::new(src, NEAR, protocol, 0) }.with_payload(payload)
    }

    #[test]
    fn a_pdu_keeps_its_bytes_there_and_back() {
        let pdu = hello(2);
        let framed = [&INFO[..], &pdu].concat();
        let sent = of_tun(&framed).unwrap();
        assert_eq!(sent, pdu);
        let mut packet = packet(FAR, IP_PROTOCOL, sent);
        assert_eq!(of_ip(&mut packet, FAR).unwrap(), framed);
    }

    #[test]
    fn padding_behind_the_packet_is_not_the_pdu() {
        let mut packet = packet(FAR, IP_PROTOCOL, &hello(2));
        packet.extend([0; 9]);
        assert_eq!(of_ip(&mut packet, FAR).unwrap().len(), INFO.len() + hello(2).len());
    }

    #[test]
    fn what_is_no_pdu_of_the_peer_is_not_passed_on() {
        let pdu = hello(0);
        for (mut packet, why) in [
            (packet(NEAR, IP_PROTOCOL, &pdu), "another source"),
            (packet(FAR, 89, &pdu), "another protocol"),
            (packet(FAR, IP_PROTOCOL, b""), "empty"),
            (packet(FAR, IP_PROTOCOL, &[0x45; 20]), "no IS-IS"),
            (
                Ipv4Repr { more_fragments: true, ..Ipv4Repr::new(FAR, NEAR, IP_PROTOCOL, 0) }
                    .with_payload(&pdu),
                "a fragment",
            ),
        ] {
            assert_eq!(of_ip(&mut packet, FAR), None, "{why}");
        }
        assert_eq!(of_tun(&[&[0, 0, 0x86, 0xdd], &pdu[..]].concat()), None, "IPv6");
        assert_eq!(of_tun(&[&[0, 1, 0, 0xfe], &pdu[..]].concat()), None, "cut short");
    }

    #[test]
    fn a_hello_tells_whether_its_sender_hears() {
        assert!(!says_deaf(&hello(0)));
        assert!(says_deaf(&hello(1)));
        assert!(says_deaf(&hello(2)));
        assert!(says_deaf(&hello(0)[..29]), "without the option");
        let mut link_state = hello(2);
        link_state[TYPE_AT] = 20;
        assert!(!says_deaf(&link_state));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = of_tun(&bytes);
            let _ = says_deaf(&bytes);
            let _ = of_ip(&mut bytes, FAR);
        }
    }
}
