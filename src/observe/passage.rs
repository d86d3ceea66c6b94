//! The way of one probe through all layers: as computed, as captured on every wire of the base, where the two first
//! differ, and why. Two nodes go in, a [`Trace`] comes out. It changes nothing in the lab.
//!
//! Every base node is captured on at once, so one probe is enough. Its rows need no clocks to be put in order: it is at
//! one place at a time, and each node's capture is in order of time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::arrival;
use super::causes::{Cause, CauseKind, Drops, Inquiry};
use super::esp::{Keys, Sealed};
use super::probe::{Mark, OVERHEAD, PAYLOAD, SMALLEST};
use super::resolve::label;
use super::resolve::look::Computed;
use super::walk::{self, Event, Header, Layer, Packet, Walk};
use super::wires::{self, Tap};
use super::{Context, each, names, wire};
use crate::capture::Filter;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BASE, EndId, Lab, NetId, NodeId};
use crate::packet::{self, Ipv4Repr, bpf, ipv4};
use crate::routing::{Expected, Faults};
use crate::sys::limits;

/// From this many base nodes on, the default limit on open files may be too low.
const MANY: usize = 200;
/// How often a packet is followed anew because a capture could not take all that passed.
const ATTEMPTS: usize = 4;
/// Time for a packet of the nodes' own to cross all wires, from when it is first seen; impairments may need most of it.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Packets taken from one capture before the others have their turn.
const BATCH: usize = 256;
/// What one look at the captures may take of that time. A machine that stands still for seconds, as emulated ones do, holds up the
/// packet as well, which is not lost for that.
const LOOK: Duration = Duration::from_millis(50);

/// The way of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub from: String,
    pub to: String,
    /// Where the probe was sent.
    pub address: Ipv4Addr,
    /// Of the probe at its own layer, bytes.
    pub length: usize,
    /// Of the way at that layer, as computed.
    pub mtu: Option<u32>,
    /// It must arrive.
    pub arrives: bool,
    /// It did.
    pub arrived: bool,
    /// TTL with which it must arrive, and did.
    pub ttl: [Option<u8>; 2],
    /// The wires of the base it crosses, in order.
    pub hops: Vec<Passing>,
    /// What is done to it after the last wire, as computed.
    pub end: Vec<String>,
    /// Number of the first hop that is not as computed; one more than there are if it is lost after the last.
    pub difference: Option<usize>,
    /// Ways of equal cost that were computed; the one shown is the most like what was captured.
    pub ways: usize,
    pub causes: Vec<Cause>,
}

/// One wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passing {
    /// From 1.
    pub hop: usize,
    pub computed: Option<Stack>,
    pub captured: Option<Stack>,
    /// What is done to the packet before it is on this wire, and by whom, as computed.
    pub before: Vec<String>,
}

/// A packet on a wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Base nodes.
    pub from: String,
    pub to: String,
    pub link: String,
    /// Of the wire, as computed.
    pub mtu: u32,
    /// Outermost first.
    pub headers: Vec<HeaderSeen>,
    /// It came out at the other end; as computed always.
    pub received: bool,
}

/// A header of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderSeen {
    /// `base X -> Y`, `link A -> B`, `net A -> F`.
    pub words: String,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    /// Total length of what begins with it.
    pub length: usize,
    /// Behind it everything is in ESP.
    pub sealed: bool,
    /// Its bytes, where it was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

impl Trace {
    /// Whether everything is as computed.
    #[must_use]
    pub fn is_as_computed(&self) -> bool {
        self.difference.is_none() && self.causes.is_empty()
    }
}

/// One passage of the probe over one device of a base node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    end: EndId,
    headers: Vec<Ipv4Repr>,
    sealed: Sealed,
    /// Headers before ESP, by their place, as they were on the wire.
    kept: BTreeMap<usize, Vec<u8>>,
    /// Opened.
    bytes: Vec<u8>,
}

impl Row {
    fn pairs(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        self.headers.iter().map(|h| (h.src, h.dst)).collect()
    }
}

/// A crossing of a wire as captured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crossing {
    row: Row,
    received: bool,
}

