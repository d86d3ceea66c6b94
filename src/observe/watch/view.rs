//! What `vilab watch` shows of a lab. Two samples and what is known of the lab go in; a [`View`] comes out, names instead of
//! numbers, as it is shown and as it is written as JSON. It asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::rates::{self, Flow, Flows, Reading, Ticks};
use crate::fastpath::Count;
use crate::model::{
    BASE, Dataplane, EndId, GATEWAYS, Impairment, Lab, Link, LinkId, LinkMeasured, Measured, NetId, Node,
    NodeId,
};
use crate::observe::events::Service;
use crate::routing::Faults;

/// The version of what [`View`] is as JSON.
pub const SCHEMA: &str = "vilab.watch/1";

/// A lab between two moments.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    pub schema: &'static str,
    /// UTC, RFC 3339, nanoseconds: of the later one.
    pub time: String,
    pub lab: String,
    /// What the rates are over; 0 in the first one, which has none.
    pub interval_ms: u64,
    /// What has been set down: `link base/X--Y`, `node blue/b`.
    pub down: Vec<String>,
    pub engine: Option<Engine>,
    pub networks: Vec<NetworkRow>,
    pub links: Vec<LinkRow>,
    pub nodes: Vec<NodeRow>,
    pub drops: Vec<DropRow>,
    pub services: Vec<Service>,
}

/// The engine of the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Engine {
    /// As processes in the lab see it.
    pub pid: i32,
    /// Of one processor; `None` where it has just been started.
    pub cpu_percent: Option<u64>,
}

/// Whether the kernels' routes are the computed ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkRow {
    pub network: String,
    pub nodes: usize,
    /// `None` where its routes are not known in advance.
    pub converged: Option<bool>,
    /// Nodes whose routes are not the computed ones.
    pub diverged: usize,
    pub first: Option<FirstDifference>,
}

/// The first route that is not as computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstDifference {
    pub node: String,
    pub prefix: String,
    pub expected: String,
    pub found: String,
}

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// The device of an end is not there.
    Gone,
    /// An end is down.
    Down,
    /// What lies below does not carry it, as computed.
    Dead,
    Up,
}

impl LinkState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Down => "down",
            Self::Dead => "dead",
            Self::Up => "up",
        }
    }
}

/// A link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkRow {
    /// `base/X--Y`.
    pub link: String,
    pub state: LinkState,
    /// From the first end to the second, and back.
    pub directions: [Direction; 2],
}

/// One direction of a link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Direction {
    pub from: String,
    pub to: String,
    /// By the end that it begins at; `None` in the first view, of a device that has just come, and where the fast path
    /// forwards past the device, which then does not count.
    pub sent: Option<Flow>,
    /// By the other end, likewise.
    pub received: Option<Flow>,
    /// By the device that it begins at, for both ways, packets a second.
    pub dropped_per_s: Option<u64>,
    /// What it shall do to packets; `None` where nothing.
    pub asked: Option<Impairment>,
    /// What it did, when that was measured last.
    pub measured: Option<Measured>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    pub node: String,
    /// Where it is placed; none of a base node.
    pub at: Option<String>,
    /// It, or what it is placed on, has been set down.
    pub down: bool,
    /// Over all its links; `None` where not all of them count, as in [`Direction`].
    pub sent: Option<Flow>,
    pub received: Option<Flow>,
}

/// Packets that a base node dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DropRow {
    pub node: String,
    pub reason: String,
    pub total: u64,
    /// `None` in the first view.
    pub per_s: Option<u64>,
}

/// What can be counted of a lab at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sample {
    /// Since watching began.
    pub(super) at: Duration,
    /// Where there is a device.
    pub(super) ends: BTreeMap<EndId, Reading>,
    /// By base node and name.
    pub(super) counters: BTreeMap<String, BTreeMap<String, u64>>,
    pub(super) engine: Option<Ticks>,
}

