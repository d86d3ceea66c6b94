//! Chains of nodes at every layer, without I/O: what one forwarder sends is given to the next by hand.

use ipnet::Ipv4Net;
use proptest::prelude::*;

mod protected;
mod strands;

use super::*;
use crate::fastpath::config;
use crate::fastpath::fib::{Action, NextHop, Route};
use crate::fastpath::frame::MAX_PACKET;
use crate::packet;

/// Level 0 is the base; node `j` of level `k` is placed on node `at[k - 1][j]` of level `k - 1`; neighbours in
/// each level above the base are linked. All links have MTU 1500.
struct Chain {
    at: Vec<Vec<usize>>,
    config: Config,
    forwarder: Forwarder,
}

fn base_addr(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, u8::try_from(node).unwrap())
}

/// Of node `j` of a level above the base.
fn host_addr(level: usize, j: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, u8::try_from(level).unwrap(), 0, u8::try_from(j).unwrap())
}

/// Link address of the end at node `j` of the link from `left` to `left + 1`.
fn link_addr(level: usize, left: usize, j: usize) -> Ipv4Addr {
    let end = u8::try_from(2 * left + j - left).unwrap();
    Ipv4Addr::new(172, 16, u8::try_from(level).unwrap(), end)
}

fn pair(src: Ipv4Addr, dst: Ipv4Addr) -> Pair {
    Pair { src, dst }
}

impl Chain {
    fn new(base: usize, at: &[&[usize]]) -> Self {
        let at: Vec<Vec<usize>> = at.iter().map(|l| l.to_vec()).collect();
        let mut config = Config::default();
        for node in 0..base {
            let (name, netns) = (format!("n{node}"), format!("b.n{node}"));
            config.nodes.push(config::BaseNode { name, netns, addr: base_addr(node) });
        }
        let mut chain = Self { at, forwarder: Forwarder::new(&config), config };
        for level in 1..=chain.at.len() {
            for j in 0..chain.at[level - 1].len() {
                let (name, netns) = (format!("{level}/{j}"), String::new());
                let node = chain.base_of(level, j);
                chain.config.partitions.push(config::Partition { name, netns, node, refuses: Vec::new() });
            }
        }
        for level in 1..=chain.at.len() {
            for left in 0..chain.at[level - 1].len() - 1 {
                chain.add_end(level, left, left, left + 1);
                chain.add_end(level, left, left + 1, left);
            }
        }
        chain.start();
        chain
    }

    /// Makes the forwarder anew, all devices up and all routes there.
    fn start(&mut self) {
        self.forwarder = Forwarder::new(&self.config);
        (0..self.config.interfaces.len())
            .for_each(|i| self.forwarder.set_device(i, Device { up: true, mtu: 1500 }));
        (1..=self.at.len()).for_each(|level| self.set_routes(level));
    }

    fn base_of(&self, level: usize, j: usize) -> usize {
        if level == 0 { j } else { self.base_of(level - 1, self.at[level - 1][j]) }
    }

    fn partition(&self, level: usize, j: usize) -> usize {
        self.at[..level - 1].iter().map(Vec::len).sum::<usize>() + j
    }

    /// The interface of node `j` to its neighbour `to`.
    fn interface(&self, level: usize, j: usize, to: usize) -> usize {
        let partition = self.partition(level, j);
        let local = link_addr(level, j.min(to), j);
        self.config.interfaces.iter().position(|i| i.partition == partition && i.local == local).unwrap()
    }

    fn add_end(&mut self, level: usize, left: usize, j: usize, to: usize) {
        let place = |j: usize| self.at[level - 1][j];
        let below = match level {
            1 if place(j) == place(to) => Below::Inside,
            1 => Below::Base { remote: base_addr(place(to)) },
            _ => Below::Partition(self.partition(level - 1, place(j))),
        };
        let (local, remote) = (link_addr(level, left, j), link_addr(level, left, to));
        let (partition, dev) = (self.partition(level, j), format!("{level}-{left}-{j}"));
        self.config.interfaces.push(config::Interface {
            partition,
            dev,
            mtu: 1500,
            local,
            remote,
            below,
            security: None,
            exit: None,
            fragments: None,
            bundle: None,
            impair: Impairment::default(),
        });
    }

