//! The values of a lab file, `${…}` carried out. A tree goes in; a tree without expressions, or a value, comes out, and
//! every error is noted. It never knows what the values are for.

use std::collections::BTreeSet;

use minijinja::value::Value;

use super::expression::{Expressions, Names, kind};
use super::scalar::{self, MAX_TREE, Part, VALUE};
use super::template::{condition, diagnostic, scalar_text, unclosed};
use crate::spec::{self, Diagnostic, Errors, Origin, Span, Tree};

/// Carries expressions out.
#[derive(Debug)]
pub(super) struct Evaluator<'e> {
    pub(super) expressions: Expressions<'e>,
    pub(super) errors: Errors,
    /// The places, in bytes of the file, of scalars that have no value: what is said about them later is no news.
    pub(super) failed: BTreeSet<(usize, usize)>,
    /// Bytes of the trees made so far: see [`MAX_WRITTEN`].
    written: usize,
    /// An error said so.
    told: bool,
}

/// Most that expansion may write, bytes, each value counted as [`VALUE`] and its text: a lab of the greatest size takes
/// a quarter of it.
const MAX_WRITTEN: usize = 64 << 20;

/// What names mean in some place, and where that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) names: &'a Names,
    pub(super) origin: Origin,
}

impl Place<'_> {
    pub(super) fn span(&self, span: Span) -> Span {
        Span { origin: self.origin, ..span }
    }
}

impl<'e> Evaluator<'e> {
    pub(super) fn new(expressions: Expressions<'e>) -> Self {
        Self { expressions, errors: Errors::new(), failed: BTreeSet::new(), written: 0, told: false }
    }

    pub(super) fn error(&mut self, error: Diagnostic) {
        self.errors.push(error);
    }

    /// Whether expansion has written too much to go on.
    pub(super) fn is_full(&self) -> bool {
        self.written > MAX_WRITTEN
    }

    fn count(&mut self, tree: &Tree) {
        self.written += VALUE + scalar_text(tree).map_or(0, str::len);
        if self.is_full() && !std::mem::replace(&mut self.told, true) {
            let title = format!("expansion gives more than {} MiB", MAX_WRITTEN >> 20);
            self.error(Diagnostic::new("too-big", tree.span, title));
        }
    }

    /// The tree with its expressions carried out; a scalar that has no value stays as it is.
    pub(super) fn tree(&mut self, tree: &Tree, place: Place<'_>) -> Tree {
        let span = place.span(tree.span);
        self.count(tree);
        match &tree.value {
            spec::Value::Scalar(text) if text.contains("${") => {
                self.scalar(text, span, place.names).unwrap_or_else(|| tree.at(span))
            }
            spec::Value::Null | spec::Value::Scalar(_) => tree.at(span),
            spec::Value::Seq(items) => {
                Tree::new(span, spec::Value::Seq(items.iter().map(|t| self.tree(t, place)).collect()))
            }
            spec::Value::Map(items) => {
                let all = items.iter().map(|(key, value)| (self.tree(key, place), self.tree(value, place)));
                Tree::new(span, spec::Value::Map(all.collect()))
            }
        }
    }

    /// A name with its expressions carried out, which is one line of text.
    pub(super) fn text(
        &mut self,
        tree: &Tree,
        what: &str,
        place: Place<'_>,
    ) -> Option<spec::Spanned<String>> {
        let before = self.errors.len();
        let tree = self.tree(tree, place);
        if self.errors.len() > before {
            return None;
        }
        spec::text(&tree, what, &mut self.errors)
    }

    /// The value of a tree: of an expression that is a whole scalar, the value itself.
    pub(super) fn value(&mut self, tree: &Tree, place: Place<'_>) -> Option<Value> {
        match &tree.value {
            spec::Value::Null => Some(Value::from(())),
            spec::Value::Scalar(text) if text.contains("${") => {
                self.scalar_value(text, place.span(tree.span), place.names)
            }
            spec::Value::Scalar(text) => Some(scalar::typed(text, tree.quoted)),
            spec::Value::Seq(items) => {
                let all: Vec<Option<Value>> = items.iter().map(|t| self.value(t, place)).collect();
                Some(Value::from(all.into_iter().collect::<Option<Vec<_>>>()?))
            }
            spec::Value::Map(items) => {
                let mut pairs = Vec::new();
                for (key, value) in items {
                    let (key, value) = (self.value(key, place), self.value(value, place));
                    pairs.push((key?, value?));
                }
                Some(Value::from_pairs(pairs))
            }
        }
    }

    /// Whether a `when:` holds.
    pub(super) fn holds(&mut self, when: &Tree, place: Place<'_>) -> Option<bool> {
        let span = place.span(when.span);
        let Some(text) = scalar_text(when) else {
            self.error(spec::wrong_type(&when.at(span), "`when`", "an expression"));
            return None;
        };
        let value = self.expression(text, &text[condition(text)], span, place.names)?;
        match bool::try_from(value.clone()) {
            Ok(holds) if kind(&value) == "true or false" => Some(holds),
            _ => {
                let title = format!("`when` must be true or false; this is {}", kind(&value));
                self.error(Diagnostic::new("expression", span, title));
                None
            }
        }
    }

    fn scalar(&mut self, text: &str, span: Span, names: &Names) -> Option<Tree> {
        let value = self.scalar_value(text, span, names)?;
        let span = Span { origin: span.origin.computed(), ..span };
        match scalar::tree(&value, span) {
            Ok(tree) => {
                self.written += tree.values() * VALUE + scalar_text(&tree).map_or(0, str::len);
                Some(tree)
            }
            Err(why) => {
                self.written += MAX_TREE;
                self.fail(span, Diagnostic::new("expression", span, why))
            }
        }
    }

    fn scalar_value(&mut self, text: &str, span: Span, names: &Names) -> Option<Value> {
        let found = match scalar::parts(text) {
            Ok(found) => found,
            Err(at) => return self.fail(span, unclosed(text, at, span)),
        };
        if let [Part::Expression(inside)] = found.as_slice() {
            return self.expression(text, &text[inside.clone()], span, names);
        }
        let mut written = String::new();
        for part in found {
            match part {
                Part::Text(plain) => written += &plain,
                Part::Expression(inside) => {
                    let value = self.expression(text, &text[inside], span, names)?;
                    match scalar::written(&value) {
                        Ok(text) => written += &text,
                        Err(why) => return self.fail(span, Diagnostic::new("expression", span, why)),
                    }
                }
            }
        }
        Some(Value::from(written))
    }

    fn expression(&mut self, whole: &str, part: &str, span: Span, names: &Names) -> Option<Value> {
        match self.expressions.evaluate(part, names) {
            Ok(value) => Some(self.settled(value)),
            Err(fault) => self.fail(span, diagnostic(fault, whole, part, span)),
        }
    }

    /// The value itself where the library only remembers how to make a list.
    fn settled(&mut self, value: Value) -> Value {
        let is_list = kind(&value) == "a list" && value.downcast_object_ref::<Vec<Value>>().is_none();
        match value.try_iter() {
            Ok(items) if is_list => {
                let items: Vec<Value> = items.collect();
                self.written += items.len() * VALUE;
                Value::from(items)
            }
            _ => value,
        }
    }

    fn fail<T>(&mut self, span: Span, error: Diagnostic) -> Option<T> {
        self.failed.insert((span.start, span.end));
        self.errors.push(error);
        None
    }
}