/// Sends a probe of `size` bytes in all, with DF, or a usual one, and follows it. `faults` are what was set down on purpose.
///
/// # Errors
/// If the nodes are in networks that nothing joins, an address is missing, or the lab cannot be observed.
pub fn follow(
    ctx: &Context<'_>,
    faults: &Faults,
    from: NodeId,
    to: NodeId,
    size: Option<usize>,
) -> Result<Trace> {
    let lab = ctx.lab;
    let address =
        lab.address(to).ok_or_else(|| Error::usage(format!("{} has no address", lab.full_name(to))))?;
    let length = size.unwrap_or(PAYLOAD + OVERHEAD);
    if length < SMALLEST {
        return Err(Error::usage(format!("a probe has {SMALLEST} bytes or more")));
    }
    let expected = Expected::compute(lab, ctx.rib, faults);
    let packet = Packet { from, to: address, src: None, ttl: ipv4::DEFAULT_TTL, length, whole: true };
    let walks = walk::walks(lab, &mut Computed::new(lab, &expected, faults), &packet)?;
    let taps = taps(ctx, |_| true, &wires::lengths_of(lab, length))?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let before = Drops::now(ctx);
        let flight = arrival::fly_sized(ctx, from, to, address, size.map(|s| s - OVERHEAD))?;
        let number = flight.arrived.map_or(flight.attempts.saturating_sub(1), |a| a.number);
        let rows = drain(lab, &taps, (flight.mark, number))?;
        let crossings = in_order(lab, lab.node(from).base, rows);
        let arrived = flight.arrived.map(|a| a.header.ttl);
        let end = End { arrived, unsent: flight.unsent.map(|e| e.to_string()) };
        let watch = Watch { ctx, faults, before };
        let trace = watch.explained(&packet, to, walks.clone(), &crossings, &end)?;
        if let Some(trace) = complete(lab, trace, &taps, attempt)? {
            return Ok(trace);
        }
    }
}

/// What was followed, unless it differs and the captures lost something meanwhile, and there is another attempt.
fn complete(lab: &Lab, mut trace: Trace, taps: &[Tap], attempt: usize) -> Result<Option<Trace>> {
    let mut lost = Vec::new();
    for tap in taps {
        lost.extend(tap.lost(lab)?);
    }
    if trace.difference.is_some() && !lost.is_empty() {
        if attempt < ATTEMPTS {
            return Ok(None);
        }
        trace.causes.extend(lost);
    }
    Ok(Some(trace))
}

/// Of the packets that a node sends by itself, which one is followed.
#[derive(Debug, Clone)]
pub struct Live {
    /// How long one is waited for.
    pub patience: Duration,
    /// It must pass this, at its own layer.
    pub filter: Option<Filter>,
}

/// Follows a packet that `from` sends to `to` by itself: the first that is seen and passes the filter.
///
/// # Errors
/// As [`follow`]; and if there is none, or no wire between the two.
pub fn follow_live(
    ctx: &Context<'_>,
    faults: &Faults,
    from: NodeId,
    to: NodeId,
    live: &Live,
) -> Result<Trace> {
    let lab = ctx.lab;
    if lab.node(from).base == lab.node(to).base {
        let title = format!("{} and {} are on one base node", lab.full_name(from), lab.full_name(to));
        return Err(Error::usage(title)
            .hint("traffic that crosses no wire is not captured; without --live a probe is sent"));
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        let before = Drops::now(ctx);
        // The capture where it is sent is opened last: what that sees is still to come everywhere else.
        let (start, others) = (lab.node(from).base, |node: &NodeId| *node != lab.node(from).base);
        let mut taps = taps(ctx, others, &(0..=u32::MAX))?;
        taps.insert(0, Tap::open(ctx, start, &(0..=u32::MAX))?);
        let (identity, rows) = listen(lab, &taps, (from, to), live)?.ok_or_else(|| {
            let text = live.filter.as_ref().and_then(|f| f.text.as_ref());
            let words = format!(
                "nothing that {} sent to {}{} was seen in {} s",
                lab.full_name(from),
                lab.full_name(to),
                text.map(|text| format!(", of `{text}`,")).unwrap_or_default(),
                live.patience.as_secs_f64()
            );
            Error::new(Kind::Failed, words)
                .hint("--live waits for traffic of the nodes' own; without it a probe is sent")
        })?;
        let packet = Packet {
            from,
            to: identity.dst,
            src: Some(identity.src),
            ttl: identity.ttl,
            length: identity.length,
            whole: false,
        };
        let expected = Expected::compute(lab, ctx.rib, faults);
        let walks = walk::walks(lab, &mut Computed::new(lab, &expected, faults), &packet)?;
        let crossings = in_order(lab, lab.node(from).base, rows);
        let last = crossings.last().filter(|c| c.received && lab.peer(c.row.end).node == lab.node(to).base);
        // Its last node takes nothing from the TTL.
        let arrived = last.and_then(|c| c.row.headers.last()).map(|h| h.ttl);
        let watch = Watch { ctx, faults, before };
        let trace = watch.explained(&packet, to, walks, &crossings, &End { arrived, unsent: None })?;
        if let Some(trace) = complete(lab, trace, &taps, attempt)? {
            return Ok(trace);
        }
    }
}

