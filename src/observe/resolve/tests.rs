use std::path::Path;

use super::look::answer;
use super::*;
use crate::model::{self, Target};
use crate::netlink::monitor::{self, RouteKind, Snapshot, TABLE_LOCAL, TABLE_MAIN};
use crate::routing::Rib;

const STACKED: &str = "
name: t
base: {links: [X -- Y -- Z]}
vis:
  low: {nodes: {l: X, m: {at: Y, role: router}, r: Z, n: Z}, links: [l -- m -- r, r -- n]}
  high: {over: low, nodes: {a: l, b: r}, links: [a -- b]}
";
const PLAYED: &str = "
name: t
base: {links: [X -- Y -- Z]}
vis:
  inner:
    nodes:
      v1: {at: X, role: phantom, port: p1}
      m: {at: Y, role: router}
      v2: {at: Z, role: phantom, port: p2}
    links: [v1 -- m -- v2]
  outer:
    nodes: {a: X, b: Z, R: {role: router, emulate: inner}}
    links: [a -- R.p1, b -- R.p2]
";
const PARALLEL: &str = "
name: t
base: {links: [X -- Y -- Z]}
vis:
  in1: {nodes: {x: X, y: Y}, links: [x -- y]}
  in2: {nodes: {x: X, y: Y}, links: [x -- y]}
  top: {over: [in1, in2], nodes: {a: x, b: y}, links: [{link: a -- b, spread: packet, weights: [1, 2]}]}
";

/// A lab, and what is wrong with it.
struct Bed {
    lab: Lab,
    faults: Faults,
    /// Answers in the place of the computed ones.
    strange: BTreeMap<(NodeId, Ipv4Addr), Answer>,
}

struct Strange<'a> {
    computed: Computed<'a>,
    answers: &'a BTreeMap<(NodeId, Ipv4Addr), Answer>,
}

impl Look for Strange<'_> {
    fn route(&mut self, node: NodeId, to: Ipv4Addr) -> Result<Answer> {
        self.answers.get(&(node, to)).cloned().map_or_else(|| self.computed.route(node, to), Ok)
    }

    fn is_up(&mut self, end: EndId) -> Result<bool> {
        self.computed.is_up(end)
    }

    fn bars(&mut self, node: NodeId) -> Result<Option<String>> {
        self.computed.bars(node)
    }
}

impl Bed {
    fn new(text: &str) -> Self {
        let lab = model::parse(Path::new("t.yaml"), text).unwrap();
        Self { lab, faults: Faults::default(), strange: BTreeMap::new() }
    }

    fn id(&self, name: &str) -> NodeId {
        self.lab.nodes().map(|n| n.id).find(|id| label(&self.lab, *id) == name).unwrap()
    }

    fn address(&self, name: &str) -> Ipv4Addr {
        self.lab.address(self.id(name)).unwrap()
    }

    /// Sets the link of this name down.
    fn cut(&mut self, link: &str) {
        let [link] = self.lab.links_called(link)[..] else { panic!("{link}") };
        self.faults.set(Target::Link(link), true);
    }

    /// The end of node `from` at its link to `to`.
    fn end(&self, from: &str, to: &str) -> EndId {
        let to = self.id(to);
        ends(&self.lab, self.id(from)).find(|e| self.lab.site(self.lab.peer(*e)).partition == to).unwrap()
    }

    /// What is asked of `at` for `to` leads over the link to `next`.
    fn lead(&mut self, at: &str, to: Ipv4Addr, next: &str) {
        let answer = Answer::Route { prefix: Ipv4Net::from(to), ends: vec![self.end(at, next)] };
        self.strange.insert((self.id(at), to), answer);
    }

    fn chain(&self, from: &str, to: Ipv4Addr) -> Chain {
        let expected = Expected::compute(&self.lab, &Rib::compute(&self.lab), &self.faults);
        let computed = Computed::new(&self.lab, &expected, &self.faults);
        let question = Question { from: self.id(from), name: None, to };
        chain(&self.lab, &question, &mut Strange { computed, answers: &self.strange }).unwrap()
    }

    fn between(&self, from: &str, to: &str) -> Chain {
        self.chain(from, self.address(to))
    }
}

