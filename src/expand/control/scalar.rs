//! `${…}` in the scalars of a lab file. Text goes in; its parts come out, and a value as a tree or a tree as a value.
//! It never evaluates anything.

use std::ops::Range;

use minijinja::value::{Value, ValueKind};

use super::expression::{MAX_TEXT, kind};
use crate::expand::MAX_NODES;
use crate::spec::{self, Span, Tree};

/// What a value counts for beside its text, bytes.
pub(super) const VALUE: usize = 16;
/// Most that one expression may give where a value stands.
pub(super) const MAX_TREE: usize = VALUE * MAX_NODES;

/// A part of a scalar; ranges are bytes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text as it is, `$${` written as `${`.
    Text(String),
    /// What stands between `${` and `}`.
    Expression(Range<usize>),
}

/// Takes a scalar apart. `Err` has the place of a `${` without `}`.
pub(super) fn parts(text: &str) -> Result<Vec<Part>, Range<usize>> {
    let (mut found, mut plain, mut at) = (Vec::new(), String::new(), 0);
    while let Some(open) = text[at..].find("${").map(|i| at + i) {
        if text[at..open].ends_with('$') {
            plain.push_str(&text[at..open - 1]);
            plain.push_str("${");
            at = open + 2;
            continue;
        }
        plain.push_str(&text[at..open]);
        if !plain.is_empty() {
            found.push(Part::Text(std::mem::take(&mut plain)));
        }
        let inside = open + 2..close(text, open + 2).ok_or(open..open + 2)?;
        at = inside.end + 1;
        found.push(Part::Expression(inside));
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() || found.is_empty() {
        found.push(Part::Text(plain));
    }
    Ok(found)
}

/// Where the `}` is that belongs to an expression that starts at `from`: those of maps and in quotes do not.
fn close(text: &str, from: usize) -> Option<usize> {
    let (mut open, mut quote, mut escaped) = (0usize, None, false);
    for (i, c) in text[from..].char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => open += 1,
            (None, '}') if open == 0 => return Some(from + i),
            (None, '}') => open -= 1,
            (None, _) => {}
        }
    }
    None
}

/// Text that gives `text` when it is taken apart again.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

/// A value within text: a list as its items with spaces between, as in the braces of a link.
pub(super) fn written(value: &Value) -> Result<String, String> {
    let mut text = String::new();
    write(value, &mut text)?;
    Ok(text)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may have more")]
fn write(value: &Value, out: &mut String) -> Result<(), String> {
    match value.kind() {
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            for (i, item) in value.try_iter().map_err(|e| e.to_string())?.enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write(&item, out)?;
            }
        }
        _ => return Err(format!("{} cannot stand within text", kind(value))),
    }
    if out.len() > MAX_TEXT {
        return Err(format!("this gives more than {MAX_TEXT} bytes of text"));
    }
    Ok(())
}

/// A whole number without a point: `4 / 2` is 2.
fn number(value: &Value) -> String {
    let text = value.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A value as a tree whose parts all stand at `span`.
pub(super) fn tree(value: &Value, span: Span) -> Result<Tree, String> {
    let mut budget = MAX_TREE;
    grow(value, span, &mut budget)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may have more")]
fn grow(value: &Value, span: Span, budget: &mut usize) -> Result<Tree, String> {
    let bytes = VALUE + value.as_str().map_or(0, str::len);
    *budget = budget.checked_sub(bytes).ok_or_else(|| format!("this gives more than {MAX_NODES} values"))?;
    Ok(match value.kind() {
        ValueKind::None => Tree::new(span, spec::Value::Null),
        ValueKind::Bool | ValueKind::Number => Tree::new(span, spec::Value::Scalar(written(value)?)),
        ValueKind::String => Tree::text(span, written(value)?),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(|e| e.to_string())?;
            Tree::new(
                span,
                spec::Value::Seq(items.map(|i| grow(&i, span, budget)).collect::<Result<_, _>>()?),
            )
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter().map_err(|e| e.to_string())? {
                let inside = value.get_item(&key).map_err(|e| e.to_string())?;
                items.push((grow(&key, span, budget)?, grow(&inside, span, budget)?));
            }
            Tree::new(span, spec::Value::Map(items))
        }
        _ => return Err("this gives nothing that a lab file can hold".to_owned()),
    })
}

/// A scalar without expressions as a value: in quotes it is text; else `5`, `-1` and `0.5` are numbers, `true` and
/// `false` what they say, and all other words text, `y` and `no` too.
pub(super) fn typed(text: &str, quoted: bool) -> Value {
    if quoted {
        return Value::from(text);
    }
    match text {
        "true" => return Value::from(true),
        "false" => return Value::from(false),
        _ => {}
    }
    if let Ok(whole) = text.parse::<i64>()
        && whole.to_string() == text
    {
        return Value::from(whole);
    }
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let decimal = text.strip_prefix('-').unwrap_or(text).split_once('.');
    match (decimal, text.parse::<f64>()) {
        (Some((whole, rest)), Ok(number)) if digits(whole) && digits(rest) => Value::from(number),
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(text: &str) -> Vec<String> {
        let shown = |part: &Part| match part {
            Part::Text(text) => format!("'{text}"),
            Part::Expression(at) => text[at.clone()].to_owned(),
        };
        parts(text).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn scalars_are_taken_apart() {
        assert_eq!(taken("a"), ["'a"]);
        assert_eq!(taken(""), ["'"]);
        assert_eq!(taken("${a}"), ["a"]);
        assert_eq!(taken("n${a}m${b}"), ["'n", "a", "'m", "b"]);
        assert_eq!(taken("${ {'a': 1}.a }"), [" {'a': 1}.a "]);
        assert_eq!(taken("${'}' ~ \"{\"}"), ["'}' ~ \"{\""]);
        assert_eq!(taken("$${a} $$${a} $a {b}"), ["'${a} $${a} $a {b}"]);
        assert_eq!(taken("é${a}é"), ["'é", "a", "'é"]);
        assert_eq!(parts("ab${c"), Err(2..4));
        assert_eq!(parts("${'}"), Err(0..2));
    }

    #[test]
    fn scalars_have_types() {
        for (text, kind) in [
            ("5", ValueKind::Number),
            ("-1", ValueKind::Number),
            ("0.5", ValueKind::Number),
            ("true", ValueKind::Bool),
            ("05", ValueKind::String),
            ("y", ValueKind::String),
            ("1e3", ValueKind::String),
            ("10.0.0.1", ValueKind::String),
            ("99999999999999999999", ValueKind::String),
        ] {
            assert_eq!(typed(text, false).kind(), kind, "{text}");
            assert_eq!(typed(text, true).kind(), ValueKind::String, "{text}");
        }
        assert_eq!(written(&Value::from(2.0)).unwrap(), "2");
        assert_eq!(written(&Value::from(vec![1, 2])).unwrap(), "1 2");
        assert!(written(&Value::from(())).is_err());
    }

    #[test]
    fn trees_of_values_are_bounded() {
        let mut value = Value::from(1);
        for _ in 0..40 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert!(tree(&value, Span::default()).is_err());
    }

    proptest! {
        #[test]
        fn escaped_text_is_text(text in "[a${}' é]{0,12}") {
            let found = parts(&escape(&text)).unwrap();
            prop_assert_eq!(found, vec![Part::Text(text)]);
        }
    }
}
