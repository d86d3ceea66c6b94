//! Which strand of a link over parallel underlays a packet takes (DynaBone). Packets and what became of probes go in;
//! strands come out. It never sees what is below a strand: only whether probes come back.
//!
//! A strand that is not [well](super::health) is left out, and taken again when it is; if none is well, all are used.
//! Probes are ICMP echo requests (RFC 792) between the two network addresses of the link, told from anyone's ping by what
//! they hold. Each end sends its own over each strand, the other end turns them round on the strand they came by.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::Health;
use crate::model::Spread;
use crate::packet::icmp::{self, IcmpRepr};
use crate::packet::{Ipv4Repr, Ipv4View, ipv4};

/// Between two probes of a strand.
pub const PROBE_EVERY: Duration = Duration::from_millis(200);
/// What a probe holds: "vi" and the rest.
pub const IDENT: u16 = 0x7669;
pub const DATA: &[u8] = b"vilab strand";
/// Bytes of a probe.
pub const PROBE_LEN: usize = ipv4::HEADER_LEN + icmp::HEADER_LEN + DATA.len();

/// A strand as `vilab status` shows it. Packets are those of users: probes are counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandState {
    /// The VI it rides on.
    pub underlay: String,
    pub weight: u32,
    pub well: bool,
    pub sent: u64,
    pub received: u64,
    /// Probes sent from here, and those that were not answered.
    pub probes: u64,
    pub lost: u64,
}

/// The strands of one end of a link.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub(super) spread: Spread,
    /// Network addresses of this end and the other.
    near: Ipv4Addr,
    far: Ipv4Addr,
    strands: Vec<Strand>,
}

#[derive(Debug, Clone)]
struct Strand {
    underlay: String,
    weight: u32,
    /// Of the round robin: what it is owed, in packets times the sum of the weights.
    credit: i64,
    health: Health,
    sent: u64,
    received: u64,
}

/// What a packet that came by a strand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    Packet,
    /// A probe of the other end.
    Probe(u16),
    /// The answer to a probe of this end.
    Answer(u16),
}

impl Bundle {
    /// Between the network addresses `near`, of this end, and `far`; over underlays with their weights. All are well.
    #[must_use]
    pub fn new<'a>(
        spread: Spread,
        (near, far): (Ipv4Addr, Ipv4Addr),
        underlays: impl Iterator<Item = (&'a str, u32)>,
    ) -> Self {
        let strand = |(underlay, weight): (&str, u32)| Strand {
            underlay: underlay.to_owned(),
            weight: weight.max(1),
            credit: 0,
            health: Health::default(),
            sent: 0,
            received: 0,
        };
        Self { spread, near, far, strands: underlays.map(strand).collect() }
    }

    /// How each strand is, in their order.
    #[must_use]
    pub fn states(&self) -> Vec<StrandState> {
        let state = |s: &Strand| StrandState {
            underlay: s.underlay.clone(),
            weight: s.weight,
            well: s.health.is_well(),
            sent: s.sent,
            received: s.received,
            probes: s.health.sent(),
            lost: s.health.lost(),
        };
        self.strands.iter().map(state).collect()
    }

    /// Goes on with what is known of the strands of `before` over the same underlays.
    pub fn inherit(&mut self, before: &Self) {
        for strand in &mut self.strands {
            let known = before.strands.iter().find(|s| s.underlay == strand.underlay);
            if let Some(known) = known.filter(|_| (self.near, self.far) == (before.near, before.far)) {
                (strand.health, strand.sent, strand.received) = (known.health, known.sent, known.received);
            }
        }
    }

