//! Templates and parameters as the file has them. Trees go in; what they declare comes out, and every error that shows
//! before a template is used is noted once. It never evaluates an expression.

use super::expression::{Expressions, Fault, is_name};
use super::scalar::{self, Part};
use crate::spec::{
    Diagnostic, Errors, Fields, Span, Spanned, Tree, Value, boolean, entries, text, wrong_type,
};

/// A name and its default, or none where it must be given.
pub(super) type Param<'t> = (Spanned<String>, Option<&'t Tree>);

/// One of `templates:`
#[derive(Debug)]
pub(super) struct Template<'t> {
    pub(super) name: Spanned<String>,
    pub(super) params: Vec<Param<'t>>,
    pub(super) ports: Vec<PortSpec<'t>>,
    pub(super) nodes: Vec<(Spanned<String>, &'t Tree)>,
    pub(super) links: &'t [Tree],
    /// Without errors of its own: it can be used.
    pub(super) sound: bool,
}

/// One of `ports:`
#[derive(Debug)]
pub(super) struct PortSpec<'t> {
    pub(super) name: Spanned<String>,
    /// The inner node, or the port of an inner instance.
    pub(super) to: &'t Tree,
    /// It may stay unbound.
    pub(super) optional: bool,
}

/// The value of a key of a map.
pub(super) fn get<'t>(tree: &'t Tree, key: &str) -> Option<&'t Tree> {
    let Value::Map(items) = &tree.value else { return None };
    items.iter().find(|(k, _)| scalar_text(k) == Some(key)).map(|(_, value)| value)
}

/// What a scalar says.
pub(super) fn scalar_text(tree: &Tree) -> Option<&str> {
    match &tree.value {
        Value::Scalar(text) => Some(text),
        Value::Null | Value::Seq(_) | Value::Map(_) => None,
    }
}

/// `params:`, a map of defaults or a list of names.
pub(super) fn params<'t>(tree: &'t Tree, errors: &mut Errors) -> Vec<Param<'t>> {
    let found: Vec<Param<'t>> = match &tree.value {
        Value::Null => Vec::new(),
        Value::Seq(items) => {
            items.iter().filter_map(|t| Some((text(t, "a parameter", errors)?, None))).collect()
        }
        Value::Map(_) | Value::Scalar(_) => entries(tree, "`params`", errors)
            .into_iter()
            .map(|(name, value)| (name, (value.value != Value::Null).then_some(value)))
            .collect(),
    };
    for (name, _) in found.iter().filter(|(name, _)| !is_name(&name.value)) {
        errors.push(
            Diagnostic::new("name", name.span, format!("`{}` cannot be the name of a parameter", name.value))
                .label("a letter or `_`, then letters, digits or `_`, and no word of expressions"),
        );
    }
    found
}

/// `templates:`; `names` are the lab's parameters.
pub(super) fn templates<'t>(
    tree: &'t Tree,
    names: &[String],
    expressions: &mut Expressions<'_>,
    errors: &mut Errors,
) -> Vec<Template<'t>> {
    if tree.value == Value::Null {
        return Vec::new();
    }
    let all = entries(tree, "`templates`", errors);
    all.into_iter().map(|(name, body)| template(name, body, names, expressions, errors)).collect()
}

fn template<'t>(
    name: Spanned<String>,
    tree: &'t Tree,
    names: &[String],
    expressions: &mut Expressions<'_>,
    errors: &mut Errors,
) -> Template<'t> {
    let before = errors.len();
    let mut made =
        Template { name, params: Vec::new(), ports: Vec::new(), nodes: Vec::new(), links: &[], sound: false };
    let Some(mut fields) = Fields::new(tree, "a template", errors) else { return made };
    let _prose = fields.section("description").map(|t| text(t, "`description`", errors));
    made.params = fields.take("params").map(|t| params(t, errors)).unwrap_or_default();
    made.ports = fields.take("ports").map(|t| ports(t, errors)).unwrap_or_default();
    made.nodes = fields.require("nodes", errors).map(|t| entries(t, "`nodes`", errors)).unwrap_or_default();
    made.links = fields.section("links").map(|t| crate::spec::list(t, "`links`", errors)).unwrap_or_default();
    fields.finish(errors);
    let mut known = names.to_vec();
    let mut check = Check { expressions, errors };
    for (name, default) in &made.params {
        default.iter().for_each(|tree| check.values(tree, &known));
        known.push(name.value.clone());
    }
    made.ports.iter().for_each(|port| check.values(port.to, &known));
    for (name, node) in &made.nodes {
        check.scalar(&name.value, name.span, &known);
        check.item(node, &known);
    }
    made.links.iter().for_each(|link| check.item(link, &known));
    made.sound = errors.len() == before;
    made
}