/// What is known of a lab beside what is counted.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) lab: &'a Lab,
    pub(super) faults: &'a Faults,
    /// Virtual links whose packets do not pass what lies below, as computed.
    pub(super) dead: &'a BTreeSet<LinkId>,
    pub(super) measured: &'a [LinkMeasured],
    /// What carries each base node.
    pub(super) dataplanes: &'a [Dataplane],
    /// Nodes that differ, and the first difference; `None` where routes are not known.
    pub(super) routes: BTreeMap<NetId, Option<(usize, Option<FirstDifference>)>>,
    pub(super) services: Vec<Service>,
    /// Ticks a second.
    pub(super) hz: u64,
}

impl Known<'_> {
    /// Whether the devices of a node count all that passes them. The fast path takes what a node of several links forwards
    /// from one to the other itself.
    fn counts_all(&self, id: NodeId) -> bool {
        let node = self.lab.node(id);
        let fast = self.dataplanes.get(node.base.index) == Some(&Dataplane::Fastpath);
        id.net == BASE || !fast || node.ends.len() < 2
    }
}

impl View {
    pub(super) fn of(known: &Known<'_>, before: Option<&Sample>, after: &Sample, time: String) -> Self {
        let lab = known.lab;
        let passed = before.map_or(Duration::ZERO, |b| after.at.saturating_sub(b.at));
        let between = Between { known, before, after, passed };
        Self {
            schema: SCHEMA,
            time,
            lab: lab.name.clone(),
            interval_ms: u64::try_from(passed.as_millis()).unwrap_or(u64::MAX),
            down: down(lab, known.faults),
            engine: after.engine.map(|ticks| Engine {
                pid: ticks.pid,
                cpu_percent: rates::processor(before.and_then(|b| b.engine), after.engine, passed, known.hz),
            }),
            networks: lab.named_networks().map(|n| between.network(n.id)).collect(),
            links: lab.links().filter(|l| is_named(lab, l)).map(|l| between.link(l)).collect(),
            nodes: lab.named_nodes().map(|n| between.node(n)).collect(),
            drops: between.drops(),
            services: known.services.clone(),
        }
    }

    /// Whether the kernels' routes are the computed ones, of all networks whose routes are known.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        self.networks.iter().all(|n| n.converged != Some(false))
    }
}

/// Whether the lab's file has a link, in contrast to one that vilab has put in for an emulated router.
fn is_named(lab: &Lab, link: &Link) -> bool {
    link.id.net == GATEWAYS || lab.named_networks().any(|n| n.id == link.id.net)
}

fn add(a: Flow, b: Flow) -> Flow {
    Flow {
        bits_per_s: a.bits_per_s.saturating_add(b.bits_per_s),
        packets_per_s: a.packets_per_s.saturating_add(b.packets_per_s),
    }
}

/// What has been set down, by name.
fn down(lab: &Lab, faults: &Faults) -> Vec<String> {
    let links = faults.links.iter().map(|id| format!("link {}", lab.full_link_name(*id)));
    let nodes = faults.nodes.iter().map(|id| format!("node {}", lab.full_name(*id)));
    nodes.chain(links).collect()
}

struct Between<'a> {
    known: &'a Known<'a>,
    before: Option<&'a Sample>,
    after: &'a Sample,
    passed: Duration,
}

