//! Errors of a lab file. Spans and words go in; a report with the offending text underlined comes out. It never
//! prints and never stops at the first error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::origin::{Instances, Origin};
use crate::error::{Error, Kind};

/// A piece of the lab file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    /// How what stands there came to be.
    pub origin: Origin,
}

impl Span {
    /// Of the file's own text.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end, origin: Origin::default() }
    }
}

/// A value and where the file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl Spanned<String> {
    /// A part of this text, a slice of it, with its own place: known where the file has the text as it is, plain
    /// or in quotes without escapes; else the place of the whole.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.value.as_ptr() as usize);
        if self.span.origin.is_computed() {
            return Self::new(part.to_owned(), self.span);
        }
        let quote = match (self.span.end - self.span.start).checked_sub(self.value.len()) {
            Some(0) => 0,
            Some(2) => 1,
            _ => return Self::new(part.to_owned(), self.span),
        };
        debug_assert!(offset + part.len() <= self.value.len(), "`part` is a slice of this text");
        let start = self.span.start + quote + offset;
        Self::new(part.to_owned(), Span { start, end: start + part.len(), ..self.span })
    }
}

/// One error: a stable rule id, what is wrong, what to say under the text, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub rule: &'static str,
    pub title: String,
    pub span: Span,
    pub label: Box<str>,
    /// Other places of the file that matter.
    pub context: Vec<(Span, String)>,
    pub help: Option<Box<str>>,
}

impl Diagnostic {
    pub fn new(rule: &'static str, span: Span, title: impl Into<String>) -> Self {
        Self { rule, title: title.into(), span, label: Box::default(), context: Vec::new(), help: None }
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<Box<str>>) -> Self {
        self.label = label.into();
        self
    }

    #[must_use]
    pub fn see(mut self, span: Span, label: impl Into<String>) -> Self {
        self.context.push((span, label.into()));
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<Box<str>>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …?" when one of `known` is near `word`.
    #[must_use]
    pub fn meant<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, known) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }

    /// What [`Diagnostic::meant`] found.
    #[must_use]
    pub fn near(&self) -> Option<&str> {
        self.help.as_deref()?.strip_prefix("did you mean `")?.strip_suffix("`?")
    }
}

/// The known word nearest to `word`, if it is near enough to have been meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&word.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= 1 + k.len().max(word.len()) / 4 && *distance < k.len())
        .min()
        .map(|(_, k)| k)
}

/// All errors of one file.
#[derive(Debug, Clone)]
pub struct Report {
    path: PathBuf,
    source: String,
    diagnostics: Vec<Diagnostic>,
    /// In which instances of templates each error is, in words.
    within: Vec<Option<String>>,
}

impl Report {
    /// Orders the errors by place; one that several instances of a template have stands once.
    #[must_use]
    pub fn new(path: &Path, source: &str, diagnostics: Vec<Diagnostic>, instances: &Instances) -> Self {
        let (diagnostics, within) = gather(diagnostics, instances);
        Self { path: path.to_owned(), source: source.to_owned(), diagnostics, within }
    }

    /// In which instance of a template the error of this index is, and in how many others.
    #[must_use]
    pub fn within(&self, index: usize) -> Option<&str> {
        self.within.get(index)?.as_deref()
    }

    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Line and column of a span's start, from 1; the column in characters.
    #[must_use]
    pub fn position(&self, span: Span) -> (usize, usize) {
        position(&self.source, span)
    }

    /// The report as text; `colour` for terminals.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let path = self.path.display().to_string();
        let groups = (0..self.diagnostics.len()).map(|index| self.group(index, &path));
        let texts: Vec<String> = groups.map(|group| renderer.render(&group)).collect();
        texts.join("\n\n")
    }

    fn group<'a>(&'a self, index: usize, path: &'a str) -> Vec<Group<'a>> {
        let d = &self.diagnostics[index];
        let mut snippet = Snippet::source(self.source.as_str())
            .path(path)
            .annotation(AnnotationKind::Primary.span(self.clamp(d.span)).label(&*d.label));
        for (span, label) in &d.context {
            snippet =
                snippet.annotation(AnnotationKind::Context.span(self.clamp(*span)).label(label.as_str()));
        }
        let group = Level::ERROR.primary_title(d.title.as_str()).id(d.rule).element(snippet);
        let group = match self.within(index) {
            Some(within) => group.element(Level::NOTE.message(within)),
            None => group,
        };
        vec![match &d.help {
            Some(help) => group.element(Level::HELP.message(help.as_ref())),
            None => group,
        }]
    }

    fn clamp(&self, span: Span) -> std::ops::Range<usize> {
        let end = span.end.min(self.source.len());
        span.start.min(end)..end
    }

    /// The report as the library's error.
    #[must_use]
    pub fn into_error(self) -> Error {
        let count = self.diagnostics.len();
        let noun = if count == 1 { "error" } else { "errors" };
        Error::new(Kind::LabFile, format!("{count} {noun} in {}", self.path.display())).with_report(self)
    }
}

/// The errors in order, each once, and where in templates they are.
fn gather(mut found: Vec<Diagnostic>, instances: &Instances) -> (Vec<Diagnostic>, Vec<Option<String>>) {
    found.sort_by(|a, b| (a.span, a.rule).cmp(&(b.span, b.rule)));
    found.dedup();
    let mut first: BTreeMap<(Span, &str, String), usize> = BTreeMap::new();
    let mut kept: Vec<(Diagnostic, BTreeSet<usize>)> = Vec::new();
    for d in found {
        let number = d.span.origin.instance();
        let written = Span::new(d.span.start, d.span.end);
        let index = *first.entry((written, d.rule, plain_title(&d, instances))).or_insert(kept.len());
        if index == kept.len() {
            kept.push((d, BTreeSet::new()));
        }
        kept[index].1.extend(number);
    }
    let within = |(d, all): &(Diagnostic, BTreeSet<usize>)| {
        let first = instances.of(d.span.origin)?;
        let others = match all.len() {
            0 | 1 => String::new(),
            2 => ", and in another instance".to_owned(),
            n => format!(", and in {} other instances", n - 1),
        };
        Some(format!("in `{}` (template `{}`){others}", first.path, first.template))
    };
    let within = kept.iter().map(within).collect();
    (kept.into_iter().map(|(d, _)| d).collect(), within)
}

/// What an error says, the path of its instance left out.
fn plain_title(d: &Diagnostic, instances: &Instances) -> String {
    let inner = instances.of(d.span.origin).and_then(|i| i.path.split_once('/'));
    match inner {
        Some((_, inner)) => d.title.replace(&format!("{inner}."), ""),
        None => d.title.clone(),
    }
}

/// Line and column of a span's start in `source`, from 1; the column in characters.
#[must_use]
pub fn position(source: &str, span: Span) -> (usize, usize) {
    let before = &source[..span.start.min(source.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}
