//! Header stacks that are not in the plan of a lab, by the thousand: none is delivered to any partition, and each is
//! counted, on every dataplane of the machine.
//!
//! A stack is in the plan if its base header has the ends of a base tunnel, its link header is that of a virtual link
//! which uses this tunnel, well-formed and no fragment, and so on for each VI stacked above. What follows then is a
//! packet of that VI, which its partition may deliver, forward or refuse like any router. Everything drawn here is wrong
//! in one of these places.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vilab::lab::{Namespaces, Running};
use vilab::model::{BASE, Carrier, End, Lab, Link, NodeId};
use vilab::observe::{self, Context};
use vilab::packet::{IcmpRepr, checksum};
use vilab::routing::Rib;
use vilab::sys::packet_socket::{Capture, IcmpSocket, Ipv4Socket};

/// `line` visits Y three times and has a link that stays on it; `upper` and `top` are stacked. W has a tunnel to Y only.
const LAB: &str = "
name: isolation
base:
  links:
    - W -- X -- Y -- Z -- W
vis:
  line:
    nodes:
      A: X
      B: {at: Y, role: router}
      C: {at: Z, role: router}
      D: {at: Y, role: router}
      E: {at: Z, role: router}
      F: Y
      G: Y
    links:
      - A -- B -- C -- D -- E -- F -- G
  star:
    nodes: {hub: {at: Y, role: both}, w: W, x: X, z: Z}
    links:
      - hub -- {w x z}
  upper:
    over: line
    nodes: {p: A, q: F, r: D}
    links:
      - p -- q -- r
  top:
    over: upper
    nodes: {s: p, t: q}
    links:
      - s -- t
";

const STACKS: usize = 1000;
const DEADLINE: Duration = Duration::from_secs(30);
const IPIP: u8 = 4;
const ICMP: u8 = 1;
/// Counters of packets that were dropped, on either dataplane.
const DROPS: [&str; 11] = [
    "strong-host",
    "no-tunnel",
    "no-link",
    "not-ipip",
    "not-ipv4",
    "truncated",
    "bad-length",
    "bad-checksum",
    "bad-header",
    "fragment",
    "esp-unexpected",
];
/// ICMP payload that nothing else sends.
const MARK: &[u8] = b"not in the plan";

type Pair = (Ipv4Addr, Ipv4Addr);

/// What is wrong with a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// No base tunnel leads here from the base source.
    BaseSource,
    /// The base destination is an address of the node, but not a tunnel's.
    BaseDestination,
    /// The right link pair through the base tunnel of another link.
    WrongTunnel,
    /// Both ends of another link, which does not end here.
    OtherLink,
    /// The near end of this link, the far end of another: another visit, or another VI.
    OtherVisit,
    /// The link destination is any other address: of a network, of the base, of nobody.
    LinkDestination,
    /// No protocol 4 under the link header.
    Protocol,
    Fragment,
    /// Cut off somewhere in the link header or the network header.
    Truncated,
    /// A link header that is none.
    Malformed,
    /// The base header twice, or a link header too many outside the right one.
    ExtraHeader,
    /// The network header right under the base header.
    NoLinkHeader,
    /// All right up to a link address of a stacked VI, which is not reached from this source.
    Stacked,
    /// A network header that is none.
    NetworkHeader,
}

const FAULTS: [Fault; 14] = [
    Fault::BaseSource,
    Fault::BaseDestination,
    Fault::WrongTunnel,
    Fault::OtherLink,
    Fault::OtherVisit,
    Fault::LinkDestination,
    Fault::Protocol,
    Fault::Fragment,
    Fault::Truncated,
    Fault::Malformed,
    Fault::ExtraHeader,
    Fault::NoLinkHeader,
    Fault::Stacked,
    Fault::NetworkHeader,
];

/// A packet to inject.
#[derive(Debug)]
struct Stack {
    fault: Fault,
    /// A neighbour of the base node it is for.
    at: NodeId,
    bytes: Vec<u8>,
    /// What a partition's device may show before its IP refuses it: under the kernel, tunnels of stacked links and
    /// malformed network headers are refused there and not before.
    shown: Option<Vec<u8>>,
}

/// xorshift64*: the same stacks every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }

    /// A unicast address of 10/8 or 172.16/12.
    fn address(&mut self) -> Ipv4Addr {
        let (b, c, d) = (self.byte(), self.byte(), self.byte());
        if self.below(2) == 0 { Ipv4Addr::new(10, b, c, d) } else { Ipv4Addr::new(172, 16 | b >> 4, c, d) }
    }
}

