//! A tree as YAML. A [`Tree`] goes in; text that reads as the same tree comes out, one item a line. It never breaks a
//! line within a scalar, and quotes what would not be text without.

use super::yaml::{Tree, Value};

/// Levels written as blocks, so that each node and each link has a line of its own.
const BLOCKS: usize = 4;

/// The text of a tree; `scalar` is what stands for each scalar.
pub(crate) fn write(tree: &Tree, scalar: &dyn Fn(&str) -> String) -> String {
    let mut writer = Writer { out: String::new(), scalar };
    writer.block(tree, 0);
    writer.out
}

struct Writer<'a> {
    out: String,
    scalar: &'a dyn Fn(&str) -> String,
}

impl Writer<'_> {
    /// A tree as lines of their own.
    fn block(&mut self, tree: &Tree, level: usize) {
        match &tree.value {
            Value::Map(items) if !items.is_empty() => {
                for (key, value) in items {
                    self.indent(level);
                    self.flow(key);
                    self.out.push(':');
                    self.under(value, level);
                }
            }
            Value::Seq(items) if !items.is_empty() => {
                for item in items {
                    self.indent(level);
                    self.out.push_str("- ");
                    self.flow(item);
                    self.out.push('\n');
                }
            }
            Value::Null | Value::Scalar(_) | Value::Seq(_) | Value::Map(_) => {
                self.indent(level);
                self.flow(tree);
                self.out.push('\n');
            }
        }
    }

    /// What stands after `key:`.
    fn under(&mut self, value: &Tree, level: usize) {
        let has_items = match &value.value {
            Value::Map(items) => level + 1 < BLOCKS && !items.is_empty(),
            Value::Seq(items) => level + 1 < BLOCKS && !items.is_empty(),
            Value::Null | Value::Scalar(_) => false,
        };
        if has_items {
            self.out.push('\n');
            self.block(value, level + 1);
            return;
        }
        if value.value != Value::Null {
            self.out.push(' ');
            self.flow(value);
        }
        self.out.push('\n');
    }

    fn indent(&mut self, level: usize) {
        self.out.extend(std::iter::repeat_n("  ", level));
    }

    /// A tree within a line.
    fn flow(&mut self, tree: &Tree) {
        match &tree.value {
            Value::Null => self.out.push_str(tree.word.unwrap_or("null")),
            Value::Scalar(text) => {
                let text = (self.scalar)(text);
                self.out.push_str(&scalar(&text));
            }
            Value::Seq(items) => {
                self.out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.out.push_str(if i > 0 { ", " } else { "" });
                    self.flow(item);
                }
                self.out.push(']');
            }
            Value::Map(items) => {
                self.out.push('{');
                for (i, (key, value)) in items.iter().enumerate() {
                    self.out.push_str(if i > 0 { ", " } else { "" });
                    self.flow(key);
                    self.out.push_str(": ");
                    self.flow(value);
                }
                self.out.push('}');
            }
        }
    }
}

/// A scalar as it is where that reads as this text anywhere, else in quotes (YAML 1.2, 7.3).
fn scalar(text: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || " _.-/+*%@()<>=~^;".contains(c);
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/' || c == '.';
    let plain = text.starts_with(first)
        && !text.ends_with(' ')
        // The parser takes a dash before a bracket for the beginning of a list.
        && !text.ends_with(" -")
        && text.chars().all(inside)
        && !matches!(text, "null" | "Null" | "NULL")
        && !text.starts_with("...");
    if plain { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || c == '\u{feff}' || ('\u{2028}'..='\u{2029}').contains(&c) => {
                out.push_str(&format!("\\U{:08X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::yaml::parse;
    use super::*;
    use crate::spec::Span;

    /// A tree without its places.
    fn plain(tree: &Tree) -> Tree {
        let value = match &tree.value {
            Value::Null => Value::Null,
            Value::Scalar(text) => Value::Scalar(text.clone()),
            Value::Seq(items) => Value::Seq(items.iter().map(plain).collect()),
            Value::Map(items) => Value::Map(items.iter().map(|(k, v)| (plain(k), plain(v))).collect()),
        };
        Tree::new(Span::default(), value)
    }

    fn drawn() -> impl Strategy<Value = Tree> {
        let text = prop_oneof!["[a-z0-9.${} -]{0,8}", "\\PC{0,6}", Just("null".to_owned()), "[ -~\n\t]{0,8}"];
        let scalar = prop_oneof![
            9 => text.prop_map(|t| Tree::text(Span::default(), t)),
            1 => Just(Tree::new(Span::default(), Value::Null)),
        ];
        let key = "[a-z0-9.:#-]{0,6}";
        scalar.prop_recursive(6, 60, 5, move |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4);
            let map = prop::collection::btree_map(key, inner, 0..4);
            let keyed = |(k, v)| (Tree::text(Span::default(), k), v);
            prop_oneof![
                list.prop_map(|items| Tree::new(Span::default(), Value::Seq(items))),
                map.prop_map(move |m| Tree::new(
                    Span::default(),
                    Value::Map(m.into_iter().map(keyed).collect())
                )),
            ]
        })
    }

    #[test]
    fn a_dash_at_the_end_is_not_before_a_bracket() {
        for (text, written) in [("a -", r#""a -""#), ("a--", "a--"), ("a -- b", "a -- b")] {
            assert_eq!(scalar(text), written);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(tree in drawn()) {
            let text = write(&tree, &str::to_owned);
            let read = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e:?}")))?;
            prop_assert_eq!(plain(&read), plain(&tree), "{}", text);
        }
    }

    #[test]
    fn nodes_and_links_have_lines_of_their_own() {
        let text = "name: a\nbase:\n  links:\n    - X -- Y\nvis:\n  v:\n    nodes:\n      a: {at: X, role: host}\n      \
                    b: Y\n    links:\n      - {link: a -- b, name: \"1: 2\"}\n";
        assert_eq!(write(&parse(text).unwrap(), &str::to_owned), text);
    }
}
