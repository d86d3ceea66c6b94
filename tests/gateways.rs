//! Gateways without a kernel: addresses of joined networks, routes across them, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use proptest::prelude::*;
use vilab::model::{self, BASE, Lab, NetId, NodeId};
use vilab::routing::Rib;

fn lab(text: &str) -> Lab {
    model::parse(Path::new("lab.yaml"), text)
        .unwrap_or_else(|e| panic!("{}", e.report().unwrap().render(false)))
}

fn node(lab: &Lab, name: &str) -> NodeId {
    lab.nodes().find(|n| lab.full_name(n.id) == name).unwrap().id
}

/// Left stands on X and Y, middle on Y and Z, right on Z and W: left and right share no base node.
const ROW: &str = "name: row
base: {links: [X -- Y -- Z -- W]}
vis:
  left: {nodes: {a: X, g: Y}, links: [a -- g]}
  middle: {nodes: {g: Y, h: Z}, links: [g -- h]}
  right: {nodes: {h: Z, b: W}, links: [h -- b]}
";

#[test]
fn networks_joined_by_gateways_have_addresses_apart_and_others_reuse_them() {
    let alone = lab(ROW);
    assert_eq!(alone.net(NetId(1)).pool, alone.net(NetId(3)).pool, "no shared node: the same addresses");
    let joined = lab(&format!("{ROW}gateways: [left/g -- middle/g, middle/h -- right/h]\n"));
    let pools: BTreeSet<_> = joined.networks.iter().map(|n| n.pool.to_string()).collect();
    assert_eq!(pools.len(), 4, "{pools:?}");
}

#[test]
fn only_a_node_with_a_gateway_has_addresses_of_two_networks() {
    let lab = lab(&format!("{ROW}gateways: [left/g -- middle/g]\n"));
    let foreign = |id: NodeId| {
        let pool = lab.net(id.net).pool;
        lab.addresses(id).filter(|a| !pool.contains(a)).collect::<Vec<Ipv4Addr>>()
    };
    for one in lab.nodes() {
        let expected = usize::from(lab.full_name(one.id) == "left/g");
        assert_eq!(foreign(one.id).len(), expected, "{}", lab.full_name(one.id));
    }
    assert!(lab.net(NetId(2)).pool.contains(&foreign(node(&lab, "left/g"))[0]));
}

#[test]
fn each_network_learns_one_prefix_for_every_network_beyond() {
    let lab = lab(&format!(
        "{ROW}gateways: [left/g -- middle/g, {{link: middle/h -- right/h, cost: 3}}, {{link: right/b -- base/W, default: true}}]\n"
    ));
    let rib = Rib::compute(&lab);
    let shown = |name: &str| -> Vec<String> {
        let id = node(&lab, name);
        let outside = |r: &&vilab::routing::Route| !lab.net(id.net).pool.contains(&r.prefix);
        rib.tables[&id].iter().filter(outside).map(|r| r.prefix.to_string()).collect()
    };
    let [left, middle, right] = [1, 2, 3].map(|net| lab.net(NetId(net)).pool.to_string());
    let base = lab.base().pool.to_string();
    assert_eq!(shown("left/a"), [base.clone(), middle.clone(), right.clone()]);
    assert_eq!(shown("right/h"), ["0.0.0.0/0".to_owned(), base.clone(), left.clone(), middle.clone()]);
    assert_eq!(shown("base/X"), [left, middle, right]);
    let metrics = |name: &str| -> Vec<u64> {
        lab.externals(node(&lab, name)).iter().filter(|e| !e.wires.is_empty()).map(|e| e.metric).collect()
    };
    assert_eq!(metrics("left/g"), [5, 1, 4], "base, middle, right: the sums of the gateways' costs");
    let path = rib.path(&lab, node(&lab, "left/a"), lab.address(node(&lab, "base/X")).unwrap()).unwrap();
    let hops: Vec<String> = path.iter().map(|end| lab.full_name(lab.peer(*end).node)).collect();
    assert_eq!(
        hops,
        ["left/g", "middle/g", "middle/h", "right/h", "right/b", "base/W", "base/Z", "base/Y", "base/X"]
    );
}

#[test]
fn of_two_gateways_the_nearest_is_taken_and_a_dearer_one_is_not() {
    let text = "name: two
base: {links: [X -- Y -- Z]}
vis:
  near: {nodes: {x: X, y: Y, z: Z}, links: [x -- y -- z]}
  far: {nodes: {x: X, y: Y, z: Z}, links: [x -- y -- z]}
gateways:
  - near/x -- far/x
  - near/z -- far/z
  - {link: near/y -- far/y, cost: 2}
";
    let lab = lab(text);
    let rib = Rib::compute(&lab);
    let pool = lab.net(NetId(2)).pool;
    let ways = |name: &str| {
        let table = &rib.tables[&node(&lab, name)];
        let route = table.iter().find(|r| r.prefix == pool).unwrap();
        route.hops.iter().map(|end| lab.full_name(lab.peer(*end).node)).collect::<Vec<_>>()
    };
    assert_eq!(ways("near/x"), ["far/x"]);
    assert_eq!(ways("near/z"), ["far/z"]);
    assert_eq!(ways("near/y"), ["near/x", "near/z"], "equally near; its own gateway costs more");
}

#[test]
fn a_network_without_routing_is_reached_and_not_passed() {
    let text = ROW.replace("middle: {", "middle: {routing: none, ");
    let lab = lab(&format!("{text}gateways: [left/g -- middle/g, middle/h -- right/h]\n"));
    let rib = Rib::compute(&lab);
    let table = &rib.tables[&node(&lab, "left/a")];
    assert!(table.iter().any(|r| r.prefix == lab.net(NetId(2)).pool));
    assert!(!table.iter().any(|r| r.prefix == lab.net(NetId(3)).pool));
    assert_eq!(lab.externals(node(&lab, "middle/g")), []);
}