/// How a packet ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    /// The TTL it arrived with.
    arrived: Option<u8>,
    /// Why its own node did not send it.
    unsent: Option<String>,
}

/// What is needed to explain a difference.
struct Watch<'a> {
    ctx: &'a Context<'a>,
    faults: &'a Faults,
    /// What had been dropped before.
    before: Drops,
}

impl Watch<'_> {
    fn explained(
        &self,
        packet: &Packet,
        to: NodeId,
        walks: Vec<Walk>,
        crossings: &[Crossing],
        end: &End,
    ) -> Result<Trace> {
        let (ctx, faults, from) = (self.ctx, self.faults, packet.from);
        let ways = walks.len();
        let walk = nearest(walks, crossings);
        let mut trace = compare(ctx.lab, (packet, to), &walk, crossings, end);
        trace.ways = ways;
        let own = walk.devices.iter().filter(|(end, _)| end.link.net == from.net);
        trace.mtu = own.map(|(end, _)| ctx.lab.link(end.link).mtu).min();
        let mut inquiry = Inquiry::new(ctx, faults);
        trace.causes = inquiry.drift(&walk, packet)?;
        if end.arrived.is_none() || trace.difference.is_some() {
            trace.causes.extend(inquiry.losses(&walk, from, packet.to)?);
            trace.causes.extend(self.before.rises(&Drops::now(ctx)));
            let unsent = end.unsent.as_ref().map(|e| format!("its kernel did not send it: {e}"));
            trace.causes.extend(unsent.map(|what| Cause {
                kind: CauseKind::Device,
                at: label(ctx.lab, from),
                what,
            }));
        }
        Ok(trace)
    }
}

/// By what a packet is known wherever it is seen: what no router changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    id: u16,
    protocol: u8,
    length: usize,
    /// As first seen.
    ttl: u8,
    payload: Vec<u8>,
}

impl Identity {
    fn of(headers: &[Ipv4Repr], bytes: &[u8]) -> Option<Self> {
        let inner = headers.last()?;
        let payload = bytes.get(headers.len() * ipv4::HEADER_LEN..)?.to_vec();
        let (length, ttl) = (inner.payload_len + ipv4::HEADER_LEN, inner.ttl);
        Some(Self {
            src: inner.src,
            dst: inner.dst,
            id: inner.id,
            protocol: inner.protocol,
            length,
            ttl,
            payload,
        })
    }

    fn is(&self, other: &Self) -> bool {
        Self { ttl: 0, ..self.clone() } == Self { ttl: 0, ..other.clone() }
    }
}