    /// Host address, and link addresses of what is stacked on the node.
    fn addresses(&self, level: usize, j: usize) -> Vec<Ipv4Addr> {
        let mut found = vec![host_addr(level, j)];
        for (upper, place) in self.at.get(level).into_iter().flatten().enumerate() {
            if *place == j {
                found.extend(upper.checked_sub(1).map(|left| link_addr(level + 1, left, upper)));
                found.push(link_addr(level + 1, upper, upper));
            }
        }
        found
    }

    fn set_routes(&mut self, level: usize) {
        for j in 0..self.at[level - 1].len() {
            let partition = self.partition(level, j);
            self.forwarder.set_fib(partition, Fib::new(&self.routes(level, j), false));
        }
    }

    fn routes(&self, level: usize, j: usize) -> Vec<Route> {
        let mut routes = Vec::new();
        for other in 0..self.at[level - 1].len() {
            let action = match other.cmp(&j) {
                std::cmp::Ordering::Equal => Action::Local,
                std::cmp::Ordering::Less => self.out(level, j, j.wrapping_sub(1)),
                std::cmp::Ordering::Greater => self.out(level, j, j + 1),
            };
            for addr in self.addresses(level, other) {
                let (prefix, local_table) = (Ipv4Net::from(addr), other == j);
                routes.push(Route { prefix, local_table, priority: 0, action: action.clone() });
            }
        }
        routes
    }

    fn out(&self, level: usize, j: usize, to: usize) -> Action {
        Action::Unicast(vec![NextHop { interface: Some(self.interface(level, j, to)), weight: 1 }])
    }

    fn top(&self) -> (usize, usize) {
        (self.at.len(), self.at.last().unwrap().len() - 1)
    }

    /// From the TUN of the first node of the top level until it leaves the engine; what was sent on the way.
    fn walk(&mut self, packet: &[u8]) -> (Vec<Vec<u8>>, Outcome, Vec<u8>) {
        let mut frame = Frame::new();
        frame.copy_from(packet);
        let mut input = Input::Tun(self.interface(self.top().0, 0, 1));
        let mut sent = Vec::new();
        loop {
            let outcome = self.forwarder.handle(input, &mut frame, 0);
            let Outcome::Send { node, to } = outcome else {
                return (sent, outcome, frame.packet().to_vec());
            };
            assert_ne!(base_addr(node), to);
            sent.push(frame.packet().to_vec());
            let next = self.config.nodes.iter().position(|n| n.addr == to).unwrap();
            frame.copy_from(sent.last().unwrap());
            input = Input::Base(next);
        }
    }

    fn give(&mut self, input: Input, bytes: &[u8]) -> (Outcome, Vec<u8>) {
        let mut frame = Frame::new();
        frame.copy_from(bytes);
        let outcome = self.forwarder.handle(input, &mut frame, 0);
        (outcome, frame.packet().to_vec())
    }
}

impl Chain {
    /// As [`Chain::walk`], with a clock: what is held waits. When it ended, and the interfaces that held it.
    fn travel(&mut self, packet: &[u8]) -> (Outcome, Nanos, Vec<usize>) {
        let mut frame = Frame::new();
        frame.copy_from(packet);
        let (mut input, mut now, mut held) = (Input::Tun(self.interface(self.top().0, 0, 1)), 0, Vec::new());
        loop {
            input = match self.forwarder.handle(input, &mut frame, now) {
                Outcome::Hold { interface, until } => {
                    now = until;
                    held.push(interface);
                    Input::Held(interface)
                }
                Outcome::Send { to, .. } => {
                    let bytes = frame.packet().to_vec();
                    frame.copy_from(&bytes);
                    Input::Base(self.config.nodes.iter().position(|n| n.addr == to).unwrap())
                }
                end @ (Outcome::Deliver(_)
                | Outcome::Punt(_)
                | Outcome::Cut(_)
                | Outcome::Taken
                | Outcome::TooBig { .. }
                | Outcome::Drop(_)) => return (end, now, held),
            };
        }
    }
}

