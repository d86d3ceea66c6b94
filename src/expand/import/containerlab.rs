//! Topologies of containerlab: `topology: {nodes, links}`. Bytes go in; a [`Graph`] or the first [`Fault`] comes out. It
//! never looks at kinds, images or anything else that a node of a lab has no use for.

use super::topology::{Fault, Graph, GraphEdge, GraphNode, Lines};
use super::{get, is};
use crate::spec::{self, Tree, Value, position};

pub(super) fn parse(bytes: &[u8]) -> Result<Graph, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::new("it is not UTF-8"))?;
    let mut errors = Vec::new();
    let Some(file) = spec::read(text, &mut errors) else {
        let error = errors.first().map(|e| (position(text, e.span).0, e.title.clone()));
        return Err(error.map_or(Fault::new("it is not YAML"), |(line, title)| Fault::at(line, title)));
    };
    let lines = Lines::of(text);
    let line = |tree: &Tree| lines.line(tree.span.start);
    let topology = get(&file, "topology").ok_or_else(|| Fault::new("it has no `topology:`"))?;
    let nodes = match get(topology, "nodes").map(|nodes| (&nodes.value, nodes)) {
        Some((Value::Map(nodes), _)) => nodes,
        Some((_, nodes)) => return Err(Fault::at(line(nodes), "`nodes` is not a map")),
        None => return Err(Fault::at(line(topology), "`topology` has no `nodes:`")),
    };
    let name = |tree: &Tree| match &tree.value {
        Value::Scalar(name) => Ok(name.clone()),
        Value::Null | Value::Seq(_) | Value::Map(_) => Err(Fault::at(line(tree), "a node without a name")),
    };
    let node =
        |(key, _): &(Tree, Tree)| Ok(GraphNode { line: line(key), id: name(key)?, label: None, place: None });
    let mut graph = Graph { nodes: nodes.iter().map(node).collect::<Result<_, _>>()?, edges: Vec::new() };
    let links = match get(topology, "links").map(|links| (&links.value, links)) {
        Some((Value::Seq(links), _)) => links.as_slice(),
        Some((Value::Null, _)) | None => &[],
        Some((_, links)) => return Err(Fault::at(line(links), "`links` is not a list")),
    };
    for link in links {
        graph.edges.push(GraphEdge {
            line: line(link),
            ends: ends(link).map_err(|what| Fault::at(line(link), what))?,
        });
    }
    Ok(graph)
}

/// `endpoints: ["a:eth1", "b:eth1"]`, or a list of `{node: a, interface: eth1}`.
fn ends(link: &Tree) -> Result<[String; 2], String> {
    let kind = match get(link, "type").map(|kind| &kind.value) {
        Some(Value::Scalar(kind)) => kind.as_str(),
        _ => "veth",
    };
    if kind != "veth" {
        return Err(format!("a link of type `{kind}` is not between two nodes"));
    }
    let ends = match get(link, "endpoints").map(|ends| &ends.value) {
        Some(Value::Seq(ends)) => ends.as_slice(),
        _ => &[],
    };
    match ends {
        [a, b] => Ok([end(a)?, end(b)?]),
        _ => Err("a link has two `endpoints`".to_owned()),
    }
}

fn end(tree: &Tree) -> Result<String, String> {
    let text = match &tree.value {
        Value::Scalar(text) => Some(text.as_str()),
        Value::Map(items) => {
            items.iter().find(|(key, _)| is(key, "node")).and_then(|(_, node)| match &node.value {
                Value::Scalar(node) => Some(node.as_str()),
                Value::Null | Value::Seq(_) | Value::Map(_) => None,
            })
        }
        Value::Null | Value::Seq(_) => None,
    };
    let text = text.ok_or("an endpoint is written `node:interface`")?;
    let node = text.split_once(':').map_or(text, |(node, _)| node);
    match node {
        "host" | "mgmt-net" | "macvlan" | "vxlan" | "vxlan-stitch" | "dummy" => {
            Err(format!("`{text}` is no node of the topology"))
        }
        node => Ok(node.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_links_in_both_forms() {
        let text = "name: two\ntopology:\n  kinds: {linux: {image: x}}\n  nodes:\n    a: {kind: linux}\n    b:\n  links:\n    \
                    - endpoints: [\"a:eth1\", \"b:eth1\"]\n    - type: veth\n      endpoints:\n        \
                    - {node: b, interface: eth2}\n        - {node: a, interface: eth2}\n";
        let graph = parse(text.as_bytes()).unwrap();
        assert_eq!(graph.nodes.iter().map(|n| n.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let ends: Vec<_> = graph.edges.iter().map(|e| e.ends.clone()).collect();
        assert_eq!(ends, [["a", "b"], ["b", "a"]].map(|l| l.map(str::to_owned)));
    }

    #[test]
    fn what_is_no_link_between_nodes_is_refused_with_its_line() {
        let cases = [
            ("links:\n    - endpoints: [\"a:e\"]", Some(5), "a link has two `endpoints`"),
            (
                "links:\n    - endpoints: [\"a:e\", \"host:e\"]",
                Some(5),
                "`host:e` is no node of the topology",
            ),
            (
                "links:\n    - {type: mgmt-net, endpoint: {node: a}}",
                Some(5),
                "a link of type `mgmt-net` is not between two nodes",
            ),
            ("links: 7", Some(4), "`links` is not a list"),
        ];
        for (links, line, what) in cases {
            let text = format!("name: t\ntopology:\n  nodes: {{a: , b: }}\n  {links}\n");
            assert_eq!(parse(text.as_bytes()).unwrap_err(), Fault { line, what: what.to_owned() }, "{links}");
        }
        assert_eq!(parse(b"name: t\n").unwrap_err().what, "it has no `topology:`");
        assert_eq!(parse(b"topology:\n  links: []\n").unwrap_err().what, "`topology` has no `nodes:`");
        assert_eq!(parse(b"a: [\n").unwrap_err().line, Some(2));
    }
}
