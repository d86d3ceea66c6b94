//! The routes of an edge. What leaves by which port, and what the edge's kernel has, go in; requests that make the kernel
//! have it come out. It never sends them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::config::{Edge, Router};
use super::exchange::{Port, Table};
use crate::netlink::Request;
use crate::netlink::monitor::{RouteKind, Snapshot, TABLE_MAIN};
use crate::netlink::request::NextHop;

/// A device and a gateway; none where the destination is on the link.
pub(super) type Way = (String, Option<Ipv4Addr>);

/// What leaves the router by one port, with the metric of the router's own route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Leaving {
    pub(super) metric: u32,
    pub(super) via: BTreeSet<Option<Ipv4Addr>>,
}

/// What leaves by each port, by device of the router's own namespace.
pub(super) type Exits = BTreeMap<String, BTreeMap<Ipv4Net, Leaving>>;

/// Which way each prefix leaves a router whose kernel has `snapshot`: over all routes of the main table that are in use.
pub(super) fn exits(snapshot: &Snapshot) -> Exits {
    let mut best: BTreeMap<Ipv4Net, u32> = BTreeMap::new();
    let main = || snapshot.routes.iter().filter(|r| r.table == TABLE_MAIN && !r.cached);
    for route in main() {
        let least = best.entry(route.prefix).or_insert(route.priority);
        *least = route.priority.min(*least);
    }
    let mut exits = Exits::new();
    for route in main().filter(|r| r.kind == RouteKind::Unicast && best[&r.prefix] == r.priority) {
        for hop in &route.hops {
            let Some(link) = snapshot.links.get(&hop.ifindex) else { continue };
            let leaving = exits.entry(link.name.clone()).or_default().entry(route.prefix).or_default();
            leaving.metric = route.priority;
            leaving.via.insert(hop.via);
        }
    }
    exits
}

/// The routes of the edge at `edge`: what its table says of other ports, and what leaves by its own.
pub(super) fn wanted(
    router: &Router,
    edge: &Edge,
    table: &Table,
    own: Option<&BTreeMap<Ipv4Net, Leaving>>,
) -> BTreeMap<Ipv4Net, BTreeSet<Way>> {
    let connected = Ipv4Net::new_assert(edge.addr, 31).trunc();
    let mut routes: BTreeMap<Ipv4Net, BTreeSet<Way>> = BTreeMap::new();
    let own = own.into_iter().flatten().filter(|(prefix, _)| **prefix != connected);
    for (prefix, leaving) in own.filter(|(prefix, _)| table.get(*prefix).is_none_or(|entry| entry.local)) {
        let ways = leaving.via.iter().map(|via| (edge.dev.clone(), *via));
        routes.entry(*prefix).or_default().extend(ways);
    }
    for (prefix, entry) in table.iter().filter(|(prefix, _)| **prefix != connected) {
        let inside = entry.exits.iter().filter_map(|exit| inside(router, edge, exit.port));
        routes.entry(*prefix).or_default().extend(inside);
    }
    routes
}

fn inside(router: &Router, edge: &Edge, port: Port) -> Option<Way> {
    let name = &router.edges.get(usize::from(port.0))?.port;
    let (dev, next) = edge.inside.get(name)?;
    Some((dev.clone(), Some(*next)))
}

/// What there is to do at an edge.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New routes, and those that take the place of others at once, so that no packet meets the gap.
    pub(super) set: Vec<Request>,
    /// Prefixes that have a route and should have none, and whether it leaves by the edge's own port: then another port may
    /// be about to announce the prefix.
    pub(super) gone: BTreeMap<Ipv4Net, bool>,
}

