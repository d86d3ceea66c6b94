//! Parallel underlays as the file has them: `over:` with several names, and `spread:` and `weights:` of a link. Trees go
//! in; names and numbers that know their lines come out. It never knows which VIs there are.

use super::diag::{Diagnostic, Spanned};
use super::fields::{Errors, Fields, choice, list, name, number, text};
use super::yaml::{Tree, Value};
use crate::model::Spread;

pub(super) const SPREADS: [(&str, Spread); 3] =
    [("flow", Spread::Flow), ("packet", Spread::Packet), ("duplicate", Spread::Duplicate)];

/// What a link says about the underlays of its VI; nothing by default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SpreadSpec {
    pub spread: Option<Spanned<Spread>>,
    /// One for each underlay, in the order of `over`.
    pub weights: Option<Spanned<Vec<u32>>>,
}

/// What a VI rides on: the first, and those beside it.
pub(super) fn over(tree: &Tree, errors: &mut Errors) -> Option<(Spanned<String>, Vec<Spanned<String>>)> {
    let Value::Seq(items) = &tree.value else { return Some((text(tree, "`over`", errors)?, Vec::new())) };
    let mut names: Vec<Spanned<String>> = Vec::new();
    for item in items {
        let Some(name) = name(item, "a VI to ride on", errors) else { continue };
        if name.value == "base" && items.len() > 1 {
            let title = "the base network cannot be one of several underlays: they are VIs";
            errors.push(Diagnostic::new("wrong-value", name.span, title));
        } else if let Some(first) = names.iter().find(|n| n.value == name.value) {
            let title = format!("`{}` is there twice", name.value);
            errors.push(Diagnostic::new("wrong-value", name.span, title).see(first.span, "first here"));
        } else {
            names.push(name);
        }
    }
    if items.is_empty() {
        errors.push(Diagnostic::new("wrong-value", tree.span, "`over` names nothing to ride on"));
    }
    let mut names = names.into_iter();
    Some((names.next()?, names.collect()))
}

/// Takes `spread` and `weights`.
pub(super) fn take(fields: &mut Fields<'_>, errors: &mut Errors) -> SpreadSpec {
    let spread = fields.take("spread").and_then(|t| {
        let word = choice(t, "`spread`", &SPREADS, errors)?;
        Some(Spanned::new(word, t.span))
    });
    let weights = fields.take("weights").and_then(|t| weights(t, errors));
    if let (Some(spread), Some(weights)) = (&spread, &weights)
        && spread.value == Spread::Duplicate
    {
        let title = "`weights` say nothing where every packet takes every underlay";
        let error = Diagnostic::new("spread", weights.span, title);
        errors.push(error.see(spread.span, "`spread: duplicate`"));
    }
    SpreadSpec { spread, weights }
}

fn weights(tree: &Tree, errors: &mut Errors) -> Option<Spanned<Vec<u32>>> {
    let items = list(tree, "`weights`", errors);
    let weights: Vec<u32> = items.iter().filter_map(|t| number(t, "a weight", 1..=1000, errors)).collect();
    (weights.len() == items.len() && !items.is_empty()).then_some(Spanned::new(weights, tree.span))
}
