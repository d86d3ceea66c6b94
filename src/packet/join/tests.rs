use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::packet::{Ipv4Repr, UdpRepr};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn header(id: u16) -> Ipv4Repr {
    Ipv4Repr { id, dont_fragment: true, ..Ipv4Repr::new(A, B, ipv4::UDP, 0) }
}

fn datagram(header: Ipv4Repr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let message = UdpRepr { src_port: ports.0, dst_port: ports.1, data }.emit(header.src, header.dst);
    header.with_payload(&message)
}

/// Datagram `id` of one flow.
fn nth(id: u16, data: &[u8]) -> Vec<u8> {
    datagram(header(id), (1, 2), data)
}

/// The train of a first datagram, after others have been offered; and which of them it took.
fn offer(first: &[u8], others: &[Vec<u8>]) -> (Train, Vec<bool>) {
    let mut train = Train::new(&Datagram::of(first).expect("a datagram"));
    let taken = others.iter().map(|other| Datagram::of(other).is_some_and(|d| train.add(&d))).collect();
    (train, taken)
}

/// What becomes of datagrams that all join the first, joined and cut again.
fn joined_and_cut(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (train, taken) = offer(&packets[0], &packets[1..]);
    assert!(taken.iter().all(|taken| *taken), "{taken:?}");
    let mut whole = packets[0].clone();
    packets[1..].iter().for_each(|packet| whole.extend(&packet[HEADERS..]));
    let segments = train.finish(&mut whole).expect("several");
    assert_eq!(segments.packets(), packets.len());
    let cut = |n| {
        let mut piece = vec![0; 2000];
        let len = segments.cut(&whole, n, &mut piece).expect("a piece");
        piece.truncate(len);
        piece
    };
    (0..packets.len()).map(cut).collect()
}

#[test]
fn cutting_gives_back_what_was_joined() {
    let packets: Vec<_> =
        (0..5).map(|n| nth(0xfffe_u16.wrapping_add(n), &[n.to_le_bytes()[0]; 36])).collect();
    assert_eq!(joined_and_cut(&packets), packets);
    let unequal = [nth(7, b"four"), nth(8, b"five"), nth(9, b"six")];
    assert_eq!(joined_and_cut(&unequal), unequal);
    let fragmentable: Vec<_> =
        (0..3).map(|id| datagram(Ipv4Repr { dont_fragment: false, ..header(id) }, (1, 2), b"data")).collect();
    assert_eq!(joined_and_cut(&fragmentable), fragmentable);
}

#[test]
fn identifications_that_mean_nothing_may_change() {
    let fragmentable = |id| datagram(Ipv4Repr { dont_fragment: false, ..header(id) }, (1, 2), b"data");
    for ids in [[5, 5, 5], [5, 9, 2]] {
        let numbered = [nth(5, b"data"), nth(6, b"data"), nth(7, b"data")];
        assert_eq!(joined_and_cut(&ids.map(|id| nth(id, b"data"))), numbered);
        assert_eq!(offer(&fragmentable(ids[0]), &[fragmentable(ids[1])]).1, [false]);
    }
}

#[test]
fn what_differs_does_not_join() {
    let first = nth(1, b"data");
    let other = |header: Ipv4Repr, ports| vec![datagram(header, ports, b"more")];
    let next = header(2);
    let cases = [
        ("source port", other(next, (9, 2))),
        ("destination port", other(next, (1, 9))),
        ("source", other(Ipv4Repr { src: B, ..next }, (1, 2))),
        ("destination", other(Ipv4Repr { dst: A, ..next }, (1, 2))),
        ("TTL", other(Ipv4Repr { ttl: 63, ..next }, (1, 2))),
        ("TOS", other(Ipv4Repr { tos: 4, ..next }, (1, 2))),
        ("ECN", other(Ipv4Repr { tos: 1, ..next }, (1, 2))),
        ("DF", other(Ipv4Repr { dont_fragment: false, ..next }, (1, 2))),
        ("longer", vec![nth(2, b"longer")]),
    ];
    for (what, others) in cases {
        assert_eq!(offer(&first, &others).1, [false], "{what}");
    }
    let (_, taken) = offer(&first, &[nth(2, b"few"), nth(3, b"few")]);
    assert_eq!(taken, [true, false], "a shorter one is the last");
}

#[test]
fn what_is_no_plain_datagram_does_not_join() {
    let good = nth(1, b"data");
    assert!(Datagram::of(&good).is_some());
    let edited = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        segment::seal(&mut bytes[..20]);
        bytes
    };
    let with_options = {
        let mut bytes = [&good[..20], &[1, 1, 1, 0], &good[20..]].concat();
        (bytes[0], bytes[3]) = (0x46, bytes[3] + 4);
        segment::seal(&mut bytes[..24]);
        bytes
    };
    let mut unsealed = good.clone();
    unsealed[10] ^= 1;
    let mut without_sum = good.clone();
    without_sum[26..28].fill(0);
    let fragment = |more_fragments, fragment_offset| {
        let header = Ipv4Repr { more_fragments, fragment_offset, dont_fragment: false, ..header(1) };
        datagram(header, (1, 2), b"data")
    };
    let cases = [
        ("no data", nth(1, b"")),
        ("a wrong checksum", edited(31, b'x')),
        ("no checksum", without_sum),
        ("a wrong header checksum", unsealed),
        ("options", with_options),
        ("the first fragment", fragment(true, 0)),
        ("a later fragment", fragment(false, 5)),
        ("TCP", edited(9, ipv4::TCP)),
        ("a datagram shorter than its packet", edited(25, 11)),
        ("bytes behind the packet", [&good[..], b"x"].concat()),
        ("cut short", good[..31].to_vec()),
        ("not IPv4", edited(0, 0x65)),
    ];
    for (what, packet) in cases {
        assert!(Datagram::of(&packet).is_none(), "{what}");
    }
}

#[test]
fn trains_are_bounded() {
    let many: Vec<_> = (1..100).map(|id| nth(id, b"data")).collect();
    let taken = offer(&nth(0, b"data"), &many).1;
    assert_eq!(taken.iter().filter(|taken| **taken).count(), MOST - 1);
    let large: Vec<_> = (1..64).map(|id| nth(id, &[0; 1400])).collect();
    let (train, taken) = offer(&nth(0, &[0; 1400]), &large);
    assert_eq!(1 + taken.iter().filter(|taken| **taken).count(), (LARGEST - HEADERS) / 1400);
    assert!(HEADERS + train.data_len <= LARGEST);
}

proptest! {
    #[test]
    fn any_lengths_come_back(size in 1usize..1400, count in 2u16..45, last in 1usize..1400, first_id: u16) {
        let len = |n: u16| if n + 1 == count { last.min(size) } else { size };
        let data = |n: u16| vec![n.to_le_bytes()[0]; len(n)];
        let packets: Vec<_> = (0..count).map(|n| nth(first_id.wrapping_add(n), &data(n))).collect();
        prop_assert_eq!(joined_and_cut(&packets), packets);
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), at in 0usize..40, value: u8) {
        let _any = Datagram::of(&bytes);
        let mut packet = nth(1, b"some data");
        packet[at % 37] = value;
        let (mut train, _) = offer(&nth(0, b"some data"), std::slice::from_ref(&packet));
        let _refused = train.finish(&mut bytes.clone());
        if let Some(datagram) = Datagram::of(&packet) {
            train.add(&datagram);
        }
    }
}
