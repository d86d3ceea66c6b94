//! What happens to a packet: the semantics of nested Linux ipip devices (RFC 2003) in one pass, whatever the
//! depth. A frame, the time and where it was read go in; the frame, its headers changed in place, and one [`Outcome`] come
//! out. It never does I/O, allocates for probes and copies alone and answers probes of strands alone: what is rare is
//! punted to the kernel of the partition.
//!
//! ```text
//! base node --> [base][link][net] --+                        +--> [base][link][net] --> base node
//!                             take headers off         put headers on
//!                                   |                        |
//!                                arrive at i --(forward)--> transmit through j
//!                                   |                        |
//! TUN of i <-- local, or punted ----+                        +-- read from TUN of j
//! ```
//!
//! Where the layer below an interface is another partition, `transmit` looks the other end up in that partition's
//! routes and transmits through the interface found there, and `arrive` finds the link header addressed to the
//! partition and arrives at the interface above. The kernel sees none of it, so rules of a partition's netfilter
//! and traffic control apply to punted and local packets only.

mod parallel;
mod reload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

pub use reload::Moves;

use super::config::{self, Below, Config};
use super::counters::{Count, Counters, Reason};
use super::fib::{Fib, Lookup};
use super::fragments::{self, Reassembler};
use super::frame::{Frame, MAX_PACKET};
use super::protection::Protection;
use super::spread::Bundle;
use crate::model::{Fragments, Impairment};
use crate::packet::{Ecn, Ipv4Mut, Ipv4Repr, Ipv4View, Malformed, ipv4};
use crate::shape::{Chance, Nanos, Shaper, Verdict};

/// Steps of one packet on one base node before it is dropped; a layer of a stack takes two. Loops in one layer end sooner,
/// by TTL; this bounds layers in a circle, and loops in several layers at once.
const MAX_STEPS: usize = 4096;
/// Where the losses and jitters of an engine start from.
const SEED: u64 = 0x7669_6c61_6220_6670;

/// Where a packet was read. Both are indices of [`Config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// From the TUN of an interface: the kernel of the partition routed it there.
    Tun(usize),
    /// From a base node, base header included.
    Base(usize),
    /// It was held back at this interface, its network header first, and its time has come.
    Held(usize),
    /// It is one of the packets into which one that was to leave by this interface has been cut.
    Cut(usize),
    /// It is a [`Made`] one.
    Made(Via),
    /// It is a [`Made`] one: a fragment of a link packet of this interface, its link header first.
    Piece(Via),
}

/// Where a packet goes. The frame holds what to write there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Out of this base node, to this base address.
    Send { node: usize, to: Ipv4Addr },
    /// To the TUN of this interface: it is for the partition.
    Deliver(usize),
    /// To the TUN of this interface: the partition's kernel must decide.
    Punt(usize),
    /// Nowhere yet: it comes back as [`Input::Held`] at that time.
    Hold { interface: usize, until: Nanos },
    /// Nowhere yet: the packets that it stands for come back one by one as [`Input::Cut`], for what is to be done next is done to
    /// each.
    Cut(usize),
    /// Nowhere: it was the answer to a probe, or it is a fragment that waits for others.
    Taken,
    /// Nowhere, and counted already: it has DF set, and no more than `mtu` bytes go whole through this interface. The
    /// sender should be told (RFC 1191).
    TooBig { interface: usize, mtu: u16 },
    /// Nowhere; it is counted already.
    Drop(Reason),
}

/// A strand, by its place in the forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via(usize);

/// A packet that nobody sent: a probe, a copy, its network header first; or a fragment of a link packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub via: Via,
    pub bytes: Box<[u8]>,
    pub is_piece: bool,
}

impl Made {
    /// What it is to be handled as.
    #[must_use]
    pub fn input(&self) -> Input {
        if self.is_piece { Input::Piece(self.via) } else { Input::Made(self.via) }
    }
}

