//! Batches that keep order where it matters. A run of netlink operations goes in; batches, one namespace or all
//! veths each, come out. An operation never overtakes another of its namespace, nor a device on its way there.

use std::collections::BTreeMap;

use super::namespace;
use crate::plan::Op;

/// What one datagram carries.
#[derive(Debug, PartialEq)]
pub(super) enum Batch<'a> {
    Veths(Vec<&'a Op>),
    In(&'a str, Vec<&'a Op>),
}

/// When a namespace may be used again, in rounds of batches.
#[derive(Debug, Default, Clone, Copy)]
struct Ready {
    /// The round before which nothing more may be sent to it.
    any: usize,
    /// The same for a veth end, which waits for moves but not for other operations.
    veth: usize,
}

/// Each operation goes to the earliest round that its namespaces allow. In a round the veths come first, so an
/// operation on one may share the round of the veth.
pub(super) fn batches(run: &[Op]) -> Vec<Batch<'_>> {
    let mut ready: BTreeMap<&str, Ready> = BTreeMap::new();
    let mut rounds: Vec<(Vec<&Op>, BTreeMap<&str, Vec<&Op>>)> = Vec::new();
    for op in run {
        let round = place(op, &mut ready);
        if rounds.len() <= round {
            rounds.resize_with(round + 1, Default::default);
        }
        match op {
            Op::AddVeth { .. } => rounds[round].0.push(op),
            _ => rounds[round].1.entry(namespace(op)).or_default().push(op),
        }
    }
    rounds.into_iter().flat_map(in_order).collect()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only two operations touch two namespaces")]
fn place<'a>(op: &'a Op, ready: &mut BTreeMap<&'a str, Ready>) -> usize {
    match op {
        Op::AddVeth { a, b, .. } => {
            let at = |ns: &String| ready.get(ns.as_str()).map_or(0, |r| r.veth);
            let round = at(&a.0).max(at(&b.0));
            for end in [a, b] {
                let r = ready.entry(&end.0).or_default();
                r.any = r.any.max(round);
            }
            round
        }
        Op::MoveLink { ns, to, .. } => {
            let from = ready.entry(ns).or_default();
            let round = from.any;
            // A later veth may take the name that is free from then on.
            from.veth = from.veth.max(round + 1);
            let target = ready.entry(to).or_default();
            target.any = target.any.max(round + 1);
            target.veth = target.veth.max(round + 1);
            round
        }
        other => ready.entry(namespace(other)).or_default().any,
    }
}

fn in_order<'a>((veths, lanes): (Vec<&'a Op>, BTreeMap<&'a str, Vec<&'a Op>>)) -> Vec<Batch<'a>> {
    let first = (!veths.is_empty()).then_some(Batch::Veths(veths));
    first.into_iter().chain(lanes.into_iter().map(|(ns, ops)| Batch::In(ns, ops))).collect()
}