fn ports<'t>(tree: &'t Tree, errors: &mut Errors) -> Vec<PortSpec<'t>> {
    let all = if tree.value == Value::Null { Vec::new() } else { entries(tree, "`ports`", errors) };
    all.into_iter().filter_map(|(name, value)| port(name, value, errors)).collect()
}

/// `up: top`, or `up: {node: top, optional: true}`.
fn port<'t>(name: Spanned<String>, tree: &'t Tree, errors: &mut Errors) -> Option<PortSpec<'t>> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.value.is_empty() || !name.value.chars().all(good) || name.value.contains("--") {
        let title = format!("`{}` cannot be the name of a port", name.value);
        errors.push(Diagnostic::new("name", name.span, title).label("letters, digits, `_` and `-`"));
        return None;
    }
    match &tree.value {
        Value::Scalar(_) => Some(PortSpec { name, to: tree, optional: false }),
        Value::Map(_) => {
            let mut fields = Fields::new(tree, "a port", errors)?;
            let to = fields.require("node", errors);
            let optional = fields.take("optional").and_then(|t| boolean(t, "`optional`", errors));
            fields.finish(errors);
            Some(PortSpec { name, to: to?, optional: optional.unwrap_or(false) })
        }
        Value::Null | Value::Seq(_) => {
            errors.push(wrong_type(tree, "a port", "the node that owns it"));
            None
        }
    }
}

/// Looks through a template for expressions that no parameters can make right.
struct Check<'a, 'e> {
    expressions: &'a mut Expressions<'e>,
    errors: &'a mut Errors,
}

impl Check<'_, '_> {
    /// A node or a link: its `when` is an expression.
    fn item(&mut self, tree: &Tree, known: &[String]) {
        let Value::Map(items) = &tree.value else { return self.values(tree, known) };
        for (key, value) in items {
            match (scalar_text(key), scalar_text(value)) {
                (Some("when"), Some(when)) => {
                    let inside = condition(when);
                    self.expression(when, &when[inside.clone()], value.span, known);
                }
                _ => self.values(value, known),
            }
        }
    }

    fn values(&mut self, tree: &Tree, known: &[String]) {
        match &tree.value {
            Value::Null => {}
            Value::Scalar(text) => self.scalar(text, tree.span, known),
            Value::Seq(items) => items.iter().for_each(|t| self.values(t, known)),
            Value::Map(items) => {
                for (key, value) in items {
                    self.values(key, known);
                    self.values(value, known);
                }
            }
        }
    }

    fn scalar(&mut self, text: &str, span: Span, known: &[String]) {
        if !text.contains("${") {
            return;
        }
        let found = match scalar::parts(text) {
            Ok(found) => found,
            Err(at) => return self.errors.push(unclosed(text, at, span)),
        };
        for part in found {
            if let Part::Expression(at) = part {
                self.expression(text, &text[at], span, known);
            }
        }
    }

    /// `part` is the slice of `whole` that is an expression.
    fn expression(&mut self, whole: &str, part: &str, span: Span, known: &[String]) {
        if let Err(fault) = self.expressions.check(part, &|| known.to_vec()) {
            self.errors.push(diagnostic(fault, whole, part, span));
        }
    }
}

/// The expression of a `when:`: all of it, or what is inside its `${…}`.
pub(super) fn condition(text: &str) -> std::ops::Range<usize> {
    match scalar::parts(text).as_deref() {
        Ok([Part::Expression(inside)]) => inside.clone(),
        _ => 0..text.len(),
    }
}

/// A `${` without `}`.
pub(super) fn unclosed(text: &str, at: std::ops::Range<usize>, span: Span) -> Diagnostic {
    let span = part_span(text, &text[at], span);
    Diagnostic::new("expression", span, "`${` without `}`").help("`$${` stands for the text `${`")
}

/// What is wrong with the expression `part` of the scalar `whole` at `span`.
pub(super) fn diagnostic(fault: Fault, whole: &str, part: &str, span: Span) -> Diagnostic {
    let inside = fault.at.map_or(part, |at| &part[at]);
    let error = Diagnostic::new("expression", part_span(whole, inside, span), fault.title);
    match fault.help {
        Some(help) => error.help(help),
        None => error,
    }
}

/// The place of a slice of `whole`, which stands at `span`.
fn part_span(whole: &str, part: &str, span: Span) -> Span {
    let offset = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    let copy = Spanned::new(whole.to_owned(), span);
    copy.value.get(offset..offset + part.len()).map_or(span, |part| copy.part(part).span)
}