/// What a packet does next.
enum Step {
    /// It came in through this interface, its network header first.
    Arrive(usize),
    /// It goes out through this interface, its network header first.
    Transmit(usize),
    /// The same, and the interface's impairment has had its say.
    Release(usize),
    /// It goes into the layer below this interface, its link header first.
    Lower(usize),
    Done(Outcome),
}

/// How a link packet leaves its interface.
#[derive(Debug, Clone, Copy)]
enum By {
    /// In a base tunnel to this address.
    Base(Ipv4Addr),
    /// As a packet of the VI below, through this interface.
    Interface(usize),
}

/// State of the device of an interface, as its kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    pub up: bool,
    pub mtu: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    src: Ipv4Addr,
    dst: Ipv4Addr,
}

/// What a base node knows of its links.
#[derive(Debug)]
struct Node {
    addr: Ipv4Addr,
    /// Far ends of the base tunnels.
    tunnels: BTreeSet<Ipv4Addr>,
    /// Those of them that the fast path serves too, which take packets that stand for several.
    fast: BTreeSet<Ipv4Addr>,
    /// Link addresses of the node, each with the base address its packets come from; `None` where they do not come
    /// through a base tunnel.
    link_addrs: BTreeMap<Ipv4Addr, Option<Ipv4Addr>>,
    /// By the (source, destination) of the link header of an arriving packet.
    links: BTreeMap<Pair, usize>,
    strong_host: bool,
    /// Whether the base takes packets that stand for several.
    sends_whole: bool,
    counters: Counters,
}

/// An interface, its config made quick to use.
#[derive(Debug)]
struct Interface {
    node: usize,
    partition: usize,
    local: Ipv4Addr,
    remote: Ipv4Addr,
    below: Below,
    /// The interface by which all leaves that comes in here.
    exit: Option<usize>,
    /// The other end, where it is on the same base node and not through a base tunnel.
    peer: Option<usize>,
    protection: Option<Box<Protection>>,
    /// Where its link packets may be sent in fragments.
    fragments: Option<Fragments>,
    /// Of those that come, with [`Self::fragments`].
    reassembler: Reassembler,
    device: Device,
    /// Where what is sent here is impaired.
    shaper: Option<Shaper>,
    /// Where it has strands.
    bundle: Option<Box<Bundle>>,
    /// Of a strand: the interface that has it, and its place there.
    of: Option<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Partition {
    fib: Fib,
    /// Of its choices among equal routes: it goes by its name, so that none changes with its number.
    seed: usize,
    /// Interfaces stacked on this partition, by the (source, destination) of an arriving link header.
    stacked: BTreeMap<Pair, usize>,
    /// Destinations of tunnel packets that must not pass.
    refuses: BTreeSet<Ipv4Addr>,
}

/// The forwarding state of some base nodes.
#[derive(Debug)]
pub struct Forwarder {
    nodes: Vec<Node>,
    partitions: Vec<Partition>,
    /// Those of the config, then their strands.
    interfaces: Vec<Interface>,
    copies: VecDeque<Made>,
    id: u16,
    chance: Chance,
    /// Of the packet that is handled.
    now: Nanos,
}

impl From<Malformed> for Reason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Truncated => Self::Truncated,
            Malformed::Version | Malformed::Type => Self::NotIpv4,
            Malformed::Length => Self::BadLength,
            Malformed::Checksum => Self::BadChecksum,
        }
    }
}

