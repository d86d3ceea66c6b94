//! Properties of whole labs, drawn at random: addresses, MTU, names, and the order of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use vilab::model::{self, BASE, Carrier, Lab};
use vilab::plan::{self, Machine, Op, Plan};
use vilab::routing::Rib;

const MACHINE: Machine = Machine {
    ipip: true,
    nft: true,
    tun: true,
    netem: true,
    redirect: true,
    ifb: true,
    spread: true,
    esp: true,
    frr: None,
    one_user: false,
};

/// A random lab: a connected base, VIs over the base or over earlier VIs, connected by random trees and more.
#[derive(Debug, Clone)]
struct Drawn {
    base: Vec<usize>,
    mtu: u32,
    kernel: Vec<bool>,
    vis: Vec<(usize, Vec<usize>, Vec<usize>)>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let vi = (0usize..8, prop::collection::vec(0usize..64, 2..7), prop::collection::vec(0usize..64, 1..8));
    (
        prop::collection::vec(0usize..64, 1..6),
        600u32..2000,
        prop::collection::vec(any::<bool>(), 8),
        prop::collection::vec(vi, 0..5),
    )
        .prop_map(|(base, mtu, kernel, vis)| Drawn { base, mtu, kernel, vis })
}

/// The lab as a file. Node i+1 of a network is linked to an earlier one, so every network is connected.
fn text(drawn: &Drawn) -> String {
    let mut out = format!("name: drawn\nbase:\n  mtu: {}\n  nodes:\n", drawn.mtu);
    for (i, kernel) in drawn.kernel.iter().take(drawn.base.len() + 1).enumerate() {
        let dataplane = if *kernel { "kernel" } else { "fastpath" };
        let _ = writeln!(out, "    b{i}: {{role: router, dataplane: {dataplane}}}");
    }
    out += "  links:\n";
    for (i, to) in drawn.base.iter().enumerate() {
        let _ = writeln!(out, "    - b{} -- b{}", to % (i + 1), i + 1);
    }
    if !drawn.vis.is_empty() {
        out += "vis:\n";
    }
    let mut sizes = vec![drawn.base.len() + 1];
    for (index, (over, places, links)) in drawn.vis.iter().enumerate() {
        let below = over % (index + 1);
        let name = |net: usize| if net == 0 { "base".to_owned() } else { format!("v{net}") };
        let prefix = if below == 0 { "b" } else { "n" };
        let _ = write!(out, "  {}:\n    over: {}\n    nodes:\n", name(index + 1), name(below));
        for (i, place) in places.iter().enumerate() {
            let role = ["host", "router", "both"][place % 3];
            let _ = writeln!(out, "      n{i}: {{at: {prefix}{}, role: {role}}}", place % sizes[below]);
        }
        out += "    links:\n";
        for i in 1..places.len() {
            let _ = writeln!(out, "      - n{} -- n{i}", links[i % links.len()] % i);
        }
        let _ = writeln!(out, "      - n0 -- n{}", places.len() - 1);
        sizes.push(places.len());
    }
    out
}

fn build(drawn: &Drawn) -> (Lab, Rib, Plan) {
    let text = text(drawn);
    let lab = model::parse(Path::new("drawn.yaml"), &text).unwrap_or_else(|e| {
        panic!("{text}\n{}", e.report().map(|r| r.render(false)).unwrap_or_else(|| e.to_string()))
    });
    let rib = Rib::compute(&lab);
    let plan = plan::build(&lab, &rib, &MACHINE).expect("a machine that can do all");
    (lab, rib, plan)
}