/// Each step: how far down, who is asked, what answers.
fn outline(chain: &Chain) -> Vec<String> {
    let by = |step: &Step| serde_json::to_value(step).unwrap()["by"].as_str().unwrap().to_owned();
    chain.steps.iter().map(|s| format!("{} {} {}", s.nesting, s.at, by(s))).collect()
}

fn why(chain: &Chain) -> (&str, &str) {
    match chain.broken() {
        Some(Step { at, found: Found::Broken { why }, .. }) => (at, why),
        _ => panic!("{chain:?}"),
    }
}

#[test]
fn the_base_network_is_where_resolution_ends() {
    let bed = Bed::new(STACKED);
    let (from, to) = (bed.id("base/X"), bed.address("base/Z"));
    let expected = Expected::compute(&bed.lab, &Rib::compute(&bed.lab), &bed.faults);
    let question = Question { from, name: Some("Z".into()), to };
    let chain = chain(&bed.lab, &question, &mut Computed::new(&bed.lab, &expected, &bed.faults)).unwrap();
    assert!(chain.arrives);
    assert_eq!(outline(&chain), ["0 base/X name", "0 base/X route", "0 base/Y route", "0 base/Z own"]);
    assert_eq!(chain.steps[0].found, Found::Name { address: to });
    let Found::Route { prefix, ways, wire: true } = &chain.steps[1].found else { panic!("{chain:?}") };
    assert_eq!((*prefix, ways.len()), (Ipv4Net::from(to), 1));
    assert_eq!((ways[0].neighbour.as_str(), ways[0].device.as_str()), ("base/Y", "e-Y"));
}

#[test]
fn a_virtual_link_resolves_to_a_tunnel_and_that_to_wires() {
    let bed = Bed::new(STACKED);
    let chain = bed.between("low/l", "low/r");
    let lines = [
        "0 low/l route",
        "0 low/l--m link",
        "1 base/X tunnel",
        "1 base/X route",
        "1 base/Y own",
        "0 low/m route",
        "0 low/m--r link",
        "1 base/Y tunnel",
        "1 base/Y route",
        "1 base/Z own",
        "0 low/r own",
    ];
    assert!(chain.arrives);
    assert_eq!(outline(&chain), lines);
    let link = &bed.lab.networks[1].links[0].ends;
    let (from, to) = (link[0].link_addr, link[1].link_addr);
    assert_eq!(chain.steps[1].found, Found::Link { from, to, protected: false });
    assert_eq!(chain.steps[1].asked, link[1].addr.to_string());
    assert_eq!(
        chain.steps[2].asked,
        to.unwrap().to_string(),
        "the link address is what the next layer resolves"
    );
    let (from, to) = (Some(bed.address("base/X")), bed.address("base/Y"));
    assert_eq!(chain.steps[2].found, Found::Tunnel { from, to, node: "base/Y".into() });
    let inside = bed.between("low/r", "low/n");
    assert_eq!(outline(&inside), ["0 low/r route", "0 low/r--n link", "0 low/r--n inside", "0 low/n own"]);
}

#[test]
fn a_stacked_link_resolves_in_the_layer_below() {
    let bed = Bed::new(STACKED);
    let chain = bed.between("high/a", "high/b");
    let below = bed.chain("low/l", bed.lab.networks[2].links[0].ends[1].link_addr.unwrap());
    let lower: Vec<String> = below.steps.iter().map(|s| format!("{} {}", s.nesting + 1, s.at)).collect();
    let nested: Vec<String> = chain.steps.iter().map(|s| format!("{} {}", s.nesting, s.at)).collect();
    assert!(chain.arrives && below.arrives);
    assert_eq!(nested[..2], ["0 high/a", "0 high/a--b"]);
    assert_eq!(nested[2..nested.len() - 1], lower);
    assert_eq!(outline(&chain).last().unwrap(), "0 high/b own");
}

