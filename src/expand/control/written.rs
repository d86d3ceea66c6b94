//! Nodes and links by themselves, as trees. Ranges and generators go in; each node and each link they stand for comes
//! out as an item of its own. It never changes what a lab means.

use super::template::{get, scalar_text};
use crate::expand::{link, range};
use crate::spec::{self, Errors, Spanned, Tree, Value};

/// The keys that say what a link joins.
const SHAPES: [&str; 6] = ["link", "ring", "line", "mesh", "tree", "grid"];

/// One link of an item of `links:`, in a place whose names get `prefix`.
pub(super) fn flat_link(item: &Tree, a: &str, b: &str, prefix: &str) -> Tree {
    let span = spec::Span { origin: item.span.origin.computed(), ..item.span };
    let joined = Tree::text(span, format!("{a} -- {b}"));
    let Value::Map(items) = &item.value else { return joined };
    let mut flat = vec![(Tree::text(span, "link"), joined)];
    for (key, value) in items.iter().filter(|(k, _)| scalar_text(k).is_none_or(|k| !SHAPES.contains(&k))) {
        let value = match (scalar_text(key), scalar_text(value)) {
            (Some("name"), Some(name)) if !prefix.is_empty() => {
                let span = spec::Span { origin: value.span.origin.computed(), ..value.span };
                Tree::text(span, format!("{prefix}{name}"))
            }
            _ => value.clone(),
        };
        flat.push((key.clone(), value));
    }
    Tree::new(item.span, Value::Map(flat))
}

/// The value of the node of this index among `count` that a range names: a place or a port that is a range too pairs up.
pub(super) fn placed(value: &Tree, index: usize, count: usize) -> Tree {
    match &value.value {
        Value::Scalar(place) => paired(value, place, index, count),
        Value::Map(items) => {
            let each = items.iter().map(|(key, inside)| match (scalar_text(key), scalar_text(inside)) {
                (Some("at" | "port"), Some(text)) => (key.clone(), paired(inside, text, index, count)),
                _ => (key.clone(), inside.clone()),
            });
            Tree::new(value.span, Value::Map(each.collect()))
        }
        Value::Null | Value::Seq(_) => value.clone(),
    }
}

fn paired(tree: &Tree, text: &str, index: usize, count: usize) -> Tree {
    match range::expand(text) {
        Ok(names) if names.len() == count && count > 1 => {
            let span = spec::Span { origin: tree.span.origin.computed(), ..tree.span };
            Tree::text(span, names[index].clone())
        }
        _ => tree.clone(),
    }
}

/// A flat lab in which every node and every link stands by itself.
pub(crate) fn written_out(lab: &Tree) -> Tree {
    each(lab, |key, section| match key {
        "base" => network(section),
        "vis" => each(section, |_, vi| network(vi)),
        _ => section.clone(),
    })
}

fn network(tree: &Tree) -> Tree {
    each(tree, |key, value| match (key, &value.value) {
        ("nodes", Value::Map(items)) => {
            let all = items.iter().flat_map(|(name, value)| nodes(name, value));
            Tree::new(value.span, Value::Map(all.collect()))
        }
        ("nodes", Value::Seq(items)) => {
            let all = items.iter().flat_map(|name| nodes(name, name)).map(|(name, _)| name);
            Tree::new(value.span, Value::Seq(all.collect()))
        }
        ("links", Value::Seq(items)) => {
            Tree::new(value.span, Value::Seq(items.iter().flat_map(links).collect()))
        }
        _ => value.clone(),
    })
}

/// Puts something else for each value of a map.
fn each(tree: &Tree, change: impl Fn(&str, &Tree) -> Tree) -> Tree {
    let Value::Map(items) = &tree.value else { return tree.clone() };
    let changed = items.iter().map(|(k, v)| (k.clone(), change(scalar_text(k).unwrap_or_default(), v)));
    Tree::new(tree.span, Value::Map(changed.collect()))
}

fn nodes(name: &Tree, value: &Tree) -> Vec<(Tree, Tree)> {
    let names = scalar_text(name).and_then(|text| range::expand(text).ok()).filter(|names| names.len() > 1);
    let Some(names) = names else { return vec![(name.clone(), value.clone())] };
    let one =
        |(i, text): (usize, &String)| (Tree::text(name.span, text.clone()), placed(value, i, names.len()));
    names.iter().enumerate().map(one).collect()
}

fn links(item: &Tree) -> Vec<Tree> {
    let mut errors = Errors::new();
    let pairs =
        spec::link(item, &mut errors).map(|spec| link::expand(&spec, &mut errors)).unwrap_or_default();
    let plain = |end: &Spanned<String>| end.value.clone();
    match errors.is_empty() && (pairs.len() > 1 || get(item, "link").is_none()) && !pairs.is_empty() {
        true => pairs.iter().map(|link| flat_link(item, &plain(&link.a), &plain(&link.b), "")).collect(),
        false => vec![item.clone()],
    }
}
