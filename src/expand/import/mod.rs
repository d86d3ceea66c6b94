//! A topology from another file as part of the base network. The tree of a lab and the bytes of the file that its
//! `import:` names go in; the tree of a lab whose nodes and links are written out comes out, and every error is noted. It
//! never reads a file itself.

mod containerlab;
mod gml;
mod graphml;
mod topology;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::range;
use crate::spec::{Diagnostic, Errors, Span, Spanned, Tree, Value};
use topology::Topology;

/// Files that a lab file imports, by the name that it has for them: what is in them, or why they cannot be read.
pub type Imported = BTreeMap<String, Result<Vec<u8>, String>>;

/// The file that a lab imports, if it does.
pub(crate) fn named(lab: &Tree) -> Option<Spanned<String>> {
    let value = get(get(lab, "base")?, "import")?;
    let Value::Scalar(name) = &value.value else { return None };
    Some(Spanned::new(name.clone(), value.span))
}

/// The lab with what it imports written out: the file's nodes and links come first, and an entry of `nodes:` has the
/// options of the node of its name.
pub(crate) fn merged<'t>(lab: &'t Tree, imported: &Imported, errors: &mut Errors) -> Cow<'t, Tree> {
    let Some(base) = get(lab, "base").filter(|base| get(base, "import").is_some()) else {
        return Cow::Borrowed(lab);
    };
    let read = match named(lab) {
        Some(name) => read(&name, imported).map_err(|error| errors.push(error)).ok().map(|t| (t, name.span)),
        None => {
            let span = get(base, "import").map_or(base.span, |value| value.span);
            errors.push(Diagnostic::new("wrong-type", span, "`import` must be the name of a topology file"));
            None
        }
    };
    let own = without_import(base);
    let whole = read.map(|(topology, span)| with(&own, &topology, span));
    Cow::Owned(changed(lab, "base", &whole.unwrap_or(own)))
}

/// The topology of a file; its format follows from its name.
fn read(name: &Spanned<String>, imported: &Imported) -> Result<Topology, Diagnostic> {
    let wrong = |title: String| Diagnostic::new("import", name.span, title);
    let ending = name.value.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    let parse = match ending.as_str() {
        "graphml" | "xml" => graphml::parse,
        "gml" => gml::parse,
        "yml" | "yaml" => containerlab::parse,
        _ => {
            let help =
                "a name that ends in .graphml or .xml is GraphML, .gml GML, .yml or .yaml containerlab's";
            return Err(wrong(format!("the format of {} is not known", name.value)).help(help));
        }
    };
    let bytes = match imported.get(&name.value) {
        Some(Ok(bytes)) => bytes,
        Some(Err(why)) => return Err(wrong(format!("cannot read {}", name.value)).label(why.as_str())),
        None => return Err(wrong(format!("cannot read {}", name.value)).label("a lab without files")),
    };
    let found = parse(bytes).and_then(topology::Graph::named);
    found.map_err(|fault| {
        let place = fault.line.map_or(String::new(), |line| format!(":{line}"));
        wrong(format!("{}{place}: {}", name.value, fault.what))
    })
}

fn with(base: &Tree, topology: &Topology, span: Span) -> Tree {
    let span = Span { origin: span.origin.computed(), ..span };
    let base = match get(base, "nodes").map(|nodes| (nodes, own_nodes(nodes))) {
        Some((_, None)) => base.clone(),
        Some((nodes, Some(own))) => changed(base, "nodes", &all_nodes(own, topology, nodes.span, span)),
        None => changed(base, "nodes", &all_nodes(Vec::new(), topology, span, span)),
    };
    let link = |[a, b]: &[String; 2]| Tree::text(span, format!("{a} -- {b}"));
    let mut links: Vec<Tree> = topology.links.iter().map(link).collect();
    match get(&base, "links") {
        None => changed(&base, "links", &Tree::new(span, Value::Seq(links))),
        Some(Tree { value: Value::Seq(own), span, .. }) => {
            links.extend(own.iter().cloned());
            changed(&base, "links", &Tree::new(*span, Value::Seq(links)))
        }
        // What is no list is an error that `decode` tells of.
        Some(_) => base,
    }
}