impl Forwarder {
    /// No routes yet, all devices down, the strong-host rule on.
    ///
    /// # Panics
    /// If an index in `config` is out of range.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut interfaces: Vec<Interface> =
            (0..config.interfaces.len()).map(|i| interface(config, i)).collect();
        parallel::add_strands(config, &mut interfaces);
        let mut partitions: Vec<Partition> = config.partitions.iter().map(Partition::new).collect();
        let mut nodes: Vec<Node> = config.nodes.iter().map(|n| Node::new(n.addr)).collect();
        let fast: BTreeSet<Ipv4Addr> = config.nodes.iter().map(|n| n.addr).collect();
        for (index, this) in interfaces.iter().enumerate() {
            let pair = Pair { src: this.remote, dst: this.local };
            match this.below {
                Below::Base { remote } => {
                    nodes[this.node].add_link(pair, index, remote);
                    nodes[this.node].fast.extend(fast.get(&remote));
                }
                Below::Inside => nodes[this.node].add_inside(this.local),
                Below::Partition(lower) => {
                    partitions[lower].stacked.insert(pair, index);
                }
                Below::Strands => {}
            }
        }
        Self {
            nodes,
            partitions,
            interfaces,
            copies: VecDeque::new(),
            id: 0,
            chance: Chance::new(SEED),
            now: 0,
        }
    }

    pub fn set_fib(&mut self, partition: usize, fib: Fib) {
        self.partitions[partition].fib = fib;
    }

    pub fn set_device(&mut self, interface: usize, device: Device) {
        self.interfaces[interface].device = device;
    }

    #[must_use]
    pub fn device(&self, interface: usize) -> Device {
        self.interfaces[interface].device
    }

    pub fn set_strong_host(&mut self, node: usize, on: bool) {
        self.nodes[node].strong_host = on;
    }

    /// The link addresses of a node that come by a base tunnel, each with the base address at its other end; `None` while
    /// its strong-host rule is off.
    #[must_use]
    pub fn accepted(&self, node: usize) -> Option<BTreeMap<Ipv4Addr, Ipv4Addr>> {
        let Node { strong_host, link_addrs, .. } = &self.nodes[node];
        let tunnelled = || link_addrs.iter().filter_map(|(addr, from)| Some((*addr, (*from)?)));
        strong_host.then(|| tunnelled().collect())
    }

    /// Whether packets that stand for several may go to the base as they are.
    pub fn set_sends_whole(&mut self, node: usize, yes: bool) {
        self.nodes[node].sends_whole = yes;
    }

    /// What is sent at `interface` from here on.
    pub fn set_impairment(&mut self, interface: usize, to: Impairment) {
        let shaper = &mut self.interfaces[interface].shaper;
        match shaper {
            Some(shaper) => shaper.change(to),
            None => *shaper = shaper_for(to),
        }
    }

    pub fn counters(&mut self, node: usize) -> &mut Counters {
        &mut self.nodes[node].counters
    }

    /// The base node an interface is on.
    #[must_use]
    pub fn node_of(&self, interface: usize) -> usize {
        self.interfaces[interface].node
    }

    /// Decides about the packet in `frame` and changes its headers. Drops are counted here; the other outcomes are
    /// the caller's to count, when the kernel has taken the packet. One that stands for several counts as these.
    pub fn handle(&mut self, input: Input, frame: &mut Frame, now: Nanos) -> Outcome {
        let node = match input {
            Input::Tun(i) | Input::Held(i) | Input::Cut(i) | Input::Made(Via(i)) | Input::Piece(Via(i)) => {
                self.interfaces[i].node
            }
            Input::Base(node) => node,
        };
        let packets = frame.packets();
        match input {
            Input::Tun(_) => self.nodes[node].counters.count_many(Count::RxTun, packets),
            Input::Base(_) => self.nodes[node].counters.count_many(Count::RxBase, packets),
            Input::Held(i) => {
                let shaper = self.interfaces[i].shaper.as_mut();
                shaper.into_iter().for_each(|s| s.released(frame.len()));
            }
            Input::Cut(_) | Input::Made(_) | Input::Piece(_) => {}
        }
        self.now = now;
        match self.walk(input, frame, now) {
            Ok(outcome) => outcome,
            Err(reason) => {
                self.nodes[node].counters.drop_many(reason, packets);
                Outcome::Drop(reason)
            }
        }
    }

    fn walk(&mut self, input: Input, frame: &mut Frame, now: Nanos) -> Result<Outcome, Reason> {
        let mut step = match input {
            Input::Tun(i) => {
                checked(frame)?;
                Step::Transmit(i)
            }
            Input::Base(node) => self.open_base(node, frame)?,
            Input::Cut(i) => Step::Transmit(i),
            Input::Held(i) | Input::Made(Via(i)) => Step::Release(i),
            Input::Piece(Via(i)) => Step::Lower(i),
        };
        for _ in 0..MAX_STEPS {
            step = match step {
                Step::Arrive(i) => self.arrive(i, frame)?,
                Step::Transmit(i) if self.must_cut(i, frame) => Step::Done(Outcome::Cut(i)),
                Step::Transmit(i) => self.hold(i, frame.len(), now)?,
                Step::Release(i) => self.transmit(i, frame)?,
                Step::Lower(i) => self.lower(i, frame)?,
                Step::Done(outcome) => return Ok(outcome),
            };
        }
        Err(Reason::TooDeep)
    }

    /// Takes the base header and the link header off: it arrives at the interface that the link header names.
    fn open_base(&mut self, node: usize, frame: &mut Frame) -> Result<Step, Reason> {
        let base = checked(frame)?;
        let this = &mut self.nodes[node];
        if base.dst() != this.addr || !this.tunnels.contains(&base.src()) {
            return Err(Reason::NoTunnel);
        }
        let tunnel = base.src();
        decapsulate(frame, &mut this.counters)?;
        let link = checked(frame)?;
        let interface = this.demultiplex(tunnel, &link)?;
        self.open_link(interface, frame)
    }

    /// Takes the link header of interface `i` off, and the ESP of a protected link; fragments wait for each other first.
    fn open_link(&mut self, i: usize, frame: &mut Frame) -> Result<Step, Reason> {
        if self.interfaces[i].fragments.is_some()
            && Ipv4View::new_header(frame.packet())?.is_fragment()
            && !self.reassemble(i, frame)?
        {
            return Ok(Step::Done(Outcome::Taken));
        }
        let interface = &mut self.interfaces[i];
        let sealed = Ipv4View::new_header(frame.packet())?.protocol() == ipv4::ESP;
        match (&mut interface.protection, sealed) {
            (None, false) => {}
            (Some(protection), true) => protection.open(frame)?,
            (Some(_), false) => return Err(Reason::EspRequired),
            (None, true) => return Err(Reason::EspUnexpected),
        }
        decapsulate(frame, &mut self.nodes[interface.node].counters)?;
        Ok(Step::Arrive(i))
    }

    /// Puts the packet that a fragment is of in its place; whether all of it has come.
    fn reassemble(&mut self, i: usize, frame: &mut Frame) -> Result<bool, Reason> {
        let interface = &mut self.interfaces[i];
        let fragment = Ipv4View::new_checked(frame.packet())?;
        let (outcome, given_up) = interface.reassembler.add(&fragment, self.now);
        let counters = &mut self.nodes[interface.node].counters;
        (0..given_up).for_each(|_| counters.drop(Reason::Reassembly));
        match outcome {
            fragments::Outcome::Kept => Ok(false),
            fragments::Outcome::Bad => Err(Reason::Reassembly),
            fragments::Outcome::Whole(packet) => {
                counters.count(Count::Reassembled);
                frame.copy_from(&packet);
                Ok(true)
            }
        }
    }

    /// A packet came in through interface `i`: it is for a virtual link above, for the partition, or for another
    /// node of the VI.
    fn arrive(&mut self, i: usize, frame: &mut Frame) -> Result<Step, Reason> {
        let interface = &self.interfaces[i];
        if let Some((owner, strand)) = interface.of {
            return self.arrive_by(i, owner, strand, frame);
        }
        if !interface.device.up {
            return Err(Reason::LinkDown);
        }
        checked(frame)?;
        let largest = frame.largest();
        let view = Ipv4View::new_header(frame.packet())?;
        let (src, dst) = (view.src(), view.dst());
        if let Some(exit) = interface.exit {
            return match frame.largest() <= self.interfaces[exit].device.mtu {
                true => Ok(Step::Transmit(exit)),
                false => Err(Reason::TooBig),
            };
        }
        let partition = &self.partitions[interface.partition];
        if partition.refuses(view.protocol(), dst) {
            return Err(Reason::SelfTransit);
        }
        let route = partition.fib.lookup(src, dst, partition.seed);
        if route == Lookup::Local {
            return match partition.stacked.get(&Pair { src, dst }) {
                Some(upper) if self.interfaces[*upper].takes(view.protocol()) => {
                    let upper = *upper;
                    self.open_link(upper, frame)
                }
                None if view.protocol() == ipv4::IPIP && partition.ends_links(dst) => Err(Reason::NoLink),
                _ => Ok(Step::Done(Outcome::Deliver(i))),
            };
        }
        match route {
            Lookup::Out(j) if j != i && self.is_simple(j, &view, largest) && partition.forwards_from(src) => {
                Ipv4Mut::new_header(frame.packet_mut())?.decrement_ttl();
                let packets = frame.packets();
                self.nodes[self.interfaces[j].node].counters.count_many(Count::Forwarded, packets);
                Ok(Step::Transmit(j))
            }
            Lookup::Local | Lookup::Out(_) | Lookup::Punt | Lookup::NoRoute => {
                Ok(Step::Done(Outcome::Punt(i)))
            }
        }
    }

    /// Whether forwarding through interface `j` needs no answer, no option and no fragmentation; `largest` is the length of the
    /// largest packet it is about.
    fn is_simple(&self, j: usize, view: &Ipv4View<'_>, largest: usize) -> bool {
        let device = self.interfaces[j].device;
        view.ttl() > 1
            && !view.has_options()
            && largest <= device.mtu
            && device.up
            && is_unicast(view.src())
            && is_unicast(view.dst())
    }

    /// Whether what goes out through interface `i` must be cut first, where it stands for several packets.
    fn must_cut(&self, i: usize, frame: &Frame) -> bool {
        let room = frame.len() + 2 * ipv4::HEADER_LEN <= MAX_PACKET;
        frame.segments().is_some() && !(room && self.takes_whole(i))
    }

    /// Whether packets that stand for several may go out through interface `i`: impairments, ESP, fragments and the choice of a
    /// strand are about each packet, and a kernel's tunnel takes no other. Where not, none need be made for it.
    #[must_use]
    pub fn takes_whole(&self, i: usize) -> bool {
        let interface = &self.interfaces[i];
        let below = match interface.below {
            Below::Base { remote } => {
                let node = &self.nodes[interface.node];
                node.sends_whole && node.fast.contains(&remote)
            }
            Below::Inside | Below::Partition(_) => true,
            Below::Strands => false,
        };
        let each = interface.shaper.is_some() || interface.protection.is_some();
        below && !each && interface.fragments.is_none()
    }

    /// A packet of `len` bytes, those of the layers below not counted, is about to go out through interface `i`.
    fn hold(&mut self, i: usize, len: usize, now: Nanos) -> Result<Step, Reason> {
        let interface = &mut self.interfaces[i];
        let (up, node) = (interface.device.up, interface.node);
        let Some(shaper) = interface.shaper.as_mut().filter(|_| up) else { return Ok(Step::Release(i)) };
        match shaper.admit(len, now, &mut self.chance) {
            Verdict::Pass => Ok(Step::Release(i)),
            Verdict::Hold(until) => {
                self.nodes[node].counters.count(Count::Shaped);
                Ok(Step::Done(Outcome::Hold { interface: i, until }))
            }
            Verdict::Lost => Err(Reason::ImpairedLoss),
            Verdict::Overflow => Err(Reason::ShapedOverflow),
        }
    }

    /// A packet goes out through interface `i`: over the base, to the other end on this node, or into the VI below.
    fn transmit(&mut self, i: usize, frame: &mut Frame) -> Result<Step, Reason> {
        let interface = &self.interfaces[i];
        if !self.is_up(i) {
            return Err(Reason::LinkDown);
        }
        if interface.below == Below::Strands {
            return self.transmit_by_strand(i, frame);
        }
        let Some(by) = self.way(interface)? else {
            return interface.peer.map(Step::Arrive).ok_or(Reason::NoLink);
        };
        if let Some(Fragments { whole, .. }) = interface.fragments
            && frame.len() > whole as usize
            && Ipv4View::new_header(frame.packet())?.dont_fragment()
        {
            self.nodes[interface.node].counters.drop(Reason::TooBig);
            let mtu = u16::try_from(whole).unwrap_or(u16::MAX);
            return Ok(Step::Done(Outcome::TooBig { interface: i, mtu }));
        }
        self.encapsulate_link(i, frame)?;
        self.descend(i, by, frame)
    }

    /// How link packets leave an interface; none where the other end is on this node. The routes of the partition below are
    /// followed even where rules exist: the kernel cannot be asked about a packet that the partition itself sends.
    fn way(&self, interface: &Interface) -> Result<Option<By>, Reason> {
        match interface.below {
            Below::Base { remote } => Ok(Some(By::Base(remote))),
            Below::Inside => Ok(None),
            Below::Strands => Err(Reason::NoLink),
            Below::Partition(lower) => {
                let below = &self.partitions[lower];
                match below.fib.lookup(interface.local, interface.remote, below.seed) {
                    Lookup::Local => Ok(None),
                    Lookup::Out(j) => Ok(Some(By::Interface(j))),
                    Lookup::Punt | Lookup::NoRoute => Err(Reason::NoRoute),
                }
            }
        }
    }

    /// A fragment of a link packet of interface `i` follows the first one.
    fn lower(&mut self, i: usize, frame: &mut Frame) -> Result<Step, Reason> {
        let by = self.way(&self.interfaces[i])?.ok_or(Reason::NoRoute)?;
        self.descend(i, by, frame)
    }

    /// A link packet of interface `i` goes into the layer below, cut where it must be.
    fn descend(&mut self, i: usize, by: By, frame: &mut Frame) -> Result<Step, Reason> {
        let interface = &self.interfaces[i];
        let (node, piece) = (interface.node, interface.fragments.map(|f| f.piece as usize));
        let below = match by {
            By::Base(_) => usize::MAX,
            By::Interface(j) => self.interfaces[j].device.mtu,
        };
        if frame.largest() > piece.map_or(below, |piece| piece.min(below)) {
            self.cut(i, frame, piece.ok_or(Reason::TooBig)?.min(below))?;
        }
        match by {
            By::Interface(j) => Ok(Step::Transmit(j)),
            By::Base(remote) => {
                let base = Pair { src: self.nodes[node].addr, dst: remote };
                self.encapsulate(node, base, frame)?;
                Ok(Step::Done(Outcome::Send { node, to: remote }))
            }
        }
    }

    /// Cuts a link packet of interface `i` into fragments of at most `most` bytes. The first stays in the frame, the others
    /// follow it.
    fn cut(&mut self, i: usize, frame: &mut Frame, most: usize) -> Result<(), Reason> {
        let whole = Ipv4View::new_header(frame.packet())?;
        let (header, payload) = (whole.repr(), whole.payload());
        let mut parts = fragments::split(&header, most).ok_or(Reason::TooBig)?;
        let (first, kept) = parts.next().ok_or(Reason::TooBig)?;
        let counters = &mut self.nodes[self.interfaces[i].node].counters;
        counters.count(Count::Fragmented);
        for (part, range) in parts {
            if self.copies.len() >= parallel::MOST_COPIES {
                return Err(Reason::TooDeep);
            }
            counters.count(Count::Fragmented);
            let bytes = part.with_payload(&payload[range]).into_boxed_slice();
            self.copies.push_back(Made { via: Via(i), bytes, is_piece: true });
        }
        frame.truncate(ipv4::HEADER_LEN + kept.end);
        first.emit(frame.packet_mut());
        Ok(())
    }

    /// Puts the link header of interface `i` in front, and ESP between where the link is protected.
    fn encapsulate_link(&mut self, i: usize, frame: &mut Frame) -> Result<(), Reason> {
        let ecn = outer_ecn(frame);
        let interface = &mut self.interfaces[i];
        let (node, pair) = (interface.node, Pair { src: interface.local, dst: interface.remote });
        let dont_fragment = interface.fragments.is_none();
        let protocol = match &mut interface.protection {
            None => ipv4::IPIP,
            Some(protection) => {
                protection.seal(frame)?;
                ipv4::ESP
            }
        };
        self.push_header(node, pair, (protocol, dont_fragment), ecn, frame)
    }

    /// Puts a header in front, as an ipip device with `ttl 64` and `tos 0` does: ECN after the packet's own, DF set.
    fn encapsulate(&mut self, node: usize, pair: Pair, frame: &mut Frame) -> Result<(), Reason> {
        let ecn = outer_ecn(frame);
        self.push_header(node, pair, (ipv4::IPIP, true), ecn, frame)
    }

    fn push_header(
        &mut self,
        node: usize,
        pair: Pair,
        (protocol, dont_fragment): (u8, bool),
        ecn: Ecn,
        frame: &mut Frame,
    ) -> Result<(), Reason> {
        let len = frame.len();
        let ipip = Ipv4Repr::ipip(pair.src, pair.dst, len, ecn, self.next_id());
        let repr = Ipv4Repr { protocol, dont_fragment, ..ipip };
        // There is room for any packet that IPv4 has.
        frame.push(ipv4::HEADER_LEN).map(|header| repr.emit(header)).ok_or(Reason::TooBig)?;
        self.nodes[node].counters.count_many(Count::Encapsulated, frame.packets());
        Ok(())
    }

    /// From 1: the kernel replaces an identification of 0 on a raw socket.
    fn next_id(&mut self) -> u16 {
        self.id = self.id.checked_add(1).unwrap_or(1);
        self.id
    }
}

