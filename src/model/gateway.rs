//! Gateways: wires that join partitions of different networks on one base node, and what they make reachable. A
//! [`Lab`] and the names of the file go in; wires, and for each node the prefixes of other networks it leads to, come
//! out. It never gives an address: that is for the network of a wire's second end.
//!
//! Each network learns one prefix for every network it can reach through gateways. Fewer gateways come first (the sum
//! of their costs), and only nodes with a wire on such a shortest way announce the prefix, so that each gateway passed
//! leaves a smaller sum and no packet comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{EndId, Lab, Link, NetId, NodeId, Routing};

/// Stands for the network of a gateway's wire in [`super::LinkId`]: it belongs to two.
pub const GATEWAYS: NetId = NetId(0xffff_ffff);

/// All addresses.
const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// A wire between two nodes of different networks on one base node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    /// Both addresses are of the network of the second end.
    pub link: Link,
    /// The network of the first end gets a default route through it.
    pub default: bool,
}

/// A prefix outside a node's network that the node announces there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    pub prefix: Ipv4Net,
    /// Sum of the costs of the gateways to cross; 0 for a wire of the node itself.
    pub metric: u64,
    /// The node's ends of wires through which it leaves, all equally good; none for a connected wire.
    pub wires: Vec<EndId>,
}

impl External {
    /// The ends of `node` that it stands on: those it leads through, or of a connected wire that wire's.
    #[must_use]
    pub fn ends(&self, lab: &Lab, node: NodeId) -> Vec<EndId> {
        if !self.wires.is_empty() {
            return self.wires.clone();
        }
        let own = lab.node(node).wires.iter().copied();
        own.filter(|w| self.prefix.contains(&lab.end(*w).addr)).collect()
    }
}

impl Lab {
    /// Whether a node refuses packets for addresses of its network that no node has: it leads to a default route, and
    /// they would follow that out and the other side's route back until their TTL ends.
    #[must_use]
    pub fn refuses_strays(&self, node: NodeId) -> bool {
        let default = |w: &EndId| self.gateways.get(w.link.index).is_some_and(|gateway| gateway.default);
        self.node(node).wires.iter().any(|w| w.side == 0 && default(w))
    }

    /// Both ends of all wires.
    fn wires(&self) -> impl Iterator<Item = EndId> {
        self.gateways.iter().flat_map(|g| [0, 1].map(|side| EndId { link: g.link.id, side }))
    }

    /// The networks that gateways join with `net`, directly or through others, itself included.
    #[must_use]
    pub fn joined(&self, net: NetId) -> BTreeSet<NetId> {
        let mut found = BTreeSet::from([net]);
        let mut todo = vec![net];
        while let Some(next) = todo.pop() {
            for wire in self.wires().filter(|w| self.end(*w).node.net == next) {
                let far = self.peer(wire).node.net;
                if found.insert(far) {
                    todo.push(far);
                }
            }
        }
        found
    }

    /// The node of `net`, else of a network joined with it, that has `addr`.
    #[must_use]
    pub fn owner_near(&self, net: NetId, addr: Ipv4Addr) -> Option<NodeId> {
        let beyond = || self.joined(net).into_iter().find_map(|other| self.owner(other, addr));
        self.owner(net, addr).or_else(beyond)
    }

    /// What the addresses of a network lie in: its pool, and those given by hand outside of it.
    fn prefixes(&self, net: NetId) -> Vec<Ipv4Net> {
        let network = self.net(net);
        let strays = network.nodes.iter().filter_map(|n| n.host).filter(|h| !network.pool.contains(h));
        std::iter::once(network.pool).chain(strays.map(Ipv4Net::from)).collect()
    }

    /// The prefixes that a node with gateways announces in its network. None where nobody computes routes.
    #[must_use]
    pub fn externals(&self, node: NodeId) -> Vec<External> {
        let own: Vec<EndId> = self.node(node).wires.clone();
        if own.is_empty() || self.net(node.net).routing == Routing::None {
            return Vec::new();
        }
        let mut found = Vec::new();
        for far in self.joined(node.net).into_iter().filter(|far| *far != node.net) {
            let distances = self.distances_to(far);
            let wires = self.best(node.net, &own, |wire| self.through(wire, &distances));
            if let Some((metric, wires)) = wires {
                let one = |prefix| External { prefix, metric, wires: wires.clone() };
                found.extend(self.prefixes(far).into_iter().map(one));
            }
        }
        found.extend(self.default_external(node.net, &own));
        let second = own.iter().filter(|w| w.side == 1).map(|w| self.end(*w));
        found.extend(second.map(|end| External {
            prefix: Ipv4Net::new_assert(end.addr, 31).trunc(),
            metric: 0,
            wires: Vec::new(),
        }));
        found.sort_by_key(|e| e.prefix);
        found
    }

    fn default_external(&self, net: NetId, own: &[EndId]) -> Option<External> {
        let cost = |wire: EndId| {
            let gateway = self.gateways.get(wire.link.index)?;
            (gateway.default && wire.side == 0).then_some(u64::from(gateway.link.cost))
        };
        let (metric, wires) = self.best(net, own, cost)?;
        Some(External { prefix: ANYWHERE, metric, wires })
    }

    /// Of `own` wires, those with the least cost of all wires of network `net`, and that cost.
    fn best(
        &self,
        net: NetId,
        own: &[EndId],
        cost: impl Fn(EndId) -> Option<u64>,
    ) -> Option<(u64, Vec<EndId>)> {
        let least = self.wires().filter(|w| self.end(*w).node.net == net).filter_map(&cost).min()?;
        let wires: Vec<EndId> = own.iter().copied().filter(|w| cost(*w) == Some(least)).collect();
        (!wires.is_empty()).then_some((least, wires))
    }

    /// The cost of leaving through `wire` and going on from there.
    fn through(&self, wire: EndId, distances: &BTreeMap<NetId, u64>) -> Option<u64> {
        let rest = distances.get(&self.peer(wire).node.net)?;
        Some(rest + u64::from(self.link(wire.link).cost))
    }

    /// The sum of the costs of gateways from each network to `to`, over networks whose routes are computed.
    fn distances_to(&self, to: NetId) -> BTreeMap<NetId, u64> {
        let mut best = BTreeMap::from([(to, 0)]);
        let mut todo = BTreeSet::from([(0, to)]);
        let passable = |net: NetId| net == to || self.net(net).routing != Routing::None;
        while let Some((distance, net)) = todo.pop_first() {
            if !passable(net) {
                continue;
            }
            for wire in self.wires().filter(|w| self.end(*w).node.net == net) {
                let far = self.peer(wire).node.net;
                let through = distance + u64::from(self.link(wire.link).cost);
                if best.get(&far).is_none_or(|b| through < *b) {
                    best.insert(far, through);
                    todo.insert((through, far));
                }
            }
        }
        best.retain(|net, _| passable(*net));
        best
    }
}
