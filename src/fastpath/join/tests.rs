use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::packet::{Ipv4Repr, Ipv4View, UdpRepr};

/// What a packet of a row is.
#[derive(Debug, Clone)]
enum Kind {
    /// Of this flow, with so much data.
    Datagram {
        flow: u16,
        len: usize,
    },
    /// The same with its data changed on the way.
    Broken {
        flow: u16,
        len: usize,
    },
    Fragment {
        flow: u16,
    },
    Tcp {
        flow: u16,
    },
}

fn kinds() -> impl Strategy<Value = Kind> {
    let len = prop_oneof![Just(4usize), Just(4), Just(4), 0usize..6];
    let flow = || prop_oneof![0u16..3, 0u16..12];
    prop_oneof![
        9 => (flow(), len).prop_map(|(flow, len)| Kind::Datagram { flow, len }),
        1 => (flow(), 1usize..6).prop_map(|(flow, len)| Kind::Broken { flow, len }),
        1 => flow().prop_map(|flow| Kind::Fragment { flow }),
        1 => flow().prop_map(|flow| Kind::Tcp { flow }),
    ]
}

/// Packet `number` of all. The data of each is its own.
fn packet(kind: &Kind, id: u16, number: usize) -> Vec<u8> {
    let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let data = [number.to_le_bytes()[0]; 8];
    let header = Ipv4Repr { id, dont_fragment: true, ..Ipv4Repr::new(a, b, ipv4::UDP, 0) };
    let of = |flow: u16, len: usize| UdpRepr { src_port: flow, dst_port: 9, data: &data[..len] }.emit(a, b);
    match kind {
        Kind::Datagram { flow, len } => header.with_payload(&of(*flow, *len)),
        Kind::Broken { flow, len } => {
            let mut bytes = header.with_payload(&of(*flow, *len));
            let last = bytes.len() - 1;
            bytes[last] ^= 0x55;
            bytes
        }
        Kind::Fragment { flow } => {
            Ipv4Repr { more_fragments: true, dont_fragment: false, ..header }.with_payload(&of(*flow, 8))
        }
        Kind::Tcp { flow } => {
            let message = [&flow.to_be_bytes()[..], &data, &data, &data].concat();
            Ipv4Repr { protocol: ipv4::TCP, ..header }.with_payload(&message)
        }
    }
}

/// The packets that come out of a row, those that stand for several cut again, and how many frames they were in.
fn joined(packets: &[Vec<u8>], place: impl Fn(usize) -> usize) -> (Vec<Vec<u8>>, usize) {
    let mut frames: Vec<Frame> = packets.iter().map(|_| Frame::new()).collect();
    for (frame, packet) in frames.iter_mut().zip(packets) {
        frame.copy_from(packet);
    }
    let mut joiner = Joiner::default();
    let kept: Vec<usize> =
        (0..packets.len()).filter(|index| !joiner.offer(&mut frames, *index, place(*index))).collect();
    joiner.finish(&mut frames);
    let mut all = Vec::new();
    let mut piece = Frame::new();
    for frame in kept.iter().map(|index| &frames[*index]) {
        if frame.segments().is_none() {
            all.push(frame.packet().to_vec());
            continue;
        }
        for number in 0..usize::try_from(frame.packets()).expect("few") {
            piece.cut_from(frame, number).expect("a piece");
            all.push(piece.packet().to_vec());
        }
    }
    (all, kept.len())
}

/// Packets by what must stay in order: protocol and ports, but all with ports unknown of a kind with it.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<(u8, Vec<u8>), Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        let view = Ipv4View::new_checked(packet).expect("a packet");
        let key = (view.protocol(), view.payload()[..4].to_vec());
        flows.entry(key).or_default().push(packet.clone());
    }
    flows
}

fn plain(flow: u16, id: u16) -> Vec<u8> {
    packet(&Kind::Datagram { flow, len: 4 }, id, usize::from(id))
}

#[test]
fn flows_that_alternate_are_joined_each() {
    let row: Vec<_> = (0..20).map(|n| plain(n % 2, n / 2)).collect();
    let (all, frames) = joined(&row, |_| 0);
    assert_eq!(frames, 2);
    assert_eq!(by_flow(&all), by_flow(&row));
}

#[test]
fn other_places_are_other_rows() {
    let row: Vec<_> = (0..4).map(|n| plain(1, n)).collect();
    assert_eq!(joined(&row, |index| index / 2).1, 2);
}

#[test]
fn nothing_overtakes_a_fragment() {
    let fragment = packet(&Kind::Fragment { flow: 1 }, 2, 2);
    let row = [plain(1, 0), plain(1, 1), fragment, plain(1, 3), plain(1, 4)];
    let (all, frames) = joined(&row, |_| 0);
    assert_eq!((all, frames), (row.to_vec(), 3));
}

#[test]
fn packets_of_other_protocols_part_nothing() {
    let tcp = packet(&Kind::Tcp { flow: 1 }, 2, 2);
    let row = [plain(1, 0), tcp, plain(1, 1)];
    assert_eq!(joined(&row, |_| 0).1, 2);
}

#[test]
fn what_stands_for_several_already_is_left_alone() {
    let mut frames: Vec<Frame> = (0..3).map(|_| Frame::new()).collect();
    for (frame, id) in frames.iter_mut().zip(0..) {
        frame.copy_from(&plain(1, id));
    }
    let mut joiner = Joiner::default();
    let taken: Vec<bool> = (0..2).map(|index| joiner.offer(&mut frames, index, 0)).collect();
    joiner.finish(&mut frames);
    assert_eq!((taken, frames[0].packets()), (vec![false, true], 2));
    let again: Vec<bool> = [0, 2].iter().map(|index| joiner.offer(&mut frames, *index, 0)).collect();
    joiner.finish(&mut frames);
    assert_eq!((again, frames[0].packets()), (vec![false, false], 2));
}

proptest! {
    /// Whatever comes in a row, all of it goes on, and each flow in its order.
    #[test]
    fn all_goes_on_in_order(row in proptest::collection::vec(kinds(), 1..64)) {
        let mut ids: BTreeMap<u16, u16> = BTreeMap::new();
        let mut packets = Vec::new();
        for (number, kind) in row.iter().enumerate() {
            let (Kind::Datagram { flow, .. } | Kind::Broken { flow, .. } | Kind::Fragment { flow } | Kind::Tcp { flow }) = kind;
            let id = ids.entry(*flow).or_default();
            packets.push(packet(kind, *id, number));
            // A TCP socket counts by itself.
            *id += u16::from(!matches!(kind, Kind::Tcp { .. }));
        }
        let (all, frames) = joined(&packets, |_| 0);
        prop_assert_eq!(all.len(), packets.len());
        prop_assert!(frames <= packets.len());
        prop_assert_eq!(by_flow(&all), by_flow(&packets));
    }
}