impl Partition {
    /// Whether `addr` is a link address of a VI above, which no other packet is for (paper, II.2.4).
    fn ends_links(&self, addr: Ipv4Addr) -> bool {
        self.stacked.keys().any(|pair| pair.dst == addr)
    }

    /// Whether a packet to `addr` is one of a tunnel that would lead through itself.
    fn refuses(&self, protocol: u8, addr: Ipv4Addr) -> bool {
        matches!(protocol, ipv4::IPIP | ipv4::ESP) && self.refuses.contains(&addr)
    }

    /// The seed is the FNV-1a hash of the name.
    fn new(config: &config::Partition) -> Self {
        let hash = config.name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            seed: usize::try_from(hash).unwrap_or(usize::MAX),
            refuses: config.refuses.iter().copied().collect(),
            ..Self::default()
        }
    }

    /// Whether routes alone decide, and the source is not an address of the partition itself (a martian).
    fn forwards_from(&self, src: Ipv4Addr) -> bool {
        !self.fib.policy_routing && self.fib.lookup(src, src, 0) != Lookup::Local
    }
}

impl Interface {
    /// Whether a packet of this protocol that has the addresses of the link header is one: ESP for a link that is not
    /// protected is the partition's own.
    fn takes(&self, protocol: u8) -> bool {
        protocol == ipv4::IPIP || (protocol == ipv4::ESP && self.protection.is_some())
    }
}