/// A VI of three nodes on three base nodes.
fn line() -> Chain {
    Chain::new(3, &[&[0, 1, 2]])
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    Ipv4Repr { id: 0x1234, ..Ipv4Repr::new(src, dst, ipv4::UDP, 0) }.with_payload(b"payload!")
}

fn first_to_last(chain: &Chain) -> Vec<u8> {
    let (level, last) = chain.top();
    udp(host_addr(level, 0), host_addr(level, last))
}

fn edited(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

/// The same with the checksum of the header at `at` made right.
fn fixed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at + 10..at + 12].fill(0);
    let sum = packet::checksum::checksum(0, &bytes[at..at + 20]).to_be_bytes();
    bytes[at + 10..at + 12].copy_from_slice(&sum);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> =
        bytes.chunks(4).map(|w| w.iter().map(|b| format!("{b:02x}")).collect()).collect();
    words.join(" ")
}

#[test]
fn golden_depth_1() {
    let (sent, _, _) = line().walk(&first_to_last(&line()));
    assert_eq!(
        hex(&sent[0]),
        "45000044 00024000 400424b6 0aff0000 0aff0001 \
         45000030 00014000 4004e0a7 ac100100 ac100101 \
         4500001c 12340000 4011549a 0a010000 0a010002 7061796c 6f616421"
    );
}

/// What routing protocols send (RFC 5771, section 4): for the node at the other end of the link, and nobody beyond.
#[test]
fn link_local_multicast_ends_at_the_neighbour_whatever_its_routes() {
    let mut chain = line();
    let everything = Route {
        prefix: Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0),
        local_table: false,
        priority: 0,
        action: chain.out(1, 1, 2),
    };
    let routes = [chain.routes(1, 1), vec![everything]].concat();
    let middle = chain.partition(1, 1);
    chain.forwarder.set_fib(middle, Fib::new(&routes, false));
    for ttl in [1, 64] {
        let all_ospf_routers = udp(host_addr(1, 0), Ipv4Addr::new(224, 0, 0, 5));
        let hello = fixed(edited(all_ospf_routers, 8, ttl), 0);
        let (sent, outcome, arrived) = chain.walk(&hello);
        assert_eq!((sent.len(), outcome), (1, Outcome::Punt(chain.interface(1, 1, 0))));
        assert_eq!(arrived, hello, "its TTL too");
    }
}

#[test]
fn golden_depth_2() {
    let mut chain = Chain::new(2, &[&[0, 1], &[0, 1]]);
    let (sent, outcome, inner) = chain.walk(&first_to_last(&chain));
    assert_eq!(
        hex(&sent[0]),
        "45000058 00034000 400424a1 0aff0000 0aff0001 \
         45000044 00024000 4004e092 ac100100 ac100101 \
         45000030 00014000 4004dea7 ac100200 ac100201 \
         4500001c 12340000 40115499 0a020000 0a020001 7061796c 6f616421"
    );
    assert_eq!(outcome, Outcome::Deliver(chain.interface(2, 1, 0)));
    assert_eq!(inner, first_to_last(&chain));
}

#[test]
fn every_hop_decrements_once() {
    let (sent, outcome, inner) = line().walk(&first_to_last(&line()));
    assert_eq!(sent.len(), 2);
    assert_eq!(outcome, Outcome::Deliver(line().interface(1, 2, 1)));
    let before = Ipv4Repr::parse(&first_to_last(&line())).unwrap();
    assert_eq!(Ipv4Repr::parse(&inner), Ok(Ipv4Repr { ttl: before.ttl - 1, ..before }));
}

#[test]
fn depths() {
    for depth in [1, 3, 8, 64] {
        let levels: Vec<&[usize]> = vec![&[0, 1, 2]; depth];
        let mut chain = Chain::new(3, &levels);
        let (sent, outcome, _) = chain.walk(&first_to_last(&chain));
        assert_eq!(outcome, Outcome::Deliver(chain.interface(depth, 2, 1)));
        assert_eq!(packet::stack(&sent[0]).len(), depth + 2);
        assert_eq!(sent.len(), 2);
    }
}

