//! What a plan makes, by what the kernel tells things apart. A [`Plan`] goes in; its [`Thing`]s come out, in the order
//! in which they are made. It never knows whether any of them is there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Direction, Hook, Op, Plan};

/// What the kernel has one of at most. The first string is the namespace, the second the device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    Netns(String),
    /// By its path under `/proc/sys`.
    Sysctl(String, String),
    Device(String, String),
    /// MTU and state of a device.
    Settings(String, String),
    Qdisc(String, String),
    /// clsact.
    Hooks(String, String),
    /// By hook and EtherType.
    Redirect(String, String, Hook, u16),
    Addr(String, String, Ipv4Net),
    Neighbour(String, String, Ipv4Addr),
    Route(String, Ipv4Net),
    /// A table of nftables, by family and name.
    Table(String, String),
    /// A security policy, by source and destination.
    Policy(String, Ipv4Addr, Ipv4Addr, Direction),
    /// A security association, by destination and SPI.
    Association(String, Ipv4Addr, u32),
}

impl Key {
    /// The namespace it is in.
    #[must_use]
    pub fn netns(&self) -> &str {
        match self {
            Self::Netns(ns)
            | Self::Sysctl(ns, _)
            | Self::Device(ns, _)
            | Self::Settings(ns, _)
            | Self::Qdisc(ns, _)
            | Self::Hooks(ns, _)
            | Self::Redirect(ns, ..)
            | Self::Addr(ns, _, _)
            | Self::Neighbour(ns, _, _)
            | Self::Route(ns, _)
            | Self::Policy(ns, ..)
            | Self::Association(ns, ..)
            | Self::Table(ns, _) => ns,
        }
    }
}

/// A device in a namespace.
pub(super) type Device = (String, String);

/// Something a plan makes.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    pub(super) key: Key,
    /// The operations that make it, in the order of the plan, written so that equal things have equal ones.
    pub(super) value: Vec<Op>,
    /// Where the plan has those operations: indices of stage and operation. None for what comes with a device.
    pub(super) made_by: Vec<(usize, usize)>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of all operations, two make a device in two places")]
impl Thing {
    /// All places where the device is, or which it does not survive: the far end of a veth, the namespace that a
    /// tunnel was made in (with the name it had there).
    pub(super) fn places(&self) -> Vec<Device> {
        let mut places = Vec::new();
        if let Key::Device(ns, dev) = &self.key {
            places.push((ns.clone(), dev.clone()));
        }
        places.extend(self.value.iter().filter_map(|op| match op {
            Op::AddVeth { b, .. } => Some(b.clone()),
            Op::AddIpip { ns, dev, .. } => Some((ns.clone(), dev.clone())),
            _ => None,
        }));
        places
    }

    /// Its keys: a veth has two, one at each end.
    pub(super) fn keys(&self) -> Vec<Key> {
        if !matches!(self.key, Key::Device(..)) {
            return vec![self.key.clone()];
        }
        let veth = self.value.iter().any(|op| matches!(op, Op::AddVeth { .. }));
        let ends = self.places().into_iter().take(if veth { 2 } else { 1 });
        ends.map(|(ns, dev)| Key::Device(ns, dev)).collect()
    }
}

/// The things of a plan.
#[derive(Debug, Clone, Default)]
pub(super) struct Things {
    /// In the order in which they are made.
    pub(super) all: Vec<Thing>,
    by_key: BTreeMap<Key, usize>,
}

impl Things {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut things = Self::default();
        for (stage, index, op) in numbered(plan) {
            things.add(op, (stage, index));
        }
        things
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Thing> {
        self.by_key.get(key).map(|at| &self.all[*at])
    }

