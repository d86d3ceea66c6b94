//! Expressions: MiniJinja's, with `pick` and `range`. The text of one and the values of names go in; a value or what is
//! wrong with it comes out. It never takes more time and memory than its budget: see [`FUEL`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Expression, UndefinedBehavior};

use super::scalar;
use crate::expand::MAX_NODES;
use crate::spec::{self, Span, nearest};

/// What one evaluation may cost: so many steps, or 64 bytes of new text and lists each.
const FUEL: u64 = 50_000;
/// Longest text an expression may give, bytes.
pub(super) const MAX_TEXT: usize = 65_536;
/// Names that the expression language has for itself.
const WORDS: [&str; 12] =
    ["and", "else", "false", "if", "in", "is", "none", "not", "or", "pick", "range", "true"];

/// What is wrong with an expression, and in which bytes of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) title: String,
    pub(super) at: Option<Range<usize>>,
    pub(super) help: Option<String>,
}

impl Fault {
    fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), at: None, help: None }
    }
}

/// Where `pick` stands in each list, in turn.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Rounds>>);

#[derive(Debug, Default)]
struct Rounds {
    /// By what a list holds.
    next: BTreeMap<String, usize>,
    /// The list picked from last, where its items are, and what it holds: most are picked from many times.
    last: Option<(Value, usize, String)>,
    /// Bytes that lists held, of all that were looked through.
    seen: usize,
}

/// Most that `pick` looks through, bytes.
const MAX_SEEN: usize = 64 << 20;

impl Turns {
    /// Every list begins with its first item again.
    pub(super) fn restart(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next.clear();
    }

    fn pick(&self, list: &Value) -> Result<Value, Error> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOperation, why);
        if !matches!(list.kind(), ValueKind::Seq | ValueKind::Iterable) {
            return Err(wrong(format!("`pick` takes a list, not {}", kind(list))));
        }
        let length = list.len().unwrap_or(0);
        if length == 0 {
            return Err(wrong("`pick` from an empty list".to_owned()));
        }
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = rounds.held(list).map_err(wrong)?;
        let next = rounds.next.entry(held).or_default();
        let at = *next % length;
        *next += 1;
        list.get_item_by_index(at)
    }
}

impl Rounds {
    /// What a list holds, as text.
    fn held(&mut self, list: &Value) -> Result<String, String> {
        let items = list.downcast_object_ref::<Vec<Value>>().map(|items| items.as_ptr() as usize);
        if let (Some((_, last, held)), Some(items)) = (&self.last, items)
            && *last == items
        {
            return Ok(held.clone());
        }
        if self.seen > MAX_SEEN {
            return Err("`pick` takes too long from so many long lists".to_owned());
        }
        let tree = scalar::tree(list, Span::default());
        self.seen += tree.as_ref().map_or(scalar::MAX_TREE, |tree| tree.values() * scalar::VALUE);
        let held = spec::write(&tree?, &str::to_owned);
        self.last = items.map(|items| (list.clone(), items, held.clone()));
        Ok(held)
    }
}

/// The library's own environment, without what prints or has a hidden state, and with `pick`.
pub(super) fn environment(turns: &Turns) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    for name in ["debug", "namespace", "dict"] {
        environment.remove_global(name);
    }
    let turns = turns.clone();
    environment.add_function("pick", move |list: Value| turns.pick(&list));
    environment
}

/// Whether a parameter may have this name, for it is used in expressions.
pub(super) fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(good)
        && !WORDS.contains(&name)
}

/// Expressions, each compiled once.
#[derive(Debug)]
pub(super) struct Expressions<'e> {
    environment: &'e Environment<'static>,
    compiled: BTreeMap<String, Compiled<'e>>,
}

#[derive(Debug)]
struct Compiled<'e> {
    expression: Expression<'e, 'static>,
    /// The names it uses, in order.
    names: Vec<String>,
}

