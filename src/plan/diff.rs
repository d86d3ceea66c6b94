//! What turns one running lab into another. The plans of the two go in; a [`Change`] that touches only what differs
//! comes out. It never looks at the kernel: what is there is what the plans say, or unsure where a change was cut
//! short.
//!
//! The order keeps what is the same working at every moment: routes that lose a next hop are first narrowed to those
//! they keep, or set at once to what they will be; then goes what is not wanted, top layer first; then comes what is
//! new, in the order of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::things::{self, Device, Key, Thing, Things};
use super::{Direction, Hook, Hop, Op, Plan, Stage};

/// Keys that the kernel sets anew when forwarding is switched (`inet_forward_change` in Linux).
const RESET_BY_FORWARDING: [&str; 2] = ["accept_redirects", "forwarding"];
const FORWARDING: &str = "net/ipv4/ip_forward";

/// Something taken away. What is not there any more is no failure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Removal {
    Route {
        ns: String,
        prefix: Ipv4Net,
    },
    Neighbour {
        ns: String,
        dev: String,
        addr: Ipv4Addr,
    },
    Qdisc {
        ns: String,
        dev: String,
    },
    Addr {
        ns: String,
        dev: String,
        addr: Ipv4Net,
    },
    Device {
        ns: String,
        dev: String,
    },
    Redirect {
        ns: String,
        dev: String,
        hook: Hook,
        protocol: u16,
    },
    Policy {
        ns: String,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        direction: Direction,
    },
    Association {
        ns: String,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        spi: u32,
    },
    /// `table` holds family and name.
    Table {
        ns: String,
        table: String,
    },
    /// Back to what a fresh namespace has.
    Sysctl {
        ns: String,
        key: String,
    },
    Netns {
        ns: String,
    },
}

/// A new MTU of a device that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    pub ns: String,
    pub dev: String,
    pub mtu: u32,
}

/// What to do to the kernel, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Change {
    /// Routes set to next hops that stay, before others go.
    pub reroutes: Vec<Op>,
    /// Routes, then neighbours and qdiscs, addresses, devices, policies, associations, tables, sysctls, namespaces; in
    /// each sort the top layer first.
    pub removals: Vec<Removal>,
    pub resizes: Vec<Resize>,
    /// What is new, or set anew in place of what is there, in the order of the plan.
    pub stages: Vec<Stage>,
    /// Of what the stages set, that which may be there already.
    pub replaced: BTreeSet<Key>,
}

impl Change {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reroutes.is_empty()
            && self.removals.is_empty()
            && self.resizes.is_empty()
            && self.stages.iter().all(|s| s.ops.is_empty())
    }

    /// Namespaces in which anything changes.
    #[must_use]
    pub fn touched(&self) -> BTreeSet<String> {
        let removed = self.removals.iter().map(|r| r.netns().to_owned());
        let resized = self.resizes.iter().map(|r| r.ns.clone());
        let set = self.reroutes.iter().chain(self.stages.iter().flat_map(|s| &s.ops));
        removed.chain(resized).chain(set.flat_map(op_namespaces)).collect()
    }
}

fn op_namespaces(op: &Op) -> Vec<String> {
    let thing = match op {
        Op::AddVeth { a, b, .. } => return vec![a.0.clone(), b.0.clone()],
        Op::MoveLink { ns, to, .. } => return vec![ns.clone(), to.clone()],
        Op::AddNetns { ns, .. }
        | Op::SetSysctl { ns, .. }
        | Op::AddNeighbour { ns, .. }
        | Op::AddAddr { ns, .. }
        | Op::AddIpip { ns, .. }
        | Op::AddTun { ns, .. }
        | Op::SetUp { ns, .. }
        | Op::AddNetem { ns, .. }
        | Op::AddIfb { ns, .. }
        | Op::AddHooks { ns, .. }
        | Op::AddRedirect { ns, .. }
        | Op::AddRoute { ns, .. }
        | Op::AddUnreachable { ns, .. }
        | Op::AddAssociation { ns, .. }
        | Op::AddPolicy { ns, .. }
        | Op::AddRuleset { ns, .. } => ns,
    };
    vec![thing.clone()]
}

