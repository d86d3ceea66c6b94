//! A link over several VIs at once, between two base nodes: which way packets take, and what probes do.

use super::*;
use crate::fastpath::config::Associations;
use crate::fastpath::health::{PATIENCE, TOO_MANY, WINDOW};
use crate::fastpath::spread::StrandState;
use crate::model::Spread;
use crate::packet::esp::{Association, Key, Suite};

/// Base nodes 0 and 1, VIs of one link each between them, and a VI of one link over all of these. Partition `2 * vi + node`
/// is that of a VI on a base node, and so is the interface; the VI above comes last.
struct Bed {
    config: Config,
    forwarder: Forwarder,
    /// VIs that lose what node 0 sends.
    broken: Vec<usize>,
}

const A: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 0);
const B: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

fn octet(n: usize) -> u8 {
    u8::try_from(n).unwrap()
}

/// Of the link of an underlay.
fn below(vi: usize, node: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, octet(vi), octet(node))
}

/// Of a strand, in the network layer of the underlay.
fn strand(vi: usize, node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, octet(vi), 1, octet(node))
}

fn associations(node: usize, seed: u8) -> Associations {
    let of = |sender: usize| Association {
        spi: 0x8000_0000 + u32::try_from(sender).unwrap(),
        suite: Suite::Aes128Gcm,
        key: Key::new([seed + octet(sender); Key::LEN]),
    };
    Associations { outward: of(node), inward: of(1 - node) }
}

impl Bed {
    fn new(spread: Spread, weights: &[u32], protected: bool) -> Self {
        let mut config = Config::default();
        for node in 0..2 {
            let (name, netns) = (format!("n{node}"), format!("b.n{node}"));
            config.nodes.push(config::BaseNode { name, netns, addr: base_addr(node) });
        }
        for vi in 0..=weights.len() {
            for node in 0..2 {
                let name = format!("{vi}/{node}");
                config.partitions.push(config::Partition {
                    netns: name.clone(),
                    name,
                    node,
                    refuses: Vec::new(),
                });
                let plain = config::Interface {
                    partition: 2 * vi + node,
                    dev: format!("v{vi}"),
                    mtu: 1460,
                    local: below(vi, node),
                    remote: below(vi, 1 - node),
                    below: Below::Base { remote: base_addr(1 - node) },
                    security: None,
                    exit: None,
                    fragments: None,
                    bundle: None,
                    impair: Impairment::default(),
                };
                let strand = |(vi, weight): (usize, &u32)| config::Strand {
                    underlay: format!("in{vi}"),
                    weight: *weight,
                    partition: 2 * vi + node,
                    local: strand(vi, node),
                    remote: strand(vi, 1 - node),
                    security: protected.then(|| associations(node, 2 * octet(vi))),
                };
                let strands = weights.iter().enumerate().map(strand).collect();
                let ends = if node == 0 { (A, B) } else { (B, A) };
                config.interfaces.push(match vi == weights.len() {
                    false => plain,
                    true => config::Interface {
                        local: ends.0,
                        remote: ends.1,
                        below: Below::Strands,
                        bundle: Some(config::Bundle { spread, strands }),
                        ..plain
                    },
                });
            }
        }
        let mut bed = Self { forwarder: Forwarder::new(&config), config, broken: Vec::new() };
        bed.begin();
        bed
    }

    /// All devices up, all routes there.
    fn begin(&mut self) {
        for partition in 0..self.config.partitions.len() {
            let (vi, node) = (partition / 2, partition % 2);
            self.forwarder.set_device(partition, Device { up: true, mtu: 1460 });
            let addrs = |node: usize| match vi == self.top() / 2 {
                true => [A, B][node],
                false => strand(vi, node),
            };
            let hop = NextHop { interface: Some(partition), weight: 1 };
            let route = |to: usize, action| Route {
                prefix: Ipv4Net::from(addrs(to)),
                local_table: to == node,
                priority: 0,
                action,
            };
            let routes = [route(node, Action::Local), route(1 - node, Action::Unicast(vec![hop]))];
            self.forwarder.set_fib(partition, Fib::new(&routes, false));
        }
    }