/// Waits for a packet from one node to the other; what it is, and where it was seen until it had crossed the last wire or
/// the time was over.
fn listen(
    lab: &Lab,
    taps: &[Tap],
    (from, to): (NodeId, NodeId),
    live: &Live,
) -> Result<Option<(Identity, Rows)>> {
    let ours =
        |i: &Identity| lab.addresses(from).any(|a| a == i.src) && lab.addresses(to).any(|a| a == i.dst);
    let wanted = |packet: &[u8]| live.filter.as_ref().is_none_or(|f| bpf::run(&f.raw, packet) > 0);
    let (start, keys) = (lab.node(from).base, Keys::of(lab));
    let (mut rows, mut found, mut buffer) = (Rows::new(), None::<Identity>, vec![0; 65_536]);
    // What others saw since the queue of the sender was empty: it may have been sent after that.
    let mut early: Vec<(Identity, NodeId, bool, Row)> = Vec::new();
    let (mut looked, mut left) = (Instant::now(), live.patience);
    loop {
        for tap in taps {
            // All have their turn, also where one never becomes empty; but no other's before it is known which packet is meant, or
            // that none has been sent.
            let (mut empty, mut taken) = (false, 0);
            while taken < if found.is_none() && tap.node == start { wires::QUEUED } else { BATCH } {
                taken += 1;
                let Some(passed) = tap.next(&mut buffer)? else {
                    empty = true;
                    break;
                };
                let (bytes, sealed, kept) = keys.open_keeping(passed.bytes);
                let headers = packet::stack(&bytes);
                let Some(identity) = Identity::of(&headers, &bytes).filter(ours) else { continue };
                let inner = (headers.len() - 1) * ipv4::HEADER_LEN;
                let sent = tap.node == start && passed.outgoing;
                if found.is_none() && sent && wanted(&bytes[inner..]) {
                    for (_, node, outgoing, row) in early.drain(..).filter(|e| e.0.is(&identity)) {
                        note(&mut rows, node, outgoing, row);
                    }
                    found = Some(identity.clone());
                    (looked, left) = (Instant::now(), AFTERWARDS);
                }
                let row = Row { end: passed.end, headers, sealed, kept, bytes };
                match &found {
                    Some(found) if found.is(&identity) => note(&mut rows, tap.node, passed.outgoing, row),
                    None if tap.node != start => early.push((identity, tap.node, passed.outgoing, row)),
                    Some(_) | None => {}
                }
            }
            if found.is_none() && tap.node == start {
                early.clear();
                if !empty {
                    break;
                }
            }
        }
        let there = rows.get(&lab.node(to).base).is_some_and(|r| !r[1].is_empty());
        let passed = looked.elapsed();
        looked += passed;
        left = left.saturating_sub(if found.is_some() { passed.min(LOOK) } else { passed });
        if left.is_zero() || (there && is_through(lab, to, start, &rows)) {
            return Ok(found.map(|found| (found, rows)));
        }
        let mut fds: Vec<PollFd<'_>> =
            taps.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
        let pause = if found.is_some() { left.min(LOOK) } else { left } + Duration::from_micros(999);
        match poll(&mut fds, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).doing(Kind::Kernel, || "cannot wait for a packet".into()),
        }
    }
}

fn note(rows: &mut Rows, node: NodeId, outgoing: bool, row: Row) {
    let of_node: &mut [VecDeque<Row>; 2] = rows.entry(node).or_default();
    of_node[usize::from(!outgoing)].push_back(row);
}

/// Whether node `to` has it, which comes to the base node of `to` for that node and not for another on the way.
fn is_through(lab: &Lab, to: NodeId, from: NodeId, rows: &Rows) -> bool {
    let crossings = in_order(lab, from, rows.clone());
    let sent: usize = rows.values().map(|r| r[0].len()).sum();
    let base = lab.node(to).base;
    let last = crossings.last().filter(|c| c.received && lab.peer(c.row.end).node == base);
    crossings.len() == sent && last.is_some_and(|c| ends_at(lab, to, &c.row.headers))
}

/// Whether the link header, where there is one, is for an end of `to`.
fn ends_at(lab: &Lab, to: NodeId, headers: &[Ipv4Repr]) -> bool {
    let [.., link, _] = headers else { return true };
    lab.node(to).ends.iter().any(|end| lab.link(end.link).link_addrs(end.side).any(|a| a == link.dst))
}

/// A capture in each of these base nodes.
fn taps(ctx: &Context<'_>, of: impl Fn(&NodeId) -> bool, lengths: &RangeInclusive<u32>) -> Result<Vec<Tap>> {
    let nodes: Vec<NodeId> = ctx.lab.base().nodes.iter().map(|n| n.id).filter(of).collect();
    if nodes.len() > MANY {
        limits::raise_open_files()
            .doing(Kind::Environment, || "cannot raise the limit on open files".into())?;
    }
    each(&nodes, |node| Tap::open(ctx, *node, lengths))
}

/// What each base node sent and received of one probe, in order of time.
type Rows = BTreeMap<NodeId, [VecDeque<Row>; 2]>;

fn drain(lab: &Lab, taps: &[Tap], (mark, number): (Mark, usize)) -> Result<Rows> {
    let (keys, mut rows) = (Keys::of(lab), Rows::new());
    for tap in taps {
        let of_node: &mut [VecDeque<Row>; 2] = rows.entry(tap.node).or_default();
        tap.drain(&mut |passed| {
            let (bytes, sealed, kept) = keys.open_keeping(passed.bytes);
            let Some((headers, echo)) = wire::parse_request(&bytes) else { return };
            if mark.is_probe(&echo, number) {
                let of_way = &mut of_node[usize::from(!passed.outgoing)];
                of_way.push_back(Row { end: passed.end, headers, sealed, kept, bytes });
            }
        })?;
    }
    Ok(rows)
}