fn header((src, dst): Pair, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a short packet").to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 7, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    seal(&mut packet);
    packet.extend(payload);
    packet
}

/// Puts the checksum into a header of 20 bytes.
fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum::checksum(0, &packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn echo(pair: Pair, number: usize) -> Vec<u8> {
    let seq = u16::try_from(number).expect("few packets");
    let message = IcmpRepr::EchoRequest { ident: 0x4242, seq, data: MARK }.emit();
    header(pair, ICMP, &message)
}

/// An end of a virtual link over the base, as packets come in.
#[derive(Debug, Clone)]
struct Entry {
    base: Pair,
    link: Pair,
    net: Pair,
    near: NodeId,
    /// The base node it is on.
    at: NodeId,
}

/// What is in the plan.
struct Plan<'a> {
    lab: &'a Lab,
    entries: Vec<Entry>,
    tunnels: BTreeSet<Pair>,
    planned: BTreeSet<(Pair, Pair)>,
}

impl<'a> Plan<'a> {
    fn of(lab: &'a Lab) -> Self {
        let first = lab.networks.iter().filter(|n| n.over == Some(BASE)).flat_map(|n| &n.links);
        let entries: Vec<Entry> = first
            .filter(|l| l.carrier == Some(Carrier::Tunnel))
            .flat_map(|link| [0, 1].map(|side| entry(lab, link, side)))
            .collect();
        let tunnels = entries.iter().map(|e| e.base).collect();
        let planned = entries.iter().map(|e| (e.base, e.link)).collect();
        Self { lab, entries, tunnels, planned }
    }

    fn entry(&self, random: &mut Random) -> Entry {
        random.pick(&self.entries).clone()
    }

    /// All addresses of the lab, of every layer, but those of base node `but`.
    fn addresses(&self, but: NodeId) -> Vec<Ipv4Addr> {
        let links = self.lab.networks.iter().flat_map(|n| &n.links).flat_map(|l| &l.ends);
        let nodes = self.lab.nodes().filter(|n| n.id != but).flat_map(|n| self.lab.addresses(n.id));
        links.filter_map(|e| e.link_addr).chain(nodes).collect()
    }

    fn host(&self, base: NodeId) -> Ipv4Addr {
        self.lab.node(base).host.expect("a loopback address")
    }

