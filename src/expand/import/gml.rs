//! GML, as the Internet Topology Zoo writes it (Himsolt: "GML: A portable Graph File Format", 1997). Bytes go in; a
//! [`Graph`] or the first [`Fault`] comes out. It never looks at keys beside those of nodes and edges.
//!
//! No crate that reads GML is in wide use; the format is seven lines of grammar.

use super::topology::{Fault, Graph, GraphEdge, GraphNode};

/// Lists within lists; more than any file has that people or programs write.
const MAX_DEPTH: usize = 32;

pub(super) fn parse(bytes: &[u8]) -> Result<Graph, Fault> {
    // Himsolt: ASCII, all else as entities. What people write is UTF-8 or ISO 8859-1.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
    };
    let mut reader = Reader { text: &text, at: 0, line: 1 };
    let file = reader.list(0)?;
    let graphs: Vec<&Item> = file.iter().filter(|item| item.key == "graph").collect();
    let [graph] = graphs.as_slice() else {
        return Err(Fault::new(format!("a GML file has one graph; this one has {}", graphs.len())));
    };
    let mut found = Graph::default();
    for item in graph.items()? {
        match item.key.as_str() {
            "node" => found.nodes.push(node(item)?),
            "edge" => found.edges.push(edge(item)?),
            _ => {}
        }
    }
    Ok(found)
}

fn node(item: &Item) -> Result<GraphNode, Fault> {
    let label = item.find("label")?.filter(|label| !label.trim().is_empty()).map(str::to_owned);
    let place = item.find("Latitude")?.zip(item.find("Longitude")?);
    let place = place.map(|(latitude, longitude)| [latitude, longitude].map(str::to_owned));
    Ok(GraphNode { line: item.line, id: item.require("id")?, label, place })
}

fn edge(item: &Item) -> Result<GraphEdge, Fault> {
    Ok(GraphEdge { line: item.line, ends: [item.require("source")?, item.require("target")?] })
}

/// A key and its value.
#[derive(Debug)]
struct Item {
    line: usize,
    key: String,
    value: Value,
}

#[derive(Debug)]
enum Value {
    /// A number as it stands, or what stands in quotes.
    Text(String),
    List(Vec<Item>),
}

impl Item {
    fn items(&self) -> Result<&[Item], Fault> {
        match &self.value {
            Value::List(items) => Ok(items),
            Value::Text(_) => Err(Fault::at(self.line, format!("`{}` is not a list", self.key))),
        }
    }

    /// The text of a key, if it is there.
    fn find(&self, key: &str) -> Result<Option<&str>, Fault> {
        match self.items()?.iter().find(|item| item.key == key) {
            None => Ok(None),
            Some(Item { value: Value::Text(text), .. }) => Ok(Some(text)),
            Some(item) => Err(Fault::at(item.line, format!("`{key}` is a list"))),
        }
    }

