//! Link packets in fragments (RFC 791, section 2.3; RFC 2003, section 5.1). A packet that is too large goes in and its
//! fragments come out; fragments go in, in any order, and the packet comes out. It knows one link's packets only, and it
//! keeps no more of them than [`MOST`].

use std::collections::BTreeMap;
use std::ops::Range;

use crate::packet::ipv4::HEADER_LEN;
use crate::packet::{Ecn, Ipv4Repr, Ipv4View};
use crate::shape::Nanos;

/// Packets of one link of which some fragments have come, and not yet all.
const MOST: usize = 64;
/// How long the first fragment waits for the others: as Linux has it (`net.ipv4.ipfrag_time`).
const WAIT: Nanos = 30_000_000_000;
/// Fragments begin at multiples of this many bytes.
const UNIT: usize = 8;

/// The parts that a packet of this header and payload is cut into, so that none is larger than `most` bytes: the header
/// of each, and the part of the payload. A fragment is cut into smaller ones. None where not even one unit fits.
pub(super) fn split(
    header: &Ipv4Repr,
    most: usize,
) -> Option<impl Iterator<Item = (Ipv4Repr, Range<usize>)> + use<>> {
    let room = most.checked_sub(HEADER_LEN)? / UNIT * UNIT;
    let (whole, len) = (*header, header.payload_len);
    (room > 0).then(|| {
        (0..len).step_by(room).map(move |start| {
            let end = (start + room).min(len);
            let offset = whole.fragment_offset + u16::try_from(start / UNIT).unwrap_or(u16::MAX);
            let part = Ipv4Repr {
                dont_fragment: false,
                more_fragments: whole.more_fragments || end < len,
                fragment_offset: offset,
                payload_len: end - start,
                ..whole
            };
            (part, start..end)
        })
    })
}

/// A packet of which some fragments have come.
#[derive(Debug)]
struct Partial {
    since: Nanos,
    /// Of the fragment that came first; its ECN is that of all (RFC 3168, section 5.3).
    header: Ipv4Repr,
    payload: Vec<u8>,
    /// What has come, sorted, apart.
    come: Vec<Range<usize>>,
    /// Of the whole payload, once the last fragment has come.
    len: Option<usize>,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for others.
    Kept,
    /// It was the last that missed.
    Whole(Vec<u8>),
    /// It overlaps another, or cannot be: it is dropped, and all of its packet with it.
    Bad,
}

/// Of one link.
#[derive(Debug, Default)]
pub(super) struct Reassembler {
    /// By protocol and identification.
    partial: BTreeMap<(u8, u16), Partial>,
}

impl Reassembler {
    /// A fragment has come. Says with its fate how many packets were given up to make room or because their time was over.
    pub(super) fn add(&mut self, fragment: &Ipv4View<'_>, now: Nanos) -> (Outcome, usize) {
        let given_up = self.expire(now);
        let header = fragment.repr();
        let key = (header.protocol, header.id);
        let given_up = given_up + usize::from(!self.partial.contains_key(&key) && self.evict());
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            since: now,
            header,
            payload: Vec::new(),
            come: Vec::new(),
            len: None,
        });
        let outcome = match partial.take(&header, fragment) {
            Some(true) => partial.whole().map_or(Outcome::Bad, Outcome::Whole),
            Some(false) => return (Outcome::Kept, given_up),
            None => Outcome::Bad,
        };
        self.partial.remove(&key);
        (outcome, given_up)
    }

    fn expire(&mut self, now: Nanos) -> usize {
        let before = self.partial.len();
        self.partial.retain(|_, partial| now.saturating_sub(partial.since) < WAIT);
        before - self.partial.len()
    }

    /// Gives up the oldest where there are too many.
    fn evict(&mut self) -> bool {
        let oldest = self.partial.iter().min_by_key(|(_, partial)| partial.since).map(|(key, _)| *key);
        match oldest.filter(|_| self.partial.len() >= MOST) {
            Some(key) => self.partial.remove(&key).is_some(),
            None => false,
        }
    }
}

impl Partial {
    /// Whether all has come now; none where the fragment does not go with the others.
    fn take(&mut self, header: &Ipv4Repr, fragment: &Ipv4View<'_>) -> Option<bool> {
        let part = fragment.payload();
        let start = usize::from(header.fragment_offset) * UNIT;
        let end = start + part.len();
        let sound = !fragment.has_options()
            && !part.is_empty()
            && end + HEADER_LEN <= usize::from(u16::MAX)
            && (!header.more_fragments || part.len().is_multiple_of(UNIT));
        let last = self.come.last().map_or(0, |range| range.end);
        let fits = match (header.more_fragments, self.len) {
            (true, Some(len)) => end < len,
            (true, None) => true,
            (false, Some(_)) => false,
            (false, None) => last <= start,
        };
        let at = self.come.partition_point(|range| range.start < start);
        let overlaps = at.checked_sub(1).is_some_and(|before| self.come[before].end > start)
            || self.come.get(at).is_some_and(|after| after.start < end);
        if !sound || !fits || overlaps {
            return None;
        }
        self.header.tos = join_ecn(self.header.tos, header.tos)?;
        if !header.more_fragments {
            self.len = Some(end);
        }
        if self.payload.len() < end {
            self.payload.resize(end, 0);
        }
        self.payload[start..end].copy_from_slice(part);
        self.come.insert(at, start..end);
        let come: usize = self.come.iter().map(ExactSizeIterator::len).sum();
        Some(self.len == Some(come))
    }