    /// The interface of the VI above on node 0.
    fn top(&self) -> usize {
        self.config.interfaces.len() - 2
    }

    /// Carries a packet, and the copies made of it, to the end; the ends, and the underlays that what node 0 sent took.
    fn carry(&mut self, input: Input, bytes: &[u8]) -> (Vec<(Outcome, Vec<u8>)>, Vec<usize>) {
        let (mut ends, mut ways) = (Vec::new(), Vec::new());
        let mut open = vec![(input, bytes.to_vec())];
        while let Some((input, bytes)) = open.pop() {
            let mut frame = Frame::new();
            frame.copy_from(&bytes);
            let outcome = self.forwarder.handle(input, &mut frame, 0);
            while let Some(made) = self.forwarder.copy() {
                open.insert(0, (Input::Made(made.via), made.bytes.to_vec()));
            }
            // As the engine counts what the kernel took.
            if let Outcome::Deliver(i) = outcome {
                let node = self.forwarder.node_of(i);
                self.forwarder.counters(node).count(Count::Delivered);
            }
            let Outcome::Send { node, .. } = outcome else {
                ends.push((outcome, frame.packet().to_vec()));
                continue;
            };
            self.forwarder.counters(node).count(Count::Sent);
            let vi = usize::from(packet::stack(frame.packet())[1].src.octets()[2]);
            ways.extend((node == 0).then_some(vi));
            if node == 1 || !self.broken.contains(&vi) {
                open.push((Input::Base(1 - node), frame.packet().to_vec()));
            }
        }
        (ends, ways)
    }

    fn send(&mut self, bytes: &[u8]) -> (Vec<(Outcome, Vec<u8>)>, Vec<usize>) {
        self.carry(Input::Tun(self.top()), bytes)
    }

    /// Probes every strand from both ends, so many times.
    fn probe(&mut self, times: u32) {
        for _ in 0..times {
            for made in self.forwarder.probes() {
                for (outcome, _) in self.carry(Input::Made(made.via), &made.bytes).0 {
                    assert_eq!(outcome, Outcome::Taken);
                }
            }
        }
    }

    fn states(&self, node: usize) -> Vec<StrandState> {
        let at = self.top() + node;
        self.forwarder.strands().find(|(i, _)| *i == at).unwrap().1
    }

    fn all_accounted_for(&mut self) {
        for node in 0..2 {
            let counters = self.forwarder.counters(node);
            assert_eq!(counters.read(), counters.ended(), "node {node}: {:?}", counters.by_name());
        }
    }
}

/// Distinct as flows are.
fn numbered(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    Ipv4Repr::new(A, B, ipv4::UDP, 0).with_payload(&[high, low, 0, 53, 0, 8, 0, 0])
}

fn counts(ways: impl IntoIterator<Item = usize>, underlays: usize) -> Vec<usize> {
    let mut counts = vec![0; underlays];
    ways.into_iter().for_each(|way| counts[way] += 1);
    counts
}

#[test]
fn packets_take_turns_and_arrive_as_they_were() {
    for protected in [false, true] {
        let mut bed = Bed::new(Spread::Packet, &[1, 1, 1], protected);
        let mut ways = Vec::new();
        for port in 0..300 {
            let (ends, way) = bed.send(&numbered(port));
            assert_eq!(ends, [(Outcome::Deliver(bed.top() + 1), numbered(port))]);
            ways.extend(way);
        }
        assert_eq!(counts(ways, 3), [100, 100, 100]);
        let received: Vec<u64> = bed.states(1).iter().map(|s| s.received).collect();
        assert_eq!(received, [100, 100, 100]);
        bed.all_accounted_for();
    }
}

#[test]
fn each_strand_has_a_header_of_its_own() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1], false);
    for vi in 0..2 {
        let mut frame = Frame::new();
        frame.copy_from(&numbered(1));
        bed.forwarder.handle(Input::Tun(bed.top()), &mut frame, 0);
        let stack: Vec<_> = packet::stack(frame.packet()).iter().map(|h| (h.src, h.dst)).collect();
        let link = (below(vi, 0), below(vi, 1));
        assert_eq!(stack, [(base_addr(0), base_addr(1)), link, (strand(vi, 0), strand(vi, 1)), (A, B)]);
    }
}