impl Node {
    fn new(addr: Ipv4Addr) -> Self {
        Self {
            addr,
            tunnels: BTreeSet::new(),
            fast: BTreeSet::new(),
            link_addrs: BTreeMap::new(),
            links: BTreeMap::new(),
            strong_host: true,
            sends_whole: true,
            counters: Counters::default(),
        }
    }

    fn add_link(&mut self, pair: Pair, interface: usize, remote: Ipv4Addr) {
        self.tunnels.insert(remote);
        self.link_addrs.insert(pair.dst, Some(remote));
        self.links.insert(pair, interface);
    }

    fn add_inside(&mut self, local: Ipv4Addr) {
        self.link_addrs.insert(local, None);
    }

    /// The interface that a link header from the base tunnel to `tunnel` is for: exact match of the pair, after
    /// the strong-host rule on the destination.
    fn demultiplex(&self, tunnel: Ipv4Addr, link: &Ipv4View<'_>) -> Result<usize, Reason> {
        if let Some(expected) = self.link_addrs.get(&link.dst())
            && self.strong_host
            && *expected != Some(tunnel)
        {
            return Err(Reason::StrongHost);
        }
        let unknown = match link.protocol() {
            ipv4::IPIP => Reason::NoLink,
            ipv4::ESP => Reason::EspUnexpected,
            _ => return Err(Reason::NotIpip),
        };
        let pair = Pair { src: link.src(), dst: link.dst() };
        self.links.get(&pair).copied().ok_or(unknown)
    }
}