impl Removal {
    #[must_use]
    pub fn netns(&self) -> &str {
        match self {
            Self::Route { ns, .. }
            | Self::Neighbour { ns, .. }
            | Self::Qdisc { ns, .. }
            | Self::Addr { ns, .. }
            | Self::Device { ns, .. }
            | Self::Redirect { ns, .. }
            | Self::Policy { ns, .. }
            | Self::Association { ns, .. }
            | Self::Table { ns, .. }
            | Self::Sysctl { ns, .. }
            | Self::Netns { ns } => ns,
        }
    }

    /// The place of its sort in [`Change::removals`].
    fn rank(&self) -> usize {
        match self {
            Self::Route { .. } => 0,
            Self::Neighbour { .. } | Self::Qdisc { .. } | Self::Redirect { .. } => 1,
            Self::Addr { .. } => 2,
            Self::Device { .. } => 3,
            Self::Policy { .. } => 4,
            Self::Association { .. } => 5,
            Self::Table { .. } => 6,
            Self::Sysctl { .. } => 7,
            Self::Netns { .. } => 8,
        }
    }
}

/// What turns a lab built from `old` into one built from `new`. `unfinished` is what a change that was cut short was
/// making of `old`: wherever the two differ, nothing is relied on.
#[must_use]
pub fn diff(old: &Plan, unfinished: Option<&Plan>, new: &Plan) -> Change {
    let old = Present::of(old, unfinished);
    let wanted = Things::of(new);
    let mut differ = Differ::new(&old, &wanted);
    differ.remove();
    differ.set(new);
    differ.change
}

/// What is there, as far as known.
struct Present {
    things: Things,
    unsure: BTreeSet<Key>,
}

impl Present {
    fn of(old: &Plan, unfinished: Option<&Plan>) -> Self {
        let mut things = Things::of(old);
        let Some(unfinished) = unfinished else { return Self { things, unsure: BTreeSet::new() } };
        let making = Things::of(unfinished);
        let differs = |a: &Thing, b: &Things| !b.get(&a.key).is_some_and(|b| things::same(a, b));
        let mut unsure: BTreeSet<Key> = BTreeSet::new();
        for thing in things.all.iter().filter(|t| differs(t, &making)) {
            unsure.extend(thing.keys());
        }
        let mut more = Vec::new();
        for thing in making.all.iter().filter(|t| differs(t, &things)) {
            unsure.extend(thing.keys());
            more.push(thing.clone());
        }
        more.into_iter().for_each(|thing| things.push(thing));
        Self { things, unsure }
    }

    fn has(&self, key: &Key) -> bool {
        self.things.get(key).is_some() && !self.unsure.contains(key)
    }
}

struct Differ<'a> {
    old: &'a Present,
    new: &'a Things,
    /// Devices that go, for good or to be made anew.
    broken: BTreeSet<Device>,
    /// Those, and devices that lose an address: the kernel forgets the routes through them.
    disturbed: BTreeSet<Device>,
    /// Addresses that go, by namespace: the kernel forgets the routes that have them as source.
    lost: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Addresses that stay, with their namespace.
    kept: BTreeSet<(String, Ipv4Addr)>,
    /// Routes that a reroute has set for good.
    settled: BTreeSet<Key>,
    change: Change,
}

impl<'a> Differ<'a> {
    fn new(old: &'a Present, new: &'a Things) -> Self {
        let (broken, disturbed, lost) = Default::default();
        let (kept, settled, change) = Default::default();
        let mut differ = Self { old, new, broken, disturbed, lost, kept, settled, change };
        differ.find_broken();
        differ.find_lost();
        differ.reroute();
        differ.cover();
        differ
    }

    /// Whether the thing is there and stays as it is, by itself.
    fn stays(&self, thing: &Thing) -> bool {
        let same = self.new.get(&thing.key).is_some_and(|new| things::same(thing, new));
        same && !thing.keys().iter().any(|k| self.old.unsure.contains(k))
    }

    fn is_wanted(&self, ns: &str) -> bool {
        self.new.get(&Key::Netns(ns.to_owned())).is_some()
    }

    fn find_broken(&mut self) {
        for thing in &self.old.things.all {
            if matches!(thing.key, Key::Device(..)) && !self.stays(thing) {
                let ends = thing.keys().into_iter().filter_map(|k| {
                    let Key::Device(ns, dev) = k else { return None };
                    Some((ns, dev))
                });
                self.broken.extend(ends);
            }
        }
    }