/// Nodes of each VI as base nodes, gateways as (first VI, second VI, place, cost).
#[derive(Debug, Clone)]
struct Drawn {
    vis: Vec<Vec<usize>>,
    gateways: Vec<(usize, usize, usize, u32)>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let vis = proptest::collection::vec(proptest::collection::vec(0usize..4, 0..3), 2..5);
    let gateways = proptest::collection::vec((0usize..5, 0usize..5, 0usize..4, 1u32..4), 1..7);
    (vis, gateways).prop_map(|(vis, gateways)| {
        // Every VI has a node on every base node, so that any two can meet anywhere; some visit more than once.
        let vis: Vec<Vec<usize>> = vis.into_iter().map(|more| (0..4).chain(more).collect()).collect();
        let count = vis.len() + 1;
        let gateways = gateways.into_iter().map(|(a, b, at, cost)| (a % count, b % count, at, cost));
        Drawn { gateways: gateways.filter(|(a, b, ..)| a != b).collect(), vis }
    })
}

fn text(drawn: &Drawn) -> String {
    let mut text = "name: drawn\nbase: {links: [X0 -- X1 -- X2 -- X3 -- X0]}\nvis:\n".to_owned();
    for (vi, places) in drawn.vis.iter().enumerate() {
        writeln!(text, "  v{vi}:\n    nodes:").unwrap();
        for (index, place) in places.iter().enumerate() {
            writeln!(text, "      n{index}: X{place}").unwrap();
        }
        writeln!(text, "    links: [{{line: 'n[0..{}]'}}]", places.len() - 1).unwrap();
    }
    if !drawn.gateways.is_empty() {
        text += "gateways:\n";
    }
    for (a, b, at, cost) in &drawn.gateways {
        let name = |net: &usize| match net {
            0 => format!("base/X{at}"),
            vi => format!("v{}/n{at}", vi - 1),
        };
        writeln!(text, "  - {{link: {} -- {}, cost: {cost}}}", name(a), name(b)).unwrap();
    }
    text
}

/// Whether a packet from `node` to `to` arrives, whichever of equal next hops is taken, and never comes to a node
/// twice.
fn arrives(lab: &Lab, rib: &Rib, node: NodeId, to: Ipv4Addr, way: &mut Vec<NodeId>) -> bool {
    if lab.addresses(node).any(|a| a == to) {
        return true;
    }
    if way.contains(&node) {
        return false;
    }
    way.push(node);
    let hops = rib.next_hops(lab, node, to);
    let all = !hops.is_empty() && hops.iter().all(|end| arrives(lab, rib, lab.peer(*end).node, to, way));
    way.pop();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn joined_networks_reach_each_other_without_loops(drawn in drawn()) {
        let text = text(&drawn);
        let lab = model::parse(Path::new("lab.yaml"), &text).map_err(|e| {
            TestCaseError::fail(format!("{text}\n{}", e.report().unwrap().render(false)))
        })?;
        let rib = Rib::compute(&lab);
        for from in lab.nodes() {
            let joined = lab.joined(from.id.net);
            for to in lab.nodes() {
                for addr in lab.addresses(to.id) {
                    let expected = joined.contains(&to.id.net);
                    let found = arrives(&lab, &rib, from.id, addr, &mut Vec::new());
                    prop_assert_eq!(found, expected, "{} to {} {}\n{}", lab.full_name(from.id), lab.full_name(to.id), addr, text);
                }
            }
            for (a, b) in joined.iter().flat_map(|a| joined.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b) {
                let (a, b) = (lab.net(a).pool, lab.net(b).pool);
                prop_assert!(!a.contains(&b) && !b.contains(&a), "{} and {}", a, b);
            }
        }
        prop_assert!(lab.joined(BASE).contains(&BASE));
    }
}

/// The addresses of a network, by the full name of the node.
fn numbers(lab: &Lab, net: usize) -> Vec<(String, Vec<Ipv4Addr>)> {
    lab.networks[net].nodes.iter().map(|n| (lab.full_name(n.id), lab.addresses(n.id).collect())).collect()
}

#[test]
fn a_change_of_one_network_moves_no_address_of_another() {
    let before = lab(ROW);
    for (from, to) in [
        (
            "right: {nodes: {h: Z, b: W}, links: [h -- b]}",
            "right: {nodes: {h: Z, b: W, more: W}, links: [h -- b -- more]}",
        ),
        ("right: {nodes: {h: Z, b: W}, links: [h -- b]}", "right: {nodes: {h: Z}}"),
        ("base: {links: [X -- Y -- Z -- W]}", "base: {links: [X -- Y -- Z -- W -- V]}"),
    ] {
        let after = lab(&ROW.replace(from, to));
        for net in [1, 2] {
            assert_eq!(numbers(&before, net), numbers(&after, net), "{to}");
        }
    }
    let grown = lab(&ROW.replace(
        "left: {nodes: {a: X, g: Y}, links: [a -- g]}",
        "left: {nodes: {a: X, g: Y, n: Y}, links: [a -- g, g -- n]}",
    ));
    assert_eq!(
        numbers(&before, 1),
        numbers(&grown, 1)[..2]
            .iter()
            .map(|(name, all)| {
                let kept = before.addresses(node(&before, name)).count();
                (name.clone(), all[..kept].to_vec())
            })
            .collect::<Vec<_>>(),
        "old nodes keep their addresses"
    );
}
