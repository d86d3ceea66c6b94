//! Shortest paths. A [`Lab`] goes in; a [`Rib`], every route of every namespace, comes out. It never looks at the
//! kernel: `up` and the tests compare the two.

pub mod fabric;
mod faults;
pub mod frr;
mod journey;
mod merge;
pub mod protocol;
pub mod reconfigure;
mod roles;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use faults::{Cut, Expected, Faults};
pub use journey::{Journey, Journeys};
pub use roles::{Part, carried, roles};

use crate::model::{EndId, External, Lab, NetId, Network, NodeId, Routing};

/// Computed routes of all nodes, without the connected ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rib {
    /// The routes of each node, ordered by prefix.
    pub tables: BTreeMap<NodeId, Vec<Route>>,
}

/// One prefix and all its equal-cost next hops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub prefix: Ipv4Net,
    /// The node's own ends through which to leave; the next hop's address is that of the peer end.
    pub hops: Vec<EndId>,
    /// Preferred source: the host address, where the node has one.
    pub src: Option<Ipv4Addr>,
}

/// From so many nodes on, the routes of a static network are merged: in smaller ones each node and link has its own, which is
/// easier to read.
const MERGED_FROM: usize = 65;

/// A prefix and the nodes it is attached to, or that announce it for another network.
struct Target {
    prefix: Ipv4Net,
    owners: Vec<usize>,
    external: bool,
}

impl Rib {
    /// The routes of all networks whose routing is not `none`.
    #[must_use]
    pub fn compute(lab: &Lab) -> Self {
        let mut rib = Self::default();
        for network in &lab.networks {
            rib.tables.extend(Self::of_network(lab, network.id).tables);
        }
        for emulated in &lab.emulated {
            fabric::add_edges(lab, &mut rib, emulated, &Cut::default());
        }
        rib
    }

    /// The routes of one network.
    #[must_use]
    pub fn of_network(lab: &Lab, net: NetId) -> Self {
        Self::of_network_without(lab, net, &Cut::default())
    }

    /// The routes of one network when routing has reacted to what is not there.
    #[must_use]
    pub fn of_network_without(lab: &Lab, net: NetId, cut: &Cut) -> Self {
        let network = lab.net(net);
        // The edges of an emulated router have routes of another network, its own.
        if network.routing == Routing::None || lab.fabric(net).is_some() {
            return Self::default();
        }
        let graph = Graph::new(lab, network, cut);
        let distances: Vec<Vec<Option<u64>>> =
            (0..network.nodes.len()).map(|node| graph.distances_to(node)).collect();
        let mut targets = targets(lab, network, cut);
        targets.extend(external_targets(lab, network, cut));
        let bound = merges(lab, network).then_some(network.pool.prefix_len());
        let table = |node: usize| {
            let mut table = graph.routes(lab, network, node, &targets, &distances, (cut, bound));
            table.extend(wires_left(lab, network.nodes[node].id, cut));
            table.sort_by_key(|r| r.prefix);
            table
        };
        let tables = (0..network.nodes.len()).map(|n| (network.nodes[n].id, table(n))).collect();
        Self { tables }
    }

    /// The route of `node` for `to`, if it is not its own and not connected.
    #[must_use]
    pub fn route(&self, node: NodeId, to: Ipv4Addr) -> Option<&Route> {
        let table = self.tables.get(&node)?;
        let find = |length| {
            let prefix = Ipv4Net::new(to, length).ok()?.trunc();
            table.binary_search_by_key(&prefix, |r| r.prefix).ok().map(|at| &table[at])
        };
        (0..=32).rev().find_map(find)
    }

    /// All ends through which `node` may send a packet to `to`; empty where there is no route.
    #[must_use]
    pub fn next_hops(&self, lab: &Lab, node: NodeId, to: Ipv4Addr) -> Vec<EndId> {
        let at = lab.node(node);
        let connected = at.ends.iter().chain(&at.wires).copied().find(|end| lab.peer(*end).addr == to);
        match connected {
            Some(end) => vec![end],
            None => self.route(node, to).map(|r| r.hops.clone()).unwrap_or_default(),
        }
    }

    /// The ends through which a packet leaves each node on its way from `from` to `to`, through gateways too; the
    /// first next hop where several are equal. `None` where there is no route; empty where `to` is the node's own.
    #[must_use]
    pub fn path(&self, lab: &Lab, from: NodeId, to: Ipv4Addr) -> Option<Vec<EndId>> {
        let mut path = Vec::new();
        let mut node = from;
        let most = lab.nodes().count();
        while !lab.addresses(node).any(|a| a == to) {
            let end = *self.next_hops(lab, node, to).first()?;
            path.push(end);
            node = lab.peer(end).node;
            if path.len() > most {
                return None;
            }
        }
        Some(path)
    }

