//! What the routes must be while links and nodes are down. A [`Lab`], its [`Rib`] and the [`Faults`] go in; the
//! [`Expected`] routes of every node come out, network by network from the base up. It never looks at the kernel.
//!
//! Setting a link down sets both its devices down. Setting a node down sets its devices down and those of all nodes
//! placed on it; the far ends of its wires go with them, as a wire loses its carrier, but those of its virtual links
//! stay up, as a tunnel has none. A network with static routes does not react, but the kernel takes the next hops
//! through a device that is down out of the routes of its own node. Dynamic routing takes every path that is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Rib, Route, fabric};
use crate::model::{
    BASE, Emulated, EndId, GATEWAYS, Lab, Link, LinkId, NetId, Network, NodeId, Resolve, Routing, Target,
};

/// Links that a packet sent with TTL 64 can pass: each router on the way needs one more than nothing left.
const FARTHEST: usize = 64;

/// Links and nodes that somebody set down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Faults {
    pub links: BTreeSet<LinkId>,
    pub nodes: BTreeSet<NodeId>,
}

impl Faults {
    /// Only this one.
    #[must_use]
    pub fn of(target: Target) -> Self {
        let mut faults = Self::default();
        faults.set(target, true);
        faults
    }

    /// Notes that `target` is down, or that it is not.
    pub fn set(&mut self, target: Target, down: bool) {
        match (target, down) {
            (Target::Link(link), true) => drop(self.links.insert(link)),
            (Target::Link(link), false) => drop(self.links.remove(&link)),
            (Target::Node(node), true) => drop(self.nodes.insert(node)),
            (Target::Node(node), false) => drop(self.nodes.remove(&node)),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.nodes.is_empty()
    }

    /// Whether a node, or one that it is placed on, is down.
    #[must_use]
    pub fn node_is_down(&self, lab: &Lab, node: NodeId) -> bool {
        std::iter::successors(Some(node), |id| lab.node(*id).at).any(|id| self.nodes.contains(&id))
    }

    /// The ends whose devices are down.
    #[must_use]
    pub fn ends(&self, lab: &Lab) -> BTreeSet<EndId> {
        if self.is_empty() {
            return BTreeSet::new();
        }
        let sides = |link: &Link| [0, 1].map(|side| EndId { link: link.id, side });
        let down = |end: &EndId| {
            let wire = matches!(end.link.net, BASE | GATEWAYS);
            self.links.contains(&end.link)
                || self.node_is_down(lab, lab.end(*end).node)
                || self.node_is_down(lab, lab.site(lab.end(*end)).partition)
                || (wire && self.node_is_down(lab, lab.peer(*end).node))
        };
        lab.links().flat_map(sides).filter(down).collect()
    }
}

/// What is not there for routing to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cut {
    /// Ends whose devices are down: their prefixes are not announced.
    pub down: BTreeSet<EndId>,
    /// Virtual links whose devices are up, but what lies below loses packets of theirs.
    pub dead: BTreeSet<LinkId>,
}

impl Cut {
    #[must_use]
    pub fn is_up(&self, end: EndId) -> bool {
        !self.down.contains(&end)
    }

    /// Whether packets pass the link in both directions.
    #[must_use]
    pub fn is_alive(&self, link: LinkId) -> bool {
        !self.dead.contains(&link) && [0, 1].iter().all(|side| self.is_up(EndId { link, side: *side }))
    }

    fn touches(&self, lab: &Lab, net: NetId) -> bool {
        let down = |end: &EndId| {
            let site = lab.site(lab.end(*end));
            lab.end(*end).node.net == net || site.partition.net == net
        };
        self.dead.iter().any(|l| l.net == net) || self.down.iter().any(down)
    }
}

