//! The routes of one node as they must be and as its kernel has them. [`Expected`] routes and a [`Snapshot`] go in;
//! the first route that differs, in the lab's words, comes out. It never asks the kernel.
//!
//! Only the main table counts, and of several routes to one prefix that with the lowest metric, which the kernel
//! takes. Routes that the kernel makes along with an address are left out, as they say nothing about routing. A next
//! hop is a device and a gateway; sources, weights and who put a route there do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::model::{EndId, Lab, NodeId};
use crate::netlink::monitor::{self, RouteKind, Snapshot, TABLE_MAIN};
use crate::routing::Expected;

/// A device, by its index, and a gateway.
type Hop = (u32, Option<Ipv4Addr>);

/// How the routes of a node differ from those expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The first prefix that differs.
    pub prefix: Ipv4Net,
    /// Its next hops in words.
    pub expected: String,
    pub found: String,
    /// Prefixes that differ.
    pub routes: usize,
}

/// What there is for one prefix.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Hops(Vec<Hop>),
    /// No plain unicast route: a blackhole, one with metrics of its own, and so on.
    Other,
}

/// What there must be for one prefix, and what there is, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteRow {
    pub prefix: Ipv4Net,
    pub expected: String,
    pub found: String,
    pub differs: bool,
}

/// All prefixes of `node`, expected or found, in order.
pub(crate) fn rows(lab: &Lab, expected: &Expected, node: NodeId, snapshot: &Snapshot) -> Vec<RouteRow> {
    let devices = Devices::of(lab, node, snapshot);
    let (expected, found) = (devices.expected(expected), found(snapshot));
    let prefixes: BTreeSet<&Ipv4Net> = expected.keys().chain(found.keys()).collect();
    let row = |prefix: &Ipv4Net| {
        let (must, is) = (expected.get(prefix), found.get(prefix));
        RouteRow {
            prefix: *prefix,
            expected: devices.words(must),
            found: devices.words(is),
            differs: must != is,
        }
    };
    prefixes.into_iter().map(row).collect()
}

/// `None` where the routes of `node` are those expected.
pub(crate) fn compare(
    lab: &Lab,
    expected: &Expected,
    node: NodeId,
    snapshot: &Snapshot,
) -> Option<Difference> {
    let devices = Devices::of(lab, node, snapshot);
    let (expected, found) = (devices.expected(expected), found(snapshot));
    let mut first = None;
    let mut routes = 0;
    let prefixes = expected.keys().chain(found.keys().filter(|p| !expected.contains_key(p)));
    for prefix in prefixes.filter(|p| expected.get(p) != found.get(p)) {
        routes += 1;
        first = Some(first.map_or(*prefix, |f: Ipv4Net| f.min(*prefix)));
    }
    let prefix = first?;
    let words = |table: &BTreeMap<Ipv4Net, Entry>| devices.words(table.get(&prefix));
    Some(Difference { prefix, expected: words(&expected), found: words(&found), routes })
}

/// Names of the nodes towards which a node's kernel sends what is for `to`, in order; `Err` says in words why there
/// are none.
pub(crate) fn next_hops(
    lab: &Lab,
    node: NodeId,
    snapshot: &Snapshot,
    to: Ipv4Addr,
) -> Result<Vec<NodeId>, String> {
    if lab.addresses(node).any(|a| a == to) {
        return Err("the address is its own".into());
    }
    let devices = Devices::of(lab, node, snapshot);
    let usable = routes(snapshot).filter(|r| r.prefix.contains(&to));
    let best = usable.min_by_key(|r| (32 - r.prefix.prefix_len(), r.priority));
    match best.map(entry) {
        None => Err("no route".into()),
        Some(Entry::Other) => Err("no plain route".into()),
        Some(Entry::Hops(hops)) => {
            let peer = |hop: &Hop| devices.peer(hop).ok_or_else(|| devices.hop_words(hop));
            let mut nodes = hops.iter().map(peer).collect::<Result<Vec<_>, _>>()?;
            nodes.sort();
            Ok(nodes)
        }
    }
}

