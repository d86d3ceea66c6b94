//! Templates through the library: labs and what they expand to.

use std::path::Path;

use crate::model::{self, Given, Source};

pub(super) const TREE: &str = "name: t
templates:
  tree:
    params: {depth: 2, place: []}
    ports: {up: top}
    nodes:
      top: {at: \"${pick(place)}\", role: \"${'router' if depth > 0 else 'host'}\"}
      l: {when: \"depth > 0\", use: tree, with: {depth: \"${depth - 1}\", place: \"${place}\"}}
      r: {when: \"depth > 0\", use: tree, with: {depth: \"${depth - 1}\", place: \"${place}\"}}
    links:
      - {link: \"top -- {l.up r.up}\", when: \"depth > 0\"}
base: {links: [X -- Y -- Z -- X]}
vis:
  big:
    nodes:
      a: X
      t: {use: tree, with: {depth: DEPTH, place: [X, Y, Z]}}
    links: [a -- t.up]
";

fn flat(text: &str) -> String {
    flat_given(text, &[])
}

fn flat_given(text: &str, given: &[Given]) -> String {
    let source = Source { given, ..Source::new(Path::new("t.yaml"), text) };
    model::flat(&source).unwrap_or_else(|e| panic!("{text}\n{}", said(e.report())))
}

fn said(report: Option<&crate::spec::Report>) -> String {
    report.expect("errors of a lab file").render(false)
}

fn wrong(text: &str) -> String {
    said(model::parse(Path::new("t.yaml"), text).expect_err("a wrong lab").report())
}

#[test]
fn the_languages_example() {
    let expected = "name: t
base:
  links:
    - X -- Y
    - Y -- Z
    - Z -- X
vis:
  big:
    nodes:
      a: X
      t.top: {at: X, role: router}
      t.l.top: {at: Y, role: host}
      t.r.top: {at: Z, role: host}
    links:
      - {link: t.top -- t.l.top}
      - {link: t.top -- t.r.top}
      - a -- t.top
";
    assert_eq!(flat(&TREE.replace("DEPTH", "1")), expected);
    assert_eq!(flat(expected), expected, "the flat lab of a flat lab is itself");
    let five = model::parse(Path::new("t.yaml"), &TREE.replace("DEPTH", "5")).unwrap();
    assert_eq!(five.networks[1].nodes.len(), 64);
    assert_eq!(five.networks[1].links.len(), 63);
}

#[test]
fn values_keep_their_types() {
    let text = "name: t
params: {n: 3, places: [X, 1, y], cost: 2, on: true, all: [X, 1, y]}
templates:
  one: {params: {name: a, cost: 1}, nodes: {\"${name}\": X}}
base: {nodes: [X, 1, y], links: [\"{${all}} -- hub\"], mtu: \"${1000 + n}\"}
vis:
  v:
    nodes: {\"n[1..${n}]\": \"${pick(places)}\", i: {use: one, with: {name: 7}}, o: {at: X, when: not on}}
    links: [{ring: \"n[1..${n}]\", cost: \"${cost * 2 / 4}\"}, {link: o -- n1, when: not on}, n1 -- i.7x]
";
    let error = wrong(text);
    assert!(error.contains("has no port `7x`") && error.contains("no `ports:`"), "{error}");
    let text = text.replace(", n1 -- i.7x", "");
    let expected = "name: t
base:
  nodes:
    - X
    - 1
    - y
  links:
    - X -- hub
    - 1 -- hub
    - y -- hub
  mtu: 1003
vis:
  v:
    nodes:
      n1: X
      n2: 1
      n3: y
      i.7: X
    links:
      - {link: n1 -- n2, cost: 1}
      - {link: n2 -- n3, cost: 1}
      - {link: n3 -- n1, cost: 1}
";
    assert_eq!(flat(&text), expected);
    let given = |name: &str, value: &str| Given { name: name.to_owned(), value: value.to_owned() };
    let given = [given("n", "4"), given("on", "false"), given("n", "3"), given("places", "[y]")];
    let two = flat_given(&text, &given);
    assert!(two.contains("n3: y") && two.contains("o -- n1"), "{two}");
}

#[test]
fn a_whole_vi_and_ports_through_levels() {
    let text = "name: t
templates:
  pair:
    ports: {in: a, out: {node: b, optional: true}}
    nodes: {a: X, b: X}
    links: [a -- b]
  twice:
    ports: {in: x.in}
    nodes: {x: {use: pair}, \"y[1..2]\": {use: pair}}
    links: [{link: x.out -- y1.in, name: k}, y1.out -- y2.in]
base: {nodes: [X]}
vis:
  whole: {use: twice, routing: ospf, nodes: {more: X}, links: [more -- x.in]}
  inst: {nodes: {t: {use: twice}, e: X}, links: [e -- t.in]}
";
    let out = flat(text);
    for line in [
        "  whole:\n    routing: ospf\n    nodes:\n      x.a: X\n",
        "      y2.b: X\n      more: X\n",
        "      - {link: x.b -- y1.a, name: k}\n      - y1.b -- y2.a\n      - more -- x.a\n",
        "      - {link: t.x.b -- t.y1.a, name: t.k}\n",
        "      - e -- t.x.a\n",
    ] {
        assert!(out.contains(line), "{line}\nin\n{out}");
    }
    assert_eq!(flat(&out), out);
}

#[test]
fn ends_of_emulated_routers_are_left_alone() {
    let text = "name: t
templates:
  part: {ports: {up: R.p1}, nodes: {R: {role: router, emulate: core}, b: X}, links: [b -- R.p2]}
base: {nodes: [X]}
vis: {v: {nodes: {t: {use: part}, a: X}, links: [a -- t.up]}}
";
    let mut errors = Vec::new();
    let file = crate::spec::read(text, &mut errors).unwrap();
    let flat = super::flatten(&file, &[], &mut errors);
    let out = crate::spec::write(&super::written_out(&flat.tree), &super::escape);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(out.contains("- t.b -- t.R.p2\n      - a -- t.R.p1\n"), "{out}");
    assert!(out.contains("t.R: {role: router, emulate: core}"), "{out}");
}

#[test]
fn errors_name_the_instance_and_stand_once() {
    let error = wrong(&TREE.replace("DEPTH", "5").replace("else 'host'", "else 'hots'"));
    assert!(error.contains("in `big/t.l.l.l.l.l` (template `tree`), and in 31 other instances"), "{error}");
    assert!(error.contains("did you mean `host`?"), "{error}");
    assert_eq!(error.matches("error[").count(), 1, "{error}");
    let error = wrong(&TREE.replace("DEPTH", "5").replace("[X, Y, Z]", "[X, Y, Q, X]"));
    assert!(
        error.contains("`Q` is not a node of `base`") && error.contains("in 15 other instances"),
        "{error}"
    );
}

#[test]
fn recursion_ends() {
    let endless = TREE.replace("when: \"depth > 0\", use", "use").replace("DEPTH", "5");
    let error = wrong(&endless);
    let path = format!("big/t{}", ".l".repeat(64));
    assert!(
        error.contains(&format!("recursion without end: `{path}` is more than 64 levels deep")),
        "{error}"
    );
    assert_eq!(error.matches("error[").count(), 1, "{error}");
    let wide = TREE.replace("DEPTH", "40");
    assert!(wrong(&wide).contains("more than 65536 nodes"), "{}", wrong(&wide));
    let hollow = "name: t\nbase: {nodes: [X]}\ntemplates:\n  n: {params: [d], nodes: {\"i[1..2]\": {use: n, when: d > 0, \
                  with: {d: \"${d - 1}\"}}}}\nvis: {v: {nodes: {t: {use: n, with: {d: 60}}}}}\n";
    assert!(wrong(hollow).contains("more than 65536 instances"), "{}", wrong(hollow));
}

#[test]
fn nothing_grows_without_bound() {
    for with in [
        "{depth: 60, place: \"${place + place}\"}",
        "{depth: \"${depth - 1}\", place: \"${[place, place]}\"}",
        "{depth: \"${depth * depth}\", place: [\"${'x' * 10**9}\"]}",
        "{depth: \"${depth - 1}\", place: \"${range(10**9)}\"}",
    ] {
        let text =
            TREE.replace("{depth: \"${depth - 1}\", place: \"${place}\"}", with).replace("DEPTH", "60");
        assert!(!wrong(&text).is_empty());
    }
}

#[test]
fn a_tree_of_8191_instances() {
    let text = TREE.replace("DEPTH", "12");
    let mut errors = Vec::new();
    let file = crate::spec::read(&text, &mut errors).unwrap();
    let flat = super::flatten(&file, &[], &mut errors);
    assert!(errors.is_empty(), "{:?}", errors.first());
    assert_eq!(flat.instances.len(), 8_191);
}