    /// A stack with this fault; `None` if the draw came out as one of the plan, or as one that this fault is not about.
    fn draw(&self, fault: Fault, number: usize, random: &mut Random) -> Option<Stack> {
        let entry = self.entry(random);
        let inner = echo(entry.net, number);
        let whole = |base: Pair, link: Pair, inner: &[u8]| header(base, IPIP, &header(link, IPIP, inner));
        let mut shown = None;
        let bytes = match fault {
            Fault::BaseSource => {
                let others = self.addresses(entry.at);
                let src = if random.below(4) == 0 { random.address() } else { *random.pick(&others) };
                let base = (src, entry.base.1);
                let own = self.lab.addresses(entry.at).any(|a| a == src);
                (!self.tunnels.contains(&base) && !own).then(|| whole(base, entry.link, &inner))?
            }
            Fault::BaseDestination => {
                let wires: Vec<Ipv4Addr> =
                    self.lab.addresses(entry.at).filter(|a| *a != entry.base.1).collect();
                whole((entry.base.0, *random.pick(&wires)), entry.link, &inner)
            }
            Fault::WrongTunnel => {
                let here: Vec<Pair> = self
                    .tunnels
                    .iter()
                    .copied()
                    .filter(|t| t.1 == entry.base.1 && *t != entry.base)
                    .collect();
                (!here.is_empty()).then(|| whole(*random.pick(&here), entry.link, &inner))?
            }
            Fault::OtherLink => {
                let other = self.entry(random);
                (other.at != entry.at).then(|| whole(entry.base, other.link, &inner))?
            }
            Fault::OtherVisit => {
                let other = self.entry(random);
                let link = (if random.below(2) == 0 { other.link.0 } else { other.link.1 }, entry.link.1);
                self.unplanned(entry.base, link).then(|| whole(entry.base, link, &inner))?
            }
            Fault::LinkDestination => {
                let all = self.addresses(entry.at);
                let dst = if random.below(4) == 0 { random.address() } else { *random.pick(&all) };
                let own = self.entries.iter().any(|e| e.at == entry.at && e.link.1 == dst);
                (!own).then(|| whole(entry.base, (entry.link.0, dst), &inner))?
            }
            Fault::Protocol => {
                let protocol = *random.pick(&[ICMP, 2, 6, 17, 41, 47, 50, 89, 132, 253]);
                let payload = if protocol == ICMP { &inner[20..] } else { &inner };
                header(entry.base, IPIP, &header(entry.link, protocol, payload))
            }
            Fault::Fragment => {
                let mut link = header(entry.link, IPIP, &inner);
                let bits = [0x2000, 0x2000 | random.below(0x2000), 1 + random.below(0x1fff)];
                let bits = u16::try_from(*random.pick(&bits)).expect("16 bits");
                link[6..8].copy_from_slice(&bits.to_be_bytes());
                seal(&mut link);
                header(entry.base, IPIP, &link)
            }
            Fault::Truncated => self.truncated(&entry, &inner, random),
            Fault::Malformed => header(entry.base, IPIP, &spoil(header(entry.link, IPIP, &inner), random)),
            Fault::ExtraHeader => {
                let right = header(entry.link, IPIP, &inner);
                let extra = match random.below(3) {
                    0 => entry.base,
                    1 => (self.host(random.pick(&self.lab.base().nodes).id), entry.base.1),
                    _ => self.entry(random).link,
                };
                self.unplanned(entry.base, extra).then(|| whole(entry.base, extra, &right))?
            }
            Fault::NoLinkHeader => header(entry.base, IPIP, &inner),
            Fault::Stacked => {
                let packet = self.stacked(&entry, number, random)?;
                let bytes = whole(entry.base, entry.link, &packet);
                shown = Some(packet);
                bytes
            }
            Fault::NetworkHeader => {
                let spoilt = spoil(inner, random);
                let bytes = whole(entry.base, entry.link, &spoilt);
                shown = Some(spoilt);
                bytes
            }
        };
        let ends = &self.lab.node(entry.at).ends;
        let at = self.lab.peer(*random.pick(ends)).node;
        Some(Stack { fault, at, bytes, shown })
    }

    fn unplanned(&self, base: Pair, link: Pair) -> bool {
        !self.planned.contains(&(base, link))
    }

    fn truncated(&self, entry: &Entry, inner: &[u8], random: &mut Random) -> Vec<u8> {
        let link = header(entry.link, IPIP, inner);
        match random.below(3) {
            0 => header(entry.base, IPIP, &link[..random.below(20)]),
            1 => header(entry.base, IPIP, &link[..20 + random.below(link.len() - 20)]),
            _ => header(entry.base, IPIP, &header(entry.link, IPIP, &inner[..random.below(20)])),
        }
    }

    /// A packet of the VI of `entry` to a link address of a VI stacked on that node, or above through a right link of
    /// that VI, from a source that is not the link's other end.
    fn stacked(&self, entry: &Entry, number: usize, random: &mut Random) -> Option<Vec<u8>> {
        let (mut node, mut outer) = (entry.near, Vec::new());
        loop {
            let above = self.arrivals(node);
            let right = (!above.is_empty()).then(|| *random.pick(&above))?;
            let (far, near) = right;
            let pair = (far.link_addr.expect("stacked"), near.link_addr.expect("stacked"));
            let higher = !self.arrivals(near.node).is_empty() && random.below(2) == 0;
            if higher {
                outer.push(pair);
                node = near.node;
                continue;
            }
            let others = self.addresses(entry.at);
            let src = if random.below(4) == 0 { random.address() } else { *random.pick(&others) };
            let own = self.lab.addresses(node).any(|a| a == src);
            if src == pair.0
                || own
                || above.iter().any(|(f, n)| n.link_addr == Some(pair.1) && f.link_addr == Some(src))
            {
                return None;
            }
            let net = (self.lab.address(far.node)?, self.lab.address(near.node)?);
            let wrong = header((src, pair.1), IPIP, &echo(net, number));
            return Some(outer.iter().rev().fold(wrong, |packet, pair| header(*pair, IPIP, &packet)));
        }
    }

