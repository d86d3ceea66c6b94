//! Expected routes while links and nodes are down, compared with the simplest algorithms that can say the same:
//! Bellman-Ford for costs, following every next hop for paths.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use proptest::prelude::*;
use vilab::model::{self, BASE, EndId, Lab, Link, LinkId, NetId, Network, NodeId, Routing, Target};
use vilab::routing::{Expected, Faults, Rib};

fn lab(text: &str) -> Lab {
    model::parse(Path::new("lab.yaml"), text).unwrap_or_else(|e| {
        panic!("{text}\n{}", e.report().map(|r| r.render(false)).unwrap_or_else(|| e.to_string()))
    })
}

fn node(lab: &Lab, name: &str) -> NodeId {
    lab.nodes().map(|n| n.id).find(|id| lab.full_name(*id) == name).expect("a node")
}

fn link(lab: &Lab, name: &str) -> LinkId {
    let links = lab.networks.iter().flat_map(|n| n.links.iter().map(move |l| (n, l)));
    let found = links.into_iter().find(|(n, l)| format!("{}/{}", n.name, l.name) == name);
    found.expect("a link").1.id
}

fn expected(lab: &Lab, faults: &Faults) -> Expected {
    Expected::compute(lab, &Rib::compute(lab), faults)
}

fn down(targets: impl IntoIterator<Item = Target>) -> Faults {
    let mut faults = Faults::default();
    targets.into_iter().for_each(|t| faults.set(t, true));
    faults
}

/// Names of the nodes that `from` sends to on the way to `to`.
fn via(lab: &Lab, expected: &Expected, from: &str, to: &str) -> Vec<String> {
    let to = lab.address(node(lab, to)).expect("an address");
    let route = expected.rib.route(node(lab, from), to);
    let name = |end: &EndId| lab.node(lab.peer(*end).node).name.clone();
    route.map(|r| r.hops.iter().map(name).collect()).unwrap_or_default()
}

const DIAMOND: &str = r#"name: t
base:
  links: ["A -- {B C}", "{B C} -- D"]
vis:
  v: {nodes: {a: A, b: B, d: D}, links: [a -- d, a -- b, b -- d]}
  w: {over: v, nodes: {p: a, q: d}, links: [p -- q]}
"#;

#[test]
fn without_faults_the_expected_routes_are_the_computed_ones() {
    let mut lab = lab(DIAMOND);
    for routing in [Routing::Static, Routing::Ospf] {
        lab.networks.iter_mut().for_each(|n| n.routing = routing);
        let expected = expected(&lab, &Faults::default());
        assert_eq!(expected.rib, Rib::compute(&lab));
        assert!(expected.cut.dead.is_empty() && expected.unknown.is_empty());
    }
}

