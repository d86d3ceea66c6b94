//! The test `isolated`. Networks go in; a verdict comes out, which names probes of one network that arrived in
//! another or were answered from there. It never passes on silence alone: each sender must reach its own network at
//! the same time, unless all its links are down or lose what they carry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::arrival::Listener;
use super::patience::{HOPELESS, Ways};
use super::probe::{Battery, Fate, Pace, Shot};
use super::runner::Verdict;
use super::{Context, each, names};
use crate::error::Result;
use crate::model::{EndId, NetId, NodeId};
use crate::routing::{Expected, Faults, Journeys};

/// Probes of one test at most; above it, the addresses are dealt out to the senders in turn.
const MOST: usize = 60_000;
/// Failures shown by name.
const SHOWN: usize = 8;
/// Control probes are sent last, so what is slower than the slowest of them by more than `linger` is not waited for.
const PACE: Pace = Pace {
    retry: Duration::from_millis(300),
    attempts: 5,
    errors_settle: false,
    deadline: Duration::from_secs(10),
    linger: Duration::from_millis(200),
};

/// Every node of each network probes the addresses of every other network, and the nodes it has links to. Every node
/// also listens: an address that both networks have ("ships in the night") may answer, but the probe must not
/// arrive in the other network.
pub(crate) fn test(ctx: &Context<'_>, faults: &Faults, networks: &[NetId]) -> Result<Verdict> {
    let mut foreign = Vec::new();
    for from in networks {
        for to in networks.iter().filter(|to| *to != from) {
            foreign.extend(foreign_shots(ctx, *from, *to, MOST / (networks.len() * networks.len()).max(1)));
        }
    }
    let nodes: Vec<NodeId> =
        networks.iter().flat_map(|n| ctx.lab.net(*n).nodes.iter().map(|n| n.id)).collect();
    let controls = control_shots(ctx, faults, &nodes);
    let shots: Vec<Shot> = foreign.iter().chain(&controls).copied().collect();
    let listeners = each(&nodes, |id| Ok((*id, Listener::open(ctx, *id)?)))?;
    let mut battery = Battery::open(ctx, nodes.iter().copied(), false)?;
    // Once before, so that neighbours are resolved and queues along the way stay short.
    let ways = Ways::to_neighbours(ctx, &nodes);
    battery.fire(&controls, &ways.persistent(&Pace { linger: Duration::ZERO, ..PACE }, controls.len()))?;
    let fates = battery.fire(&shots, &ways.persistent(&PACE, shots.len()))?;
    let mut volley =
        Volley { shots: &shots, fates: &fates, foreign: foreign.len(), arrived: BTreeMap::new() };
    for (node, listener) in &listeners {
        for number in listener.arrived(battery.mark())? {
            if volley.is_foreign(number, *node) {
                volley.arrived.entry(number).or_insert(*node);
            }
        }
    }
    Ok(volley.judge(ctx))
}

fn network_addresses(ctx: &Context<'_>, net: NetId) -> BTreeSet<Ipv4Addr> {
    ctx.lab.net(net).nodes.iter().flat_map(|n| ctx.lab.addresses(n.id)).collect()
}

/// From each node of `from` to each address of `to`; at most `most`, dealt out so that every address is tried from
/// somewhere.
fn foreign_shots(ctx: &Context<'_>, from: NetId, to: NetId, most: usize) -> Vec<Shot> {
    let targets: Vec<Ipv4Addr> = network_addresses(ctx, to).into_iter().collect();
    let senders = &ctx.lab.net(from).nodes;
    let stride = (senders.len() * targets.len()).div_ceil(most.max(1)).max(1);
    let mut shots = Vec::new();
    for (i, sender) in senders.iter().enumerate() {
        let chosen = targets.iter().enumerate().filter(|(j, _)| (i + j) % stride == 0);
        shots.extend(chosen.map(|(_, to)| Shot { required: false, ..Shot::new(sender.id, *to) }));
    }
    shots
}

/// From each node to those that it has links to which carry something.
fn control_shots(ctx: &Context<'_>, faults: &Faults, nodes: &[NodeId]) -> Vec<Shot> {
    let expected = Expected::compute(ctx.lab, ctx.rib, faults);
    let journeys = Journeys::new(ctx.lab, ctx.rib);
    let carries = |end: &&EndId| {
        let back = EndId { side: 1 - end.side, ..**end };
        let share = journeys.over(**end).then(journeys.over(back)).delivered;
        expected.cut.is_alive(end.link) && share >= HOPELESS
    };
    let of_node = |id: &NodeId| {
        let ends = ctx.lab.node(*id).ends.iter().filter(carries);
        ends.map(|end| Shot::new(*id, ctx.lab.peer(*end).addr)).collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of_node).collect()
}

/// Foreign probes first, then control probes, and where foreign probes arrived.
#[derive(Debug)]
struct Volley<'a> {
    shots: &'a [Shot],
    fates: &'a [Fate],
    foreign: usize,
    /// Foreign probes that arrived in a network they were not sent in.
    arrived: BTreeMap<usize, NodeId>,
}

impl Volley<'_> {
    fn is_foreign(&self, number: usize, at: NodeId) -> bool {
        self.shots.get(number).is_some_and(|shot| shot.from.net != at.net)
    }

    fn judge(&self, ctx: &Context<'_>) -> Verdict {
        let leaks: Vec<String> = (0..self.foreign).filter_map(|i| self.leak(ctx, i)).collect();
        let reaches = self.reaches();
        let deaf: Vec<NodeId> = reaches.iter().filter(|(_, ok)| !**ok).map(|(id, _)| *id).collect();
        let text = |leaks, hearing| {
            let (probes, nodes) = (self.foreign, reaches.len());
            vec![
                format!("{leaks} of {probes} probes into another network got there"),
                format!("{hearing} of {nodes} nodes reach a neighbour of their own"),
            ]
        };
        let mut measured = text(leaks.len(), reaches.len() - deaf.len());
        measured.extend(leaks.iter().take(SHOWN).cloned());
        measured.extend(
            deaf.iter().take(SHOWN).map(|id| format!("{} reaches no neighbour", ctx.lab.full_name(*id))),
        );
        let holds = leaks.is_empty() && deaf.is_empty() && self.foreign > 0;
        Verdict { holds, expected: text(0, reaches.len()), measured }
    }

    /// Which senders reached a neighbour of their own.
    fn reaches(&self) -> BTreeMap<NodeId, bool> {
        let mut reaches = BTreeMap::new();
        for (shot, fate) in self.shots.iter().zip(self.fates).skip(self.foreign) {
            *reaches.entry(shot.from).or_default() |= matches!(fate, Fate::Answered { .. });
        }
        reaches
    }

    /// In words, how foreign probe `i` got out of its network, if it did.
    fn leak(&self, ctx: &Context<'_>, i: usize) -> Option<String> {
        let (lab, shot) = (ctx.lab, self.shots[i]);
        let sender = lab.full_name(shot.from);
        if let Some(at) = self.arrived.get(&i) {
            return Some(format!("{sender} reaches {} ({})", lab.full_name(*at), shot.to));
        }
        let answered = matches!(self.fates[i], Fate::Answered { .. });
        let outside = lab.owner(shot.from.net, shot.to).is_none();
        let owner = || names::name_of(lab, shot.from.net, shot.to);
        (answered && outside).then(|| format!("{sender} is answered by {}", owner()))
    }
}
