//! Batches that keep order where it matters. The operations of a stage go in; batches that may be carried out one
//! after the other come out. An operation never overtakes another of its namespace, nor a device on its way there.

use std::collections::BTreeMap;

use crate::plan::Op;

/// Operations of one namespace each, by namespace.
pub(super) type ByNetns<'a> = BTreeMap<&'a str, Vec<&'a Op>>;

/// What goes to the kernel by one way. The order is that of the batches of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Netns,
    Sysctl,
    Tun,
    Veth,
    Xfrm,
    Netlink,
    Ruleset,
}

impl Class {
    fn of(op: &Op) -> Self {
        match op {
            Op::AddNetns { .. } => Self::Netns,
            Op::SetSysctl { .. } => Self::Sysctl,
            Op::AddTun { .. } => Self::Tun,
            Op::AddVeth { .. } => Self::Veth,
            Op::AddAddr { .. }
            | Op::AddIpip { .. }
            | Op::MoveLink { .. }
            | Op::SetUp { .. }
            | Op::AddNetem { .. }
            | Op::AddIfb { .. }
            | Op::AddHooks { .. }
            | Op::AddRedirect { .. }
            | Op::AddNeighbour { .. }
            | Op::AddRoute { .. }
            | Op::AddUnreachable { .. } => Self::Netlink,
            Op::AddAssociation { .. } | Op::AddPolicy { .. } => Self::Xfrm,
            Op::AddRuleset { .. } => Self::Ruleset,
        }
    }
}

/// A round of batches and the place in it: a point in time.
type Slot = (usize, Class);

/// When a namespace may be used again.
#[derive(Debug, Clone, Copy)]
struct Ready {
    /// Nothing more may be sent to it before this.
    any: Slot,
    /// The round for the next veth, which waits for moves but not for other operations.
    veth: usize,
}

impl Default for Ready {
    fn default() -> Self {
        Self { any: (0, Class::Netns), veth: 0 }
    }
}

/// Each operation goes to the earliest round that its namespaces allow.
pub(super) fn batches(ops: &[Op]) -> Vec<(Class, ByNetns<'_>)> {
    let mut ready = BTreeMap::new();
    let mut slots: BTreeMap<Slot, ByNetns<'_>> = BTreeMap::new();
    for op in ops {
        let round = round(op, &mut ready);
        slots.entry((round, Class::of(op))).or_default().entry(namespace(op)).or_default().push(op);
    }
    slots.into_iter().map(|((_, class), by_ns)| (class, by_ns)).collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only two operations touch two namespaces")]
fn round<'a>(op: &'a Op, ready: &mut BTreeMap<&'a str, Ready>) -> usize {
    match op {
        Op::AddVeth { a: (a, _), b: (b, _), .. } => {
            let at = |ns: &String| ready.get(ns.as_str()).map_or(0, |r| r.veth);
            let round = at(a).max(at(b));
            for ns in [a, b] {
                let r = ready.entry(ns).or_default();
                r.any = r.any.max((round, Class::Veth));
            }
            round
        }
        Op::MoveLink { ns, to, .. } => {
            let from = ready.entry(ns).or_default();
            let round = next(from, Class::Netlink);
            // A later veth may take the name that is free from then on.
            from.veth = from.veth.max(round + 1);
            let target = ready.entry(to).or_default();
            target.any = target.any.max((round + 1, Class::Netns));
            target.veth = target.veth.max(round + 1);
            round
        }
        other => next(ready.entry(namespace(other)).or_default(), Class::of(other)),
    }
}

/// The same round where `class` has not had its turn yet, else the one after.
fn next(ready: &mut Ready, class: Class) -> usize {
    let (round, last) = ready.any;
    let round = if class >= last { round } else { round + 1 };
    ready.any = (round, class);
    round
}

/// The namespace an operation is sent to; for a veth, that of its first end.
pub(super) fn namespace(op: &Op) -> &str {
    match op {
        Op::AddVeth { a: (ns, _), .. }
        | Op::AddNetns { ns, .. }
        | Op::SetSysctl { ns, .. }
        | Op::AddAddr { ns, .. }
        | Op::AddIpip { ns, .. }
        | Op::AddTun { ns, .. }
        | Op::MoveLink { ns, .. }
        | Op::SetUp { ns, .. }
        | Op::AddNetem { ns, .. }
        | Op::AddIfb { ns, .. }
        | Op::AddHooks { ns, .. }
        | Op::AddRedirect { ns, .. }
        | Op::AddNeighbour { ns, .. }
        | Op::AddRoute { ns, .. }
        | Op::AddUnreachable { ns, .. }
        | Op::AddAssociation { ns, .. }
        | Op::AddPolicy { ns, .. }
        | Op::AddRuleset { ns, .. } => ns,
    }
}