    fn find_lost(&mut self) {
        self.disturbed.clone_from(&self.broken);
        for thing in &self.old.things.all {
            let Key::Addr(ns, dev, addr) = &thing.key else { continue };
            let device = (ns.clone(), dev.clone());
            if self.broken.contains(&device) || !self.stays(thing) {
                self.lost.entry(ns.clone()).or_default().insert(addr.addr());
                self.disturbed.insert(device);
            } else {
                self.kept.insert((ns.clone(), addr.addr()));
            }
        }
    }

    fn is_broken(&self, ns: &str, dev: &str) -> bool {
        self.broken.contains(&(ns.to_owned(), dev.to_owned()))
    }

    fn is_disturbed(&self, ns: &str, dev: &str) -> bool {
        self.disturbed.contains(&(ns.to_owned(), dev.to_owned()))
    }

    fn is_lost(&self, ns: &str, addr: Ipv4Addr) -> bool {
        self.lost.get(ns).is_some_and(|lost| lost.contains(&addr))
    }

    // ---- before anything goes ----------------------------------------------------------------------------

    fn reroute(&mut self) {
        for thing in &self.old.things.all {
            let Some(Op::AddRoute { ns, prefix, hops, src }) = thing.value.first() else { continue };
            let Some(new) = self.new.get(&thing.key) else { continue };
            let Some(Op::AddRoute { hops: wanted, src: wanted_src, .. }) = new.value.first() else {
                continue;
            };
            if self.old.unsure.contains(&thing.key) || (self.stays(thing) && !self.forgets(thing)) {
                continue;
            }
            let route = |hops: Vec<Hop>, src: &Option<Ipv4Addr>| Op::AddRoute {
                ns: ns.clone(),
                prefix: *prefix,
                hops,
                src: *src,
            };
            let kept = |hops: &[Hop]| -> Vec<Hop> {
                hops.iter().filter(|h| self.carries(ns, &h.dev)).cloned().collect()
            };
            let there = |src: &Option<Ipv4Addr>| src.is_none_or(|s| self.has_addr(ns, s));
            let (future, past) = (kept(wanted), kept(hops));
            if !future.is_empty() && there(wanted_src) {
                if future.len() == wanted.len() {
                    self.settled.insert(thing.key.clone());
                }
                self.change.reroutes.push(route(future, wanted_src));
            } else if !past.is_empty() && past.len() < hops.len() && there(src) {
                self.change.reroutes.push(route(past, src));
            }
        }
    }

    /// Routes merged otherwise than before: what a new route takes over from one that goes, it takes over before that goes.
    fn cover(&mut self) {
        let mut going: BTreeMap<&str, BTreeSet<Ipv4Net>> = BTreeMap::new();
        for thing in &self.old.things.all {
            if let (Key::Route(ns, prefix), None) = (&thing.key, self.new.get(&thing.key)) {
                going.entry(ns).or_default().insert(*prefix);
            }
        }
        for thing in &self.new.all {
            let Some(Op::AddRoute { ns, prefix, hops, src }) = thing.value.first() else { continue };
            let Some(going) = going.get(ns.as_str()).filter(|_| self.old.things.get(&thing.key).is_none())
            else {
                continue;
            };
            let mut above = std::iter::successors(prefix.supernet(), Ipv4Net::supernet);
            let last = Ipv4Net::from(prefix.broadcast());
            let overlaps = going.range(*prefix..=last).next().is_some() || above.any(|p| going.contains(&p));
            let there = src.is_none_or(|src| self.has_addr(ns, src));
            if overlaps && there && hops.iter().all(|hop| self.carries(ns, &hop.dev)) {
                self.settled.insert(thing.key.clone());
                self.change.reroutes.extend(thing.value.first().cloned());
            }
        }
    }

    /// Whether a device is there and keeps its addresses.
    fn carries(&self, ns: &str, dev: &str) -> bool {
        let key = Key::Device(ns.to_owned(), dev.to_owned());
        self.old.has(&key) && !self.is_disturbed(ns, dev)
    }

    /// Whether a namespace has an address and keeps it.
    fn has_addr(&self, ns: &str, addr: Ipv4Addr) -> bool {
        !self.is_lost(ns, addr) && self.kept.contains(&(ns.to_owned(), addr))
    }