#[test]
fn layers_in_a_circle_are_refused() {
    let mut chain = Chain::new(2, &[&[0, 1], &[0, 1]]);
    let (lower, upper) = (chain.interface(1, 0, 1), chain.partition(2, 0));
    chain.config.interfaces[lower].below = Below::Partition(upper);
    chain.start();
    let everywhere =
        Route { prefix: Ipv4Net::default(), local_table: false, priority: 0, action: chain.out(2, 0, 1) };
    chain.forwarder.set_fib(upper, Fib::new(&[everywhere], false));
    for device in 0..chain.config.interfaces.len() {
        chain.forwarder.set_device(device, Device { up: true, mtu: MAX_PACKET });
    }
    let (_, outcome, _) = chain.walk(&first_to_last(&chain));
    assert_eq!(outcome, Outcome::Drop(Reason::TooDeep));
}

#[test]
fn headers_are_added_up_to_the_largest_packet_of_ipv4() {
    let room = MAX_PACKET - 2 * ipv4::HEADER_LEN;
    for (len, passes) in [(room, true), (room + 1, false)] {
        let mut chain = line();
        let payload = vec![0; len - ipv4::HEADER_LEN];
        let packet = Ipv4Repr::new(host_addr(1, 0), host_addr(1, 1), ipv4::UDP, 0).with_payload(&payload);
        let expected =
            if passes { Outcome::Deliver(chain.interface(1, 1, 0)) } else { Outcome::Drop(Reason::TooBig) };
        assert_eq!(chain.walk(&packet).1, expected, "{len} bytes");
    }
}

#[test]
fn a_link_inside_a_base_node_and_one_inside_a_partition() {
    let mut inside = Chain::new(1, &[&[0, 0, 0]]);
    let (sent, outcome, inner) = inside.walk(&first_to_last(&inside));
    assert_eq!((sent.len(), outcome), (0, Outcome::Deliver(inside.interface(1, 2, 1))));
    assert_eq!(Ipv4Repr::parse(&inner).unwrap().ttl, 63);
    let mut stacked = Chain::new(2, &[&[0, 1], &[0, 0, 1, 1, 0]]);
    let (sent, outcome, inner) = stacked.walk(&first_to_last(&stacked));
    assert_eq!((sent.len(), outcome), (2, Outcome::Deliver(stacked.interface(2, 4, 3))));
    assert_eq!(Ipv4Repr::parse(&inner).unwrap().ttl, 61);
}

/// Paper, Figure 11: one VI visits base node 1 three times.
#[test]
fn revisitation() {
    let mut chain = Chain::new(3, &[&[0, 1, 2, 1, 2, 1]]);
    let (sent, outcome, inner) = chain.walk(&first_to_last(&chain));
    assert_eq!(outcome, Outcome::Deliver(chain.interface(1, 5, 4)));
    assert_eq!(Ipv4Repr::parse(&inner).unwrap().ttl, 60);
    let base: Vec<_> = sent.iter().map(|b| packet::stack(b)[0]).map(|h| (h.src, h.dst)).collect();
    let hop = |a, b| (base_addr(a), base_addr(b));
    assert_eq!(base, [hop(0, 1), hop(1, 2), hop(2, 1), hop(1, 2), hop(2, 1)]);
    let links: BTreeSet<_> = sent.iter().map(|b| packet::stack(b)[1]).map(|h| (h.src, h.dst)).collect();
    assert_eq!(links.len(), 5);
}

/// What arrives on the second node of [`line`] from the first, base header outermost.
fn arriving(net: &[u8]) -> Vec<u8> {
    let link = (link_addr(1, 0, 0), link_addr(1, 0, 1));
    packet::nest(&[(base_addr(0), base_addr(1)), link], net, 9)
}