fn interface(config: &Config, index: usize) -> Interface {
    let this = &config.interfaces[index];
    let node_of = |i: &super::config::Interface| config.partitions[i.partition].node;
    let is_peer = |other: &super::config::Interface| {
        other.local == this.remote
            && other.remote == this.local
            && other.below == this.below
            && node_of(other) == node_of(this)
    };
    let peer = match this.below {
        Below::Base { .. } | Below::Strands => None,
        Below::Inside | Below::Partition(_) => config.interfaces.iter().position(is_peer),
    };
    Interface {
        node: node_of(this),
        partition: this.partition,
        local: this.local,
        remote: this.remote,
        below: this.below,
        exit: this.exit,
        peer,
        protection: this.security.as_ref().map(|s| Box::new(s.into())),
        fragments: this.fragments,
        reassembler: Reassembler::default(),
        device: Device { up: false, mtu: this.mtu as usize },
        shaper: shaper_for(this.impair),
        bundle: this.bundle.as_ref().map(|bundle| {
            let underlays = bundle.strands.iter().map(|s| (s.underlay.as_str(), s.weight));
            Box::new(Bundle::new(bundle.spread, (this.local, this.remote), underlays))
        }),
        of: None,
    }
}

fn shaper_for(to: Impairment) -> Option<Shaper> {
    (to != Impairment::default()).then(|| Shaper::new(to))
}