    /// Whether the kernel forgets a route because of what goes.
    fn forgets(&self, thing: &Thing) -> bool {
        let Some(Op::AddRoute { ns, hops, src, .. }) = thing.value.first() else { return false };
        hops.iter().any(|h| self.is_disturbed(ns, &h.dev)) || src.is_some_and(|s| self.is_lost(ns, s))
    }

    // ---- what goes ---------------------------------------------------------------------------------------

    fn remove(&mut self) {
        let mut removals: Vec<Removal> = Vec::new();
        for thing in self.old.things.all.iter().rev() {
            removals.extend(self.removal(thing));
            removals.extend(self.half_made(thing));
        }
        let mut seen = BTreeSet::new();
        removals.retain(|r| seen.insert(r.clone()));
        removals.sort_by_key(Removal::rank);
        self.change.removals = removals;
    }

    /// `None` for what stays, or is set anew in its place, or goes with something else.
    fn removal(&self, thing: &Thing) -> Option<Removal> {
        let ns = thing.key.netns().to_owned();
        if let Key::Device(..) = &thing.key {
            return self.device_removal(thing);
        }
        let wanted = self.new.get(&thing.key).is_some();
        if let Key::Netns(_) = thing.key {
            return (!wanted).then_some(Removal::Netns { ns });
        }
        if !self.is_wanted(&ns) {
            return None;
        }
        match thing.key.clone() {
            Key::Route(_, prefix) if !wanted => {
                let goes = match thing.value.first() {
                    Some(Op::AddRoute { hops, .. }) => hops.iter().any(|h| self.is_broken(&ns, &h.dev)),
                    _ => false,
                };
                (!goes || self.old.unsure.contains(&thing.key)).then_some(Removal::Route { ns, prefix })
            }
            Key::Neighbour(_, dev, addr) if !wanted && !self.is_broken(&ns, &dev) => {
                Some(Removal::Neighbour { ns, dev, addr })
            }
            Key::Qdisc(_, dev) if !wanted && !self.is_broken(&ns, &dev) => Some(Removal::Qdisc { ns, dev }),
            Key::Addr(_, dev, addr) if !self.stays(thing) && !self.is_broken(&ns, &dev) => {
                Some(Removal::Addr { ns, dev, addr })
            }
            Key::Redirect(_, dev, hook, protocol) if !self.is_broken(&ns, &dev) => {
                let Some(Op::AddRedirect { to, .. }) = thing.value.first() else { return None };
                let goes = !self.stays(thing) || self.is_broken(&ns, to);
                goes.then_some(Removal::Redirect { ns, dev, hook, protocol })
            }
            Key::Policy(_, src, dst, direction) if !self.stays(thing) => {
                Some(Removal::Policy { ns, src, dst, direction })
            }
            Key::Association(_, dst, spi) if !self.stays(thing) => {
                let Some(Op::AddAssociation { src, .. }) = thing.value.first() else { return None };
                Some(Removal::Association { ns, src: *src, dst, spi })
            }
            Key::Table(_, table) if !wanted => Some(Removal::Table { ns, table }),
            Key::Sysctl(_, key) if !wanted => Some(Removal::Sysctl { ns, key }),
            Key::Netns(_)
            | Key::Sysctl(..)
            | Key::Device(..)
            | Key::Settings(..)
            | Key::Qdisc(..)
            | Key::Hooks(..)
            | Key::Redirect(..)
            | Key::Addr(..)
            | Key::Neighbour(..)
            | Key::Route(..)
            | Key::Policy(..)
            | Key::Association(..)
            | Key::Table(..) => None,
        }
    }

    /// A device goes by itself when all namespaces it has to do with go.
    fn device_removal(&self, thing: &Thing) -> Option<Removal> {
        let Key::Device(ns, dev) = &thing.key else { return None };
        let goes = self.is_broken(ns, dev);
        let outlived = thing.places().iter().any(|(ns, _)| self.is_wanted(ns));
        (goes && outlived).then(|| Removal::Device { ns: ns.clone(), dev: dev.clone() })
    }

    /// A tunnel of a change that was cut short may still be where it was made.
    fn half_made(&self, thing: &Thing) -> Option<Removal> {
        let unsure = thing.keys().iter().any(|k| self.old.unsure.contains(k));
        let moved = thing.value.iter().find_map(|op| {
            let Op::MoveLink { ns, dev, .. } = op else { return None };
            Some((ns.clone(), dev.clone()))
        });
        let (ns, dev) = moved.filter(|_| unsure)?;
        self.is_wanted(&ns).then_some(Removal::Device { ns, dev })
    }