#[test]
fn drops_have_reasons() {
    let net = first_to_last(&line());
    let good = arriving(&net);
    let base = (base_addr(0), base_addr(1));
    let nest = |headers: &[(Ipv4Addr, Ipv4Addr)]| packet::nest(headers, &net, 9);
    let (near, far) = (link_addr(1, 0, 0), link_addr(1, 0, 1));
    let unknown = Ipv4Addr::new(9, 9, 9, 9);
    let from_wrong = (base_addr(2), base_addr(1));
    let ce = |inner: Vec<u8>, at: usize| fixed(edited(inner, at + 1, 3), at);
    let cases = [
        (Reason::StrongHost, nest(&[from_wrong, (near, far)])),
        (Reason::StrongHost, nest(&[from_wrong, (unknown, far)])),
        (Reason::NoTunnel, nest(&[(unknown, base_addr(1)), (near, far)])),
        (Reason::NoTunnel, nest(&[(base_addr(0), unknown), (near, far)])),
        (Reason::NoLink, nest(&[base, (unknown, far)])),
        (Reason::NoLink, nest(&[base, (near, unknown)])),
        (Reason::NotIpip, nest(&[base])),
        (Reason::NotIpip, fixed(edited(good.clone(), 29, 1), 20)),
        (Reason::NotIpip, fixed(edited(good.clone(), 9, 41), 0)),
        (Reason::NotIpv4, edited(good.clone(), 0, 0x60)),
        (Reason::NotIpv4, edited(good.clone(), 20, 0x60)),
        (Reason::NotIpv4, edited(good.clone(), 40, 0x60)),
        (Reason::Truncated, good[..10].to_vec()),
        (Reason::Truncated, good[..good.len() - 1].to_vec()),
        (Reason::Truncated, fixed(edited(good.clone(), 23, 0xff), 20)),
        (Reason::BadLength, edited(good.clone(), 20, 0x42)),
        (Reason::BadLength, edited(good.clone(), 43, 10)),
        (Reason::BadChecksum, edited(good.clone(), 8, 1)),
        (Reason::BadChecksum, edited(good.clone(), 28, 1)),
        (Reason::BadChecksum, edited(good.clone(), 48, 1)),
        (Reason::Fragment, fixed(edited(good.clone(), 6, 0x20), 0)),
        (Reason::Fragment, fixed(edited(good.clone(), 27, 1), 20)),
        (Reason::EcnCe, ce(good.clone(), 0)),
        (Reason::EcnCe, ce(good.clone(), 20)),
        (Reason::Truncated, Vec::new()),
    ];
    for (number, (reason, bytes)) in cases.into_iter().enumerate() {
        let mut chain = line();
        assert_eq!(chain.give(Input::Base(1), &bytes).0, Outcome::Drop(reason), "case {number}");
        assert_eq!(chain.forwarder.counters(1).drops(reason), 1);
        assert_eq!((chain.forwarder.counters(1).read(), chain.forwarder.counters(1).ended()), (1, 1));
    }
    assert!(matches!(line().give(Input::Base(1), &good).0, Outcome::Send { node: 1, .. }));
}

#[test]
fn drops_of_state_have_reasons() {
    let mut chain = line();
    let (a, b) = (chain.interface(1, 0, 1), chain.interface(1, 1, 0));
    let net = first_to_last(&chain);
    chain.forwarder.set_device(b, Device { up: false, mtu: 1500 });
    assert_eq!(chain.give(Input::Base(1), &arriving(&net)).0, Outcome::Drop(Reason::LinkDown));
    assert_eq!(chain.give(Input::Tun(a), b"\x60 no IPv4 packet").0, Outcome::Drop(Reason::NotIpv4));
    let huge = Ipv4Repr::new(base_addr(0), base_addr(1), 17, 0).with_payload(&[0; 65_510]);
    assert_eq!(chain.give(Input::Tun(a), &huge).0, Outcome::Drop(Reason::TooBig));

    let mut stacked = Chain::new(2, &[&[0, 1], &[0, 1]]);
    let (upper, lower) = (stacked.interface(2, 0, 1), stacked.interface(1, 0, 1));
    let net = first_to_last(&stacked);
    stacked.forwarder.set_device(lower, Device { up: true, mtu: net.len() + 19 });
    assert_eq!(stacked.give(Input::Tun(upper), &net).0, Outcome::Drop(Reason::TooBig));
    stacked.forwarder.set_device(lower, Device { up: false, mtu: 1500 });
    assert_eq!(stacked.give(Input::Tun(upper), &net).0, Outcome::Drop(Reason::LinkDown));
    stacked.forwarder.set_fib(0, Fib::default());
    assert_eq!(stacked.give(Input::Tun(upper), &net).0, Outcome::Drop(Reason::NoRoute));
}