    fn whole(&self) -> Option<Vec<u8>> {
        let header = Ipv4Repr { more_fragments: false, fragment_offset: 0, ..self.header };
        (self.len == Some(self.payload.len())).then(|| header.with_payload(&self.payload))
    }
}

/// The TOS of a packet whose fragments have these: congestion that any has met, the packet has met; none where some know
/// ECN and another has met congestion that does not (RFC 3168, section 5.3).
fn join_ecn(all: u8, one: u8) -> Option<u8> {
    match (Ecn::of_tos(all), Ecn::of_tos(one)) {
        (Ecn::Ce, Ecn::NotEct) | (Ecn::NotEct, Ecn::Ce) => None,
        (_, Ecn::Ce) => Some(all | Ecn::Ce.bits()),
        _ => Some(all),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const HEADER: Ipv4Repr = Ipv4Repr {
        tos: 2,
        id: 7,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: 4,
        src: Ipv4Addr::new(10, 0, 0, 1),
        dst: Ipv4Addr::new(10, 0, 0, 2),
        payload_len: 0,
    };

    fn packet(id: u16, len: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        Ipv4Repr { id, ..HEADER }.with_payload(&payload)
    }

    fn cut(packet: &[u8], most: usize) -> Vec<Vec<u8>> {
        let view = Ipv4View::new_checked(packet).unwrap();
        let parts = split(&view.repr(), most).unwrap();
        parts.map(|(header, range)| header.with_payload(&view.payload()[range])).collect()
    }

    fn add(reassembler: &mut Reassembler, fragment: &[u8], now: Nanos) -> (Outcome, usize) {
        reassembler.add(&Ipv4View::new_checked(fragment).unwrap(), now)
    }

    proptest! {
        /// Whatever is cut, cut again and mixed up is whole in the end, and not before.
        #[test]
        fn what_is_cut_becomes_whole(
            len in 9_usize..9000,
            (first, second) in (28_usize..1500, 28_usize..1500),
            order in any::<u64>(),
        ) {
            let whole = packet(1, len);
            let mut parts: Vec<Vec<u8>> = cut(&whole, first).iter().flat_map(|p| cut(p, second)).collect();
            prop_assert!(parts.iter().all(|p| p.len() <= first.min(second) || p.len() <= second));
            let mut state = order | 1;
            for i in (1..parts.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                parts.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
            }
            let mut reassembler = Reassembler::default();
            let (last, before) = parts.split_last().unwrap();
            for part in before {
                prop_assert_eq!(add(&mut reassembler, part, 0), (Outcome::Kept, 0));
            }
            prop_assert_eq!(add(&mut reassembler, last, 0), (Outcome::Whole(whole), 0));
            prop_assert!(reassembler.partial.is_empty());
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 20..60), 1..20)) {
            let mut reassembler = Reassembler::default();
            for mut fragment in bytes {
                fragment[0] = 0x45;
                let len = u16::try_from(fragment.len()).unwrap();
                fragment[2..4].copy_from_slice(&len.to_be_bytes());
                add(&mut reassembler, &fragment, 0);
            }
        }
    }

    #[test]
    fn overlaps_end_the_packet() {
        let parts = cut(&packet(1, 100), 60);
        let mut reassembler = Reassembler::default();
        assert_eq!(add(&mut reassembler, &parts[0], 0).0, Outcome::Kept);
        assert_eq!(add(&mut reassembler, &parts[0], 0).0, Outcome::Bad);
        assert!(reassembler.partial.is_empty());
    }

    #[test]
    fn a_fragment_behind_the_last_ends_the_packet() {
        let (short, long) = (cut(&packet(1, 50), 44), cut(&packet(1, 500), 44));
        let mut reassembler = Reassembler::default();
        assert_eq!(add(&mut reassembler, short.last().unwrap(), 0).0, Outcome::Kept);
        assert_eq!(add(&mut reassembler, &long[8], 0).0, Outcome::Bad);
    }

    #[test]
    fn those_that_miss_a_part_are_given_up() {
        let mut reassembler = Reassembler::default();
        for id in 0..u16::try_from(MOST).unwrap() {
            assert_eq!(
                add(&mut reassembler, &cut(&packet(id, 100), 60)[0], u64::from(id)),
                (Outcome::Kept, 0)
            );
        }
        assert_eq!(add(&mut reassembler, &cut(&packet(99, 100), 60)[0], 100), (Outcome::Kept, 1));
        assert!(!reassembler.partial.contains_key(&(4, 0)), "the oldest");
        let (outcome, given_up) = add(&mut reassembler, &cut(&packet(100, 100), 60)[0], WAIT + 200);
        assert_eq!((outcome, given_up), (Outcome::Kept, MOST));
    }

    #[test]
    fn congestion_of_one_is_that_of_all() {
        let parts = cut(&packet(1, 100), 60);
        let mut met = parts[1].clone();
        let header = Ipv4Repr { tos: 3, ..Ipv4View::new_checked(&met).unwrap().repr() };
        header.emit(&mut met);
        let mut reassembler = Reassembler::default();
        add(&mut reassembler, &parts[0], 0);
        add(&mut reassembler, &met, 0);
        let Outcome::Whole(whole) = add(&mut reassembler, &parts[2], 0).0 else { panic!("all have come") };
        assert_eq!(Ipv4View::new_checked(&whole).unwrap().tos(), 3);
    }
}