    fn require(&self, key: &str) -> Result<String, Fault> {
        let missing = || Fault::at(self.line, format!("`{}` without `{key}`", self.key));
        self.find(key)?.map(str::to_owned).ok_or_else(missing)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    /// Items up to the `]` that ends the list, or to the end of the file.
    fn list(&mut self, depth: usize) -> Result<Vec<Item>, Fault> {
        let mut items = Vec::new();
        loop {
            self.skip();
            match self.rest().chars().next() {
                None if depth == 0 => return Ok(items),
                None => return Err(self.fault("`[` without `]`")),
                Some(']') if depth > 0 => {
                    self.at += 1;
                    return Ok(items);
                }
                Some(c) if c.is_ascii_alphabetic() || c == '_' => items.push(self.item(depth)?),
                Some(c) => return Err(self.fault(&format!("`{c}` where a key must be"))),
            }
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, Fault> {
        let line = self.line;
        let key = self.word().to_owned();
        self.skip();
        let value = match self.rest().chars().next() {
            Some('[') if depth + 1 >= MAX_DEPTH => return Err(self.fault("too many lists within lists")),
            Some('[') => {
                self.at += 1;
                Value::List(self.list(depth + 1)?)
            }
            Some('"') => Value::Text(self.quoted()?),
            Some(c) if c.is_ascii_alphanumeric() || "+-.".contains(c) => Value::Text(self.word().to_owned()),
            _ => return Err(Fault::at(line, format!("`{key}` without a value"))),
        };
        Ok(Item { line, key, value })
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Passes what stands between words, and lines that begin with `#`.
    fn skip(&mut self) {
        while let Some(c) = self.rest().chars().next() {
            if c == '#' {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                continue;
            }
            if !(c.is_whitespace() || c == '\u{feff}') {
                return;
            }
            self.line += usize::from(c == '\n');
            self.at += c.len_utf8();
        }
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let word =
            &rest[..rest.find(|c: char| c.is_whitespace() || "[]\"".contains(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    fn quoted(&mut self) -> Result<String, Fault> {
        let inside = &self.rest()[1..];
        let end = inside.find('"').ok_or_else(|| self.fault("`\"` without `\"`"))?;
        let inside = &inside[..end];
        self.line += inside.matches('\n').count();
        self.at += end + 2;
        Ok(plain(inside))
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::at(self.line, what)
    }
}

/// A text with its entities as characters, those of XML and numbers; others stay as they are.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest.find(';').and_then(|end| Some((end, character(&rest[1..end])?)));
        let (end, c) = entity.unwrap_or((0, '&'));
        out.push(c);
        rest = &rest[end + 1..];
    }
    out + rest
}

fn character(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    match name {
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "lt" => Some('<'),
        "gt" => Some('>'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_with_all_that_a_zoo_file_has() {
        let text = "# a comment with [ and \"\nCreator \"hand\"\ngraph [\n  directed 0\n  stats [ mean 1.5e-3 ]\n  \
                    node [ id 0 label \"K&#246;ln &amp; &nope; & Bonn\" Latitude -50.9 ]\n  node [ id 1 Latitude 1.5 Longitude \"-2\" ]\n\
                    node\n[\nid 2\nlabel \"two\nlines\"]\n  edge [ source 0 target 1 LinkLabel \"a [ b\" ]\n]\n";
        let graph = parse(text.as_bytes()).unwrap();
        let nodes: Vec<_> = graph.nodes.iter().map(|n| (n.id.as_str(), n.label.as_deref(), n.line)).collect();
        let expected = [("0", Some("Köln & &nope; & Bonn"), 6), ("1", None, 7), ("2", Some("two\nlines"), 8)];
        assert_eq!(nodes, expected);
        assert_eq!(graph.nodes[0].place, None, "half a place is none");
        assert_eq!(graph.nodes[1].place, Some(["1.5", "-2"].map(str::to_owned)));
        assert_eq!((&graph.edges[0].ends, graph.edges[0].line), (&["0".to_owned(), "1".to_owned()], 13));
    }

    #[test]
    fn other_characters_are_utf_8_or_iso_8859_1() {
        for bytes in [
            &b"graph [ node [ id 0 label \"Z\xfcrich\" ] ]"[..],
            "graph [ node [ id 0 label \"Zürich\" ] ]".as_bytes(),
        ] {
            assert_eq!(parse(bytes).unwrap().nodes[0].label.as_deref(), Some("Zürich"));
        }
    }

    #[test]
    fn what_is_no_graph_is_refused_with_its_line() {
        let deep = format!("graph [{}", " a [".repeat(MAX_DEPTH));
        let cases = [
            ("graph [\nnode [ label \"a\" ] ]", Some(2), "`node` without `id`"),
            ("graph [\nedge [ source 1 ] ]", Some(2), "`edge` without `target`"),
            ("graph [\nnode 7 ]", Some(2), "`node` is not a list"),
            ("graph [\nnode [ id [ ] ] ]", Some(2), "`id` is a list"),
            ("graph [\nnode [ id ] ]", Some(2), "`id` without a value"),
            ("graph [", Some(1), "`[` without `]`"),
            ("graph [ a \"b ]", Some(1), "`\"` without `\"`"),
            ("graph [ ] ]", Some(1), "`]` where a key must be"),
            ("7 8", Some(1), "`7` where a key must be"),
            ("", None, "a GML file has one graph; this one has 0"),
            (&deep, Some(1), "too many lists within lists"),
        ];
        for (text, line, what) in cases {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), Fault { line, what: what.to_owned() }, "{text}");
        }
    }
}