    fn add(&mut self, op: &Op, at: (usize, usize)) {
        match op {
            Op::AddNetns { ns, .. } => self.put(Key::Netns(ns.clone()), op.clone(), at),
            Op::SetSysctl { ns, key, .. } => self.put(Key::Sysctl(ns.clone(), key.clone()), op.clone(), at),
            Op::AddVeth { a, b, macs, mtu } => {
                let value = Op::AddVeth { a: a.clone(), b: b.clone(), macs: *macs, mtu: 0 };
                let key = Key::Device(a.0.clone(), a.1.clone());
                self.put(key, value, at);
                for (ns, dev) in [a, b] {
                    self.settings(ns, dev, *mtu, None);
                }
            }
            Op::AddIpip { ns, dev, .. } => self.put(Key::Device(ns.clone(), dev.clone()), op.clone(), at),
            Op::MoveLink { ns, dev, to, name } => self.moved(ns, dev, to, name, at),
            Op::AddTun { ns, dev, .. } | Op::AddIfb { ns, dev } => {
                self.put(Key::Device(ns.clone(), dev.clone()), op.clone(), at)
            }
            Op::SetUp { ns, dev, mtu } => self.settings(ns, dev, *mtu, Some(at)),
            Op::AddNetem { ns, dev, .. } => self.put(Key::Qdisc(ns.clone(), dev.clone()), op.clone(), at),
            Op::AddHooks { ns, dev } => self.put(Key::Hooks(ns.clone(), dev.clone()), op.clone(), at),
            Op::AddRedirect { ns, dev, hook, takes, .. } => {
                self.put(Key::Redirect(ns.clone(), dev.clone(), *hook, takes.protocol()), op.clone(), at);
            }
            Op::AddAddr { ns, dev, addr, .. } => {
                self.put(Key::Addr(ns.clone(), dev.clone(), *addr), op.clone(), at);
            }
            Op::AddNeighbour { ns, dev, addr, .. } => {
                self.put(Key::Neighbour(ns.clone(), dev.clone(), *addr), op.clone(), at);
            }
            Op::AddRoute { ns, prefix, hops, src } => {
                let mut hops = hops.clone();
                hops.sort_by(|a, b| (&a.dev, a.via).cmp(&(&b.dev, b.via)));
                let value = Op::AddRoute { ns: ns.clone(), prefix: *prefix, hops, src: *src };
                self.put(Key::Route(ns.clone(), *prefix), value, at);
            }
            Op::AddUnreachable { ns, prefix } => self.put(Key::Route(ns.clone(), *prefix), op.clone(), at),
            Op::AddPolicy { ns, src, dst, direction } => {
                self.put(Key::Policy(ns.clone(), *src, *dst, *direction), op.clone(), at);
            }
            Op::AddAssociation { ns, dst, association, .. } => {
                self.put(Key::Association(ns.clone(), *dst, association.spi), op.clone(), at);
            }
            Op::AddRuleset { ns, text } => self.put(Key::Table(ns.clone(), table(text)), op.clone(), at),
        }
    }

    fn settings(&mut self, ns: &str, dev: &str, mtu: u32, at: Option<(usize, usize)>) {
        let key = Key::Settings(ns.to_owned(), dev.to_owned());
        let value = Op::SetUp { ns: ns.to_owned(), dev: dev.to_owned(), mtu };
        self.insert(Thing { key, value: vec![value], made_by: at.into_iter().collect() });
    }

    fn put(&mut self, key: Key, value: Op, at: (usize, usize)) {
        self.insert(Thing { key, value: vec![value], made_by: vec![at] });
    }

    /// What is made twice is as it was made last.
    fn insert(&mut self, thing: Thing) {
        match self.by_key.get(&thing.key) {
            Some(at) => self.all[*at] = thing,
            None => self.push(thing),
        }
    }

    /// Adds a thing that may have the key of another.
    pub(super) fn push(&mut self, thing: Thing) {
        self.by_key.extend(thing.keys().into_iter().map(|key| (key, self.all.len())));
        self.all.push(thing);
    }

    fn moved(&mut self, ns: &str, dev: &str, to: &str, name: &str, at: (usize, usize)) {
        let Some(index) = self.by_key.remove(&Key::Device(ns.to_owned(), dev.to_owned())) else { return };
        let key = Key::Device(to.to_owned(), name.to_owned());
        self.by_key.insert(key.clone(), index);
        let thing = &mut self.all[index];
        thing.key = key;
        thing.made_by.push(at);
        let (ns, dev) = (ns.to_owned(), dev.to_owned());
        thing.value.push(Op::MoveLink { ns, dev, to: to.to_owned(), name: name.to_owned() });
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of all operations, two name a tunnel before it is moved")]
/// Whether two things are the same: what a tunnel is called until it is moved makes no difference.
pub(super) fn same(a: &Thing, b: &Thing) -> bool {
    let plain = |op: &Op| match op {
        Op::AddIpip { ns, local, remote, .. } => {
            Op::AddIpip { ns: ns.clone(), dev: String::new(), local: *local, remote: *remote }
        }
        Op::MoveLink { ns, to, name, .. } => {
            Op::MoveLink { ns: ns.clone(), dev: String::new(), to: to.clone(), name: name.clone() }
        }
        other => other.clone(),
    };
    a.key == b.key && a.value.iter().map(plain).eq(b.value.iter().map(plain))
}

/// Each operation with the indices of its stage and itself.
pub(super) fn numbered(plan: &Plan) -> impl Iterator<Item = (usize, usize, &Op)> {
    let stages = plan.stages.iter().enumerate();
    stages.flat_map(|(s, stage)| stage.ops.iter().enumerate().map(move |(i, op)| (s, i, op)))
}

/// Family and name of the table that a ruleset is.
pub(super) fn table(text: &str) -> String {
    let line = text.lines().find_map(|l| l.trim().strip_prefix("table "));
    line.map_or_else(String::new, |l| l.trim_end_matches(['{', ' ']).to_owned())
}
