//! Control recursion (paper, II.2.4): templates, parameters and conditions, carried out before anything else looks at
//! the lab. The tree of a file goes in; a tree without them, in which every instance is written out and every port is the
//! node that owns it, comes out, and every error is noted. It never asks what the other keys of the file mean.

mod ends;
mod evaluate;
mod expression;
mod instance;
mod scalar;
mod template;
#[cfg(test)]
mod tests;
mod unmade;
mod written;

use std::collections::BTreeSet;

use minijinja::value::Value;

use crate::spec::{self, Diagnostic, Errors, Fields, Instances, Origin, Span, Spanned, Tree};
use evaluate::{Evaluator, Place};
use expression::{Expressions, Names, Turns};
use instance::Expander;
use template::{Param, scalar_text};

pub(crate) use scalar::escape;
pub(crate) use written::written_out;

/// Levels of instances within instances.
pub const MAX_LEVELS: usize = 64;

/// A value for a parameter of the lab, from outside the file: `-D name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub name: String,
    /// YAML: `3`, `X`, `[X, Y]`.
    pub value: String,
}

/// A lab without templates, parameters and conditions.
#[derive(Debug)]
pub(crate) struct Flat {
    pub(crate) tree: Tree,
    pub(crate) instances: Instances,
    failed: BTreeSet<(usize, usize)>,
    /// A bound was met: it is not whole.
    pub(crate) cut_short: bool,
}

impl Flat {
    /// Whether an error that came later only says what follows from those of expansion.
    pub(crate) fn is_echo(&self, error: &Diagnostic) -> bool {
        let at = (error.span.start, error.span.end);
        let inside = self.failed.range(..=(at.0, usize::MAX)).next_back().is_some_and(|f| at.1 <= f.1);
        inside || ["unknown-node", "empty-vi", "test"].contains(&error.rule)
    }
}

/// Expands a file; `given` takes the place of defaults.
pub(crate) fn flatten(file: &Tree, given: &[Given], errors: &mut Errors) -> Flat {
    let turns = Turns::default();
    let environment = expression::environment(&turns);
    let mut evaluator = Evaluator::new(Expressions::new(&environment));
    let (mut params, mut templates) = (None, None);
    // What is no map is an error that `decode` tells of.
    let map = matches!(file.value, spec::Value::Map(_)).then_some(file);
    if let Some(mut fields) = map.and_then(|file| Fields::new(file, "the lab", errors)) {
        (params, templates) = (fields.take_key("params"), fields.take_key("templates"));
    }
    let names = lab_params(params, given, file.span, &mut evaluator);
    let known: Vec<String> = names.known().cloned().collect();
    let templates = templates
        .map(|(_, tree)| template::templates(tree, &known, &mut evaluator.expressions, &mut evaluator.errors))
        .unwrap_or_default();
    let mut expander = Expander::new(evaluator, &templates, &names, turns);
    let tree = lab(file, &mut expander, &names);
    let cut_short = expander.halted();
    let Expander { values, instances, seen, .. } = expander;
    errors.extend(values.errors);
    unmade::check(file, &templates, &seen, errors);
    Flat { tree, instances, failed: values.failed, cut_short }
}

fn lab(file: &Tree, expander: &mut Expander<'_, '_>, names: &Names) -> Tree {
    let place = Place { names, origin: Origin::default() };
    let spec::Value::Map(items) = &file.value else { return file.clone() };
    let mut flat = Vec::new();
    for (key, value) in items {
        match scalar_text(key) {
            Some("params" | "templates") => {}
            Some("vis") => flat.push((key.clone(), vis(value, expander, place))),
            _ => flat.push((key.clone(), expander.values.tree(value, place))),
        }
    }
    Tree::new(file.span, spec::Value::Map(flat))
}

fn vis(tree: &Tree, expander: &mut Expander<'_, '_>, place: Place<'_>) -> Tree {
    let spec::Value::Map(items) = &tree.value else { return expander.values.tree(tree, place) };
    let mut flat = Vec::new();
    for (key, value) in items {
        let key = expander.values.tree(key, place);
        let name = scalar_text(&key).unwrap_or_default().to_owned();
        flat.push((key, expander.vi(&name, value, place)));
    }
    Tree::new(tree.span, spec::Value::Map(flat))
}

