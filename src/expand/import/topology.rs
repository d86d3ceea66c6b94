//! What all formats have in common: nodes with labels, and links between them. A [`Graph`] as a file has it goes in; a
//! [`Topology`] in which every node has a name of the lab language comes out. It never leaves out what it cannot carry:
//! that is a [`Fault`].

use std::collections::{BTreeMap, BTreeSet};

use crate::expand::MAX_NODES;

/// Bound on the links of a topology.
const MAX_LINKS: usize = 4 * MAX_NODES;
/// Longest name that is made of a label: with a number behind it there is room for a device name's hash and more.
const LONGEST: usize = 48;

/// Why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// From 1, where it is known.
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { line: None, what: what.into() }
    }

    pub(super) fn at(line: usize, what: impl Into<String>) -> Self {
        Self { line: Some(line), what: what.into() }
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
pub(super) struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self { ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }
}

/// A graph as a file has it.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<GraphNode>,
    pub(super) edges: Vec<GraphEdge>,
}

#[derive(Debug)]
pub(super) struct GraphNode {
    pub(super) line: usize,
    /// By which edges name it.
    pub(super) id: String,
    pub(super) label: Option<String>,
    /// Latitude and longitude, as the file has them.
    pub(super) place: Option<[String; 2]>,
}

#[derive(Debug)]
pub(super) struct GraphEdge {
    pub(super) line: usize,
    /// Ids of nodes.
    pub(super) ends: [String; 2],
}

/// Nodes and links by the names that they have in the lab.
#[derive(Debug, PartialEq)]
pub(super) struct Topology {
    pub(super) nodes: Vec<String>,
    /// Of each node, degrees north and east.
    pub(super) places: Vec<Option<[f64; 2]>>,
    pub(super) links: Vec<[String; 2]>,
}

impl Graph {
    /// Gives every node its name.
    pub(super) fn named(self) -> Result<Topology, Fault> {
        if self.nodes.is_empty() {
            return Err(Fault::new("it has no nodes"));
        }
        if self.nodes.len() > MAX_NODES {
            return Err(Fault::new(format!("{} nodes; {MAX_NODES} is the bound", self.nodes.len())));
        }
        if self.edges.len() > MAX_LINKS {
            return Err(Fault::new(format!("{} edges; {MAX_LINKS} is the bound", self.edges.len())));
        }
        let mut by_id: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if by_id.insert(&node.id, index).is_some() {
                return Err(Fault::at(node.line, format!("a second node with the id `{}`", node.id)));
            }
        }
        let nodes = names(&self.nodes);
        let links = self.edges.iter().map(|edge| {
            let [a, b] = &edge.ends;
            let find = |id: &str| {
                let unknown =
                    || Fault::at(edge.line, format!("an edge to a node `{id}`, which is not there"));
                by_id.get(id).copied().ok_or_else(unknown)
            };
            let (a, b) = (find(a)?, find(b)?);
            if a == b {
                let what = format!("an edge from `{}` to itself: a link has two ends", nodes[a]);
                return Err(Fault::at(edge.line, what));
            }
            Ok([nodes[a].clone(), nodes[b].clone()])
        });
        let links = links.collect::<Result<_, _>>()?;
        let places = self.nodes.iter().map(GraphNode::degrees).collect::<Result<_, _>>()?;
        Ok(Topology { nodes, places, links })
    }
}

impl GraphNode {
    fn degrees(&self) -> Result<Option<[f64; 2]>, Fault> {
        let Some([latitude, longitude]) = &self.place else { return Ok(None) };
        let degrees = |text: &str, what: &str, most: f64| {
            let found = text.trim().parse().ok().filter(|d| (-most..=most).contains(d));
            let wrong = || Fault::at(self.line, format!("`{text}` is no {what} in degrees"));
            found.ok_or_else(wrong)
        };
        Ok(Some([degrees(latitude, "latitude", 90.0)?, degrees(longitude, "longitude", 180.0)?]))
    }
}

/// A name for each node: its label's, or its id's; the second of one name gets `_2` behind it, and so on.
fn names(nodes: &[GraphNode]) -> Vec<String> {
    let wanted: Vec<String> = nodes
        .iter()
        .map(|node| {
            let label = node.label.as_deref().map(name).filter(|name| !name.is_empty());
            Some(label.unwrap_or_else(|| name(&node.id))).filter(|n| !n.is_empty()).unwrap_or("node".into())
        })
        .collect();
    let mut taken: BTreeSet<String> = wanted.iter().cloned().collect();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    wanted
        .iter()
        .map(|name| {
            let count = seen.entry(name).or_insert(0);
            *count += 1;
            if *count == 1 {
                return name.clone();
            }
            loop {
                let numbered = format!("{name}_{count}");
                if taken.insert(numbered.clone()) {
                    return numbered;
                }
                *count += 1;
            }
        })
        .collect()
}