/// Checks the header at the front of the frame, checksum included, and cuts what is beyond its total length.
fn checked(frame: &mut Frame) -> Result<Ipv4View<'_>, Reason> {
    let view = Ipv4View::new_checked(frame.packet())?;
    let (header_len, total_len) = (view.header_len(), usize::from(view.total_len()));
    if let Some(segments) = frame.segments() {
        let behind_header = segments.start(frame.len()).is_some_and(|start| start >= header_len);
        if total_len != frame.len() || !behind_header {
            return Err(Reason::BadLength);
        }
    }
    frame.truncate(total_len);
    let view = Ipv4View::new_checked(frame.packet())?;
    view.verify_checksum()?;
    Ok(view)
}

/// Of a header put on the packet in `frame`.
fn outer_ecn(frame: &Frame) -> Ecn {
    Ecn::of_tos(frame.packet().get(1).copied().unwrap_or(0)).encapsulate()
}

/// Takes the checked header at the front off a packet of protocol 4 that is no fragment; the inner ECN follows
/// RFC 6040.
fn decapsulate(frame: &mut Frame, counters: &mut Counters) -> Result<(), Reason> {
    let outer = Ipv4View::new_checked(frame.packet())?;
    if outer.protocol() != ipv4::IPIP {
        return Err(Reason::NotIpip);
    }
    if outer.is_fragment() {
        return Err(Reason::Fragment);
    }
    let (header_len, outer_ecn) = (outer.header_len(), outer.ecn());
    frame.pull(header_len);
    let mut inner = Ipv4Mut::new_header(frame.packet_mut())?;
    let ecn = inner.view().ecn();
    let after = ecn.decapsulate(outer_ecn).ok_or(Reason::EcnCe)?;
    if after != ecn {
        inner.set_ecn(after);
    }
    counters.count_many(Count::Decapsulated, frame.packets());
    Ok(())
}

/// An address of one node: not 0/8, 127/8, 224/4 or 240/4 (RFC 1122, section 3.2.1.3).
pub(super) fn is_unicast(addr: Ipv4Addr) -> bool {
    !matches!(addr.octets()[0], 0 | 127 | 224..)
}

#[cfg(test)]
mod tests;