#[test]
fn another_visit_is_another_link_and_the_same_tunnel() {
    let bed = Bed::new(
        "name: t\nbase: {links: [X -- Y]}\nvis:\n  v: {nodes: {a: X, b: Y, c: X, d: Y}, links: [a -- b -- c -- d]}\n",
    );
    let chain = bed.between("v/a", "v/d");
    let links: BTreeSet<Option<Ipv4Addr>> = chain
        .steps
        .iter()
        .filter_map(|s| if let Found::Link { to, .. } = s.found { Some(to) } else { None })
        .collect();
    let tunnels: Vec<&Step> =
        chain.steps.iter().filter(|s| matches!(s.found, Found::Tunnel { .. })).collect();
    assert!(chain.arrives);
    assert_eq!((links.len(), tunnels.len()), (3, 3));
    assert_eq!(tunnels[0].found, tunnels[2].found);
    let again: Vec<&Step> = chain.steps.iter().filter(|s| matches!(s.found, Found::Again { .. })).collect();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].found, Found::Again { step: tunnels[0].step + 1 });
}

#[test]
fn a_router_that_a_vi_plays_resolves_exits_and_its_vi_the_way_to_them() {
    let bed = Bed::new(PLAYED);
    let chain = bed.between("outer/a", "outer/b");
    let lines = [
        "0 outer/a route",
        "0 outer/a--R.p1 link",
        "0 outer/a--R.p1 inside",
        "0 outer/R.p1 exit",
        "0 outer/R.p1--p2 link",
        "1 inner/v1 route",
        "1 inner/v1--m link",
        "2 base/X tunnel",
        "2 base/X route",
        "2 base/Y own",
        "1 inner/m route",
        "1 inner/m--v2 link",
        "2 base/Y tunnel",
        "2 base/Y route",
        "2 base/Z own",
        "1 inner/v2 own",
        "0 outer/R.p2 port",
        "0 outer/b--R.p2 link",
        "0 outer/b--R.p2 inside",
        "0 outer/b own",
    ];
    assert!(chain.arrives);
    assert_eq!(outline(&chain), lines);
    let Found::Exit { prefix, ways } = &chain.steps[3].found else { panic!("{chain:?}") };
    assert_eq!(*prefix, Ipv4Net::from(bed.address("outer/b")));
    assert_eq!(ways[0].neighbour, "outer/R.p2");
    assert_eq!((ways[0].device.as_str(), ways[0].exit_vh.as_deref()), ("x-p2", Some("inner/v2")));
    assert_eq!(
        chain.steps[5].asked,
        bed.address("inner/v2").to_string(),
        "the inner VI is asked for the exit VH"
    );
    assert_eq!(chain.steps[16].found, Found::Port { device: "v-b".into() });
}

#[test]
fn such_a_router_itself_is_behind_a_process() {
    let bed = Bed::new(PLAYED);
    let to = bed.between("outer/a", "outer/R");
    let lines = [
        "0 outer/a route",
        "0 outer/a--R.p1 link",
        "0 outer/a--R.p1 inside",
        "0 outer/R.p1 served",
        "0 outer/R own",
    ];
    assert!(to.arrives);
    assert_eq!(outline(&to), lines);
    let from = bed.between("outer/R", "outer/b");
    assert!(from.arrives);
    assert_eq!(outline(&from)[..3], ["0 outer/R route", "0 outer/R served", "0 outer/b--R.p2 link"]);
    assert_eq!(from.steps[1].found, Found::Served { to: "outer/R.p2".into() });
    let far = bed.chain("outer/a", bed.lab.end(bed.end("outer/R.p2", "outer/b")).addr);
    assert!(far.arrives, "the router's address at its other port");
    let inside = bed.between("inner/v1", "inner/v2");
    assert!(inside.arrives && inside.steps.iter().all(|s| s.layer != "outer"));
}

#[test]
fn a_port_that_is_lost_is_no_exit() {
    let mut bed = Bed::new(PLAYED);
    bed.cut("inner/m -- v2");
    let chain = bed.between("outer/a", "outer/b");
    let b = bed.address("outer/b");
    assert!(!chain.arrives);
    assert_eq!(why(&chain), ("outer/R.p1", format!("no route to {b}").as_str()));
}