/// The devices of a node and where they lead.
struct Devices<'a> {
    lab: &'a Lab,
    node: NodeId,
    snapshot: &'a Snapshot,
    by_name: BTreeMap<&'a str, u32>,
}

impl<'a> Devices<'a> {
    fn of(lab: &'a Lab, node: NodeId, snapshot: &'a Snapshot) -> Self {
        let by_name = snapshot.links.iter().map(|(index, link)| (link.name.as_str(), *index)).collect();
        Self { lab, node, snapshot, by_name }
    }

    /// A device that is gone has index 0, which none has.
    fn expected(&self, expected: &Expected) -> BTreeMap<Ipv4Net, Entry> {
        let index = |end| self.by_name.get(self.lab.end(end).dev.as_str()).copied().unwrap_or_default();
        let connected = expected.connected(self.lab, self.node).map(|end| {
            let prefix = Ipv4Net::new_assert(self.lab.end(end).addr, 31).trunc();
            (prefix, Entry::Hops(vec![(index(end), None)]))
        });
        let learnt = expected.table(self.node).iter().map(|route| {
            let hop = |end: &_| (index(*end), Some(self.lab.peer(*end).addr));
            (route.prefix, Entry::Hops(sorted(route.hops.iter().map(hop))))
        });
        let at = self.node;
        let strays = self.lab.refuses_strays(at).then(|| (self.lab.net(at.net).pool, Entry::Other));
        connected.chain(learnt).chain(strays).collect()
    }

    /// The node at the other end of the link through which a next hop leaves; not if its gateway is another.
    fn peer(&self, (index, via): &Hop) -> Option<NodeId> {
        let name = self.name(*index)?;
        let peer = self.lab.peer(self.ends().find(|e| self.lab.end(*e).dev == name)?);
        via.is_none_or(|via| via == peer.addr).then_some(peer.node)
    }

    fn ends(&self) -> impl Iterator<Item = EndId> {
        let node = self.lab.node(self.node);
        node.ends.iter().chain(&node.wires).copied()
    }

    fn name(&self, index: u32) -> Option<&'a str> {
        self.snapshot.links.get(&index).map(|link| link.name.as_str())
    }

    fn words(&self, entry: Option<&Entry>) -> String {
        match entry {
            None => "no route".into(),
            Some(Entry::Other) => "no plain route".into(),
            Some(Entry::Hops(hops)) if hops.is_empty() => "a route without a next hop".into(),
            Some(Entry::Hops(hops)) => {
                let words: Vec<String> = hops.iter().map(|hop| self.hop_words(hop)).collect();
                format!("via {}", words.join(" and "))
            }
        }
    }

    /// The neighbour's name, with the device where several lead there; else device and gateway.
    fn hop_words(&self, hop: &Hop) -> String {
        let (index, via) = *hop;
        let device = self.name(index).map_or_else(|| index.to_string(), str::to_owned);
        match (self.peer(hop), via) {
            (Some(peer), _) => {
                let several = self.ends().filter(|e| self.lab.peer(*e).node == peer).count() > 1;
                let name = match peer.net == self.node.net {
                    true => self.lab.node(peer).name.clone(),
                    false => self.lab.full_name(peer),
                };
                if several { format!("{name} ({device})") } else { name }
            }
            (None, Some(via)) => format!("{via} on {device}"),
            (None, None) => format!("device {device}"),
        }
    }
}

fn routes(snapshot: &Snapshot) -> impl Iterator<Item = &monitor::Route> {
    snapshot.routes.iter().filter(|r| r.table == TABLE_MAIN && !r.cached)
}

/// The best route to each prefix.
fn found(snapshot: &Snapshot) -> BTreeMap<Ipv4Net, Entry> {
    let mut best: BTreeMap<Ipv4Net, &monitor::Route> = BTreeMap::new();
    for route in routes(snapshot).filter(|r| !r.kernels_own) {
        let entry = best.entry(route.prefix).or_insert(route);
        if route.priority < entry.priority {
            *entry = route;
        }
    }
    best.into_iter().map(|(prefix, route)| (prefix, entry(route))).collect()
}