    /// The ends of stacked links on `node`: far end, near end.
    fn arrivals(&self, node: NodeId) -> Vec<(&'a End, &'a End)> {
        let links = self.lab.networks.iter().filter(|n| n.over == Some(node.net)).flat_map(|n| &n.links);
        let ends = links.flat_map(|l| [(&l.ends[0], &l.ends[1]), (&l.ends[1], &l.ends[0])]);
        ends.filter(|(_, near)| self.lab.node(near.node).at == Some(node)).collect()
    }
}

fn entry(lab: &Lab, link: &Link, side: usize) -> Entry {
    let (near, far) = (&link.ends[side], &link.ends[1 - side]);
    let base = |node: NodeId| lab.node(lab.node(node).base).host.expect("a loopback address");
    let link = (far.link_addr.expect("of a VI"), near.link_addr.expect("of a VI"));
    Entry {
        base: (base(far.node), base(near.node)),
        link,
        net: (far.addr, near.addr),
        near: near.node,
        at: lab.node(near.node).base,
    }
}

/// Makes the header at the front one that no router takes (RFC 1812, 5.2.2).
fn spoil(mut packet: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(5) {
        0 => packet[0] = 0x65,
        1 => packet[0] = 0x44,
        2 => packet[2..4].copy_from_slice(&[0, 19]),
        3 => {
            let length = u16::try_from(packet.len() + 1 + random.below(1000)).expect("short").to_be_bytes();
            packet[2..4].copy_from_slice(&length);
        }
        _ => {
            seal(&mut packet);
            let at = 10 + random.below(2);
            packet[at] ^= 1 << random.below(8);
            return packet;
        }
    }
    seal(&mut packet);
    packet
}

fn draw_all(plan: &Plan<'_>) -> Vec<Stack> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut stacks = Vec::new();
    while stacks.len() < STACKS {
        let fault = *random.pick(&FAULTS);
        let stack = (0..STACKS).find_map(|_| plan.draw(fault, stacks.len(), &mut random));
        stacks.push(stack.unwrap_or_else(|| panic!("no stack with {fault:?} can be drawn")));
    }
    stacks
}

/// Sockets in every partition: what is delivered, and what its devices show.
struct Ears {
    partitions: Vec<(NodeId, IcmpSocket, Capture)>,
}

impl Ears {
    fn open(lab: &Lab, namespaces: &Namespaces) -> Self {
        let of = |id: NodeId| {
            let ns = &lab.node(id).netns;
            let open = || (IcmpSocket::open(&[8]), Capture::open());
            let (icmp, capture) = namespaces.run(ns, open).expect("the namespace");
            (id, icmp.expect("an ICMP socket"), capture.expect("a capture"))
        };
        let partitions = lab.networks[1..].iter().flat_map(|n| &n.nodes).map(|n| of(n.id)).collect();
        Self { partitions }
    }

    /// Echo requests delivered so far, and packets received that are none of `shown`.
    fn heard(&self, shown: &BTreeSet<Vec<u8>>) -> Vec<(NodeId, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let mut heard = Vec::new();
        for (node, icmp, capture) in &self.partitions {
            while let Some(packet) = icmp.recv(&mut buffer).expect("the socket works") {
                heard.push((*node, packet.to_vec()));
            }
            while let Some(frame) = capture.recv(&mut buffer).expect("the capture works") {
                let received = !frame.outgoing && frame.protocol == 0x0800;
                let known = shown.iter().any(|s| s == frame.bytes || inside(s, frame.bytes));
                if received && !known {
                    heard.push((*node, frame.bytes.to_vec()));
                }
            }
        }
        heard
    }
}

/// Whether `packet` is what is left of `whole` when headers of 20 bytes are taken off.
fn inside(whole: &[u8], packet: &[u8]) -> bool {
    whole.len() > packet.len() && (whole.len() - packet.len()).is_multiple_of(20) && whole.ends_with(packet)
}

struct Bed<'a> {
    running: &'a Running,
    rib: Rib,
    namespaces: Namespaces,
}

