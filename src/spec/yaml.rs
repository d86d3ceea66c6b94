//! YAML as a tree in which every value knows its place. Text goes in; a [`Tree`] or one error comes out. It never
//! gives a scalar a type (`y`, `on` and `1` stay text) and never expands aliases beyond a budget.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::diag::{Diagnostic, Span};

/// Values a lab file may have, aliases expanded: enough for a lab of 65,536 nodes.
const MAX_VALUES: usize = 1_000_000;
/// Plain words for no value; as keys they are text.
const NULLS: [&str; 3] = ["null", "Null", "NULL"];
/// Levels of nesting.
const MAX_DEPTH: usize = 64;

/// A YAML value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub(crate) span: Span,
    pub(crate) value: Value,
    /// A scalar that is text by its quotes: `"1"`.
    pub(crate) quoted: bool,
    /// The word of a plain `null`, which is a name where names stand.
    pub(crate) word: Option<&'static str>,
    /// Number of values in this tree, itself included.
    size: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// An empty value or a plain `null` or `~`.
    Null,
    Scalar(String),
    Seq(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

impl Tree {
    /// A value that is not quoted.
    pub(crate) fn new(span: Span, value: Value) -> Self {
        let size = 1 + match &value {
            Value::Null | Value::Scalar(_) => 0,
            Value::Seq(items) => items.iter().map(|t| t.size).sum(),
            Value::Map(items) => items.iter().map(|(k, v)| k.size + v.size).sum(),
        };
        Self { span, value, quoted: false, word: None, size }
    }

    /// A scalar that is text whatever it looks like.
    pub(crate) fn text(span: Span, text: impl Into<String>) -> Self {
        Self { quoted: true, ..Self::new(span, Value::Scalar(text.into())) }
    }

    /// The same value in another place.
    pub(crate) fn at(&self, span: Span) -> Self {
        Self { span, ..self.clone() }
    }

    /// Number of values in it, itself included.
    pub(crate) fn values(&self) -> usize {
        self.size
    }

    /// What kind of value it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads the one document of `text`.
pub(crate) fn parse(text: &str) -> Result<Tree, Diagnostic> {
    let mut reader = Reader::new(text);
    let tree = reader.document()?;
    reader.check_end(tree.span)?;
    Ok(tree)
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Byte offset of each character, and of the end.
    offsets: Vec<usize>,
    anchors: BTreeMap<usize, Tree>,
    values: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let offsets = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        Self { text, parser: Parser::new_from_str(text), offsets, anchors: BTreeMap::new(), values: 0 }
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        let byte = |index: usize| self.offsets[index.min(self.offsets.len() - 1)];
        Span::new(byte(span.start.index()), byte(span.end.index()))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.span(span))),
            Some(Err(e)) => {
                let span = self.span(saphyr_parser::Span::empty(*e.marker()));
                let error = Diagnostic::new("yaml", span, "this is not YAML").label(e.info().to_owned());
                let in_flow = e.info().starts_with("while parsing a flow");
                Err(match in_flow && self.text[span.start..].starts_with(['[', '{']) {
                    true => {
                        error.help("between brackets or braces, text that has some itself stands in quotes")
                    }
                    false => error,
                })
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other event opens a value or is refused there")]
    fn document(&mut self) -> Result<Tree, Diagnostic> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::Nothing | Event::DocumentStart(_) => {}
                Event::StreamEnd | Event::DocumentEnd => {
                    return Err(Diagnostic::new("empty-file", Span::default(), "the file is empty")
                        .help("a lab needs at least `name:` and `base:`"));
                }
                other => return self.tree(other, span, 0),
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what lies before the end does not matter")]
    fn check_end(&mut self, first: Span) -> Result<(), Diagnostic> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(_) => {
                    return Err(Diagnostic::new("yaml", span, "one file is one lab")
                        .label("a second document starts here")
                        .see(Span::new(first.start, first.start), "the first is here"));
                }
                _ => {}
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every event that opens no value is one error")]
    fn tree(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Tree, Diagnostic> {
        if depth > MAX_DEPTH {
            return Err(Diagnostic::new(
                "too-deep",
                span,
                format!("nested more than {MAX_DEPTH} levels deep"),
            ));
        }
        let (tree, anchor) = match event {
            Event::Alias(id) => (self.alias(id, span)?, 0),
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                let word = NULLS.into_iter().find(|word| !quoted && *word == text);
                (Tree { quoted, word, ..Tree::new(span, scalar(&text, style)) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(span, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(span, depth)?, anchor),
            _ => return Err(Diagnostic::new("yaml", span, "this is not YAML").label("a value was expected")),
        };
        self.count(1, span)?;
        if anchor > 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        Ok(tree)
    }

    fn count(&mut self, values: usize, span: Span) -> Result<(), Diagnostic> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            return Err(Diagnostic::new(
                "too-big",
                span,
                format!("the file has more than {MAX_VALUES} values"),
            )
            .label("aliases are counted as what they stand for"));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Tree, Diagnostic> {
        let Some(size) = self.anchors.get(&id).map(|t| t.size) else {
            return Err(Diagnostic::new("yaml", span, "this alias stands inside its own anchor"));
        };
        self.count(size, span)?;
        Ok(self.anchors[&id].clone())
    }

    fn sequence(&mut self, start: Span, depth: usize) -> Result<Tree, Diagnostic> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                let end = items.last().map_or(span.end, |t: &Tree| t.span.end.max(start.end));
                return Ok(Tree::new(Span::new(start.start, end.max(start.start)), Value::Seq(items)));
            }
            items.push(self.tree(event, span, depth + 1)?);
        }
    }

    fn mapping(&mut self, start: Span, depth: usize) -> Result<Tree, Diagnostic> {
        let mut items: Vec<(Tree, Tree)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                let end = items.last().map_or(span.end, |(_, v)| v.span.end.max(start.end));
                let span = Span::new(start.start, end.max(start.start));
                return Ok(Tree::new(span, Value::Map(merged(items)?)));
            }
            let key = self.tree(event, span, depth + 1)?;
            let key = key.word.map(|word| Tree::text(key.span, word)).unwrap_or(key);
            let (event, span) = self.next()?;
            let value = self.tree(event, span, depth + 1)?;
            items.push((key, value));
        }
    }
}