/// From node to node as the probe went.
fn in_order(lab: &Lab, from: NodeId, mut rows: Rows) -> Vec<Crossing> {
    let (mut at, mut crossings) = (from, Vec::new());
    while let Some(row) = rows.get_mut(&at).and_then(|r| r[0].pop_front()) {
        let far = EndId { side: 1 - row.end.side, ..row.end };
        at = lab.end(far).node;
        let heard = rows.get_mut(&at).map(|r| &mut r[1]);
        let same = |other: &Row| other.end == far && other.pairs() == row.pairs();
        let place = heard.as_ref().and_then(|heard| heard.iter().position(same));
        if let (Some(heard), Some(place)) = (heard, place) {
            heard.remove(place);
        }
        let received = place.is_some();
        crossings.push(Crossing { row, received });
        if !received {
            break;
        }
    }
    crossings
}

/// Of ways of equal cost, the one that was taken the longest.
fn nearest(walks: Vec<Walk>, crossings: &[Crossing]) -> Walk {
    let common = |walk: &Walk| {
        walk.wires().zip(crossings).take_while(|((end, stack), c)| is_same(*end, stack, c)).count()
    };
    let mut best = (0, Walk::default());
    for (index, walk) in walks.into_iter().enumerate() {
        let count = common(&walk);
        if index == 0
            || count > best.0
            || (count == best.0
                && count == crossings.len()
                && walk.wires().count() == count
                && best.1.wires().count() != count)
        {
            best = (count, walk);
        }
    }
    best.1
}

/// Whether a crossing is as computed: the wire, and each header's addresses, TTL and protection.
fn is_same(end: EndId, stack: &[Header], crossing: &Crossing) -> bool {
    let row = &crossing.row;
    let header = |(a, b): (&Header, &Ipv4Repr)| (a.src, a.dst, a.ttl) == (b.src, b.dst, b.ttl);
    let sealed: BTreeSet<usize> = row.sealed.iter().map(|(index, _)| *index).collect();
    let wanted: BTreeSet<usize> = (0..stack.len()).filter(|i| stack[*i].sealed).collect();
    row.end == end
        && crossing.received
        && stack.len() == row.headers.len()
        && stack.iter().zip(&row.headers).all(header)
        && sealed == wanted
}

fn compare(
    lab: &Lab,
    (packet, to): (&Packet, NodeId),
    walk: &Walk,
    crossings: &[Crossing],
    end: &End,
) -> Trace {
    let from = packet.from;
    let wires: Vec<(EndId, &[Header])> = walk.wires().collect();
    let (mut before, mut acts) = (Vec::new(), Vec::new());
    for event in &walk.events {
        match event {
            Event::Wire { .. } => before.push(std::mem::take(&mut acts)),
            Event::Added { .. } | Event::Removed { .. } | Event::Forwarded { .. } => {
                acts.push(act(lab, event))
            }
        }
    }
    let count = wires.len().max(crossings.len());
    let hops = (0..count).map(|index| Passing {
        hop: index + 1,
        computed: wires.get(index).map(|(end, stack)| computed(lab, from, *end, stack)),
        captured: crossings.get(index).map(|c| captured(lab, from, c)),
        before: before.get(index).cloned().unwrap_or_default(),
    });
    let hops: Vec<Passing> = hops.collect();
    let (arrives, arrived) = (walk.lost.is_none(), end.arrived.is_some());
    let differs = |index: &usize| match (wires.get(*index), crossings.get(*index)) {
        (Some((end, stack)), Some(crossing)) => !is_same(*end, stack, crossing),
        _ => true,
    };
    let ttl = walk.arrives_with;
    let seen = end.arrived;
    let first = (0..count).find(differs).map(|index| index + 1);
    let last = || (arrives != arrived || (arrived && ttl != seen)).then_some(count + 1);
    Trace {
        from: lab.full_name(from),
        to: lab.full_name(to),
        address: packet.to,
        length: packet.length,
        mtu: None,
        arrives,
        arrived,
        ttl: [ttl, seen],
        hops,
        end: acts,
        // Where even vilab cannot say what must be, nothing differs.
        difference: first.or_else(last).filter(|_| !walk.unknown),
        ways: 1,
        causes: Vec::new(),
    }
}