impl Between<'_> {
    fn network(&self, id: NetId) -> NetworkRow {
        let network = self.known.lab.net(id);
        let known = self.known.routes.get(&id).cloned().flatten();
        NetworkRow {
            network: network.name.clone(),
            nodes: network.nodes.len(),
            converged: known.as_ref().map(|(diverged, _)| *diverged == 0),
            diverged: known.as_ref().map_or(0, |(diverged, _)| *diverged),
            first: known.and_then(|(_, first)| first),
        }
    }

    fn reading(&self, end: EndId) -> Option<Reading> {
        self.after.ends.get(&end).copied()
    }

    fn flows(&self, end: EndId) -> Option<Flows> {
        let before = self.before.and_then(|b| b.ends.get(&end)).copied();
        Flows::between(before, self.reading(end), self.passed)
    }

    fn link(&self, link: &Link) -> LinkRow {
        let end = |side: usize| EndId { link: link.id, side };
        let name = |side: usize| self.known.lab.full_name(link.ends[side].node);
        let flows = [0, 1].map(|side| self.flows(end(side)));
        let counted = [0, 1].map(|s| flows[s].filter(|_| self.known.counts_all(link.ends[s].node)));
        let measured = self.known.measured.iter().find(|m| m.link == link.id);
        let direction = |side: usize| Direction {
            from: name(side),
            to: name(1 - side),
            sent: counted[side].map(|f| f.sent),
            received: counted[1 - side].map(|f| f.received),
            dropped_per_s: flows[side].map(|f| f.dropped_per_s),
            asked: (!link.impair[side].is_none()).then_some(link.impair[side]),
            measured: measured.and_then(|m| m.directions[side]),
        };
        let state = match [0, 1].map(|side| self.reading(end(side))) {
            [Some(a), Some(b)] if !a.stats.up || !b.stats.up => LinkState::Down,
            [Some(_), Some(_)] if self.known.dead.contains(&link.id) => LinkState::Dead,
            [Some(_), Some(_)] => LinkState::Up,
            _ => LinkState::Gone,
        };
        LinkRow { link: self.known.lab.full_link_name(link.id), state, directions: [0, 1].map(direction) }
    }

    fn node(&self, node: &Node) -> NodeRow {
        let lab = self.known.lab;
        let places = std::iter::successors(Some(node.id), |id| lab.node(*id).at);
        let ends = node.ends.iter().chain(&node.wires);
        let flows: Option<Vec<Flows>> = ends.map(|end| self.flows(*end)).collect();
        let flows = flows.filter(|_| self.known.counts_all(node.id));
        let sum = |of: fn(&Flows) -> Flow| Some(flows.as_ref()?.iter().map(of).fold(Flow::default(), add));
        NodeRow {
            node: lab.full_name(node.id),
            at: node.at.map(|at| lab.full_name(at)),
            down: places.into_iter().any(|id| self.known.faults.nodes.contains(&id)),
            sent: sum(|f| f.sent),
            received: sum(|f| f.received),
        }
    }

    /// What has dropped anything.
    fn drops(&self) -> Vec<DropRow> {
        let is_drop = |name: &str| !Count::ALL.iter().any(|c| c.as_str() == name);
        let before = |node: &str, reason: &str| {
            self.before.map(|b| b.counters.get(node).and_then(|c| c.get(reason)).copied().unwrap_or(0))
        };
        let mut rows = Vec::new();
        for (node, counters) in &self.after.counters {
            for (reason, total) in counters.iter().filter(|(name, total)| **total > 0 && is_drop(name)) {
                let per_s = before(node, reason)
                    .map(|before| rates::per_second(rates::grown(before, *total), self.passed));
                rows.push(DropRow { node: node.clone(), reason: reason.clone(), total: *total, per_s });
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;
    use crate::model::Target;
    use crate::observe::EndStats;

    fn lab() -> Lab {
        let text = "name: t\nbase: {links: [{link: X -- Y, delay: 1ms}, Y -- Z]}\nvis:\n  v: {nodes: {a: X, b: Y}, links: [a -- b]}\n";
        model::parse(Path::new("t.yaml"), text).unwrap()
    }

    fn known<'a>(lab: &'a Lab, faults: &'a Faults, dead: &'a BTreeSet<LinkId>) -> Known<'a> {
        let routes = lab.networks.iter().map(|n| (n.id, Some((0, None)))).collect();
        Known { lab, faults, dead, measured: &[], dataplanes: &[], routes, services: Vec::new(), hz: 100 }
    }

    fn sample(lab: &Lab, at: u64, bytes: u64) -> Sample {
        let ends = lab.links().flat_map(|l| [0, 1].map(|side| EndId { link: l.id, side }));
        let stats = EndStats { up: true, tx_bytes: bytes, ..EndStats::default() };
        Sample {
            at: Duration::from_secs(at),
            ends: ends.map(|end| (end, Reading { index: 3, stats })).collect(),
            ..Sample::default()
        }
    }

    #[test]
    fn links_have_rates_states_and_impairments() {
        let lab = lab();
        let mut after = sample(&lab, 3, 500);
        let yz = lab.base().links[1].id;
        after.ends.get_mut(&EndId { link: yz, side: 1 }).unwrap().stats.up = false;
        let dead = BTreeSet::from([lab.networks[1].links[0].id]);
        let faults = Faults::default();
        let view = View::of(&known(&lab, &faults, &dead), Some(&sample(&lab, 1, 0)), &after, "T".into());
        let states: Vec<_> = view.links.iter().map(|l| (l.link.as_str(), l.state)).collect();
        assert_eq!(
            states,
            [("base/X--Y", LinkState::Up), ("base/Y--Z", LinkState::Down), ("v/a--b", LinkState::Dead)]
        );
        assert_eq!(view.interval_ms, 2000);
        assert_eq!(view.links[0].directions[0].sent.unwrap().bits_per_s, 2000);
        assert_eq!(view.links[0].directions[0].asked.unwrap().delay_us, 1000);
        assert_eq!(view.nodes.iter().find(|n| n.node == "base/Y").unwrap().sent.unwrap().bits_per_s, 4000);
        after.ends.remove(&EndId { link: yz, side: 0 });
        let view = View::of(&known(&lab, &faults, &dead), None, &after, "T".into());
        assert_eq!((view.links[1].state, view.links[1].directions[0].sent), (LinkState::Gone, None));
        assert_eq!(view.links[0].directions[0].sent, None, "the first view has no rates");
    }

    #[test]
    fn what_the_fast_path_forwards_is_not_counted_by_devices() {
        let text = "name: t\nbase: {links: [X -- Y]}\nvis:\n  v: {nodes: {a: X, r: Y, b: X}, links: [a -- r -- b]}\n";
        let lab = model::parse(Path::new("t.yaml"), text).unwrap();
        let (faults, dead) = (Faults::default(), BTreeSet::new());
        let seen = |dataplane: Dataplane| {
            let dataplanes = [dataplane; 2];
            let known = Known { dataplanes: &dataplanes, ..known(&lab, &faults, &dead) };
            let view = View::of(&known, Some(&sample(&lab, 0, 0)), &sample(&lab, 1, 5), "T".into());
            let [there, back] = &view.links[1].directions;
            let router = view.nodes.iter().find(|n| n.node == "v/r").unwrap();
            let flows = [there.sent, there.received, back.sent, back.received, router.sent];
            flows.map(|flow| flow.is_some())
        };
        assert_eq!(seen(Dataplane::Kernel), [true; 5]);
        assert_eq!(seen(Dataplane::Fastpath), [true, false, false, true, false]);
    }

    #[test]
    fn what_is_placed_on_a_node_that_is_down_is_down() {
        let lab = lab();
        let x = lab.base().nodes[0].id;
        let (faults, dead) = (Faults::of(Target::Node(x)), BTreeSet::new());
        let view = View::of(&known(&lab, &faults, &dead), None, &sample(&lab, 0, 0), "T".into());
        let down: Vec<&str> = view.nodes.iter().filter(|n| n.down).map(|n| n.node.as_str()).collect();
        assert_eq!(down, ["base/X", "v/a"]);
        assert_eq!(view.down, ["node base/X"]);
    }

    #[test]
    fn drops_are_reasons_that_counted() {
        let lab = lab();
        let mut samples = [sample(&lab, 0, 0), sample(&lab, 1, 0)];
        for (sample, count) in samples.iter_mut().zip([5, 12]) {
            let counters = [("strong-host", count), ("sent", 99), ("no-link", 0)];
            let counters = counters.map(|(name, count)| (name.to_owned(), count));
            sample.counters.insert("Y".into(), counters.into());
        }
        let (faults, dead) = (Faults::default(), BTreeSet::new());
        let view = View::of(&known(&lab, &faults, &dead), Some(&samples[0]), &samples[1], "T".into());
        let row = DropRow { node: "Y".into(), reason: "strong-host".into(), total: 12, per_s: Some(7) };
        assert_eq!(view.drops, [row]);
    }
}