/// The file's own nodes, each with its options; `None` where `nodes:` is neither a list nor a map.
fn own_nodes(nodes: &Tree) -> Option<Vec<(Tree, Tree)>> {
    match &nodes.value {
        Value::Seq(items) => {
            let plain = |name: &Tree| (name.clone(), Tree::new(name.span, Value::Null));
            Some(items.iter().map(plain).collect())
        }
        Value::Map(items) => Some(items.clone()),
        Value::Null | Value::Scalar(_) => None,
    }
}

/// Imported nodes in their order, each with the options that the lab file has for it, then those that are its alone.
fn all_nodes(mut own: Vec<(Tree, Tree)>, topology: &Topology, place: Span, span: Span) -> Tree {
    let names = |name: &Tree| match &name.value {
        Value::Scalar(text) => range::expand(text).unwrap_or_default(),
        Value::Null | Value::Seq(_) | Value::Map(_) => Vec::new(),
    };
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (index, (name, _)) in own.iter().enumerate() {
        for name in names(name) {
            places.entry(name).or_insert(index);
        }
    }
    let mut all = Vec::new();
    let mut used = BTreeSet::new();
    for (name, located) in topology.nodes.iter().zip(&topology.places) {
        match places.get(name) {
            None => {
                let options = located_at(&Tree::new(span, Value::Null), *located, span);
                all.push((Tree::text(span, name.as_str()), options));
            }
            Some(index) if is(&own[*index].0, name) => {
                let (name, options) = &own[*index];
                all.push((name.clone(), located_at(options, *located, span)));
                used.insert(*index);
            }
            // One of a range, which stays whole.
            Some(_) => {}
        }
    }
    let mut index = 0..;
    own.retain(|_| index.next().is_some_and(|index| !used.contains(&index)));
    all.extend(own);
    Tree::new(place, Value::Map(all))
}

/// A node's options, with the place that the file has for it where the lab file has none.
fn located_at(options: &Tree, at: Option<[f64; 2]>, span: Span) -> Tree {
    let Some(at) = at.filter(|_| get(options, "location").is_none()) else { return options.clone() };
    let degrees = at.map(|degrees| Tree::text(span, degrees.to_string()));
    let location = Tree::new(span, Value::Seq(degrees.into()));
    match &options.value {
        Value::Null => changed(&Tree::new(options.span, Value::Map(Vec::new())), "location", &location),
        Value::Map(_) => changed(options, "location", &location),
        // What is no map is an error that `decode` tells of.
        Value::Scalar(_) | Value::Seq(_) => options.clone(),
    }
}

fn get<'t>(tree: &'t Tree, key: &str) -> Option<&'t Tree> {
    let Value::Map(items) = &tree.value else { return None };
    items.iter().find(|(k, _)| is(k, key)).map(|(_, value)| value)
}

fn is(key: &Tree, name: &str) -> bool {
    matches!(&key.value, Value::Scalar(text) if text == name)
}

fn without_import(base: &Tree) -> Tree {
    let Value::Map(items) = &base.value else { return base.clone() };
    let left = items.iter().filter(|(key, _)| !is(key, "import")).cloned();
    Tree::new(base.span, Value::Map(left.collect()))
}

/// The map with another value for a key, or with one more.
fn changed(map: &Tree, key: &str, value: &Tree) -> Tree {
    let Value::Map(items) = &map.value else { return map.clone() };
    let mut items = items.clone();
    match items.iter_mut().find(|(k, _)| is(k, key)) {
        Some((_, old)) => *old = value.clone(),
        None => items.push((Tree::text(value.span, key), value.clone())),
    }
    Tree::new(map.span, Value::Map(items))
}