/// What is done to a packet, in words.
fn act(lab: &Lab, event: &Event) -> String {
    let by = |at: NodeId, device: &Option<String>| match device {
        Some(device) => format!("{} {device}", label(lab, at)),
        None => label(lab, at),
    };
    match event {
        Event::Added { at, device, header } => format!("{}: + {}", by(*at, device), one(lab, header)),
        Event::Removed { at, device, header } => format!("{}: - {}", by(*at, device), one(lab, header)),
        Event::Forwarded { at, ttl } => format!("{}: TTL {ttl}", label(lab, *at)),
        Event::Wire { end, .. } => lab.full_link_name(end.link),
    }
}

/// A header in words.
fn one(lab: &Lab, header: &Header) -> String {
    let (src, dst) = (header.src, header.dst);
    let esp = if header.sealed { " and ESP" } else { "" };
    match header.layer {
        Layer::Tunnel => {
            format!("base {} -> {}", names::name_of(lab, BASE, src), names::name_of(lab, BASE, dst))
        }
        Layer::Link(vi) => {
            let word = match lab.fabric(vi) {
                Some(emulated) => format!("exit({})", lab.net(emulated.inner).name),
                None => format!("link({})", lab.net(vi).name),
            };
            format!(
                "{word} {} -> {}{esp}",
                names::link_end_name(lab, vi, src),
                names::link_end_name(lab, vi, dst)
            )
        }
        Layer::Net(net) => {
            format!(
                "{} {} -> {}",
                lab.net(net).name,
                names::name_of(lab, net, src),
                names::name_of(lab, net, dst)
            )
        }
    }
}

fn computed(lab: &Lab, from: NodeId, end: EndId, stack: &[Header]) -> Stack {
    let pairs: Vec<_> = stack.iter().map(|h| (h.src, h.dst)).collect();
    let headers = stack.iter().zip(words(lab, from, &pairs)).map(|(h, words)| HeaderSeen {
        words,
        src: h.src,
        dst: h.dst,
        ttl: h.ttl,
        length: h.length,
        sealed: h.sealed,
        bytes: None,
    });
    on_wire(lab, end, headers.collect(), true)
}

fn captured(lab: &Lab, from: NodeId, crossing: &Crossing) -> Stack {
    let row = &crossing.row;
    let mut at = 0;
    let headers =
        row.headers.iter().enumerate().zip(words(lab, from, &row.pairs())).map(|((index, h), words)| {
            let opened = row.bytes.get(at..at + ipv4::HEADER_LEN).unwrap_or_default();
            let bytes = row.kept.get(&index).map_or(opened, Vec::as_slice);
            at += ipv4::HEADER_LEN;
            let length = bytes.get(2..4).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
            HeaderSeen {
                words,
                src: h.src,
                dst: h.dst,
                ttl: h.ttl,
                length,
                sealed: row.sealed.iter().any(|(sealed, _)| *sealed == index),
                bytes: Some(bytes.iter().map(|b| format!("{b:02x}")).collect()),
            }
        });
    on_wire(lab, row.end, headers.collect(), crossing.received)
}

/// The layers in words. Beyond a gateway it is a packet of another network: that whose link header it has.
fn words(lab: &Lab, from: NodeId, pairs: &[(Ipv4Addr, Ipv4Addr)]) -> Vec<String> {
    let outer = pairs.len().checked_sub(2).map(|at| pairs[at]);
    let has = |net: NetId| {
        lab.net(net).links.iter().any(|l| (0..2).any(|side| l.pairs(side).any(|p| Some(p) == outer)))
    };
    let beyond = || lab.joined(from.net).into_iter().find(|net| *net != from.net && has(*net));
    let inside = lab.emulated.iter().any(|e| e.router.net == from.net && has(e.fabric));
    let net = if inside || has(from.net) { from.net } else { beyond().unwrap_or(from.net) };
    names::layers(lab, net, pairs)
}

fn on_wire(lab: &Lab, end: EndId, headers: Vec<HeaderSeen>, received: bool) -> Stack {
    let link = lab.link(end.link);
    let name = |node: NodeId| lab.node(node).name.clone();
    Stack {
        from: name(lab.end(end).node),
        to: name(lab.peer(end).node),
        link: link.name.clone(),
        mtu: link.mtu,
        headers,
        received,
    }
}