#[test]
fn without_the_strong_host_rule_any_tunnel_of_the_node_will_do() {
    let mut chain = line();
    let link = (link_addr(1, 0, 0), link_addr(1, 0, 1));
    let bytes = packet::nest(&[(base_addr(2), base_addr(1)), link], &first_to_last(&chain), 9);
    assert!(chain.forwarder.accepted(1).is_some_and(|accepted| !accepted.is_empty()));
    chain.forwarder.set_strong_host(1, false);
    assert_eq!(chain.forwarder.accepted(1), None);
    assert!(matches!(chain.give(Input::Base(1), &bytes).0, Outcome::Send { node: 1, .. }));
    chain.forwarder.set_strong_host(1, true);
    assert_eq!(chain.give(Input::Base(1), &bytes).0, Outcome::Drop(Reason::StrongHost));
}

#[test]
fn inside_links_are_not_reached_through_a_tunnel() {
    let mut chain = Chain::new(2, &[&[0, 0, 1]]);
    let link = (link_addr(1, 0, 0), link_addr(1, 0, 1));
    let bytes = packet::nest(&[(base_addr(1), base_addr(0)), link], &first_to_last(&chain), 9);
    assert_eq!(chain.give(Input::Base(0), &bytes).0, Outcome::Drop(Reason::StrongHost));
    chain.forwarder.set_strong_host(0, false);
    assert_eq!(chain.give(Input::Base(0), &bytes).0, Outcome::Drop(Reason::NoLink));
}

/// What the kernel must answer or knows better arrives unchanged at the interface it came in through.
#[test]
fn rare_packets_are_punted() {
    let chain = line();
    let (a, c) = (host_addr(1, 0), host_addr(1, 2));
    let net = first_to_last(&chain);
    let with_option = {
        let mut bytes = net.clone();
        bytes.splice(20..20, [1, 1, 1, 0]);
        bytes[0] = 0x46;
        bytes[3] += 4;
        bytes[10..12].fill(0);
        let sum = packet::checksum::checksum(0, &bytes[..24]).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
        bytes
    };
    let big = Ipv4Repr::new(a, c, 17, 0).with_payload(&[0; 1481]);
    let cases = [
        fixed(edited(net.clone(), 8, 1), 0),
        fixed(edited(net.clone(), 8, 0), 0),
        with_option,
        big,
        udp(a, Ipv4Addr::new(224, 0, 0, 5)),
        udp(a, Ipv4Addr::BROADCAST),
        udp(Ipv4Addr::new(224, 0, 0, 5), c),
        udp(Ipv4Addr::LOCALHOST, c),
        udp(host_addr(1, 1), c),
        udp(a, Ipv4Addr::new(8, 8, 8, 8)),
        udp(c, a),
    ];
    for (number, bytes) in cases.iter().enumerate() {
        let mut chain = line();
        let punted = Outcome::Punt(chain.interface(1, 1, 0));
        assert_eq!(chain.give(Input::Base(1), &arriving(bytes)), (punted, bytes.clone()), "case {number}");
    }
    let mut chain = line();
    let routes = chain.routes(1, 1);
    chain.forwarder.set_fib(1, Fib::new(&routes, true));
    let punted = Outcome::Punt(chain.interface(1, 1, 0));
    assert_eq!(chain.give(Input::Base(1), &arriving(&net)).0, punted);
}