/// The routes every node must have, and why they are not those of a lab without faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Without the connected ones. Of the unknown networks, what they would be if nobody reacted.
    pub rib: Rib,
    pub cut: Cut,
    /// Networks whose routes nobody can compute: those without routing of vilab's making, and those whose dynamic
    /// routing rides on such a network.
    pub unknown: BTreeSet<NetId>,
}

impl Expected {
    /// `rib` is that of the lab without faults.
    #[must_use]
    pub fn compute(lab: &Lab, rib: &Rib, faults: &Faults) -> Self {
        let mut down = faults.ends(lab);
        loop {
            let expected = Self::with_down(lab, rib, down.clone());
            let lost = expected.lost_ports(lab);
            if lost.is_subset(&down) {
                return expected;
            }
            down.extend(lost);
        }
    }

    fn with_down(lab: &Lab, rib: &Rib, down: BTreeSet<EndId>) -> Self {
        let cut = Cut { down, dead: BTreeSet::new() };
        let mut expected = Self { rib: Rib::default(), cut, unknown: BTreeSet::new() };
        let mut networks: Vec<&Network> = lab.networks.iter().collect();
        networks.sort_by_key(|n| (n.depth, n.id));
        for network in networks {
            expected.add_network(lab, rib, network);
        }
        for emulated in &lab.emulated {
            if emulated.resolve == Resolve::Exchange {
                fabric::add_edges(lab, &mut expected.rib, emulated, &expected.cut);
                // Whoever knows the router's routes knows its edges'.
                let known = !expected.unknown.contains(&emulated.router.net);
                expected.unknown.retain(|net| *net != emulated.fabric);
                expected.unknown.extend((!known).then_some(emulated.fabric));
            }
        }
        expected
    }

    /// The ends of emulated routers at ports that do not reach the others: such a router takes these down.
    fn lost_ports(&self, lab: &Lab) -> BTreeSet<EndId> {
        let mut lost = BTreeSet::new();
        for emulated in lab.emulated.iter().filter(|e| e.resolve == Resolve::Exchange) {
            let ports = &emulated.ports;
            let joined = |a: usize, b: usize| {
                let inside = emulated.inside(lab, &ports[a], &ports[b]);
                inside.is_some_and(|end| self.cut.is_alive(end.link))
            };
            let whole = fabric::whole(ports.len(), &joined);
            lost.extend((0..ports.len()).filter(|p| !whole.contains(p)).map(|p| ports[p].end));
        }
        lost
    }

    /// The ends through which routes of a node leave that the kernel does not make itself, connected: for each end
    /// that is up, where the node's host address is the source on all links.
    pub fn connected(&self, lab: &Lab, node: NodeId) -> impl Iterator<Item = EndId> {
        let node = lab.node(node);
        let ends = node.ends.iter().chain(&node.wires).copied();
        ends.filter(|e| node.host.is_some() && self.cut.is_up(*e))
    }

    /// The networks below have been added before.
    fn add_network(&mut self, lab: &Lab, rib: &Rib, network: &Network) {
        let net = network.id;
        let guessed = network.over.is_some_and(|below| !self.carries_as_computed(lab, below));
        if !guessed {
            let dead = network.links.iter().filter(|link| !self.is_carried(lab, link));
            let dead: Vec<LinkId> = dead.map(|link| link.id).collect();
            self.cut.dead.extend(dead);
        }
        let dynamic = network.routing.is_dynamic();
        if network.routing == Routing::None || (dynamic && guessed) {
            self.unknown.insert(net);
        }
        if dynamic && !guessed && self.cut.touches(lab, net) {
            self.rib.tables.extend(Rib::of_network_without(lab, net, &self.cut).tables);
        } else {
            self.copy(rib, network);
            self.take_next_hops(lab, network);
        }
    }

    /// Whether the routes of a network and of all below it are computed.
    fn carries_as_computed(&self, lab: &Lab, net: NetId) -> bool {
        let below = lab.foundations(net);
        below.into_iter().all(|net| lab.net(net).routing != Routing::None && !self.unknown.contains(&net))
    }