#[test]
fn weights_and_flows() {
    let mut bed = Bed::new(Spread::Packet, &[1, 2, 5], false);
    let ways: Vec<usize> = (0..80).flat_map(|port| bed.send(&numbered(port)).1).collect();
    assert_eq!(counts(ways, 3), [10, 20, 50]);
    let mut bed = Bed::new(Spread::Flow, &[1, 1, 1], false);
    let ways: Vec<usize> = (0..90).flat_map(|port| bed.send(&numbered(port)).1).collect();
    assert!(counts(ways, 3).iter().all(|n| *n > 15));
    let ways: Vec<usize> = (0..9).flat_map(|_| bed.send(&numbered(7)).1).collect();
    assert!(ways.iter().all(|way| *way == ways[0]), "one flow, one way: {ways:?}");
}

#[test]
fn duplicates_take_every_way_and_all_arrive() {
    let mut bed = Bed::new(Spread::Duplicate, &[1, 1, 1], false);
    let (ends, mut ways) = bed.send(&numbered(1));
    ways.sort_unstable();
    assert_eq!(ways, [0, 1, 2]);
    assert_eq!(ends, vec![(Outcome::Deliver(bed.top() + 1), numbered(1)); 3]);
    assert_eq!(bed.forwarder.counters(0).counts(Count::Copied), 2);
    bed.all_accounted_for();
}

#[test]
fn a_strand_that_loses_packets_is_left_out_at_both_ends_until_it_is_well() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1, 1], true);
    bed.probe(WINDOW);
    bed.broken = vec![1];
    let before: usize = (0..300).map(|port| bed.send(&numbered(port)).0.len()).sum();
    assert_eq!(before, 200, "a third is lost before the reaction");
    bed.probe(PATIENCE + TOO_MANY);
    for node in 0..2 {
        let well: Vec<bool> = bed.states(node).iter().map(|s| s.well).collect();
        assert_eq!(well, [true, false, true], "node {node}");
    }
    let after: usize = (0..300).map(|port| bed.send(&numbered(port)).0.len()).sum();
    assert_eq!(after, 300, "nothing is lost after it");
    bed.broken.clear();
    bed.probe(PATIENCE + WINDOW);
    let ways: Vec<usize> = (0..300).flat_map(|port| bed.send(&numbered(port)).1).collect();
    assert_eq!(counts(ways, 3), [100, 100, 100]);
    let state = &bed.states(0)[1];
    assert_eq!((state.sent, state.lost), (200, u64::from(PATIENCE + TOO_MANY)));
    assert!(bed.forwarder.counters(1).counts(Count::Answers) > 0);
}

#[test]
fn probes_are_echo_requests_below_the_same_headers_as_packets() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1], false);
    let probe = bed.forwarder.probes().swap_remove(1);
    let mut frame = Frame::new();
    frame.copy_from(&probe.bytes);
    bed.forwarder.handle(Input::Made(probe.via), &mut frame, 0);
    let stack = packet::stack(frame.packet());
    let pairs: Vec<_> = stack.iter().map(|h| (h.src, h.dst)).collect();
    let link = (below(1, 0), below(1, 1));
    assert_eq!(pairs, [(base_addr(0), base_addr(1)), link, (strand(1, 0), strand(1, 1)), (A, B)]);
    assert_eq!(stack.last().unwrap().protocol, ipv4::ICMP);
    let message = packet::IcmpRepr::parse(&frame.packet()[4 * 20..]).unwrap();
    assert!(matches!(message, packet::IcmpRepr::EchoRequest { seq: 1, .. }), "{message:?}");
}

/// Anyone's ping between the two addresses is for the kernel.
#[test]
fn a_ping_between_the_ends_is_no_probe() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1], false);
    let echo = packet::IcmpRepr::EchoRequest { ident: 7, seq: 1, data: b"vilab strand" }.emit();
    let ping = Ipv4Repr::new(A, B, ipv4::ICMP, 0).with_payload(&echo);
    assert_eq!(bed.send(&ping).0, [(Outcome::Deliver(bed.top() + 1), ping.clone())]);
}