/// A text as a name: letters of other alphabets in ASCII, and one `_` for whatever stands between letters, digits and `-`.
fn name(text: &str) -> String {
    let mut name = String::new();
    for c in deunicode::deunicode(text).chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c),
            '-' if !name.ends_with(['-', '_']) => name.push('-'),
            _ if !name.ends_with(['-', '_']) => name.push('_'),
            _ => {}
        }
    }
    let name = name.trim_matches(['-', '_']);
    name[..name.len().min(LONGEST)].trim_end_matches(['-', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, label: Option<&str>) -> GraphNode {
        GraphNode { line: 1, id: id.to_owned(), label: label.map(str::to_owned), place: None }
    }

    fn edge(a: &str, b: &str) -> GraphEdge {
        GraphEdge { line: 7, ends: [a.to_owned(), b.to_owned()] }
    }

    #[test]
    fn lines_are_counted_from_1() {
        let lines = Lines::of("ab\ncd\n\ne");
        assert_eq!([0, 2, 3, 6, 7].map(|at| lines.line(at)), [1, 1, 2, 3, 4]);
    }

    #[test]
    fn labels_become_names() {
        let cases = [
            ("Seattle", "Seattle"),
            ("St. Louis, MO", "St_Louis_MO"),
            ("Zürich", "Zurich"),
            ("São Paulo (BR)", "Sao_Paulo_BR"),
            ("-- a -- b", "a_b"),
            ("Frankfurt-am-Main", "Frankfurt-am-Main"),
            ("n[1..3]", "n_1_3"),
            ("${x}", "x"),
            (" . ", ""),
        ];
        for (label, expected) in cases {
            assert_eq!(name(label), expected, "{label}");
        }
        assert_eq!(name(&"é".repeat(200)), "e".repeat(LONGEST));
    }

    #[test]
    fn nodes_of_one_label_are_told_apart_and_take_nobodys_name() {
        let nodes = [
            node("0", Some("Ulm")),
            node("1", Some("Ulm")),
            node("2", Some("Ulm_2")),
            node("3", Some("Ulm")),
            node("4", None),
            node("5", Some("?!")),
        ];
        assert_eq!(names(&nodes), ["Ulm", "Ulm_3", "Ulm_2", "Ulm_4", "4", "5"]);
    }

    #[test]
    fn parallel_edges_are_links_and_loops_are_refused() {
        let nodes = || vec![node("0", Some("a")), node("1", Some("b"))];
        let graph = Graph { nodes: nodes(), edges: vec![edge("0", "1"), edge("1", "0")] };
        let links = [["a", "b"], ["b", "a"]].map(|l| l.map(str::to_owned));
        assert_eq!(graph.named().unwrap().links, links);
        let fault = Graph { nodes: nodes(), edges: vec![edge("1", "1")] }.named().unwrap_err();
        assert_eq!(fault, Fault::at(7, "an edge from `b` to itself: a link has two ends"));
        let fault = Graph { nodes: nodes(), edges: vec![edge("1", "2")] }.named().unwrap_err();
        assert_eq!(fault, Fault::at(7, "an edge to a node `2`, which is not there"));
    }

    #[test]
    fn ids_are_unique_and_there_is_a_node() {
        let twice = Graph { nodes: vec![node("0", None), node("0", None)], edges: vec![] };
        assert_eq!(twice.named().unwrap_err().what, "a second node with the id `0`");
        assert_eq!(Graph::default().named().unwrap_err().what, "it has no nodes");
    }

    #[test]
    fn places_are_degrees() {
        let at = |latitude: &str, longitude: &str| {
            let place = Some([latitude.to_owned(), longitude.to_owned()]);
            Graph { nodes: vec![GraphNode { place, ..node("a", None) }], edges: Vec::new() }.named()
        };
        assert_eq!(at("-52.25", " 11").unwrap().places, [Some([-52.25, 11.0])]);
        assert_eq!(at("91", "0").unwrap_err(), Fault::at(1, "`91` is no latitude in degrees"));
        assert_eq!(at("0", "east").unwrap_err(), Fault::at(1, "`east` is no longitude in degrees"));
    }
}