/// What to change for the edge's kernel, which has `snapshot`, to have `wanted` and nothing else but what it makes by
/// itself.
pub(super) fn changes(
    edge: &Edge,
    wanted: &BTreeMap<Ipv4Net, BTreeSet<Way>>,
    snapshot: &Snapshot,
) -> Changes {
    let up = snapshot.links.iter().filter(|(_, link)| link.up);
    let index: BTreeMap<&str, u32> = up.map(|(index, link)| (link.name.as_str(), *index)).collect();
    let mut there: BTreeMap<Ipv4Net, BTreeSet<(u32, Option<Ipv4Addr>)>> = BTreeMap::new();
    for route in snapshot.routes.iter().filter(|r| r.table == TABLE_MAIN && !r.kernels_own && !r.cached) {
        there.entry(route.prefix).or_default().extend(route.hops.iter().map(|h| (h.ifindex, h.via)));
    }
    let mut changes = Changes::default();
    let mut kept = BTreeSet::new();
    for (prefix, ways) in wanted {
        let hops: BTreeSet<(u32, Option<Ipv4Addr>)> =
            ways.iter().filter_map(|(dev, via)| Some((*index.get(dev.as_str())?, *via))).collect();
        if hops.is_empty() {
            continue;
        }
        kept.insert(*prefix);
        if there.get(prefix) != Some(&hops) {
            let hops: Vec<NextHop> = hops.into_iter().map(|(index, via)| NextHop { via, index }).collect();
            changes.set.push(Request::add_route(*prefix, &hops, Some(edge.addr)).replacing());
        }
    }
    let own = index.get(edge.dev.as_str());
    let gone = there.iter().filter(|(prefix, _)| !kept.contains(*prefix));
    changes.gone = gone.map(|(prefix, hops)| (*prefix, hops.iter().all(|(i, _)| Some(i) == own))).collect();
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::monitor::{Hop, Link, Route};
    use crate::recursion::exchange::{Entry, Exit};

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn route(prefix: &str, priority: u32, kernels_own: bool, hops: &[(u32, Option<&str>)]) -> Route {
        Route {
            prefix: net(prefix),
            table: TABLE_MAIN,
            priority,
            kind: RouteKind::Unicast,
            kernels_own,
            cached: false,
            hops: hops.iter().map(|(i, via)| Hop { ifindex: *i, via: via.map(addr), weight: 1 }).collect(),
            object: None,
        }
    }

    fn snapshot(names: &[&str], routes: Vec<Route>) -> Snapshot {
        let link = |name: &&str| Link { name: (*name).to_owned(), up: true, mtu: 1400 };
        let links = (1..).zip(names.iter().map(link)).collect();
        Snapshot { links, routes, policy_routing: false }
    }

    fn router() -> Router {
        let edge = |port: u8| Edge {
            port: format!("p{port}"),
            netns: format!("v.outer.R@p{port}"),
            dev: format!("v-{port}"),
            punt: "punt".to_owned(),
            addr: Ipv4Addr::new(10, 128, 128, 2 * port + 1),
            mtu: 1420,
            phantom_netns: format!("v.inner.v{port}"),
            phantom: Ipv4Addr::new(10, 129, 0, port),
            inside: (0..3)
                .filter(|other| *other != port)
                .map(|other| {
                    (format!("p{other}"), (format!("x-p{other}"), Ipv4Addr::new(10, 130, port, other)))
                })
                .collect(),
        };
        Router {
            name: "outer/R".to_owned(),
            netns: "v.outer.R".to_owned(),
            exchange: None,
            edges: (0..3).map(edge).collect(),
        }
    }

    #[test]
    fn what_leaves_by_which_device() {
        let routes = vec![
            route("10.128.128.0/31", 0, true, &[(2, None)]),
            route("10.128.0.1/32", 20, false, &[(2, Some("10.128.128.0"))]),
            route("10.128.0.2/32", 20, false, &[(2, Some("10.128.128.0")), (3, Some("10.128.128.2"))]),
            route("10.128.0.2/32", 90, false, &[(3, Some("10.128.128.2"))]),
        ];
        let exits = exits(&snapshot(&["lo", "v-0", "v-1"], routes));
        assert_eq!(exits["v-0"].len(), 3);
        assert_eq!(exits["v-1"].len(), 1);
        let leaving = &exits["v-1"][&net("10.128.0.2/32")];
        assert_eq!((leaving.metric, leaving.via.len()), (20, 1));
    }

    #[test]
    fn an_edge_has_its_own_ways_and_those_inside() {
        let (router, leaving) = (router(), |via: &str| Leaving { metric: 0, via: [Some(addr(via))].into() });
        let exit = |port: u16, local| Entry {
            metric: 0,
            exits: vec![Exit { port: Port(port), u: Ipv4Addr::new(10, 129, 0, 1) }],
            mtu: 1420,
            local,
        };
        let connected = (net("10.128.128.0/31"), Leaving { metric: 0, via: [None].into() });
        let own: BTreeMap<Ipv4Net, Leaving> = [
            connected,
            (net("10.0.0.1/32"), leaving("10.128.128.0")),
            (net("10.0.0.2/32"), leaving("10.128.128.0")),
            (net("10.0.0.4/32"), leaving("10.128.128.0")),
        ]
        .into();
        let table: Table = [
            (net("10.0.0.2/32"), exit(1, true)),
            (net("10.0.0.3/32"), exit(2, false)),
            (net("10.0.0.4/32"), exit(2, false)),
        ]
        .into();
        let wanted = wanted(&router, &router.edges[0], &table, Some(&own));
        let devs = |prefix: &str| wanted[&net(prefix)].iter().map(|w| w.0.as_str()).collect::<Vec<_>>();
        assert_eq!(wanted.len(), 4, "the kernel makes the connected one");
        assert_eq!(devs("10.0.0.1/32"), ["v-0"]);
        assert_eq!(devs("10.0.0.2/32"), ["v-0", "x-p1"], "equal cost by both");
        assert_eq!(devs("10.0.0.3/32"), ["x-p2"]);
        assert_eq!(devs("10.0.0.4/32"), ["x-p2"], "what others have at lower cost leaves by them");
    }

    #[test]
    fn only_what_differs_is_asked_for() {
        let edge = router().edges.remove(0);
        let way = |dev: &str| (dev.to_owned(), Some(addr("10.130.0.1")));
        let wanted: BTreeMap<Ipv4Net, BTreeSet<Way>> = [
            (net("10.0.0.1/32"), [way("x-p1")].into()),
            (net("10.0.0.2/32"), [way("x-p1")].into()),
            (net("10.0.0.3/32"), [way("gone")].into()),
        ]
        .into();
        let there = vec![
            route("10.128.128.0/31", 0, true, &[(1, None)]),
            route("10.0.0.1/32", 0, false, &[(2, Some("10.130.0.1"))]),
            route("10.0.0.2/32", 0, false, &[(2, Some("10.130.0.9"))]),
            route("10.0.0.9/32", 0, false, &[(2, Some("10.130.0.9"))]),
        ];
        let has = snapshot(&["v-0", "x-p1"], there.clone());
        let found = changes(&edge, &wanted, &has);
        assert_eq!(found.set.len(), 1, "one to replace");
        assert_eq!(found.gone, [(net("10.0.0.9/32"), false)].into());
        let settled = changes(
            &edge,
            &[(net("10.0.0.9/32"), [(String::from("x-p1"), Some(addr("10.130.0.9")))].into())].into(),
            &snapshot(&["v-0", "x-p1"], there[3..].to_vec()),
        );
        assert!(settled.set.is_empty() && settled.gone.is_empty());
        let own = route("10.0.0.9/32", 0, false, &[(1, Some("10.128.128.0"))]);
        let moved = changes(&edge, &BTreeMap::new(), &snapshot(&["v-0", "x-p1"], vec![own]));
        assert_eq!(moved.gone, [(net("10.0.0.9/32"), true)].into());
    }
}