#[test]
fn each_strand_is_resolved_and_one_is_enough() {
    let mut bed = Bed::new(PARALLEL);
    let whole = bed.between("top/a", "top/b");
    let at = |chain: &Chain| {
        let mut strands = Vec::new();
        for step in &chain.steps {
            if let Found::Strand { below, weight, .. } = &step.found {
                strands.push((below.clone(), *weight));
            }
        }
        strands
    };
    assert!(whole.arrives && whole.broken().is_none());
    assert_eq!(whole.steps[1].found, Found::Parallel { spread: Spread::Packet, strands: 2 });
    assert_eq!(at(&whole), [("in1".to_owned(), 1), ("in2".to_owned(), 2)]);
    assert!(["in1", "in2"].iter().all(|net| outline(&whole).contains(&format!("1 {net}/y own"))));
    bed.cut("in1/x -- y");
    let one = bed.between("top/a", "top/b");
    assert!(one.arrives);
    assert_eq!(why(&one).0, "in1/x");
    bed.cut("in2/x -- y");
    let none = bed.between("top/a", "top/b");
    assert!(!none.arrives);
    assert_eq!(why(&none).0, "in2/x");
    assert_eq!(at(&none).len(), 2);
}

#[test]
fn a_chain_says_where_it_breaks() {
    let mut bed = Bed::new(STACKED);
    let nowhere = [9, 9, 9, 9].into();
    assert_eq!(why(&bed.chain("high/a", nowhere)), ("high/a", "no route to 9.9.9.9"));
    bed.cut("X -- Y");
    let chain = bed.between("high/a", "high/b");
    let y = bed.address("base/Y");
    assert!(!chain.arrives);
    assert_eq!(why(&chain), ("base/X", format!("no route to {y}").as_str()), "two layers below");
    let broken = chain.broken().unwrap();
    assert_eq!((broken.layer.as_str(), broken.nesting, broken.step), ("base", 2, chain.steps.len()));
}

#[test]
fn a_link_whose_other_end_is_down_breaks_the_chain() {
    let mut bed = Bed::new(STACKED);
    bed.faults.set(Target::Node(bed.id("base/Z")), true);
    let chain = bed.between("low/m", "low/r");
    assert!(!chain.arrives);
    assert_eq!(why(&chain), ("low/m", "link m--r is down"));
}

#[test]
fn loops_and_circles_end() {
    let mut bed = Bed::new(STACKED);
    let r = bed.address("low/r");
    bed.lead("low/m", r, "low/l");
    let chain = bed.chain("low/l", r);
    assert_eq!(why(&chain), ("low/l", "it comes here again: the routes form a loop"));
    let mut bed = Bed::new(STACKED);
    let link = bed.lab.networks[2].links[0].ends[1].link_addr.unwrap();
    let through_itself =
        Answer::Route { prefix: Ipv4Net::from(link), ends: vec![bed.end("high/a", "high/b")] };
    bed.strange.insert((bed.id("low/l"), link), through_itself);
    let chain = bed.between("high/a", "high/b");
    assert!(!chain.arrives);
    assert_eq!(why(&chain), ("low/l", "this is part of step 3: it would pass through itself"));
}

#[test]
fn a_node_that_does_not_forward_is_the_end() {
    let mut bed = Bed::new("name: t\nbase: {links: [X -- Y -- Z]}\n");
    let z = bed.address("base/Z");
    let y = bed.id("base/Y");
    bed.lab.networks[0].nodes[y.index].forwards = false;
    bed.lead("base/X", z, "base/Y");
    bed.lead("base/Y", z, "base/Z");
    assert_eq!(why(&bed.chain("base/X", z)), ("base/Y", "it does not forward"));
    assert!(bed.chain("base/Y", z).arrives);
}

#[test]
fn the_first_difference_is_a_step() {
    let mut bed = Bed::new(STACKED);
    let computed = bed.between("low/l", "low/r");
    assert_eq!(computed.differs_from(&computed), None);
    let r = bed.address("low/r");
    bed.strange.insert((bed.id("low/m"), r), Answer::Lost("gone".into()));
    let measured = bed.between("low/l", "low/r");
    assert_eq!(measured.differs_from(&computed), Some(6));
    assert_eq!(computed.differs_from(&measured), Some(6));
    let mut short = computed.clone();
    short.steps.pop();
    assert_eq!(short.differs_from(&computed), Some(11));
}

#[test]
fn what_nobody_computes_is_no_difference() {
    let text = STACKED.replace("low: {", "low: {routing: none, ");
    let mut bed = Bed::new(&text);
    let computed = bed.between("low/l", "low/r");
    assert_eq!(outline(&computed), ["0 low/l unknown"]);
    let r = bed.address("low/r");
    bed.lead("low/l", r, "low/m");
    bed.lead("low/m", r, "low/r");
    let measured = bed.between("low/l", "low/r");
    assert!(measured.arrives);
    assert_eq!(measured.differs_from(&computed), None);
    let near = bed.chain("low/l", bed.lab.end(bed.end("low/m", "low/l")).addr);
    assert!(near.arrives && near.unknown().is_none(), "connected routes are there whatever routing does");
}