    // ---- what comes --------------------------------------------------------------------------------------

    fn set(&mut self, new: &Plan) {
        let mut made: BTreeSet<(usize, usize)> = BTreeSet::new();
        for thing in &self.new.all {
            match self.fate(thing) {
                Fate::Stays => {}
                Fate::Set => made.extend(&thing.made_by),
                Fate::Replaced => {
                    made.extend(&thing.made_by);
                    self.change.replaced.insert(thing.key.clone());
                }
                Fate::Resized(resize) => self.change.resizes.push(resize),
            }
        }
        for (stage, index, op) in things::numbered(new) {
            if made.contains(&(stage, index)) {
                let op = self.in_place(op);
                match self.change.stages.last_mut() {
                    Some(last) if last.name == new.stages[stage].name => last.ops.push(op),
                    _ => {
                        let name = new.stages[stage].name.clone();
                        self.change.stages.push(Stage { name, ops: vec![op] });
                    }
                }
            }
        }
    }

    fn fate(&self, new: &Thing) -> Fate {
        if matches!(new.key, Key::Route(..)) && self.settled.contains(&new.key) {
            return Fate::Stays;
        }
        let Some(old) = self.old.things.get(&new.key) else { return Fate::Set };
        let unsure = new.keys().iter().any(|k| self.old.unsure.contains(k));
        let same = things::same(old, new) && !unsure;
        let ns = new.key.netns();
        match &new.key {
            Key::Device(_, dev) if self.is_broken(ns, dev) => Fate::Set,
            Key::Addr(_, dev, _) if !same || self.is_broken(ns, dev) => Fate::Set,
            Key::Policy(..) | Key::Association(..) if !same => Fate::Set,
            Key::Hooks(_, dev) if !same || self.is_broken(ns, dev) => Fate::Set,
            Key::Redirect(_, dev, ..) => match new.value.first() {
                Some(Op::AddRedirect { to, .. }) if same => {
                    let goes = self.is_broken(ns, dev) || self.is_broken(ns, to);
                    if goes { Fate::Set } else { Fate::Stays }
                }
                _ => Fate::Set,
            },
            Key::Settings(_, dev) | Key::Qdisc(_, dev) if self.is_broken(ns, dev) => Fate::Set,
            Key::Settings(_, dev) if !same => match new.value.first() {
                Some(Op::SetUp { mtu, .. }) if self.old.has(&Key::Device(ns.to_owned(), dev.clone())) => {
                    Fate::Resized(Resize { ns: ns.to_owned(), dev: dev.clone(), mtu: *mtu })
                }
                _ => Fate::Set,
            },
            Key::Neighbour(_, dev, _) if !same || self.is_disturbed(ns, dev) => Fate::Replaced,
            Key::Route(..) if !same || self.forgets(old) => Fate::Replaced,
            Key::Sysctl(_, key) if !same || self.is_reset(ns, key) => Fate::Set,
            Key::Netns(_) | Key::Qdisc(..) | Key::Table(..) if !same => Fate::Replaced,
            Key::Netns(_)
            | Key::Sysctl(..)
            | Key::Device(..)
            | Key::Settings(..)
            | Key::Qdisc(..)
            | Key::Hooks(..)
            | Key::Addr(..)
            | Key::Neighbour(..)
            | Key::Route(..)
            | Key::Policy(..)
            | Key::Association(..)
            | Key::Table(..) => Fate::Stays,
        }
    }