impl<'e> Expressions<'e> {
    pub(super) fn new(environment: &'e Environment<'static>) -> Self {
        Self { environment, compiled: BTreeMap::new() }
    }

    /// Says what is wrong with an expression before any value is known: its form, and names that are not `known`.
    pub(super) fn check(&mut self, text: &str, known: &dyn Fn() -> Vec<String>) -> Result<(), Fault> {
        let compiled = self.compile(text)?;
        if compiled.names.is_empty() {
            return Ok(());
        }
        let known = known();
        match compiled.names.iter().find(|n| !known.contains(n)) {
            None => Ok(()),
            Some(name) => Err(unknown(text, name, &known)),
        }
    }

    /// The value of an expression.
    pub(super) fn evaluate(&mut self, text: &str, names: &Names) -> Result<Value, Fault> {
        let compiled = self.compile(text)?;
        if let Some(name) = compiled.names.iter().find(|n| !names.values.contains_key(*n)) {
            let known: Vec<String> = names.values.keys().cloned().collect();
            return Err(unknown(text, name, &known));
        }
        let value = compiled.expression.eval(names.context.clone()).map_err(|e| fault(&e, text))?;
        check_size(&value)?;
        Ok(value)
    }

    fn compile(&mut self, text: &str) -> Result<&Compiled<'e>, Fault> {
        if !self.compiled.contains_key(text) {
            if text.trim().is_empty() {
                return Err(Fault::new("there is no expression here"));
            }
            let expression =
                self.environment.compile_expression_owned(text.to_owned()).map_err(|e| fault(&e, text))?;
            let mut names: Vec<String> = expression.undeclared_variables(false).into_iter().collect();
            names.retain(|n| n != "pick" && n != "range");
            names.sort();
            self.compiled.insert(text.to_owned(), Compiled { expression, names });
        }
        Ok(&self.compiled[text])
    }
}

/// The values that names have in some place.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    values: BTreeMap<String, Value>,
    context: Value,
}

