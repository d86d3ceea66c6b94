//! Nodes and links that the file has and the lab has not: those of templates that nothing uses, and those behind conditions
//! that do not hold. Their trees go in; every error that no value of a parameter could make right is noted. It never looks
//! at a text with an expression in it.

use std::collections::BTreeSet;

use super::template::{Template, get};
use super::{is_plain, scalar_text};
use crate::spec::{self, Diagnostic, Errors, Fields, Span, Spanned, Tree, Value};

/// The places in the file of what has been made, at least once.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeSet<(usize, usize)>);

impl Seen {
    pub(super) fn add(&mut self, tree: &Tree) {
        self.0.insert((tree.span.start, tree.span.end));
    }

    fn has(&self, tree: &Tree) -> bool {
        self.0.contains(&(tree.span.start, tree.span.end))
    }
}

/// Checks what was not seen of the templates and of the VIs in `file`.
pub(super) fn check(file: &Tree, templates: &[Template<'_>], seen: &Seen, errors: &mut Errors) {
    for template in templates {
        let nodes = template.nodes.iter().filter(|(_, tree)| !seen.has(tree));
        nodes.for_each(|(name, tree)| node(name.clone(), tree, templates, errors));
        template.links.iter().filter(|tree| !seen.has(tree)).for_each(|tree| link(tree, errors));
    }
    let vis = get(file, "vis").map(items).unwrap_or_default();
    for (_, vi) in vis.iter().filter(|(_, vi)| !is_plain(vi)) {
        for (name, tree) in get(vi, "nodes").map(items).unwrap_or_default() {
            let Some(text) = scalar_text(name).filter(|_| !seen.has(tree)) else { continue };
            node(Spanned::new(text.to_owned(), name.span), tree, templates, errors);
        }
        let links = get(vi, "links").map(|tree| &tree.value);
        let Some(Value::Seq(links)) = links else { continue };
        links.iter().filter(|tree| !seen.has(tree)).for_each(|tree| link(tree, errors));
    }
}

fn items(tree: &Tree) -> &[(Tree, Tree)] {
    match &tree.value {
        Value::Map(items) => items,
        Value::Null | Value::Scalar(_) | Value::Seq(_) => &[],
    }
}

fn node(name: Spanned<String>, tree: &Tree, templates: &[Template<'_>], errors: &mut Errors) {
    let mut found = Errors::new();
    match get(tree, "use") {
        Some(used) => instance(used, tree, templates, &mut found),
        None => drop(spec::vi_node(name, tree, &mut found)),
    }
    keep_plain(tree, found, errors);
}

fn instance(used: &Tree, tree: &Tree, templates: &[Template<'_>], errors: &mut Errors) {
    if let Some(mut fields) = Fields::new(tree, "an instance", errors) {
        let _known = ["use", "with", "when"].map(|key| fields.take(key));
        fields.finish(errors);
    }
    let Some(name) = scalar_text(used) else { return };
    if templates.iter().all(|t| t.name.value != name) {
        let known = templates.iter().map(|t| t.name.value.as_str());
        let title = format!("there is no template `{name}`");
        errors.push(Diagnostic::new("unknown-template", used.span, title).meant(name, known));
    }
}

fn link(tree: &Tree, errors: &mut Errors) {
    let mut found = Errors::new();
    spec::link(&super::instance::without(tree, &["when"]), &mut found);
    keep_plain(tree, found, errors);
}

/// Passes on the errors that are not about a text with an expression in it.
fn keep_plain(tree: &Tree, found: Errors, errors: &mut Errors) {
    let mut open = Vec::new();
    expressions(tree, &mut open);
    let about = |e: &Diagnostic| open.iter().any(|s| s.start < e.span.end && e.span.start < s.end);
    errors.extend(found.into_iter().filter(|e| !about(e)));
}

fn expressions(tree: &Tree, found: &mut Vec<Span>) {
    match &tree.value {
        Value::Null => {}
        Value::Scalar(text) => found.extend(text.contains("${").then_some(tree.span)),
        Value::Seq(items) => items.iter().for_each(|t| expressions(t, found)),
        Value::Map(items) => items.iter().for_each(|(key, value)| {
            expressions(key, found);
            expressions(value, found);
        }),
    }
}