    /// Whether the kernel sets this key when forwarding changes as the new plan wants.
    fn is_reset(&self, ns: &str, key: &str) -> bool {
        let forwarding = Key::Sysctl(ns.to_owned(), FORWARDING.to_owned());
        let changes = match (self.old.things.get(&forwarding), self.new.get(&forwarding)) {
            (Some(old), Some(new)) => !things::same(old, new) || self.old.unsure.contains(&forwarding),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        changes && RESET_BY_FORWARDING.iter().any(|suffix| key.rsplit('/').next() == Some(suffix))
    }

    /// The operation, or for a table that is there the ruleset that changes it in one transaction.
    fn in_place(&self, op: &Op) -> Op {
        let Op::AddRuleset { ns, text } = op else { return op.clone() };
        let key = Key::Table(ns.clone(), things::table(text));
        let text = match self.old.things.get(&key).and_then(|old| old.value.first()) {
            Some(Op::AddRuleset { text: old, .. }) if self.old.has(&key) => transition(old, text),
            Some(_) => afresh(text),
            None => text.clone(),
        };
        Op::AddRuleset { ns: ns.clone(), text }
    }
}

/// What becomes of something that the new plan has.
enum Fate {
    Stays,
    Set,
    Replaced,
    Resized(Resize),
}

/// A ruleset that takes the place of whatever its table holds.
fn afresh(text: &str) -> String {
    let table = things::table(text);
    format!("table {table}\ndelete table {table}\n{text}")
}

/// A ruleset that turns `old` into `new` at once. Where only the elements of sets differ only those are changed, so that
/// counters go on counting.
fn transition(old: &str, new: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (old, lines) = (lines(old), lines(new));
    let mut text = String::new();
    if old.len() != lines.len() {
        return afresh(new);
    }
    for (old, line) in old.iter().zip(&lines).filter(|(old, line)| old != line) {
        let (Some((name, from)), Some((other, to))) = (set(old), set(line)) else { return afresh(new) };
        if name != other || frame(old) != frame(line) {
            return afresh(new);
        }
        let of = format!("element {} {name}", things::table(new));
        let without = |all: &BTreeSet<&str>, rest: &BTreeSet<&str>| {
            all.difference(rest).copied().collect::<Vec<_>>().join(", ")
        };
        for (verb, elements) in [("add", without(&to, &from)), ("delete", without(&from, &to))] {
            if !elements.is_empty() {
                text += &format!("{verb} {of} {{ {elements} }}\n");
            }
        }
    }
    text
}

/// Name and elements of a set written on one line.
fn set(line: &str) -> Option<(&str, BTreeSet<&str>)> {
    let name = line.trim().strip_prefix("set ")?.split_whitespace().next()?;
    let elements = line.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}'));
    let elements = elements.map_or(BTreeSet::new(), |(inside, _)| {
        inside.split(',').map(str::trim).filter(|e| !e.is_empty()).collect()
    });
    Some((name, elements))
}

/// A set without its elements.
fn frame(line: &str) -> String {
    match line.split_once(" elements = {").and_then(|(before, rest)| Some((before, rest.split_once("};")?.1)))
    {
        Some((before, after)) => format!("{before}{after}"),
        None => line.to_owned(),
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { ns, prefix } => write!(f, "ip -n {ns} route del {prefix}"),
            Self::Neighbour { ns, dev, addr } => write!(f, "ip -n {ns} neighbour del {addr} dev {dev}"),
            Self::Qdisc { ns, dev } => write!(f, "tc -n {ns} qdisc del dev {dev} root"),
            Self::Addr { ns, dev, addr } => write!(f, "ip -n {ns} addr del {addr} dev {dev}"),
            Self::Device { ns, dev } => write!(f, "ip -n {ns} link del dev {dev}"),
            Self::Redirect { ns, dev, hook, protocol } => {
                write!(
                    f,
                    "tc -n {ns} filter del dev {dev} {hook} prio {} protocol {protocol:#06x}",
                    super::priority(*protocol)
                )
            }
            Self::Policy { ns, src, dst, direction } => {
                write!(f, "ip -n {ns} xfrm policy del src {src}/32 dst {dst}/32 proto 4 dir {direction}")
            }
            Self::Association { ns, src, dst, spi } => {
                write!(f, "ip -n {ns} xfrm state del src {src} dst {dst} proto esp spi 0x{spi:08x}")
            }
            Self::Table { ns, table } => write!(f, "ip netns exec {ns} nft delete table {table}"),
            Self::Sysctl { ns, key } => {
                write!(f, "ip netns exec {ns} sysctl -qw {key}=\"$(unshare -n sysctl -n {key})\"")
            }
            Self::Netns { ns } => write!(f, "ip netns del {ns}"),
        }
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip -n {} link set dev {} mtu {}", self.ns, self.dev, self.mtu)
    }
}