    fn copy(&mut self, rib: &Rib, network: &Network) {
        let tables = network.nodes.iter().filter_map(|n| Some((n.id, rib.tables.get(&n.id)?.clone())));
        self.rib.tables.extend(tables);
    }

    /// What the kernel does where nobody reacts.
    fn take_next_hops(&mut self, lab: &Lab, network: &Network) {
        if !self.cut.touches(lab, network.id) {
            return;
        }
        for node in &network.nodes {
            let Some(table) = self.rib.tables.get_mut(&node.id) else { continue };
            for route in table.iter_mut() {
                route.hops.retain(|end| self.cut.is_up(*end));
            }
            table.retain(|route| !route.hops.is_empty());
        }
    }

    /// Whether what lies below a link whose devices are up carries its packets, both ways; of several strands one is
    /// enough, as those that are not well are left out.
    fn is_carried(&self, lab: &Lab, link: &Link) -> bool {
        let up = [0, 1].iter().all(|side| self.cut.is_up(EndId { link: link.id, side: *side }));
        let [there, back] = [0, 1].map(|side| lab.ways(EndId { link: link.id, side }));
        let passes = |(from, to)| self.delivers(lab, from, to);
        let mut both = there.iter().copied().zip(back);
        !up || there.is_empty() || both.any(|(there, back)| passes(there) && passes(back))
    }

    /// Whether every packet that `from` sends to `to`, an address of the same network, arrives: over each of the
    /// paths of equal cost, as the sender cannot know which of them a flow takes.
    #[must_use]
    pub fn delivers(&self, lab: &Lab, from: NodeId, to: Ipv4Addr) -> bool {
        self.longest_way(lab, from, to, FARTHEST, &mut BTreeMap::new()).is_some()
    }

    /// Links on the longest of the ways to `to`; `None` if one of them ends anywhere else or has more than `most`.
    /// `known` holds `None` for nodes that are being looked at, too: to come back to one is a loop.
    fn longest_way(
        &self,
        lab: &Lab,
        node: NodeId,
        to: Ipv4Addr,
        most: usize,
        known: &mut BTreeMap<NodeId, Option<usize>>,
    ) -> Option<usize> {
        if lab.addresses(node).any(|a| a == to) {
            return Some(0);
        }
        if let Some(found) = known.get(&node) {
            return found.filter(|links| *links <= most);
        }
        let left = most.checked_sub(1)?;
        if lab.emulated(node).is_some_and(|e| !self.is_whole(lab, e)) {
            return None;
        }
        known.insert(node, None);
        let route = self.rib.route(node, to)?;
        let mut longest = 0;
        for end in &route.hops {
            let next = lab.peer(*end).node;
            let arrives = lab.addresses(next).any(|a| a == to);
            if !self.cut.is_alive(end.link) || !(arrives || lab.node(next).forwards) {
                return None;
            }
            longest = longest.max(self.longest_way(lab, next, to, left, known)? + 1);
        }
        known.insert(node, Some(longest));
        Some(longest)
    }
}

impl Expected {
    /// Whether all ports of an emulated router that are up reach each other.
    fn is_whole(&self, lab: &Lab, emulated: &Emulated) -> bool {
        let lives = |end: EndId| {
            let ports = [lab.end(end).node, lab.peer(end).node];
            let port = |edge| emulated.ports.iter().find(|p| p.edge == edge);
            let used = ports.iter().all(|edge| port(*edge).is_some_and(|p| self.cut.is_up(p.end)));
            !used || self.cut.is_alive(end.link)
        };
        lab.net(emulated.fabric).links.iter().all(|l| lives(EndId { link: l.id, side: 0 }))
    }

    /// The routes of a node, ordered by prefix.
    #[must_use]
    pub fn table(&self, node: NodeId) -> &[Route] {
        self.rib.tables.get(&node).map_or(&[], Vec::as_slice)
    }
}