fn entry(route: &monitor::Route) -> Entry {
    match route.kind {
        RouteKind::Unicast => Entry::Hops(sorted(route.hops.iter().map(|h| (h.ifindex, h.via)))),
        RouteKind::Local | RouteKind::Other => Entry::Other,
    }
}

fn sorted(hops: impl Iterator<Item = Hop>) -> Vec<Hop> {
    let mut hops: Vec<Hop> = hops.collect();
    hops.sort_unstable();
    hops.dedup();
    hops
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;
    use crate::netlink::monitor::{Link, Route};
    use crate::routing::{Faults, Rib};

    const TEXT: &str = "name: t
base: {links: [X -- Y]}
vis:
  v: {nodes: {a: X, b: Y, c: X}, links: [a -- b, a -- b, b -- c]}
";

    struct Bed {
        lab: Lab,
        expected: Expected,
        a: NodeId,
        snapshot: Snapshot,
    }

    /// What v/a must have, with the connected routes of its host address, and one that the kernel made.
    fn bed() -> Bed {
        let lab = model::parse(Path::new("t.yaml"), TEXT).unwrap();
        let expected = Expected::compute(&lab, &Rib::compute(&lab), &Faults::default());
        let a = lab.networks[1].nodes[0].id;
        let devices = ["lo", "v-b", "v-b.2"];
        let mut links: BTreeMap<u32, Link> = BTreeMap::new();
        for (index, name) in (1..).zip(devices) {
            links.insert(index, Link { name: name.into(), up: true, mtu: 1460 });
        }
        let ends: Vec<_> = lab.node(a).ends.iter().map(|e| (lab.end(*e), lab.peer(*e))).collect();
        assert_eq!(ends.iter().map(|e| e.0.dev.as_str()).collect::<Vec<_>>(), devices[1..]);
        let hop = |ifindex: u32, via| monitor::Hop { ifindex, via, weight: 1 };
        let route = |prefix: Ipv4Net, hops| Route {
            prefix,
            table: TABLE_MAIN,
            priority: 0,
            kind: RouteKind::Unicast,
            kernels_own: false,
            cached: false,
            object: None,
            hops,
        };
        let connected = (2..).zip(&ends).map(|(index, (near, _))| {
            route(Ipv4Net::new_assert(near.addr, 31).trunc(), vec![hop(index, None)])
        });
        let learnt = expected.table(a).iter().map(|r| {
            let hops = (2..).zip(&ends).map(|(index, (_, far))| hop(index, Some(far.addr)));
            route(r.prefix, hops.collect())
        });
        let mut routes: Vec<Route> = connected.chain(learnt).collect();
        routes.push(Route { kernels_own: true, ..route("192.168.0.0/24".parse().unwrap(), Vec::new()) });
        Bed { lab, expected, a, snapshot: Snapshot { links, routes, policy_routing: false } }
    }

    impl Bed {
        fn difference(&self) -> Option<Difference> {
            compare(&self.lab, &self.expected, self.a, &self.snapshot)
        }

        fn host(&self, index: usize) -> Ipv4Addr {
            self.lab.networks[1].nodes[index].host.unwrap()
        }

        /// The route to the host address of another node.
        fn route(&mut self, index: usize) -> &mut Route {
            let prefix = Ipv4Net::from(self.host(index));
            self.snapshot.routes.iter_mut().find(|r| r.prefix == prefix).unwrap()
        }
    }

    #[test]
    fn equal_routes_do_not_differ_in_whatever_order() {
        let mut bed = bed();
        assert_eq!(bed.difference(), None);
        bed.snapshot.routes.reverse();
        bed.route(2).hops.reverse();
        bed.route(2).priority = 20;
        let worse = Route { priority: 30, hops: Vec::new(), ..bed.route(2).clone() };
        bed.snapshot.routes.insert(0, worse);
        let elsewhere = Route { table: 100, prefix: "1.0.0.0/8".parse().unwrap(), ..bed.route(2).clone() };
        bed.snapshot.routes.push(elsewhere);
        let learnt = Route { kind: RouteKind::Other, cached: true, ..bed.route(2).clone() };
        bed.snapshot.routes.insert(0, learnt);
        assert_eq!(bed.difference(), None);
    }

    #[test]
    fn a_missing_route_and_a_missing_next_hop_are_named() {
        let mut bed = bed();
        let c = Ipv4Net::from(bed.host(2));
        let lost = bed.route(2).hops.pop();
        let both = "via b (v-b) and b (v-b.2)";
        let difference =
            |found: &str| Difference { prefix: c, expected: both.into(), found: found.into(), routes: 1 };
        assert_eq!(bed.difference(), Some(difference("via b (v-b)")));
        bed.snapshot.routes.retain(|r| r.prefix != c);
        assert_eq!(bed.difference(), Some(difference("no route")));
        assert!(lost.is_some());
    }

    #[test]
    fn another_gateway_or_another_kind_is_a_difference() {
        let mut bed = bed();
        bed.route(1).hops[0].via = Some([9, 9, 9, 9].into());
        assert_eq!(bed.difference().unwrap().found, "via 9.9.9.9 on v-b and b (v-b.2)");
        bed.route(1).hops = vec![monitor::Hop { ifindex: 7, via: None, weight: 1 }];
        assert_eq!(bed.difference().unwrap().found, "via device 7");
        bed.route(1).kind = RouteKind::Other;
        assert_eq!(bed.difference().unwrap().found, "no plain route");
    }

    #[test]
    fn rows_have_every_prefix_and_mark_those_that_differ() {
        let mut bed = bed();
        let all = |bed: &Bed| rows(&bed.lab, &bed.expected, bed.a, &bed.snapshot);
        assert!(all(&bed).len() > 3 && all(&bed).iter().all(|row| !row.differs && row.expected == row.found));
        let lost = Ipv4Net::from(bed.host(2));
        bed.snapshot.routes.retain(|r| r.prefix != lost);
        let differing: Vec<RouteRow> = all(&bed).into_iter().filter(|row| row.differs).collect();
        assert_eq!(differing.len(), 1);
        assert_eq!((differing[0].prefix, differing[0].found.as_str()), (lost, "no route"));
    }

    #[test]
    fn an_extra_route_is_a_difference_as_well_as_a_missing_one() {
        let mut bed = bed();
        let extra = Route { prefix: "9.0.0.0/8".parse().unwrap(), ..bed.route(1).clone() };
        bed.snapshot.routes.push(extra.clone());
        let found = bed.difference().unwrap();
        assert_eq!((found.prefix, found.expected.as_str(), found.routes), (extra.prefix, "no route", 1));
        bed.snapshot.routes.retain(|r| r.prefix == extra.prefix);
        let found = bed.difference().unwrap();
        assert_eq!(found.prefix, extra.prefix, "the first in order");
        assert_eq!(found.routes, 1 + 2 + bed.expected.table(bed.a).len(), "connected ones too");
    }

    #[test]
    fn next_hops_are_nodes() {
        let mut bed = bed();
        let b = bed.lab.networks[1].nodes[1].id;
        let to = bed.host(2);
        let ask = |bed: &Bed, to| next_hops(&bed.lab, bed.a, &bed.snapshot, to);
        assert_eq!(ask(&bed, to), Ok(vec![b, b]));
        assert_eq!(ask(&bed, bed.host(0)), Err("the address is its own".into()));
        assert_eq!(ask(&bed, [8, 8, 8, 8].into()), Err("no route".into()));
        bed.route(2).hops.truncate(1);
        assert_eq!(ask(&bed, to), Ok(vec![b]));
        bed.route(2).hops[0].via = None;
        bed.route(2).hops[0].ifindex = 1;
        assert_eq!(ask(&bed, to), Err("device lo".into()));
    }
}