impl Bed<'_> {
    /// Packets dropped so far, by counter.
    fn drops(&self) -> BTreeMap<String, u64> {
        let state = self.running.state();
        let context = Context {
            lab: &state.lab,
            rib: &self.rib,
            namespaces: &self.namespaces,
            dataplanes: &state.dataplanes,
            netem: state.netem,
            fastpath_control: self.running.fastpath_control(),
            strands_control: None,
        };
        let mut sums = BTreeMap::new();
        for (name, count) in observe::counters(&context).expect("counters").into_values().flatten() {
            if DROPS.contains(&name.as_str()) {
                *sums.entry(name).or_default() += count;
            }
        }
        sums
    }

    fn send(&self, at: NodeId, packet: &[u8]) {
        let dst = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
        let ns = &self.running.state().lab.node(at).netns;
        let sent = self.namespaces.run(ns, || Ipv4Socket::open()?.send(dst, packet)).expect("the namespace");
        sent.unwrap_or_else(|e| panic!("{ns} cannot send to {dst}: {e}"));
    }

    /// Waits until `count` more packets are counted than `drops` says, and brings it up to date; the difference by
    /// counter.
    fn counted(&self, drops: &mut BTreeMap<String, u64>, count: u64) -> BTreeMap<String, u64> {
        let end = Instant::now() + DEADLINE;
        loop {
            let after = self.drops();
            let since = |name: &String, n: &u64| n - drops.get(name).copied().unwrap_or(0);
            let more: BTreeMap<String, u64> = after
                .iter()
                .map(|(name, n)| (name.clone(), since(name, n)))
                .filter(|(_, n)| *n > 0)
                .collect();
            if more.values().sum::<u64>() >= count || Instant::now() > end {
                *drops = after;
                return more;
            }
        }
    }
}

/// The partitions' kernels stop soliciting routers, which a virtual link does not carry and would count.
fn silence_ipv6(lab: &Lab, namespaces: &Namespaces) {
    let switch = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    if !std::path::Path::new(switch).exists() {
        return;
    }
    for node in lab.networks[1..].iter().flat_map(|n| &n.nodes) {
        let written = namespaces.run(&node.netns, || std::fs::write(switch, "1")).expect("the namespace");
        written.expect("the switch is there");
    }
}

fn wait_for(socket: &IcmpSocket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(5000u16)).expect("poll");
}

/// Stacks of the plan do arrive, so that silence means something.
fn planned_stacks_arrive(plan: &Plan<'_>, bed: &Bed<'_>) {
    let mut random = Random(1);
    let mut buffer = vec![0; 65_536];
    for (number, entry) in plan.entries.iter().enumerate() {
        let ears = bed
            .namespaces
            .run(&plan.lab.node(entry.near).netns, || IcmpSocket::open(&[8]))
            .expect("the namespace")
            .expect("a socket");
        let at = plan.lab.peer(*random.pick(&plan.lab.node(entry.at).ends)).node;
        let inner = echo(entry.net, number);
        bed.send(at, &header(entry.base, IPIP, &header(entry.link, IPIP, &inner)));
        wait_for(&ears);
        let heard = ears.recv(&mut buffer).expect("the socket works");
        assert_eq!(heard.map(<[u8]>::to_vec), Some(inner), "{entry:?}");
    }
}

#[test]
fn no_stack_outside_the_plan_is_delivered_and_each_is_counted() {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("isolation-{dataplane}"), LAB, dataplane);
        let running = up.running();
        let lab = &running.state().lab;
        let bed = Bed { running: &running, rib: Rib::compute(lab), namespaces: running.namespaces() };
        let plan = Plan::of(lab);
        silence_ipv6(lab, &bed.namespaces);
        planned_stacks_arrive(&plan, &bed);
        let stacks = draw_all(&plan);
        let ears = Ears::open(lab, &bed.namespaces);
        let shown: BTreeSet<Vec<u8>> = stacks.iter().filter_map(|s| s.shown.clone()).collect();
        let start = bed.drops();
        let mut drops = start.clone();
        for fault in FAULTS {
            let of_fault: Vec<&Stack> = stacks.iter().filter(|s| s.fault == fault).collect();
            assert!(of_fault.len() > STACKS / FAULTS.len() / 3, "{fault:?}: {} stacks", of_fault.len());
            of_fault.iter().for_each(|stack| bed.send(stack.at, &stack.bytes));
            let count = u64::try_from(of_fault.len()).expect("a count");
            let counted = bed.counted(&mut drops, count);
            println!("{dataplane}: {fault:?}: {count} stacks, counted as {counted:?}");
            assert_eq!(counted.values().sum::<u64>(), count, "{dataplane}: {fault:?}: {counted:?}");
        }
        let all = bed.drops().values().sum::<u64>() - start.values().sum::<u64>();
        assert_eq!(all, STACKS as u64, "{dataplane}: all counted, each once");
        assert_eq!(ears.heard(&shown), [], "{dataplane}: packets in partitions");
        planned_stacks_arrive(&plan, &bed);
    }
}