#[test]
fn users_counters_know_nothing_of_probes() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1], false);
    bed.probe(10);
    for (node, state) in
        [0, 1].into_iter().flat_map(|node| bed.states(node).into_iter().map(move |s| (node, s)))
    {
        assert_eq!((state.sent, state.received, state.probes, state.lost), (0, 0, 10, 0), "node {node}");
    }
    let counters = bed.forwarder.counters(0);
    assert_eq!((counters.counts(Count::Probes), counters.counts(Count::Answers)), (20, 20));
    assert_eq!(counters.counts(Count::Delivered), 0);
    bed.all_accounted_for();
}

#[test]
fn a_link_that_is_down_sends_and_takes_nothing() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1], false);
    let top = bed.top();
    bed.forwarder.set_device(top + 1, Device { up: false, mtu: 1460 });
    assert_eq!(bed.send(&numbered(1)).0[0].0, Outcome::Drop(Reason::LinkDown));
    bed.forwarder.set_device(top, Device { up: false, mtu: 1460 });
    assert_eq!(bed.send(&numbered(1)).0[0].0, Outcome::Drop(Reason::LinkDown));
    assert_eq!(bed.forwarder.probes(), []);
}

#[test]
fn strands_inside_one_base_node() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1], true);
    // Both ends of the link stand on the same partitions: what the first node has, with the second's addresses.
    let (first, mut second) = (bed.top(), bed.config.interfaces[bed.top() + 1].clone());
    second.partition = bed.config.interfaces[first].partition;
    second.dev = "back".to_owned();
    for (vi, strand) in second.bundle.as_mut().unwrap().strands.iter_mut().enumerate() {
        strand.partition = 2 * vi;
    }
    bed.config.interfaces[first + 1] = second;
    bed.forwarder = Forwarder::new(&bed.config);
    bed.begin();
    for vi in 0..2 {
        let local = |node| Route {
            prefix: Ipv4Net::from(strand(vi, node)),
            local_table: true,
            priority: 0,
            action: Action::Local,
        };
        bed.forwarder.set_fib(2 * vi, Fib::new(&[local(0), local(1)], false));
    }
    bed.forwarder.set_device(first + 1, Device { up: true, mtu: 1460 });
    for made in bed.forwarder.probes() {
        assert_eq!(bed.carry(Input::Made(made.via), &made.bytes).0[0].0, Outcome::Taken);
    }
    let (_, ways) = bed.send(&numbered(1));
    assert_eq!(ways, [0; 0], "it never leaves the node");
    assert_eq!(bed.states(1).iter().map(|s| s.received).sum::<u64>(), 1);
}

#[test]
fn a_reload_keeps_what_is_known_of_strands_that_stay() {
    let mut bed = Bed::new(Spread::Packet, &[1, 1, 1], true);
    bed.broken = vec![2];
    bed.probe(PATIENCE + TOO_MANY);
    (0..60).for_each(|port| drop(bed.send(&numbered(port))));
    let before = bed.states(0);
    let old = bed.config.clone();
    let top = bed.top();
    for end in &mut bed.config.interfaces[top..] {
        let bundle = end.bundle.as_mut().unwrap();
        bundle.strands.remove(0);
        bundle.strands[0].weight = 3;
    }
    bed.forwarder.reload(&old, &bed.config, &Moves::new(&old, &bed.config));
    let after = bed.states(0);
    assert_eq!(after[0], StrandState { weight: 3, ..before[1].clone() });
    assert_eq!(after[1], before[2]);
    bed.broken.clear();
    bed.probe(PATIENCE + WINDOW);
    // With a key begun anew at one end, the other would take its packets for replays.
    let ways: Vec<usize> = (0..80)
        .flat_map(|port| {
            let (ends, ways) = bed.send(&numbered(port));
            assert!(matches!(ends[0].0, Outcome::Deliver(_)));
            ways
        })
        .collect();
    assert_eq!(counts(ways, 3), [0, 60, 20]);
}
