//! Where the steps of a resolution are looked up: in the computed routes, or in those of the kernels. A node and an
//! address go in; what the node does with a packet for it comes out. It never follows a packet further.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Answer, Look, ends};
use crate::error::Result;
use crate::model::{BASE, Dataplane, EndId, Lab, NodeId};
use crate::netlink::monitor::{Route, RouteKind, Snapshot, TABLE_LOCAL, TABLE_MAIN};
use crate::observe::{Context, causes, converge, counters};
use crate::routing::{Expected, Faults};

const BARS: &str = "it does not forward";

/// What the routes must be.
pub(in crate::observe) struct Computed<'a> {
    lab: &'a Lab,
    expected: &'a Expected,
    /// Ends whose devices somebody set down.
    down: BTreeSet<EndId>,
}

impl<'a> Computed<'a> {
    pub(in crate::observe) fn new(lab: &'a Lab, expected: &'a Expected, faults: &Faults) -> Self {
        Self { lab, expected, down: faults.ends(lab) }
    }

    /// Whether a node takes what is for `to`; not for the address of a device that is down.
    fn is_own(&self, node: NodeId, to: Ipv4Addr) -> bool {
        let at = self.lab.node(node);
        let up = |end: &EndId| self.lab.end(*end).addr == to && !self.down.contains(end);
        let ports = self.lab.fabric(node.net).map_or(&[][..], |e| &e.ports);
        let others = ports.iter().filter(|p| p.edge != node).map(|p| self.lab.end(p.end).addr);
        at.host.into_iter().chain(at.stacked.iter().copied()).chain(others).any(|a| a == to)
            || ends(self.lab, node).any(|end| up(&end))
    }
}

impl Look for Computed<'_> {
    fn route(&mut self, node: NodeId, to: Ipv4Addr) -> Result<Answer> {
        let lab = self.lab;
        if self.is_own(node, to) {
            return Ok(Answer::Own);
        }
        let connected = ends(lab, node)
            .filter(|end| !self.down.contains(end))
            .map(|end| (Ipv4Net::new_assert(lab.end(end).addr, 31).trunc(), Some(vec![end])))
            .find(|(prefix, _)| prefix.contains(&to));
        if connected.is_none() && self.expected.unknown.contains(&node.net) {
            return Ok(Answer::Unknown);
        }
        let learnt = self.expected.table(node).iter().map(|r| (r.prefix, Some(r.hops.clone())));
        let strays = lab.refuses_strays(node).then(|| (lab.net(node.net).pool, None));
        let all = learnt.chain(strays).filter(|(prefix, _)| prefix.contains(&to)).chain(connected);
        let best = all.max_by_key(|(prefix, _)| prefix.prefix_len());
        Ok(match best {
            None => no_route(to),
            Some((prefix, None)) => refused(prefix),
            Some((prefix, Some(hops))) => Answer::Route { prefix, ends: sorted(hops) },
        })
    }

    fn is_up(&mut self, end: EndId) -> Result<bool> {
        Ok(!self.down.contains(&end))
    }

    fn bars(&mut self, node: NodeId) -> Result<Option<String>> {
        Ok((!self.lab.node(node).forwards).then(|| BARS.to_owned()))
    }
}

/// What the routes are, each node's asked for once.
pub(super) struct Measured<'a> {
    ctx: &'a Context<'a>,
    known: BTreeMap<NodeId, Snapshot>,
}

impl<'a> Measured<'a> {
    pub(super) fn new(ctx: &'a Context<'a>) -> Self {
        Self { ctx, known: BTreeMap::new() }
    }

    fn snapshot(&mut self, node: NodeId) -> Result<&Snapshot> {
        if !self.known.contains_key(&node) {
            self.known.insert(node, converge::snapshot(self.ctx, node)?);
        }
        Ok(&self.known[&node])
    }
}

impl Look for Measured<'_> {
    fn route(&mut self, node: NodeId, to: Ipv4Addr) -> Result<Answer> {
        let lab = self.ctx.lab;
        Ok(answer(lab, node, self.snapshot(node)?, to))
    }

    fn is_up(&mut self, end: EndId) -> Result<bool> {
        let lab = self.ctx.lab;
        let end = lab.end(end);
        let snapshot = self.snapshot(lab.site(end).partition)?;
        Ok(snapshot.links.values().any(|link| link.name == end.dev && link.up))
    }

    /// What the fast path forwards does not ask the kernel of its partition.
    fn bars(&mut self, node: NodeId) -> Result<Option<String>> {
        let at = self.ctx.lab.node(node);
        let by_kernel = node.net == BASE || counters::dataplane(self.ctx, at.base) == Dataplane::Kernel;
        Ok(match at.forwards {
            false => Some(BARS.to_owned()),
            true if by_kernel && !causes::forwards(self.ctx, node)? => {
                Some(format!("{BARS}: {} is 0", causes::FORWARDING))
            }
            true => None,
        })
    }
}

/// What a node whose kernel has `snapshot` does with a packet for `to`.
pub(super) fn answer(lab: &Lab, node: NodeId, snapshot: &Snapshot, to: Ipv4Addr) -> Answer {
    let usable = |r: &&Route| r.prefix.contains(&to) && !r.cached;
    let dead = |r: &Route| r.kind == RouteKind::Unicast && r.hops.is_empty();
    let mut routes = snapshot.routes.iter().filter(usable);
    if routes.clone().any(|r| r.table == TABLE_LOCAL && r.kind == RouteKind::Local) {
        return Answer::Own;
    }
    let best = routes
        .by_ref()
        .filter(|r| r.table == TABLE_MAIN && !dead(r))
        .min_by_key(|r| (32 - r.prefix.prefix_len(), r.priority));
    let Some(route) = best else { return no_route(to) };
    if route.kind != RouteKind::Unicast {
        return refused(route.prefix);
    }
    let mut found = Vec::new();
    for hop in &route.hops {
        let device = snapshot.links.get(&hop.ifindex).map_or("one that is gone", |link| link.name.as_str());
        let end = ends(lab, node).find(|end| lab.end(*end).dev == device);
        match end.filter(|end| hop.via.is_none_or(|via| via == lab.peer(*end).addr)) {
            Some(end) => found.push(end),
            None => return astray(route.prefix, device, hop.via),
        }
    }
    Answer::Route { prefix: route.prefix, ends: sorted(found) }
}

fn no_route(to: Ipv4Addr) -> Answer {
    Answer::Lost(format!("no route to {to}"))
}

fn refused(prefix: Ipv4Net) -> Answer {
    Answer::Lost(format!("what is for {prefix} is refused"))
}

fn astray(prefix: Ipv4Net, device: &str, via: Option<Ipv4Addr>) -> Answer {
    let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
    Answer::Lost(format!("the route to {prefix}{via} by device {device} leads to no node of the lab"))
}

fn sorted(mut ends: Vec<EndId>) -> Vec<EndId> {
    ends.sort();
    ends.dedup();
    ends
}