impl Names {
    /// These, and `more` before them.
    pub(super) fn with(&self, more: impl IntoIterator<Item = (String, Value)>) -> Self {
        let mut values = self.values.clone();
        values.extend(more);
        let context = Value::from_pairs(values.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self { values, context }
    }

    pub(super) fn known(&self) -> impl Iterator<Item = &String> {
        self.values.keys()
    }
}

fn unknown(text: &str, name: &str, known: &[String]) -> Fault {
    let word = |at: &usize| {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !text[..*at].ends_with(part) && !text[at + name.len()..].starts_with(part)
    };
    let at = text.match_indices(name).map(|(at, _)| at).find(word).map(|at| at..at + name.len());
    let help = match nearest(name, known.iter().map(String::as_str)) {
        _ if name.chars().all(|c| !c.is_ascii_lowercase())
            && !known.iter().any(|k| k.eq_ignore_ascii_case(name)) =>
        {
            Some(format!("`$${{{name}}}` stands for the text `${{{name}}}`"))
        }
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => {
            Some("there are no parameters here; text stands in quotes: 'text'".to_owned())
        }
        None => Some(format!("the parameters here are: {}", known.join(", "))),
    };
    Fault { title: format!("there is no parameter `{name}`"), at, help }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may have more")]
fn fault(error: &Error, text: &str) -> Fault {
    let said = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let title = match error.kind() {
        ErrorKind::SyntaxError => format!("this is not an expression: {said}"),
        ErrorKind::OutOfFuel => "this expression takes too long, or gives too much".to_owned(),
        _ => format!("this expression has no value: {said}"),
    };
    let at = error.range().filter(|at| at.end <= text.len() && at.start < at.end);
    Fault {
        title,
        at: at.filter(|at| text.is_char_boundary(at.start) && text.is_char_boundary(at.end)),
        help: None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may have more")]
fn check_size(value: &Value) -> Result<(), Fault> {
    match value.kind() {
        ValueKind::Undefined => Err(Fault::new("this expression has no value: there is no such item")),
        ValueKind::String if value.as_str().is_some_and(|t| t.len() > MAX_TEXT) => {
            Err(Fault::new(format!("this gives more than {MAX_TEXT} bytes of text")))
        }
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
            if value.len().is_some_and(|length| length > MAX_NODES) =>
        {
            Err(Fault::new(format!("this gives a list of more than {MAX_NODES} items")))
        }
        ValueKind::Bytes | ValueKind::Plain | ValueKind::Invalid => {
            Err(Fault::new("this gives nothing that a lab file can hold"))
        }
        _ => Ok(()),
    }
}

/// What sort of value it is, in words.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library may have more")]
pub(super) fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => "nothing",
        ValueKind::Bool => "true or false",
        ValueKind::Number => "a number",
        ValueKind::String => "text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a map",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str, names: &[(&str, Value)]) -> Result<String, Fault> {
        let environment = environment(&Turns::default());
        let names = Names::default().with(names.iter().map(|(n, v)| ((*n).to_owned(), v.clone())));
        Expressions::new(&environment).evaluate(text, &names).map(|v| v.to_string())
    }

    #[test]
    fn the_languages_expressions() {
        let depth = |n: i64| [("depth", Value::from(n)), ("place", Value::from(vec!["X", "Y"]))];
        for (text, value) in [
            ("depth - 1", "4"),
            ("'router' if depth > 0 else 'host'", "router"),
            ("place", "['X', 'Y']"),
            ("place[0] ~ depth", "X5"),
            ("place + ['Z']", "['X', 'Y', 'Z']"),
            ("depth >= 5 and not depth == 6", "True"),
            ("'X' in place", "True"),
            ("place | length", "2"),
            ("depth // 2 * 3 % 4", "2"),
            ("range(3)", "[0, 1, 2]"),
        ] {
            assert_eq!(eval(text, &depth(5)).unwrap(), value, "{text}");
        }
        assert_eq!(eval("'router' if depth > 0 else 'host'", &depth(0)).unwrap(), "host");
    }

    #[test]
    fn pick_goes_round() {
        let environment = environment(&Turns::default());
        let mut all = Expressions::new(&environment);
        let list = |items: &[&'static str]| Value::from(items.to_vec());
        let names =
            Names::default().with([("a".to_owned(), list(&["X", "Y", "Z"])), ("b".to_owned(), list(&["P"]))]);
        let mut next = |text: &str| all.evaluate(text, &names).unwrap().to_string();
        let found: Vec<String> =
            ["pick(a)", "pick(b)", "pick(a)", "pick(b)", "pick(a)", "pick(a)"].map(&mut next).into();
        assert_eq!(found, ["X", "P", "Y", "P", "Z", "X"]);
    }

    #[test]
    fn faults_say_what_and_where() {
        let names = [("depth", Value::from(1)), ("name", Value::from("a"))];
        let wrong = |text: &str| eval(text, &names).unwrap_err();
        assert_eq!(wrong("1 + dept").help.as_deref(), Some("did you mean `depth`?"));
        assert_eq!(wrong("1 + dept").at, Some(4..8));
        assert!(wrong("depth +").title.starts_with("this is not an expression"));
        assert!(wrong("depth - name").title.contains("no value"));
        assert!(wrong("pick(depth)").title.contains("`pick` takes a list, not a number"));
        assert!(wrong("pick([])").title.contains("empty list"));
        assert!(wrong("{'a': 1}.b").title.contains("no such item"));
    }

    #[test]
    fn nothing_explodes() {
        let names = [("a", Value::from("a"))];
        for text in [
            "range(10**9)",
            "'x' * 10**9",
            "[1] * 10**9",
            "'x' * 10**5 * 10**5",
            "9 ** 99",
            "range(100000)",
            "a * 70000",
            &format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        ] {
            assert!(eval(text, &names).is_err(), "{text}");
        }
    }
}