    /// Every link that a packet from `from` to `to` may pass, over all equal-cost paths, each once. `None` where
    /// there is no route.
    #[must_use]
    pub fn links_between(&self, lab: &Lab, from: NodeId, to: Ipv4Addr) -> Option<Vec<EndId>> {
        let mut found: Vec<EndId> = Vec::new();
        let mut seen = std::collections::BTreeSet::from([from]);
        let mut todo = vec![from];
        while let Some(node) = todo.pop() {
            if lab.addresses(node).any(|a| a == to) {
                continue;
            }
            let hops = self.next_hops(lab, node, to);
            if hops.is_empty() {
                return None;
            }
            for end in hops {
                found.push(end);
                let next = lab.peer(end).node;
                if seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        found.sort();
        Some(found)
    }
}

/// Every prefix of a network: host and stacked addresses as /32, links as /31 at each end that is up.
fn targets(lab: &Lab, network: &Network, cut: &Cut) -> Vec<Target> {
    let mut targets: BTreeMap<Ipv4Net, Vec<usize>> = BTreeMap::new();
    for node in &network.nodes {
        for addr in node.host.iter().chain(&node.stacked) {
            targets.entry(Ipv4Net::from(*addr)).or_default().push(node.id.index);
        }
    }
    let ends = network.nodes.iter().flat_map(|n| &n.ends);
    for end in ends.filter(|e| cut.is_up(**e)).map(|e| lab.end(*e)) {
        let prefix = Ipv4Net::new_assert(end.addr, 31).trunc();
        targets.entry(prefix).or_default().push(end.node.index);
    }
    targets.into_iter().map(|(prefix, owners)| Target { prefix, owners, external: false }).collect()
}

/// The prefixes of other networks that nodes of this one announce.
fn external_targets(lab: &Lab, network: &Network, cut: &Cut) -> Vec<Target> {
    let mut targets: BTreeMap<Ipv4Net, Vec<usize>> = BTreeMap::new();
    for node in network.nodes.iter().filter(|n| !n.wires.is_empty()) {
        let is_up = |e: &External| e.ends(lab, node.id).iter().any(|end| cut.is_up(*end));
        for external in lab.externals(node.id).into_iter().filter(is_up) {
            targets.entry(external.prefix).or_default().push(node.id.index);
        }
    }
    targets.into_iter().map(|(prefix, owners)| Target { prefix, owners, external: true }).collect()
}

/// The routes that leave a node's network by its own wires.
#[must_use]
pub fn wire_routes(lab: &Lab, node: NodeId) -> Vec<Route> {
    let led = lab.externals(node).into_iter().filter(|e| !e.wires.is_empty());
    led.map(|e| Route { prefix: e.prefix, hops: e.wires, src: lab.node(node).host }).collect()
}

/// The same, over wires that are up.
fn wires_left(lab: &Lab, node: NodeId, cut: &Cut) -> Vec<Route> {
    let mut routes = wire_routes(lab, node);
    routes.iter_mut().for_each(|r| r.hops.retain(|end| cut.is_up(*end)));
    routes.retain(|r| !r.hops.is_empty());
    routes
}

/// One network's links as seen from each node.
struct Graph {
    /// For each node: the peer, the cost, the end through which to leave.
    edges: Vec<Vec<(usize, u64, EndId)>>,
    forwards: Vec<bool>,
}

impl Graph {
    fn new(lab: &Lab, network: &Network, cut: &Cut) -> Self {
        let edges_of = |end: &EndId| {
            let cost = u64::from(lab.link(end.link).cost);
            (lab.peer(*end).node.index, cost, *end)
        };
        Self {
            edges: network
                .nodes
                .iter()
                .map(|n| n.ends.iter().filter(|e| cut.is_alive(e.link)).map(edges_of).collect())
                .collect(),
            forwards: network.nodes.iter().map(|n| n.forwards).collect(),
        }
    }

    /// Dijkstra from `to`, outwards through nodes that forward. Costs are the same both ways.
    fn distances_to(&self, to: usize) -> Vec<Option<u64>> {
        let mut best: Vec<Option<u64>> = vec![None; self.edges.len()];
        let mut heap = BinaryHeap::from([Reverse((0, to))]);
        best[to] = Some(0);
        while let Some(Reverse((distance, node))) = heap.pop() {
            let stale = best[node].is_some_and(|b| b < distance);
            if stale || !(node == to || self.forwards[node]) {
                continue;
            }
            for (peer, cost, _) in &self.edges[node] {
                let through = distance + cost;
                if best[*peer].is_none_or(|b| through < b) {
                    best[*peer] = Some(through);
                    heap.push(Reverse((through, *peer)));
                }
            }
        }
        best
    }

    /// The routes of a node; with a bound, merged up to prefixes longer than that. What lies behind a device of its own that is
    /// down it may learn from others: the far end of a port that an emulated router has lost is up.
    fn routes(
        &self,
        lab: &Lab,
        network: &Network,
        node: usize,
        targets: &[Target],
        distances: &[Vec<Option<u64>>],
        (cut, bound): (&Cut, Option<u8>),
    ) -> Vec<Route> {
        let at = &network.nodes[node];
        let down: Vec<Ipv4Addr> =
            at.ends.iter().filter(|e| !cut.is_up(**e)).map(|e| lab.end(*e).addr).collect();
        let own: Vec<Ipv4Addr> = lab.addresses(at.id).filter(|a| !down.contains(a)).collect();
        let mut sets = HopSets::default();
        let hops_to: Vec<usize> =
            (0..self.edges.len()).map(|to| sets.number(self.next_hops(node, to, &distances[to]))).collect();
        let horizon = protocol::horizon(network.routing).unwrap_or(u64::MAX);
        let mine = |target: &Target| match target.external {
            true => target.owners.contains(&node),
            false => own.iter().any(|a| target.prefix.contains(a)),
        };
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for target in targets.iter().filter(|t| !mine(t)) {
            let distance = target.owners.iter().filter_map(|o| distances[*o][node]).min();
            let Some(distance) = distance.filter(|d| *d <= horizon) else { continue };
            let nearest = target.owners.iter().filter(|o| distances[**o][node] == Some(distance));
            let hops = nearest.fold(NO_HOPS, |hops, owner| sets.union(hops, hops_to[*owner]));
            let list = if target.external { &mut outside } else { &mut inside };
            list.extend((hops != NO_HOPS).then_some((target.prefix, hops)));
        }
        if let Some(bound) = bound {
            inside = merge::merged(inside, bound);
        }
        let route =
            |(prefix, hops): (Ipv4Net, usize)| Route { prefix, hops: sets.all[hops].clone(), src: at.host };
        inside.into_iter().chain(outside).map(route).collect()
    }

    /// The ends of `node` that lie on a shortest path to node `to`.
    fn next_hops(&self, node: usize, to: usize, distances: &[Option<u64>]) -> Vec<EndId> {
        let Some(distance) = distances[node].filter(|_| node != to) else { return Vec::new() };
        let on_path = |(peer, cost, _): &&(usize, u64, EndId)| {
            (*peer == to || self.forwards[*peer])
                && distances[*peer].is_some_and(|rest| rest + cost == distance)
        };
        self.edges[node].iter().filter(on_path).map(|(_, _, end)| *end).collect()
    }
}

/// Whether the routes of a network are merged. Those that routing daemons write, or that emulated routers follow prefix by
/// prefix, are not.
fn merges(lab: &Lab, network: &Network) -> bool {
    network.routing == Routing::Static
        && network.nodes.len() >= MERGED_FROM
        && lab.emulated.iter().all(|e| e.router.net != network.id)
}

/// The number of the set without hops.
const NO_HOPS: usize = 0;

/// Sets of next hops, each once, ordered and numbered: a node has few of them, and many prefixes.
struct HopSets {
    all: Vec<Vec<EndId>>,
    numbers: BTreeMap<Vec<EndId>, usize>,
    unions: BTreeMap<(usize, usize), usize>,
}

impl Default for HopSets {
    fn default() -> Self {
        let numbers = [(Vec::new(), NO_HOPS)].into();
        Self { all: vec![Vec::new()], numbers, unions: BTreeMap::new() }
    }
}

impl HopSets {
    fn number(&mut self, mut hops: Vec<EndId>) -> usize {
        hops.sort();
        hops.dedup();
        if let Some(number) = self.numbers.get(&hops) {
            return *number;
        }
        self.all.push(hops.clone());
        self.numbers.insert(hops, self.all.len() - 1);
        self.all.len() - 1
    }

    fn union(&mut self, a: usize, b: usize) -> usize {
        if a == b || b == NO_HOPS {
            return a;
        }
        if a == NO_HOPS {
            return b;
        }
        if let Some(number) = self.unions.get(&(a.min(b), a.max(b))) {
            return *number;
        }
        let number = self.number([self.all[a].as_slice(), &self.all[b]].concat());
        self.unions.insert((a.min(b), a.max(b)), number);
        number
    }
}
