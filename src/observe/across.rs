//! Pairs of nodes whose packets cross gateways. A [`Context`] goes in; ordered pairs that the routes say reach each
//! other come out, the same ones every time. It never sends a probe.

use std::collections::BTreeSet;

use super::{Context, reach};
use crate::model::{NetId, NodeId};

/// Nodes of each network that take part, besides those with gateways.
const OF_EACH: usize = 3;
/// Pairs at most; above it, every so many are taken.
const MOST: usize = 200;

/// A sample: from and to some nodes of each network that has gateways, and to the nodes that have them.
pub(crate) fn pairs(ctx: &Context<'_>) -> Vec<(NodeId, NodeId)> {
    let samples: Vec<(NetId, Vec<NodeId>)> =
        ctx.lab.named_networks().map(|n| (n.id, sample(ctx, n.id))).collect();
    let mut all = Vec::new();
    for (net, here) in &samples {
        let joined = ctx.lab.joined(*net);
        for (_, there) in samples.iter().filter(|(far, _)| far != net && joined.contains(far)) {
            all.extend(here.iter().flat_map(|a| there.iter().map(move |b| (*a, *b))));
        }
    }
    let stride = all.len().div_ceil(MOST).max(1);
    let some = all.into_iter().step_by(stride);
    some.filter(|(from, to)| both_ways(ctx, *from, *to)).collect()
}

/// The first, the middle and the last node of a network, and those with gateways.
fn sample(ctx: &Context<'_>, net: NetId) -> Vec<NodeId> {
    let nodes = &ctx.lab.net(net).nodes;
    let last = nodes.len().saturating_sub(1);
    let spread = (0..OF_EACH).filter_map(|i| nodes.get(i * last / (OF_EACH - 1)));
    let chosen: BTreeSet<NodeId> =
        spread.chain(nodes.iter().filter(|n| !n.wires.is_empty())).map(|n| n.id).collect();
    chosen.into_iter().collect()
}

fn both_ways(ctx: &Context<'_>, a: NodeId, b: NodeId) -> bool {
    reach::in_reach(ctx, a, b) && reach::in_reach(ctx, b, a)
}
