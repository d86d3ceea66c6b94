//! Control recursion, drawn at random: what a template gives is what a plain recursion gives, and the flat lab is the
//! same lab, byte for byte in its plan.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use vilab::model::{self, Given, Lab, Source};
use vilab::plan::{self, Machine};
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

/// Trees of trees: each of some children a level, and what hangs on them.
#[derive(Debug, Clone)]
struct Drawn {
    depth: usize,
    arity: usize,
    places: usize,
    extra: bool,
    whole: bool,
    cost: u32,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    (0usize..4, 1usize..4, 1usize..4, any::<bool>(), any::<bool>(), 1u32..9).prop_map(
        |(depth, arity, places, extra, whole, cost)| Drawn { depth, arity, places, extra, whole, cost },
    )
}

fn text(d: &Drawn) -> String {
    let places: Vec<String> = (0..d.places).map(|i| format!("X{i}")).collect();
    let places = places.join(", ");
    let with = format!("use: tree, with: {{depth: \"${{levels}}\", place: [{places}]}}");
    let vi = match d.whole {
        true => format!("  big: {{{with}}}\n"),
        false => format!("  big:\n    nodes: {{a: X0, t: {{{with}}}}}\n    links: [a -- t.up]\n"),
    };
    format!(
        "name: drawn
params: {{levels: 7, arity: {arity}, extra: {extra}}}
templates:
  tree:
    params: {{depth: 0, place: []}}
    ports: {{up: top}}
    nodes:
      top: {{at: \"${{pick(place)}}\", role: \"${{'router' if depth > 0 else 'host'}}\"}}
      \"c[1..${{arity}}]\":
        {{when: depth > 0, use: tree, with: {{depth: \"${{depth - 1}}\", place: \"${{place}}\"}}}}
      x: {{at: \"${{place[0]}}\", when: extra}}
    links:
      - {{link: \"top -- c[1..${{arity}}].up\", when: depth > 0, cost: {cost}}}
      - {{link: top -- x, when: extra, name: \"x${{depth}}\"}}
base: {{links: [\"hub -- {{{places}}}\"], routing: static, nodes: {{hub: {{role: router}}}}}}
vis:
{vi}tests:
  - ping: all in big
",
        arity = d.arity,
        extra = d.extra,
        cost = d.cost,
        places = places.replace(',', ""),
    )
    .replace(&format!("place: [{}]", places.replace(',', "")), &format!("place: [{places}]"))
}

fn given(d: &Drawn) -> Vec<Given> {
    vec![Given { name: "levels".to_owned(), value: d.depth.to_string() }]
}

fn load(text: &str, given: &[Given]) -> Lab {
    model::parse_given(Path::new("drawn.yaml"), text, given, None).unwrap_or_else(|e| {
        panic!("{text}\n{}", e.report().map(|r| r.render(false)).unwrap_or_else(|| e.to_string()))
    })
}

fn flat(text: &str, given: &[Given]) -> String {
    model::flat(&Source { given, ..Source::new(Path::new("drawn.yaml"), text) }).expect("a good lab")
}

fn plan(lab: &Lab) -> String {
    plan::build(lab, &Rib::compute(lab), &MACHINE).expect("a machine that can do all").to_string()
}

/// The same tree by hand: nodes with their places, and links with their names and costs.
#[derive(Debug, Default, PartialEq)]
struct Reference {
    nodes: Vec<(String, String, bool)>,
    links: Vec<(String, String, Option<String>, u32)>,
    picked: usize,
}

fn reference(d: &Drawn, prefix: &str, depth: usize, out: &mut Reference) {
    let place = format!("X{}", out.picked % d.places);
    out.picked += 1;
    out.nodes.push((format!("{prefix}top"), place, depth > 0));
    if depth > 0 {
        for i in 1..=d.arity {
            reference(d, &format!("{prefix}c{i}."), depth - 1, out);
        }
    }
    if d.extra {
        out.nodes.push((format!("{prefix}x"), "X0".to_owned(), false));
    }
    if depth > 0 {
        let to = |i: usize| (format!("{prefix}top"), format!("{prefix}c{i}.top"), None, d.cost);
        out.links.extend((1..=d.arity).map(to));
    }
    if d.extra {
        let name = Some(format!("{prefix}x{depth}"));
        out.links.push((format!("{prefix}top"), format!("{prefix}x"), name, 1));
    }
}

fn by_hand(d: &Drawn) -> String {
    let mut out = Reference::default();
    let prefix = if d.whole { "" } else { "t." };
    if !d.whole {
        out.nodes.push(("a".to_owned(), "X0".to_owned(), false));
    }
    reference(d, prefix, d.depth, &mut out);
    if !d.whole {
        out.links.push(("a".to_owned(), "t.top".to_owned(), None, 1));
    }
    let places: Vec<String> = (0..d.places).map(|i| format!("X{i}")).collect();
    let mut text = "name: drawn\nbase:\n  nodes: {hub: {role: router}}\n  links:\n".to_owned();
    let _ = writeln!(text, "    - hub -- {{{}}}", places.join(" "));
    text += "vis:\n  big:\n    nodes:\n";
    for (name, at, router) in &out.nodes {
        let role = if *router { "router" } else { "host" };
        let _ = writeln!(text, "      {name}: {{at: {at}, role: {role}}}");
    }
    if !out.links.is_empty() {
        text += "    links:\n";
    }
    for (a, b, name, cost) in &out.links {
        let name = name.as_ref().map(|n| format!(", name: {n}")).unwrap_or_default();
        let _ = writeln!(text, "      - {{link: {a} -- {b}, cost: {cost}{name}}}");
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn d2_expansion_is_what_a_plain_recursion_gives(d in drawn()) {
        let expanded = load(&text(&d), &given(&d));
        let written = load(&by_hand(&d), &[]);
        prop_assert_eq!(plan(&expanded), plan(&written));
    }

    #[test]
    fn d2_the_flat_lab_is_the_same_lab(d in drawn()) {
        let text = text(&d);
        let flat = flat(&text, &given(&d));
        prop_assert_eq!(&self::flat(&flat, &[]), &flat);
        let (lab, again) = (load(&text, &given(&d)), load(&flat, &[]));
        prop_assert_eq!(plan(&lab), plan(&again), "{}", flat);
        prop_assert_eq!(&lab.networks, &again.networks);
    }

    /// Each instance has one prefix to itself, those in it prefixes of that.
    #[test]
    fn an_instance_is_one_prefix(d in drawn()) {
        let lab = load(&text(&d), &given(&d));
        let network = &lab.networks[1];
        let mut inside: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let mut outside: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let all = network.nodes.iter().filter_map(|n| Some((vec![n.name.as_str()], n.host?)));
        let ends = network.links.iter().flat_map(|l| {
            let names = l.ends.each_ref().map(|e| lab.node(e.node).name.as_str()).to_vec();
            l.ends.each_ref().map(|e| (names.clone(), e.addr))
        });
        let all: Vec<_> = all.chain(ends).map(|(names, addr)| (names, u32::from(addr))).collect();
        let groups: Vec<&str> = network.nodes.iter().filter_map(|n| Some(n.name.rsplit_once('.')?.0)).collect();
        for group in groups {
            for (names, addr) in &all {
                let within = names.iter().all(|n| n.strip_prefix(group).is_some_and(|rest| rest.starts_with('.')));
                let into = if within { &mut inside } else { &mut outside };
                into.entry(group).or_default().push(*addr);
            }
        }
        for (group, own) in &inside {
            let (low, high) = (own.iter().min().expect("some"), own.iter().max().expect("some"));
            let mask = u32::MAX.checked_shl(32 - (low ^ high).leading_zeros()).unwrap_or(0);
            let strange = outside.get(group).into_iter().flatten().find(|a| **a & mask == low & mask);
            prop_assert_eq!(strange, None, "{} has {:x}/{:x}", group, low & mask, mask);
        }
    }
}