    /// Strands that packets take.
    fn live(&self) -> impl Iterator<Item = usize> + '_ {
        let all = self.strands.iter().all(|s| !s.health.is_well());
        (0..self.strands.len()).filter(move |i| all || self.strands[*i].health.is_well())
    }

    /// Of each strand, whether packets take it.
    #[must_use]
    pub fn used(&self) -> Vec<bool> {
        (0..self.strands.len()).map(|strand| self.is_live(strand)).collect()
    }

    /// The strands that packets take one after the other where each takes the next one, until it begins anew: in each round
    /// the shares are exact.
    #[must_use]
    pub fn round(&self) -> Vec<usize> {
        let mut fresh = self.clone();
        let shared = self.live().fold(0, |shared, i| gcd(shared, self.strands[i].weight)).max(1);
        for strand in &mut fresh.strands {
            (strand.weight, strand.credit) = (strand.weight / shared, 0);
        }
        let total: u32 = self.live().map(|i| fresh.strands[i].weight).sum();
        (0..total).map(|_| fresh.next()).collect()
    }

    fn is_live(&self, strand: usize) -> bool {
        self.live().any(|live| live == strand)
    }

    /// The strand that this packet takes, the first one of those that duplicates take; it is counted as sent there.
    /// `seed` makes links choose independently.
    pub(super) fn choose(&mut self, packet: &[u8], seed: u64) -> usize {
        let chosen = match self.spread {
            Spread::Flow => self.by_flow(flow(packet, seed)),
            Spread::Packet => self.next(),
            Spread::Duplicate => self.live().next().unwrap_or(0),
        };
        self.strands[chosen].sent += 1;
        chosen
    }

    /// The strands that copies of a packet take which took this one; they are counted as sent there.
    pub(super) fn copies(&mut self, first: usize) -> Vec<usize> {
        let others = self.live().filter(|live| self.spread == Spread::Duplicate && *live != first);
        let others: Vec<usize> = others.collect();
        others.iter().for_each(|strand| self.strands[*strand].sent += 1);
        others
    }

    /// The smooth weighted round robin: of `n` packets in a row over strands that stay well, each strand has its share to
    /// less than one packet for each strand, and no strand has two in a row before its turn.
    fn next(&mut self) -> usize {
        let all = self.strands.iter().all(|s| !s.health.is_well());
        let (mut total, mut best) = (0, None);
        for (i, strand) in self.strands.iter_mut().enumerate().filter(|(_, s)| all || s.health.is_well()) {
            total += i64::from(strand.weight);
            strand.credit += i64::from(strand.weight);
            if best.is_none_or(|(_, most)| strand.credit > most) {
                best = Some((i, strand.credit));
            }
        }
        let best = best.map_or(0, |(i, _)| i);
        self.strands[best].credit -= total;
        best
    }

    /// A strand by its share of the hashes. When one goes, only its flows move, and when it comes back only they return:
    /// a hash that meets a strand that is not used tries again with the next.
    fn by_flow(&self, flow: u64) -> usize {
        let total: u64 = self.strands.iter().map(|s| u64::from(s.weight)).sum();
        let mut hash = mix(flow);
        for _ in 0..64 {
            let strand = self.strand_at(hash % total.max(1));
            if self.is_live(strand) {
                return strand;
            }
            hash = mix(hash);
        }
        self.live().next().unwrap_or(0)
    }

    fn strand_at(&self, mut share: u64) -> usize {
        for (i, strand) in self.strands.iter().enumerate() {
            match share.checked_sub(u64::from(strand.weight)) {
                Some(rest) => share = rest,
                None => return i,
            }
        }
        0
    }

    /// The next probe of a strand, a whole packet of the network with this identification.
    pub fn probe(&mut self, strand: usize, id: u16) -> Vec<u8> {
        let seq = self.change(strand, Health::probe);
        self.emit(&IcmpRepr::EchoRequest { ident: IDENT, seq, data: DATA }, id)
    }

    /// The answer to a probe of the other end.
    #[must_use]
    pub fn answer(&self, seq: u16, id: u16) -> Vec<u8> {
        self.emit(&IcmpRepr::EchoReply { ident: IDENT, seq, data: DATA }, id)
    }

    /// A probe of this end has been answered.
    pub fn heard(&mut self, strand: usize, seq: u16) {
        self.change(strand, |health| health.heard(seq));
    }

    /// What is owed is forgotten when strands come or go.
    fn change<T>(&mut self, strand: usize, change: impl FnOnce(&mut Health) -> T) -> T {
        let before = self.strands[strand].health.is_well();
        let result = change(&mut self.strands[strand].health);
        if before != self.strands[strand].health.is_well() {
            self.strands.iter_mut().for_each(|s| s.credit = 0);
        }
        result
    }

    fn emit(&self, message: &IcmpRepr<'_>, id: u16) -> Vec<u8> {
        let bytes = message.emit();
        Ipv4Repr { id, ..Ipv4Repr::new(self.near, self.far, ipv4::ICMP, bytes.len()) }.with_payload(&bytes)
    }

    /// What came by a strand; packets are counted.
    pub(super) fn arrived(&mut self, strand: usize, packet: &Ipv4View<'_>) -> Arrival {
        let arrival = self.read(packet).unwrap_or(Arrival::Packet);
        self.strands[strand].received += u64::from(arrival == Arrival::Packet);
        arrival
    }

    /// What a packet is; none where it is a user's.
    #[must_use]
    pub fn read(&self, packet: &Ipv4View<'_>) -> Option<Arrival> {
        let ours = packet.protocol() == ipv4::ICMP
            && usize::from(packet.total_len()) == PROBE_LEN
            && (packet.src(), packet.dst()) == (self.far, self.near)
            && !packet.is_fragment();
        match IcmpRepr::parse(packet.payload()).ok().filter(|_| ours)? {
            IcmpRepr::EchoRequest { ident: IDENT, seq, data: DATA } => Some(Arrival::Probe(seq)),
            IcmpRepr::EchoReply { ident: IDENT, seq, data: DATA } => Some(Arrival::Answer(seq)),
            IcmpRepr::EchoRequest { .. }
            | IcmpRepr::EchoReply { .. }
            | IcmpRepr::TimeExceeded { .. }
            | IcmpRepr::DestUnreachable { .. } => None,
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A number that all packets of a flow share: of addresses and protocol, and of ports where they can be seen. Tunnels are
/// looked into, so that the flows in one are told apart. Of a fragment no port counts, as only the first has any.
fn flow(packet: &[u8], seed: u64) -> u64 {
    let mut hash = seed;
    let mut packet = packet;
    while let Ok(view) = Ipv4View::new_checked(packet) {
        let ends = [view.src(), view.dst()].map(|a| u64::from(u32::from(a)));
        hash = mix(hash ^ (ends[0] << 32 | ends[1])) ^ u64::from(view.protocol());
        match view.protocol() {
            ipv4::IPIP if !view.is_fragment() => packet = view.payload(),
            ipv4::TCP | ipv4::UDP if !view.is_fragment() => {
                let ports = view.payload().first_chunk::<4>().copied().unwrap_or_default();
                return hash ^ u64::from(u32::from_be_bytes(ports)) << 8;
            }
            _ => return hash,
        }
    }
    hash
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::health::{PATIENCE, TOO_MANY, WINDOW};
    use super::*;

    const NEAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 0);
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

    fn bundle(spread: Spread, weights: &[u32]) -> Bundle {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("in{i}")).collect();
        let underlays = names.iter().map(String::as_str).zip(weights.iter().copied());
        Bundle::new(spread, (NEAR, FAR), underlays)
    }

    fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        Ipv4Repr::new([10, 9, 0, 1].into(), [10, 9, 0, 2].into(), protocol, 0).with_payload(payload)
    }

    fn ports(src: u16, dst: u16) -> [u8; 8] {
        let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
        [a, b, c, d, 0, 8, 0, 0]
    }

    /// Loses so many probes of a strand that it goes out.
    fn break_strand(bundle: &mut Bundle, strand: usize) {
        (0..PATIENCE + TOO_MANY).for_each(|_| drop(bundle.probe(strand, 1)));
        assert!(!bundle.strands[strand].health.is_well());
    }

    fn mend(bundle: &mut Bundle, strand: usize) {
        for _ in 0..PATIENCE + WINDOW {
            let probe = bundle.probe(strand, 1);
            let seq = u16::from_be_bytes([probe[26], probe[27]]);
            bundle.heard(strand, seq);
        }
    }

    fn send(bundle: &mut Bundle, packet: &[u8]) {
        let first = bundle.choose(packet, 7);
        bundle.copies(first);
    }

    fn sent(bundle: &Bundle) -> Vec<u64> {
        bundle.strands.iter().map(|s| s.sent).collect()
    }

    #[test]
    fn three_hundred_packets_go_a_hundred_each_way() {
        let mut bundle = bundle(Spread::Packet, &[1, 1, 1]);
        let order: Vec<usize> = (0..300).map(|_| bundle.choose(&packet(6, &[]), 0)).collect();
        assert_eq!(sent(&bundle), [100, 100, 100]);
        assert_eq!(order[..6], [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn heavier_strands_take_turns_too() {
        let mut bundle = bundle(Spread::Packet, &[3, 1]);
        let order: Vec<usize> = (0..8).map(|_| bundle.choose(&[], 0)).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    proptest! {
        /// However many packets there are, a strand is never more than a round away from its share.
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u32..20, 2..8), packets in 1u64..500) {
            let mut bundle = bundle(Spread::Packet, &weights);
            (0..packets).for_each(|_| send(&mut bundle, &[]));
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            for (weight, sent) in weights.iter().zip(sent(&bundle)) {
                let due = packets * u64::from(*weight);
                prop_assert!((sent * total).abs_diff(due) <= total * weights.len() as u64);
            }
            prop_assert_eq!(sent(&bundle).iter().sum::<u64>(), packets);
            let whole = (packets / total) * total;
            let mut exact = super::tests::bundle(Spread::Packet, &weights);
            (0..whole).for_each(|_| send(&mut exact, &[]));
            let shares: Vec<u64> = weights.iter().map(|w| whole / total * u64::from(*w)).collect();
            prop_assert_eq!(super::tests::sent(&exact), shares);
        }

        #[test]
        fn a_broken_strand_moves_its_flows_and_no_others(flows in proptest::collection::vec(any::<u64>(), 50)) {
            let mut bundle = bundle(Spread::Flow, &[1, 2, 1]);
            let before: Vec<usize> = flows.iter().map(|f| bundle.by_flow(*f)).collect();
            break_strand(&mut bundle, 1);
            for (flow, was) in flows.iter().zip(&before) {
                let is = bundle.by_flow(*flow);
                prop_assert!(is != 1 && (*was == 1 || is == *was));
            }
            mend(&mut bundle, 1);
            let after: Vec<usize> = flows.iter().map(|f| bundle.by_flow(*f)).collect();
            prop_assert_eq!(before, after);
        }

        #[test]
        fn any_bytes_have_a_flow(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = flow(&bytes, 0);
        }
    }

    #[test]
    fn flows_spread_by_weight() {
        let mut bundle = bundle(Spread::Flow, &[1, 3]);
        (0..4000).for_each(|port| send(&mut bundle, &packet(ipv4::UDP, &ports(port, 53))));
        assert!(sent(&bundle)[0].abs_diff(1000) < 120, "{:?}", sent(&bundle));
    }

    #[test]
    fn a_flow_is_what_can_be_seen_of_it() {
        let same = |a: &[u8], b: &[u8]| flow(a, 1) == flow(b, 1);
        let udp = |src| packet(ipv4::UDP, &ports(src, 53));
        assert!(same(&udp(1), &udp(1)) && !same(&udp(1), &udp(2)));
        assert!(!same(&udp(1), &packet(ipv4::TCP, &ports(1, 53))));
        let inside = |src| packet(ipv4::IPIP, &udp(src));
        assert!(!same(&inside(1), &inside(2)), "the flows of a VI above are told apart");
        let first = |src| {
            let whole = Ipv4Repr::new([10, 9, 0, 1].into(), [10, 9, 0, 2].into(), ipv4::UDP, 8);
            Ipv4Repr { more_fragments: true, dont_fragment: false, ..whole }.with_payload(&ports(src, 53))
        };
        assert!(same(&first(1), &first(2)), "later fragments have no ports");
        assert_ne!(flow(&udp(1), 1), flow(&udp(1), 2), "links choose independently");
    }

    #[test]
    fn packets_leave_a_strand_that_loses_and_come_back() {
        let mut bundle = bundle(Spread::Packet, &[1, 1, 1]);
        break_strand(&mut bundle, 1);
        (0..300).for_each(|_| send(&mut bundle, &[]));
        assert_eq!(sent(&bundle), [150, 0, 150]);
        mend(&mut bundle, 1);
        (0..300).for_each(|_| send(&mut bundle, &[]));
        assert_eq!(sent(&bundle), [250, 100, 250]);
    }

    #[test]
    fn a_round_has_the_shares_of_the_strands_that_are_used() {
        let mut bundle = bundle(Spread::Packet, &[2, 4, 2]);
        assert_eq!(bundle.round(), [1, 0, 2, 1]);
        let _ = bundle.choose(&[], 0);
        assert_eq!(bundle.round(), [1, 0, 2, 1], "whatever is owed");
        break_strand(&mut bundle, 1);
        assert_eq!((bundle.round(), bundle.used()), (vec![0, 2], vec![true, false, true]));
    }

    #[test]
    fn if_none_is_well_all_are_used() {
        for spread in [Spread::Packet, Spread::Flow, Spread::Duplicate] {
            let mut bundle = bundle(spread, &[1, 1]);
            (0..2).for_each(|strand| break_strand(&mut bundle, strand));
            (0..100).for_each(|port| send(&mut bundle, &packet(ipv4::UDP, &ports(port, 1))));
            assert!(sent(&bundle).iter().all(|n| *n > 20), "{spread:?}");
        }
    }

    #[test]
    fn copies_take_the_strands_that_are_well() {
        let mut bundle = bundle(Spread::Duplicate, &[1, 1, 1]);
        assert_eq!((bundle.choose(&[], 0), bundle.copies(0)), (0, vec![1, 2]));
        break_strand(&mut bundle, 0);
        assert_eq!((bundle.choose(&[], 0), bundle.copies(1)), (1, vec![2]));
        assert_eq!(sent(&bundle), [1, 2, 2]);
    }

    #[test]
    fn probes_are_told_from_a_ping() {
        let mut near = bundle(Spread::Packet, &[1]);
        let mut far = Bundle { near: FAR, far: NEAR, ..bundle(Spread::Packet, &[1]) };
        let probe = near.probe(0, 9);
        assert_eq!(far.arrived(0, &Ipv4View::new_checked(&probe).unwrap()), Arrival::Probe(1));
        let answer = far.answer(1, 9);
        assert_eq!(near.arrived(0, &Ipv4View::new_checked(&answer).unwrap()), Arrival::Answer(1));
        let data = [0; DATA.len()];
        let ping = near.emit(&IcmpRepr::EchoRequest { ident: IDENT, seq: 1, data: &data }, 9);
        assert_eq!(far.arrived(0, &Ipv4View::new_checked(&ping).unwrap()), Arrival::Packet);
        let other = near.emit(&IcmpRepr::EchoRequest { ident: 1, seq: 1, data: DATA }, 9);
        assert_eq!(far.arrived(0, &Ipv4View::new_checked(&other).unwrap()), Arrival::Packet);
        assert_eq!((near.strands[0].received, far.strands[0].received), (0, 2));
    }
}
