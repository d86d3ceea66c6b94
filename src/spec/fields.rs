//! Taking maps and scalars apart. A [`Tree`] goes in; typed values come out, and every error is noted. It never
//! lets a key pass unread.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::diag::{Diagnostic, Span, Spanned};
use super::yaml::{Tree, Value};

/// The errors found so far.
pub(crate) type Errors = Vec<Diagnostic>;

/// The keys of one map, each to be taken once.
pub(crate) struct Fields<'a> {
    what: &'static str,
    span: Span,
    items: Vec<(&'a str, Span, &'a Tree)>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// `what` is the map in words, such as `the lab` or `a link`.
    pub(crate) fn new(tree: &'a Tree, what: &'static str, errors: &mut Errors) -> Option<Self> {
        let Value::Map(map) = &tree.value else {
            errors.push(wrong_type(tree, what, "a map"));
            return None;
        };
        let mut items: Vec<(&str, Span, &Tree)> = Vec::new();
        for (key, value) in map {
            let Some(name) = plain_text(key) else {
                errors.push(wrong_type(key, "a key", "text"));
                continue;
            };
            match items.iter().find(|(n, ..)| *n == name) {
                Some((_, first, _)) => errors.push(
                    Diagnostic::new("duplicate-key", key.span, format!("`{name}` is there twice"))
                        .see(*first, "first here"),
                ),
                None => items.push((name, key.span, value)),
            }
        }
        Some(Self { what, span: tree.span, items, known: Vec::new() })
    }

    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'a Tree> {
        self.take_key(key).map(|(_, tree)| tree)
    }

    /// The same, for a section in which nothing need stand: `tests:` with all of them commented out is as good as none.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<&'a Tree> {
        self.take(key).filter(|tree| tree.value != Value::Null)
    }

    pub(crate) fn take_key(&mut self, key: &'static str) -> Option<(Span, &'a Tree)> {
        self.known.push(key);
        let at = self.items.iter().position(|(n, ..)| *n == key)?;
        let (_, span, tree) = self.items.remove(at);
        Some((span, tree))
    }

    pub(crate) fn require(&mut self, key: &'static str, errors: &mut Errors) -> Option<&'a Tree> {
        let found = self.take(key);
        if found.is_none() {
            let start = Span { end: self.span.start, ..self.span };
            errors.push(
                Diagnostic::new("missing-key", start, format!("{} needs `{key}:`", self.what)).label("here"),
            );
        }
        found
    }

    /// Whatever was not taken is unknown.
    pub(crate) fn finish(self, errors: &mut Errors) {
        for (name, span, _) in &self.items {
            errors.push(
                Diagnostic::new("unknown-key", *span, format!("unknown key `{name}` in {}", self.what))
                    .meant(name, self.known.iter().copied()),
            );
        }
    }
}

pub(crate) fn wrong_type(tree: &Tree, what: &str, expected: &str) -> Diagnostic {
    Diagnostic::new("wrong-type", tree.span, format!("{what} must be {expected}, not {}", tree.kind()))
}

fn plain_text(tree: &Tree) -> Option<&str> {
    match &tree.value {
        Value::Scalar(text) => Some(text),
        Value::Null | Value::Seq(_) | Value::Map(_) => None,
    }
}

/// A scalar as text. An empty value is an error.
pub(crate) fn text(tree: &Tree, what: &str, errors: &mut Errors) -> Option<Spanned<String>> {
    match plain_text(tree) {
        Some(t) => Some(Spanned::new(t.to_owned(), tree.span)),
        None => {
            errors.push(wrong_type(tree, what, "text"));
            None
        }
    }
}

/// A name in a list: text, also where the word is `null`.
pub(crate) fn name(tree: &Tree, what: &str, errors: &mut Errors) -> Option<Spanned<String>> {
    match tree.word {
        Some(word) => Some(Spanned::new(word.to_owned(), tree.span)),
        None => text(tree, what, errors),
    }
}

/// A scalar that reads as `T`; `form` says what it must look like.
pub(crate) fn parsed<T: FromStr>(
    tree: &Tree,
    what: &str,
    form: &str,
    errors: &mut Errors,
) -> Option<Spanned<T>> {
    let value = text(tree, what, errors)?;
    match value.value.parse() {
        Ok(parsed) => Some(Spanned::new(parsed, value.span)),
        Err(_) => {
            errors.push(Diagnostic::new(
                "wrong-value",
                tree.span,
                format!("{what} must be {form}, not `{}`", value.value),
            ));
            None
        }
    }
}

/// A number within bounds.
pub(crate) fn number(
    tree: &Tree,
    what: &str,
    bounds: std::ops::RangeInclusive<u32>,
    errors: &mut Errors,
) -> Option<u32> {
    let form = format!("a number from {} to {}", bounds.start(), bounds.end());
    let value = parsed::<u32>(tree, what, &form, errors)?;
    if bounds.contains(&value.value) {
        return Some(value.value);
    }
    errors.push(Diagnostic::new(
        "wrong-value",
        tree.span,
        format!("{what} must be {form}, not {}", value.value),
    ));
    None
}

/// `true` or `false`.
pub(crate) fn boolean(tree: &Tree, what: &str, errors: &mut Errors) -> Option<bool> {
    parsed::<bool>(tree, what, "true or false", errors).map(|s| s.value)
}

/// One of some words.
pub(crate) fn choice<T: Copy>(
    tree: &Tree,
    what: &str,
    words: &[(&'static str, T)],
    errors: &mut Errors,
) -> Option<T> {
    let word = text(tree, what, errors)?;
    if let Some((_, value)) = words.iter().find(|(w, _)| *w == word.value) {
        return Some(*value);
    }
    let all: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
    errors.push(
        Diagnostic::new("wrong-value", tree.span, format!("{what} cannot be `{}`", word.value))
            .label(format!("one of: {}", all.join(", ")))
            .meant(&word.value, all),
    );
    None
}

pub(crate) fn list<'a>(tree: &'a Tree, what: &str, errors: &mut Errors) -> &'a [Tree] {
    match &tree.value {
        Value::Seq(items) => items,
        Value::Null | Value::Scalar(_) | Value::Map(_) => {
            errors.push(wrong_type(tree, what, "a list"));
            &[]
        }
    }
}

/// The entries of a map with free keys; duplicates are errors.
pub(crate) fn entries<'a>(
    tree: &'a Tree,
    what: &str,
    errors: &mut Errors,
) -> Vec<(Spanned<String>, &'a Tree)> {
    let Value::Map(map) = &tree.value else {
        errors.push(wrong_type(tree, what, "a map"));
        return Vec::new();
    };
    let mut found: Vec<(Spanned<String>, &Tree)> = Vec::new();
    let mut first: BTreeMap<&str, Span> = BTreeMap::new();
    for (key, value) in map {
        let Some(name) = text(key, "a name", errors) else { continue };
        match plain_text(key).and_then(|word| first.insert(word, name.span)) {
            Some(earlier) => errors.push(
                Diagnostic::new("duplicate-key", key.span, format!("`{}` is there twice", name.value))
                    .see(earlier, "first here"),
            ),
            None => found.push((name, value)),
        }
    }
    found
}