/// All addresses of a network with what has them.
fn addresses(lab: &Lab, net: usize) -> Vec<std::net::Ipv4Addr> {
    lab.networks[net].nodes.iter().flat_map(|n| lab.addresses(n.id).collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// `up` makes the namespaces before it has the routes.
    #[test]
    fn what_comes_first_needs_no_routes(drawn in drawn()) {
        let (lab, _, plan) = build(&drawn);
        let outline = plan::build(&lab, &Rib::default(), &MACHINE).expect("a machine that can do all");
        prop_assert_eq!(&outline.stages[0], &plan.stages[0]);
        prop_assert_eq!((&outline.views, &outline.dataplanes), (&plan.views, &plan.dataplanes));
        let makes = |op: &&Op| matches!(op, Op::AddNetns { .. });
        prop_assert_eq!(plan.stages[1..].iter().flat_map(|s| &s.ops).find(makes), None);
    }

    #[test]
    fn ships_pass_in_the_night(drawn in drawn()) {
        let (lab, _, _) = build(&drawn);
        for (i, network) in lab.networks.iter().enumerate() {
            let own = addresses(&lab, i);
            let distinct: BTreeSet<_> = own.iter().collect();
            prop_assert_eq!(distinct.len(), own.len(), "unique in {}", network.name);
            prop_assert!(own.iter().all(|a| network.pool.contains(a) && a.is_private()));
            let on = |n: usize| lab.networks[n].nodes.iter().map(|n| n.base).collect::<BTreeSet<_>>();
            for j in 0..i {
                if !on(i).is_disjoint(&on(j)) {
                    let others: BTreeSet<_> = addresses(&lab, j).into_iter().collect();
                    prop_assert!(own.iter().all(|a| !others.contains(a)), "{} and {}", i, j);
                }
            }
        }
    }

    #[test]
    fn link_addresses_are_unique_on_each_base_node(drawn in drawn()) {
        let (lab, _, _) = build(&drawn);
        let mut seen: BTreeSet<(usize, std::net::Ipv4Addr)> = BTreeSet::new();
        for link in lab.networks.iter().filter(|n| n.over == Some(BASE)).flat_map(|n| &n.links) {
            for end in &link.ends {
                let base = lab.node(end.node).base.index;
                let addr = end.link_addr.expect("virtual links have link addresses");
                prop_assert!(seen.insert((base, addr)), "{addr} twice on b{base}");
            }
        }
        for link in lab.networks.iter().flat_map(|n| &n.links).filter(|l| l.carrier == Some(Carrier::Stacked)) {
            for end in &link.ends {
                let at = lab.node(end.node).at.expect("placed");
                prop_assert!(lab.node(at).stacked.contains(&end.link_addr.expect("a link address")));
            }
        }
    }

    #[test]
    fn mtu_is_what_lies_below_less_one_header(drawn in drawn()) {
        let (lab, _, _) = build(&drawn);
        for network in &lab.networks[1..] {
            let added = u32::try_from(network.depth + 1).expect("small") * 20;
            for link in &network.links {
                prop_assert_eq!(link.mtu, drawn.mtu - added, "{} {}", &network.name, &link.name);
            }
        }
    }

    #[test]
    fn every_node_reaches_every_address_of_its_network(drawn in drawn()) {
        let (lab, rib, _) = build(&drawn);
        for (i, network) in lab.networks.iter().enumerate() {
            for node in &network.nodes {
                for to in addresses(&lab, i) {
                    let path = rib.path(&lab, node.id, to);
                    prop_assert!(path.is_some(), "{} to {to}", lab.full_name(node.id));
                    let last = path.as_ref().and_then(|p| p.last()).map(|e| lab.peer(*e).node);
                    prop_assert_eq!(last.unwrap_or(node.id), lab.owner(network.id, to).expect("an owner"));
                }
            }
        }
    }

    #[test]
    fn plans_are_equal_for_equal_files_and_name_only_what_exists(drawn in drawn()) {
        let (_, _, plan) = build(&drawn);
        prop_assert_eq!(plan.to_string(), build(&drawn).2.to_string());
        let mut devices: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for op in plan.stages.iter().flat_map(|s| &s.ops) {
            if let Err(why) = follow(op, &mut devices) {
                return Err(TestCaseError::fail(format!("{why}: {op}")));
            }
        }
        let config = plan.fastpath.unwrap_or_default();
        for interface in &config.interfaces {
            let ns = config.partitions[interface.partition].netns.as_str();
            prop_assert!(devices[ns].contains(interface.dev.as_str()), "{} in {ns}", interface.dev);
        }
    }
}

/// Carries an operation out on a table of namespaces and devices; says what it misses.
fn follow<'a>(op: &'a Op, devices: &mut BTreeMap<&'a str, BTreeSet<&'a str>>) -> Result<(), String> {
    let mut add = |ns: &'a str, dev: &'a str| {
        let known = devices.get_mut(ns).ok_or(format!("no namespace {ns}"))?;
        let fits = !dev.is_empty() && dev.len() <= 15;
        if fits && known.insert(dev) { Ok(()) } else { Err(format!("{dev} cannot be in {ns}")) }
    };
    match op {
        Op::AddNetns { ns, .. } => match devices.insert(ns, BTreeSet::from(["lo"])) {
            None => Ok(()),
            Some(_) => Err(format!("{ns} is made twice")),
        },
        Op::AddVeth { a, b, .. } => add(&a.0, &a.1).and_then(|()| add(&b.0, &b.1)),
        Op::AddIpip { ns, dev, .. } | Op::AddTun { ns, dev, .. } | Op::AddIfb { ns, dev } => add(ns, dev),
        Op::MoveLink { ns, dev, to, name } => {
            if !devices.get_mut(ns.as_str()).is_some_and(|d| d.remove(dev.as_str())) {
                return Err(format!("no {dev} in {ns}"));
            }
            let known = devices.get_mut(to.as_str()).ok_or(format!("no namespace {to}"))?;
            if known.insert(name) { Ok(()) } else { Err(format!("{name} is in {to} already")) }
        }
        Op::AddNeighbour { ns, dev, .. }
        | Op::AddAddr { ns, dev, .. }
        | Op::SetUp { ns, dev, .. }
        | Op::AddHooks { ns, dev }
        | Op::AddNetem { ns, dev, .. } => has(devices, ns, dev),
        Op::AddRedirect { ns, dev, to, .. } => has(devices, ns, dev).and_then(|()| has(devices, ns, to)),
        Op::AddRoute { ns, hops, .. } => hops.iter().try_for_each(|h| has(devices, ns, &h.dev)),
        Op::SetSysctl { ns, .. }
        | Op::AddRuleset { ns, .. }
        | Op::AddUnreachable { ns, .. }
        | Op::AddAssociation { ns, .. }
        | Op::AddPolicy { ns, .. } => has(devices, ns, "lo"),
    }
}

fn has(devices: &BTreeMap<&str, BTreeSet<&str>>, ns: &str, dev: &str) -> Result<(), String> {
    match devices.get(ns).is_some_and(|d| d.contains(dev)) {
        true => Ok(()),
        false => Err(format!("no {dev} in {ns}")),
    }
}