/// The values of the lab's parameters: those given, else the file's.
fn lab_params(
    declared: Option<(Span, &Tree)>,
    given: &[Given],
    file: Span,
    evaluator: &mut Evaluator<'_>,
) -> Names {
    let top = Span { end: file.start, ..file };
    let span = declared.map_or(top, |(key, _)| key);
    let params = declared.map(|(_, tree)| template::params(tree, &mut evaluator.errors)).unwrap_or_default();
    for wrong in given.iter().filter(|g| params.iter().all(|(name, _)| name.value != g.name)) {
        let title = format!("`-D {}={}`: the lab has no parameter `{}`", wrong.name, wrong.value, wrong.name);
        let error = Diagnostic::new("unknown-parameter", span, title);
        evaluator.error(error.meant(&wrong.name, params.iter().map(|(name, _)| name.value.as_str())));
    }
    let mut names = Names::default();
    for (name, default) in &params {
        let from_outside = given.iter().rev().find(|g| g.name == name.value);
        let value = lab_param((name, *default), from_outside, &names, evaluator);
        // A name without a value is known, so that no other error follows.
        names = names.with([(name.value.clone(), value.unwrap_or_default())]);
    }
    names
}

fn lab_param(
    (name, default): (&Spanned<String>, Option<&Tree>),
    given: Option<&Given>,
    names: &Names,
    evaluator: &mut Evaluator<'_>,
) -> Option<Value> {
    let place = Place { names, origin: Origin::default() };
    let default = default.map(|tree| evaluator.value(tree, place));
    let Some(given) = given else {
        if default.is_none() {
            let title = format!("parameter `{}` has no value", name.value);
            let help = format!("give it one here, or with `-D {}=VALUE`", name.value);
            evaluator.error(Diagnostic::new("missing-parameter", name.span, title).help(help));
        }
        return default.flatten();
    };
    let wrong = |why: String| {
        let title = format!("`-D {}={}`: {why}", given.name, given.value);
        Diagnostic::new("wrong-parameter", name.span, title)
    };
    let mut unread = Errors::new();
    let Some(tree) = spec::read(&given.value, &mut unread) else {
        evaluator.error(wrong("the value is not YAML".to_owned()));
        return None;
    };
    let tree = at(&tree, name.span);
    let value = evaluator.value(&tree, place)?;
    match fitting(value, default.flatten().as_ref()) {
        Ok(value) => Some(value),
        Err(why) => {
            evaluator.error(wrong(format!("`{}` is {why}", name.value)));
            None
        }
    }
}

/// A tree that is not of the file, with all its parts at `span`.
fn at(tree: &Tree, span: Span) -> Tree {
    let span = Span { origin: span.origin.computed(), ..span };
    match &tree.value {
        spec::Value::Null | spec::Value::Scalar(_) => tree.at(span),
        spec::Value::Seq(items) => {
            Tree::new(span, spec::Value::Seq(items.iter().map(|t| at(t, span)).collect()))
        }
        spec::Value::Map(items) => {
            Tree::new(span, spec::Value::Map(items.iter().map(|(k, v)| (at(k, span), at(v, span))).collect()))
        }
    }
}

/// A value for a parameter, if it is of the sort of its default; a number is taken for text where text is wanted. `Err`
/// says what is wanted, and what is there.
fn fitting(value: Value, default: Option<&Value>) -> Result<Value, String> {
    let Some(default) = default.filter(|d| !d.is_none()) else { return Ok(value) };
    match (expression::kind(default), expression::kind(&value)) {
        (wanted, found) if wanted == found => Ok(value),
        ("text", "a number") => Ok(Value::from(scalar::written(&value).unwrap_or_default())),
        (wanted, found) => Err(format!("{wanted}, as its default is; this is {found}")),
    }
}

/// Whether any scalar of a tree holds an expression, or any key one of expansion.
fn is_plain(tree: &Tree) -> bool {
    match &tree.value {
        spec::Value::Null => true,
        spec::Value::Scalar(text) => !text.contains("${"),
        spec::Value::Seq(items) => items.iter().all(is_plain),
        spec::Value::Map(items) => items.iter().all(|(key, value)| {
            let expanded = matches!(scalar_text(key), Some("use" | "with" | "when"));
            !expanded && is_plain(key) && is_plain(value)
        }),
    }
}

/// The names of parameters, for a help.
fn names_of(params: &[Param<'_>]) -> String {
    let names: Vec<String> = params.iter().map(|(name, _)| format!("`{}`", name.value)).collect();
    names.join(", ")
}