/// RFC 6040, section 4, as Linux has it, through two headers at once.
#[test]
fn ecn_goes_down_and_comes_up() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    for (inner, outer) in [(NotEct, NotEct), (Ect1, Ect1), (Ect0, Ect0), (Ce, Ect0)] {
        let mut chain = line();
        let net = fixed(edited(first_to_last(&chain), 1, 0xb8 | inner.bits()), 0);
        let (sent, _, last) = chain.walk(&net);
        let tos: Vec<u8> = packet::stack(&sent[0]).iter().map(|h| h.tos).collect();
        assert_eq!(tos, [outer.bits(), outer.bits(), 0xb8 | inner.bits()]);
        assert_eq!(last[1], 0xb8 | inner.bits());
    }
    let mut chain = line();
    let net = fixed(edited(first_to_last(&chain), 1, 2), 0);
    let marked = fixed(edited(arriving(&net), 1, 3), 0);
    let (outcome, bytes) = chain.give(Input::Base(1), &marked);
    assert!(matches!(outcome, Outcome::Send { .. }));
    assert_eq!(packet::stack(&bytes).iter().map(|h| h.tos).collect::<Vec<_>>(), [2, 2, 3]);
    for at in [0, 20, 40] {
        assert!(Ipv4Repr::parse(&bytes[at..]).is_ok());
    }
}

#[test]
fn padding_is_cut_and_ids_are_never_zero() {
    let mut chain = line();
    let mut padded = arriving(&first_to_last(&chain));
    padded.extend_from_slice(&[0; 6]);
    let (_, bytes) = chain.give(Input::Base(1), &padded);
    assert_eq!(bytes.len(), padded.len() - 6);
    chain.forwarder.id = u16::MAX - 1;
    let (_, bytes) = chain.give(Input::Base(1), &padded);
    let ids: Vec<u16> = packet::stack(&bytes).iter().map(|h| h.id).collect();
    assert_eq!(ids[..2], [1, u16::MAX]);
}

#[test]
fn pairs_are_of_the_arriving_packet() {
    let chain = line();
    let b = chain.interface(1, 1, 0);
    let node = &chain.forwarder.nodes[1];
    assert_eq!(node.links.get(&pair(link_addr(1, 0, 0), link_addr(1, 0, 1))), Some(&b));
}

/// Base nodes, and for each level up to 4 where its nodes are placed.
fn topology() -> impl Strategy<Value = (usize, Vec<Vec<usize>>)> {
    let levels = proptest::collection::vec(proptest::collection::vec(any::<usize>(), 2..6), 1..5);
    (1usize..5, levels).prop_map(|(base, mut levels)| {
        let mut below = base;
        for level in &mut levels {
            level.iter_mut().for_each(|at| *at %= below);
            below = level.len();
        }
        (base, levels)
    })
}

proptest! {
    #[test]
    fn the_last_node_receives_what_the_first_sent((base, levels) in topology(), tos: u8, ttl in 8u8..) {
        let levels: Vec<&[usize]> = levels.iter().map(Vec::as_slice).collect();
        let mut chain = Chain::new(base, &levels);
        let (level, last) = chain.top();
        let repr = Ipv4Repr { tos, ttl, id: 7, ..Ipv4Repr::new(host_addr(level, 0), host_addr(level, last), 17, 0) };
        let packet = repr.with_payload(b"unchanged");
        let (_, outcome, received) = chain.walk(&packet);
        prop_assert_eq!(outcome, Outcome::Deliver(chain.interface(level, last, last - 1)));
        let hops = u8::try_from(last - 1).unwrap();
        prop_assert_eq!(received, Ipv4Repr { ttl: ttl - hops, ..repr }.with_payload(b"unchanged"));
    }

    #[test]
    fn arbitrary_bytes_are_counted(bytes in proptest::collection::vec(any::<u8>(), 0..120), tun: bool) {
        check_counted(&bytes, if tun { Input::Tun(1) } else { Input::Base(1) });
    }

    /// Nearly right: a packet with a few bytes changed, checksums made right again or not.
    #[test]
    fn mutated_packets_are_counted(
        edits in proptest::collection::vec((0usize..68, any::<u8>()), 0..5), fix: [bool; 3], cut in 0usize..80,
    ) {
        let mut bytes = arriving(&first_to_last(&line()));
        for (at, value) in edits {
            bytes = edited(bytes, at, value);
        }
        for (layer, fix) in fix.into_iter().enumerate() {
            bytes = if fix { fixed(bytes, 20 * layer) } else { bytes };
        }
        bytes.truncate(cut);
        check_counted(&bytes, Input::Base(1));
    }
}