impl Change {
    /// An operation of the stages as text: `replace` where it may meet what is there.
    fn text(&self, op: &Op) -> String {
        let replaced = |key: Key, verb: &str| {
            let text = op.to_string();
            if self.replaced.contains(&key) { text.replacen(verb, "replace", 1) } else { text }
        };
        match op {
            Op::AddRoute { ns, prefix, .. } | Op::AddUnreachable { ns, prefix } => {
                replaced(Key::Route(ns.clone(), *prefix), "add")
            }
            Op::AddNeighbour { ns, dev, addr, .. } => {
                replaced(Key::Neighbour(ns.clone(), dev.clone(), *addr), "add")
            }
            Op::AddNetns { .. }
            | Op::SetSysctl { .. }
            | Op::AddVeth { .. }
            | Op::AddAddr { .. }
            | Op::AddNetem { .. }
            | Op::AddIfb { .. }
            | Op::AddHooks { .. }
            | Op::AddRedirect { .. }
            | Op::AddIpip { .. }
            | Op::AddTun { .. }
            | Op::MoveLink { .. }
            | Op::SetUp { .. }
            | Op::AddAssociation { .. }
            | Op::AddPolicy { .. }
            | Op::AddRuleset { .. } => op.to_string(),
        }
    }

    /// The change as sections of lines that a root shell takes, each with its title.
    #[must_use]
    pub fn sections(&self) -> Vec<(String, Vec<String>)> {
        let reroutes =
            self.reroutes.iter().map(|op| op.to_string().replacen("route add", "route replace", 1));
        let mut sections = vec![
            ("reroute".to_owned(), reroutes.collect()),
            ("remove".to_owned(), self.removals.iter().map(ToString::to_string).collect()),
            ("resize".to_owned(), self.resizes.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ];
        for stage in &self.stages {
            sections.push((stage.name.clone(), stage.ops.iter().map(|op| self.text(op)).collect()));
        }
        sections.retain(|(_, lines)| !lines.is_empty());
        sections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strong(elements: &str) -> String {
        format!("table inet t {{\n  counter c {{ }}\n  set la {{ type ifname . ipv4_addr;{elements} }}\n}}\n")
    }

    /// A node with one device and these routes through it.
    fn routes(prefixes: &[&str]) -> Plan {
        let ns = || "b.X".to_owned();
        let dev = || "e-Y".to_owned();
        let mut ops = vec![
            Op::AddNetns { ns: ns(), owner: None },
            Op::AddTun { ns: ns(), dev: dev(), info: false },
            Op::SetUp { ns: ns(), dev: dev(), mtu: 1500 },
        ];
        ops.extend(prefixes.iter().map(|prefix| Op::AddRoute {
            ns: ns(),
            prefix: prefix.parse().unwrap(),
            hops: vec![Hop { via: None, dev: dev() }],
            src: None,
        }));
        Plan { stages: vec![Stage { name: "all".to_owned(), ops }], ..Plan::default() }
    }

    #[test]
    fn routes_merged_otherwise_come_before_those_go_that_they_replace() {
        let merged = ["10.0.0.0/30", "10.0.1.0/32"];
        let split = ["10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/31", "10.0.2.0/32"];
        for (old, new, first) in [(&merged[..], &split[..], 3), (&split, &merged, 1)] {
            let change = diff(&routes(old), None, &routes(new));
            let text: Vec<String> = change.reroutes.iter().map(ToString::to_string).collect();
            assert_eq!(change.reroutes.len(), first, "{text:?}");
            assert_eq!(change.removals.len(), old.len());
            let set: Vec<&Op> = change.stages.iter().flat_map(|s| &s.ops).collect();
            assert_eq!(
                set.len(),
                new.len() - first,
                "what takes nothing over comes last, and nothing comes twice"
            );
        }
    }

    #[test]
    fn elements_of_a_set_change_in_place() {
        let (none, one) = (strong(""), strong(" elements = { \"t-Y\" . 172.16.0.0 };"));
        let two = strong(" elements = { \"t-Y\" . 172.16.0.0, \"t-Z\" . 172.16.0.2 };");
        assert_eq!(transition(&none, &one), "add element inet t la { \"t-Y\" . 172.16.0.0 }\n");
        assert_eq!(transition(&two, &one), "delete element inet t la { \"t-Z\" . 172.16.0.2 }\n");
        assert_eq!(transition(&one, &none), "delete element inet t la { \"t-Y\" . 172.16.0.0 }\n");
    }

    #[test]
    fn any_other_difference_replaces_the_table() {
        let (old, new) = (strong(""), strong("").replace("counter c", "counter d"));
        assert_eq!(transition(&old, &new), format!("table inet t\ndelete table inet t\n{new}"));
    }
}