/// The entries of a map with those of its merge keys (`<<: *other`) in their places: what the map says itself comes before
/// what it merges, and of several maps the first before the rest.
fn merged(items: Vec<(Tree, Tree)>) -> Result<Vec<(Tree, Tree)>, Diagnostic> {
    if !items.iter().any(|(key, _)| is_merge(key)) {
        return Ok(items);
    }
    let mut said: BTreeSet<String> = items.iter().filter_map(|(key, _)| name(key)).collect();
    let mut all = Vec::new();
    for (key, value) in items {
        if !is_merge(&key) {
            all.push((key, value));
            continue;
        }
        for map in merge_sources(value)? {
            all.extend(map.into_iter().filter(|(key, _)| name(key).is_none_or(|name| said.insert(name))));
        }
    }
    Ok(all)
}

fn is_merge(key: &Tree) -> bool {
    !key.quoted && matches!(&key.value, Value::Scalar(text) if text == "<<")
}

fn name(key: &Tree) -> Option<String> {
    match &key.value {
        Value::Scalar(text) => Some(text.clone()),
        Value::Null | Value::Seq(_) | Value::Map(_) => None,
    }
}

/// The map, or the maps of the list, that a merge key stands for.
fn merge_sources(value: Tree) -> Result<Vec<Vec<(Tree, Tree)>>, Diagnostic> {
    let sources = match value.value {
        Value::Seq(items) => items,
        Value::Null | Value::Scalar(_) | Value::Map(_) => vec![value],
    };
    let entries = |source: Tree| match source.value {
        Value::Map(items) => Ok(items),
        Value::Null | Value::Scalar(_) | Value::Seq(_) => {
            Err(Diagnostic::new("yaml", source.span, format!("`<<` merges maps, not {}", source.kind())))
        }
    };
    sources.into_iter().map(entries).collect()
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        _ => Value::Scalar(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stay_text_and_know_their_place() {
        let tree = parse("a: [y, no, 1, \"\"]\nb:\n").unwrap();
        let Value::Map(items) = tree.value else { panic!("a map") };
        let Value::Seq(list) = &items[0].1.value else { panic!("a list") };
        let texts: Vec<_> = list.iter().map(|t| t.value.clone()).collect();
        assert_eq!(texts, ["y", "no", "1", ""].map(|s| Value::Scalar(s.to_owned())));
        assert_eq!(list[1].span, Span::new(7, 9));
        assert_eq!(items[1].1.value, Value::Null);
    }

    #[test]
    fn characters_of_several_bytes_do_not_shift_places() {
        let text = "é: ü\nx: y\n";
        let Value::Map(items) = parse(text).unwrap().value else { panic!("a map") };
        assert_eq!(&text[items[1].0.span.start..items[1].0.span.end], "x");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let last = i - 1;
            text += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{last}"); 10].join(", "));
        }
        assert_eq!(parse(&text).unwrap_err().rule, "too-big");
    }

    #[test]
    fn merge_keys_give_what_the_map_does_not_say_itself() {
        let entries = |text: &str| {
            let Value::Map(mut items) = parse(text).unwrap().value else { panic!("a map") };
            let Value::Map(last) = items.pop().unwrap().1.value else { panic!("a map in it") };
            last.into_iter()
                .map(|(key, value)| format!("{}={}", name(&key).unwrap(), name(&value).unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(entries("a: &a {x: 1, y: 2}\nb: {z: 3, <<: *a, y: 4}\n"), ["z=3", "x=1", "y=4"]);
        assert_eq!(
            entries("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*b, *a]}\n"),
            ["y=3", "z=4", "x=1"]
        );
        assert_eq!(entries("a: {\"<<\": 1}\n"), ["<<=1"], "in quotes it is a name");
        assert_eq!(parse("a: {<<: [1]}\n").unwrap_err().title, "`<<` merges maps, not a single value");
    }

    #[test]
    fn nesting_is_bounded() {
        assert_eq!(parse(&"[".repeat(100)).unwrap_err().rule, "too-deep");
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