fn check_counted(bytes: &[u8], input: Input) {
    let mut chain = line();
    let (outcome, after) = chain.give(input, bytes);
    let counters = chain.forwarder.counters(1);
    let dropped = u64::from(matches!(outcome, Outcome::Drop(_)));
    assert_eq!((counters.read(), counters.ended()), (1, dropped));
    if matches!(outcome, Outcome::Send { .. }) {
        assert!(Ipv4Repr::parse(&after).is_ok());
    }
}

/// A VI of two nodes on the ends of one of three.
fn stacked() -> Chain {
    Chain::new(3, &[&[0, 1, 2], &[0, 2]])
}

fn delay(delay_us: u64) -> Impairment {
    Impairment { delay_us, ..Impairment::default() }
}

#[test]
fn impairments_of_all_layers_add_up_where_a_packet_passes() {
    let mut chain = stacked();
    let (level, last) = chain.top();
    let upper = chain.interface(level, 0, 1);
    let lower = chain.interface(1, 0, 1);
    chain.forwarder.set_impairment(upper, delay(3_000));
    chain.forwarder.set_impairment(lower, delay(20_000));
    let (outcome, now, held) = chain.travel(&first_to_last(&chain));
    assert_eq!(outcome, Outcome::Deliver(chain.interface(level, last, last - 1)));
    assert_eq!((now, held), (23_000_000, vec![upper, lower]));
    assert_eq!(chain.forwarder.counters(0).counts(Count::Shaped), 2);
    // The way back is another direction.
    let back = chain.interface(level, 1, 0);
    assert!(chain.forwarder.interfaces[back].shaper.is_none());
}

#[test]
fn an_impaired_link_inside_a_base_node_holds_too() {
    let mut chain = Chain::new(1, &[&[0, 0]]);
    let first = chain.interface(1, 0, 1);
    chain.forwarder.set_impairment(first, delay(1_000));
    let (outcome, now, held) = chain.travel(&first_to_last(&chain));
    assert_eq!((outcome, now, held), (Outcome::Deliver(chain.interface(1, 1, 0)), 1_000_000, vec![first]));
}

#[test]
fn rate_counts_the_bytes_of_the_packet_on_that_link() {
    let mut chain = line();
    let packet = first_to_last(&chain);
    chain.forwarder.set_impairment(0, Impairment { rate_bps: Some(8_000), ..Impairment::default() });
    let (_, now, _) = chain.travel(&packet);
    assert_eq!(now, packet.len() as u64 * 1_000_000);
}

#[test]
fn what_an_impairment_loses_is_counted() {
    let mut chain = line();
    chain.forwarder.set_impairment(0, Impairment { loss_ppm: 1_000_000, ..Impairment::default() });
    let (outcome, _, _) = chain.travel(&first_to_last(&chain));
    assert_eq!(outcome, Outcome::Drop(Reason::ImpairedLoss));
    assert_eq!(chain.forwarder.counters(0).drops(Reason::ImpairedLoss), 1);
    chain.forwarder.set_impairment(0, Impairment::default());
    let (outcome, now, held) = chain.travel(&first_to_last(&chain));
    assert!(matches!(outcome, Outcome::Deliver(_)));
    assert_eq!((now, held), (0, Vec::new()));
}

#[test]
fn a_link_that_goes_down_loses_what_it_holds() {
    let mut chain = line();
    chain.forwarder.set_impairment(0, delay(1_000));
    let packet = first_to_last(&chain);
    let (outcome, held) = chain.give(Input::Tun(0), &packet);
    assert_eq!(outcome, Outcome::Hold { interface: 0, until: 1_000_000 });
    chain.forwarder.set_device(0, Device { up: false, mtu: 1500 });
    assert_eq!(chain.give(Input::Held(0), &held).0, Outcome::Drop(Reason::LinkDown));
}
