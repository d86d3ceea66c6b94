//! Labs of the paper's figures looked at from outside: the roles that `status` tells, the rules that `rules` lists, and
//! one Virtual Internet on two base networks.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use vilab::lab::Running;
use vilab::model::NodeId;
use vilab::observe::{self, Context};
use vilab::plan::{self, Machine};
use vilab::routing::Rib;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&common::run(common::vilab().args(arguments))).expect("JSON")
}

/// The paper's Figures 3 and 4, of the base network of the lab.
const ROLES: [(&str, &str, &str); 10] = [
    ("r1", "transit", "transit"),
    ("r2", "transit", "VH+VR+transit"),
    ("r3", "VH+VR", "transit"),
    ("r4", "transit", "transit"),
    ("h1", "VH", "VH+VR"),
    ("h2", "none", "none"),
    ("h3", "VH", "none"),
    ("h4", "VH", "VH+VR"),
    ("h5", "VH", "none"),
    ("h6", "none", "VH+VR"),
];

fn words(part: &Value) -> String {
    let parts = [("vh", "VH"), ("vr", "VR"), ("transit", "transit")];
    let words: Vec<&str> = parts.iter().filter(|(key, _)| part[key] == true).map(|(_, word)| *word).collect();
    if words.is_empty() { "none".to_owned() } else { words.join("+") }
}

#[test]
fn status_tells_the_roles_of_figures_3_and_4() {
    if !common::can("netns") {
        return;
    }
    let name = "figures-roles";
    let _up = common::Up::lab(name, "figure-03-04-mapping.yaml", "fastpath");
    let status = json(&["status", name, "--json"]);
    let shown = common::run(common::vilab().args(["status", name]));
    for (node, star, ring) in ROLES {
        assert_eq!(words(&status["roles"]["star"][node]), star, "{node} in star");
        assert_eq!(words(&status["roles"]["ring"][node]), ring, "{node} in ring");
        let row = [node, star, ring];
        let found = shown.lines().any(|line| line.split_whitespace().eq(row));
        assert!(found, "status has no line {row:?}:\n{shown}");
    }
}

#[test]
fn rules_list_each_link_address_with_its_tunnel() {
    for dataplane in common::dataplanes() {
        let name = format!("figures-rules-{dataplane}");
        let up = common::Up::lab(&name, "figure-06-strong-weak.yaml", dataplane);
        let listed = json(&["rules", "-l", &name, "Y", "--json"]);
        let rules: Vec<&Value> = listed["rules"].as_array().expect("rules").iter().collect();
        let from: Vec<(&str, &str)> = rules
            .iter()
            .map(|r| (r["link"].as_str().expect("a link"), r["from"].as_str().expect("a node")))
            .collect();
        assert_eq!(from, [("A--M", "X"), ("M--C", "Z")], "{dataplane}");
        assert!(rules.iter().all(|r| r["in_force"] == true && r["end"] == "vi/M"), "{dataplane}: {listed}");
        let words = common::run(common::vilab().args(["rules", "-l", &name]));
        assert!(words.contains("the base tunnel from X"), "{words}");
        let refused = common::vilab().args(["rules", "-l", &name, "vi/M"]).output().expect("it runs");
        assert_eq!(refused.status.code(), Some(2));
        if dataplane == "kernel" {
            a_rule_taken_away_is_told(&up.running(), &name);
        }
    }
}

/// Takes the whole set away behind the lab's back.
fn a_rule_taken_away_is_told(running: &Running, name: &str) {
    let flush = || Command::new("nft").args(["flush", "set", "inet", "vi_strong", "la"]).status();
    let status = running.namespaces().run("l.Y", flush).expect("the namespace").expect("nft");
    assert!(status.success());
    let listed = common::vilab().args(["rules", "-l", name, "Y"]).output().expect("it runs");
    assert_eq!(listed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("NO"));
}

const VI: &str = "
vis:
  vi:
    nodes:
      a: @a
      b: {at: @b, role: router}
      c: {at: @c, role: router}
      d: {at: @d, role: both}
      e: @e
    links:
      - a -- b -- c -- d -- e
      - {link: b -- d, cost: 2}
";

/// The same VI on a line of three base nodes, which it revisits, and on a star of six.
fn mapped(base: &str, places: [&str; 5]) -> String {
    let vi = "abcde"
        .chars()
        .zip(places)
        .fold(VI.to_owned(), |text, (node, place)| text.replace(&format!("@{node}"), place));
    format!("name: mapped\nbase:\n  links:\n    - {base}\n{vi}")
}

