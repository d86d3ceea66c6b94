//! Topologies from other files: the same graph in each format gives the same lab, and what is imported is as if it had
//! been written.

use std::fs;
use std::path::Path;

use vilab::lab;
use vilab::model::Lab;
use vilab::plan::{self, Machine};
use vilab::routing::Rib;

const FORMATS: [&str; 3] = ["square.graphml", "square.gml", "square.clab.yml"];

/// A lab file beside the fixtures, in a directory of its own.
fn load(name: &str, rest: &str) -> Lab {
    let dir = tempfile::tempdir().expect("a directory");
    lab::load(&write(dir.path(), name, rest)).unwrap_or_else(|e| {
        panic!("{rest}\n{}", e.report().map(|r| r.render(false)).unwrap_or_else(|| e.to_string()))
    })
}

fn write(dir: &Path, name: &str, rest: &str) -> std::path::PathBuf {
    for format in FORMATS {
        fs::copy(Path::new("fixtures/import").join(format), dir.join(format)).expect("a fixture");
    }
    let path = dir.join(format!("{name}.yaml"));
    fs::write(&path, format!("name: {name}\n{rest}")).expect("a lab file");
    path
}

fn names(lab: &Lab) -> (Vec<&str>, Vec<&str>) {
    let base = lab.base();
    (
        base.nodes.iter().map(|n| n.name.as_str()).collect(),
        base.links.iter().map(|l| l.name.as_str()).collect(),
    )
}

fn plan(lab: &Lab) -> String {
    plan::build(lab, &Rib::compute(lab), &Machine { tun: true, redirect: true, ..Machine::default() })
        .expect("a plan")
        .to_string()
}

#[test]
fn each_format_gives_the_same_network() {
    for format in FORMATS {
        let lab = load("square", &format!("base: {{import: {format}}}\n"));
        let links =
            ["Zurich--St_Gallen", "St_Gallen--Zurich_2", "Zurich_2--n3", "n3--Zurich", "Zurich--n3.2"];
        assert_eq!(names(&lab), (vec!["Zurich", "St_Gallen", "Zurich_2", "n3"], links.to_vec()), "{format}");
        assert!(lab.base().nodes.iter().all(|n| n.forwards), "each has two links");
    }
}

#[test]
fn what_is_imported_is_as_if_it_had_been_written() {
    let more =
        "  mtu: 1400\n  links: [n3 -- Bern]\nvis:\n  v: {nodes: {a: Bern, b: Zurich}, links: [a -- b]}\n";
    let imported = load(
        "more",
        &format!("base:\n  import: square.gml\n  nodes: {{n3: {{loopback: 10.5.0.1}}}}\n{more}"),
    );
    let dir = tempfile::tempdir().unwrap();
    let given = format!(
        "params: {{file: square.gml}}\nbase:\n  import: \"${{file}}\"\n  nodes: {{n3: {{loopback: 10.5.0.1}}}}\n{more}"
    );
    let flat = lab::flat(&write(dir.path(), "more", &given), &[]).unwrap();
    assert!(!flat.contains("import"), "{flat}");
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("flat.yaml"), &flat).unwrap();
    let flat = lab::load(&elsewhere.path().join("flat.yaml")).unwrap();
    assert_eq!(plan(&imported), plan(&flat));
    let (nodes, links) = names(&imported);
    assert_eq!(nodes, ["Zurich", "St_Gallen", "Zurich_2", "n3", "Bern"]);
    assert_eq!(links.last(), Some(&"n3--Bern"));
    assert_eq!(imported.base().nodes[3].host, Some("10.5.0.1".parse().unwrap()));
}

#[test]
fn nodes_of_a_list_and_ranges_are_not_twice() {
    let lab = load("list", "base:\n  import: square.gml\n  nodes: [Bern, \"Zurich\", \"n[3..4]\"]\n");
    assert_eq!(names(&lab).0, ["Zurich", "St_Gallen", "Zurich_2", "Bern", "n3", "n4"]);
}
