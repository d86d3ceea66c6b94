//! The tests `route`, `source` and `converged`. Nodes and what is expected of them go in, a verdict comes out. They
//! ask the kernel and the wire, never the computed routes alone.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::runner::Verdict;
use super::{Context, arrival, converge, fib, names};
use crate::error::{Kind, Result};
use crate::model::NodeId;
use crate::routing::Faults;

/// The next hops of the kernel of `node` towards `to`. Several links to one node count once, unless `via` names it
/// several times. An empty `via` asks that there is no route.
pub(crate) fn route(ctx: &Context<'_>, node: NodeId, to: NodeId, via: &[NodeId]) -> Result<Verdict> {
    let name = |id: &NodeId| match id.net == node.net {
        true => ctx.lab.node(*id).name.clone(),
        false => ctx.lab.full_name(*id),
    };
    let words = |nodes: &[NodeId]| {
        let names: Vec<String> = nodes.iter().map(name).collect();
        let via = if names.is_empty() { "nobody".to_owned() } else { names.join(" and ") };
        format!("{} to {} via {via}", name(&node), name(&to))
    };
    let mut expected = via.to_vec();
    expected.sort();
    let Some(address) = ctx.lab.address(to) else {
        return Ok(Verdict::of(false, words(&expected), format!("{} has no address", ctx.lab.full_name(to))));
    };
    let snapshot = converge::snapshot(ctx, node)?;
    Ok(match fib::next_hops(ctx.lab, node, &snapshot, address) {
        Ok(mut found) => {
            let once = |nodes: &[NodeId]| nodes.windows(2).all(|pair| pair[0] != pair[1]);
            if once(&expected) {
                found.dedup();
            }
            Verdict::of(found == expected, words(&expected), words(&found))
        }
        Err(why) => {
            let found = format!("{} to {}: {why}", name(&node), name(&to));
            Verdict::of(expected.is_empty(), words(&expected), found)
        }
    })
}

/// The source address under which what `from` sends arrives at `to`, measured there.
pub(crate) fn source(ctx: &Context<'_>, from: NodeId, to: NodeId, is: Ipv4Addr) -> Result<Verdict> {
    let named = |addr: Ipv4Addr| match ctx.lab.address(from) == Some(addr) {
        true => format!("source {addr} ({})", ctx.lab.node(from).name),
        false => match ctx.lab.addresses(from).any(|a| a == addr) {
            true => format!("source {addr} (an interface of {})", ctx.lab.node(from).name),
            false => format!("source {addr} ({})", names::name_of(ctx.lab, from.net, addr)),
        },
    };
    let Some(address) = ctx.lab.address(to) else {
        return Ok(Verdict::of(false, named(is), format!("{} has no address", ctx.lab.full_name(to))));
    };
    let flight = arrival::fly(ctx, from, to, address)?;
    Ok(match flight.arrived {
        Some(arrived) => Verdict::of(arrived.header.src == is, named(is), named(arrived.header.src)),
        None => Verdict::of(false, named(is), flight.failure()),
    })
}

/// Whether the kernel's routes are those expected under `faults`, within `patience`.
pub(crate) fn converged(ctx: &Context<'_>, faults: &Faults, patience: Duration) -> Result<Verdict> {
    let expected = "the kernels' routes are the computed ones";
    match converge::converge(ctx, faults, patience, &mut |_, _| ()) {
        Ok(_) => Ok(Verdict::of(true, expected.into(), expected.into())),
        Err(e) if e.kind() == Kind::Failed => {
            Ok(Verdict { holds: false, expected: vec![expected.into()], measured: e.causes().to_vec() })
        }
        Err(e) => Err(e),
    }
}