/// What a user of the VI sees of its partitions: addresses, routes, the nodes on the way from each to each, TTLs.
fn seen(running: &Running) -> BTreeMap<String, String> {
    let state = running.state();
    let (lab, rib, namespaces) = (&state.lab, Rib::compute(&state.lab), running.namespaces());
    let context = Context {
        lab,
        rib: &rib,
        namespaces: &namespaces,
        dataplanes: &state.dataplanes,
        netem: state.netem,
        fastpath_control: running.fastpath_control(),
        strands_control: None,
    };
    let mut seen = BTreeMap::new();
    let nodes: Vec<NodeId> = lab.networks[1].nodes.iter().map(|n| n.id).collect();
    for node in &nodes {
        let ns = &lab.node(*node).netns;
        for arguments in [["-4", "route", "show"], ["-4", "-brief", "addr"], ["-4", "rule", "show"]] {
            let ip = || Command::new("ip").args(arguments).output();
            let output = namespaces.run(ns, ip).expect("the namespace").expect("ip");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // What follows `@` is where a device sends through, not what it is.
            let plain = |word: &str| word.split('@').next().unwrap_or("").to_owned();
            let words: Vec<String> = text.split_whitespace().map(plain).collect();
            seen.insert(format!("{ns}: {}", arguments.join(" ")), words.join(" "));
        }
        for to in nodes.iter().filter(|to| *to != node) {
            let hops = observe::trace(&context, *node, *to).expect("a trace");
            let path: Vec<String> =
                hops.iter().map(|h| format!("{:?}", (h.ttl, h.addr, h.reached))).collect();
            seen.insert(format!("{} to {}", lab.full_name(*node), lab.full_name(*to)), path.join(" "));
        }
    }
    seen
}

#[test]
fn a_vi_looks_the_same_on_another_base_and_mapping() {
    for dataplane in common::dataplanes() {
        let labs = [
            mapped("X -- Y -- Z", ["X", "Y", "Z", "Y", "X"]),
            mapped("hub -- {p q r s t}", ["p", "q", "r", "s", "t"]),
            mapped("hub -- {p q r s t}", ["s", "hub", "t", "p", "hub"]),
        ];
        let seen: Vec<BTreeMap<String, String>> = labs
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let up = common::Up::new(&format!("figures-map-{dataplane}-{i}"), text, dataplane);
                seen(&up.running())
            })
            .collect();
        assert!(seen[0].len() == 5 * 3 + 5 * 4 && seen[0].values().all(|v| !v.is_empty()));
        assert_eq!(seen[0], seen[1], "{dataplane}: line and star");
        assert_eq!(seen[1], seen[2], "{dataplane}: two mappings on the star");
    }
}

/// The chain of routes and tunnels from the network layer down to the wire, as the printed plan has it.
#[test]
fn packets_are_woven_through_two_layers_of_tunnels() {
    let lab = vilab::lab::load(std::path::Path::new("labs/figure-07-headers.yaml")).expect("a lab");
    let machine = Machine { ipip: true, nft: true, tun: true, netem: true, ..Machine::default() };
    let plan =
        plan::build(&lab, &Rib::compute(&lab), &machine).expect("a machine that can do all").to_string();
    let lines: Vec<&str> = plan.lines().collect();
    let link = &lab.networks[1].links[0];
    let (q, r) = (link.ends[0].link_addr.expect("Q"), link.ends[1].link_addr.expect("R"));
    let host = |net: usize, node: usize| lab.networks[net].nodes[node].host.expect("a host address");
    let (x, y, d) = (host(0, 0), host(0, 1), host(1, 2));
    let next = link.ends[1].addr;
    for (what, line) in [
        (
            "the network layer routes to the link",
            format!("ip -n v.vi.A route add {d}/32 proto static via {next} dev v-BC "),
        ),
        (
            "the link is a tunnel made in the link layer",
            format!("ip -n l.X link add name k1.0.0 type ipip mode ipip local {q} remote {r} ttl 64"),
        ),
        ("and moved up", "ip -n l.X link set dev k1.0.0 name v-BC netns v.vi.A".to_owned()),
        (
            "the link layer routes to the base tunnel",
            format!("ip -n l.X route add {r}/32 proto static dev t-Y src {q}"),
        ),
        (
            "that is made in the base node",
            format!("ip -n b.X link add name t-Y type ipip mode ipip local {x} remote {y} ttl 64"),
        ),
        ("and moved up", "ip -n b.X link set dev t-Y name t-Y netns l.X".to_owned()),
        ("and the base routes to its other end", format!("ip -n b.X route add {y}/32 proto static via ")),
    ] {
        assert!(lines.iter().any(|l| l.starts_with(&line)), "{what}: no line {line}\n{plan}");
    }
}