fn route(prefix: &str, table: u32, kind: RouteKind, hops: &[(u32, Option<Ipv4Addr>)]) -> monitor::Route {
    let hop =
        |(ifindex, via): &(u32, Option<Ipv4Addr>)| monitor::Hop { ifindex: *ifindex, via: *via, weight: 1 };
    monitor::Route {
        prefix: prefix.parse().unwrap(),
        table,
        priority: 0,
        kind,
        kernels_own: false,
        cached: false,
        object: None,
        hops: hops.iter().map(hop).collect(),
    }
}

#[test]
fn a_kernel_answers_as_its_routes_say() {
    let bed = Bed::new(STACKED);
    let m = bed.id("low/m");
    let [left, right] = [bed.end("low/m", "low/l"), bed.end("low/m", "low/r")];
    let via = |end: EndId| Some(bed.lab.peer(end).addr);
    let link = |name: &str| monitor::Link { name: name.into(), up: true, mtu: 1460 };
    let mut snapshot = Snapshot {
        links: [(1, link("lo")), (2, link("v-l")), (3, link("v-r"))].into(),
        routes: vec![
            route("9.0.0.0/8", TABLE_MAIN, RouteKind::Unicast, &[(3, via(right)), (2, via(left))]),
            route("9.9.0.0/16", TABLE_MAIN, RouteKind::Unicast, &[(2, None)]),
            route("9.9.9.0/24", TABLE_MAIN, RouteKind::Unicast, &[]),
            route("9.8.0.0/16", TABLE_MAIN, RouteKind::Other, &[]),
            route("9.7.0.0/16", TABLE_MAIN, RouteKind::Unicast, &[(3, via(left))]),
            route("9.6.0.0/16", TABLE_MAIN, RouteKind::Unicast, &[(1, None)]),
            route("9.5.0.1/32", TABLE_LOCAL, RouteKind::Local, &[(1, None)]),
            route("9.4.0.0/16", 100, RouteKind::Unicast, &[(2, None)]),
        ],
        policy_routing: false,
    };
    let ask = |snapshot: &Snapshot, to: [u8; 4]| answer(&bed.lab, m, snapshot, to.into());
    let out =
        |prefix: &str, ends: &[EndId]| Answer::Route { prefix: prefix.parse().unwrap(), ends: ends.to_vec() };
    assert_eq!(ask(&snapshot, [9, 1, 1, 1]), out("9.0.0.0/8", &[left, right]));
    assert_eq!(ask(&snapshot, [9, 4, 1, 1]), out("9.0.0.0/8", &[left, right]), "another table");
    assert_eq!(ask(&snapshot, [9, 9, 9, 9]), out("9.9.0.0/16", &[left]), "dead next hops are skipped");
    assert_eq!(ask(&snapshot, [9, 5, 0, 1]), Answer::Own);
    let lost = |to| {
        let answer = ask(&snapshot, to);
        let Answer::Lost(why) = answer else { panic!("{answer:?}") };
        why
    };
    assert_eq!(lost([8, 8, 8, 8]), "no route to 8.8.8.8");
    assert_eq!(lost([9, 8, 8, 8]), "what is for 9.8.0.0/16 is refused");
    let gateway = via(left).unwrap();
    let strayed = format!("the route to 9.7.0.0/16 via {gateway} by device v-r leads to no node of the lab");
    assert_eq!(lost([9, 7, 0, 1]), strayed);
    assert_eq!(lost([9, 6, 0, 1]), "the route to 9.6.0.0/16 by device lo leads to no node of the lab");
    let better = route("9.0.0.0/8", TABLE_MAIN, RouteKind::Unicast, &[(2, via(left))]);
    snapshot.routes[0].priority = 20;
    snapshot.routes.push(better);
    assert_eq!(ask(&snapshot, [9, 1, 1, 1]), out("9.0.0.0/8", &[left]), "the lowest metric wins");
}
