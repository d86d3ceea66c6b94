//! GraphML, as the Internet Topology Zoo and yEd write it (Brandes, Eiglsperger, Herman, Himsolt, Marshall: "GraphML
//! Progress Report", 2001). Bytes go in; a [`Graph`] or the first [`Fault`] comes out. It never follows a DTD.

use roxmltree::{Document, Node, ParsingOptions};

use super::topology::{Fault, Graph, GraphEdge, GraphNode, Lines};

/// Elements, attributes and texts of a file: enough for a topology of 65,536 nodes with all that yEd says about them.
const MAX_PARTS: u32 = 16_000_000;

pub(super) fn parse(bytes: &[u8]) -> Result<Graph, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::new("it is not UTF-8"))?;
    let options = ParsingOptions { nodes_limit: MAX_PARTS, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .map_err(|e| Fault::at(e.pos().row as usize, format!("it is not XML: {e}")))?;
    let root = document.root_element();
    let graphs: Vec<Node<'_, '_>> = elements(root, "graph").collect();
    let [graph] = graphs.as_slice() else {
        return Err(Fault::new(format!("a GraphML file has one graph; this one has {}", graphs.len())));
    };
    let keys = |name: &str| {
        let named = elements(root, "key").filter(|key| key.attribute("attr.name") == Some(name));
        let of_nodes = named.filter(|key| matches!(key.attribute("for"), Some("node" | "all") | None));
        of_nodes.filter_map(|key| key.attribute("id")).collect()
    };
    let places = [keys("Latitude"), keys("Longitude")];
    let reader = Reader { labels: keys("label"), places, lines: Lines::of(text) };
    let mut found = Graph::default();
    for part in graph.children().filter(Node::is_element) {
        match part.tag_name().name() {
            "node" => found.nodes.push(reader.node(part)?),
            "edge" => found.edges.push(reader.edge(part)?),
            "hyperedge" => return Err(reader.fault(part, "hyperedges are no links, which have two ends")),
            _ => {}
        }
    }
    Ok(found)
}

struct Reader<'a> {
    /// Keys of data that are labels of nodes.
    labels: Vec<&'a str>,
    /// And those that are latitudes and longitudes.
    places: [Vec<&'a str>; 2],
    lines: Lines,
}

impl Reader<'_> {
    fn node(&self, part: Node<'_, '_>) -> Result<GraphNode, Fault> {
        if let Some(inner) = elements(part, "graph").next() {
            return Err(self.fault(inner, "a graph within a node is not supported"));
        }
        let data = |keys: &[&str]| {
            let with = |data: &Node<'_, '_>| data.attribute("key").is_some_and(|key| keys.contains(&key));
            elements(part, "data").filter(with).collect::<Vec<_>>()
        };
        // yEd has labels as a part of a node's picture.
        let drawn = part.descendants().filter(|d| d.tag_name().name() == "NodeLabel");
        let label =
            data(&self.labels).into_iter().chain(drawn).map(text).find(|label| !label.trim().is_empty());
        let [latitude, longitude] = self.places.each_ref().map(|keys| data(keys).first().copied().map(text));
        let place = latitude.zip(longitude).map(|(latitude, longitude)| [latitude, longitude]);
        Ok(GraphNode { line: self.line(part), id: self.attribute(part, "id")?, label, place })
    }

    fn edge(&self, part: Node<'_, '_>) -> Result<GraphEdge, Fault> {
        let ends = [self.attribute(part, "source")?, self.attribute(part, "target")?];
        Ok(GraphEdge { line: self.line(part), ends })
    }

    fn attribute(&self, part: Node<'_, '_>, name: &str) -> Result<String, Fault> {
        let missing = || self.fault(part, &format!("`{}` without `{name}`", part.tag_name().name()));
        part.attribute(name).map(str::to_owned).ok_or_else(missing)
    }

    fn line(&self, part: Node<'_, '_>) -> usize {
        self.lines.line(part.range().start)
    }

    fn fault(&self, part: Node<'_, '_>, what: &str) -> Fault {
        Fault::at(self.line(part), what)
    }
}

fn elements<'a, 'i>(parent: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    parent.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn text(part: Node<'_, '_>) -> String {
    part.children().filter(Node::is_text).filter_map(|t| t.text()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(graph: &Graph) -> Vec<[&str; 2]> {
        graph.edges.iter().map(|e| e.ends.each_ref().map(String::as_str)).collect()
    }

    fn labels(graph: &Graph) -> Vec<Option<&str>> {
        graph.nodes.iter().map(|n| n.label.as_deref()).collect()
    }

    #[test]
    fn labels_are_data_or_drawn() {
        let text = r#"<?xml version="1.0" encoding="utf-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">
  <key attr.name="label" attr.type="string" for="edge" id="d1"/>
  <key attr.name="label" attr.type="string" for="node" id="d2"/>
  <key attr.name="Latitude" attr.type="double" for="node" id="d3"/>
  <key attr.name="Longitude" attr.type="double" for="node" id="d4"/>
  <graph edgedefault="undirected">
    <node id="0"><data key="d3">50.9</data><data key="d4">7.0</data><data key="d2">K&#246;ln &amp; Bonn</data></node>
    <node id="1"><data key="d1">not this</data></node>
    <node id="2"><data key="d9"><y:ShapeNode><y:NodeLabel> <!-- c --></y:NodeLabel><y:NodeLabel>Bern</y:NodeLabel></y:ShapeNode></data></node>
    <node id="3"><data key="d2"><![CDATA[St. Louis]]></data></node>
    <edge source="0" target="1"><data key="d1">OC-3</data></edge>
    <edge source="1" target="2"/>
  </graph>
</graphml>"#;
        let graph = parse(text.as_bytes()).unwrap();
        assert_eq!(labels(&graph), [Some("Köln & Bonn"), None, Some("Bern"), Some("St. Louis")]);
        assert_eq!(ends(&graph), [["0", "1"], ["1", "2"]]);
        assert_eq!(graph.nodes[2].line, 10);
        assert_eq!(graph.nodes[0].place, Some(["50.9", "7.0"].map(str::to_owned)));
        assert_eq!(graph.nodes[1].place, None);
    }

    #[test]
    fn what_cannot_be_carried_is_refused_with_its_line() {
        let cases = [
            ("<graph><node/></graph>", "`node` without `id`"),
            ("<graph><edge source='a'/></graph>", "`edge` without `target`"),
            ("<graph><hyperedge/></graph>", "hyperedges are no links, which have two ends"),
            ("<graph><node id='a'><graph/></node></graph>", "a graph within a node is not supported"),
        ];
        for (inside, what) in cases {
            let text = format!("<graphml>\n{inside}\n</graphml>");
            assert_eq!(parse(text.as_bytes()).unwrap_err(), Fault::at(2, what), "{inside}");
        }
        assert_eq!(parse(b"<graphml/>").unwrap_err().what, "a GraphML file has one graph; this one has 0");
        assert!(parse(b"<graphml>\n<graph>").unwrap_err().what.starts_with("it is not XML"));
        assert_eq!(parse(b"<graphml>\xff").unwrap_err().what, "it is not UTF-8");
    }

    #[test]
    fn entities_of_a_dtd_are_not_expanded() {
        let bomb = "<!DOCTYPE a [<!ENTITY x 'aaaa'><!ENTITY y '&x;&x;'>]><graphml>&y;</graphml>";
        assert!(parse(bomb.as_bytes()).unwrap_err().what.starts_with("it is not XML"));
    }
}
