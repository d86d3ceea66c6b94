//! The pictures of labs, compared with what stands in `fixtures/graph`. `VILAB_BLESS=1` writes it.

#[path = "common/labs.rs"]
mod all;

use std::path::{Path, PathBuf};

use all::labs;
use vilab::graph::{self, Graph, Refused};
use vilab::lab;
use vilab::model::Lab;
use vilab::routing::Rib;

/// The figures of the paper: the lab, and the VIs to draw; all of them where none is named.
const FIGURES: [(&str, &str, &[&str]); 11] = [
    ("figure-01", "figure-01-multiple-vis", &[]),
    ("figure-02", "figure-02-users-view", &[]),
    ("figure-03", "figure-03-04-mapping", &["star"]),
    ("figure-04", "figure-03-04-mapping", &["ring"]),
    ("figure-05", "figure-05-internal-host", &[]),
    ("figure-06", "figure-06-strong-weak", &[]),
    ("figure-07", "figure-07-headers", &[]),
    ("figure-08", "figure-08-recursion", &[]),
    ("figure-09", "figure-09-header", &[]),
    ("figure-10", "figure-10-stacked", &[]),
    ("figure-11", "figure-11-revisitation", &[]),
];

fn load(name: &str) -> Lab {
    lab::load(Path::new(&format!("labs/{name}.yaml"))).expect("the lab is right")
}

fn graph_of(lab: &Lab, only: &[&str]) -> Graph {
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    Graph::of(lab, &Rib::compute(lab), &only).expect("a graph")
}

#[test]
fn the_figures_come_out_as_before() {
    let mut wrong = Vec::new();
    for (figure, name, only) in FIGURES {
        let graph = graph_of(&load(name), only);
        let json = serde_json::to_string_pretty(&graph).expect("JSON") + "\n";
        let formats = [
            ("svg", graph::svg(&graph)),
            ("dot", graph::dot(&graph)),
            ("mmd", graph::mermaid(&graph)),
            ("json", json),
        ];
        for (suffix, got) in formats {
            let golden = PathBuf::from(format!("fixtures/graph/{figure}.{suffix}"));
            if std::env::var_os("VILAB_BLESS").is_some() {
                std::fs::write(&golden, &got).expect("the golden file is writable");
            }
            if std::fs::read_to_string(&golden).unwrap_or_default() != got {
                wrong.push(golden.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "not as before: {}", wrong.join(", "));
}

#[test]
fn every_lab_can_be_drawn_and_always_alike() {
    for path in labs() {
        let lab = lab::load(&path).expect("the lab is right");
        let [first, second] = [0, 1].map(|_| graph_of(&lab, &[]));
        let [first, second] = [first, second].map(|g| [graph::svg(&g), graph::dot(&g), graph::mermaid(&g)]);
        assert_eq!(first, second, "{}", path.display());
        assert!(!first[0].contains("NaN") && !first[0].contains("inf\""), "{}", path.display());
    }
}

/// A node that is alone on its place is straight above it, and a plane never below what it rides on.
#[test]
fn nodes_lie_above_their_places() {
    let graph = graph_of(&load("figure-10-stacked"), &[]);
    for node in graph.planes.iter().skip(1).flat_map(|p| &p.nodes) {
        let at = node.at[0];
        assert_eq!(node.lies, graph.planes[at.plane].nodes[at.node].lies, "{}", node.name);
    }
}

/// Revisitation: the visits to one place lie apart, but nearer to it than to any other.
#[test]
fn visits_to_one_place_lie_around_it() {
    let graph = graph_of(&load("figure-11-revisitation"), &[]);
    let base = &graph.planes[0].nodes;
    for (index, node) in graph.planes[1].nodes.iter().enumerate() {
        let far = |p: graph::Point| ((node.lies.x - p.x).powi(2) + (node.lies.y - p.y).powi(2)).sqrt();
        let own = far(base[node.at[0].node].lies);
        assert!(base.iter().all(|b| far(b.lies) >= own), "{} is nearer to another place", node.name);
        for other in graph.planes[1].nodes.iter().skip(index + 1) {
            assert!(far(other.lies) > 0.5, "{} and {}", node.name, other.name);
        }
    }
}

#[test]
fn a_vi_that_is_not_there_and_a_network_too_large_are_refused() {
    let lab = load("figure-01-multiple-vis");
    let refused = Graph::of(&lab, &Rib::compute(&lab), &["moon".to_owned()]);
    assert_eq!(refused, Err(Refused::NoSuchVi("moon".to_owned())));
    let text = "name: large\nbase: {links: [{line: \"n[1..1001]\"}]}\n";
    let large = vilab::model::parse(Path::new("large.yaml"), text).expect("a lab");
    let refused = Graph::of(&large, &Rib::default(), &[]);
    assert_eq!(refused, Err(Refused::TooMany { network: "base".to_owned(), nodes: 1001 }));
}

/// A base network whose nodes have a `location:` is a map: west is left, north is behind.
#[test]
fn located_nodes_lie_as_on_a_map() {
    let text = "name: map\nbase:\n  nodes:\n    W: {location: [47.6, -122.3]}\n    S: {location: [29.8, -95.4]}\n    \
                N: {location: [41.9, -87.6]}\n    E: {location: [40.7, -74.0]}\n    somewhere:\n  \
                links: [E -- S, S -- W, W -- N, N -- E, E -- somewhere]\n";
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    std::fs::write(&file, text).expect("the text");
    let graph = graph_of(&lab::load(file.path()).expect("the lab is right"), &[]);
    let lies = |name: &str| graph.planes[0].nodes.iter().find(|n| n.name == name).expect("a node").lies;
    let [w, s, n, e] = ["W", "S", "N", "E"].map(lies);
    assert!(w.x < s.x && s.x < n.x && n.x < e.x, "from west to east: {w:?} {s:?} {n:?} {e:?}");
    assert!(w.y < n.y && n.y < e.y && e.y < s.y, "from north to south: {w:?} {n:?} {e:?} {s:?}");
    let other = lies("somewhere");
    assert!((other.x - e.x).hypot(other.y - e.y) < 2.0, "beside its neighbour: {other:?} {e:?}");
}

/// The picture for a page has each node and link under its full name, and leaves colours to the page.
#[test]
fn the_picture_for_a_page_says_whose_each_part_is() {
    for path in labs() {
        let lab = lab::load(&path).expect("the lab is right");
        let text = graph::page_svg(&graph_of(&lab, &[]));
        let drawn = roxmltree::Document::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let marked = |tag: &str, attribute: &str| {
            let parts = drawn.descendants().filter(|n| n.has_tag_name(("http://www.w3.org/2000/svg", tag)));
            let mut names: Vec<String> =
                parts.filter_map(|n| n.attribute(attribute)).map(str::to_owned).collect();
            names.sort();
            names
        };
        let mut nodes: Vec<String> = lab.named_nodes().map(|n| lab.full_name(n.id)).collect();
        let links = lab.named_networks().flat_map(|n| &n.links).chain(lab.gateways.iter().map(|g| &g.link));
        let mut links: Vec<String> = links.map(|l| lab.full_link_name(l.id)).collect();
        nodes.sort();
        links.sort();
        assert_eq!(marked("g", "data-node"), nodes, "{}", path.display());
        assert_eq!(marked("text", "data-node"), nodes, "{}", path.display());
        assert_eq!(marked("path", "data-link"), links, "{}", path.display());
        assert!(!text.contains(" style=") && !text.contains("#fff"), "{}", path.display());
    }
}