/// A link over several VIs is alive while one of them carries its packets both ways.
#[test]
fn one_strand_is_enough() {
    let lab = lab("name: t
base: {links: [X -- R, X -- S, R -- Y, S -- Y]}
vis:
  in1: {nodes: {x: X, m: {at: R, role: router}, y: Y}, links: [x -- m -- y]}
  in2: {nodes: {x: X, m: {at: S, role: router}, y: Y}, links: [x -- m -- y]}
  top: {over: [in1, in2], nodes: {a: x, b: y}, links: [a -- b], routing: ospf}
");
    let top = link(&lab, "top/a--b");
    let dead = |names: &[&str]| {
        let found = expected(&lab, &down(names.iter().map(|n| Target::Link(link(&lab, n)))));
        (found.cut.dead.contains(&top), via(&lab, &found, "top/a", "top/b"))
    };
    assert_eq!(dead(&["in1/x--m"]), (false, vec!["b".to_owned()]));
    assert_eq!(dead(&["base/S--Y"]), (false, vec!["b".to_owned()]));
    assert_eq!(dead(&["in1/x--m", "in2/m--y"]), (true, Vec::new()));
}

#[test]
fn static_routes_only_lose_what_leaves_through_devices_that_are_down() {
    let lab = lab(DIAMOND);
    let expected = expected(&lab, &down([Target::Link(link(&lab, "base/A--B"))]));
    assert_eq!(via(&lab, &expected, "base/A", "base/D"), ["C"]);
    assert_eq!(via(&lab, &expected, "base/A", "base/B"), Vec::<String>::new());
    // D does not know, and half of what it sends to A is lost at B.
    assert_eq!(via(&lab, &expected, "base/D", "base/A"), ["B", "C"]);
    let dead: Vec<_> = expected.cut.dead.iter().map(|l| lab.link(*l).name.as_str()).collect();
    assert_eq!(dead, ["a--d", "a--b", "p--q"], "what crosses A -- B in either direction, on any equal path");
    assert_eq!(via(&lab, &expected, "v/a", "v/d"), ["d"], "nothing at v/a is down");
}

#[test]
fn dynamic_routes_take_what_is_left() {
    let mut lab = lab(DIAMOND);
    lab.networks.iter_mut().for_each(|n| n.routing = Routing::Ospf);
    let base = expected(&lab, &down([Target::Link(link(&lab, "base/A--B"))]));
    assert_eq!(via(&lab, &base, "base/A", "base/B"), ["C"]);
    assert_eq!(via(&lab, &base, "base/D", "base/A"), ["C"]);
    assert!(base.cut.dead.is_empty(), "the base routes around");
    let virtual_link = expected(&lab, &down([Target::Link(link(&lab, "v/a--d"))]));
    assert_eq!(via(&lab, &virtual_link, "v/a", "v/d"), ["b"]);
    assert_eq!(
        virtual_link.rib.tables.get(&node(&lab, "base/A")),
        table_without_faults(&lab, "base/A").as_ref()
    );
    assert!(virtual_link.cut.dead.is_empty(), "w rides on what v routes around");
}

fn table_without_faults(lab: &Lab, name: &str) -> Option<Vec<vilab::routing::Route>> {
    Rib::compute(lab).tables.get(&node(lab, name)).cloned()
}

#[test]
fn what_is_placed_on_a_node_goes_down_with_it() {
    let mut lab = lab(DIAMOND);
    lab.networks.iter_mut().for_each(|n| n.routing = Routing::Ospf);
    let faults = down([Target::Node(node(&lab, "base/A"))]);
    assert!(faults.node_is_down(&lab, node(&lab, "w/p")));
    assert!(!faults.node_is_down(&lab, node(&lab, "w/q")));
    let ends = faults.ends(&lab);
    let names: Vec<String> = ends
        .iter()
        .map(|e| format!("{} of {}", lab.full_name(lab.end(*e).node), lab.link(e.link).name))
        .collect();
    let expected_ends = [
        "base/A of A--B",
        "base/B of A--B",
        "base/A of A--C",
        "base/C of A--C",
        "v/a of a--d",
        "v/a of a--b",
        "w/p of p--q",
    ];
    assert_eq!(names, expected_ends, "a wire loses its carrier at both ends, a tunnel has none");
    let expected = expected(&lab, &faults);
    for name in ["base/A", "v/a", "w/p", "w/q"] {
        assert!(expected.table(node(&lab, name)).is_empty(), "{name}");
    }
    assert_eq!(via(&lab, &expected, "v/b", "v/d"), ["d"]);
    // The far ends of a's links are up, so that their prefixes are known.
    let far = lab.link(link(&lab, "v/a--d")).ends[1].addr;
    assert!(expected.rib.route(node(&lab, "v/b"), far).is_some());
}

#[test]
fn nobody_computes_what_rides_on_routes_of_the_users_own() {
    let mut lab = lab(DIAMOND);
    lab.networks[0].routing = Routing::None;
    lab.networks[2].routing = Routing::Ospf;
    let expected = expected(&lab, &Faults::default());
    assert_eq!(expected.unknown, BTreeSet::from([BASE, NetId(2)]));
    assert!(expected.cut.dead.is_empty());
    for name in ["v/a", "w/p"] {
        assert_eq!(
            Some(expected.table(node(&lab, name)).to_vec()),
            table_without_faults(&lab, name),
            "as if nobody reacted"
        );
    }
}

#[test]
fn a_link_longer_than_a_ttl_lasts_is_dead() {
    let chain = |nodes: usize| {
        let mut text = "name: t\nbase:\n  links:\n".to_owned();
        for i in 1..nodes {
            let _ = writeln!(text, "    - n{} -- n{i}", i - 1);
        }
        let _ = write!(text, "vis:\n  v: {{nodes: {{a: n0, b: n{}}}, links: [a -- b]}}\n", nodes - 1);
        lab(&text)
    };
    assert!(expected(&chain(65), &Faults::default()).cut.dead.is_empty(), "64 links");
    assert_eq!(expected(&chain(66), &Faults::default()).cut.dead.len(), 1, "65 links");
}

// ---- at random ---------------------------------------------------------------------------------------------

/// A connected base, a VI over it, a VI over that; and what goes down.
#[derive(Debug, Clone)]
struct Drawn {
    nodes: [usize; 3],
    /// For each network: the tree (each node to an earlier one), more links, costs.
    trees: [Vec<usize>; 3],
    more: [Vec<(usize, usize)>; 3],
    costs: Vec<u32>,
    places: Vec<usize>,
    dynamic: [bool; 3],
    links_down: Vec<(usize, usize)>,
    nodes_down: Vec<(usize, usize)>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let number = || prop::collection::vec(0usize..1000, 8);
    let pairs = |most| prop::collection::vec((0usize..1000, 0usize..1000), 0..most);
    (
        [2usize..8, 2..7, 2..5],
        [number(), number(), number()],
        [pairs(6), pairs(5), pairs(3)],
        prop::collection::vec(1u32..4, 16),
        number(),
        any::<[bool; 3]>(),
        pairs(4),
        pairs(2),
    )
        .prop_map(|(nodes, trees, more, costs, places, dynamic, links_down, nodes_down)| Drawn {
            nodes,
            trees,
            more,
            costs,
            places,
            dynamic,
            links_down,
            nodes_down,
        })
}

fn text(drawn: &Drawn) -> String {
    let mut text = "name: drawn\n".to_owned();
    let mut cost = drawn.costs.iter().cycle();
    for net in 0..3 {
        let count = drawn.nodes[net];
        match net {
            0 => text += "base:\n  links:\n",
            1 => text += "vis:\n  v1:\n    nodes:\n",
            _ => text += "  v2:\n    over: v1\n    nodes:\n",
        }
        if net > 0 {
            for i in 0..count {
                let _ = writeln!(text, "      n{i}: n{}", drawn.places[i] % drawn.nodes[net - 1]);
            }
            text += "    links:\n";
        }
        let tree = (1..count).map(|i| (drawn.trees[net][i % 8] % i, i));
        let more = drawn.more[net].iter().map(|(a, b)| (a % count, b % count)).filter(|(a, b)| a != b);
        for (a, b) in tree.chain(more) {
            let _ = writeln!(text, "      - {{link: n{a} -- n{b}, cost: {}}}", cost.next().expect("a cost"));
        }
    }
    text
}

fn build(drawn: &Drawn) -> (Lab, Faults) {
    let mut lab = lab(&text(drawn));
    for (network, dynamic) in lab.networks.iter_mut().zip(drawn.dynamic) {
        network.routing = if dynamic { Routing::Ospf } else { Routing::Static };
    }
    let mut faults = Faults::default();
    for (net, index) in &drawn.links_down {
        let links = &lab.networks[net % 3].links;
        faults.set(Target::Link(links[index % links.len()].id), true);
    }
    for (net, index) in &drawn.nodes_down {
        let nodes = &lab.networks[net % 3].nodes;
        faults.set(Target::Node(nodes[index % nodes.len()].id), true);
    }
    (lab, faults)
}

/// Bellman-Ford over the links that `alive` says: the cost from each node to `to`.
fn costs(network: &Network, to: usize, alive: &dyn Fn(&Link) -> bool) -> Vec<Option<u32>> {
    let mut cost = vec![None; network.nodes.len()];
    cost[to] = Some(0);
    for _ in 0..network.nodes.len() {
        for link in network.links.iter().filter(|l| alive(l)) {
            let [a, b] = [link.ends[0].node.index, link.ends[1].node.index];
            for (near, far) in [(a, b), (b, a)] {
                let through = cost[far].map(|c: u32| c + link.cost);
                if through.is_some() && cost[near].is_none_or(|c| through < Some(c)) {
                    cost[near] = through;
                }
            }
        }
    }
    cost
}

/// Every node a packet may come to, over all next hops; false if it can be lost.
fn arrives(lab: &Lab, expected: &Expected, from: NodeId, to: Ipv4Addr, links_left: usize) -> bool {
    if lab.addresses(from).any(|a| a == to) {
        return true;
    }
    let hops = expected.rib.route(from, to).map(|r| r.hops.clone()).unwrap_or_default();
    let passes = |end: &EndId| {
        expected.cut.is_alive(end.link) && arrives(lab, expected, lab.peer(*end).node, to, links_left - 1)
    };
    links_left > 0 && !hops.is_empty() && hops.iter().all(passes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn dynamic_routes_are_the_cheapest_over_the_links_alive(drawn in drawn()) {
        let (lab, faults) = build(&drawn);
        let expected = expected(&lab, &faults);
        let alive = |link: &Link| expected.cut.is_alive(link.id);
        for network in lab.networks.iter().filter(|n| n.routing == Routing::Ospf) {
            for to in &network.nodes {
                let address = to.host.expect("hosts only");
                let cost = costs(network, to.id.index, &alive);
                for from in network.nodes.iter().filter(|n| n.id != to.id) {
                    let cheapest: Vec<EndId> = from.ends.iter().copied().filter(|end| {
                        let rest = cost[lab.peer(*end).node.index];
                        alive(lab.link(end.link)) && rest.map(|c| c + lab.link(end.link).cost) == cost[from.id.index]
                    }).filter(|_| cost[from.id.index].is_some()).collect();
                    let hops = expected.rib.route(from.id, address).map(|r| r.hops.clone()).unwrap_or_default();
                    prop_assert_eq!(&hops, &cheapest, "{} -> {}", lab.full_name(from.id), lab.full_name(to.id));
                    let reached = hops.is_empty() || arrives(&lab, &expected, from.id, address, network.nodes.len());
                    prop_assert!(reached, "{} -> {}", lab.full_name(from.id), lab.full_name(to.id));
                }
            }
        }
    }

    #[test]
    fn static_routes_are_the_computed_ones_through_devices_that_are_up(drawn in drawn()) {
        let (lab, faults) = build(&drawn);
        let expected = expected(&lab, &faults);
        let (rib, ends) = (Rib::compute(&lab), faults.ends(&lab));
        for network in lab.networks.iter().filter(|n| n.routing == Routing::Static) {
            for node in &network.nodes {
                let mut left = rib.tables[&node.id].clone();
                left.iter_mut().for_each(|r| r.hops.retain(|e| !ends.contains(e)));
                left.retain(|r| !r.hops.is_empty());
                prop_assert_eq!(expected.table(node.id), left.as_slice());
            }
        }
    }

    #[test]
    fn a_virtual_link_is_alive_where_all_that_lies_below_delivers(drawn in drawn()) {
        let (lab, faults) = build(&drawn);
        let expected = expected(&lab, &faults);
        let ends = faults.ends(&lab);
        for link in lab.networks.iter().flat_map(|n| &n.links) {
            let up = (0..2).all(|side| !ends.contains(&EndId { link: link.id, side }));
            let [a, b] = [&link.ends[0], &link.ends[1]];
            let carried = match lab.net(link.id.net).over {
                None => true,
                Some(BASE) => {
                    let [x, y] = [lab.node(a.node).base, lab.node(b.node).base];
                    let [to_x, to_y] = [x, y].map(|n| lab.node(n).host.expect("a loopback"));
                    arrives(&lab, &expected, x, to_y, 64) && arrives(&lab, &expected, y, to_x, 64)
                }
                Some(_) => {
                    let [p, q] = [a, b].map(|e| (lab.node(e.node).at.expect("placed"), e.link_addr.expect("stacked")));
                    arrives(&lab, &expected, p.0, q.1, 64) && arrives(&lab, &expected, q.0, p.1, 64)
                }
            };
            prop_assert_eq!(expected.cut.is_alive(link.id), up && carried, "{}", &link.name);
        }
    }

    #[test]
    fn down_and_up_again_is_as_before(drawn in drawn()) {
        let (lab, mut faults) = build(&drawn);
        let links = faults.links.clone().into_iter().map(Target::Link);
        for target in links.chain(faults.nodes.clone().into_iter().map(Target::Node)) {
            faults.set(target, false);
        }
        prop_assert!(faults.is_empty());
        prop_assert_eq!(expected(&lab, &faults).rib, Rib::compute(&lab));
    }
}
